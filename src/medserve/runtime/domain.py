"""Where a molecule stands among those a model was trained on: for every answer, and the nearest ones on request.

domain = open_domain(package)                # None for models of anything else
domain.of(record)                            # {"similarity": 0.41, "percentile": 22.5, "of": "molecules", ...}
domain.neighbours(record, 5)                 # [("CCO", "-0.77 mol/L", 0.62), ...], of public data
"""

import hashlib
import math
from typing import Any

import numpy as np

from medserve.data.fields import Block
from medserve.data.molecules.describe import BITS
from medserve.data.molecules.domain import Known
from medserve.errors import BadPackage
from medserve.models.package import DOMAIN, Package
from medserve.models.spec import Domain
from medserve.types import Array

EDGE = 5.0  # percentile of the calibration part below which a reason says so


class DomainReader:
    """known: of the package. smiles, labels: of public data, in its order."""

    def __init__(self, spec: Domain, block: Block, known: Known, smiles: list[str], labels: list[str]) -> None:
        self.spec, self.known, self.smiles, self.labels = spec, known, smiles, labels
        self._at = slice(block.start, block.start + BITS)
        self._quantiles = np.maximum.accumulate(np.asarray(spec.quantiles))
        self._steps = np.linspace(0, 100, len(spec.quantiles))

    def similarity(self, records: Array) -> Array:
        """(B,) 0 to 1 of records (B, F); NaN where there is no molecule."""
        found = np.full(len(records), math.nan)
        for i, record in enumerate(records):
            counts = record[self._at]
            if math.isfinite(counts.item(0)):
                found[i] = self.known.each(counts > 0).max()
        return found

    def of(self, record: Array) -> dict[str, Any] | None:
        """percentile: the share of calibration molecules that are less like the training molecules, in %."""
        alike = float(self.similarity(record[None])[0])
        if not math.isfinite(alike):
            return None
        below = float(np.interp(alike, self._quantiles, self._steps))
        return {
            "input": self.spec.input, "similarity": round(alike, 4), "percentile": round(below, 1), "of": self.spec.of,
            "n": self.spec.n,
        }  # fmt: skip

    def neighbours(self, record: Array, count: int) -> list[tuple[str, str, float]]:
        """The most alike training molecules with their labels, the nearest first; none where only groups are known."""
        if not self.smiles or not math.isfinite(record[self._at].item(0)):
            return []
        alike = self.known.each(record[self._at] > 0)
        order = np.argsort(-alike, kind="stable")[:count]
        return [(self.smiles[i], self.labels[i], float(alike[i])) for i in order.tolist()]


def at_the_edge(found: dict[str, Any] | None) -> list[dict[str, str]]:
    """A reason, where the molecule is less like the training molecules than nearly all that were calibrated on."""
    if found is None or found["percentile"] > EDGE:
        return []
    said = (f"The molecule is less like the training molecules (similarity {found['similarity']:.2f}) than "
            f"{100 - EDGE:.0f} % of those that the model was calibrated on.")  # fmt: skip
    return [{"code": "domain-edge", "message": said}]


def open_domain(package: Package, blocks: tuple[Block, ...]) -> DomainReader | None:
    """Raises: BadPackage "package-altered", "package-tensors"."""
    spec = package.spec.domain
    if spec is None:
        return None
    path = package.path(DOMAIN)
    block = next((b for b in blocks if b.name == spec.input and b.kind == "molecule"), None)
    if block is None or not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != spec.sha256:
        raise BadPackage(
            "package-altered", f"{DOMAIN} is not what model.json names.", hint="Fetch the package again."
        )  # fmt: skip
    stored = package.tensors(DOMAIN)
    known = Known.of(stored)
    smiles, labels = (_texts(stored.get(name)) for name in ("smiles", "labels"))
    if len(smiles) != len(labels) or (smiles and len(smiles) != known.profiles.shape[1]):
        raise BadPackage("package-tensors", "The known molecules of the package are not as they were written.")
    return DomainReader(spec, block, known, smiles, labels)


def _texts(packed: Array | None) -> list[str]:
    return [] if packed is None else bytes(packed).decode("utf-8", errors="replace").split("\n")
