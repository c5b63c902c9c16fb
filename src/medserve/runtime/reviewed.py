"""What a model advises, held against the rules of safety before it leaves.

    reviewer = Reviewer(spec, rules)                 # of a package that names medicines: a dose, arms, a set
    data, about = reviewer.read(body, media)         # the inputs alone, and the facts about the patient
    reviewer.hold(answer, about)                     # what is blocked or cannot be judged is taken out of the answer

`LoadedModel.answer` asks it for every answer, so that the network, batches and the command line have one way and none
beside it. Where the installation requires a review (so unless safety.yaml says otherwise), a request without a
patient's facts is answered without the medicine: silence about a patient is no way around the rules.
"""

import datetime
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import msgspec

from medserve.data.units import convert
from medserve.errors import Refusal, Usage
from medserve.models.spec import ModelSpec
from medserve.questions.effect import standing
from medserve.runtime.twice import Twice, as_said
from medserve.safety.envelope import Envelope
from medserve.safety.fhir_in import BundleSaid, read_bundle
from medserve.safety.orders import refuse_orders
from medserve.safety.patient import Amount, Candidate, Patient, parse_patient
from medserve.safety.policy import Standing
from medserve.safety.review import AnswerReview, Change, Fact, Item, LabelReview, Most, SafetyReview, Status

JSON, FHIR = "application/json", "application/fhir+json"
NOT_REVIEWED = {
    "code": "safety-not-reviewed",
    "message": "No rule of safety was asked about this medicine and patient. Send the patient's facts as `patient`.",
}
REQUIRED = (
    "Without the patient's facts no medicine is offered here. Send `patient` beside `inputs`: age, allergies,"
    " conditions, medicines, laboratory values (docs/safety.md); an empty list says that there is none."
)
UNCODED = "The package does not say what medicines its arms are, so no rule of safety can be asked about them."
UNDECLARED = {
    "code": "medicines-undeclared",
    "message": f"{UNCODED} Nothing is advised here: declare `treatment.medicines`, with an empty list for an arm that"
    " is none, and train again.",
}
_WORST: tuple[Status, ...] = ("blocked", "unknown", "limited", "offered")
_OF_THE_DOSE = frozenset({"value-at-limit"})  # reasons that name a dose
T = TypeVar("T", Item, Change)
_object = msgspec.json.Decoder(dict[str, msgspec.Raw])


class About(NamedTuple):
    """What a request says of its patient beside the model's inputs. subject: how a Bundle refers to him."""

    patient: Patient
    subject: str = ""
    notes: tuple[str, ...] = ()


class Reviewer:
    """Of one package.

    Args:
        rules: of this installation.
    """

    def __init__(self, spec: ModelSpec, rules: Standing) -> None:
        self.rules, self._drugs, self._output, self._uncoded = rules, spec.medicines, spec.output, spec.uncoded
        self._inputs = frozenset(want.name for want in spec.inputs)
        self._twice = Twice(spec)

    # -- the request -----------------------------------------------------------------------------------------------

    def read(self, data: bytes, media: str = "") -> tuple[bytes, About | None]:
        """What the model reads, and what it must not: the patient's facts.

        Args:
            media: declared type of the body; "" decides by the bytes.

        Raises: Refusal "auto-execute", "safety-request", "facts-contradict", "fhir-..."; Usage "json-invalid".
        """
        if media not in ("", JSON, FHIR) or data.lstrip()[:1] != b"{":
            return data, None
        try:
            said = _object.decode(data)
            beside = {name: msgspec.json.decode(said[name]) for name in said if name not in self._inputs | {"inputs"}}
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return data, None  # whoever reads the inputs says what is wrong
        if "resourceType" in said:
            return data, _about(_of_bundle(data))
        refuse_orders({name: value for name, value in beside.items() if name != "patient"})
        if not {"inputs", "patient"} <= set(said):
            return data, None
        if more := sorted(set(said) - {"inputs", "patient"}):
            raise Usage(
                "json-invalid", f"The body is inputs and patient; there is no {more[0][:40]!r}.",
                hint='Send {"inputs": {...}, "patient": {...}}; see docs/safety.md.',
            )  # fmt: skip
        inputs, facts = b'{"inputs":' + bytes(said["inputs"]) + b"}", beside["patient"]
        if facts is None:
            return inputs, None
        if isinstance(facts, dict) and facts.get("resourceType"):
            found = _of_bundle(bytes(said["patient"]))
        else:
            found = as_said(parse_patient(bytes(said["patient"])))
        try:
            given = _object.decode(said["inputs"])
        except msgspec.DecodeError:
            given = {}  # whoever reads the inputs says what is wrong
        self._twice(given, found)
        return inputs, _about(found)

    # -- the answer ------------------------------------------------------------------------------------------------

    def hold(self, answer: dict[str, Any], about: About | None) -> None:
        """Change the answer of the wire in place: what is not offered leaves `decision`, a dose leaves `outputs`;
        `safety` and coded reasons say why.

        Raises: Unavailable "safety-unavailable": a review was asked for, or is required, and nobody can make it.
        """
        advised = [label for label in self._advised(answer) if self._uncoded or self._drugs.get(label)]
        if about is not None and not self._uncoded:
            found = self._reviewed(self.rules.ask(), answer, about, advised)
        elif self.rules.required:
            envelope = self.rules.ask()
            found = AnswerReview(
                "not-reviewed", withheld=advised, sources=envelope.notes(datetime.date.today()), rules=envelope.digest
            )
        else:
            found = AnswerReview("not-reviewed")
        instead = None
        if found.withheld and found.status == "reviewed" and answer.get("effect") is not None:
            found, advised, instead = _instead(answer["effect"]["ranked"], found, advised)
        answer["safety"] = msgspec.to_builtins(found)
        self._say(answer, found, advised)
        if found.withheld:
            self._withhold(answer, found.withheld, instead)

    def _advised(self, answer: Mapping[str, Any]) -> list[str]:
        """Labels, the most wanted first."""
        if self._output.task == "number":
            return [one["label"] for one in answer["outputs"] if one["value"] is not None]
        decision = answer["decision"] or {}
        chance = {one["label"]: one.get("probability") or 0.0 for one in answer["outputs"]}
        many = sorted(decision.get("labels") or (), key=lambda label: -chance[label])
        return many or ([decision["label"]] if decision.get("label") else [])

    def _reviewed(
        self, envelope: Envelope, answer: Mapping[str, Any], about: About, advised: list[str]
    ) -> AnswerReview:
        """Arms and doses are alternatives, each held against what is taken now; a set is one, its most wanted first."""
        if self._output.task in ("number", "effect"):
            asked = [[label] for label, codes in self._drugs.items() if codes]
        else:
            asked = [advised] if advised else []
        labels, notes = [], list(about.notes)
        whole: SafetyReview | None = None
        for group in asked:
            candidates = [one for label in group for one in self._candidates(label, answer)]
            whole = envelope.review(about.patient, candidates, would_change=True, notes=notes, continuing=True)
            notes = list(whole.notes)
            labels += self._by_label(group, whole)
        status = {one.label: one.status for one in labels}
        withheld = [label for label in advised if status[label] in ("blocked", "unknown")]
        if whole is None:  # nothing was advised: which rules there are is said all the same
            return AnswerReview("reviewed", [], [], envelope.notes(datetime.date.today()), envelope.digest, notes)
        return AnswerReview("reviewed", labels, withheld, whole.sources, whole.rules, notes)

    def _candidates(self, label: str, answer: Mapping[str, Any]) -> list[Candidate]:
        dose = None
        if self._output.task == "number" and (value := answer["outputs"][0]["value"]) is not None and value > 0:
            dose = Amount(value, self._output.unit)
        return [Candidate(code, dose=dose) for code in self._drugs[label]]

    def _by_label(self, group: list[str], review: SafetyReview) -> list[LabelReview]:
        """The items in the order in which they were asked, parted by label."""
        found, start = [], 0
        for label in group:
            items = review.items[start : start + len(self._drugs[label])]
            start += len(items)
            worst = next(status for status in _WORST if any(one.status == status for one in items))
            drugs = {one.drug for one in items}
            changes = [one for one in review.changes if one.drug in drugs]
            if worst in ("blocked", "unknown"):
                items, changes = _without_dose(items), _without_dose(changes)
            found.append(LabelReview(label, worst, items, changes))
        return found

    def _say(self, answer: dict[str, Any], found: AnswerReview, advised: list[str]) -> None:
        """Among the reasons: of what was advised, whatever the rules say of it."""
        reasons = answer["reasons"]
        if found.status == "not-reviewed":
            if found.withheld and self._uncoded:
                reasons.append(dict(UNDECLARED))
            elif found.withheld:
                reasons.append({"code": "safety-required", "message": f"{_words(found.withheld)}: {REQUIRED}"})
            elif advised:
                reasons.append(NOT_REVIEWED | ({"message": UNCODED} if self._uncoded else {}))
            return
        for one in found.labels:
            for item in one.items if one.label in advised else ():
                reasons += _reasons(one.label, item, self._reaches(answer, item))

    def _reaches(self, answer: Mapping[str, Any], item: Item) -> bool:
        """Whether the interval of a dose lies above the most that is allowed, in part."""
        if self._output.task != "number" or not item.most or answer["outputs"][0]["interval"] is None:
            return False
        high = answer["outputs"][0]["interval"][1]
        try:
            return any(convert(high, self._output.unit or "", one.unit, what="the dose") > one.value
                       for one in item.most)  # fmt: skip
        except Refusal:  # the dose itself could not be judged then, and is withheld
            return False

    def _withhold(self, answer: dict[str, Any], labels: list[str], instead: str | None) -> None:
        """instead: the arm that is advised in the place of the first."""
        gone = set(labels)
        if self._output.task == "number":
            (out,) = answer["outputs"]
            out["value"] = out["interval"] = answer["coverage"] = None
            answer["reasons"] = [one for one in answer["reasons"] if one["code"] not in _OF_THE_DOSE]
            left = None
        elif (many := answer["decision"].get("labels")) is not None:
            kept = [label for label in many if label not in gone]
            left = answer["decision"] | {"labels": kept} if kept else None
        else:
            left = None if instead is None else answer["decision"] | {"label": instead}
        answer["decision"] = left
        if left is None:
            answer["status"] = "abstained"
        elif instead is not None:
            answer["reasons"].append({"code": "next-best", "message": f"{instead} stands in the place of {labels[0]},"
                                      " which a rule forbids: its own interval excludes no benefit too."})  # fmt: skip
        if (effect := answer.get("effect")) is not None:
            effect["advice"], effect["arm"] = ("abstain", None) if instead is None else (effect["advice"], instead)
            if effect["for_whom"] is not None and effect["for_whom"]["arm"] in gone:
                effect["for_whom"]["arm"] = None


def _instead(ranked: list[str], found: AnswerReview, advised: list[str]) -> tuple[AnswerReview, list[str], str | None]:
    """Of an arm that is not offered: what takes its place, if anything does, and of which arms is to be said why."""
    status = {one.label: one.status for one in found.labels}
    closed = {arm: status[arm] for arm in ranked if status.get(arm) in ("blocked", "unknown")}
    arm = standing(ranked, closed)
    if arm is None:
        return found, advised, None
    passed = ranked[: ranked.index(arm)]
    return msgspec.structs.replace(found, withheld=passed), [*passed, arm], arm


def closed_of(held: Mapping[str, Any] | None) -> dict[str, str]:
    """Of a review as plain values: the labels that are not offered, and why."""
    if held is None:
        return {}
    found = {label: "not-reviewed" for label in held["withheld"]}
    return found | {one["label"]: one["status"] for one in held["labels"] if one["status"] in ("blocked", "unknown")}


def _of_bundle(body: bytes) -> BundleSaid:
    return read_bundle(body, today=datetime.datetime.now(datetime.UTC).date(), proposals=False)


def _about(said: BundleSaid) -> About:
    return About(said.patient, said.subject, tuple(said.notes))


def _without_dose(found: list[T]) -> list[T]:
    """Items or changes; a dose that is not offered is not told by the rule that forbids it either."""

    def hidden(fact: Fact) -> Fact:
        return msgspec.structs.replace(fact, value=None, unit="") if fact.kind == "dose" else fact

    made: list[Any] = []
    for one in found:
        if isinstance(one, Item):
            blocks = [msgspec.structs.replace(each, fact=hidden(each.fact)) for each in one.blocks]
            made.append(msgspec.structs.replace(one, blocks=blocks))
        elif isinstance(one, Change):
            made.append(msgspec.structs.replace(one, facts=[hidden(fact) for fact in one.facts]))
    return made


def _reasons(label: str, item: Item, reaches: bool) -> list[dict[str, str]]:
    """What a reader must know of one medicine that was advised."""
    what = item.name or item.drug
    if item.status == "blocked":
        said = " ".join(f"{one.text} ({_rule(one)})." for one in item.blocks)
        return [{"code": "safety-blocked", "message": f"{label} is not offered: {what} is forbidden. {said}"}]
    if item.status == "unknown":
        said = " ".join(f"{one.code}: {one.message} {one.next}" for one in item.missing)
        return [{"code": "safety-unknown", "message": f"{label} is not offered: {what} cannot be judged. {said}"}]
    found = [
        {"code": "safety-limited", "message": f"{label}: at most {one.value:g} {one.unit} of {what}. {one.text}"
         f" ({_rule(one)}).{' The interval reaches above it.' if reaches else ''}"}
        for one in item.most
    ]  # fmt: skip
    warned = [{"code": "safety-warning", "message": f"{label}: {what}. {one.text} ({_rule(one)})."}
              for one in item.warnings]  # fmt: skip
    return found + warned


def _rule(one: Any) -> str:
    """one: a `Finding` or a `Most`."""
    fact = one.fact.name or one.fact.code
    severity = "" if isinstance(one, Most) else f", {one.severity}"
    return f"{fact}; rule {one.rule} of {one.source}, version {one.version}{severity}: {one.citation}"


def _words(labels: list[str]) -> str:
    return ", ".join(labels[:8]) + (f" and {len(labels) - 8} more" if len(labels) > 8 else "")
