"""Who signs in here: programs by their keys (`clients`), people by password and code (`people`).

    accounts = Accounts.open(settings)
    row = accounts.add("client", "emr bridge", secret, role="service", tenant="clinic-a")
    accounts.disable("client", row.id)        # its tokens end within half a second

Adding, changing and disabling one is audited.
"""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from medserve.access.audit import Event, Ledger
from medserve.access.keys import TENANT
from medserve.access.policy import DEFAULT_TENANT, Policy, Principal
from medserve.errors import NotFound, Usage
from medserve.settings import Settings
from medserve.store.database import accounts, database, sessions

Kind = Literal["client", "person"]


@dataclass(frozen=True, slots=True)
class Account:
    """secret: a client's public keys; a person's password hash and sealed TOTP key. Times: seconds since 1970."""

    id: str
    kind: Kind
    name: str
    tenant: str
    role: str
    duties: tuple[str, ...]
    models: tuple[str, ...]
    secret: bytes
    created_at: float
    disabled_at: float | None = None

    @property
    def principal(self) -> Principal:
        return Principal(self.id, self.name, self.tenant, self.role, self.duties, self.models)

    @property
    def state(self) -> str:
        return "active" if self.disabled_at is None else "disabled"


class Accounts:
    """All accounts of one MEDSERVE_HOME. Safe to use from several threads."""

    def __init__(self, engine: sa.Engine, ledger: Ledger, policy: Policy) -> None:
        self.engine, self.ledger, self.policy = engine, ledger, policy

    @classmethod
    def open(cls, settings: Settings) -> "Accounts":
        """Raises: those of `Ledger.open`, and Usage "policy-invalid"."""
        return cls(database(settings), Ledger.open(settings), Policy.load(settings))

    def close(self) -> None:
        self.engine.dispose()
        self.ledger.close()

    def add(
        self,
        kind: Kind,
        name: str,
        secret: bytes,
        *,
        role: str,
        tenant: str = DEFAULT_TENANT,
        duties: Sequence[str] = (),
        models: Sequence[str] = (),
    ) -> Account:
        """Raises: Usage "account-name", "account-taken", "key-tenant", "role-unknown", "duty-unknown"."""
        if not 1 <= len(name) <= 64 or not name.isprintable() or name != name.strip():
            raise Usage("account-name", "A name has 1 to 64 printable characters.", hint="For instance: emr-bridge")
        if not TENANT.fullmatch(tenant):
            raise Usage("key-tenant", "A tenant is named by 1 to 64 of a-z, 0-9, - and _.", hint="--tenant clinic-a")
        self.policy.check_grant(role, tuple(duties))
        made = Account(f"{kind[0]}-{secrets.token_hex(6)}", kind, name, tenant, role, tuple(duties), tuple(models),
                       secret, time.time())  # fmt: skip
        if self.named(kind, name) is not None:
            raise _taken(kind, name)
        try:
            with self.ledger.with_effect(self.event(made, "created")) as db:
                db.execute(
                    accounts.insert().values(
                        id=made.id, kind=kind, name=name, tenant=tenant, role=role, duties=list(duties),
                        models=list(models), secret=secret, last_code=0, created_at=made.created_at,
                    )
                )  # fmt: skip
        except sa.exc.IntegrityError:  # another process was first
            raise _taken(kind, name) from None
        return made

    def rows(self, kind: Kind) -> list[Account]:
        with self.engine.connect() as db:
            query = sa.select(accounts).where(accounts.c.kind == kind).order_by(accounts.c.created_at)
            return [_account(row) for row in db.execute(query)]

    def get(self, kind: Kind, id: str) -> Account | None:
        with self.engine.connect() as db:
            query = sa.select(accounts).where(accounts.c.kind == kind, accounts.c.id == id)
            row = db.execute(query).one_or_none()
        return None if row is None else _account(row)

    def named(self, kind: Kind, name: str) -> Account | None:
        with self.engine.connect() as db:
            query = sa.select(accounts).where(accounts.c.kind == kind, accounts.c.name == name)
            row = db.execute(query).one_or_none()
        return None if row is None else _account(row)

    def wanted(self, kind: Kind, which: str) -> Account:
        """By id or by name. Raises: NotFound."""
        found = self.get(kind, which) or self.named(kind, which)
        if found is None:
            rows = self.rows(kind)
            raise NotFound("client" if kind == "client" else "person", which, [row.name for row in rows])
        return found

    def disable(self, kind: Kind, which: str) -> Account:
        """Now, with all its tokens; disabling twice keeps the first time."""
        row = self.wanted(kind, which)
        now = time.time()
        with self.ledger.with_effect(self.event(row, "disabled")) as db:
            db.execute(
                accounts.update()
                .where(accounts.c.id == row.id, accounts.c.disabled_at.is_(None))
                .values(disabled_at=now)
            )
            self._end_tokens(db, row.id, now)
        return self.wanted(kind, row.id)

    def change_secret(self, row: Account, secret: bytes) -> Account:
        """Another secret; enables the account, ends its tokens."""
        with self.ledger.with_effect(self.event(row, "reset")) as db:
            db.execute(
                accounts.update().where(accounts.c.id == row.id).values(secret=secret, last_code=0, disabled_at=None)
            )
            self._end_tokens(db, row.id, time.time())
        return self.wanted(row.kind, row.id)

    def _end_tokens(self, db: sa.Connection, id: str, now: float) -> None:
        db.execute(
            sessions.update().where(sessions.c.account == id, sessions.c.ended_at.is_(None)).values(ended_at=now)
        )

    def event(self, row: Account, code: str) -> Event:
        """Of someone at this machine's command line; tenant and role are the account's."""
        return Event(
            action="keys.manage", outcome="allow", principal="local", tenant=row.tenant, role=row.role,
            resource=row.id, purpose="operations", code=code, policy=self.policy.digest,
        )  # fmt: skip


def _account(row: Any) -> Account:
    return Account(row.id, row.kind, row.name, row.tenant, row.role, tuple(row.duties), tuple(row.models), row.secret,
                   row.created_at, row.disabled_at)  # fmt: skip


def _taken(kind: Kind, name: str) -> Usage:
    return Usage("account-taken", f"There is a {kind} named {name!r} already.", hint="Choose another name.")
