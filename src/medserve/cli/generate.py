"""`medserve generate`: new molecules out of a package that writes them, judged, and made to score well where asked."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.table import Table

from medserve.cli._answer import Answer, figure, table
from medserve.errors import Usage
from medserve.progress import Progress
from medserve.settings import Settings


def generate(
    model: Path,
    /,
    *,
    out: Path,
    n: int | None = None,
    temperature: float | None = None,
    objective: list[str] | None = None,
    like: str | None = None,
    judge: str | None = None,
    budget: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    bar: Path | None = None,
    reference: Path | None = None,
    home: Path | None = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> Answer:
    """Write new molecules: valid, new, different? With --objective, molecules that score well by other packages.

    A run that was stopped goes on where it was when the same command is given again. Molecules that are, or are close
    to, controlled substances are counted and written nowhere; an objective that seeks a toxic effect is refused.

        medserve generate models/prior --n 10000 --out new.csv
        medserve generate models/prior --objective "models/drd2:active>" --objective "qed>" --out best.csv
            --judge "models/second:active>" --budget 4000

    Parameters
    ----------
    model
        A package that `medserve train` wrote from data with `target: {kind: generate}`.
    out
        A CSV file; the figures (.json) and a page with structures drawn (.html) stand beside it.
    n
        How many to draw without an objective. Default: 10,000.
    temperature
        1 is what was learned, below it keeps to what is usual, above it strays. Default: 0.93.
    objective
        PACKAGE:LABEL> for more of a label, PACKAGE:LABEL< for less, qed>, sa<, weight=200..500, logp=1..4. May be given
        several times.
    like
        Also be similar to this SMILES.
    judge
        A further package, as an objective, that is asked about the best molecules at the end.
    budget
        How many different molecules may be scored. Default: 4,000.
    steps
        At most so many batches of learning.
    seed
        The same seed gives the same molecules on the same machine.
    bar
        A file of SMILES, one a line, of which no close analogue is written either.
    reference
        A file of SMILES that were not learned from, for the Frechet ChemNet distance (pip install fcd).
    home
        Where keys and state live. Default: MEDSERVE_HOME, else ~/.medserve.
    json
        Print exactly one JSON object.
    """
    settings = Settings.from_environment(home)
    aimed = bool(objective) or like is not None
    plain = {"n": n, "temperature": temperature, "reference": reference}
    with_objective = {"judge": judge, "budget": budget, "steps": steps}
    for name, value in (with_objective if not aimed else plain).items():
        if value is not None:
            raise Usage("bad-arguments", f"--{name} goes {'without' if aimed else 'with'} an objective.",
                        hint="See: medserve generate --help")  # fmt: skip
    with Progress(quiet=json) as progress:
        if not aimed:
            from medserve.road.generate import TEMPERATURE, write_molecules

            found = write_molecules(model, out, count=10_000 if n is None else n, settings=settings,
                                    temperature=TEMPERATURE if temperature is None else temperature, seed=seed, bar=bar,
                                    reference=reference, progress=progress)  # fmt: skip
            return Answer(found, _written(found))
        from medserve.road.optimise import optimise

        found = optimise(model, out, objectives=objective or [], judge=judge, like=like,
                         budget=4000 if budget is None else budget, steps=steps, seed=seed, bar=bar,
                         settings=settings, progress=progress)  # fmt: skip
        return Answer(found, _searched(found))


def _written(found: dict[str, Any]) -> Table:
    names = ("valid", "unique", "novel", "diversity", "qed", "sa_score", "pains")
    rows = [(name.replace("_", " "), "-" if found[name] is None else f"{found[name]:.3f}") for name in names]
    fcd = "" if found["fcd"] is None else f"{found['fcd']:.3f} "
    rows += [("FCD", fcd + found["fcd_note"]), ("controlled, left out", str(found["barred"]["molecules"]))]
    shown = table(f"{found['model']['name']}: {found['drawn']:,} drawn", "", "", rows=rows)
    shown.caption = f"{found['written']:,} molecules: {found['files'][0]}; page: {found['files'][2]}"
    shown.caption_justify = "left"
    return shown


def _searched(found: dict[str, Any]) -> Table:
    rows = []
    for name, told in (("score", found["score"]), ("judged", found["judged"])):
        if told is not None:
            rows.append((name, f"{told['learned']:.3f}", f"{told['screened']:.3f}", figure(told["difference"])))
    shown = table(f"best of {found['spent']['learned']:,} scored", "", "learned", "screened", "difference [95 %]",
                  rows=rows)  # fmt: skip
    gap = found["gap"]
    said = []
    if gap is not None:
        alarm = ": ALARM" if gap["alarm"] else ""
        said.append(f"Oracle gap {gap['gap']:+.3f}, usual {gap['usual']:+.3f} (sd {gap['sd']:.3f}){alarm}.")
    said += [f"warning {one['code']}: {one['message']}" for one in found["warnings"]]
    said.append(f"Controlled, left out: {found['barred']['molecules']}. Page: {found['files'][2]}")
    shown.caption, shown.caption_justify = "\n".join(said), "left"
    return shown
