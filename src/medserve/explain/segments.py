"""Which stretch of which lead a waveform's answer rests on: hide one at a time and see how far the logit falls.

    heat = segments(lambda rows: model.score(rows).logits, record, block, column=0)      # (leads, windows)
    png  = render_strip(record_values, hz, heat, leads=["I", "II"])

A hidden stretch is replaced by the straight line between what stands before and behind it: a constant would be a step,
which is an event of its own. Two window widths are used, half overlapping, so that a narrow spike and a whole wave are
both found. It needs nothing but scores: two passes a window and lead.
"""

import io
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from medserve.types import Array

Score = Callable[[Array], Array]  # (B, F) float32 records -> (B, K) logits
WINDOWS = 32  # fewest of a strip; as many where its rate is unknown
WINDOW_S = 0.08  # about a QRS complex
MOST_WINDOWS = 256
WIDTHS = (1, 3)  # of the hidden stretch, in windows
EDGE = 3  # samples on either side that the ends of the line are the mean of


class Place(Protocol):
    """What of `medserve.data.fields.Block` is needed."""

    @property
    def start(self) -> int: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def facts(self) -> dict: ...  # type: ignore[type-arg]


def windows(samples: int, hz: float) -> list[tuple[int, int]]:
    """[(first, after last)] that cover the strip: about 80 ms each, or 1/32 of the strip where that is shorter."""
    count = WINDOWS
    if hz:
        count = int(np.clip(round(samples / hz / WINDOW_S), 1, MOST_WINDOWS))
        count = max(count, min(WINDOWS, samples))
    count = min(count, samples)
    edges = np.linspace(0, samples, count + 1).round().astype(int)
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))


def segments(
    score: Score,
    record: Array,
    block: Place,
    column: int,
    *,
    batch: int = 128,
    widths: Sequence[int] = WIDTHS,
    together: bool = False,
) -> Array:
    """The fall of one logit when a stretch is hidden.

    Args:
        score: the model.
        record: (F,) float32, the case; NaN where nothing is known.
        block: the waveform's place in it, shape (leads, samples).
        column: the logit to explain.
        widths: of the hidden stretches, in windows.
        together: hide the stretch in all leads at once, where each lead alone can be spared.

    Returns: (leads, windows) float32, in logits; positive: the stretch raised the logit. `windows` says where they lie.
    """
    leads, samples = block.shape
    cut = windows(samples, float(block.facts.get("hz") or 0))
    strip = np.array(record[block.start : block.start + leads * samples], np.float32).reshape(leads, samples)
    groups = [list(range(leads))] if together else [[lead] for lead in range(leads)]
    total = np.zeros((leads, len(cut)), np.float64)
    jobs = [
        (group, max(0, at), min(len(cut), at + width), width)
        for group in range(len(groups))
        for width in widths
        for at in range(1 - width, len(cut))
    ]
    whole = float(np.asarray(score(record[None].astype(np.float32)))[0, column])
    for start in range(0, len(jobs), batch):
        some = jobs[start : start + batch]
        rows = np.repeat(record[None].astype(np.float32), len(some), axis=0)
        for row, (group, first, last, _) in zip(rows, some, strict=True):
            view = row[block.start : block.start + leads * samples].reshape(leads, samples)
            for lead in groups[group]:
                view[lead] = bridged(strip[lead], cut[first][0], cut[last - 1][1])
        falls = whole - np.asarray(score(rows), np.float64)[:, column]
        for fall, (group, first, last, width) in zip(falls, some, strict=True):
            # every window lies in `width` stretches of this width: its share is their mean
            for lead in groups[group]:
                total[lead, first:last] += fall / width
    heat = total / len(widths)
    heat[np.stack([np.isnan(strip[:, low:high]).all(1) for low, high in cut], 1)] = 0
    return heat.astype(np.float32)


def bridged(strip: Array, low: int, high: int) -> Array:
    """(samples,) with [low, high) replaced by a line between the means of what lies on either side; gaps stay gaps."""
    out = np.array(strip, np.float32)
    before, behind = strip[max(0, low - EDGE) : low], strip[high : high + EDGE]
    before, behind = before[np.isfinite(before)], behind[np.isfinite(behind)]
    inside = strip[low:high]
    if not len(before) and not len(behind):
        known = inside[np.isfinite(inside)]
        left = right = float(known.mean()) if len(known) else 0.0
    else:
        left = float(before.mean()) if len(before) else float(behind.mean())
        right = float(behind.mean()) if len(behind) else left
    line = np.linspace(left, right, high - low + 2, dtype=np.float32)[1:-1]
    out[low:high] = np.where(np.isnan(inside), np.nan, line)
    return out


def render_strip(
    values: Array,
    hz: float,
    importance: Array,
    *,
    leads: Sequence[str] = (),
    unit: str = "",
    width: int = 1200,
    row: int = 110,
) -> bytes:
    """The strip as a person reads it, a row a lead, with the evidence *for* the answer shaded behind the trace.

    Args:
        values: (leads, samples), NaN where nothing was recorded. hz: 0 when unknown.
        importance: (leads, windows); shades are shares of the largest value. At or below zero stays white.
        width, row: pixels of the picture's width, and of a lead's height.

    Returns: PNG bytes, RGB.
    """
    from PIL import Image, ImageDraw, ImageFont

    count, samples = values.shape
    margin, foot = 60, 24
    image = Image.new("RGB", (width, row * count + foot), "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(13)
    cut = np.linspace(0, samples, importance.shape[1] + 1)
    inner = width - margin - 8
    top = float(np.nanmax(importance, initial=0.0))

    def across(at: float) -> float:
        return margin + inner * at / max(1, samples)

    for lead in range(count):
        y = row * lead
        for window, weight in enumerate(importance[lead]):
            share = min(1.0, max(0.0, float(weight) / top)) if top > 0 else 0.0
            if share > 0.02:
                shade = (255, round(255 - 110 * share), round(255 - 215 * share))  # white to orange
                draw.rectangle((across(cut[window]), y + 4, across(cut[window + 1]), y + row - 4), fill=shade)
        name = leads[lead] if lead < len(leads) else str(lead + 1)
        draw.text((6, y + row // 2 - 8), name[:8], fill="black", font=font)
        draw.line((margin, y + row - 1, width - 8, y + row - 1), fill=(225, 225, 225))
        _trace(draw, values[lead], across, y + 8, row - 16, 3 * inner)
    for at, said in _ticks(samples, hz):
        draw.line((across(at), row * count, across(at), row * count + 5), fill="black")
        draw.text((across(at) + 2, row * count + 5), said, fill="black", font=font)
    if unit:
        draw.text((6, row * count + 5), unit[:8], fill="black", font=font)
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def _trace(draw, values: Array, across: Callable[[float], float], y: float, height: float, most: int) -> None:  # type: ignore[no-untyped-def]
    """One lead on its own scale; long strips as the range within each column, so that no spike is lost."""
    known = np.isfinite(values)
    if not known.any():
        return
    low, high = float(values[known].min()), float(values[known].max())
    scale = height / (high - low) if high > low else 0.0
    step = max(1, -(-len(values) // most))
    points: list[tuple[float, float]] = []
    for start in range(0, len(values), step):
        part = values[start : start + step]
        part = part[np.isfinite(part)]
        if not len(part):
            if len(points) > 1:
                draw.line(points, fill=(20, 40, 90), width=1)
            points = []
            continue
        for value in {float(part.min()), float(part.max())}:
            points.append((across(start + step / 2 - 0.5), y + height - (value - low) * scale))
    if len(points) > 1:
        draw.line(points, fill=(20, 40, 90), width=1)


def _ticks(samples: int, hz: float) -> list[tuple[float, str]]:
    length = samples / hz if hz else float(samples)
    step = 10.0 ** np.floor(np.log10(max(length, 1e-6) / 4))
    step = next(s for s in (step, 2 * step, 5 * step, 10 * step) if length / s <= 10)
    unit = "s" if hz else "samples"
    return [
        (i * step * (hz or 1), f"{i * step:g} {unit}" if i == 0 else f"{i * step:g}")
        for i in range(int(length / step) + 1)
    ]
