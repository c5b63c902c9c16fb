"""A pretrained encoder of text made on the spot, as published ones stand on disk, and notes that its pieces cover."""

from pathlib import Path

import numpy as np

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "pneumonia", "pneumo", "##thorax", "no", "of", "evidence", ".", "lung",
          "the", "left", "right", "film", "shows", "seen", "heart", "normal"]  # fmt: skip
FILLER = ("the", "left", "right", "film", "shows", "seen", "heart", "normal", "lung")


def write_encoder(folder: Path, pieces: list[str] = PIECES) -> Path:
    """config.json, model.safetensors with a pooler that is not used, and vocab.txt."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(pieces), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=40,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n")
    return folder


def write_smiles_encoder(folder: Path) -> Path:
    """config.json, model.safetensors and tokenizer.json of a masked language model of the RoBERTa family, untrained."""
    import torch
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import RobertaConfig, RobertaForMaskedLM

    marks = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    letters = ["C", "c", "N", "n", "O", "o", "S", "s", "F", "Cl", "(", ")", "=", "#", "1", "2", "[N+]", "[O-]"]
    words = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(marks + letters)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Split(Regex(r"\[[^\]]+\]|Br|Cl|."), "isolated")
    words.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=len(marks + letters), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=48, max_position_embeddings=66, type_vocab_size=1,
    )  # fmt: skip
    RobertaForMaskedLM(config).save_pretrained(folder)
    words.save(str(folder / "tokenizer.json"))
    return folder


def notes(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """(text, label): a finding in half of them, another word in the others, in a sentence of its own."""
    random = np.random.default_rng(seed)
    made = []
    for n in range(count):
        ill = n % 2 == 0
        around = [" ".join(random.choice(FILLER, random.integers(3, 7))) for _ in range(2)]
        said = "evidence of pneumothorax" if ill else "no pneumonia"
        made.append((f"{around[0]} . {said} . {around[1]} .", "yes" if ill else "no"))
    return made
