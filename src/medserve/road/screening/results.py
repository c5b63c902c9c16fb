"""What a screen leaves: every score (Parquet), what was refused (CSV), the hits (CSV, SDF), a page with structures.

summary = write_results(work, ranked, hits, summary, plan, settings, progress)

scores.parquet   one row a molecule of the library, in its order; `consensus` is smaller where it is better
refused.csv      row, name, code, message of each that was not scored
hits.csv, .sdf   the best, with rank and pick
report.html      the same for a person
screen.json      counts, figures, what ranked
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from medserve.data.molecules.describe import fingerprint
from medserve.data.molecules.nearest import apart, unlike
from medserve.data.molecules.standard import chemistry
from medserve.errors import Refusal
from medserve.explain.explainers import Target
from medserve.models.signing import Trust
from medserve.progress import Progress
from medserve.road.screening.page import write_page
from medserve.road.screening.plan import Plan
from medserve.road.screening.scorer import column_of
from medserve.runtime.model import LoadedModel
from medserve.settings import Settings
from medserve.store.files import write_bytes

SAID = 10  # hits in the summary


def write_results(
    work: Path, ranked: Path, hits: Sequence[dict[str, Any]], summary: dict[str, Any], plan: Plan, settings: Settings,
    progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    """Into the folder `work`. ranked: a folder of Parquet files, which becomes one. Returns: the summary, completed."""
    parts = sorted(ranked.glob("*.parquet"))
    _refused(parts, work / "refused.csv", plan)
    columns = _columns(plan)
    lazy = pl.scan_parquet(parts).select(pl.col(inside).alias(outside) for outside, inside in columns.items())
    lazy.sink_parquet(work / "scores.parquet", row_group_size=50_000)
    for path in parts:
        path.unlink()
    ranked.rmdir()
    picks = _picks(hits, plan)
    shown = [_hit(rank, hit, picks, plan) for rank, hit in enumerate(hits, 1)]
    _csv(work / "hits.csv", shown)
    _sdf(work / "hits.sdf", shown)
    progress.say("Drawing ...")
    drawn, note = _explained(shown, plan, settings)
    summary |= {"hits": len(shown), "picked": len(picks), "top": shown[:SAID]}
    write_page(work / "report.html", summary, shown, drawn, note, plan)
    write_bytes(work / "screen.json", msgspec.json.format(msgspec.json.encode(summary), indent=1))
    return summary


def _columns(plan: Plan) -> dict[str, str]:
    """Of the results -> of the parts. One model's columns have plain names."""
    found = {name: name for name in ("row", "name", "smiles", "code")}
    found |= {"active": "active"} if plan.columns[2] else {}
    for k, after in enumerate(_after(plan)):
        found |= {"score" + after: f"value_{k}", "status" + after: f"status_{k}"}
        if plan.models[k].task == "number":
            found |= {"low" + after: f"low_{k}", "high" + after: f"high_{k}"}
    found |= {"similarity": "alike", "nearest": "nearest"} if plan.known else {}
    return found | {"seen": "seen", "consensus": "consensus"}


def _after(plan: Plan) -> list[str]:
    return [""] if len(plan.models) == 1 else [f"_{k + 1}" for k in range(len(plan.models))]


def _refused(parts: Sequence[Path], path: Path, plan: Plan) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(("row", "name", "code", "message"))
        for part in parts:
            frame = pl.read_parquet(part, columns=["row", "name", "code", "message"]).filter(pl.col("code") != "")
            out.writerows(frame.iter_rows())


def _picks(hits: Sequence[Mapping[str, Any]], plan: Plan) -> dict[int, int]:
    """Index of a hit -> in what order it was picked, from 1."""
    if not plan.diverse:
        return {}
    prints = [fingerprint(hit["smiles"]) for hit in hits]
    chosen = (apart if plan.pick == "sphere" else unlike)(prints, plan.diverse)
    return {at: order for order, at in enumerate(chosen, 1)}


def _hit(rank: int, hit: Mapping[str, Any], picks: Mapping[int, int], plan: Plan) -> dict[str, Any]:
    found: dict[str, Any] = {"rank": rank, "row": hit["row"], "name": hit["name"], "smiles": hit["smiles"]}
    found |= {
        outside: hit[inside] for outside, inside in _columns(plan).items() if outside not in ("row", "code", *found)
    }
    if plan.known:
        found["nearest"] = plan.known[hit["nearest"]][0]
    return found | {"pick": picks.get(rank - 1)}


def _csv(path: Path, hits: Sequence[Mapping[str, Any]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        out = csv.DictWriter(file, list(hits[0]) if hits else ["rank", "row", "name", "smiles"])
        out.writeheader()
        out.writerows(hits)


def _sdf(path: Path, hits: Sequence[Mapping[str, Any]]) -> None:
    chem = chemistry()
    from rdkit.Chem import rdDepictor

    with open(path, "w", encoding="utf-8") as file:
        for hit in hits:
            mol = chem.MolFromSmiles(hit["smiles"])
            rdDepictor.Compute2DCoords(mol)
            block = chem.MolToMolBlock(mol)
            file.write(hit["name"] + block[block.index("\n") :])  # a name holds no line break, see `Library`
            for field, value in hit.items():
                if value is not None and field != "name":
                    file.write(f">  <{field}>\n{value}\n\n")
            file.write("$$$$\n")


def _explained(hits: Sequence[Mapping[str, Any]], plan: Plan, settings: Settings) -> tuple[dict[int, str], str]:
    """rank -> SVG of the first ones, atoms shaded by what the first model that explains atoms says; and a note."""
    if not plan.explain or not hits:
        return {}, ""
    at = next((k for k, model in enumerate(plan.models) if model.explains), None)
    if at is None:
        return {}, "No package of this screen offers an explanation by atoms: its audit did not pass."
    model = LoadedModel.open(Path(plan.asked[at].package), Trust.load(settings), max_pixels=settings.max_pixels)
    model.check_explain("atoms")
    want = next(one for one in model.spec.inputs if one.kind == "molecule").name
    column = column_of(model.spec, plan.asked[at].target)
    target = Target(0 if model.spec.output.width == 1 else column, plan.models[at].label)
    found: dict[int, str] = {}
    for hit in hits[: plan.explain]:
        body = msgspec.json.encode({"inputs": {want: hit["smiles"]} | plan.asked[at].given})
        try:
            found[hit["rank"]] = str(model.explainer.evidence("atoms", model.load(body), target).svg)
        except Refusal:  # longer than the letters that the model keeps
            continue
    said = f"In the first {len(found)} red atoms raise what {plan.models[at].name} says of {target.label}"
    return found, f"{said}, blue ones lower it; audit of the method: {model.offered['atoms']}."
