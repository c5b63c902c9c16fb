"""The client speaks to a real server, gives typed answers, and raises what the service raised."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import httpx2
from tiny_package import dicom, live_server, noise, png, ramp

from medserve.client import Client
from medserve.errors import Busy, Denied, Fault, MedServeError, Refusal, Usage


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with live_server(tmp_path_factory.mktemp("service")) as server:
        yield server


@pytest.fixture
def client(server):
    with Client(server.url, server.key) as client:
        yield client


def test_a_file_gets_a_typed_answer(client, tmp_path):
    """A path, a string or bytes; PNG or DICOM: one answer."""
    path = tmp_path / "x.png"
    path.write_bytes(png(ramp(200, 255)))
    answers = [client.predict(p, model="tiny") for p in (path, str(path), path.read_bytes(), dicom(ramp(200, 255)))]
    assert len({tuple(o.probability for o in a.outputs) for a in answers}) == 1
    answer = answers[0]
    assert not answer.abstained and answer.decision == {"label": "bright", "threshold": 0.4}
    assert answer.prediction_set == ["bright"] and answer.model.digest.startswith("sha256:")
    assert answer.explanation is None


def test_an_explanation_and_a_version_can_be_asked_for(client):
    """Typed as well."""
    answer = client.predict(png(ramp()), model="tiny", version="1", explain="occlusion")
    assert answer.model.version == "1"
    assert (answer.explanation.method, answer.explanation.verdict) == ("occlusion", "PASS")
    assert answer.explanation.map.shape == [28, 28]


def test_the_lists_are_typed(client):
    """Models, a model's page, readiness."""
    assert client.ready() is True
    assert [(m.name, m.version) for m in client.models()] == [("tiny", "1"), ("tiny", "2")]
    assert client.model("tiny").card["intended_use"] == "tests"


@pytest.mark.parametrize(
    ("ask", "kind", "code"),
    [
        (lambda c: c.predict(png(noise()), model="tiny"), Refusal, "out-of-distribution"),
        (lambda c: c.predict(b"words", model="tiny"), Refusal, "format-unknown"),
        (lambda c: c.predict(png(ramp()), model="ä?explain=cam#%2F"), Usage, "unknown-model"),
        (lambda c: c.predict(png(ramp()), model="tiny", explain="x&y=z"), Usage, "explanation-not-offered"),
        (lambda c: c.model("none"), Usage, "unknown-model"),
    ],
)
def test_errors_come_back_as_they_were_raised(client, ask, kind, code):
    """Class, code, hint, and the trace as a note."""
    with pytest.raises(MedServeError) as caught:
        ask(client)
    assert isinstance(caught.value, kind) and caught.value.code == code
    assert caught.value.__notes__[0].startswith("trace: ")


def test_readiness_needs_no_key(server):
    """Health is open; everything else is denied without a key."""
    with Client(server.url, "") as client:
        assert client.ready()
        with pytest.raises(Denied):
            client.models()


def test_a_wrong_key_is_denied(server):
    """Denied, not an empty list."""
    with Client(server.url, "msk_wrong") as client, pytest.raises(Denied):
        client.models()


def scripted(response) -> Client:
    return Client("http://service", "key", transport=httpx2.MockTransport(response))


def test_a_full_service_tells_when_to_come_back():
    """`retry_after_s` is the header's."""
    body = {"error": {"code": "service-full", "message": "m", "hint": "h", "kind": "capacity"}, "trace": "t"}
    with scripted(lambda request: httpx2.Response(503, json=body, headers={"retry-after": "7"})) as client:
        with pytest.raises(Busy) as caught:
            client.models()
    assert caught.value.retry_after_s == 7


@pytest.mark.parametrize(
    "response",
    [
        httpx2.Response(502, text="<html>Bad gateway</html>"),
        httpx2.Response(200, text="<html>Welcome</html>"),
        httpx2.Response(200, json={"models": [{"name": 1}]}),
        httpx2.Response(302, headers={"location": "http://elsewhere"}),
    ],
)
def test_an_answer_of_somebody_else_is_said_to_be_that(response):
    """A proxy's page is no answer; a redirect is not followed with the key in hand."""
    with scripted(lambda request: response) as client, pytest.raises(Fault) as caught:
        client.models()
    assert caught.value.code == "not-medserve"


def test_nobody_there_is_a_fault_with_a_next_step():
    """And `ready` is simply False."""
    with Client("http://127.0.0.1:9", "key") as client:
        assert client.ready() is False
        with pytest.raises(Fault) as caught:
            client.models()
    assert caught.value.code == "unreachable" and caught.value.hint
