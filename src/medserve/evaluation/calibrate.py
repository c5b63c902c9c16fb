"""Temperature scaling: one number that makes stated probabilities match what happens, fitted on the calibration part.

    calibration = calibrate(logits, targets, output)        # temperature and conformal quantiles
    calibration.method, calibration.temperature, calibration.conformal

Source: Guo et al. 2017, On Calibration of Modern Neural Networks. A temperature keeps the order of cases, so no
discrimination is lost. It is fitted with a weak prior around 1 (log-normal, sd 1, the weight of one case): without
it a calibration part that the model gets all right asks for a temperature of 0, that is for certainty.
"""

import msgspec
import numpy as np

from medserve.errors import BadData
from medserve.evaluation.conformal import ALPHA, fit_conformal
from medserve.evaluation.intervals import strata_of
from medserve.evaluation.survival import fit_hazard
from medserve.models.spec import Calibration, ModelSpec, OutputSpec
from medserve.questions.answers import probabilities
from medserve.types import UNSCORED, Array, Named

ENOUGH = 100  # cases for a plain fit
FEWEST = 20  # cases under which nothing is fitted
FOLDS = 5
_RANGE = (0.05, 20.0)


def calibrate(logits: Array, targets: Array, output: OutputSpec, *, alpha: float = ALPHA, seed: int = 0) -> Calibration:
    """Temperature, then conformal quantiles at that temperature, from one calibration part.

    Both see the same cases. The two-label order of conformity scores does not depend on the temperature, so there the
    guarantee is exact; elsewhere one fitted number stands between it and exactness. Survival: slope and level of the
    hazard (see `survival.fit_hazard`), no quantiles; `output` then carries its baseline.
    """
    if output.task in UNSCORED:  # a word is no case, a likelihood no answer, an effect is never seen
        return Calibration(method="none", n=len(targets))
    fitted = fit_temperature(logits, targets, output, seed=seed)
    spec = bare(output, fitted)
    return msgspec.structs.replace(fitted, conformal=fit_conformal(spec, logits, targets, alpha=alpha))


def fit_temperature(logits: Array, targets: Array, output: OutputSpec, *, seed: int = 0) -> Calibration:
    """The temperature of least log-loss.

    With fewer than 100 cases it is kept only if cross-fitting shows that it helps: fitted on four fifths, it must lower
    the log-loss of the last fifth, over all fifths together. With fewer than 20, with one label only, or for a number
    there is nothing to fit and `method` is "none".

    Args:
        logits: (N, width) of the calibration part, as the graph gives them.
        targets: as in `Samples`.

    Raises: BadData: logits and targets differ in number, or a logit is not finite.
    """
    logits, targets = np.asarray(logits, np.float64), np.asarray(targets)
    if output.task == "survival" and len(logits) == len(targets):
        known = np.isfinite(targets).all(axis=1)
        logits, targets = logits[known], targets[known]
    if len(logits) != len(targets) or not np.isfinite(logits).all():
        raise BadData(
            "calibration-scores",
            f"{len(logits)} scores for {len(targets)} calibration cases, or a score that is not finite.",
            hint="Train again; a diverged model gives scores that are not numbers.",
        )
    if output.task == "survival":
        return fit_hazard(logits, targets, output, seed=seed)
    n = len(logits)
    strata = strata_of(output.task, targets)
    sides = targets[~np.isnan(targets)] if output.task == "multilabel" else strata
    if output.task == "number" or n < FEWEST or len(np.unique(sides)) < 2:
        return Calibration(method="none", n=n)
    temperature = _fit(logits, targets, output)
    if n >= ENOUGH:
        return Calibration(method="temperature", temperature=temperature, n=n)
    fold = _folds(strata, seed)
    held = np.empty(n)
    for f in range(FOLDS):
        inside = fold == f
        held[inside] = case_loss(
            output, logits[inside], targets[inside], _fit(logits[~inside], targets[~inside], output)
        )
    if held.mean() >= case_loss(output, logits, targets, 1.0).mean():
        return Calibration(method="none", n=n, cross_fitted=True)
    return Calibration(method="temperature", temperature=temperature, n=n, cross_fitted=True)


def case_loss(output: OutputSpec, logits: Array, targets: Array, temperature: float) -> Array:
    """(N,) negative log probability of each case's truth; multilabel: mean over its known labels."""
    p = np.clip(probabilities(bare(output), logits, temperature=temperature), 1e-12, 1 - 1e-12)
    if output.task == "multilabel":
        known = ~np.isnan(targets)
        loss = -np.where(known, np.where(targets == 1, np.log(p), np.log(1 - p)), 0.0).sum(axis=1)
        return loss / np.maximum(known.sum(axis=1), 1)
    return -np.log(np.take_along_axis(p, targets.astype(np.int64)[:, None], axis=1)[:, 0])


def bare(output: OutputSpec, calibration: Calibration | None = None) -> ModelSpec:
    """A signature with nothing but its output: enough for `questions.answers`."""
    return ModelSpec(
        name="",
        inputs=[],
        output=output,
        transforms=[],
        architecture=Named(""),
        calibration=calibration or Calibration(),
    )


def _fit(logits: Array, targets: Array, output: OutputSpec) -> float:
    from scipy.optimize import minimize_scalar

    def cost(log_t: float) -> float:
        return float(case_loss(output, logits, targets, float(np.exp(log_t))).mean() + log_t**2 / (2 * len(logits)))

    found = minimize_scalar(cost, bounds=tuple(np.log(_RANGE)), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def _folds(strata: Array, seed: int) -> Array:
    """(N,) fold of each case, labels spread evenly."""
    order = np.random.default_rng(seed).permutation(len(strata))
    order = order[np.argsort(strata[order], kind="stable")]
    fold = np.empty(len(strata), np.int64)
    fold[order] = np.arange(len(strata)) % FOLDS
    return fold
