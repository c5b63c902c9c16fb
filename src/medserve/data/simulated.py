"""A trial whose truth is known: patients, treatment, outcome and the true effect, generated from a seed.

    trial = simulate(2000, seed=0, confounded=True)
    trial.effect                               # (N,) what the treatment truly does to each
    write_trial(trial, Path("sim"))            # table and dataset.yaml, as `medserve train` takes them

Six covariates, uniform on [0, 1]; treated with probability 1/2, or, confounded, clip(sin(pi x1 x2), .1, .9). The effect
is 2 x1 + x2 - 1.5; without treatment's half of it the outcome is sin(pi x1 x2) + 2 (x3 - .5)^2 + x4 + .5 x5 + N(0, 1).
Source: set-up A of Nie and Wager, Biometrika 108:299 (2021), with an effect that crosses zero.
"""

import csv
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medserve.types import Array

COVARIATES = 6
NAMES = tuple(f"x{i + 1}" for i in range(COVARIATES))
ARMS = ("control", "treated")


@dataclass(frozen=True)
class SimulatedTrial:
    """x: (N, 6). arm: (N,) 0 or 1. y: (N,). effect: (N,) true. propensity: (N,) true, of treatment. base: (N,) true
    mean outcome but for half of the effect, which is taken off without and put on with treatment."""

    x: Array
    arm: Array
    y: Array
    effect: Array
    propensity: Array
    base: Array

    def __len__(self) -> int:
        return len(self.x)

    def value(self, treat: Array) -> float:
        """True mean outcome if these patients (N,) were treated: bool, or a probability."""
        return float(np.mean(self.base + (np.asarray(treat, np.float64) - 0.5) * self.effect))

    def shuffled(self, seed: int = 0) -> "SimulatedTrial":
        """A null trial: the arms dealt out anew, so that they say nothing of the outcome."""
        return replace(self, arm=np.random.default_rng(seed).permutation(self.arm))


def simulate(n: int, *, seed: int, confounded: bool) -> SimulatedTrial:
    """Equal arguments, equal patients."""
    random = np.random.default_rng(seed)
    x = random.random((n, COVARIATES))
    wave = np.sin(np.pi * x[:, 0] * x[:, 1])
    propensity = np.clip(wave, 0.1, 0.9) if confounded else np.full(n, 0.5)
    effect = 2 * x[:, 0] + x[:, 1] - 1.5
    base = wave + 2 * (x[:, 2] - 0.5) ** 2 + x[:, 3] + 0.5 * x[:, 4]
    arm = (random.random(n) < propensity).astype(np.int64)
    y = base + (arm - 0.5) * effect + random.normal(size=n)
    return SimulatedTrial(x, arm, y, effect, propensity, base)


def write_trial(trial: SimulatedTrial, folder: Path, *, parts: Array | None = None, name: str = "simulated") -> Path:
    """`table.csv` and `dataset.yaml` in `folder`. parts: (N,) words of parts; left out, they are dealt by chance."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "table.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow([*NAMES, "arm", "outcome", *([] if parts is None else ["part"])])
        for i in range(len(trial)):
            row = [*(f"{v:.6f}" for v in trial.x[i]), ARMS[int(trial.arm[i])], f"{trial.y[i]:.6f}"]
            out.writerow([*row, *([] if parts is None else [str(parts[i])])])
    inputs = "\n".join(f'  {n}: {{kind: number, unit: "1", range: [0, 1]}}' for n in NAMES)
    (folder / "dataset.yaml").write_text(
        f"name: {name}\nsource: generated\nlicence: CC0-1.0\nsynthetic: a simulated trial; it shows no patient\n"
        f"public: true\ntable: table.csv\nindependent: true\n{'' if parts is None else 'split: part' + chr(10)}"
        f"inputs:\n{inputs}\n"
        'target: {column: outcome, kind: number, unit: "1"}\n'
        "treatment:\n  column: arm\n  arms: [control, treated]\n  outcome: better_is_higher\n"
        "  time_zero: the moment of assignment\n  eligibility: everybody\n  follow_up: one outcome each\n"
        f"  adjust_for: [{', '.join(NAMES)}]\n  unmeasured: none, by construction\n"
        "  medicines: {control: [], treated: []}\n"
    )
    return folder
