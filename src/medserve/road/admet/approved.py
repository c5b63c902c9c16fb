"""The approved drugs beside which a molecule stands: where its values lie among theirs, and which is most alike.

    approved = Approved.open(shipped.approved, home)
    approved.percentiles(values)                # (N, K) of 0 to 100
    approved.nearest(smiles)                    # Near("aspirin", 1.0)
    key in approved.keys                        # by InChIKey

The table comes with ADMET-AI and is derived from DrugBank: it is read where it lies, and nothing of it is copied into a
result but the name of the nearest drug. Its values are answers of the same models, so a percentile compares answers.
"""

import csv
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medserve.data.molecules.nearest import Nearest
from medserve.data.molecules.standard import standardise
from medserve.errors import MedServeError
from medserve.road.admet.endpoints import ENDPOINTS
from medserve.store.files import write_bytes
from medserve.types import Array

FORM = 1  # of the file of standard forms; raised when they are made another way


@dataclass(frozen=True, slots=True)
class Near:
    """similarity: Tanimoto, of circular fragments of radius 2."""

    name: str
    similarity: float


class Approved:
    """keys: InChIKeys of the standard forms."""

    def __init__(self, columns: Array, names: Sequence[str], smiles: Sequence[str], keys: Sequence[str]) -> None:
        self._sorted = np.sort(columns, axis=0)
        self._names = list(names)
        self.keys = frozenset(keys)
        self._alike = Nearest(smiles)

    def __len__(self) -> int:
        return len(self._sorted)

    @classmethod
    def open(cls, table: Path, home: Path) -> "Approved":
        """home: where the standard forms are kept, so that they are made once."""
        data = table.read_bytes()
        rows = list(csv.DictReader(data.decode().splitlines()))
        columns = np.array([[float(row[endpoint.id]) for endpoint in ENDPOINTS] for row in rows], np.float64)
        place = home / "admet" / "approved.json"
        digest = f"{FORM}:{hashlib.sha256(data).hexdigest()}"
        kept = _read(place)
        if kept.get("of") != digest:
            found = [(at, one) for at, row in enumerate(rows) if (one := _standard(row["smiles"])) is not None]
            kept = {"of": digest, "rows": [at for at, _ in found], "forms": [one for _, one in found]}
            write_bytes(place, json.dumps(kept).encode(), mode=0o600)
        names = [rows[at]["name"] for at in kept["rows"]]
        return cls(columns, names, [one[0] for one in kept["forms"]], [one[1] for one in kept["forms"]])

    def percentiles(self, values: Array) -> Array:
        """(N, K) in the order of ENDPOINTS: the share of drugs below each value, and half of those that equal it."""
        out = np.empty(values.shape, np.float64)
        for k in range(values.shape[1]):
            column = self._sorted[:, k]
            below = np.searchsorted(column, values[:, k], "left")
            out[:, k] = (below + np.searchsorted(column, values[:, k], "right")) * (50.0 / len(column))
        return out

    def nearest(self, print: Any) -> Near:
        """print: RDKit's bit vector of a molecule."""
        similarity, at = self._alike(print)
        return Near(self._names[at], similarity)


def _standard(smiles: str) -> tuple[str, str] | None:
    """None for what the panel would not answer about either."""
    try:
        found = standardise(smiles)
        return found.smiles, found.key
    except MedServeError:
        return None


def _read(place: Path) -> dict[str, Any]:
    try:
        found = json.loads(place.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
