"""NCBI disease: names of diseases in PubMed abstracts, found by the tagger; strict F1 over entities.

    python benchmarks/ncbi_disease.py FOLDER             # holds train.txt, dev.txt and test.txt (CoNLL, BIO)

The penalties of the weights are chosen on the development part; then the tagger is trained on the training and
development parts together and meets the official test part once. Prints one JSON object; the interval is a bootstrap
over sentences. Exits 1 where the test F1 is below 0.78.

Corpus: Dogan, Leaman and Lu, J Biomed Inform 2014. Published on this test part: SciBERT, a transformer that had read a
million papers before, .869 in its first version.
"""

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medserve.data.text.tags import Sentence, read_conll, score_entities
from medserve.models.record.tagger import TaggerSettings, train_tagger

TARGET = 0.78
TRIED = (
    TaggerSettings(l1=0.1, l2=0.1),
    TaggerSettings(l1=0.02, l2=0.3),
    TaggerSettings(l1=0.3, l2=0.03),
    TaggerSettings(l1=0.0, l2=1.0),
)


def run(train: list[Sentence], other: list[Sentence], settings: TaggerSettings) -> dict[str, Any]:
    started = time.process_time()
    tagger = train_tagger(train, settings)
    trained = time.process_time()
    given = [tagger.tag(s.words) for s in other]
    tagged = time.process_time()
    score = score_entities([s.tags for s in other], given)
    words = sum(len(s.words) for s in other)
    return asdict(score) | {
        "train_s": round(trained - started, 1),
        "words_per_s": round(words / (tagged - trained)),
        "attributes": len(tagger.attributes),
        "bytes": len(tagger.save()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    train, dev, test = (read_conll(folder / f"{part}.txt") for part in ("train", "dev", "test"))
    tried = [{"l1": s.l1, "l2": s.l2} | run(train, dev, s) for s in TRIED]
    best = max(range(len(TRIED)), key=lambda i: tried[i]["f1"])
    result = run([*train, *dev], test, TRIED[best])
    print(
        json.dumps(
            {"dev": tried, "chosen": {"l1": TRIED[best].l1, "l2": TRIED[best].l2}, "test": result, "target": TARGET},
            indent=1,
        )
    )
    return 0 if result["f1"] >= TARGET else 1


if __name__ == "__main__":
    raise SystemExit(main())
