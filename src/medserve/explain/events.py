"""Which events of a history moved the answer: each channel's value of each stretch of time, by Shapley values.

    found = happenings(record, blocks)                          # [Happening("stay", "Heart rate", 3.5, 88.0, ...), ...]
    weights, base, gap = events(score, record, found, column=0)  # (len(found),), in logits; base + weights = logit
    png = render_times(found, weights)                          # a time line: a row a channel, red raises, blue lowers

An event that is "not known yet" is absent, as if it had never been sent; everything that is no history stays as it is.
Hiding one event at a time would say that nothing matters where a value is measured every hour and the last one is
carried on: Shapley values share the effect among the events that say the same. What the sum over a time step (a visit)
moved is the sum of its events. A history of more than `MOST` events is told in coarser steps of time.
Source: Strumbelj and Kononenko 2014 (see `shapley`); for histories Bento et al., TimeSHAP, KDD 2021.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from medserve.data.fields import Block
from medserve.explain.shapley import BLUE, FAINT, INK, RED, permutation_shapley
from medserve.types import Array

Score = Callable[[Array], Array]  # (B, F) float32 records -> (B, K) logits
MOST = 128  # events that are weighed one by one; each costs `2 * FEW_PERMUTATIONS` passes
PERMUTATIONS, FEW_PERMUTATIONS, MANY = 16, 4, 32  # fewer where there are many events
ROWS = 24  # channels of the picture
DAYS_FROM_H = 96.0  # a longer history is told in days


@dataclass(frozen=True, slots=True)
class Happening:
    """What one channel said within one stretch of time.

    input, channel: the history, and what was measured or done. hours: (from, to) before the prediction, from > to.
    value: mean of what was measured, in `unit`; None for something that only happened. columns: of the record.
    visits: where the history counts visits, how many there are, and `hours` counts them too.
    """

    input: str
    channel: str
    hours: tuple[float, float]
    value: float | None
    unit: str | None
    columns: tuple[int, ...]
    visits: int = 0

    @property
    def middle_h(self) -> float:
        return (self.hours[0] + self.hours[1]) / 2

    @property
    def said(self) -> str:
        """The stretch in words: "2 to 3 h before", "this visit", "2 visits before"."""
        if self.visits:
            return _visits(round(self.hours[1]), round(self.hours[0]) - 1, self.visits)
        scale, unit = (24.0, "d") if self.hours[0] > DAYS_FROM_H else (1.0, "h")
        return f"{self.hours[1] / scale:.3g} to {self.hours[0] / scale:.3g} {unit} before"


def happenings(record: Array, blocks: Sequence[Block], most: int = MOST) -> list[Happening]:
    """The events of every history of one case, the earliest first; at most `most`, told in steps as long as needed.

    Args: record: (F,) float32, NaN where nothing is known.
    """
    grids = [b for b in blocks if b.kind == "timeline"]
    bins = max((b.shape[1] for b in grids), default=0)
    span, found = 1, _at(record, grids, 1)
    while len(found) > most and span < bins:
        span *= 2
        found = _at(record, grids, span)
    return sorted(found, key=lambda h: -h.middle_h)


def _at(record: Array, blocks: Sequence[Block], span: int) -> list[Happening]:
    found = []
    for block in blocks:
        channels, bins = block.shape
        grid = record[block.start : block.start + block.size].reshape(block.shape)
        known, hours = np.isfinite(grid), float(block.facts["hours"])
        units = block.facts.get("units") or [None] * channels
        steps = [(max(0, end - span), end) for end in range(bins, 0, -span)]  # whole steps count from the prediction
        for c in np.flatnonzero(known.any(axis=1)).tolist():
            for low, high in steps:
                at = low + np.flatnonzero(known[c, low:high])
                if not len(at):
                    continue
                value = None if block.facts["present"][c] else float(f"{grid[c, at].mean(dtype=np.float64):.6g}")
                found.append(
                    Happening(
                        block.name,
                        str(block.facts["names"][c]),
                        ((bins - low) * hours, (bins - high) * hours),
                        value,
                        None if value is None else units[c],
                        tuple((block.start + c * bins + at).tolist()),
                        int(block.facts.get("visits", 0)),
                    )
                )
    return found


def events(
    score: Score,
    record: Array,
    found: Sequence[Happening],
    column: int,
    *,
    permutations: int | None = None,
    seed: int = 0,
) -> tuple[Array, float, float]:
    """What each event moved one logit by.

    Args: found: from `happenings`. column: of the logits.
    Returns: (len(found),) float64, the logit without any event, and |base + sum - logit|.
    """
    few = PERMUTATIONS if len(found) <= MANY else FEW_PERMUTATIONS
    return permutation_shapley(
        lambda rows: np.asarray(score(rows))[:, column],
        record,
        np.full((1, len(record)), np.nan, np.float32),  # what is no event keeps the record's values
        [np.asarray(h.columns) for h in found],
        permutations=permutations or few,
        seed=seed,
    )


def render_times(found: Sequence[Happening], weights: Sequence[float] | Array, *, width: int = 900) -> bytes:
    """Time from left to right up to the prediction, a row a channel: red raised the logit, blue lowered it.

    The channels that moved most have a row each, with their sum beside it; a last row holds the sum of each step of
    time over all channels: what a visit moved.

    Returns: PNG bytes, RGB.
    """
    from PIL import Image, ImageDraw, ImageFont

    weights = np.asarray(weights, float)
    rows = _rows(found, weights)
    left, right, high, top = 230, 70, 22, 30
    image = Image.new("RGB", (width, top + high * (len(rows) + 1) + 46), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=13)
    longest = max((h.hours[0] for h in found), default=1.0)
    room = width - left - right

    def across(hours: float) -> float:
        return left + room * (1 - hours / longest)

    def strip(y: int, name: str, cells: dict[tuple[float, float], float], scale: float, total: float) -> None:
        draw.text((left - 8, y + high // 2), _short(name, 30), fill=INK, font=font, anchor="rm")
        draw.line((left, y + high - 1, left + room, y + high - 1), fill=FAINT)
        for (start, end), weight in cells.items():
            share = min(1.0, abs(weight) / scale)
            colour = tuple(round(240 + (c - 240) * share) for c in (RED if weight > 0 else BLUE))
            draw.rectangle((across(start) + 0.5, y + 3, max(across(end) - 0.5, across(start) + 2), y + high - 4),
                           fill=colour)  # fmt: skip
        draw.text((left + room + 8, y + high // 2), f"{total:+.2f}", fill=INK, font=font, anchor="lm")

    draw.text((left, 8), "raises", fill=RED, font=font)
    draw.text((left + 54, 8), "lowers", fill=BLUE, font=font)
    draw.text((left + room + 8, 8), "sum", fill=INK, font=font)
    scale = float(np.abs(weights).max(initial=0)) or 1.0
    for i, (name, members) in enumerate(rows):
        strip(top + i * high, name, _cells(found, weights, members), scale, float(weights[members].sum()))
    y = top + high * len(rows) + 6
    whole = _cells(found, weights, range(len(found)))
    strip(y, "all together", whole, max([abs(w) for w in whole.values()], default=0) or 1.0, float(weights.sum()))
    in_visits = any(h.visits for h in found)
    unit, per = ("visits", 1.0) if in_visits else ("days", 24.0) if longest > DAYS_FROM_H else ("hours", 1.0)
    for hours in _ticks(longest / per):
        x = across(hours * per)
        draw.line((x, y + high, x, y + high + 5), fill=INK)
        draw.text((x, y + high + 6), f"{hours:g}", fill=INK, font=font, anchor="ma")
    draw.text((left - 8, y + high + 6), f"{unit} before", fill=INK, font=font, anchor="ra")
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def _rows(found: Sequence[Happening], weights: Array) -> list[tuple[str, list[int]]]:
    """(channel, its events), those that moved most first; the rest in one row."""
    several = len({h.input for h in found}) > 1
    members: dict[str, list[int]] = {}
    for i, h in enumerate(found):
        members.setdefault(f"{h.input}: {h.channel}" if several else h.channel, []).append(i)
    ranked = sorted(members.items(), key=lambda row: -float(np.abs(weights[row[1]]).sum()))
    if len(ranked) <= ROWS:
        return ranked
    rest = [i for _, some in ranked[ROWS - 1 :] for i in some]
    return [*ranked[: ROWS - 1], (f"{len(ranked) - ROWS + 1} others", rest)]


def _cells(found: Sequence[Happening], weights: Array, members: Sequence[int]) -> dict[tuple[float, float], float]:
    """Stretch of time -> sum of its weights."""
    sums: dict[tuple[float, float], float] = {}
    for i in members:
        sums[found[i].hours] = sums.get(found[i].hours, 0.0) + float(weights[i])
    return sums


def _ticks(length: float) -> list[float]:
    step = 10.0 ** np.floor(np.log10(max(length, 1e-6) / 4))
    step = next(s for s in (step, 2 * step, 5 * step, 10 * step) if length / s <= 8)
    return [float(i * step) for i in range(int(length / step + 1e-9) + 1)]


def _short(text: str, most: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _visits(first: int, last: int, visits: int) -> str:
    """Visits back from the present one, 0: it itself. The farthest stands for all before it too."""
    if last == 0:
        return "this visit"
    more = " or more" if last == visits - 1 else ""
    told = f"{last}" if first == last else f"{first} to {last}"
    return f"{told}{more} visit{'' if told == '1' and not more else 's'} before"
