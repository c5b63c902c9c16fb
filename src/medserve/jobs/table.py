"""The table of jobs. A job is claimed under a lease; whoever holds it renews it, and a lapsed one is claimed again.

jobs = Jobs(settings)
with ledger.with_effect(event) as db:
    jobs.add(db, row)
row = jobs.claim("worker-1", lease_s=30)          # None: nothing to do
state = jobs.renew(row.id, "worker-1", lease_s=30, progress="epoch 3/10")   # None: it is somebody else's now
jobs.end(row.id, "worker-1", "done", result={...})
"""

import time
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import Any

import sqlalchemy as sa

from medserve.settings import Settings
from medserve.store.database import database, tables

MOST_ATTEMPTS = 3
LIVE = ("queued", "running", "cancelling")

job_rows = sa.Table(
    "jobs",
    tables,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("tenant", sa.String, nullable=False, index=True),
    sa.Column("asked", sa.JSON, nullable=False),
    sa.Column("state", sa.String, nullable=False),  # queued | running | cancelling | done | failed | cancelled
    sa.Column("created_by", sa.String, nullable=False),
    sa.Column("creator", sa.String, nullable=False),  # the name of that principal
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("ended_at", sa.Float),
    sa.Column("worker", sa.String),
    sa.Column("leased_until", sa.Float, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("progress", sa.String, nullable=False),
    sa.Column("result", sa.JSON),
    sa.Column("error", sa.JSON),
)


@dataclass(frozen=True, slots=True)
class JobRow:
    """Times are seconds since 1970. attempts: how often it was claimed."""

    id: str
    tenant: str
    asked: dict[str, Any]
    created_by: str
    creator: str
    created_at: float
    state: str = "queued"
    ended_at: float | None = None
    worker: str | None = None
    leased_until: float = 0.0
    attempts: int = 0
    progress: str = ""
    result: dict[str, Any] | None = field(default=None)
    error: dict[str, Any] | None = field(default=None)


class Jobs:
    """All jobs of one MEDSERVE_HOME. Safe to use from several threads and processes."""

    def __init__(self, settings: Settings) -> None:
        self._engine = database(settings)

    def close(self) -> None:
        self._engine.dispose()

    def rows(self, tenant: str, most: int = 200) -> list[JobRow]:
        """The newest first."""
        wanted = sa.select(job_rows).where(job_rows.c.tenant == tenant)
        with self._engine.connect() as db:
            return [_row(r) for r in db.execute(wanted.order_by(job_rows.c.created_at.desc()).limit(most))]

    def row(self, tenant: str, id: str) -> JobRow | None:
        with self._engine.connect() as db:
            found = db.execute(sa.select(job_rows).where(job_rows.c.tenant == tenant, job_rows.c.id == id)).first()
        return None if found is None else _row(found)

    def live(self, tenant: str) -> int:
        """How many of the tenant wait or run."""
        count = sa.select(sa.func.count()).select_from(job_rows)
        with self._engine.connect() as db:
            return int(db.execute(count.where(job_rows.c.tenant == tenant, job_rows.c.state.in_(LIVE))).scalar_one())

    def add(self, db: sa.Connection, row: JobRow) -> None:
        """Within a transaction."""
        db.execute(job_rows.insert().values(**asdict(row)))

    def cancel(self, db: sa.Connection, row: JobRow) -> None:
        """Within a transaction: one that waits ends now, one that runs is told."""
        now = time.time()
        mine = job_rows.update().where(job_rows.c.id == row.id, job_rows.c.tenant == row.tenant)
        db.execute(mine.where(job_rows.c.state == "queued").values(state="cancelled", ended_at=now))
        db.execute(mine.where(job_rows.c.state == "running").values(state="cancelling"))

    def claim(self, worker: str, *, lease_s: float) -> JobRow | None:
        """The job that waits longest, or one whose holder is gone. One statement: two workers never get the same."""
        now = time.time()
        lapsed = sa.and_(job_rows.c.state.in_(("running", "cancelling")), job_rows.c.leased_until < now)
        free = sa.or_(job_rows.c.state == "queued", lapsed)
        next_one = (
            sa.select(job_rows.c.id)
            .where(free)
            .order_by(job_rows.c.created_at)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        state = sa.case((job_rows.c.state == "cancelling", "cancelling"), else_="running")
        taken = (
            job_rows.update()
            .where(job_rows.c.id == next_one.scalar_subquery(), free)
            .values(state=state, worker=worker, leased_until=now + lease_s, attempts=job_rows.c.attempts + 1)
            .returning(job_rows)
        )
        with self._engine.begin() as db:
            found = db.execute(taken).first()
        return None if found is None else _row(found)

    def renew(self, id: str, worker: str, *, lease_s: float, progress: str) -> str | None:
        """Returns: the state; None: the job is no longer this worker's."""
        mine = job_rows.update().where(job_rows.c.id == id, job_rows.c.worker == worker, job_rows.c.ended_at.is_(None))
        values = {"leased_until": time.time() + lease_s, "progress": progress}
        with self._engine.begin() as db:
            return db.execute(mine.values(**values).returning(job_rows.c.state)).scalar()

    def release(self, id: str, worker: str) -> None:
        """Back into the queue, as if it had not been claimed."""
        mine = job_rows.update().where(job_rows.c.id == id, job_rows.c.worker == worker, job_rows.c.ended_at.is_(None))
        state = sa.case((job_rows.c.state == "cancelling", "cancelled"), else_="queued")
        with self._engine.begin() as db:
            db.execute(mine.values(state=state, worker=None, leased_until=0.0, attempts=job_rows.c.attempts - 1))

    def changing(self) -> AbstractContextManager[sa.Connection]:
        """A transaction, for `end_within`."""
        return self._engine.begin()

    def forget(self, db: sa.Connection, row: JobRow) -> None:
        """Within a transaction: its results are not there any more; the figures stay."""
        kept = {name: value for name, value in (row.result or {}).items() if name != "results"}
        db.execute(
            job_rows.update().where(job_rows.c.id == row.id, job_rows.c.tenant == row.tenant).values(result=kept)
        )

    def end(self, id: str, worker: str, state: str, *, result: Any = None, error: Any = None) -> None:
        with self._engine.begin() as db:
            self.end_within(db, id, worker, state, result=result, error=error)

    def end_within(
        self, db: sa.Connection, id: str, worker: str, state: str, *, result: Any = None, error: Any = None
    ) -> None:
        """Within a transaction."""
        mine = job_rows.update().where(job_rows.c.id == id, job_rows.c.worker == worker, job_rows.c.ended_at.is_(None))
        db.execute(mine.values(state=state, ended_at=time.time(), result=result, error=error))


def _row(found: Any) -> JobRow:
    return JobRow(**found._mapping)
