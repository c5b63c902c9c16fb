"""The body of a request for a model of records -> raw values by input name, for the fields to parse.

    raw_inputs(spec, b'{"inputs": {"age": 63, "sex": "F"}}')
    raw_inputs(spec, bundle, media="application/fhir+json")
    raw_inputs(spec, b"Short of breath since ...", media="text/plain")

`schema_of(spec)` says the JSON form as a JSON Schema, one for each signature.
"""

import base64
import datetime as dt
from typing import Any

import msgspec

from medserve.data.molecules.files import STRUCTURE, read_block
from medserve.errors import Refusal, Usage
from medserve.models.spec import InputSpec, ModelSpec
from medserve.runtime.bundle import inputs_of, word_of
from medserve.safety.fhir_in import read_bundle

JSON, FHIR, TEXT = "application/json", "application/fhir+json", "text/plain"
SMILES, SDF = "chemical/x-daylight-smiles", "chemical/x-mdl-sdfile"
MOLECULES = (SMILES, "chemical/x-mdl-molfile", SDF)
PROTEINS = ("chemical/seq-aa-fasta",)
MOST_PIECES = 700_000  # commas and brackets of a JSON body; 100,000 events of five make 600,000


def raw_inputs(spec: ModelSpec, data: bytes, *, media: str = "", name: str = "") -> dict[str, Any]:
    """
    Args:
        media: declared type of the body; "" decides by the bytes (a file at the command line).
        name: of the file; .smi and .smiles are lines of a SMILES with a name behind it.

    Raises: Refusal "file-empty", "inputs-mismatch"; Usage "json-invalid".
    """
    if not data:
        raise Refusal("file-empty", f"{name or 'The body'} holds no bytes.", hint="Send the inputs of one case.")
    if not media and name.lower().endswith((".smi", ".smiles")):
        media = SMILES
    looks_json = data.lstrip()[:1] == b"{"
    if media in (JSON, FHIR) or (not media and looks_json):
        return _from_json(spec, data, name)
    kinds = {i.kind for i in spec.inputs}
    fasta = "protein" in kinds and (data.lstrip()[:1] == b">" or "molecule" not in kinds)
    if media in PROTEINS or (not media and fasta and _is_text(data)):
        return {_only(spec, "protein").name: data.decode("utf-8", errors="replace")}
    if media in MOLECULES or (not media and "molecule" in kinds and _is_text(data)):
        return {_only(spec, "molecule").name: _one_molecule(data.decode("utf-8", errors="replace"), media)}
    if media == TEXT or (not media and "text" in kinds and _is_text(data)):
        return {_only(spec, "text").name: data.decode("utf-8", errors="replace")}
    return {_only(spec, "waveform").name: data}


def _one_molecule(text: str, media: str) -> str:
    """Of a file of molecules, the one. Raises: Refusal "several-molecules"."""
    if media == SMILES or (not media and "\n" in text.strip() and not _is_block(text)):
        lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
        found = [line.split(None, 1)[0] for line in lines] if len(lines) > 1 or media == SMILES else [text]
    elif media == SDF or "$$$$" in text:
        found = [record for record in text.replace("\r", "").split("$$$$") if record.strip()]
        found = [record.removeprefix("\n") if at else record for at, record in enumerate(found)]
    else:
        found = [text] * max(1, text.count("@<TRIPOS>MOLECULE"))
    if len(found) > 1:
        raise Refusal(
            "several-molecules", f"The file holds {len(found)} molecules; one was expected.",
            hint="Send a library to POST /v1/models/NAME/batch, or to `medserve screen`.",
        )  # fmt: skip
    if not found or not _is_block(found[0]) or "@<TRIPOS>" in found[0]:
        return "".join(found)
    return read_block(found[0])[STRUCTURE]


def value_of_file(kind: str, data: bytes) -> Any:
    """A file as the value of an input in JSON: words as they stand, a picture or a recording in base64.

    Raises: Refusal "inputs-mismatch": no file is an input of this kind.
    """
    if kind in ("text", "molecule", "protein"):
        return data.decode("utf-8", errors="replace")
    if kind not in ("image", "volume", "waveform"):
        why = f"A file is no input of kind {kind}."
        raise Refusal("inputs-mismatch", why, hint='Write lines of {"id": ..., "inputs": {"NAME": VALUE}}.')
    text = base64.b64encode(data).decode()
    return {"data": text} if kind == "waveform" else text


def _is_block(text: str) -> bool:
    return "M  END" in text or "V2000" in text or "V3000" in text or text.lstrip().startswith("@<TRIPOS>")


def _from_json(spec: ModelSpec, data: bytes, name: str) -> dict[str, Any]:
    if sum(map(data.count, (b",", b"[", b"{"))) > MOST_PIECES:
        raise Refusal(
            "json-too-many-values",
            f"{name or 'The body'} holds more than {MOST_PIECES} values.",
            hint="Send the part of the history that matters, or a waveform as a file of its own.",
        )
    try:
        found = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Usage(
            "json-invalid", f"{name or 'The body'} is not JSON.", hint='Send {"inputs": {"NAME": VALUE}}.'
        ) from error
    if isinstance(found, dict) and found.get("resourceType"):
        return _from_bundle(spec, found, data)
    inputs = found.get("inputs") if isinstance(found, dict) and set(found) == {"inputs"} else found
    if isinstance(inputs, dict) and isinstance(inputs.get("inputs"), dict) and "inputs" not in _names(spec):
        beside = next(key for key in inputs if key != "inputs")
        raise Usage(
            "json-invalid",
            f"The body is inputs alone; there is no {beside[:40]!r}.",
            hint='Send {"inputs": {"NAME": VALUE}}; GET /v1/models/NAME lists the inputs.',
        )
    if not isinstance(inputs, dict):
        raise Usage(
            "json-invalid", f'{name or "The body"} is not {{"inputs": {{"NAME": VALUE}}}}.',
            hint="GET /openapi.json has the schema of each model.",
        )  # fmt: skip
    return inputs


def _names(spec: ModelSpec) -> set[str]:
    return {want.name for want in spec.inputs}


def _from_bundle(spec: ModelSpec, bundle: dict[str, Any], data: bytes) -> dict[str, Any]:
    """A FHIR Bundle: the whole of it for the timeline, the declared element for an input that has one, else its Patient
    for inputs called age, sex or gender."""
    if bundle.get("resourceType") != "Bundle":
        raise Refusal(
            "fhir-not-a-bundle", f"A FHIR Bundle was expected, not a {str(bundle.get('resourceType'))[:40]}.",
            hint="Put the patient's resources into one Bundle of type collection.",
        )  # fmt: skip
    found: dict[str, Any] = {i.name: bundle for i in spec.inputs if i.kind == "timeline"}
    if any(i.fhir for i in spec.inputs):
        found |= inputs_of(spec, read_bundle(data, today=dt.date.today(), proposals=False))
    entries = bundle.get("entry")
    resources = [e.get("resource") for e in entries if isinstance(e, dict)] if isinstance(entries, list) else []
    patient = next((r for r in resources if isinstance(r, dict) and r.get("resourceType") == "Patient"), {})
    for i in (one for one in spec.inputs if not one.fhir):
        plain = i.name.lower()
        if plain in ("sex", "gender") and patient.get("gender"):
            found[i.name] = word_of(str(patient["gender"]), i)
        elif plain == "age" and isinstance(patient.get("birthDate"), str):
            years = _age(patient["birthDate"])
            found[i.name] = {"value": years, "unit": "a"} if i.unit and years is not None else years
    if not found:
        raise Refusal(
            "inputs-mismatch", "The model takes nothing that a FHIR Bundle carries.",
            hint='Send {"inputs": {"NAME": VALUE}}; GET /v1/models/NAME lists the inputs.',
        )  # fmt: skip
    return found


def _age(birth: str) -> float | None:
    parts = birth.split("-")
    try:
        born = dt.date(int(parts[0]), int(parts[1]) if len(parts) > 1 else 7, int(parts[2]) if len(parts) > 2 else 1)
    except (ValueError, IndexError):
        return None
    return round((dt.date.today() - born).days / 365.25, 1)


def _only(spec: ModelSpec, kind: str) -> InputSpec:
    """The one input that a raw body of this kind is. Raises: Refusal "inputs-mismatch"."""
    found = [i for i in spec.inputs if i.kind == kind]
    if len(found) != 1:
        kinds = ", ".join(sorted({i.kind for i in spec.inputs}))
        raise Refusal(
            "inputs-mismatch", f"The model takes {kinds}; a raw body of kind {kind} does not fit.",
            hint='Send {"inputs": {"NAME": VALUE}}; GET /v1/models/NAME lists the inputs.',
        )  # fmt: skip
    return found[0]


def _is_text(data: bytes) -> bool:
    try:
        data[:4096].decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start > 4000
    return b"\0" not in data[:4096]


_BASE64 = {"type": "string", "contentEncoding": "base64"}
_FILE = {"type": "object", "properties": {"media_type": {"type": "string"}, "data": _BASE64}, "required": ["data"],
         "additionalProperties": False}  # fmt: skip


def schema_of(spec: ModelSpec) -> dict[str, Any]:
    """JSON Schema of `{"inputs": {...}}` for one signature."""
    properties = {i.name: _property(i) for i in spec.inputs}
    inputs = {"type": "object", "properties": properties, "additionalProperties": False, "minProperties": 1}
    return {"type": "object", "properties": {"inputs": inputs}, "required": ["inputs"], "additionalProperties": False}


def _property(want: InputSpec) -> dict[str, Any]:
    if want.kind == "number":
        value: dict[str, Any] = {"type": "number"}
        low, high = want.range or (None, None)
        value |= {} if low is None else {"minimum": low}
        value |= {} if high is None else {"maximum": high}
        unit = {"type": "string", "description": f"UCUM; {want.unit} unless said"}
        quantity = {"type": "object", "properties": {"value": {"type": "number"}, "unit": unit}, "required": ["value"],
                    "additionalProperties": False}  # fmt: skip
        both = {"anyOf": [value, quantity, {"type": "null"}]}
        return both | ({"description": f"in {want.unit}"} if want.unit else {})
    if want.kind == "category":
        words: dict[str, Any] = {"enum": [*want.words, None]} if want.words else {"type": ["string", "null"]}
        return words
    if want.kind == "text":
        return {"type": ["string", "null"]}
    if want.kind == "molecule":
        return {"type": ["string", "null"], "description": "SMILES, InChI or a mol block"}
    if want.kind == "protein":
        return {"type": ["string", "null"], "description": "one-letter codes of amino acids, or FASTA of one sequence"}
    if want.kind == "waveform":
        rows = {"type": "array", "items": {"type": "array", "items": {"type": ["number", "null"]}}}
        plain = {
            "type": "object",
            "properties": {
                "leads": {"type": "array", "items": {"type": "string"}},
                "hz": {"type": "number"},
                "unit": {"type": "string"},
                "values": rows,
            },
            "required": ["leads", "hz", "values"],
        }
        return {"anyOf": [plain, _FILE, {"type": "null"}]}
    if want.kind == "timeline":
        event = {
            "type": "array",
            "description": "[hours, code, value, unit, text]; later parts may be left out",
            "minItems": 2,
            "maxItems": 5,
        }
        return {"anyOf": [{"type": "array", "items": event}, {"type": "object"}, {"type": "null"}]}
    return {"anyOf": [_FILE, _BASE64, {"type": "null"}]}
