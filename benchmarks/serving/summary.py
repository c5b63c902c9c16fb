"""The results file as a page to read. Nothing is computed here that does not stand in the file."""

from typing import Any

TITLES = {
    "per_s": "a second", "p50_ms": "p50, ms", "p99_ms": "p99, ms", "cpu_us": "processor, us a request",
    "mean_batch": "mean batch", "rss_mib": "memory, MiB", "added_ms": "added, ms",
}  # fmt: skip


def markdown(result: dict[str, Any]) -> str:
    parts = [
        "# Serving, measured\n",
        "Median of paired rounds with a 95 % bootstrap interval. Made from serving.json.\n",
    ]
    for name, lane in result["lanes"].items():
        parts.append(f"## {name}: {lane['title']}\n")
        about, plan = lane["machine"], lane["plan"]
        parts.append(
            f"{about['at']}, {about['processor']}, {about['cores']} cores, {' '.join(about['flags'])}; "
            f"{plan['rounds']} mirrored rounds of blocks of {plan['seconds']} s; {lane['took_s']:.0f} s in all.\n"
        )
        if not _clean(lane):
            parts.append("**Others were at work on the machine: too few rounds were clean, so all of them count.**\n")
        if lane.get("levels"):
            parts.append(_levels(lane))
        parts.append(_table(["goal", "bound", "found", "95 %", "met"], [_goal(one) for one in lane["goals"]]))
        if lane.get("tuned"):
            parts.append(f"The tuner chose {lane['tuned']['chosen']}, judged on {lane['tuned']['cases']} cases.\n")
        if lane.get("knobs"):
            parts.append("Best knobs: " + "; ".join(f"{k}: {v}" for k, v in lane["knobs"].items()) + ".\n")
        for peer, why in lane.get("out", {}).items():
            parts.append(f"Out: {peer}: {why[:300]}\n")
        parts += [f"{line}\n" for line in lane.get("notes", [])]
    versions = [
        f"{name}: " + ", ".join(f"{k} {v}" for k, v in found.items()) for name, found in result["peers"].items()
    ]
    parts.append("## Versions\n")
    parts += [f"- {line}" for line in versions]
    return "\n".join(parts) + "\n"


def _clean(lane: dict[str, Any]) -> bool:
    return all(found["clean"] for levels in lane.get("levels", {}).values() for found in levels.values())


def _levels(lane: dict[str, Any]) -> str:
    columns = [c for c in TITLES if any(c in levels for levels in lane["levels"].values())]
    rows = []
    for name, levels in lane["levels"].items():
        cells = [f"{levels[c]['median']:g} [{levels[c]['low']:g}, {levels[c]['high']:g}]" if c in levels else ""
                 for c in columns]  # fmt: skip
        rows.append([name, *cells])
    return _table(["", *(TITLES[c] for c in columns)], rows)


def _goal(one: dict[str, Any]) -> list[str]:
    met = ("yes" if one["sure"] else "yes, not surely") if one["met"] else "no"
    return [one["goal"], f"{one['bound']:g}", f"{one['median']:g}", f"{one['low']:g} to {one['high']:g}", met]


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
