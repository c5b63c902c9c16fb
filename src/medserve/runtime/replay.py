"""Whether two answers say the same: words exactly, numbers within what another run of the same model may change.

    kept = canonical(answer)                      # bytes, for a keyed digest where the answer itself is not kept
    any(seen == kept for seen in candidates(again))
    difference(answer, again)                     # the largest one, where both are at hand; None: other words

A sum of floats depends on its order, which a batch or another processor changes in the last digits. `canonical`
therefore keeps four significant digits, and `candidates` gives both neighbours of a number that lies between two.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

SAME = 1e-5  # largest difference of one number, as a share of it where it is above 1
_MOST_CANDIDATES = 4096


def said(answer: Mapping[str, Any]) -> tuple[list[str], list[float]]:
    """Words and numbers of one answer of the wire; what names, dates or explains it is left out."""
    words, numbers = [str(answer["status"])], []
    for output in sorted(answer["outputs"], key=lambda output: output["label"]):  # near equals may change places
        words.append(output["label"])
        numbers += [output[name] for name in ("probability", "value") if output.get(name) is not None]
        numbers += output.get("interval") or ()
    words += ["set", *(answer["prediction_set"] or ())]
    decision = answer["decision"] or {}
    words += ["decision", *([decision["label"]] if decision.get("label") else sorted(decision.get("labels") or ()))]
    if advised := answer.get("effect"):
        words += ["advice", advised["advice"], *(reason["code"] for reason in answer["reasons"])]
    if held := answer.get("safety"):
        words += ["safety", held["status"], *held["withheld"], *(f"{o['label']} {o['status']}" for o in held["labels"])]
    for time, risk in answer.get("curve") or ():
        numbers += [time, risk]
    for entity in answer.get("entities") or ():
        words.append(f"{entity['label']} {entity['start']} {entity['end']}")
        numbers.append(entity["probability"])
    return words, numbers


def canonical(answer: Mapping[str, Any]) -> bytes:
    """The answer as bytes that are equal for equal answers."""
    words, numbers = said(answer)
    return _joined(words, [f"{n:.4g}" for n in numbers])


def candidates(answer: Mapping[str, Any]) -> Iterator[bytes]:
    """What `canonical` may have given for an answer whose numbers differ from these by `SAME` or less."""
    words, numbers = said(answer)
    each = [list(dict.fromkeys(f"{m:.4g}" for m in (n, n - SAME * abs(n), n + SAME * abs(n)))) for n in numbers]
    for texts in itertools.islice(itertools.product(*each), _MOST_CANDIDATES):
        yield _joined(words, texts)


def difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> float | None:
    """The largest difference of two answers' numbers, as a share of those above 1; None where the words differ."""
    words, numbers = said(one)
    other_words, other_numbers = said(other)
    if words != other_words or len(numbers) != len(other_numbers):
        return None
    return max((abs(a - b) / max(1.0, abs(a)) for a, b in zip(numbers, other_numbers, strict=True)), default=0.0)


def _joined(words: Any, numbers: Any) -> bytes:
    return "\0".join(("\0".join(words), "", *numbers)).encode()
