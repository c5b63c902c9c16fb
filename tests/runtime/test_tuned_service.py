"""A service on the engine that the tuner chose: it says so, and answers what the reference answers."""

import httpx2
import msgspec
import pytest
from graphs import films
from tiny_package import SMALL, png, serving, write_package

from medserve.access.keys import KeyRing
from medserve.app import build
from medserve.models.package import open_package
from medserve.models.signing import Trust
from medserve.runtime.engine import Choice, versions
from medserve.runtime.model import LoadedModel
from medserve.runtime.tuned import Row, Verdict, processor, write_verdict
from medserve.serving import schema

pytest.importorskip("openvino")


def test_a_service_runs_on_the_chosen_engine_and_says_which(tmp_path, settings):
    """Two streams, so two batches at once; GET /v1/models names engine and precision."""
    folder = write_package(tmp_path / "package", settings)
    trust, chosen = Trust.load(settings), Choice("openvino", "fp32", 2, 4)
    verdict = Verdict(
        "medserve-tuned/1", open_package(folder, trust).digest, processor(), 2, versions(), chosen, {}, [Row(chosen)]
    )
    write_verdict(settings.folder("tuned"), verdict)
    keys, plain = KeyRing.open(settings), LoadedModel.open(folder, trust, threads=2)
    key = keys.create("tests").key
    application = build(settings, [folder], keys=keys, limits=SMALL, threads=2, warn=pytest.fail)
    with serving(application) as port:
        headers = {"authorization": f"Bearer {key}", "content-type": "image/png"}
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=20) as http:
            (listed,) = msgspec.convert(http.get("/v1/models").json(), schema.ModelList).models
            assert listed.engine == schema.EngineInfo("openvino", "fp32")
            for film in films(12):
                wanted = plain.predict(png(film[0]))
                given = http.post("/v1/models/tiny/predict", content=png(film[0])).json()
                for a, b in zip(wanted["outputs"], given["outputs"], strict=True):
                    assert a["probability"] == pytest.approx(b["probability"], abs=1e-4)
                assert wanted["decision"] == given["decision"] and wanted["status"] == given["status"]
    keys.close()
