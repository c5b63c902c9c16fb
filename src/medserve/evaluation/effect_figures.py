"""The drawings of a treatment's report, each as one SVG: balance, overlap, value of policies, effects.

svg = balance(result)              # bytes, or None where the evaluation is of another kind
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from medserve.evaluation.figures import BLUE, GREEN, INK, LINES, ORANGE, RED, SOFT, drawing, legend

LIMIT = 0.1  # of a standardised difference that passes for balance
MOST = 30  # columns that a picture shows
ALTS = {
    "balance": "Standardised mean differences between the arms before and after weighting",
    "overlap": "Histogram of the chance of each arm by the arm that was given",
    "policies": "Value of each policy over what was done, with 95% intervals",
    "effects": "Histogram of the estimated effects by advice",
}


def balance(result: Mapping[str, Any]) -> bytes | None:
    """Standardised mean differences before and after weighting, the largest on top."""
    rows = sorted((result.get("effect") or {}).get("balance") or [], key=lambda row: row["before"])[-MOST:]
    if not rows:
        return None
    with drawing(width=6.4, height=1.2 + 0.24 * len(rows)) as (ax, drawn):
        at = np.arange(len(rows))
        ax.plot([row["before"] for row in rows], at, "o", color=ORANGE, label="before weighting")
        ax.plot([row["after"] for row in rows], at, "o", color=BLUE, label="after weighting")
        ax.axvline(LIMIT, color=SOFT, linewidth=0.9, linestyle=":")
        ax.set_yticks(at, [str(row["column"])[:34] for row in rows])
        ax.set(xlabel="Standardised mean difference, training side", xlim=(0, None))
        legend(ax, "lower right")
    return drawn.svg


def overlap(result: Mapping[str, Any]) -> bytes | None:
    """How likely the patients of each arm were to be treated; the band outside which nothing is advised."""
    found = (result.get("effect") or {}).get("overlap")
    if not found:
        return None
    edges, panels = np.asarray(found["edges"]), found["arms"]
    limits = found["band"] if len(panels) == 1 else found["band"][:1]
    with drawing(width=6.4, height=1.2 + 2.4 * len(panels), rows=[1] * len(panels)) as (axes, drawn):
        for ax, (to, arms) in zip(np.atleast_1d(axes), panels.items(), strict=True):
            for k, (arm, counts) in enumerate(arms.items()):
                ax.stairs(counts, edges, color=LINES[k], fill=True, alpha=0.35, label=arm)
            for limit in limits:
                ax.axvline(limit, color=SOFT, linewidth=0.9, linestyle=":")
            ax.set(xlabel=f"Chance of {to}", ylabel="Patients", xlim=(0, 1))
        legend(np.atleast_1d(axes)[0])
    return drawn.svg


def policies(result: Mapping[str, Any]) -> bytes | None:
    """What each policy gains over what was done."""
    rows = [row for row in (result.get("effect") or {}).get("policies") or [] if row["gain"]["low"] is not None]
    if not rows:
        return None
    with drawing(width=7.4, height=1.1 + 0.34 * len(rows)) as (ax, drawn):
        for i, row in enumerate(reversed(rows)):
            span = row["gain"]
            colour = GREEN if span["low"] > 0 else RED if span["high"] < 0 else BLUE
            ax.plot([span["low"], span["high"]], [i, i], color=colour, linewidth=2)
            ax.plot([span["value"]], [i], "o", color=colour)
        ax.axvline(0, color=INK, linewidth=0.8)
        ax.set_yticks(range(len(rows)), [str(row["policy"])[:60] for row in reversed(rows)])
        ax.set_ylim(-0.6, len(rows) - 0.4)
        ax.set(xlabel="Gain over what was done, a patient (better is right)")
    return drawn.svg


def effects(result: Mapping[str, Any]) -> bytes | None:
    """Estimated effects of each arm, by what was advised."""
    found = (result.get("effect") or {}).get("histogram")
    if not found:
        return None
    edges, panels = np.asarray(found["edges"]), found["arms"]
    colours = {"recommended": GREEN, "recommended against": RED, "abstained": SOFT, "another recommended": BLUE}
    with drawing(width=6.4, height=1.2 + 2.4 * len(panels), rows=[1] * len(panels)) as (axes, drawn):
        for ax, (arm, kinds) in zip(np.atleast_1d(axes), panels.items(), strict=True):
            below = np.zeros(len(edges) - 1)
            for kind, counts in kinds.items():
                ax.stairs(below + np.asarray(counts), edges, baseline=below, fill=True, color=colours[kind], alpha=0.7,
                          label=kind)  # fmt: skip
                below = below + np.asarray(counts)
            ax.axvline(0, color=INK, linewidth=0.8)
            ax.set(xlabel=f"Estimated effect of {arm}", ylabel="Patients")
        legend(np.atleast_1d(axes)[0])
    return drawn.svg


DRAWN = {"balance": balance, "overlap": overlap, "policies": policies, "effects": effects}
