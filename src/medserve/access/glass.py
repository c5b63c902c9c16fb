"""Breaking the glass: in an emergency a clinician sees models of the own tenant that are not the clinician's.

    glass = Glass(engine)
    with ledger.with_effect(event) as db:
        broken = glass.break_for(db, who, reason="emergency-treatment", models=["chest"], minutes=60)
    glass.rows(tenant)                       # newest first; `reviewed_at` is None until somebody else has looked
    glass.review(db, broken.id, reviewer)

It takes a session with a second factor, a reason from a list (no free text, so no patient in it), ends by itself, is
written down loudly, and waits for a review by another person. Tenants, roles and purposes stay as they are.
"""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from medserve.access.policy import Principal
from medserve.errors import Denied, NotFound, Usage
from medserve.store.database import broken_glass

REASONS = ("emergency-treatment", "unconscious-patient", "colleague-unreachable", "disaster")
MOST_MINUTES = 60


class Unreviewable(Denied):
    status = 403


@dataclass(frozen=True, slots=True)
class Broken:
    """models: empty: all of the tenant. Times: seconds since 1970."""

    id: str
    session: str
    principal: str
    tenant: str
    reason: str
    models: tuple[str, ...]
    at: float
    until: float
    reviewed_at: float | None = None
    reviewed_by: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """For lists; without the session."""
        return {
            "id": self.id, "principal": self.principal, "tenant": self.tenant, "reason": self.reason,
            "models": list(self.models), "at": self.at, "until": self.until, "reviewed_at": self.reviewed_at,
            "reviewed_by": self.reviewed_by,
        }  # fmt: skip


class Glass:
    """All that was broken under one MEDSERVE_HOME."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    @staticmethod
    def check(who: Principal, reason: str, minutes: float) -> None:
        """Raises: Unreviewable "second-factor-missing"; Usage "break-glass-reason", "break-glass-minutes",
        "break-glass-not-needed"."""
        if not who.session or not who.strong:
            raise Unreviewable(
                "second-factor-missing",
                "The glass is broken only in a session with a second factor.",
                hint="Sign in at /login or by POST /v1/session, with a code.",
            )
        if reason not in REASONS:
            raise Usage("break-glass-reason", "This is no reason that is known here.", hint=", ".join(REASONS))
        if not 0 < minutes <= MOST_MINUTES:
            raise Usage(
                "break-glass-minutes",
                f"The glass stays broken for at most {MOST_MINUTES} minutes.",
                hint=f"Give minutes from 1 to {MOST_MINUTES}.",
            )
        if not who.models:
            raise Usage("break-glass-not-needed", "All models of the tenant are open already.", hint="Ask as you are.")

    def break_for(
        self, db: sa.Connection, who: Principal, *, reason: str, models: Sequence[str], minutes: float
    ) -> Broken:
        """Within the transaction of its audit event, after `check`."""
        now = time.time()
        made = Broken(f"g-{secrets.token_hex(6)}", who.session, who.id, who.tenant, reason, tuple(models), now,
                      now + minutes * 60)  # fmt: skip
        db.execute(
            broken_glass.insert().values(
                id=made.id, session=made.session, principal=made.principal, tenant=made.tenant, reason=reason,
                models=list(models), at=now, until=made.until,
            )
        )  # fmt: skip
        return made

    def rows(self, tenant: str | None = None) -> list[Broken]:
        """Of a tenant, or of all; newest first."""
        query = sa.select(broken_glass).order_by(broken_glass.c.at.desc())
        if tenant is not None:
            query = query.where(broken_glass.c.tenant == tenant)
        with self._engine.connect() as db:
            return [_broken(row) for row in db.execute(query)]

    def of(self, id: str, reviewer: Principal) -> Broken:
        """What the reviewer may acknowledge.

        Raises: NotFound "unknown-break-glass", also where it is another tenant's; Unreviewable "review-own",
            Usage "review-done".
        """
        with self._engine.connect() as db:
            query = sa.select(broken_glass)
            row = db.execute(
                query.where(broken_glass.c.id == id, broken_glass.c.tenant == reviewer.tenant)
            ).one_or_none()
        if row is None or row.tenant != reviewer.tenant:
            raise NotFound("break-glass", id, None, hint="List them with GET /v1/break-glass.")
        if row.principal == reviewer.id:
            raise Unreviewable("review-own", "Another person than the one who broke the glass reviews it.")
        if row.reviewed_at is not None:
            raise Usage("review-done", "This was reviewed already.", hint="Nothing is left to do.")
        return _broken(row)

    def review(self, db: sa.Connection, id: str, reviewer: Principal) -> None:
        """Within the transaction of its audit event, after `of`."""
        db.execute(
            broken_glass.update()
            .where(broken_glass.c.id == id, broken_glass.c.reviewed_at.is_(None))
            .values(reviewed_at=time.time(), reviewed_by=reviewer.id)
        )


def _broken(row: Any) -> Broken:
    return Broken(row.id, row.session, row.principal, row.tenant, row.reason, tuple(row.models), row.at, row.until,
                  row.reviewed_at, row.reviewed_by)  # fmt: skip
