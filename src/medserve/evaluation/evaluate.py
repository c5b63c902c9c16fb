"""Step 4: one part's scores against its truth, as one JSON-ready record in which every number carries its interval.

    result = evaluate(spec, scores, targets, part="test", patients=who, groups={"sex": sex}, baseline=other, ...)
    result["metrics"]["auroc"]      # {"value": .98, "low": .97, "high": .99}
    result["claims"]                # [{"level": "amber", "code": "few-cases", "message": ...}, ...]

What is measured is what is served: probabilities, sets and decisions come from `questions.answers`. All figures of one
call share the same bootstrap draws of patients, so every difference is a paired one.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from medserve.evaluation import effect, entities, likelihood, medicines, sections, survival
from medserve.evaluation.claims import claims
from medserve.evaluation.conformal import covered
from medserve.evaluation.curves import curves
from medserve.evaluation.decision_curve import decision_curve
from medserve.evaluation.intervals import DRAWS, LEVEL, bootstrap, strata_of, wilson
from medserve.evaluation.labelled import Labelled
from medserve.evaluation.subgroups import subgroups
from medserve.models.spec import ModelSpec
from medserve.questions.metrics import LOWER_IS_BETTER, behind, confusion, judge, measure, metrics_of
from medserve.questions.weighted import ratio
from medserve.types import Array, Scores

FORMAT = "medserve-evaluation/1"
COMPARED = {
    "binary": ("auroc", "accuracy", "balanced_accuracy", "log_loss", "brier"),
    "multiclass": ("auroc", "accuracy", "balanced_accuracy", "log_loss", "brier"),
    "ordinal": ("auroc", "accuracy", "quadratic_kappa", "log_loss", "brier"),
    "multilabel": ("auroc", "auprc", "accuracy", "log_loss", "brier"),
    "medicines": ("jaccard", "set_f1", "prauc", "interaction_rate", "log_loss", "brier"),
    "number": ("mae", "rmse", "mse", "r2", "spearman", "concordance"),
    "survival": ("c_index", "c_uno", "auroc_at_horizon", "brier_at_horizon", "integrated_brier"),
}
_OTHERWISE = {
    "tags": entities.evaluate_entities,
    "generate": likelihood.evaluate_likelihood,
    "effect": effect.evaluate_effect,
}  # no probability of a label
_PLAIN = ("number", "multilabel", "survival")  # always answered: no set, or none that could make it abstain


def evaluate(
    spec: ModelSpec,
    scores: Scores,
    targets: Array,
    *,
    part: str,
    patients: Array | None = None,
    drawn: str = "",
    groups: Mapping[str, Array] | None = None,
    baseline: Scores | None = None,
    baseline_spec: ModelSpec | None = None,
    role: Literal["recipe", "baseline"] = "recipe",
    called: str | None = None,
    val: tuple[Scores, Array] | None = None,
    calibration: tuple[Scores, Array] | None = None,
    leaky: Array | None = None,
    openings: int | None = None,
    refused: Mapping[str, int] | None = None,
    absent: Sequence[Collection[str]] | None = None,
    members: Sequence[str | None] | None = None,
    decision_range: tuple[float, float, str] | None = None,
    policies: Mapping[str, Array] | None = None,
    last: Array | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure one part.

    Args:
        scores, targets: of the evaluated part, row for row; a target below 0 or NaN means unlabelled
            (survival: (N, 2), NaN; tags: see `entities`).
        part: "train" | "val" | "calibration" | "test" | "all" (foreign data).
        patients: (N,) keys; None: each case counts as its own patient, and a claim says so.
        drawn: the column that the keys are values of, where they are no patients.
        groups: subgroup column -> (N,) values.
        baseline, baseline_spec: the other candidate's scores of the same rows and its own signature: the simple
            baseline beside a recipe, or the recipe's network beside a baseline (see `role`).
        role: which of the two this model is. called: the other's name, for the page.
        val: validation scores and targets, for the table of threshold rules.
        calibration: calibration scores and targets, for the shift check and the coverage band.
        leaky: (N,) True where a case is involved in a leak that was kept; metrics are shown with and without.
        openings: how often this sealed part has been opened.
        refused: code -> how many inputs were refused before any score.
        absent: of each row the inputs that the case lacks, whose set is the wider; None: nothing is ever missing.
        members: of each row the word for the output's `by`, whose own interval holds.
        decision_range: (low, high, why) thresholds of the decision curve, as the user declares them.
        last: of medicines, (N, K) what the last visit had, NaN where there was none (see `medicines.by_visit`).
        policies: of an effect, further ones to be valued, name -> (N,) arms.

    Returns: a dict of plain JSON values (undefined figures are None); keys as in the body below.
    Raises: BadData: no labelled case, or scores and targets differ in number.
    """
    if spec.output.task in _OTHERWISE:
        asked = Labelled.of(
            spec, scores, targets, part=part, patients=patients, groups=groups, baseline=baseline,
            baseline_spec=baseline_spec, role=role, leaky=leaky, openings=openings, refused=refused, policies=policies,
            draws=draws, seed=seed,
        )  # fmt: skip
        found = _OTHERWISE[spec.output.task](asked)
        return {"format": FORMAT, **found, "claims": claims(found)}
    rows = sections.labelled(spec.output.task, scores, targets)
    kept = scores[rows]
    judged = judge(spec, kept.logits, sections.typed(spec.output.task, np.asarray(targets)[rows]))
    who = np.asarray(patients)[rows] if patients is not None else np.arange(len(rows))
    strata = strata_of(judged.task, judged.targets)
    raw = judge(spec, kept.logits, judged.targets, temperature=1.0)
    other = None
    if baseline is not None:
        other = judge(baseline_spec or spec, baseline[rows].logits, judged.targets)
    lacks = None if absent is None else [absent[row] for row in rows]
    whole = None if lacks is None else np.array([not names for names in lacks], bool)
    hit, size, theirs = (None, None, None)
    if spec.calibration.conformal is not None:
        theirs = None if members is None else [members[row] for row in rows]
        hit, size = covered(spec, kept.logits, judged.targets, lacks, theirs)
    unlike = _out_of_distribution(spec, kept)
    unsure = np.zeros(len(rows), bool) if size is None or judged.task in _PLAIN else size != 1
    unsure &= ~unlike
    answered = ~unlike & ~unsure
    told = _rows(groups, rows) | sections.bands(spec.output, judged.targets)
    outside = None if leaky is None else ~np.asarray(leaky, bool)[rows]

    def figures(w: Array) -> dict[str, Array]:
        out = measure(judged, w)
        out |= sections.prefixed("raw", measure(raw, w, only=sections.BEFORE_AFTER))
        if "log_loss" in out:
            out["change/log_loss"] = out["log_loss"] - out["raw/log_loss"]
        if other is not None:
            simple = measure(other, w, only=COMPARED[judged.kind])
            out |= sections.prefixed("baseline", simple)
            out |= sections.prefixed("difference", {name: out[name] - v for name, v in simple.items()})
        if outside is not None and outside.any() and not outside.all():
            out |= sections.prefixed("without", measure(judged.keep(outside), w[:, outside]))
        total = w.sum(axis=1)
        out |= sections.prefixed("share", {k: ratio(w @ v, total) for k, v in _fates(answered, unsure, unlike).items()})
        if answered.any() and judged.task not in _PLAIN:
            out["answered/accuracy"] = measure(judged.keep(answered), w[:, answered], only=("accuracy",))["accuracy"]
        if hit is not None:
            out["coverage"] = ratio(w @ hit, total)
        return out

    trials = sections.patients_behind(behind(judged), who)
    trials |= {f"share/{k}": len(np.unique(who)) for k in _fates(answered, unsure, unlike)}
    trials |= {"coverage": len(np.unique(who)), "answered/accuracy": len(np.unique(who[answered]))}
    if other is not None:
        trials |= sections.prefixed("baseline", sections.patients_behind(behind(other), who))
    if outside is not None:
        trials |= sections.prefixed("without", sections.patients_behind(behind(judged.keep(outside)), who[outside]))
    found = bootstrap(figures, who, strata, draws=draws, seed=seed, trials=trials)
    metrics = {name: found[name] for name in metrics_of(judged)}
    if judged.task == "binary":  # fixed by the strata of the bootstrap
        share = float((judged.targets == 1).mean())
        low, high = wilson(share, len(np.unique(who)))
        metrics["prevalence"] = {"value": share, "low": low, "high": high}
    confusions = None
    if judged.task in ("binary", "multiclass", "ordinal"):
        table = confusion(judged, np.ones((1, len(judged))))[0].astype(int).tolist()
        confusions = {"labels": list(judged.labels), "counts": table}
    result: dict[str, Any] = {
        "format": FORMAT,
        "model": {"name": spec.name, "version": spec.version},
        "task": judged.task,
        "labels": list(judged.labels),
        "part": part,
        "n": len(judged),
        "n_patients": len(np.unique(who)),
        "patients_declared": patients is not None and not drawn,
        "unlabelled": len(scores) - len(rows),
        "counts": sections.counts(judged),
        "openings": openings,
        "intervals": {"level": LEVEL, "method": _method(judged.task, drawn), "draws": draws, "seed": seed},
        "metrics": metrics,
        "lower_is_better": sorted(LOWER_IS_BETTER & metrics.keys()),
        "cross_check": sections.cross_check(judged),
        "majority": sections.majority(judged),
        "per_label": sections.per_label(judged, who, strata, draws, seed),
        "calibration": sections.calibration_of(spec, judged, found, draws, seed),
        "conformal": sections.prediction_sets(spec, judged, kept, found, hit, size, calibration, whole, theirs),
        "operating": sections.operating_of(spec, judged, metrics),
        "answers": {
            "answered": int(answered.sum()),
            "abstained": int(unsure.sum()),
            "out_of_distribution": int(unlike.sum()),
            "refused_before_scoring": dict(refused or {}),
            "shares": {k: found[f"share/{k}"] for k in ("answered", "abstained", "out_of_distribution")},
            "accuracy_answered": found.get("answered/accuracy"),
        },
        "confusion": confusions,
        "survival": None
        if judged.task != "survival"
        else survival.by_horizon(spec, judged, who, draws=draws, seed=seed),
        "medicines": medicines.by_visit(
            spec, judged, None if last is None else np.asarray(last)[rows], who, draws=draws, seed=seed
        ),
        "curves": curves(judged, who, draws=min(draws, 200), seed=seed),
        "decision": decision_curve(judged, who, declared=decision_range, draws=draws, seed=seed),
        "subgroups": subgroups(judged, who, told, hit=hit, abstained=~answered, draws=draws, seed=seed),
        "baseline": None if other is None else sections.against(judged, other, found, baseline_spec, role, called),
        "threshold_rules": sections.other_rules(spec, judged, val, calibration, who, draws, seed),
        "leaks": None if leaky is None else sections.leaks_of(np.asarray(leaky, bool)[rows], found, metrics),
    }
    result["claims"] = claims(result)
    return result


def _method(task: str, drawn: str) -> str:
    said = f"bootstrap of whole values of {drawn}" if drawn else "bootstrap of patients"
    return said if task in ("number", "survival") else f"stratified {said}"


def _rows(groups: Mapping[str, Array] | None, rows: Array) -> dict[str, Array]:
    return {name: np.asarray(values)[rows] for name, values in (groups or {}).items()}


def _out_of_distribution(spec: ModelSpec, scores: Scores) -> Array:
    if spec.ood is None or scores.distance is None:
        return np.zeros(len(scores), bool)
    return ~(np.asarray(scores.distance) <= spec.ood.threshold)


def _fates(answered: Array, unsure: Array, unlike: Array) -> dict[str, Array]:
    return {"answered": answered, "abstained": unsure, "out_of_distribution": unlike}
