"""`dataset.yaml`: what a data set says of itself, parsed strictly.

    declared = parse(path.read_bytes(), name="dataset.yaml")
    declared.target.classes, declared.patient

One grammar for every kind and question (see `docs/data.md`). A wrong or unknown key is an error that lists
its neighbours.
"""

import re
from typing import Any, Literal

import msgspec
import yaml

from medserve.data.elements import check_element
from medserve.data.trial import Treatment, check_trial
from medserve.errors import BadData, neighbours
from medserve.types import LOWEST

MAX_BYTES = 2**20
PICTURES = ("image", "volume")  # a case of one such input is a picture; every other case is a record
SUPPORTED = (*PICTURES, "number", "category", "text", "timeline", "waveform", "molecule", "protein")
_ATC = re.compile(r"[A-Z]\d{2}[A-Z]{2}\d{2}")
TASKS = ("binary", "multiclass", "multilabel", "ordinal", "number", "survival", "tags", "generate", "medicines")


class Input(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """One input.

    column: of the table: the value itself, or the path of a file; by default the input's own name.
    size: [H, W], or [D, H, W] for a volume. unit: UCUM. range: [lowest, highest] that is possible, in `unit`.
    classes: the words of a category. language: of a text, "en" or "zh".
    table, form: where the events of a timeline stand: a table of events, whose columns are named by patient, time,
        code, value and event_unit; or a known form (fhir-ndjson, fhir-bundle, omop, physionet2012).
    window: hours before the prediction time that a timeline looks back. leads, hz, seconds: of a waveform.
    visits, gap: of the timeline under a target of kind medicines: how many visits it shows (8), and the hours without
        an event that part two visits (24).
    descriptors: of a molecule, false: its fragments alone, a tenth of the time; for very large libraries.
    tautomer: of a molecule, true: tautomers are brought into one form, in training as in serving; takes longer.
    fhir: of a number or a category, the element of a FHIR Bundle that says it (`data.elements`).
    residues: of a protein, how many are read, from its start; a longer one is then cut, and the answer says so.
    """

    kind: str
    column: str | None = None
    size: list[int] | None = None
    unit: str | None = None
    modality: str | None = None
    range: list[float] | None = None
    classes: list[str] | None = None
    language: str | None = None
    table: str | None = None
    form: str | None = None
    patient: str | None = None
    time: str | None = None
    code: str | None = None
    value: str | None = None
    event_unit: str | None = None
    window: float | None = None
    visits: int | None = None
    gap: float | None = None
    leads: list[str] | None = None
    hz: float | None = None
    seconds: float | None = None
    descriptors: bool = True
    tautomer: bool = False
    fhir: str | None = None
    residues: int | None = None


class Target(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """What is to be predicted.

    column: of the table; a list of columns for multilabel; none when the folder or the array holds the label. For
        survival the time until the event or the end of observation, in `unit`; for tags the spans of the entities;
        none for generate, whose target is the molecule itself, and for medicines, whose labels stand among the events.
    event: for survival, the column that says 1 where the event happened and 0 where observation ended before it.
    classes: in index order: (negative, positive) for binary, lowest first for ordinal.
    separator: between the labels of one cell of a multilabel column.
    censored: of a number, what becomes of values that are bounds (">10"): drop leaves these cases out, bound takes the
        bound for the value.
    scale: of a positive number, on which it is learnt: sqrt or log; errors and intervals then grow with the value.
    range: of a number, [lowest, highest]: cases outside are listed and left out, and no answer leaves it.
    bands: of a number, rising limits between which the report tells its errors apart.
    interval_by: of a number, an input of kind category: the interval holds its coverage in each of its groups.
    medicine: its ATC code, where the number is a dose of it (question treatment).
    """

    column: str | list[str] | None = None
    kind: str | None = None
    classes: list[str] | None = None
    unit: str | None = None
    separator: str = "|"
    event: str | None = None
    censored: Literal["drop", "bound"] | None = None
    scale: Literal["sqrt", "log"] | None = None
    range: list[float] | None = None
    bands: list[float] | None = None
    interval_by: str | None = None
    medicine: str | None = None


class Split(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A rule; `time` and `site` name columns of the table, `scaffold` and `cluster` families of molecules.

    `column` deals the rows of one value of a column together: no drug, or no target, stands in two parts.
    order: in which families are dealt: largest (the default) to train first, without chance, so that the rarest
        chemistry is tested; balanced, by `seed`.
    """

    by: Literal["patient", "random", "site", "time", "scaffold", "cluster", "column"] = "patient"
    test: float = 0.2
    seed: int = 7
    column: str | None = None
    order: Literal["largest", "balanced"] | None = None


class Dataset(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The whole file. `files` is a glob, or the name of an .npz; without `table` and `files` the form is guessed.

    intervals: of independent cases in a table, the column whose values a bootstrap draws whole: pairs with one drug are
        no independent evidence.
    """

    name: str | None = None
    source: str | None = None
    licence: str | None = None
    citation: str | None = None
    synthetic: str | None = None
    table: str | None = None
    files: str | None = None
    patient: str | None = None
    independent: bool = False
    intervals: str | None = None
    split: str | Split | None = None
    prediction_time: str | float | None = None
    inputs: dict[str, Input] = {}
    target: Target | None = None
    treatment: Treatment | None = None
    subgroups: list[str] = []
    laterality_safe: bool = False
    public: bool = False

    @property
    def input(self) -> Input | None:
        return next(iter(self.inputs.values()), None)

    @property
    def records(self) -> bool:
        """Whether its cases are records: anything but one picture."""
        kinds = [said.kind for said in self.inputs.values()]
        return bool(kinds) and (len(kinds) > 1 or kinds[0] not in PICTURES)

    @property
    def tagged(self) -> str | None:
        """The column of the text whose words are to be marked, for a table with a target of kind tags."""
        if self.target is None or self.target.kind != "tags" or not self.inputs:
            return None
        name, said = next(iter(self.inputs.items()))
        return said.column or name

    @property
    def described(self) -> dict[str, Any]:
        """What is printed in the card."""
        given = {k: getattr(self, k) for k in ("source", "licence", "citation", "synthetic")}
        trial = {} if self.treatment is None else {"trial": self.treatment.told(list(self.inputs))}
        return {k: v for k, v in given.items() if v is not None} | {"public": self.public} | trial


def parse(data: bytes, *, name: str = "dataset.yaml") -> Dataset:
    """Parse and check one declaration.

    Raises: BadData: "declaration-yaml" not YAML; "declaration-key" a wrong or unknown key, with its neighbours;
        "kind-not-supported" a kind of input, target or question that this version does not read.
    """
    if len(data) > MAX_BYTES:
        raise BadData("declaration-yaml", f"{name} is larger than {MAX_BYTES} bytes.", hint="A declaration is short.")
    try:
        raw = yaml.safe_load(data)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise BadData(
            "declaration-yaml", f"{name} is not YAML{where}.", hint="Check the indentation and the colons there."
        ) from error
    if not isinstance(raw, dict):
        raise BadData(
            "declaration-yaml", f"{name} holds no `key: value` lines.", hint="Start with `name: my-data-set`."
        )
    _check_input_kinds(raw, name)
    try:
        declared = msgspec.convert(raw, Dataset, strict=True)
    except msgspec.ValidationError as error:
        raise _explain(str(error), name) from error
    return _check(declared, name)


def _check_input_kinds(raw: dict[str, Any], name: str) -> None:
    """Kinds come first: of an unknown kind no key is a mistake."""
    inputs = raw.get("inputs")
    for key, value in inputs.items() if isinstance(inputs, dict) else ():
        kind = value.get("kind") if isinstance(value, dict) else None
        if kind is None or kind in SUPPORTED:
            continue
        raise BadData(
            "declaration-key", f"{name}: no kind {kind!r} for input {key!r} ({neighbours(str(kind), SUPPORTED)})."
        )


def _check(declared: Dataset, name: str) -> Dataset:
    target = declared.target
    if declared.records and any(said.kind == "volume" for said in declared.inputs.values()):
        raise BadData(
            "kind-not-supported",
            f"{name}: a volume beside other inputs is not read by this version.",
            hint="Keep the volume alone, or give an image.",
        )
    for key, said in declared.inputs.items():
        check_element(said, key, name)
        if said.range is not None and (len(said.range) != 2 or not said.range[0] < said.range[1]):
            raise BadData("declaration-value", f"{name}: `inputs.{key}.range` is [lowest, highest].")
        if said.residues is not None and (said.kind != "protein" or not 16 <= said.residues <= 5000):
            raise BadData(
                "declaration-value", f"{name}: `inputs.{key}.residues` is a whole number from 16 to 5000, of a protein."
            )
        if said.kind != "molecule" and (said.tautomer or not said.descriptors):
            word = "tautomer" if said.tautomer else "descriptors"
            raise BadData("declaration-value", f"{name}: `inputs.{key}.{word}` is for an input of kind molecule.")
        axes = 3 if said.kind == "volume" else 2
        if said.size is not None and (len(said.size) != axes or any(n < 8 or n > 4096 for n in said.size)):
            raise BadData("declaration-value", f"{name}: `size` is {axes} whole numbers between 8 and 4096.")
    if target is not None and target.kind == "survival" and target.event is None:
        raise BadData(
            "declaration-key", f"{name}: a survival target needs `event`.",
            hint="Write `target: {kind: survival, column: TIME, event: COLUMN_OF_0_AND_1}`.",
        )  # fmt: skip
    if target is not None and target.kind is not None and target.kind not in TASKS:
        raise BadData("declaration-key", f"{name}: no target kind {target.kind!r} ({neighbours(target.kind, TASKS)}).")
    if target is not None:
        _check_number(target, declared, name)
    if declared.intervals is not None and not (declared.independent and declared.records):
        raise BadData(
            "declaration-value",
            f"{name}: `intervals` is for independent cases in a table; of patients, whole patients are drawn.",
            hint="Write `independent: true`, or leave `intervals` out.",
        )
    families = isinstance(declared.split, Split) and declared.split.by in ("scaffold", "cluster")
    if families and not any(said.kind == "molecule" for said in declared.inputs.values()):
        raise BadData(
            "declaration-value", f"{name}: a split by families of molecules needs an input of kind molecule.",
            hint="Write `inputs: {smiles: {kind: molecule}}`.",
        )  # fmt: skip
    texts = [said for said in declared.inputs.values() if said.kind == "text"]
    given = bool(declared.inputs) or declared.table is not None  # files of tagged words need neither
    if target is not None and target.kind == "tags" and given and not len(texts) == len(declared.inputs) == 1:
        raise BadData(
            "declaration-value",
            f"{name}: a target of kind tags takes one input, the text whose words are marked.",
            hint="Write `inputs: {NAME: {kind: text, column: COLUMN}}`.",
        )
    kinds = [said.kind for said in declared.inputs.values()]
    if target is not None and target.kind == "generate" and (target.column is not None or kinds != ["molecule"]):
        raise BadData(
            "declaration-value",
            f"{name}: a target of kind generate takes one input, the molecules to learn from, and no column.",
            hint="Write `inputs: {NAME: {kind: molecule}}` and `target: {kind: generate}`.",
        )
    _check_medicines(declared, name)
    if target is not None and target.classes is not None:
        if len(set(target.classes)) != len(target.classes):
            raise BadData("declaration-value", f"{name}: `target.classes` names a class twice.")
        if target.kind == "binary" and len(target.classes) != 2:
            raise BadData(
                "declaration-value",
                f"{name}: a binary target has 2 classes, not {len(target.classes)}.",
                hint="Write `classes: [negative, positive]`, or `kind: multiclass`.",
            )
    if declared.patient is not None and declared.independent:
        raise BadData(
            "declaration-value",
            f"{name}: both `patient` and `independent: true`.",
            hint="Keep `patient` if one person can have several images.",
        )
    split = declared.split
    if isinstance(split, Split):
        if not 0 < split.test < 1:
            raise BadData("declaration-value", f"{name}: `split.test` is a fraction between 0 and 1.")
        if split.order is not None and not families:
            raise BadData(
                "declaration-value", f"{name}: `split.order` is for families of molecules.",
                hint="Write `split: {by: scaffold, order: balanced, seed: 1}`, or leave `order` out.",
            )  # fmt: skip
        if split.by == "column" and not declared.records:
            raise BadData("declaration-value", f"{name}: a split by a column is for tables whose rows are cases.")
        if split.by in ("site", "time", "column") and split.column is None:
            raise BadData(
                "declaration-key",
                f"{name}: a split by {split.by} needs `column`.",
                hint=f"Write `split: {{by: {split.by}, column: NAME}}`.",
            )
    check_trial(declared, name)
    return declared


def _check_medicines(declared: Dataset, name: str) -> None:
    """What is said of a target of kind medicines, and of the visits of its timeline.

    Raises: BadData "declaration-value", "medicines-history".
    """
    lines = {key: said for key, said in declared.inputs.items() if said.kind == "timeline"}
    wanted = declared.target is not None and declared.target.kind == "medicines"
    for key, said in declared.inputs.items():
        if (said.visits is not None or said.gap is not None) and not (wanted and key in lines):
            raise BadData(
                "declaration-value", f"{name}: `inputs.{key}`: visits and gap are for the timeline of a target of kind"
                " medicines.", hint="Write `target: {kind: medicines}`, or leave them out.",
            )  # fmt: skip
        if (said.visits is not None and not 3 <= said.visits <= 64) or (said.gap is not None and said.gap <= 0):
            raise BadData("declaration-value", f"{name}: `inputs.{key}`: visits is 3 to 64, and gap hours above 0.")
    if not wanted:
        return
    assert declared.target is not None
    if len(lines) != 1:
        raise BadData(
            "medicines-history", f"{name}: a target of kind medicines takes one timeline; there are {len(lines)}.",
            hint="Write `inputs: {history: {kind: timeline, table: events.csv, patient: ..., time: ..., code: ...}}`.",
        )  # fmt: skip
    if any(said.window is not None for said in lines.values()):
        raise BadData("declaration-value", f"{name}: a history in visits has no `window`.", hint="Write `visits: 8`.")
    given = [key for key in ("column", "classes", "unit") if getattr(declared.target, key) is not None]
    given = [f"target.{key}" for key in given] + (["prediction_time"] if declared.prediction_time is not None else [])
    if given:
        raise BadData(
            "declaration-value", f"{name}: `{given[0]}` has no place beside `kind: medicines`.",
            hint="The labels are the medicines among the events; a visit's first prescription is the prediction time.",
        )  # fmt: skip
    if isinstance(declared.split, Split) and declared.split.by not in ("patient", "site", "time"):
        raise BadData("declaration-value", f"{name}: visits are split by patient; {declared.split.by} would part them.")


def _check_number(target: Target, declared: Dataset, name: str) -> None:
    """What is said of a target of kind number alone."""
    said = [k for k in ("scale", "range", "bands", "interval_by", "medicine") if getattr(target, k) is not None]
    if said and target.kind != "number":
        raise BadData("declaration-value", f"{name}: `target.{said[0]}` is for a target of kind number.")
    if target.range is not None and (len(target.range) != 2 or not target.range[0] < target.range[1]):
        raise BadData("declaration-value", f"{name}: `target.range` is [lowest, highest].")
    if target.range is not None and target.range[0] < LOWEST[target.scale or ""]:
        raise BadData("declaration-value", f"{name}: `target.scale: {target.scale}` is for positive numbers.")
    if target.bands is not None and (not target.bands or sorted(set(target.bands)) != target.bands):
        raise BadData("declaration-value", f"{name}: `target.bands` are rising limits.", hint="Write [21, 49].")
    if target.interval_by is not None:
        by = declared.inputs.get(target.interval_by)
        if by is None or by.kind != "category":
            near = neighbours(target.interval_by, [k for k, v in declared.inputs.items() if v.kind == "category"])
            raise BadData(
                "declaration-value",
                f"{name}: `target.interval_by` is an input of kind category; {target.interval_by!r} is none ({near}).",
            )
    if target.medicine is None:
        return
    if not _ATC.fullmatch(target.medicine):
        raise BadData(
            "declaration-value", f"{name}: `target.medicine` is an ATC code of a substance.",
            hint="For instance B01AA03, warfarin.",
        )  # fmt: skip
    lacking = [k for k in ("unit", "range") if getattr(target, k) is None]
    if lacking:
        raise BadData(
            "dose-undeclared",
            f"{name}: a dose needs `target.{lacking[0]}`.",
            hint="Write `unit: mg/wk` and `range: [lowest, highest]` of the doses that may be named.",
        )


_FIELDS: dict[str, type[msgspec.Struct]] = {
    "": Dataset, "target": Target, "split": Split, "inputs": Input, "treatment": Treatment
}  # fmt: skip


def _explain(text: str, name: str) -> BadData:
    """msgspec's message, said for a person, with the neighbours of an unknown key."""
    at = re.search(r" - at `\$\.?([^`]*)`", text)
    path = at.group(1) if at else ""
    unknown = re.search(r"unknown field `([^`]*)`", text)
    if unknown:
        known = [f.name for f in msgspec.structs.fields(_FIELDS.get(path.split(".")[0].split("[")[0], Dataset))]
        near = neighbours(unknown.group(1), known)
        where = f" under `{path}`" if path else ""
        return BadData(
            "declaration-key",
            f"{name}: no key {unknown.group(1)!r}{where} ({near}).",
            hint=f"Known keys there: {', '.join(known)}.",
        )
    said = re.sub(r" - at `.*`$", "", text)
    return BadData("declaration-key", f"{name}: {f'`{path}`: ' if path else ''}{said}.")
