"""The panel as one self-contained page: structures, values, a bar for each percentile, flags; no script.

write_page(path, summary, [told, ...], panel)
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medserve.data.molecules.draw import structure
from medserve.errors import Usage
from medserve.road.admet.endpoints import CATEGORIES, ENDPOINTS, RULE
from medserve.road.admet.panel import APPROVED_FLAG, HIGH_FLAG, SEEN_FLAG, UNLIKE_FLAG, Panel, Told
from medserve.store.files import write_bytes

DRAWN = 50  # molecules on the page
WIDTH, HEIGHT = 300, 210  # pixels
_LEVELS = {"above-range": "red", "below-range": "red", UNLIKE_FLAG: "amber", HIGH_FLAG: "amber", SEEN_FLAG: "amber",
           APPROVED_FLAG: "green"}  # fmt: skip
_WORDS = {
    "above-range": "cut at the upper bound",
    "below-range": "cut at the lower bound",
    HIGH_FLAG: "higher than 95 % of drugs",
    UNLIKE_FLAG: "unlike all approved drugs",
    SEEN_FLAG: "in a list of training molecules",
    APPROVED_FLAG: "an approved drug",
}


def write_page(path: Path, summary: Mapping[str, Any], shown: Sequence[Told], panel: Panel) -> None:
    """shown: the molecules that are drawn. Raises: Usage "jinja-missing"."""
    try:
        from medserve.evaluation.report import environment

        template = environment().get_template("admet.html")
    except ImportError as error:
        raise Usage(
            "jinja-missing", "Pages are made with Jinja, which is not installed.",
            hint="Install it: pip install 'medserve[admet]'",
        ) from error  # fmt: skip
    cases = [_case(told, panel, summary["endpoints"]) for told in shown]
    flags = [(_flag(flag), count) for flag, count in summary["flags"].items()]
    write_bytes(path, template.render(s=summary, cases=cases, flags=flags, rule=RULE).encode())


def _case(told: Told, panel: Panel, about: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    from medserve.evaluation.report import image

    svg = image(structure(told.smiles, WIDTH, HEIGHT))
    groups = []
    for category in CATEGORIES if told.values else ():
        rows = [
            {"about": about[at], "value": told.values[at], "raw": told.raw[at], "percentile": told.percentiles[at],
             "spread": told.spread[at], "flags": [_flag(f) for f in told.flags if f.startswith(f"{e.id}:")]}
            for at, e in enumerate(ENDPOINTS) if e.category == category
        ]  # fmt: skip
        groups.append({"name": category, "rows": rows})
    own = [
        {"name": one.about["name"], "answer": answer, "unit": one.about["unit"] or ""}
        for one, answer in zip(panel.own, told.own, strict=True)
    ]
    whole = [_flag(flag) for flag in told.flags if ":" not in flag]
    return {"name": told.name, "told": told, "svg": svg, "groups": groups, "own": own, "flags": whole}


def _flag(flag: str) -> dict[str, str]:
    endpoint, _, kind = flag.rpartition(":")
    return {"endpoint": endpoint, "level": _LEVELS.get(kind, "none"), "word": _WORDS.get(kind, kind)}
