"""Invented patients with a film, a note and a number, each of which tells a part of one hidden severity."""

from pathlib import Path

import numpy as np
from PIL import Image

YAML = """
name: fused
table: cases.csv
patient: person
inputs:
  film: {kind: image, column: path}
  note: {kind: text, language: en}
  crp: {kind: number, unit: mg/L, range: [0, 500]}
target: {column: ill, kind: binary, classes: ["no", "yes"]}
"""
SIDE = 24
WORSE = ("short of breath", "fever since days", "coughing up sputum", "pain on breathing")
WELL = ("no complaints", "routine visit", "feels well today", "sleeps and eats well")
PLACES = ("the clinic", "the ward", "the office", "the day unit", "the corridor", "the annex", "the hall", "the gym")
PEOPLE = ("a nurse", "the family", "two students", "a neighbour", "the wife", "a cousin", "the porter", "an aunt")
DOINGS = ("reading", "sitting", "resting", "talking", "walking", "waiting", "knitting", "cooking", "painting")


def film(random: np.random.Generator, amount: float) -> np.ndarray:
    """(SIDE, SIDE) uint8: smooth tissue of a patient's own, and a bright patch of `amount` somewhere in the middle."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    tissue = sum(random.normal(0, 8) * np.cos(np.pi * (i * x + j * y) + random.uniform(0, 6)) for i in range(4)
                 for j in range(4))  # fmt: skip
    at = random.uniform(0.35, 0.65, 2)
    patch = np.exp(-((y - at[0]) ** 2 + (x - at[1]) ** 2) / 0.015)
    return np.clip(100 + tissue + 110 * amount * patch + random.normal(0, 6, (SIDE, SIDE)), 0, 255).astype(np.uint8)


def note(random: np.random.Generator, worse: bool) -> str:
    """Two signs, and three sentences that tell nothing, so that no two notes are alike."""
    said = random.permutation(WORSE if worse else WELL)[:2].tolist()
    said += [f"{random.choice(DOINGS)} with {random.choice(PEOPLE)} in {random.choice(PLACES)}" for _ in range(3)]
    return ". ".join(random.permutation(said).tolist()) + "."


def write_fused(folder: Path, n: int = 160, seed: int = 0, *, gaps: bool = False) -> Path:
    """A folder with its declaration. Three independent signs, one in each input; two of three make a case ill.

    gaps: every seventh film, every ninth note and every eleventh number is missing.
    """
    random = np.random.default_rng(seed)
    (folder / "films").mkdir(parents=True)
    lines = ["person,path,note,crp,ill"]
    for i in range(n):
        signs = random.random(3) < 0.5
        Image.fromarray(film(random, 1.0 if signs[0] else 0.0)).save(folder / "films" / f"{i:04d}.png")
        values = [
            f"films/{i:04d}.png",
            f'"{note(random, bool(signs[1]))}"',
            f"{random.normal(40 + 60 * signs[2], 20):.1f}",
        ]
        values[2] = str(max(0.0, float(values[2])))
        if gaps:
            values = ["" if i % step == step - 1 else v for v, step in zip(values, (7, 9, 11), strict=True)]
        lines.append(",".join([f"p{i}", *values, "yes" if signs.sum() >= 2 else "no"]))
    (folder / "cases.csv").write_text("\n".join(lines) + "\n")
    (folder / "dataset.yaml").write_text(YAML)
    return folder
