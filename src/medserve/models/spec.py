"""The signature of a model: what it takes, what it gives, and how its scores become an answer.

`ModelSpec` is `model.json` of a package, byte for byte what training wrote and what serving reads. Plain JSON, no
code: transforms and architectures are known by catalog name and parameters.
"""

import math
import re
from typing import Any, Literal

import msgspec
import numpy as np

from medserve.errors import BadPackage
from medserve.types import LOWEST, Array, Named, Scale, Task

MAX_CASE_VALUES = 2**28  # of one case as it enters the graph, and of its logits
MAX_LABELS = 10_000
ATC, RXNORM = "http://www.whocc.no/atc", "http://www.nlm.nih.gov/research/umls/rxnorm"
DRUGS = {ATC: "atc", RXNORM: "rxnorm"}  # code systems of medicines, and their short names
_WORD = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


class InputSpec(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One input. `modalities` None means the training data did not say (PNG, NPZ), so none is refused for it.

    A model of pictures has one, and its `shape` (C, H, W) or (C, D, H, W) enters the graph as uint8. A model of records
    has one for each field, whose arrays stand end to end in one float32 vector; the transform of the same name says
    how.
    """

    name: str = "image"
    kind: Literal["image", "volume", "number", "category", "text", "timeline", "waveform", "molecule", "protein"] = (
        "image"
    )
    shape: tuple[int, ...]
    colour: bool = False  # grey models refuse colour pictures
    modalities: list[str] | None = None
    unit: str | None = None  # "HU" for CT; UCUM for a number
    range: tuple[float | None, float | None] | None = None  # outside: refused
    words: list[str] | None = None  # of a category with a closed list
    fhir: str | None = None  # the element of a Bundle that says it; see `data.elements`
    media_types: list[str] = msgspec.field(default_factory=lambda: ["image/png", "image/jpeg", "application/dicom"])


class Code(msgspec.Struct, forbid_unknown_fields=True):
    system: str
    code: str


class Survival(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The baseline of a hazard model: how an event comes about for a case whose logit is 0.

    times, hazard: rising times in the output's unit, and the cumulative hazard at each; 0 at time 0, straight lines in
        between, nothing is known beyond the last. At least 10 events of the training part stand behind each step.
    horizons: the times by which the risk is stated.
    n, events: cases and events of the training part.
    """

    times: list[float]
    hazard: list[float]
    horizons: list[float]
    n: int
    events: int


class Coded(msgspec.Struct, forbid_unknown_fields=True):
    code: str
    message: str


class Leaf(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Patients to whom one rule of the policy tree applies. `arm`: what the tree gives them.

    effect, low, high: of each other arm against the reference, mean over `n` patients who did not shape the tree.
    """

    rule: str
    arm: str
    n: int
    effect: list[float | None]
    low: list[float | None]
    high: list[float | None]


class Alike(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """At least 10 training patients of one arm who are like each other: what became of them, and who they are.

    outcome, low, high: the mean with its 95 % interval. inputs: the mean of a number, the commonest word of a category.
    """

    n: int
    outcome: float
    low: float
    high: float
    inputs: dict[str, float | str | None]


class Effect(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """How the logits of task effect are read, and what is said beside them. The arms are the output's labels.

    outcome, kind: of the target. better: which way. horizon: of survival, up to which event-free time counts.
    level: of the intervals. overlap: probabilities of an arm outside which nothing is advised.
    patients: of each arm, on the training side. closed: why nothing is advised to anybody; empty where advice is given.
    leaves: of the policy tree, by number. alike: by arm, by number. grid: values of each input to look at.
    required: inputs that no training patient lacked. medicines: arm -> its codes, `system|code`; empty where the data
        set said nothing of them.
    """

    outcome: str
    kind: Literal["binary", "number", "survival"]
    better: Literal["higher", "lower"]
    horizon: float | None = None
    level: float = 0.95
    overlap: tuple[float, float] = (0.05, 0.95)
    patients: list[int] = []
    closed: list[Coded] = []
    leaves: list[Leaf] = []
    alike: list[list[Alike]] = []
    grid: dict[str, list[float | str]] = {}
    required: list[str] = []
    medicines: dict[str, list[str]] = {}


class Rules(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A source of rules of safety, as a card names it."""

    id: str
    version: str
    digest: str


class Medicines(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The labels are medicines that one visit's set is made of; task multilabel.

    written: of each label the codes that the histories write it by.
    pairs: numbers of two labels that interact, the lower first, by the rules of `rules`, of the severities named.
    rate: of the pairs of medicines prescribed together on the training part, the share that interacts: the loss and
        the threshold keep to it.
    unknown: labels that no source knows: no interaction of theirs is counted.
    rare, rare_share: codes prescribed to fewer than 10 patients, which are no labels, and their share of what was
        prescribed.
    """

    written: list[list[str]]
    pairs: list[tuple[int, int]] = []
    rate: float = 0.0
    rules: list[Rules] = []
    severities: list[str] = []
    unknown: list[str] = []
    rare: int = 0
    rare_share: float = 0.0


class OutputSpec(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """binary: labels are (negative, positive), one logit. number: one label, its name; `value` says how a logit is one.

    A number may be learnt on another scale (sqrt, log): then errors count as shares rather than amounts, and intervals
    widen with the value. range: the lowest and highest that is ever answered. bands: limits between which the report
    tells it apart. by: a category among the inputs, in each of whose groups the interval holds its coverage by itself.
    A dose is a number that names its medicine in `codes`.

    survival: one label, the event; the logit is the log hazard ratio, `unit` the unit of time, and `baseline` what
    turns it into risks.

    tags: labels are the names of entities, and each word of a text has one of 2 * labels + 1 tags: 0 for none, 1 + 2k
    where an entity of name k begins, 2 + 2k where it goes on. The logits are the scores of the tags of `words` words,
    one word after the other, and then those of one tag after another (from, to).

    generate: one label; the logit is the mean natural logarithm of the probability of each letter of the molecule. The
    package's step graph gives one letter after another.

    medicines: of task multilabel, where the labels are what may be prescribed at a visit.

    effect: labels are the arms of a treatment, the reference first, `unit` that of the outcome; for the logits see
    `questions.effect.parted`. Differences are in units of `sd`, outcomes standardised by `mean` and `sd`.
    """

    task: Task
    labels: list[str]
    codes: dict[str, Code] = {}
    unit: str | None = None
    mean: float = 0.0
    sd: float = 1.0
    scale: Scale = ""
    range: tuple[float, float] | None = None
    bands: list[float] = []
    by: str | None = None
    baseline: Survival | None = None
    words: int = 0
    effect: Effect | None = None
    medicines: Medicines | None = None

    def scaled(self, values: Array) -> Array:
        """Values in the unit -> on the scale of the errors."""
        y = np.asarray(values, np.float64)
        if not self.scale:
            return y
        y = np.maximum(y, LOWEST[self.scale])
        return np.asarray(np.sqrt(y) if self.scale == "sqrt" else np.log(y))

    def standard(self, values: Array) -> Array:
        """(N,) values in the unit -> the logits that a perfect model gives."""
        return np.asarray((self.scaled(values) - self.mean) / self.sd)

    def value(self, logits: Array) -> Array:
        """Logits -> values in the unit, within the range."""
        return self._unscaled(np.asarray(logits, np.float64) * self.sd + self.mean)

    def around(self, value: float, half: float) -> tuple[float, float]:
        """The interval of half the width `half`, on the scale, about a value in the unit."""
        middle = self.scaled(np.array([value]))
        low, high = self._unscaled(np.array([middle[0] - half, middle[0] + half])).tolist()
        return low, high

    def _unscaled(self, z: Array) -> Array:
        if self.scale:
            z = np.maximum(z, 0) ** 2 if self.scale == "sqrt" else np.exp(np.minimum(z, 700))
        return z if self.range is None else np.clip(z, *self.range)

    @property
    def tags(self) -> int:
        """How many tags a word may have, for task tags."""
        return 2 * len(self.labels) + 1

    @property
    def width(self) -> int:
        """Columns of the logits."""
        if self.task == "tags":
            return self.tags * (self.words + self.tags)
        if self.task == "effect":
            return 3 * (len(self.labels) - 1) + 3 * len(self.labels) + 1
        return {"binary": 1, "number": 1, "survival": 1, "generate": 1, "ordinal": len(self.labels) - 1}.get(
            self.task, len(self.labels)
        )


class Absent(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Quantiles of the calibration cases with these inputs hidden; `n`: how many cases. See `Conformal`."""

    inputs: list[str]
    n: int
    quantile: float
    by_label: dict[str, float] | None = None


class Conformal(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Split conformal prediction; `quantile` of the scores 1 - p(true label), or |error| on the scale of a number.

    `by_label`: class-conditional quantiles (Mondrian); used where given, else `quantile`.
    by_group: of a number, the quantile and the cases behind it of each group of the output's `by` that has enough.
    absent: for cases that lack inputs; the largest of all quantiles that apply is used, so that a set only widens.
    """

    alpha: float
    n: int
    quantile: float
    by_label: dict[str, float] | None = None
    by_group: dict[str, tuple[float, int]] | None = None
    absent: list[Absent] = []


class Calibration(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Fitted on the calibration part only; `method` "none" means the answer says "not calibrated".

    hazard (survival): the log hazard ratio becomes logit / temperature + shift, slope and level of the hazard.
    """

    method: Literal["temperature", "hazard", "none"] = "none"
    temperature: float = 1.0
    shift: float = 0.0
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


class Domain(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What is known of the training molecules: `domain.safetensors`, with its sha256.

    input: the field whose molecules they are. of: "molecules" of public data, else "groups" of at least 10.
    n: how many of them. quantiles: at 0, 5, ... 100 %, the calibration part's similarity to the nearest.
    """

    input: str
    of: Literal["molecules", "groups"]
    n: int
    sha256: str
    quantiles: list[float]


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
    question: Literal["diagnosis", "treatment", "discovery"] = "diagnosis"
    inputs: list[InputSpec]
    output: OutputSpec
    transforms: list[Named]
    architecture: Named
    calibration: Calibration = msgspec.field(default_factory=Calibration)
    operating_points: list[OperatingPoint] = []
    ood: OutOfDistribution | None = None
    domain: Domain | None = None
    explanations: list[Method] = []

    @property
    def is_record(self) -> bool:
        """Whether cases are records rather than one picture."""
        kinds = [want.kind for want in self.inputs]
        return len(kinds) > 1 or not set(kinds) <= {"image", "volume"}

    @property
    def medicines(self) -> dict[str, list[str]]:
        """What may be advised, label -> its medicines as `system|code`; empty for a model that names none."""
        if self.output.effect is not None:
            said = self.output.effect.medicines
            return said if any(said.values()) else {}
        coded = self.output.codes.items()
        if self.output.medicines is not None:  # each has a code, so that none passes by the rules unasked
            known = {label: f"{DRUGS.get(code.system, code.system)}|{code.code}" for label, code in coded}
            pairs = zip(self.output.labels, self.output.medicines.written, strict=True)
            return {label: [known.get(label) or written[0]] for label, written in pairs}
        found = {label: [f"{DRUGS[code.system]}|{code.code}"] for label, code in coded if code.system in DRUGS}
        if found and self.output.task == "multilabel":  # other labels with such codes: one without goes by its name
            return {label: found.get(label, [label]) for label in self.output.labels}
        return found

    @property
    def uncoded(self) -> bool:
        """Whether it has arms of which nobody said what medicines they are: then no rule can be asked about them."""
        return self.output.effect is not None and not self.output.effect.medicines

    @property
    def media_types(self) -> list[str]:
        """What the body of a request may be, in order, each once."""
        return list(dict.fromkeys(media for want in self.inputs for media in want.media_types))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one case as it enters the graph: (C, H, W) or (C, D, H, W) uint8, or (F,) float32 for a record."""
        if not self.is_record:
            return tuple(self.inputs[0].shape)
        return (sum(math.prod(i.shape) for i in self.inputs),)

    def to_json(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=1)

    @classmethod
    def from_json(cls, data: bytes) -> "ModelSpec":
        """Raises: BadPackage: not the JSON of a model, or of a newer format."""
        try:
            spec = msgspec.json.decode(data, type=cls)
        except (msgspec.DecodeError, msgspec.ValidationError, RecursionError, UnicodeDecodeError) as error:
            raise _unfit(str(error)) from error
        spec._check()
        return spec

    def _check(self) -> None:
        """What the types do not say: names are words of a catalog, sizes such as a machine can hold."""
        for entry in (*self.transforms, self.architecture):
            if not _WORD.fullmatch(entry.name):
                raise _unfit("a transform or architecture is no word of a catalog")
        shapes = [want.shape for want in self.inputs]
        if not shapes or not all(shape and min(shape) > 0 for shape in shapes):
            raise _unfit("an input without a shape")
        if sum(math.prod(shape) for shape in shapes) > MAX_CASE_VALUES:
            raise _unfit(f"a case of more than {MAX_CASE_VALUES} values")
        labels = self.output.labels
        if not labels or len(labels) > MAX_LABELS or self.output.words < 0 or self.output.width > MAX_CASE_VALUES:
            raise _unfit(f"an output without labels, or with more than {MAX_LABELS}")
        told = self.output.medicines
        if told is not None and (
            self.output.task != "multilabel"
            or len(told.written) != len(labels)
            or not all(0 <= a < b < len(labels) for a, b in told.pairs)
        ):
            raise _unfit("medicines that are not its labels")
        if (self.output.task == "effect") != (self.output.effect is not None and len(labels) > 1):
            raise _unfit("an effect without its arms, or arms without an effect")


def _unfit(why: str) -> BadPackage:
    return BadPackage(
        "package-spec",
        f"model.json is not a model of this version: {why}",
        hint="Train again with this version of MedServe, or update MedServe.",
    )
