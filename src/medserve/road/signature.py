"""What a model takes and gives, as its data says: the inputs and the output of a package before anything is learned.

    inputs = [picture_input(listing.kind, seen, shape, parts)]      # of records: a `record_input` for each field
    output = output_spec(listing, parts)

A number's mean and standard deviation are those of the training part.
"""

from typing import TYPE_CHECKING

import msgspec

from medserve.data.split import Parts
from medserve.models.spec import ATC, Code, InputSpec, OutputSpec
from medserve.road.effect import effect_output

if TYPE_CHECKING:
    from medserve.data.fields import Block, Field
    from medserve.data.forms import Listing
    from medserve.data.prepare import Probe

MEDIA = {
    "image": ["image/png", "image/jpeg", "application/dicom"],
    "volume": ["application/x-nifti", "application/dicom"],
    "text": ["text/plain"],
    "molecule": ["chemical/x-daylight-smiles", "chemical/x-mdl-molfile", "chemical/x-mdl-sdfile"],
    "protein": ["chemical/seq-aa-fasta"],
    "timeline": ["application/fhir+json"],
    "waveform": ["application/dicom", "application/zip", "application/octet-stream"],
}


def output_spec(listing: "Listing", parts: Parts) -> OutputSpec:
    """What the model gives; a number is standardised by the training part."""
    if listing.task == "tags":
        words = next(f.length for f in parts.cohort.fields)
        return OutputSpec(task="tags", labels=list(listing.labels), words=words)
    if listing.task == "effect":
        return effect_output(listing, parts)
    if listing.task != "number":
        unit = listing.unit if listing.task == "survival" else None
        return OutputSpec(task=listing.task, labels=list(listing.labels), unit=unit)  # type: ignore[arg-type]
    said = listing.declaration.target if listing.declaration else None
    plain = OutputSpec(task="number", labels=list(listing.labels), unit=listing.unit)
    if said is not None:
        codes = {} if said.medicine is None else {listing.labels[0]: Code(ATC, said.medicine)}
        span = None if said.range is None else (said.range[0], said.range[1])
        plain = msgspec.structs.replace(plain, scale=said.scale or "", range=span, bands=list(said.bands or ()),
                                        by=said.interval_by, codes=codes)  # fmt: skip
    values = plain.scaled(parts.train.targets)
    return msgspec.structs.replace(plain, mean=float(values.mean()), sd=float(values.std()) or 1.0)


def picture_input(kind: str, seen: "Probe", shape: tuple[int, ...], parts: Parts) -> InputSpec:
    """The one input of a model of pictures: (C, H, W) or (C, D, H, W) as it enters the graph.

    Args:
        seen: of the files as they are.
    """
    return InputSpec(
        kind=kind,  # type: ignore[arg-type]
        shape=shape,
        colour=shape[0] == 3 and seen.colour,
        modalities=sorted({c.modality for c in parts.train.cases if c.modality}) or None,
        unit=seen.unit,
        media_types=MEDIA[kind],
    )


def record_input(block: "Block", f: "Field", inputs: int, fhir: str | None) -> InputSpec:
    """One field in the signature; a case of one input may also be sent as a raw body of its kind."""
    limits = (getattr(f, "low", None), getattr(f, "high", None))
    words = block.facts.get("words") if f.kind == "category" and not getattr(f, "open", False) else None
    return InputSpec(
        name=f.name,
        kind=f.kind,  # type: ignore[arg-type]
        shape=tuple(block.shape),
        colour=bool(getattr(f, "colour", False)),
        modalities=None if (found := getattr(f, "modalities", None)) is None else list(found),
        unit=getattr(f, "unit", None),
        range=limits if limits != (None, None) else None,
        words=words,
        fhir=fhir,
        media_types=[
            "application/json",
            *(["application/fhir+json"] if fhir else []),
            *(MEDIA.get(f.kind, []) if inputs == 1 or f.kind == "timeline" else []),
        ],
    )
