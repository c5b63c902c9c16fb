"""`medserve generate --objective`: molecules that score well by packages, within a budget, judged by another one.

    result = optimise(Path("models/prior"), Path("run.csv"), objectives=["models/a:active>"], judge="models/b:active>",
                      budget=4000, settings=settings)

Beside it stands what the same budget gives without any learning: as many molecules drawn from the prior, the best of
them taken. Both lists are scored by the judge, which neither has seen. A run that was stopped goes on.
"""

import csv
import io
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medserve.data.molecules.controlled import CLOSE, controlled
from medserve.data.molecules.describe import fingerprint
from medserve.data.molecules.quality import diversity, quality
from medserve.data.molecules.standard import standardise
from medserve.data.records import digest_of
from medserve.errors import Refusal, Usage
from medserve.models.package import WEIGHTS, Package, open_package
from medserve.models.signing import Trust
from medserve.progress import SILENT, Progress
from medserve.questions.objectives import parse
from medserve.road.generate import Screenings, barred_by, check_out
from medserve.road.generate_page import learning_curve, write_page
from medserve.road.oracles import Oracle, PackageOracle, open_oracle
from medserve.road.search import Book, gap_of, paired
from medserve.runtime.writer import Writer
from medserve.settings import Settings
from medserve.store.files import write_bytes
from medserve.types import Array

if TYPE_CHECKING:
    from medserve.training.reinforce import Agent

BATCH, REPLAY, TOP = 64, 16, 100
SAVE_EVERY = 5  # steps
PATIENCE = 20  # steps without a new molecule that end a run
TOLD = 500  # molecules of the file whose QED, SA score and alerts are told
USUAL = 200  # of the prior's molecules, by which the gap between oracle and judge is measured


@dataclass(frozen=True)
class Likeness:
    """Tanimoto similarity to one molecule."""

    name: str
    smiles: str

    def score(self, smiles: Sequence[str]) -> Array:
        from rdkit import DataStructs

        wanted = fingerprint(self.smiles)
        return np.array(DataStructs.BulkTanimotoSimilarity(wanted, [fingerprint(s) for s in smiles]), np.float64)


def optimise(
    model: Path,
    out: Path,
    *,
    objectives: Sequence[str],
    settings: Settings,
    judge: str | None = None,
    like: str | None = None,
    budget: int = 4000,
    steps: int | None = None,
    seed: int = 0,
    bar: Path | None = None,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Write every molecule that was scored, best first, as CSV at `out`; a page and the figures (JSON) beside it.

    Args:
        objectives: see `questions.objectives`; their geometric mean is the score.
        judge: a further objective that is asked of the best molecules alone, at the end.
        like: SMILES that molecules are to be similar to.
        budget: different molecules that may be scored. steps: at most so many batches of learning.

    Raises: Usage "out-exists", "budget-range", "objective-...", "not-a-writer", "writer-fixed"; Refusal
        "objective-harmful", "objective-controlled".
    """
    check_out(out)
    if not 2 * BATCH <= budget <= 100_000:
        raise Usage("budget-range", f"A budget of {budget} molecules.", hint=f"Between {2 * BATCH} and 100,000.")
    trust = Trust.load(settings)
    barred = barred_by(bar)
    oracles = [open_oracle(parse(text), trust) for text in objectives]
    if like is not None:
        oracles.append(_likeness(like, barred))
    second = None if judge is None else open_oracle(parse(judge), trust)
    _independent(oracles, second)
    package = open_package(model, trust)
    _agent(package, seed)  # refused before the budget of the screening is spent
    asked = {
        "model": package.digest, "objectives": [_named(o) for o in oracles], "budget": budget, "steps": steps,
        "seed": seed, "bar": digest_of({"bar": barred}).hex(),
    }  # fmt: skip
    work = out.with_name(f".{out.name}.search")
    plain = _screen(package, oracles, settings, barred, budget, seed, work, asked, progress)
    learned, trace = _learn(package, oracles, settings, barred, budget, steps, seed, work, asked, progress)
    result, marks = _result(package, learned, plain, second, objectives, seed)
    result |= {"asked": asked | {"judge": judge, "like": like}, "steps": trace}
    result["files"] = [str(out), str(out.with_suffix(".json")), str(out.with_suffix(".html"))]
    write_bytes(out.with_suffix(".json"), json.dumps(result, indent=1).encode())
    figures = {k: result[k] for k in ("score", "judged", "gap", "valid", "novel", "diversity", "barred")}
    shown = [{"smiles": s, "told": {"score": v} | ({"judge": marks[s]} if s in marks else {})}
             for s, v in learned.best(48)]  # fmt: skip
    write_page(out.with_suffix(".html"), title=f"Molecules for {', '.join(objectives)}", figures=figures, shown=shown,
               warnings=result["warnings"], curve=learning_curve(trace) if trace else None,
               note="The best by the objectives, best first.")  # fmt: skip
    write_bytes(out, _csv(learned, marks, oracles))
    shutil.rmtree(work, ignore_errors=True)
    return result


def _likeness(like: str, barred: Sequence[str]) -> Likeness:
    wanted = standardise(like, name="--like").smiles
    if name := controlled(wanted, more=barred):
        raise Refusal(
            "objective-controlled", f"The molecule to be like is, or is close to, a controlled substance ({name}).",
            hint="No molecule is written towards one.",
        )  # fmt: skip
    return Likeness("like", wanted)


def _independent(oracles: Sequence[Oracle], judge: Oracle | None) -> None:
    """A judge that was an objective has seen everything."""
    used = {o.model.digest for o in oracles if isinstance(o, PackageOracle)}
    if isinstance(judge, PackageOracle) and judge.model.digest in used:
        raise Usage("judge-not-independent", "The judge is one of the objectives.", hint="Name another package.")


def _named(oracle: Oracle) -> str:
    """What a stopped run must agree with: the objective and the very package behind it."""
    more = oracle.model.digest if isinstance(oracle, PackageOracle) else getattr(oracle, "smiles", "")
    return f"{oracle.name} {more}".strip()


def _screen(
    package: Package, oracles: Sequence[Oracle], settings: Settings, barred: Sequence[str], budget: int, seed: int,
    work: Path, asked: dict[str, Any], progress: Progress,
) -> Book:  # fmt: skip
    """The same budget without learning: molecules of the prior, scored."""
    book, writer = Book(oracles, Screenings(package, settings, barred), budget), Writer(package)
    state, path = _read(work / "screen.json", asked), work / "screen.json"
    batch = 0
    if state is not None:
        book.restore(state["book"])
        batch = state["batch"]
    bar = progress.start("Screening", budget)
    progress.step(bar, len(book.found))
    idle = 0
    while book.left and idle < PATIENCE:
        before = len(book.found)
        book.spend(writer.write(2 * BATCH, np.random.default_rng((seed, 1, batch))))
        batch += 1
        idle = 0 if len(book.found) > before else idle + 1
        progress.step(bar, len(book.found) - before)
        if not batch % SAVE_EVERY or not book.left:
            write_bytes(path, json.dumps({"asked": asked, "batch": batch, "book": book.as_state()}).encode())
    progress.end(bar)
    return book


def _learn(
    package: Package, oracles: Sequence[Oracle], settings: Settings, barred: Sequence[str], budget: int,
    steps: int | None, seed: int, work: Path, asked: dict[str, Any], progress: Progress,
) -> tuple[Book, list[dict[str, Any]]]:  # fmt: skip
    from medserve.training import checkpoint

    book = Book(oracles, Screenings(package, settings, barred), budget)
    agent, trace = _agent(package, seed), []
    found = checkpoint.load(work / "agent")
    if found is not None and found[1]["asked"] == asked:
        tensors, state = found
        agent.restore(tensors, state["step"])
        book.restore(state["book"])
        trace = state["trace"]
    bar = progress.start("Learning", budget)
    progress.step(bar, len(book.found))
    idle = 0
    while book.left and idle < PATIENCE and (steps is None or agent.step < steps):
        before = len(book.found)
        written = agent.write(BATCH)
        told = book.spend(written)
        allowed = np.flatnonzero(np.isfinite(told))  # what is barred is not learned from, not even as a bad example
        texts, worth = [written[i] for i in allowed], told[allowed]
        random = np.random.default_rng((seed, 2, agent.step))
        loss = agent.learn(texts, worth.tolist(), book.replay(REPLAY, random))
        idle = 0 if len(book.found) > before else idle + 1
        top = [v for _, v in book.best(10)]
        trace.append({"step": agent.step, "spent": len(book.found), "mean": float(worth.mean()) if len(worth) else 0.0,
                      "top10": float(np.mean(top)) if top else 0.0, "loss": loss})  # fmt: skip
        progress.step(bar, len(book.found) - before, note=f"mean {trace[-1]['mean']:.2f}")
        if not agent.step % SAVE_EVERY:
            state = {"asked": asked, "step": agent.step, "book": book.as_state(), "trace": trace}
            checkpoint.save(work / "agent", agent.tensors(), state)
    progress.end(bar)
    return book, trace


def _agent(package: Package, seed: int) -> "Agent":
    """Raises: Usage "writer-fixed": the simple model, which cannot learn from scores."""
    from safetensors.torch import load_file

    from medserve.models.record.letters import LettersRnn
    from medserve.models.served import open_served
    from medserve.training.reinforce import Agent

    net = open_served(package.spec, load_file(package.path(WEIGHTS))).net
    if not isinstance(net, LettersRnn):
        raise Usage(
            "writer-fixed", f"{package.spec.architecture.name} writes molecules, but cannot learn from scores.",
            hint="Train with --recipe smiles-prior on more molecules, or --keep recipe.",
        )  # fmt: skip
    return Agent(net, seed=seed)


def _result(
    package: Package, learned: Book, plain: Book, judge: Oracle | None, objectives: Sequence[str], seed: int
) -> tuple[dict[str, Any], dict[str, float]]:
    """Figures over the best of both lists, and the judge's marks of ours."""
    ours, theirs = learned.best(TOP), plain.best(TOP)
    a, b = (np.array([v for _, v in rows]) for rows in (ours, theirs))
    novel = [learned.screenings.novel(s) for s, _ in ours]
    result: dict[str, Any] = {
        "model": {"name": package.spec.name, "digest": package.digest},
        "spent": {"learned": len(learned.found), "screened": len(plain.found)},
        "score": {"learned": float(a.mean()), "screened": float(b.mean()), "difference": paired(a, b, seed=seed),
                  "of": f"the best {len(ours)} and {len(theirs)}"},
        "judged": None,
        "gap": None,
        "valid": learned.valid / max(1, learned.drawn),
        "novel": None if None in novel else sum(map(bool, novel)) / max(1, len(novel)),
        "diversity": diversity([s for s, _ in ours]),
        "barred": {"molecules": sum(learned.screenings.barred.values()), "by": dict(learned.screenings.barred),
                   "close": CLOSE},
        "warnings": [],
    }  # fmt: skip
    marks: dict[str, float] = {}
    if judge is not None:
        mine, other = judge.score([s for s, _ in ours]), judge.score([s for s, _ in theirs])
        marks = {s: float(v) for (s, _), v in zip(ours, mine, strict=True)}
        result["judged"] = {"by": judge.name, "learned": float(mine.mean()), "screened": float(other.mean()),
                            "difference": paired(mine, other, seed=seed)}  # fmt: skip
        result["gap"] = _gap(learned, plain, ours, mine, judge, seed)
        if result["gap"]["alarm"]:
            result["warnings"].append({
                "code": "oracle-gap",
                "message": "The objective thinks more of the best molecules than the judge does, by more than one"
                " standard deviation: they may be good at the objective alone.",
            })  # fmt: skip
    if len(learned.found) < learned.budget:
        result["warnings"].append({"code": "budget-left", "message": "It wrote nothing new before its budget ended."})
    return result, marks


def _gap(
    learned: Book, plain: Book, ours: Sequence[tuple[str, float]], mine: Array, judge: Oracle, seed: int
) -> dict[str, Any]:
    """Of the first objective, which is what the judge is the second opinion of."""
    rows = sorted(plain.found)
    chosen = [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))[:USUAL]]
    usual = np.array([plain.found[s][1][0] for s in chosen]) - judge.score(chosen)
    first = np.array([learned.found[s][1][0] for s, _ in ours])
    return gap_of(first, mine, usual)


def _csv(book: Book, marks: dict[str, float], oracles: Sequence[Oracle]) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["smiles", "score", *(o.name for o in oracles), "judge", "novel", "qed", "sa_score", "pains"])
    for place, (smiles, score) in enumerate(book.best(len(book.found))):
        novel, each = book.screenings.novel(smiles), [f"{v:.4f}" for v in book.found[smiles][1]]
        told = quality(smiles) if place < TOLD else None
        more = ["", "", ""] if told is None else [f"{told.qed:.4f}", f"{told.sa:.3f}", "|".join(told.pains)]
        mark = f"{marks[smiles]:.4f}" if smiles in marks else ""
        writer.writerow([smiles, f"{score:.4f}", *each, mark, "" if novel is None else int(novel), *more])
    return out.getvalue().encode()


def _read(path: Path, asked: dict[str, Any]) -> dict[str, Any] | None:
    """What a stopped run with the same options left."""
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_bytes())
    return found if found["asked"] == asked else None
