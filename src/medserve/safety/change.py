"""What stands in the way: the facts without which a candidate would come back, tried out on the rules themselves.

    found = changes(review, candidates, again)      # [Change("atc|M01AE01", facts=[...], then="offered")]

Each rule that blocks is met by a fact; so all of their facts have to go, and no smaller set does. Behind one that is
taken away another may meet the same rule, or an earlier candidate may come back and stand in the way; so it is asked
again until nothing new is found.
"""

from collections.abc import Callable, Sequence

from medserve.safety.patient import Candidate
from medserve.safety.review import Change, Fact, Item, SafetyReview

MOST_ROUNDS = 8
Again = Callable[[frozenset[str], list[Candidate]], list[Item]]


def changes(review: SafetyReview, asked: Sequence[Candidate], again: Again) -> list[Change]:
    """
    Args:
        again: judges once more, with the keys of facts that are taken as if they were not so.
    """
    return [_of(place, item, asked, again) for place, item in enumerate(review.items) if not item.is_offered]


def _of(place: int, item: Item, asked: Sequence[Candidate], again: Again) -> Change:
    facts: dict[str, Fact] = {}
    for _ in range(MOST_ROUNDS):
        new = {finding.fact.key: finding.fact for finding in item.blocks if finding.fact.key not in facts}
        if not new:
            break
        facts |= new
        item = again(frozenset(facts), list(asked))[place]
    return Change(item.drug, list(facts.values()), item.status, item.missing)
