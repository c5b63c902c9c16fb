"""The lanes: each starts its contestants, plays rounds of short blocks, and says which goals were met.

    result = LANES["light"](Plan(...))            # {"title", "levels", "ratios", "goals", "rounds", "knobs", ...}

A goal is met where the median meets it; `sure` says whether the whole 95 % interval does.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from medserve.runtime.tuned import find_verdict
from medserve.settings import Settings

from . import models
from .load import closed, steady
from .machine import Watch
from .pairing import Block, Round, level, play, ratio
from .servers import WIRES, Case, Knobs, Ours, Peer, Server, Setup
from .venvs import PEERS, versions

HERE = Path(__file__).parent
WAITS_MS, BATCHES = (0.0, 2.0, 5.0, 10.0), (8, 16, 32)
SWEEP_S = 2
LIGHT_CONNECTIONS, HEAVY_CONNECTIONS = 32, 8
ONE = {"memory": "medserve, one process, audit in memory", "durable": "medserve, one process"}
REFUSAL_MS, BACK_S, ADDED_MS = 5.0, 10.0, 0.3


@dataclass(frozen=True)
class Plan:
    """rounds and seconds of a block; quick: a short sweep where none is stored."""

    work: Path
    rounds: int = 8
    seconds: int = 8
    settle_s: float = 2.0
    quick: bool = False
    peers: tuple[str, ...] = tuple(PEERS)
    tell: Callable[[str], None] = lambda text: None

    @property
    def settings(self) -> Settings:
        return Settings(home=self.work / "home")

    def home(self, name: str) -> Path:
        """A home of its own for one server, with the signer of the packages in it."""
        folder = self.work / f"home-{name}"
        if not folder.exists():
            shutil.copytree(self.settings.home, folder, ignore=shutil.ignore_patterns("tuned", "work"))
        return folder

    @cached_property
    def table(self) -> Setup:
        made = models.make_table(self.work, self.settings)
        model = made.open(self.settings, threads=1)
        cases = []
        for row in models.rows(made):
            record = model.load(models.json_body(row), media="application/json")
            cases.append(Case(model.score(record[None]).logits[0].tolist(), row=row))
        return Setup(self.work, made, cases, "row", threads=1)

    def chest(self, form: str = "png", *, engine: str = "onnx") -> Setup:
        """form: png, dicom, or tensor (uint8, 224 x 224)."""
        made = models.make_chest(self.work, self.settings)
        model, cases = self._chest_model, []
        for png, dicom in self._films:
            data = {"png": png, "dicom": dicom, "tensor": png}[form]
            tensor = model.load(data)
            logits = model.score(tensor[None]).logits[0].tolist()
            body = tensor.tobytes() if form == "tensor" else data
            media = {"png": "image/png", "dicom": "application/dicom", "tensor": "application/octet-stream"}[form]
            cases.append(Case(logits, image=body, media=media))
        return Setup(self.work, made, cases, "image", threads=2, engine=engine)

    @cached_property
    def _chest_model(self):  # type: ignore[no-untyped-def]
        return models.make_chest(self.work, self.settings).open(self.settings, threads=2)

    @cached_property
    def _films(self) -> list[tuple[bytes, bytes]]:
        return models.films()


# -- playing ---------------------------------------------------------------------------------------------------------


class Arena:
    """Servers that are started once, warmed, and sleep until it is their block."""

    def __init__(self, plan: Plan, connections: int) -> None:
        self._plan, self._connections = plan, connections
        self.servers: dict[str, Server] = {}
        self.failed: dict[str, str] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Arena":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, server: Server, *, warm: int = 13) -> None:
        """Started, warmed (200 requests of 16 different ones) and put to sleep; a peer that fails is out, and why."""
        began = time.monotonic()
        try:
            self._stack.enter_context(server)
            server.warm(warm)
        except (RuntimeError, AssertionError, OSError) as error:
            if isinstance(server, Ours):
                raise
            self.failed[server.name] = str(error)[-600:]
            self._plan.tell(f"{server.name}: out: {error}")
            return
        server.sleep()
        self.servers[server.name] = server
        self._plan.tell(f"{server.name}: ready in {time.monotonic() - began:.1f} s, off by {server.gap:.2g}")

    def block(self, name: str, seconds: int | None = None, connections: int | None = None) -> Block:
        server, plan = self.servers[name], self._plan
        server.wake()
        try:
            before = server.batch_sizes()
            found, spent = _load(server, seconds or plan.seconds, connections or self._connections, plan.settle_s)
            found |= {"gap": server.check()}
            time.sleep(0.6)  # the histogram is written twice a second
            batch = _mean_batch(before, server.batch_sizes())
        finally:
            server.sleep()
        cpu_us = 1e6 * spent["server_cpu_s"] / max(1.0, found["requests"])
        return found | spent | {"cpu_us": cpu_us} | ({"mean_batch": batch} if batch else {})


def _load(server: Server, seconds: int, connections: int, settle_s: float) -> tuple[Block, dict[str, float]]:
    """A closed loop, and the processor time meanwhile: wrk for rows, our own loop for films."""
    if server.setup.kind == "image" and connections > 1:
        with Watch(server.pid) as seen:
            found = steady(server.asks, server.port, settle_s=settle_s, seconds=seconds, connections=connections)
        return found, seen.found
    closed(server.asks, server.port, seconds=max(1, round(settle_s)), connections=connections)
    with Watch(server.pid) as seen:
        found = closed(server.asks, server.port, seconds=seconds, connections=connections)
    return found, seen.found


def _mean_batch(before: dict[str, int], after: dict[str, int]) -> float | None:
    calls = {int(size): count - before.get(size, 0) for size, count in after.items()}
    total = sum(calls.values())
    return sum(size * count for size, count in calls.items()) / total if total else None


@contextlib.contextmanager
def bare_process(plan: Plan, setup: Setup, settings: Settings) -> Iterator[Callable[..., Block]]:
    command = [sys.executable, HERE / "bare.py", settings.home, setup.made.folder, setup.threads]
    process = subprocess.Popen([*map(str, command)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    plan.tell(f"bare: {process.stdout.readline().strip()}")

    def ask(**said: Any) -> Block:
        assert process.stdin is not None and process.stdout is not None
        with Watch(process.pid) as seen:
            process.stdin.write(json.dumps(said) + "\n")
            process.stdin.flush()
            found: Block = json.loads(process.stdout.readline())
        return found | seen.found

    try:
        yield ask
    finally:
        process.stdin.close()
        process.wait(10)


def sweep(plan: Plan, name: str, setup: Setup, lane: str, connections: int) -> Knobs:
    """A peer's best batch and wait here; kept, so that it is measured once for each version."""
    path = plan.work / "knobs.json"
    stored = json.loads(path.read_text()) if path.exists() else {}
    key = f"{lane} {name} {' '.join(PEERS[name].pins)}"
    if key in stored:
        return Knobs(**stored[key]["best"])
    if not WIRES[name].batches:
        return Knobs()
    waits, batches = ((0.0, 5.0), (16,)) if plan.quick else (WAITS_MS, BATCHES)
    if name == "ray":  # its start takes a quarter of a minute
        waits, batches = waits[:2], batches[-2:]
    rates = {}
    for wait in waits:
        for batch in batches:
            knobs = Knobs(wait, batch)
            try:
                with Peer(name, setup, knobs) as server:
                    server.warm(4)
                    found, _ = _load(server, SWEEP_S, connections, 0.5)
            except (RuntimeError, AssertionError, OSError) as error:
                plan.tell(f"{name} {knobs}: {str(error)[-200:]}")
                continue
            rates[knobs] = found["per_s"]
            plan.tell(f"{name} {knobs}: {found['per_s']:.1f} a second")
    if not rates:
        return Knobs()
    best = max(rates, key=lambda knobs: rates[knobs])
    stored[key] = {"best": vars(best), "rates": {str(knobs): round(rate, 1) for knobs, rate in rates.items()}}
    if not plan.quick:
        path.write_text(json.dumps(stored, indent=1))
    return best


def enter(plan: Plan, arena: Arena, setup: Setup, lane: str, connections: int, names: Sequence[str]) -> dict[str, str]:
    """The peers, each with its best knobs. Returns: those."""
    told = {}
    for name in names:
        if name in plan.peers:
            knobs = sweep(plan, name, setup, lane, connections)
            arena.add(Peer(name, setup, knobs), warm=13 if setup.kind == "row" else 3)
            told[name] = str(knobs)
    return told


def goal(name: str, found: dict[str, Any], bound: float, *, most: bool = False) -> dict[str, Any]:
    """most: the figure may not exceed the bound; else it may not fall below it."""
    met = found["median"] <= bound if most else found["median"] >= bound
    sure = found["high"] <= bound if most else found["low"] >= bound
    return {"goal": name, "bound": bound, "met": bool(met), "sure": bool(sure), **found}


def single(name: str, value: float, bound: float, *, most: bool = False) -> dict[str, Any]:
    value = float(f"{value:.4g}")
    return goal(name, {"median": value, "low": value, "high": value}, bound, most=most)


def told(title: str, rounds: list[Round], what: Sequence[str], **more: Any) -> dict[str, Any]:
    names = list(rounds[0])
    present = [w for w in what if all(w in b for n in names for b in rounds[0][n])]
    levels = {name: {w: level(rounds, name, w) for w in what if w in rounds[0][name][0]} for name in names}
    return {"title": title, "levels": levels, "compared": present, "rounds": rounds, **more}


FIGURES = ("per_s", "p50_ms", "p99_ms", "cpu_us", "mean_batch", "rss_mib")


# -- light -----------------------------------------------------------------------------------------------------------


def light(plan: Plan) -> dict[str, Any]:
    """A table of 30 numbers, JSON rows, 32 connections; ours in as many replicas as there are cores, and in one."""
    setup, cores = plan.table, os.cpu_count() or 1
    ours = {"memory": "medserve, audit in memory", "durable": "medserve"}
    factors = {
        "memory": {"litserve": 10, "bentoml": 10, "mosec": 2},
        "durable": {"litserve": 5, "bentoml": 5, "mosec": 1.2},
    }
    with Arena(plan, LIGHT_CONNECTIONS) as arena:
        for audit, name in ours.items():
            arena.add(Ours(setup, audit=audit, name=name, home=plan.home(audit), replicas=cores))
            # A home of its own: of two servers over one, the one that sleeps may hold the lock of the log.
            arena.add(Ours(setup, audit=audit, name=ONE[audit], home=plan.home(f"{audit}-one")))
        knobs = enter(plan, arena, setup, "light", LIGHT_CONNECTIONS, list(PEERS))
        names = list(arena.servers)
        rounds = play(names, arena.block, rounds=plan.rounds, tell=plan.tell)
        failed = arena.failed
    peers = [name for name in names if name not in (*ours.values(), *ONE.values())]
    goals = []
    ratios = {f"{name} / {ONE[audit]}": ratio(rounds, name, ONE[audit], "per_s") for audit, name in ours.items()}
    for audit, name in ours.items():
        for peer in peers:
            faster = ratio(rounds, name, peer, "per_s")
            ratios[f"{name} / {peer}"] = faster
            if peer in factors[audit]:
                goals.append(goal(f"{name}: requests a second of {peer}'s", faster, factors[audit][peer]))
            goals.append(goal(f"{name}: p99 of {peer}'s", ratio(rounds, name, peer, "p99_ms"), 1.0, most=True))
    for name in (ours["memory"], ONE["memory"]):
        goals.append(goal(f"{name}: processor time of a request, us", level(rounds, name, "cpu_us"), 80, most=True))
    return told(light.__doc__ or "", rounds, FIGURES, ratios=ratios, goals=goals, knobs=knobs, out=failed)


# -- heavy -----------------------------------------------------------------------------------------------------------


def engine(plan: Plan) -> dict[str, Any]:
    """DenseNet-121 beside its own engine: uint8 tensors, PNG and DICOM against bare loops, 8 connections."""
    forms = {form: plan.chest(form) for form in ("tensor", "png", "dicom")}
    home = plan.home("durable")
    with Arena(plan, HEAVY_CONNECTIONS) as arena, bare_process(plan, forms["png"], plan.settings) as bare:
        for form, setup in forms.items():
            arena.add(Ours(setup, name=form, home=home, form="tensor" if form == "tensor" else "image"), warm=3)
            folder = plan.work / "bodies" / form
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            for at, case in enumerate(setup.cases):
                (folder / f"{at:02d}").write_bytes(case.image)

        def block(name: str) -> Block:
            kind, _, form = name.partition(" ")
            if kind == "ours":
                return arena.block(form)
            what = (
                {"what": "engine"}
                if form == "tensor"
                else {"what": "files", "folder": str(plan.work / "bodies" / form)}
            )
            return bare(seconds=plan.seconds, **what)

        names = [f"{kind} {form}" for form in forms for kind in ("bare", "ours")]
        rounds = play(names, block, rounds=plan.rounds, tell=plan.tell)
    bounds = {"tensor": 0.97, "png": 0.95, "dicom": 0.95}
    ratios = {form: ratio(rounds, f"ours {form}", f"bare {form}", "per_s") for form in forms}
    goals = [goal(f"{form} body, of the bare loop", ratios[form], bound) for form, bound in bounds.items()]
    return told(engine.__doc__ or "", rounds, FIGURES, ratios=ratios, goals=goals)


def same(plan: Plan) -> dict[str, Any]:
    """DenseNet-121, PNG bodies, every server on the same ONNX file and threads, 8 connections."""
    setup = plan.chest("png")
    with Arena(plan, HEAVY_CONNECTIONS) as arena:
        arena.add(Ours(setup, name="medserve", home=plan.home("durable")), warm=3)
        knobs = enter(plan, arena, setup, "same", HEAVY_CONNECTIONS, list(PEERS))
        names = list(arena.servers)
        rounds = play(names, arena.block, rounds=plan.rounds, tell=plan.tell)
        failed = arena.failed
    ratios = {f"medserve / {peer}": ratio(rounds, "medserve", peer, "per_s") for peer in names if peer != "medserve"}
    goals = [goal(f"{name}, pictures a second", found, 1.0) for name, found in ratios.items()]
    for one in goals:
        one["sure"] = one["low"] >= 0.97
    return told(same.__doc__ or "", rounds, FIGURES, ratios=ratios, goals=goals, knobs=knobs, out=failed)


def taught(plan: Plan) -> dict[str, Any]:
    """DenseNet-121, PNG bodies: our tuned engine against peers as their documentation teaches (torch, eager)."""
    verdict = tuned(plan)
    setup = plan.chest("png", engine="torch")
    with Arena(plan, HEAVY_CONNECTIONS) as arena:
        arena.add(Tuned(plan.chest("png"), Settings(home=plan.home("tuned"))), warm=3)
        knobs = enter(plan, arena, setup, "taught", HEAVY_CONNECTIONS, [p for p in PEERS if PEERS[p].torch])
        names = list(arena.servers)
        rounds = play(names, arena.block, rounds=plan.rounds, tell=plan.tell)
        failed = arena.failed
    peers = [name for name in names if name in PEERS]
    ratios = {f"medserve / {peer}": ratio(rounds, "medserve, tuned", peer, "per_s") for peer in peers}
    goals = [goal(f"{name}, pictures a second", found, 5.0) for name, found in ratios.items()]
    return told(
        taught.__doc__ or "", rounds, FIGURES, ratios=ratios, goals=goals, knobs=knobs, out=failed, tuned=verdict
    )


class Tuned(Ours):
    """On the engine that the tuner chose; its answers may differ as far as the accuracy gate let it."""

    def __init__(self, setup: Setup, settings: Settings) -> None:
        super().__init__(setup, name="medserve, tuned", home=settings.home)
        self.tolerance = 0.1  # of a probability


def tuned(plan: Plan) -> dict[str, Any]:
    """Measured by `medserve tune` once, in a home of its own. Returns: what it chose, and how the gate judged it."""
    from medserve.road.tune import tune_package

    made, settings = models.make_chest(plan.work, plan.settings), Settings(home=plan.home("tuned"))
    digest = made.open(plan.settings, threads=2).digest
    verdict = find_verdict(settings.home / "tuned", digest, threads=2, warn=plan.tell)
    if verdict is None:
        tune_package(made.folder, made.data, settings=settings, threads=2)
        verdict = find_verdict(settings.home / "tuned", digest, threads=2, warn=plan.tell)
    assert verdict is not None
    import msgspec

    row = next(row for row in verdict.rows if row.choice == verdict.chosen)
    plan.tell(f"tuned: {verdict.chosen}")
    return {"chosen": str(verdict.chosen), "row": msgspec.to_builtins(row), "cases": verdict.cases}


# -- one at a time ---------------------------------------------------------------------------------------------------


def lone(plan: Plan) -> dict[str, Any]:
    """One connection on an idle server: milliseconds that it adds to the bare engine's own."""
    setups = {"table, JSON": plan.table, "DenseNet-121, uint8 tensor": plan.chest("tensor")}
    with contextlib.ExitStack() as stack:
        arena = stack.enter_context(Arena(plan, 1))
        bares = {}
        for name, setup in setups.items():
            form = "json" if setup.kind == "row" else "tensor"
            arena.add(Ours(setup, name=name, home=plan.home("durable"), form=form), warm=4)
            arena.add(Ours(setup, name=f"{name}, audit in memory", audit="memory", home=plan.home("memory"), form=form),
                      warm=4)  # fmt: skip
            bares[name] = stack.enter_context(bare_process(plan, setup, plan.settings))

        def block(name: str) -> Block:
            if name.startswith("bare "):
                return bares[name.removeprefix("bare ")](what="lone", seconds=plan.seconds)
            return arena.block(name)

        names = [n for name in setups for n in (f"bare {name}", name, f"{name}, audit in memory")]
        rounds = play(names, block, rounds=plan.rounds, tell=plan.tell)
    goals = []
    for name in setups:
        for ours in (name, f"{name}, audit in memory"):
            for one in rounds:
                bare = float(np.mean([b["p50_ms"] for b in one[f"bare {name}"]]))
                for b in one[ours]:
                    b["added_ms"] = b["p50_ms"] - bare
            goals.append(goal(f"{ours}: added, ms", level(rounds, ours, "added_ms"), ADDED_MS, most=True))
    return told(lone.__doc__ or "", rounds, ("p50_ms", "p99_ms", "added_ms"), goals=goals)


def peer_versions(plan: Plan) -> dict[str, dict[str, str]]:
    return {name: versions(PEERS[name]) for name in plan.peers}
