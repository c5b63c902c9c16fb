"""Pictures that are plainly not what a model was trained on, made from (or beside) pictures that are.

    for kind, pictures in far_ood_battery(calibration_images).items():
        ...                                    # a service must refuse these, never score them

Altered copies keep the size, and some the histogram, of the originals, so that telling them apart takes more than a
glance at brightness. Stand-ins for other modalities are drawn: they claim to look like another picture, no more.
"""

from collections.abc import Callable

import numpy as np

from medserve.types import Array

BLOCK = 4  # pixels a side of a checkerboard's square


def far_ood_battery(images: Array, *, seed: int = 0) -> dict[str, Array]:
    """One altered or drawn picture for every given one, of each kind.

    Args: images: (N, C, H, W) or (N, C, D, H, W) uint8, of the model's own kind; H == W for "rotated".
    Returns: kind -> uint8 of the same shape (rotated: of the same shape where H == W, else left out).
    """
    rng = np.random.default_rng(seed)
    out = {kind: make(images, rng) for kind, make in KINDS.items()}
    if images.shape[-1] == images.shape[-2]:
        turns = rng.choice((1, 3), len(images))
        out["rotated"] = np.stack([np.rot90(x, k, axes=(-2, -1)) for x, k in zip(images, turns, strict=True)])
    return out


def _inverted(images: Array, rng: np.random.Generator) -> Array:
    return 255 - images


def _noise(images: Array, rng: np.random.Generator) -> Array:
    return rng.integers(0, 256, images.shape, dtype=np.uint8)


def _constant(images: Array, rng: np.random.Generator) -> Array:
    level = rng.integers(0, 256, (len(images),) + (1,) * (images.ndim - 1), dtype=np.uint8)
    return np.broadcast_to(level, images.shape).copy()


def _shuffled(images: Array, rng: np.random.Generator) -> Array:
    """The same pixels in another order: the histogram stays, the picture goes."""
    flat = images.reshape(*images.shape[:2], -1)
    return rng.permuted(flat, axis=2).reshape(images.shape)


def _checkerboard(images: Array, rng: np.random.Generator) -> Array:
    height, width = images.shape[-2:]
    rows, columns = np.mgrid[:height, :width] // BLOCK
    board = (rows + columns) % 2
    low, high = rng.integers(0, 100, len(images)), rng.integers(156, 256, len(images))
    return _spread(np.stack([np.where(board == 0, a, b) for a, b in zip(low, high, strict=True)]), images)


def _text(images: Array, rng: np.random.Generator) -> Array:
    """A screenshot of a report: dark words on white, or white on black."""
    from PIL import Image, ImageDraw

    height, width = images.shape[-2:]
    scale = max(1, 96 // min(height, width))  # drawn large enough for the letters, then reduced
    words = ("REPORT", "Normal study.", "Findings:", "No change", "Page 1", "12:45", "OK  Cancel", "Dose 5 mg")
    pages = []
    for _ in range(len(images)):
        dark = bool(rng.integers(0, 2))
        page = Image.new("L", (width * scale, height * scale), 0 if dark else 255)
        pen = ImageDraw.Draw(page)
        for top in range(2, height * scale, 13):
            text = "  ".join(rng.choice(words, 6))
            pen.text((int(rng.integers(0, 9)), top), text, fill=235 if dark else 20)
        pages.append(np.asarray(page.resize((width, height), Image.Resampling.BOX)))
    return _spread(np.stack(pages), images)


def _ellipses(images: Array, rng: np.random.Generator) -> Array:
    """A stand-in for a slice of tomography: a bright ring with soft ellipses on black."""
    y, x = _grid(images)
    pages = []
    for _ in range(len(images)):
        a, b = rng.uniform(0.6, 0.85, 2)
        radius = np.hypot(x / a, y / b)
        page = np.where(radius < 1, rng.uniform(60, 110), 0.0)
        page = np.where((radius > 0.9) & (radius < 1), rng.uniform(200, 255), page)
        for _ in range(int(rng.integers(3, 7))):
            cx, cy = rng.uniform(-0.4, 0.4, 2)
            rx, ry = rng.uniform(0.08, 0.25, 2)
            page = np.where(np.hypot((x - cx) / rx, (y - cy) / ry) < 1, rng.uniform(20, 170), page)
        pages.append(page)
    return _spread(np.stack(pages), images)


def _sector(images: Array, rng: np.random.Generator) -> Array:
    """A stand-in for ultrasound: speckle in a fan on black."""
    y, x = _grid(images)
    depth, angle = np.hypot(x, y + 1.1), np.arctan2(x, y + 1.1)
    pages = []
    for _ in range(len(images)):
        fan = (depth > 0.2) & (depth < 2.0) & (np.abs(angle) < rng.uniform(0.4, 0.7))
        speckle = rng.rayleigh(rng.uniform(25, 60), fan.shape) * np.exp(-rng.uniform(0.2, 0.8) * depth)
        pages.append(np.where(fan, speckle, 0))
    return _spread(np.stack(pages), images)


def _disc(images: Array, rng: np.random.Generator) -> Array:
    """A stand-in for a photograph of the eye: a lit disc with dark vessels on black."""
    y, x = _grid(images)
    pages = []
    for _ in range(len(images)):
        page = np.where(np.hypot(x, y) < 0.95, rng.uniform(90, 180) * (1 - 0.4 * np.hypot(x, y)), 0)
        cx, cy = rng.uniform(-0.5, 0.5, 2)
        for turn in rng.uniform(0, 2 * np.pi, 5):
            along = (x - cx) * np.cos(turn) + (y - cy) * np.sin(turn)
            away = -(x - cx) * np.sin(turn) + (y - cy) * np.cos(turn) + 0.2 * along**2
            page = np.where((np.abs(away) < 0.05) & (along > 0), page * 0.5, page)
        pages.append(np.where(np.hypot(x - cx, y - cy) < 0.15, 240, page))
    return _spread(np.stack(pages), images)


def _grid(images: Array) -> tuple[Array, Array]:
    height, width = images.shape[-2:]
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    return y, x


def _spread(pages: Array, images: Array) -> Array:
    """(N, H, W) pages into the shape of `images`, the same in every channel and slice."""
    pages = np.clip(pages, 0, 255).astype(np.uint8)
    between = (1,) * (images.ndim - 3)
    return np.broadcast_to(pages.reshape(len(pages), *between, *pages.shape[1:]), images.shape).copy()


KINDS: dict[str, Callable[[Array, np.random.Generator], Array]] = {
    "inverted": _inverted,
    "noise": _noise,
    "constant": _constant,
    "shuffled": _shuffled,
    "checkerboard": _checkerboard,
    "text": _text,
    "ellipses": _ellipses,
    "sector": _sector,
    "disc": _disc,
}
