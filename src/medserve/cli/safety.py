"""`medserve safety`: medicines held against rules, apart from every model."""

import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from cyclopts import Parameter
from rich.table import Table

from medserve.cli._answer import Answer, table
from medserve.errors import Refusal, Usage
from medserve.settings import Settings

if TYPE_CHECKING:
    from medserve.safety.patient import SafetyRequest


def safety(
    patient: Path | None = None,
    /,
    *,
    drugs: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    rules: tuple[Path, ...] = (),
    alternatives: Annotated[bool, Parameter(negative=())] = False,
    sources: Annotated[bool, Parameter(negative=())] = False,
    fhir: Annotated[bool, Parameter(negative=())] = False,
    home: Path | None = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> Answer:
    """Hold medicines against rules: allergies, contraindications, dose limits, duplicates, interactions.

        medserve safety patient.json --drugs ibuprofen metformin atc|B01AA03
        medserve safety patient.json --drugs ibuprofen --rules rules/hospital
        medserve safety bundle.json --fhir
        medserve safety --sources

    What a rule forbids is blocked, with the rule and its source; what cannot be judged is not offered, with what is
    missing. Nothing here says that a medicine may be taken: only what was found, and where it was looked for.

    Parameters
    ----------
    patient
        A patient as JSON (docs/safety.md), a whole request with its candidates, or a FHIR Bundle with its proposals.
    drugs
        Names, ATC or RxNorm codes of the candidates, the most wanted first.
    rules
        A folder of rules of your own, beside those of MEDSERVE_HOME/safety.yaml and the starter table; repeatable.
    alternatives
        Judge each candidate by itself; left out, they are one set, and none may interact with one before it.
    sources
        List the sources: version, date, number of rules, what they do not cover.
    fhir
        Print the answer as a FHIR Bundle: proposals, and an issue for every rule that was met.
    home
        Keys, database, caches; left out, MEDSERVE_HOME or ~/.medserve.
    json
        Print one JSON object.
    """
    from medserve.safety.policy import open_envelope

    settings = Settings.from_environment(home)
    envelope = open_envelope(settings, rules)
    if sources:
        return _sources(envelope)
    if patient is None:
        raise Usage(
            "patient-missing", "No patient is named.", hint="Name one: medserve safety patient.json --drugs ..."
        )
    now = datetime.datetime.now(datetime.UTC)
    asked, subject, notes = _request(patient, drugs, alternatives, now.date())
    review = envelope.review(asked.patient, asked.candidates, together=asked.together, would_change=True, notes=notes)
    if fhir:
        from medserve.safety.fhir_out import as_fhir

        made = as_fhir(review, subject=subject, at=now)
        return Answer(made, msgspec.json.format(msgspec.json.encode(made)).decode())
    return Answer(msgspec.to_builtins(review), _shown(review))


def _request(
    path: Path, drugs: tuple[str, ...], alternatives: bool, today: datetime.date
) -> "tuple[SafetyRequest, str, list[str]]":
    """What is asked, how the patient is referred to, and what was not read.

    Raises: Usage "input-missing", "drugs-missing"; Refusal "safety-request", "auto-execute", "fhir-..."."""
    from medserve.safety.fhir_in import is_bundle, read_bundle
    from medserve.safety.patient import MAX_BODY, Candidate, SafetyRequest, parse_request

    if not path.is_file():
        raise Usage("input-missing", f"{path} is not a file.", hint="Name a JSON file of one patient.")
    with path.open("rb") as file:
        body = file.read(MAX_BODY + 1)
    if is_bundle(body):
        named = [Candidate(one) for one in drugs]
        bundle = read_bundle(body, today=today, named=named)
        asked = SafetyRequest(bundle.patient, bundle.candidates, not alternatives)
        return asked, bundle.subject, bundle.notes
    try:
        said = msgspec.json.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise Refusal("safety-request", f"{path.name} is not JSON.", hint="See docs/safety.md.") from error
    if not isinstance(said, dict):
        raise Refusal("safety-request", f"{path.name} holds no JSON object.", hint="See docs/safety.md.")
    if "patient" not in said:
        said = {"patient": said, "candidates": []}
    said["candidates"] = [*said.get("candidates", []), *({"drug": one} for one in drugs)]
    if not said["candidates"]:
        raise Usage("drugs-missing", "No medicine is named.", hint="Name them: --drugs ibuprofen metformin")
    if alternatives:
        said["together"] = False
    return parse_request(msgspec.json.encode(said)), "", []


def _sources(envelope: Any) -> Answer:
    found = envelope.notes(datetime.date.today())
    rows = [(one.id, one.version, f"{one.date}{' (old)' if one.old else ''}", str(one.rules), one.licence, one.digest,
             one.coverage) for one in found]  # fmt: skip
    shown = table("sources of rules", "id", "version", "date", "rules", "licence", "digest", "coverage", rows=rows)
    shown.caption, shown.caption_justify = f"{len(envelope.knowledge)} medicines; all: {envelope.digest}", "left"
    data = {"sources": msgspec.to_builtins(found), "medicines": len(envelope.knowledge), "digest": envelope.digest}
    return Answer(data, shown)


def _shown(review: Any) -> Table:
    single = len(review.sources) == 1
    rows: list[tuple[str, ...]] = []
    for item in review.items:
        lines = [(_why(one.text, one), _rule(one, single)) for one in item.blocks]
        lines += [(_why(f"at most {one.value:g} {one.unit}. {one.text}", one), _rule(one, single)) for one in item.most]
        lines += [(f"{one.code}: {one.message} {one.next}", "") for one in item.missing]
        lines += [(_why(f"{one.severity}: {one.text}", one), _rule(one, single)) for one in item.warnings]
        for number, line in enumerate(lines or [(item.statement, "")]):
            rows.append((item.name or item.drug, item.status, *line) if not number else ("", "", *line))
    named = ", ".join(f"{one.id} {one.version}" for one in review.sources)
    out = table(f"{len(review.offered)} of {len(review.items)} offered", "medicine", "", "why", "rule", rows=rows)
    notes = [*review.notes, *dict.fromkeys(one.coverage for one in review.sources)]
    out.caption, out.caption_justify = "\n".join([f"Asked: {named}. A proposal; a person decides.", *notes]), "left"
    return out


def _why(text: str, one: Any) -> str:
    fact = one.fact.name or one.fact.code
    amount = f" {one.fact.value:g} {one.fact.unit}".rstrip() if one.fact.value is not None else ""
    return f"{text} [{fact}{amount}] {one.citation}"


def _rule(one: Any, single: bool) -> str:
    return str(one.rule) if single else f"{one.source}:{one.rule}"
