"""Medicines of a visit on the road: labels named by the tables of safety, and which pairs of them interact.

    listing, told = settle_medicines(listing, settings)    # labels: "ramipril", "metformin", ...; codes of one are one
    told.pairs                                             # [(0, 7), ...] by contraindicated and major interactions
    listing = as_asked(listing, spec)                      # for a package that is to be asked: its labels, in its order

The tables are those that this installation asks (`MEDSERVE_HOME/safety.yaml`; the starter table where there is none);
their versions and digests stand in the package. A code that no table knows stays a label of its own.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import msgspec
import numpy as np

from medserve.data.cohort import Cohort, Refused
from medserve.data.fields.visits import Visits
from medserve.data.forms.listing import Listing
from medserve.data.records import values_of
from medserve.data.split import Parts, PartView
from medserve.errors import BadData
from medserve.models.spec import ATC, Code, Medicines, ModelSpec, OutputSpec, Rules
from medserve.questions.medicines import interaction_rate
from medserve.safety.knowledge import Medication
from medserve.safety.policy import open_envelope
from medserve.settings import Settings
from medserve.types import Array

FEWEST = 10  # patients behind a label: rarer medicines might name a person
SEVERE = ("contraindicated", "major")
MOST_NAMED = 8
SYSTEM_URLS = {"atc": ATC, "rxnorm": "http://www.nlm.nih.gov/research/umls/rxnorm",
               "ndc": "http://hl7.org/fhir/sid/ndc"}  # fmt: skip


def settle_medicines(listing: Listing, settings: Settings) -> tuple[Listing, Medicines | None, dict[str, Code]]:
    """The labels as a package has them, and what is known of them before the data are split.

    Returns: the listing; its `Medicines`, whose rate is still 0; label -> code. Other listings come back as they are.
    Raises: BadData "medicines-rare": no medicine was prescribed to 10 patients; those of the rules;
        Unavailable "safety-unavailable".
    """
    if not listing.medicines:
        return listing, None, {}
    envelope = open_envelope(settings)
    written: dict[str, list[str]] = defaultdict(list)
    drugs: dict[str, Medication] = {}
    for code in listing.labels:
        drug = envelope.knowledge.drug(code)
        name = code if drug is None else _name(drug, drugs)
        written[name].append(code)
        if drug is not None:
            drugs[name] = drug
    counts, total = _patients(listing, written)
    labels = sorted(name for name, (patients, _) in counts.items() if patients >= FEWEST)
    if not labels:
        raise BadData(
            "medicines-rare", f"No medicine was prescribed to {FEWEST} patients or more: nothing can be learned.",
            hint="Bring more patients.",
        )  # fmt: skip
    rare = sum(len(written[name]) for name in written if name not in set(labels))
    given = sum(counts[name][1] for name in labels)
    told = Medicines(
        written=[sorted(written[name]) for name in labels],
        pairs=pairs_of([drugs.get(name) for name in labels]),
        rules=[
            Rules(id=one.header.id, version=one.header.version, digest=one.digest)
            for one in envelope.knowledge.sources
        ],
        severities=list(SEVERE),
        unknown=[name for name in labels if name not in drugs],
        rare=rare,
        rare_share=1 - given / total,
    )  # fmt: skip
    said = list(listing.source.get("warnings", ())) + _notes(told)
    codes = {name: found for name in labels if (found := _code(drugs.get(name), written[name]))}
    settled = replace(relabelled(listing, labels, told.written), source={**listing.source, "warnings": said})
    return settled, told, codes


def relabelled(listing: Listing, labels: Sequence[str], written: Sequence[Sequence[str]]) -> Listing:
    """The same visits under other labels. A visit of which none was prescribed is refused: its medicines are rare ones,
    and an empty set would say that it had none."""
    place = {code: at for at, code in enumerate(listing.labels)}
    columns = [[place[code] for code in codes if code in place] for codes in written]
    items, refused = [], list(listing.refused)
    for item in listing.items:
        assert isinstance(item.label, tuple)
        label = tuple(float(any(item.label[at] for at in some)) for some in columns)
        if any(label):
            items.append(replace(item, label=label))
        else:
            refused.append(Refused(item.id, "medicines-rare", "None of the visit's medicines is a label."))
    return replace(listing, labels=tuple(labels), items=items, refused=refused)


def as_asked(listing: Listing, spec: ModelSpec) -> Listing:
    """For a package's evaluation: its labels. Raises: BadData "labels-differ": the data are no visits."""
    told = spec.output.medicines
    if told is None:
        return listing
    if not listing.medicines:
        raise BadData(
            "labels-differ", "The model tells the medicines of visits; the data declare another target.",
            hint="Write `target: {kind: medicines}` into the data's dataset.yaml.",
        )  # fmt: skip
    return relabelled(listing, spec.output.labels, told.written)


def with_channels(cohort: Cohort, told: Medicines) -> Cohort:
    """The cohort with a channel of its history for every code that a label is written by."""
    codes = tuple(sorted({code for some in told.written for code in some}))
    fields = (replace(f, medicines=codes) if isinstance(f, Visits) else f for f in cohort.fields)
    return replace(cohort, fields=tuple(fields))


def with_rate(output: OutputSpec, told: Medicines | None, codes: Mapping[str, Code], parts: Parts) -> OutputSpec:
    """The output with its medicines, and the rate at which those of the training part interact."""
    if told is None:
        return output
    rate = interaction_rate(np.asarray(parts.train.targets) == 1, told.pairs)
    told = msgspec.structs.replace(told, rate=0.0 if np.isnan(rate) else rate)
    return msgspec.structs.replace(output, medicines=told, codes=dict(codes))


def last_sets(view: PartView, output: OutputSpec) -> Array | None:
    """(N, K) float: 1 where a label was prescribed at the last earlier visit with prescriptions, else 0; NaN throughout
    where there was no such visit. None for other outputs."""
    told = output.medicines
    if told is None:
        return None
    field = next(f for f in view.cohort.fields if isinstance(f, Visits))
    place = {code: at for at, codes in enumerate(told.written) for code in codes}
    found = np.zeros((len(view), len(output.labels)))
    for row, at in enumerate(view.rows.tolist()):
        last = field.last_prescribed(values_of(view.cohort, at)[field.name])
        if last is None:
            found[row] = np.nan
            continue
        found[row, [place[code] for code in last if code in place]] = 1
    return found


def pairs_of(drugs: Sequence[Medication | None]) -> list[tuple[int, int]]:
    """Numbers of two medicines between which a rule of `SEVERE` stands, the lower first."""
    return [
        (a, b)
        for a, one in enumerate(drugs)
        for b, other in enumerate(drugs[a + 1 :], a + 1)
        if one is not None and other is not None and one is not other and _interact(one, other)
    ]


def _interact(one: Medication, other: Medication) -> bool:
    rules = (known for tag in other.paired for known in one.partners.get(tag, ()))
    return any(known.rule.severity in SEVERE for known in rules)


def _name(drug: Medication, drugs: Mapping[str, Medication]) -> str:
    taken = drugs.get(drug.name)
    return drug.name if taken is None or taken is drug else f"{drug.name} ({drug.code})"


def _patients(listing: Listing, written: Mapping[str, Sequence[str]]) -> tuple[dict[str, tuple[int, int]], int]:
    """Of each label how many patients and how many visits had it; and the sum of the visits over all labels."""
    place = {code: at for at, code in enumerate(listing.labels)}
    who: dict[str, set[str]] = {name: set() for name in written}
    visits = dict.fromkeys(written, 0)
    of = {place[code]: name for name, codes in written.items() for code in codes}
    for item in listing.items:
        assert isinstance(item.label, tuple)
        for name in {of[at] for at, value in enumerate(item.label) if value}:
            who[name].add(item.patient or item.id)
            visits[name] += 1
    return {name: (len(who[name]), visits[name]) for name in written}, sum(visits.values())


def _code(drug: Medication | None, written: Sequence[str]) -> Code | None:
    """Of a medicine of the tables their own code, else the one that the data write; None for a text alone."""
    system, _, code = (drug.code if drug is not None else written[0]).partition("|")
    return Code(SYSTEM_URLS.get(system, system), code) if code and system != "text" else None


def _notes(told: Medicines) -> list[str]:
    """What a person should see of the labels."""
    said = []
    if told.unknown:
        named = ", ".join(told.unknown[:MOST_NAMED]) + (" ..." if len(told.unknown) > MOST_NAMED else "")
        said.append(
            f"{len(told.unknown)} of {len(told.written)} medicines are in no table of safety ({named}): each is a label"
            " of its own, and no interaction of theirs is counted."
        )
    if told.rare:
        said.append(
            f"{told.rare} codes were prescribed to fewer than {FEWEST} patients, {told.rare_share:.1%} of all that was"
            " prescribed: they are no labels, and count nowhere."
        )
    if not told.pairs:
        said.append("No two of the medicines interact by the tables of safety: the loss holds nothing of interactions.")
    return said
