"""Array files: listed from their headers, streamed row by row, opened as hostile."""

import io
import pickle
import zipfile

import numpy as np
import pytest

from medserve.data.forms import list_items
from medserve.data.forms.npz import NpzFile
from medserve.errors import BadData


def images(n, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, 255, (n, *shape), np.uint8)


def write(path, compressed=True, **arrays):
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    return path


def medmnist(path, shape=(8, 8), labels=lambda n: np.arange(n)[:, None] % 2, **more):
    parts = {"train": 12, "val": 4, "test": 6}
    arrays = {f"{p}_images": images(n, *shape, seed=n) for p, n in parts.items()}
    return write(path, **arrays, **{f"{p}_labels": labels(n) for p, n in parts.items()}, **more)


def code_of(path):
    with pytest.raises(BadData) as caught:
        list_items(path)
    assert path.name in caught.value.message
    return caught.value.code


def test_official_parts_and_labels(tmp_path):
    """A MedMNIST-style file gives one item a row, with its part and label."""
    listing = list_items(medmnist(tmp_path / "set.npz"))
    assert (listing.form, listing.task, listing.labels, listing.kind) == ("npz", "binary", ("0", "1"), "image")
    assert [i.part for i in listing.items] == ["train"] * 12 + ["val"] * 4 + ["test"] * 6
    assert [i.label for i in listing.items[:4]] == [0, 1, 0, 1]
    assert (listing.files, listing.refused, listing.independent) == (1, [], True)


@pytest.mark.parametrize(
    ("labels", "task", "names", "first"),
    [
        (lambda n: np.arange(n) % 3, "multiclass", ("0", "1", "2"), 0),
        (lambda n: np.arange(n) % 2 + 1.0, "binary", ("1", "2"), 0),
        (lambda n: np.array(["sick", "healthy"])[np.arange(n) % 2], "binary", ("healthy", "sick"), 1),
        (lambda n: np.tile([[1, 0, 1]], (n, 1)), "multilabel", ("0", "1", "2"), (1.0, 0.0, 1.0)),
        (lambda n: np.arange(n) + 0.5, "number", ("value",), 0.5),
    ],
)
def test_the_kind_of_target_is_seen_in_the_labels(tmp_path, labels, task, names, first):
    """Two classes, several, text, columns of zeros and ones, decimals."""
    listing = list_items(medmnist(tmp_path / "set.npz", labels=labels))
    assert (listing.task, listing.labels, listing.items[0].label) == (task, names, first)


def test_a_class_missing_from_one_part_keeps_its_index(tmp_path):
    """Labels of all parts are named together."""
    arrays = {"train_images": images(4, 8, 8), "test_images": images(2, 8, 8)}
    path = write(tmp_path / "x.npz", **arrays, train_labels=np.array([0, 1, 2, 5]), test_labels=np.array([5, 2]))
    assert [i.label for i in list_items(path).items] == [0, 1, 2, 3, 3, 2]


def test_volumes_colour_and_patients(tmp_path):
    """(N, D, H, W) are volumes, (N, H, W, 3) is colour; patient rows become pseudonyms."""
    assert list_items(medmnist(tmp_path / "v.npz", shape=(8, 8, 8))).kind == "volume"
    assert list_items(medmnist(tmp_path / "c.npz", shape=(8, 8, 3))).kind == "image"
    people = np.array(["ann", "ann", "bob", "cid"])
    path = write(tmp_path / "p.npz", images=images(4, 8, 8), labels=np.array([0, 0, 1, 1]), patients=people)
    listing = list_items(path)
    keys = [i.patient for i in listing.items]
    assert keys[0] == keys[1] != keys[2] and not listing.independent and "ann" not in repr(listing.items)


def test_known_names_need_no_claim(tmp_path):
    """A file called pneumoniamnist gets the published class names; source and licence only with the published bytes."""
    listing = list_items(medmnist(tmp_path / "pneumoniamnist_64.npz"))
    assert listing.labels == ("normal", "pneumonia")
    assert "licence" not in listing.source and not listing.source.get("public")


@pytest.mark.parametrize("compressed", [True, False])
def test_rows_are_streamed(tmp_path, compressed):
    """Rows come as saved, whatever the compression; those not asked for are skipped."""
    data = np.random.default_rng(0).normal(size=(50, 7, 5)).astype(">f4")
    with NpzFile(write(tmp_path / "x.npz", compressed, images=data)) as arrays:
        got = dict(arrays.rows("images", [3, 4, 40]))
    assert sorted(got) == [3, 4, 40]
    assert all(np.array_equal(got[k], data[k]) for k in got)


def test_pickled_objects_are_refused_and_never_opened(tmp_path):
    """An array of objects, or a bare pickle in the zip: refused by the header; its code does not run."""
    canary = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (canary.write_text, ("x",))

    objects = np.array([Evil(), 1], dtype=object)
    good = {"train_images": images(2, 8, 8), "train_labels": np.array([0, 1])}
    assert code_of(write(tmp_path / "a.npz", train_images=objects, train_labels=good["train_labels"])) == "npz-pickle"
    assert code_of(write(tmp_path / "b.npz", train_images=good["train_images"], train_labels=objects)) == "npz-pickle"
    path = write(tmp_path / "c.npz", **good)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("extra.npy", pickle.dumps(Evil()))
    assert code_of(path) == "npz-pickle"
    assert not canary.exists()


def header(shape):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.getvalue()


def test_a_zip_bomb_is_refused_from_its_directory(tmp_path):
    """A member of zeros that inflates a thousandfold is refused; nothing is inflated to find out."""
    path = tmp_path / "bomb.npz"
    zeros = b"\0" * 2**20
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("train_images.npy", "w", force_zip64=True) as member:
            member.write(header((80, 1024, 1024)))
            for _ in range(80):
                member.write(zeros)
        archive.writestr("train_labels.npy", header((80,)) + b"\0\1" * 40)
    assert path.stat().st_size < 200_000
    assert code_of(path) == "npz-bomb"


@pytest.mark.parametrize("shape", [(10**6, 4096, 4096), (4, 8, 9), (2**62, 8, 8)])
def test_a_header_that_lies_about_its_size_is_refused(tmp_path, shape):
    """The bytes in the archive must be those that the header declares."""
    path = tmp_path / "lie.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", header(shape) + b"\0" * 256)
        archive.writestr("labels.npy", header((4,)) + b"\0\1\0\1")
    assert code_of(path) == "npz-broken"


def test_damage_is_named(tmp_path):
    """No zip, no array inside, a flipped byte inside an image: coded, with the file's name."""
    path = tmp_path / "no.npz"
    path.write_bytes(b"not a zip")
    assert code_of(path) == "npz-broken"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hello.txt", "x" * 300)
    assert code_of(path) == "npz-broken"
    write(path, compressed=False, images=images(9, 30, 30), labels=np.arange(9) % 2)
    data = bytearray(path.read_bytes())
    data[4000] ^= 255
    path.write_bytes(data)
    with pytest.raises(BadData) as caught, NpzFile(path) as arrays:
        list(arrays.rows("images", range(9)))
    assert caught.value.code == "npz-broken"


def test_names_and_lengths_must_fit(tmp_path):
    """No images, or as many labels as images: said with what is there."""
    assert code_of(write(tmp_path / "a.npz", pictures=images(3, 8, 8))) == "npz-names"
    assert code_of(write(tmp_path / "b.npz", images=images(3, 8, 8), labels=np.array([0, 1]))) == "npz-shapes"
    assert code_of(write(tmp_path / "c.npz", images=images(3, 8), labels=np.array([0, 1, 1]))) == "npz-shapes"


def test_an_array_file_may_be_declared(tmp_path):
    """A dataset.yaml beside the array names its classes, source and terms."""
    medmnist(tmp_path / "arrays.npz")
    (tmp_path / "dataset.yaml").write_text(
        "name: knees\nlicence: CC0\nfiles: arrays.npz\ntarget: {kind: binary, classes: [sound, torn]}\npublic: true\n"
    )
    listing = list_items(tmp_path)
    assert (listing.name, listing.labels, listing.source["public"], listing.files) == (
        "knees",
        ("sound", "torn"),
        True,
        2,
    )
