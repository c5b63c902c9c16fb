"""The envelope against a second reading of the tables, and against what a bad request or a bad table asks of it."""

import datetime
import sys
from pathlib import Path

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from plain_reading import Tables
from random_patients import Hospital

from medserve.safety.envelope import Envelope
from medserve.safety.patient import Candidate, Patient, parse_request
from medserve.safety.source import STARTER, Unavailable

TODAY = datetime.date(2026, 12, 1)
WELL = {"age_years": 50, "sex": "male", "conditions": [], "allergies": [], "medicines": [], "child_pugh": "none",
        "labs": [{"code": "loinc|98979-8", "value": 90, "unit": "mL/min/{1.73_m2}"},
                 {"code": "loinc|35591-7", "value": 90, "unit": "mL/min"},
                 {"code": "loinc|2823-3", "value": 4.2, "unit": "mmol/L"}]}  # fmt: skip


@pytest.fixture(scope="module")
def tables():
    return Tables(STARTER)


@pytest.fixture(scope="module")
def envelope():
    return Envelope.open()


def patient(**more):
    return msgspec.convert({**WELL, **more}, Patient)


def one(envelope, drug, *, dose=None, **more):
    """The answer for one candidate."""
    asked = msgspec.convert({"drug": drug} | ({"dose": dose} if dose else {}), Candidate)
    return envelope.review(patient(**more), [asked], today=TODAY).items[0]


def rules(item):
    return {finding.rule for finding in item.blocks}


def codes(item):
    return {missing.code for missing in item.missing}


def test_no_forbidden_item_is_offered_to_ten_thousand_patients(envelope, tables):
    """Judged by a reading that shares no code: 0 forbidden or unjudged items offered, every allowed one offered, each
    forbidden one blocked by the same lines; and every block names its rule, source, version and citation."""
    hospital = Hospital(tables, seed=7)
    counts = {"forbidden": 0, "open": 0, "allowed": 0, "offered": 0}
    wrong, lost = [], 0
    for _ in range(10_000):
        said, asked = hospital.patient(), hospital.candidates()
        review = envelope.review(msgspec.convert(said, Patient), asked, today=TODAY)
        before = []
        for drug, item in zip(asked, review.items, strict=True):
            verdict, ids = tables.verdict(said, drug, before)
            counts[verdict] += 1
            if item.is_offered:
                counts["offered"] += 1
                before.append(drug)
                wrong += [(said, drug, ids)] if verdict != "allowed" else []
            elif verdict == "allowed":
                lost += 1
            elif verdict == "forbidden":
                assert rules(item) == ids, (said, drug)
            for finding in item.blocks:
                assert finding.rule and finding.source == "medserve-starter" and finding.version and finding.citation
                assert finding.fact.kind and finding.text
    assert not wrong, wrong[:2]
    assert counts["offered"] >= 0.95 * counts["allowed"] > 10_000 and lost == 0
    assert counts["forbidden"] > 10_000 and counts["open"] > 1_000


def test_the_reading_is_able_to_find_a_hole(tables, tmp_path):
    """An engine that lacks one line of the tables offers what the plain reading forbids."""
    for path in STARTER.iterdir():
        if path.suffix in (".csv", ".yaml"):
            text = path.read_text("utf-8")
            lines = [line for line in text.splitlines(True) if "DUP-002" not in line]
            (tmp_path / path.name).write_text("".join(lines), "utf-8")
    blind = Envelope.open([tmp_path])
    hospital = Hospital(tables, seed=3)
    found = 0
    for _ in range(300):
        said, asked = hospital.patient(), hospital.candidates()
        for drug, item in zip(asked, blind.review(msgspec.convert(said, Patient), asked, together=False,
                                                  today=TODAY).items, strict=True):  # fmt: skip
            found += item.is_offered and tables.verdict(said, drug)[0] == "forbidden"
    assert found > 3


def test_taking_the_reason_away_brings_the_item_back(envelope, tables):
    """For 1,000 random patients: what `would_change` names is taken out of the patient, and the item is offered."""
    hospital = Hospital(tables, seed=11, gaps=0.0)
    healed = tried = 0
    for _ in range(1_000):
        said, drug = hospital.patient(), hospital.candidates(1)[0]
        review = envelope.review(msgspec.convert(said, Patient), [drug], would_change=True, today=TODAY)
        if review.items[0].status != "blocked":
            continue
        (change,) = review.changes
        assert change.facts and {fact.key for fact in change.facts} >= {b.fact.key for b in review.items[0].blocks}
        if change.then == "unknown":
            assert change.needs
            continue
        tried += 1
        without = _without(said, change.facts)
        status = envelope.review(msgspec.convert(without, Patient), [drug], today=TODAY).items[0].status
        assert status in ("offered", "limited"), (said, drug, change)
        assert tables.verdict(without, drug)[0] == "allowed"
        for fact in change.facts:  # no smaller set does
            rest = [other for other in change.facts if other is not fact]
            assert not envelope.review(msgspec.convert(_without(said, rest), Patient), [drug], today=TODAY).offered
        healed += 1
    assert healed == tried > 100


WELL_VALUES = {"measure|egfr": 90, "measure|crcl": 90, "measure|potassium": 4.2, "measure|sodium": 140,
               "measure|neutrophils": 4, "measure|heart-rate": 75, "measure|systolic-pressure": 120,
               "measure|qtc": 400}  # fmt: skip
LOINC = {"egfr": "98979-8", "crcl": "35591-7", "potassium": "2823-3", "sodium": "2951-2", "neutrophils": "751-8",
         "heart-rate": "8867-4", "systolic-pressure": "8480-6", "qtc": "8636-3"}  # fmt: skip


def _without(said, facts):
    """The patient as he would be without these facts."""
    said = {**said}
    for fact in facts:
        if fact.kind == "condition":
            said["conditions"] = [one for one in said["conditions"] if one["code"] != fact.code]
        elif fact.kind == "allergy":
            said["allergies"] = [one for one in said["allergies"] if one["code"] != fact.code]
        elif fact.kind == "medicine":
            said["medicines"] = [one for one in said["medicines"] if one["drug"] != fact.code]
        elif fact.kind == "lab":
            code = f"loinc|{LOINC[fact.code.removeprefix('measure|')]}"
            rest = [one for one in said["labs"] if one["code"] != code]
            said["labs"] = [*rest, {"code": code, "value": WELL_VALUES[fact.code],
                                    "unit": fact.unit, "date": "2026-11-30"}]  # fmt: skip
        elif fact.kind == "age":
            said["age_years"] = 57
        elif fact.kind == "child-pugh":
            said["child_pugh"] = "none"
        elif fact.kind == "pregnancy":
            said |= {"pregnancy": "not-pregnant", "gestation_weeks": None}
            said["conditions"] = [one for one in said["conditions"] if one["code"] != "snomed|77386006"]
        else:
            raise AssertionError(fact)
    return said


def test_a_stopped_engine_refuses_ten_thousand_of_ten_thousand(tables):
    """Fail closed: with the engine stopped, no answer at all."""
    stopped = Envelope.open()
    stopped.stop("the tables were taken away.")
    hospital = Hospital(tables, seed=5)
    refused = 0
    for _ in range(10_000):
        said, asked = msgspec.convert(hospital.patient(), Patient), hospital.candidates(2)
        with pytest.raises(Unavailable) as error:
            stopped.review(said, asked, today=TODAY)
        refused += error.value.code == "safety-unavailable" and error.value.status == 503
    assert refused == 10_000
    with pytest.raises(Unavailable):
        stopped.notes(TODAY)


def test_an_engine_that_breaks_offers_nothing(envelope, monkeypatch):
    """Any failure inside is a refusal, not an answer without its rules."""
    monkeypatch.setattr("medserve.safety.facts.Facts.readings", lambda *_: 1 / 0)
    with pytest.raises(Unavailable, match="ZeroDivisionError"):
        envelope.review(patient(), ["metformin"], today=TODAY)


def test_among_candidates_the_one_before_stays(envelope):
    """One set: the most wanted first, and what interacts with it is blocked; alternatives are judged each by itself."""
    asked = ["sildenafil", "isosorbide dinitrate", "metformin"]
    review = envelope.review(patient(), asked, today=TODAY)
    assert [item.status for item in review.items] == ["offered", "blocked", "offered"]
    (finding,) = review.items[1].blocks
    assert (finding.kind, finding.fact.kind, finding.fact.name) == ("interaction", "candidate", "sildenafil")
    assert review.offered == ["atc|G04BE03", "atc|A10BA02"]
    turned = envelope.review(patient(), asked[1::-1], today=TODAY)
    assert turned.offered == ["atc|C01DA08"]
    alone = envelope.review(patient(), asked, together=False, today=TODAY)
    assert len(alone.offered) == 3
    blocked_first = envelope.review(patient(medicines=[{"drug": "riociguat"}]), asked, today=TODAY)
    assert blocked_first.offered == ["atc|A10BA02"]  # what is itself blocked blocks nothing


def test_moderate_warns_and_the_policy_may_block_it(envelope):
    """What is done about a severity is the header's, or the policy's above it; what is contraindicated is blocked."""
    item = one(envelope, "sertraline", medicines=[{"drug": "warfarin"}])
    assert item.status == "offered" and [f.severity for f in item.warnings] == ["moderate"]
    assert item.statement.startswith("No further ") and "medserve-starter, version 2" in item.statement
    strict = Envelope.open(severity={"moderate": "block"})
    assert one(strict, "sertraline", medicines=[{"drug": "warfarin"}]).status == "blocked"
    assert strict.digest != envelope.digest
    with pytest.raises(Exception, match="contraindicated is always block"):
        Envelope.open(severity={"contraindicated": "warn"})


@pytest.mark.parametrize(
    ("drug", "facts", "rule"),
    [
        ("metformin", {"labs": [{"code": "loinc|98979-8", "value": 29.9, "unit": "mL/min/{1.73_m2}"}]}, "LIM-001"),
        ("lisinopril", {"conditions": [{"code": "icd10cm|T78.3XXA", "status": "resolved"}]}, None),
        ("propranolol", {"conditions": [{"code": "snomed|195967001"}]}, None),
        ("amoxicillin", {"allergies": [{"code": "rxnorm|7980"}]}, None),
        ("co-amoxiclav", {"allergies": [{"code": "atc|J01CA04"}]}, "ALG-001"),
        ("valsartan and sacubitril", {"medicines": [{"drug": "enalapril"}]}, None),
        ("valsartan", {"medicines": [{"drug": "valsartan and sacubitril"}]}, "DUP-001"),
        ("codeine", {"age_years": 11.9}, None),
        ("ibuprofen", {"sex": "female", "age_years": 30, "pregnancy": "pregnant", "gestation_weeks": 20}, None),
        ("methotrexate", {"sex": "female", "age_years": 30, "conditions": [{"code": "icd10|Z34.9"}]}, None),
        ("eplerenone", {"labs": [*WELL["labs"], {"code": "loinc|2823-3", "value": 5.6, "unit": "meq/L"}]}, None),
        ("apixaban", {"child_pugh": "C"}, None),
    ],
)  # fmt: skip
def test_known_cases_are_blocked(envelope, drug, facts, rule):
    """A case of each kind, by hand; without the fact the medicine is offered."""
    item = one(envelope, drug, **facts)
    assert item.status == "blocked" and item.statement == ""
    assert rule is None or rule in rules(item)
    assert one(envelope, drug).is_offered


@pytest.mark.parametrize(
    ("drug", "facts", "code"),
    [
        ("xyzumab", {}, "drug-unknown"),
        ("atc|B01AA99", {}, "drug-unknown"),
        ("metformin", {"medicines": [{"drug": "xyzumab"}]}, "medicine-unknown"),
        ("metformin", {"medicines": None}, "medicines-unknown"),
        ("metformin", {"allergies": None}, "allergies-unknown"),
        ("metformin", {"allergies": [{"text": "penicillin, as a child"}]}, "allergy-free-text"),
        ("metformin", {"allergies": [{"code": "snomed|1"}]}, "allergen-unknown"),
        ("metformin", {"conditions": None}, "conditions-unknown"),
        ("metformin", {"conditions": [{"text": "bad kidneys"}]}, "condition-unknown"),
        ("metformin", {"conditions": [{"code": "snomed|123"}]}, "condition-unknown"),
        ("dronedarone", {"conditions": [{"code": "icd10|I48.2"}]}, "condition-unspecific"),
        ("metformin", {"labs": []}, "fact-missing"),
        ("metformin", {"labs": [{"code": "loinc|98979-8", "value": 50}]}, "unit-missing"),
        ("metformin", {"labs": [{"code": "loinc|98979-8", "value": 50, "unit": "kg"}]}, "wrong-unit"),
        ("metformin", {"labs": [{"code": "loinc|98979-8", "value": 5000, "unit": "mL/min/{1.73_m2}"}]},
         "value-implausible"),
        ("metformin", {"labs": [{"code": "loinc|98979-8", "value": 50, "unit": "mL/min/{1.73_m2}",
                                 "date": "2020-01-01"}]}, "fact-old"),
        ("metformin", {"labs": [{"code": "loinc|98979-8", "value": 40, "unit": "mL/min/{1.73_m2}",
                                 "comparator": ">"}]}, "value-uncertain"),
        ("codeine", {"age_years": None}, "age-unknown"),
        ("warfarin", {"sex": "female", "age_years": 30}, "pregnancy-unknown"),
        ("warfarin", {"sex": None, "age_years": None}, "pregnancy-unknown"),
        ("warfarin", {"sex": "female", "pregnancy": "not-pregnant", "conditions": [{"code": "icd10|Z33"}]},
         "pregnancy-conflict"),
        ("ibuprofen", {"sex": "female", "pregnancy": "pregnant"}, "gestation-unknown"),
        ("apixaban", {"child_pugh": None, "conditions": [{"code": "icd10|K74.6"}]}, "child-pugh-unknown"),
    ],
)  # fmt: skip
def test_what_cannot_be_judged_is_not_offered(envelope, drug, facts, code):
    """Each with its code and the next step; the answer never takes what is missing for absent."""
    item = one(envelope, drug, **facts)
    assert item.status == "unknown" and code in codes(item)
    assert all(missing.next and missing.message for missing in item.missing)


@pytest.mark.parametrize(
    ("value", "comparator", "status"),
    [(60, ">", "offered"), (90, ">=", "offered"), (30, "<", "blocked"), (15, "<=", "blocked"), (45, ">", "offered"),
     (44, ">", "unknown"), (45, "<", "unknown")],
)  # fmt: skip
def test_a_bound_is_judged_where_it_tells(envelope, value, comparator, status):
    """A laboratory that says ">60" says enough about a limit of 30."""
    labs = [{"code": "loinc|98979-8", "value": value, "unit": "mL/min/{1.73_m2}", "comparator": comparator}]
    assert one(envelope, "metformin", labs=labs).status == status


def test_units_are_converted(envelope):
    """0.04 L/min are 40 mL/min; a spelling that is in use beside UCUM is read."""
    labs = [{"code": "loinc|98979-8", "value": 20, "unit": "mL/min/1.73m2"}]
    assert one(envelope, "metformin", labs=labs).status == "blocked"
    item = one(envelope, "gabapentin", labs=[{"code": "loinc|35591-7", "value": 0.04, "unit": "L/min"}])
    assert item.status == "limited" and item.most[0].value == 1400


def test_a_dose_above_the_limit_is_blocked(envelope):
    """At an eGFR of 40 metformin is limited to 1 g a day; a dose without a unit cannot be judged."""
    labs = [{"code": "loinc|98979-8", "value": 40, "unit": "mL/min/{1.73_m2}"}]
    assert one(envelope, "metformin", labs=labs, dose={"value": 1, "unit": "g/d"}).status == "limited"
    item = one(envelope, "metformin", labs=labs, dose={"value": 2, "unit": "g/d"})
    assert item.status == "blocked" and item.blocks[0].kind == "dose" and item.blocks[0].rule == "LIM-002"
    assert codes(one(envelope, "metformin", labs=labs, dose={"value": 2})) == {"unit-missing"}
    assert codes(one(envelope, "metformin", labs=labs, dose={"value": 2, "unit": "mL"})) == {"wrong-unit"}


def test_what_is_past_counts_where_the_rule_says_ever(envelope):
    """A stroke forbids prasugrel for ever; a healed asthma forbids no beta-blocker."""
    assert one(envelope, "prasugrel", conditions=[{"code": "icd10|I63.9", "status": "resolved"}]).status == "blocked"
    assert one(envelope, "propranolol", conditions=[{"code": "icd10|J45.9", "status": "resolved"}]).is_offered


def test_the_newest_value_counts(envelope):
    """An old low value is no longer so; what is dated after the day of the question was not known then."""

    def lab(value, date):
        return {"code": "loinc|98979-8", "value": value, "unit": "mL/min/{1.73_m2}", "date": date}

    assert one(envelope, "metformin", labs=[lab(20, "2026-03-01"), lab(70, "2026-09-01")]).status == "offered"
    assert one(envelope, "metformin", labs=[lab(70, "2026-03-01"), lab(20, "2026-09-01")]).status == "blocked"
    assert one(envelope, "metformin", labs=[lab(20, "2026-03-01"), lab(70, "2027-09-01")]).status == "blocked"


def test_an_allergy_to_no_medicine_is_noted(envelope):
    """Neither a food nor latex stands in the way, and the answer says that it was not held against medicines."""
    allergies = [{"code": "snomed|91935009"}, {"text": "nuts", "category": "food"}]
    review = envelope.review(patient(allergies=allergies), ["metformin"], today=TODAY)
    assert review.offered == ["atc|A10BA02"] and len(review.notes) == 1


def test_an_allergy_to_a_class_is_to_its_members(envelope):
    """A class of ATC as allergen: its medicines, what crosses with it, and none of a neighbouring class; a code of a
    medicine counts whatever category stands beside it."""
    allergies = [{"code": "atc|J01C"}]
    assert "ALG-001" in rules(one(envelope, "amoxicillin", allergies=allergies))
    assert [f.rule for f in one(envelope, "meropenem", allergies=allergies).warnings] == ["ALG-005"]
    assert one(envelope, "doxycycline", allergies=allergies).is_offered
    assert one(envelope, "amoxicillin", allergies=[{"code": "atc|J01CA04", "category": "food"}]).status == "blocked"


def test_no_word_of_safety(envelope, tables):
    """What is said of an offered medicine is what was not found, where; the word "safe" does not occur."""
    hospital = Hospital(tables, seed=1)
    for _ in range(300):
        review = envelope.review(msgspec.convert(hospital.patient(), Patient), hospital.candidates(), today=TODAY)
        for item in review.items:
            said = msgspec.json.encode([item.statement, item.missing, item.warnings, item.blocks]).decode().lower()
            assert "safe" not in said.replace("medserve safety --sources", "").replace("docs/safety.md", "").replace(
                "fda drug safety communication", "")  # fmt: skip
            assert (item.is_offered and "none found in medserve-starter, version 2" in item.statement) or (
                not item.is_offered and not item.statement
            )


def test_a_review_takes_less_than_a_millisecond_or_so(envelope):
    """Ten candidates beside ten medicines; on a busy machine, the best of several."""
    import time

    drugs = ["ibuprofen", "metformin", "simvastatin", "paracetamol", "fluconazole", "atorvastatin", "gabapentin",
             "sertraline", "metoprolol", "digoxin"]  # fmt: skip
    taken = [{"drug": one} for one in ("warfarin", "lisinopril", "amlodipine", "furosemide", "omeprazole", "morphine",
                                       "levothyroxine", "prednisone", "levetiracetam", "allopurinol")]  # fmt: skip
    said, best = patient(medicines=taken), 1.0
    for _ in range(50):
        began = time.perf_counter()
        envelope.review(said, drugs, today=TODAY)
        best = min(best, time.perf_counter() - began)
    assert best < 0.003


def test_a_request_says_what_it_is(envelope):
    """Parsed strictly; a wrong word is refused without the value that stood there."""
    body = {"patient": {**WELL, "age_years": 61}, "candidates": [{"drug": "warfarin"}]}
    assert parse_request(msgspec.json.encode(body)).patient.age_years == 61
    asked = [{"drug": "x"}]
    for wrong in (
        {"patient": {"nam": "Smith"}, "candidates": asked},
        {"patient": {"sex": "Smith"}, "candidates": asked},
        {"patient": {}, "candidates": []},
        {"patient": {}},
    ):
        with pytest.raises(Exception) as error:
            parse_request(msgspec.json.encode(wrong))
        assert error.value.code == "safety-request" and "Smith" not in str(error.value)
