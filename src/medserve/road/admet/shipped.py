"""ADMET-AI's shipped models as plain tensors: found beside the installed library, known by hash, turned over once.

    shipped = Shipped.open(home, progress)      # the first time ten seconds, then a file of 13 MB
    answers = shipped.run(graphs)               # Answers(values=(N, 41), spread=(N, 41))

The library is never imported and its checkpoints are never opened in this process: `models.convert` reads each of them
in a sandboxed child with `weights_only`, and something empty stands for each class that they name beside their tensors.
Source: Swanson et al., Bioinformatics 40:btae416 (2024); admet-ai 2.0.1, MIT licence.
"""

import csv
import hashlib
import importlib.metadata
import importlib.util
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medserve.data.molecules.kinds import Graph, Letters
from medserve.errors import BadData, Usage
from medserve.models.convert import convert_all
from medserve.models.passing import Ensemble
from medserve.models.strict import check_tensors
from medserve.progress import Progress
from medserve.road.admet.endpoints import NUMBER, PROBABILITY
from medserve.store.files import write_bytes
from medserve.types import Array

VERSION = "2.0.1"
CLASSIFICATION, REGRESSION = "admet_classification", "admet_regression"
CHECKPOINTS = {
    CLASSIFICATION: (
        "9a5fb298a6564e8ef739890c90b02e831521073f49eefd2310fb56cdb61a2378",
        "2bf047553eef397060af376e78dd4e990114df8428e05f734c4e4aca284280ca",
        "0e9d7eb3ff0b53bd2f20e43a75e0872c682b0ee27059dd50735c416d97a3fd24",
        "4b35cb5686f23c6e3e5a4c587a5c4dd79b7f1f46be26684260c0b78366145d58",
        "9fdac559e3058b5f7b03780f9c696223d27adb94c78f9eb9aba6154e2dbff492",
    ),
    REGRESSION: (
        "c709dc4526dc7f6cf39cea64190f63adbb2b95e280d34582c492fc53da64a1a4",
        "57e8011a180cddf8acf66f94f5b123023c3fed503e3870a2f3f6f5300a7f3c82",
        "05e8509fea4ddc4686c521d75ee2fe770113cb93f09a849a6378b0a0e3ce113e",
        "04b265ff444190247b159932ab2225afc844bae9552299bf1ddf99b336c28d71",
        "b58c76493744edfb022e50e531a8ad82453bdf543c2195d878ecfd248795c7c8",
    ),
}
OUTPUTS = {  # in the order of the models' columns
    CLASSIFICATION: (
        "AMES", "BBB_Martins", "Bioavailability_Ma", "CYP1A2_Veith", "CYP2C19_Veith", "CYP2C9_Substrate_CarbonMangels",
        "CYP2C9_Veith", "CYP2D6_Substrate_CarbonMangels", "CYP2D6_Veith", "CYP3A4_Substrate_CarbonMangels",
        "CYP3A4_Veith", "Carcinogens_Lagunin", "ClinTox", "DILI", "HIA_Hou", "NR-AR-LBD", "NR-AR", "NR-AhR",
        "NR-Aromatase", "NR-ER-LBD", "NR-ER", "NR-PPAR-gamma", "PAMPA_NCATS", "Pgp_Broccatelli", "SR-ARE", "SR-ATAD5",
        "SR-HSE", "SR-MMP", "SR-p53", "Skin_Reaction", "hERG",
    ),
    REGRESSION: (
        "Caco2_Wang", "Clearance_Hepatocyte_AZ", "Clearance_Microsome_AZ", "Half_Life_Obach",
        "HydrationFreeEnergy_FreeSolv", "LD50_Zhu", "Lipophilicity_AstraZeneca", "PPBR_AZ", "Solubility_AqSolDB",
        "VDss_Lombardo",
    ),
}  # fmt: skip
NAMES = OUTPUTS[CLASSIFICATION] + OUTPUTS[REGRESSION]
KINDS = {CLASSIFICATION: PROBABILITY, REGRESSION: NUMBER}
MADE = "sha256 of the tensors"
_TENSORS = {
    "W_i": "message_passing.W_i.weight", "W_h": "message_passing.W_h.weight", "W_o": "message_passing.W_o.weight",
    "b_o": "message_passing.W_o.bias", "W_1": "predictor.ffn.0.0.weight", "b_1": "predictor.ffn.0.0.bias",
    "W_2": "predictor.ffn.1.2.weight", "b_2": "predictor.ffn.1.2.bias",
}  # fmt: skip
_SCALING = {"mean": "predictor.output_transform.mean", "scale": "predictor.output_transform.scale"}
_INERT = (
    "chemprop.nn.agg.NormAggregation", "chemprop.nn.message_passing.base.BondMessagePassing",
    "chemprop.nn.metrics.BinaryAUPRC", "chemprop.nn.metrics.BinaryAUROC", "chemprop.nn.metrics.MAE",
    "chemprop.nn.metrics.R2Score", "chemprop.nn.predictors.BinaryClassificationFFN",
    "chemprop.nn.predictors.RegressionFFN", "chemprop.nn.transforms.GraphTransform",
    "chemprop.nn.transforms.UnscaleTransform", "lightning.fabric.utilities.data.AttributeDict=dict",
    "torch.device", "torch.nn.modules.activation.ReLU", "torch.nn.modules.linear.Identity",
    "torchmetrics.metric.jit_distributed_available", "torchmetrics.utilities.data.dim_zero_cat",
    "torchmetrics.utilities.data.dim_zero_sum",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Answers:
    """values: (N, 41), the mean of five networks each, in the order of NAMES. spread: (N, 41), their standard
    deviation; no interval of anything."""

    values: Array
    spread: Array


class Shipped:
    """letters: for the graphs that `run` takes. figures: output -> what the library says of it on its own test data."""

    def __init__(self, tensors: Mapping[str, Array], folder: Path) -> None:
        self.letters = Letters()
        self.folder = folder
        self._ensembles = {
            kind: Ensemble({name: tensors[f"{kind}.{name}"] for name in _TENSORS}, self.letters) for kind in OUTPUTS
        }
        self._mean, self._scale = tensors[f"{REGRESSION}.mean"], tensors[f"{REGRESSION}.scale"]

    @classmethod
    def open(cls, home: Path, progress: Progress) -> "Shipped":
        """
        Args:
            home: of this installation; the tensors are kept under it.

        Raises: Usage "admet-missing", "admet-version"; Refusal "checksum-mismatch": the files are not those known here.
        """
        folder = find_library()
        place = home / "admet" / f"admet-ai-{VERSION}.safetensors"
        tensors = _kept(place)
        if tensors is None:
            _turn_over(folder, place, progress)
            tensors = _kept(place)
        if tensors is None:
            raise BadData("admet-unreadable", f"{place} cannot be read.", hint="Delete it and run this again.")
        return cls(tensors, folder)

    @property
    def approved(self) -> Path:
        """The table of approved drugs with the answers of these models; derived from DrugBank, read in its place."""
        return self.folder / "data" / "drugbank_approved.csv"

    def figures(self) -> dict[str, dict[str, float | None]]:
        """Output -> {"n", "AUROC", "R2", "MAE"} as the library states them."""
        with open(self.folder / "data" / "admet.csv", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        kept = (("n", "size"), ("AUROC", "AUROC"), ("R2", "R^2"), ("MAE", "MAE"))
        return {r["id"]: {ours: float(r[theirs]) if r[theirs] else None for ours, theirs in kept} for r in rows}

    def run(self, graphs: Sequence[Graph]) -> Answers:
        """graphs: of `letters`; at least one."""
        with np.errstate(over="ignore"):
            shares = 1 / (1 + np.exp(-self._ensembles[CLASSIFICATION].run(graphs)))
        numbers = self._ensembles[REGRESSION].run(graphs) * self._scale[:, None] + self._mean[:, None]
        both = np.concatenate([shares, numbers], axis=2)
        return Answers(both.mean(axis=0), both.std(axis=0, ddof=1))


def find_library() -> Path:
    """The `resources` of the library, which is not imported. Raises: Usage "admet-missing", "admet-version"."""
    found = importlib.util.find_spec("admet_ai")
    if found is None or found.origin is None:
        raise Usage(
            "admet-missing", "The models of ADMET-AI are not installed.",
            hint="Install them: pip install 'medserve[admet]'; or ask packages of your own: --model PACKAGE --only-own",
        )  # fmt: skip
    version = importlib.metadata.version("admet-ai")
    if version != VERSION:
        raise Usage(
            "admet-version", f"admet-ai {version} is installed; the models of {VERSION} are known here.",
            hint=f"Install it: pip install admet-ai=={VERSION}",
        )  # fmt: skip
    return Path(found.origin).parent / "resources"


def _kept(place: Path) -> dict[str, Array] | None:
    """The tensors of an earlier run; None where there are none, or they are not what was written."""
    from safetensors import safe_open

    if not place.is_file():
        return None
    check_tensors(place)
    with safe_open(place, framework="numpy") as file:
        tensors = {name: np.asarray(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
        said = (file.metadata() or {}).get(MADE)
    return tensors if said == _digest(tensors) else None


def _digest(tensors: Mapping[str, Array]) -> str:
    whole = hashlib.sha256()
    for name in sorted(tensors):
        whole.update(name.encode() + b"\0" + np.ascontiguousarray(tensors[name]).tobytes())
    return whole.hexdigest()


def _turn_over(folder: Path, place: Path, progress: Progress) -> None:
    """All checkpoints in one child process, then their tensors as one file."""
    from safetensors.numpy import load_file, save

    stacked: dict[str, list[Array]] = {}
    progress.say("The models of ADMET-AI become plain tensors, once ...")
    with tempfile.TemporaryDirectory(prefix="medserve-admet-") as scratch:
        jobs = [
            (folder / "models" / kind / f"model_{number}.pt", Path(scratch) / f"{kind}-{number}.safetensors", sha256)
            for kind, hashes in CHECKPOINTS.items()
            for number, sha256 in enumerate(hashes)
        ]
        convert_all(jobs, inert=_INERT)
        for _, made, _ in jobs:
            state, kind = load_file(made), made.name.partition("-")[0]
            for ours, theirs in (_TENSORS | (_SCALING if kind == REGRESSION else {})).items():
                value = state[theirs].reshape(-1) if ours in _SCALING else state[theirs]
                stacked.setdefault(f"{kind}.{ours}", []).append(value)
    tensors = {name: np.stack(parts).astype(np.float32) for name, parts in stacked.items()}
    write_bytes(place, save(tensors, {MADE: _digest(tensors)}), mode=0o600)
