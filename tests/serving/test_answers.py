"""The network gives the same answer as the library, under the addresses that it documents, to those who hold a key."""

import base64
import concurrent.futures
import json
import time

import msgspec
import numpy as np
import pytest
from tiny_package import dicom, png, ramp

from medserve.runtime.batcher import BATCH, ROUTINE, STAT
from medserve.serving import schema
from medserve.serving.logs import where
from medserve.serving.routes import ROUTES
from medserve.serving.target import parse_target

PREDICT = "/v1/models/tiny/predict"
PNG = {"content-type": "image/png"}

OPEN = {"/v2/health/live", "/v2/health/ready"}  # as the policy that MedServe brings says
SIGN_IN = {(route.method, route.template) for route in ROUTES if route.open}  # see matrix_identity.py


def same(one: dict, other: dict) -> bool:
    """Equal but for the names of this answer."""
    drop = {"id", "trace"}
    return {k: v for k, v in one.items() if k not in drop} == {k: v for k, v in other.items() if k not in drop}


@pytest.mark.parametrize("explain", [None, "cam", "occlusion"])
def test_the_network_answers_as_the_library_does(running, http, explain):
    """Same package, same bytes, same answer, with and without an explanation."""
    params = {} if explain is None else {"explain": explain}
    got = http.post(PREDICT, content=png(ramp()), headers=PNG, params=params)
    assert got.status_code == 200
    model = running.application.registry.find("tiny", None).model
    assert same(got.json(), json.loads(json.dumps(model.predict(png(ramp()), explain))))
    assert got.headers["x-trace-id"] == got.json()["trace"]
    assert got.headers["cache-control"] == "no-store"
    stages = [part.split(";")[0].strip() for part in got.headers["server-timing"].split(",")]
    assert stages == ["read", "decode", "queue", "batch", "infer", "encode"] + (["explain"] if explain else [])


def test_the_answer_has_the_documented_fields_and_no_other(http):
    """Decoded strictly: an unknown field or a wrong type is an error here."""
    answer = http.post(PREDICT, content=png(ramp()), headers=PNG, params={"explain": "cam"}).json()
    msgspec.convert(answer, schema.Answer)
    assert set(answer) == set(schema.Answer.__struct_fields__)
    assert set(answer["explanation"]) == set(schema.Explanation.__struct_fields__)
    assert set(answer["outputs"][0]) <= set(schema.Output.__struct_fields__)


def test_every_documented_body_gets_the_same_outputs(http):
    """PNG, DICOM, and PNG inside JSON; JPEG answers too."""
    bodies = {
        "image/png": png(ramp()),
        "application/dicom": dicom(ramp()),
        "application/json": json.dumps({"inputs": {"image": base64.b64encode(png(ramp())).decode()}}).encode(),
    }
    outputs = []
    for kind, body in bodies.items():
        got = http.post(PREDICT, content=body, headers={"content-type": kind})
        assert got.status_code == 200, got.text
        outputs.append(got.json()["outputs"])
    assert outputs[0] == outputs[1] == outputs[2]
    jpeg = http.post(PREDICT, content=png(ramp(), "JPEG"), headers={"content-type": "image/jpeg; q=1"})
    assert jpeg.json()["outputs"][1]["probability"] == pytest.approx(outputs[0][1]["probability"], abs=0.02)


def test_versions_answer_under_their_own_address_and_the_last_under_the_name(http):
    """`tiny` 1 and 2 were given in this order."""
    versions = [
        http.post(address, content=png(ramp()), headers=PNG).json()["model"]["version"]
        for address in (PREDICT, "/v1/models/tiny/versions/1/predict", "/v1/models/tiny/versions/2/predict")
    ]
    assert versions == ["2", "1", "2"]


def test_fifty_at_once_get_what_each_gets_alone(running):
    """Concurrency and batching change nothing: every answer equals the sequential one, to the last digit shown."""
    pictures = [png(ramp(i, 120 + 2 * i)) for i in range(50)]
    model = running.application.registry.find("tiny", None).model
    with running.http() as http, concurrent.futures.ThreadPoolExecutor(50) as pool:

        def ask(body: bytes) -> dict:
            return http.post(PREDICT, content=body, headers=PNG).json()

        together = list(pool.map(ask, pictures))
    for body, answer in zip(pictures, together, strict=True):
        alone = model.predict(body)
        assert [o["label"] for o in answer["outputs"]] == [o["label"] for o in alone["outputs"]]
        got, wanted = ([o["probability"] for o in a["outputs"]] for a in (answer, alone))
        np.testing.assert_allclose(got, wanted, atol=1e-6)
        assert (answer["prediction_set"], answer["decision"]) == (alone["prediction_set"], alone["decision"])


def test_the_lists_say_what_is_served(http):
    """Names, versions, digests, labels, media types, offered methods; a model's page adds its card."""
    listed = msgspec.convert(http.get("/v1/models").json(), schema.ModelList).models
    assert [(m.name, m.version) for m in listed] == [("tiny", "1"), ("tiny", "2")]
    assert listed[0].labels == ["normal", "bright"]
    assert [(m.name, m.verdict) for m in listed[0].explanations] == [("occlusion", "PASS"), ("cam", "CAUTION")]
    page = msgspec.convert(http.get("/v1/models/tiny").json(), schema.ModelPage)
    assert [v.version for v in page.versions] == ["1", "2"]
    assert page.card["intended_use"] == "tests"


def test_health_is_open_and_says_nothing_more(running):
    """Live and ready answer without a key, with yes or no."""
    with running.http() as http:
        del http.headers["authorization"]
        assert http.get("/v2/health/live").json() == {"live": True}
        assert http.get("/v2/health/ready").json() == {"ready": True}


def test_many_who_ask_for_readiness_cost_one_inference(running, monkeypatch):
    """The address answers without a key, so a flood of it must not fill the queue."""
    service = running.application.registry.find("tiny", "1")
    passes, score = [], service.model.score

    def slow(images):
        passes.append(len(images))
        time.sleep(0.2)
        return score(images)

    monkeypatch.setattr(service._live, "_probed_at", -1e9)
    monkeypatch.setattr(service.model, "score", slow)
    with running.http() as http, concurrent.futures.ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda _: http.get("/v2/health/ready").status_code, range(8)))
    assert got == [200] * 8 and passes == [1]


def test_ready_is_a_real_inference(running, monkeypatch):
    """When the engine breaks, ready says no."""
    service = running.application.registry.find("tiny", "1")
    monkeypatch.setattr(service._live, "_probed_at", -100.0)
    monkeypatch.setattr(service._live, "_probe_ok", True)
    monkeypatch.setattr(service.model.engine, "_session", None)
    with running.http() as http:
        got = http.get("/v2/health/ready")
        assert (got.status_code, got.json()) == (503, {"ready": False})


def documented(http) -> list[tuple[str, str]]:
    paths = http.get("/openapi.json").json()["paths"]
    return [(path, method) for path, item in paths.items() for method in item]


def test_a_stranger_meets_a_closed_door(running, http):
    """Every documented route, every invented one, every method: 401 without a valid key, health and signing in
    excepted."""
    routes = [*documented(http), ("/nowhere", "get"), ("/", "get"), ("/docs", "get"), ("/v1/models/x/predict", "post")]
    routes += [("/v2/health/live/", "get"), ("/v2/health/../../v1/models", "get"), ("//v2/health/live", "get")]
    assert len(routes) >= 12
    with running.http() as stranger:
        del stranger.headers["authorization"]
        for path, method in routes:
            if (method.upper(), path) in SIGN_IN:
                continue
            for authorization in (None, "", "Bearer", "Bearer msk_wrong", f"Basic {running.key}", running.key):
                headers = {} if authorization is None else {"authorization": authorization}
                got = stranger.request(method, path.replace("{name}", "tiny"), headers=headers)
                if path in OPEN:
                    assert got.status_code == 200
                    continue
                assert got.status_code == 401, (path, authorization)
                said = got.json()  # the protocol has a form of its own
                assert (said if "kind" in said else said["error"])["kind"] == "access"
                assert got.headers["www-authenticate"].startswith("Bearer")


def test_a_revoked_key_is_refused_by_the_running_server(running):
    """Within one second."""
    new = running.application.identity.keys.create("short")
    with running.http() as http:
        http.headers["authorization"] = f"Bearer {new.key}"
        assert http.get("/v1/models").status_code == 200
        running.application.identity.keys.revoke(new.row.id)
        got = http.get("/v1/models")
    assert (got.status_code, got.json()["error"]["code"]) == (401, "key-revoked")


def test_one_document_describes_both_planes(http):
    """OpenAPI 3.1; every reference resolves; what needs a key says so; every error status has a schema."""
    document = http.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    assert set(document["paths"]) == {route.template for route in ROUTES}
    schemas = document["components"]["schemas"]
    text = json.dumps(document)
    for ref in {part.split('"')[0] for part in text.split('"$ref": "')[1:]}:
        assert ref.removeprefix("#/components/schemas/") in schemas
    assert document["security"] == [{"key": []}]
    for path, item in document["paths"].items():
        for method, operation in item.items():
            assert (operation.get("security") == []) == (path in OPEN or (method.upper(), path) in SIGN_IN)
    errors = document["paths"]["/v1/models/{name}/predict"]["post"]["responses"]
    assert {"400", "401", "404", "413", "415", "422", "503", "504"} <= set(errors)


def test_each_request_leaves_one_line_without_values(running, http):
    """Trace, route, status, model, key id and milliseconds; no key, no name, no query, no header value."""
    body = dicom(ramp(), modality="MR", patient="PAT-zq4711zq")
    got = http.post(PREDICT, content=body, headers={"content-type": "application/dicom", "x-note": "Doe^Jane"})
    assert got.status_code == 422
    line = running.line(got.json()["trace"])
    assert line["event"] == "request" and line["route"] == "models.predict" and line["status"] == 422
    assert line["code"] == "wrong-modality" and line["model"] == "tiny" and line["bytes"] == len(body)
    assert line["key"].startswith("k-") and line["ms"] > 0
    whole = running.log.getvalue()
    for secret in (running.key, "zq4711zq", "Doe"):
        assert secret not in whole


def test_an_unexpected_error_shows_its_place_in_the_log_and_nothing_to_the_client(running, http, monkeypatch):
    """500 with a trace; no text of the exception anywhere."""
    service = running.application.registry.find("tiny", "2")

    def broken(data, **more):
        raise KeyError("PAT-zq4711zq")

    monkeypatch.setattr(service.model, "load", broken)
    got = http.post(PREDICT, content=png(ramp()), headers=PNG)
    assert got.status_code == 500
    assert got.json()["error"] == {
        "code": "internal",
        "message": "The service failed on this request.",
        "hint": "Report the trace to whoever runs this service.",
        "kind": "fault",
    }
    line = running.line(got.json()["trace"])
    assert line["failure"].startswith("KeyError at test_answers.py:")
    assert "zq4711zq" not in running.log.getvalue()


def test_a_passed_deadline_is_504(running, http, monkeypatch):
    """The client's own limit is kept, also while the picture is decoded."""
    service = running.application.registry.find("tiny", "2")
    load = service.model.load
    monkeypatch.setattr(service.model, "load", lambda data, **more: time.sleep(0.3) or load(data, **more))
    got = http.post(PREDICT, content=png(ramp()), headers={**PNG, "x-request-deadline-ms": "50"})
    assert (got.status_code, got.json()["error"]["code"]) == (504, "deadline-missed")
    assert int(got.headers["retry-after"]) >= 1


def test_a_full_service_answers_503_before_it_reads(running, http):
    """With all room taken, the next request is told when to come back."""
    admission = running.application.admission
    with admission.admit(admission._max_bytes):
        got = http.post(PREDICT, content=png(ramp()), headers=PNG)
    assert (got.status_code, got.json()["error"]["kind"]) == (503, "capacity")
    assert int(got.headers["retry-after"]) >= 1
    assert http.post(PREDICT, content=png(ramp()), headers=PNG).status_code == 200
    assert (admission.requests, admission.bytes) == (0, 0)


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/v1/models/a/predict", ("a", None)),
        ("/v1/models/a/versions/3/predict", ("a", "3")),
        ("/v1/models/a/versions/predict", None),
        ("/v1/models//predict", None),
        ("/v1/models/predict", None),
        ("/v1/models/a/predict/", None),
        ("/v1/models/a/versions//predict", None),
        ("/v2/models/a/predict", None),
    ],
)
def test_addresses_are_read_exactly(path, target):
    """No other path is a prediction."""
    assert parse_target(path) == target


def test_a_place_is_named_without_the_text():
    """`where` of an error that was never raised, and of one that was."""
    assert where(ValueError("secret")) == "ValueError"


def test_how_urgent_it_is_reaches_the_queue(running, http, monkeypatch):
    """X-Priority in any case of letters; nothing said is routine; another word is a coded usage error."""
    asked = []
    batcher = running.application.registry.find("tiny", None).batcher
    submit = batcher.submit
    monkeypatch.setattr(batcher, "submit", lambda *a, **k: asked.append(k["priority"]) or submit(*a, **k))
    for said in ("stat", "Routine", "batch", None):
        headers = PNG if said is None else PNG | {"x-priority": said}
        assert http.post(PREDICT, content=png(ramp()), headers=headers).status_code == 200
    assert asked == [STAT, ROUTINE, BATCH, ROUTINE]
    wrong = http.post(PREDICT, content=png(ramp()), headers=PNG | {"x-priority": "now"})
    assert wrong.status_code == 400 and wrong.json()["error"]["code"] == "priority-unknown"


def test_a_map_of_the_scoring_pass_needs_no_second_one(running, http, monkeypatch):
    """One pass of the engine for an answer with its map; equal to the map that the library draws by itself."""
    model = running.application.registry.find("tiny", None).model
    alone = model.predict(png(ramp()), "cam")["explanation"]
    passes, score = [], type(model.engine).score
    monkeypatch.setattr(
        type(model.engine), "score", lambda self, images, cam=False: passes.append(cam) or score(self, images, cam=cam)
    )
    got = http.post(PREDICT, content=png(ramp()), headers=PNG, params={"explain": "cam"}).json()
    assert passes == [True] and got["explanation"]["map"] == json.loads(json.dumps(alone["map"]))


def test_a_clients_own_trace_stands_in_the_log_line_and_no_other_text(running, http):
    """The trace id of a valid W3C traceparent; anything else in that header is left out."""
    ours = "4bf92f3577b34da6a3ce929d0e0e4736"
    for said, wanted in ((f"00-{ours}-00f067aa0ba902b7-01", ours), (f"00-{'J' * 32}-00f067aa0ba902b7-01", None)):
        got = http.get("/v1/models", headers={"traceparent": said})
        line = running.line(got.headers["x-trace-id"])
        assert line.get("parent") == wanted
