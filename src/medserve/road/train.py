"""Steps 1 to 4 as one run: a data set in, a signed package with its report and its alternative out.

    result = train_package(Path("chest.npz"), Path("models/chest"), settings=settings, options=Options(seed=0))

Split before any fit; train the recipe and the simple baseline; decide between them on validation or cross-validation;
calibrate on the calibration part; open the sealed test part once, to report. What was started continues: checkpoints
stand in a folder beside `out` until the package is complete.
"""

import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from medserve.data.cohort import Cohort
from medserve.data.fields.molecule import Molecule
from medserve.data.fields.text import MOST_LENGTH, Text
from medserve.data.fields.words import Pieces, Words
from medserve.data.leaks import Removed, act_on, find_leaks
from medserve.data.prepare import probe
from medserve.data.records import encode, fit_fields, same_values
from medserve.data.split import Parts, TrainPart, check_parts, declared_split, folds
from medserve.data.transforms import Normalise, default_transforms
from medserve.errors import BadData, MedServeError, Usage
from medserve.models.encoders import PretrainedText, find_encoder, most_pieces, needed
from medserve.models.package import ALTERNATIVE
from medserve.models.spec import ATC, Code, InputSpec, OutputSpec
from medserve.progress import SILENT, Progress
from medserve.questions.recipes import RECIPES, Recipe, default_recipe
from medserve.road.build import Built, Candidate, build, plain_spec, scale_of, who
from medserve.road.choose import choose
from medserve.road.collect import list_data, read_data
from medserve.road.effect import check_question, effect_output, train_effect
from medserve.road.finish import finish
from medserve.road.medicines import settle_medicines, with_channels, with_rate
from medserve.road.nested import FOLDS, compare, rivals_of, with_blocks
from medserve.road.run import Options, Prepared, check_options, slug
from medserve.road.work import alone, claim, naming, same_data
from medserve.settings import Settings
from medserve.store.files import new_folder
from medserve.types import Named, Samples

SHORT_FOLDS = 3  # of the second look, where the held-out cases cannot tell recipe and baseline apart
MEDIA = {
    "image": ["image/png", "image/jpeg", "application/dicom"],
    "volume": ["application/x-nifti", "application/dicom"],
    "text": ["text/plain"],
    "molecule": ["chemical/x-daylight-smiles", "chemical/x-mdl-molfile", "chemical/x-mdl-sdfile"],
    "protein": ["chemical/seq-aa-fasta"],
    "timeline": ["application/fhir+json"],
    "waveform": ["application/dicom", "application/zip", "application/octet-stream"],
}

if TYPE_CHECKING:
    from torch import nn

    from medserve.data.fields import Block, Field, Records
    from medserve.data.forms import Listing


def train_package(
    data: Path, out: Path, *, settings: Settings, options: Options, progress: Progress = SILENT
) -> dict[str, Any]:
    """Run the road on `data`; `out` appears complete or not at all.

    Returns: {"package", "model", "recipe", "seed", "parts", "chosen", "seconds", "metrics", "report", ...}.
    Raises: Usage "out-exists" and those of `check_options`; BadData and Refusal of the data, with nothing left beside
        `out`; Fault "disk-full": the same call continues.
    """
    started = time.monotonic()
    check_options(options)
    out = out.absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise Usage("out-exists", f"{out} already exists and is not empty.", hint="Choose another --out, or remove it.")
    listing = list_data(data, settings)
    work = out.parent / f".{out.name}.training"
    with alone(work):
        return _train(data, listing, out, work, settings, options, progress, started)


def _train(
    data: Path, listing: "Listing", out: Path, work: Path, settings: Settings, options: Options, progress: Progress,
    started: float,
) -> dict[str, Any]:  # fmt: skip
    """The run itself, in a folder that is this process's alone."""
    fresh = claim(work, data, options)
    try:
        prepared = collect(listing, work, settings, options, progress)
    except MedServeError as error:
        if fresh and error.exit_code == 2:  # bad input: there is nothing to go on with
            shutil.rmtree(work, ignore_errors=True)
        raise naming(data, error) from error
    same_data(work, prepared.cohort.digest)
    recipe, parts = prepared.recipe, prepared.parts
    progress.say(f"{prepared.cohort.name}: {parts.sizes}, recipe {recipe.name} at {prepared.plain.shape}")
    verdict: dict[str, Any] | None = None
    if prepared.rivals:
        prepared, verdict = _choose_of(prepared, work, settings, options, progress)
        recipe = prepared.recipe
        progress.say(f"{recipe.name} is offered: the least loss in nested cross-validation.")
    if recipe.learner == "effect-trees":
        candidates, verdict = train_effect(prepared, options, progress)
    else:
        candidates = train_candidates(prepared, work, settings, options, progress)
    built = [
        build(c, parts, prepared.plain, prepared.normalise, work / c.role, progress, seed=options.seed)
        for c in candidates
    ]
    verdict = verdict or _decide(built, prepared, work, settings, options, progress)
    offered = next(b for b in built if b.candidate.role == verdict["chosen"])
    other = next(b for b in built if b is not offered)
    with new_folder(out) as folder:
        result = finish(folder, offered, other, prepared, verdict, settings, options, progress)
    shutil.rmtree(work, ignore_errors=True)
    return {
        "package": str(out),
        "model": result["model"],
        "recipe": recipe.name,
        "seed": options.seed,
        "parts": parts.sizes,
        "split": parts.rule["rule"],
        "chosen": verdict["chosen"],
        "seconds": round(time.monotonic() - started, 1),
        "decision": verdict,
        "left_training_side": len(prepared.removed.rows),
        "test_openings": result["openings"],
        "metrics": result["metrics"],
        "report": str(out / "evaluation" / "report.html"),
        "gallery": result["gallery"],
        "alternative": str(out / ALTERNATIVE),
    }


def collect(listing: "Listing", work: Path, settings: Settings, options: Options, progress: Progress) -> Prepared:
    """Step 1: choose the input's shape, read every file once, split by patient, act on leaks, fit what is fitted."""
    question = check_question(options.question, listing)
    if listing.kind == "record":
        return _collect_records(listing, work, settings, options, question, progress)
    seen = probe(listing)
    recipe = _recipe(listing, seen.shape, options)
    shape = recipe.input_shape(seen.shape, seen.colour)
    colour = shape[0] == 3 and seen.colour
    transforms = default_transforms(shape=shape, colour=shape[0] == 3, unit=seen.unit)
    cohort = read_data(listing, transforms, shape, work, progress)
    parts, removed = _parts(cohort, options, progress)
    output = output_spec(listing, parts)
    inputs = InputSpec(
        kind=listing.kind,
        shape=shape,
        colour=colour,
        modalities=sorted({c.modality for c in parts.train.cases if c.modality}) or None,
        unit=seen.unit,
        media_types=MEDIA[listing.kind],
    )
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
        _input_spec(block, f, len(records.blocks), getattr(listing.inputs.get(f.name), "fhir", None))
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


def _input_spec(block: "Block", f: "Field", inputs: int, fhir: str | None) -> InputSpec:
    """One field in the signature; a case of one input may also be sent as a raw body of its kind."""
    limits = (getattr(f, "low", None), getattr(f, "high", None))
    words = block.facts.get("words") if f.kind == "category" and not getattr(f, "open", False) else None
    return InputSpec(
        name=f.name,
        kind=f.kind,  # type: ignore[arg-type]
        shape=tuple(block.shape),
        colour=bool(getattr(f, "colour", False)),
        modalities=None if (found := getattr(f, "modalities", None)) is None else list(found),
        unit=getattr(f, "unit", None),
        range=limits if limits != (None, None) else None,
        words=words,
        fhir=fhir,
        media_types=[
            "application/json",
            *(["application/fhir+json"] if fhir else []),
            *(MEDIA.get(f.kind, []) if inputs == 1 or f.kind == "timeline" else []),
        ],
    )


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


def output_spec(listing: "Listing", parts: Parts) -> OutputSpec:
    """What the model gives; a number is standardised by the training part."""
    if listing.task == "tags":
        words = next(f.length for f in parts.cohort.fields)
        return OutputSpec(task="tags", labels=list(listing.labels), words=words)
    if listing.task == "effect":
        return effect_output(listing, parts)
    if listing.task != "number":
        unit = listing.unit if listing.task == "survival" else None
        return OutputSpec(task=listing.task, labels=list(listing.labels), unit=unit)  # type: ignore[arg-type]
    said = listing.declaration.target if listing.declaration else None
    plain = OutputSpec(task="number", labels=list(listing.labels), unit=listing.unit)
    if said is not None:
        codes = {} if said.medicine is None else {listing.labels[0]: Code(ATC, said.medicine)}
        span = None if said.range is None else (said.range[0], said.range[1])
        plain = msgspec.structs.replace(plain, scale=said.scale or "", range=span, bands=list(said.bands or ()),
                                        by=said.interval_by, codes=codes)  # fmt: skip
    values = plain.scaled(parts.train.targets)
    return msgspec.structs.replace(plain, mean=float(values.mean()), sd=float(values.std()) or 1.0)


def train_candidates(
    prepared: Prepared, work: Path, settings: Settings, options: Options, progress: Progress
) -> list[Candidate]:
    """Steps 2 and 3: the recipe and the simple baseline, on the same parts."""
    parts = prepared.parts
    named, net, history = train_recipe(prepared, parts.train, parts.val, work / "recipe", settings, options, progress)
    recipe = Candidate("recipe", prepared.recipe.name, named, net, history)
    architecture, plain, fitted = train_baseline(prepared, parts.train, parts.val, options.seed)
    return [recipe, Candidate("baseline", "baseline", architecture, plain, fitted)]


def train_recipe(
    prepared: Prepared, train: TrainPart, val: Samples, folder: Path, settings: Settings, options: Options,
    progress: Progress,
) -> tuple[Named, "nn.Module", dict[str, Any]]:  # fmt: skip
    """One model of the recipe. Returns: its catalog entry, it at its best validated state, and the history."""
    if prepared.recipe.members:
        return _train_members(prepared, train, val, folder, settings, options, progress)
    if prepared.recipe.learner != "network":
        return _fit_simple(prepared, prepared.recipe.learner, train, val, options.seed)
    import torch

    from medserve.models.build import build_net
    from medserve.models.heads import Head
    from medserve.models.record.casenet import CaseNet
    from medserve.models.record.sentence import load_encoder
    from medserve.models.weights import load_pretrained
    from medserve.training.loop import fit
    from medserve.training.plan import Plan

    recipe, plain = prepared.recipe, prepared.plain
    channels, *size = plain.shape
    torch.manual_seed(options.seed)
    net = build_net(recipe.architecture, channels=channels, size=tuple(size), outputs=plain.output.width)
    record: dict[str, Any] | None = None
    if prepared.encoder is not None:
        record = load_encoder(net, prepared.encoder)
    if plain.is_record:
        net.fit(train)  # type: ignore[operator]
    if options.weights is not None and prepared.encoder is None:
        source, _, sha256 = options.weights.partition("#")
        loaded = load_pretrained(net, source, settings=settings, sha256=sha256 or None, progress=progress)
        record = asdict(loaded)
    epochs = options.epochs
    if epochs is None and options.max_train_s is not None:
        one = recipe.minutes(len(train), tuple(size), epochs=1) * 60
        epochs = max(3, min(recipe.epochs_for(len(train)), int(options.max_train_s / max(one, 1e-6))))
    plan = Plan(**recipe.plan(len(train), seed=options.seed, epochs=epochs))
    mean, std = scale_of(prepared.normalise)
    learner: nn.Module = net
    rows: Samples = train
    held = val
    if isinstance(net, CaseNet) and any(net.frozen):
        learner, rows, held = net.top, net.views_of(train), net.views_of(val)
    together = same_values(train, recipe.together) if recipe.together else None
    history = fit(
        learner, Head(plain.output), rows, held, mean=mean, std=std, plan=plan, folder=folder, together=together,
        progress=progress,
    )  # fmt: skip
    told = msgspec.to_builtins(history) | {"plan_values": msgspec.to_builtins(plan)}
    return recipe.architecture, net, told | ({"weights": record} if record else {})


def _train_members(
    prepared: Prepared, train: TrainPart, val: Samples, folder: Path, settings: Settings, options: Options,
    progress: Progress,
) -> tuple[Named, "nn.Module", dict[str, Any]]:  # fmt: skip
    """Every member of an average by its own recipe; the second of one name from the next seed."""
    from medserve.models.record.average import RecordAverage
    from medserve.training.loop import predict_logits

    names, blocks = prepared.recipe.members, prepared.recipe.architecture.params["blocks"]
    made, histories = [], []
    for i, name in enumerate(names):
        one = replace(prepared, recipe=with_blocks(RECIPES[name], blocks))
        other = replace(options, seed=options.seed + names[:i].count(name))
        progress.say(f"{i + 1} of {len(names)}: {name}")
        named, net, history = train_recipe(one, train, val, folder / f"member-{i}", settings, other, progress)
        made.append((named, net))
        histories.append({"recipe": name, **history})
    average = RecordAverage([net for _, net in made])
    crossed = [getattr(net, "crossed", None) for _, net in made]
    if any(c is not None for c in crossed):
        told = [
            predict_logits(net, val, (0.0,), (1.0,)) if c is None else c[-len(val) :]
            for (_, net), c in zip(made, crossed, strict=True)
        ]
        average.crossed = np.mean(told, axis=0).astype(np.float32)
    members = [{"name": n.name, "params": {k: v for k, v in n.params.items() if k != "blocks"}} for n, _ in made]
    seconds = sum(h.get("seconds") or sum(e["seconds"] for e in h.get("epochs", [])) for h in histories)
    history = {"members": histories, "seconds": round(seconds, 1), "seed": options.seed}
    return Named("record-average", {"blocks": blocks, "members": members}), average.eval(), history


def train_baseline(
    prepared: Prepared, train: TrainPart, val: Samples, seed: int, *, unseen: int | None = None
) -> tuple[Named, "nn.Module", dict[str, Any] | None]:
    """The simple model beside the recipe: its catalog entry, it, and how it was fitted where that is told.

    Args:
        unseen: see `fit_classical`.
    """
    if prepared.plain.is_record:
        return _fit_simple(prepared, prepared.recipe.baseline, train, val, seed, unseen)
    from medserve.training.baseline import fit_baseline

    mean, std = scale_of(prepared.normalise)
    return *fit_baseline(train, val, prepared.plain.output, seed, mean=mean, std=std), None


def _fit_simple(
    prepared: Prepared, name: str, train: TrainPart, val: Samples, seed: int, unseen: int | None = None
) -> tuple[Named, "nn.Module", dict[str, Any]]:
    """A linear, additive or boosted model of records, a tagger of words, or shares of letters."""
    from medserve.training.classical import fit_classical
    from medserve.training.letters import fit_ngram
    from medserve.training.repeat import fit_repeat
    from medserve.training.tagging import fit_tagger

    architecture = Named(name, {"blocks": prepared.recipe.architecture.params["blocks"]})
    if prepared.plain.output.medicines is not None:
        architecture.params["medicines"] = prepared.plain.output.medicines.written
        return fit_repeat(architecture, train)
    if prepared.plain.output.task == "generate":
        return fit_ngram(architecture, train, val)
    if prepared.plain.output.task == "tags":
        return fit_tagger(architecture, train, val, prepared.plain.output, seed)
    patients, others = (None, None) if prepared.cohort.independent else (who(train), who(val))  # type: ignore[arg-type]
    return fit_classical(
        architecture, train, val, prepared.plain.output, seed, patients=patients, others=others, unseen=unseen
    )


def _choose_of(
    prepared: Prepared, work: Path, settings: Settings, options: Options, progress: Progress
) -> tuple[Prepared, dict[str, Any]]:
    """The recipe that nested cross-validation prefers, the simple model beside it, and all that were compared."""

    def fit(one: Prepared, train: TrainPart, val: Samples, folder: Path) -> "nn.Module":
        return train_recipe(one, train, val, folder, settings, options, progress)[1]

    winner, beside, verdict = compare(
        prepared, prepared.rivals, fit, work, progress, k=options.folds or FOLDS, seed=options.seed
    )
    winner = with_blocks(winner, prepared.recipe.architecture.params["blocks"])
    if beside is not None:
        winner = replace(winner, baseline=beside.architecture.name)
    if options.keep is not None:
        verdict |= {"chosen": options.keep, "asked": True}
    return replace(prepared, recipe=winner), verdict


def _decide(
    built: list[Built], prepared: Prepared, work: Path, settings: Settings, options: Options, progress: Progress
) -> dict[str, Any]:
    """Which candidate is offered, and on what evidence."""
    recipe, baseline = built
    if options.folds:
        verdict = _cross_validate(prepared, work, settings, options, progress)
    else:
        sides = (prepared.parts.val, prepared.parts.calibration)
        a, b = (np.concatenate([one.scores[part.name].logits for part in sides]) for one in (recipe, baseline))
        targets, patients = np.concatenate([p.targets for p in sides]), np.concatenate([who(p) for p in sides])
        on = "val and calibration"
        verdict = choose(prepared.plain.output, a, b, targets, patients, on=on, seed=options.seed)
        if _undecided(verdict) and options.keep is None and options.max_train_s is None:
            progress.say("The held-out cases cannot decide: a short cross-validation of the training part does.")
            first = {name: verdict[name] for name in ("on", "n", "difference")}
            verdict = _cross_validate(prepared, work, settings, options, progress, short=True) | {"undecided": first}
    if options.keep is not None:
        verdict |= {"chosen": options.keep, "asked": True}
    return verdict


def _undecided(verdict: dict[str, Any]) -> bool:
    """The interval of the difference includes 0: neither is shown to be better."""
    low, high = (verdict["difference"][side] for side in ("low", "high"))
    return low is not None and low <= 0 <= high


def _cross_validate(
    prepared: Prepared, work: Path, settings: Settings, options: Options, progress: Progress, *, short: bool = False
) -> dict[str, Any]:
    """Out-of-fold scores of both, over the training part by patient; early stopping sees the val part only.

    Args:
        short: three folds at a quarter of the schedule, which costs less than the recipe did. A network that has seen
            that little is, if anything, held too low; a second look raises the chance that two equal models are told
            apart from 2.5 % to at most 5 %.
    """
    from medserve.training.loop import predict_logits

    mean, std = scale_of(prepared.normalise)
    parts, k = prepared.parts, SHORT_FOLDS if short else options.folds or 0
    if short:
        epochs = options.epochs or prepared.recipe.epochs_for(len(parts.train))
        options = replace(options, epochs=max(1, round(epochs / 4)))
    scores: dict[str, list[Any]] = {"recipe": [], "baseline": [], "targets": [], "patients": [], "folds": []}
    for index, (train, held) in enumerate(folds(parts, k, seed=options.seed)):
        progress.say(f"fold {index + 1} of {k}")
        folder = work / f"fold-{index}"
        _, net, _ = train_recipe(prepared, train, parts.val, folder, settings, options, progress)
        _, plain, _ = train_baseline(prepared, train, parts.val, options.seed, unseen=1)
        scores["recipe"].append(predict_logits(net, held, mean, std))
        scores["baseline"].append(predict_logits(plain, held, mean, std))
        scores["targets"].append(held.targets)
        scores["patients"].append(who(held))
        scores["folds"].append(np.full(len(held), index))
    joined = {name: np.concatenate(values) for name, values in scores.items()}
    quarter = short and prepared.recipe.learner == "network"
    on = f"{k}-fold cross-validation" + (", a quarter of the schedule" if quarter else "")
    return choose(prepared.plain.output, joined["recipe"], joined["baseline"], joined["targets"], joined["patients"],
                  on=on, folds=joined["folds"], seed=options.seed)  # fmt: skip
