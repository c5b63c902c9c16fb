"""Every family of record models, imported so that it registers itself."""

from medserve.models.record import (  # noqa: F401
    additive,
    average,
    casenet,
    columns,
    effect,
    forest,
    image,
    letters,
    linear,
    medicines,
    molecule,
    molecule_graph,
    protein,
    smiles,
    tag_encoder,
    tagger,
    text,
    timeline,
    trees,
    waveform,
)
