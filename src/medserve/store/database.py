"""The metadata database: SQLite under `MEDSERVE_HOME` by default, PostgreSQL where `MEDSERVE_DATABASE` names one.

    with database(settings).begin() as db:
        db.execute(test_openings.insert().values(...))

A change of a table here needs a revision under `store/migrations`; a test compares the two.
"""

import sqlalchemy as sa

from medserve.settings import Settings
from medserve.store.engines import TABLES, alone, one_process, open_engine

tables = sa.MetaData()

api_keys = sa.Table(
    "api_keys",
    tables,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("hash", sa.LargeBinary, nullable=False, unique=True),  # keyed; the key itself is shown once, never stored
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("expires_at", sa.Float),
    sa.Column("revoked_at", sa.Float),
)

key_grants = sa.Table(  # a key without a row: role service, tenant default
    "key_grants",
    tables,
    sa.Column("key_id", sa.String, primary_key=True),
    sa.Column("tenant", sa.String, nullable=False),
    sa.Column("role", sa.String, nullable=False),
    sa.Column("duties", sa.JSON, nullable=False),
    sa.Column("models", sa.JSON, nullable=False),
)

accounts = sa.Table(  # who signs in here: programs ("client") and people ("person")
    "accounts",
    tables,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("tenant", sa.String, nullable=False),
    sa.Column("role", sa.String, nullable=False),
    sa.Column("duties", sa.JSON, nullable=False),
    sa.Column("models", sa.JSON, nullable=False),
    sa.Column("secret", sa.LargeBinary, nullable=False),  # a client's public keys; a person's hash and sealed TOTP key
    sa.Column("last_code", sa.Integer, nullable=False),  # the step of the last TOTP code: none is taken twice
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("disabled_at", sa.Float),
    sa.UniqueConstraint("kind", "name"),
)

sessions = sa.Table(  # access tokens of programs, sessions of people
    "sessions",
    tables,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("hash", sa.LargeBinary, nullable=False, unique=True),  # keyed
    sa.Column("account", sa.String, index=True),
    sa.Column("principal", sa.String, nullable=False),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("tenant", sa.String, nullable=False),
    sa.Column("role", sa.String, nullable=False),
    sa.Column("duties", sa.JSON, nullable=False),
    sa.Column("models", sa.JSON, nullable=False),
    sa.Column("actions", sa.JSON, nullable=False),  # [] without a limit
    sa.Column("strong", sa.Boolean, nullable=False),  # a second factor was shown
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("seen_at", sa.Float, nullable=False),
    sa.Column("idle_s", sa.Float, nullable=False),
    sa.Column("expires_at", sa.Float, nullable=False, index=True),
    sa.Column("ended_at", sa.Float),
)

used_assertions = sa.Table(
    "used_assertions",
    tables,
    sa.Column("client", sa.String, primary_key=True),
    sa.Column("jti", sa.LargeBinary, primary_key=True),  # its SHA-256
    sa.Column("expires_at", sa.Float, nullable=False, index=True),
)

sign_in_attempts = sa.Table(  # of known and unknown names alike
    "sign_in_attempts",
    tables,
    sa.Column("name", sa.LargeBinary, primary_key=True),  # keyed hash
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("last_at", sa.Float, nullable=False, index=True),
    sa.Column("next_at", sa.Float, nullable=False),
)

logins = sa.Table(  # on their way to the hospital's provider and back
    "logins",
    tables,
    sa.Column("state", sa.LargeBinary, primary_key=True),  # keyed hash
    sa.Column("nonce", sa.String, nullable=False),
    sa.Column("verifier", sa.String, nullable=False),
    sa.Column("expires_at", sa.Float, nullable=False, index=True),
)

broken_glass = sa.Table(
    "broken_glass",
    tables,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("session", sa.String, nullable=False, index=True),
    sa.Column("principal", sa.String, nullable=False),
    sa.Column("tenant", sa.String, nullable=False, index=True),
    sa.Column("reason", sa.String, nullable=False),
    sa.Column("models", sa.JSON, nullable=False),  # [] means all of the tenant
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("until", sa.Float, nullable=False),
    sa.Column("reviewed_at", sa.Float),
    sa.Column("reviewed_by", sa.String),
)

test_openings = sa.Table(
    "test_openings",
    tables,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("digest", sa.String, nullable=False, index=True),  # of the test part
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("model", sa.String, nullable=False),
)

audit_events = sa.Table(
    "audit_events",
    tables,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("epoch", sa.Integer, nullable=False, index=True),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("hash", sa.LargeBinary, nullable=False),  # of the row before and this body
    sa.Column("mac", sa.LargeBinary, nullable=False),  # under the epoch's key
)

audit_checkpoints = sa.Table(
    "audit_checkpoints",
    tables,
    sa.Column("epoch", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("seq", sa.Integer, nullable=False),
    sa.Column("hash", sa.LargeBinary, nullable=False),
    sa.Column("next", sa.LargeBinary, nullable=False),  # public key of the epoch after
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("signature", sa.LargeBinary, nullable=False),
)


def database(settings: Settings) -> sa.Engine:
    """Open the database, with the tables of this version. Raises what `open_engine` raises."""
    with one_process(settings):
        engine = open_engine(settings)
        with engine.begin() as db:
            alone(db, TABLES)
            tables.create_all(db)  # what no revision names yet
    return engine
