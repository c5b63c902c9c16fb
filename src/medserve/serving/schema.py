"""The words of the wire, once: the OpenAPI document, the Python client and the tests read them here.

Fields may be added in later versions; a client ignores what it does not know.
"""

from typing import Any, Literal

import msgspec

from medserve.safety.review import AnswerReview


class ModelRef(msgspec.Struct):
    name: str
    version: str
    digest: str


class CodeRef(msgspec.Struct):
    system: str
    code: str


class Output(msgspec.Struct):
    """One label with its calibrated probability; for a number: its value, unit and interval."""

    label: str
    code: CodeRef | None = None
    probability: float | None = None
    value: float | None = None
    unit: str | None = None
    interval: tuple[float, float] | None = None


class Entity(msgspec.Struct):
    """Words of a text that belong together. start, end: its place in the text as sent, in code points, without the end.

    probability: that of its least probable word; it ranks entities and is not calibrated.
    """

    label: str
    start: int
    end: int
    text: str
    probability: float


class Reason(msgspec.Struct):
    code: str
    message: str


class HeatMap(msgspec.Struct):
    """`data`: base64 of little-endian float32, row-major, in the geometry of the model's input."""

    shape: list[int]
    dtype: str
    data: str


class Contribution(msgspec.Struct):
    """What one input (or one `part` of it) moved the score, in logits. `value`: as the model read it.

    Of an event `time` is hours before the prediction, and `unit` that of its value.
    """

    input: str
    part: str
    value: float | str | None
    weight: float
    time: float | None = None
    unit: str | None = None


class RuleLine(msgspec.Struct):
    """One line on a rule of safety that met the answer, or on what would change that. status: of the medicine."""

    label: str
    status: str
    text: str


class Explanation(msgspec.Struct):
    """`png`: base64; the picture with the evidence in colour. `verdict`: of the method's audit on this model.

    Of a picture `map` holds the raw values; of a record `values`, which sum with `base` to `total`, the score.
    `svg`: of a molecule, its structure with the atoms shaded. `rules`: where medicines are advised, what the rules of
    safety say, which the picture shows too; a dose that is not offered has nothing else.
    """

    method: str
    verdict: Literal["PASS", "CAUTION"]
    label: str
    png: str
    map: HeatMap | None
    note: str
    values: list[Contribution] = []
    base: float | None = None
    total: float | None = None
    svg: str | None = None
    rules: list[RuleLine] = []


class DomainInfo(msgspec.Struct):
    """How much like the training molecules this one is. similarity: Tanimoto, to the nearest of `n` molecules, or of
    groups of at least 10 where the data are not public. percentile: how many in a hundred of the molecules that the
    model was calibrated on are less alike."""

    input: str
    similarity: float
    percentile: float
    of: Literal["molecules", "groups"]
    n: int


class ArmEffect(msgspec.Struct):
    """The difference of this arm to the reference in the outcome's unit, with its interval at `level`."""

    arm: str
    effect: float
    interval: tuple[float, float]
    level: float


class Overlap(msgspec.Struct):
    """How likely a patient like this one was to get each arm; outside `band` nothing is advised."""

    band: tuple[float, float]
    propensity: dict[str, float]


class ForWhom(msgspec.Struct):
    """The leaf of the policy tree. effect, low, high: of each other arm, over `n` patients who did not shape it. arm:
    None where a rule of safety forbids it to this patient."""

    rule: str
    arm: str | None
    n: int
    effect: list[float | None]
    low: list[float | None]
    high: list[float | None]


class AlikePatients(msgspec.Struct):
    """At least 10 training patients of one arm, the most like this one: what became of them, and who they are."""

    arm: str
    n: int
    outcome: float
    interval: tuple[float, float]
    inputs: dict[str, float | str | None]


class EffectInfo(msgspec.Struct):
    """Advice on a treatment, and all that it rests on. expected: the mean outcome under each arm. against: arms whose
    whole interval lies on the side of harm. ranked: arms that there is evidence for, the largest effect first, before
    the rules of safety were asked. note: what must be said with it."""

    advice: Literal["recommend", "recommend-against", "abstain"]
    arm: str | None
    against: list[str]
    ranked: list[str]
    reference: str
    outcome: str
    better: Literal["higher", "lower"]
    unit: str | None
    horizon: float | None
    effects: list[ArmEffect]
    overlap: Overlap
    expected: dict[str, float]
    for_whom: ForWhom | None
    alike: list[AlikePatients]
    note: str


class Answer(msgspec.Struct):
    """`prediction_set` holds the labels that the guarantee at `coverage` keeps; None without a guarantee.

    Where the evaluation found that the coverage does not hold, `reasons` says so: `coverage-off` (the sealed test part
    was covered less often than chance allows) or `guarantee-suspended` (its cases differ from the calibration cases).
    """

    id: str
    model: ModelRef
    status: Literal["answered", "abstained"]
    outputs: list[Output]
    prediction_set: list[str] | None
    coverage: float | None
    decision: dict[str, Any] | None
    reasons: list[Reason]
    explanation: Explanation | None
    trace: str
    curve: list[tuple[float, float]] | None = None  # survival: (time, risk by then)
    entities: list[Entity] | None = None  # of a model that marks words
    domain: DomainInfo | None = None  # of a model of molecules
    effect: EffectInfo | None = None  # of a treatment
    safety: AnswerReview | None = None  # of a model that advises medicines

    @property
    def abstained(self) -> bool:
        return self.status == "abstained"


class Offered(msgspec.Struct):
    name: str
    verdict: Literal["PASS", "CAUTION"]


class InputInfo(msgspec.Struct):
    """One input. `unit`: UCUM; a value outside `range`, or a word that is not among `words`, is refused."""

    name: str
    kind: str
    colour: bool
    modalities: list[str] | None
    unit: str | None
    media_types: list[str]
    range: tuple[float | None, float | None] | None = None
    words: list[str] | None = None


class EngineInfo(msgspec.Struct):
    """What runs the model; "bf16" only after `medserve tune` measured that it answers alike."""

    name: str
    precision: str


class ModelInfo(msgspec.Struct):
    """One version of a model. engine: while it is in memory. bytes: what that takes there, estimated. medicines: codes
    of what it may advise, by label; it then takes a patient's facts beside the inputs."""

    name: str
    version: str
    digest: str
    question: str
    task: str
    labels: list[str]
    input: InputInfo  # the first
    calibrated: bool
    explanations: list[Offered]
    inputs: list[InputInfo] = []
    medicines: dict[str, list[str]] = {}
    engine: EngineInfo | None = None
    state: Literal["unloaded", "loading", "loaded", "failed", "withdrawn"] = "loaded"
    bytes: int = 0
    pinned: bool = False


class ModelList(msgspec.Struct):
    models: list[ModelInfo]


class ModelPage(msgspec.Struct):
    """All versions of one model, the one that answers under the bare name last, and its card."""

    name: str
    versions: list[ModelInfo]
    card: dict[str, Any]


class SetTraffic(msgspec.Struct, forbid_unknown_fields=True):
    """How often each version answers under the bare name: per cent, 100 together. shadow: versions that are asked too
    and never answer."""

    versions: dict[str, int]
    shadow: list[str] = []


class ShadowInfo(msgspec.Struct):
    """What a shadow said beside the answers, since this process started. differences: of the probability that is
    furthest apart. dropped: not asked, since there was something better to do."""

    agreed: int
    differed: int
    refused: int
    failed: int
    dropped: int
    mean_difference: float | None
    most_difference: float | None


class TrafficPage(msgspec.Struct):
    """Which versions of a model answer. before: what a rollback brings back; None: there is nothing. answered:
    predictions by version, shadows: comparisons, both of this process since it started."""

    name: str
    versions: dict[str, int]
    shadow: list[str]
    before: SetTraffic | None
    changed_at: float | None
    changed_by: str | None
    answered: dict[str, int]
    shadows: dict[str, ShadowInfo]


class ErrorBody(msgspec.Struct):
    code: str
    message: str
    hint: str
    kind: Literal["refusal", "usage", "access", "capacity", "fault"]


class ErrorAnswer(msgspec.Struct):
    error: ErrorBody
    trace: str


class Live(msgspec.Struct):
    live: bool


class Ready(msgspec.Struct):
    ready: bool


class Predict(msgspec.Struct, forbid_unknown_fields=True):
    """Of a model of pictures: the name of the input (see the model's page) and the base64 of the file. The JSON form of
    a model of records is documented at its own address."""

    inputs: dict[str, bytes]


class PredictCase(msgspec.Struct, forbid_unknown_fields=True):
    """Ask about a stored case: its id, as `POST /v1/cases` answered it."""

    case: str


class CaseStored(msgspec.Struct):
    """A case that is on disk."""

    case: str
    version: int
    bytes: int


class CaseVersion(msgspec.Struct):
    """created: seconds since 1970."""

    version: int
    bytes: int
    created: float


class CasePage(msgspec.Struct):
    """What is known of a stored case; not whose it is. bytes, created: of its newest version."""

    case: str
    media_type: str
    bytes: int
    created: float
    versions: list[CaseVersion]


class PackageInfo(msgspec.Struct):
    """A model package on the shelf. Times: seconds since 1970. uploaded_by, published_by: ids of principals.

    job: the one that made it, for a package that was trained here.
    """

    digest: str
    name: str
    version: str
    bytes: int
    signer: str
    state: Literal["uploaded", "published"]
    uploaded_by: str
    uploaded_at: float
    published_by: str | None = None
    published_at: float | None = None
    job: str | None = None


class PackageList(msgspec.Struct):
    packages: list[PackageInfo]


class PackagePage(msgspec.Struct):
    """A package and its card: what whoever publishes it has to judge."""

    package: PackageInfo
    card: dict[str, Any]


class JobInfo(msgspec.Struct):
    """Work in the background. Times: seconds since 1970. progress: the last line of its log while it runs."""

    id: str
    kind: Literal["train", "evaluate", "screen", "admet"]
    state: Literal["queued", "running", "cancelling", "done", "failed", "cancelled"]
    progress: str
    created_by: str
    created_at: float
    ended_at: float | None = None


class JobList(msgspec.Struct):
    jobs: list[JobInfo]


class JobPage(msgspec.Struct):
    """result: figures; of training the digest of the package, of a screen or a panel the names of the files that
    `/v1/jobs/{job}/results` gives. error: code, message and hint. log: the end of it."""

    job: JobInfo
    asked: dict[str, Any]
    result: dict[str, Any] | None
    error: dict[str, str] | None
    log: str


class BatchStored(msgspec.Struct):
    """A batch that is on disk and will be answered."""

    batch: str
    items: int


class BatchInfo(msgspec.Struct):
    """A batch. done: items that are settled; failed: of those, the ones with an error. left_s: seconds to go, where
    that is known. error: why it ended early. Times: seconds since 1970."""

    batch: str
    model: str
    version: str
    digest: str
    state: Literal["queued", "running", "done", "failed", "deleted"]
    items: int
    done: int
    failed: int
    left_s: float | None
    created_by: str
    created_at: float
    ended_at: float | None = None
    error: dict[str, str] | None = None


class Ranked(msgspec.Struct):
    """One item of a ranking. item: its number in the batch, from 1; id: its own. abstained: the model is not sure."""

    rank: int
    item: int
    id: str | None
    score: float
    abstained: bool


class Ranking(msgspec.Struct):
    """The best of a batch, by its answers so far. of: how many were ranked; errors: how many have no score."""

    batch: str
    label: str
    seek: Literal["high", "low"]
    of: int
    errors: int
    hits: list[Ranked]


class BatchList(msgspec.Struct):
    batches: list[BatchInfo]
