"""What schemathesis finds in a running service by its own OpenAPI document; exit code 1 for anything.

Looked for: an answer of 500 or more, and an address that answers without a key.

    python benchmarks/api_fuzz.py [--examples 50] [--seed 1]

Three models (a picture, a volume, a record of every kind of input) are served by `medserve serve`, and every role
sends generated requests, valid and not, as fast as the service's quotas let it. schemathesis runs from an environment
of its own, benchmarks/.venvs/schemathesis, made on first use. Prints one JSON object.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SCHEMATHESIS = "schemathesis==4.32.5"
HOOKS = """
import schemathesis
from schemathesis.specs.openapi import checks

checks.AUTH_REJECTION_STATUSES = {*checks.AUTH_REJECTION_STATUSES, 429}  # too many without a key: turned away, too


@schemathesis.hook
def before_call(context, case, kwargs):
    # A deadline of a millisecond is missed, and 504 is the true answer to it.
    said = str((case.headers or {}).get("X-Request-Deadline-Ms", ""))
    if said.isdigit() and int(said) < 30_000:
        case.headers["X-Request-Deadline-Ms"] = "30000"


@schemathesis.serializer("application/zip")
def packed(context, value):
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")
"""
CHECKS = "not_a_server_error,ignored_auth"
ROLES = ("service", "clinician", "data-scientist", "ml-engineer", "auditor", "administrator")


def environment() -> Path:
    folder = HERE / ".venvs" / "schemathesis"
    if not (folder / "bin" / "schemathesis").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([folder / "bin" / "pip", "install", "-q", SCHEMATHESIS], check=True)
    return folder / "bin" / "schemathesis"


def asked(program: Path, url: str, key: str, examples: int, seed: int, work: Path) -> dict[str, Any]:
    command = [str(program), "run", f"{url}/openapi.json", "-H", f"Authorization: Bearer {key}", "-c", CHECKS]
    command += ["-n", str(examples), "--seed", str(seed), "--phases", "examples,coverage,fuzzing", "--no-color"]
    command += ["--continue-on-failure", "--suppress-health-check", "all", "--request-timeout", "20"]
    command += ["--rate-limit", "auto"]
    (work / "fuzz_hooks.py").write_text(HOOKS)
    env = {**os.environ, "PYTHONPATH": str(work), "SCHEMATHESIS_HOOKS": "fuzz_hooks"}
    done = subprocess.run(command, cwd=work, env=env, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    cases = re.search(r"(\d[\d,]*) generated", said)
    found = {"exit": done.returncode, "cases": int(cases[1].replace(",", "")) if cases else None}
    return found if done.returncode == 0 else {**found, "said": said[-20_000:]}


def main() -> int:
    sys.path[:0] = [str(HERE.parent / "tests"), str(HERE.parent / "tests" / "serving")]
    from hostile_service import hostile

    from medserve.access.keys import KeyRing
    from medserve.settings import Settings

    parser = argparse.ArgumentParser()
    parser.add_argument("--examples", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--roles", nargs="+", default=ROLES)
    given = parser.parse_args()
    program = environment()
    with tempfile.TemporaryDirectory() as work, hostile(Path(work)) as service:
        ring = KeyRing.open(Settings(home=Path(work) / "home"))
        keys = {role: ring.create(f"fuzz {role}", role=role).key for role in given.roles}
        ring.close()
        found: dict[str, Any] = {
            role: asked(program, service.server.url, key, given.examples, given.seed, Path(work))
            for role, key in keys.items()
        }
        up = service.http.get("/v2/health/live").status_code == 200
        tracebacks = service.stderr.count("Traceback")
    sys.stdout.write(json.dumps({"roles": found, "service_up": up, "tracebacks_in_log": tracebacks}, indent=1) + "\n")
    return int(any(one["exit"] for one in found.values()) or not up)


if __name__ == "__main__":
    sys.exit(main())
