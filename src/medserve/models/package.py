"""The model package: the folder that training writes and serving reads. Plain tensors and JSON, no code, signed.

    with new_folder(out) as work:            # store.files
        ...                                  # model.json, weights.safetensors, graph.onnx, selfcheck.safetensors ...
        seal(work, signer, lineage={...})    # manifest.json + manifest.sig
    package = open_package(out, trust)       # every byte checked before anything is parsed

`digest` covers model.json, the weights and the graph: two packages with one digest give one answer. An altered,
missing or additional file, an unknown signer or a link is refused, and so is a signed one that is not what a package
is made of: another name, JSON that parsers disagree on, tensors that lie. `alternative/` is a package of its own.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from medserve.errors import BadPackage
from medserve.models.signing import Signer, Trust
from medserve.models.spec import ModelSpec
from medserve.models.strict import check_tensors, read_json
from medserve.store.files import write_bytes
from medserve.types import Array

MODEL, WEIGHTS, GRAPH, SELFCHECK = "model.json", "weights.safetensors", "graph.onnx", "selfcheck.safetensors"
DOMAIN = "domain.safetensors"  # of models of molecules: what is known of those they were trained on
STEP = "step.onnx"  # of a model that writes: one letter after another; the weights are those of the graph
CARD, SPLIT, MANIFEST, SIGNATURE = "card.json", "split.json", "manifest.json", "manifest.sig"
ALTERNATIVE = "alternative"
_REQUIRED = (MODEL, WEIGHTS, GRAPH, SELFCHECK, CARD, SPLIT)
_CAPS = {MODEL: 4 * 2**20, MANIFEST: 4 * 2**20, SIGNATURE: 64, CARD: 16 * 2**20, SPLIT: 256 * 2**20,
         SELFCHECK: 64 * 2**20, DOMAIN: 64 * 2**20}  # fmt: skip
_CAP = 2 * 2**30  # graph.onnx and weights: one protobuf file holds no more
_PAGE = re.compile(r"evaluation/[A-Za-z0-9_-]{1,64}\.(json|html|png|svg)")
_PAGE_CAP = 64 * 2**20
MAX_FILES = 256


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    sha256: str
    bytes: int


class _Manifest(msgspec.Struct, forbid_unknown_fields=True):
    format: str
    digest: str
    signer: str
    lineage: dict[str, Any]
    files: dict[str, _Entry]


@dataclass(frozen=True, slots=True)
class Package:
    """An opened package; everything in it was verified against the signed manifest."""

    folder: Path
    spec: ModelSpec
    digest: str
    signer: str
    lineage: Mapping[str, Any]

    def path(self, name: str) -> Path:
        return self.folder / name

    @property
    def card(self) -> dict[str, Any]:
        return json.loads(self.path(CARD).read_bytes())

    @property
    def split(self) -> dict[str, Any]:
        return json.loads(self.path(SPLIT).read_bytes())

    def tensors(self, name: str) -> dict[str, Array]:
        """The arrays of `weights.safetensors`, `selfcheck.safetensors` or `domain.safetensors`."""
        from safetensors.numpy import load_file

        return load_file(self.path(name))


def model_digest(folder: Path) -> str:
    """sha256 over the digests of model.json, weights and graph, in that order."""
    whole = hashlib.sha256()
    for name in (MODEL, WEIGHTS, GRAPH):
        whole.update(_sha256(folder / name))
    return f"sha256:{whole.hexdigest()}"


def seal(folder: Path, signer: Signer, *, lineage: Mapping[str, Any]) -> str:
    """Write the manifest over all files now in `folder` and sign it.

    Returns: the model's digest.
    """
    files = {name: {"sha256": _sha256(folder / name).hex(), "bytes": (folder / name).stat().st_size}
             for name in _files(folder) if name not in (MANIFEST, SIGNATURE)}  # fmt: skip
    digest = model_digest(folder)
    manifest = {"format": "medserve-package/1", "digest": digest, "signer": signer.public,
                "lineage": dict(lineage), "files": files}  # fmt: skip
    data = json.dumps(manifest, indent=1, sort_keys=True).encode()
    write_bytes(folder / MANIFEST, data)
    write_bytes(folder / SIGNATURE, signer.sign(data))
    return digest


def open_package(folder: Path, trust: Trust) -> Package:
    """Verify and open.

    Raises: BadPackage, naming the file: "package-missing", "package-incomplete", "package-altered",
        "package-unexpected-file", "package-too-large", "package-signer", "package-signature", "package-json",
        "package-tensors", "package-spec".
    """
    if not (folder / MANIFEST).is_file():
        raise BadPackage(
            "package-missing", f"{folder} holds no model package.", hint="Name a folder that `medserve train` wrote."
        )
    present = {name for name in _files(folder) if name not in (MANIFEST, SIGNATURE)}
    data = _read_capped(folder, MANIFEST)
    try:
        manifest = msgspec.json.decode(data, type=_Manifest)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError) as error:
        raise _altered(folder, MANIFEST) from error
    signature = folder / SIGNATURE
    if not signature.is_file() or signature.stat().st_size != 64:
        raise BadPackage("package-signature", f"{folder} is not signed.", hint="Only signed packages are opened.")
    who = trust.verify(data, signature.read_bytes(), manifest.signer, what=folder)
    read_json(data, MANIFEST)
    if extra := sorted(present - set(manifest.files)):
        raise BadPackage("package-unexpected-file", f"{folder / extra[0]} is not in the signed manifest.",
                         hint="Remove it, or fetch the package again.")  # fmt: skip
    if missing := sorted({*manifest.files, *_REQUIRED} - present):
        raise BadPackage("package-incomplete", f"{folder} lacks {missing[0]}.", hint="Fetch the package again.")
    for name, entry in manifest.files.items():
        cap = cap_of(name)
        if entry.bytes > cap:
            raise BadPackage("package-too-large", f"{folder / name} is {entry.bytes} bytes; at most {cap} are opened.")
        path = folder / name
        if path.stat().st_size != entry.bytes or _sha256(path).hex() != entry.sha256:
            raise _altered(folder, name)
    if model_digest(folder) != manifest.digest:
        raise _altered(folder, MANIFEST)
    for name in sorted(manifest.files):
        if name.endswith(".safetensors"):
            check_tensors(folder / name)
        elif name.endswith(".json"):
            value = read_json((folder / name).read_bytes(), name)
            if not isinstance(value, dict):
                raise BadPackage("package-json", f"{name} is not opened: it is no object.")
    spec = ModelSpec.from_json(_read_capped(folder, MODEL))
    return Package(folder, spec, manifest.digest, who, manifest.lineage)


def cap_of(name: str) -> int:
    """Most bytes of a file of this name. Raises: BadPackage "package-unexpected-file": no package holds such a one."""
    if name in (WEIGHTS, GRAPH, STEP):
        return _CAP
    if name in _CAPS or _PAGE.fullmatch(name):
        return _CAPS.get(name, _PAGE_CAP)
    raise BadPackage(
        "package-unexpected-file", f"{name[:80]!r} is no file of a model package.",
        hint="Tensors, graph, JSON and the pages of evaluation/: nothing else travels in one.",
    )  # fmt: skip


def _altered(folder: Path, name: str) -> BadPackage:
    return BadPackage("package-altered", f"{folder / name} is not what was signed.", hint="Fetch the package again.")


def _files(folder: Path) -> list[str]:
    """Relative names of all regular files; links and anything else are refused; `alternative/` stands apart."""
    names: list[str] = []
    for root, folders, files in os.walk(folder):
        if Path(root) == folder and ALTERNATIVE in folders:
            folders.remove(ALTERNATIVE)
        for name in [*folders, *files]:
            path = Path(root) / name
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                raise BadPackage("package-unexpected-file", f"{path} is a link or a special file.",
                                 hint="A package holds plain files only.")  # fmt: skip
            if name in files:
                if path.stat().st_nlink > 1:
                    raise BadPackage("package-unexpected-file", f"{path} is a hard link.",
                                     hint="Copy the package: each of its files stands alone.")  # fmt: skip
                names.append(path.relative_to(folder).as_posix())
            if len(names) > MAX_FILES:
                raise BadPackage("package-too-large", f"{folder} holds more than {MAX_FILES} files.")
    return sorted(names)


def _read_capped(folder: Path, name: str) -> bytes:
    cap = _CAPS[name]
    with open(folder / name, "rb") as file:
        data = file.read(cap + 1)
    if len(data) > cap:
        raise BadPackage("package-too-large", f"{folder / name} is larger than {cap} bytes.")
    return data


def _sha256(path: Path) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
