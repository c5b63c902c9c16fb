"""Unsafe settings refuse to start, each with the line that mends it.

    check_settings(settings, os.environ)          # raises Usage

What others can read or change under MEDSERVE_HOME, a password of the database that anyone would try first, and switches
that make a service talk. An address beyond this machine without keys or TLS is `address.check_address`'s.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from medserve.errors import Usage
from medserve.serving.address import is_loopback
from medserve.serving.tracing import endpoint_of
from medserve.settings import Settings
from medserve.store.engines import FILE, check_url

LEAST_PASSWORD = 12  # characters
_FIRST_TRIED = frozenset({"postgres", "postgresql", "password", "medserve", "changeme", "change-me", "secret", "admin"})
_TALKATIVE = ("MEDSERVE_DEBUG", "PYTHONASYNCIODEBUG", "PYTHONDEVMODE", "PYTHONINSPECT")
_PUBLIC = (".pub", ".txt", ".lock")  # in the folder of keys: what is no secret


def check_settings(settings: Settings, environ: Mapping[str, str]) -> None:
    """Raises: Usage "home-exposed", "key-exposed", "state-exposed", "policy-exposed", "secret-weak", "debug-on",
    "otel-endpoint", "otel-plain", "otel-protocol"."""
    home = settings.home
    _mine_alone(home, "home-exposed", 0o077, "700")
    keys = home / "keys"
    _mine_alone(keys, "key-exposed", 0o077, "700")
    for path in sorted(keys.glob("*")) if keys.is_dir() else ():
        if path.suffix not in _PUBLIC:
            _mine_alone(path, "key-exposed", 0o077, "600")
    for path in sorted(home.glob(FILE + "*")):
        _mine_alone(path, "state-exposed", 0o077, "600")
    for path in (*sorted(home.glob("*.yaml")), *sorted(home.glob("trusted/*.pub"))):
        _mine_alone(path, "policy-exposed", 0o022, "go-w")
    for name in _TALKATIVE:
        if environ.get(name, "") not in ("", "0"):
            raise Usage(
                "debug-on", f"{name} is set: errors would show what they were about.", hint=f"Run: unset {name}"
            )
    if sys.flags.dev_mode:
        raise Usage("debug-on", "Python runs in its development mode.", hint="Start without -X dev.")
    _check_collector(environ)
    if settings.database:
        password = check_url(settings.database).password
        if password is not None and (len(str(password)) < LEAST_PASSWORD or str(password).lower() in _FIRST_TRIED):
            raise Usage(
                "secret-weak",
                f"The password of the database is a common one, or shorter than {LEAST_PASSWORD} characters.",
                hint="Give the database's user a long random one: openssl rand -base64 24",
            )


def _check_collector(environ: Mapping[str, str]) -> None:
    """Spans name models and their times; the way to their collector is nobody else's to read or to answer on."""
    if (endpoint := endpoint_of(environ)) is None:
        return
    try:
        parts = urlsplit(endpoint)
        host, scheme = parts.hostname, parts.scheme
    except ValueError:
        host, scheme = None, ""
    if not host or scheme not in ("http", "https"):
        raise Usage(
            "otel-endpoint",
            "The OTLP endpoint is no address of HTTP.",
            hint="For instance OTEL_EXPORTER_OTLP_ENDPOINT=https://collector.clinic:4318",
        )
    said = environ.get("OTEL_EXPORTER_OTLP_TRACES_INSECURE") or environ.get("OTEL_EXPORTER_OTLP_INSECURE") or ""
    if scheme == "http" and not is_loopback(host) and said.strip().lower() != "true":
        raise Usage(
            "otel-plain",
            "Spans would leave this machine without TLS.",
            hint="Name an https:// endpoint, or set OTEL_EXPORTER_OTLP_INSECURE=true on a network of your own.",
        )


def _mine_alone(path: Path, code: str, others: int, mode: str) -> None:
    """others: rights that nobody else may have."""
    if path.exists() and path.stat().st_mode & others:
        what = "changed" if others == 0o022 else "read or changed"
        raise Usage(code, f"{path} can be {what} by others.", hint=f"Run: chmod {mode} {path}")
