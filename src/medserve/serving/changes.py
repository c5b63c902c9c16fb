"""What changes while the service runs: packages in the folders it was started with, and what other nodes decided.

    changes = Changes(registry, [Path("models")], shelf=shelf, splits=splits, record=recorder.record, warn=print)
    changes.start()                   # verify and register all of them; any bad one stops the start
    await changes.reload()            # SIGHUP: look again
    await changes.follow()            # goes on: splits, withdrawn and published versions, every second

A folder is a package, or holds packages. A new or replaced one is loaded beside what answers, warmed and checked, and
then takes its place; one that is gone is finished and leaves. A bad one changes nothing: it is named in a warning, its
code in the audit log. Looking again is asked for by a signal, not by watching the disk: a copy that is under way is no
package, and whoever may write to a folder does not by that change what answers.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from medserve.access.audit import Event
from medserve.errors import BadPackage, MedServeError, NotFound
from medserve.models.package import MANIFEST
from medserve.runtime.known import KnownModel
from medserve.serving.registry import Registry
from medserve.serving.traffic import version_key
from medserve.store.packages import PackageRow, Shelf
from medserve.store.traffic import Splits

EVERY_S = 1.0
OPERATOR = "operator"  # who sends a signal to the process has no name here


@dataclass(frozen=True, slots=True)
class Source:
    """What answers from a folder. mark: of its manifest, to see whether it is another one now."""

    name: str
    version: str
    digest: str
    mark: bytes


class Changes:
    """See the module.

    Args:
        folders: packages, and folders of packages. record: writes an event down. warn: gets a line for the operator.
    """

    def __init__(
        self,
        registry: Registry,
        folders: Sequence[Path],
        *,
        shelf: Shelf,
        splits: Splits,
        record: Callable[[Event], Awaitable[None]],
        warn: Callable[[str], None],
    ) -> None:
        self._registry, self._folders, self._shelf, self._splits = registry, folders, shelf, splits
        self._record, self._warn = record, warn
        self._sources: dict[Path, Source] = {}
        self._looking = asyncio.Lock()
        self._passed: set[str] = set()  # digests of published packages that were tried here
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Raises: BadPackage, naming the folder; Usage "service-taken"; DoesNotFit."""
        gone = self._splits.withdrawn()
        for folder in self._folders:
            found = [(path, self._registry.loader.verify(path)) for path in packages_in(folder) or [folder]]
            for path, known in sorted(found, key=lambda one: version_key(one[1].version)):
                self._sources[path] = _source(path, known)
                self._add(known, None, gone)
        for row in self._shelf.published():
            known = self._registry.loader.verify(self._shelf.fetched(row))
            if known.digest != row.digest:
                raise BadPackage(
                    "package-altered",
                    f"{row.name} {row.version} is not what was published.",
                    hint="Publish it anew, or withdraw it.",
                )
            self._add(known, row.tenant, gone)
        self._registry.set_splits(self._splits.rows())

    def _add(self, known: KnownModel, tenant: str | None, gone: set[tuple[str, str]]) -> None:
        if (known.name, known.digest) in gone:
            self._warn(f"warning model-withdrawn: {known.name} {known.version} was withdrawn and is not served.")
        else:
            self._registry.add(known, tenant=tenant)

    async def reload(self) -> None:
        """Look again at the folders and at what was published."""
        async with self._looking:
            gone = await asyncio.to_thread(self._splits.withdrawn)
            for folder in self._folders:
                found = await asyncio.to_thread(packages_in, folder)
                if not found:
                    self._warn(f"warning models-missing: {folder} holds no package now; what it held goes on.")
                    continue
                fresh = [path for path in found if await asyncio.to_thread(self._changed, path)]
                for path in sorted(fresh, key=lambda path: version_key(path.name)):
                    await self._take(path, None, gone)
                mine = [path for path in self._sources if path == folder or path.parent == folder]
                for path in mine:
                    if path not in found:
                        await self._leave(self._sources.pop(path))
            self._passed.clear()
            for row in self._unserved(await asyncio.to_thread(self._shelf.published), gone):
                await self._published(row, gone)

    def _unserved(self, rows: list[PackageRow], gone: set[tuple[str, str]]) -> list[PackageRow]:
        here = {(one.model.name, one.model.version) for one in self._registry.services}
        return [row for row in rows if (row.name, row.version) not in here and (row.name, row.digest) not in gone]

    async def _published(self, row: PackageRow, gone: set[tuple[str, str]]) -> None:
        """Serve what was published through the network, here or on another node; a bad one is tried once."""
        self._passed.add(row.digest)
        try:
            path = await asyncio.to_thread(self._shelf.fetched, row)
        except MedServeError as error:
            self._passed.discard(row.digest)  # a bucket that is away for a moment
            self._warn(f"warning {error.code}: {row.name} {row.version} is not served: {error.message}")
            return
        await self._take(path, row.tenant, gone)

    async def _take(self, path: Path, tenant: str | None, gone: set[tuple[str, str]]) -> None:
        """A package that is new here, or another one than before."""
        before = self._sources.get(path)
        try:
            service = await self._registry.prepare(path, gone)
            model = service.model
            try:
                if any(
                    self._is(one, model) and other != path and other.exists() for other, one in self._sources.items()
                ):
                    self._registry.check(model.name, model.version, tenant)
                self._registry.check_name(model.name, tenant)
                await self._written("allow", resource=model.name, model=model.digest)
            except MedServeError:
                await service.withdraw()
                raise
            await self._registry.put(service, tenant=tenant)
        except MedServeError as error:
            self._warn(f"warning {error.code}: {path} is not served: {error.message}")
            with contextlib.suppress(MedServeError):  # the warning says it too
                await self._written("deny", code=error.code, resource=before.name if before else "")
            return
        if tenant is None:
            self._sources[path] = await asyncio.to_thread(_source, path, model)
        self._warn(f"{service.title} answers.")
        if before is not None and (before.name, before.version) != (model.name, model.version):
            await self._leave(before)

    @staticmethod
    def _is(source: Source, model: KnownModel) -> bool:
        return (source.name, source.version) == (model.name, model.version)

    async def _leave(self, source: Source) -> None:
        if any((one.name, one.version) == (source.name, source.version) for one in self._sources.values()):
            return  # its folder has another name now
        try:
            service = self._registry.find(source.name, source.version)
            if service.model.digest != source.digest:
                return
            await self._written("allow", resource=source.name, model=source.digest, code="package-removed")
            await self._registry.withdraw(source.name, source.version)
        except NotFound:  # withdrawn already
            return
        except MedServeError as error:
            self._warn(f"warning {error.code}: {source.name} {source.version} goes on: {error.message}")
            return
        self._warn(f"{service.title} has left.")

    def _changed(self, path: Path) -> bool:
        known = self._sources.get(path)
        return known is None or known.mark != _mark(path)

    async def _written(self, outcome: str, *, resource: str = "", model: str = "", code: str = "") -> None:
        await self._record(
            Event(
                action="models.reload",
                outcome=outcome,
                principal=OPERATOR,
                resource=resource,
                model=model,
                code=code,
            )
        )

    async def follow(self) -> None:
        """What other nodes changed; a database that does not answer for a while changes nothing."""
        seen: set[str] = set()
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                rows, gone = await asyncio.to_thread(lambda: (self._splits.rows(), self._splits.withdrawn()))
                lacking = self._unserved(await asyncio.to_thread(self._shelf.published), gone)
            except (sa.exc.SQLAlchemyError, OSError):
                continue
            self._registry.set_splits(rows)
            for service in self._registry.services:
                if (service.model.name, service.model.digest) in gone:  # none is found any more; it is finished beside
                    self._beside(self._finish(service.model.name, service.model.version))
            if not self._looking.locked():  # a load takes its time, and the next split is not to wait for it
                fresh = [row for row in lacking if row.digest in seen and row.digest not in self._passed]
                if fresh:  # seen before: not one that this very node is just publishing
                    self._beside(self._take_up(fresh, gone))
                seen = {row.digest for row in lacking}

    def _beside(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _take_up(self, rows: list[PackageRow], gone: set[tuple[str, str]]) -> None:
        async with self._looking:
            for row in rows:
                if row.digest not in self._passed:
                    await self._published(row, gone)

    async def _finish(self, name: str, version: str) -> None:
        with contextlib.suppress(NotFound):  # whoever asked for it here was faster
            await self._registry.withdraw(name, version)


def packages_in(folder: Path) -> list[Path]:
    """The folder itself if it is a package, else those within it."""
    if (folder / MANIFEST).is_file():
        return [folder]
    try:
        return sorted(path for path in folder.iterdir() if (path / MANIFEST).is_file())
    except OSError:
        return []


def _source(path: Path, known: KnownModel) -> Source:
    return Source(known.name, known.version, known.digest, _mark(path))


def _mark(path: Path) -> bytes:
    try:
        return hashlib.sha256((path / MANIFEST).read_bytes()).digest()
    except OSError:
        return b""
