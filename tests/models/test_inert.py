"""Checkpoints that name classes beside their tensors: read without any of those classes, or not at all."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from medserve.errors import Refusal
from medserve.models.convert import convert

MAKE = """
import sys, types, torch
module = types.ModuleType("strangers")
exec("class Net:\\n    def __init__(self): self.x = 1\\nclass Settings(dict): pass\\n", module.__dict__)
module.Net.__module__ = module.Settings.__module__ = "strangers"
sys.modules["strangers"] = module
more = {"net": module.Net(), "settings": module.Settings(depth=3)}
if len(sys.argv) > 2:
    import os
    class Bomb:
        def __reduce__(self): return (open, (sys.argv[2], "w"))
    more["bomb"] = Bomb()
torch.save({"state_dict": {"a": torch.arange(3.0)}, "more": more}, sys.argv[1])
"""
KNOWN = ("strangers.Net", "strangers.Settings=dict")


def make(path: Path, *more: str) -> str:
    subprocess.run([sys.executable, "-c", MAKE, str(path), *more], check=True)
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.slow
def test_named_classes_are_neither_imported_nor_needed(tmp_path):
    """The module of the classes exists nowhere; with their names the tensors come out, without them nothing does."""
    from safetensors.numpy import load_file

    checkpoint = tmp_path / "w.pt"
    digest = make(checkpoint)
    with pytest.raises(Refusal) as told:
        convert(checkpoint, tmp_path / "none.safetensors", sha256=digest)
    assert told.value.code == "checkpoint-unsafe" and not (tmp_path / "none.safetensors").exists()
    out = convert(checkpoint, tmp_path / "w.safetensors", sha256=digest, inert=KNOWN)
    assert load_file(out)["a"].tolist() == [0, 1, 2]


@pytest.mark.slow
def test_a_call_in_it_is_refused_all_the_same(tmp_path):
    """Names that were vouched for let nothing else through: the call is not made."""
    checkpoint, mark = tmp_path / "w.pt", tmp_path / "ran"
    digest = make(checkpoint, str(mark))
    with pytest.raises(Refusal) as told:
        convert(checkpoint, tmp_path / "w.safetensors", sha256=digest, inert=KNOWN)
    assert told.value.code == "checkpoint-unsafe" and not mark.exists()
