"""A package answers: the same numbers as by hand, every refusal with its code, no explanation without its audit."""

import base64
import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from tiny_package import SIDE, dicom, logit, noise, png, ramp, spec, write_package

from medserve.data.readers import read
from medserve.errors import BadPackage, Fault, MedServeError, Refusal, Usage
from medserve.models.signing import Trust
from medserve.models.spec import Calibration, Conformal, Method, OutputSpec
from medserve.runtime.model import LoadedModel


@pytest.fixture
def model(tmp_path, settings) -> LoadedModel:
    folder = write_package(tmp_path / "package", settings)
    return LoadedModel.open(folder, Trust.load(settings), threads=1)


def refused(model: LoadedModel, data: bytes, explain: str | None = None) -> str:
    with pytest.raises(MedServeError) as caught:
        model.predict(data, explain)
    return caught.value.code


def test_the_answer_is_the_one_computed_by_hand(model):
    """logit = 10 (mean - 0.5), temperature 2, threshold 0.4, set of all labels with 1 - p <= 0.7."""
    picture = ramp(0, 200)
    answer = model.predict(png(picture))
    p = 1 / (1 + np.exp(-logit(picture[None])[0] / 2))  # mean 99.56 / 255 -> logit -1.10 -> p 0.366
    assert answer["outputs"][1] == {"label": "bright", "code": None, "probability": pytest.approx(p, abs=1e-6)}
    assert answer["outputs"][0]["probability"] == pytest.approx(1 - p, abs=1e-6)
    assert (round(p, 3), answer["prediction_set"], answer["coverage"]) == (0.366, ["normal", "bright"], 0.9)
    assert (answer["status"], answer["decision"]) == ("abstained", None)
    assert [reason["code"] for reason in answer["reasons"]] == ["set-ambiguous"]
    assert answer["model"] == {"name": "tiny", "version": "1", "digest": model.digest}

    sure = model.predict(png(ramp(200, 255)))
    assert (sure["status"], sure["prediction_set"]) == ("answered", ["bright"])
    assert sure["decision"] == {"label": "bright", "threshold": 0.4}
    assert sure["id"] != answer["id"] and len(sure["trace"]) == 32


def test_coverage_that_did_not_hold_is_said_in_every_answer(tmp_path, settings):
    """As the card says it; other limits are not repeated, and a model without sets has no coverage to doubt."""
    limits = ("not-validated", "coverage-off", "guarantee-suspended")
    folder = write_package(tmp_path / "doubted", settings, limits=limits)
    model = LoadedModel.open(folder, Trust.load(settings), threads=1)
    for _ in range(2):
        told = model.predict(png(ramp(200, 255)))
        assert told["coverage"] == 0.9
        assert told["reasons"] == [{"code": code, "message": "said"} for code in limits[1:]]
    plain = write_package(tmp_path / "plain", settings, spec("plain", calibration=Calibration()), limits=limits)
    told = LoadedModel.open(plain, Trust.load(settings), threads=1).predict(png(ramp(200, 255)))
    assert told["coverage"] is None and [one["code"] for one in told["reasons"]] == ["not-calibrated"]


def test_dicom_and_png_of_the_same_pixels_get_the_same_answer(model):
    """One preprocessing path, whatever the file format."""
    one, other = model.predict(png(ramp())), model.predict(dicom(ramp()))
    assert one["outputs"] == other["outputs"]


def test_what_is_out_of_scope_gets_a_code_and_never_a_score(model):
    """Wrong modality, colour, blank, out of distribution, unreadable."""
    colour = np.stack([ramp(), ramp(10, 200), ramp(255, 0)], axis=-1)
    assert refused(model, dicom(ramp(), modality="MR")) == "wrong-modality"
    assert refused(model, png(colour)) == "wrong-colour"
    assert refused(model, png(np.full((SIDE, SIDE), 7, np.uint8))) == "image-blank"
    assert refused(model, png(noise())) == "out-of-distribution"
    assert refused(model, b"") == "file-empty"
    assert refused(model, b"not a picture at all") == "format-unknown"
    assert refused(model, png(ramp())[:-40]) in ("file-truncated", "file-unreadable")
    tiff = io.BytesIO()
    pages = [Image.fromarray(ramp()) for _ in range(3)]
    pages[0].save(tiff, format="TIFF", save_all=True, append_images=pages[1:])
    assert refused(model, tiff.getvalue()) == "several-images"


def test_only_audited_methods_are_offered(model):
    """FAIL, unaudited and torch-only methods are refused and the verdict is named."""
    assert model.offered == {"occlusion": "PASS", "cam": "CAUTION"}
    with pytest.raises(Usage, match="audit says FAIL") as caught:
        model.predict(png(ramp()), "integrated-gradients")
    assert (caught.value.code, caught.value.hint) == ("explanation-not-offered", "Offered: occlusion, cam.")
    with pytest.raises(Usage, match="not audited"):
        model.predict(png(ramp()), "tea-leaves")


def test_a_method_that_needs_torch_is_not_offered_whatever_its_verdict(tmp_path, settings):
    """A service has no torch."""
    methods = [Method(name="integrated-gradients", verdict="PASS")]
    folder = write_package(tmp_path / "package", settings, spec(explanations=methods))
    model = LoadedModel.open(folder, Trust.load(settings), threads=1)
    assert model.offered == {}
    with pytest.raises(Usage, match="needs torch"):
        model.check_explain("integrated-gradients")


@pytest.mark.parametrize(("method", "verdict"), [("cam", "CAUTION"), ("occlusion", "PASS")])
def test_an_explanation_carries_its_verdict_a_picture_and_the_raw_map(model, method, verdict):
    """A bright spot on dark ground is what the model sees: the map peaks there, and the PNG opens."""
    picture = ramp(0, 40)
    picture[8:12, 20:24] = 150
    found = model.predict(png(picture), method)["explanation"]
    assert (found["method"], found["verdict"], found["label"]) == (method, verdict, "bright")
    assert verdict in found["note"]
    heat = np.frombuffer(base64.b64decode(found["map"]["data"]), "<f4").reshape(found["map"]["shape"])
    assert heat.shape == (SIDE, SIDE)
    row, column = np.unravel_index(int(heat.argmax()), heat.shape)
    assert 6 <= row <= 13 and 18 <= column <= 25
    with Image.open(io.BytesIO(base64.b64decode(found["png"]))) as shown:
        assert shown.format == "PNG" and shown.size[0] >= SIDE


def test_a_package_that_this_machine_does_not_reproduce_is_refused(tmp_path, settings):
    """The stored outputs are one off."""
    folder = write_package(tmp_path / "package", settings, wrong=True)
    with pytest.raises(BadPackage, match="logits differs by 1") as caught:
        LoadedModel.open(folder, Trust.load(settings))
    assert caught.value.code == "package-selfcheck"


def test_one_changed_byte_is_refused_in_every_file(tmp_path, settings):
    """Whatever file it is in."""
    folder = write_package(tmp_path / "package", settings)
    trust = Trust.load(settings)
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        path.write_bytes(whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:])
        with pytest.raises(BadPackage):
            LoadedModel.open(folder, trust)
        path.write_bytes(whole)
    LoadedModel.open(folder, trust)


def test_long_batches_give_the_scores_of_single_ones(model):
    """The engine splits what is too long for one pass."""
    images = np.random.default_rng(0).integers(0, 256, (150, 1, SIDE, SIDE), dtype=np.uint8)
    assert model.engine.max_batch < len(images)
    whole = model.score(images, cam=True)
    assert whole.cam.shape == (150, 1, 7, 7)
    np.testing.assert_allclose(whole.logits[:, 0], logit(images), atol=1e-4)
    np.testing.assert_allclose(whole.logits[77], model.score(images[77:78]).logits[0], atol=1e-5)
    assert model.score(images[:2]).cam is None


def test_an_input_of_another_shape_is_a_fault_and_not_a_broken_engine(model):
    """The engine checks what enters it."""
    with pytest.raises(Fault):
        model.score(np.zeros((1, 1, 5, 5), np.uint8))
    with pytest.raises(Fault):
        model.score(np.zeros((1, 1, SIDE, SIDE), np.float32))


def test_a_number_is_answered_with_its_unit_and_interval(tmp_path, settings):
    """value = logit * sd + mean; interval = +- the conformal quantile."""
    output = OutputSpec(task="number", labels=["age"], unit="a", mean=50.0, sd=10.0)
    calibration = Calibration(conformal=Conformal(alpha=0.1, n=200, quantile=7.0))
    changed = spec(output=output, calibration=calibration, operating_points=[], explanations=[])
    model = LoadedModel.open(write_package(tmp_path / "package", settings, changed), Trust.load(settings))
    answer = model.predict(png(ramp()))
    value = float(logit(ramp()[None])[0]) * 10 + 50
    (output_,) = answer["outputs"]
    assert output_["label"] == "age" and output_["unit"] == "a"
    assert output_["value"] == pytest.approx(value, abs=1e-3)
    assert output_["interval"] == pytest.approx([value - 7, value + 7], abs=1e-3)


def test_the_scope_is_checked_on_the_picture_before_it_is_transformed(model):
    """`read` and `prepare` are the two halves of `load`."""
    picture = model.read(png(ramp()), "x.png")
    np.testing.assert_array_equal(model.prepare(picture), model.load(png(ramp())))
    (colour,) = read(png(np.stack([ramp()] * 2 + [ramp(255, 0)], axis=-1)))
    with pytest.raises(Refusal):
        model.prepare(colour)


def test_a_message_never_holds_what_stands_in_the_file(model):
    """Identity in a header stays there."""
    with pytest.raises(Refusal) as caught:
        model.predict(dicom(ramp(), modality="MR", patient="PAT-4711"))
    assert "4711" not in str(caught.value.as_dict()) and "Doe" not in str(caught.value.as_dict())


def test_serving_needs_no_training_framework(tmp_path, settings):
    """With torch, sklearn, matplotlib, monai and captum blocked, a package is opened, answers and explains itself,
    and the whole service is put together."""
    folder = write_package(tmp_path / "package", settings)
    picture = tmp_path / "x.png"
    picture.write_bytes(png(ramp(200, 255)))
    code = f"""
import sys
BLOCKED = ("torch", "sklearn", "matplotlib", "monai", "captum", "onnx", "onnxscript")
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Block())
from pathlib import Path
from medserve.app import build
from medserve.settings import Settings
settings = Settings(home=Path({str(settings.home)!r}))
application = build(settings, [Path({str(folder)!r})], threads=1)
model = application.registry.find("tiny", None).model
answer = model.predict(Path({str(picture)!r}).read_bytes(), "occlusion")
assert answer["decision"]["label"] == "bright" and answer["explanation"]["verdict"] == "PASS"
application.registry.close()
application.identity.keys.close()
import medserve.client, medserve.serving.server
assert not set(BLOCKED) & set(sys.modules)
sys.stdout.write("served")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "served", done.stderr
