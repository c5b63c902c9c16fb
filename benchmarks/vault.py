"""Encryption at rest, measured: new keys over many patients under load, and segments beside bare AES-GCM.

    python benchmarks/vault.py [--patients 100000] [--megabytes 256] [--folder DIR]

`rotation`: the tenant's key is renewed over that many patients' keys, then the master key, while one process reads
objects (opening the vault anew every 50 reads, so that no key is remembered) and another stores objects; what they
did in that time and their failures are counted. `nonces_repeated`: among the patients' wrapped keys afterwards.
`throughput`: the same bytes through `SegmentWriter` and `read_segments` in memory (seal, open), through `Vault.put` and
`get` in objects of 16 MiB with every flush to disk, and through a bare loop of AESGCM calls over the same pieces, in
turns in this run; outputs are dropped, medians of five; ratio_to_bare = bare time / ours. JSON on stdout.
"""

import argparse
import io
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from medserve.settings import Settings
from medserve.store.keyring import writing
from medserve.store.rotation import rotate_master, rotate_tenant
from medserve.store.segments import SEGMENT_BYTES, SegmentWriter, read_segments
from medserve.store.vault import Vault

TENANT = "ward"


class Tally:
    """What one process did while the keys turned; times in ms."""

    def __init__(self) -> None:
        self.ms: list[float] = []
        self.failed: list[str] = []

    def add(self, work: Callable[[], object], turning: Any) -> None:
        counts, start = turning.is_set(), time.perf_counter()
        try:
            work()
        except Exception as error:
            self.failed.append(repr(error))
        if counts:
            self.ms.append((time.perf_counter() - start) * 1e3)

    def told(self, name: str) -> dict[str, Any]:
        return {
            "name": name,
            "done": len(self.ms),
            "failed": len(self.failed),
            "first_failure": self.failed[:1],
            "median_ms": round(statistics.median(self.ms), 2),
            "slowest_ms": round(max(self.ms), 1),
        }


def reader(home: Path, objects: list[str], turning: Any, stop: Any, out: Any) -> None:
    tally, number = Tally(), 0

    def read() -> None:
        assert vault.get(TENANT, objects[number % len(objects)]) == b"data"

    while not stop.is_set():
        vault = Vault.open(Settings(home=home))
        for _ in range(50):
            tally.add(read, turning)
            number += 1
        vault.close()
    out.put(tally.told("reads"))


def writer(home: Path, turning: Any, stop: Any, out: Any) -> None:
    tally, vault, number = Tally(), Vault.open(Settings(home=home)), 0

    def store() -> None:
        vault.put(TENANT, f"new-{number}", b"data")

    while not stop.is_set():
        tally.add(store, turning)
        number += 1
        time.sleep(0.005)
    vault.close()
    out.put(tally.told("writes"))


def rotation(home: Path, patients: int) -> dict[str, Any]:
    vault = Vault.open(Settings(home=home))
    objects = [vault.put(TENANT, f"p{i}", b"data").object for i in range(200)]
    for start in range(0, patients, 5000):
        with writing(vault.engine) as db:
            for i in range(start, min(patients, start + 5000)):
                vault.keys.patient(db, TENANT, f"p{i}", make=True)
    vault.engine.dispose()
    spawn = multiprocessing.get_context("spawn")
    turning, stop, out = spawn.Event(), spawn.Event(), spawn.Queue()
    workers = [
        spawn.Process(target=reader, args=(home, objects, turning, stop, out)),
        spawn.Process(target=writer, args=(home, turning, stop, out)),
    ]
    for worker in workers:
        worker.start()
    time.sleep(2)
    turning.set()
    tenant = rotate_tenant(vault, TENANT)
    master = rotate_master(vault)
    turning.clear()
    stop.set()
    load: dict[str, Any] = {}
    for _ in workers:
        found = out.get(timeout=60)
        load[found.pop("name")] = found
    for worker in workers:
        worker.join()
    fresh = Vault.open(Settings(home=home))
    unreadable = sum(fresh.get(TENANT, object) != b"data" for object in objects)
    with fresh.engine.connect() as db:
        wrapped = list(db.exec_driver_sql("SELECT under, substr(wrapped, 1, 12) FROM vault_keys WHERE kind='patient'"))
        for i in range(0, patients, max(1, patients // 1000)):
            assert fresh.keys.patient(db, TENANT, f"p{i}", make=False) is not None
    status = fresh.status()
    fresh.close()
    vault.close()
    return {
        "keys_wrapped_anew": tenant.keys,
        "tenant_s": round(tenant.seconds, 2),
        "master_s": round(master.seconds, 2),
        **load,
        "unreadable_after": unreadable,
        "old_versions_left": status["rotation_unfinished"],
        "nonces_repeated": len(wrapped) - len(set(wrapped)),
    }


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def throughput(home: Path, megabytes: int) -> dict[str, Any]:
    size = megabytes * 2**20
    data, key, bound = os.urandom(size), os.urandom(32), b"words"
    view = memoryview(data)
    pieces = [view[at : at + SEGMENT_BYTES] for at in range(0, size, SEGMENT_BYTES)]
    cipher = AESGCM(key)
    nonces = [n.to_bytes(12) for n in range(len(pieces))]
    sealed = [cipher.encrypt(nonce, piece, bound) for nonce, piece in zip(nonces, pieces, strict=True)]

    def bare_seal() -> None:
        for nonce, piece in zip(nonces, pieces, strict=True):
            cipher.encrypt(nonce, piece, bound)

    def bare_open() -> None:
        for nonce, piece in zip(nonces, sealed, strict=True):
            cipher.decrypt(nonce, piece, bound)

    def our_seal(sink: Callable[[bytes], object] = len) -> None:
        stream = SegmentWriter(sink, key, bound)
        for at in range(0, size, 2**20):
            stream.write(view[at : at + 2**20])
        stream.finish()

    def our_open() -> None:
        for _ in read_segments(source.read, key, bound, size=size):
            pass

    times: dict[str, list[float]] = {"bare seal": [], "bare open": [], "seal": [], "open": [], "put": [], "get": []}
    vault = Vault.open(Settings(home=home))
    part = data[: 16 * 2**20]
    whole = io.BytesIO()
    our_seal(whole.write)
    for _ in range(5):
        times["bare seal"].append(timed(bare_seal))
        times["seal"].append(timed(our_seal))
        times["bare open"].append(timed(bare_open))
        source = io.BytesIO(whole.getbuffer())
        times["open"].append(timed(our_open))
        start = time.perf_counter()
        refs = [vault.put(TENANT, "p", part) for _ in range(size // len(part))]
        times["put"].append(time.perf_counter() - start)
        start = time.perf_counter()
        for ref in refs:
            vault.get(TENANT, ref.object)
        times["get"].append(time.perf_counter() - start)
        for ref in refs:
            vault.remove(TENANT, ref.object)
    vault.close()
    middle = {name: statistics.median(values) for name, values in times.items()}
    pairs = {"seal": "bare seal", "open": "bare open", "put": "bare seal", "get": "bare open"}
    return {
        "megabytes": megabytes,
        "mib_per_s": {name: round(megabytes / value) for name, value in middle.items()},
        "ratio_to_bare": {name: round(middle[bare] / middle[name], 2) for name, bare in pairs.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=100_000)
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--folder", type=Path, help="where the vaults are made; default: the system's temporary folder")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        result = {
            "rotation": rotation(Path(folder) / "a", args.patients),
            "throughput": throughput(Path(folder) / "b", args.megabytes),
        }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
