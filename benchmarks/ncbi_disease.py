"""NCBI disease: names of diseases in PubMed abstracts, found by the default recipe; strict F1 over entities.

    python benchmarks/ncbi_disease.py FOLDER --out RUNS      # FOLDER holds train.txt, dev.txt and test.txt (CoNLL, BIO)
    python benchmarks/ncbi_disease.py FOLDER --out RUNS --recipe entities-bert --weights /models/biobert

The whole road: train on the official training part, choose on the halves of the development part, open the official
test part once; then the package is measured again by `medserve evaluate`'s own call, and must give the same figure.
Prints one JSON object; intervals are a bootstrap over sentences. Exits 1 where the test F1 is below 0.78.

Corpus: Dogan, Leaman and Lu, J Biomed Inform 2014. Published on this test part: SciBERT, a transformer that had read a
million papers before, .869 in its first version.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from medserve.models.signing import Trust
from medserve.road.evaluate import evaluate_package
from medserve.road.run import Options
from medserve.road.train import train_package
from medserve.runtime.model import LoadedModel
from medserve.settings import Settings

TARGET = 0.78
ASKED = "Familial colon cancer was found in two of the families. BRCA1 was normal; no ataxia-telangiectasia was seen."


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--recipe")
    parser.add_argument("--weights")
    parser.add_argument("--epochs", type=int)
    given = parser.parse_args()
    settings = Settings(home=given.out / "home")
    options = Options(recipe=given.recipe, weights=given.weights, epochs=given.epochs, name="ncbi-disease")
    made = train_package(given.folder, given.out / "model", settings=settings, options=options)
    package = Path(made["package"])
    told = json.loads((package / "evaluation" / "test.json").read_text())
    again = evaluate_package(package, given.folder, "test", settings=settings)
    model = LoadedModel.open(package, Trust.load(settings))
    started = time.perf_counter()
    answer = model.predict(ASKED.encode())
    answered_s = time.perf_counter() - started
    result: dict[str, Any] = {
        "recipe": made["recipe"],
        "offered": made["chosen"],
        "decision": {name: made["decision"][name] for name in ("on", "recipe", "baseline", "difference")},
        "parts": made["parts"],
        "test": made["metrics"],
        "baseline": told["baseline"]["metrics"]["entity_f1"] if made["chosen"] == "recipe" else None,
        "mistakes": told["entities"]["mistakes"],
        "again": again["metrics"]["entity_f1"]["value"],
        "seconds": made["seconds"],
        "package_bytes": sum(f.stat().st_size for f in package.iterdir() if f.is_file()),
        "one_answer_ms": round(1000 * answered_s, 1),
        "asked": [entity["text"] for entity in answer["entities"]],
        "target": TARGET,
    }
    print(json.dumps(result, indent=1))
    same = abs(result["again"] - made["metrics"]["entity_f1"]["value"]) < 1e-9
    return 0 if same and made["metrics"]["entity_f1"]["value"] >= TARGET else 1


if __name__ == "__main__":
    raise SystemExit(main())
