"""The tuner: every engine, precision, number of streams and batch size, measured on this machine on this model.

    verdict = tune(package, threads=2, evidence=Evidence(part, patients, groups), progress=progress)
    verdict.chosen, verdict.rows

The reference is ONNX Runtime in fp32, which made every figure of the package. A choice is kept if it reproduces the
self-check and passes the accuracy gate on the calibration part; without such cases only fp32 can be kept. Of those the
fastest wins; of choices as fast within a tenth, the one with the shorter wait of a lone case: a second stream often
buys a few answers a second for half as long a wait again. Choices take turns, round by round, and the median of the
rounds counts, so that a slow moment of the machine hits all of them alike.
"""

import hashlib
import os
import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from medserve.errors import BadPackage, Fault
from medserve.models.package import GRAPH, SELFCHECK, Package
from medserve.models.spec import ModelSpec
from medserve.progress import SILENT, Progress
from medserve.runtime.engine import (
    DEFAULT,
    OVERLAP,
    Choice,
    Engine,
    EngineName,
    Precision,
    Unfit,
    default_batch,
    versions,
)
from medserve.runtime.gate import gate
from medserve.runtime.graphfile import read_graph
from medserve.runtime.quantise import Quantiser
from medserve.runtime.second import SecondLook, looks, margins_of
from medserve.runtime.selfcheck import TOLERANCE, gaps
from medserve.runtime.tuned import COMPARED, EXACT, MOST_TOLERANCE, Row, Verdict, cores, processor
from medserve.types import Array, Samples, Scores

PRECISIONS: dict[EngineName, tuple[Precision, ...]] = {
    "onnxruntime": ("fp32", "int8"),
    "openvino": ("fp32", "bf16", "int8"),
}
TORCH = ("torch", "inductor", "torch-cuda")
FAR: dict[str, float] = {EXACT: TOLERANCE, "bf16": 0.1, "int8": MOST_TOLERANCE / 2}  # limits of the self-check;
# its inputs are drawn and leave the ranges that films gave to int8: there the gate and the graph's sha256 vouch
ROUNDS = 5
BUSY = 0.5  # load average a core from which the measurements are doubted
EXAMPLES = 256  # cases that are measured in turn
BLOCK_S, LONE_S = 0.15, 0.05  # least time of one measurement
ALIKE = 0.1
MARGIN = 2.0  # the tolerance that is written down, in differences that were measured
_STEP = 4  # batch sizes: a quarter of the usual one, it, four times it
Opener = Callable[..., Engine]


@dataclass(frozen=True, slots=True)
class Evidence:
    """Labelled cases for the gate, never of the test part.

    patients: (N,) keys, None where every case is a patient of its own. groups: subgroup column -> (N,) values.
    """

    samples: Samples
    patients: Array | None = None
    groups: Mapping[str, Array] = field(default_factory=dict)
    name: str = ""


@dataclass(slots=True)
class _Open:
    """An engine under test; its batch size is a matter of each measurement."""

    engine: Engine
    row: Row
    lone_s: list[float]
    block_s: dict[int, list[float]]  # seconds a case, by batch
    at: int = 0  # the next case that is taken


def choices(threads: int, *, compare: bool = False, gpu: bool = False, providers: Collection[str] = ()) -> list[Choice]:
    """What is tried, without batch sizes.

    Args:
        threads: one stream on all of them, a stream a thread, and powers of two between; passes that share all.
        compare: also PyTorch on the processor, eager and compiled.
        gpu: PyTorch sees one.
        providers: of ONNX Runtime here.
    """
    streams = sorted({1, threads, *(n for n in (2, 4, 8) if n < threads)})
    kinds = [(engine, precision) for engine, many in PRECISIONS.items() for precision in many]
    found = [Choice(engine, precision, n) for engine, precision in kinds for n in streams]
    found += [Choice("onnxruntime", p, max(OVERLAP, threads), shared=True) for p in PRECISIONS["onnxruntime"]]
    found += [
        msgspec.structs.replace(c, second=True) for c in found if c.engine == "openvino" and c.precision == "int8"
    ]
    if compare:
        found += [Choice("torch"), Choice("inductor")]
    if gpu:
        found += [Choice("torch-cuda"), Choice("torch-cuda", "bf16")]
    if "CUDAExecutionProvider" in providers:
        found.append(Choice("onnxruntime-cuda"))
    if "TensorrtExecutionProvider" in providers:
        found += [Choice("onnxruntime-tensorrt"), Choice("onnxruntime-tensorrt", "bf16")]
    return found


def choices_here(threads: int, *, compare: bool = False) -> list[Choice]:
    """`choices` for this machine."""
    import onnxruntime

    from medserve.runtime.engines.torch_net import gpu_here

    return choices(threads, compare=compare, gpu=gpu_here(), providers=onnxruntime.get_available_providers())


def tune(
    package: Package,
    *,
    threads: int = 0,
    evidence: Evidence | None = None,
    progress: Progress = SILENT,
    compare: bool = False,
    tried: Sequence[Choice] | None = None,
    rounds: int = ROUNDS,
    quantiser: Quantiser | None = None,
    opener: Opener = Engine,
) -> Verdict:
    """Measure everything and choose.

    Args:
        threads: processor threads of the service; 0 means all cores.
        evidence: of the calibration part; without it no reduced precision can be chosen.
        compare: also measure PyTorch on the processor, where it is installed.
        tried: instead of `choices_here`; the reference is always among them.
        quantiser: makes the graphs of int8, from cases of the training part; without it int8 is not tried.
        opener: what opens an engine.

    Raises: BadPackage "package-selfcheck": not even the reference reproduces the self-check.
    """
    spec, graph, stored = package.spec, read_graph(package.path(GRAPH)), package.tensors(SELFCHECK)
    threads = threads or cores()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    tried = choices_here(threads, compare=compare) if tried is None else tried
    wanted = [DEFAULT, *(c for c in tried if c != DEFAULT and _may(c, spec, quantiser))]
    batches = _batches(spec.shape, len(graph))
    examples = _examples(evidence, stored, batches[-1])
    rows: list[Row] = []
    opened: list[_Open] = []
    truth: Scores | None = None
    reference: Engine | None = None
    margins: dict[str, dict[str, float]] = {}  # by engine
    for choice in progress.track(wanted, "Checking"):
        try:
            more: dict[str, Any] = {"package": package} if choice.engine in TORCH else {}
            if quantiser is not None and choice.precision == "int8":
                more["quantised"] = quantiser.of(choice.engine)
            engine = opener(graph, shape=spec.shape, width=spec.output.width, threads=threads, choice=choice, **more)
            look = None
            if choice.second and quantiser is not None and reference is not None:
                if choice.engine not in margins:
                    margins[choice.engine] = margins_of(
                        engine.score(quantiser.inputs), reference.score(quantiser.inputs)
                    )
                look = engine.second = SecondLook(spec, margins[choice.engine], reference)
            row = Row(choice, gap=_selfcheck(engine, stored))
            scores = None if evidence is None else _score(engine, evidence.samples, look)
            if look is not None:
                row.again = look.again / max(1, look.seen)
        except (Fault, BadPackage) as error:
            if choice == DEFAULT:
                raise
            rows.append(Row(choice, code=error.code, reason=error.message))
            continue
        if choice == DEFAULT:
            truth, reference = scores, engine
        _judge(row, spec, evidence, truth, scores)
        if choice == DEFAULT and row.code:
            raise BadPackage(
                "package-selfcheck",
                f"This machine does not reproduce the package's self-check: {row.reason}",
                hint="Update onnxruntime to the version in the package's card, or train again here.",
            )
        one = _Open(engine, row, [], {batch: [] for batch in batches})
        if row.code:  # it cannot be chosen: measured once, and out of memory
            _time([one], examples, 1, SILENT)
            rows += _rows(one)
        else:
            opened.append(one)
    _time(opened, examples, rounds, progress)
    for one in opened:
        rows += _rows(one)
    chosen = choose(rows)
    gap = next(row.gap for row in rows if row.choice == chosen)
    n = 0 if evidence is None else len(evidence.samples)
    return Verdict(
        format="medserve-tuned/1",
        digest=package.digest,
        processor=processor(),
        cores=threads,
        versions=versions(),
        chosen=chosen,
        tolerance={name: min(MOST_TOLERANCE, MARGIN * share) for name, share in gap.items()},
        rows=rows,
        margins=margins[chosen.engine] if chosen.second else {},
        quantised=hashlib.sha256(quantiser.of(chosen.engine)).hexdigest()
        if quantiser is not None and chosen.precision == "int8"
        else "",
        cases=n,
        data="" if evidence is None else evidence.name,
        note=_note(n, load),
        at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )


def _note(cases: int, load: float) -> str:
    said = "" if cases else "No calibration cases were given: only fp32, which needs no gate, could be chosen."
    if load > BUSY * cores():
        said += f" The machine was busy (load {load:.1f} on {cores()} cores): measure again when it is not."
    return said.strip()


def choose(rows: Sequence[Row]) -> Choice:
    """The fastest of what nothing keeps out; among equals the shorter wait of a lone case, then the smaller batch."""
    good = [(row.images_per_s, row) for row in rows if not row.code and row.images_per_s is not None]
    best = max(speed for speed, _ in good)
    near = [row for speed, row in good if speed >= best * (1 - ALIKE)]
    return min(near, key=lambda row: (row.lone_ms, row.choice.batch)).choice


def front(rows: Sequence[Row]) -> list[Row]:
    """The Pareto front: nothing that may be chosen is both faster and quicker with a lone case. By rising wait."""
    good = [r for r in rows if not r.code and r.images_per_s is not None and r.lone_ms is not None]
    found: list[Row] = []
    for row in sorted(good, key=lambda r: (r.lone_ms or 0, -(r.images_per_s or 0))):
        if not found or (row.images_per_s or 0) > (found[-1].images_per_s or 0):
            found.append(row)
    return found


def _selfcheck(engine: Engine, stored: Mapping[str, Array]) -> dict[str, float]:
    if not {engine.input, "logits"} <= set(stored):
        raise BadPackage("package-selfcheck", "The package holds no stored input and output.")
    scores = engine.score(np.asarray(stored[engine.input]), cam="cam" in stored)
    shares = {name: share for name, (_, share) in gaps(scores, stored).items()}
    if not all(np.isfinite(share) for share in shares.values()):
        raise Unfit("selfcheck-shape", "An output is missing, of another shape, or not finite.")
    return shares


def _judge(row: Row, spec: ModelSpec, evidence: Evidence | None, truth: Scores | None, scores: Scores | None) -> None:
    """Write into the row what keeps it out: the self-check, the lack of cases, or the gate."""
    exact = row.choice.precision == EXACT
    if row.choice.engine in COMPARED:
        row.code, row.reason = "compared-only", "It compiles for a minute at each start; measured to compare."
        return
    limit, far = FAR[row.choice.precision], max(row.gap, key=lambda name: row.gap[name])
    if row.gap[far] > limit:
        row.code, row.reason = "selfcheck", f"{far} differs by {row.gap[far]:.2g} of its size, more than {limit:g}."
        return
    if evidence is None or truth is None or scores is None:
        if not exact:
            row.code, row.reason = "gate-no-data", "Without --data nothing shows that it answers alike."
        return
    if row.choice == DEFAULT:
        return
    row.gate = gate(spec, truth, scores, evidence.samples.targets, evidence.patients, evidence.groups)
    unknown = {"gate-few-cases", "gate-no-rule", "gate-undefined"}  # fp32 needs no proof where none can be had
    if row.gate.codes and not (exact and set(row.gate.codes) <= unknown):
        row.code, row.reason = row.gate.codes[0], f"The accuracy gate says: {', '.join(row.gate.codes)}."


def _may(choice: Choice, spec: ModelSpec, quantiser: Quantiser | None) -> bool:
    return (choice.precision != "int8" or quantiser is not None) and (not choice.second or looks(spec))


def _score(engine: Engine, samples: Samples, look: SecondLook | None = None, batch: int = 64) -> Scores:
    if look is not None:
        look.seen = look.again = 0
    starts = range(0, len(samples), batch)
    return Scores.concat([engine.score(samples.take(np.arange(s, min(s + batch, len(samples))))) for s in starts])


def _batches(shape: Sequence[int], graph_bytes: int) -> list[int]:
    usual = default_batch(shape, graph_bytes)
    return sorted({max(1, usual // _STEP), usual, usual * _STEP})


def _examples(evidence: Evidence | None, stored: Mapping[str, Array], n: int) -> Array:
    """n inputs or more: calibration cases, of which some have a second look, else the stored ones, over and over."""
    if evidence is None:
        some = np.asarray(stored["record" if "record" in stored else "image"])
    else:
        n = max(n, min(EXAMPLES, len(evidence.samples)))
        some = evidence.samples.take(np.arange(min(n, len(evidence.samples))))
    return np.ascontiguousarray(some[np.arange(n) % len(some)])


def _time(opened: Sequence[_Open], images: Array, rounds: int, progress: Progress) -> None:
    """Fill in the seconds; the order turns round every time."""
    jobs = [(one, batch) for one in opened for batch in (0, *one.block_s)]  # 0: a lone case
    repeats = [_repeats(one, batch, images) for one, batch in jobs]
    bar = progress.start("Measuring", rounds * len(jobs))
    for turn in range(rounds):
        for at in range(len(jobs))[:: -1 if turn % 2 else 1]:
            one, batch = jobs[at]
            (one.block_s[batch] if batch else one.lone_s).append(_seconds(one, batch, images, repeats[at]))
            progress.step(bar, note=str(one.engine.choice))
    progress.end(bar)


def _seconds(one: _Open, batch: int, images: Array, repeats: int) -> float:
    """Seconds a case: a lone one, or full batches on every stream at once, as the service's threads would send them."""
    engine, streams = one.engine, one.engine.choice.streams if batch else 1
    size = engine.max_batch = max(1, batch)
    begin, one.at = one.at, one.at + repeats * streams

    def work(stream: int) -> None:
        for at in range(begin + stream * repeats, begin + (stream + 1) * repeats):
            first = at * size % (len(images) - size + 1)
            engine.score(images[first : first + size])

    started = time.perf_counter()
    if streams == 1:
        work(0)
    else:
        with ThreadPoolExecutor(streams) as pool:
            list(pool.map(work, range(streams)))
    return (time.perf_counter() - started) / (repeats * streams * size)


def _repeats(one: _Open, batch: int, images: Array) -> int:
    """How often, so that one measurement is long enough; the passes before it warm the engine up."""
    _seconds(one, batch, images, 1)
    streams = one.engine.choice.streams if batch else 1
    took = _seconds(one, batch, images, 2) * max(1, batch) * streams
    return int(np.clip(np.ceil((BLOCK_S if batch else LONE_S) / max(1e-6, took)), 1, 1000))


def _rows(one: _Open) -> list[Row]:
    """One row a batch size, with the medians."""
    return [
        msgspec.structs.replace(
            one.row,
            choice=msgspec.structs.replace(one.row.choice, batch=batch),
            images_per_s=1 / statistics.median(seconds),
            lone_ms=1000 * statistics.median(one.lone_s),
        )
        for batch, seconds in one.block_s.items()
    ]
