"""Bad input at the command line: a coded error that names the file and the next step, and nothing half-written."""

import io
import json
import struct
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "data"))

from made_dicom import dicom as made_dicom
from tiny_package import dicom, png, ramp, write_package

from medserve.cli import run as command
from medserve.settings import Settings


def huge_png() -> bytes:
    """A valid PNG header that declares 65535 x 65535 pixels, over a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 65535, 65535, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


def nan_tiff() -> bytes:
    values = np.full((28, 28), 0.5, np.float32)
    values[3, 3] = np.nan
    out = io.BytesIO()
    Image.fromarray(values).save(out, "TIFF")
    return out.getvalue()


BAD = {
    "short.dcm": (dicom(ramp())[:-100], "file-truncated"),
    "no-pixels.dcm": (made_dicom(np.zeros((8, 8), np.uint16), drop=("PixelData",)), "dicom-no-pixels"),
    "empty.png": (b"", "file-empty"),
    "huge.png": (huge_png(), "image-too-large"),
    "words.png": (b"these are words, not pixels", "format-unknown"),
    "nan.tiff": (nan_tiff(), "image-not-finite"),
}


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MEDSERVE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def call(home, capsys):
    """Runs one command line. Returns: exit code and the one JSON object; the logs hold no traceback."""

    def _call(*argv: object) -> tuple[int, dict]:
        code = command([*map(str, argv), "--json"])
        said = capsys.readouterr()
        assert "Traceback" not in said.out + said.err
        assert said.out.count("\n") == 1, said.out
        return code, json.loads(said.out)

    return _call


@pytest.fixture
def refused(call):
    """Runs one command line that must be refused with a code; some word must stand in the message."""

    def _refused(*argv: object, code: str, names: str = "") -> dict:
        status, answer = call(*argv)
        assert status == 2, answer
        error = answer["error"]
        assert error["code"] == code and names in error["message"], error
        assert error["message"] and error["hint"], error
        return error

    return _refused


def films(folder: Path, *, classes: str = "ab", each: int = 8) -> Path:
    """A folder per class of unlike pictures."""
    for index, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(each):
            values = np.random.default_rng((index, i)).integers(0, 256, (28, 28), dtype=np.uint8)
            (folder / name / f"{i}.png").write_bytes(png(values))
    return folder


def arrays(n: int = 40) -> dict[str, np.ndarray]:
    images = np.random.default_rng(0).integers(0, 256, (n, 28, 28), dtype=np.uint8)
    return {"images": images, "labels": np.arange(n) % 2}


def pickled(path: Path) -> Path:
    np.savez(path, **(arrays() | {"labels": np.asarray([{}] * 40, object)}))
    return path


def bomb(path: Path) -> Path:
    """100 MB of zeros in a file of 100 kB."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, values in (("images", np.zeros((10_000, 100, 100), np.uint8)), ("labels", np.arange(10_000) % 2)):
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, values, allow_pickle=False)
    return path


def table(folder: Path, rows: list[str], images: int = 40) -> Path:
    folder.mkdir()
    for i, values in enumerate(arrays(images)["images"]):
        (folder / f"{i}.png").write_bytes(png(values))
    (folder / "labels.csv").write_text("\n".join(["file,label,patient,split", *rows]) + "\n")
    return folder


def rows(n: int = 40) -> list[str]:
    """Twenty patients with two films each, none in two parts."""
    return [f"{i}.png,{'ab'[i // 2 % 2]},p{i // 2},{('train', 'train', 'val', 'test')[i // 10]}" for i in range(n)]


def nothing_left(folder: Path, *kept: str) -> None:
    """No package and no working folder stands beside what was there."""
    assert sorted(p.name for p in folder.iterdir()) == sorted(kept)


def test_inspect_lists_every_bad_file_and_goes_on(call, tmp_path):
    """Each bad file is refused with its own code; the good ones are read; every file is one or the other."""
    data = films(tmp_path / "films")
    for name, (content, _) in BAD.items():
        (data / "a" / name).write_bytes(content)
    status, answer = call("inspect", data)
    assert status == 0 and answer["cases"] == answer["read"] == 16
    assert {r["file"]: r["code"] for r in answer["refused"]} == {f"a/{name}": code for name, (_, code) in BAD.items()}
    assert answer["files"] == answer["read"] + len(answer["refused"])


def test_inspect_names_the_bad_files_to_a_person(home, tmp_path, capsys):
    """Without --json the refused files and their codes stand at the terminal."""
    data = films(tmp_path / "films")
    (data / "a" / "words.png").write_bytes(b"words")
    assert command(["inspect", str(data)]) == 0
    shown = capsys.readouterr().out
    assert "a/words.png" in shown and "format-unknown" in shown


def test_a_set_of_bad_files_alone_is_inspected_but_not_trained_on(call, refused, tmp_path):
    """Inspect still lists them all and writes its page; train refuses and leaves nothing."""
    data = tmp_path / "films"
    for part in "ab":
        (data / part).mkdir(parents=True)
        for name, (content, _) in BAD.items():
            (data / part / name).write_bytes(content)
    status, answer = call("inspect", data, "--out", tmp_path / "sheet.html")
    assert status == 0 and answer["cases"] == answer["read"] == 0 and len(answer["refused"]) == 2 * len(BAD)
    assert "words.png" in (tmp_path / "sheet.html").read_text()
    error = refused("train", data, "--out", tmp_path / "out", code="nothing-readable", names="films")
    assert "inspect" in error["hint"]
    nothing_left(tmp_path, "films", "home", "sheet.html")


@pytest.mark.parametrize("name", BAD)
def test_predict_and_explain_refuse_each_bad_file_by_name(refused, home, tmp_path, name):
    """The same code as in inspect, and no picture or map is written."""
    package = write_package(tmp_path / "package", Settings(home=home))
    content, code = BAD[name]
    (tmp_path / name).write_bytes(content)
    refused("predict", package, "--input", tmp_path / name, code=code, names=name)
    refused("explain", package, "--input", tmp_path / name, "--out", tmp_path / "heat.png", code=code, names=name)
    nothing_left(tmp_path, "home", "package", name)


@pytest.mark.parametrize(("make", "code"), [(pickled, "npz-pickle"), (bomb, "npz-bomb")])
def test_a_hostile_array_file_is_refused_unopened(refused, tmp_path, make, code):
    """Objects are never unpickled, bombs never inflated; the file is named, whatever the verb."""
    data = make(tmp_path / "set.npz")
    refused("inspect", data, code=code, names="set.npz")
    refused("train", data, "--out", tmp_path / "out", code=code, names="set.npz")
    refused("models", "--for", data, code=code, names="set.npz")
    nothing_left(tmp_path, "set.npz", "home")


def test_a_pickle_in_an_array_file_does_not_run(refused, tmp_path):
    """The payload of a crafted object array would make a file; it is not there afterwards."""

    class Payload:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    labels = np.empty(40, object)
    labels[:] = [Payload() for _ in range(40)]
    np.savez(tmp_path / "set.npz", images=arrays()["images"], labels=labels)
    refused("inspect", tmp_path / "set.npz", code="npz-pickle", names="set.npz")
    assert not (tmp_path / "ran").exists()


def test_pixels_that_are_not_numbers(call, refused, tmp_path):
    """One NaN picture is refused and the rest is read; a set of NaN alone cannot be trained on."""
    values = arrays()
    images = values["images"] / np.float32(255)
    images[3, 5, 5] = np.nan
    np.savez(tmp_path / "some.npz", images=images, labels=values["labels"])
    status, answer = call("inspect", tmp_path / "some.npz")
    assert status == 0 and answer["cases"] == 39
    assert [(r["file"], r["code"]) for r in answer["refused"]] == [("some.npz#images/3", "image-not-finite")]
    np.savez(tmp_path / "all.npz", images=images * np.float32(np.nan), labels=values["labels"])
    error = refused("train", tmp_path / "all.npz", "--out", tmp_path / "out", code="nothing-readable", names="all")
    assert "image-not-finite" in error["message"]
    nothing_left(tmp_path, "some.npz", "all.npz", "home")


def test_labels_that_name_missing_files(call, refused, tmp_path):
    """A row without its file is refused by the name in the row; a table of such rows alone cannot be used."""
    status, answer = call("inspect", table(tmp_path / "one", [*rows(), "gone.png,a,p99,train"]))
    assert status == 0 and [(r["file"], r["code"]) for r in answer["refused"]] == [("gone.png", "label-file-missing")]
    assert answer["cases"] == 40 and answer["files"] == answer["read"] + 1
    data = table(tmp_path / "all", [f"x{i}.png,{'ab'[i % 2]},p{i},train" for i in range(9)], images=0)
    status, answer = call("inspect", data)
    assert status == 0 and [r["code"] for r in answer["refused"]] == ["label-file-missing"] * 9
    error = refused("train", data, "--out", tmp_path / "out", code="nothing-readable", names="all")
    assert "label-file-missing" in error["message"]


def test_a_declared_table_that_is_missing(refused, tmp_path):
    """The declaration names a table that is not there: the table is named."""
    data = films(tmp_path / "films")
    (data / "dataset.yaml").write_text("name: films\ntable: gone.csv\ntarget: {column: label, kind: binary}\n")
    refused("inspect", data, code="label-file-missing", names="gone.csv")


def test_one_class_only(call, refused, tmp_path):
    """Inspect says so and goes on; train refuses, names the set and leaves nothing."""
    data = films(tmp_path / "films", classes="a")
    status, answer = call("inspect", data)
    assert status == 0 and "one-class" in {p["code"] for p in answer["problems"]}
    refused("train", data, "--out", tmp_path / "out", code="one-class-only", names="films")
    np.savez(tmp_path / "set.npz", images=arrays()["images"], labels=np.zeros(40, int))
    refused("train", tmp_path / "set.npz", "--out", tmp_path / "out", code="one-class-only", names="set.npz")
    nothing_left(tmp_path, "films", "set.npz", "home")


def test_a_patient_in_two_official_parts(call, refused, tmp_path):
    """Inspect shows the leak, `--leaks refuse` stops, and the patient's own identifier is not echoed."""
    crossing = [row.replace(",p19,", ",p0,") for row in rows()]
    data = table(tmp_path / "films", crossing)
    status, answer = call("inspect", data)
    assert status == 0
    assert {(k["kind"], k["part_a"], k["part_b"]) for k in answer["leaks"]} == {("patient", "train", "test")}
    error = refused("train", data, "--out", tmp_path / "out", "--leaks", "refuse", code="patient-in-two-parts",
                    names="films")  # fmt: skip
    assert "train and test" in error["message"] and "p0" not in error["message"]
    nothing_left(tmp_path, "films", "home")


@pytest.mark.parametrize("name", ["graph.onnx", "weights.safetensors", "model.json", "card.json", "manifest.sig"])
def test_a_package_with_one_byte_changed(refused, home, tmp_path, name):
    """Every verb that opens it refuses, naming the folder; nothing is served or written."""
    folder = write_package(tmp_path / "package", Settings(home=home))
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    (tmp_path / "x.png").write_bytes(png(ramp()))
    code = "package-signature" if name == "manifest.sig" else "package-altered"
    named = str(folder) if name == "manifest.sig" else name
    for argv in (
        ("predict", folder, "--input", tmp_path / "x.png"),
        ("explain", folder, "--input", tmp_path / "x.png", "--out", tmp_path / "heat.png"),
        ("evaluate", folder, "--data", tmp_path),
        ("models", folder),
        ("serve", "--models", folder, "--port", 0),
    ):
        refused(*argv, code=code, names=named)
    nothing_left(tmp_path, "home", "package", "x.png")


def test_paths_that_are_not_there(refused, home, tmp_path):
    """Data, packages and pictures that do not exist are named."""
    gone, package = tmp_path / "gone", write_package(tmp_path / "package", Settings(home=home))
    (tmp_path / "x.png").write_bytes(png(ramp()))
    refused("inspect", gone, code="data-missing", names="gone")
    refused("train", gone, "--out", tmp_path / "out", code="data-missing", names="gone")
    refused("models", "--for", gone, code="data-missing", names="gone")
    refused("evaluate", package, "--data", gone, code="data-missing", names="gone")
    refused("models", gone, code="package-missing", names="gone")
    refused("predict", gone, "--input", tmp_path / "x.png", code="package-missing", names="gone")
    refused("serve", "--models", gone, "--port", 0, code="package-missing", names="gone")
    refused("predict", package, "--input", gone, code="input-missing", names="gone")
    refused("explain", package, "--input", gone, "--out", tmp_path / "h.png", code="input-missing", names="gone")
    nothing_left(tmp_path, "home", "package", "x.png")


@pytest.mark.parametrize(("input", "out"), [("case.json", "case.png"), ("film.png", "film.png")])
def test_evidence_is_not_written_over_the_input(refused, home, tmp_path, input, out):
    """The values go into a .json beside the picture, which may be the case that was asked about."""
    package = write_package(tmp_path / "package", Settings(home=home))
    (tmp_path / input).write_bytes(png(ramp()))
    refused("explain", package, "--input", tmp_path / input, "--out", tmp_path / out, code="out-is-input", names=out)
    assert (tmp_path / input).read_bytes() == png(ramp())


def test_out_that_exists_is_left_alone(refused, tmp_path):
    """Nothing is written over, and the error comes before anything is read."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    data = films(tmp_path / "films")
    refused("train", data, "--out", tmp_path / "out", code="out-exists", names="out")
    refused("train", data, "--out", tmp_path / "file", code="out-exists", names="file")
    assert (tmp_path / "out" / "mine.txt").read_text() == (tmp_path / "file").read_text() == "mine"
    nothing_left(tmp_path, "films", "file", "out")


@pytest.mark.parametrize(
    ("extra", "code", "names"),
    [
        (["--recipe", "residual-quik"], "unknown-recipe", "residual-quick"),
        (["--name", "a/b"], "name-unusable", "a/b"),
        (["--seed", "-1"], "bad-plan", "seed"),
        (["--epochs", "0"], "bad-plan", "epochs"),
        (["--folds", "1"], "folds-too-few", "folds"),
        (["--epoch", "3"], "bad-arguments", "--epochs"),
        (["--epochs", "many"], "bad-arguments", "many"),
        (["--leaks", "ignore"], "bad-arguments", "refuse"),
        (["--question", "fortune"], "bad-arguments", "diagnosis"),
        (["--decision-range", "0.5", "0.2"], "decision-range", "rising"),
    ],
)
def test_options_are_checked_before_any_file_is_read(refused, tmp_path, extra, code, names):
    """A typing error costs no reading time and leaves nothing; the message names what was meant."""
    refused("train", films(tmp_path / "films", each=1), "--out", tmp_path / "out", *extra, code=code, names=names)
    assert not [p for p in tmp_path.iterdir() if p.name not in ("films", "home")]


@pytest.mark.parametrize(
    ("argv", "names"),
    [
        (["diagnose"], "diagnose"),
        (["inspect"], "data"),
        (["train", "films"], "--out"),
        (["predict", "package"], "--input"),
        (["keys", "destroy"], "destroy"),
        (["inspect", "films", "--depth", "3"], "--depth"),
    ],
)
def test_unknown_verbs_and_flags_point_to_the_help(refused, argv, names):
    """Exit code 2 and a hint that names a help page which exists."""
    error = refused(*argv, code="bad-arguments", names=names)
    page = error["hint"].removeprefix("See: medserve ").split()
    assert page[-1] == "--help" and command(page) == 0


def test_errors_for_a_person_stand_on_stderr(home, tmp_path, capsys):
    """Without --json: code, message and next step on stderr; stdout stays empty for pipes."""
    assert command(["inspect", str(tmp_path / "gone")]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("data-missing: ") and "next: " in said.err
