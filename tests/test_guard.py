"""No pickle is opened: not by our code, which is read as a whole here, and not by any library in a guarded process."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import medserve

ROOT = Path(medserve.__file__).parent
MODULES = {
    "pickle",
    "_pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "jsonpickle",
    "pickletools",
}
CALLS = {"eval", "exec", "compile", "__import__", "torch.load", "torch.jit.load", "torch.hub.load", "np.load",
         "numpy.load", "np.fromfile", "yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load",
         "pd.read_pickle", "pandas.read_pickle", "runpy.run_path", "importlib.import_module"}  # fmt: skip
EXEMPT = {
    "guard.py": MODULES | CALLS,  # it closes them
    "models/convert.py": {"torch.load"},  # in a child, of known bytes, weights alone
}


def banned(source: str) -> set[str]:
    """What of a module could run code out of data: names of modules and calls."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names} & MODULES
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module.split(".")[0]} & MODULES
            found |= {f"{node.module}.{alias.name}" for alias in node.names} & CALLS
        elif isinstance(node, ast.Call):
            found |= {ast.unparse(node.func)} & CALLS
            found |= {k.arg for k in node.keywords if k.arg == "allow_pickle" and not _false(k.value)}
            found |= {k.arg for k in node.keywords if k.arg == "weights_only" and _false(k.value)}
    return found


def _false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


@pytest.mark.parametrize(
    "source",
    ["import pickle", "import pickle as p", "from pickle import loads", "def f():\n    import dill.session",
     "from joblib import load", "import cloudpickle", "import shelve", "import marshal", "import _pickle",
     "torch.load(x)", "torch.load(x, weights_only=True)", "f(x, weights_only=False)", "np.load(p, allow_pickle=True)",
     "g(p, allow_pickle=flag)", "yaml.load(t, Loader=L)", "yaml.unsafe_load(t)", "eval(t)", "exec(t)",
     "compile(t, '', 'exec')", "__import__(n)", "from importlib import import_module", "importlib.import_module(n)",
     "pd.read_pickle(p)", "from torch import load"],
)  # fmt: skip
def test_the_search_finds_what_was_planted(source):
    assert banned("import os\n" + source + "\n")
    assert not banned("import json\nimport re\nre.compile(x)\nyaml.safe_load(t)\nnp.load_it(p, allow_pickle=False)\n")


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_our_code_opens_none(path):
    name = path.relative_to(ROOT).as_posix()
    assert banned(path.read_text()) <= EXEMPT.get(name, set())


EVIL = """
import io, os, pickle, sys, _pickle, marshal, copy, json
from pathlib import Path
canary = Path(sys.argv[1])
class Evil:
    def __reduce__(self):
        return os.system, (f"touch {canary}",)
bad = pickle.dumps(Evil())
early = pickle.loads, _pickle.Unpickler, pickle._Unpickler
import numpy as np
objects = canary.with_name("o.npy"); np.save(objects, np.array([Evil()], object), allow_pickle=True)
numbers = canary.with_name("n.npy"); np.save(numbers, np.zeros(3))
refused = []
def tries(name, work):
    try:
        work()
    except Exception as error:
        if getattr(error, "code", "") == "code-in-data":
            refused.append(name)
            return
    sys.exit(f"{name} was not refused")
"""

STRICT = (
    EVIL
    + """
from medserve import guard
guard.install(); guard.install(between=True); guard.install()
tries("loads", lambda: pickle.loads(bad))
tries("load", lambda: pickle.load(io.BytesIO(bad)))
tries("plain", lambda: pickle.loads(pickle.dumps(1)))
tries("Unpickler", lambda: pickle.Unpickler(io.BytesIO(bad)).load())
class Own(pickle.Unpickler):
    pass
tries("derived", lambda: Own(io.BytesIO(bad)).load())
tries("_pickle", lambda: _pickle.loads(bad))
tries("kept loads", lambda: early[0](bad))
tries("kept Unpickler", lambda: early[1](io.BytesIO(bad)).load())
tries("python's", lambda: early[2](io.BytesIO(bad)).load())
tries("marshal", lambda: marshal.loads(marshal.dumps(1)))
tries("numpy, allowed", lambda: np.load(objects, allow_pickle=True))
tries("numpy, numbers, allowed", lambda: np.load(numbers, None, True))
import shelve
tries("shelve", lambda: shelve.open(str(canary.with_name("s"))))
import joblib
joblib_file = canary.with_name("j"); joblib.dump(Evil(), joblib_file)
tries("joblib", lambda: joblib.load(joblib_file))
import cloudpickle
tries("cloudpickle", lambda: cloudpickle.loads(cloudpickle.dumps(Evil())))
assert np.load(numbers).shape == (3,) and copy.deepcopy({"a": [1]}) == {"a": [1]}
import wsgiref.handlers, xml.dom.minidom
import uvicorn, fastapi, sqlalchemy, onnxruntime, pydicom, medserve.app, medserve.serving.server
assert not canary.exists()
sys.stdout.write(f"{len(refused)} refused")
"""
)


def python(code: str, *args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True, timeout=200)


def test_a_serving_process_opens_no_pickle_in_any_way(tmp_path):
    """15 ways in, also through references taken before; imports, copies and plain arrays go on."""
    done = python(STRICT, tmp_path / "canary")
    assert done.stdout == "15 refused", done.stdout + done.stderr


def test_without_the_guard_the_same_pickle_runs(tmp_path):
    """The poison is real."""
    done = python(EVIL + "pickle.loads(bad)\nassert canary.exists()\n", tmp_path / "canary")
    assert done.returncode == 0, done.stderr


BETWEEN = (
    EVIL
    + """
from medserve import guard
guard.install(between=True)
def main():
    tries("loads", lambda: pickle.loads(bad))
    tries("numpy", lambda: np.load(numbers, allow_pickle=True))
    tries("kept", lambda: early[1](io.BytesIO(bad)).load())
    import multiprocessing, pathlib
    from concurrent.futures import ProcessPoolExecutor
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.map(pathlib.PurePath, ["a"]) == [pathlib.PurePath("a")]
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        assert pool.submit(pathlib.PurePath, "a").result() == pathlib.PurePath("a")
    if len(sys.argv) > 2:
        import joblib, torch
        joblib_file = canary.with_name("j"); joblib.dump(Evil(), joblib_file)
        tries("joblib", lambda: joblib.load(joblib_file))
        torch_file = canary.with_name("t.pt"); torch.save({"a": Evil()}, torch_file)
        tries("torch", lambda: torch.load(torch_file, weights_only=False))
        assert joblib.Parallel(2)(joblib.delayed(pathlib.PurePath)(x) for x in "ab")[1] == pathlib.PurePath("b")
        data = torch.utils.data.TensorDataset(torch.arange(4))
        assert len(list(torch.utils.data.DataLoader(data, num_workers=1))) == 4
    assert not canary.exists()
    sys.stdout.write(f"{len(refused)} refused")
main()
"""
)


def test_a_training_process_opens_none_either_and_its_pools_work(tmp_path):
    done = python(BETWEEN, tmp_path / "canary")
    assert done.stdout == "3 refused", done.stdout + done.stderr


@pytest.mark.slow
def test_torch_and_joblib_load_none_while_training(tmp_path):
    done = python(BETWEEN, tmp_path / "canary", "torch")
    assert done.stdout == "5 refused", done.stdout + done.stderr


@pytest.mark.parametrize(("verb", "guarded"), [("predict", True), ("inspect", True), ("keys", False)])
def test_a_verb_that_opens_files_is_guarded(tmp_path, verb, guarded):
    code = (
        EVIL
        + f"""
from medserve.cli import main
try:
    main(["{verb}"])
except SystemExit:
    pass
try:
    pickle.loads(bad)
except Exception as error:
    sys.stdout.write("\\n" + error.code)
"""
    )
    done = python(code, tmp_path / "canary")
    assert done.stdout.endswith("\ncode-in-data") == guarded, done.stdout + done.stderr
    assert (tmp_path / "canary").exists() != guarded
