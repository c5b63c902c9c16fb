"""Short transactions on SQLite whose way to the disk is apart from them, so that several share it.

    swift = Swift.of(engine)               # None: not SQLite with a write-ahead log; then every commit is durable
    with swift.begin() as db:
        run(db, "INSERT ...", values)      # committed at the end of the block: all processes see it
    swift.sync()                           # durable: what was committed before survives a power cut

SQLite's own durable commit (`synchronous=FULL`) writes the log out while it holds the lock of all writers. Here
commits are of the kind `NORMAL`, which leaves the file sound after a power cut but may lose the last of them, and
`sync` then writes the log out, while others already commit. A checkpoint writes out both files by itself before the log
begins anew, so that what was committed is in one of them at any time.
Source: sqlite.org, "PRAGMA synchronous" and "Write-Ahead Logging".
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa

_to_disk = getattr(os, "fdatasync", os.fsync)


class Swift:
    """One connection; its transactions must not overlap. `sync` may be called by any thread."""

    def __init__(self, db: sa.Connection, log: int) -> None:
        self._db, self._log = db, log
        self._doubtful = False  # the log could not be written out

    @classmethod
    def of(cls, engine: sa.Engine) -> "Swift | None":
        if engine.dialect.name != "sqlite" or not engine.url.database:
            return None
        db = engine.connect()
        if run(db, "PRAGMA journal_mode")[0][0] != "wal":  # a disk that cannot share memory
            db.close()
            return None
        run(db, "PRAGMA synchronous=NORMAL")
        run(db, "SELECT count(*) FROM sqlite_schema")  # so that the log is there
        # It stays the same file while a connection is open. SQLite holds no lock on it that closing it would drop.
        return cls(db, os.open(f"{engine.url.database}-wal", os.O_RDWR))

    @contextlib.contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        db = self._db
        if self._doubtful:
            self._mend()
        try:
            run(db, "BEGIN IMMEDIATE")
            yield db
            run(db, "COMMIT")
        except BaseException:
            db.connection.rollback()
            raise
        finally:
            db.rollback()  # for SQLAlchemy a transaction may have begun; by now it is over

    def sync(self) -> None:
        """Raises: OSError; then the next transaction begins with writing it all out in another way."""
        try:
            _to_disk(self._log)
        except OSError:
            self._doubtful = True
            raise

    def _mend(self) -> None:
        """A system that failed to write a page tells it once, and takes it for written: write all of it elsewhere.

        Raises: OSError.
        """
        busy, _, _ = run(self._db, "PRAGMA wal_checkpoint(TRUNCATE)")[0]
        if busy:
            raise OSError("the log is in use")
        self._doubtful = False

    def close(self) -> None:
        if self._log >= 0:
            os.close(self._log)
            self._log = -1
            self._db.close()


def run(db: sa.Connection, text: str, given: Sequence[Any] = ()) -> list[Any]:
    """A statement by the driver itself, in the transaction of `db`: on the way of every answer, what stands around a
    statement costs more than the statement. Raises: as `db` would."""
    cursor, failed = db.connection.cursor(), db.dialect.loaded_dbapi.Error
    try:
        cursor.execute(text, given)
        return list(cursor.fetchall()) if cursor.description else []
    except failed as error:
        raise sa.exc.DBAPIError.instance(text, None, error, failed, hide_parameters=True) from error
    finally:
        cursor.close()
