"""Which versions of a model answer how often, kept where every node reads it.

    splits = Splits(settings)
    with ledger.with_effect(event) as db:
        splits.set(db, row)                        # the change and its event together
        splits.withdraw(db, tenant, name, version, digest, by)
    splits.rows(), splits.withdrawn()

A name without a row is answered by the version that was added last.
"""

import secrets
import time
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa

from medserve.settings import Settings
from medserve.store.database import database, tables

SALT_BYTES = 16

traffic = sa.Table(
    "traffic",
    tables,
    sa.Column("tenant", sa.String, primary_key=True),  # "" of a model that is nobody's in particular
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("versions", sa.JSON, nullable=False),  # version -> share in per cent
    sa.Column("shadow", sa.JSON, nullable=False),
    sa.Column("before", sa.JSON, nullable=False),  # {"versions", "shadow"} of the split before
    sa.Column("salt", sa.LargeBinary, nullable=False),  # keys the hash that assigns patients
    sa.Column("changed_at", sa.Float, nullable=False),
    sa.Column("changed_by", sa.String, nullable=False),
)

withdrawn = sa.Table(
    "withdrawn",
    tables,
    sa.Column("tenant", sa.String, primary_key=True),
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("digest", sa.String, primary_key=True),
    sa.Column("version", sa.String, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("by", sa.String, nullable=False),
)


@dataclass(frozen=True, slots=True)
class SplitRow:
    """versions: shares in per cent. shadow: versions that are asked too and never answer. before: what stood there
    before, for a rollback. salt: stays as long as the name does, so that patients keep their version."""

    tenant: str
    name: str
    versions: dict[str, int]
    shadow: list[str] = field(default_factory=list)
    before: dict[str, Any] = field(default_factory=dict)
    salt: bytes = b""
    changed_at: float = 0.0
    changed_by: str = ""

    def without(self, version: str, by: str) -> "SplitRow":
        """Its share goes to the others, in their proportions; no versions: none of them is left."""
        rest = {key: share for key, share in self.versions.items() if key != version and share}
        whole, given = sum(rest.values()), 0
        shares = {}
        for at, (key, share) in enumerate(rest.items()):
            shares[key] = 100 - given if at == len(rest) - 1 else round(100 * share / whole)
            given += shares[key]
        shadow = [key for key in self.shadow if key != version]
        return replace(self, versions=shares, shadow=shadow, changed_at=time.time(), changed_by=by)

    def back(self, by: str) -> "SplitRow":
        """The split before, with this one as its own before."""
        now = {"versions": self.versions, "shadow": self.shadow}
        return replace(self, **self.before, before=now, changed_at=time.time(), changed_by=by)


class Splits:
    """All splits of one service. Safe to use from several threads."""

    def __init__(self, settings: Settings) -> None:
        self._engine = database(settings)

    def close(self) -> None:
        self._engine.dispose()

    def rows(self) -> list[SplitRow]:
        with self._engine.connect() as db:
            return [SplitRow(**row._mapping) for row in db.execute(sa.select(traffic))]

    def withdrawn(self) -> set[tuple[str, str]]:
        """(name, digest) of what is not to be served again."""
        with self._engine.connect() as db:
            return {(row.name, row.digest) for row in db.execute(sa.select(withdrawn))}

    def set(self, db: sa.Connection, row: SplitRow) -> SplitRow:
        """Within a transaction, in the place of what stood there. Returns: the row as it is kept."""
        same = (traffic.c.tenant == row.tenant, traffic.c.name == row.name)
        row = replace(row, salt=row.salt or secrets.token_bytes(SALT_BYTES))
        values = {column.name: getattr(row, column.name) for column in traffic.columns}
        if not db.execute(traffic.update().where(*same).values(**values)).rowcount:
            db.execute(traffic.insert().values(**values))
        return row

    def drop(self, db: sa.Connection, row: SplitRow) -> None:
        """Within a transaction: the version that was added last answers again."""
        db.execute(traffic.delete().where(traffic.c.tenant == row.tenant, traffic.c.name == row.name))

    def withdraw(self, db: sa.Connection, tenant: str, name: str, version: str, digest: str, by: str) -> None:
        """Within a transaction."""
        same = (withdrawn.c.tenant == tenant, withdrawn.c.name == name, withdrawn.c.digest == digest)
        if not db.execute(sa.select(withdrawn.c.digest).where(*same)).first():
            values = {"tenant": tenant, "name": name, "version": version, "digest": digest, "at": time.time(), "by": by}
            db.execute(withdrawn.insert().values(**values))
