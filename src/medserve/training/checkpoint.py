"""Where a killed run continues: one safetensors file that is whole or absent.

    save(folder, tensors, state)                 # state: JSON, kept in the file's header
    found = load(folder)                         # (tensors, state) or None

Weights, their average, the best so far and the optimizer's moments are tensors; the epoch, the history and the plan's
digest are JSON. Nothing that is opened can run code, and the previous checkpoint stays until the next is on disk.
"""

import errno
import os
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from medserve.errors import BadData, Fault
from medserve.store.files import cannot_write

FILE = "checkpoint.safetensors"


def save(folder: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> Path:
    """Write beside, flush, rename.

    Raises: Fault "disk-full" or "file-unwritable", naming the file; the previous checkpoint is untouched.
    """
    path = folder / FILE
    work = folder / f".{FILE}.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob(f".{FILE}.*"):  # of a run that was killed while writing
            stale.unlink(missing_ok=True)
        header = {"state": msgspec.json.encode(state).decode()}
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, work, metadata=header)
        with open(work, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(work, path)
    except (OSError, SafetensorError) as error:
        work.unlink(missing_ok=True)
        raise _cannot_save(path, error) from error
    return path


def load(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The last checkpoint, or None where there is none.

    Raises: BadData "checkpoint-unreadable": the file is not one of ours or was altered.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            state = msgspec.json.decode((file.metadata() or {})["state"], type=dict[str, Any])
            return {name: file.get_tensor(name) for name in file.keys()}, state  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, msgspec.DecodeError) as error:
        raise BadData(
            "checkpoint-unreadable", f"{path} is not a readable checkpoint.", hint="Remove it to train from the start."
        ) from error


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The moments and step counts, named `optimizer.<parameter>.<what>`."""
    found = {}
    for index, values in optimizer.state_dict()["state"].items():
        for what, value in values.items():
            found[f"optimizer.{index}.{what}"] = torch.as_tensor(value)
    return found


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Each moment takes the memory layout of its parameter: the fused kernels walk both in storage order."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, what = name.split(".", 2)
            like = parameters[int(index)]
            moment = value if value.shape != like.shape else torch.empty_like(like, dtype=value.dtype).copy_(value)
            state.setdefault(int(index), {})[what] = moment.detach()
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _cannot_save(path: Path, error: Exception) -> Fault:
    if isinstance(error, OSError):
        return cannot_write(path, error)
    full = f"os error {errno.ENOSPC}" in str(error) or f"os error {errno.EDQUOT}" in str(error)
    return cannot_write(path, OSError(errno.ENOSPC if full else errno.EIO, "the disk refused the write"))
