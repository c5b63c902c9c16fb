"""One molecule through the whole panel.

    panel = Panel(Job(home=..., models=[], shipped=True, seen={}), SILENT)
    told = panel(["CC(=O)Oc1ccccc1C(=O)O", "CC(=O"])        # [Told(values=[...]), Told(code="molecule-invalid")]

Structures are brought into the product's standard form first, so salts and charges are asked about as everywhere else.
The graph of a molecule is made once and all networks run over it; a molecule that cannot be read costs only itself.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from medserve.data.molecules.describe import morgan
from medserve.data.molecules.standard import chemistry, standardise
from medserve.errors import MedServeError, Refusal
from medserve.progress import Progress
from medserve.road.admet.approved import Approved
from medserve.road.admet.endpoints import ENDPOINTS, PLACES, PROPERTIES, TOXICITY, clamp
from medserve.road.admet.own import Own
from medserve.road.admet.properties import properties
from medserve.road.admet.shipped import NAMES, Shipped
from medserve.settings import Settings
from medserve.types import Array

UNLIKE = 0.3  # similarity to the nearest approved drug below which a molecule is flagged; a convention, not measured
HIGH = 95.0  # percentile of a toxicity from which it is flagged
UNLIKE_FLAG, HIGH_FLAG, APPROVED_FLAG, SEEN_FLAG = "unlike-approved-drugs", "high", "approved-drug", "seen"
RULES = sum(endpoint.category == PROPERTIES for endpoint in ENDPOINTS)
_ORDER = np.array([PLACES[name] for name in NAMES])


class Job(msgspec.Struct, frozen=True):
    """What a process of the panel is told first. seen: name of a list of known molecules -> their InChIKeys."""

    home: str
    models: list[str]
    shipped: bool
    seen: dict[str, list[str]]


class Told(msgspec.Struct, array_like=True):
    """What is known of one row; of a refused one only its code and message. name: as the file says, else its number.

    values, raw, percentiles, spread: in the order of ENDPOINTS; raw is what the model said before the bounds of the
    quantity cut it, spread the standard deviation of five networks (None for what is computed by rule). flags: of the
    whole molecule, or "ENDPOINT:flag". seen: lists of known molecules that hold it. own: an answer for each package.
    """

    name: str = ""
    code: str = ""
    message: str = ""
    smiles: str = ""
    key: str = ""
    values: list[float] = []
    raw: list[float] = []
    percentiles: list[float] = []
    spread: list[float | None] = []
    flags: list[str] = []
    nearest: str = ""
    similarity: float | None = None
    approved: bool | None = None
    seen: list[str] = []
    own: list[dict[str, Any]] = []


class Panel:
    """Raises: Usage "admet-missing", "admet-version"; what a package raises."""

    def __init__(self, job: Job, progress: Progress) -> None:
        settings = Settings.from_environment(Path(job.home))
        self.shipped = Shipped.open(settings.home, progress) if job.shipped else None
        self.approved = None if self.shipped is None else Approved.open(self.shipped.approved, settings.home)
        self.own = [Own.open(Path(folder), settings) for folder in job.models]
        self._seen: Mapping[str, frozenset[str]] = {name: frozenset(keys) for name, keys in job.seen.items()}

    def __call__(self, texts: Sequence[str | None]) -> list[Told]:
        found = [Told() for _ in texts]
        rows, mols = [], []
        for row, text in enumerate(texts):
            try:
                if text is None:
                    raise Refusal("molecule-invalid", "The row cannot be read.", hint="Mend it in the file.")
                molecule = standardise(text)
            except MedServeError as error:
                found[row].code, found[row].message = error.code, error.message
                continue
            mol = chemistry().MolFromSmiles(molecule.smiles)
            if mol is None:
                found[row].code, found[row].message = "molecule-invalid", "Its standard form cannot be read again."
                continue
            found[row].smiles, found[row].key = molecule.smiles, molecule.key
            rows.append(row)
            mols.append(mol)
        if rows:
            told = [found[row] for row in rows]
            if self.shipped is not None:
                self._answer(told, mols)
            for package in self.own:
                for one, answer in zip(told, package([one.smiles for one in told]), strict=True):
                    one.own.append(answer)
            for one in told:
                one.seen = [name for name, keys in self._seen.items() if one.key in keys]
                one.flags += [SEEN_FLAG] * bool(one.seen)
        return found

    def _answer(self, told: Sequence[Told], mols: Sequence[Any]) -> None:
        assert self.shipped is not None and self.approved is not None
        answers = self.shipped.run([self.shipped.letters.read(mol) for mol in mols])
        raw = np.empty((len(mols), len(ENDPOINTS)))
        raw[:, :RULES] = [properties(mol) for mol in mols]
        raw[:, _ORDER] = answers.values
        spread = np.full_like(raw, np.nan)
        spread[:, _ORDER] = answers.spread
        percentiles = self.approved.percentiles(raw)
        for at, (one, mol) in enumerate(zip(told, mols, strict=True)):
            self._write(one, mol, raw[at], percentiles[at], spread[at])

    def _write(self, one: Told, mol: Any, raw: Array, percentiles: Array, spread: Array) -> None:
        assert self.approved is not None
        near = self.approved.nearest(morgan().GetFingerprint(mol))
        one.raw, one.percentiles = raw.tolist(), percentiles.tolist()
        one.spread = [None if np.isnan(s) else s for s in spread.tolist()]
        one.nearest, one.similarity, one.approved = near.name, near.similarity, one.key in self.approved.keys
        for endpoint, value, percentile in zip(ENDPOINTS, one.raw, one.percentiles, strict=True):
            kept, flag = clamp(endpoint, value)
            one.values.append(kept)
            if flag:
                one.flags.append(f"{endpoint.id}:{flag}")
            if endpoint.category == TOXICITY and percentile >= HIGH:
                one.flags.append(f"{endpoint.id}:{HIGH_FLAG}")
        if near.similarity < UNLIKE:
            one.flags.append(UNLIKE_FLAG)
        if one.approved:
            one.flags.append(APPROVED_FLAG)
