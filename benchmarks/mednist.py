"""Six-class MedNIST subset by the default recipe: which kind of picture is this?

    python benchmarks/mednist.py PATH/mednist_subset.zip --out RUNS

Unpacks the archive, declares the suggested split (within a class by name: 400 train, 50 validation, 50 test) in a
table, trains through `medserve train` and prints one JSON object with the test figures. Exits 1 below accuracy 0.99.
"""

import argparse
import csv
import json
import subprocess
import sys
import time
import zipfile
from pathlib import Path

ACCURACY = 0.99
IMAGES = (".jpeg", ".jpg", ".png")


def unpack(archive: Path, folder: Path) -> Path:
    """Pictures and `labels.csv` with the columns path, label and split."""
    with zipfile.ZipFile(archive) as zipped:
        names = sorted(n for n in zipped.namelist() if n.lower().endswith(IMAGES) and "__MACOSX" not in n)
        zipped.extractall(folder, names)
    by_class: dict[str, list[str]] = {}
    for name in names:
        by_class.setdefault(Path(name).parent.name, []).append(name)
    with open(folder / "labels.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "split"])
        for label, members in by_class.items():
            for place, name in enumerate(members):
                table.writerow([name, label, "train" if place < 400 else "val" if place < 450 else "test"])
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures, the package and a home")
    parser.add_argument("--recipe")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    data = unpack(given.archive, given.out / "pictures")
    command = [sys.executable, "-m", "medserve.cli", "train", str(data / "labels.csv"), "--question", "diagnosis"]
    command += ["--out", str(given.out / f"seed-{given.seed}"), "--seed", str(given.seed), "--audit", "none", "--json"]
    command += ["--home", str(given.out / "home")]
    command += ["--recipe", given.recipe] if given.recipe else []
    command += ["--epochs", str(given.epochs)] if given.epochs else []
    started = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout)
    told = json.loads(done.stdout)
    accuracy = told["metrics"]["accuracy"]
    keys = ("recipe", "seed", "parts", "chosen", "metrics")
    result = {key: told[key] for key in keys} | {"wall_s": round(time.monotonic() - started, 1)}
    print(json.dumps(result | {"reached": accuracy["value"] >= ACCURACY}, indent=1))
    return 0 if accuracy["value"] >= ACCURACY else 1


if __name__ == "__main__":
    sys.exit(main())
