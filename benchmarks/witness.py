"""What the keyed digests of input and answer cost a request.

    python benchmarks/witness.py [--json]

Median of many runs, in microseconds: a body of each size, and an answer with that many labels.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable

from medserve.access.witness import Witness
from medserve.runtime.replay import canonical

TRACE = "0" * 32


def micros(work: Callable[[], object], runs: int) -> float:
    spent = []
    for _ in range(runs):
        began = time.perf_counter_ns()
        work()
        spent.append((time.perf_counter_ns() - began) / 1000)
    return round(statistics.median(spent), 2)


def main() -> None:
    witness = Witness(bytes(32))
    found: dict[str, float] = {}
    for size in (1024, 16 * 1024, 64 * 1024, 2**20, 16 * 2**20):
        body = bytes(size)
        found[f"input of {size} bytes"] = micros(
            lambda body=body: witness.of("input", "default", TRACE, body), max(5, min(20_000, 2**28 // size))
        )
    for labels in (2, 14):
        outputs = [{"label": f"label-{n}", "code": None, "probability": 0.123456789 / (n + 1)} for n in range(labels)]
        answer = {"status": "answered", "outputs": outputs, "prediction_set": ["label-0"], "decision": {"label": "x"},
                  "curve": None, "entities": None}  # fmt: skip
        found[f"answer of {labels} labels"] = micros(
            lambda answer=answer: witness.of("answer", "default", TRACE, canonical(answer)), 20_000
        )
    if "--json" in sys.argv:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name:28} {value:10.2f} us")


if __name__ == "__main__":
    main()
