"""`make bench`: our service beside its peers, on one machine, in one run.

    python -m serving [--lane light ...] [--rounds 8] [--seconds 8] [--quick] [--work FOLDER] [--out FOLDER]

Writes OUT/serving.json (every block, versions, knobs, processor flags) and OUT/serving.md, which is made from it and
from nothing else. Lanes that were run before stay in the file, each with its own date. See docs/benchmarks.md.
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import machine, models
from .lanes import Plan, engine, light, lone, peer_versions, same, taught, tuned
from .life import life
from .openloop import open_loop
from .summary import markdown
from .venvs import PEERS

LANES: dict[str, Callable[[Plan], dict[str, Any]]] = {
    "light": light, "engine": engine, "same": same, "taught": taught, "lone": lone, "open": open_loop, "life": life,
}  # fmt: skip
ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="serving", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lane", nargs="*", choices=[*LANES], default=[*LANES])
    parser.add_argument("--peers", nargs="*", choices=[*PEERS], default=[*PEERS])
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=int, help="of one block")
    parser.add_argument("--quick", action="store_true", help="3 rounds of 3 s: the whole in some 20 minutes")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "benchmarks" / ".work", help="models, keys, logs of servers"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    parser.add_argument("--prepare", action="store_true", help="environments, models and tuning alone; no figure")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))  # the servers, asleep or not, end with it
    rounds, seconds, settle = (3, 3, 1.0) if args.quick else (8, 8, 2.0)
    plan = Plan(args.work.absolute(), args.rounds or rounds, args.seconds or seconds, settle, args.quick,
                tuple(args.peers), tell=_tell)  # fmt: skip
    plan.work.mkdir(parents=True, exist_ok=True)
    if args.prepare:
        peer_versions(plan)
        models.make_table(plan.work, plan.settings)
        _tell(f"tuned: {tuned(plan)['chosen']}")
        return 0
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "serving.json"
    result = json.loads(path.read_text()) if path.exists() else {"lanes": {}}
    result["peers"] = peer_versions(plan)
    for name in args.lane:
        began = time.monotonic()
        _tell(f"== {name}")
        found = LANES[name](plan)
        found |= {
            "machine": machine.about(),
            "took_s": round(time.monotonic() - began, 1),
            "plan": {"rounds": plan.rounds, "seconds": plan.seconds, "settle_s": plan.settle_s},
        }
        result["lanes"][name] = found
        path.write_text(json.dumps(result, indent=1))
        path.with_suffix(".md").write_text(markdown(result))
        for one in found["goals"]:
            _tell(f"   {'met ' if one['met'] else 'MISS'} {one['goal']}: {one['median']} (goal {one['bound']})")
    sys.stdout.write(f"{path.with_suffix('.md')}\n")
    return 0


def _tell(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
