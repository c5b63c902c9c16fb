"""The training loop: what it learns, what it keeps, and that it can be killed."""

import errno
import os
import shutil
import signal
import subprocess
import sys

import msgspec
import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from medserve.errors import BadData, Fault, Usage
from medserve.models.heads import Head
from medserve.models.image.residual import residual
from medserve.models.spec import OutputSpec
from medserve.training import checkpoint, loop
from medserve.training.loop import History, fit, predict_features, predict_logits
from medserve.training.plan import Plan
from medserve.types import ArraySamples

BINARY = OutputSpec(task="binary", labels=["absent", "present"])
SCALE = {"mean": [0.3], "std": [0.2]}
QUICK = Plan(epochs=4, batch=16, seed=3, rate_peak=4e-3)


def squares(n, seed, *, share=0.5):
    """Noise; positives hold one bright square."""
    random = np.random.default_rng(seed)
    y = (random.random(n) < share).astype(np.int64)
    x = random.integers(0, 110, (n, 1, 12, 12)).astype(np.uint8)
    x[y == 1, :, 3:8, 3:8] += 90
    return ArraySamples(x, y)


def network(outputs=1, channels=1):
    torch.manual_seed(0)
    return residual(channels, 12, outputs, dial="tiny")


def train(plan=QUICK, *, net=None, head=None, train=None, val=None, **more):
    net = net or network()
    train = squares(64, 0) if train is None else train
    val = squares(48, 1) if val is None else val
    history = fit(net, head or Head(BINARY), train, val, plan=plan, **SCALE, **more)
    return net, history


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_it_learns_and_reports_every_epoch():
    """A visible square is told from noise; the history holds one record an epoch and what made the run."""
    net, history = train(msgspec.structs.replace(QUICK, epochs=10))
    test = squares(100, 2)
    assert ((predict_logits(net, test, **SCALE)[:, 0] > 0) == test.targets).mean() >= 0.95
    assert [e.epoch for e in history.epochs] == list(range(1, 11)) and history.stopped == "finished"
    assert history.seed == 3 and history.plan and history.device == "cpu" and history.images == 640
    assert not net.training and all(p.requires_grad for p in net.parameters())


def test_the_same_seed_gives_the_same_bits():
    """Two runs agree bit for bit, whatever the caller's own random state; another seed does not."""
    torch.manual_seed(1)
    first = train()[0]
    torch.manual_seed(2)
    before = torch.get_rng_state()
    net = network()
    torch.set_rng_state(before)
    second = train(net=net)[0]
    assert torch.equal(torch.get_rng_state(), before), "the caller's random state is left alone"
    assert same(first, second) and not same(first, train(msgspec.structs.replace(QUICK, seed=4))[0])


VICTIM = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import torch; torch.set_num_threads({threads})
import test_loop as t
class Dies(t.ArraySamples):
    taken = 0
    def take(self, rows):
        Dies.taken += 1
        if Dies.taken == 11:  # 4 batches an epoch: in the middle of the third
            os.kill(os.getpid(), signal.SIGKILL)
        return super().take(rows)
data = t.squares(64, 0)
t.train(train=Dies(data.images, data.targets), folder=t.checkpoint.Path({folder!r}))
"""


def test_killed_and_resumed_equals_unbroken(tmp_path):
    """`kill -9` in the middle of an epoch; the same call again ends with weights and history equal to the bit."""
    unbroken, whole = train()
    code = VICTIM.format(tests=os.path.dirname(__file__), threads=torch.get_num_threads(), folder=str(tmp_path))
    died = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120)
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    _, state = checkpoint.load(tmp_path)
    assert 1 <= len(state["history"]["epochs"]) < 4, "it died on the way"
    (tmp_path / f".{checkpoint.FILE}.1").write_bytes(b"half a checkpoint of a run killed while writing")
    net, history = train(folder=tmp_path)
    assert same(net, unbroken)
    assert [e.val_loss for e in history.epochs] == [e.val_loss for e in whole.epochs]
    assert [e.loss for e in history.epochs] == [e.loss for e in whole.epochs]
    assert sorted(p.name for p in tmp_path.iterdir()) == [checkpoint.FILE, "history.json"]


def test_every_checkpoint_continues_to_the_same_end(tmp_path, monkeypatch):
    """Stopped after any epoch, with any optimizer and with or without the average, the end is the same."""
    plain = msgspec.structs.replace(QUICK, optimizer="adam", schedule="constant", ema=0.0, augment=None)
    half = msgspec.structs.replace(QUICK, precision="bfloat16")  # another memory layout, on any machine
    for name, plan in (("quick", QUICK), ("plain", plain), ("half", half)):
        kept, real = [], checkpoint.save

        def keep(folder, tensors, state, kept=kept, real=real):
            path = real(folder, tensors, state)
            kept.append(shutil.copy(path, tmp_path / f"{len(kept)}.safetensors"))
            return path

        monkeypatch.setattr(checkpoint, "save", keep)
        whole, _ = train(plan, folder=tmp_path / "whole" / name)
        monkeypatch.setattr(checkpoint, "save", real)
        for index in (0, 2) if plan.ema else (1,):
            folder = tmp_path / name / str(index)
            folder.mkdir(parents=True)
            shutil.copy(kept[index], folder / checkpoint.FILE)
            assert same(whole, train(plan, folder=folder)[0])


def test_a_finished_run_is_not_trained_again(tmp_path):
    """The same call on a finished folder gives the same weights at once; resume=False starts over."""
    net, first = train(folder=tmp_path)
    fresh, again = train(folder=tmp_path)
    assert same(net, fresh) and [e.seconds for e in again.epochs] == [e.seconds for e in first.epochs]
    _, over = train(folder=tmp_path, resume=False)
    assert [e.seconds for e in over.epochs] != [e.seconds for e in first.epochs]
    stored = msgspec.json.decode((tmp_path / "history.json").read_bytes(), type=History)
    assert stored == over


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    """Another seed, other data or a damaged file is never continued silently."""
    train(folder=tmp_path)
    with pytest.raises(Usage) as error:
        train(msgspec.structs.replace(QUICK, seed=9), folder=tmp_path)
    assert error.value.code == "checkpoint-mismatch"
    with pytest.raises(Usage):
        train(train=squares(64, 5), folder=tmp_path)
    (tmp_path / checkpoint.FILE).write_bytes(b"\x80\x04N.")  # a pickle of None
    with pytest.raises(BadData) as unreadable:
        train(folder=tmp_path)
    assert unreadable.value.code == "checkpoint-unreadable" and checkpoint.FILE in str(unreadable.value)


@pytest.mark.parametrize(
    "failure",
    [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("I/O error: No space (os error 28)")],
)
def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path, monkeypatch, failure):
    """A coded error names the file; the checkpoint before stays whole and the same call continues from it."""
    real, calls = checkpoint.save_file, []

    def full(tensors, path, metadata):
        calls.append(path)
        if len(calls) == 3:
            path.write_bytes(b"half")
            raise failure
        real(tensors, path, metadata)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(Fault) as error:
        train(folder=tmp_path)
    assert error.value.code == "disk-full" and checkpoint.FILE in str(error.value) and error.value.hint
    assert sorted(p.name for p in tmp_path.iterdir()) == [checkpoint.FILE, "history.json"]
    assert len(checkpoint.load(tmp_path)[1]["history"]["epochs"]) == 2
    monkeypatch.setattr(checkpoint, "save_file", real)
    assert same(train(folder=tmp_path)[0], train()[0])


def test_it_ends_with_a_copy_of_the_best_state(monkeypatch):
    """Validation losses 3, 1, 2, 4: the weights returned are those of the second epoch, not the last."""
    seen, losses = [], iter([3.0, 1.0, 2.0, 4.0])

    def scripted(run):
        seen.append({name: value.clone() for name, value in run.average.state_dict().items()})
        return next(losses)

    monkeypatch.setattr(loop._Run, "_validate", scripted)
    net, history = train()
    assert history.best == 1
    assert all(torch.equal(value, seen[1][name]) for name, value in net.state_dict().items())
    assert not all(torch.equal(value, seen[3][name]) for name, value in net.state_dict().items())


def test_it_stops_early(monkeypatch):
    """Two epochs without a better validation loss end the run when patience is 2."""
    losses = iter([3.0, 2.0, 2.5, 2.5, 0.0])
    monkeypatch.setattr(loop._Run, "_validate", lambda run: next(losses))
    _, history = train(msgspec.structs.replace(QUICK, epochs=9, patience=2))
    assert (len(history.epochs), history.best, history.stopped) == (4, 1, "early")


def test_a_rare_class_counts_as_much():
    """With 5 % positives, both classes are still found: the epoch is balanced and so is the validation loss."""
    net, _ = train(msgspec.structs.replace(QUICK, epochs=8), train=squares(160, 0, share=0.05))
    test = squares(200, 2)
    right = (predict_logits(net, test, **SCALE)[:, 0] > 0) == test.targets
    assert right[test.targets == 1].mean() >= 0.8 and right[test.targets == 0].mean() >= 0.8


@pytest.mark.parametrize("task", ["multiclass", "multilabel", "ordinal", "number"])
def test_every_task_trains(task):
    """One epoch of each task gives finite losses and logits of the head's width; unknown labels are NaN."""
    random, base = np.random.default_rng(0), squares(32, 0)
    labels = ["a"] if task == "number" else ["a", "b", "c"]
    targets = random.integers(0, 3, 32)
    if task == "number":
        targets = random.random(32).astype(np.float32)
    if task == "multilabel":
        targets = random.integers(0, 2, (32, 3)).astype(np.float32)
        targets[::4, 1] = np.nan
    head = Head(OutputSpec(task=task, labels=labels))
    data = ArraySamples(base.images, targets)
    net, history = train(
        msgspec.structs.replace(QUICK, epochs=1), net=network(head.width), head=head, train=data, val=data
    )
    assert np.isfinite([history.epochs[0].loss, history.epochs[0].val_loss]).all()
    assert predict_logits(net, data, **SCALE).shape == (32, head.width)


def test_half_precision_trains_and_resumes(tmp_path):
    """bfloat16 and channels-last end in finite weights of the usual layout; recorded, and resumed to the same bits."""
    plan = msgspec.structs.replace(QUICK, epochs=2, precision="bfloat16")
    whole, history = train(plan, folder=tmp_path / "whole")
    assert history.precision == "bfloat16" and np.isfinite(history.epochs[-1].loss)
    assert all(value.is_contiguous() and value.isfinite().all() for value in whole.state_dict().values())
    assert not same(whole, train(msgspec.structs.replace(plan, precision="float32"))[0])
    assert same(whole, train(plan, folder=tmp_path / "whole")[0])


def test_prediction_is_in_order_and_leaves_no_trace():
    """Any batch size gives the same rows in the same order; the mode of the network is restored."""
    net, data = network().train(), squares(21, 0)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    one, embedding = predict_features(net, data, **SCALE, batch=4)
    other = predict_logits(net, data, **SCALE, batch=21)
    assert one.shape == (21, 1) and len(embedding) == 21 and one.dtype == np.float32
    assert np.allclose(one, other, atol=1e-5) and net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_without_a_known_validation_label_the_last_epoch_is_kept(tmp_path):
    """A validation loss that is no number never counts as best, and the run still resumes."""
    unknown = ArraySamples(squares(20, 1).images, np.full(20, np.nan, np.float32))
    known = ArraySamples(squares(32, 0).images, np.arange(32, dtype=np.float32))
    head = Head(OutputSpec(task="number", labels=["dose"], mean=16.0, sd=9.0))
    net, history = train(train=known, val=unknown, head=head, folder=tmp_path)
    assert [e.val_loss for e in history.epochs] == [None] * 4 and history.best == 3
    assert same(net, train(train=known, val=unknown, head=head, folder=tmp_path)[0])


def test_nothing_to_learn_from_is_said():
    """An empty part, and a loss that is no number, are coded errors."""
    empty = ArraySamples(np.zeros((0, 1, 12, 12), np.uint8), np.zeros(0, np.int64))
    with pytest.raises(BadData, match="validation"):
        train(val=empty)
    broken = ArraySamples(squares(32, 0).images, np.full(32, np.nan, np.float32))
    with pytest.raises(Fault) as error:
        train(
            msgspec.structs.replace(QUICK, optimizer="adam", clip=0.0),
            train=broken,
            val=broken,
            head=Head(OutputSpec(task="number", labels=["dose"])),
        )
    assert error.value.code == "loss-not-finite"


def test_a_volume_trains():
    """(C, D, H, W) samples go through the same loop."""

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv3d(1, 4, 3)
            self.head = torch.nn.Linear(4, 1)

        def forward(self, x):
            maps = torch.relu(self.conv(x))
            pooled = maps.mean((2, 3, 4))
            return loop_features(self.head(pooled), pooled, maps)

    from medserve.models.nets import Features as loop_features

    random = np.random.default_rng(0)
    data = ArraySamples(random.integers(0, 255, (20, 1, 6, 7, 8)).astype(np.uint8), np.arange(20) % 2)
    _, history = train(msgspec.structs.replace(QUICK, epochs=1), net=Net(), train=data, val=data)
    assert np.isfinite(history.epochs[0].loss)
