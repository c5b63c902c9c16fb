"""The master key inside a hardware security module, over PKCS#11: made there, used there, never outside.

    source = HardwareSource(Path("/usr/lib/softhsm/libsofthsm2.so"), "medserve", pin)
    with Masters([source]) ...

The module wraps and unwraps the keys of tenants by AES-256-GCM with our nonce; nothing else is asked of it. A lost
connection is opened once more, then refused by a code. Sessions with one token are shared in a process.
Source: OASIS PKCS #11 v3.1, sections 5.6 and 6.13.3 (CKM_AES_GCM).
"""

import secrets
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from medserve.errors import Fault, Usage
from medserve.store.wrap import KEY_BYTES, NONCE_BYTES, TAG_BYTES, WRAPPED_BYTES, Wrapper, key_damaged, new_id

_UNFIT = ("EncryptedDataInvalid", "EncryptedDataLenRange", "DataInvalid", "GeneralError")  # a tag that does not fit


class HardwareSource:
    """
    Args:
        module: the vendor's PKCS#11 library. token: its label. pin: of its user.

    Raises: Usage "pkcs11-missing", "pkcs11-module".
    """

    kind = "pkcs11"

    def __init__(self, module: Path, token: str, pin: str) -> None:
        self._token = _token(module, token, pin)

    def make(self, version: int) -> dict[str, Any]:
        """A new key; if the transaction around it fails, it stays in the token, unused."""
        label = f"medserve-master-{version:04}-{new_id()}"
        self._token.make(label)
        return {"label": label}

    def candidates(self, version: int, parameters: dict[str, Any]) -> Iterator[Wrapper]:
        """Raises: Fault "key-unreadable", "hsm-unreachable"; Usage "hsm-pin"."""
        self._token.check(parameters["label"])
        yield HardwareKey(self._token, parameters["label"])

    def remove(self, version: int, parameters: dict[str, Any]) -> None:
        self._token.destroy(parameters["label"])


class HardwareKey:
    """A key that stays in its module."""

    __slots__ = ("_label", "_token")

    def __init__(self, token: "_Token", label: str) -> None:
        self._token, self._label = token, label

    def wrap(self, key: bytes, bound: bytes) -> bytes:
        """Raises: Fault "hsm-unreachable"."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + self._token.use(self._label, "encrypt", key, nonce, bound)

    def unwrap(self, wrapped: bytes, bound: bytes) -> bytes:
        """Raises: Fault "key-damaged", "hsm-unreachable"."""
        if len(wrapped) != WRAPPED_BYTES:
            raise key_damaged()
        return self._token.use(self._label, "decrypt", wrapped[NONCE_BYTES:], wrapped[:NONCE_BYTES], bound)


class _Token:
    """One session with one token. Safe to use from several threads."""

    def __init__(self, module: Path, name: str, pin: str) -> None:
        self._module, self._name, self._pin = module, name, pin
        self._lock = threading.Lock()
        self._session: Any = None
        self._keys: dict[str, Any] = {}

    def make(self, label: str) -> None:
        from pkcs11 import Attribute, KeyType

        kept = {Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False, Attribute.WRAP: False, Attribute.UNWRAP: False}
        made = {"label": label, "store": True, "template": kept}
        self._do(lambda session: session.generate_key(KeyType.AES, 8 * KEY_BYTES, **made))

    def check(self, label: str) -> None:
        if not self._do(lambda session: self._found(session, label)):
            raise Fault(
                "key-unreadable",
                f"The token {self._name!r} does not hold the master key {label}.",
                hint="Restore it from the token's own backup; without it nothing in the vault opens.",
            )

    def destroy(self, label: str) -> None:
        def end(session: Any) -> None:
            self._keys.pop(label, None)
            for key in self._found(session, label):
                key.destroy()

        self._do(end)

    def use(self, label: str, what: str, data: bytes, nonce: bytes, bound: bytes) -> bytes:
        from pkcs11 import GCMParams, Mechanism

        def work(session: Any) -> bytes:
            if label not in self._keys:
                self._keys[label] = next(iter(self._found(session, label)))
            how = {"mechanism": Mechanism.AES_GCM, "mechanism_param": GCMParams(nonce, bound, 8 * TAG_BYTES)}
            return bytes(getattr(self._keys[label], what)(data, **how))

        return self._do(work, unfit=what == "decrypt")

    @staticmethod
    def _found(session: Any, label: str) -> list[Any]:
        from pkcs11 import Attribute, ObjectClass

        return list(session.get_objects({Attribute.LABEL: label, Attribute.CLASS: ObjectClass.SECRET_KEY}))

    def _do(self, work: Callable[[Any], Any], *, unfit: bool = False) -> Any:
        """unfit: an answer that the data do not fit is a damaged key."""
        import pkcs11

        with self._lock:
            for last in (False, True):
                try:
                    return work(self._open())
                except (pkcs11.PKCS11Error, StopIteration) as error:
                    if unfit and type(error).__name__ in _UNFIT:
                        raise key_damaged() from None
                    self._keys.clear()
                    self._session = None
                    if last:
                        raise Fault(
                            "hsm-unreachable",
                            f"The token {self._name!r} does not answer ({type(error).__name__}).",
                            hint="See that the security module runs and is reachable; then try again.",
                        ) from error

    def _open(self) -> Any:
        import pkcs11
        from pkcs11 import exceptions

        if self._session is None:
            token = pkcs11.lib(str(self._module)).get_token(token_label=self._name)
            try:
                self._session = token.open(rw=True, user_pin=self._pin)
            except exceptions.UserAlreadyLoggedIn:  # a session that was lost; the login is the process's
                self._session = token.open(rw=True)
            except (exceptions.PinIncorrect, exceptions.PinInvalid, exceptions.PinLenRange, exceptions.PinLocked):
                raise Usage(
                    "hsm-pin",
                    f"The token {self._name!r} refuses its PIN.",
                    hint="Give the user's PIN in MEDSERVE_PKCS11_PIN_FILE; too many wrong ones lock a token.",
                ) from None
        return self._session


_OPEN: dict[tuple[Path, str, str], _Token] = {}
_OPENING = threading.Lock()


def _token(module: Path, name: str, pin: str) -> _Token:
    try:
        import pkcs11
    except ImportError:
        raise Usage(
            "pkcs11-missing", "python-pkcs11 is not installed.", hint="Install it: pip install 'medserve[hardware]'"
        ) from None
    with _OPENING:
        if (module, name, pin) not in _OPEN:
            try:
                pkcs11.lib(str(module))
            except pkcs11.PKCS11Error as error:
                raise Usage(
                    "pkcs11-module", f"{module} is no PKCS#11 library that opens here.",
                    hint="Name the library of the module's maker in MEDSERVE_PKCS11_MODULE.",
                ) from error  # fmt: skip
            _OPEN[module, name, pin] = _Token(module, name, pin)
        return _OPEN[module, name, pin]
