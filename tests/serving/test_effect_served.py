"""A model of a treatment on the network: JSON in, advice with its effect, interval and reasons out, in milliseconds."""

import base64
import json
import subprocess
import sys
import time

import msgspec
import pytest
from tiny_package import asking

from medserve.data.simulated import NAMES, simulate, write_trial
from medserve.progress import SILENT
from medserve.road.run import Options
from medserve.road.train import train_package
from medserve.serving.schema import Answer
from medserve.settings import Settings

CASE = dict.fromkeys(NAMES, 0.5) | {"x1": 0.9, "x2": 0.9}
MOST_S = 0.02  # of one advice on a warm service


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    """Settings, and the package of a small randomised trial."""
    folder = tmp_path_factory.mktemp("trial")
    settings = Settings(home=folder / "home")
    data = write_trial(simulate(600, seed=1, confounded=False), folder / "data")
    options = Options(audit="quick", seed=1, name="trial")
    train_package(data, folder / "package", settings=settings, options=options, progress=SILENT)
    return settings, folder / "package"


@pytest.fixture(scope="module")
def http(trial):
    settings, package = trial
    with asking(settings, package) as client:
        yield client


def ask(http, inputs, **params):
    return http.post("/v1/models/trial/predict", json={"inputs": inputs}, params=params)


def test_advice_is_answered_in_the_words_of_the_wire(http):
    """Every field has its place in the schema; the effect and its interval stand among the outputs too."""
    found = ask(http, CASE)
    answer = msgspec.json.decode(found.content, type=Answer, strict=True)
    assert answer.effect is not None and answer.effect.advice == "recommend" and answer.effect.arm == "treated"
    assert answer.decision == {"label": "treated", "advice": "recommend"}
    (out,) = answer.outputs
    assert out.label == "treated against control" and out.interval == answer.effect.effects[0].interval
    assert out.interval[0] > 0 and answer.effect.for_whom is not None and len(answer.effect.alike) == 2
    assert answer.safety is None, "its arms are declared to be no medicines"
    assert set(msgspec.to_builtins(answer.effect)) == set(found.json()["effect"]), "no field without a word"


def test_an_explanation_says_what_would_change_the_advice(http):
    """?explain=effect: data and a PNG."""
    told = ask(http, CASE, explain="effect").json()["explanation"]
    assert told["method"] == "effect" and told["values"] and base64.b64decode(told["png"]).startswith(b"\x89PNG")


def test_refusals_and_abstentions_have_codes(http):
    """A value out of range is refused; a confounder that is missing makes it abstain."""
    assert ask(http, CASE | {"x1": 7}).json()["error"]["code"] == "value-out-of-range"
    less = ask(http, {name: value for name, value in CASE.items() if name != "x1"}).json()
    assert less["status"] == "abstained" and "input-required" in [reason["code"] for reason in less["reasons"]]


def test_advice_takes_milliseconds(http):
    """Over the network, on a warm service; the quickest quarter of many, as other tests may run beside it."""
    ask(http, CASE)
    spent = []
    for i in range(40):
        began = time.perf_counter()
        assert ask(http, CASE | {"x1": i / 40}).status_code == 200
        spent.append(time.perf_counter() - began)
    assert sorted(spent)[len(spent) // 4] < MOST_S


def test_serving_needs_no_training_library(trial):
    """A process that opens the package and advises has neither torch nor a library that learns."""
    settings, package = trial
    code = f"""
import sys, json
from pathlib import Path
from medserve.models.signing import Trust
from medserve.runtime.model import LoadedModel
from medserve.settings import Settings
model = LoadedModel.open(Path({str(package)!r}), Trust.load(Settings(home=Path({str(settings.home)!r}))))
record = model.load({json.dumps({"inputs": CASE}).encode()!r}, media="application/json")
assert model.answer(model.score(record[None]), case=record)["effect"]["advice"] == "recommend"
heavy = [m for m in ("torch", "sklearn", "lightgbm", "econml", "pandas", "scipy") if m in sys.modules]
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True)
