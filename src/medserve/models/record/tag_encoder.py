"""Marking the words of a text with a pretrained encoder of the BERT family: its last layer at each word's first piece.

    net = MODELS["tag-encoder"](channels=F, size=(), outputs=width, blocks=[...],
                                encoders={"text": {"name": "text-lora", "rank": 8, "config": found.config}})
    load_encoder(net, found)                             # models.record.sentence

The record holds the pieces and where each word begins (`data.fields.words.Pieces`). Every word is decided by itself,
but for the two things that no row of tags may hold: an entity that goes on without having begun, and one that goes on
under another name.

Source: Devlin et al., NAACL 2019, section 5.3 (named entities).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from medserve.data.fields import Block
from medserve.models.nets import MODELS, Features
from medserve.models.record import ENCODERS, as_blocks, take_block
from medserve.models.record.tagger import joined, tags_of
from medserve.types import Samples

FORBIDDEN = -20.0  # the score of one tag after another that cannot be


class TagEncoder(nn.Module):
    """forward: (B, F) records with NaN."""

    def __init__(self, block: Block, tags: int, encoder: Mapping[str, Any], dropout: float) -> None:
        super().__init__()
        said = dict(encoder)
        self.block = block
        line = msgspec.structs.replace(block, shape=(block.shape[0],))
        self.view = ENCODERS[said.pop("name")](line, **said)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.view.width, tags)
        self.between: Tensor
        between = torch.zeros(tags, tags)
        for inner in range(2, tags, 2):
            allowed = [before for before in range(tags) if before in (inner - 1, inner)]
            between[:, inner] = FORBIDDEN
            between[allowed, inner] = 0.0
        self.register_buffer("between", between)

    def fit(self, train: Samples) -> None:
        """Nothing to scale."""

    def forward(self, record: Tensor) -> Features:
        x = take_block(record, self.block)
        last, _ = self.view.last_layer(x[..., 0])
        known = torch.isfinite(x[..., 1])
        first = torch.where(known, x[..., 1], 0.0).long().clamp(0, last.shape[1] - 1)
        words = last.gather(1, first.unsqueeze(2).expand(-1, -1, last.shape[2]))
        return joined(self.head(self.dropout(words)), known, self.between)


@MODELS.register("tag-encoder")
def tag_encoder(
    channels: int,
    size: tuple[int, ...],
    outputs: int,
    blocks: Sequence[Any] = (),
    encoders: Mapping[str, Any] | None = None,
    dropout: float = 0.1,
) -> nn.Module:
    """encoders: {"text": {"name": "frozen-text" | "text-lora", "config": ..., parameters}}."""
    (block,) = as_blocks(blocks)
    return TagEncoder(block, tags_of(outputs, block.shape[0]), (encoders or {})["text"], dropout)
