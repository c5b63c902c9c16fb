"""Inference in tensors over HTTP: the answers of /v1, case by case, to the last digit; and what is no request."""

import base64
import json
import time

import numpy as np
import pytest
from tensors import binary, packed, read, same
from tiny_package import SIDE, dicom, noise, png, ramp

from medserve.access.audit import Ledger
from medserve.errors import Fault
from medserve.runtime.batcher import BATCH, ROUTINE, STAT
from medserve.runtime.replay import SAME, canonical, difference
from medserve.serving.service import Service
from medserve.store.traffic import SplitRow

TINY = "/v2/models/tiny/infer"
CASES = [{"age": 71.0, "protein": 60.5, "ward": "icu"}, {"age": 33.0, "ward": "general"}, {"age": 500.0, "ward": "icu"}]
TEXTS = ["The mother had colon cancer in spring.", "Größe normal. 😀 No cancer."]


def predicted(http, model, content, media):
    answer = http.post(f"/v1/models/{model}/predict", content=content, headers={"content-type": media})
    return answer.json()


def table() -> dict:
    return {
        "age": np.array([case["age"] for case in CASES]),
        "protein": np.array([case.get("protein", np.nan) for case in CASES]),
        "ward": [case["ward"].encode() for case in CASES],
    }


def test_a_file_and_a_prepared_picture_are_answered_as_by_predict(http):
    """BYTES of a PNG and of a DICOM file, binary and in base64; UINT8 as it enters the graph: one answer."""
    want = predicted(http, "tiny", png(ramp()), "image/png")
    body, headers = binary({"image": [png(ramp()), dicom(ramp())]})
    _, files = read(http.post(TINY, content=body, headers=headers))
    text = base64.b64encode(png(ramp())).decode()
    asked = {
        "name": "image",
        "shape": [1],
        "datatype": "BYTES",
        "data": [text],
        "parameters": {"content_type": "base64"},
    }
    _, coded = read(http.post(TINY, json={"inputs": [asked]}))
    body, headers = binary({"image": ramp()[None, None]})
    _, prepared = read(http.post(TINY, content=body, headers=headers))
    listed = {"name": "image", "shape": [1, 1, SIDE, SIDE], "datatype": "UINT8", "data": ramp()[None, None].tolist()}
    _, nested = read(http.post(TINY, json={"inputs": [listed]}))
    for found in (files, coded, prepared, nested):
        for answer, row in zip(found["answer"], found["probability"], strict=True):
            assert same(json.loads(answer), want)
            assert row.tolist() == [output["probability"] for output in want["outputs"]]
        assert set(found["status"]) == {want["status"].encode()}
    assert len(files["answer"]) == 2


def test_a_table_and_a_text_are_answered_as_by_predict(http):
    """Rows of columns: numbers, words, missing ones; a refused row says why and does not disturb its neighbours."""
    body, headers = binary(table())
    said, found = read(http.post("/v2/models/ward/infer", content=body, headers=headers))
    for case, answer in zip(CASES, found["answer"], strict=True):
        want = predicted(http, "ward", json.dumps({"inputs": case}), "application/json")
        told = json.loads(answer)
        assert told["error"] == want["error"] if "error" in want else difference(told, want) <= SAME  # one batch
        body, headers = binary({k: np.array([v]) if k != "ward" else [v.encode()] for k, v in case.items()})
        alone = http.post("/v2/models/ward/infer", content=body, headers=headers)
        assert alone.status_code == 422 if "error" in want else same(json.loads(read(alone)[1]["answer"][0]), want)
    assert found["status"][2] == b"refused" and np.isnan(found["probability"][2]).all()
    assert not np.isnan(found["probability"][:2]).any()
    body, headers = binary({"text": [text.encode() for text in TEXTS]})
    _, found = read(http.post("/v2/models/notes/infer", content=body, headers=headers))
    for text, answer in zip(TEXTS, found["answer"], strict=True):
        assert same(json.loads(answer), predicted(http, "notes", text.encode(), "text/plain"))


def test_outputs_come_as_they_were_asked_for(http):
    """In order, binary or in JSON one by one; id, name and version are echoed; NaN is null in JSON."""
    wanted = [{"name": "status"}, {"name": "probability", "parameters": {"binary_data": True}}]
    body, headers = binary({"image": [png(ramp()), png(noise())]}, wanted, id="w-7")
    answer = http.post("/v2/models/tiny/versions/1/infer", content=body, headers=headers)
    said, found = read(answer)
    assert [out["name"] for out in said["outputs"]] == ["status", "probability"]
    assert [bool(out.get("parameters")) for out in said["outputs"]] == [False, True]
    assert (said["id"], said["model_name"], said["model_version"]) == ("w-7", "tiny", "1")
    assert found["status"][1] == b"refused" and np.isnan(found["probability"][1]).all()
    assert {"read", "decode", "infer"} <= {part.split(";")[0] for part in answer.headers["server-timing"].split(", ")}
    body, headers = binary({"image": [png(ramp()), png(noise())]}, parameters={"binary_data_output": True})
    said, _ = read(http.post(TINY, content=body, headers=headers))
    assert said["model_version"] == "2" and all(out["parameters"] for out in said["outputs"])
    body, headers = binary({"image": [png(ramp()), png(noise())]})
    assert None in read(http.post(TINY, content=body, headers=headers))[0]["outputs"][0]["data"]


def test_a_request_is_one_event_with_the_digests_of_predict(running, http):
    """Of one file the same keyed digests as of a prediction; of several cases their number, and the body's digest."""
    ledger, witness = Ledger.open(running.settings), running.application.witness
    before = ledger.count()
    body, headers = binary({"image": [png(ramp())]})
    answer = http.post(TINY, content=body, headers=headers)
    told = json.loads(read(answer)[1]["answer"][0])
    many, more = binary({"image": [png(ramp()), png(noise())]})
    http.post(TINY, content=many, headers=more)
    one, two = [event for _, event in ledger.read(after=before)]
    assert (one.action, one.outcome, one.resource, one.count, one.status) == ("models.predict", "allow", "tiny", 0, 200)
    assert one.trace == answer.headers["x-trace-id"] and one.model == told["model"]["digest"]
    assert witness.agrees(one.input, "input", one.tenant, one.trace, png(ramp()))
    assert witness.agrees(one.answer, "answer", one.tenant, one.trace, canonical(told))
    assert two.count == 2 and witness.agrees(two.input, "input", two.tenant, two.trace, many)


def test_the_service_describes_itself_in_tensors(http):
    """Server and model metadata, versions, readiness, the repository's index."""
    assert "binary_tensor_data" in http.get("/v2").json()["extensions"]
    told = http.get("/v2/models/ward").json()
    assert {(one["name"], one["datatype"]) for one in told["inputs"]} == {
        ("age", "FP64"), ("protein", "FP64"), ("ward", "BYTES")
    }  # fmt: skip
    assert http.get("/v2/models/tiny/versions/1").json()["versions"] == ["1", "2"]
    for path in ("/v2/models/tiny/ready", "/v2/models/tiny/versions/2/ready"):
        assert http.get(path).json() == {"name": "tiny", "ready": True}
    listed = http.post("/v2/repository/index").json()
    assert {(one["name"], one["version"], one["state"]) for one in listed} == {
        ("tiny", "1", "READY"), ("tiny", "2", "READY"), ("ward", "1", "READY"), ("notes", "1", "READY")
    }  # fmt: skip


def asked(**changes) -> bytes:
    tensor = {"name": "image", "shape": [1, 1, SIDE, SIDE], "datatype": "UINT8", "data": ramp().ravel().tolist()}
    return json.dumps({"inputs": [tensor | changes]}).encode()


def _overlapping() -> tuple[bytes, dict[str, str]]:
    """Two tensors, each of which claims the whole body."""
    data = png(ramp())
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(data) + 4}}
    head = json.dumps({"inputs": [tensor, tensor | {"name": "film"}]}).encode()
    return head + packed([data]), {"inference-header-content-length": str(len(head))}


GOOD, HEAD = binary({"image": [png(ramp())]})
HOSTILE = {
    "empty": (b"", {}, 400, "infer-invalid"),
    "no json": (b"{", {}, 400, "infer-invalid"),
    "another json": (b"[1]", {}, 400, "infer-invalid"),
    "no inputs": (b'{"inputs": []}', {}, 400, "infer-invalid"),
    "deep": (b'{"inputs":[{"name":"image","shape":[1],"datatype":"UINT8","data":' + b"[" * 100_000, {}, 400, None),
    "many values": (b'{"inputs":[' + b"1," * 800_000, {}, 422, "json-too-many-values"),
    "nan": (asked().replace(b"[0,", b"[NaN,").replace(b"[0, ", b"[NaN, "), {}, 400, "infer-invalid"),
    "head too long": (GOOD, {"inference-header-content-length": "99999999"}, 400, "infer-invalid"),
    "head negative": (GOOD, {"inference-header-content-length": "-1"}, 400, "infer-invalid"),
    "head of many digits": (GOOD, {"inference-header-content-length": "9" * 5000}, 400, "infer-invalid"),
    "head of words": (GOOD, {"inference-header-content-length": "ten"}, 400, "infer-invalid"),
    "head too short": (GOOD, {"inference-header-content-length": "3"}, 400, "infer-invalid"),
    "bytes left over": (GOOD + b"x", HEAD, 400, "infer-invalid"),
    "truncated bytes": (GOOD[:-1], HEAD, 400, "tensor-invalid"),
    "sizes that overlap": (*_overlapping(), 400, "tensor-invalid"),
    "a length inside that lies": (
        GOOD[: int(HEAD["inference-header-content-length"])] + b"\xff\xff\xff\xff" + GOOD[-len(png(ramp())) :],
        HEAD, 400, "tensor-invalid",
    ),
    "2^31 of a shape": (asked(shape=[2**31, 2**31]), {}, 400, "tensor-invalid"),
    "a huge shape": (asked(shape=[2**31]), {}, 400, "tensor-invalid"),
    "a negative shape": (asked(shape=[-1, 1, SIDE, SIDE]), {}, 400, "tensor-invalid"),
    "no shape": (asked(shape=[]), {}, 400, "tensor-invalid"),
    "another shape": (asked(shape=[1, SIDE, SIDE, 1]), {}, 400, "tensor-invalid"),
    "no cases": (asked(shape=[0], data=[]), {}, 400, "tensor-invalid"),
    "too many cases": (asked(shape=[257], datatype="BYTES", data=["x"] * 257), {}, 422, "batch-too-large"),
    "a wrong datatype": (asked(datatype="FP32"), {}, 400, "tensor-invalid"),
    "no datatype": (asked(datatype="COMPLEX"), {}, 400, "tensor-invalid"),
    "too large for it": (asked(data=[256] * SIDE * SIDE), {}, 400, "tensor-invalid"),
    "fractions": (asked(data=[1.5] * SIDE * SIDE), {}, 400, "tensor-invalid"),
    "words for numbers": (asked(data=["5"] * SIDE * SIDE), {}, 400, "tensor-invalid"),
    "no base64": (
        asked(shape=[1], datatype="BYTES", data=["***"], parameters={"content_type": "base64"}), {}, 400,
        "tensor-invalid",
    ),
    "another input": (asked(name="film"), {}, 400, "tensor-unknown"),
    "an unknown output": (*binary({"image": [png(ramp())]}, [{"name": "logits"}]), 400, "tensor-unknown"),
    "a sequence": (*binary({"image": [png(ramp())]}, parameters={"sequence_id": 4}), 400, "parameter-unsupported"),
    "a priority": (*binary({"image": [png(ramp())]}, parameters={"priority": 9}), 400, "parameter-unsupported"),
    "a timeout": (*binary({"image": [png(ramp())]}, parameters={"timeout": 1.5}), 400, "parameter-unsupported"),
    "shared memory": (asked(data=None, parameters={"shared_memory_region": "x"}), {}, 400, "tensor-invalid"),
    "no picture": (*binary({"image": [b"words"]}), 422, "format-unknown"),
    "a tiff": (*binary({"image": [png(ramp(), "TIFF")]}), 415, "media-type"),
    "noise": (*binary({"image": noise()[None, None]}), 422, "out-of-distribution"),
    "compressed": (GOOD, HEAD | {"content-encoding": "gzip"}, 415, "content-encoding"),
    "oversize": (bytes(4 * 2**20), {}, 413, "body-too-large"),
    "no time": (GOOD, HEAD | {"x-request-deadline-ms": "soon"}, 400, "deadline-invalid"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_request_is_refused_with_its_code(http, name):
    """In the protocol's form of an error, with a code and no traceback; and the service goes on."""
    body, headers, status, code = HOSTILE[name]
    got = http.post(TINY, content=body, headers=headers)
    said = got.json()
    assert (got.status_code, code or said["code"]) == (status, said["code"]), said
    assert set(said) == {"error", "code", "kind", "trace"} and said["error"].startswith(said["code"])
    assert said["trace"] == got.headers["x-trace-id"] and "Traceback" not in got.text
    assert http.post(TINY, content=GOOD, headers=HEAD).status_code == 200


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_an_infinite_number_is_refused_and_not_called_missing(http, value):
    body, headers = binary({"age": np.array([value]), "ward": [b"icu"]})
    got = http.post("/v2/models/ward/infer", content=body, headers=headers)
    assert (got.status_code, got.json()["code"]) == (400, "tensor-invalid")


def test_a_deadline_in_microseconds_is_kept(http):
    """One microsecond is too short for anything: 504, in the protocol's form."""
    body, headers = binary({"image": [png(ramp())]}, parameters={"timeout": 1, "priority": 1})
    got = http.post(TINY, content=body, headers=headers)
    assert (got.status_code, got.json()["code"]) == (504, "deadline-missed")


def test_a_model_leaves_the_memory_and_comes_back(http, running):
    """Unload: not ready, UNAVAILABLE in the index, and the next request loads it; load: it is there beforehand."""
    operator = {"authorization": f"Bearer {running.application.identity.keys.create('o', role='ml-engineer').key}"}

    def states():
        return {entry["state"] for entry in http.post("/v2/repository/index").json() if entry["name"] == "notes"}

    asked = {"parameters": {"unload_dependents": False}}
    assert http.post("/v2/repository/models/notes/unload", json=asked).status_code == 403
    assert http.post("/v2/repository/models/notes/unload", json=asked, headers=operator).status_code == 200
    assert states() == {"UNAVAILABLE"} and http.get("/v2/models/notes/ready").status_code == 503
    assert {"notes"} & {e["name"] for e in http.post("/v2/repository/index", json={"ready": True}).json()} == set()
    assert http.post("/v2/repository/models/notes/load", headers=operator).status_code == 200
    assert states() == {"READY"} and http.get("/v2/models/notes/ready").json() == {"name": "notes", "ready": True}
    http.post("/v2/repository/models/notes/unload", headers=operator)
    body, headers = binary({"text": [TEXTS[0].encode()]})
    assert http.post("/v2/models/notes/infer", content=body, headers=headers).status_code == 200
    refused = http.post("/v2/repository/models/notes/load", json={"parameters": {"config": "{}"}}, headers=operator)
    assert (refused.status_code, refused.json()["code"]) == (400, "parameter-unsupported")


def test_a_shadow_is_asked_what_was_asked_in_files(http, running):
    """As of a prediction: compared and counted after the answer has left; not where a version was named."""
    registry = running.application.registry
    split = SplitRow(name="tiny", tenant="", versions={"2": 100}, shadow=["1"], salt=b"0" * 16)
    registry.set_splits([split])
    found = registry.compared("tiny", "1")
    body, headers = binary({"image": [png(ramp()), png(noise())]})
    http.post("/v2/models/tiny/versions/2/infer", content=body, headers=headers)
    assert (found.agreed, found.dropped) == (0, 0)
    for _ in range(20):  # it is dropped where anybody waits
        registry.set_splits([split])  # the service looks at its own every second
        answer = read(http.post(TINY, content=body, headers=headers))[1]["answer"][0]
        assert json.loads(answer)["model"]["version"] == "2"
        time.sleep(0.2)
        if found.agreed:
            break
    registry.set_splits([])
    assert found.agreed and not found.differed and not found.refused


def test_a_shadow_is_shown_a_prepared_picture_that_it_would_have_prepared_alike(http, running):
    """Both versions of the tiny model read the same bytes; one that does not is not asked."""
    registry = running.application.registry
    split = SplitRow(name="tiny", tenant="", versions={"2": 100}, shadow=["1"], salt=b"0" * 16)
    found = registry.compared("tiny", "1")
    found.agreed = found.dropped = 0
    body, headers = binary({"image": ramp()[None, None]})
    for _ in range(20):
        registry.set_splits([split])
        assert http.post(TINY, content=body, headers=headers).status_code == 200
        time.sleep(0.2)
        if found.agreed:
            break
    assert found.agreed
    other = registry.find("tiny", "1").model.spec
    other.transforms.append(other.transforms[-1])
    try:
        told = (found.agreed, found.dropped)
        registry.set_splits([split])
        http.post(TINY, content=body, headers=headers)
        time.sleep(0.2)
        assert (found.agreed, found.dropped) == told
    finally:
        other.transforms.pop()
        registry.set_splits([])


def test_each_case_counts_as_a_request(running):
    """Of a role that may make 40 at once, 60 cases in one request use up what the next would need."""
    body, headers = binary({"image": [png(ramp())] * 60})
    headers["authorization"] = f"Bearer {running.application.identity.keys.create('w', role='clinician').key}"
    with running.http() as http:
        assert http.post(TINY, content=body, headers=headers).status_code == 200
        refused = http.post(TINY, content=body, headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (429, "quota-requests")
    assert int(refused.headers["retry-after"]) >= 1


def test_cases_count_also_where_the_request_fails(running, monkeypatch):
    """Many cases and no time for them: the quota is used up by what was asked, not by what was answered."""
    body, headers = binary({"image": [png(ramp())] * 60})
    headers["authorization"] = f"Bearer {running.application.identity.keys.create('w', role='clinician').key}"

    async def late(self, data, **more):
        raise Fault("late", "Too late.")

    monkeypatch.setattr(Service, "predict", late)
    with running.http() as http:
        assert http.post(TINY, content=body, headers=headers).status_code == 500
        assert http.post(TINY, content=body, headers=headers).status_code == 429


def test_urgency_reaches_the_batcher(http, running, monkeypatch):
    """1 is stat, 2 routine, 3 batch; X-Priority where the body says nothing, else routine."""
    batcher, seen = running.application.registry.find("tiny", "2").batcher, []
    submit = batcher.submit

    async def watched(item, **more):
        seen.append(more["priority"])
        return await submit(item, **more)

    monkeypatch.setattr(batcher, "submit", watched)
    for said, header in ((1, "batch"), (2, ""), (3, ""), (0, "stat"), (0, "")):
        body, headers = binary({"image": ramp()[None, None]}, parameters={"priority": said})
        answer = http.post(TINY, content=body, headers=headers | ({"x-priority": header} if header else {}))
        assert answer.status_code == 200
    assert seen == [STAT, ROUTINE, BATCH, STAT, ROUTINE]
