"""From a model's scores to an answer: calibrated probabilities, a prediction set, a decision, or an abstention.

    probs  = probabilities(spec, scores.logits)                # (B, K), calibrated
    answer = answer_one(spec, probs[0], distance)              # Prediction; raises Refusal when out of scope

The same functions serve evaluation, `medserve predict` and the network, so that what was measured is what is served.
"""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from medserve.data.scope import check_picture
from medserve.errors import Refusal
from medserve.models.spec import Absent, Conformal, ModelSpec
from medserve.questions import effect
from medserve.questions.medicines import NOTE
from medserve.questions.survival import baseline_of, curve, eta_of, horizon_labels, risks
from medserve.types import Array, Picture

NOT_CALIBRATED = "not-calibrated"
NO_INTERVAL = {"code": "interval-missing", "message": "Too few calibration cases for an interval: no dose is named."}
NOT_COVERED = ("coverage-off", "guarantee-suspended")  # limits of a card: the coverage did not hold on the test part


class Prediction(NamedTuple):
    """labels and probabilities in the order of the signature; `value` and `interval` for task "number" (and
    `value` for "generate": mean log-likelihood a letter).

    For survival the labels are the horizons ("death by 12 mo"), the probabilities the risks by them, and `curve` is
    [(time, share free of the event)] with straight lines in between.

    prediction_set: the labels that the calibrated guarantee keeps, at `coverage`; None without a guarantee.
    decision: the label at the operating point, None when abstaining.
    reasons: coded, why the model abstains or what the reader must know.
    """

    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
    prediction_set: tuple[str, ...] | None
    coverage: float | None
    abstained: bool
    decision: dict[str, Any] | None
    reasons: tuple[dict[str, str], ...]
    value: float | None = None
    interval: tuple[float, float] | None = None
    curve: tuple[tuple[float, float], ...] | None = None
    effect: dict[str, Any] | None = None  # of a treatment: see `questions.effect.describe`

    @property
    def status(self) -> str:
        return "abstained" if self.abstained else "answered"


def probabilities(spec: ModelSpec, logits: Array, *, temperature: float | None = None) -> Array:
    """Calibrated probabilities, one column per label.

    Args:
        logits: (B, width) as the graph gives them.
        temperature: overrides the fitted one (1.0 shows the raw model).

    Returns: (B, K) float64 in [0, 1]; binary gives two columns (negative, positive). For a number: (B, 1), the value
        in its unit. For survival: (B, H), the risk by each horizon.
    Raises: Usage "survival-baseline".
    """
    output = spec.output
    t = spec.calibration.temperature if temperature is None else temperature
    z = np.asarray(logits, np.float64)
    if output.task in ("tags", "effect"):  # scores which `questions.tags` and `questions.effect` read
        return z
    if output.task in ("number", "generate"):
        return output.value(z)
    if output.task == "survival":
        return risks(baseline_of(output), log_hazard(spec, logits, temperature=temperature))
    z = z / t
    if output.task == "multiclass":
        e = np.exp(z - z.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)
    p = 1.0 / (1.0 + np.exp(-np.clip(z, -60, 60)))
    if output.task == "binary":
        return np.concatenate([1 - p, p], axis=1)
    if output.task == "ordinal":  # logit k says "above level k"; made monotone, then differenced
        above = np.minimum.accumulate(p, axis=1)
        edge = np.concatenate([np.ones((len(p), 1)), above, np.zeros((len(p), 1))], axis=1)
        return edge[:, :-1] - edge[:, 1:]
    return p  # multilabel: each label on its own


def log_hazard(spec: ModelSpec, logits: Array, *, temperature: float | None = None) -> Array:
    """(B,) calibrated log hazard ratios of a survival model; a given temperature shows the model without its shift."""
    cal = spec.calibration
    slope, shift = (cal.temperature, cal.shift) if temperature is None else (temperature, 0.0)
    return np.asarray(np.asarray(logits, np.float64)[:, 0] / slope + shift)


def answer_one(
    spec: ModelSpec,
    probs: Array | list[float],
    distance: float | None = None,
    *,
    absent: Collection[str] = (),
    group: str | None = None,
) -> Prediction:
    """One case's answer.

    Args:
        probs: (K,) a row of `probabilities`.
        distance: the graph's distance to the training data.
        absent: inputs that the case lacks, as `data.fields.absent_from` tells them: set and interval are the wider.
        group: the case's word for the output's `by`, whose own interval holds.

    Raises: Refusal "out-of-distribution": the picture is unlike anything in training.
    """
    if spec.output.task == "effect":
        return _advise(spec, np.asarray(probs), distance, absent)
    if spec.ood is not None and distance is not None and not distance <= spec.ood.threshold:
        raise Refusal(
            "out-of-distribution",
            f"The {'case' if spec.is_record else 'picture'} is unlike the data this model was trained on.",
            hint="Check that it is of the kind and quality that the model card describes.",
        )
    reasons: list[dict[str, str]] = []
    cal = spec.calibration
    if cal.method == "none" and spec.output.task not in ("number", "generate"):
        reasons.append({"code": NOT_CALIBRATED, "message": "Too few calibration cases to calibrate."})
    if spec.output.task == "tags":
        plain = {"code": NOT_CALIBRATED, "message": "The probability beside an entity ranks it; it is not calibrated."}
        return Prediction((), (), None, None, False, None, (plain,))
    conformal = cal.conformal
    coverage = None if conformal is None else round(1 - conformal.alpha, 6)
    labels = tuple(spec.output.labels)
    if spec.output.task in ("number", "generate"):
        value = float(probs[0])
        half = None if conformal is None else limits(conformal, labels, absent, group)[0]
        interval = None if half is None else spec.output.around(value, half)
        reasons += _of_a_number(spec, value, group)
        if interval is None and spec.question == "treatment":  # a dose is never a point alone
            return Prediction(labels, (), None, None, True, None, (*reasons, dict(NO_INTERVAL)))
        return Prediction(labels, (), None, coverage, False, None, tuple(reasons), value, interval)
    if spec.output.task == "survival":
        baseline = baseline_of(spec.output)
        said = decide(spec, probs) if spec.operating_points else None
        line = tuple(curve(baseline, eta_of(baseline, np.asarray(probs))))
        stated = tuple(float(p) for p in probs)
        return Prediction(horizon_labels(spec.output), stated, None, None, False, said, tuple(reasons), curve=line)
    each: list[float] = probs if isinstance(probs, list) else np.asarray(probs, np.float64).tolist()
    chosen = prediction_set(spec, each, absent)
    decision = decide(spec, each)
    if spec.output.medicines is not None:
        reasons.append(dict(NOTE))
    abstained = False
    if chosen is not None and spec.output.task != "multilabel" and len(chosen) != 1:
        abstained = True
        text = "more than one label is plausible" if chosen else "no label is plausible"
        reasons.append(
            {"code": "set-ambiguous" if chosen else "set-empty", "message": f"At {coverage:.0%} coverage {text}."}
        )
    return Prediction(
        labels,
        tuple(each),
        chosen,
        coverage,
        abstained,
        None if abstained else decision,
        tuple(reasons),
    )


def _of_a_number(spec: ModelSpec, value: float, group: str | None) -> list[dict[str, str]]:
    """What a reader must know of it: that it was held within the range, that its group had too few cases."""
    output, found = spec.output, []
    if output.range is not None and value in output.range:
        low, high = output.range
        said = f"The estimate reached the limit of {low:g} to {high:g} {output.unit or ''}".rstrip()
        found.append({"code": "value-at-limit", "message": f"{said} and was held there."})
    conformal = spec.calibration.conformal
    if output.by is not None and conformal is not None and group not in (conformal.by_group or {}):
        said = f"the value of {output.by!r}" if group is None else f"{output.by} {group!r}"
        message = f"Too few calibration cases had {said}: the interval is that of all cases together."
        found.append({"code": "group-small", "message": message})
    return found


def _advise(spec: ModelSpec, logits: Array, distance: float | None, absent: Collection[str]) -> Prediction:
    """Advice on a treatment. Unlike the training patients: an abstention like any other, with its code."""
    far = None
    if spec.ood is not None and distance is not None:
        far = np.array([not distance <= spec.ood.threshold])
    row = logits[None]
    found = effect.advise(spec.output, row, far=far, lacking=[absent])
    said = effect.describe(spec.output, row, found)
    abstained = said["advice"] == "abstain"
    decision = None if abstained else {"label": said["arm"], "advice": said["advice"]}
    why = tuple(effect.reasons(spec.output, found.codes[0]))
    return Prediction(tuple(spec.output.labels), (), None, None, abstained, decision, why, effect=said)


def limits(
    conformal: Conformal, labels: Sequence[str], absent: Collection[str] = (), group: str | None = None
) -> list[float]:
    """The quantile that holds for each label, the largest of those fitted for what the case lacks.

    group: of a number; its own quantile stands in the place of everybody's.
    """
    if group is not None and conformal.by_group is not None and group in conformal.by_group:
        conformal = msgspec.structs.replace(conformal, quantile=conformal.by_group[group][0])
    if not absent:
        by_label, most = conformal.by_label or {}, conformal.quantile
        return [by_label.get(label, most) for label in labels]
    lacks = set(absent)
    fitted: list[Conformal | Absent] = [conformal, *(one for one in conformal.absent if lacks.issuperset(one.inputs))]
    return [max((one.by_label or {}).get(label, one.quantile) for one in fitted) for label in labels]


def prediction_set(spec: ModelSpec, probs: Array | list[float], absent: Collection[str] = ()) -> tuple[str, ...] | None:
    """Labels whose conformity score 1 - p is within the fitted quantile; None without a fitted one."""
    conformal = spec.calibration.conformal
    if conformal is None or spec.output.task in ("number", "multilabel", "survival", "generate"):
        return None
    labels = spec.output.labels
    limit = limits(conformal, labels, absent)
    return tuple(label for label, p, q in zip(labels, probs, limit, strict=True) if 1 - p <= q + 1e-12)


def decide(spec: ModelSpec, probs: Array | list[float]) -> dict[str, Any]:
    """The label at the operating point: a threshold for binary, each label's own for multilabel, else the likeliest.

    Survival: the horizons whose own threshold the risk reaches; a horizon without a threshold is never named.
    """
    labels, points = spec.output.labels, {p.label: p.threshold for p in spec.operating_points}
    if spec.output.task == "binary":
        threshold = points.get(labels[1], 0.5)
        return {"label": labels[int(probs[1] >= threshold)], "threshold": threshold}
    if spec.output.task == "multilabel":
        chosen = [label for label, p in zip(labels, probs, strict=True) if p >= points.get(label, 0.5)]
        if spec.output.medicines is not None:  # candidates, the likeliest first
            likely = dict(zip(labels, probs, strict=True))
            chosen.sort(key=lambda label: -likely[label])
        return {"labels": chosen, "thresholds": {label: points.get(label, 0.5) for label in labels}}
    if spec.output.task == "survival":
        named = [(label, p) for label, p in zip(horizon_labels(spec.output), probs, strict=True) if label in points]
        return {"labels": [label for label, p in named if p >= points[label]], "thresholds": points}
    return {"label": labels[int(np.argmax(probs))]}


def check_scope(spec: ModelSpec, picture: Picture) -> None:
    """Refuse a picture the signature does not name, before any score.

    Raises: Refusal "wrong-kind", "wrong-modality", "wrong-unit", "wrong-colour", "image-blank".
    """
    want = spec.inputs[0]
    if picture.volume != (want.kind == "volume"):
        given = "volume" if picture.volume else "image"
        raise Refusal("wrong-kind", f"The model takes one {want.kind}; this is one {given}.")
    blank = not float(picture.values.max()) > float(picture.values.min())
    check_facts(spec, modality=picture.modality, unit=picture.unit, colour=picture.colour, blank=blank)


def check_facts(spec: ModelSpec, *, modality: str | None, unit: str | None, colour: bool, blank: bool) -> None:
    """The part of `check_scope` that needs no pixels; evaluation asks it of every case."""
    check_picture(spec.inputs[0], modality=modality, unit=unit, colour=colour, blank=blank)
