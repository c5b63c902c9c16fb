"""A small panel in the place of ADMET-AI: random networks of its shape, two approved drugs, figures of nobody.

shipped = made_shipped(folder)         # PPBR_AZ says 107.8 and VDss_Lombardo -1 of everything
"""

import csv
from pathlib import Path

import numpy as np

from medserve.data.molecules.graph import WIDE_ATOM, WIDE_BOND
from medserve.road.admet.endpoints import ENDPOINTS
from medserve.road.admet.shipped import CLASSIFICATION, OUTPUTS, REGRESSION, Shipped

HIDDEN, OUT, NETS = 7, 3, 2
ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"


def made_tensors(outputs: int = OUT, hidden: int = HIDDEN, nets: int = NETS, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    shapes = {
        "W_i": (hidden, WIDE_ATOM + WIDE_BOND), "W_h": (hidden, hidden), "W_o": (hidden, WIDE_ATOM + hidden),
        "b_o": (hidden,),
        "W_1": (hidden, hidden), "b_1": (hidden,), "W_2": (outputs, hidden), "b_2": (outputs,),
    }  # fmt: skip
    return {name: random.normal(size=(nets, *shape)).astype(np.float32) for name, shape in shapes.items()}


def made_shipped(folder: Path) -> Shipped:
    (folder / "data").mkdir(parents=True, exist_ok=True)
    names = [endpoint.id for endpoint in ENDPOINTS]
    with open(folder / "data" / "drugbank_approved.csv", "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["smiles", "name", *names])
        rows.writerow([ASPIRIN, "aspirin", *([0.0] * len(names))])
        rows.writerow(["CCO", "ethanol", *([0.5] * len(names))])
        rows.writerow(["[Pt](Cl)Cl", "a metal", *([1000.0] * len(names))])
    with open(folder / "data" / "admet.csv", "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "size", "AUROC", "R^2", "MAE"])
        rows.writerow(["AMES", 10, 0.9, "", ""])
        rows.writerow(["VDss_Lombardo", 10, "", -1.2, 5.0])
    tensors = {}
    for kind, outputs in OUTPUTS.items():
        made = made_tensors(len(outputs), hidden=4, nets=5, seed=len(outputs))
        tensors |= {f"{kind}.{name}": 0.1 * value for name, value in made.items()}
    size = len(OUTPUTS[REGRESSION])
    mean, scale = np.zeros((5, size), np.float32), np.ones((5, size), np.float32)
    for name, value in (("PPBR_AZ", 107.8), ("VDss_Lombardo", -1.0)):
        at = OUTPUTS[REGRESSION].index(name)
        mean[:, at], scale[:, at] = value, 0.0
    assert f"{CLASSIFICATION}.W_i" in tensors
    return Shipped(tensors | {f"{REGRESSION}.mean": mean, f"{REGRESSION}.scale": scale}, folder)
