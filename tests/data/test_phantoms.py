"""Phantoms: deterministic, honest about themselves, and not solved by brightness."""

import hashlib

import numpy as np
import pydicom

from medserve.data.forms import list_items
from medserve.data.phantoms import draw_phantoms, make_phantoms


def digests(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_same_seed_gives_the_same_files(tmp_path):
    """Byte for byte; another seed gives other pixels."""
    one, two, other = (
        digests(make_phantoms(tmp_path / n, n=8, size=24, seed=s)) for n, s in (("a", 0), ("b", 0), ("c", 1))
    )
    assert one == two != other


def test_the_set_says_that_it_is_generated(tmp_path):
    """The declaration and every DICOM file say that no patient was imaged; each film is valid 12-bit CR."""
    listing = list_items(make_phantoms(tmp_path, n=12, size=32))
    assert (
        listing.source["source"] == "generated phantoms, not patients" and "no patient" in listing.source["synthetic"]
    )
    assert (listing.labels, len(listing), listing.independent) == (("clear", "lesion"), 12, False)
    ds = pydicom.dcmread(listing.items[0].file)
    assert (ds.Modality, ds.BitsStored, ds.pixel_array.shape) == ("CR", 12, (32, 32))
    assert ds.ImageComments == "generated phantoms, not patients" and ds.pixel_array.max() < 4096


def test_patients_have_one_to_three_films_of_one_label():
    """Groups that a split must keep together."""
    films = list(draw_phantoms(80, size=16))
    people = {p.patient: [q for q in films if q.patient == p.patient] for p in films}
    assert {len(v) for v in people.values()} == {1, 2, 3}
    assert all(len({p.label for p in v}) == 1 for v in people.values())


def test_brightness_does_not_tell_the_classes_apart():
    """The mean of the film separates lesions from clear ones hardly better than chance; the lesion's place is known."""
    films = list(draw_phantoms(300, size=32))
    y = np.array([p.label for p in films])
    mean = np.array([p.stored.mean() for p in films])
    wins = (mean[y == 1][:, None] > mean[y == 0][None]).mean()
    assert 0.35 < wins < 0.65
    assert all(p.lesion.any() == bool(p.label) and p.lesion.mean() < 0.1 for p in films)
