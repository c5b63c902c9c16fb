"""gRPC: the same door, the same answers; and its own words for what is refused."""

import json
import sys
import threading
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensor_service import tensors
from tensors import packed, same
from tiny_package import SIDE, noise, png, ramp

from medserve.access.audit import Event, Ledger
from medserve.app import serve
from medserve.errors import Usage
from medserve.serving.address import Address
from medserve.serving.oip import open_inference_pb2 as pb
from medserve.serving.oip.door import SERVICE
from medserve.serving.tls import Tls, _make
from medserve.settings import Settings

CODES = grpc.StatusCode


class Client:
    """Unary calls by name."""

    def __init__(self, channel, key=""):
        self._channel, self.key = channel, key

    def call(self, method, request, *, key=None, timeout=20, **metadata):
        key = self.key if key is None else key
        said = [*metadata.items(), *([("authorization", f"Bearer {key}")] if key else [])]
        work = self._channel.unary_unary(
            f"/{SERVICE}/{method}", type(request).SerializeToString, getattr(pb, f"{method}Response").FromString
        )
        return work.with_call(request, metadata=said, timeout=timeout)

    def __call__(self, method, request, **more):
        return self.call(method, request, **more)[0]

    def code(self, method, request, **more):
        with pytest.raises(grpc.RpcError) as error:
            self.call(method, request, **more)
        return error.value.code(), error.value.details()


@pytest.fixture(scope="module")
def ask(running):
    with grpc.insecure_channel(running.grpc) as channel:
        yield Client(channel, running.key)


def picture(*files, model="tiny", version="", **more):
    tensor = pb.ModelInferRequest.InferInputTensor(name="image", datatype="BYTES", shape=[len(files)])
    return pb.ModelInferRequest(
        model_name=model, model_version=version, inputs=[tensor], raw_input_contents=[packed(list(files))], **more
    )


def outputs(response):
    found = {}
    for out, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        if out.datatype == "FP64":
            found[out.name] = np.frombuffer(raw, "<f8").reshape(out.shape)
            continue
        found[out.name] = []
        while raw:
            size = int.from_bytes(raw[:4], "little")
            found[out.name].append(raw[4 : 4 + size])
            raw = raw[4 + size :]
    return found


def test_raw_and_typed_contents_are_answered_as_by_predict(ask, http):
    """A file, a prepared picture as raw bytes and as numbers: the answer of /v1, to the last digit."""
    want = http.post("/v1/models/tiny/predict", content=png(ramp()), headers={"content-type": "image/png"}).json()
    shape = {"name": "image", "datatype": "UINT8", "shape": [1, 1, SIDE, SIDE]}
    kind = pb.ModelInferRequest.InferInputTensor
    raw = pb.ModelInferRequest(model_name="tiny", inputs=[kind(**shape)], raw_input_contents=[ramp().tobytes()])
    contents = pb.InferTensorContents(uint_contents=ramp().ravel().tolist())
    typed = pb.ModelInferRequest(model_name="tiny", inputs=[kind(**shape, contents=contents)])
    for request in (picture(png(ramp())), raw, typed):
        found = outputs(ask("ModelInfer", request))
        assert same(json.loads(found["answer"][0]), want)
        assert found["probability"][0].tolist() == [output["probability"] for output in want["outputs"]]


def test_names_outputs_and_neighbours(ask):
    """id, name and version are echoed, outputs in the order asked for; a refused row leaves the others alone."""
    wanted = [pb.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in ("status", "probability")]
    response = ask("ModelInfer", picture(png(ramp()), png(noise()), version="1", id="w-7", outputs=wanted))
    assert (response.id, response.model_name, response.model_version) == ("w-7", "tiny", "1")
    assert [out.name for out in response.outputs] == ["status", "probability"]
    found = outputs(response)
    assert found["status"][1] == b"refused" and np.isnan(found["probability"]).any(axis=1).tolist() == [False, True]


def test_the_service_describes_itself(ask, running):
    """Server, models, readiness, the index; grpc.health.v1 without a key, and whatever it names, of the service."""
    assert ask("ServerLive", pb.ServerLiveRequest()).live and ask("ServerReady", pb.ServerReadyRequest()).ready
    assert ask("ServerMetadata", pb.ServerMetadataRequest()).name == "medserve"
    told = ask("ModelMetadata", pb.ModelMetadataRequest(name="tiny"))
    assert list(told.versions) == ["1", "2"] and [one.name for one in told.inputs] == ["image"]
    assert ask("ModelReady", pb.ModelReadyRequest(name="tiny", version="2")).ready
    listed = ask("RepositoryIndex", pb.RepositoryIndexRequest(ready=True)).models
    assert {(one.name, one.version, one.state) for one in listed} >= {("tiny", "1", "READY"), ("ward", "1", "READY")}
    with grpc.insecure_channel(running.grpc) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        for name in ("", "tiny", "none"):
            asked = health_pb2.HealthCheckRequest(service=name)
            assert check(asked).status == health_pb2.HealthCheckResponse.SERVING


def test_a_model_is_loaded_and_unloaded_by_who_may(ask, running):
    operator = running.application.identity.keys.create("o", role="ml-engineer").key
    asked = pb.RepositoryModelUnloadRequest(model_name="notes")
    assert ask.code("RepositoryModelUnload", asked)[0] == CODES.PERMISSION_DENIED
    ask("RepositoryModelUnload", asked, key=operator)
    assert not ask("ModelReady", pb.ModelReadyRequest(name="notes")).ready
    ask("RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="notes"), key=operator)
    assert ask("ModelReady", pb.ModelReadyRequest(name="notes")).ready
    asked = pb.RepositoryModelLoadRequest(model_name="notes")
    asked.parameters["config"].string_param = "{}"
    assert ask.code("RepositoryModelLoad", asked, key=operator)[0] == CODES.INVALID_ARGUMENT


def wrong(**changes):
    said = {"name": "image", "datatype": "UINT8", "shape": [1, 1, SIDE, SIDE]} | changes
    return pb.ModelInferRequest(model_name="tiny", inputs=[pb.ModelInferRequest.InferInputTensor(**said)])


REFUSED = {
    "no model": (picture(png(ramp()), model="none"), CODES.NOT_FOUND, "unknown-model"),
    "no version": (picture(png(ramp()), version="9"), CODES.NOT_FOUND, "unknown-version"),
    "an address for a name": (picture(png(ramp()), model="../health/live"), CODES.NOT_FOUND, "unknown-model"),
    "no name": (picture(png(ramp()), model=""), CODES.NOT_FOUND, "unknown-model"),
    "noise": (picture(png(noise())), CODES.INVALID_ARGUMENT, "out-of-distribution"),
    "no contents": (wrong(), CODES.INVALID_ARGUMENT, "tensor-invalid"),
    "no datatype": (wrong(datatype="x"), CODES.INVALID_ARGUMENT, "infer-invalid"),
    "2^62 of a shape": (wrong(shape=[2**62, 2**62]), CODES.INVALID_ARGUMENT, "tensor-invalid"),
    "a value too large": (
        wrong(contents=pb.InferTensorContents(uint_contents=[256] * SIDE * SIDE)), CODES.INVALID_ARGUMENT,
        "infer-invalid",
    ),
    "raw for another": (
        pb.ModelInferRequest(model_name="tiny", raw_input_contents=[b""]), CODES.INVALID_ARGUMENT, "infer-invalid",
    ),
    "too large": (picture(bytes(3 * 2**20)), CODES.RESOURCE_EXHAUSTED, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_says_so_in_the_words_of_grpc(ask, name):
    """A status of gRPC, our code in its details; and the service goes on."""
    request, status, code = REFUSED[name]
    found = ask.code("ModelInfer", request)
    assert found[0] == status and found[1].startswith(code), found
    assert "Traceback" not in found[1]
    assert outputs(ask("ModelInfer", picture(png(ramp()))))["answer"]


def test_strangers_hidden_models_and_bytes_of_no_message(ask, running):
    """Without a key nothing but health; a name that is not of this key looks like one that nobody has."""
    for method in ("ServerMetadata", "ModelMetadata", "ModelReady", "ModelInfer", "RepositoryIndex",
                   "RepositoryModelLoad", "RepositoryModelUnload"):  # fmt: skip
        request = getattr(pb, f"{method}Request")()
        for key in ("", "msk_wrong"):
            assert ask.code(method, request, key=key)[0] == CODES.UNAUTHENTICATED
    narrow = running.application.identity.keys.create("n", models=["ward"]).key
    for request in (picture(png(ramp())), picture(png(ramp()), version="7")):
        code, words = ask.code("ModelInfer", request, key=narrow)
        request.model_name = "gone"
        assert (code, words.replace("tiny", "gone")) == ask.code("ModelInfer", request, key=narrow)
        assert code == CODES.NOT_FOUND
    assert {one.name for one in ask("RepositoryIndex", pb.RepositoryIndexRequest(), key=narrow).models} == {"ward"}
    with grpc.insecure_channel(running.grpc) as channel:
        call = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        with pytest.raises(grpc.RpcError) as error:
            call(b"\xff\xff\xff", timeout=10)  # never read
        assert error.value.code() == CODES.UNAUTHENTICATED
        with pytest.raises(grpc.RpcError) as error:
            call(b"\xff\xff\xff", timeout=10, metadata=[("authorization", f"Bearer {running.key}")])
    assert (error.value.code(), error.value.details()[:12]) == (CODES.INVALID_ARGUMENT, "grpc-invalid")
    assert ask("ServerLive", pb.ServerLiveRequest()).live


def test_every_call_is_one_event_with_its_trace(ask, running):
    """Of the caller who was identified, named in the trailing metadata."""
    ledger = Ledger.open(running.settings)
    before = ledger.count()
    _, call = ask.call("ModelInfer", picture(png(ramp()), png(ramp())))
    told = dict(call.trailing_metadata())

    def mine() -> list[Event]:  # an event of the test before may come late
        return [event for _, event in ledger.read(after=before) if event.trace == told["x-trace-id"]]

    until = time.monotonic() + 10
    while not (found := mine()) and time.monotonic() < until:
        time.sleep(0.01)
    (event,) = found
    assert (event.action, event.count, event.status) == ("models.predict", 2, 200)
    assert event.principal.startswith("k-")


@pytest.fixture
def slow(running, monkeypatch):
    """The engine of tiny 2 takes 0.6 s, and not on the event loop, where a light model may run."""
    service = running.application.registry.find("tiny", "2")
    model = service.model
    monkeypatch.setattr(service.batcher, "_inline_s", 0.0)
    score = model.score
    monkeypatch.setattr(model, "score", lambda images: (time.sleep(0.6), score(images))[1])


def test_a_deadline_and_a_cancelled_call_take_their_work_with_them(ask, running, slow):
    """DEADLINE_EXCEEDED of the call's own deadline and of `timeout`; who cancels is written down as one who left."""
    assert ask.code("ModelInfer", picture(png(ramp())), timeout=0.2)[0] == CODES.DEADLINE_EXCEEDED
    request = picture(png(ramp()))
    request.parameters["timeout"].int64_param = 100_000
    request.parameters["priority"].int64_param = 1
    assert ask.code("ModelInfer", request)[0] == CODES.DEADLINE_EXCEEDED
    before = len(running.lines())
    with grpc.insecure_channel(running.grpc) as channel:
        work = channel.unary_unary(f"/{SERVICE}/ModelInfer", pb.ModelInferRequest.SerializeToString)
        future = work.future(picture(png(ramp())), metadata=[("authorization", f"Bearer {running.key}")])
        until = time.monotonic() + 10
        while not running.application.admission.requests and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.1)  # with the engine by now, which takes 0.6 s
        future.cancel()
    for _ in range(100):
        if any(line["status"] == 499 for line in running.lines()[before:]):
            break
        time.sleep(0.02)
    else:
        pytest.fail("the log does not say that the caller left")
    assert running.application.admission.requests == 0


def test_a_full_service_says_when_to_come_back(ask, running, monkeypatch):
    """UNAVAILABLE, with the seconds in the trailing metadata; more than a quota is RESOURCE_EXHAUSTED."""
    monkeypatch.setattr(running.application.admission, "draining", True)
    with pytest.raises(grpc.RpcError) as error:
        ask("ModelInfer", picture(png(ramp())))
    assert error.value.code() == CODES.UNAVAILABLE and int(dict(error.value.trailing_metadata())["retry-after"]) >= 1


def test_over_mutual_tls(folders, tmp_path):
    """With the service's own certificate; without one of the clients' authority nobody gets as far as a call."""
    settings, packages = folders
    own = tmp_path / "client.pem"
    own.write_bytes(_make(["localhost"], ExtendedKeyUsageOID.CLIENT_AUTH))
    tls = Tls.self_signed(settings, ["localhost"], own)
    with tensors(settings, packages[:1], tls=tls) as running:
        server = Path(tls.certificate).read_bytes()
        port = running.grpc.rpartition(":")[2]
        both = grpc.ssl_channel_credentials(server, own.read_bytes(), own.read_bytes())
        with grpc.secure_channel(f"localhost:{port}", both) as channel:
            assert outputs(Client(channel, running.key)("ModelInfer", picture(png(ramp()))))["answer"]
        for credentials in (grpc.ssl_channel_credentials(server), None):
            wanted = f"localhost:{port}"
            opened = grpc.secure_channel(wanted, credentials) if credentials else grpc.insecure_channel(wanted)
            with opened as channel:
                found = Client(channel, running.key).code("ServerLive", pb.ServerLiveRequest(), timeout=5)
            assert found[0] in (CODES.UNAVAILABLE, CODES.DEADLINE_EXCEEDED)


def test_a_service_that_stops_answers_what_it_took(folders, monkeypatch):
    """The calls under way get their answers; then the address is closed."""
    settings, packages = folders
    answers = []
    with tensors(settings, packages[:1]) as running:
        model = running.application.registry.find("tiny", None).model
        score = model.score
        monkeypatch.setattr(model, "score", lambda images: (time.sleep(0.5), score(images))[1])
        channel = grpc.insecure_channel(running.grpc)
        client = Client(channel, running.key)
        threads = [
            threading.Thread(target=lambda: answers.append(client("ModelInfer", picture(png(ramp())))))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
    for thread in threads:
        thread.join(20)
    assert len(answers) == 4 and all(outputs(answer)["answer"] for answer in answers)
    assert client.code("ServerLive", pb.ServerLiveRequest(), timeout=5)[0] == CODES.UNAVAILABLE
    channel.close()


def test_without_the_extra_it_is_said_what_to_install(monkeypatch, tmp_path):
    """Before anything is opened."""
    monkeypatch.setitem(sys.modules, "medserve.serving.oip.door", None)
    with pytest.raises(Usage, match="gRPC is not installed") as error:
        serve(Settings(home=tmp_path), [], Address(port=0), grpc_port=0)
    assert error.value.code == "grpc-missing" and "medserve[grpc]" in error.value.hint


def test_a_port_that_is_taken_ends_the_start(folders, running):
    settings, packages = folders
    with pytest.raises(Usage) as error:
        serve(settings, packages[:1], Address(port=0), threads=1, grpc_port=int(running.grpc.rpartition(":")[2]))
    assert error.value.code == "port-taken" and "--grpc-port" in error.value.hint


def test_a_storm_of_damaged_messages_never_breaks_it(ask, running):
    """300 mutations of a good message: answered, or refused in the words of gRPC; never UNKNOWN or INTERNAL."""
    rng = np.random.default_rng(0)
    good = picture(png(ramp()), id="w-7").SerializeToString()
    call = ask._channel.unary_unary(f"/{SERVICE}/ModelInfer")
    for _ in range(300):
        broken = bytearray(good)
        for at in rng.integers(0, len(broken), rng.integers(1, 8)):
            broken[at] = rng.integers(0, 256)
        cut = rng.integers(0, len(broken) + 1) if rng.random() < 0.3 else len(broken)
        try:
            call(bytes(broken[:cut]), metadata=[("authorization", f"Bearer {running.key}")], timeout=10)
        except grpc.RpcError as error:
            assert error.code() in (CODES.INVALID_ARGUMENT, CODES.NOT_FOUND), error.details()
    assert outputs(ask("ModelInfer", picture(png(ramp()))))["answer"]
