"""Where state lives and how much work is allowed; read once in `cli`, handed down as an argument.

    settings = Settings.from_environment(home=None)     # MEDSERVE_HOME, else ~/.medserve

Nothing reads the environment at import.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from medserve.errors import Fault


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """home: folder of keys, database, caches and galleries; made 0700 on first use."""

    home: Path
    database: str = field(default="", repr=False)  # MEDSERVE_DATABASE, postgresql://...; "": SQLite under `home`
    blobs: str = ""  # MEDSERVE_BLOBS, s3://BUCKET/PREFIX; "": files under `home`
    data: Path | None = None  # MEDSERVE_DATA, the demo's image set
    audit_mirror: Path | None = None  # MEDSERVE_AUDIT_MIRROR, a file on another disk
    public_url: str = ""  # MEDSERVE_PUBLIC_URL, how clients reach the service where that is not its own address
    passphrase_file: Path | None = None  # MEDSERVE_PASSPHRASE_FILE, of the vault's master key
    pkcs11_module: Path | None = None  # MEDSERVE_PKCS11_MODULE, a hardware module's library
    pkcs11_token: str = ""  # MEDSERVE_PKCS11_TOKEN, its label
    pkcs11_pin_file: Path | None = None  # MEDSERVE_PKCS11_PIN_FILE
    data_root: Path | None = None  # MEDSERVE_DATA_ROOT, holds a folder of data for each tenant whose jobs may read it
    max_upload_bytes: int = 64 * 2**20
    max_package_bytes: int = 2 * 2**30
    max_batch_bytes: int = 4 * 2**30  # of one manifest
    batch_days: float = 30.0  # MEDSERVE_BATCH_DAYS, after its end a batch and its answers are deleted
    max_pixels: int = 64 * 10**6

    @classmethod
    def from_environment(cls, home: Path | None = None, environ: Mapping[str, str] | None = None) -> "Settings":
        env = os.environ if environ is None else environ
        root = home or Path(env.get("MEDSERVE_HOME") or Path.home() / ".medserve")

        def path(name: str) -> Path | None:
            return Path(env[name]) if env.get(name) else None

        jobs = path("MEDSERVE_DATA_ROOT")
        return cls(
            home=root.expanduser().absolute(),
            database=env.get("MEDSERVE_DATABASE", ""),
            blobs=env.get("MEDSERVE_BLOBS", ""),
            data=path("MEDSERVE_DATA"),
            audit_mirror=path("MEDSERVE_AUDIT_MIRROR"),
            passphrase_file=path("MEDSERVE_PASSPHRASE_FILE"),
            pkcs11_module=path("MEDSERVE_PKCS11_MODULE"),
            pkcs11_token=env.get("MEDSERVE_PKCS11_TOKEN", ""),
            pkcs11_pin_file=path("MEDSERVE_PKCS11_PIN_FILE"),
            data_root=jobs.expanduser().absolute() if jobs else None,
            batch_days=_days(env.get("MEDSERVE_BATCH_DAYS", "30")),
            public_url=env.get("MEDSERVE_PUBLIC_URL", "").rstrip("/"),
        )

    def folder(self, name: str = "") -> Path:
        """A folder under `home`, made if it is missing, readable by its owner alone."""
        path = self.home / name
        try:
            self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise Fault(
                "home-unwritable",
                f"Cannot write under {self.home}: {error.strerror}.",
                hint="Set MEDSERVE_HOME to a folder you own.",
            ) from error
        return path


def _days(text: str) -> float:
    """Raises: Fault "batch-days"."""
    try:
        days = float(text)
    except ValueError:
        days = 0.0
    if not 0 < days <= 3650:
        raise Fault(
            "batch-days", "MEDSERVE_BATCH_DAYS is a number of days above 0, up to 3650.", hint="For instance 30"
        )
    return days
