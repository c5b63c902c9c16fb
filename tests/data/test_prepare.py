"""One pass: every item becomes a case or a coded refusal, the same in one process and in several."""

import sys

import numpy as np
import pytest
from PIL import Image

from medserve.data import _pool
from medserve.data.forms import list_items
from medserve.data.phantoms import make_phantoms
from medserve.data.prepare import prepare, probe
from medserve.data.transforms import default_transforms
from medserve.errors import BadData

SHAPE = (1, 16, 16)
GREY = default_transforms(shape=SHAPE, colour=False, unit=None)


def folder(path, n=6, size=16):
    for k in range(n):
        place = path / ("a", "b")[k % 2] / f"{k:03}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(k).integers(0, 255, (size, size), np.uint8)).save(place)
    return path


def npz(path, images, labels=None):
    np.savez(path, images=images, labels=np.arange(len(images)) % 2 if labels is None else labels)
    return path


def test_every_file_becomes_a_case_in_order(tmp_path):
    """Cases, shelf and thumbnails stand in the order of the listing; 8-bit grey of the right size passes untouched."""
    listing = list_items(folder(tmp_path / "set"))
    cohort = prepare(listing, GREY, SHAPE, tmp_path / "out")
    assert [c.id for c in cohort.cases] == [i.id for i in listing.items]
    assert (cohort.files, cohort.refused, len(cohort.thumbs), cohort.thumbs.shape) == (6, (), 6, (1, 64, 64))
    for row, item in enumerate(listing.items):
        assert np.array_equal(cohort.shelf.take([row])[0, 0], np.asarray(Image.open(item.file)))


def test_several_processes_give_the_same_cohort(tmp_path):
    """Workers change nothing: cases, order, shelf, digest."""
    listing = list_items(folder(tmp_path / "set", n=21))
    (tmp_path / "set" / "a" / "000.png").write_bytes(b"no image")
    one, two = (prepare(listing, GREY, SHAPE, tmp_path / f"out{w}", workers=w) for w in (1, 2))
    assert (one.cases, one.refused, one.digest) == (two.cases, two.refused, two.digest)
    assert [(r.file, r.code) for r in one.refused] == [("a/000.png", "format-unknown")]
    assert np.array_equal(one.shelf.take(range(20)), two.shelf.take(range(20)))


CRASHING = """
import os, sys
from medserve.data import _pool, _records
real = _pool.file_records
def records(path, job):
    yield from real(path, job)
    if path.name in ("004.png", "017.png"):
        os._exit(9)
_pool.file_records = records
_pool.work(sys.stdin.buffer, sys.stdout.buffer)
"""


def test_a_codec_that_kills_its_process_costs_one_file(tmp_path, monkeypatch):
    """The file that was being read is refused, nothing of it stays, and the rest is read by a new worker."""
    monkeypatch.setattr(_pool, "WORKER", (sys.executable, "-c", CRASHING))
    listing = list_items(folder(tmp_path / "set", n=20))
    cohort = prepare(listing, GREY, SHAPE, tmp_path / "out", workers=2)
    assert sorted((r.file[-7:], r.code) for r in cohort.refused) == [
        (n, "decoder-crashed") for n in ("004.png", "017.png")
    ]
    assert len(cohort) == len(cohort.shelf) == 18
    alone = prepare(listing, GREY, SHAPE, tmp_path / "alone", workers=1)
    kept = [row for row, c in enumerate(alone.cases) if c.file[-7:] not in ("004.png", "017.png")]
    assert np.array_equal(cohort.shelf.take(range(18)), alone.shelf.take(kept))


def test_equal_pixels_have_equal_digests_whatever_the_file(tmp_path):
    """PNG and TIFF of one image differ in bytes and agree in pixels; a blank one is marked."""
    values = np.random.default_rng(1).integers(0, 255, (16, 16), np.uint8)
    for name, image in {"a/1.png": values, "b/2.tif": values, "b/3.png": np.full((16, 16), 7, np.uint8)}.items():
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "set" / name)
    one, two, blank = prepare(list_items(tmp_path / "set"), GREY, SHAPE, tmp_path / "out").cases
    assert one.sha256 != two.sha256 and one.pixels == two.pixels and one.hash == two.hash
    assert [c.blank for c in (one, two, blank)] == [False, False, True]


def test_rows_that_cannot_be_used_are_refused_one_by_one(tmp_path):
    """NaN pixels: the row is refused and named; it counts as a file, so that files == read + refused."""
    images = np.random.default_rng(0).normal(size=(6, 16, 16)).astype(np.float32)
    images[2, 3, 3] = np.nan
    cohort = prepare(list_items(npz(tmp_path / "x.npz", images)), GREY, SHAPE, tmp_path / "out")
    assert [(r.file, r.code) for r in cohort.refused] == [("x.npz#images/2", "image-not-finite")]
    assert (len(cohort), cohort.files - len(cohort.refused)) == (5, 1)


def test_the_digest_follows_the_content(tmp_path):
    """Same pixels and labels, same digest, wherever they stand; another label, another digest."""
    images = np.random.default_rng(0).integers(0, 255, (4, 16, 16), np.uint8)
    paths = [
        npz(tmp_path / n, images, np.array(y))
        for n, y in (("a.npz", [0, 1, 0, 1]), ("b.npz", [0, 1, 0, 1]), ("c.npz", [0, 1, 1, 1]))
    ]
    a, b, c = (prepare(list_items(p), GREY, SHAPE, tmp_path / p.stem).digest for p in paths)
    assert a == b != c


def test_frames_of_one_file_share_a_patient(tmp_path):
    """A multi-frame file gives a case a frame, all of one patient; one unreadable file is refused whole."""
    frames = [Image.fromarray(np.random.default_rng(k).integers(0, 255, (16, 16), np.uint8)) for k in range(3)]
    for place in ("a", "b"):
        (tmp_path / "set" / place).mkdir(parents=True)
    frames[0].save(tmp_path / "set" / "a" / "many.tif", save_all=True, append_images=frames[1:])
    frames[1].save(tmp_path / "set" / "b" / "one.png")
    cohort = prepare(list_items(tmp_path / "set"), GREY, SHAPE, tmp_path / "out")
    assert [c.id.split("#")[0] for c in cohort.cases] == ["a/many.tif"] * 3 + ["b/one.png"]
    assert len({c.id for c in cohort.cases}) == 4 and cohort.files == 2
    assert len({c.patient for c in cohort.cases}) == 2


def dicom_set(path, people, declared=None):
    """Phantoms whose files carry `people` as PatientID, one each, in two class folders."""
    import pydicom

    made = make_phantoms(path / "made", n=len(people), size=16)
    for k, (file, person) in enumerate(zip(sorted((made / "images").iterdir()), people, strict=True)):
        ds = pydicom.dcmread(file)
        ds.PatientID = person
        place = path / "set" / "ab"[k % 2] / file.name
        place.parent.mkdir(parents=True, exist_ok=True)
        ds.save_as(place)
    if declared:
        (path / "set" / "dataset.yaml").write_text(declared)
    return path / "set"


def test_dicom_patients_are_found_and_hidden(tmp_path):
    """PatientID groups the cases; the cohort holds its pseudonym only."""
    cohort = prepare(list_items(dicom_set(tmp_path, ["ann", "ann", "bob", "cid"])), GREY, SHAPE, tmp_path / "out")
    assert len({c.patient for c in cohort.cases}) == 3 and not cohort.independent
    assert "ann" not in repr(cohort) and "bob" not in repr(cohort)


@pytest.mark.parametrize("declared", ["name: x\nindependent: true\n", None])
def test_an_identifier_that_names_nobody_is_not_a_patient(tmp_path, declared):
    """One PatientID on every file, or `independent: true`: each file is its own patient, said aloud."""
    people = ["ANON"] * 12 if declared is None else ["p1"] * 6 + ["p2"] * 6
    cohort = prepare(list_items(dicom_set(tmp_path, people, declared)), GREY, SHAPE, tmp_path / "out")
    assert len({c.patient for c in cohort.cases}) == 12 and cohort.independent
    assert any("PatientID" in w for w in cohort.source.get("warnings", ())) == (declared is None)


def test_volumes_are_one_case_each(tmp_path):
    """(N, D, H, W) arrays give one volume record a case."""
    images = np.random.default_rng(0).integers(0, 255, (4, 8, 16, 16), np.uint8)
    listing = list_items(npz(tmp_path / "v.npz", images))
    assert probe(listing).shape == (8, 16, 16)
    shape = (1, 8, 16, 16)
    cohort = prepare(listing, default_transforms(shape=shape, colour=False, unit=None), shape, tmp_path / "out")
    assert np.array_equal(cohort.shelf.take([2])[0, 0], images[2])


def test_probe_sees_size_colour_and_modality(tmp_path):
    """What a few items look like; when none can be read, the codes are counted."""
    seen = probe(list_items(make_phantoms(tmp_path / "p", n=5, size=24)))
    assert (seen.shape, seen.colour, seen.modalities, seen.unit) == ((24, 24), False, ("CR",), None)
    for name in ("a/1.png", "b/2.png"):
        (tmp_path / "bad" / name).parent.mkdir(parents=True)
        (tmp_path / "bad" / name).write_bytes(b"text, not an image")
    with pytest.raises(BadData, match="format-unknown") as caught:
        probe(list_items(tmp_path / "bad"))
    assert caught.value.code == "nothing-readable"


def test_probe_looks_at_the_whole_data_set(tmp_path):
    """A folder per class is listed class by class; the last class counts as much as the first."""
    from PIL import Image

    for name, mode in (("a", "L"), ("b", "L"), ("c", "RGB")):
        (tmp_path / name).mkdir()
        for k in range(40):
            Image.new(mode, (16, 16), k if mode == "L" else (k, 2, 3)).save(tmp_path / name / f"{k}.png")
    assert probe(list_items(tmp_path)).colour


@pytest.mark.parametrize("kind", ["image", "volume"])
def test_nifti_with_a_table(tmp_path, kind):
    """A folder of NIfTI and a table: slices of one patient by default, whole volumes when declared."""
    import nibabel

    for k in range(4):
        values = np.random.default_rng(k).normal(100, 30, (16, 16, 8)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / f"scan{k}.nii.gz")
    (tmp_path / "labels.csv").write_text("scan,diagnosis\n" + "".join(f"scan{k},{k % 2}\n" for k in range(4)))
    if kind == "volume":
        (tmp_path / "dataset.yaml").write_text(
            "name: x\ntable: labels.csv\ninputs: {v: {kind: volume}}\ntarget: {column: diagnosis}\n"
        )
    listing = list_items(tmp_path)
    shape = (1, *probe(listing).shape)
    cohort = prepare(listing, default_transforms(shape=shape, colour=False, unit=None), shape, tmp_path / "out")
    assert listing.kind == kind and len({c.patient for c in cohort.cases}) == 4
    assert (len(cohort), shape) == ((32, (1, 16, 16)) if kind == "image" else (4, (1, 8, 16, 16)))
    assert cohort.files == 5 + (kind == "volume") and not cohort.refused
