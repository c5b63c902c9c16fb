"""The page of a screen: its figures, its hits with their structures, what was refused. No script, nothing loaded.

write_page(path, summary, hits, explained, note, plan)
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medserve.data.molecules.draw import structure
from medserve.evaluation.report import environment, image
from medserve.evaluation.wording import NOT_VALIDATED
from medserve.road.screening.plan import Plan
from medserve.store.files import write_bytes

DRAWN = 120  # hits with a structure; the files hold all
TITLES = {"ef_1": "EF 1 %", "bedroc_20": "BEDROC (20)", "auroc": "AUROC"}


def write_page(
    path: Path, summary: Mapping[str, Any], hits: Sequence[Mapping[str, Any]], explained: Mapping[int, str], note: str,
    plan: Plan,
) -> None:  # fmt: skip
    """explained: rank -> SVG with atoms shaded. note: what is to be said of them."""
    drawn = sorted(hits, key=lambda hit: (hit["pick"] is None, hit["rank"]))[: DRAWN // 2] + list(hits[:DRAWN])
    ranks = sorted({hit["rank"] for hit in drawn})[:DRAWN]
    cards = [_card(hits[rank - 1], explained.get(rank), plan) for rank in ranks]
    page = (
        environment()
        .get_template("screen.html")
        .render(
            s=summary, plan=plan, hits=cards, titles=TITLES, note=note, not_validated=NOT_VALIDATED,
            shown=len(cards), chosen="sphere exclusion" if plan.pick == "sphere" else "MaxMin",
        )
    )  # fmt: skip
    write_bytes(path, page.encode())


def _card(hit: Mapping[str, Any], explained: str | None, plan: Plan) -> dict[str, Any]:
    lines = []
    for k, model in enumerate(plan.models):
        after = "" if len(plan.models) == 1 else f"_{k + 1}"
        text = f"{hit['score' + after]:.4g}"
        if hit.get("low" + after) is not None:
            text += f" [{hit['low' + after]:.4g}, {hit['high' + after]:.4g}]"
        text += f" {model.unit}" if model.unit else ""
        if hit["status" + after] == "abstained":
            text += ", abstained"
        lines.append((f"{model.name}: {model.label}", text))
    if plan.known:
        lines.append(("most alike", f"{hit['similarity']:.2f} to {hit['nearest']}"))
    svg = explained.encode() if explained else structure(hit["smiles"])
    return {**hit, "lines": lines, "svg": image(svg), "explained": explained is not None}
