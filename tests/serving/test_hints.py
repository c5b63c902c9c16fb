"""Every error that a request can meet says the next step."""

import ast
from pathlib import Path

import pytest
from tiny_package import live_server, png, ramp

import medserve.app  # defines every error that the service has
from medserve.errors import MedServeError, NotFound

ROOT = Path(medserve.app.__file__).parent


def _family(kind: type[MedServeError]) -> set[str]:
    return {kind.__name__}.union(*(_family(one) for one in kind.__subclasses__()))


UNREAD = {"ClientLeft", "Ended", "OAuthError"}  # nobody is there; of gRPC, made of an error; has a hint of its own
NAMES = _family(MedServeError) - _family(NotFound) - UNREAD  # a name that is not known has its neighbours beside it


@pytest.mark.parametrize("path", sorted((ROOT / "serving").rglob("*.py")), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_an_error_of_the_service_says_what_to_do(path):
    """Whoever raises one with a code and a message gives a hint too."""
    silent = [
        f"line {call.lineno}: {ast.unparse(call)[:80]}"
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in NAMES
        if len(call.args) >= 2 and not any(word.arg == "hint" for word in call.keywords)
    ]
    assert not silent


@pytest.fixture(scope="module")
def http(tmp_path_factory):
    with live_server(tmp_path_factory.mktemp("hints")) as running, running.http() as http:
        yield http


REFUSED = {
    "compressed": ("tiny", {"content-encoding": "gzip"}, 415, "content-encoding", "uncompressed"),
    "for an unknown purpose": ("tiny", {"x-purpose": "fun"}, 403, "purpose-not-allowed", "X-Purpose"),
    "before its time": ("tiny", {"x-request-deadline-ms": "-5"}, 400, "deadline-invalid", "500"),
    "in a hurry": ("tiny", {"x-priority": "urgent"}, 400, "priority-unknown", "routine"),
    "with a long head": ("tiny", {"x-long": "a" * 40_000}, 431, "headers-too-large", "32 KiB"),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_refused_request_says_what_to_do(http, name):
    """Whatever is wrong with its head; the service goes on."""
    model, more, status, code, hint = REFUSED[name]
    headers = {"content-type": "image/png"} | more
    answer = http.post(f"/v1/models/{model}/predict", content=png(ramp()), headers=headers)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code) and hint in error["hint"]
    assert http.get("/v2/health/ready").status_code == 200


def test_a_name_of_several_versions_is_named_once():
    """Where a model is unknown, and two versions of another are served."""
    assert str(NotFound("model", "chset", ["chest", "chest"])) == "No model named 'chset' (similar: chest)."


def test_a_purpose_that_is_not_allowed_is_told_which_are(http):
    headers = {"content-type": "image/png", "x-purpose": "fun"}
    said = http.post("/v1/models/tiny/predict", content=png(ramp()), headers=headers).json()["error"]["message"]
    assert "allowed: treatment" in said and "fun" not in said
