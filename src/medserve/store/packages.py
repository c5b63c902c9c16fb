"""Model packages that were uploaded: which ones, by whom, and where their folders stand.

    shelf = Shelf(settings)
    shelf.place(staged, "cardiology", digest)          # the folder, whole or absent: MEDSERVE_HOME/packages/...
    with ledger.with_effect(event) as db:
        shelf.add(db, row)                             # the change and its event together
    shelf.rows("cardiology"), shelf.row("cardiology", digest), shelf.published()

A package belongs to the tenant whose principal uploaded it; to all others it does not exist. The folder comes first and
the row afterwards: a folder without a row is what a broken upload left, and nothing serves it.

With MEDSERVE_BLOBS the folder stands in the bucket as well, and every node fetches what it lacks (`fetched`); what
comes from there is opened like any package, by its signature and digests.
"""

import os
import secrets
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from medserve.errors import NotFound
from medserve.settings import Settings
from medserve.store.bucket import Bucket
from medserve.store.database import database, tables

packages = sa.Table(
    "packages",
    tables,
    sa.Column("tenant", sa.String, primary_key=True),
    sa.Column("digest", sa.String, primary_key=True),  # sha256:HEX of model.json, weights and graph
    sa.Column("name", sa.String, nullable=False),
    sa.Column("version", sa.String, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("signer", sa.String, nullable=False),
    sa.Column("state", sa.String, nullable=False),  # uploaded | published
    sa.Column("uploaded_by", sa.String, nullable=False),
    sa.Column("uploader", sa.String, nullable=False),  # the name of that principal
    sa.Column("uploaded_at", sa.Float, nullable=False),
    sa.Column("job", sa.String),  # that made it
    sa.Column("published_by", sa.String),
    sa.Column("published_at", sa.Float),
)


@dataclass(frozen=True, slots=True)
class PackageRow:
    """A package on the shelf. Times are seconds since 1970."""

    tenant: str
    digest: str
    name: str
    version: str
    bytes: int
    signer: str
    state: str
    uploaded_by: str
    uploader: str
    uploaded_at: float
    job: str | None = None
    published_by: str | None = None
    published_at: float | None = None


class Shelf:
    """All uploaded packages of one MEDSERVE_HOME. Safe to use from several threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._engine, self._bucket = settings, database(settings), Bucket.open(settings)

    def close(self) -> None:
        self._engine.dispose()

    def folder(self, tenant: str, digest: str) -> Path:
        return self._settings.folder("packages") / tenant / digest.removeprefix("sha256:")

    def fetched(self, row: "PackageRow") -> Path:
        """Its folder, on this disk by now. Raises: BucketFault; NotFound: the bucket has no such package."""
        out = self.folder(row.tenant, row.digest)
        if self._bucket is None or out.is_dir():
            return out
        work = self.staging() / secrets.token_hex(8) / "package"
        under = f"packages/{row.tenant}/{row.digest.removeprefix('sha256:')}/"
        try:
            work.mkdir(parents=True, mode=0o700)
            for name, _ in list(self._bucket.names(under)):
                place = work / name.removeprefix(under)
                if not place.resolve().is_relative_to(work.resolve()):
                    raise NotFound("package", "of this digest", None)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(self._bucket.read(name, self._settings.max_package_bytes))
            if not any(work.iterdir()):
                raise NotFound("package", "of this digest", None, hint="The bucket does not hold it any more.")
            return self._settle(work, row.tenant, row.digest)
        finally:
            shutil.rmtree(work.parent, ignore_errors=True)

    def staging(self) -> Path:
        """Where uploads lie until they are judged; on the disk of the shelf."""
        return self._settings.folder("packages/.staging")

    def place(self, work: Path, tenant: str, digest: str) -> Path:
        """Rename `work` to its place, durably; one that stands there stays. To the bucket first, where there is one."""
        if self._bucket is not None:
            for path in sorted(path for path in work.rglob("*") if path.is_file()):
                name = f"packages/{tenant}/{digest.removeprefix('sha256:')}/{path.relative_to(work).as_posix()}"
                self._bucket.put(name, path.read_bytes(), new=False)
        return self._settle(work, tenant, digest)

    def _settle(self, work: Path, tenant: str, digest: str) -> Path:
        out = self.folder(tenant, digest)
        out.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in [*work.rglob("*"), work]:
            _flush(path)
        try:
            os.rename(work, out)
        except OSError:
            if not out.is_dir():
                raise
        _flush(out.parent)
        self.drop(work)
        return out

    def drop(self, work: Path) -> None:
        """A staged folder that is not wanted."""
        shutil.rmtree(work.parent if work.parent != self.staging() else work, ignore_errors=True)

    def sweep(self, older_than_s: float = 86_400) -> None:
        """Remove what uploads left that were broken off, by a kill for instance."""
        for path in self.staging().iterdir():
            if time.time() - path.stat().st_mtime > older_than_s:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)

    def rows(self, tenant: str) -> list[PackageRow]:
        return self._read(packages.c.tenant == tenant)

    def row(self, tenant: str, digest: str) -> PackageRow | None:
        found = self._read(packages.c.tenant == tenant, packages.c.digest == digest)
        return next((row for row in found if row.tenant == tenant), None)

    def published(self) -> list[PackageRow]:
        """Of all tenants, in the order in which they were published."""
        return sorted(self._read(packages.c.state == "published"), key=lambda row: row.published_at or 0)

    def _read(self, *where: Any) -> list[PackageRow]:
        with self._engine.connect() as db:
            found = db.execute(sa.select(packages).where(*where).order_by(packages.c.uploaded_at))
            return [PackageRow(**row._mapping) for row in found]

    def add(self, db: sa.Connection, row: PackageRow) -> bool:
        """Within a transaction. False: it is there already, as another request put it."""
        same = (packages.c.tenant == row.tenant, packages.c.digest == row.digest)
        if db.execute(sa.select(packages.c.digest).where(*same)).first():
            return False
        db.execute(packages.insert().values(**asdict(row)))
        return True

    def publish(self, db: sa.Connection, row: PackageRow, by: str, at: float) -> bool:
        """Within a transaction. False: another request published it first."""
        changed = db.execute(
            packages.update()
            .where(packages.c.tenant == row.tenant, packages.c.digest == row.digest, packages.c.state == "uploaded")
            .values(state="published", published_by=by, published_at=at)
        )
        return changed.rowcount == 1


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
