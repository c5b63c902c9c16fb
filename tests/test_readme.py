"""What README shows is what runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import medserve
from medserve.cli import VERBS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_ten_lines_of_the_readme_run(tmp_path):
    """They stand in examples/, word for word, and end with an answer."""
    shown = re.search(r"```python\n(.*?)```", README, re.S)
    assert shown is not None
    example = (ROOT / "examples" / "ten_lines.py").read_text()
    assert shown.group(1).strip() in example
    env = {**os.environ, "MEDSERVE_HOME": str(tmp_path / "home")}
    subprocess.run([sys.executable, ROOT / "examples" / "ten_lines.py"], cwd=tmp_path, check=True, env=env)
    text = (tmp_path / "out" / "answer.txt").read_text()
    assert re.match(r"AUROC 0\.\d\d \[.*\]; (answered|abstained): \[", text)


def test_the_folder_map_is_the_tree():
    """Every folder of the package stands in the README's map, and nothing else does."""
    block = re.search(r"src/medserve/\n(.*?)```", README, re.S)
    assert block is not None
    shown = set(re.findall(r"^  (\w+)/", block.group(1), re.M))
    folders = {p.parent.name for p in Path(medserve.__file__).parent.glob("*/__init__.py")}
    assert shown == folders


def test_every_verb_is_named():
    """The README names every verb that the command line has."""
    assert not [verb for verb in VERBS if f"medserve {verb}" not in README and f"`{verb}`" not in README]


def test_the_links_lead_somewhere():
    """Relative links in README and docs name files that exist."""
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for link in re.findall(r"\]\((?!http|#)([^)#]+)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
