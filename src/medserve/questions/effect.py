"""The effect of a treatment: outcomes as numbers, doubly robust scores, and from a model's scores to advice.

    y = outcome_of(targets, output)                        # (N,), survival as event-free time up to the horizon
    gamma = robust_scores(y, arm, outcome, propensity)     # (N, K), one unbiased score an arm
    said = advise(output, logits, far=distances)           # Advice: arms, -1 for an abstention, and why

The same functions serve training, evaluation, `medserve predict` and the network. Advice is given where the interval
of the effect excludes no benefit, patients like this one were seen under both arms, and the whole model has shown that
its advice is worth something; else the answer is an abstention with its reasons. Outcomes are differences of means, so
a binary outcome gives a difference of risks.
Sources: Robins, Rotnitzky and Zhao, JASA 89:846 (1994) for the scores; Andersen, Hansen and Klein, Lifetime Data Anal
10:335 (2004) for pseudo-observations of restricted mean survival time.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from medserve.models.spec import Effect, OutputSpec
from medserve.questions.weighted import Z95, calibration_line, logit
from medserve.types import Array

FLOOR = 0.02  # of a propensity, as a weight's denominator
ABSTAIN = -1
LEAST_LEVELLED = 50  # patients of either arm
_PSEUDO_ROWS = 512  # patients left out at a time


class Parted(NamedTuple):
    """What a graph says of N patients under K arms, in the outcome's own unit.

    effect, low, high: (N, K - 1) against the reference arm. propensity, outcome: (N, K). alike: (N, K) int, number of
    the nearest group; negative (-1 - number) where it is farther than any patient of the arm was. leaf: (N,) int.
    """

    effect: Array
    low: Array
    high: Array
    propensity: Array
    outcome: Array
    alike: Array
    leaf: Array


class Advice(NamedTuple):
    """arm: (N,) int, the advised arm, the reference where every other is advised against, -1 for an abstention.

    against: (N, K - 1) bool, arms whose whole interval lies on the side of harm. codes: for each patient, why not.
    ranked: for each patient the arms that there is evidence for, by the same rule as the advised one, which is the
    first of them; nothing where the answer is an abstention.
    """

    arm: Array
    against: Array
    codes: list[list[str]]
    ranked: list[list[int]]


def told(output: OutputSpec) -> Effect:
    """The effect's facts. They are there: a signature without them is not read."""
    assert output.effect is not None
    return output.effect


def standing(ranked: Sequence[str], closed: Mapping[str, str]) -> str | None:
    """What is advised where the rules of safety close some arms: the first of those that there is evidence for and that
    is not "blocked". One that is closed for another reason ends the search, for more facts may open it, and what
    comes after it is the lesser one.

    standing(["a", "b"], {"a": "blocked"})        # "b"
    standing(["a", "b"], {"a": "unknown"})        # None: say what is missing
    """
    left = (arm for arm in ranked if closed.get(arm) != "blocked")
    arm = next(left, None)
    return None if arm in closed else arm


def parted(output: OutputSpec, logits: Array) -> Parted:
    """Columns: K - 1 effects, K - 1 lower and upper limits, K propensities, K outcomes, K groups, the leaf."""
    z, k = np.asarray(logits, np.float64), len(output.labels)
    j = k - 1
    ends = np.cumsum([j, j, j, k, k, k, 1])
    value, low, high, chance, outcome, alike, leaf = np.split(z, ends[:-1], axis=1)
    return Parted(
        value * output.sd, low * output.sd, high * output.sd, chance, outcome * output.sd + output.mean,
        np.rint(alike).astype(np.int64), np.rint(leaf[:, 0]).astype(np.int64),
    )  # fmt: skip


def gain(output: OutputSpec) -> int:
    """1 where more of the outcome is better, else -1."""
    return 1 if told(output).better == "higher" else -1


def arms_of(targets: Array) -> Array:
    """(N,) int64 number of the arm each patient was given."""
    return np.asarray(targets)[:, 2].astype(np.int64)


def outcome_of(targets: Array, output: OutputSpec) -> Array:
    """(N,) float64, the outcome as one number. Survival: pseudo-observations, for each arm by itself, as arms may be
    observed for unlike times."""
    t = np.asarray(targets, np.float64)
    horizon = told(output).horizon
    if horizon is None:
        return t[:, 0]
    found, arms = np.empty(len(t)), arms_of(targets)
    for arm in np.unique(arms):
        inside = arms == arm
        found[inside] = pseudo_times(t[inside, 0], t[inside, 1] == 1, horizon)
    return found


def pseudo_times(times: Array, events: Array, horizon: float) -> Array:
    """(N,) n * mean - (n - 1) * mean without the patient, of event-free time up to `horizon` (Kaplan-Meier).

    Two patients, events at 1 and 3, horizon 4: the mean is 2, without the first 3, so 1 for the first; 3 for the other.
    """
    t, e = np.asarray(times, np.float64), np.asarray(events, bool)
    n = len(t)
    if n < 2:
        return np.minimum(t, horizon)
    at = np.unique(t[e & (t <= horizon)])
    risk = (t[:, None] >= at[None]).sum(0).astype(np.float64)
    gone = np.array([(e & (t == one)).sum() for one in at], np.float64)
    edges = np.diff(np.concatenate([[0.0], at, [horizon]]))

    def mean(risk: Array, gone: Array) -> Array:
        step = np.where(risk > 0, 1 - gone / np.where(risk > 0, risk, 1.0), 1.0)
        free = np.concatenate([np.ones((len(step), 1)), np.cumprod(step, axis=1)], axis=1)
        out: Array = free @ edges
        return out

    whole = mean(risk[None], gone[None])[0]
    found = np.empty(n)
    for start in range(0, n, _PSEUDO_ROWS):
        some = slice(start, start + _PSEUDO_ROWS)
        mine = t[some, None] >= at[None]
        own = e[some, None] & (t[some, None] == at[None])
        found[some] = n * whole - (n - 1) * mean(risk[None] - mine, gone[None] - own)
    return found


def robust_scores(y: Array, arm: Array, outcome: Array, propensity: Array) -> Array:
    """(N, K) augmented inverse-probability scores: their mean is the mean outcome if everybody had the arm.

    Right where either the outcomes or the propensities are. outcome, propensity: (N, K), of models that had not seen
    the patient.
    """
    out = np.array(outcome, np.float64)
    rows = np.arange(len(out))
    own = np.maximum(np.asarray(propensity, np.float64)[rows, arm], FLOOR)
    out[rows, arm] += (np.asarray(y, np.float64) - out[rows, arm]) / own
    return out


def levelled(arm: Array, propensity: Array) -> Array:
    """(N, 2) chances of the arms with level and slope as these patients were treated: elsewhere the same patients may
    be treated more or less often, and scores that rest on the old chances would be wrong. Outcomes have no say.

    More than two arms, few patients, or no finite solution: as they are.
    """
    e = np.asarray(propensity, np.float64)
    if e.shape[1] != 2 or min(np.bincount(arm, minlength=2)) < LEAST_LEVELLED:
        return e
    shift, slope = calibration_line(arm == 1, e[:, 1], np.ones((1, len(arm))))
    if not np.isfinite(slope[0]):
        return e
    found = 1 / (1 + np.exp(-np.clip(shift[0] + slope[0] * logit(e[:, 1]), -60, 60)))
    return np.column_stack([1 - found, found])


def effective_size(arm: Array, propensity: Array) -> Array:
    """(K,) patients that the weighted ones of each arm are worth. Source: Kish (1965): (sum w)^2 / sum w^2."""
    rows = np.arange(len(arm))
    weight = 1 / np.maximum(np.asarray(propensity)[rows, arm], FLOOR)
    found = []
    for k in range(np.asarray(propensity).shape[1]):
        mine = weight[arm == k]
        found.append(mine.sum() ** 2 / (mine**2).sum() if len(mine) else 0.0)
    return np.asarray(found)


def advise(
    output: OutputSpec, logits: Array, *, far: Array | None = None, lacking: "list[Collection[str]] | None" = None,
    closed: bool = True,
) -> Advice:  # fmt: skip
    """
    Args:
        far: (N,) bool, unlike the training patients. lacking: of each patient the inputs that were not given.
        closed: heed that the model advises nobody (`Effect.closed`); False shows what it would have said.
    """
    spec, said = told(output), parted(output, logits)
    n, j = said.effect.shape
    low, high = (said.low, said.high) if spec.better == "higher" else (-said.high, -said.low)
    least, most = spec.overlap
    inside = (said.propensity >= least) & (said.propensity <= most)
    if j > 1:  # of several arms each may be common; none may be too rare
        inside = said.propensity >= least
    usable = inside[:, 1:] & inside[:, :1]
    near = said.alike >= 0
    met = near[:, 1:] & near[:, :1]
    good, bad = usable & met & (low > 0), usable & met & (high < 0)
    value = np.where(good, said.effect if spec.better == "higher" else -said.effect, -np.inf)
    arm = np.where(good.any(1), 1 + value.argmax(1), np.where(bad.all(1), 0, ABSTAIN))
    codes: list[list[str]] = []
    stop = list(dict.fromkeys(one.code for one in spec.closed)) if closed else []
    for row in range(n):
        why = list(stop)
        if far is not None and far[row]:
            why.append("out-of-distribution")
        if lacking is not None and set(lacking[row]) & set(spec.required):
            why.append("input-required")
        if not usable[row].any():
            why.append("no-overlap")
        if not met[row].any():
            why.append("few-alike")
        if not why and arm[row] == ABSTAIN:
            why.append("interval-includes-no-benefit")
        if why:
            arm[row] = ABSTAIN
        codes.append(why)
    order = np.argsort(-value, axis=1, kind="stable")
    ranked = [[1 + int(k) for k in order[row] if good[row, k]] if arm[row] > 0 else [] for row in range(n)]
    return Advice(arm, bad & (arm[:, None] != ABSTAIN), codes, ranked)


def first_arm(output: OutputSpec, logits: Array) -> int:
    """Number of the arm that one patient would be advised, by a closed model too; else that of the best effect.

    Args:
        logits: (width,).
    """
    arm = int(advise(output, logits[None], closed=False).arm[0])
    return arm if arm > 0 else 1 + int((gain(output) * parted(output, logits[None]).effect[0]).argmax())


MESSAGES = {
    "out-of-distribution": "This patient is unlike those that the effect was estimated from.",
    "input-required": "An input that every training patient had is missing.",
    "no-overlap": "Patients like this one were almost always, or almost never, given one arm: nothing compares.",
    "few-alike": "No patient of one of the arms was like this one.",
    "interval-includes-no-benefit": "The interval of the effect includes no benefit.",
}


def reasons(output: OutputSpec, codes: list[str]) -> list[dict[str, str]]:
    """[{"code", "message"}] of one patient."""
    known = {code: [message] for code, message in MESSAGES.items()}
    for one in told(output).closed:  # one code may close a model for several arms
        known.setdefault(one.code, []).append(one.message)
    return [{"code": code, "message": message} for code in codes for message in known[code]]


def describe(output: OutputSpec, logits: Array, advice: Advice) -> dict[str, Any]:
    """What stands in the answer for one patient (B == 1): advice, effects with intervals, overlap, the leaf, and
    what became of the most similar training patients of each arm."""
    spec, said = told(output), parted(output, logits)
    arm = int(advice.arm[0])
    word = "abstain" if arm == ABSTAIN else "recommend" if arm > 0 else "recommend-against"
    labels = output.labels
    leaf = spec.leaves[int(said.leaf[0])] if spec.leaves else None
    groups = []
    for k, label in enumerate(labels):
        number = int(said.alike[0, k])
        number = number if number >= 0 else -1 - number
        if number < len(spec.alike[k] if spec.alike else ()):
            one = spec.alike[k][number]
            groups.append({"arm": label, "n": one.n, "outcome": one.outcome, "interval": [one.low, one.high],
                           "inputs": dict(one.inputs)})  # fmt: skip
    return {
        "advice": word,
        "arm": None if arm == ABSTAIN else labels[arm],
        "against": [labels[1 + k] for k in np.flatnonzero(advice.against[0])],
        "ranked": [labels[k] for k in advice.ranked[0]],
        "reference": labels[0],
        "outcome": spec.outcome,
        "better": spec.better,
        "unit": output.unit,
        "horizon": spec.horizon,
        "effects": [
            {"arm": label, "effect": float(e), "interval": [float(a), float(b)], "level": spec.level}
            for label, e, a, b in zip(labels[1:], said.effect[0], said.low[0], said.high[0], strict=True)
        ],
        "overlap": {
            "band": list(spec.overlap),
            "propensity": {label: float(p) for label, p in zip(labels, said.propensity[0], strict=True)},
        },
        "expected": {label: float(v) for label, v in zip(labels, said.outcome[0], strict=True)},
        "for_whom": None
        if leaf is None
        else {"rule": leaf.rule, "arm": leaf.arm, "n": leaf.n, "effect": leaf.effect, "low": leaf.low,
              "high": leaf.high},
        "alike": groups,
        "note": NOTE,
    }  # fmt: skip


NOTE = (
    "An estimate from past patients under the stated assumptions, not clinically validated; for a qualified person to"
    " weigh, never an order. It rests on there being no unmeasured confounder."
)


def mean_interval(values: Array) -> tuple[float, float, float]:
    """Mean and its normal 95 % interval."""
    v = np.asarray(values, np.float64)
    half = Z95 * float(v.std(ddof=1)) / np.sqrt(len(v)) if len(v) > 1 else float("inf")
    return float(v.mean()), float(v.mean() - half), float(v.mean() + half)


def standardised_differences(z: Array, arm: Array, propensity: Array) -> tuple[Array, Array]:
    """(C,) largest absolute difference of each column's mean between an arm and the reference, in standard deviations,
    before and after weighting each patient by the inverse chance of her own arm.

    Source: Austin, Multivariate Behav Res 46:399 (2011).
    """
    z = np.asarray(z, np.float64)
    rows = np.arange(len(arm))
    weight = 1 / np.maximum(np.asarray(propensity)[rows, arm], FLOOR)
    spread = np.sqrt(np.mean([z[arm == k].var(axis=0) for k in np.unique(arm)], axis=0))
    spread = np.where(spread > 1e-9, spread, np.inf)
    found = []
    for w in (np.ones(len(arm)), weight):
        means = [np.average(z[arm == k], axis=0, weights=w[arm == k]) for k in np.unique(arm)]
        found.append(np.max([np.abs(m - means[0]) / spread for m in means[1:]], axis=0))
    return found[0], found[1]
