"""The same architecture, trained on planted pictures: can a method point at what we know is there?

    result = pointing(served, architecture, shape=(1, 28, 28), settings=settings)
    result["methods"]["occlusion"]["low"]        # lower 95 % bound of hits

The architecture is built afresh and trained with fixed seeds; frozen pretrained parts keep their weights. The figures
are measured on this machine and kept under `MEDSERVE_HOME/cache/planted`, by architecture, size and code.
"""

import hashlib
import inspect
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

import medserve
from medserve.errors import Usage
from medserve.evaluation.intervals import wilson
from medserve.explain import planted as planted_module
from medserve.explain.explainers import EXPLAINERS
from medserve.explain.gradients import NetModel
from medserve.explain.maps import peak
from medserve.explain.planted import Planted, planted
from medserve.models.build import build_net
from medserve.models.heads import Head
from medserve.models.served import ServedNet
from medserve.models.spec import OutputSpec
from medserve.progress import SILENT, Progress
from medserve.settings import Settings
from medserve.store.files import write_bytes
from medserve.training import loop
from medserve.training.plan import Plan
from medserve.types import Array, Named

OUTPUT = OutputSpec(task="binary", labels=["without", "with"])
MOST_SIDE = 64  # larger inputs are audited at 64 pixels a side
LEARNT = 0.75  # AUROC from which a network has learnt the planted lesion
ENOUGH = 60  # true positives to point at, in all


@dataclass(frozen=True, slots=True)
class Trial:
    """How much is trained. limit_s: not started when the first steps say that it would take longer than this; a rough
    estimate, up to three times too long on a busy machine, so the limit is generous."""

    mode: str
    train: int
    epochs: int
    seeds: tuple[int, ...]
    point: int  # true positives to point at, a seed
    limit_s: float


FULL = Trial("full", train=1200, epochs=5, seeds=(0, 1, 2), point=60, limit_s=1800)
QUICK = Trial("quick", train=640, epochs=5, seeds=(0,), point=60, limit_s=90)


def pointing(
    served: ServedNet,
    architecture: Named,
    *,
    shape: tuple[int, ...],
    settings: Settings,
    quick: bool = False,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """The pointing game (test L1) for every method.

    Args:
        served: the model whose architecture is asked about; its frozen weights are reused, nothing else.
        shape: (C, H, W) of its input.
        settings: where figures are kept.

    Returns: {"mode", "side", "auroc": [...], "methods": {name: {"n", "hits", "value", "low", "chance"}}}; or
        {"mode", "skipped": why}.
    """
    trial = QUICK if quick else FULL

    def measure() -> dict[str, Any]:
        side, aurocs, rows = planted_side(shape), [], []
        for seed in progress.track(trial.seeds, "Planted lesions"):
            net = train(served, architecture, shape=shape, trial=trial, seed=seed)
            test = planted(4 * trial.point, side=side, channels=shape[0], seed=3000 + seed)
            logits = net.scores(test.images).logits[:, 0]
            aurocs.append(round(float(roc_auc_score(test.targets, logits)), 4))
            found = np.flatnonzero((logits > 0) & (test.targets == 1))[: trial.point]
            rows.append({name: _hits(name, net, test, found) for name in available(net, shape)} if len(found) else {})
        return {"mode": trial.mode, "side": side, "auroc": aurocs, "methods": _sum_up(rows, test.chance)}

    return remembered(
        served, architecture, shape=shape, trial=trial, settings=settings, what="pointing", measure=measure
    )


def train(
    served: ServedNet,
    architecture: Named,
    *,
    shape: tuple[int, ...],
    trial: Trial,
    seed: int,
    marker: tuple[float, float] = (0.0, 0.0),
) -> ServedNet:
    """The architecture, built afresh and trained on planted pictures.

    Raises: Usage "trial-too-long": it would take longer than the trial allows.
    """
    side, channels = planted_side(shape), shape[0]
    make = {"side": side, "channels": channels, "marker": marker}
    learn, val = planted(trial.train, seed=1000 + seed, **make), planted(trial.train // 5, seed=2000 + seed, **make)  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = build_net(architecture, channels=channels, size=side, outputs=1)
    _inherit(net, served.net)
    _refuse_too_long(net, learn.images, trial)
    mean = [float(learn.images.mean() / 255)] * channels
    std = [float(learn.images.std() / 255)] * channels
    plan = Plan(epochs=trial.epochs, batch=32, seed=seed, rate_peak=3e-3, ema=0.98, augment=None, patience=trial.epochs)
    loop.fit(net, Head(OUTPUT), learn.samples, val.samples, mean=mean, std=std, plan=plan)  # type: ignore[arg-type]
    return ServedNet(net, mean, std)


def remembered(
    served: ServedNet,
    architecture: Named,
    *,
    shape: tuple[int, ...],
    trial: Trial,
    settings: Settings,
    what: str,
    measure: Callable[[], dict[str, Any]],
) -> dict[str, Any]:
    """What was measured before for this architecture, size and code, else measured now. A full trial serves a quick
    question too. What was skipped is not kept: another day the machine may have time."""
    if len(shape) != 3:
        return {"mode": trial.mode, "skipped": "planted pictures are flat; this model takes volumes"}
    places = [_place(served, architecture, shape, one, settings, what) for one in {trial.mode, "full"}]
    for place in sorted(places):  # "full-..." comes before "quick-..."
        if place.exists():
            try:
                return msgspec.json.decode(place.read_bytes(), type=dict[str, Any])
            except msgspec.DecodeError:
                continue  # written by hand or damaged: measured again
    try:
        result = measure()
    except Usage as error:
        return {"mode": trial.mode, "skipped": error.message}
    write_bytes(_place(served, architecture, shape, trial.mode, settings, what), msgspec.json.encode(result))
    return result


def available(net: ServedNet, shape: tuple[int, ...]) -> list[str]:
    """Methods that this network can give at all."""
    return [name for name in EXPLAINERS if name != "cam" or "cam" in net.outputs((shape[0], *_sides(shape)))]


def _hits(name: str, net: ServedNet, test: Planted, rows: Array) -> tuple[int, int]:
    heat = EXPLAINERS[name].explain(NetModel(net), test.images[rows], np.zeros(len(rows), int))
    away = np.array([peak(one) for one in heat]) - test.centres[rows]
    return int((np.hypot(away[:, 0], away[:, 1]) <= test.reach_px).sum()), len(rows)


def _sum_up(rows: list[dict[str, tuple[int, int]]], chance: float) -> dict[str, dict[str, Any]]:
    """Hits of all seeds together, with their interval."""
    out = {}
    for name in EXPLAINERS:
        pairs = [row[name] for row in rows if name in row]
        hits, n = sum(h for h, _ in pairs), sum(k for _, k in pairs)
        if n:
            low, high = wilson(hits / n, n)
            by_seed = [round(h / k, 4) for h, k in pairs]
            figures = {"value": hits / n, "low": low, "high": high, "chance": chance}
            out[name] = {"hits": hits, "n": n, "by_seed": by_seed} | {k: round(v, 4) for k, v in figures.items()}
    return out


def _inherit(net: nn.Module, model: nn.Module) -> None:
    """Frozen parts of the model (pretrained features) are part of the architecture: their weights are taken over."""
    frozen = {name for name, value in net.named_parameters() if not value.requires_grad}
    if frozen:
        known = model.state_dict()
        buffers = {name for name, value in net.named_buffers() if known[name].shape == value.shape}
        net.load_state_dict({name: known[name] for name in frozen | buffers}, strict=False)


def _refuse_too_long(net: nn.Module, images: Array, trial: Trial) -> None:
    """Time one step before promising the rest; in processor time, so that a busy machine does not refuse."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        return
    x = torch.from_numpy(images[:32]).float() / 255
    net.train()
    seconds = []
    for _ in range(3):  # the first one warms up
        start = time.process_time()
        net(x).logits.sum().backward()
        seconds.append(time.process_time() - start)
    net.zero_grad(set_to_none=True)
    needed = min(seconds) / torch.get_num_threads() / len(x) * trial.train * trial.epochs * len(trial.seeds)
    if needed > trial.limit_s:
        raise Usage(
            "trial-too-long",
            f"Training this architecture on planted pictures would take about {needed / 60:.0f} minutes here.",
            hint="The full audit allows half an hour.",
        )


def planted_side(shape: tuple[int, ...]) -> int:
    return min(MOST_SIDE, max(shape[1:]))


def _sides(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(planted_side(shape) for _ in shape[1:])


def _place(
    served: ServedNet, architecture: Named, shape: tuple[int, ...], mode: str, settings: Settings, what: str
) -> Path:
    facts = {"architecture": msgspec.to_builtins(architecture), "channels": shape[0], "side": planted_side(shape)}
    digest = hashlib.sha256(msgspec.json.encode(facts, order="sorted"))
    digest.update(msgspec.json.encode([asdict(QUICK), asdict(FULL), medserve.__version__]))
    for module in (inspect.getmodule(type(served.net)), planted_module, loop):
        if module is not None:
            digest.update(inspect.getsource(module).encode())
    for name in ("maps", "cam", "occlusion", "gradients", "trials", "shortcut"):
        digest.update((Path(__file__).parent / f"{name}.py").read_bytes())
    for name, value in served.net.named_parameters():
        if not value.requires_grad:
            digest.update(name.encode() + value.detach().cpu().numpy().tobytes())
    return settings.folder("cache/planted") / f"{mode}-{what}-{architecture.name}-{digest.hexdigest()[:20]}.json"
