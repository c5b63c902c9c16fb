"""People with an account of this service: a password and a code of an authenticator app, both always.

    people = People.open(settings)
    new = people.add("night desk", password=None, role="administrator")   # new.password, new.uri: shown once
    who = people.sign_in("night desk", password, "492039")                # Principal; Denied "sign-in-failed"

Meant for the first administrator and for the day on which the hospital's own provider (see `oidc`) is away. Passwords
are hashed with argon2id under the service's pepper, TOTP keys sealed under it: a copy of the database alone opens
nothing. A code counts once. After `FREE` failures each further one doubles the wait, up to `LONGEST_S`; failures are
counted before a password is looked at, so that a hundred guesses at once are not one. An unknown name takes the same
road and the same time.
Source: RFC 6238 (TOTP), RFC 9106 (argon2).
"""

import base64
import hmac
import os
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec
import sqlalchemy as sa
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.totp import TOTP

from medserve.access.accounts import Account, Accounts
from medserve.access.keys import load_pepper
from medserve.access.policy import DEFAULT_TENANT, Principal
from medserve.errors import Busy, Denied, Usage
from medserve.settings import Settings
from medserve.store.database import accounts as table
from medserve.store.database import sign_in_attempts

STEP_S, DIGITS = 30, 6
LEAST, MOST = 12, 256  # characters of a password
FREE, FIRST_S, LONGEST_S = 5, 1.0, 900.0
FORGET_S = 86400.0
_HASHING = threading.BoundedSemaphore(2)  # each takes 64 MiB
_HASHER = PasswordHasher()


class Delayed(Busy):
    """Too many failures: wait."""

    status = 429


class _Secret(msgspec.Struct):
    hash: str
    totp: bytes  # nonce and ciphertext


@dataclass(frozen=True, slots=True, repr=False)
class NewPerson:
    """Shown once. uri: for an authenticator app; secret: the same key, to be typed."""

    account: Account
    password: str
    secret: str
    uri: str


class People:
    """Local accounts of people."""

    def __init__(self, accounts: Accounts, pepper: bytes) -> None:
        self.accounts = accounts
        self._pepper = hmac.digest(pepper, b"medserve passwords", "sha256")
        self._sealer = AESGCM(hmac.digest(pepper, b"medserve totp", "sha256"))
        self._names = hmac.digest(pepper, b"medserve names", "sha256")
        self._nobody = _nobodys_hash()

    @classmethod
    def open(cls, settings: Settings) -> "People":
        return cls(Accounts.open(settings), load_pepper(settings))

    def add(
        self,
        name: str,
        *,
        password: str | None = None,
        role: str = "administrator",
        tenant: str = DEFAULT_TENANT,
        duties: Sequence[str] = (),
        models: Sequence[str] = (),
    ) -> NewPerson:
        """password: None: one is made. Raises: Usage "password-short", and those of `Accounts.add`."""
        word, key, secret = self._new_secret(name, password)
        row = self.accounts.add("person", name, secret, role=role, tenant=tenant, duties=duties, models=models)
        return _shown(row, word, key)

    def reset(self, which: str, *, password: str | None = None) -> NewPerson:
        """Another password and another code; the account is active again, its sessions end, its failures too."""
        row = self.accounts.wanted("person", which)
        word, key, secret = self._new_secret(row.name, password)
        row = self.accounts.change_secret(row, secret)
        self._forgive(row.name)
        return _shown(row, word, key)

    def sign_in(self, name: str, password: str, code: str, *, now: float | None = None) -> Account:
        """Whose password and code these are.

        Raises: Delayed "sign-in-delayed"; Denied "sign-in-failed", which does not tell what was wrong.
        """
        at = time.time() if now is None else now
        self._count(name, at)
        row = self.accounts.named("person", name)
        kept = self._read(row)
        right = self._matches(kept.hash if kept else self._nobody, password[:MOST])
        step = self._step(name, kept, code, at)
        if row is None or kept is None or not right or step is None or row.disabled_at is not None:
            raise _failed()
        with self.accounts.engine.begin() as db:
            fresh = table.update().where(table.c.id == row.id, table.c.last_code < step).values(last_code=step)
            if db.execute(fresh).rowcount != 1:  # this code was used before
                raise _failed()
        self._forgive(name)
        return row

    def principal(self, row: Account) -> Principal:
        return replace(row.principal, strong=True)

    def _new_secret(self, name: str, password: str | None) -> tuple[str, bytes, bytes]:
        word = secrets.token_urlsafe(18) if password is None else password
        if not LEAST <= len(word) <= MOST:
            raise Usage("password-short", f"A password has {LEAST} to {MOST} characters.", hint="A sentence will do.")
        key, nonce = os.urandom(20), os.urandom(12)
        kept = _Secret(_HASHER.hash(self._peppered(word)), nonce + self._sealer.encrypt(nonce, key, name.encode()))
        return word, key, msgspec.json.encode(kept)

    def _read(self, row: Account | None) -> _Secret | None:
        return None if row is None else msgspec.json.decode(row.secret, type=_Secret)

    def _peppered(self, password: str) -> bytes:
        return hmac.digest(self._pepper, password.encode(), "sha256")

    def _matches(self, kept: str, password: str) -> bool:
        with _HASHING:
            try:
                return _HASHER.verify(kept, self._peppered(password))
            except (VerificationError, InvalidHashError):
                return False

    def _step(self, name: str, kept: _Secret | None, code: str, now: float) -> int | None:
        """The step that the code belongs to: this one, the one before or the next."""
        try:
            key = bytes(20) if kept is None else self._sealer.decrypt(kept.totp[:12], kept.totp[12:], name.encode())
        except InvalidTag:  # moved from another account
            return None
        found = None
        for step in (int(now // STEP_S) + offset for offset in (-1, 0, 1)):
            if hmac.compare_digest(code_at(key, step).encode(), code.encode()):
                found = step
        return found

    def _count(self, name: str, now: float) -> None:
        """One more failure, until it turns out to be none. Raises: Delayed."""
        try:
            self._counted(self._name(name), now)
        except sa.exc.IntegrityError:  # two first attempts at once
            self._counted(self._name(name), now)

    def _counted(self, key: bytes, now: float) -> None:
        with self.accounts.engine.begin() as db:
            db.execute(sign_in_attempts.delete().where(sign_in_attempts.c.last_at < now - FORGET_S))
            touched = db.execute(
                sign_in_attempts.update().where(sign_in_attempts.c.name == key, sign_in_attempts.c.next_at <= now)
                .values(failures=sign_in_attempts.c.failures + 1, last_at=now)
            )  # fmt: skip
            row = db.execute(sa.select(sign_in_attempts).where(sign_in_attempts.c.name == key)).one_or_none()
            if row is None:
                db.execute(sign_in_attempts.insert().values(name=key, failures=1, last_at=now, next_at=0.0))
            elif touched.rowcount == 0:
                raise Delayed(
                    "sign-in-delayed",
                    "Too many failed attempts for this name.",
                    hint="Try again after the time in Retry-After; or run `medserve admin reset NAME`.",
                    retry_after_s=row.next_at - now,
                )
            elif row.failures >= FREE:
                wait = min(LONGEST_S, FIRST_S * 2.0 ** min(row.failures - FREE, 30))
                db.execute(sign_in_attempts.update().where(sign_in_attempts.c.name == key).values(next_at=now + wait))

    def _forgive(self, name: str) -> None:
        with self.accounts.engine.begin() as db:
            db.execute(sign_in_attempts.delete().where(sign_in_attempts.c.name == self._name(name)))

    def _name(self, name: str) -> bytes:
        return hmac.digest(self._names, name.encode(), "sha256")


def code_at(key: bytes, step: int) -> str:
    """The code of an authenticator app in a step of 30 s since 1970."""
    return TOTP(key, DIGITS, SHA1(), STEP_S, enforce_key_length=False).generate(step * STEP_S).decode()


def _nobodys_hash() -> str:
    """Of no password, and as slow to compare with as any."""
    salt, digest = (base64.b64encode(os.urandom(n)).rstrip(b"=").decode() for n in (16, 32))
    costs = f"m={_HASHER.memory_cost},t={_HASHER.time_cost},p={_HASHER.parallelism}"
    return f"$argon2id$v=19${costs}${salt}${digest}"


def _shown(row: Account, password: str, key: bytes) -> NewPerson:
    secret = base64.b32encode(key).decode()
    uri = TOTP(key, DIGITS, SHA1(), STEP_S).get_provisioning_uri(row.name, "MedServe")
    return NewPerson(row, password, secret, uri)


def _failed() -> Denied:
    return Denied(
        "sign-in-failed",
        "The name, the password or the code is wrong, or the code was used before.",
        hint="Wait for the next code; or run `medserve admin reset NAME` at the service's machine.",
    )
