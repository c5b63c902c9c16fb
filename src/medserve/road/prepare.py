"""Step 1 as one call: a listing in, the parts with the signature that follows from them out.

    prepared = collect(listing, work, settings, options, progress)
    prepared.recipe, prepared.parts, prepared.plain

Choose the recipe and the input's shape, read every file once, split by patient, act on leaks; only then is anything
fitted, on the training part.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from medserve.data.cohort import Cohort
from medserve.data.fields.molecule import Molecule
from medserve.data.fields.text import MOST_LENGTH, Text
from medserve.data.fields.words import Pieces, Words
from medserve.data.leaks import Removed, act_on, find_leaks
from medserve.data.prepare import probe
from medserve.data.records import encode, fit_fields
from medserve.data.split import Parts, check_parts, declared_split
from medserve.data.transforms import Normalise, default_transforms
from medserve.errors import BadData, Usage
from medserve.models.encoders import PretrainedText, find_encoder, most_pieces, needed
from medserve.progress import Progress
from medserve.questions.recipes import RECIPES, Recipe, default_recipe
from medserve.road.build import plain_spec
from medserve.road.collect import read_data
from medserve.road.effect import check_question
from medserve.road.medicines import settle_medicines, with_channels, with_rate
from medserve.road.nested import rivals_of, with_blocks
from medserve.road.run import Options, Prepared, slug
from medserve.road.signature import output_spec, picture_input, record_input
from medserve.settings import Settings
from medserve.types import Named

if TYPE_CHECKING:
    from medserve.data.fields import Block, Field, Records
    from medserve.data.forms import Listing


def collect(listing: "Listing", work: Path, settings: Settings, options: Options, progress: Progress) -> Prepared:
    """Step 1: choose the input's shape, read every file once, split by patient, act on leaks, fit what is fitted."""
    question = check_question(options.question, listing)
    if listing.kind == "record":
        return _collect_records(listing, work, settings, options, question, progress)
    seen = probe(listing)
    recipe = _recipe(listing, seen.shape, options)
    shape = recipe.input_shape(seen.shape, seen.colour)
    transforms = default_transforms(shape=shape, colour=shape[0] == 3, unit=seen.unit)
    cohort = read_data(listing, transforms, shape, work, progress)
    parts, removed = _parts(cohort, options, progress)
    output = output_spec(listing, parts)
    inputs = picture_input(listing.kind, seen, shape, parts)
    plain = plain_spec(options.name or slug(listing.name), "1", [inputs], output, transforms, question)
    return Prepared(recipe, parts, removed, plain, Normalise.fit(parts.train))


def _collect_records(
    listing: "Listing", work: Path, settings: Settings, options: Options, question: str, progress: Progress
) -> Prepared:
    """The same for record cases: their fields are fitted once the split is known, and only then are they encoded."""
    listing, told, codes = settle_medicines(listing, settings)
    rivals = () if options.choose is None else rivals_of(options.choose, listing.asked)
    recipe = rivals[0] if rivals else _recipe(listing, (len(listing.inputs),), options)
    reads = needed(recipe.architecture)
    encoder = find_encoder(options.weights, settings, progress, kind=reads) if reads else None
    cohort = read_data(listing, [], (), work, progress)
    if encoder is not None:
        cohort = replace(cohort, fields=tuple(_in_pieces(f, encoder) for f in cohort.fields))
    if any(_graphs(one) for one in (recipe, *rivals)):
        cohort = replace(cohort, fields=tuple(map(_with_graph, cohort.fields)))
    cohort = cohort if told is None else with_channels(cohort, told)
    parts, removed = _parts(cohort, options, progress)
    records = fit_fields(parts.train, progress=progress)
    if encoder is not None:
        _same_language(records, encoder)
    parts = parts.over(encode(cohort, records, work, progress=progress))
    output = with_rate(output_spec(listing, parts), told, codes, parts)
    inputs = [
        record_input(block, f, len(records.blocks), getattr(listing.inputs.get(f.name), "fhir", None))
        for block, f in zip(records.blocks, records.fields, strict=True)
    ]
    plain = plain_spec(options.name or slug(listing.name), "1", inputs, output, records.named(), question)
    blocks = [_lean(block) for block in records.blocks]
    rivals = tuple(with_blocks(rival, blocks) for rival in rivals)
    params = dict(recipe.architecture.params) | {"blocks": blocks}
    if encoder is not None:
        params["encoders"] = params["encoders"] | {reads: params["encoders"][reads] | {"config": encoder.config}}
    if told is not None:
        params["medicines"] = told.written
    recipe = replace(recipe, architecture=Named(recipe.architecture.name, params))
    return Prepared(recipe, parts, removed, plain, None, encoder, rivals)


def _graphs(recipe: Recipe) -> bool:
    """Whether a network wants the atoms and bonds of molecules."""
    said = recipe.architecture.params.get("encoders", {}).get("molecule", {})
    return said.get("name") == "molecule-graph" or any(_graphs(RECIPES[name]) for name in recipe.members)


def _with_graph(f: "Field") -> "Field":
    """A molecule with its atoms and bonds beside what is counted; any other input as it is."""
    made: Any = replace(f, graph=True) if isinstance(f, Molecule) else f
    return made  # type: ignore[no-any-return]


def _in_pieces(f: "Field", encoder: PretrainedText) -> "Field":
    """A text as the word pieces of the encoder, a molecule with the pieces of its own; any other input as it is."""
    if encoder.tokenizer:
        spelt: Any = f
        if isinstance(f, Molecule):
            spelt = replace(f, tokenizer=encoder.tokenizer, pieces=most_pieces(encoder.config))
        return spelt  # type: ignore[no-any-return]
    if isinstance(f, Words):
        most = min(MOST_LENGTH, int(encoder.config.get("max_position_embeddings", MOST_LENGTH)))
        marked: Any = Pieces.pretrained(f.name, encoder.vocabulary, f.language, most, lowercase=encoder.lowercase)
        return marked  # type: ignore[no-any-return]
    if not isinstance(f, Text):
        return f
    made: Any = Text.pretrained(f.name, encoder.vocabulary, f.language, f.length, encoder.lowercase)
    return replace(made, most=min(MOST_LENGTH, int(encoder.config.get("max_position_embeddings", MOST_LENGTH))))  # type: ignore[no-any-return]


def _same_language(records: "Records", encoder: PretrainedText) -> None:
    """Raises: BadData "encoder-language"."""
    for f in records.fields:
        if isinstance(f, Text | Words) and encoder.language and f.language and f.language != encoder.language:
            raise BadData(
                "encoder-language",
                f"The texts of {f.name} are of language {f.language}; {encoder.source} knows {encoder.language} only.",
                hint="Name an encoder of their language with --weights FOLDER, or take --recipe text-cnn.",
            )


def _lean(block: "Block") -> dict[str, Any]:
    """A block as an architecture keeps it: without the pieces of an encoder, which the transforms hold already."""
    said: dict[str, Any] = msgspec.to_builtins(block)
    said["facts"].pop("tokenizer_json", None)
    if said["facts"].get("tokenizer") == "wordpiece":
        said["facts"] = {name: fact for name, fact in said["facts"].items() if name != "words"}
    return said


def _recipe(listing: "Listing", shape: tuple[int, ...], options: Options) -> Recipe:
    """Raises: Usage "recipe-task", "recipe-kind", "weights-missing"."""
    inputs = {said.kind for said in listing.inputs.values()}
    name = options.recipe or default_recipe(task=listing.asked, n=len(listing), shape=shape, inputs=inputs)  # type: ignore[arg-type]
    recipe = RECIPES[name]
    if listing.asked not in recipe.tasks:
        raise Usage(
            "recipe-task",
            f"Recipe {name} answers {', '.join(recipe.tasks)}; this data asks for {listing.asked}.",
            hint="Rank the recipes for it: medserve models --for DATA",
        )
    if recipe.pretrained and options.weights is None and not needed(recipe.architecture):
        raise Usage(
            "weights-missing", f"Recipe {name} needs pretrained weights.", hint="Name them: --weights FILE.safetensors"
        )
    recipe.input_shape(shape)
    return recipe


def _parts(cohort: Cohort, options: Options, progress: Progress) -> tuple[Parts, Removed]:
    parts = declared_split(cohort, seed=options.seed)
    leaks = find_leaks(parts)
    parts, removed = act_on(parts, leaks, options.leaks)
    check_parts(parts)
    if leaks:
        progress.say(f"{len(leaks)} leaks between parts; {len(removed.rows)} cases left the training side.")
    return parts, removed
