"""Runs the jobs of the table: a thread that starts one process group a job, and never more than so many at once.

    with Executor(settings, limit=1):
        ...                                   # jobs run until the block ends; what runs then goes back into the queue

A job is a `medserve` command of its own: what it breaks, breaks there. It dies with this process, and training goes on
from its checkpoint when the job is claimed again, a screen from the chunks it has scored. What was trained is examined
like an upload and lies on the shelf as one of whoever asked for it, so that somebody else has to publish it. The
results of a screen or a panel become one object of the vault.
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import sqlalchemy as sa

from medserve.access.audit import Event, Ledger
from medserve.errors import Fault, MedServeError, NotFound
from medserve.jobs.asked import DELIVERED, QUERY, Asked, Screen, Train, command, data_of, data_path, packages_of
from medserve.jobs.table import MOST_ATTEMPTS, JobRow, Jobs
from medserve.models.signing import Trust
from medserve.runtime.examine import examine
from medserve.settings import Settings
from medserve.store.cases import Cases
from medserve.store.packages import PackageRow, Shelf
from medserve.store.vault import Writing

LEASE_S, LOOK_S = 30.0, 0.5
MOST_S = 24 * 3600.0  # of one run
GRACE_S = 10.0  # from the polite signal to the other
TAIL_BYTES = 8192
LOG = "log.txt"
OWNER = "\x1fjobs"  # no pseudonym: those are printable. Results are under this key of the tenant
_PASSED = ("PATH", "LANG", "LC_ALL", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "MEDSERVE_DATABASE", "TMPDIR", "HOME")


def folder_of(settings: Settings, id: str) -> Path:
    return settings.folder("jobs") / id


def tail(settings: Settings, id: str) -> str:
    """The end of what a job has said, without paths of this machine."""
    try:
        with open(folder_of(settings, id) / LOG, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return plain(settings, "".join(c for c in text if c.isprintable() or c == "\n"))


def plain(settings: Settings, text: str) -> str:
    """Without the folders of this machine."""
    for path in (settings.data_root, settings.home):
        if path is not None:
            text = text.replace(os.path.realpath(path), "").replace(str(path), "")
    return text


@dataclass(slots=True)
class _Running:
    row: JobRow
    asked: Asked
    process: subprocess.Popen[bytes] | None  # None: it was finished before
    began: float
    renewed: float
    told: float | None = None  # when it was asked to end
    cancelled: bool = False


class Executor:
    """limit: jobs at once. lease_s: after which another process takes over what this one has not renewed."""

    def __init__(self, settings: Settings, *, limit: int = 1, lease_s: float = LEASE_S) -> None:
        self._settings, self._limit, self._lease_s = settings, limit, lease_s
        self._jobs, self._shelf, self._ledger = Jobs(settings), Shelf(settings), Ledger.open(settings)
        self._cases = Cases(settings)  # its vault opens when the first results are kept
        self._worker = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._running: list[_Running] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)

    def __enter__(self) -> "Executor":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        self._jobs.close()
        self._shelf.close()
        self._ledger.close()
        self._cases.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(Exception):  # a database that is away for a moment; the next look finds it
                self._look()
            self._stop.wait(LOOK_S)
        for one in self._running:
            _signal(one, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_S
        for one in self._running:
            if one.process is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    one.process.wait(max(0.0, deadline - time.monotonic()))
            _kill(one)
            with contextlib.suppress(Exception):
                self._jobs.release(one.row.id, self._worker)

    def _look(self) -> None:
        for one in list(self._running):
            if one.process is None or one.process.poll() is not None:
                self._running.remove(one)
                _kill(one)
                self._end(one)
            else:
                self._attend(one)
        while len(self._running) < self._limit and not self._stop.is_set():
            row = self._jobs.claim(self._worker, lease_s=self._lease_s)
            if row is None:
                return
            try:
                self._running.append(self._start(row))
            except MedServeError as error:
                self._jobs.end(row.id, self._worker, "failed", error=self._told(error))

    def _attend(self, one: _Running) -> None:
        now = time.monotonic()
        if one.told is not None and now - one.told > GRACE_S:
            _signal(one, signal.SIGKILL)
        if now - one.renewed < min(2.0, self._lease_s / 4):
            return
        said = tail(self._settings, one.row.id).strip().splitlines()
        state = self._jobs.renew(
            one.row.id, self._worker, lease_s=self._lease_s, progress=said[-1][:200] if said else ""
        )
        one.renewed = now
        if one.told is None and (state != "running" or now - one.began > MOST_S):
            one.cancelled, one.told = state in ("cancelling", None), now
            _signal(one, signal.SIGTERM)

    def _start(self, row: JobRow) -> _Running:
        """Raises: Fault "job-given-up", "job-cancelled"; NotFound: data or package are gone."""
        if row.state == "cancelling":
            raise Fault("job-cancelled", "The job was cancelled.")
        if row.attempts > MOST_ATTEMPTS:
            raise Fault("job-given-up", f"The job was begun {MOST_ATTEMPTS} times and never ended.")
        asked: Asked = msgspec.convert(row.asked, Asked)  # type: ignore[arg-type]
        data = [data_path(self._settings, row.tenant, said) for said in data_of(asked)]
        packages = [self._fetched(row.tenant, digest) for digest in packages_of(asked)]
        work, now = folder_of(self._settings, row.id), time.monotonic()
        work.mkdir(mode=0o700, exist_ok=True)
        if (work / "out").exists():  # made, which it is whole or not at all, and then stopped before it was kept
            return _Running(row, asked, None, now, now)
        if isinstance(asked, Screen) and asked.query:
            (work / QUERY).write_text("".join(f"{smiles} {smiles}\n" for smiles in asked.query))  # by its own name
        argv = command(asked, data, work / "out", packages, self._settings.home)
        env = {name: os.environ[name] for name in _PASSED if name in os.environ} | {"MEDSERVE_PROGRESS": "lines"}
        with open(work / "result.json", "wb") as out, open(work / LOG, "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "medserve.jobs.child", str(os.getpid()), *argv],
                stdin=subprocess.DEVNULL, stdout=out, stderr=log, env=env, cwd=work, start_new_session=True,
            )  # fmt: skip
        return _Running(row, asked, process, now, now)

    def _fetched(self, tenant: str, digest: str) -> Path:
        found = self._shelf.row(tenant, digest)
        if found is None:
            raise NotFound("package", "of this digest", None)
        return self._shelf.fetched(found)

    def _end(self, one: _Running) -> None:
        self._finish(one)
        for left in folder_of(self._settings, one.row.id).iterdir():  # what is kept stands elsewhere by now
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            elif left.name != LOG:
                left.unlink(missing_ok=True)

    def _finish(self, one: _Running) -> None:
        if one.cancelled:
            self._jobs.end(one.row.id, self._worker, "cancelled")
            return
        try:
            said = json.loads((folder_of(self._settings, one.row.id) / "result.json").read_bytes())
        except (OSError, ValueError):
            said = {}
        try:
            if one.process is not None and one.process.returncode != 0:
                raise _failure(said, timed_out=one.told is not None)
            if isinstance(one.asked, Train):
                self._keep(one.row, said)
            elif isinstance(one.asked, DELIVERED):
                self._deliver(one.row, said)
            else:
                self._jobs.end(one.row.id, self._worker, "done", result=_figures(said))
        except MedServeError as error:
            self._jobs.end(one.row.id, self._worker, "failed", error=self._told(error))

    def _keep(self, row: JobRow, said: dict[str, Any]) -> None:
        """The trained package on the shelf, its event and the job's end: all of them or none."""
        out = folder_of(self._settings, row.id) / "out"
        found = examine(out, self._shelf.staging(), Trust.load(self._settings).signers)
        known = self._shelf.row(row.tenant, found.digest)
        if known is None:
            self._shelf.place(found.folder, row.tenant, found.digest)
        else:
            self._shelf.drop(found.folder)
        made = PackageRow(
            tenant=row.tenant, digest=found.digest, name=found.name, version=found.version, bytes=found.bytes,
            signer=found.signer, state="uploaded", uploaded_by=row.created_by, uploader=row.creator,
            uploaded_at=time.time(), job=row.id,
        )  # fmt: skip
        event = Event(
            action="packages.upload", outcome="allow", principal=row.created_by, tenant=row.tenant, resource=row.id,
            model=found.digest, code="trained", status=201,
        )  # fmt: skip
        with self._ledger.with_effect(event) as db:
            self._shelf.add(db, made)
            result = _figures(said) | {"package": found.digest}
            self._jobs.end_within(db, row.id, self._worker, "done", result=result)

    def _deliver(self, row: JobRow, said: dict[str, Any]) -> None:
        """The folder of results as a ZIP in the vault, and the job's end: both or neither."""
        out, result = folder_of(self._settings, row.id) / "out", _figures(said)
        names = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())

        @contextlib.contextmanager
        def within() -> Iterator[sa.Connection]:
            with self._jobs.changing() as db:
                yield db
                self._jobs.end_within(db, row.id, self._worker, "done", result=result)

        with self._cases.vault.write(row.tenant, OWNER, within=within) as stored:
            with zipfile.ZipFile(_Sink(stored), "w", zipfile.ZIP_DEFLATED) as packed:  # type: ignore[call-overload]
                for name in names:
                    packed.write(out / name, name)
            result["results"] = {"object": stored.object, "files": names}

    def _told(self, error: MedServeError) -> dict[str, str]:
        return {"code": error.code, "message": plain(self._settings, error.message),
                "hint": plain(self._settings, error.hint)}  # fmt: skip


class _Sink:
    """A stream for `zipfile`, which asks for no place in it."""

    def __init__(self, stored: Writing) -> None:
        self._stored = stored

    def write(self, data: bytes) -> int:
        self._stored.write(data)
        return len(data)

    def flush(self) -> None:
        """What is written is written."""


def _figures(said: dict[str, Any]) -> dict[str, Any]:
    """What a verb says of its result, without places on this machine and without molecules."""
    names = ("metrics", "n", "part", "parts", "chosen", "seconds", "model", "molecules", "scored", "refused", "codes",
             "ranked_by", "figures", "warnings")  # fmt: skip
    return {name: said[name] for name in names if name in said}


def _failure(said: dict[str, Any], *, timed_out: bool) -> MedServeError:
    if timed_out:
        return Fault("job-too-long", f"The job ran for more than {MOST_S:.0f} s.")
    error = said.get("error")
    if isinstance(error, dict) and {"code", "message", "hint"} <= set(error):
        return Fault(str(error["code"]), str(error["message"]), hint=str(error["hint"]))
    return Fault("job-died", "The process of the job ended without a word.", hint="See the log of the job.")


def _signal(one: _Running, what: int) -> None:
    if one.process is not None and one.process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(one.process.pid, what)


def _kill(one: _Running) -> None:
    """The whole group: nothing of a job outlives it."""
    if one.process is not None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(one.process.pid, signal.SIGKILL)
        one.process.wait()
