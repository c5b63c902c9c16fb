"""Attempts to bring an estimated effect down: what should show nothing must show nothing.

    rows, closed = refute(learned, targets)       # for the report; reasons to advise nobody

placebo: treatments dealt out anew have no effect; where they show one they are dealt again, since one deal in twenty
does. random cause: one column of noise more changes nothing. subsets: four fifths of the patients say the same.
negative control: what the treatment cannot have changed, it did not. The E-value says how strong an unmeasured
confounder would have to be to explain the effect away.
Sources: Lipsitch et al., Epidemiology 21:383 (2010); VanderWeele and Ding, Ann Intern Med 167:268 (2017); Sharma and
Kiciman, DoWhy (2020) for the refuters.
"""

from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from medserve.models.spec import Coded
from medserve.questions.effect import mean_interval, robust_scores, told
from medserve.questions.weighted import Z95
from medserve.training.nuisances import nuisances
from medserve.types import Array

if TYPE_CHECKING:
    from medserve.training.effect import Learned

CHANGE = 0.1  # of the average effect (or of its standard error, where that is more) that a random cause may change
NEAR = 0.9  # rank correlation with the outcome from which an input looks as if it were measured after it
SUBSETS = 20
DEALS = 3  # of a placebo whose first deal shows an effect; most of them must, to count against the estimate
FEWEST = 50  # patients with a known negative control


def refute(learned: "Learned", targets: Array, *, quick: bool = False) -> tuple[list[dict[str, Any]], list[Coded]]:
    """
    Args:
        targets: (N, 4), the same patients; the last column is the negative control.
        quick: only what needs no new fit, and the negative control.

    Returns: rows {"name", "level", "figure", "message"}, and reasons that close the model.
    """
    rows, closed = [_subsets(learned), _e_value(learned), _after(learned)], []
    if not quick:
        rows = [_placebo(learned), _random_cause(learned), *rows]
    control = np.asarray(targets, np.float64)[:, 3]
    if np.isfinite(control).sum() >= FEWEST:
        row = _negative_control(learned, control)
        rows.append(row)
        if row["level"] == "red":
            closed.append(Coded("negative-control", row["message"]))
    return rows, closed


def _averages(learned: "Learned", y: Array, arm: Array, z: Array, x: Array, rows: Array | None = None) -> Array:
    """(N, K - 1) scores of a problem that was altered, nuisances fitted anew, of the kinds that were chosen."""
    kinds = [learned.found.told["propensity"]["chosen"], learned.found.told["outcome"]["chosen"]]
    arms, fold = len(learned.output.labels), learned.fold if rows is None else learned.fold[rows]
    found = nuisances(x, z, y, arm, arms=arms, fold=fold, seed=learned.seed, kinds=sorted(set(kinds)))
    gamma = robust_scores(y, arm, found.outcome, found.propensity)
    psi: Array = gamma[:, 1:] - gamma[:, :1]
    return psi


def _placebo(learned: "Learned") -> dict[str, Any]:
    random = np.random.default_rng(learned.seed + 1)
    y, shown = learned.output.standard(learned.y), 0
    said: list[str] = []
    for _ in range(DEALS):
        psi = _averages(learned, y, random.permutation(learned.arm), learned.z, learned.x) * learned.output.sd
        shown += not _holds_nothing(psi)
        said.append(_said(_spans(psi)))
        if not shown or shown > DEALS / 2:
            break
    fine = shown <= DEALS / 2
    none = "no effect" if not shown else f"an effect in {shown} of {len(said)} deals, as chance makes some"
    bad = "Treatments dealt out by chance show an effect again and again: the estimate cannot be trusted."
    message = f"Treatments dealt out by chance show {none}." if fine else bad
    return _row("placebo treatment", fine, " | ".join(said), message)


def _random_cause(learned: "Learned") -> dict[str, Any]:
    noise = np.random.default_rng(learned.seed + 2).normal(size=(len(learned.y), 1))
    psi = _averages(learned, learned.output.standard(learned.y), learned.arm, np.hstack([learned.z, noise]),
                    np.hstack([learned.x, noise]).astype(np.float32))  # fmt: skip
    now, before = psi.mean(0) * learned.output.sd, learned.psi.mean(0)
    error = learned.psi.std(0) / np.sqrt(len(learned.psi))
    moved = np.abs(now - before)
    fine = bool((moved <= np.maximum(CHANGE * np.abs(before), error)).all())
    return _row("random common cause", fine, f"moved by {moved.max():.3g}",
                "One column of noise more leaves the average effect where it was." if fine
                else "One column of noise more moves the average effect: it is unstable.")  # fmt: skip


def _subsets(learned: "Learned") -> dict[str, Any]:
    random = np.random.default_rng(learned.seed + 3)
    n = len(learned.psi)
    whole, error = learned.psi.mean(0), learned.psi.std(0) / np.sqrt(n)
    means = [learned.psi[random.permutation(n)[: int(0.8 * n)]].mean(0) for _ in range(SUBSETS)]
    gap = float(np.max(np.abs(np.array(means) - whole) / np.maximum(error, 1e-12)))
    fine = gap <= 2.0
    return _row("subset stability", fine, f"at most {gap:.2f} standard errors",
                f"{SUBSETS} subsets of four fifths of the patients say about the same." if fine
                else "Subsets of four fifths of the patients say unlike things.")  # fmt: skip


def _negative_control(learned: "Learned", control: Array) -> dict[str, Any]:
    rows = np.isfinite(control)
    y = control[rows]
    sd = float(y.std()) or 1.0
    psi = _averages(learned, (y - y.mean()) / sd, learned.arm[rows], learned.z[rows], learned.x[rows], rows)
    return _nothing(
        "negative control outcome", psi * sd, "What the treatment cannot have changed, it did not.",
        "The treatment seems to change what it cannot have changed: confounding is left.",
    )  # fmt: skip


def _nothing(name: str, psi: Array, none: str, some: str) -> dict[str, Any]:
    """What must show nothing: the interval of every average holds 0."""
    fine = _holds_nothing(psi)
    return _row(name, fine, _said(_spans(psi)), none if fine else some)


def _spans(psi: Array) -> list[tuple[float, float, float]]:
    return [mean_interval(column) for column in psi.T]


def _holds_nothing(psi: Array) -> bool:
    """Whether 0 lies in the interval of each of J averages, at 95 % for all of them together (Bonferroni)."""
    wider = NormalDist().inv_cdf(1 - 0.025 / psi.shape[1]) / Z95
    return all(abs(mean) <= wider * (high - mean) for mean, _, high in _spans(psi))


def _after(learned: "Learned") -> dict[str, Any]:
    """Whether an input tells the outcome by itself, as what follows the treatment may."""
    near = []
    for name, column in zip(learned.base.features.names, np.asarray(learned.x, np.float64).T, strict=True):
        known = np.isfinite(column)
        if " = " in name or known.sum() < FEWEST:
            continue
        if (r := abs(_rank_correlation(column[known], learned.y[known]))) > NEAR:
            near.append((name, r))
    figure = "; ".join(f"{name}: rank correlation {r:.2f}" for name, r in near) or f"none above {NEAR:g}"
    row = _row("measured after", True, figure, "No input tells the outcome by itself." if not near else
               "An input tells the outcome by itself. If it is known only after time zero, declare it in `after` or"
               " `measured`, and leave it out: the effect that runs through it is adjusted away.")  # fmt: skip
    return row | {"level": "amber" if near else "green"}


def _rank_correlation(a: Array, b: Array) -> float:
    if min(np.ptp(a), np.ptp(b)) == 0:
        return 0.0
    one, other = (np.argsort(np.argsort(each)) - (len(each) - 1) / 2 for each in (a, b))
    return float((one * other).sum() / (one * one).sum())


def _e_value(learned: "Learned") -> dict[str, Any]:
    """For the limit of the interval nearest to no effect; differences of means by the approximation exp(.91 d)."""
    values = []
    for j in range(learned.psi.shape[1]):
        mean, low, high = mean_interval(learned.psi[:, j])
        nearest = 0.0 if low <= 0 <= high else min(abs(low), abs(high))
        values.append((e_value(_ratio(learned, j, mean)), e_value(_ratio(learned, j, np.sign(mean) * nearest))))
    said = "; ".join(f"{value:.2f}, of the interval {limit:.2f}" for value, limit in values)
    row = _row("E-value", True, said, "An unmeasured confounder would have to be tied to treatment and outcome by risk"
               " ratios of this size, beyond what is adjusted for, to explain the average effect away.")  # fmt: skip
    weakest = min(limit for _, limit in values)
    return row | {"level": "green" if weakest > 1.25 else "amber"}


def _ratio(learned: "Learned", j: int, difference: float) -> float:
    """The risk ratio that stands for a difference of means."""
    if told(learned.output).kind == "binary":
        base = float(np.clip(learned.gamma[:, 0].mean(), 0.01, 0.99))
        return float(np.clip(base + difference, 0.01, 0.99)) / base
    return float(np.exp(np.clip(0.91 * difference / learned.output.sd, -20, 20)))


def e_value(ratio: float) -> float:
    """RR + sqrt(RR (RR - 1)); 1 for no effect. A ratio of 2 gives 3.41."""
    r = max(ratio, 1 / ratio)
    return float(r + np.sqrt(r * (r - 1)))


def _row(name: str, fine: bool, figure: str, message: str) -> dict[str, Any]:
    return {"name": name, "code": name.replace(" ", "-").lower(), "level": "green" if fine else "red",
            "figure": figure, "value": None, "message": message}  # fmt: skip


def _said(spans: list[tuple[float, float, float]]) -> str:
    return "; ".join(f"{value:+.3g} ({low:+.3g} to {high:+.3g})" for value, low, high in spans)
