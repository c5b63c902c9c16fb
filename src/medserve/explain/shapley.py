"""What each input of a record moved: Shapley values by permutations, against summaries of the training part.

    background = background_of(records, 10, seed=7, blocks=blocks)         # training: k summaries of >= 10 cases each
    values, base, gap = permutation_shapley(score, record, background, groups, permutations=16, seed=0)
    png = render_bars(names, values, shown, base, base + values.sum())

An input that is "not known yet" has the background's values. Columns of one input move together. The values and the
base add up to the model's own logit; `gap` is what is left of that sum, measured, not assumed. With few inputs all
coalitions are computed and the values are exact; else each permutation is walked forwards and backwards (antithetic),
which takes the pairwise interactions out of the error. Pure numpy: a service can do it.
Source: Shapley, 1953; Strumbelj and Kononenko, KAIS 2014; Mitchell et al., Sampling permutations for Shapley value
estimation, JMLR 2022 (antithetic).
"""

import io
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from medserve.data.fields import Block
from medserve.explain.rules import below
from medserve.types import Array

LEAST = 10  # cases behind every summary and every value in it
BATCH = 1024  # records a call of `score`
FIT_ROWS = 20_000
SHOWN = 12  # bars
Score = Callable[[Array], Array]


def permutation_shapley(
    score: Score,
    record: Array,
    background: Array,
    groups: Sequence[Array],
    *,
    permutations: int = 16,
    seed: int = 0,
    column: int = 0,
    batch: int = BATCH,
) -> tuple[Array, float, float]:
    """Interventional Shapley values of the groups.

    Args:
        score: (B, F) float32 with NaN -> (B,) or (B, K) logits.
        record: (F,) the case.
        background: (k, F); every group that is left out takes the values of each row in turn, and the scores are
            averaged.
        groups: positions in the record, one entry an input; positions in no group keep the record's values.
        permutations: pairs of one order and its reverse. Fewer coalitions in all: each is computed once, exactly.
        column: of the logits, where `score` gives several.

    Returns: (G,) float64, the base (every group left out), and |base + sum - logit|.
    """
    record = np.asarray(record, np.float32)
    background = np.asarray(background, np.float32).reshape(-1, len(record))
    places = [np.arange(len(record))[group] for group in groups]
    free = np.ones(len(record), bool)
    for place in places:
        free[place] = False
    background = np.where(free, record, background)
    if _same(background[0], background):
        background = background[:1]  # such as "nothing was sent", ten times
    # a group that says the same as every summary cannot move anything
    moving = [g for g, place in enumerate(places) if not _same(record[place], background[:, place])]
    count = len(moving)

    def mean_score(masks: Array) -> Array:
        """(M, count) bool, which moving groups are known -> (M,) float64."""
        known = np.repeat(free[None], len(masks), 0)
        for i, g in enumerate(moving):
            known[:, places[g]] = masks[:, i : i + 1]
        found = np.empty(len(masks))
        size = max(1, batch // len(background))
        for start in range(0, len(masks), size):
            some = known[start : start + size, None]
            rows = np.where(some, record, background).reshape(-1, len(record))
            logits = np.asarray(score(rows.astype(np.float32)), np.float64)
            logits = logits if logits.ndim == 1 else logits[:, column]
            found[start : start + size] = logits.reshape(-1, len(background)).mean(1)
        return found

    values = np.zeros(len(places))
    if count and 2**count <= 2 * max(1, permutations) * count:
        values[moving], base = _exact(mean_score, count)
    elif count:
        values[moving], base = _sampled(mean_score, count, permutations, seed)
    else:
        base = float(mean_score(np.zeros((1, 0), bool))[0])
    own = np.asarray(score(record[None]), np.float64).reshape(1, -1)
    logit = float(own[0, column] if own.shape[1] > 1 else own[0, 0])
    return values, base, abs(base + float(values.sum()) - logit)


def _exact(mean_score: Callable[[Array], Array], count: int) -> tuple[Array, float]:
    """Every coalition once. The weight of one of s others is s! (count - s - 1)! / count!."""
    codes = np.arange(2**count)
    masks = (codes[:, None] >> np.arange(count)) & 1 == 1
    scores, others = mean_score(masks), masks.sum(1)
    weight = np.array([1 / (count * math.comb(count - 1, s)) for s in range(count)])
    values = np.empty(count)
    for i in range(count):
        without = codes[~masks[:, i]]
        values[i] = (weight[others[without]] * (scores[without | 1 << i] - scores[without])).sum()
    return values, float(scores[0])


def _sampled(mean_score: Callable[[Array], Array], count: int, permutations: int, seed: int) -> tuple[Array, float]:
    random = np.random.default_rng(seed)
    values, base = np.zeros(count), 0.0
    for _ in range(max(1, permutations)):
        order = random.permutation(count)
        for one in (order, order[::-1]):
            masks = np.zeros((count + 1, count), bool)
            for step, group in enumerate(one):
                masks[step + 1 :, group] = True
            scores = mean_score(masks)
            values[one] += np.diff(scores)
            base = float(scores[0])
    return values / (2 * max(1, permutations)), base


def _same(own: Array, others: Array) -> bool:
    return bool(((own == others) | (np.isnan(own) & np.isnan(others))).all())


def background_of(records: Array, k: int, seed: int, blocks: Sequence[Block] | None = None) -> Array:
    """At most k summaries of the training part, each of at least 10 cases; no case is among them.

    Args:
        records: (N, F) float32 with NaN, of the training part.
        blocks: what the columns are; None: all are numbers. A category takes the commonest word of its cases, and what
            is neither a number nor a category is left out (NaN), as if it had not been sent.

    Returns: (at most k, F) float32. The cases are halved at the median along the direction in which they differ most,
        the largest part first, so that the parts hold about as many cases each and can be averaged without weights. A
        number that fewer than 10 cases of a part have, or fewer than half, is NaN.
    """
    records = np.asarray(records, np.float32)
    random = np.random.default_rng(seed)
    if len(records) > FIT_ROWS:
        records = records[np.sort(random.permutation(len(records))[:FIT_ROWS])]
    width = records.shape[1]
    kinds = np.full(width, "number", dtype=object)
    for block in blocks or ():
        kinds[block.start : block.start + block.size] = block.kind
    if len(records) < LEAST:
        return np.full((1, width), np.nan, np.float32)
    space = _space(records[:, np.isin(kinds, ("number", "category"))])
    parts = [np.arange(len(records))]
    while len(parts) < k:
        largest = max(parts, key=len)
        if len(largest) < 2 * LEAST:
            break
        parts = [part for part in parts if part is not largest] + _halved(largest, space, random)
    return np.stack([_summary(records[part], kinds) for part in parts]).astype(np.float32)


def _space(records: Array) -> Array:
    """Standardised, missing at the mean."""
    known = np.isfinite(records)
    count = np.maximum(known.sum(0), 1)
    mean = np.where(known, records, 0).sum(0, dtype=np.float64) / count
    centred = np.where(known, records - mean, 0)
    spread = np.sqrt((centred**2).sum(0) / count)
    return np.clip(centred / np.where(spread > 0, spread, 1), -4, 4)


def _halved(part: Array, space: Array, random: np.random.Generator) -> list[Array]:
    centred = space[part] - space[part].mean(0)
    direction = random.normal(size=centred.shape[1])
    for _ in range(20):  # power iteration
        direction = centred.T @ (centred @ direction)
        direction /= np.linalg.norm(direction) or 1.0
    order = np.argsort(centred @ direction, kind="stable")
    half = len(part) // 2
    return [part[order[:half]], part[order[half:]]]


def _summary(cases: Array, kinds: Array) -> Array:
    found = np.full(cases.shape[1], np.nan)
    for i, kind in enumerate(kinds):
        known = cases[np.isfinite(cases[:, i]), i]
        if len(known) < max(LEAST, len(cases) / 2) or kind not in ("number", "category"):
            continue
        if kind == "number":
            found[i] = known.mean(dtype=np.float64)
        else:
            words, counts = np.unique(known, return_counts=True)
            found[i] = words[counts.argmax()]
    return found


RED, BLUE, INK, FAINT = (200, 60, 50), (50, 100, 190), (30, 30, 30), (210, 210, 210)


def render_bars(
    names: Sequence[str], values: Sequence[float] | Array, shown: Sequence[str], base: float, total: float,
    *, foot: str | None = None, rules: Sequence[Mapping[str, str]] = (),
) -> bytes:  # fmt: skip
    """The values as bars, largest first: red to the right raises the logit, blue to the left lowers it.

    Args:
        names, values, shown: of every input: its name, its Shapley value, its own value as text (may be "").
        base, total: the logit with nothing known, and that of the case.
        foot: the line below, where it is not that sum. rules: lines on the rules of safety, below that.

    Returns: PNG bytes, RGB. The 12 largest have a bar each; the rest share one.
    """
    from PIL import Image, ImageDraw, ImageFont

    values = np.asarray(values, float)
    order = np.argsort(-np.abs(values), kind="stable")
    rows = [(f"{names[i]} = {shown[i]}" if shown[i] else str(names[i]), float(values[i])) for i in order[:SHOWN]]
    rest = order[SHOWN:]
    if len(rest):
        rows.append((f"{len(rest)} other inputs", float(values[rest].sum())))
    label, room, high, top = 300, 460, 28, 40
    width, height = label + room + 20, top + high * max(1, len(rows)) + 36
    image = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=14)
    scale = (room / 2 - 62) / (max([abs(v) for _, v in rows], default=0) or 1.0)
    middle = label + room // 2
    draw.text((middle - 8, 12), "lowers", fill=BLUE, font=font, anchor="ra")
    draw.text((middle + 8, 12), "raises", fill=RED, font=font)
    draw.line([(middle, top - 4), (middle, height - 34)], fill=FAINT)
    for i, (text, value) in enumerate(rows):
        y = top + i * high
        draw.text((label - 10, y + high // 2), _fitted(text, draw, font, label - 20), fill=INK, font=font, anchor="rm")
        end = middle + value * scale
        colour = RED if value > 0 else BLUE
        if value:
            draw.rectangle([min(middle, end), y + 5, max(middle, end), y + high - 5], fill=colour)
        side, anchor = (end + 6, "lm") if value >= 0 else (end - 6, "rm")
        draw.text((side, y + high // 2), f"{value:+.2f}", fill=INK, font=font, anchor=anchor)
    said = f"score {total:+.2f} = {base:+.2f} (nothing known) {total - base:+.2f} (these inputs)"
    draw.text((width // 2, height - 16), said if foot is None else foot, fill=INK, font=font, anchor="mm")
    out = io.BytesIO()
    (below(image, rules) if rules else image).save(out, format="PNG", compress_level=1)
    return out.getvalue()


def _fitted(text: str, draw: "ImageDraw", font: "ImageFont", width: int) -> str:  # type: ignore[name-defined] # noqa: F821
    """The text, cut in the middle where it is too long: the end holds the value."""
    text = " ".join(text.split())[:400]
    if draw.textlength(text, font=font) <= width:
        return text
    keep = len(text)
    while keep > 4 and draw.textlength(_cut(text, keep), font=font) > width:
        keep -= 1
    return _cut(text, keep)


def _cut(text: str, keep: int) -> str:
    tail = min(14, keep // 2)
    return f"{text[: keep - tail]}...{text[-tail:]}"
