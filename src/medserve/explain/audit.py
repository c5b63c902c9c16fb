"""Which explanations of this model may be shown: each method takes the same tests and gets a verdict.

    methods = audit(served, parts.val, output=spec.output, architecture=spec.architecture, settings=settings)
    methods[0].name, methods[0].verdict, methods[0].role        # "occlusion", "PASS", "primary"

| test | question | PASS | FAIL |
|---|---|---|---|
| R1 | does the map change when the weights are random? (mean rank correlation) | <= .30 | > .70 |
| L1 | does its peak hit a planted lesion? (lower 95 % bound; chance) | >= .60 and >= 10 x chance | < .40 |
| F1 | does it rank pixels better than an edge detector? (insertion - deletion) | >= edge + .05, p < .01 | <= edge |
| S1 | does it survive 1 % noise? (mean rank correlation) | >= .70 | < .40 |
| A1 | do integrated gradients add up? (median relative error) | <= 5 % | > 20 % |

An edge detector looks faithful without knowing the model, so "better than random" proves nothing. L1 uses the same
architecture trained on planted pictures (`trials`); the other tests run on the model itself with real pictures. A
quick audit trains one seed and looks at fewer pictures, and therefore never says more than CAUTION.
Sources: Adebayo et al., Sanity checks for saliency maps, NeurIPS 2018; Arun et al., Radiology: AI 2021; Petsiuk et
al., RISE (insertion and deletion), BMVC 2018.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from medserve.explain import faithful, trials
from medserve.explain.explainers import EXPLAINERS, target_of
from medserve.explain.gradients import NetModel, completeness
from medserve.explain.randomise import randomised
from medserve.models.served import ServedNet
from medserve.models.spec import Method, OutputSpec
from medserve.progress import SILENT, Progress
from medserve.settings import Settings
from medserve.types import Array, Named, Samples

Level = Literal["PASS", "CAUTION", "FAIL"]
NOISE = 2.55  # 1 % of the range of a stored picture
_ORDER = {"primary": 0, "secondary": 1, "coarse region only": 2, "not offered": 3}


@dataclass(frozen=True, slots=True)
class Size:
    """Pictures for R1 and S1, for F1, and random networks for R1."""

    maps: int
    faithful: int
    draws: int


FULL, QUICK = Size(maps=16, faithful=48, draws=3), Size(maps=4, faithful=16, draws=1)


def audit(
    served: ServedNet,
    samples: Samples,
    *,
    output: OutputSpec,
    architecture: Named,
    settings: Settings,
    quick: bool = False,
    seed: int = 0,
    progress: Progress = SILENT,
) -> list[Method]:
    """Test every explanation method on one model.

    Args:
        served: the model.
        samples: real pictures that the model was not fitted on (validation or calibration, never the test part).
        quick: one seed and fewer pictures, within about half a minute for a small network.

    Returns: the methods, best first; `figures` holds one record a test with its value and verdict, and the audit's
        mode, counts and seed.
    """
    size = QUICK if quick else FULL
    images, columns = _pictures(served, samples, output, size.faithful, seed)
    few, few_columns = images[: size.maps], columns[: size.maps]
    model, shape = NetModel(served), images.shape[1:]
    names = [name for name in EXPLAINERS if name != "cam" or "cam" in served.outputs(shape)]
    planted = trials.pointing(served, architecture, shape=shape, settings=settings, quick=quick, progress=progress)
    random_nets = {
        depth: [NetModel(randomised(served, images, depth=depth, seed=seed + k)) for k in range(draws)]
        for depth, draws in ((1 / 3, 1), (2 / 3, 1), (1.0, size.draws))
    }
    noise = np.random.default_rng(seed).normal(0, NOISE, few.shape)
    noisy = np.clip(np.rint(few + noise), 0, 255).astype(np.uint8)
    edges = faithful.curves(model, images, columns, faithful.edges(images), output)

    found = []
    for name in progress.track(names, "Auditing explanations"):
        make = EXPLAINERS[name].explain
        maps = make(model, images, columns)
        first = maps[: size.maps]
        tests = {
            "R1": r1(
                {
                    depth: [agreement(first, make(net, few, few_columns)) for net in nets]
                    for depth, nets in random_nets.items()
                }
            ),
            "L1": l1(name, planted),
            "F1": f1(faithful.curves(model, images, columns, maps, output), edges, seed=seed),
            "S1": s1(agreement(first, make(model, noisy, few_columns), absolute=False)),
        }
        if name == "integrated-gradients":
            tests["A1"] = a1(completeness(model, few, few_columns))
        verdict, role = judge(tests, quick=quick)
        counts = {
            "mode": "quick" if quick else "full",
            "seed": seed,
            "pictures": len(images),
            "cost": EXPLAINERS[name].cost,
        }
        found.append(Method(name=name, verdict=verdict, role=role, figures=tests | counts))
    return ranked(found)


def judge(tests: dict[str, dict[str, Any]], *, quick: bool = False) -> tuple[Level, str]:
    """From the tests of one method to its verdict and role.

    FAIL on R1, F1, S1 or A1 hides the method. PASS on R1, L1 and F1: primary. PASS on L1 with CAUTION on R1 or F1:
    secondary. PASS on R1 without L1: coarse region only. Anything else is not offered.
    """
    level = {name: test["level"] for name, test in tests.items()}
    if any(level.get(name) == "FAIL" for name in ("R1", "F1", "S1", "A1")):
        return "FAIL", "not offered"
    if level["L1"] == "PASS":
        good = level["R1"] == "PASS" and level["F1"] == "PASS"
        if not good and level["R1"] != "PASS" and level["F1"] != "PASS":
            return "FAIL", "not offered"
        clean = good and all(one == "PASS" for one in level.values()) and not quick
        return ("PASS" if clean else "CAUTION"), ("primary" if good else "secondary")
    if level["R1"] == "PASS":
        return "CAUTION", "coarse region only"
    return "FAIL", "not offered"


def ranked(methods: list[Method]) -> list[Method]:
    """Best first; one primary: of those that qualify, a method that a service can run, and the one that points best."""

    def key(method: Method) -> tuple[int, bool, bool, float]:
        low = float(method.figures["L1"].get("low", 0.0))
        return _ORDER[method.role], method.verdict != "PASS", EXPLAINERS[method.name].needs_torch, -low

    methods = sorted(methods, key=key)
    for other in [m for m in methods if m.role == "primary"][1:]:
        other.role = "secondary"
    return methods


def r1(by_depth: dict[float, list[float]]) -> dict[str, Any]:
    """by_depth: agreement with networks whose last third, two thirds, or all layers are random."""
    value = float(np.mean(by_depth[1.0]))
    cascade = [round(float(np.mean(by_depth[depth])), 4) for depth in sorted(by_depth)]
    level = "PASS" if value <= 0.30 else "FAIL" if value > 0.70 else "CAUTION"
    return {"value": round(value, 4), "cascade": cascade, "level": level}


def l1(name: str, planted: dict[str, Any]) -> dict[str, Any]:
    """`level` may be "not measured", with the reason: no lesion was learnt, or too few were found."""
    if "skipped" in planted:
        return {"level": "not measured", "reason": planted["skipped"]}
    figures = dict(planted["methods"].get(name, {})) | {"auroc": planted["auroc"], "side": planted["side"]}
    if min(planted["auroc"]) < trials.LEARNT or figures.get("n", 0) < trials.ENOUGH:
        reason = "this architecture did not learn the planted lesion well enough to ask where it looks"
        return figures | {"level": "not measured", "reason": reason}
    good = figures["low"] >= 0.60 and figures["value"] >= 10 * figures["chance"]
    level = "PASS" if good else "FAIL" if figures["value"] < 0.40 else "CAUTION"
    return figures | {"level": level}


def f1(curves: Array, edges: Array, *, seed: int = 0, draws: int = 4000) -> dict[str, Any]:
    """Paired over pictures. curves, edges: (B,) insertion - deletion of the method and of the edge detector."""
    gain = curves - edges
    rows = np.random.default_rng(seed).integers(0, len(gain), (draws, len(gain)))
    means = gain[rows].mean(axis=1)
    mean, p = float(gain.mean()), float((1 + (means <= 0).sum()) / (draws + 1))
    level = "PASS" if mean >= 0.05 and p < 0.01 else "FAIL" if mean <= 0 else "CAUTION"
    low, high = np.percentile(means, [2.5, 97.5])
    figures = {
        "value": float(curves.mean()),
        "edge": float(edges.mean()),
        "gain": mean,
        "low": low,
        "high": high,
        "p": p,
    }
    return {name: round(float(value), 4) for name, value in figures.items()} | {"n": len(gain), "level": level}


def s1(value: float) -> dict[str, Any]:
    level = "PASS" if value >= 0.70 else "FAIL" if value < 0.40 else "CAUTION"
    return {"value": round(value, 4), "level": level}


def a1(errors: Array) -> dict[str, Any]:
    value = float(np.median(errors))
    level = "PASS" if value <= 0.05 else "FAIL" if value > 0.20 else "CAUTION"
    return {"value": round(value, 4), "level": level}


def agreement(first: Array, second: Array, *, absolute: bool = True) -> float:
    """Mean Spearman correlation of maps, picture by picture; a constant map agrees with nothing (0).

    Args:
        first, second: (B, *S).
        absolute: compare strengths and not signs.
    """
    from scipy.stats import rankdata

    a, b = (np.abs(x) if absolute else x for x in (first, second))
    a, b = (rankdata(x.reshape(len(x), -1), axis=1) for x in (a, b))
    a, b = (x - x.mean(axis=1, keepdims=True) for x in (a, b))
    size = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return float(np.mean((a * b).sum(axis=1) / np.where(size > 0, size, np.inf)))


def _pictures(served: ServedNet, samples: Samples, output: OutputSpec, n: int, seed: int) -> tuple[Array, Array]:
    """Pictures that hold evidence for a label: those that the model calls positive first, at random otherwise.

    Returns: images (B, C, H, W) uint8 and the logit to explain in each, (B,).
    """
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(samples))[: 8 * n]
    images = samples.take(rows)
    logits = served.scores(images).logits
    if output.task in ("binary", "multilabel", "ordinal"):
        first = np.argsort(logits.max(axis=1) <= 0, kind="stable")
        images, logits = images[first], logits[first]
    columns = np.array([target_of(output, row).column for row in logits[:n]])
    return images[:n], columns
