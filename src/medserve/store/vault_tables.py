"""The vault's tables: wrapped keys, the objects under them, and receipts of what was erased.

    with database(settings).begin() as db:
        db.execute(sa.select(vault_objects.c.size).where(vault_objects.c.object == name))

Rows of `vault_keys` are never deleted and never change their length: a wrapped key is overwritten where it stands.
SQLite then rewrites the cell in place and never moves rows between pages, which is what would leave copies of wrapped
keys behind in the slack of the file. That is why versions are named by ids of one length and why `name` is
overwritten with as many characters.
"""

import sqlalchemy as sa

from medserve.store.database import tables

vault_masters = sa.Table(
    "vault_masters",
    tables,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("version", sa.Integer, nullable=False, unique=True),
    sa.Column("source", sa.String, nullable=False),  # file, passphrase
    sa.Column("parameters", sa.JSON, nullable=False),  # what the source needs to find it again; never the key
    sa.Column("check", sa.LargeBinary, nullable=False),  # known bytes under this key; zeros: retired
    sa.Column("created_at", sa.Float, nullable=False),
)

vault_keys = sa.Table(
    "vault_keys",
    tables,
    sa.Column("serial", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String(32), nullable=False, unique=True),
    sa.Column("kind", sa.String, nullable=False),  # tenant (under a master), index, fields, patient (under a tenant's)
    sa.Column("tenant", sa.String, nullable=False),
    sa.Column("name", sa.String(64), nullable=False),  # of a patient: the blind index of the pseudonym; else empty
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("under", sa.String(32), nullable=False, index=True),  # id of the key that wraps this one
    sa.Column("wrapped", sa.LargeBinary, nullable=False),  # nonce, key, tag; zeros: destroyed
    sa.Column("created_at", sa.Float, nullable=False),
    sa.UniqueConstraint("tenant", "kind", "name", "version"),
    sqlite_autoincrement=True,  # new rows are always appended
)

vault_objects = sa.Table(
    "vault_objects",
    tables,
    sa.Column("serial", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("tenant", sa.String, nullable=False),
    sa.Column("object", sa.String(32), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("patient", sa.String(32), nullable=False, index=True),  # vault_keys.id
    sa.Column("wrapped", sa.LargeBinary, nullable=False),  # the object's key under the patient's
    sa.Column("size", sa.BigInteger, nullable=False),  # bytes of plaintext
    sa.Column("segment_bytes", sa.Integer, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.UniqueConstraint("tenant", "object", "version"),
    sqlite_autoincrement=True,
)

vault_receipts = sa.Table(
    "vault_receipts",
    tables,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("tenant", sa.String, nullable=False),
    sa.Column("name", sa.String(64), nullable=False, index=True),  # the blind index that the patient had
    sa.Column("key", sa.String(32), nullable=False),  # vault_keys.id of the destroyed key
    sa.Column("objects", sa.Integer, nullable=False),
    sa.Column("at", sa.Float, nullable=False),  # the key was destroyed
    sa.Column("finished_at", sa.Float),  # files removed, log truncated, disk searched
)
