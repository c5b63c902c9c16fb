"""Fitting the simple models of records: linear, boosted trees, additive. Seconds, not hours, and no device.

    architecture, net, history = fit_classical(Named("record-trees", {"blocks": [...]}), train, val, output, seed=7)

What fits how much (penalty, number of trees, pairs) is chosen by the loss on the validation part, the same loss that
networks are trained on. No class is weighted up: the logits mean what the data say.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medserve.data.fields import Block
from medserve.errors import BadData, Usage
from medserve.models.heads import Head
from medserve.models.nets import MODELS
from medserve.models.record import additive, as_blocks, families, forest, linear, trees  # noqa: F401
from medserve.models.record.features import RecordNet, folds, pieces
from medserve.models.spec import OutputSpec
from medserve.training import _boosting, _forest, _glassbox
from medserve.training._cox import cox_loss, martingale
from medserve.types import Array, Named, Samples

PENALTIES = tuple(float(p) for p in np.logspace(0, -6, 13))  # of the mean loss, strongest first
ENOUGH = 500  # validation cases from which they choose the penalty; below, the training part's folds do
LEAST_CROSSED = 100  # training cases from which trees are chosen by cross-validation
STEPS = 200  # of L-BFGS, for each penalty

Loss = Callable[[Tensor, Tensor], Tensor]
Fitted = tuple[dict[str, Any], RecordNet, dict[str, Any]]


def fit_classical(
    architecture: Named,
    train: Samples,
    val: Samples,
    output: OutputSpec,
    seed: int,
    *,
    patients: Array | None = None,
    others: Array | None = None,
    unseen: int | None = None,
) -> tuple[Named, RecordNet, dict[str, Any]]:
    """Fit "record-linear", "record-trees", "record-forest" or "record-additive".

    Args:
        architecture: its parameters hold `blocks`.
        train, val: `take` gives (B, F) float32 records.
        output: task survival takes targets (N, 2), time and event; its one logit is the log hazard ratio.
        patients: (len(train),) who each training case belongs to; others: (len(val),) of the validation cases.
        unseen: see `_boosting.boost_all`; 1 where the crossed scores are not asked for, which costs less.

    Returns: the architecture with every parameter that the empty module needs, the fitted module in eval mode, and the
        history: learner, columns, what was tried, `train_loss`, `val_loss`, seconds. Plain JSON.
    Raises: Usage "not-classical". BadData "part-empty", "no-target".
    """
    start = time.perf_counter()
    fits = {"record-linear": _linear, "record-trees": _trees, "record-forest": _woods, "record-additive": _additive}
    if architecture.name not in fits:
        raise Usage(
            "not-classical", f"{architecture.name!r} is not one of {', '.join(fits)}.", hint="Train it as a network."
        )
    for name, part in (("training", train), ("validation", val)):
        if not len(part):
            raise BadData("part-empty", f"The {name} part holds no case.", hint="Give more data, or other fractions.")
    task: str = output.task
    if task == "survival" and not np.asarray(train.targets)[:, 1].any():
        raise BadData("no-target", "The training part holds no event.", hint="Check the column of events.")
    blocks = as_blocks(architecture.params["blocks"])
    everybody = None if patients is None or others is None else np.concatenate([patients, others])
    rows = _Rows(blocks, train, val, output, seed, patients, everybody, unseen)
    params, net, history = fits[architecture.name](rows)
    net = net.eval().requires_grad_(False)
    loss = loss_of(output)
    for name, part in (("train_loss", train), ("val_loss", val)):
        held = name == "val_loss" and net.crossed is not None
        logits = torch.from_numpy(net.crossed[len(train) :]) if held else _logits(net, part)  # type: ignore[index]
        history[name] = round(float(loss(logits.double(), torch.from_numpy(np.asarray(part.targets)))), 6)
    history |= {"learner": architecture.name, "columns": rows.net.columns, "seed": seed}
    history["seconds"] = round(time.perf_counter() - start, 3)
    return Named(architecture.name, {**architecture.params, **params}), net, history


class _Rows:
    """Both parts as matrices, and the fitted columns that made them."""

    def __init__(
        self,
        blocks: list[Block],
        train: Samples,
        val: Samples,
        output: OutputSpec,
        seed: int,
        patients: Array | None,
        everybody: Array | None,
        unseen: int | None = None,
    ) -> None:
        self.unseen = unseen
        self.blocks, self.output, self.seed, self.patients = blocks, output, seed, patients
        self.y, self.y_val = np.asarray(train.targets), np.asarray(val.targets)
        self.net = RecordNet(blocks)
        code = one_number(self.y, output)
        self.net.features.fit(train, code)
        self.x = self.net.features.cross_fitted(train, code, seed, patients)
        self.x_val = self.net.features.matrix(val)
        self.net.scale.fit(torch.from_numpy(self.x))
        self.fold = folds(len(self.y) + len(self.y_val), seed, everybody)
        self.grouped = everybody is not None
        task: str = output.task
        self.outputs = 1 if task == "survival" else output.width

    def build(self, name: str, params: dict[str, Any]) -> RecordNet:
        """The empty module with the fitted columns in it."""
        net = MODELS[name](sum(b.size for b in self.blocks), (), self.outputs, blocks=self.blocks, **params)
        assert isinstance(net, RecordNet)
        net.load_state_dict(self.net.state_dict(), strict=False)
        return net


def one_number(targets: Array, output: OutputSpec) -> Array:
    """(N,) float32, one number a case for the columns that need to know the target: the risk, in the widest sense.

    binary, ordinal, number: the target. multiclass: not the commonest class. multilabel: the share of the known labels
    that are there. survival: the martingale residual.
    """
    task: str = output.task
    if task == "survival":
        return martingale(targets).astype(np.float32)
    if task == "multiclass":
        return (targets != np.bincount(targets.astype(int)).argmax()).astype(np.float32)
    if task == "number":
        return output.standard(targets).astype(np.float32)
    if task == "multilabel":
        known = np.isfinite(targets)
        share = np.nansum(targets, 1) / np.maximum(known.sum(1), 1)
        return np.where(known.any(1), share, np.nan).astype(np.float32)
    return np.asarray(targets, np.float32)


def loss_of(output: OutputSpec) -> Loss:
    """(logits, targets) -> scalar: the loss that networks learn with; for survival Cox's partial likelihood."""
    task: str = output.task
    if task == "survival":
        return lambda logits, targets: cox_loss(logits[:, 0], targets.to(logits.dtype))
    return Head(output).loss


def _linear(rows: _Rows) -> Fitted:
    net = rows.build("record-linear", {})
    assert isinstance(net, linear.RecordLinear)
    x, x_val = (net.scale(torch.from_numpy(part)) for part in (rows.x, rows.x_val))
    y, y_val = (torch.from_numpy(part) for part in (rows.y, rows.y_val))
    loss, best, tried = loss_of(rows.output), float("inf"), []
    weight = torch.zeros_like(net.head.weight)
    bias = torch.zeros_like(net.head.bias)
    useful = (x != x[:1]).any(0)  # a constant column would stand in for the bias
    x, x_val = x[:, useful], x_val[:, useful]
    path = _Path(x, y, rows.outputs, loss)
    held = _held_out(x, y, rows, loss) if len(x_val) < ENOUGH else None
    for at, penalty in enumerate(PENALTIES):
        path.fit(penalty)
        with torch.no_grad():
            value = float(loss(path.logits(x_val), y_val)) if held is None else float(held[at])
        tried.append({"penalty": penalty, "val_loss": round(value, 6)})
        if value < best:
            best, chosen = value, penalty
            weight[:, useful], bias = path.weight.detach().clone(), path.bias.detach().clone()
        elif len(tried) > 3 and all(entry["val_loss"] > best + 1e-6 for entry in tried[-3:]):
            break  # three steps of less penalty, each worse: the rest of the path overfits more
    with torch.no_grad():
        net.head.weight.copy_(weight)
        net.head.bias.copy_(bias)
    return {}, net, {"penalty": chosen, "tried": tried}


def _held_out(x: Tensor, y: Tensor, rows: _Rows, loss: Loss) -> Array:
    """(penalties,) mean loss of each training fold under the other folds' model: a small validation part alone would
    pick a penalty so weak that the model is certain of everything."""
    fold = torch.from_numpy(folds(len(x), rows.seed, rows.patients))
    total, count = np.zeros(len(PENALTIES)), 0
    for k in fold.unique().tolist():
        inside = fold == k
        path = _Path(x[~inside], y[~inside], rows.outputs, loss)
        for at, penalty in enumerate(PENALTIES):
            path.fit(penalty)
            with torch.no_grad():
                value = float(loss(path.logits(x[inside]), y[inside]))
            total[at] += int(inside.sum()) * (value if np.isfinite(value) else 1e6)
        count += int(inside.sum())
    return total / max(1, count)


class _Path:
    """Ridge-penalised regression along a path of penalties, each from the last one's weights."""

    def __init__(self, x: Tensor, y: Tensor, outputs: int, loss: Loss) -> None:
        self.x, self.y, self.loss = x, y, loss
        self.weight = torch.zeros(outputs, x.shape[1], requires_grad=True)
        self.bias = torch.zeros(outputs, requires_grad=True)

    def logits(self, x: Tensor) -> Tensor:
        return x @ self.weight.T + self.bias

    def fit(self, penalty: float) -> None:
        solver = torch.optim.LBFGS(
            [self.weight, self.bias],
            max_iter=STEPS,
            history_size=20,
            tolerance_grad=1e-6,
            tolerance_change=1e-9,
            line_search_fn="strong_wolfe",
        )

        def closure() -> Tensor:
            solver.zero_grad()
            value = self.loss(self.logits(self.x), self.y) + penalty * self.weight.square().sum() / 2
            value.backward()
            return value

        solver.step(closure)  # type: ignore[arg-type]


def _trees(rows: _Rows) -> Fitted:
    sides = rows.x, rows.y, rows.x_val, rows.y_val, rows.output, rows.seed
    crossed = None
    if _boosting.crosses(len(rows.x), rows.output) and _known(rows):
        forests, history, crossed = _boosting.boost_all(*sides, rows.fold, rows.unseen)
    else:
        forests, history = _boosting.boost(*sides)
    params = trees.shape_of(forests)
    net = rows.build("record-trees", params)
    assert isinstance(net, trees.RecordTrees)
    net.forest.fill(forests)
    net.crossed = None if crossed is None else crossed.astype(np.float32)
    return params, net, history


def _woods(rows: _Rows) -> Fitted:
    every, wanted = np.concatenate([rows.x, rows.x_val]), np.concatenate([rows.y, rows.y_val])
    fold = rows.fold if rows.grouped else None
    grown, link, history, crossed = _forest.grow(every, wanted, rows.output, rows.seed, fold)
    params = trees.shape_of(grown) | {"link": link}
    net = rows.build("record-forest", params)
    assert isinstance(net, forest.RecordForest)
    net.forest.fill(grown)
    net.crossed = crossed.astype(np.float32)
    return params, net, history


def _known(rows: _Rows) -> bool:
    """Cross-validation needs some cases of every class in every fold."""
    if rows.output.task == "number":
        return len(rows.x) >= LEAST_CROSSED
    counts = np.bincount(np.concatenate([rows.y, rows.y_val]).astype(int), minlength=len(rows.output.labels))
    return len(rows.x) >= LEAST_CROSSED and int(counts.min()) >= 4 * int(rows.fold.max() + 1)


def _additive(rows: _Rows) -> Fitted:
    terms, intercept, history = _glassbox.curves(
        rows.x, rows.y, rows.x_val, rows.y_val, rows.output, rows.seed, patients=rows.patients
    )
    params = additive.shape_of(terms)
    net = rows.build("record-additive", params)
    assert isinstance(net, additive.RecordAdditive)
    net.fill(terms, intercept)
    return params, net, history


@torch.no_grad()
def _logits(net: nn.Module, part: Samples) -> Tensor:
    return torch.cat([net(piece).logits for piece in pieces(part)])
