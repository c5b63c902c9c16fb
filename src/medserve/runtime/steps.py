"""The transforms of a package, as its signature names them: fields for a model of records, else a pipeline.

records, pipeline = steps_of(spec, max_pixels)      # one of them is None
"""

import math

from medserve.data import transforms
from medserve.data.fields import Records
from medserve.errors import BadPackage, Usage
from medserve.models.spec import ModelSpec


def steps_of(spec: ModelSpec, max_pixels: int) -> tuple[Records | None, transforms.Pipeline | None]:
    """
    Raises: BadPackage "package-spec": a name or a parameter that is none of ours, or another shape than the signature.
    """
    try:
        if not spec.is_record:
            return None, transforms.build(spec.transforms)
        records = Records.build(spec.transforms).within(max_pixels)
        if sum(math.prod(block.shape) for block in records.blocks) == spec.shape[0]:
            return records, None
        why = "its transforms do not give the shape of its signature"
    except Usage as error:
        why = error.message
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError, MemoryError) as error:
        raise _unknown(f"a parameter of a transform has the wrong type ({type(error).__name__})") from error
    raise _unknown(why)


def _unknown(why: str) -> BadPackage:
    return BadPackage("package-spec", f"model.json asks for what is not here: {why}", hint="Update MedServe.")
