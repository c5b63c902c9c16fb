"""`medserve models`: what can be trained, ranked for one's own data, or what a package is."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from medserve.cli._answer import Answer, table
from medserve.settings import Settings


def models(
    packages: list[Path] | None = None,
    /,
    *,
    for_: Annotated[Path | None, Parameter(name="--for")] = None,
    home: Path | None = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> Answer:
    """List the recipes; with --for, rank them for DATA; with folders, show what those packages are.

        medserve models
        medserve models --for chest.npz
        medserve models models/chest

    Parameters
    ----------
    packages
        Folders that `medserve train` wrote.
    for_
        A data set: rank the recipes for it, with the reason, the expected figure and the minutes.
    home
        Keys, database, caches; left out, MEDSERVE_HOME or ~/.medserve.
    json
        Print one JSON object.
    """
    settings = Settings.from_environment(home)
    if packages:
        return _packages(packages, settings)
    return _recipes() if for_ is None else _ranked(for_, settings)


def _recipes() -> Answer:
    from medserve.questions.recipes import RECIPES

    rows = [{"name": r.name, "kind": r.kind, "what": r.title, "expected": r.expected, "source": r.source}
            for r in RECIPES.values()]  # fmt: skip
    shown = [(r["name"], r["kind"], r["what"], f"{r['expected']} ({r['source']})") for r in rows]
    return Answer({"recipes": rows}, table("recipes", "name", "takes", "what it is", "measured", rows=shown))


def _ranked(data: Path, settings: Settings) -> Answer:
    from medserve.data.prepare import probe
    from medserve.questions.recipes import rank_recipes
    from medserve.road.collect import list_data

    listing = list_data(data, settings)
    inputs = {said.kind for said in listing.inputs.values()}
    shape = (len(listing.inputs),) if listing.kind == "record" else probe(listing).shape
    ranked = rank_recipes(n=len(listing), shape=shape, task=listing.asked, inputs=inputs)  # type: ignore[arg-type]
    rows = [(r["name"], "yes" if r["suits"] else "no", r["reason"], f"{r['expected']} ({r['source']})",
             "-" if r["minutes"] is None else f"{r['minutes']:.1f}") for r in ranked]  # fmt: skip
    title = f"{listing.name}: {len(listing)} items, {listing.asked}, {'x'.join(map(str, shape))}"
    shown = table(title, "recipe", "suits", "why", "expected elsewhere", "minutes here", rows=rows)
    return Answer({"data": listing.name, "task": listing.asked, "n": len(listing), "shape": list(shape),
                   "recipes": ranked}, shown)  # fmt: skip


def _packages(folders: list[Path], settings: Settings) -> Answer:
    from medserve.models.package import open_package
    from medserve.models.signing import Trust

    trust = Trust.load(settings)
    found: list[dict[str, Any]] = []
    for folder in folders:
        package = open_package(folder, trust)
        spec = package.spec
        found.append({
            "package": str(folder), "name": spec.name, "version": spec.version, "digest": package.digest,
            "signer": package.signer, "architecture": spec.architecture.name, "task": spec.output.task,
            "labels": spec.output.labels, "input": list(spec.shape),
            "explanations": {m.name: m.verdict for m in spec.explanations},
        })  # fmt: skip
    columns = ("name", "version", "digest", "architecture", "labels", "explanations", "signer")
    rows = [tuple(_cell(p[column]) for column in columns) for p in found]
    return Answer({"packages": found}, table("packages", *columns, rows=rows))


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items()) or "-"
    return ", ".join(value) if isinstance(value, list) else str(value)
