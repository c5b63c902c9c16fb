"""The pieces that a pretrained encoder reads, by its own tokenizer: the one library that both training and serving ask.

wordpieces({"[CLS]": 0, "pneumo": 1, "##thorax": 2, ...}, lowercase=True, name="note")
tokenizer(said, name="smiles")              # said: a tokenizer.json, as JSON text
"""

from typing import Any

from medserve.errors import BadPackage, Usage


def wordpieces(vocabulary: dict[str, int], *, lowercase: bool, name: str) -> Any:
    """BERT's tokenizer from its pieces alone. Raises: Usage "tokenizers-missing"."""
    return _library(name).BertWordPieceTokenizer(vocab=vocabulary, lowercase=lowercase)


def tokenizer(said: str, *, name: str) -> Any:
    """The tokenizer of a `tokenizer.json`, which is data alone; texts are neither cut nor filled up.

    Raises: Usage "tokenizers-missing". BadPackage "transforms-invalid": not such a file.
    """
    library = _library(name)
    try:
        made = library.Tokenizer.from_str(said)
    except Exception as error:  # the library raises no class of its own
        raise BadPackage("transforms-invalid", f"{name}: its tokenizer cannot be read.") from error
    made.no_truncation()
    made.no_padding()
    return made


def _library(name: str) -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise Usage(
            "tokenizers-missing",
            f"{name} is read in the pieces of a pretrained encoder, which needs the package tokenizers.",
            hint="Install it: pip install 'medserve[wordpieces]'",
        ) from error
    return tokenizers
