"""`medserve inspect`: step 1 alone, what is there and what is wrong with it."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from medserve.cli._answer import Answer
from medserve.progress import Progress
from medserve.settings import Settings


def inspect(
    data: Path,
    *,
    out: Path | None = None,
    write_yaml: Annotated[bool, Parameter(negative=())] = False,
    seed: int = 0,
    home: Path | None = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> Answer:
    """Read every file of DATA and say what is there: counts, kinds, class balance, problems, leaks between parts.

    Nothing is changed; every file is either read or refused with a code.

        medserve inspect films/ --out sheet.html
        medserve inspect films/ --write-yaml > films/dataset.yaml

    Parameters
    ----------
    data
        An .npz, a folder, a table, or a folder with a dataset.yaml.
    out
        Write the page with the picture sheet here.
    write_yaml
        Print what was guessed as a dataset.yaml, to be corrected by hand.
    seed
        The split that `train` would make with this seed.
    home
        Keys, database, caches; left out, MEDSERVE_HOME or ~/.medserve.
    json
        Print one JSON object.
    """
    from medserve.road.inspect import inspect_data, yaml_of

    settings = Settings.from_environment(home)
    if write_yaml:
        text = yaml_of(data, settings)
        return Answer({"yaml": text}, text.rstrip())
    with Progress(quiet=json) as progress:
        result, shown = inspect_data(data, settings=settings, page=out, seed=seed, progress=progress)
    return Answer(result, shown)
