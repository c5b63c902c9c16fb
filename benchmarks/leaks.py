"""How many planted leaks are found, and how many pairs are named in a set without any.

    python benchmarks/leaks.py [--shared FOLDER] [--images 2000] [--plants 200]

Each set is written out as files with official train and test parts and goes through the product's own road: list,
read, prepare, find. Planted set: every image in train, and in test, for each kind, changed copies of some of them.
Clean set: the same images, exact repeats removed, half in train and half in test. Generated sets always;
PneumoniaMNIST and the MedNIST subset when --shared (or MEDSERVE_SHARED) names the folder that holds them.
JSON on stdout.
"""

import argparse
import io
import json
import os
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from medserve.data.duplicates import find_duplicates
from medserve.data.forms import list_items
from medserve.data.leaks import find_leaks
from medserve.data.phantoms import draw_phantoms
from medserve.data.prepare import prepare, probe
from medserve.data.split import split
from medserve.data.transforms import default_transforms

Change = Callable[[Image.Image, np.random.Generator], Image.Image]


def recoded(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """JPEG at quality 50 to 95."""
    data = io.BytesIO()
    image.save(data, "JPEG", quality=int(rng.choice([50, 60, 75, 85, 95])))
    return Image.open(io.BytesIO(data.getvalue())).convert("L")


def resized(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """To between half and twice the side, by one of three filters."""
    factor = rng.choice([0.5, 0.6, 0.75, 0.9, 1.1, 1.5, 2.0])
    kernel = [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS][rng.integers(3)]
    return image.resize((round(image.width * factor), round(image.height * factor)), kernel)


def resized_back(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Resized as above and brought back to the first size."""
    return resized(image, rng).resize(image.size, Image.Resampling.BILINEAR)


def brighter(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """All levels shifted by 10 to 40 of 255, clipped."""
    shift = int(rng.choice([-40, -30, -20, -10, 10, 20, 30, 40]))
    return Image.fromarray(np.clip(np.asarray(image).astype(int) + shift, 0, 255).astype(np.uint8))


def cropped(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """98 % of each side from a random place, at whole pixels (at least one), not resized."""
    cut = max(1, round(0.02 * image.width))
    x, y = rng.integers(0, cut + 1, 2)
    return image.crop((x, y, image.width - cut + x, image.height - cut + y))


def cropped_back(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """98 % of each side from a random place, brought back to the first size."""
    w, h = image.size
    x, y = rng.random(2) * 0.02
    return image.resize(image.size, Image.Resampling.BILINEAR, box=(x * w, y * h, (0.98 + x) * w, (0.98 + y) * h))


CHANGES: dict[str, Change | None] = {
    "same bytes": None,
    "re-encoded JPEG": recoded,
    "resized": resized,
    "resized and back": resized_back,
    "brightness shifted": brighter,
    "cropped by 2 %": cropped,
    "cropped by 2 % and back": cropped_back,
}


def textures(n: int) -> list[Image.Image]:
    """Unrelated smooth random fields with a 1/f spectrum, 128 x 128."""
    rng = np.random.default_rng(1)
    fy, fx = np.fft.fftfreq(128)[:, None], np.fft.rfftfreq(128)[None]
    out = []
    for _ in range(n):
        field = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(128, 128))) / (np.hypot(fx, fy) * 128 + 2) ** 1.3)
        level = 128 + 40 * (field - field.mean()) / field.std()
        out.append(Image.fromarray(np.clip(level, 0, 255).astype(np.uint8)))
    return out


def phantoms(n: int) -> list[Image.Image]:
    """The product's own generated films, the first of each patient."""
    out: dict[str, Image.Image] = {}
    for film in draw_phantoms(3 * n, size=128, seed=5):
        if film.patient not in out:
            out[film.patient] = Image.fromarray(np.clip(film.stored / 16, 0, 255).astype(np.uint8))
        if len(out) == n:
            break
    return list(out.values())


def pneumonia(shared: Path, n: int) -> list[Image.Image]:
    with np.load(shared / "data/pneumoniamnist/pneumoniamnist.npz", allow_pickle=False) as arrays:
        images = np.concatenate([arrays[f"{part}_images"] for part in ("train", "val", "test")])
    return [Image.fromarray(image) for image in images]


def mednist(shared: Path, n: int) -> list[Image.Image]:
    with zipfile.ZipFile(shared / "data/mednist_subset/mednist_subset.zip") as files:
        names = sorted(name for name in files.namelist() if name.lower().endswith((".jpg", ".jpeg")))
        return [Image.open(io.BytesIO(files.read(name))).convert("L") for name in names]


def measure(images: list[Image.Image], plants: int, work: Path, save: Path | None) -> dict[str, object]:
    """Recall of each kind in the planted set, and what is named in the clean one."""
    rng = np.random.default_rng(7)
    unique = list({image.tobytes(): image for image in images}.values())
    unique = [image for image in unique if np.asarray(image).std() > 2]
    chosen = rng.permutation(len(unique))
    out: dict[str, object] = {"images": len(unique)}
    planted = work / "planted"
    for i, image in enumerate(unique):
        _write(image, planted / "train" / ("ab"[i % 2]) / f"{i}.png")
    truth: dict[str, tuple[str, str]] = {}
    for number, (kind, change) in enumerate(CHANGES.items()):
        for i in chosen[number * plants : (number + 1) * plants] if len(chosen) >= 7 * plants else chosen[:plants]:
            name = f"{kind}-{i}"
            copy = unique[i] if change is None else change(unique[i], rng)
            _write(copy, planted / "test" / ("ab"[i % 2]) / f"{name}.png")
            truth[name] = (kind, str(i))
    cohort, leaks, seconds, reading = _leaks(planted, work / "planted.shelves")
    stem = [Path(case.file).stem for case in cohort.cases]
    met = {(stem[leak.a], stem[leak.b]) for leak in leaks}
    hits = Counter(kind for copy, (kind, origin) in truth.items() if (origin, copy) in met)
    total = Counter(kind for kind, _ in truth.values())
    out["recall"] = {kind: round(hits[kind] / total[kind], 4) for kind in total}
    out["planted"] = dict(total)
    out["seconds"] = {"reading": round(reading, 2), "finding": round(seconds, 2), "cases": len(cohort)}
    clean = work / "clean"
    for i, image in enumerate(unique):
        _write(image, clean / ("train", "test")[int(i in chosen[: len(chosen) // 2])] / ("ab"[i % 2]) / f"{i}.png")
    cohort, leaks, _, _ = _leaks(clean, work / "clean.shelves")
    pairs = find_duplicates(cohort.cases, cohort.thumbs)
    out["clean"] = {
        "pairs": len(pairs),
        "rate": round(len(pairs) / len(cohort), 6),
        "across": len(leaks),
        "similarity": [pair.similarity for pair in sorted(pairs, key=lambda p: -p.similarity)[:20]],
    }
    if save is not None:
        rows = [cohort.thumbs.take([cohort.cases[i].index for i in (p.a, p.b)])[:, 0] for p in pairs[:100]]
        if rows:
            Image.fromarray(np.vstack([np.hstack(list(pair)) for pair in rows])).save(save)
    return out


def _write(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, "PNG", compress_level=1)


def _leaks(folder: Path, shelves: Path):  # type: ignore[no-untyped-def]
    started = time.perf_counter()
    listing = list_items(folder)
    seen = probe(listing)
    shape = (1, *seen.shape)
    named = default_transforms(shape=shape, colour=False, unit=None)
    cohort = prepare(listing, named, shape, shelves, workers=1)
    read = time.perf_counter()
    leaks = find_leaks(split(cohort, check=False))
    return cohort, leaks, time.perf_counter() - read, read - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=os.environ.get("MEDSERVE_SHARED"))
    parser.add_argument("--images", type=int, default=2000, help="of each generated set")
    parser.add_argument("--plants", type=int, default=200, help="of each kind")
    parser.add_argument("--only", help="one set by name")
    parser.add_argument("--save", type=Path, help="folder for pictures of the pairs named in clean sets")
    asked = parser.parse_args()
    sets: dict[str, Callable[[], list[Image.Image]]] = {
        "textures": lambda: textures(asked.images),
        "phantoms": lambda: phantoms(asked.images),
    }
    if asked.shared:
        sets["pneumoniamnist"] = lambda: pneumonia(Path(asked.shared), asked.images)
        sets["mednist"] = lambda: mednist(Path(asked.shared), asked.images)
    result = {}
    for name, load in sets.items():
        if asked.only in (None, name):
            with tempfile.TemporaryDirectory() as work:
                save = asked.save / f"{name}.png" if asked.save else None
                result[name] = measure(load(), asked.plants, Path(work), save)
    json.dump(result, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
