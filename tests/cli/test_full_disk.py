"""A disk that fills up while a model is trained: coded, named, nothing half-written, and the same command goes on."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from medserve.cli import run as command
from medserve.data.phantoms import make_phantoms


def argv(data: Path, out: Path) -> list[str]:
    return ["train", str(data), "--out", str(out), "--recipe", "residual-quick", "--epochs", "1", "--audit", "none",
            "--keep", "recipe", "--json"]  # fmt: skip


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MEDSERVE_HOME", str(tmp_path / "home"))
    return make_phantoms(tmp_path / "phantoms", 40, size=32, seed=3)


def full_at(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    """From now on, flushing a file with `word` in its path finds no space left."""
    flush = os.fsync

    def fsync(handle: int) -> None:
        if word in os.readlink(f"/proc/self/fd/{handle}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(handle)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc to tell the files apart")
@pytest.mark.parametrize("word", ["run.json", "checkpoint.safetensors"])
def test_no_space_before_or_for_a_checkpoint(data, tmp_path, monkeypatch, capsys, word):
    """disk-full, exit code 1, the file named; no package and no piece of the file that did not fit."""
    full_at(monkeypatch, word)
    assert command(argv(data, tmp_path / "out")) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "disk-full" and word in error["message"] and "same command" in error["hint"]
    assert not (tmp_path / "out").exists()
    assert not [p for p in tmp_path.rglob("*") if word in p.name]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc to tell the files apart")
def test_no_space_for_the_package_and_then_some(data, tmp_path, monkeypatch, capsys):
    """The package's last file does not fit: no folder stays. With space, the same command ends well, from the
    checkpoint."""
    with monkeypatch.context() as patch:
        full_at(patch, "manifest.json")
        assert command(argv(data, tmp_path / "out")) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "disk-full" and "manifest.json" in error["message"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [".out.training", "home", "phantoms"]
    assert (tmp_path / ".out.training" / "recipe" / "checkpoint.safetensors").exists()
    written = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (written.append(str(b)), replace(a, b))[1])
    assert command(argv(data, tmp_path / "out")) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["package"] == str(tmp_path / "out")
    assert not [path for path in written if "checkpoint" in path], "it trained again"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["home", "out", "phantoms"]


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of its own, of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("only the superuser can mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
def test_a_disk_that_is_really_full(data, small_disk, tmp_path):
    """On a real file system without space: no traceback, no package, and with a larger disk the same command ends."""
    filler = small_disk / "filler"
    filler.write_bytes(b"\0" * 600_000)
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    run = [sys.executable, "-m", "medserve.cli", *argv(data, small_disk / "out")]
    first = subprocess.run(run, env=env, capture_output=True, text=True, timeout=200)
    assert first.returncode == 1 and "Traceback" not in first.stderr, first.stdout + first.stderr
    error = json.loads(first.stdout)["error"]
    assert error["code"] == "disk-full" and str(small_disk) in error["message"], error
    assert sorted(p.name for p in small_disk.iterdir()) == [".out.training", "filler"]
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    second = subprocess.run(run, env=env, capture_output=True, text=True, timeout=200)
    assert second.returncode == 0, second.stdout + second.stderr
    assert sorted(p.name for p in small_disk.iterdir()) == ["filler", "out"]
