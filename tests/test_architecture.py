"""The folder tree is the design: a folder imports only from folders above it."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import medserve

ROOT = Path(medserve.__file__).parent
WORDS = ("errors", "guard", "catalog", "types", "settings", "progress")
ORDER = ("store", "data", "privacy", "models", "questions", "safety", "training", "evaluation", "explain", "runtime",
         "access", "jobs", "serving", "channels", "console", "road", "app", "cluster", "client", "cli")  # fmt: skip
LIGHT = ["errors", "types", "settings", "catalog", "store.database", "data.cohort", "models", "models.package",
         "questions.answers", "questions.recipes", "runtime.model", "access.keys", "serving.asgi", "app", "client",
         "cli"]  # fmt: skip
HEAVY = ("torch", "sklearn", "matplotlib", "monai", "captum", "onnx", "onnxscript", "jinja2")


def _place(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def _imports(path: Path) -> set[str]:
    """First word after `medserve.` of everything this file imports, at any depth of its functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [f"{node.module}.{a.name}" for a in node.names] if node.module == "medserve" else [node.module]
        found |= {name.split(".")[1] for name in names if name.startswith("medserve.")}
    return found


FILES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_a_folder_imports_only_from_folders_above_it(path):
    """No arrow points down the road, at the top of a file or inside a function."""
    here = _place(path)
    if here == "__init__":
        allowed: set[str] = set()
    elif here in WORDS:
        allowed = set(WORDS[: WORDS.index(here)])
    else:
        allowed = {*WORDS, *ORDER[: ORDER.index(here) + 1], "__version__"}
    assert _imports(path) <= allowed


def test_no_two_modules_of_tests_share_a_name():
    """pytest imports them by their bare names, so that the second would be the first."""
    names = [path.name for path in Path(__file__).parent.rglob("*.py") if path.name != "conftest.py"]
    assert sorted(names) == sorted(set(names))


def test_every_folder_has_a_place_in_the_order():
    """A new folder must be given its place; an empty one has none."""
    places = {_place(path) for path in FILES} - {"__init__", *WORDS}
    assert places <= set(ORDER)
    for folder in {path.parent for path in FILES}:
        assert (folder / "__init__.py").exists(), f"{folder} has no __init__.py"


def test_the_serving_side_imports_no_training_library():
    """Importing what serves, and the command line itself, brings in no training library."""
    code = "import sys\n" + "".join(f"import medserve.{name}\n" for name in LIGHT)
    code += f"heavy = [m for m in {HEAVY!r} if m in sys.modules]\nassert not heavy, heavy"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_lock_holds_the_versions_of_the_constraints():
    """Every part with a hash, none of another version, and no training library."""
    root = Path(__file__).parents[1]
    pinned = dict(re.findall(r"(?m)^([\w.-]+)==(\S+)", (root / "constraints.txt").read_text()))
    pinned = {name.lower().replace("_", "-"): version for name, version in pinned.items()}
    lock = (root / "requirements.lock").read_text()
    parts = re.findall(r"(?m)^([\w.-]+)(?:\[[\w,-]+\])?==([^\s;]+)[^\n]*\\\n +--hash=sha256:[0-9a-f]{64}", lock)
    assert len(parts) == len(re.findall(r"(?m)^\w", lock)) > 50
    assert [part for part in parts if pinned.get(part[0].lower().replace("_", "-")) != part[1]] == []
    assert not {"torch", "lightgbm", "scikit-learn"} & {name for name, _ in parts}
    assert "uvicorn" in dict(parts) and "://" not in lock
