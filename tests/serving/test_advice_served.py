"""What a model advises passes the rules of safety in the same request: over the network, in batches, at the command
line; nothing that a rule forbids, or that cannot be judged, is in any answer's decision."""

import base64
import contextlib
import io
import json
import re
import sys
import time
from pathlib import Path

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "safety"))

from made_advice import write_arms, write_dose, write_set
from PIL import Image
from plain_reading import Tables
from random_patients import Hospital
from tiny_package import SMALL, serving

from medserve.access.audit import Ledger
from medserve.access.keys import KeyRing
from medserve.app import build
from medserve.cli import run
from medserve.models.signing import Trust
from medserve.runtime.model import LoadedModel
from medserve.safety.patient import parse_patient
from medserve.safety.policy import Standing
from medserve.safety.source import STARTER
from medserve.serving.schema import Answer
from medserve.settings import Settings

POLICY = Path(__file__).parents[2] / "src" / "medserve" / "access" / "policy.yaml"
WELL = {"age_years": 50, "sex": "male", "conditions": [], "allergies": [], "medicines": [], "child_pugh": "none",
        "as_of": "2026-12-01", "labs": [
            {"code": "loinc|98979-8", "value": 90, "unit": "mL/min/{1.73_m2}", "date": "2026-11-20"},
            {"code": "loinc|35591-7", "value": 90, "unit": "mL/min", "date": "2026-11-20"}]}  # fmt: skip
EGFR35 = [{"code": "loinc|98979-8", "value": 35, "unit": "mL/min/{1.73_m2}", "date": "2026-11-20"}]
ARMS = {"none": [], "ibuprofen": ["atc|M01AE01"]}


class House:
    """A service, and keys of several roles."""

    def __init__(self, url, keys, settings, application):
        self.url, self.keys, self.settings, self.application = url, keys, settings, application

    def ask(self, model, inputs=None, patient=None, *, who="clinician", **more):
        import httpx2

        body = ({} if inputs is None else {"inputs": inputs}) | ({} if patient is None else {"patient": patient})
        said = more.pop("headers", {}) | {"authorization": f"Bearer {self.keys[who]}"}
        body = more.pop("content", None) or json.dumps(body | more.pop("beside", {})).encode()
        said.setdefault("content-type", "application/json")
        return httpx2.post(
            f"{self.url}/v1/models/{model}/predict", content=body, headers=said, timeout=30, **more
        )  # fmt: skip


@contextlib.contextmanager
def house(root, folders, said=""):
    settings = Settings(home=root / "home")
    settings.folder()
    if said:
        (settings.home / "safety.yaml").write_text(said)
    asker = "  asker:\n    actions: [models.predict]\n    purposes: [treatment]\nduties:"
    policy = POLICY.read_text().replace("duties:", asker, 1).replace("per_s: 20\n", "per_s: 5000\n")
    (settings.home / "policy.yaml").write_text(policy)
    ring = KeyRing.open(settings)
    keys = {role: ring.create(role, role=role).key for role in ("clinician", "service", "asker")}
    application = build(settings, folders(settings), keys=ring, limits=SMALL, threads=1)
    with serving(application) as port:
        yield House(f"http://127.0.0.1:{port}", keys, settings, application)
    ring.close()


@pytest.fixture(scope="module")
def tables():
    return Tables(STARTER)


def packages(root, tables, settings):
    drugs = sorted(tables.drugs)
    atc = [one for one in drugs if one.startswith("atc|")]
    return [
        write_dose(root / "dose", settings),
        write_arms(root / "arms", settings, ARMS),
        write_arms(root / "pair", settings, {"none": [], "both": ["atc|C10AA01", "atc|J01FA09"], "one": [atc[7]]},
                   name="pair"),
        write_arms(root / "bare", settings, {"none": [], "surgery": []}, name="bare"),
        write_arms(root / "untold", settings, {}, arms=["none", "pill"], name="untold"),
        write_arms(root / "three", settings, {"none": [], "ibuprofen": ["atc|M01AE01"], "paracetamol": ["atc|N02BE01"]},
                   name="three", next=2),
        write_arms(root / "foreign", settings, {"none": [], "new": ["atc|X99ZZ99"]}, name="foreign"),
        write_set(root / "set", settings, atc[::9]),
        write_set(root / "named", settings, atc[:2], name="named", uncoded=["metformin", "balm of the house"]),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def ward(tmp_path_factory, tables):
    root = tmp_path_factory.mktemp("advice")
    with house(root, lambda settings: packages(root, tables, settings)) as found:
        yield found


def codes(answer):
    return [reason["code"] for reason in answer["reasons"]]


def events(ward, trace):
    ledger = Ledger.open(ward.settings)
    found = [event for _, event in ledger.read() if event.trace == trace]
    ledger.close()
    return found


def test_advice_comes_with_its_review_in_one_request(ward):
    """What was looked for and not found is said with source and version; the answer fits the words of the wire, and
    the one audit event names the model and the rules."""
    got = ward.ask("arms", {"pain": 8}, WELL)
    answer = msgspec.json.decode(got.content, type=Answer, strict=True)
    assert answer.decision == {"label": "ibuprofen", "advice": "recommend"} and answer.safety is not None
    (label,) = answer.safety.labels
    assert (answer.safety.status, label.label, label.status) == ("reviewed", "ibuprofen", "offered")
    source = answer.safety.sources[0]
    assert label.items[0].statement.endswith(f"none found in {source.id}, version {source.version}.")
    assert "safe" not in got.text.lower().replace('"safety', "").replace("safety-", "").replace("loinc", "")
    (event,) = events(ward, got.headers["x-trace-id"])
    assert (event.action, event.model) == ("models.predict", answer.model.digest)
    assert event.rules == answer.safety.rules == ward.application.registry.loader.rules.ask().digest


@pytest.mark.parametrize(
    ("model", "inputs", "more", "code", "word"),
    [
        ("arms", {"pain": 8}, {"medicines": [{"drug": "warfarin"}]}, "safety-blocked", "DDI-001"),
        ("arms", {"pain": 8}, {"conditions": [{"code": "icd10|I50.1"}]}, "safety-blocked", "CI-"),
        ("arms", {"pain": 8}, {"allergies": None}, "safety-unknown", "allergies-unknown"),
        ("arms", {"pain": 8}, {"allergies": [{"text": "some pills"}]}, "safety-unknown", "allergy-free-text"),
        ("foreign", {"pain": 8}, {}, "safety-unknown", "drug-unknown"),
        ("pair", {"pain": 8}, {}, "safety-blocked", "DDI-"),  # simvastatin and clarithromycin, one arm
        ("dose", {"weight": 80}, {"labs": EGFR35}, "safety-blocked", "At most 1000 mg/d"),
        ("dose", {"weight": 80}, {"labs": []}, "safety-unknown", "fact-missing"),
        ("dose", {"weight": 80}, {"labs": [EGFR35[0] | {"unit": None}]}, "safety-unknown", "unit-missing"),
    ],
)  # fmt: skip
def test_what_a_rule_forbids_or_cannot_judge_is_not_offered(ward, model, inputs, more, code, word):
    """The model abstains, with the rule or the next step; neither arm nor dose is named anywhere as advice."""
    answer = ward.ask(model, inputs, {k: v for k, v in (WELL | more).items() if v is not None}).json()
    assert (answer["status"], answer["decision"]) == ("abstained", None)
    (reason,) = [one for one in answer["reasons"] if one["code"] == code]
    assert word in reason["message"]
    held = answer["safety"]
    assert held["withheld"] and held["labels"][0]["changes"]
    if model == "dose":
        assert answer["outputs"][0]["value"] is None and answer["outputs"][0]["interval"] is None
        assert not re.search(r"\b1[468]00\b", json.dumps([answer["reasons"], held, answer["outputs"]]))
    else:
        assert (answer["effect"]["advice"], answer["effect"]["arm"]) == ("abstain", None)
        assert answer["effect"]["for_whom"]["arm"] is None


def test_a_dose_below_the_most_is_offered_with_its_limit(ward):
    """40 kg: 800 mg/d of at most 1000; the interval ends at 1000. 45 kg: it reaches above, and that is said."""
    answer = ward.ask("dose", {"weight": 40}, WELL | {"labs": EGFR35}).json()
    assert answer["outputs"][0]["value"] == pytest.approx(800) and answer["status"] == "answered"
    (said,) = [one["message"] for one in answer["reasons"] if one["code"] == "safety-limited"]
    assert "at most 1000 mg/d" in said and "LIM-002" in said and "reaches above" not in said
    answer = ward.ask("dose", {"weight": 45}, WELL | {"labs": EGFR35}).json()
    assert any("reaches above" in one["message"] for one in answer["reasons"])


def test_where_the_best_arm_is_forbidden_the_next_with_evidence_is_named(ward):
    """With both reasons; the arm's own interval excludes no benefit. Where that one is forbidden too, where it has no
    evidence, or where the first cannot be judged, nothing is advised."""
    taken = WELL | {"medicines": [{"drug": "warfarin"}]}
    answer = ward.ask("three", {"pain": 8}, taken, params={"explain": "effect"}).json()
    assert answer["decision"] == {"label": "paracetamol", "advice": "recommend"} and answer["status"] == "answered"
    assert (answer["effect"]["arm"], answer["effect"]["advice"]) == ("paracetamol", "recommend")
    assert answer["effect"]["ranked"] == ["ibuprofen", "paracetamol"] and answer["effect"]["for_whom"]["arm"] is None
    assert answer["effect"]["effects"][1]["interval"][0] > 0 and answer["safety"]["withheld"] == ["ibuprofen"]
    assert codes(answer) == ["safety-blocked", "next-best"]
    told = answer["explanation"]
    assert told["label"] == "ibuprofen against none" and "abstain" not in json.dumps(told["values"])
    fhir = ward.ask("three", {"pain": 8}, taken, headers={"accept": "application/fhir+json"}).json()
    kinds = [one["resource"] for one in fhir["entry"] if one["resource"]["resourceType"] == "MedicationRequest"]
    assert [one["medicationCodeableConcept"]["text"] for one in kinds] == ["paracetamol"]
    for pain, more in (
        (8, {"child_pugh": "C", "conditions": [{"code": "icd10|K74.6"}]}),
        (2.9, {}),
        (8, {"allergies": None}),
    ):
        answer = ward.ask("three", {"pain": pain}, taken | more).json()
        assert answer["decision"] is None and "next-best" not in codes(answer), more


def test_a_set_keeps_what_is_offered(ward, tables):
    """The most probable first; an item that interacts with one before it leaves the decision, the others stay."""
    hospital, seen = Hospital(tables, seed=5), 0
    for _ in range(40):
        answer = ward.ask("set", {"a": 1, "b": 1}, hospital.patient()).json()
        wanted = [one["label"] for one in answer["outputs"] if one["probability"] >= 0.5]
        kept = (answer["decision"] or {"labels": []})["labels"]
        assert sorted(kept + answer["safety"]["withheld"]) == sorted(wanted)
        seen += bool(kept) and bool(answer["safety"]["withheld"])
        assert bool(kept) == (answer["status"] == "answered")
    assert seen > 5


def test_what_is_taken_already_is_gone_on_with(ward):
    """Of a dose and of a set, and with a Bundle's current medicines, it is no duplicate of itself; beside others it
    counts as before, and one who asks the rules themselves is told of it."""
    taking = {"medicines": [{"drug": "metformin"}]}
    answer = ward.ask("dose", {"weight": 40}, WELL | taking).json()
    assert answer["status"] == "answered" and answer["outputs"][0]["value"] == pytest.approx(800)
    labels = ward.ask("set", {"a": 1, "b": 1}, WELL).json()["decision"]["labels"]
    spec = ward.application.registry.find("set", None).model.spec.medicines
    now = [{"drug": spec[label][0]} for label in labels]
    assert ward.ask("set", {"a": 1, "b": 1}, WELL | {"medicines": now}).json()["decision"]["labels"] == labels
    rules = ward.application.registry.loader.rules.ask()
    (item,) = rules.review(parse_patient(json.dumps(WELL | taking).encode()), ["atc|A10BA02"]).items
    assert item.status == "blocked" and "DUP-001" in [one.rule for one in item.blocks]


def test_a_medicine_of_a_set_without_a_code_is_looked_for_by_its_name(ward):
    """What the tables do not know by it is not offered."""
    answer = ward.ask("named", {"a": 0, "b": 0}, WELL).json()
    assert "metformin" in answer["decision"]["labels"] and "balm of the house" not in answer["decision"]["labels"]
    (said,) = [one["message"] for one in answer["reasons"] if one["code"] == "safety-unknown"]
    assert "balm of the house" in said and "drug-unknown" in said


def test_no_forbidden_medicine_is_in_any_decision(ward, tables):
    """Random patients who meet rules often, judged by a second reading of the tables that shares no code."""
    hospital = Hospital(tables, seed=23)
    spec = {name: ward.application.registry.find(name, None).model.spec.medicines for name in ("arms", "pair", "set")}
    offered = held = 0
    for i in range(150):
        said, name = hospital.patient(), ("arms", "pair", "set")[i % 3]
        answer = ward.ask(name, {"pain": 8} if name != "set" else {"a": (i % 7) / 7, "b": (i % 5) / 5}, said).json()
        decision = answer["decision"] or {}
        labels = decision.get("labels") or [one for one in [decision.get("label")] if one]
        chance = {one["label"]: one.get("probability") or 0 for one in answer["outputs"]}
        before = []
        for label in sorted(labels, key=lambda one: -chance.get(one, 0)):
            for drug in spec[name][label]:
                others = [one for one in said["medicines"] or () if one["drug"] != drug]  # itself is gone on with
                beside = said | ({"medicines": others} if said["medicines"] is not None else {})
                assert tables.verdict(beside, drug, before)[0] == "allowed", (said, drug)
                before.append(drug)
                offered += 1
        held += len(answer["safety"]["withheld"])
    assert offered > 20 and held > 40


def test_without_a_patient_no_medicine_is_offered(ward):
    """So unless the installation says otherwise; what is no medicine is answered."""
    for model, inputs in (("arms", {"pain": 8}), ("dose", {"weight": 80}), ("set", {"a": 1, "b": 1})):
        got = ward.ask(model, inputs)
        answer = got.json()
        assert (answer["status"], answer["decision"]) == ("abstained", None)
        (reason,) = [one for one in answer["reasons"] if one["code"] == "safety-required"]
        assert "`patient`" in reason["message"] and answer["safety"]["status"] == "not-reviewed"
        assert events(ward, got.headers["x-trace-id"])[0].rules == answer["safety"]["rules"] != ""
    answer = ward.ask("arms", {"pain": 0}).json()
    assert "safety-required" not in codes(answer)
    answer = ward.ask("bare", {"pain": 8}).json()
    assert answer["decision"]["label"] == "surgery" and answer["safety"] is None and codes(answer) == []


def test_arms_of_which_nobody_said_what_they_are_are_not_advised(ward):
    """A declaration that leaves medicines out is no way around the rules either."""
    for patient in (None, WELL):
        answer = ward.ask("untold", {"pain": 8}, patient).json()
        assert (answer["decision"], answer["effect"]["arm"]) == (None, None)
        assert "medicines-undeclared" in codes(answer) and answer["safety"]["withheld"] == ["pill"]


def test_an_installation_may_answer_without_review(tmp_path):
    """`review: optional`: the decision stays and says what was not done; a review that is asked for binds all the same,
    and with the engine stopped it is refused."""
    folders = lambda settings: [write_arms(tmp_path / "arms", settings, ARMS)]  # noqa: E731
    with house(tmp_path, folders, "review: optional\n") as ward:
        answer = ward.ask("arms", {"pain": 8}).json()
        assert answer["decision"]["label"] == "ibuprofen" and "safety-not-reviewed" in codes(answer)
        warned = WELL | {"medicines": [{"drug": "warfarin"}]}
        assert ward.ask("arms", {"pain": 8}, warned).json()["decision"] is None
        ward.application.registry.loader.rules.envelope.stop("on purpose")
        assert ward.ask("arms", {"pain": 8}).status_code == 200
        got = ward.ask("arms", {"pain": 8}, WELL)
        assert (got.status_code, got.json()["error"]["code"]) == (503, "safety-unavailable")


def test_with_the_engine_stopped_everything_is_refused(tmp_path, tables):
    """With and without a patient, of a dose, arms and a set; other models answer."""
    with house(tmp_path, lambda settings: packages(tmp_path, tables, settings)) as ward:
        ward.application.registry.loader.rules.envelope.stop("on purpose")
        for patient in (None, WELL):
            for model, inputs in (("arms", {"pain": 8}), ("dose", {"weight": 80}), ("set", {"a": 1, "b": 1})):
                got = ward.ask(model, inputs, patient)
                assert (got.status_code, got.json()["error"]["code"]) == (503, "safety-unavailable")
                assert "ibuprofen" not in got.text
        assert ward.ask("bare", {"pain": 8}).status_code == 200


def test_a_broken_source_closes_every_answer_on_medicines(tmp_path):
    folders = lambda settings: [write_arms(tmp_path / "arms", settings, ARMS)]  # noqa: E731
    with house(tmp_path, folders, "sources: [nowhere]\n") as ward:
        for patient in (None, WELL):
            got = ward.ask("arms", {"pain": 8}, patient)
            assert (got.status_code, got.json()["error"]["code"]) == (503, "safety-unavailable")


@pytest.mark.parametrize(
    ("beside", "status", "code"),
    [
        ({"execute": True}, 422, "auto-execute"),
        ({"options": {"auto_order": True}}, 422, "auto-execute"),
        ({"intent": "order"}, 422, "auto-execute"),
        ({"patient": WELL | {"name": "Doe"}}, 422, "safety-request"),
        ({"patient": WELL, "together": True}, 400, "json-invalid"),
        ({"patient": {"resourceType": "Bundle", "entry": []}}, 422, "fhir-patients"),
        ({"patient": {"resourceType": "Bundle", "entry": [], "execute": True}}, 422, "auto-execute"),
    ],
)
def test_bad_requests_are_refused(ward, beside, status, code):
    got = ward.ask("arms", {"pain": 8}, beside=beside)
    assert (got.status_code, got.json()["error"]["code"]) == (status, code)
    assert "Doe" not in got.text


@pytest.mark.parametrize("query", ["execute=true", "auto_order", "explain=effect&execute=1"])
def test_an_order_in_the_address_is_refused(ward, query):
    """Of a prediction, by Open Inference and of a review alike; what is no order has its usual code."""
    import httpx2

    said = {"authorization": f"Bearer {ward.keys['clinician']}", "content-type": "application/json"}
    for path in ("v1/models/arms/predict", "v2/models/dose/infer", "v1/safety/review"):
        got = httpx2.post(f"{ward.url}/{path}?{query}", json={"inputs": {"pain": 8}}, headers=said)
        assert got.status_code == 422 and "auto-execute" in got.text, path
        got = httpx2.post(f"{ward.url}/{path}?execute=false", json={"inputs": {"pain": 8}}, headers=said)
        assert got.status_code == 400 and "query-invalid" in got.text, path


def test_who_may_not_ask_the_rules_may_not_send_a_patient(ward):
    """`safety.review` beside `models.predict`; a model without medicines takes no patient at all."""
    got = ward.ask("arms", {"pain": 8}, WELL, who="asker")
    assert (got.status_code, got.json()["error"]["code"]) == (403, "action-not-allowed")
    assert ward.ask("arms", {"pain": 8}, who="asker").json()["status"] == "abstained"
    assert ward.ask("bare", {"pain": 8}, WELL).json()["error"]["code"] == "json-invalid"


def test_open_inference_has_no_way_around(ward):
    """Tensors carry no patient: no medicine is offered, and the number is NaN."""
    import httpx2

    body = {"inputs": [{"name": "weight", "shape": [1], "datatype": "FP64", "data": [80]}]}
    said = {"authorization": f"Bearer {ward.keys['clinician']}"}
    got = httpx2.post(f"{ward.url}/v2/models/dose/infer", json=body, headers=said).json()
    found = {one["name"]: one["data"] for one in got["outputs"]}
    assert found["status"] == ["abstained"] and "1600" not in json.dumps(got["outputs"])


def test_a_batch_reviews_each_of_its_items(ward):
    """`facts` of a line are the `patient` of a prediction; the event names the rules."""
    import httpx2

    warned = WELL | {"medicines": [{"drug": "warfarin"}]}
    lines = [{"id": "well", "inputs": {"pain": 8}, "facts": WELL}, {"id": "silent", "inputs": {"pain": 8}},
             {"id": "warned", "patient": "p-1", "inputs": {"pain": 8}, "facts": warned},
             {"id": "wrong", "inputs": {"pain": 8}, "facts": {"allergies": "none"}}]  # fmt: skip
    said = {"authorization": f"Bearer {ward.keys['clinician']}", "content-type": "application/x-ndjson"}
    body = "\n".join(map(json.dumps, lines)).encode()
    batch = httpx2.post(f"{ward.url}/v1/models/arms/batch", content=body, headers=said).json()["batch"]
    until = time.monotonic() + 20
    while httpx2.get(f"{ward.url}/v1/batches/{batch}", headers=said).json()["state"] != "done":
        assert time.monotonic() < until
        time.sleep(0.05)
    text = httpx2.get(f"{ward.url}/v1/batches/{batch}/results", headers=said).text
    found = {one["id"]: one for one in map(json.loads, text.splitlines())}
    assert found["well"]["answer"]["decision"]["label"] == "ibuprofen"
    assert [found[name]["answer"]["decision"] for name in ("silent", "warned")] == [None, None]
    assert found["wrong"]["error"]["code"] == "safety-request"
    done = [event for event in events(ward, batch) if event.action == "batches.predict"]
    assert done and {event.rules for event in done} == {ward.application.registry.loader.rules.ask().digest}


def test_the_command_line_has_the_same_answer(ward, tmp_path, capsys):
    """`medserve predict`, `explain` and the package opened in Python pass the same rules."""
    folder = next(one.model.package.folder for one in ward.application.registry.services if one.model.name == "arms")
    home = str(ward.settings.home)

    def predict(body):
        (tmp_path / "asked.json").write_text(json.dumps(body))
        run(["predict", str(folder), "--input", str(tmp_path / "asked.json"), "--home", home, "--json"])
        return json.loads(capsys.readouterr().out)

    for patient in (None, WELL, WELL | {"medicines": [{"drug": "warfarin"}]}):
        body = {"inputs": {"pain": 8}} | ({"patient": patient} if patient else {})
        here, there = predict(body), ward.ask("arms", content=json.dumps(body).encode()).json()
        for name in ("status", "decision", "reasons", "safety", "effect"):
            assert here[name] == there[name]
    body = json.dumps({"inputs": {"pain": 8}, "patient": WELL}).encode()
    trace = ward.ask("arms", content=body).json()["trace"]
    (tmp_path / "asked.json").write_bytes(body)
    again = ["replay", trace, "--models", str(folder), "--input", str(tmp_path / "asked.json"), "--home", home]
    assert run([*again, "--json"]) == 0 and json.loads(capsys.readouterr().out)["same_rules"] is True
    assert predict({"inputs": {"pain": 8}, "execute": True})["error"]["code"] == "auto-execute"
    closed = LoadedModel.open(folder, Trust.load(ward.settings), threads=1)
    record = closed.load(b'{"inputs": {"pain": 8}}')
    with pytest.raises(Exception, match="no rules were opened"):
        closed.answer(closed.score(record[None]), case=record)


def test_rules_that_are_read_anew_are_those_of_the_file(tmp_path):
    """An unreadable safety.yaml requires the review and has no engine: fail closed."""
    settings = Settings(home=tmp_path / "home")
    settings.folder()
    (settings.home / "safety.yaml").write_text("review: never\n")
    standing = Standing.open(settings)
    assert standing.envelope is None and standing.required and "safety-policy" in standing.why


def test_an_explanation_says_the_rules_and_draws_them(ward):
    """`?explain=effect`: what would change the advice does not promise an arm that a rule forbids; a dose that is not
    offered is not told by its evidence either."""
    warned = WELL | {"medicines": [{"drug": "warfarin"}]}
    params = {"params": {"explain": "effect"}}
    answer = msgspec.json.decode(ward.ask("arms", {"pain": 8}, warned, **params).content, type=Answer, strict=True)
    told = answer.explanation
    said = [line.text for line in told.rules]
    assert any("DDI-001 of medserve-starter" in line and "FDA label" in line for line in said)
    assert any(line.startswith("would be offered without: warfarin") for line in said)
    low = msgspec.json.decode(ward.ask("arms", {"pain": 0}, warned, **params).content, type=Answer).explanation
    assert any(one.part.endswith("abstain (ibuprofen: blocked)") for one in low.values)
    plain = Image.open(io.BytesIO(base64.b64decode(told.png)))
    well = ward.ask("arms", {"pain": 8}, WELL, **params).json()["explanation"]
    assert Image.open(io.BytesIO(base64.b64decode(well["png"]))).height < plain.height
    assert any("none found in medserve-starter" in line["text"] for line in well["rules"])
    params = {"params": {"explain": "shapley"}}
    seen = ward.ask("dose", {"weight": 80}, WELL, **params).json()["explanation"]
    assert seen["values"] and seen["total"] == pytest.approx(1600) and seen["rules"]
    for patient in (None, WELL | {"labs": EGFR35}):
        hidden = ward.ask("dose", {"weight": 80}, patient, **params).json()["explanation"]
        assert (hidden["values"], hidden["total"], hidden["base"]) == ([], None, None) and hidden["rules"]


def test_a_client_can_see_what_may_be_advised(ward):
    """The page of a model names its medicines, its address the patient, and the page of the rules whether they bind."""
    import httpx2

    said = {"authorization": f"Bearer {ward.keys['clinician']}"}
    (page,) = httpx2.get(f"{ward.url}/v1/models/arms", headers=said).json()["versions"]
    assert page["medicines"] == ARMS
    paths = httpx2.get(f"{ward.url}/openapi.json", headers=said).json()["paths"]
    form = paths["/v1/models/arms/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]["anyOf"][0]
    assert form["properties"]["patient"] == {"$ref": "#/components/schemas/Patient"}
    assert "patient" not in json.dumps(paths["/v1/models/bare/predict"]["post"]["requestBody"])
    assert httpx2.get(f"{ward.url}/v1/safety", headers=said).json()["review"] == "required"
