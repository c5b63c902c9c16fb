"""Does the model read the border instead of the body? Change what cannot matter, and see whether the answer moves.

    for check in scan(model, samples, output=spec.output):
        check["name"], check["level"], check["value"]        # "corners and border erased", "green", 0.008
    demonstrate(served, architecture, shape=..., settings=settings)["level"]     # "red", on a planted marker

Three looks: erase each corner and border strip; paste it from a picture with another answer; and weigh how much of the
map lies outside the body. The interventions decide: a heat map may fail to show a shortcut that the model uses.
The demonstration trains the same architecture on pictures whose corner marker betrays the label; the scanner must find
it, or it would find nothing.
Sources: DeGrave et al., AI for radiographic COVID-19 detection selects shortcuts over signal, Nat Mach Intell 2021.
"""

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from medserve.explain.explainers import EXPLAINERS, Explainable, target_of
from medserve.explain.maps import blur, peak
from medserve.explain.occlusion import SCALES
from medserve.models.spec import OutputSpec
from medserve.progress import SILENT, Progress
from medserve.types import Array, Samples

Level = Literal["green", "amber", "red"]
LEVELS: tuple[Level, ...] = ("green", "amber", "red")  # mildest first
CORNER, STRIP = 1 / 5, 1 / 14  # of the side
GOOD, BAD = 0.05, 0.15  # mean change of a probability
OUTSIDE_GOOD, OUTSIDE_BAD = 0.20, 0.40  # median share of a map outside the body
_LEAST_GROUND = 0.05  # with less dark ground than this there is no outside to measure
_DRAWS = 1000

Region = tuple[slice, slice]


def scan(
    model: Explainable,
    samples: Samples,
    *,
    output: OutputSpec,
    pictures: int = 200,
    maps: int = 24,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Look for answers that hang on corners, borders or ground.

    Args:
        samples: real pictures, never the test part.
        pictures: for the interventions.
        maps: for the share outside the body (occlusion maps).

    Returns: checks {"name", "code", "level", "value", "low", "high", "figure", "n", "message"}; level green, amber or
        red; value the mean change of the probability (a number: of the value in standard deviations), or the share of
        the map; None where it could not be measured.
    """
    rng = np.random.default_rng(seed)
    images = samples.take(rng.permutation(len(samples))[:pictures])
    before = answers(model, images, output)
    erased = {
        name: change(answers(model, erase(images, region), output), before, output)
        for name, region in regions(images.shape[-2:])
    }
    swapped, n_pairs = _swapped(model, images, before, output, rng)
    checks = [_x1("corners and border erased", "x1-erased", erased, len(images), rng)]
    if swapped:
        checks.append(_x1("corners and border exchanged", "x1-exchanged", swapped, n_pairs, rng))
    return [*checks, _x2(model, images[:maps], output, rng)]


def regions(shape: tuple[int, ...]) -> Iterator[tuple[str, Region]]:
    """Where markers, tokens, collimator edges and burnt-in text stand: four corners and four strips of the border."""
    height, width = shape
    h, w = max(2, round(height * CORNER)), max(2, round(width * CORNER))
    top, bottom, left, right = slice(0, h), slice(height - h, height), slice(0, w), slice(width - w, width)
    yield "upper left corner", (top, left)
    yield "upper right corner", (top, right)
    yield "lower left corner", (bottom, left)
    yield "lower right corner", (bottom, right)
    h, w = max(1, round(height * STRIP)), max(1, round(width * STRIP))
    yield "upper border", (slice(0, h), slice(0, width))
    yield "lower border", (slice(height - h, height), slice(0, width))
    yield "left border", (slice(0, height), slice(0, w))
    yield "right border", (slice(0, height), slice(width - w, width))


def erase(images: Array, region: Region) -> Array:
    """Fill a region smoothly from what surrounds it, without looking at what was in it.

    Args:
        images: (B, C, H, W) or (B, C, D, H, W) uint8.

    Returns: a copy.
    """
    height, width = images.shape[-2:]
    around = np.ones((height, width), np.float32)
    around[region] = 0
    sigma = min(height, width) * CORNER / 2
    weight = blur(around, sigma)
    filled = blur(images * around, sigma)[(..., *region)] / np.maximum(weight[region], 1e-6)
    out = images.copy()
    out[(..., *region)] = np.rint(filled).astype(np.uint8)
    return out


def answers(model: Explainable, images: Array, output: OutputSpec) -> Array:
    """(B, K) what a change is measured in: probabilities, or a number in standard deviations."""
    z = np.asarray(model.score(images).logits, np.float64)
    if output.task == "number":
        return z
    if output.task == "multiclass":
        e = np.exp(z - z.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)
    return 1 / (1 + np.exp(-np.clip(z, -60, 60)))


def change(after: Array, before: Array, output: OutputSpec) -> Array:
    """(B,) how far each answer moved: half the summed differences for classes, else the largest difference."""
    difference = np.abs(after - before)
    return difference.sum(axis=1) / 2 if output.task == "multiclass" else difference.max(axis=1)


def outside_body(image: Array) -> Array | None:
    """What is not the body: all but the largest bright region, half a patch away from it (maps are no sharper).

    Markers and burnt-in letters are outside too, bright as they are.

    Args:
        image: (C, H, W) uint8.

    Returns: (H, W) bool; None where the body fills the picture.
    """
    from scipy.ndimage import binary_dilation, binary_fill_holes, label

    grey = image.astype(np.float32).mean(axis=0)
    bright = grey > grey.min() + 0.12 * (np.percentile(grey, 99) - grey.min())
    parts, _ = label(bright)
    body = binary_fill_holes(parts == np.argmax(np.bincount(parts[bright], minlength=2)))
    half = max(1, round(min(grey.shape) * SCALES[0][0] / 2))
    ground = ~binary_dilation(body, iterations=half)
    return ground if ground.mean() >= _LEAST_GROUND else None


def demonstrate(
    served: Any,
    architecture: Any,
    *,
    shape: tuple[int, ...],
    settings: Any,
    quick: bool = False,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Train the same architecture on pictures with a betraying corner marker, and let the scanner find it.

    Args: as `trials.pointing`.

    Returns: {"mode", "level", "checks", "auroc": {"same", "absent", "reversed"}, "erased": mean change of the
        probability of marked negatives, "peak_on_marker": {method: share of true positives}}, figures averaged over
        the seeds and `level` the mildest of them (of each, the worse intervention); or {"mode", "skipped": why}.
    """
    from medserve.explain import trials

    trial = trials.QUICK if quick else trials.FULL

    def measure() -> dict[str, Any]:
        rounds = [
            _one_round(
                trials.train(served, architecture, shape=shape, trial=trial, seed=seed, marker=MARKED), shape, seed
            )
            for seed in progress.track(trial.seeds, "Planted shortcut")
        ]
        levels = [one.pop("level") for one in rounds]
        checks = [one.pop("checks") for one in rounds]
        mildest = min(range(len(levels)), key=lambda k: LEVELS.index(levels[k]))
        return {"mode": trial.mode, "level": levels[mildest], "checks": checks[mildest]} | _mean(rounds)

    return trials.remembered(
        served, architecture, shape=shape, trial=trial, settings=settings, what="shortcut", measure=measure
    )


MARKED = (0.1, 0.9)  # how often negatives and positives carry the marker


def _one_round(net: Any, shape: tuple[int, ...], seed: int) -> dict[str, Any]:
    from sklearn.metrics import roc_auc_score

    from medserve.explain.gradients import NetModel
    from medserve.explain.planted import corner, planted
    from medserve.explain.trials import OUTPUT, available, planted_side

    side = planted_side(shape)
    make = {"side": side, "channels": shape[0], "seed": 3000 + seed}
    same, absent, reverse = (planted(300, marker=m, **make) for m in (MARKED, (0.0, 0.0), MARKED[::-1]))  # type: ignore[arg-type]
    model = NetModel(net)
    auroc = {
        name: float(roc_auc_score(part.targets, net.scores(part.images).logits[:, 0]))
        for name, part in (("same", same), ("absent", absent), ("reversed", reverse))
    }
    checks = scan(model, same.samples, output=OUTPUT, maps=12, seed=seed)
    marked = reverse.images[(reverse.targets == 0) & reverse.marked]
    erased = answers(model, erase(marked, next(regions(marked.shape[-2:]))[1]), OUTPUT) - answers(model, marked, OUTPUT)
    hits = np.flatnonzero((net.scores(same.images).logits[:, 0] > 0) & (same.targets == 1) & same.marked)[:30]
    on_marker = {}
    near = blur(corner(side).astype(np.float32), 1.0) > 0.05
    for name in available(net, shape) if len(hits) else []:
        heat = EXPLAINERS[name].explain(model, same.images[hits], np.zeros(len(hits), int))
        on_marker[name] = float(np.mean([near[peak(one)] for one in heat]))
    level = max((check["level"] for check in checks if check["code"].startswith("x1")), key=LEVELS.index)
    return {
        "level": level,
        "checks": checks,
        "auroc": auroc,
        "erased": float(erased.mean()),
        "peak_on_marker": on_marker,
    }


def _mean(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Average figures of equal form."""
    out: dict[str, Any] = {}
    for name, value in rounds[0].items():
        column = [one[name] for one in rounds if name in one]
        out[name] = _mean(column) if isinstance(value, dict) else round(float(np.mean(column)), 4)
    return out


def _swapped(
    model: Explainable, images: Array, before: Array, output: OutputSpec, rng: np.random.Generator
) -> tuple[dict[str, Array], int]:
    """How far an answer moves *towards* the donor's when a region of the donor is pasted in; noise averages to zero."""
    if output.task == "multiclass":
        side = before.argmax(axis=1)
    else:  # the label whose answers differ most between pictures
        widest = int(before.std(axis=0).argmax())
        side = (before[:, widest] > np.median(before[:, widest])).astype(int)
    others = {one: np.flatnonzero(side != one) for one in np.unique(side)}
    pairs = [(i, int(rng.choice(others[one]))) for i, one in enumerate(side) if len(others[one])]
    if not pairs:
        return {}, 0
    receiver, donor = np.array(pairs).T
    column = before[donor].argmax(axis=1) if output.task == "multiclass" else np.full(len(pairs), widest)
    rows = np.arange(len(receiver))
    towards = np.sign(before[donor, column] - before[receiver, column])
    moved = {}
    for name, region in regions(images.shape[-2:]):
        pasted = images[receiver].copy()
        pasted[(..., *region)] = images[donor][(..., *region)]
        after = answers(model, pasted, output)
        moved[name] = (after[rows, column] - before[receiver, column]) * towards
    return moved, len(pairs)


def _x1(name: str, code: str, moved: dict[str, Array], n: int, rng: np.random.Generator) -> dict[str, Any]:
    """The region that matters most decides; its interval is a bootstrap over pictures."""
    where = max(moved, key=lambda region: float(moved[region].mean()))
    value, (low, high) = float(moved[where].mean()), _interval(moved[where], np.mean, rng)
    level: Level = "green" if value <= GOOD else "red" if value > BAD and low > GOOD else "amber"
    told = {
        "green": f"No corner and no border strip moves the answer by more than {GOOD} on average.",
        "amber": f"The {where} moves the answer by {value:.2f} on average: look at what stands there.",
        "red": f"The {where} moves the answer by {value:.2f} on average: the model may read a marker, not the patient.",
    }
    return _check(name, code, level, value, low, high, n, told[level]) | {"where": where}


def _x2(model: Explainable, images: Array, output: OutputSpec, rng: np.random.Generator) -> dict[str, Any]:
    """The median share of the occlusion map's strength on the ground outside the body."""
    name, code = "map outside the body", "x2-outside"
    pairs = [] if images.ndim != 4 else [(image, outside_body(image)) for image in images]
    known = [(image, ground) for image, ground in pairs if ground is not None]
    if len(known) < 5:
        return _check(
            name,
            code,
            "green",
            None,
            None,
            None,
            len(known),
            "Not measured: the body fills the pictures, no ground shows.",
        )
    stack = np.stack([image for image, _ in known])
    columns = np.array([target_of(output, row).column for row in model.score(stack).logits])
    heat = np.abs(EXPLAINERS["occlusion"].explain(model, stack, columns))
    share = np.array(
        [one[ground].sum() / max(float(one.sum()), 1e-9) for one, (_, ground) in zip(heat, known, strict=True)]
    )
    value, (low, high) = float(np.median(share)), _interval(share, np.median, rng)
    level: Level = "green" if value <= OUTSIDE_GOOD else "red" if low > OUTSIDE_BAD else "amber"
    message = f"{value:.0%} of the evidence lies outside the body (median of {len(share)} pictures)."
    return _check(name, code, level, value, low, high, len(share), message)


def _interval(values: Array, statistic: Any, rng: np.random.Generator) -> tuple[float, float]:
    rows = rng.integers(0, len(values), (_DRAWS, len(values)))
    low, high = np.percentile(statistic(values[rows], axis=1), [2.5, 97.5])
    return float(low), float(high)


def _check(
    name: str,
    code: str,
    level: Level,
    value: float | None,
    low: float | None,
    high: float | None,
    n: int,
    message: str,
) -> dict[str, Any]:
    figure = "not measured" if value is None else f"{value:.3f} [{low:.3f}, {high:.3f}]"
    rounded = {
        key: None if one is None else round(one, 4) for key, one in (("value", value), ("low", low), ("high", high))
    }
    return {"name": name, "code": code, "level": level, **rounded, "figure": figure, "n": n, "message": message}
