"""The tables of batches: one row a batch, one row for each of its chunks.

A chunk is what one transaction settles: some items, in one object of the vault, and later their answers, in another.
"""

import sqlalchemy as sa

from medserve.store.database import tables

batch_rows = sa.Table(
    "batches",
    tables,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("tenant", sa.String, nullable=False, index=True),
    sa.Column("model", sa.String, nullable=False),
    sa.Column("version", sa.String, nullable=False),
    sa.Column("digest", sa.String, nullable=False),
    sa.Column("state", sa.String, nullable=False),  # receiving | queued | running | done | failed | deleted
    sa.Column("asked_key", sa.String, nullable=False),  # hash of principal and Idempotency-Key, else the own id
    sa.Column("created_by", sa.String, nullable=False),
    sa.Column("who", sa.JSON, nullable=False),  # role, duties, models, actions of that principal
    sa.Column("purpose", sa.String, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("ended_at", sa.Float),
    sa.Column("items", sa.Integer, nullable=False),
    sa.Column("done", sa.Integer, nullable=False),  # answered or refused, committed
    sa.Column("failed", sa.Integer, nullable=False),  # of those, the ones with an error
    sa.Column("error", sa.JSON),  # why the batch as a whole ended early
    sa.Column("worker", sa.String),
    sa.Column("leased_until", sa.Float, nullable=False),
    sa.Column("turn_at", sa.Float, nullable=False),  # the one that waited longest is next
    sa.Column("began_at", sa.Float, nullable=False),  # of the present turn, with what was done by then
    sa.Column("began_done", sa.Integer, nullable=False),
    sa.Column("asked", sa.LargeBinary),  # SHA-256 of address and body; NULL until all of it has come
    sa.UniqueConstraint("tenant", "asked_key"),
)

batch_chunks = sa.Table(
    "batch_chunks",
    tables,
    sa.Column("batch", sa.String, primary_key=True),
    sa.Column("n", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("first", sa.Integer, nullable=False),  # number of its first item, from 0
    sa.Column("size", sa.Integer, nullable=False),  # items
    sa.Column("asked", sa.String(32), nullable=False),  # object of the vault; removed when the batch has ended
    sa.Column("answers", sa.String(32)),
)
