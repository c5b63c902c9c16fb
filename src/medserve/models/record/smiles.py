"""Molecules by a pretrained encoder of SMILES (RoBERTa or BERT family): frozen, or fine-tuned by LoRA.

    found = find_encoder("/models/chemberta", settings, kind="molecule")                 # models.encoders
    field = replace(Molecule("smiles"), tokenizer=found.tokenizer, pieces=most_pieces(found.config))
    view  = ENCODERS["frozen-smiles"](block, config=found.config)
    view  = ENCODERS["smiles-lora"](block, config=found.config, rank=8)

What is read is the standard form's canonical SMILES in the pieces of the encoder's own tokenizer, which stand in the
record between descriptors and letters. All else is `models.record.sentence`.
Source: Chithrananda et al., arXiv 2010.09885 (ChemBERTa).
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from medserve.data.fields import Block
from medserve.errors import Usage
from medserve.models.record import ENCODERS
from medserve.models.record.sentence import SentenceView


class SmilesView(SentenceView):
    """(B, F) blocks of molecules -> (B, hidden size)."""

    def __init__(self, block: Block, config: Mapping[str, Any], rank: int, dropout: float) -> None:
        facts = block.facts
        if not facts.get("pieces"):
            raise Usage("pieces-missing", f"{block.name}: its records hold no pieces.", hint="Train with this recipe.")
        pieces, letters = int(facts["pieces"]), int(facts["length"])
        line = Block(block.name, "text", 0, (pieces,), {"vocabulary": facts["vocabulary"]})
        super().__init__(line, config, rank, dropout)
        self.where = slice(block.size - letters - pieces, block.size - letters)

    def fit(self, x: Tensor) -> None:
        super().fit(x[:, self.where])

    def once(self, x: Tensor) -> Tensor:
        return super().once(x[:, self.where])

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[:, self.where])


@ENCODERS.register("frozen-smiles")
def frozen_smiles(block: Block, config: Mapping[str, Any]) -> SmilesView:
    """The encoder as loaded; only what follows it learns."""
    return SmilesView(block, config, rank=0, dropout=0.0)


@ENCODERS.register("smiles-lora")
def smiles_lora(block: Block, config: Mapping[str, Any], rank: int = 8, dropout: float = 0.05) -> SmilesView:
    """Queries, keys and values learn through an adapter of `rank`, scaled by 2."""
    return SmilesView(block, config, rank, dropout)
