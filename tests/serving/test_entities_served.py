"""A model that marks words, on the network: text in, entities with their places in it out."""

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from made_entities import write_conll
from tiny_package import SMALL, Running, serving

from medserve.access.keys import KeyRing
from medserve.app import build
from medserve.client import Client
from medserve.errors import Refusal, Usage
from medserve.road.run import Options
from medserve.road.train import train_package
from medserve.serving.logs import make_log
from medserve.settings import Settings
from medserve.training import tagging

TEXT = "Größe normal. 😀 The mother had colon  cancer in spring."
ADDRESS = "/v1/models/notes/predict"


@pytest.fixture(scope="module")
def notes(tmp_path_factory) -> tuple[Path, Settings]:
    folder, before = tmp_path_factory.mktemp("notes"), tagging.ITERATIONS
    settings, tagging.ITERATIONS = Settings(home=folder / "home"), 25
    options = Options(audit="none", keep="recipe", leaks="keep", name="notes")
    try:
        train_package(write_conll(folder / "data", train=60, other=10), folder / "model", settings=settings,
                      options=options)  # fmt: skip
    finally:
        tagging.ITERATIONS = before
    return folder / "model", settings


@pytest.fixture(scope="module")
def running(notes) -> Iterator[Running]:
    package, settings = notes
    keys = KeyRing.open(settings)
    key = keys.create("tests").key
    application = build(settings, [package], keys=keys, limits=SMALL, threads=1)
    log = StringIO()
    application._log = make_log(log)
    with serving(application) as port:
        yield Running(f"http://127.0.0.1:{port}", port, key, settings, application, log)
    keys.close()


def test_plain_text_json_and_a_document_are_one_answer(running):
    """Places count code points of the text that was sent, emoji and double spaces included."""
    document = {"resourceType": "DocumentReference", "content": [
        {"attachment": {"contentType": "text/plain", "data": base64.b64encode(TEXT.encode()).decode()}}
    ]}  # fmt: skip
    plain = {"content": TEXT.encode(), "headers": {"content-type": "text/plain; charset=utf-8"}}
    with running.http() as http:
        answers = [http.post(ADDRESS, **given) for given in
                   (plain, {"json": {"inputs": {"text": TEXT}}}, {"json": {"inputs": {"text": document}}})]  # fmt: skip
    bodies = [a.json() for a in answers]
    assert [a.status_code for a in answers] == [200] * 3 and len({json.dumps(b["entities"]) for b in bodies}) == 1
    (entity,) = bodies[0]["entities"]
    assert entity["label"] == "Disease" and entity["text"] == "colon  cancer"
    assert TEXT[entity["start"] : entity["end"]] == entity["text"] and bodies[0]["status"] == "answered"
    assert TEXT not in running.log.getvalue() and "colon" not in running.log.getvalue()


def test_the_client_gives_entities_and_refusals(running):
    with Client(running.url, running.key) as client:
        answer = client.predict(TEXT.encode(), model="notes", media_type="text/plain")
        assert answer.entities is not None and [e.text for e in answer.entities] == ["colon  cancer"]
        assert answer.outputs == [] and not answer.abstained
        assert client.predict(b"Nothing was seen.", model="notes", media_type="text/plain").entities == []
        for body, code in ((b"?!", "text-empty"), (b"seen " * 600, "text-too-long")):
            with pytest.raises(Refusal) as caught:
                client.predict(body, model="notes", media_type="text/plain")
            assert caught.value.code == code
        with pytest.raises(Usage) as asked:
            client.predict(TEXT.encode(), model="notes", media_type="text/plain", explain="words")
        assert asked.value.code == "explanation-not-offered"
        (model,) = client.models()
        assert model.task == "tags" and model.labels == ["Disease"] and "text/plain" in model.input.media_types


def test_the_document_of_the_service_names_entities(running):
    with running.http() as http:
        whole = http.get("/openapi.json").json()
    assert set(whole["components"]["schemas"]["Entity"]["required"]) == {"label", "start", "end", "text", "probability"}
    assert "text/plain" in whole["paths"][ADDRESS]["post"]["requestBody"]["content"]


def test_marking_needs_no_training_library(notes):
    """A fresh process opens the package and answers without torch, crfsuite or scikit-learn."""
    package, settings = notes
    code = (
        "import sys\nfrom pathlib import Path\nfrom medserve.models.signing import Trust\n"
        "from medserve.runtime.model import LoadedModel\nfrom medserve.settings import Settings\n"
        f"model = LoadedModel.open(Path({str(package)!r}), Trust.load(Settings(home=Path({str(settings.home)!r}))))\n"
        f"assert model.predict({TEXT.encode()!r})['entities'][0]['text'] == 'colon  cancer'\n"
        "heavy = [m for m in ('torch', 'pycrfsuite', 'sklearn', 'polars', 'transformers') if m in sys.modules]\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
