"""What the numbers were taken on, and who else was at work meanwhile."""

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni", "amx_bf16", "amx_int8")
PACKAGES = ("medserve", "onnxruntime", "openvino", "numpy", "pillow", "uvicorn", "uvloop", "httptools", "msgspec")


def about() -> dict[str, Any]:
    text = Path("/proc/cpuinfo").read_text()
    model = next((line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")), "")
    flags = set(next((line for line in text.splitlines() if line.startswith("flags")), "").split())
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "processor": model,
        "flags": [flag for flag in FLAGS if flag in flags],
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": found,
    }


class Watch:
    """Processor time of everybody between two moments: `with Watch(pids) as seen: ...; seen.found`."""

    def __init__(self, root: int | None) -> None:
        self._root = root
        self.found: dict[str, float] = {}

    def __enter__(self) -> "Watch":
        self._began, self._all, self._mine = time.monotonic(), _stat(), self._tree()
        self._own = _own()
        return self

    def __exit__(self, *_: object) -> None:
        wall = time.monotonic() - self._began
        now = _stat()
        spent = {name: now[name] - self._all[name] for name in now}
        server = max(0.0, self._tree() - self._mine)
        own = _own() - self._own  # the generator, a child that has ended, stands in here
        capacity = wall * (os.cpu_count() or 1)
        self.found = {
            "steal": round(spent["steal"] / capacity, 4),
            "foreign": round(max(0.0, spent["busy"] - server - own) / capacity, 4),
            "server_cpu_s": round(server, 3),
            "generator_cpu_s": round(own, 3),
            "load": round(os.getloadavg()[0], 2),
        }
        if self._root is not None:
            self.found["rss_mib"] = round(sum(_rss(p) for p in tree(self._root)) / 2**20, 1)

    def _tree(self) -> float:
        return 0.0 if self._root is None else sum(_cpu(p) for p in tree(self._root))


def tree(root: int) -> list[psutil.Process]:
    try:
        top = psutil.Process(root)
        return [top, *top.children(recursive=True)]
    except psutil.Error:
        return []


def _own() -> float:
    t = os.times()
    return t.user + t.system + t.children_user + t.children_system


def _cpu(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
        return float(times.user + times.system)
    except psutil.Error:
        return 0.0


def _rss(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def _stat() -> dict[str, float]:
    """Seconds of all cores so far: at work (steal aside), and stolen by the machine beneath."""
    tick = os.sysconf("SC_CLK_TCK")
    user, nice, system, _idle, _wait, irq, soft, steal = map(
        int, Path("/proc/stat").read_text().split("\n")[0].split()[1:9]
    )
    return {"busy": (user + nice + system + irq + soft) / tick, "steal": steal / tick}
