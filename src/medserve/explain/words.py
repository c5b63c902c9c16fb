"""Which words spoke for the answer: each is hidden in turn, and the change of the score is its importance.

    importance = words(score, record, block, column=0)       # (length,), 0 where there is no word
    found      = spots(record, blocks)                       # the words of every text of the case, with their places
    values     = weigh_spots(score, record, found, column=0) # one a spot
    png        = render_text([s.text for s in found], values, label="pneumonia")
    figures    = text_checks(score, records, blocks, column=0, seed=0)

A hidden word becomes the unknown one, so the text keeps its length. The pieces of one word are hidden together; a long
text under a pretrained encoder is hidden by runs of words, since every look at it costs. `score` is the exported
graph: (B, F) records -> (B, K) logits. Whether the importance deserves its name is measured by `text_checks`: words
that it calls important must carry the answer (sufficiency) and be missed by it (comprehensiveness), more than as many
words drawn at random, and denying one must lower the score.

Sources: Li, Monroe and Jurafsky, arXiv 1612.08220 (erasure); DeYoung et al., ACL 2020 (the two measures).
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medserve.data.fields import Block
from medserve.data.text.tokens import SENTENCE_ENDS
from medserve.evaluation.intervals import wilson
from medserve.types import Array

Score = Callable[[Array], Array]

BATCH = 128  # records at a time
SHARE = 0.2  # of the words of a text, called important
DRAWS = 5  # random choices beside every important one
MOST_CASES, MOST_PROBES = 40, 60
FEWEST_CASES, FEWEST_WORDS = 8, 5
MOST_SPOTS = 64  # of a text under a pretrained encoder
UNSHOWN = "·"  # a word that training did not know
DENIALS = {
    "en": ("no", "evidence", "of"),
    "zh": ("未", "见"),
}  # the first word denies, the others stay when it is hidden
_SPECIAL = ("[CLS]", "[SEP]", "[PAD]")
_SIDE_PX, _LINE_PX, _SIZE_PX, _MOST_LINES = 900, 28, 18, 120
_FOR, _AGAINST = (
    (214, 96, 77),
    (67, 147, 195),
)  # Brewer's red and blue, safe for the colour-blind
_FONTS = ("NotoSansCJK-Regular.ttc", "NotoSansSC-Regular.otf", "wqy-microhei.ttc", "msyh.ttc", "PingFang.ttc")


@dataclass(frozen=True, slots=True)
class Spot:
    """What is hidden together: a word, or a run of words. words: the columns of the record that each of them takes."""

    block: Block
    text: str
    words: tuple[Array, ...]

    @property
    def places(self) -> Array:
        return np.concatenate(self.words)


def spots(record: Array, blocks: Sequence[Block]) -> list[Spot]:
    """The words of every text of a case, in order. record: (F,)."""
    return [spot for block in blocks if block.kind == "text" for spot in _spots(record, block)]


def _spots(record: Array, block: Block) -> list[Spot]:
    first, known = _first(block), list(block.facts.get("words") or [])
    pieces = block.facts.get("tokenizer") == "wordpiece"
    found: list[tuple[str, list[int]]] = []
    for place in np.flatnonzero(np.isfinite(_ids(record, block))):
        at = int(_ids(record, block)[place])
        word = str(known[at - first]) if first <= at < len(known) + first else UNSHOWN
        if pieces and word in _SPECIAL:
            continue
        if pieces and word.startswith("##") and found:
            found[-1] = (found[-1][0] + word[2:], [*found[-1][1], block.start + int(place)])
        else:
            found.append((UNSHOWN if pieces and word == "[UNK]" else word, [block.start + int(place)]))
    run = -(-len(found) // MOST_SPOTS) if pieces and len(found) > MOST_SPOTS else 1
    made = []
    for i in range(0, len(found), run):
        some = found[i : i + run]
        made.append(Spot(block, " ".join(text for text, _ in some), tuple(np.array(where) for _, where in some)))
    return made


def words(score: Score, record: Array, block: Block, column: int = 0) -> Array:
    """
    Args:
        score: (B, F) float32 -> (B, K).
        record: (F,) of one case. block: of the text within it.
        column: of the score.

    Returns: (length,) float32: score of the text minus score without the word; above 0 the word speaks for the answer.
    """
    return _spread(_spots(record, block), score, record, block, column)


def sentences(score: Score, record: Array, block: Block, column: int = 0) -> Array:
    """Like `words`, a whole sentence hidden at a time: every word of it carries the sentence's importance.

    Needs the marks that end a sentence in the vocabulary; without them the text is one sentence.
    """
    groups: list[list[Array]] = [[]]
    for spot in _spots(record, block):
        groups[-1].extend(spot.words)
        if set(spot.text.split()) & SENTENCE_ENDS:
            groups.append([])
    return _spread([Spot(block, "", tuple(g)) for g in groups if g], score, record, block, column)


def _spread(found: list[Spot], score: Score, record: Array, block: Block, column: int) -> Array:
    importance = np.zeros(block.size, np.float32)
    for spot, value in zip(found, weigh_spots(score, record, found, column), strict=True):
        importance[spot.places - block.start] = value
    return importance


def weigh_spots(score: Score, record: Array, found: Sequence[Spot], column: int = 0) -> Array:
    """(S,) what the score loses when each spot is hidden."""
    if not found:
        return np.zeros(0, np.float32)
    changed = np.repeat(np.asarray(record, np.float32)[None], len(found) + 1, 0)
    for row, spot in zip(changed[1:], found, strict=True):
        row[spot.places] = _unknown(spot.block)
    given = _scores(score, changed, column)
    return (given[0] - given[1:]).astype(np.float32)


def _scores(score: Score, records: Array, column: int) -> Array:
    parts = [np.asarray(score(records[i : i + BATCH]), float) for i in range(0, len(records), BATCH)]
    made = np.concatenate(parts)
    return made[:, column] if made.ndim > 1 else made


def _ids(record: Array, block: Block) -> Array:
    return record[block.start : block.start + block.size]


def _first(block: Block) -> int:
    """The id of the first word in the block's list."""
    return 0 if block.facts.get("tokenizer") == "wordpiece" else 1


def _unknown(block: Block) -> float:
    return float(block.facts.get("unknown", 0))


def render_text(tokens: Sequence[str], importance: Array, label: str) -> bytes:
    """The text with its words coloured: red speaks for `label`, blue against it, scaled to the strongest word.

    Chinese needs a font that has its characters; where none of the usual ones is installed, boxes stand in their place.

    Returns: PNG bytes, RGB, at most `_MOST_LINES` lines.
    """
    from PIL import Image, ImageDraw

    font = _font(any(c >= "\u3000" for token in tokens for c in token))
    top = max(float(np.abs(importance).max(initial=0)), 1e-12)
    lines: list[list[tuple[str, float, float]]] = [[]]
    at = 0.0
    for token, value in zip(tokens, importance, strict=False):
        shown = "".join(c for c in token if c.isprintable())[:60]
        width = float(font.getlength(shown))
        if at + width > _SIDE_PX - 24 and lines[-1]:
            if len(lines) == _MOST_LINES:
                break
            lines.append([])
            at = 0.0
        lines[-1].append((shown, at, float(value)))
        at += width + 7
    image = Image.new("RGB", (_SIDE_PX, (len(lines) + 1) * _LINE_PX + 24), (255, 255, 255))
    draw = ImageDraw.Draw(image)
    draw.text((12, 10), f"for (red) and against (blue): {label[:80]}", fill=(90, 90, 90), font=font)
    for n, line in enumerate(lines, 1):
        y = 12 + n * _LINE_PX
        for shown, x, value in line:
            strength = min(abs(value) / top, 1.0)
            colour = tuple(round(255 + (c - 255) * strength) for c in (_FOR if value > 0 else _AGAINST))
            width = font.getlength(shown)
            draw.rectangle((10 + x, y - 1, 14 + x + width, y + _LINE_PX - 6), fill=colour)
            draw.text((12 + x, y), shown, fill=(0, 0, 0), font=font)
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def _font(wide: bool) -> Any:
    from PIL import ImageFont

    for name in _FONTS if wide else ():
        try:
            return ImageFont.truetype(name, _SIZE_PX)
        except OSError:
            continue
    return ImageFont.load_default(_SIZE_PX)


def text_checks(
    score: Score, records: Array, blocks: Sequence[Block], column: int = 0, seed: int = 0, most: int = MOST_CASES
) -> dict[str, Any]:
    """Does the importance say what the model goes by?

    Args:
        records: (N, F) of held-out cases; up to `most` with at least 5 words are used.

    Returns: JSON figures, each with a `level`.
        comprehensiveness: mean fall of the score when the most important fifth of the words is hidden; `random`: when
            as many others are. sufficiency: the same for hiding all the rest (small is good). Each with `p`,
            one-sided, Wilcoxon's signed ranks over cases; PASS below .01.
        negation: for words that speak for the answer, "no evidence of WORD" beside "evidence of WORD" in the same
            text: the share of probes whose score falls, its lower 95 % bound, and the mean change; or why it could not
            be asked. CAUTION where denying does not lower the score in more than half, or could not be asked.
    """
    random = np.random.default_rng(seed)
    rows = [row for row in records if sum(len(s.words) for s in spots(row, blocks)) >= FEWEST_WORDS]
    if len(rows) > most:
        rows = [rows[i] for i in np.sort(random.permutation(len(rows))[:most])]
    if len(rows) < FEWEST_CASES:
        why = f"fewer than {FEWEST_CASES} held-out texts of {FEWEST_WORDS} words or more"
        return {"text checks": {"why": f"not asked: {why}", "level": "CAUTION"}}
    found = [spots(row, blocks) for row in rows]
    values = [weigh_spots(score, row, some, column) for row, some in zip(rows, found, strict=True)]
    figures: dict[str, Any] = _erasure(score, rows, found, values, column, random)
    for name, worst in (("comprehensiveness", "FAIL"), ("sufficiency", "CAUTION")):
        told = figures[name]
        better = (told["important"] > told["random"]) == (name == "comprehensiveness")
        told["level"] = "PASS" if told["p"] < 0.01 else "CAUTION" if better else worst
    asked = negation(score, rows, found, values, column)
    level = "PASS" if asked.get("low", 0.0) > 0.5 else "CAUTION"
    return figures | {"negation": asked | {"level": level}}


def _erasure(
    score: Score, rows: list[Array], found: list[list[Spot]], values: list[Array], column: int,
    random: np.random.Generator,
) -> dict[str, Any]:  # fmt: skip
    """The score's fall without the important words, and with them alone; beside `DRAWS` random choices a case."""
    missed, alone = [], []
    for row, some, importance in zip(rows, found, values, strict=True):
        count = max(1, round(SHARE * len(some)))
        best = np.argsort(-importance, kind="stable")[:count]
        choices = [best, *(random.choice(len(some), count, replace=False) for _ in range(DRAWS))]
        changed = np.repeat(row[None], 1 + 2 * len(choices), 0)
        for k, chosen in enumerate(choices):
            for i, spot in enumerate(some):
                changed[1 + 2 * k if i in chosen else 2 + 2 * k, spot.places] = _unknown(spot.block)
        given = _scores(score, changed, column)
        fall = given[0] - given[1:]
        missed.append((fall[0], fall[2::2].mean()))
        alone.append((fall[1], fall[3::2].mean()))
    return {"comprehensiveness": _beside(missed, 1) | {"n": len(rows)}, "sufficiency": _beside(alone, -1)}


def _beside(pairs: list[tuple[float, float]], sign: int) -> dict[str, float]:
    from scipy.stats import wilcoxon

    ours, theirs = np.array(pairs).T
    gap = sign * (ours - theirs)
    p = float(wilcoxon(gap, alternative="greater").pvalue) if np.any(gap != 0) else 1.0
    return {"important": float(ours.mean()), "random": float(theirs.mean()), "p": p}


def negation(
    score: Score, rows: Sequence[Array], found: Sequence[list[Spot]], values: Sequence[Array], column: int = 0
) -> dict[str, Any]:
    """Writes "no evidence of" before the word that speaks most for the answer; a copy has an unknown word for "no".

    A model that goes by the finding must score the denial lower. Texts in which no word raises the score are skipped.
    """
    pairs: list[Array] = []
    absent: set[str] = set()
    for row, some, importance in zip(rows, found, values, strict=True):
        if not len(importance) or importance.max() <= 0 or len(pairs) >= 2 * MOST_PROBES:
            continue
        spot = some[int(importance.argmax())]
        denial, lacking = _denial(spot.block)
        absent |= set(lacking)
        if denial is None or spot.text in DENIALS[_language(spot.block)]:
            continue
        at = _sharpest(score, row, spot, column) - spot.block.start
        stated = [_unknown(spot.block), *denial[1:]]  # as long as the denial, so that nothing else moves
        for added in (stated, denial):
            pairs.append(_inserted(row, spot.block, at, added))
    if absent:
        return {"probes": 0, "why": f"not asked: the vocabulary lacks {', '.join(sorted(absent))}"}
    if len(pairs) < 2 * FEWEST_CASES:
        why = f"fewer than {FEWEST_CASES} texts with a word that speaks for the answer"
        return {"probes": len(pairs) // 2, "why": f"not asked: {why}"}
    given = _scores(score, np.array(pairs), column).reshape(-1, 2)
    lower = given[:, 1] < given[:, 0]
    return {
        "probes": len(lower),
        "lowered": float(lower.mean()),
        "low": wilson(float(lower.mean()), len(lower))[0],
        "change": float((given[:, 1] - given[:, 0]).mean()),
    }


def _language(block: Block) -> str:
    return "zh" if block.facts.get("language") == "zh" else "en"


def _denial(block: Block) -> tuple[list[float] | None, list[str]]:
    """The ids of the denial, and which of its words the block does not know."""
    wanted = DENIALS[_language(block)]
    known = {word: float(i) for i, word in enumerate(block.facts.get("words") or [], _first(block)) if word in wanted}
    lacking = [word for word in wanted if word not in known]
    return (None if lacking else [known[word] for word in wanted]), lacking


def _sharpest(score: Score, row: Array, spot: Spot, column: int) -> int:
    """Of a run of words, where the one begins that speaks most for the answer."""
    if len(spot.words) == 1:
        return int(spot.words[0][0])
    each = weigh_spots(score, row, [Spot(spot.block, "", (places,)) for places in spot.words], column)
    return int(spot.words[int(each.argmax())][0])


def _inserted(row: Array, block: Block, at: int, added: Sequence[float]) -> Array:
    """The text with some words more at a place; what no longer fits falls off its end, its closing piece excepted."""
    text = _ids(row, block)
    last = int(np.flatnonzero(np.isfinite(text))[-1])
    new = np.concatenate([text[:at], added, text[at:]])[: len(text)]
    if block.facts.get("tokenizer") == "wordpiece" and last + len(added) >= len(text):
        new[-1] = text[last]
    changed = row.copy()
    changed[block.start : block.start + len(text)] = new
    return changed
