"""A package that answers: bytes of one picture in, the answer of the wire out. Network and command line share it.

    model = LoadedModel.open(folder, trust)
    answer = model.predict(data, explain="occlusion")     # the whole way, for one picture

    tensor = model.load(data)                             # the same way in steps, for a service that batches:
    scores = model.score(tensor[None])                    # read, check and transform; score; answer; explain
    answer = model.answer(scores)

Opening verifies the package and reproduces its stored self-check before anything is answered. Where `medserve tune`
left a verdict for this machine, the engine that it chose answers.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medserve.data import readers
from medserve.data.fields import Block, Records, absent_from, words_of
from medserve.data.fields.protein import cut_off
from medserve.errors import BadPackage, Fault, Refusal
from medserve.models.package import GRAPH, SELFCHECK, Package, open_package
from medserve.models.signing import Trust
from medserve.questions.answers import NOT_COVERED, Prediction, answer_one, check_scope, probabilities
from medserve.questions.tags import entities_of
from medserve.runtime.domain import at_the_edge, open_domain
from medserve.runtime.engine import DEFAULT, Engine, Unfit, usual
from medserve.runtime.evidence import Explainer
from medserve.runtime.graphfile import read_graph
from medserve.runtime.inputs import JSON, raw_inputs
from medserve.runtime.known import KnownModel
from medserve.runtime.naming import new_id
from medserve.runtime.reviewed import About, Reviewer
from medserve.runtime.second import SecondLook
from medserve.runtime.selfcheck import self_check
from medserve.runtime.steps import steps_of
from medserve.runtime.tuned import EXACT, Verdict, find_verdict, read_quantised
from medserve.safety.policy import CLOSED, Standing
from medserve.types import Array, Picture, Scores

PLAIN_TASKS = ("binary", "multiclass", "multilabel", "ordinal")


class Scored(NamedTuple):
    """One case of a batch, its row `at`. probs: (K,) calibrated. absent: inputs that it lacks.

    cut: inputs of which only the beginning was read, with the number of residues left out. group: its word for the
    output's `by`.
    """

    batch: Scores
    at: int
    probs: Array | list[float]
    distance: float | None
    absent: tuple[str, ...]
    cut: tuple[tuple[str, int], ...] = ()
    group: str | None = None

    @property
    def scores(self) -> Scores:
        """Of it alone (B == 1)."""
        return self.batch[self.at : self.at + 1]


class LoadedModel(KnownModel):
    """One version of one model, ready to answer. Safe to use from several threads.

    Args:
        package: opened and verified.
        threads: processor threads of one pass; 0 means all cores.
        max_pixels: largest picture that is decoded, declared or real.
        verdict: what the tuner found for this model and machine; its engine is used if it passes the self-check too.
        tuned: the folder in which the verdict lay, for the quantised graph beside it.
        rules: of safety, for a package that names medicines; without any of them it answers nothing.
        warn: gets one line where the verdict could not be followed.

    `engine` scores what is asked. `reference` draws the explanations: the audit judged them in full precision, so it
    is another engine than `engine` where that one is of reduced precision.

    Raises: BadPackage "package-selfcheck": this machine does not reproduce the stored outputs.
    """

    def __init__(
        self,
        package: Package,
        *,
        threads: int = 0,
        max_pixels: int = 64_000_000,
        verdict: Verdict | None = None,
        tuned: Path | None = None,
        rules: Standing = CLOSED,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        super().__init__(package)
        self.max_pixels = max_pixels
        self._shape = self.spec.shape
        self._records, self._pipeline = steps_of(self.spec, max_pixels)
        self.reviewer = Reviewer(self.spec, rules) if self.reviewed else None
        self.domain = open_domain(package, () if self._records is None else self._records.blocks)
        self._named = {"name": self.name, "version": self.version, "digest": self.digest}
        limits = package.card.get("limits", []) if self.spec.calibration.conformal is not None else []
        self._not_covered = [one for one in limits if one["code"] in NOT_COVERED]
        codes = self.spec.output.codes.items()
        self._codes = {label: {"system": code.system, "code": code.code} for label, code in codes}
        graph = read_graph(package.path(GRAPH))
        choice = usual(self._shape, len(graph), threads) if verdict is None else DEFAULT
        self.engine = self.reference = Engine(
            graph, shape=self._shape, width=self.spec.output.width, threads=threads, choice=choice
        )
        self.item_s = self_check(self.reference, package.tensors(SELFCHECK))
        if verdict is not None and verdict.chosen != DEFAULT:
            self._follow(verdict, tuned, graph, threads, warn)
        self.explainer = Explainer(package, self._records, self.domain, self.reference)

    @classmethod
    def open(
        cls,
        folder: Path,
        trust: Trust,
        *,
        threads: int = 0,
        max_pixels: int = 64_000_000,
        tuned: Path | None = None,
        rules: Standing = CLOSED,
        warn: Callable[[str], None] = lambda text: None,
    ) -> "LoadedModel":
        """Verify, load and self-check the package in `folder`.

        Args:
            tuned: folder of the tuner's verdicts; None runs ONNX Runtime, the reference.
        """
        package = open_package(folder, trust)
        verdict = None if tuned is None else find_verdict(tuned, package.digest, threads=threads, warn=warn)
        more: dict[str, Any] = {"verdict": verdict, "tuned": tuned, "rules": rules, "warn": warn}
        return cls(package, threads=threads, max_pixels=max_pixels, **more)

    def _follow(
        self, verdict: Verdict, tuned: Path | None, graph: bytes, threads: int, warn: Callable[[str], None]
    ) -> None:
        """Take the engine that the tuner chose, unless it does not run or does not reproduce what was measured."""
        choice = verdict.chosen
        try:
            quantised = b"" if tuned is None else read_quantised(tuned, verdict, len(graph))
            engine = Engine(graph, shape=self._shape, width=self.spec.output.width, threads=threads, choice=choice,
                            quantised=quantised, package=self.package)  # fmt: skip
            if choice.second:
                engine.second = SecondLook(self.spec, verdict.margins, self.reference)
            self.item_s = self_check(engine, self.package.tensors(SELFCHECK), verdict.tolerance)
        except (Unfit, BadPackage) as error:
            code = "tuned-selfcheck" if isinstance(error, BadPackage) else error.code
            warn(f"warning {code}: {choice} was chosen for {self.name}: {error.message} ONNX Runtime runs it.")
            return
        self.engine = engine
        if choice.precision == EXACT:
            self.reference = engine

    @property
    def has_cam(self) -> bool:
        return self.reference.has_cam

    def warm(self) -> None:
        """Run a batch of every size that the engine prepares for, so that no request pays for the first of its kind.

        Raises: Fault "engine-failed".
        """
        one = np.asarray(self.package.tensors(SELFCHECK)[self.engine.input])[:1]
        for size in sizes(self.engine.max_batch):
            self.engine.score(np.repeat(one, size, axis=0))

    # -- the way of one picture ------------------------------------------------------------------------------------

    def read(self, data: bytes, name: str = "") -> Picture:
        """The one picture in a file.

        Raises: Refusal: unreadable, or "several-images" where the model takes one.
        """
        volume = self.spec.inputs[0].kind == "volume"
        pictures = readers.iter_pictures(data, name=name, max_pixels=self.max_pixels, volume=volume)
        picture = next(pictures)
        if next(pictures, None) is not None:
            raise Refusal(
                "several-images",
                f"The file holds {picture.frames} images; the model takes one.",
                hint="Send one frame or slice at a time.",
            )
        return picture

    def prepare(self, picture: Picture) -> Array:
        """The same transforms as in training. Returns: (C, H, W) or (C, D, H, W) uint8.

        Raises: Refusal: the picture is out of the model's scope.
        """
        check_scope(self.spec, picture)
        assert self._pipeline is not None
        tensor = self._pipeline(picture)
        if tensor.shape != self._shape or tensor.dtype != np.uint8:
            raise Fault("transforms-shape", "The package's transforms do not give the shape of its own signature.")
        return tensor

    def load(self, data: bytes, name: str = "", *, media: str = "") -> Array:
        """Read, check and transform.

        Args:
            media: declared type of the bytes; pictures show theirs themselves.

        Returns: what enters the graph: (C, H, W) or (C, D, H, W) uint8, or (F,) float32 of a record.
        Raises: Refusal: unreadable or out of the model's scope. Usage "json-invalid".
        """
        if self._records is not None and self.reviewer is not None:
            data = self.reviewer.read(data, media)[0]
        return self._tensor(data, name, media)

    def _tensor(self, data: bytes, name: str, media: str) -> Array:
        """data: the inputs alone, without the facts for a review."""
        if self._records is None:
            return self.prepare(self.read(data, name))
        record = self._records.decode(data) if media == JSON else None
        if record is None:
            record = self._records(raw_inputs(self.spec, data, media=media, name=name))
        if _empty(record):
            raise Refusal("case-empty", "Every input is missing.", hint="Give at least one value.")
        return record

    def take(self, data: bytes, name: str = "", *, media: str = "") -> tuple[Array, About | None]:
        """What `load` gives, and the facts about a patient that the body holds beside the inputs, for `answer`; None
        where it holds none, or no medicine is advised here.

        Raises: those of `load`; Refusal "auto-execute", "safety-request", "fhir-...".
        """
        if self.reviewer is None:
            return self.load(data, name=name, media=media), None
        data, about = self.reviewer.read(data, media)
        return self._tensor(data, name, media), about

    def row(self, data: bytes) -> Array | None:
        """What `load` gives for the plainest JSON of a record; None where it is anything else, or refused."""
        record = None if self._records is None else self._records.decode(data)
        return None if record is None or _empty(record) else record

    @property
    def records(self) -> Records | None:
        """The fields of a model of records."""
        return self._records

    @property
    def quick(self) -> bool:
        """A small case is read in microseconds: numbers and categories alone."""
        return self._records is not None and self._records.plain

    def score(self, images: Array, *, cam: bool = False) -> Scores:
        """Raw scores. images: (B, *shape), as `load` gives each."""
        return self.engine.score(images, cam=cam)

    def text_of(self, data: bytes, name: str = "", *, media: str = "") -> str | None:
        """The text whose words the model marks, as it was sent; None for every other task. Arguments as for `load`."""
        if self._records is None or self.spec.output.task != "tags":
            return None
        (field,) = self._records.fields
        text: str | None = field.parse(raw_inputs(self.spec, data, media=media, name=name).get(field.name))
        return text

    def draws_in_pass(self, method: str | None) -> bool:
        """Whether the scoring pass gives this explanation: the engine that scores is the one that was audited."""
        return method == "cam" and self.engine is self.reference and self.engine.has_cam

    def read_scores(self, scores: Scores, cases: Array) -> "list[Scored]":
        """What `answer` needs of each case of a batch, computed for all of them at once. cases: what was scored."""
        found = probabilities(self.spec, scores.logits)
        probs = found.tolist() if self.spec.output.task in PLAIN_TASKS else found  # plain numbers compare faster
        far = [None] * len(cases) if scores.distance is None else scores.distance.tolist()
        absent = self._absent(cases)
        plain = self._records is None or self._records.plain
        cut = [()] * len(cases) if plain else [self._cut(case) for case in cases]
        group = self._groups(cases)
        return [Scored(scores, *row) for row in zip(range(len(cases)), probs, far, absent, cut, group, strict=True)]

    def _cut(self, case: Array) -> tuple[tuple[str, int], ...]:
        """The proteins of a record that were longer than the window, with the residues that were not read."""
        if self._records is None or self._records.plain:
            return ()
        proteins = [b for b in self._records.blocks if b.kind == "protein"]
        found = [(b.name, cut_off(case[b.start : b.start + b.size])) for b in proteins]
        return tuple((name, count) for name, count in found if count)

    def _absent(self, cases: Array) -> list[tuple[str, ...]]:
        if self.spec.output.task == "effect":  # every confounder counts by itself
            assert self._records is not None
            return [b for case in cases for b in [_lacks(self._records.blocks, case)]]
        return [()] * len(cases) if self._records is None else absent_from(self._records.blocks, cases)

    def _groups(self, cases: Array) -> Sequence[str | None]:
        by = self.spec.output.by
        return [None] * len(cases) if by is None or self._records is None else words_of(self._records.blocks, by, cases)

    def answer(
        self, scores: "Scores | Scored", *, case: Array | None = None, text: str | None = None, trace: str = "",
        about: About | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """The answer of the wire for the scores of one case (B == 1), without an explanation.

        Args:
            scores: of the engine, or what `read_scores` made of them.
            case: what entered the graph; of a record, inputs that were not given are named among the reasons.
            text: from `text_of`, for a model that marks words.
            about: the patient, from `take`, for a model that advises medicines.

        Raises: Refusal "out-of-distribution"; Unavailable "safety-unavailable".
        """
        if not isinstance(scores, Scored):
            probs = probabilities(self.spec, scores.logits)[0]
            distance = None if scores.distance is None else float(scores.distance[0])
            absent = () if case is None else self._absent(case[None])[0]
            cut, group = ((), None) if case is None else (self._cut(case), self._groups(case[None])[0])
            scores = Scored(scores, 0, probs, distance, absent, cut, group)
        absent, cut = scores.absent, scores.cut
        found = answer_one(self.spec, scores.probs, scores.distance, absent=absent, group=scores.group)
        domain = None if self.domain is None or case is None else self.domain.of(case)
        answer = {
            "id": new_id(),
            "model": dict(self._named),
            "status": found.status,
            "outputs": self._outputs(found),
            "prediction_set": None if found.prediction_set is None else list(found.prediction_set),
            "coverage": found.coverage,
            "decision": found.decision,
            "reasons": [dict(r) for r in found.reasons]
            + self._not_given(() if found.effect is not None and found.abstained else absent)
            + _cut_off(cut)
            + at_the_edge(domain)
            + [dict(one) for one in self._not_covered],
            "explanation": None,
            "curve": None if found.curve is None else [list(point) for point in found.curve],
            "domain": domain,
            "effect": found.effect,
            "safety": None,
            "entities": None if text is None else entities_of(self.spec.output, scores.scores.logits[0], text),
            "trace": trace or new_id(),
        }
        if self.reviewer is not None:
            self.reviewer.hold(answer, about)
        return answer

    def _not_given(self, absent: tuple[str, ...]) -> list[dict[str, str]]:
        """A reason that names the inputs that a record lacks (numbers and words only where all of them are)."""
        if not absent:
            return []
        conformal = self.spec.calibration.conformal
        wider = conformal is not None and any(set(one.inputs) <= set(absent) for one in conformal.absent)
        what = "interval" if self.spec.output.task == "number" else "prediction set"
        said = f"Answered without {', '.join(absent)}, which was not given"
        said += f"; the {what} allows for it." if wider else "."
        return [{"code": "input-missing", "message": said}]

    def explain(
        self, method: str, tensor: Array, scores: Scores, held: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """The evidence for one prediction, with the verdict of its audit: see `Explainer.explain`.

        Raises: Usage "explanation-not-offered".
        """
        self.check_explain(method)
        if scores.cam is not None and not self.draws_in_pass(method):
            scores = replace(scores, cam=None)
        return self.explainer.explain(method, tensor, scores, held)

    def predict(self, data: bytes, explain: str | None = None, *, name: str = "", trace: str = "") -> dict[str, Any]:
        """The whole way for one file; what `medserve predict` prints and the network answers."""
        self.check_explain(explain)
        tensor, about = self.take(data, name)
        scores = self.score(tensor[None])
        answer = self.answer(scores, case=tensor, text=self.text_of(data, name), trace=trace, about=about)
        if explain is not None:
            answer["explanation"] = self.explain(explain, tensor, scores, answer["safety"])
        return answer

    def _outputs(self, found: Prediction) -> list[dict[str, Any]]:
        output = self.spec.output
        if found.effect is not None:
            return [
                {"label": f"{one['arm']} against {output.labels[0]}", "value": one["effect"], "unit": output.unit,
                 "interval": one["interval"]}
                for one in found.effect["effects"]
            ]  # fmt: skip
        if output.task in ("number", "generate"):
            interval = None if found.interval is None else list(found.interval)
            return [{"label": found.labels[0], "value": found.value, "unit": output.unit, "interval": interval}]
        pairs = list(zip(found.labels, found.probabilities, strict=True))
        if output.medicines is not None:  # candidates in the order in which rules of safety are to take them
            pairs.sort(key=lambda pair: -pair[1])
        return [{"label": label, "code": self._codes.get(label), "probability": p} for label, p in pairs]


def _lacks(blocks: Sequence[Block], case: Array) -> tuple[str, ...]:
    return tuple(b.name for b in blocks if not np.isfinite(case[b.start : b.start + b.size]).any())


def _empty(record: Array) -> bool:
    return not (math.isfinite(record.item(0)) or np.isfinite(record).any())


def _cut_off(cut: tuple[tuple[str, int], ...]) -> list[dict[str, str]]:
    """A reason for each protein that was read in part."""
    said = "Of {} the last {} residues lie beyond what the model reads, and were left out."
    return [{"code": "protein-cut", "message": said.format(name, count)} for name, count in cut]


def sizes(most: int) -> list[int]:
    """1, 2, 4 ... and `most`: batches of which memory and kernels differ."""
    return [*(2**k for k in range((most - 1).bit_length())), most]
