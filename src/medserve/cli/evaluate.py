"""`medserve evaluate`: step 4 again, on a part of the training data or on other data."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from medserve.cli._answer import Answer, decision_of, figure, table
from medserve.progress import Progress
from medserve.settings import Settings


def evaluate(
    package: Path,
    *,
    data: Path,
    part: Literal["train", "val", "calibration", "test", "all"] = "test",
    out: Path | None = None,
    decision_range: tuple[float, float] | None = None,
    decision_why: str = "",
    home: Path | None = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> Answer:
    """Measure a package on DATA: every figure with a 95 % interval, and a report.

    On the data it was trained on, name the part; each opening of the test part is counted. On other data the part is
    `all`.

        medserve evaluate models/chest --data chest.npz --part test
        medserve evaluate models/chest --data other-hospital/ --part all --out other.html

    Parameters
    ----------
    package
        A folder that `medserve train` wrote.
    data
        As for train.
    part
        Which cases of DATA.
    out
        Also write the HTML report here.
    decision_range
        The lowest and highest probability at which somebody would act; the decision curve is judged there.
    decision_why
        Why these two; printed beside the curve.
    home
        Keys, database, caches; left out, MEDSERVE_HOME or ~/.medserve.
    json
        Print one JSON object.
    """
    from medserve.road.evaluate import evaluate_package

    settings = Settings.from_environment(home)
    with Progress(quiet=json) as progress:
        result = evaluate_package(
            package,
            data,
            part,
            settings=settings,
            progress=progress,
            report=out,
            decision=decision_of(decision_range, decision_why),
        )
    rows = [(name, figure(value)) for name, value in result["metrics"].items()]
    return Answer(result, table(f"{part}, {result['n']} cases", "metric", "value [95 % interval]", rows=rows))
