"""Which sources this installation asks, and what it does about each severity: MEDSERVE_HOME/safety.yaml.

envelope = open_envelope(settings)                    # the starter table alone, where there is no such file

review: required                 # or optional: a model's advice on a medicine without the patient's facts
sources: [rules/hospital]        # folders; a relative one stands under MEDSERVE_HOME
starter: true                    # whether the table that MedServe brings is asked too
severity: {moderate: block}      # above what the sources say
digest: sha256:...               # of all this, as `medserve safety --sources` shows it; any other is refused
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import yaml

from medserve.errors import BadData, MedServeError
from medserve.safety.envelope import Envelope
from medserve.safety.source import STARTER, Action, check_severity, unavailable
from medserve.settings import Settings

FILE = "safety.yaml"
MAX_BYTES = 2**16


class SafetyPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file."""

    review: Literal["required", "optional"] = "required"
    sources: list[str] = []
    starter: bool = True
    severity: dict[str, Action] = {}
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """The envelope of an installation, or why there is none: then everything is refused.

    required: no medicine that a model advises is given out without a review; so unless safety.yaml says otherwise.
    """

    envelope: Envelope | None
    why: str = ""
    required: bool = True

    @classmethod
    def open(cls, settings: Settings) -> "Standing":
        required = True
        try:
            required = read_policy(settings.home).review == "required"
            return cls(open_envelope(settings), required=required)
        except MedServeError as error:
            return cls(None, f"{error.code}: {error.message}", required)

    def ask(self) -> Envelope:
        """Raises: Unavailable "safety-unavailable"."""
        if self.envelope is None:
            raise unavailable(self.why)
        return self.envelope


CLOSED = Standing(None, "no rules were opened.")


def read_policy(home: Path) -> SafetyPolicy:
    """Raises: BadData "safety-policy"."""
    path = home / FILE
    if not path.is_file():
        return SafetyPolicy()
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(f"larger than {MAX_BYTES} bytes")
        said = msgspec.convert(yaml.safe_load(data), SafetyPolicy)
    except (OSError, yaml.YAMLError, msgspec.ValidationError, ValueError, RecursionError) as error:
        hint = "Its keys are review, sources, starter, severity and digest; see docs/safety.md."
        raise BadData("safety-policy", f"{FILE}: {str(error).splitlines()[0]}.", hint=hint) from error
    check_severity(said.severity, FILE)
    return said


def open_envelope(settings: Settings, more: Sequence[Path] = ()) -> Envelope:
    """
    Args:
        more: folders beside those of the file.

    Raises: BadData; Unavailable "safety-unavailable", also where the digest is another than the file says.
    """
    said = read_policy(settings.home)
    folders = [STARTER] if said.starter else []
    folders += [settings.home / Path(one).expanduser() for one in said.sources]
    envelope = Envelope.open([*folders, *more], severity=said.severity)
    if said.digest is not None and not more and envelope.digest != said.digest:
        raise unavailable(f"the rules are not those of the digest in {FILE}.")
    return envelope
