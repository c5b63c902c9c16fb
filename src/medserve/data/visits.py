"""A patient's events as visits, and which of them are medicines that were prescribed.

    found = visits_of(events, gap_h=24.0)          # [Visit(start=..., at=..., medicines={"atc|C09AA05", ...}), ...]
    earlier, today = parted(events, until, gap_h)  # what stood before the visit of `until`, and what of it may be seen

Events less than `gap_h` hours apart are one visit: a stay in hospital is one, two dates of a clinic are two. The moment
of prediction is a visit's first prescription. What is seen of that visit is what was known by then, its diagnoses and
measurements; none of its medicines, whenever they were written down.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from medserve.types import Event

GAP_H = 24.0
SYSTEMS = ("atc", "rxnorm", "ndc")  # whose codes are medicines
# What the readers of FHIR and OMOP say of a medicine's event; OMOP says it of vaccines too.
_GIVEN = frozenset({"request", "statement", "administration", "exposure"})
_VACCINES = "cvx"


@dataclass(frozen=True, slots=True)
class Visit:
    """start: hours of its first event. at: of its first prescription. medicines: codes as the source writes them."""

    start: float
    at: float
    medicines: frozenset[str]


def is_medicine(event: Event) -> bool:
    """By the system of its code, or by the resource or table that it came from."""
    system = event.code.partition("|")[0]
    return system in SYSTEMS or (event.text in _GIVEN and system != _VACCINES)


def visits_of(events: Sequence[Event], gap_h: float) -> list[Visit]:
    """The visits at which anything was prescribed, the earliest first. events: by time."""
    found, begin = [], 0
    for end in range(1, len(events) + 1):
        if end < len(events) and events[end].time - events[end - 1].time < gap_h:
            continue
        prescribed = [event for event in events[begin:end] if is_medicine(event)]
        if prescribed:
            codes = frozenset(event.code for event in prescribed)
            found.append(Visit(events[begin].time, prescribed[0].time, codes))
        begin = end
    return found


def parted(events: Sequence[Event], until: float, gap_h: float) -> tuple[list[Event], list[Event]]:
    """Events by time, none after `until` -> those of earlier visits, and those of the present one without medicines.

    The present visit is made of what stands less than `gap_h` hours apart, back from `until`.
    """
    begin, after = len(events), until
    while begin and after - events[begin - 1].time < gap_h:
        begin -= 1
        after = events[begin].time
    return list(events[:begin]), [event for event in events[begin:] if not is_medicine(event)]


def numbered(events: Sequence[Event], gap_h: float) -> list[int]:
    """Of each event its visit, counted from 0. events: by time."""
    out: list[int] = []
    for at, event in enumerate(events):
        apart = bool(at) and event.time - events[at - 1].time >= gap_h
        out.append(out[-1] + apart if out else 0)
    return out
