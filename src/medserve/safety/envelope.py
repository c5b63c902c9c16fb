"""The safety envelope: no model's advice passes but through here, and no model can widen it.

    envelope = Envelope.open([STARTER, Path("rules/hospital")])
    review = envelope.review(patient, [Candidate("atc|B01AA03")])
    review.offered, review.items[0].blocks

A candidate is offered where every rule about it was judged and none forbids it. What cannot be judged is not offered.
Interactions and duplicates are looked for among the medicines that are taken now and, where the candidates are one set,
the candidates before it that are offered. If the rules cannot be read or asked, everything is refused.
"""

import datetime
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from medserve.errors import MedServeError
from medserve.safety.change import changes
from medserve.safety.facts import Facts, Taken
from medserve.safety.judge import Judgement
from medserve.safety.knowledge import Knowledge, Known
from medserve.safety.patient import Candidate, Patient
from medserve.safety.review import Fact, Item, Missing, SafetyReview, SourceNote, Status
from medserve.safety.source import OLD_DAYS, STARTER, Action, Source, check_severity, unavailable


class Envelope:
    """Rules, ready to be asked; read only, so safe to use from several threads.

    Args:
        severity: what the policy of this service does about each, above what the sources say. Nothing that is asked
            can change it.
    """

    def __init__(self, knowledge: Knowledge, severity: Mapping[str, Action]) -> None:
        check_severity(dict(severity), "the policy")
        self.knowledge = knowledge
        self._stopped = ""
        self._counts = {source.header.id: sum(1 for _ in source.rules) for source in knowledge.sources}
        self._actions = {source.header.id: {**source.header.severity, **severity} for source in knowledge.sources}
        parts = [[source.header.id, source.digest, self._actions[source.header.id]] for source in knowledge.sources]
        self.digest = f"sha256:{hashlib.sha256(msgspec.json.encode(parts, order='deterministic')).hexdigest()}"
        named = " and ".join(f"{one.header.id}, version {one.header.version}" for one in knowledge.sources)
        looked_for = "contraindication, interaction, duplicate or dose limit"
        self._none = f"No {looked_for}: none found in {named}."
        self._none_further = f"No further {looked_for}: none found in {named}."

    @classmethod
    def open(cls, folders: Sequence[Path] = (STARTER,), *, severity: Mapping[str, Action] | None = None) -> "Envelope":
        """
        Raises: BadData "rules-...", naming the file and the line; Unavailable "safety-unavailable".
        """
        if not folders:
            raise unavailable("no source is named.")
        return cls(Knowledge([Source.open(folder) for folder in folders]), severity or {})

    def stop(self, why: str) -> None:
        """From now on everything is refused."""
        self._stopped = why or "it was stopped."

    def notes(self, today: datetime.date) -> list[SourceNote]:
        """The sources."""
        if self._stopped:
            raise unavailable(self._stopped)
        return [
            SourceNote(
                one.header.id, one.header.title, one.header.version, one.header.date, one.header.licence, one.digest,
                self._counts[one.header.id], one.header.coverage, (today - one.header.date).days > OLD_DAYS,
            )
            for one in self.knowledge.sources
        ]  # fmt: skip

    def review(
        self, patient: Patient, candidates: Iterable[Candidate | str], *, together: bool = True,
        would_change: bool = False, today: datetime.date | None = None, notes: Sequence[str] = (),
        continuing: bool = False,
    ) -> SafetyReview:  # fmt: skip
        """
        Args:
            candidates: the most wanted first.
            together: they are one set; false: alternatives.
            would_change: also say what stands in the way of each that is not offered.
            notes: what the reader of the request has to say of it.
            continuing: a candidate that is taken now is gone on with: no duplicate of itself.

        Raises: Unavailable "safety-unavailable": nothing is offered.
        """
        if self._stopped:
            raise unavailable(self._stopped)
        day = today or datetime.date.today()
        asked = [Candidate(one) if isinstance(one, str) else one for one in candidates]
        try:
            sources = self.notes(day)
            facts = Facts(patient, self.knowledge, today=day)
            items = self._judge(facts, asked, together, continuing)
            said = list(dict.fromkeys([*notes, *facts.notes]))
            said += [f"The source {one.id} is older than {OLD_DAYS} days." for one in sources if one.old]
            found = SafetyReview(
                items, [one.drug for one in items if one.is_offered], together, sources, self.digest, said
            )
            if not would_change:
                return found

            def again(waived: frozenset[str], left: list[Candidate]) -> list[Item]:
                return self._judge(Facts(patient, self.knowledge, today=day, waived=waived), left, together, continuing)

            return msgspec.structs.replace(found, changes=changes(found, asked, again))
        except MedServeError:
            raise
        except Exception as error:
            raise unavailable(f"the engine failed ({type(error).__name__}).") from error

    def _judge(self, facts: Facts, asked: Sequence[Candidate], together: bool, continuing: bool) -> list[Item]:
        items: list[Item] = []
        before: list[Taken] = []
        for candidate in asked:
            drug = self.knowledge.drug(candidate.drug, candidate.also)
            if drug is None:
                items.append(_unknown(candidate))
                continue
            others = [one for one in facts.taken if not (continuing and one.drug is drug)]
            item = Judgement(self, facts, drug, candidate).item([*others, *before])
            items.append(item)
            if together and item.is_offered and len(others) == len(facts.taken):
                fact = Fact("candidate", drug.code, drug.name)
                if fact.key not in facts.waived:
                    before.append(Taken(drug, fact))
        return items

    def blocks(self, known: Known) -> bool:
        return self._actions[known.source.id].get(known.rule.severity, "block") == "block"

    def statement(self, status: Status, some: bool) -> str:
        """What was not found; nothing is said of what is not offered. some: beside what was."""
        if status not in ("offered", "limited"):
            return ""
        return self._none_further if some else self._none


def _unknown(candidate: Candidate) -> Item:
    missing = Missing(
        "drug-unknown", "candidate", f"No source knows the medicine {candidate.drug[:60]!r}, or its codes contradict.",
        "Send an ATC or RxNorm code of the tables (medserve safety --sources), or add it to drugs.csv.",
    )  # fmt: skip
    return Item(candidate.drug, "", "unknown", missing=[missing])
