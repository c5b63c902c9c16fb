"""The signature of a model: what it takes, what it gives, and how its scores become an answer.

`ModelSpec` is `model.json` of a package, byte for byte what training wrote and what serving reads. Plain JSON, no
code: transforms and architectures are known by catalog name and parameters.
"""

from typing import Any, Literal

import msgspec

from medserve.errors import BadPackage
from medserve.types import Named, Task


class InputSpec(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One input. `modalities` None means the training data did not say (PNG, NPZ), so none is refused for it."""

    name: str = "image"
    kind: Literal["image", "volume"] = "image"
    shape: tuple[int, ...]  # (C, H, W), or (C, D, H, W) for a volume; what enters the graph, uint8
    colour: bool = False  # grey models refuse colour pictures
    modalities: list[str] | None = None
    unit: str | None = None  # "HU" for CT
    media_types: list[str] = msgspec.field(default_factory=lambda: ["image/png", "image/jpeg", "application/dicom"])


class Code(msgspec.Struct, forbid_unknown_fields=True):
    system: str
    code: str


class OutputSpec(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """binary: labels are (negative, positive), one logit. number: one label, its name; value = logit * sd + mean."""

    task: Task
    labels: list[str]
    codes: dict[str, Code] = {}
    unit: str | None = None
    mean: float = 0.0
    sd: float = 1.0

    @property
    def width(self) -> int:
        """Columns of the logits."""
        return {"binary": 1, "number": 1, "ordinal": len(self.labels) - 1}.get(self.task, len(self.labels))


class Conformal(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Split conformal prediction; `quantile` of the scores 1 - p(true label), or |error| for a number.

    `by_label`: class-conditional quantiles (Mondrian); used where given, else `quantile`.
    """

    alpha: float
    n: int
    quantile: float
    by_label: dict[str, float] | None = None


class Calibration(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Fitted on the calibration part only; `method` "none" means the answer says "not calibrated"."""

    method: Literal["temperature", "none"] = "none"
    temperature: float = 1.0
    n: int = 0
    cross_fitted: bool = False
    conformal: Conformal | None = None


class OperatingPoint(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """`threshold` on the calibrated probability of `label`, chosen on `chosen_on`, never on the test part."""

    label: str
    threshold: float
    rule: str
    chosen_on: str = "val"


class OutOfDistribution(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The graph's `distance` above `threshold` is refused; `false_alarm` is its rate on the calibration part."""

    threshold: float
    false_alarm: float
    n: int


class Method(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """An explanation method and its audit. Only PASS and CAUTION are offered; PASS first."""

    name: str  # "cam" | "occlusion" | "integrated-gradients"
    verdict: Literal["PASS", "CAUTION", "FAIL"]
    role: str = ""  # "primary" | "secondary" | "coarse region only" | "not offered"
    figures: dict[str, Any] = {}


class ModelSpec(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    format: Literal["medserve-package/1"] = "medserve-package/1"
    name: str
    version: str = "1"
    question: Literal["diagnosis"] = "diagnosis"
    inputs: list[InputSpec]
    output: OutputSpec
    transforms: list[Named]
    architecture: Named
    calibration: Calibration = msgspec.field(default_factory=Calibration)
    operating_points: list[OperatingPoint] = []
    ood: OutOfDistribution | None = None
    explanations: list[Method] = []

    def to_json(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=1)

    @classmethod
    def from_json(cls, data: bytes) -> "ModelSpec":
        """Raises: BadPackage: not the JSON of a model, or of a newer format."""
        try:
            return msgspec.json.decode(data, type=cls)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise BadPackage(
                "package-spec",
                f"model.json is not a model of this version: {error}",
                hint="Train again with this version of MedServe, or update MedServe.",
            ) from error
