"""The training loop: a network, a head and two parts in; the network at its best epoch and the history out.

    history = fit(net, head, parts.train, parts.val, mean=mean, std=std, plan=Plan(seed=7), folder=work)
    logits  = predict_logits(net, parts.val, mean, std)

One device, class-balanced epochs, an average of the weights (EMA) that is validated after every epoch, and a *copy* of
its best state at the end. With `folder`, every epoch leaves a checkpoint: a run killed at any moment continues and
ends with the same bits (CPU, same seed, same number of threads), because everything random derives from (seed, epoch).
"""

import contextlib
import copy
import hashlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from medserve.errors import BadData, Fault, Usage
from medserve.progress import SILENT, Progress
from medserve.store.files import write_bytes
from medserve.training import checkpoint
from medserve.training.augment import augment
from medserve.training.memory import kept_memory
from medserve.training.plan import Plan
from medserve.training.sampling import class_weights, epoch_rows, read_ahead
from medserve.types import Array, Samples, Task


class Loss(Protocol):
    """What a head must offer: `medserve.models.heads.Head` does."""

    @property
    def output(self) -> Any: ...  # OutputSpec

    def loss(
        self, logits: Tensor, targets: Tensor, *, weight: Tensor | None = None, label_smoothing: float = 0.0
    ) -> Tensor: ...


class Epoch(msgspec.Struct, kw_only=True):
    """loss: mean over the epoch, augmented and smoothed. val_loss: of the averaged weights, every class weighing the
    same; None where no validation label is known, and then the last epoch is kept."""

    epoch: int
    loss: float
    val_loss: float | None
    rate: float
    images: int
    seconds: float


class History(msgspec.Struct, kw_only=True):
    """What happened: one record an epoch, which was best, and how the run was made."""

    seed: int
    plan: str  # digest
    device: str
    precision: str
    threads: int
    epochs: list[Epoch] = []
    best: int = -1  # index into `epochs`
    stopped: str = ""  # "" running | "finished" | "early"

    @property
    def images(self) -> int:
        return sum(epoch.images for epoch in self.epochs)

    @property
    def seconds(self) -> float:
        return sum(epoch.seconds for epoch in self.epochs)


def fit(
    net: nn.Module,
    head: Loss,
    train: Samples,
    val: Samples,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    plan: Plan,
    folder: Path | None = None,
    resume: bool = True,
    together: Array | None = None,
    progress: Progress = SILENT,
) -> History:
    """Train `net` in place; it ends on the CPU in eval mode, holding the best validated weights.

    Args:
        mean, std: per channel, of the training part, pixels in [0, 1].
        folder: where checkpoint.safetensors and history.json go; None keeps nothing on disk.
        resume: continue from a checkpoint in `folder`; False starts over.
        together: (N,) integers; training cases of one number stand side by side in an epoch (`epoch_rows`).

    Raises: BadData "part-empty". Usage "checkpoint-mismatch": the folder holds another run. Fault "loss-not-finite",
        "disk-full" (the previous checkpoint is intact; the same command continues).
    """
    _check(train, val)
    run = _Run(net, head, train, val, mean, std, plan, together)
    if folder is not None and resume:
        run.restore(folder)
    steps = plan.steps_per_epoch(len(train))
    bar = progress.start("training", plan.epochs * steps)
    progress.step(bar, len(run.history.epochs) * steps)
    try:
        with kept_memory(), _half_products(run.half and run.device.type == "cpu"):
            while not run.history.stopped:
                run.epoch(progress, bar)
                if folder is not None:
                    run.save(folder)
    finally:
        progress.end(bar)
    run.finish()
    return run.history


class _Run:
    """The state between epochs, and what is done with it."""

    def __init__(
        self,
        net: nn.Module,
        head: Loss,
        train: Samples,
        val: Samples,
        mean: Sequence[float],
        std: Sequence[float],
        plan: Plan,
        together: Array | None = None,
    ) -> None:
        self.net, self.head, self.train, self.val, self.plan = net, head, train, val, plan
        self.together = together
        self.task: Task = head.output.task
        self.mean, self.std = tuple(mean), tuple(std)
        self.device = _device(plan)
        self.half = _half(plan, self.device)
        self.net.to(self.device)
        if self.half or self.device.type == "cuda":  # elsewhere float32 is faster in the usual layout
            _channels_last(self.net)
        self.average = copy.deepcopy(net).requires_grad_(False) if plan.ema else net
        self.best: dict[str, Tensor] = {}
        self.optimizer = _optimizer(net, plan)
        self.targets = torch.as_tensor(np.asarray(train.targets))
        self.history = History(
            seed=plan.seed,
            plan=plan.digest,
            device=self.device.type,
            precision="bfloat16" if self.half else "float32",
            threads=torch.get_num_threads(),
        )

    def epoch(self, progress: Progress, bar: Any) -> None:
        """One pass, one validation, the best state copied."""
        number, started, plan = len(self.history.epochs), time.monotonic(), self.plan
        per_epoch = plan.steps_per_epoch(len(self.train))
        order = epoch_rows(
            np.asarray(self.train.targets),
            task=self.task,
            count=per_epoch * plan.batch,
            seed=plan.seed,
            epoch=number,
            balance=plan.balance,
            together=self.together,
        )
        generator = torch.Generator().manual_seed(_mix(plan.seed, number))
        total, rate = 0.0, 0.0
        self.net.train()
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(_mix(plan.seed, number) + 1)  # dropout
            for index, (rows, images) in enumerate(read_ahead(self.train, order, plan.batch)):
                step = number * per_epoch + index
                rate = plan.rate(step, plan.epochs * per_epoch)
                total += self._step(images, rows, rate, step, generator)
                progress.step(bar, note=self._note(total / (index + 1)))
        loss, val_loss = total / per_epoch, self._validate()
        if not np.isfinite(loss):
            raise Fault(
                "loss-not-finite",
                f"The training loss is not a finite number in epoch {number + 1}.",
                hint="Lower the learning rate, or look for broken labels with `medserve inspect`.",
            )
        done = Epoch(
            epoch=number + 1,
            loss=loss,
            val_loss=val_loss,
            rate=rate,
            images=len(order),
            seconds=round(time.monotonic() - started, 3),
        )
        self._record(done)

    def _record(self, done: Epoch) -> None:
        history = self.history
        history.epochs.append(done)
        best = history.epochs[history.best].val_loss if history.best >= 0 else None
        if best is None or (done.val_loss is not None and done.val_loss < best):
            history.best = len(history.epochs) - 1
            self.best = {name: value.detach().clone() for name, value in self.average.state_dict().items()}
        if len(history.epochs) >= self.plan.epochs:
            history.stopped = "finished"
        elif len(history.epochs) - 1 - history.best >= self.plan.waits:
            history.stopped = "early"

    def _step(self, images: Array, rows: Array, rate: float, step: int, generator: torch.Generator) -> float:
        plan = self.plan
        x = _unit(images, self.device)
        if plan.augment is not None and images.dtype == np.uint8:
            x = augment(x, plan.augment, generator)
        x = _normalise(x, self.mean, self.std)
        targets = self.targets[torch.from_numpy(rows)].to(self.device)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            logits = self.net(x).logits
        loss = self.head.loss(logits.float(), targets, label_smoothing=plan.label_smoothing)
        loss.backward()
        if plan.clip:
            nn.utils.clip_grad_norm_(self.net.parameters(), plan.clip)
        self.optimizer.step()
        if plan.ema:
            _follow(self.average, self.net, min(plan.ema, (1 + step) / (10 + step)))
        return float(loss.detach())

    def _validate(self) -> float | None:
        """Validation loss of the averaged weights; a class weighs the same whatever its count."""
        targets = np.asarray(self.val.targets)
        if not np.isfinite(targets).any():
            return None
        logits = torch.from_numpy(predict_logits(self.average, self.val, self.mean, self.std, self.plan.batch * 4))
        weight = torch.from_numpy(class_weights(targets, self.task)) if self.plan.balance else None
        value = float(self.head.loss(logits, torch.as_tensor(targets), weight=weight))
        return value if np.isfinite(value) else None

    def _note(self, loss: float) -> str:
        known = [epoch.val_loss for epoch in self.history.epochs if epoch.val_loss is not None]
        last = f", val {known[-1]:.3f}" if known else ""
        return f"epoch {len(self.history.epochs) + 1}/{self.plan.epochs} loss {loss:.3f}{last}"

    def finish(self) -> None:
        self.net.load_state_dict(self.best)
        self.net.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.net.eval()

    def save(self, folder: Path) -> None:
        tensors = {f"net.{name}": value for name, value in self.net.state_dict().items()}
        if self.plan.ema:
            tensors |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        tensors |= checkpoint.optimizer_tensors(self.optimizer)
        state = {"of": self._identity(), "history": msgspec.to_builtins(self.history)}
        checkpoint.save(folder, tensors, state)
        write_bytes(folder / "history.json", msgspec.json.format(msgspec.json.encode(self.history), indent=1))

    def restore(self, folder: Path) -> None:
        found = checkpoint.load(folder)
        if found is None:
            return
        tensors, state = found
        if state.get("of") != self._identity():
            raise Usage(
                "checkpoint-mismatch",
                f"{folder / checkpoint.FILE} belongs to a run with another plan, network or data.",
                hint="Choose another --out, or remove the file to start over.",
            )
        self.history = msgspec.convert(state["history"], History)
        self.net.load_state_dict(_below(tensors, "net."))
        if self.plan.ema:
            self.average.load_state_dict(_below(tensors, "average."))
        self.best = _below(tensors, "best.")
        checkpoint.restore_optimizer(self.optimizer, tensors)

    def _identity(self) -> dict[str, str]:
        """What a checkpoint must agree with: plan, network, and the parts' sizes and targets."""
        shapes = [f"{name}{tuple(value.shape)}" for name, value in self.net.state_dict().items()]
        data = hashlib.sha256()
        for part in (self.train, self.val):
            data.update(np.ascontiguousarray(part.targets).tobytes())
        scale = repr((self.mean, self.std)).encode()
        return {
            "plan": self.plan.digest,
            "net": hashlib.sha256(" ".join(shapes).encode() + scale).hexdigest(),
            "data": data.hexdigest(),
        }


def predict_logits(
    net: nn.Module, samples: Samples, mean: Sequence[float], std: Sequence[float], batch: int = 256
) -> Array:
    """(N, K) float32, in the order of `samples`."""
    return predict_features(net, samples, mean, std, batch)[0]


def predict_features(
    net: nn.Module, samples: Samples, mean: Sequence[float], std: Sequence[float], batch: int = 256
) -> tuple[Array, Array]:
    """Logits (N, K) and embeddings (N, F), float32; the network is left in the mode it was in."""
    was = net.training
    device = next((p.device for p in net.parameters()), torch.device("cpu"))  # trees have buffers only
    logits, embeddings = [], []
    net.eval()
    try:
        with torch.inference_mode():
            for _, images in read_ahead(samples, np.arange(len(samples)), batch):
                x = _normalise(_unit(images, device), mean, std)
                out = net(x)
                logits.append(out.logits.float().cpu().numpy())
                embeddings.append(out.embedding.float().cpu().numpy())
    finally:
        net.train(was)
    return np.concatenate(logits), np.concatenate(embeddings)


def _unit(batch: Array, device: torch.device) -> Tensor:
    """Stored pixels as [0, 1]; records as they are."""
    x = torch.from_numpy(batch).to(device)
    return x.float().div_(255) if batch.dtype == np.uint8 else x


def _normalise(x: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(x - mean) / std per channel, exactly what the served graph does."""
    shape = (1, -1, *(1 for _ in range(x.ndim - 2)))
    return (x - x.new_tensor(mean).reshape(shape)) / x.new_tensor(std).reshape(shape)


def _follow(average: nn.Module, net: nn.Module, decay: float) -> None:
    """average <- decay * average + (1 - decay) * net, for weights and running statistics; counters are copied."""
    with torch.no_grad():
        pairs = list(zip(average.state_dict().values(), net.state_dict().values(), strict=True))
        kept, new = [a for a, _ in pairs if a.is_floating_point()], [b for _, b in pairs if b.is_floating_point()]
        torch._foreach_lerp_(kept, new, 1 - decay)
        for a, b in pairs:
            if not a.is_floating_point():
                a.copy_(b)


def _optimizer(net: nn.Module, plan: Plan) -> torch.optim.Optimizer:
    """AdamW without decay on biases and normalisation (one-dimensional), or plain Adam."""
    weights = [p for p in net.parameters() if p.requires_grad]
    if plan.optimizer == "adam":
        return torch.optim.Adam(weights, lr=plan.rate_peak, fused=True)
    groups = [
        {"params": [p for p in weights if p.ndim > 1], "weight_decay": plan.weight_decay},
        {"params": [p for p in weights if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=plan.rate_peak, fused=True)


def _device(plan: Plan) -> torch.device:
    if plan.device == "cuda" and not torch.cuda.is_available():
        raise Usage("no-cuda", "No CUDA device is available.", hint="Use device = auto or cpu.")
    return torch.device("cuda" if plan.device != "cpu" and torch.cuda.is_available() else "cpu")


def _channels_last(net: nn.Module) -> None:
    """The layout in which half-precision convolutions are fast; of images, volumes keep theirs."""
    if all(p.ndim != 5 for p in net.parameters()):
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _half(plan: Plan, device: torch.device) -> bool:
    """bfloat16 where it is computed natively: CUDA, or a processor with avx512_bf16 or amx_bf16."""
    if plan.precision != "auto":
        return plan.precision == "bfloat16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


@contextlib.contextmanager
def _half_products(wanted: bool) -> Iterator[None]:
    """Let float32 matrix products on the processor multiply in bfloat16, as they do under autocast, without a copy."""
    matmul: Any = getattr(torch.backends.mkldnn, "matmul", None)  # older torch has no such switch
    if matmul is None or not wanted:
        yield
        return
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before


def _check(train: Samples, val: Samples) -> None:
    for name, part in (("training", train), ("validation", val)):
        if len(part) == 0:
            raise BadData(
                "part-empty", f"The {name} part holds no case.", hint="Give more data, or other split fractions."
            )


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _mix(seed: int, epoch: int) -> int:
    """One 63-bit number from the two, the same on every machine."""
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)[0] >> np.uint64(2))
