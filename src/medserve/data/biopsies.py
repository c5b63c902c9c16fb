"""A real table of patients that an installed dependency ships: 569 breast biopsies, measured under the microscope.

    data = write_biopsies(folder)            # folder/biopsies.csv and folder/dataset.yaml

Source: Wisconsin Diagnostic Breast Cancer (Wolberg, Street, Mangasarian, 1995), UCI 17, CC BY 4.0, as scikit-learn
carries it. One row is one patient; the data names none.
"""

import csv
from pathlib import Path

from medserve.store.files import cannot_write

DECLARATION = """name: breast-biopsies
source: Wisconsin Diagnostic Breast Cancer, UCI 17, as scikit-learn ships it
licence: CC BY 4.0
citation: Wolberg, Street and Mangasarian (1995)
table: biopsies.csv
independent: true
public: true
target: {column: diagnosis, kind: binary, classes: [benign, malignant]}
"""


def write_biopsies(folder: Path) -> Path:
    """The table and its declaration. Raises: Fault "disk-full", "file-unwritable"."""
    from sklearn.datasets import load_breast_cancer

    found = load_breast_cancer()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "biopsies.csv", "w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow([*found.feature_names, "diagnosis"])
            for values, label in zip(found.data.tolist(), found.target, strict=True):
                rows.writerow([*map(repr, values), found.target_names[label]])
        (folder / "dataset.yaml").write_text(DECLARATION, encoding="utf-8")
    except OSError as error:
        raise cannot_write(folder, error) from error
    return folder
