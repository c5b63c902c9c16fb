"""`medserve train`: steps 1 to 4 on one data set, ending in a signed model package with its report."""

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from rich.table import Table

from medserve.cli._answer import Answer, decision_of, figure, table
from medserve.progress import Progress
from medserve.settings import Settings


def train(
    data: Path,
    *,
    out: Path,
    question: Literal["diagnosis", "treatment", "discovery"] | None = None,
    recipe: str | None = None,
    seed: int = 0,
    epochs: int | None = None,
    folds: int | None = None,
    leaks: Literal["drop", "refuse", "keep"] = "drop",
    keep: Literal["recipe", "baseline"] | None = None,
    choose: str | None = None,
    audit: Literal["full", "quick", "none"] = "full",
    name: str | None = None,
    weights: str | None = None,
    decision_range: tuple[float, float] | None = None,
    decision_why: str = "",
    engine: Literal["local", "ray"] = "local",
    ray_address: str | None = None,
    home: Path | None = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> Answer:
    """Train a model and its simple baseline on DATA; offer the better one, with a report.

    With no option beyond --out a sound recipe is chosen (`medserve models --for DATA` says which and why). A run that
    was stopped goes on where it was when the same command is given again.

        medserve train chest.npz --out models/chest
        medserve train films/ --out models/films --recipe densenet121 --weights ~/weights/densenet.safetensors

    Parameters
    ----------
    data
        An .npz, a folder, a table, or a folder with a dataset.yaml.
    out
        The folder of the new package; it appears when all is done.
    question
        What is asked of the data: diagnosis, treatment (the effect of one), or discovery (of molecules); left out, what
        the data set declares.
    recipe
        A name from `medserve models`; left out, the recommended one.
    seed
        Decides split, weights and order; the same seed gives the same model on the same machine.
    epochs
        Passes over the training part; left out, the recipe's own number.
    folds
        Also compare recipe and baseline by K-fold cross-validation by patient, and decide on that.
    leaks
        Cases that leak between parts: drop them from the training side, refuse to train, or keep (recorded).
    keep
        Offer this one whatever validation says.
    choose
        Recipes of records to be chosen from by nested cross-validation, all shown: cheap (forest, boosting, linear and
        a small network, and the mean of them), or names with commas. --folds says how many folds; left out, 3.
    audit
        How thoroughly the explanations are checked; quick takes at most 30 seconds.
    name
        The service's name; left out, the data set's.
    weights
        Pretrained weights for a recipe that takes them: a .safetensors file, a URL with #sha256, or package:NAME; for
        texts the folder of an encoder, package:NAME, or hub:OWNER/NAME@REVISION#A,B,C with the sha256 of its files.
    decision_range
        The lowest and highest probability at which somebody would act; the decision curve is judged there.
    decision_why
        Why these two; printed beside the curve.
    engine
        ray: in a worker of a Ray cluster; one that is killed is started anew and goes on from its checkpoint.
    ray_address
        A running cluster, for instance auto; left out, one is started on this machine.
    home
        Keys, database, caches; left out, MEDSERVE_HOME or ~/.medserve.
    json
        Print one JSON object.
    """
    from medserve.road.run import Options
    from medserve.road.train import train_package

    options = Options(
        recipe=recipe,
        seed=seed,
        epochs=epochs,
        folds=folds,
        leaks=leaks,
        keep=keep,
        choose=choose,
        audit=audit,
        name=name,
        question=question,
        weights=weights,
        decision=decision_of(decision_range, decision_why),
    )
    settings = Settings.from_environment(home)
    if engine == "ray":
        from medserve.cluster.training import train_on_ray

        data, out = data.absolute(), out.absolute()  # a worker has a folder of its own
        result = train_on_ray(data, out, settings=settings, options=options, cluster=ray_address, quiet=json)
        return Answer(result, _show(result))
    with Progress(quiet=json) as progress:
        result = train_package(data, out, settings=settings, options=options, progress=progress)
    return Answer(result, _show(result))


def _show(result: dict[str, Any]) -> Table:
    metrics = result["metrics"]
    rows = [(name, figure(metrics[name])) for name in metrics]
    title = f"{result['model']['name']} {result['model']['digest'][:19]}  offered: {result['chosen']}"
    shown = table(title, "test part, once opened", "value [95 % interval]", rows=rows)
    sizes = f"split by {result['split']}: " + ", ".join(f"{part} {n}" for part, n in result["parts"].items())
    shown.caption = (f"{sizes}. Test part opened {result['test_openings']} time(s). {result['seconds']:.0f} s.\n"
                     f"report:  {result['report']}\nserve:   medserve serve --models {result['package']}")  # fmt: skip
    shown.caption_justify = "left"
    return shown
