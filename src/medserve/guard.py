"""Nothing that is opened may run code: in a guarded process, pickle and its kin raise instead.

    guard.install()                 # what serves: no pickle in any form, whoever calls it
    guard.install(between=True)     # what trains: libraries may still pickle between their own processes
    guard.install(carrier="ray")    # what serves on a cluster: that library's own modules alone, for their own messages

A pickle calls whatever it names. Our code never opens one (a test reads the whole source for it); the guard holds for
every library beside it and for code not yet written. It cannot be taken off. Two fences: the interpreter asks before a
pickle may name a class (an audit hook, below every way in), and the known ways in raise at once.
Source: PEP 578; CPython's table of audit events ("pickle.find_class").
"""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

from medserve.errors import Fault

_BETWEEN = ("multiprocessing", "concurrent.futures", "joblib.externals.loky")  # modules that carry objects to a process
_IMPORTERS = ("<frozen importlib._bootstrap_external>", "<frozen zipimport>")  # compiled modules are marshalled
_installed = ""
_carrier = ""


class CodeInData(Fault):
    """Somebody tried to open data in a form that can run code."""


def install(*, between: bool = False, carrier: str = "") -> None:
    """Guard this process until it ends. Installing twice changes nothing; the stricter one stays.

    Args:
        carrier: a package that carries calls between processes by pickle. Its modules may open one themselves; what
            they call may not.
    """
    global _installed, _carrier
    wanted = "between" if between else "carried" if carrier else "strict"
    if _installed in (wanted, "strict"):
        return
    first, _installed, _carrier = not _installed, wanted, carrier
    if first:
        sys.addaudithook(_asked)
        _close_files()
    if wanted == "strict":
        _close_pickle()


def _asked(event: str, args: tuple[Any, ...]) -> None:
    if event == "pickle.find_class":
        asking = sys._getframe(1)
        if not _is_carried(asking) and (_installed != "between" or not _is_between(asking)):
            _refuse("pickle")


def _is_carried(frame: FrameType) -> bool:
    """The very module that opens the pickle is the carrier's."""
    name = frame.f_globals.get("__name__", "")
    return bool(_carrier) and (name == _carrier or name.startswith(_carrier + "."))


def _is_between(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith(_BETWEEN):
            return True
        frame = frame.f_back
    return False


def _refuse(what: str) -> NoReturn:
    raise CodeInData(
        "code-in-data",
        f"{what} is not opened here: it can run code.",
        hint="Keep tensors as safetensors or .npz of plain numbers, and everything else as JSON.",
    )


def _refusing(what: str) -> Callable[..., NoReturn]:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        _refuse(what)

    return refuse


class _Refused:
    """In the place of `pickle.Unpickler`: libraries may derive from it when they are imported."""

    def __init__(self, *_: Any, **__: Any) -> None:
        _refuse("pickle")


def _close_files() -> None:
    """Ways in that only ever read files."""
    import marshal
    import shelve

    import numpy as np

    plain, one = np.load, marshal.loads

    def load(*args: Any, **more: Any) -> Any:
        if more.get("allow_pickle") or any(args[2:3]):
            _refuse("numpy.load with allow_pickle")
        return plain(*args, **more)

    def loads(*args: Any, **more: Any) -> Any:
        if sys._getframe(1).f_code.co_filename not in _IMPORTERS:
            _refuse("marshal")
        return one(*args, **more)

    np.load = load
    marshal.loads = loads
    marshal.load = _refusing("marshal")
    shelve.open = _refusing("shelve")


def _close_pickle() -> None:
    """A pickle of plain numbers names no class, so the hook does not see it."""
    import _pickle
    import pickle

    closed = {"load": _refusing("pickle"), "loads": _refusing("pickle"), "Unpickler": _Refused}
    for module in (pickle, _pickle):
        vars(module).update(closed)
    python: Any = vars(pickle)["_Unpickler"]  # what joblib and dill build on
    python.load = closed["load"]
