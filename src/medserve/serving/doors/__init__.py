"""Addresses beside prediction, one module a door: `router(parts) -> APIRouter`; `app.build` opens them.

    async def upload(request: Request) -> Response:
        who = caller(request)                              # decided on before the handler runs
        with parts.ledger.with_effect(event(request, 201)) as db:
            ...                                            # the change and its event: both are kept, or neither is

A handler reads its body with `bodies.read_body(request.receive, limit, timing)`, never unbounded; what blocks is done
in a thread. Its address stands in `routes.ROUTES`. Errors are raised; the control plane words them.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from fastapi import Request

from medserve.access.audit import Event, Ledger, unwritable
from medserve.access.identity import Identity
from medserve.access.policy import Policy, Principal
from medserve.jobs.table import Jobs
from medserve.serving.metrics import Metrics
from medserve.serving.registry import Registry
from medserve.serving.siblings import Siblings
from medserve.settings import Settings
from medserve.store.cases import Cases
from medserve.store.packages import Shelf
from medserve.store.traffic import Splits


@dataclass(frozen=True, slots=True)
class Parts:
    """What doors work with. database: connections for those that have none of their own. siblings: the other replicas
    on this port; None: there are none."""

    settings: Settings
    registry: Registry
    identity: Identity
    ledger: Ledger
    policy: Policy
    cases: Cases
    shelf: Shelf
    jobs: Jobs
    metrics: Metrics
    splits: Splits
    database: sa.Engine
    siblings: Siblings | None = None


def caller(request: Request) -> Principal:
    """Who asks."""
    who: Principal = request.scope["medserve.caller"]
    return who


def note(request: Request, **said: Any) -> None:
    """Words for the audit event and the log line: resource, patient (a pseudonym), digest (of a model), code."""
    request.scope["medserve.note"].update(said)


def event(request: Request, status: int) -> Event:
    """The audit event of this request, to be written with its effect; it is then not written again."""
    request.scope["medserve.note"]["written"] = status  # of any other status it is written, as one that failed
    made: Event = request.scope["medserve.event"](status)
    return made


@contextlib.contextmanager
def effect(parts: Parts, made: Event) -> Iterator[sa.Connection]:
    """`parts.ledger.with_effect`. Raises: AuditFault "audit-unwritable" where change and event cannot be committed."""
    try:
        with parts.ledger.with_effect(made) as db:
            yield db
    except (OSError, sa.exc.SQLAlchemyError) as error:
        raise unwritable() from error
