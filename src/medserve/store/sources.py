"""Where the master key of this installation lives, as its settings say.

    MEDSERVE_PKCS11_MODULE, _TOKEN, _PIN_FILE        a hardware module
    MEDSERVE_PASSPHRASE_FILE                         a passphrase
    neither                                          a file under MEDSERVE_HOME/keys

All of them may be in use at once while a master key moves from one to another; the first named makes new ones.
"""

from collections.abc import Sequence
from pathlib import Path

from medserve.errors import Usage
from medserve.settings import Settings
from medserve.store.hardware import HardwareSource
from medserve.store.masters import FileSource, PassphraseSource, Source


def sources_of(settings: Settings, passphrases: Sequence[str] = ()) -> list[Source]:
    """
    Args:
        passphrases: beside that of the settings; the last one is for new keys.

    Raises: Usage "pkcs11-settings", "pkcs11-missing", "pkcs11-module", "passphrase-unreadable", "passphrase-exposed",
        "passphrase-short".
    """
    found: list[Source] = [FileSource(settings)]
    said = [] if settings.passphrase_file is None else [first_line(settings.passphrase_file)]
    if said or passphrases:
        found.insert(0 if said else 1, PassphraseSource([*said, *passphrases]))
    if settings.pkcs11_module is not None:
        if not settings.pkcs11_token or settings.pkcs11_pin_file is None:
            raise Usage(
                "pkcs11-settings",
                "A hardware module needs the label of its token and a file with the PIN.",
                hint="Set MEDSERVE_PKCS11_TOKEN and MEDSERVE_PKCS11_PIN_FILE.",
            )
        pin = first_line(settings.pkcs11_pin_file)
        found.insert(0, HardwareSource(settings.pkcs11_module, settings.pkcs11_token, pin))
    return found


def first_line(file: Path) -> str:
    """A secret that its owner alone can read. Raises: Usage "passphrase-unreadable", "passphrase-exposed"."""
    try:
        mode, text = file.stat().st_mode, file.read_text()
    except (OSError, UnicodeDecodeError):
        raise Usage(
            "passphrase-unreadable", f"Cannot read a secret from {file}.", hint="One line of text, UTF-8."
        ) from None
    if mode & 0o077:
        raise Usage("passphrase-exposed", f"{file} can be read by others.", hint=f"Run: chmod 600 {file}")
    return text.partition("\n")[0].rstrip("\r")
