"""Cases: inputs of patients, kept in the vault until they are asked about, and the answers that were given.

    cases = Cases(settings)                                       # the vault opens on first use
    with cases.receive("cardiology", "p-8c1f", "image/png", within=transaction) as out:
        out.write(chunk)
    found = cases.look("cardiology", out.object)                  # media type, size, age; opens nothing
    data = cases.read(found, max_bytes=...)
    cases.remove("cardiology", out.object, within=transaction)    # and its answers

An answer is an object of the same patient, so that erasing him erases it too, and removing a case removes its answers.
"""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from medserve.errors import NotFound
from medserve.settings import Settings
from medserve.store.database import tables
from medserve.store.vault import Stored, Vault, Within, Writing

case_objects = sa.Table(
    "case_objects",
    tables,
    sa.Column("object", sa.String(32), primary_key=True),  # of the vault
    sa.Column("tenant", sa.String, nullable=False),
    sa.Column("case", sa.String(32), nullable=False, index=True),  # itself, or of an answer the case it is about
    sa.Column("media_type", sa.String, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Case:
    """A stored input. `stored.patient` is the id of the patient's key, which may be logged."""

    tenant: str
    id: str
    media_type: str
    stored: Stored

    @property
    def version(self) -> int:
        return self.stored.versions[-1][0]

    @property
    def size(self) -> int:
        return self.stored.versions[-1][1]


class Cases:
    """All cases of one MEDSERVE_HOME. Safe to use from several threads and processes."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._vault: Vault | None = None

    @property
    def vault(self) -> Vault:
        """Raises: what `Vault.open` raises; the next use tries again."""
        with self._lock:
            if self._vault is None:
                self._vault = Vault.open(self._settings)
            return self._vault

    def close(self) -> None:
        with self._lock:
            if self._vault is not None:
                self._vault.close()
            self._vault = None

    @contextlib.contextmanager
    def receive(self, tenant: str, patient: str, media_type: str, *, within: Within) -> Iterator[Writing]:
        """A new case as a stream. patient: a pseudonym. Raises as `Vault.write`."""

        @contextlib.contextmanager
        def both() -> Iterator[sa.Connection]:
            with within() as db:
                yield db
                row = {"object": out.object, "tenant": tenant, "case": out.object, "media_type": media_type}
                db.execute(case_objects.insert().values(**row))

        with self.vault.write(tenant, patient, within=both) as out:
            yield out

    def look(self, tenant: str, case: str) -> Case:
        """Raises: NotFound "unknown-case": unknown, removed, or of another tenant; Gone "erased"."""
        query = sa.select(case_objects).where(case_objects.c.object == case, case_objects.c.tenant == tenant)
        with self.vault.engine.connect() as db:
            row = db.execute(query).one_or_none()
        if row is None or row.tenant != tenant or row.case != case:
            raise no_case()
        with _as_case():
            return Case(tenant, case, row.media_type, self.vault.look(tenant, case))

    def read(self, case: Case, *, max_bytes: int) -> bytes:
        """The whole input. Raises: as `look`; Usage "object-long"; Fault "object-damaged", "key-damaged"."""
        with _as_case():
            return self.vault.get(case.tenant, case.id, case.version, max_bytes=max_bytes)

    @contextlib.contextmanager
    def answering(self, case: Case, *, within: Within) -> Iterator[Writing]:
        """An answer about a case, kept for the same patient. Raises as `Vault.write`, and as `look`."""

        @contextlib.contextmanager
        def both() -> Iterator[sa.Connection]:
            with within() as db:
                yield db
                if db.scalar(_alive(case)) is None:  # removed meanwhile
                    raise no_case()
                row = {"object": out.object, "tenant": case.tenant, "case": case.id, "media_type": "application/json"}
                db.execute(case_objects.insert().values(**row))

        with _as_case():
            owner = self.vault.owner(case.tenant, case.id)
            with self.vault.write(case.tenant, owner, within=both) as out:
                yield out

    def answer(self, tenant: str, object: str) -> bytes:
        """An answer as it was given. Raises as `look`."""
        with _as_case():
            return self.vault.get(tenant, object)

    def remove(self, tenant: str, case: str, *, within: Within) -> None:
        """Destroy the keys of a case and of every answer about it. Raises as `look`."""
        self.look(tenant, case)
        self._remove(tenant, case, within)
        self._remove(tenant, case, self.vault.engine.begin)  # an answer that was given meanwhile; no other can follow

    def _remove(self, tenant: str, case: str, within: Within) -> None:
        mine = (case_objects.c.tenant == tenant, case_objects.c.case == case)
        with self.vault.engine.connect() as db:
            objects = list(db.scalars(sa.select(case_objects.c.object).where(*mine)))

        @contextlib.contextmanager
        def both() -> Iterator[sa.Connection]:
            with within() as db:
                yield db
                db.execute(case_objects.delete().where(case_objects.c.object.in_(objects)))

        if objects:
            with _as_case():
                self.vault.remove(tenant, *objects, within=both)


def _alive(case: Case) -> sa.Select[Any]:
    """The row that a removal takes away, in the same transaction as the object's key."""
    return sa.select(sa.literal(1)).where(case_objects.c.object == case.id, case_objects.c.tenant == case.tenant)


def no_case() -> NotFound:
    """The same words for a case that is unknown, removed, or another tenant's."""
    return NotFound("case", "(not shown)", None, hint="POST /v1/cases answers with the id of a case.")


@contextlib.contextmanager
def _as_case() -> Iterator[None]:
    try:
        yield
    except NotFound as error:
        if error.code == "unknown-object":
            raise no_case() from None
        raise
