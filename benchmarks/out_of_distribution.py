"""How well a package's distance tells its own kind of picture from others, and what its threshold then refuses.

    python benchmarks/out_of_distribution.py PACKAGE --data pneumoniamnist.npz [--others FOLDER]

Inside: the test part of a MedMNIST-style file of the package's own shape. Outside: the battery of altered and drawn
pictures made from it (`models.battery`), and every folder of pictures under --others (real pictures of other kinds; one
named like the package's own kind is near, and is reported without a claim). The scores are the served graph's.
Gate: for every far kind AUROC >= .95 and at most 20 % false alarms where 95 % are found. Prints one JSON object.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from medserve.models.battery import far_ood_battery
from medserve.models.ood import separation
from medserve.models.spec import ModelSpec
from medserve.runtime.engine import Engine
from medserve.runtime.graphfile import read_graph
from medserve.types import Array

PICTURES = 100  # of each folder under --others


def folder_pictures(folder: Path, shape: tuple[int, ...]) -> Array:
    """(n, C, H, W) uint8: the first pictures of a folder by name, reduced to the package's size."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg"))[:PICTURES]
    pages = [Image.open(path).convert("L").resize((shape[2], shape[1]), Image.Resampling.BOX) for path in files]
    return np.repeat(np.stack([np.asarray(page) for page in pages])[:, None], shape[0], axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--others", type=Path)
    parser.add_argument("--near", default="CXR", help="folder under --others that is of the package's own kind")
    given = parser.parse_args()
    spec = ModelSpec.from_json((given.package / "model.json").read_bytes())
    shape = spec.inputs[0].shape
    engine = Engine(read_graph(given.package / "graph.onnx"), shape=shape, width=spec.output.width)
    with np.load(given.data, allow_pickle=False) as data:
        inside = data["test_images"]
    inside = inside[:, None] if inside.ndim == 3 else inside.transpose(0, 3, 1, 2)
    inside = np.ascontiguousarray(inside.astype(np.uint8))

    def measure(images: Array) -> Array:
        found = engine.score(images).distance
        if found is None or spec.ood is None:
            raise SystemExit("The package has no distance to its training data.")
        return found

    sets = far_ood_battery(inside[:300])
    if given.others:
        sets |= {path.name: folder_pictures(path, shape) for path in sorted(given.others.iterdir()) if path.is_dir()}
    own = measure(inside)
    assert spec.ood is not None
    kinds = {
        kind: separation(own, far) | {"refused": float(np.mean(far > spec.ood.threshold))}
        for kind, far in ((kind, measure(images)) for kind, images in sets.items())
    }
    far_kinds = [value for kind, value in kinds.items() if kind != given.near]
    out = {
        "threshold": spec.ood.threshold,
        "promised_false_alarm": spec.ood.false_alarm,
        "test_false_alarm": float(np.mean(own > spec.ood.threshold)),
        "kinds": {kind: {name: round(v, 4) for name, v in value.items()} for kind, value in kinds.items()},
        "worst_auroc": round(min(v["auroc"] for v in far_kinds), 4),
        "worst_fpr95": round(max(v["fpr95"] for v in far_kinds), 4),
    }
    out["gate"] = bool(out["worst_auroc"] >= 0.95 and out["worst_fpr95"] <= 0.20)
    json.dump(out, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
