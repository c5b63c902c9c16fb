"""`medserve predict`: one file, one answer; the same that the network gives."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.table import Table

from medserve.cli._answer import Answer
from medserve.errors import Usage
from medserve.progress import Progress
from medserve.settings import Settings

if TYPE_CHECKING:
    from medserve.runtime.model import LoadedModel


def predict(
    model: Path,
    /,
    *,
    input: Path,
    explain: str | None = None,
    fhir: Annotated[bool, Parameter(negative=())] = False,
    home: Path | None = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> Answer:
    """Answer for one case with a trained model: a picture, a record, a text, a recording or a molecule.

    Exit code 2 says that the case was refused: unreadable, or out of the model's scope.

    Parameters
    ----------
    model
        The folder that `medserve train` wrote.
    input
        What the model takes: a picture (DICOM, PNG, JPEG, TIFF, NIfTI); {"inputs": {NAME: VALUE}} as .json, with
        `patient` where medicines are advised; a FHIR Bundle; a text or FASTA; a recording; one molecule (.smi, .sdf,
        .mol, .mol2).
    explain
        Add an explanation: a method that the model's audit offers, for instance cam or occlusion.
    fhir
        Of a model that advises a treatment: print the answer as a FHIR Bundle.
    home
        Where keys and state live. Default: MEDSERVE_HOME, else ~/.medserve.
    json
        Print exactly one JSON object.
    """
    from medserve.models.signing import Trust
    from medserve.runtime.model import LoadedModel
    from medserve.safety.policy import Standing

    settings = Settings.from_environment(home)
    loaded = LoadedModel.open(
        model, Trust.load(settings), max_pixels=settings.max_pixels, tuned=settings.home / "tuned",
        rules=Standing.open(settings), warn=Progress().say,
    )  # fmt: skip
    data = read_input(input, settings.max_upload_bytes)
    answer = loaded.predict(data, explain, name=input.name)
    if fhir:
        return _as_fhir(loaded, data, answer)
    return Answer(answer, _shown(answer, str(loaded.engine.choice)))


def _as_fhir(loaded: "LoadedModel", data: bytes, answer: dict[str, Any]) -> Answer:
    """Raises: Usage "fhir-not-offered"."""
    import datetime

    import msgspec

    from medserve.serving.fhir import as_fhir, subject_of

    if not loaded.advises:
        raise Usage("fhir-not-offered", "Only advice on a treatment is printed as FHIR.", hint="Leave --fhir out.")
    made = as_fhir(answer, loaded.spec, subject=subject_of(data), at=datetime.datetime.now(datetime.UTC))
    return Answer(made, msgspec.json.format(msgspec.json.encode(made)).decode())


def read_input(path: Path, max_bytes: int) -> bytes:
    """Raises: Usage "input-missing", "input-too-large"."""
    if not path.is_file():
        raise Usage("input-missing", f"{path} is not a file.", hint="Name one file: --input FILE")
    if path.stat().st_size > max_bytes:
        raise Usage("input-too-large", f"{path} is larger than {max_bytes} bytes.", hint="Name the file of one case.")
    return path.read_bytes()


def _shown(answer: dict[str, Any], engine: str) -> Table:
    model, decision = answer["model"], answer["decision"]
    out = Table(title=f"{model['name']} {model['version']}: {answer['status']}", title_justify="left", show_edge=False)
    out.add_column("")
    out.add_column("")
    for output in answer["outputs"]:
        if "probability" in output:
            out.add_row(output["label"], f"{output['probability']:.3f}")
        else:
            interval = output["interval"]
            between = "" if interval is None else f" [{interval[0]:.4g}, {interval[1]:.4g}]"
            value = "not named" if output["value"] is None else f"{output['value']:.4g}"
            out.add_row(output["label"], f"{value}{between} {output['unit'] or ''}".strip())
    for entity in answer["entities"] or ():
        at = f"characters {entity['start']} to {entity['end']}, {entity['probability']:.3f}"
        out.add_row(entity["label"], f"{entity['text']} ({at})")
    if answer["entities"] == []:
        out.add_row("entities", "none")
    if answer["prediction_set"] is not None:
        out.add_row(f"set at {answer['coverage']:.0%} coverage", ", ".join(answer["prediction_set"]) or "empty")
    if answer["effect"] is not None:
        out.add_row("advice", answer["effect"]["advice"])
    if decision is not None:
        threshold = f" (threshold {decision['threshold']:.3g})" if "threshold" in decision else ""
        out.add_row("decision", f"{decision.get('label') or ', '.join(decision['labels']) or 'none'}{threshold}")
    if (domain := answer["domain"]) is not None:
        near = "nearest training molecule" if domain["of"] == "molecules" else "training molecules, in groups"
        out.add_row("likeness", f"{domain['similarity']:.2f} to the {near} (percentile {domain['percentile']:.0f})")
    for one in (answer["safety"] or {"labels": []})["labels"]:
        said = " ".join(item["statement"] for item in one["items"])
        out.add_row("rules of safety", f"{one['label']}: {one['status']}. {said}".strip())
    for reason in answer["reasons"]:
        out.add_row(reason["code"], reason["message"])
    if answer["explanation"] is not None:
        note = answer["explanation"]["note"]
        out.add_row(answer["explanation"]["method"], f"{note} Use --json, or medserve explain, for the picture.")
    out.add_row("engine", engine)
    return out
