"""Public array sets that are recognised by file name: what their label numbers mean.

    known_arrays(Path("pneumoniamnist_64.npz")).classes     # ("normal", "pneumonia")

A name proves nothing about the bytes, so source and licence are claimed only when the file's MD5 is the published one.
Source: MedMNIST v2, Scientific Data 10:41 (2023), and its file list (Zenodo record 10519652).
"""

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_CITATION = "Yang et al., MedMNIST v2, Scientific Data 10:41 (2023)"
_ORGANS = (
    ("bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right")
    + ("liver", "lung-left", "lung-right", "pancreas", "spleen")
)  # fmt: skip
CLASSES: dict[str, tuple[str, ...]] = {
    "pneumoniamnist": ("normal", "pneumonia"),
    "breastmnist": ("malignant", "normal or benign"),
    "octmnist": ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
    "retinamnist": ("0", "1", "2", "3", "4"),
    "bloodmnist": (
        "basophil",
        "eosinophil",
        "erythroblast",
        "immature granulocytes",
        "lymphocyte",
        "monocyte",
        "neutrophil",
        "platelet",
    ),
    "chestmnist": (
        "atelectasis",
        "cardiomegaly",
        "effusion",
        "infiltration",
        "mass",
        "nodule",
        "pneumonia",
        "pneumothorax",
        "consolidation",
        "edema",
        "emphysema",
        "fibrosis",
        "pleural",
        "hernia",
    ),
    "organamnist": _ORGANS,
    "organcmnist": _ORGANS,
    "organsmnist": _ORGANS,
}
ORDINAL = frozenset({"retinamnist"})
MD5 = {"28209eda62fecd6e6a2d98b1501bb15f": "pneumoniamnist"}


@dataclass(frozen=True, slots=True)
class Known:
    task: str | None  # "ordinal", or None: as the labels look
    classes: tuple[str, ...]
    source: dict[str, Any] = field(default_factory=dict)


def known_arrays(path: Path) -> Known | None:
    """What is known of an array file of this name, or None."""
    stem = re.sub(r"_(64|128|224)$", "", path.stem.lower())
    if stem not in CLASSES:
        return None
    source: dict[str, Any] = {"names": f"class names as published for {stem}, recognised by file name"}
    if stem in MD5.values():
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if MD5.get(digest) == stem:
            source = {
                "source": f"MedMNIST v2, {stem} (the published file, by its MD5)",
                "licence": "CC BY 4.0",
                "citation": _CITATION,
                "public": True,
            }
    return Known("ordinal" if stem in ORDINAL else None, CLASSES[stem], source)
