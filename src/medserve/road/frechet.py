"""The Frechet ChemNet distance, where the `fcd` package is installed; it is no part of MedServe.

    value, note = frechet(written, reference)        # (None, "not available: ...") without it

That package opens its own checkpoint by a way that a guarded process refuses, so it works in a process of its own,
which sees SMILES and gives a number.
Source: Preuer, Renz, Unterthiner, Hochreiter and Klambauer, J Chem Inf Model 58:1736 (2018).
"""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence

FEWEST = 512  # molecules of each side: as many as the distance has dimensions
_WORK = """
import contextlib, json, sys, warnings
warnings.simplefilter("ignore")
given = json.load(sys.stdin)
with contextlib.redirect_stdout(sys.stderr):
    from fcd import get_fcd
    value = float(get_fcd(given[0], given[1], device="cpu"))
print(json.dumps(value))
"""


def frechet(written: Sequence[str], reference: Sequence[str] | None) -> tuple[float | None, str]:
    """The distance of two sets of molecules, 0 where they are alike; and what it was measured against, or why not."""
    if reference is None:
        return None, "not asked: name molecules that were not learned from with --reference"
    if importlib.util.find_spec("fcd") is None:
        return None, "not available: pip install fcd (LGPL, 32 MB)"
    if min(len(written), len(reference)) < FEWEST:
        return None, f"not available: {FEWEST} molecules are needed on each side"
    done = subprocess.run(
        [sys.executable, "-c", _WORK],
        input=json.dumps([list(written), list(reference)]),
        capture_output=True,
        text=True,
    )
    try:
        return float(json.loads(done.stdout)), f"against {len(reference):,} molecules of --reference"
    except ValueError:
        return None, "not available: the installed fcd package failed"
