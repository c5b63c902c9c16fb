"""docs/security.md names a test for every line of HIPAA 164.312, OWASP API 2023 and the threat model."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
RULES = (
    [
        f"164.312({line})"
        for line in ("a)(2)(i", "a)(2)(ii", "a)(2)(iii", "a)(2)(iv", "b", "c", "d", "e)(2)(i", "e)(2)(ii")
    ]
    + [f"API{n}" for n in range(1, 11)]
    + [f"T{n}" for n in range(1, 16)]
)
NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def rows():
    """rule -> (what the document says, [(file, function)])."""
    found = {}
    for line in (ROOT / "docs" / "security.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and cells[0].split(" ")[0] in RULES:
            found[cells[0].split(" ")[0]] = (cells[1], NAMED.findall(line))
    return found


def test_every_rule_has_a_row_and_every_row_a_test_or_says_that_it_has_none():
    found = rows()
    assert sorted(found) == sorted(RULES)
    for rule, (said, tests) in found.items():
        assert tests or said.startswith("not here"), f"{rule} names no test"


def test_every_named_test_exists():
    for _, tests in rows().values():
        for file, function in tests:
            assert (ROOT / file).is_file(), file
            if function:
                tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
                names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
                assert function in names, f"{file}::{function}"
