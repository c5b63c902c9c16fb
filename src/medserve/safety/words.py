"""Codes of drugs, conditions and measures as rules and patients write them: `system|code`.

    tidy("http://www.whocc.no/atc|B01AA03")     # "atc|B01AA03"
    tidy("icd10cm|K25.4")                       # "icd10|K254": one system for what shares its first characters
    prefixes("atc|B01AA03")                     # ("atc|B", "atc|B01", "atc|B01A", "atc|B01AA", "atc|B01AA03")

Sources: WHO Collaborating Centre for Drug Statistics Methodology (levels of ATC); WHO ICD-10, whose national forms
(ICD-10-CM, -GM) add characters at the end.
"""

import re
from functools import lru_cache

from medserve.data.readers.records.codes import MAX_CODE, short

Codes = tuple[str, ...]
SEVERITIES = ("contraindicated", "major", "moderate", "minor")
LEVEL_4 = 5  # characters of an ATC code that name the pharmacological class
_ATC = re.compile(r"[A-Z](\d\d([A-Z]([A-Z](\d\d)?)?)?)?")
_RXNORM = re.compile(r"[0-9]{1,8}")
_ICD10 = re.compile(r"[A-Z][0-9][0-9A-Z][0-9A-Z]{0,4}")
_ICD10_FORMS = frozenset({"icd10", "icd10cm", "icd10gm", "http://fhir.de/CodeSystem/bfarm/icd-10-gm"})
_LEVELS = (1, 3, 4, LEVEL_4, 7)


@lru_cache(4096)
def tidy(code: str) -> str | None:
    """`system|code` in one spelling; None where it is not of this form, or no code of that system."""
    system, bar, value = code[: MAX_CODE * 2].rpartition("|")
    value = value.strip()
    if not bar or not value or len(value) > MAX_CODE:
        return None
    system = short(system.strip())
    if system.lower() in _ICD10_FORMS or system in _ICD10_FORMS:
        plain = value.replace(".", "").upper()
        return f"icd10|{plain}" if _ICD10.fullmatch(plain) else None
    system = system.lower() if "/" not in system else system
    if system == "atc":
        return f"atc|{value.upper()}" if _ATC.fullmatch(value.upper()) else None
    if system == "rxnorm":
        return f"rxnorm|{value}" if _RXNORM.fullmatch(value) else None
    return f"{system}|{value}"


def prefixes(code: str) -> tuple[str, ...]:
    """An ATC code and the classes above it, the widest first; any other code alone."""
    if not code.startswith("atc|"):
        return (code,)
    value = code[4:]
    return tuple(f"atc|{value[:size]}" for size in _LEVELS if size <= len(value))


def is_substance(code: str) -> bool:
    """Whether it names one drug and no class."""
    return code.startswith("rxnorm|") or (code.startswith("atc|") and len(code) == 4 + 7)


def starts(code: str, wanted: str) -> bool:
    """Whether a patient's code is the rule's: for ICD-10 by its first characters, else the same code."""
    return code.startswith(wanted) if wanted.startswith("icd10|") else code == wanted


def vague(code: str, wanted: str) -> bool:
    """Whether a patient's ICD-10 code is too short to tell whether it is the rule's."""
    return code.startswith("icd10|") and len(code) < len(wanted) and wanted.startswith(code)
