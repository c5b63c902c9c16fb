"""Invented sentences with diseases in them: a kind and a name ("colon cancer"); the same kinds stand elsewhere too."""

import json
from pathlib import Path

import numpy as np

from medserve.data.text.tags import Sentence, entities

KINDS = ("breast", "colon", "renal", "ovarian", "gastric", "hepatic")
NAMES = ("cancer", "carcinoma", "dystrophy", "anaemia")
SIGNS = ("fever", "cough")


def sentences(count: int, seed: int = 0, *, signs: bool = False) -> list[Sentence]:
    """signs: with a second name, "Sign", of one word."""
    random, made = np.random.default_rng(seed), []
    for _ in range(count):
        words = ["The", str(random.choice(["patient", "mother", "clinic"])), "had"]
        tags = ["O"] * 3
        for _ in range(random.integers(1, 4)):
            drawn = random.random()
            if signs and drawn < 0.3:
                words.append(random.choice(SIGNS))
                tags.append("B-Sign")
            elif drawn < 0.65:
                words += [random.choice(KINDS), random.choice(NAMES)]
                tags += ["B-Disease", "I-Disease"]
            else:
                words += [random.choice(KINDS), random.choice(["tissue", "surgery"])]
                tags += ["O", "O"]
            words += ["in", f"{random.choice(['spring', 'summer', 'winter'])}", str(random.integers(1000, 9999)), "and"]
            tags += ["O"] * 4
        words[-1] = "."
        made.append(Sentence(tuple(map(str, words)), tuple(tags)))
    return made


def write_conll(folder: Path, *, train: int = 120, other: int = 40, signs: bool = False) -> Path:
    """train.txt, dev.txt and test.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, count) in enumerate((("train", train), ("dev", 2 * other), ("test", other))):
        said = sentences(count, seed, signs=signs)
        lines = ["\n".join(f"{w}\t-\t{t}" for w, t in zip(s.words, s.tags, strict=True)) for s in said]
        (folder / f"{name}.txt").write_text("\n\n".join(lines) + "\n")
    return folder


def rows(count: int, seed: int = 0) -> list[dict[str, object]]:
    """Rows of a table: note, spans in characters, person; the note begins with spaces."""
    found = []
    for n, s in enumerate(sentences(count, seed)):
        starts = np.cumsum([2, *(len(w) + 1 for w in s.words)]).tolist()
        spans = [[starts[a], starts[b - 1] + len(s.words[b - 1]), name] for a, b, name in entities(s.tags)]
        found.append({"note": "  " + " ".join(s.words), "spans": spans, "person": f"p{n // 2}"})
    return found


def write_jsonl(path: Path, count: int, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(row) for row in rows(count, seed)) + "\n")
    return path
