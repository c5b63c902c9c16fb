"""What a model's signature says of a picture, asked before any score: modality, unit, colour, and whether it is blank.

    check_picture(want, modality="CT", unit="HU", colour=False, blank=False)

One function for a picture that is the whole case and for one beside other inputs, so that both refuse alike.
"""

from collections.abc import Collection
from typing import Protocol

from medserve.errors import Refusal


class Wanted(Protocol):
    """modalities: None where training could not tell. unit: None where values have none. colour: is it taken?"""

    @property
    def modalities(self) -> Collection[str] | None: ...
    @property
    def unit(self) -> str | None: ...
    @property
    def colour(self) -> bool: ...


def check_picture(
    want: Wanted, *, modality: str | None, unit: str | None, colour: bool, blank: bool, name: str = ""
) -> None:
    """
    Args:
        name: what messages call the picture; "" where it is the only input.

    Raises: Refusal "wrong-modality", "wrong-unit", "wrong-colour", "image-blank".
    """
    said = f"{name}: " if name else ""
    if want.modalities is not None and modality is not None and modality not in want.modalities:
        raise Refusal(
            "wrong-modality",
            f"{said}Modality {modality}; the model takes {', '.join(want.modalities)}.",
            hint="Send it to a model of its own modality: list them with GET /v1/models.",
        )
    if want.unit is not None and unit != want.unit:
        raise Refusal(
            "wrong-unit",
            f"{said}The values are in {unit or 'no known unit'}; the model takes {want.unit}.",
            hint="Send the original DICOM file, not an export of it.",
        )
    if colour and not want.colour:
        raise Refusal(
            "wrong-colour",
            f"{said}A colour picture; the model takes grey ones.",
            hint="Send the original grey image, not a screenshot.",
        )
    if blank:
        raise Refusal("image-blank", f"{said}The image holds one single value.", hint="Send the picture as acquired.")
