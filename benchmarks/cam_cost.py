"""What a class activation map costs when it is an extra output of the same pass.

    python benchmarks/cam_cost.py [--size 28] [--rounds 400] [--threads 1]

Two graphs of one network, with and without the map, run in turn on the same picture by ONNX Runtime; the ratio of
their median times is printed as one JSON object. Target: at most 1.05; a lone picture and a batch of 8 are measured.
Two graphs, because ONNX Runtime computes every output of a graph whichever are asked for.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from medserve.models import ood
from medserve.models.build import build_net
from medserve.models.export import export_onnx
from medserve.models.nets import Features
from medserve.models.served import ServedNet
from medserve.types import ArraySamples, Named


class WithoutMaps(nn.Module):
    """The same network, whose graph then has no map to give."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Features:
        return self.net(x)._replace(maps=None)


def session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=28)
    parser.add_argument("--dial", default="small")
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    shape = (1, given.size, given.size)
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    net = build_net(Named("residual", {"dial": given.dial}), channels=1, size=given.size, outputs=1).eval()
    images = rng.integers(0, 256, (64, *shape), dtype=np.uint8)
    distance = ood.fit(*ood.describe(net, ArraySamples(images, np.zeros(64)), [0.5], [0.2]))
    out: dict[str, object] = {"network": f"residual-{given.dial}", "size": given.size, "threads": given.threads}
    with tempfile.TemporaryDirectory() as work:
        sessions = {}
        for name, one in (("with", net), ("without", WithoutMaps(net))):
            path = Path(work) / f"{name}.onnx"
            names = export_onnx(ServedNet(one, [0.5], [0.2], distance), shape, path)
            assert ("cam" in names) == (name == "with")
            sessions[name] = session(path, given.threads)
        for batch in (1, 8):
            feed = {"image": images[:batch]}
            times: dict[str, list[float]] = {name: [] for name in sessions}
            for turn in range(given.rounds + 20):
                for name in sorted(sessions, reverse=bool(turn % 2)):
                    started = time.perf_counter()
                    sessions[name].run(None, feed)
                    if turn >= 20:
                        times[name].append(time.perf_counter() - started)
            median = {name: statistics.median(values) * 1e3 for name, values in times.items()}
            pairs = [a / b for a, b in zip(times["with"], times["without"], strict=True)]
            out[f"batch_{batch}"] = {
                "with_ms": round(median["with"], 4),
                "without_ms": round(median["without"], 4),
                "ratio_of_medians": round(median["with"] / median["without"], 4),
                "median_of_paired_ratios": round(statistics.median(pairs), 4),
            }
    json.dump(out, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
