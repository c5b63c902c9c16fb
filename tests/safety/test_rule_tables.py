"""Tables of rules: the one that ships, and what is said of one that is wrong."""

import csv
import hashlib
import re
import shutil

import pytest

from medserve.errors import MedServeError
from medserve.safety.envelope import Envelope
from medserve.safety.patient import Condition, Medicine, Patient
from medserve.safety.policy import open_envelope
from medserve.safety.source import STARTER, Source, Unavailable
from medserve.settings import Settings

CITED = re.compile(
    r"FDA label|EU product information|FDA Drug Safety Communication|KDIGO|BNF|AHA|AAAAI|ESC/ERS|WHO|ACC/AHA"
)


def rows(name, folder=STARTER):
    with (folder / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_starter_table_is_as_large_as_it_says_and_cites_every_line():
    """At least 60 interactions and 40 contraindications, each from a label's section or a guideline."""
    assert len(rows("interactions.csv")) >= 60
    assert len(rows("contraindications.csv")) >= 40
    kinds = {row["kind"] for row in rows("contraindications.csv")} | {row["kind"] for row in rows("limits.csv")}
    assert kinds == {"condition", "lab", "age", "pregnancy", "renal", "hepatic"}
    for name in ("interactions.csv", "contraindications.csv", "limits.csv", "allergies.csv", "duplicates.csv"):
        for row in rows(name):
            assert CITED.search(row["citation"]) and len(row["citation"]) > 10, row
            assert "label" not in row["citation"] or re.search(
                r"section|boxed|contraindication|interactions|warnings|precautions|dosage", row["citation"]
            ), row


def test_the_starter_table_is_whole():
    """Every file is as SHA256SUMS says, and every drug's class is the first part of its code."""
    assert Source.open(STARTER).header.id == "medserve-starter"
    drugs = rows("drugs.csv")
    assert len(drugs) > 200 and all(row["code"].startswith(row["class"]) and len(row["class"]) == 9 for row in drugs)
    assert next(row for row in drugs if row["name"] == "warfarin")["code"] == "atc|B01AA03"
    codes = [code for row in drugs for code in (row["code"], *filter(None, row["also"].split(";")))]
    assert all(re.fullmatch(r"atc\|[A-V]\d\d[A-Z]{2}\d\d|rxnorm\|\d{2,7}", code) for code in codes)


# Read off the labels that the lines cite, not off the table.
FORBIDDEN = [
    ("warfarin", "tamoxifen"), ("warfarin", "ibuprofen"), ("dabigatran", "apixaban"), ("rivaroxaban", "itraconazole"),
    ("clopidogrel", "repaglinide"), ("clopidogrel", "omeprazole"), ("linezolid", "mirtazapine"),
    ("linezolid", "sertraline"), ("phenelzine", "morphine"), ("ritonavir", "amiodarone"), ("ritonavir", "simvastatin"),
    ("fluconazole", "erythromycin"), ("fluconazole", "quinidine"), ("dronedarone", "sotalol"),
    ("dronedarone", "amitriptyline"), ("sotalol", "moxifloxacin"), ("amiodarone", "erythromycin"),
    ("ivabradine", "verapamil"), ("triamterene", "spironolactone"), ("quetiapine", "ketoconazole"),
    ("oxycodone", "clarithromycin"), ("thioridazine", "propranolol"), ("pimozide", "azithromycin"),
    ("duloxetine", "ciprofloxacin"), ("clozapine", "ciprofloxacin"), ("midazolam", "ritonavir"),
    ("sildenafil", "isosorbide mononitrate"), ("azathioprine", "febuxostat"), ("methotrexate", "trimethoprim"),
    ("lithium", "hydrochlorothiazide"), ("tizanidine", "ciprofloxacin"), ("lisinopril", "valsartan and sacubitril"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), FORBIDDEN)
def test_a_well_known_pair_is_forbidden(one, other):
    """In either order, with a rule that cites its source."""
    envelope = Envelope.open()
    for taken, asked in ((one, other), (other, one)):
        well = Patient(age_years=50, sex="male", conditions=[], allergies=[], medicines=[Medicine(taken)])
        (item,) = envelope.review(well, [asked]).items
        assert any(rule.kind == "interaction" and rule.citation for rule in item.blocks), (taken, asked)


@pytest.mark.parametrize(
    ("drug", "code", "rule"),
    [
        ("apixaban", "icd10|Z95.2", "CI-083"),
        ("rivaroxaban", "icd10cm|D68.61", "CI-084"),
        ("tamoxifen", "icd10|I26.9", "CI-085"),
    ],
)
def test_a_well_known_contraindication_forbids(drug, code, rule):
    well = Patient(age_years=50, sex="male", conditions=[Condition(code)], allergies=[], medicines=[])
    (item,) = Envelope.open().review(well, [drug]).items
    assert rule in [one.rule for one in item.blocks]


@pytest.fixture
def folder(tmp_path):
    """A copy of the starter table, without its digests."""
    copy = tmp_path / "own"
    shutil.copytree(STARTER, copy, ignore=shutil.ignore_patterns("SHA256SUMS"))
    return copy


def change(folder, name, old, new):
    path = folder / name
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), "utf-8")


def line_of(folder, name, text):
    return next(n for n, line in enumerate((folder / name).read_text("utf-8").splitlines(), 1) if text in line)


@pytest.mark.parametrize(
    ("name", "old", "new", "code"),
    [
        ("interactions.csv", "DDI-002,atc|B01AA03", "DDI-002,warfarin", "rules-row"),
        ("interactions.csv", "DDI-002,atc|B01AA03", "DDI-002,atc|B99AA03", "rules-unmatched"),
        ("interactions.csv", "DDI-002,atc|B01AA03", "DDI-002,group|nothing", "rules-unmatched"),
        ("interactions.csv", "DDI-002,", "DDI-001,", "rules-id"),
        ("interactions.csv", "DDI-002,", ",", "rules-row"),
        ("interactions.csv", "major", "serious", "rules-row"),
        ("interactions.csv", "id,a,b,", "id,a,bb,", "rules-columns"),
        ("interactions.csv", "DDI-002,", "DDI-002,,", "rules-row"),
        ("interactions.csv", "DDI-003", "DDI-\x07", "rules-row"),
        ("contraindications.csv", ",>,5.5,mmol/L", ",>,much,mmol/L", "rules-row"),
        ("contraindications.csv", ",>,5.5,mmol/L", ",=>,5.5,mmol/L", "rules-row"),
        ("contraindications.csv", ",>,5.5,mmol/L", ",>,5.5,kg", "rules-measure"),
        ("contraindications.csv", ",>,5.5,mmol/L", ",>,5.5,foo", "rules-row"),
        ("contraindications.csv", ",>,5.5,mmol/L", ",>,inf,mmol/L", "rules-row"),
        ("contraindications.csv", "measure|potassium", "measure|kalium", "rules-measure"),
        ("contraindications.csv", "icd10|E87.2", "icd10|hello", "rules-row"),
        ("contraindications.csv", ",condition,", ",illness,", "rules-row"),
        ("limits.csv", ",30,45,", ",45,30,", "rules-row"),
        ("limits.csv", ",max,1000,mg/d", ",max,1000,mg", "rules-row"),
        ("limits.csv", ",max,1000,mg/d", ",max,,mg/d", "rules-row"),
        ("limits.csv", "B;C", "B;D", "rules-row"),
        ("allergies.csv", ",same,same,", ",same,group|penicillins,", "rules-row"),
        ("duplicates.csv", "atc|N03AX,none", "atc|N03,none", "rules-row"),
        ("drugs.csv", "atc|B01AA03,warfarin,atc|B01AA", "atc|B01AA03,warfarin,atc|B01AB", "rules-drug"),
        ("drugs.csv", "rxnorm|11289", "rxnorm|1191", "rules-drug"),
        ("groups.csv", "ssri,selective serotonin reuptake inhibitors,atc|N06AB", "ssri,x,atc|N06AC", "rules-unmatched"),
        ("measures.csv", "mmol/L,0.5,15", "mmol/L,15,0.5", "rules-row"),
        ("codes.csv", "snomed|59621000,", "59621000,", "rules-row"),
        ("header.yaml", "major: block", "major: maybe", "rules-header"),
        ("header.yaml", "contraindicated: block", "contraindicated: warn", "rules-severity"),
        ("header.yaml", 'version: "2"', 'versoin: "2"', "rules-header"),
        ("header.yaml", "icd10|K70", "K70", "rules-header"),
    ],
)  # fmt: skip
def test_a_wrong_line_refuses_the_table_and_is_named(folder, name, old, new, code):
    """Nothing is skipped: one wrong cell, and nothing is read; the file and the line are named."""
    number = line_of(folder, name, old)
    change(folder, name, old, new)
    with pytest.raises(MedServeError) as error:
        Envelope.open([folder])
    assert error.value.code == code, str(error.value)
    said = str(error.value)
    assert name in said
    if name != "header.yaml" and code not in ("rules-columns",) and "rxnorm|1191" not in new:
        assert f"line {number}" in said


def test_what_is_no_table_is_not_ignored(folder):
    """A slip in a file's name would take its rules away."""
    (folder / "interactions.csv").rename(folder / "interaction.csv")
    with pytest.raises(MedServeError, match="interaction.csv.*similar: interactions.csv") as error:
        Envelope.open([folder])
    assert error.value.code == "rules-file"
    with pytest.raises(MedServeError) as error:
        Envelope.open([folder / "nowhere"])
    assert error.value.code == "rules-missing"


def test_bytes_that_are_no_text_are_named(folder):
    """UTF-8 is asked for, and the line that is not is told."""
    data = (folder / "interactions.csv").read_bytes()
    (folder / "interactions.csv").write_bytes(data.replace(b"DDI-004", b"DDI-\xff"))
    with pytest.raises(MedServeError, match=r"interactions.csv, line 5: is not UTF-8") as error:
        Envelope.open([folder])
    assert error.value.code == "rules-encoding"


def test_a_table_that_differs_from_its_digest_is_refused(folder):
    """Fail closed: one altered byte, one file too many or too few."""
    sums = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in folder.iterdir())
    (folder / "SHA256SUMS").write_text(sums)
    Envelope.open([folder])
    change(folder, "interactions.csv", "DDI-002", "DDI-902")
    with pytest.raises(Unavailable) as error:
        Envelope.open([folder])
    assert error.value.code == "safety-unavailable" and "interactions.csv" in str(error.value)
    change(folder, "interactions.csv", "DDI-902", "DDI-002")
    (folder / "limits.csv").unlink()
    with pytest.raises(Unavailable):
        Envelope.open([folder])


def test_a_source_without_the_rule_of_allergies_does_not_stand_alone(folder):
    """Allergies would not be looked at at all."""
    text = (folder / "allergies.csv").read_text()
    (folder / "allergies.csv").write_text("".join(one for one in text.splitlines(True) if "ALG-001" not in one))
    with pytest.raises(MedServeError) as error:
        Envelope.open([folder])
    assert error.value.code == "rules-allergy"


def own(tmp_path, **tables):
    """A small source of one's own beside the starter table."""
    folder = tmp_path / "hospital"
    folder.mkdir()
    (folder / "header.yaml").write_text(
        "id: hospital\ntitle: Hospital\nversion: '7'\ndate: 2020-01-31\nlicence: own\norigin: formulary\n"
        "coverage: Two lines.\nseverity: {contraindicated: block, major: block, moderate: block, minor: warn}\n"
    )
    for name, text in tables.items():
        (folder / f"{name}.csv").write_text(text)
    return folder


def test_a_source_of_ones_own_stands_beside_the_starter_table(tmp_path):
    """Keyed by RxNorm, with a class; the union of both restricts, an old source is told, and an allowance of the one
    silences no rule of the other."""
    folder = own(
        tmp_path,
        drugs="code,name,class,synonyms,also,ingredients\nrxnorm|999001,newolol,atc|C07AB,,,\n",
        interactions="id,severity,text,citation,a,b\nH1,moderate,Watch.,House rules 3,rxnorm|999001,atc|A10BA02\n",
        duplicates="id,severity,text,citation,class\nH2,none,Meant.,House rules 4,atc|C07AB\n",
    )
    envelope = Envelope.open([STARTER, folder])
    from medserve.safety.patient import Lab, Medicine, Patient

    labs = [Lab("loinc|98979-8", 80, "mL/min/{1.73_m2}")]
    said = Patient(age_years=40, sex="male", conditions=[], allergies=[], labs=labs, medicines=[Medicine("metformin")])
    review = envelope.review(said, ["rxnorm|999001"])
    (block,) = review.items[0].blocks  # the hospital blocks what is moderate
    assert (block.rule, block.source, block.version) == ("H1", "hospital", "7")
    assert any("hospital is older than 180 days" in note for note in review.notes)
    assert [one.id for one in review.sources] == ["medserve-starter", "hospital"]
    said = Patient(age_years=40, sex="male", conditions=[], allergies=[], medicines=[Medicine("metoprolol")])
    found = {(one.rule, one.source) for one in envelope.review(said, ["newolol"]).items[0].blocks}
    assert ("DUP-002", "medserve-starter") in found


def test_the_policy_of_an_installation(tmp_path):
    """MEDSERVE_HOME/safety.yaml names sources, severities and the digest that is expected."""
    settings = Settings(home=tmp_path)
    own(tmp_path, interactions="id,severity,text,citation,a,b\nH1,minor,Watch.,House rules,atc|B01AA03,atc|A10BA02\n")
    (tmp_path / "safety.yaml").write_text("sources: [hospital]\nseverity: {minor: block}\n")
    envelope = open_envelope(settings)
    assert len(envelope.knowledge.sources) == 2
    (tmp_path / "safety.yaml").write_text(
        f"sources: [hospital]\nseverity: {{minor: block}}\ndigest: {envelope.digest}\n"
    )
    assert open_envelope(settings).digest == envelope.digest
    (tmp_path / "safety.yaml").write_text(f"sources: [hospital]\ndigest: {envelope.digest}\n")
    with pytest.raises(Unavailable):
        open_envelope(settings)
    for wrong in ("starter: false\n", "soruces: []\n", "severity: {major: [}\n"):
        (tmp_path / "safety.yaml").write_text(wrong)
        with pytest.raises(MedServeError) as error:
            open_envelope(settings)
        assert error.value.code in ("safety-policy", "safety-unavailable")
