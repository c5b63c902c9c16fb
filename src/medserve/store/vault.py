"""The vault: objects encrypted at rest, each patient under a key of his own.

    vault = Vault.open(settings)
    ref = vault.put("cardiology", "p-8c1f", data)            # returns when it is on disk
    with vault.write("cardiology", "p-8c1f") as out:         # or as a stream; out.ref after the block
        out.write(chunk)
    for part in vault.read("cardiology", ref.object): ...    # authenticated, in bounded memory
    vault.erase("cardiology", "p-8c1f")                      # destroys the key; a receipt stays

Master key -> tenant's key -> patient's key -> object's key, each wrapped by the one before it with AES-256-GCM and
bound to what it is for. Objects are files of authenticated segments (`segments.py`); wrapped keys stand in the
database (`vault_tables.py`). Nothing of an object is visible before its row is committed, and nothing is acknowledged
before file and row are on disk.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa

from medserve.errors import Fault, Gone, NotFound, Usage
from medserve.settings import Settings
from medserve.store.bucket import Bucket, BucketObjects
from medserve.store.database import database
from medserve.store.erasure import Receipt, erase_patient, finish_erasures, truncate_log
from medserve.store.fields import Fields
from medserve.store.keyring import Keyring, PatientKey, at_once, check_tenant, writing
from medserve.store.masters import Masters, Source
from medserve.store.object_files import Arriving, ObjectFiles, Objects, conflict
from medserve.store.segments import (
    LARGEST,
    SEGMENT_BYTES,
    SMALLEST,
    SegmentWriter,
    damaged,
    read_segments,
    sealed_bytes,
)
from medserve.store.sources import sources_of
from medserve.store.vault_tables import vault_keys, vault_masters, vault_objects, vault_receipts
from medserve.store.wrap import DESTROYED, LocalKey, binding, new_id, new_key

T = TypeVar("T")
Within = Callable[[], AbstractContextManager[sa.Connection]]  # a transaction to commit in, opened at the very end
MAX_GET_BYTES = 512 * 2**20  # `get` holds the whole object; longer ones are streamed with `read`


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """A stored object; `object` is random and may be logged. size: bytes of plaintext."""

    object: str
    version: int
    size: int


@dataclass(frozen=True, slots=True)
class Stored:
    """What is known of an object without opening it. patient: id of the patient's key, which may be logged. versions:
    (version, bytes of plaintext, seconds since 1970), the newest last."""

    object: str
    patient: str
    versions: tuple[tuple[int, int, float], ...]


class Writing:
    """An object on its way in; `ref` is set when the block of `Vault.write` has ended well. object: the id that it will
    have. patient: id of the patient's key, which may be logged."""

    def __init__(self, sink: SegmentWriter, object: str, patient: str) -> None:
        self._sink, self.object, self.patient = sink, object, patient
        self.ref: ObjectRef | None = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Raises: Fault "disk-full", "file-unwritable"."""
        self._sink.write(data)


class Vault:
    """All encrypted objects of one MEDSERVE_HOME. Safe to use from several threads and processes."""

    def __init__(
        self, engine: sa.Engine, keys: Keyring, files: Objects, segment_bytes: int, mirror: Path | None = None
    ) -> None:
        self.engine, self.keys, self.files, self._segment = engine, keys, files, segment_bytes
        self._mirror = mirror  # is told of erasures, see `erasure`

    @classmethod
    def open(cls, settings: Settings, sources: Sequence[Source] = (), *, segment_bytes: int = SEGMENT_BYTES) -> "Vault":
        """Check the master key and tidy up after a crash.

        Args:
            sources: where master keys live; by default those that the settings name.
            segment_bytes: of new objects, 64 KiB to 1 MiB.

        Raises: Fault "key-exposed", "key-unreadable", "key-wrong"; Usage "key-source".
        """
        if not SMALLEST <= segment_bytes <= LARGEST:
            raise Usage("segment-bytes", f"A segment has {SMALLEST} to {LARGEST} bytes.", hint="Leave it out.")
        engine = database(settings)
        vault = cls(
            engine,
            Keyring(Masters(sources or sources_of(settings))),
            objects_of(settings),
            segment_bytes,
            settings.audit_mirror,
        )
        try:
            vault.settled(vault._check_master)
            vault.repair()
        except BaseException:
            vault.close()
            raise
        return vault

    def close(self) -> None:
        """Let the database's connections go."""
        self.engine.dispose()

    def put(
        self, tenant: str, patient: str | PatientKey, data: bytes, *, object: str = "", within: Within | None = None
    ) -> ObjectRef:
        """Store an object, or with `object` its next version; returns when it is on disk. Raises as `write`."""
        with self.write(tenant, patient, object=object, within=within) as out:
            out.write(data)
        assert out.ref is not None
        return out.ref

    @contextlib.contextmanager
    def write(
        self, tenant: str, patient: str | PatientKey, *, object: str = "", within: Within | None = None
    ) -> Iterator[Writing]:
        """Store a stream; durable and visible when the block has ended, absent when it raises.

        Args:
            tenant, patient: whose it is; the patient's pseudonym is stored as a keyed blind index only. Or his key, as
                `owner` gave it.
            object: an object of the same patient, whose next version this is; else a new one.
            within: a transaction of this database in which the object becomes visible, with what else belongs to it,
                for instance `lambda: ledger.with_effect(event)`. It is opened once all bytes are on disk.

        Raises: Usage "bad-tenant", "object-conflict", "object-patient"; NotFound; Gone "erased": the patient was erased
            meanwhile; Fault "disk-full", "file-unwritable", "key-damaged".
        """
        key = self.patient_key(tenant, patient, make=True) if isinstance(patient, str) else patient
        assert key is not None and key.tenant == tenant
        version = self._next_version(tenant, key, object) if object else 1
        id, secret = object or new_id(), new_key()
        file = self.files.incoming(f"{id}.{version}")
        try:
            stream = SegmentWriter(
                file.write, secret, _stream_of(tenant, id, version, self._segment), segment_bytes=self._segment
            )
            out = Writing(stream, id, key.id)
            yield out
            stream.finish()
            ref = ObjectRef(id, version, stream.size)
            self._commit(file, key, ref, secret, within)
        except BaseException:
            file.discard()
            raise
        file.settle()
        out.ref = ref

    def read(self, tenant: str, object: str, version: int | None = None) -> Iterator[bytes]:
        """The plaintext in order, a segment at a time; nothing that was not authenticated.

        Args:
            version: the newest by default.

        Raises: NotFound: no such object of this tenant; Gone "erased"; Fault "object-damaged", "key-damaged".
        """
        row, secret = self._opened(tenant, object, version)
        return self._segments(row, secret)

    def get(self, tenant: str, object: str, version: int | None = None, *, max_bytes: int = MAX_GET_BYTES) -> bytes:
        """The whole plaintext, or nothing. Raises as `read`; Usage "object-long"."""
        row, secret = self._opened(tenant, object, version)
        if row.size > max_bytes:
            raise Usage("object-long", f"The object has {row.size} bytes, more than {max_bytes}.", hint="Use `read`.")
        return b"".join(self._segments(row, secret))

    def erase(self, tenant: str, patient: str) -> Receipt:
        """Destroy the patient's key: nothing stored for him opens again, here or from a copy of this disk.

        Raises: NotFound: the tenant has nothing of this patient; Gone "erased"; Fault "erase-unfinished": the key is
            destroyed, but its old bytes could not yet be driven out of the database's files.
        """
        return erase_patient(self.engine, self.keys, self.files, tenant, patient, self._mirror)

    def remove(self, tenant: str, *objects: str, within: Within | None = None) -> None:
        """Destroy the keys and the files of every version of these objects, all or none of them.

        Args:
            within: as for `write`.

        Raises: NotFound: one of them is not there.
        """
        columns = vault_objects.c
        mine = (columns.tenant == tenant, columns.object.in_(objects), columns.wrapped != DESTROYED)
        with self._transaction(within) as db:
            rows = list(db.execute(sa.select(columns.object, columns.version).where(*mine)))
            for object in objects:
                if object not in {row.object for row in rows}:
                    raise _no_object(object)
            db.execute(vault_objects.update().where(*mine).values(wrapped=DESTROYED))
        for object, version in rows:
            self.files.remove(f"{object}.{version}")
        truncate_log(self.engine)

    def look(self, tenant: str, object: str) -> Stored:
        """What is stored under this id, unopened. Raises: NotFound, Gone "erased"."""
        return self.settled(lambda db: self._look(db, tenant, object)[0])

    def owner(self, tenant: str, object: str) -> PatientKey:
        """The key of the patient whose object this is. Raises: NotFound; Gone "erased"; Fault "key-damaged"."""

        def ask(db: sa.Connection) -> PatientKey:
            found, patient = self._look(db, tenant, object)
            return PatientKey(found.patient, tenant, self.keys.unwrap(db, patient))

        return self.settled(ask)

    def secret_of(self, tenant: str, object: str) -> bytes:
        """The key of an object's first version: what is derived from it ends with the object, and with its patient.

        Raises: as `read`.
        """
        return self._opened(tenant, object, 1)[1]

    def key_of(self, tenant: str, id: str) -> PatientKey:
        """A patient's key by its id. Raises: Gone "erased"; Fault "key-damaged"."""
        mine = (vault_keys.c.id == id, vault_keys.c.tenant == tenant, vault_keys.c.kind == "patient")

        def ask(db: sa.Connection) -> PatientKey:
            row = db.execute(sa.select(vault_keys).where(*mine)).one_or_none()
            if row is None:
                raise damaged()
            if row.wrapped == DESTROYED:
                raise erased()
            return PatientKey(id, tenant, self.keys.unwrap(db, row))

        return self.settled(ask)

    def _look(self, db: sa.Connection, tenant: str, object: str) -> tuple[Stored, sa.Row[Any]]:
        columns = vault_objects.c
        mine = (columns.tenant == check_tenant(tenant), columns.object == object, columns.wrapped != DESTROYED)
        rows = list(db.execute(sa.select(vault_objects).where(*mine).order_by(columns.version)))
        if not rows or any(row.tenant != tenant for row in rows):
            raise _no_object(object)
        patient = db.execute(sa.select(vault_keys).where(vault_keys.c.id == rows[0].patient)).one_or_none()
        if patient is None:
            raise damaged()
        if patient.wrapped == DESTROYED:
            raise erased()
        return Stored(object, patient.id, tuple((row.version, row.size, row.created_at) for row in rows)), patient

    def fields(self, tenant: str, column: str, *, patient: str | None = None) -> Fields:
        """Encryption and equality search for one identifying column.

        Args:
            column: `table.column`; a value moved to another column does not open.
            patient: encrypt under this patient's key, so that erasing him erases the value.
        """
        if patient is None:
            with contextlib.suppress(_Missing):
                return self.settled(lambda db: self._fields(db, tenant, column, make=False))
            with writing(self.engine) as db:
                return self._fields(db, tenant, column, make=True)
        key = self.patient_key(tenant, patient, make=True)
        assert key is not None
        index = self.settled(lambda db: self.keys.lasting(db, tenant, "index", make=False))
        assert index is not None
        return Fields(tenant, column, key.key, index, owner=key.id)

    def repair(self) -> int:
        """Finish what a crash interrupted: unfinished writes, erasures, retired master keys.

        Returns: files of dead writers that were swept.
        """
        swept = 0
        for left in self.files.leftovers():
            object, version = left.name.split(".")
            query = sa.select(vault_objects.c.serial).where(
                vault_objects.c.object == object, vault_objects.c.version == int(version)
            )
            with self.engine.connect() as db:
                left.sweep(visible=db.execute(query).first() is not None)
            swept += 1
        with self.engine.connect() as db:
            self.keys.masters.sweep(db)
        finish_erasures(self.engine, self.files, self._mirror)
        return swept

    def status(self) -> dict[str, Any]:
        """What the vault holds, as counts; for `medserve vault status`."""
        keys, objects = vault_keys.c, vault_objects.c
        count = sa.func.count
        with self.engine.connect() as db:
            masters = self.keys.masters.live(db)
            under: dict[str, int] = dict(
                db.execute(sa.select(keys.under, count()).where(keys.wrapped != DESTROYED).group_by(keys.under)).all()
            )
            tenants: dict[str, dict[str, Any]] = {}
            versions = sa.select(keys.tenant, keys.id, keys.version).where(
                keys.kind == "tenant", keys.wrapped != DESTROYED
            )
            for tenant, id, version in db.execute(versions.order_by(keys.tenant, keys.version)):
                entry = tenants.setdefault(tenant, {"tenant": tenant, "versions": []})
                entry["versions"].append({"version": version, "keys": under.get(id, 0)})
            stored = db.execute(
                sa.select(count(), sa.func.coalesce(sa.func.sum(objects.size), 0))
                .select_from(vault_objects.join(vault_keys, keys.id == objects.patient))
                .where(keys.wrapped != DESTROYED, objects.wrapped != DESTROYED)
            ).one()
            patients = db.scalar(sa.select(count()).where(keys.kind == "patient", keys.wrapped != DESTROYED))
            receipts = db.scalar(sa.select(count()).select_from(vault_receipts))
            open_receipts = db.scalar(sa.select(count()).where(vault_receipts.c.finished_at.is_(None)))
        return {
            "masters": [
                {"version": row.version, "source": row.source, "keys": under.get(row.id, 0)} for row in masters
            ],
            "tenants": list(tenants.values()),
            "patients": patients,
            "objects": stored[0],
            "bytes": int(stored[1]),  # PostgreSQL sums to a decimal
            "erased": receipts,
            "erasures_unfinished": open_receipts,
            "rotation_unfinished": len(masters) > 1 or any(len(t["versions"]) > 1 for t in tenants.values()),
        }

    def patient_key(self, tenant: str, patient: str, *, make: bool) -> PatientKey | None:
        """The patient's key, made and on disk if `make`; else None where there is none."""
        check_tenant(tenant)
        key = self.settled(lambda db: self.keys.patient(db, tenant, patient, make=False))
        if key is None and make:
            with writing(self.engine) as db:
                key = self.keys.patient(db, tenant, patient, make=True)
        return key

    def settled(self, ask: Callable[[sa.Connection], T]) -> T:
        """Read once more where a key was rotated between two statements."""
        for last in (False, False, True):
            try:
                with self.engine.connect() as db:
                    return ask(db)
            except Fault as fault:
                if last or fault.code not in ("key-damaged", "key-unreadable", "key-wrong"):
                    raise
        raise AssertionError

    def _check_master(self, db: sa.Connection) -> None:
        if db.scalar(sa.select(sa.func.count()).select_from(vault_masters)):
            self.keys.masters.current(db)

    def _fields(self, db: sa.Connection, tenant: str, column: str, *, make: bool) -> Fields:
        key = self.keys.lasting(db, tenant, "fields", make=make)
        index = self.keys.lasting(db, tenant, "index", make=make)
        if key is None or index is None:
            raise _Missing
        return Fields(tenant, column, key, index)

    def _next_version(self, tenant: str, key: PatientKey, object: str) -> int:
        query = sa.select(vault_objects).where(vault_objects.c.tenant == tenant, vault_objects.c.object == object)
        with self.engine.connect() as db:
            newest = db.execute(query.order_by(vault_objects.c.version.desc()).limit(1)).one_or_none()
        if newest is None:
            raise _no_object(object)
        if newest.patient != key.id:
            raise Usage("object-patient", "This object belongs to another patient.", hint="Store it as a new object.")
        return newest.version + 1

    @contextlib.contextmanager
    def _transaction(self, within: Within | None) -> Iterator[sa.Connection]:
        """The caller's or a new one; either way it holds the write lock from here on."""
        if within is None:
            with writing(self.engine) as db:
                yield db
        else:
            with within() as db:
                at_once(db)
                yield db

    def _commit(self, file: Arriving, key: PatientKey, ref: ObjectRef, secret: bytes, within: Within | None) -> None:
        file.publish()
        bound = _key_of(key.tenant, key.id, ref.object, ref.version, ref.size, self._segment)
        row = {
            "tenant": key.tenant, "object": ref.object, "version": ref.version, "patient": key.id,
            "wrapped": LocalKey(key.key).wrap(secret, bound), "size": ref.size, "segment_bytes": self._segment,
            "created_at": time.time(),
        }  # fmt: skip
        with self._transaction(within) as db:
            wrapped = db.scalar(sa.select(vault_keys.c.wrapped).where(vault_keys.c.id == key.id))
            if wrapped == DESTROYED:
                raise erased()
            try:
                db.execute(vault_objects.insert().values(**row))
            except sa.exc.IntegrityError:
                raise conflict() from None

    def _opened(self, tenant: str, object: str, version: int | None) -> tuple[sa.Row[Any], bytes]:
        query = sa.select(vault_objects).where(
            vault_objects.c.tenant == check_tenant(tenant), vault_objects.c.object == object
        )
        if version is not None:
            query = query.where(vault_objects.c.version == version)
        query = query.order_by(vault_objects.c.version.desc()).limit(1)

        def ask(db: sa.Connection) -> tuple[sa.Row[Any], bytes]:
            row = db.execute(query).one_or_none()
            if row is None or row.wrapped == DESTROYED:
                raise _no_object(object)
            patient = db.execute(sa.select(vault_keys).where(vault_keys.c.id == row.patient)).one_or_none()
            if patient is None:
                raise damaged()
            if patient.wrapped == DESTROYED:
                raise erased()
            return row, self.keys.unwrap(db, patient)

        row, key = self.settled(ask)
        try:
            bound = _key_of(row.tenant, row.patient, row.object, row.version, row.size, row.segment_bytes)
            return row, LocalKey(key).unwrap(row.wrapped, bound)
        except Fault:
            raise damaged() from None

    def _segments(self, row: sa.Row[Any], secret: bytes) -> Iterator[bytes]:
        try:
            file = self.files.open(f"{row.object}.{row.version}")
        except FileNotFoundError:
            self._opened(row.tenant, row.object, row.version)  # says so if it was erased in this moment
            raise damaged() from None
        with contextlib.closing(file):
            if file.size != sealed_bytes(row.size, row.segment_bytes):
                raise damaged()
            yield from read_segments(
                file.read,
                secret,
                _stream_of(row.tenant, row.object, row.version, row.segment_bytes),
                size=row.size,
                segment_bytes=row.segment_bytes,
            )


def objects_of(settings: Settings) -> Objects:
    """Where this installation keeps its objects. Raises what `Bucket.open` raises."""
    bucket = Bucket.open(settings)
    return ObjectFiles(settings.folder("objects")) if bucket is None else BucketObjects(bucket)


def erased() -> Gone:
    return Gone("erased", "What was stored for this patient has been erased.", hint="It cannot be brought back.")


class _Missing(Exception):
    """The tenant has no keys yet."""


def _stream_of(tenant: str, object: str, version: int, segment_bytes: int) -> bytes:
    return binding("segment", tenant, object, version, segment_bytes)


def _key_of(tenant: str, patient: str, object: str, version: int, size: int, segment_bytes: int) -> bytes:
    """The size is bound too: a stream cut at the end of a segment is refused before its first byte."""
    return binding("object", tenant, patient, object, version, size, segment_bytes)


def _no_object(object: str) -> NotFound:
    return NotFound(
        "object", object[:64], None, hint="Objects are found by the id that `put` returned, in their tenant."
    )
