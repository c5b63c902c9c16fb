"""The full audit and the shortcut demonstration of one architecture: what may be said of its explanations.

    python benchmarks/explain_audit.py [--dial tiny|small] [--side 28] [--quick] [--threads 2]

A model is trained on planted pictures and audited as any model would be: pointing and the shortcut run on their own
networks of the same architecture (seeds 0-2), the other tests on the model. Everything is measured afresh (an empty
home). Prints one JSON object: a record for each method, the demonstration, and seconds.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import torch

from medserve.explain import shortcut, trials
from medserve.explain.audit import audit
from medserve.explain.gradients import NetModel
from medserve.explain.planted import planted
from medserve.models.build import build_net
from medserve.models.served import ServedNet
from medserve.settings import Settings
from medserve.types import Named


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--architecture", default="residual")
    parser.add_argument("--dial", default="tiny")
    parser.add_argument("--side", type=int, default=28)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    architecture = Named(args.architecture, {"dial": args.dial} if args.architecture == "residual" else {})
    shape = (1, args.side, args.side)
    blank = ServedNet(build_net(architecture, channels=1, size=args.side, outputs=1), [0.4], [0.2])
    trial = trials.QUICK if args.quick else trials.FULL
    model = trials.train(blank, architecture, shape=shape, trial=trial, seed=7)
    pictures = planted(300, side=args.side, seed=77).samples

    seconds = {}
    with tempfile.TemporaryDirectory() as home:
        settings = Settings(home=Path(home))
        start = time.perf_counter()
        methods = audit(
            model, pictures, output=trials.OUTPUT, architecture=architecture, settings=settings, quick=args.quick
        )
        seconds["audit"] = round(time.perf_counter() - start, 1)
        print(json.dumps([[m.name, m.verdict, m.role, m.figures] for m in methods]), file=sys.stderr, flush=True)
        start = time.perf_counter()
        shown = shortcut.demonstrate(model, architecture, shape=shape, settings=settings, quick=args.quick)
        seconds["shortcut"] = round(time.perf_counter() - start, 1)
    clean = shortcut.scan(NetModel(model), pictures, output=trials.OUTPUT)
    records = [{"name": m.name, "verdict": m.verdict, "role": m.role, "figures": m.figures} for m in methods]
    answer = {"architecture": args.architecture, "dial": args.dial, "side": args.side, "mode": trial.mode}
    answer |= {"methods": records, "shortcut": shown, "clean_model": clean, "seconds": seconds}
    print(json.dumps(answer, indent=1))


if __name__ == "__main__":
    main()
