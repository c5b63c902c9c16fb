"""What following a model's advice is worth: doubly robust values on patients who shaped nothing of it.

    result = evaluate_effect(Labelled.of(spec, scores, targets, part="test", patients=who, baseline=other, ...))
    result["metrics"]["gain_advice"]     # over what was done, better is positive: {"value", "low", "high"}
    result["effect"]["policies"]         # advice, usual care, each arm for all, the policy tree, a simple rule

The record has the keys of `evaluate.evaluate`. The true effect of one patient is never seen, so nothing here is an
accuracy: values are means of doubly robust scores, whose chances and outcomes the model learned from other patients.
Source: Dudik, Langford and Li, ICML 2011 (doubly robust policy evaluation).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medserve.evaluation import sections
from medserve.evaluation.intervals import Interval, bootstrap
from medserve.evaluation.labelled import Labelled
from medserve.evaluation.subgroups import FEWEST, groups_with_pairs
from medserve.models.spec import ModelSpec
from medserve.questions import effect as question
from medserve.questions.weighted import ratio
from medserve.types import Array, Scores

BINS = 24
USUAL, ADVICE, SIGN, TREE = "usual care", "advice", "larger effect", "policy tree"
OF_BASELINE = ("average_effect", "gain_advice", "score_loss", "abstention")


def evaluate_effect(asked: Labelled) -> dict[str, Any]:
    """Measure one part. Returns: what `evaluate.evaluate` does, without `claims`, which it adds."""
    spec, t = asked.spec, np.asarray(asked.targets, np.float64)
    ours = _Judged(spec, asked.scores, t)
    other = None if asked.baseline is None else _Judged(asked.baseline_spec or spec, asked.baseline, t)
    named = ours.policies() | dict(asked.policies)
    values = {name: ours.value_of(arms) for name, arms in named.items()}

    def figures(w: Array) -> dict[str, Array]:
        total = w.sum(axis=1)
        out = ours.figures(w)
        for name, each in values.items():
            out[f"value/{name}"] = ratio(w @ each, total)
            out[f"gain/{name}"] = ratio(w @ (ours.way * (each - ours.y)), total)
        out["gain_advice"] = out[f"gain/{ADVICE}"]
        single = np.stack([out[f"gain/{name}"] for name in ours.single]).max(axis=0)
        out["gain_over_one_arm"] = out["gain_advice"] - single
        if other is not None:
            theirs = other.figures(w) | {
                "gain_advice": ratio(w @ (ours.way * (other.value_of(other.policies()[ADVICE]) - ours.y)), total)
            }
            simple = {name: theirs[name] for name in OF_BASELINE if name in theirs}
            out |= sections.prefixed("baseline", simple)
            out |= sections.prefixed("difference", {name: out[name] - v for name, v in simple.items()})
        if asked.outside is not None:
            out |= sections.prefixed("without", ours.figures(w * asked.outside))
        return out

    measured = bootstrap(figures, asked.who, np.zeros(len(t), np.int64), draws=asked.draws, seed=asked.seed)
    metrics = {name: span for name, span in measured.items() if "/" not in name}
    metrics = {name: metrics[name] for name in ORDER if name in metrics}
    found = asked.record(
        measured,
        metrics,
        counts={label: int((ours.arm == k).sum()) for k, label in enumerate(spec.output.labels)},
        method="bootstrap of patients",
        lower=("score_loss", "abstention"),
        subgroups=_subgroups(ours, asked.who, asked.groups, asked.draws, asked.seed),
    )
    abstained = ours.advice.arm == question.ABSTAIN
    found["answers"] |= {
        "answered": int((~abstained).sum()),
        "abstained": int(abstained.sum()),
        "shares": found["answers"]["shares"]
        | {"answered": _complement(measured["abstention"]), "abstained": measured["abstention"]},
    }
    return found | {"effect": ours.record(measured, list(named))}


ORDER = (
    "average_effect", "naive_difference", "gain_advice", "gain_over_one_arm", "recommended", "recommended_against",
    "abstention", "followed_difference", "score_loss",
)  # fmt: skip


class _Judged:
    """One model's effects, scores and advice on labelled patients."""

    def __init__(self, spec: ModelSpec, scores: Scores, targets: Array) -> None:
        self.spec, self.output = spec, spec.output
        self.facts = question.told(spec.output)
        self.said = question.parted(spec.output, scores.logits)
        self.arm = question.arms_of(targets)
        self.seen = None  # patients of each arm who were under observation at the horizon
        if self.facts.horizon is not None:
            there = targets[:, 0] >= self.facts.horizon
            self.seen = {label: int((there & (self.arm == k)).sum()) for k, label in enumerate(spec.output.labels)}
        self.y = question.outcome_of(targets, spec.output)
        self.way = question.gain(spec.output)
        self.chances = question.levelled(self.arm, self.said.propensity)
        self.gamma = question.robust_scores(self.y, self.arm, self.said.outcome, self.chances)
        far = None
        if spec.ood is not None and scores.distance is not None:
            far = ~(np.asarray(scores.distance) <= spec.ood.threshold)
        self.advice = question.advise(spec.output, scores.logits, far=far)
        self.open = question.advise(spec.output, scores.logits, far=far, closed=False)
        self.single = [f"{label} for all" for label in spec.output.labels]
        e = self.chances
        self.own = np.maximum(e[np.arange(len(e)), self.arm], question.FLOOR)
        self.weight = np.maximum(e[:, 1:] * e[:, :1] / (e[:, 1:] + e[:, :1]), 1e-4)

    def policies(self) -> dict[str, Array]:
        """Name -> (N,) arms; -1 leaves a patient to usual care."""
        value = self.way * self.said.effect
        sign = np.where(value.max(1) > 0, 1 + value.argmax(1), 0)
        found = {ADVICE: self.advice.arm, SIGN: sign}
        if self.facts.leaves:
            arms = np.array([self.output.labels.index(leaf.arm) for leaf in self.facts.leaves])
            found[TREE] = arms[self.said.leaf.clip(0, len(arms) - 1)]
        one_arm = {name: np.full(len(self.y), k) for k, name in enumerate(self.single)}
        return found | one_arm | {USUAL: np.full(len(self.y), question.ABSTAIN)}

    def value_of(self, arms: Array) -> Array:
        """(N,) each patient's share of the policy's value; what was done, where it says nothing."""
        rows = np.arange(len(arms))
        return np.where(arms == question.ABSTAIN, self.y, self.gamma[rows, np.maximum(arms, 0)])

    def figures(self, w: Array) -> dict[str, Array]:
        total, arm = w.sum(axis=1), self.advice.arm
        psi = self.gamma[:, 1:] - self.gamma[:, :1]
        loss = (self.weight / self.weight.mean(0) * (psi - self.said.effect) ** 2).mean(1)
        out = {
            "recommended": ratio(w @ (arm > 0), total),
            "recommended_against": ratio(w @ (arm == 0), total),
            "abstention": ratio(w @ (arm == question.ABSTAIN), total),
            "score_loss": np.sqrt(ratio(w @ loss, total)),
        }
        for k in range(psi.shape[1]):
            mine, rest = self.arm == k + 1, self.arm == 0
            naive = ratio(w @ (mine * self.y), w @ mine) - ratio(w @ (rest * self.y), w @ rest)
            average = ratio(w @ psi[:, k], total)
            out |= {f"average/{k}": average, f"naive/{k}": naive, f"bias/{k}": naive - average}
        if psi.shape[1] == 1:
            out |= {"average_effect": out["average/0"], "naive_difference": out["naive/0"]}
        if self.facts.closed:  # shown all the same: who got what it would have advised, against who did not
            arm = self.open.arm
        followed, not_followed = (arm == self.arm) / self.own, ((arm != self.arm) & (arm >= 0)) / self.own
        gap = ratio(w @ (followed * self.y), w @ followed) - ratio(w @ (not_followed * self.y), w @ not_followed)
        out["followed_difference"] = self.way * gap
        return out

    def record(self, measured: Mapping[str, Interval], names: Sequence[str]) -> dict[str, Any]:
        labels, e = self.output.labels, self.said.propensity
        inside = e >= self.facts.overlap[0]  # as `advise` has it: of several arms each may be common, none too rare
        if e.shape[1] == 2:
            inside &= e <= self.facts.overlap[1]
        edges = np.linspace(0, 1, BINS + 1)
        spread = np.histogram_bin_edges(self.said.effect, BINS)
        codes = [code for row in self.advice.codes for code in row]
        return {
            "outcome": self.facts.outcome,
            "better": self.facts.better,
            "unit": self.output.unit,
            "horizon": self.facts.horizon,
            "under_observation": self.seen,
            "arms": list(labels),
            "closed": [{"code": one.code, "message": one.message} for one in self.facts.closed],
            "contrasts": [
                {"arm": label, "average": measured[f"average/{k}"], "naive": measured[f"naive/{k}"],
                 "bias": measured[f"bias/{k}"], "naive_biased": _excludes_zero(measured[f"bias/{k}"])}
                for k, label in enumerate(labels[1:])
            ],
            "policies": [
                {"policy": name, "value": measured[f"value/{name}"], "gain": measured[f"gain/{name}"]} for name in names
            ],
            "advice": {code: codes.count(code) for code in sorted(set(codes))},
            "overlap": {
                "band": list(self.facts.overlap),
                "inside": float(inside.all(1).mean()),
                "effective": dict(zip(labels, question.effective_size(self.arm, self.chances).tolist(), strict=True)),
                "edges": edges.tolist(),
                "arms": {
                    to: {
                        label: np.histogram(e[self.arm == k, of], edges)[0].tolist() for k, label in enumerate(labels)
                    }
                    for of, to in enumerate(labels) if of or len(labels) > 2
                },
            },
            "histogram": {
                "edges": spread.tolist(),
                "arms": {
                    label: {
                        kind: np.histogram(self.said.effect[mask, k], spread)[0].tolist()
                        for kind, mask in self._kinds(k + 1).items()
                    }
                    for k, label in enumerate(labels[1:])
                },
            },
            "leaves": [
                {"rule": leaf.rule, "arm": leaf.arm, "n": int((self.said.leaf == number).sum()),
                 "effects": self._of_leaf(self.said.leaf == number)}
                for number, leaf in enumerate(self.facts.leaves) if leaf.rule != "nobody"
            ],
        }  # fmt: skip

    def _kinds(self, k: int) -> dict[str, Array]:
        """What was said of one arm: another one may have been recommended."""
        arm = self.advice.arm
        found = {"recommended": arm == k, "recommended against": arm == 0, "abstained": arm == question.ABSTAIN}
        other = (arm > 0) & (arm != k)
        return found | ({"another recommended": other} if len(self.output.labels) > 2 else {})

    def _of_leaf(self, inside: Array) -> list[dict[str, float | None]]:
        """Mean scores of the patients of a leaf, one a contrast; None with fewer than 10."""
        out = []
        for k in range(1, self.gamma.shape[1]):
            each = (self.gamma[inside, k] - self.gamma[inside, 0]).tolist()
            value, low, high = question.mean_interval(np.asarray(each)) if len(each) >= 10 else (None, None, None)
            out.append({"value": value, "low": low, "high": high})
        return out


def _subgroups(
    ours: _Judged, who: Array, groups: Mapping[str, Array], draws: int, seed: int
) -> list[dict[str, Any]]:  # fmt: skip
    """Average effect, advice and abstention of each declared subgroup of at least 50."""
    rows: list[dict[str, Any]] = []
    psi = ours.gamma[:, 1:] - ours.gamma[:, :1]
    arm, others = ours.advice.arm, ours.output.labels[1:]
    named = ["average_effect"] if len(others) == 1 else [f"average effect of {label}" for label in others]
    for name, value, inside in groups_with_pairs(groups):
        n = int(inside.sum())
        if n < FEWEST or " x " in name:
            continue

        def figures(w: Array, m: Array = inside) -> dict[str, Array]:
            total = w.sum(axis=1)
            return {
                **{name: ratio(w @ psi[m, k], total) for k, name in enumerate(named)},
                "recommended": ratio(w @ (arm[m] > 0), total),
                "abstention": ratio(w @ (arm[m] == question.ABSTAIN), total),
            }

        found = bootstrap(figures, who[inside], np.zeros(n, np.int64), draws=draws, seed=seed)
        rows.append({"group": name, "value": value, "n": n, "judged": True, "metrics": dict(found), "gaps": {},
                     "level": "green", "flags": []})  # fmt: skip
    return rows


def _excludes_zero(span: Interval) -> bool:
    low, high = span["low"], span["high"]
    return low is not None and high is not None and not low <= 0 <= high


def _complement(span: Interval) -> Interval:
    value, low, high = (None if span[k] is None else 1 - span[k] for k in ("value", "low", "high"))  # type: ignore[operator]
    return {"value": value, "low": high, "high": low}
