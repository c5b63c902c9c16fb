"""The effect of a treatment against the truth, and on two survival data sets: `python benchmarks/treatment.py`.

    python benchmarks/treatment.py simulation --seeds 20 --out simulation.json
    python benchmarks/treatment.py null --seeds 20
    python benchmarks/treatment.py survival --data DEEPSURV_FOLDER --work WORK --out survival.json
    python benchmarks/treatment.py advice --data DEEPSURV_FOLDER --work WORK

simulation: patients whose true effect is known (`medserve.data.simulated`), learned from by the code that a run of
`medserve train` learns with, and judged on 5,000 fresh ones: the error of the effect on each (PEHE, root of the mean
squared error), how often intervals hold the truth, abstentions, and what following the advice is truly worth as a share
of what the best possible advice is worth. null: the same with the arms dealt out anew. survival: whole runs of the road
on the simulated treatment set and the Rotterdam and GBSG data of DeepSurv, each with the official test part (h5py reads
them). advice: milliseconds from the JSON of one patient to the answer of the package of Rotterdam and GBSG, with the
review by the rules of safety, in one process and over a real server on this machine.
"""

import argparse
import csv
import http.client
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import torch

from medserve.access.keys import KeyRing
from medserve.data.fields import Block
from medserve.data.simulated import ARMS, NAMES, simulate
from medserve.models.record.effect import LINEAR, TREES
from medserve.models.signing import Trust
from medserve.models.spec import Effect, OutputSpec
from medserve.progress import Progress
from medserve.questions.effect import ABSTAIN, advise, mean_interval, parted
from medserve.questions.weighted import Z95
from medserve.road.choose import choose_losses
from medserve.road.run import Options
from medserve.road.train import train_package
from medserve.runtime.model import LoadedModel
from medserve.safety.policy import Standing
from medserve.settings import Settings
from medserve.training.effect import learn, within
from medserve.types import ArraySamples

FRESH = 5000
TAMOXIFEN = "L02BA01"  # the hormone of the German trial


def one(n: int, seed: int, confounded: bool, null: bool) -> dict[str, float]:
    """Learn from n patients, judge on fresh ones."""
    trial = simulate(n, seed=seed, confounded=confounded)
    trial = trial.shuffled(seed) if null else trial
    blocks = [Block(name, "number", i, (1,), {"unit": "1"}) for i, name in enumerate(NAMES)]
    output = OutputSpec(
        task="effect", labels=list(ARMS), unit="1", mean=float(trial.y.mean()), sd=float(trial.y.std()),
        effect=Effect(outcome="outcome", kind="number", better="higher"),
    )  # fmt: skip
    targets = np.column_stack([trial.y, np.ones(n), trial.arm, np.full(n, np.nan)])
    began = time.perf_counter()
    learned = learn(blocks, ArraySamples(trial.x.astype(np.float32), targets), output, seed, compare=False)
    verdict = choose_losses(
        learned.losses[TREES], learned.losses[LINEAR], np.arange(n), on="crossed", metric="", seed=seed
    )  # fmt: skip
    kind = TREES if verdict["chosen"] == "recipe" else LINEAR
    _, net, _ = learned.make(kind)
    output = msgspec.structs.replace(output, effect=learned.spec(kind))
    seconds = time.perf_counter() - began
    fresh = simulate(FRESH, seed=10_000 + seed, confounded=confounded)
    truth = np.zeros(FRESH) if null else fresh.effect
    with torch.no_grad():
        logits = net(torch.from_numpy(fresh.x.astype(np.float32))).logits.numpy()
    said, advice = parted(output, logits), advise(output, logits)
    effect = said.effect[:, 0]
    followed = np.where(advice.arm == ABSTAIN, fresh.propensity, advice.arm)
    average, low, high = mean_interval(learned.psi[:, 0])
    plain = trial.y[trial.arm == 1].mean() - trial.y[trial.arm == 0].mean()
    error = (high - low) / (2 * Z95)
    overlap = within(said.propensity, (0.05, 0.95))
    best = fresh.value(fresh.effect > 0)
    tree = np.array([leaf.arm == ARMS[1] for leaf in output.effect.leaves])[said.leaf]
    return {
        "pehe": float(np.sqrt(np.mean((effect - truth) ** 2))),
        "coverage": float(np.mean((said.low[:, 0] <= truth) & (truth <= said.high[:, 0]))),
        "abstained": float(np.mean(advice.arm[overlap] == ABSTAIN)),
        "recommended": float(np.mean(advice.arm > 0)),
        "advised": float(np.mean(advice.arm != ABSTAIN)),
        "wrong": float(np.mean((advice.arm != ABSTAIN) & ((advice.arm > 0) != (truth > 0)))),
        "inside_overlap": float(overlap.mean()),
        "value_of_sign": fresh.value(effect > 0) / best,
        "value_of_advice": fresh.value(followed) / best,
        "value_of_tree": fresh.value(tree) / best,
        "ate_covers": float(low <= 0.0 <= high),  # 2 E[x1] + E[x2] - 1.5 is 0
        "naive_flagged": float(abs(plain - average) > 2 * error),
        "naive_bias": float(plain - (0.0 if null else trial.effect.mean())),
        "closed": float(bool(output.effect.closed)),
        "trees": float(kind == TREES),
        "seconds": seconds,
    }


def simulation(seeds: int, n: int, null: bool) -> dict[str, dict[str, float]]:
    found = {}
    for confounded in (False, True):
        name = "confounded" if confounded else "randomised"
        rows = []
        for seed in range(seeds):
            rows.append(one(n, seed, confounded, null))
            print(name, seed, {k: round(v, 3) for k, v in rows[-1].items()}, flush=True)
        found[name] = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
        found[name] |= {"seeds": seeds, "n": n, "pehe_sd": float(np.std([row["pehe"] for row in rows]))}
        print(name, json.dumps(found[name]), flush=True)
    return found


def _trained(name: str, write: Callable[[Path, Path], None], folder: Path, work: Path) -> Path:
    """The package of one of the two sets, which is learned once."""
    data, out = work / name, work / f"{name}-package"
    if not (data / "dataset.yaml").exists():
        data.mkdir(parents=True, exist_ok=True)
        write(folder, data)
    if not out.exists():
        with Progress(quiet=False) as progress:
            train_package(data, out, settings=Settings(home=work / "home"), options=Options(audit="full", seed=0),
                          progress=progress)  # fmt: skip
    return out


def survival(folder: Path, work: Path) -> dict[str, object]:
    """Whole runs of the road on the two sets that hold a treatment."""
    found = {}
    for name, write in (("simulated", _simulated), ("gbsg", _gbsg)):
        out = _trained(name, write, folder, work)
        told = json.loads((out / "evaluation" / "test.json").read_text())
        found[name] = {key: told[key] for key in ("metrics", "subgroups", "claims")} | {
            "policies": told["effect"]["policies"], "closed": told["effect"]["closed"],
            "contrasts": told["effect"]["contrasts"], "learners": told["effect"]["learners"],
            "advice": told["effect"]["advice"], "overlap": told["effect"]["overlap"]["inside"],
            "leaves": told["effect"]["leaves"], "refuters": told["effect"]["refuters"],
            "horizon": told["effect"]["horizon"], "decision": told["training"]["decision"]["chosen"],
        }  # fmt: skip
        print(name, json.dumps(found[name], indent=1), flush=True)
    return found


_TRIAL = """licence: MIT
citation: Katzman et al., BMC Med Res Methodol 18:24 (2018)
table: table.csv
independent: true
split: part
"""


def _simulated(folder: Path, out: Path) -> None:
    names = [f"x{i}" for i in range(10)]
    _table(folder / "sim_treatment_dataset.h5", out, names, 10, ("train", "valid", "test"), [])
    _declare(out, "deepsurv-simulated", names, {n: '{kind: number, unit: "1"}' for n in names}, '"1"', 3, "all", [], "")


def _gbsg(folder: Path, out: Path) -> None:
    names = ["size", "postmenopausal", "age", "nodes", "progesterone", "oestrogen"]
    _table(folder / "gbsg_cancer_train_test.h5", out, names, 0, ("train", "test"), [1])
    said = {
        "size": "{kind: category}", "postmenopausal": "{kind: category}", "age": "{kind: number, unit: a}",
        "nodes": '{kind: number, unit: "1"}', "progesterone": "{kind: number, unit: fmol/mg}",
        "oestrogen": "{kind: number, unit: fmol/mg}",
    }  # fmt: skip
    _declare(out, "gbsg", names, said, "mo", 60, "women with node-positive breast cancer", ["postmenopausal", "size"],
             TAMOXIFEN)  # fmt: skip


def _table(file: Path, out: Path, names: list[str], treated: int, parts: tuple[str, ...], words: list[int]) -> None:
    import h5py

    with h5py.File(file) as held, (out / "table.csv").open("w", newline="") as table:
        rows = csv.writer(table)
        rows.writerow([*names, "arm", "time", "event", "part"])
        for part in parts:
            x, t, e = (np.asarray(held[part][key]) for key in "xte")
            rest = np.delete(x, treated, axis=1)
            for i in range(len(x)):
                cells = [f"{v:.6g}" for v in rest[i]]
                arm = "treated" if x[i, treated] > 0 else "control"
                rows.writerow([*cells, arm, f"{t[i]:.6g}", int(e[i]), part])


def _declare(
    out: Path, name: str, names: list[str], inputs: dict[str, str], unit: str, horizon: float, who: str,
    groups: list[str], medicine: str,
) -> None:  # fmt: skip
    said = "\n".join(f"  {n}: {inputs[n]}" for n in names)
    (out / "dataset.yaml").write_text(
        f"name: {name}\nsource: DeepSurv, experiments/data\n{_TRIAL}inputs:\n{said}\n"
        f"target: {{column: time, event: event, kind: survival, unit: {unit}}}\n"
        f"treatment:\n  column: arm\n  arms: [control, treated]\n  outcome: better_is_higher\n"
        f"  time_zero: start of follow-up\n  eligibility: {who}\n  horizon: {horizon}\n"
        f"  adjust_for: [{', '.join(names)}]\n  medicines: {{control: [], treated: [{medicine}]}}\n"
        + (f"subgroups: [{', '.join(groups)}]\n" if groups else "")
    )


# A woman without known allergies who takes metoprolol; the rules know all that they ask for.
CASE = {"age": 58, "nodes": 4, "size": "1", "postmenopausal": "1", "progesterone": 30, "oestrogen": 60}
FACTS = {
    "age_years": 58, "sex": "female", "pregnancy": "not-pregnant", "child_pugh": "none", "allergies": [],
    "conditions": [{"code": "icd10|C50.9"}, {"code": "icd10|I10"}], "medicines": [{"drug": "atc|C07AB02"}],
    "labs": [{"code": "loinc|98979-8", "value": 74, "unit": "mL/min/{1.73_m2}"}],
}  # fmt: skip
ASKED = {
    "without a patient": (CASE, None, "", {}),
    "with the review": (CASE, FACTS, "", {}),
    "and what would change it": (CASE, FACTS, "?explain=effect", {}),
    "as FHIR": (CASE, FACTS, "", {"Accept": "application/fhir+json"}),
}


def advice_ms(work: Path, times: int = 500) -> dict[str, dict[str, float]]:
    """Quantiles of the time of one advice, in one process and over a real loopback server with its audit log."""
    return {"in one process": _in_process(work, times), "over the network": _over_network(work, times)}


def _quantiles(spent: list[float]) -> dict[str, float]:
    return {f"p{q}_ms": round(1000 * float(np.percentile(spent, q)), 3) for q in (50, 99)}


def _body(case: dict[str, object], facts: dict[str, object] | None) -> bytes:
    return json.dumps({"inputs": case} | ({} if facts is None else {"patient": facts})).encode()


def _in_process(work: Path, times: int) -> dict[str, object]:
    settings = Settings(home=work / "home")
    model = LoadedModel.open(work / "gbsg-package", Trust.load(settings), threads=1, rules=Standing.open(settings))
    found: dict[str, object] = {}
    for name in ("without a patient", "with the review", "and what would change it"):
        case, facts, query, _ = ASKED[name]
        body, spent = _body(case, facts), []
        for _ in range(times):
            began = time.perf_counter()
            record, about = model.take(body, media="application/json")
            scores = model.score(record[None])
            answer = model.answer(scores, case=record, about=about)
            if query:
                model.explain("effect", record, scores, answer["safety"])
            spent.append(time.perf_counter() - began)
        found[name] = _quantiles(spent)
        print(name, found[name], "decision:", answer["decision"], flush=True)
    return found


def _over_network(work: Path, times: int) -> dict[str, object]:
    settings, found = Settings(home=work / "home"), {}
    ring = KeyRing.open(settings)
    key = ring.create("benchmark", role="service").key
    ring.close()
    command = [sys.executable, "-m", "medserve.cli", "serve", "--port", "0", "--threads", "1", "--json", "--home",
               str(settings.home), "--models", str(work / "gbsg-package")]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        assert server.stdout is not None
        try:
            url = json.loads(server.stdout.readline())["url"]
            line = http.client.HTTPConnection(url.removeprefix("http://"))
            for name, (case, facts, query, more) in ASKED.items():
                said = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", **more}
                body, spent = _body(case, facts), []
                for turn in range(times + 20):
                    began = time.perf_counter()
                    line.request("POST", f"/v1/models/gbsg/predict{query}", body, said)
                    got = line.getresponse()
                    text = got.read()
                    if got.status != 200:
                        raise SystemExit(text.decode())
                    if turn >= 20:  # warm
                        spent.append(time.perf_counter() - began)
                found[name] = _quantiles(spent)
                print("network", name, found[name], flush=True)
        finally:
            server.terminate()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["simulation", "null", "survival", "advice"])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--n", type=int, default=2000)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--work", type=Path, default=Path("benchmarks/.work/treatment"))
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    if asked.what == "survival":
        found: object = survival(asked.data, asked.work)
    elif asked.what == "advice":
        _trained("gbsg", _gbsg, asked.data, asked.work)
        found = advice_ms(asked.work)
    else:
        found = simulation(asked.seeds, asked.n, asked.what == "null")
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
