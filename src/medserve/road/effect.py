"""The part of a run that is an effect's own: both second stages on one set of nuisances, and which is offered.

    candidates, verdict = train_effect(prepared, options, progress)

The training, validation and calibration parts are one here: nothing is calibrated afterwards, every figure on this side
is cross-fitted, and an effect takes all patients it can get. The sealed test part stays apart as always.
"""

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from medserve.data.declaration import Dataset
from medserve.data.fields import Records
from medserve.data.split import Parts, PartView
from medserve.errors import BadData, Usage
from medserve.models.spec import Effect, Method, OutputSpec
from medserve.progress import Progress
from medserve.questions.effect import outcome_of, standardised_differences
from medserve.road.build import Built, Candidate, who
from medserve.road.choose import choose_losses
from medserve.road.run import Options, Prepared
from medserve.types import Array

if TYPE_CHECKING:
    from medserve.data.forms import Listing
    from medserve.training.effect import Learned

SEEN = 0.8  # share of an arm's patients whose time is shorter than the horizon, where none is declared
ADVICE = "effect"  # the explanation method
AGREES = 0.8  # share of patients for whom the policy tree says what the model says, from which on it explains it


def check_question(asked: str | None, listing: "Listing") -> str:
    """What is asked of the data: what was said, or what the data set declares.

    Raises: BadData "treatment-undeclared"; Usage "question-other".
    """
    target = listing.declaration.target if listing.declaration else None
    dose = target is not None and target.medicine is not None
    about = dose or listing.task == "effect" or listing.medicines
    if asked == "treatment" and not about:
        raise BadData(
            "treatment-undeclared", "The question is a treatment, and the data set declares none.",
            hint="Write `treatment:` into dataset.yaml: column, outcome, time_zero, eligibility, adjust_for.",
        )  # fmt: skip
    if asked == "diagnosis" and listing.task == "effect":
        raise Usage(
            "question-other", "The data set declares a treatment; its question is the effect of it.",
            hint="Leave out --question, or take `treatment` out of dataset.yaml to predict the outcome alone.",
        )  # fmt: skip
    if about:
        return "treatment"
    molecules = any(said.kind == "molecule" for said in listing.inputs.values())
    if asked == "discovery" and not molecules:
        raise Usage(
            "question-other", "The question is the discovery of drugs, and no input is a molecule.",
            hint="Leave out --question, or declare an input of kind molecule.",
        )  # fmt: skip
    return asked or ("discovery" if molecules else "diagnosis")


def effect_output(listing: "Listing", parts: Parts) -> OutputSpec:
    """The signature's output: arms, direction, horizon, and the outcome's scale on the training part."""
    declared: Dataset | None = listing.declaration
    assert declared is not None and declared.treatment is not None and declared.target is not None
    trial, target = declared.treatment, declared.target
    kind: Any = target.kind
    train = np.asarray(parts.train.targets, np.float64)
    horizon = trial.horizon
    if kind == "survival" and horizon is None:
        arms = np.unique(train[:, 2])
        horizon = float(f"{min(np.quantile(train[train[:, 2] == k, 0], SEEN) for k in arms):.3g}")
    facts = Effect(
        outcome=str(target.column), kind=kind, better="higher" if trial.outcome == "better_is_higher" else "lower",
        horizon=horizon, overlap=trial.overlap, medicines=trial.drugs,
    )  # fmt: skip
    output = OutputSpec(task="effect", labels=list(listing.labels), unit=listing.unit, effect=facts)
    y = outcome_of(train, output)
    return msgspec.structs.replace(output, mean=float(y.mean()), sd=float(y.std()) or 1.0)


def train_effect(
    prepared: Prepared, options: Options, progress: Progress
) -> tuple[list[Candidate], dict[str, Any]]:  # fmt: skip
    """Steps 2 and 3, and the choice: cross-validated squared distance to doubly robust scores, paired by patient."""
    from medserve.models.record.effect import LINEAR, TREES
    from medserve.training.effect import learn
    from medserve.training.refute import refute

    parts = prepared.parts
    every = PartView("learning", parts.cohort, np.concatenate([p.rows for p in parts if p is not parts.test]))
    keys = who(every)
    blocks = Records.build(prepared.plain.transforms).blocks
    learned = learn(
        blocks, every, prepared.plain.output, options.seed, patients=None if parts.cohort.independent else keys,
        say=progress.say,
    )  # fmt: skip
    learned.refuted, closed = refute(learned, every.targets, quick=options.audit != "full")
    learned.closed += closed
    made = [Candidate(role, prepared.recipe.name if role == "recipe" else kind, *learned.make(kind), learned)  # type: ignore[arg-type]
            for role, kind in (("recipe", TREES), ("baseline", LINEAR))]  # fmt: skip
    verdict = choose_losses(
        learned.losses[TREES], learned.losses[LINEAR], keys,
        on="cross-fitted scores of the training side", metric="weighted squared distance to doubly robust scores",
        seed=options.seed,
    )  # fmt: skip
    if options.keep is not None:
        verdict |= {"chosen": options.keep, "asked": True}
    offered = made[verdict["chosen"] == "baseline"]
    for one in learned.spec(offered.architecture.name).closed:
        progress.say(f"{one.message} Nobody will be advised.")
    verdict["learners"] = {name: float(one.mean()) for name, one in learned.losses.items()}
    return made, verdict


def built_learned(candidate: Candidate) -> "Learned":
    found: Learned | None = candidate.learned
    assert found is not None
    return found


def audit_advice(built: Built) -> Method:
    """The tree of "for whom" is offered as the explanation of advice if it says, for patients who did not shape it,
    mostly what the model says."""
    learned = built_learned(built.candidate)
    away = ~learned.shapes
    said = learned.advised(built.candidate.architecture.name)[away]
    share = float(np.mean(learned.policy.choose(learned.x[away]) == said)) if away.any() else 0.0
    level: Any = "PASS" if share >= AGREES else "CAUTION"
    return Method(name=ADVICE, verdict=level, role="primary", figures={
        "agreement": {"level": level, "share of patients for whom the tree says what the model says": share},
    })  # fmt: skip


def training_side(built: Built) -> dict[str, Any]:
    """Balance before and after weighting, the learners compared, and the value of cross-fitted advice."""
    learned = built_learned(built.candidate)
    before, after = standardised_differences(learned.z, learned.arm, learned.found.propensity)
    names = learned.base.features.names
    names = [*names, *(f"{name} missing" for name in names)]
    moving = learned.z.std(axis=0) > 1e-9
    value, low, high = learned.worth(built.candidate.architecture.name)
    return {
        "balance": [
            {"column": name, "before": float(b), "after": float(a)}
            for name, b, a, there in zip(names, before, after, moving, strict=True) if there
        ],
        "learners": [{"learner": k, "loss": float(v.mean())} for k, v in learned.losses.items()],
        "nuisances": learned.found.told,
        "crossed_gain": {"value": value, "low": low, "high": high},
        "refuters": learned.refuted,
    }  # fmt: skip


def simple_rule(built: Built, part: PartView) -> dict[str, Array]:
    """The best single split, for the patients of a part."""
    learned = built_learned(built.candidate)
    rule = learned.simple
    text = next((r for r in rule.rules(learned.base.features.names) if r != "nobody"), "everybody")
    columns = learned.base.features.matrix(part.take(np.arange(len(part))))
    return {f"simple rule ({text}: {learned.output.labels[int(rule.arms[0])]})": rule.choose(columns)}
