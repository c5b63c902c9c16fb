"""Pages written outside a package."""

from pathlib import Path
from typing import Any

from medserve.evaluation.report import write_report
from medserve.runtime.model import LoadedModel


def evaluation_page(path: Path, result: dict[str, Any], model: LoadedModel) -> None:
    """The report of a package on other data."""
    write_report(path, evaluation=result, model=dict(model.card))
