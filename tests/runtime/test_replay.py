"""Two runs of one model say the same although their last digits differ; another answer is another one."""

import random

import pytest

from medserve.runtime.replay import SAME, candidates, canonical, difference


def answer(numbers, *, status="answered", words=("a", "b", "c")) -> dict:
    outputs = [{"label": w, "probability": p} for w, p in zip(words, numbers, strict=False)]
    return {"status": status, "outputs": outputs, "prediction_set": ["a"], "decision": {"label": "a"}}


def agrees(then: dict, now: dict) -> bool:
    return any(canonical(then) == seen for seen in candidates(now))


def test_a_difference_in_the_last_digits_is_none():
    """Also where a number lies between two rounded ones: 0.12345 is 0.1234 or 0.1235."""
    rng = random.Random(1)
    edges = [0.12345, 0.99995, 0.5, 1e-7, 123.45, 0.0, 1.0]
    for numbers in [edges[:3], edges[2:5], edges[4:], *([rng.random() for _ in range(3)] for _ in range(300))]:
        then = answer(numbers)
        now = answer([n * (1 + rng.uniform(-SAME, SAME) * 0.9) for n in numbers])
        assert agrees(then, now) and difference(then, now) <= SAME * max(1, *numbers)


@pytest.mark.parametrize(
    "changed",
    [
        answer([0.2, 0.3, 0.501]), answer([0.2, 0.3]), answer([0.2, 0.3, 0.5], status="abstained"),
        answer([0.2, 0.3, 0.5], words=("a", "b", "d")), answer([0.3, 0.2, 0.5]),
    ],
)  # fmt: skip
def test_another_answer_is_another_one(changed):
    then = answer([0.2, 0.3, 0.5])
    assert agrees(then, answer([0.2, 0.3, 0.5])) and difference(then, then) == 0
    assert not agrees(then, changed)
    gap = difference(then, changed)
    assert gap is None or gap > SAME


def test_every_form_of_answer_counts():
    """Values with intervals, curves, marked words, several decided labels."""
    base = {"status": "answered", "outputs": [{"label": "dose", "value": 35.2, "interval": [30.0, 41.0]}],
            "prediction_set": None, "decision": {"labels": ["x"]}, "curve": [[1.0, 0.1]],
            "entities": [{"label": "drug", "start": 0, "end": 4, "probability": 0.9}]}  # fmt: skip
    changes = (
        {"outputs": [{"label": "dose", "value": 35.2, "interval": [30.0, 41.1]}]},
        {"decision": {"labels": ["y"]}}, {"decision": None}, {"curve": [[1.0, 0.2]]}, {"curve": None},
        {"entities": [{"label": "drug", "start": 0, "end": 5, "probability": 0.9}]}, {"entities": []},
    )  # fmt: skip
    for change in changes:
        assert not agrees(base, base | change)
    assert agrees(base, dict(base, id="other", trace="other"))
