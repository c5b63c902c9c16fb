"""What was recognised, written out as a `dataset.yaml` to be checked and kept: `medserve inspect DATA --write-yaml`.

text = write_yaml(listing)          # parses back to the same labels
"""

from typing import Any

import msgspec
import yaml

from medserve.data.declaration import Input
from medserve.data.forms.listing import Listing


def write_yaml(listing: Listing) -> str:
    """The declaration of a listing. Source and licence, which nothing can guess, are left for a person to fill in."""
    columns = listing.columns
    target: dict[str, Any] = {"kind": listing.task}
    if listing.medicines:
        target = {"kind": "medicines"}
    elif listing.task == "effect":  # declared already: nothing of a trial can be guessed
        assert listing.declaration is not None and listing.declaration.target is not None
        said = msgspec.to_builtins(listing.declaration.target)
        target = {k: v for k, v in said.items() if v is not None}
    elif listing.task == "survival":
        time, event = columns["label"].split(", ")
        target |= {"column": time, "event": event}
    elif columns.get("label"):
        names = columns["label"].split(", ")
        target["column"] = names if len(names) > 1 else names[0]
    if (
        listing.task not in ("number", "survival", "generate", "effect") and listing.labels and not listing.medicines
    ):  # of tags, the names of the entities
        target["classes"] = list(listing.labels)
    if listing.unit:
        target["unit"] = listing.unit
    inputs: dict[str, Any] = {"image": {"kind": listing.kind}}
    if columns.get("file"):
        inputs["image"]["column"] = columns["file"]
    if listing.kind == "record":
        said = {name: msgspec.to_builtins(given) for name, given in listing.inputs.items()}
        usual = msgspec.to_builtins(Input(kind=""))
        inputs = {name: {k: v for k, v in given.items() if v != usual[k]} for name, given in said.items()}
    out: dict[str, Any] = {
        "name": listing.name,
        "source": listing.source.get("source", "say where it came from"),
        "licence": listing.source.get("licence", "say under which terms it may be used"),
    }
    for key in ("citation", "synthetic"):
        if key in listing.source:
            out[key] = listing.source[key]
    if len(listing.tables) == 1:
        out["table"] = listing.tables[0]
    elif listing.form == "npz":
        out["files"] = listing.items[0].file.name if listing.items else listing.path.name
    if columns.get("patient"):
        out["patient"] = columns["patient"]
    elif listing.independent:
        out["independent"] = True
    if columns.get("part"):
        out["split"] = columns["part"]
    elif listing.split:
        out["split"] = {k: v for k, v in listing.split.items() if v is not None}
    out |= {"inputs": inputs, "target": target}
    if listing.declaration is not None and listing.declaration.treatment is not None:
        trial = msgspec.to_builtins(listing.declaration.treatment)
        out["treatment"] = {k: v for k, v in trial.items() if v is not None}
    if listing.subgroups:
        out["subgroups"] = list(listing.subgroups)
    out["public"] = bool(listing.source.get("public", False))
    return yaml.safe_dump(out, sort_keys=False, allow_unicode=True, width=110)
