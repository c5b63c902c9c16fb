"""Which words spoke for the answer: each is hidden in turn, and the change of the score is its importance.

    importance = words(score, record, block, column=0)       # (length,), 0 where there is no word
    weighted   = weigh(field.shown(note), importance)        # [("no", -0.8), ("pneumonia", 1.9), ...]: for a page
    png        = render_text(field.shown(note), importance, label="pneumonia")
    figures    = text_checks(score, records, block, column=0, seed=0)

A hidden word becomes the unknown one, so the text keeps its length. `score` is the exported graph: (B, F) records ->
(B, K) logits. Whether the importance deserves its name is measured by `text_checks`: words that it calls important must
carry the answer (sufficiency) and be missed by it (comprehensiveness), more than as many words drawn at random.

Sources: Li, Monroe and Jurafsky, arXiv 1612.08220 (erasure); DeYoung et al., ACL 2020 (the two measures).
"""

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from medserve.data.fields import Block
from medserve.data.text.tokens import SENTENCE_ENDS
from medserve.types import Array

Score = Callable[[Array], Array]

BATCH = 128  # records at a time
SHARE = 0.2  # of the words of a text, called important
DRAWS = 5  # random choices beside every important one
MOST_CASES, MOST_PROBES = 40, 60
DENIAL = ("no", "evidence", "of")
_SIDE_PX, _LINE_PX, _SIZE_PX, _MOST_LINES = 900, 28, 18, 120
_FOR, _AGAINST = (
    (214, 96, 77),
    (67, 147, 195),
)  # Brewer's red and blue, safe for the colour-blind
_FONTS = ("NotoSansCJK-Regular.ttc", "NotoSansSC-Regular.otf", "wqy-microhei.ttc", "msyh.ttc", "PingFang.ttc")


def words(score: Score, record: Array, block: Block, column: int = 0) -> Array:
    """
    Args:
        score: (B, F) float32 -> (B, K).
        record: (F,) of one case. block: of the text within it.
        column: of the score.

    Returns: (length,) float32: score of the text minus score without the word; above 0 the word speaks for the answer.
    """
    return _hide(score, record, block, column, [[int(i)] for i in _places(record, block)])


def sentences(score: Score, record: Array, block: Block, column: int = 0) -> Array:
    """Like `words`, a whole sentence hidden at a time: every word of it carries the sentence's importance.

    Needs the marks that end a sentence in the vocabulary; without them the text is one sentence.
    """
    ends = {i for i, word in enumerate(block.facts.get("words") or [], 1) if word in SENTENCE_ENDS}
    groups: list[list[int]] = [[]]
    for i in _places(record, block):
        groups[-1].append(int(i))
        if int(_ids(record, block)[i]) in ends:
            groups.append([])
    return _hide(score, record, block, column, [g for g in groups if g])


def _hide(score: Score, record: Array, block: Block, column: int, groups: list[list[int]]) -> Array:
    importance = np.zeros(block.size, np.float32)
    if not groups:
        return importance
    changed = np.repeat(np.asarray(record, np.float32)[None], len(groups) + 1, 0)
    for row, group in zip(changed[1:], groups, strict=True):
        row[block.start + np.array(group)] = _unknown(block)
    given = _scores(score, changed, column)
    for group, value in zip(groups, given[1:], strict=True):
        importance[group] = given[0] - value
    return importance


def _scores(score: Score, records: Array, column: int) -> Array:
    parts = [np.asarray(score(records[i : i + BATCH]), float) for i in range(0, len(records), BATCH)]
    made = np.concatenate(parts)
    return made[:, column] if made.ndim > 1 else made


def _ids(record: Array, block: Block) -> Array:
    return record[block.start : block.start + block.size]


def _places(record: Array, block: Block) -> Array:
    return np.flatnonzero(np.isfinite(_ids(record, block)))


def _unknown(block: Block) -> float:
    return float(block.facts.get("unknown", 0))


def weigh(tokens: Sequence[str], importance: Array) -> list[tuple[str, float]]:
    """(token, importance) pairs as plain data; a page writes the token as text, never as markup."""
    return [(token, round(float(value), 5)) for token, value in zip(tokens, importance, strict=False)]


def render_text(tokens: Sequence[str], importance: Array, label: str) -> bytes:
    """The text with its words coloured: red speaks for `label`, blue against it, scaled to the strongest word.

    Chinese needs a font that has its characters; where none of the usual ones is installed, use `weigh` and a page.

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


def text_checks(score: Score, records: Array, block: Block, column: int = 0, seed: int = 0) -> dict[str, Any]:
    """Does the importance say what the model goes by?

    Args:
        records: (N, F) of held-out cases; up to `MOST_CASES` with at least 5 words are used.

    Returns: JSON figures.
        comprehensiveness: mean fall of the score when the most important fifth of the words is hidden; `random`: when
            as many others are. sufficiency: the same for hiding all the rest (small is good). Each with `p`,
            one-sided, Wilcoxon's signed ranks over cases.
        negation: for words that speak for the answer, "no evidence of WORD" beside "evidence of WORD" in the same
            text: the share of probes whose score falls, its lower 95 % bound, and the mean change; or why it could not
            be asked.
        passed: important words are missed, and suffice, more than random ones (p < .01), and denying lowers the score.
    """
    random = np.random.default_rng(seed)
    found = [row for row in records if len(_places(row, block)) >= 5]
    if len(found) > MOST_CASES:
        found = [found[i] for i in np.sort(random.permutation(len(found))[:MOST_CASES])]
    if len(found) < 8:
        return {"cases": len(found), "passed": False, "why": "fewer than 8 texts of 5 words or more"}
    importances = [words(score, row, block, column) for row in found]
    figures: dict[str, Any] = {"cases": len(found)}
    figures |= _erasure(score, found, importances, block, column, random)
    figures["negation"] = negation(score, found, importances, block, column)
    figures["passed"] = bool(
        figures["comprehensiveness"]["p"] < 0.01
        and figures["sufficiency"]["p"] < 0.01
        and figures["negation"].get("low", 1.0) > 0.5
    )
    return figures


def _erasure(
    score: Score, found: list[Array], importances: list[Array], block: Block, column: int, random: np.random.Generator
) -> dict[str, Any]:
    """The score's fall without the important words, and with them alone; beside `DRAWS` random choices a case."""
    missed, alone = [], []
    for row, importance in zip(found, importances, strict=True):
        places = _places(row, block)
        count = max(1, round(SHARE * len(places)))
        best = places[np.argsort(-importance[places], kind="stable")[:count]]
        choices = [best, *(random.choice(places, count, replace=False) for _ in range(DRAWS))]
        changed = np.repeat(row[None], 1 + 2 * len(choices), 0)
        for k, chosen in enumerate(choices):
            changed[1 + 2 * k, block.start + chosen] = _unknown(block)
            changed[2 + 2 * k, block.start + np.setdiff1d(places, chosen)] = _unknown(block)
        given = _scores(score, changed, column)
        fall = given[0] - given[1:]
        missed.append((fall[0], fall[2::2].mean()))
        alone.append((fall[1], fall[3::2].mean()))
    return {"comprehensiveness": _beside(missed, 1), "sufficiency": _beside(alone, -1)}


def _beside(pairs: list[tuple[float, float]], sign: int) -> dict[str, float]:
    from scipy.stats import wilcoxon

    ours, theirs = np.array(pairs).T
    gap = sign * (ours - theirs)
    p = float(wilcoxon(gap, alternative="greater").pvalue) if np.any(gap != 0) else 1.0
    return {"important": float(ours.mean()), "random": float(theirs.mean()), "p": p}


def negation(
    score: Score, found: Sequence[Array], importances: Sequence[Array], block: Block, column: int = 0
) -> dict[str, Any]:
    """Writes "no evidence of" before the word that speaks most for the answer; a copy has an unknown word for "no".

    A model that goes by the finding must score the denial lower. Texts in which no word raises the score are skipped.
    """
    ids = {word: float(i) for i, word in enumerate(block.facts.get("words") or [], 1)}
    absent = [word for word in DENIAL if word not in ids]
    if absent:
        return {"probes": 0, "why": f"not in the vocabulary: {', '.join(absent)}"}
    denied = [ids[word] for word in DENIAL]
    stated = [_unknown(block), *denied[1:]]  # as long as the denial, so that nothing else moves
    pairs: list[Array] = []
    for row, importance in zip(found, importances, strict=True):
        at = int(importance.argmax())
        text = _ids(row, block)
        spoken = text[: at + 1].tolist()
        if importance[at] <= 0 or spoken[-1] in denied or len(pairs) >= 2 * MOST_PROBES:
            continue
        for added in (stated, denied):
            changed, room = row.copy(), len(text)
            new = [*spoken[:-1], *added, spoken[-1], *text[at + 1 :].tolist()][:room]
            changed[block.start : block.start + room] = new
            pairs.append(changed)
    if len(pairs) < 16:
        return {"probes": len(pairs) // 2, "why": "fewer than 8 texts with a word that speaks for the answer"}
    given = _scores(score, np.array(pairs), column).reshape(-1, 2)
    lower = given[:, 1] < given[:, 0]
    return {
        "probes": len(lower),
        "lowered": float(lower.mean()),
        "low": _least(int(lower.sum()), len(lower)),
        "change": float((given[:, 1] - given[:, 0]).mean()),
    }


def _least(hits: int, of: int) -> float:
    """Lower bound of Wilson's 95 % interval."""
    z, share = 1.96, hits / of
    centre, spread = share + z * z / (2 * of), z * np.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return float((centre - spread) / (1 + z * z / of))
