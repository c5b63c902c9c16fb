"""`medserve explain`: why this answer, as a picture and as numbers."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from medserve.cli._answer import Answer
from medserve.errors import Usage
from medserve.settings import Settings


def explain(
    package: Path,
    *,
    input: Path,
    out: Path,
    method: str | None = None,
    home: Path | None = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> Answer:
    """Draw the evidence for one prediction: over its picture, on its structure, or beside its values.

    The method is the best one that passed this model's audit; a method that failed is not offered. Beside the picture
    the raw map is written as a .json of the same name; of a molecule the structure as .svg too.

        medserve explain models/chest --input film.dcm --out heat.png

    Parameters
    ----------
    package
        A folder that `medserve train` wrote.
    input
        The file of one case, as for `medserve predict`.
    out
        The PNG to write.
    method
        One that the package offers (`medserve models PACKAGE`): cam, occlusion, integrated-gradients, shapley, words,
        segments, atoms, residues, neighbours.
    home
        Keys, database, caches; left out, MEDSERVE_HOME or ~/.medserve.
    json
        Print one JSON object.
    """
    from medserve.cli.predict import read_input
    from medserve.road.explain import explain_picture

    settings = Settings.from_environment(home)
    written = {out.resolve(), *(out.with_suffix(kind).resolve() for kind in (".json", ".svg"))}
    if input.resolve() in written:
        raise Usage(
            "out-is-input", f"--out {out} would write over the input: the values go into a .json of the same name.",
            hint=f"Give --out another name, for instance {out.stem}-evidence.png.",
        )  # fmt: skip
    data = read_input(input, settings.max_upload_bytes)
    result = explain_picture(package, data, out, name=input.name, method=method, settings=settings)
    return Answer(result, f"{result['method']} ({result['verdict']}): {', '.join(result['files'])}")
