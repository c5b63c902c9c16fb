"""Which element of a FHIR Bundle an input of a table is: the key `fhir` of an input in dataset.yaml.

    element("Patient.age")                  # Element("age", "")
    element("loinc|29463-7")                # Element("observation", "loinc|29463-7"): the newest value
    element("Condition icd10|E11")          # Element("condition", "icd10|E11"): whether there is one
    element("Medication atc|C01BD01")       # Element("medicine", "atc|C01BD01"): whether it is taken now

Whether there is one is a number, 1 or 0, or a category of two classes, [absent, present].
"""

import re
from typing import TYPE_CHECKING, Literal, NamedTuple

from medserve.errors import BadData

if TYPE_CHECKING:
    from medserve.data.declaration import Input

Kind = Literal["age", "gender", "observation", "condition", "medicine"]
_CODE = re.compile(r"[^\s|]{1,120}\|[^\s|]{1,80}")
_PERSON: dict[str, Kind] = {"Patient.age": "age", "Patient.gender": "gender"}
_THERE: dict[str, Kind] = {"Condition": "condition", "Medication": "medicine"}


class Element(NamedTuple):
    """code: `system|code`."""

    kind: Kind
    code: str


def element(said: str) -> Element | None:
    """None where it is none of the forms above."""
    if said in _PERSON:
        return Element(_PERSON[said], "")
    word, _, code = said.rpartition(" ")
    if not _CODE.fullmatch(code) or word not in ("", *_THERE):
        return None
    return Element(_THERE.get(word, "observation"), code)


def check_element(said: "Input", key: str, name: str) -> None:
    """
    Raises: BadData "declaration-value".
    """
    if said.fhir is None:
        return
    found = element(said.fhir)
    if said.kind not in ("number", "category") or found is None:
        raise BadData(
            "declaration-value", f"{name}: `inputs.{key}.fhir` is an element of a Bundle, for a number or a category.",
            hint='For instance Patient.age, Patient.gender, "loinc|29463-7", "Condition icd10|E11",'
            ' "Medication atc|C01BD01".',
        )  # fmt: skip
    kinds = {"age": "number", "gender": "category"}
    if said.kind != kinds.get(found.kind, said.kind):
        raise BadData("declaration-value", f"{name}: `inputs.{key}`: {said.fhir} is a {kinds[found.kind]}.")
    there = found.kind in ("condition", "medicine")
    if there and said.kind == "category" and len(said.classes or ()) != 2:
        raise BadData(
            "declaration-value", f"{name}: `inputs.{key}`: whether there is one is a category of two classes.",
            hint="Write `classes: [absent, present]`, in the words of the table.",
        )  # fmt: skip
