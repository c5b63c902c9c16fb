"""Learning the effect of a treatment: nuisances once, two second stages on them, and what a package says beside them.

    learned = learn(blocks, samples, output, seed, patients=who)
    architecture, net, history = learned.make("effect-linear")    # or "effect-trees"
    learned.spec("effect-linear")                                 # `models.spec.Effect`, for the signature

All patients of the training side take part; whatever is said of one of them here was told by models that had not seen
her. Units are standardised by `output.mean` and `output.sd`, as the graph's are.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import msgspec
import numpy as np
import torch

from medserve.data.fields import Block
from medserve.data.trial import FEWEST
from medserve.errors import BadData
from medserve.models.nets import MODELS
from medserve.models.record.effect import LINEAR, TREES, RecordEffect, Stage
from medserve.models.record.features import RecordNet, folds
from medserve.models.record.trees import shape_of
from medserve.models.spec import Alike, Coded, Effect, Leaf, OutputSpec
from medserve.questions.effect import (
    arms_of,
    effective_size,
    gain,
    mean_interval,
    outcome_of,
    robust_scores,
    standardised_differences,
    told,
)
from medserve.questions.policy import Policy, grow
from medserve.questions.weighted import Z95, rank_auroc
from medserve.training import learners
from medserve.training.nuisances import Nuisances, nuisances
from medserve.types import Array, Named, Samples

STAGES = (TREES, LINEAR)
GROUP, GROUPS, SMALLEST = 30, 12, 10  # patients of a group on average, groups of an arm, patients of one at least
ESS, ESS_SHARE = 100.0, 0.2  # effective patients of an arm, and their share of it, under which nobody is advised
UNBALANCED, AMBER = 0.25, 0.10  # standardised mean differences after weighting
LEAST_INSIDE = 0.1  # share of patients inside the overlap band under which nothing is fitted
BY_RULE = 0.98  # AUROC of the chance of an arm, from which on the arm is given by a rule
GRID = 9  # values of a number that are looked at for what would change the advice


@dataclass
class Learned:
    """Everything that was estimated, in the outcome's own unit where it is one.

    x, z: columns, and standardised ones. y: (N,) outcomes. arm: (N,). fold: (N,). gamma: (N, K) scores. psi, weight:
    (N, K - 1). value, error: second stage -> (N, K - 1) crossed. losses: learner -> (N,). policy: the tree.
    """

    blocks: list[Block]
    output: OutputSpec
    records: Array
    base: RecordNet
    x: Array
    z: Array
    y: Array
    arm: Array
    fold: Array
    who: Array
    found: Nuisances
    gamma: Array
    psi: Array
    weight: Array
    seed: int
    value: dict[str, Array] = field(default_factory=dict)
    error: dict[str, Array] = field(default_factory=dict)
    losses: dict[str, Array] = field(default_factory=dict)
    closed: list[Coded] = field(default_factory=list)
    refuted: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    @cached_property
    def policy(self) -> Policy:
        """The tree of depth 2 on the scores of the patients in the first three of five folds."""
        return grow(self.x[self.shapes], gain(self.output) * self.gamma[self.shapes], seed=self.seed)

    @cached_property
    def simple(self) -> Policy:
        """The same with one split."""
        return grow(self.x, gain(self.output) * self.gamma, depth=1, seed=self.seed)

    @property
    def shapes(self) -> Array:
        """(N,) bool, who shapes the tree."""
        return np.asarray(self.fold % 5 < 3)

    # -- what is made of it -----------------------------------------------------------------------------------------

    def make(self, kind: str) -> tuple[Named, RecordEffect, dict[str, Any]]:
        """The module of a package with everything in it, its catalog entry, and the history. kind: of `STAGES`."""
        arms = len(self.output.labels)
        finals = learners.stages(kind, self.x, self.z, self.scaled_psi, self.weight, self.seed)
        centres, _, radius = self._groups
        params: dict[str, Any] = {"arms": arms, "groups": max(len(c) for c in centres)}
        stages = {}
        for name, fitted in self.found.stages.items():
            linear = self.found.told[name]["chosen"] == "linear"
            link = next((f.link for f in fitted if f.link), "")
            params[name] = {"kind": "linear" if linear else "trees", "link": link}
            if not linear:
                params[name] |= shape_of([f.forest or [] for f in fitted])
            stages[name] = fitted
        if kind == TREES:
            bags = [bag for final in finals for bag in final.bags or []]
            params |= {"bags": learners.BAGS} | shape_of(bags)
        width = sum(b.size for b in self.blocks)
        net = MODELS[kind](width, (), self.output.width, blocks=self.blocks, **params)
        assert isinstance(net, RecordEffect)
        net.load_state_dict(self.base.state_dict(), strict=False)
        with torch.no_grad():
            for name, fitted in stages.items():
                _fill(getattr(net, name), fitted)
            if kind == TREES:
                net.final.fill(bags)
            else:
                for j, final in enumerate(finals):
                    assert final.weights is not None and final.spread is not None
                    net.head.bias[j] = float(final.weights[0])
                    net.head.weight[j] = torch.from_numpy(final.weights[1:]).float()
                    net.spread[j] = torch.from_numpy(final.spread).float()
            net.reach.fill_(Z95)
            for k, one in enumerate(centres):
                net.centres[k, : len(one)] = torch.from_numpy(one).float()
                net.there[k, : len(one)] = 1
                net.radius[k] = float(radius[k])
            policy = self.policy
            net.split_column.copy_(torch.from_numpy(policy.column))
            net.split_at.copy_(torch.from_numpy(policy.threshold))
        history = {"learner": kind, "columns": self.x.shape[1], "patients": len(self.y), "seed": self.seed,
                   "seconds": round(self.seconds, 2), "nuisances": self.found.told,
                   "losses": {name: round(float(one.mean()), 5) for name, one in self.losses.items()}}  # fmt: skip
        return (
            Named(kind, {"blocks": msgspec.to_builtins(self.blocks), **params}),
            net.eval().requires_grad_(False),
            history,
        )

    def spec(self, kind: str) -> Effect:
        """What the signature says beside the graph."""
        output, policy = self.output, self.policy
        leaf = policy.leaf(self.x)
        rules = policy.rules(self.base.features.names)
        leaves = []
        for number, rule in enumerate(rules):
            inside = (leaf == number) & ~self.shapes
            each = [mean_interval(self.psi[inside, j]) if inside.sum() > 1 else (None, None, None)
                    for j in range(self.psi.shape[1])]  # fmt: skip
            value, low, high = (list(one) for one in zip(*each, strict=True))
            leaves.append(Leaf(rule=rule, arm=output.labels[int(policy.arms[number])], n=int(inside.sum()),
                               effect=value, low=low, high=high))  # fmt: skip
        return msgspec.structs.replace(
            told(output),
            patients=np.bincount(self.arm, minlength=len(output.labels)).tolist(),
            closed=[*self.closed, *self.unshown(kind)],
            leaves=leaves,
            alike=self._groups[1],
            grid=self._grid(),
            required=self._required(),
        )

    def advised(self, kind: str) -> Array:
        """(N,) the best arm for each patient by crossed effects, whatever their intervals."""
        value = gain(self.output) * self.value[kind]
        return np.where(value.max(1) > 0, 1 + value.argmax(1), 0)

    def worth(self, kind: str) -> tuple[float, float, float]:
        """What following the crossed effects would gain over what was done, per patient, with its 95 % interval."""
        score = self.gamma[np.arange(len(self.y)), self.advised(kind)] - self.y
        return mean_interval(by_patient(gain(self.output) * score, self.who))

    def unshown(self, kind: str) -> list[Coded]:
        """A reason to advise nobody where no gain over usual care was shown on the training side."""
        value, low, high = self.worth(kind)
        if low > 0:
            return []
        said = f"No benefit of advice over what was done was found: {value:+.3g} a patient ({low:+.3g} to {high:+.3g})."
        return [Coded("no-benefit-shown", said)]

    @cached_property
    def scaled_psi(self) -> Array:
        """Pseudo-outcomes in the graph's unit."""
        return self.psi / self.output.sd

    def _required(self) -> list[str]:
        there = np.isfinite(self.records)
        return [b.name for b in self.blocks if there[:, b.start : b.start + b.size].all()]

    def _grid(self) -> dict[str, list[float | str]]:
        """Quantiles of numbers, words of categories: nobody's own values, but where somebody was."""
        found: dict[str, list[float | str]] = {}
        for b in self.blocks:
            if b.kind == "number":
                known = self.records[:, b.start][np.isfinite(self.records[:, b.start])]
                levels = np.unique(np.quantile(known, np.linspace(0.05, 0.95, GRID))) if len(known) else known
                found[b.name] = [float(f"{v:.4g}") for v in levels]
            elif b.kind == "category":
                found[b.name] = list(b.facts.get("words", []))
        return found

    @cached_property
    def _groups(self) -> tuple[list[Array], list[list[Alike]], list[float]]:
        made = [self._groups_of(k) for k in range(len(self.output.labels))]
        centres, alike, radius = zip(*made, strict=True)
        return list(centres), list(alike), list(radius)

    def _groups_of(self, arm: int) -> tuple[Array, list[Alike], float]:
        """Centres of groups of at least 10 patients of one arm, their summaries, and how far a patient of the arm is
        from the nearest centre at most."""
        from sklearn.cluster import KMeans

        rows = np.flatnonzero(self.arm == arm)
        z = self.z[rows].astype(np.float64)
        count = int(np.clip(len(rows) // GROUP, 1, GROUPS))
        centres = KMeans(count, n_init=4, random_state=self.seed).fit(z).cluster_centers_
        while True:
            gaps = np.linalg.norm(z[:, None] - centres[None], axis=2)
            own = gaps.argmin(1)
            sizes = np.bincount(own, minlength=len(centres))
            if sizes.min() >= min(SMALLEST, len(rows)) or len(centres) == 1:
                break
            centres = np.delete(centres, int(sizes.argmin()), axis=0)
        alike = []
        for g in range(len(centres)):
            mine = rows[own == g]
            mean, low, high = mean_interval(self.y[mine])
            alike.append(Alike(n=len(mine), outcome=mean, low=low, high=high, inputs=self._middle(mine)))
        return centres, alike, float(1.1 * gaps.min(1).max())

    def _middle(self, rows: Array) -> dict[str, float | str | None]:
        found: dict[str, float | str | None] = {}
        for b in self.blocks:
            values = self.records[rows, b.start]
            known = values[np.isfinite(values)]
            if not len(known):
                found[b.name] = None
            elif b.kind == "category":
                words = [*b.facts.get("words", [])]
                most = int(np.bincount(known.astype(int)).argmax())
                found[b.name] = words[most] if most < len(words) else "other"
            else:
                found[b.name] = float(f"{known.mean():.4g}")
        return found


def learn(
    blocks: Sequence[Block], samples: Samples, output: OutputSpec, seed: int, *, patients: Array | None = None,
    say: Callable[[str], None] = lambda text: None, compare: bool = True,
) -> Learned:  # fmt: skip
    """
    Args:
        samples: the training side, `targets` (N, 4). patients: (N,) whose case each is; None: each its own.
        compare: also fit the learners that are only shown.

    Raises: BadData "treatment-few-patients", "treatment-no-overlap".
    """
    started = time.perf_counter()
    targets = np.asarray(samples.targets, np.float64)
    arm, arms = arms_of(targets), len(output.labels)
    check_arms(arm, output)
    records = np.asarray(samples.take(np.arange(len(samples))), np.float32)
    base = RecordNet(blocks)
    base.features.fit(records, None)
    x = base.features.matrix(records)
    base.scale.fit(torch.from_numpy(x))
    z = base.scale(torch.from_numpy(x)).numpy().astype(np.float64)
    y = outcome_of(targets, output)
    fold = folds(len(y), seed, patients)
    scaled = output.standard(y)
    found = nuisances(x, z, scaled, arm, arms=arms, fold=fold, seed=seed)
    say(f"chances of treatment by {found.told['propensity']['chosen']}, outcomes by {found.told['outcome']['chosen']}")
    check_overlap(found.propensity, arm, output)
    gamma = robust_scores(y, arm, output.value(found.outcome), found.propensity)
    psi, weight = learners.contrasts(gamma, found)
    who = np.arange(len(y)) if patients is None else np.unique(patients, return_inverse=True)[1]
    learned = Learned(list(blocks), output, records, base, x, z, y, arm, fold, who, found, gamma, psi, weight, seed)
    for kind in STAGES:
        value, error = learners.crossed_stages(kind, x, z, learned.scaled_psi, weight, fold, seed)
        learned.value[kind], learned.error[kind] = value * output.sd, error * output.sd
        learned.losses[kind] = learners.losses(learned.scaled_psi, value, weight)
    if compare:
        for name, value in learners.others(x, z, scaled, arm, found, fold, seed).items():
            learned.losses[name] = learners.losses(learned.scaled_psi, value, weight)
    learned.closed = gates(learned)
    learned.seconds = time.perf_counter() - started
    return learned


def check_arms(arm: Array, output: OutputSpec) -> None:
    """Raises: BadData "treatment-few-patients"."""
    counts = np.bincount(arm, minlength=len(output.labels))
    if counts.min() < FEWEST:
        few = output.labels[int(counts.argmin())]
        raise BadData(
            "treatment-few-patients",
            f"{int(counts.min())} patients of arm {few!r} on the training side; at least {FEWEST} are needed.",
            hint="Add patients of this arm, or leave the arm out of `treatment.arms`.",
        )


def check_overlap(propensity: Array, arm: Array, output: OutputSpec) -> None:
    """Raises: BadData "treatment-no-overlap"."""
    inside = within(propensity, told(output).overlap)
    one = np.ones((1, len(arm)))
    known = max(float(rank_auroc(arm == k, propensity[:, k], one)[0]) for k in range(propensity.shape[1]))
    if inside.mean() < LEAST_INSIDE or known > BY_RULE:
        raise BadData(
            "treatment-no-overlap",
            f"The treatment follows a rule: the inputs tell the arm (AUROC {known:.3f} on held-out patients), and"
            f" {inside.mean():.0%} of the patients had a chance of every arm.",
            hint="Nothing can be compared where a rule decides; add patients who were treated otherwise.",
        )


def within(propensity: Array, band: tuple[float, float]) -> Array:
    """(N,) bool, whether each had a chance of every arm; of more than two arms none may be too rare."""
    enough = np.asarray(propensity).min(1) >= band[0]
    found: Array = enough & (np.asarray(propensity).max(1) <= band[1]) if propensity.shape[1] == 2 else enough
    return found


def gates(learned: Learned) -> list[Coded]:
    """Why nobody is to be advised, whatever the effects: too few comparable patients, or arms that stay unlike."""
    closed = []
    sizes = effective_size(learned.arm, learned.found.propensity)
    counts = np.bincount(learned.arm, minlength=len(sizes))
    for label, size, n in zip(learned.output.labels, sizes, counts, strict=True):
        if size < max(ESS, ESS_SHARE * n):
            said = f"Too few comparable patients: those of arm {label} are worth {size:.0f} after weighting."
            closed.append(Coded("too-few-comparable", said))
    _, after = standardised_differences(learned.z, learned.arm, learned.found.propensity)
    if after.max(initial=0.0) > UNBALANCED:
        said = f"The arms stay unlike after weighting: a standardised difference of {after.max():.2f}."
        closed.append(Coded("not-balanced", said))
    return closed


def by_patient(values: Array, who: Array) -> Array:
    """(P,) means of each patient's cases."""
    count = np.bincount(who)
    return np.asarray(np.bincount(who, values) / np.maximum(count, 1))[count > 0]


def _fill(stage: Stage, fitted: Sequence[Any]) -> None:
    if stage.kind != "linear":
        stage.forest.fill([f.forest for f in fitted])
        return
    for k, one in enumerate(fitted):
        stage.head.bias[k] = float(one.weights[0])
        stage.head.weight[k] = torch.from_numpy(one.weights[1:]).float()
