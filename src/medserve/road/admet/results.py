"""What the panel leaves: a table (CSV, Parquet), its columns explained, what was refused, a page with structures.

    panel.csv, panel.parquet   one row a molecule, in the order of the file
    columns.csv                each column: unit, bounds, source, what the library measured
    refused.csv                row, name, code, message
    report.html                the first molecules, drawn
    admet.json                 counts, flags, models, licences

Numbers in the table are within the bounds of their quantity; a value that was cut stands in `flags`, as it was.
"""

import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from medserve.progress import Progress
from medserve.road.admet.endpoints import ENDPOINTS, NUMBER, PROBABILITY, RULE
from medserve.road.admet.page import DRAWN, write_page
from medserve.road.admet.panel import UNLIKE, Panel, Told
from medserve.road.admet.shipped import VERSION
from medserve.store.files import write_bytes

SAID = 100  # molecules in the answer beside a folder that holds all
WEAK_R2, WEAK_AUROC = 0.3, 0.7  # a model that the library itself measured below is marked
WARNINGS = (
    "Screening ranks, not doses: no value here was measured, and none may guide a treatment.",
    "ADMET-AI states no intervals, and its training data do not come with it: a spread is the disagreement of five "
    "networks, and whether a molecule was among the training data of Therapeutics Data Commons is not known here.",
    "A percentile compares a value with those that the same models give to approved drugs.",
)


def about(panel: Panel, path: Path) -> dict[str, Any]:
    """What is said of the file, the models and the endpoints."""
    models: list[dict[str, Any]] = []
    if panel.shipped is not None:
        models.append({
            "name": "ADMET-AI", "version": VERSION, "licence": "MIT",
            "data": "Therapeutics Data Commons; each data set has a licence of its own", "intervals": "none",
            "training": "unknown: the data do not come with the models",
            "reference": f"{len(panel.approved or ())} approved drugs, derived from DrugBank",
        })  # fmt: skip
    return {
        "file": path.name,
        "models": models + [one.about for one in panel.own],
        "endpoints": endpoints_of(panel),
        "unlike_below": UNLIKE,
        "notes": list(WARNINGS) if panel.shipped is not None else list(WARNINGS[:1]),
    }


def endpoints_of(panel: Panel) -> list[dict[str, Any]]:
    """Every endpoint with its unit, bounds and source, and the figures that the library states."""
    if panel.shipped is None:
        return []
    figures = panel.shipped.figures()
    return [
        {
            "id": e.id, "name": e.name, "category": e.category, "kind": e.kind, "unit": e.unit, "low": e.low,
            "high": e.high, "source": e.source, "note": e.note, "figures": figures.get(e.id, {}),
            "weak": is_weak(e.kind, figures.get(e.id, {})),
        }
        for e in ENDPOINTS
    ]  # fmt: skip


def is_weak(kind: str, figures: Mapping[str, float | None]) -> bool:
    """Whether the library's own figure is so low that a value says little."""
    if kind == NUMBER:
        return (figures.get("R2") or 0.0) < WEAK_R2
    return kind == PROBABILITY and (figures.get("AUROC") or 0.0) < WEAK_AUROC


def one_of(told: Told, panel: Panel) -> dict[str, Any]:
    """One molecule for the wire."""
    if told.code:
        return {"name": told.name, "error": {"code": told.code, "message": told.message}}
    found: dict[str, Any] = {
        "name": told.name, "smiles": told.smiles, "inchikey": told.key, "flags": told.flags,
        "approved_drug": told.approved,
        "nearest_approved": None if told.similarity is None else {"name": told.nearest, "similarity": told.similarity},
        "seen": told.seen,
        "own": [{"model": one.about["name"], **answer} for one, answer in zip(panel.own, told.own, strict=True)],
    }  # fmt: skip
    values: dict[str, Any] = {}
    for endpoint, value, raw, percentile, spread in zip(
        ENDPOINTS if told.values else (), told.values, told.raw, told.percentiles, told.spread, strict=True
    ):
        values[endpoint.id] = {"value": value, "raw": raw, "unit": endpoint.unit, "percentile": percentile,
                               "spread": spread, "interval": None}  # fmt: skip
    return found | {"endpoints": values}


class Tally:
    """Counts of what was answered, refused and flagged, and the first molecules, up to `most`."""

    def __init__(self, panel: Panel, most: int = SAID) -> None:
        self._panel, self._most = panel, most
        self.n, self.codes, self.flags = 0, Counter[str](), Counter[str]()
        self.first: list[dict[str, Any]] = []

    def add(self, told: Told) -> None:
        self.n += 1
        if told.code:
            self.codes[told.code] += 1
        self.flags.update(told.flags)
        if len(self.first) < self._most:
            self.first.append(one_of(told, self._panel))

    def as_dict(self) -> dict[str, Any]:
        return {
            "n": self.n,
            "answered": self.n - self.codes.total(),
            "refused": dict(self.codes),
            "flags": dict(self.flags.most_common()),
            "molecules": self.first,
        }


def write_results(
    work: Path,
    parts: Iterable[list[Told]],
    said: dict[str, Any],
    panel: Panel,
    progress: Progress,
) -> dict[str, Any]:
    """Into the folder `work`, in one pass over the parts. Returns: the summary, completed."""
    tally = Tally(panel)
    shown: list[Told] = []
    columns = _columns(panel)
    with (
        open(work / "panel.csv", "w", encoding="utf-8", newline="") as table,
        open(work / "refused.csv", "w", encoding="utf-8", newline="") as refused,
    ):
        rows, bad = csv.writer(table), csv.writer(refused)
        rows.writerow(columns)
        bad.writerow(["row", "name", "code", "message"])
        for number, told in enumerate(one for part in parts for one in part):
            tally.add(told)
            rows.writerow(_row(told, panel))
            if told.code:
                bad.writerow([number + 1, told.name, told.code, told.message])
            elif len(shown) < DRAWN:
                shown.append(told)
    _parquet(work, columns)
    _explain(work / "columns.csv", said["endpoints"], panel)
    progress.say("Drawing ...")
    summary = said | tally.as_dict()
    write_page(work / "report.html", summary, shown, panel)
    write_bytes(work / "admet.json", msgspec.json.format(msgspec.json.encode(summary), indent=1))
    return summary


_FIRST = ("name", "smiles", "inchikey", "code", "flags", "approved_drug", "nearest_approved", "similarity", "seen")
_TEXTS = frozenset(_FIRST) - {"similarity"}


def _columns(panel: Panel) -> dict[str, bool]:
    """Name -> whether it holds numbers."""
    found = {name: name not in _TEXTS for name in _FIRST}
    for endpoint in ENDPOINTS if panel.shipped is not None else ():
        found |= {endpoint.id: True, f"{endpoint.id}_percentile": True}
        if endpoint.kind != RULE:
            found[f"{endpoint.id}_spread"] = True
    for at, one in enumerate(panel.own):
        name = own_name(panel, at)
        if one.about["task"] == "number":
            found |= {name: True, f"{name}_low": True, f"{name}_high": True}
        else:
            found |= {f"{name}_{label}": True for label in one.about["labels"]} | {f"{name}_set": False}
        found |= {f"{name}_similarity": True, f"{name}_status": False, f"{name}_seen": False}
    return found


def own_name(panel: Panel, at: int) -> str:
    """A package's own name, with its number where two share one."""
    names = [one.about["name"] for one in panel.own]
    return names[at] if names.count(names[at]) == 1 else f"{names[at]}-{at + 1}"


def _row(told: Told, panel: Panel) -> list[Any]:
    cells: list[Any] = [told.name, told.smiles, told.key, told.code, " ".join(told.flags), _yes(told.approved)]
    cells += [told.nearest, _number(told.similarity), " ".join(told.seen)]
    for at, endpoint in enumerate(ENDPOINTS if panel.shipped is not None else ()):
        there = bool(told.values)
        cells += [_number(told.values[at]), f"{told.percentiles[at]:.2f}"] if there else ["", ""]
        if endpoint.kind != RULE:
            cells.append(_number(told.spread[at]) if there else "")
    for one, answer in zip(panel.own, told.own or [{}] * len(panel.own), strict=True):
        outputs = answer.get("outputs")
        if one.about["task"] == "number":
            value, interval = (outputs[0]["value"], outputs[0]["interval"]) if outputs else (None, None)
            cells += [_number(value), *(map(_number, interval or (None, None)))]
        else:
            shares = {o["label"]: o["probability"] for o in outputs or ()}
            cells += [_number(shares.get(label)) for label in one.about["labels"]]
            cells.append("|".join(answer.get("prediction_set") or ()))
        cells.append(_number((answer.get("domain") or {}).get("similarity")))
        cells += [answer.get("status") or answer.get("code") or "", _yes(answer.get("seen"))]
    return cells


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _yes(said: bool | None) -> str:
    return "" if said is None else "yes" if said else "no"


def _parquet(work: Path, columns: Mapping[str, bool]) -> None:
    """Beside the CSV, where polars is installed."""
    try:
        import polars as pl
    except ImportError:
        return
    schema = {name: pl.Float64 if number else pl.String for name, number in columns.items()}
    pl.scan_csv(work / "panel.csv", schema=schema).sink_parquet(work / "panel.parquet")


def _explain(path: Path, endpoints: Sequence[Mapping[str, Any]], panel: Panel) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        out = csv.writer(file)
        out.writerow(["column", "name", "category", "kind", "unit", "low", "high", "source", "n", "AUROC", "R2", "MAE",
                      "weak", "note"])  # fmt: skip
        for e in endpoints:
            said = [e["figures"].get(k) for k in ("n", "AUROC", "R2", "MAE")]
            out.writerow([e["id"], e["name"], e["category"], e["kind"], e["unit"], e["low"], e["high"], e["source"],
                          *said, _yes(e["weak"]), e["note"]])  # fmt: skip
        for at, one in enumerate(panel.own):
            out.writerow([own_name(panel, at), one.about["name"], "own", one.about["task"], one.about["unit"], "", "",
                          one.about["digest"], "", "", "", "", "", one.about["intervals"]])  # fmt: skip
