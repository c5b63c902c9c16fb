"""The end of a run: explanations audited, the sealed test part opened, everything written, signed.

    result = finish(folder, offered, other, prepared, verdict, settings, options, progress)

`folder` becomes the package; the candidate that is not offered becomes a whole package in `folder/alternative`.
"""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from medserve.data.pseudonym import pseudonym_key
from medserve.data.records import scope_codes
from medserve.data.seal import open_test
from medserve.data.split import Parts, PartView
from medserve.errors import BadData, Refusal
from medserve.evaluation.card import describe_part, make_card
from medserve.evaluation.evaluate import evaluate
from medserve.evaluation.report import write_report
from medserve.evaluation.shortcuts import cohort_checks
from medserve.explain.shortcut import demonstrate, scan
from medserve.models.package import (
    ALTERNATIVE,
    CARD,
    DOMAIN,
    GRAPH,
    MODEL,
    SELFCHECK,
    SPLIT,
    STEP,
    WEIGHTS,
    model_digest,
    seal,
)
from medserve.models.signing import Signer
from medserve.models.spec import ModelSpec
from medserve.progress import Progress
from medserve.questions.answers import check_facts
from medserve.road.absent import judge_hidden, lacking, members
from medserve.road.beside import beside
from medserve.road.build import Built, drawn, score
from medserve.road.domain import audit_neighbours, likeness_groups, molecule_block, read_known
from medserve.road.effect import audit_advice, simple_rule, training_side
from medserve.road.gallery import make_gallery, text_gallery
from medserve.road.medicines import last_sets
from medserve.road.membership import split_record
from medserve.road.records import audit_records, record_checks
from medserve.road.run import Options, Prepared, lineage
from medserve.settings import Settings
from medserve.store.files import write_bytes
from medserve.types import UNSCORED, Array, Scores

ALIKE = "likeness to training molecules"


def finish(
    folder: Path,
    offered: Built,
    other: Built,
    prepared: Prepared,
    verdict: dict[str, Any],
    settings: Settings,
    options: Options,
    progress: Progress,
) -> dict[str, Any]:
    """Write both packages.

    Returns: {"model", "openings", "metrics", "gallery"} of the offered one.
    """
    spec = audited(offered, prepared, settings, options, progress)
    shortcuts = shortcut_checks(offered, prepared, settings, options, progress)
    parts = prepared.parts
    digest = write_model(folder, spec, offered)
    rest = write_model(folder / ALTERNATIVE, other.spec, other)
    openings = open_test(parts.test, settings, digest)
    progress.say(f"The sealed test part was opened; openings so far: {openings}.")
    test, refused = in_scope(spec, parts.test)
    scores: dict[str, Scores] = {b.candidate.role: score(b.engine, test, progress) for b in (offered, other)}
    for target, chosen, compared, chosen_spec, its_digest in (
        (folder / ALTERNATIVE, other, offered, other.spec, rest),
        (folder, offered, other, spec, digest),
    ):
        mine = chosen is offered
        result = judge_test(chosen, compared, chosen_spec, scores, prepared, test, refused, openings, options)
        if mine and spec.is_record and result["conformal"] is not None:
            result["conformal"]["hidden"] = judge_hidden(chosen.engine, spec, test, progress, seed=options.seed)
        if mine and spec.is_record:
            ours = scores[chosen.candidate.role]
            result["beside"], result["glass_box"] = beside(
                offered, other, prepared, test, ours, audit=options.audit, seed=options.seed
            )
        gallery = None
        if mine and spec.output.task not in UNSCORED:
            where = settings.folder("galleries") / digest.removeprefix("sha256:")[:16]
            public = bool(prepared.cohort.source.get("public"))
            test_scores = scores[chosen.candidate.role]
            gallery = make_gallery(chosen, spec, test_scores, test, public=public, folder=where)
        elif mine and spec.output.task == "tags" and prepared.cohort.source.get("public"):
            gallery = text_gallery(spec, scores[chosen.candidate.role], test)
        write_record(target, chosen, chosen_spec, its_digest, result, prepared, verdict,
                     shortcuts if mine else None, gallery, settings, options)  # fmt: skip
        more = {"alternative": rest} if mine else {}
        seal(target, Signer.load(settings), lineage=lineage(prepared, chosen.candidate, options) | more)
    return {
        "model": {"name": spec.name, "version": spec.version, "digest": digest},
        "openings": openings,
        "metrics": result["metrics"],
        "gallery": None if gallery is None else gallery["where"],
    }


def audited(built: Built, prepared: Prepared, settings: Settings, options: Options, progress: Progress) -> ModelSpec:
    """The signature with the verdict on each explanation method."""
    if options.audit == "none":
        return built.spec
    if built.candidate.learned is not None:
        return msgspec.structs.replace(built.spec, explanations=[audit_advice(built)])
    if built.spec.is_record:
        methods = audit_records(built, prepared, quick=options.audit == "quick", seed=options.seed)
        near = audit_neighbours(built, prepared.parts, seed=options.seed)
        methods += [] if near is None else [near]
        for method in methods:
            progress.say(f"explanation {method.name}: {method.verdict} ({method.role})")
        return msgspec.structs.replace(built.spec, explanations=methods)
    from medserve.explain.audit import audit

    methods = audit(
        built.served,
        prepared.parts.val,
        output=built.spec.output,
        architecture=built.candidate.architecture,
        settings=settings,
        quick=options.audit == "quick",
        seed=options.seed,
        progress=progress,
    )
    for method in methods:
        progress.say(f"explanation {method.name}: {method.verdict} ({method.role})")
    return msgspec.structs.replace(built.spec, explanations=methods)


def shortcut_checks(
    built: Built, prepared: Prepared, settings: Settings, options: Options, progress: Progress
) -> list[dict[str, Any]]:
    """What the label can be told from without the anatomy, and what the model does when corners and borders change."""
    quick = options.audit != "full"
    parts = prepared.parts
    if built.candidate.learned is not None:
        return built.candidate.learned.refuted
    if built.spec.is_record:
        return record_checks(built, prepared, seed=options.seed)
    found = cohort_checks(parts.cohort, parts.train.rows, seed=options.seed)
    pictures, maps = (80, 8) if quick else (200, 24)
    found += scan(built.engine, parts.val, output=built.spec.output, pictures=pictures, maps=maps, seed=options.seed)
    if options.audit == "full":
        found.append(_proof(built, settings, progress))
    return found


def _proof(built: Built, settings: Settings, progress: Progress) -> dict[str, Any]:
    """The scanner tried on the same architecture with a shortcut planted on purpose: it must turn red by itself."""
    shape = built.spec.inputs[0].shape
    shown = demonstrate(built.served, built.candidate.architecture, shape=shape, settings=settings, progress=progress)
    check: dict[str, Any] = {"name": "proof of the scanner", "code": "planted-shortcut", "value": None, "figure": None}
    if "skipped" in shown:
        return check | {"level": "amber", "message": f"Not tried on this architecture: {shown['skipped']}."}
    auroc = shown["auroc"]
    told = (
        f"Trained on pictures whose corner marker betrays the label, this architecture was flagged {shown['level']}: "
        f"AUROC {auroc['same']:.2f} with the marker, {auroc['absent']:.2f} without, {auroc['reversed']:.2f} reversed."
    )
    level = "green" if shown["level"] == "red" else "amber"
    return check | {"level": level, "value": shown["erased"], "figure": shown["erased"], "message": told}


def write_model(folder: Path, spec: ModelSpec, built: Built) -> str:
    """The files that the model's digest covers. Returns: the digest."""
    folder.mkdir(parents=True, exist_ok=True)
    more = [DOMAIN] if spec.domain is not None else []
    more += [STEP] if (built.folder / STEP).is_file() else []
    for name in (GRAPH, WEIGHTS, SELFCHECK, *more):
        shutil.copyfile(built.folder / name, folder / name)
    write_bytes(folder / MODEL, spec.to_json())
    return model_digest(folder)


def judge_test(
    built: Built,
    other: Built,
    spec: ModelSpec,
    scores: dict[str, Scores],
    prepared: Prepared,
    test: PartView,
    refused: dict[str, int],
    openings: int,
    options: Options,
) -> dict[str, Any]:
    """The figures of the sealed part's cases in scope; the other candidate stands beside it on the same draws."""
    parts = prepared.parts
    involved = np.isin(test.rows, np.asarray(prepared.removed.involved, np.int64))
    effect = built.candidate.learned is not None
    found = evaluate(
        spec,
        scores[built.candidate.role],
        test.targets,
        part="test",
        patients=drawn(test),
        drawn=parts.cohort.drawn,
        groups=groups_of(test) | alike_groups(built, test),
        baseline=scores[other.candidate.role],
        baseline_spec=other.spec,
        role=built.candidate.role,
        called=other.candidate.recipe if other.candidate.role == "recipe" else None,
        val=_held_out(built, parts),
        calibration=(built.scores["calibration"], parts.calibration.targets),
        leaky=involved if involved.any() else None,
        openings=openings,
        refused=refused,
        absent=lacking(spec, test) if spec.is_record else None,
        members=members(spec, test),
        decision_range=options.decision,
        policies=simple_rule(built, test) if effect else None,
        last=last_sets(test, spec.output),
        seed=options.seed,
    )
    if effect:
        found["effect"] |= training_side(built)
    return found


def _held_out(built: Built, parts: Parts) -> tuple[Scores, Array]:
    """Scores and targets of the cases that the model, or one like it, had not seen: val, or the training part too."""
    crossed = getattr(built.candidate.net, "crossed", None)
    if crossed is None or len(crossed) == len(parts.val):
        return built.scores["val"], parts.val.targets
    return Scores(crossed, None, None), np.concatenate([parts.train.targets, parts.val.targets])


def in_scope(spec: ModelSpec, part: PartView) -> tuple[PartView, dict[str, int]]:
    """The cases of a part that the service would answer for, and how many it would refuse, by code.

    Raises: BadData "nothing-in-scope".
    """
    refused = scope_codes(part) if spec.is_record else _picture_codes(spec, part)
    counts = dict(Counter(refused.values()))
    if len(refused) == len(part):
        raise BadData(
            "nothing-in-scope",
            f"The {part.name} part holds no labelled case that this model takes ({counts or 'no labels'}).",
            hint="Compare the model's signature, GET /v1/models/NAME, with `medserve inspect`.",
        )
    return part.without(refused), counts


def _picture_codes(spec: ModelSpec, part: PartView) -> dict[int, str]:
    """Cohort rows whose picture the service would refuse, with the code; what `scope_codes` is for records."""
    refused: dict[int, str] = {}
    for row, case in zip(part.rows.tolist(), part.cases, strict=True):
        try:
            check_facts(spec, modality=case.modality, unit=case.unit, colour=case.colour, blank=case.blank)
        except Refusal as error:
            refused[row] = error.code
    return refused


def groups_of(part: PartView) -> dict[str, np.ndarray]:
    names = sorted({name for case in part.cases for name in case.groups})
    return {name: part.groups(name) for name in names}


def alike_groups(built: Built, part: PartView) -> dict[str, Array]:
    """Of models of molecules a subgroup more: how much the cases are like the training molecules."""
    domain, block = built.spec.domain, molecule_block(built.spec)
    if domain is None or block is None:
        return {}
    return {ALIKE: likeness_groups(read_known(built.folder), domain, part, block)}


def write_record(
    folder: Path,
    built: Built,
    spec: ModelSpec,
    digest: str,
    result: dict[str, Any],
    prepared: Prepared,
    verdict: dict[str, Any],
    shortcuts: list[dict[str, Any]] | None,
    gallery: dict[str, Any] | None,
    settings: Settings,
    options: Options,
) -> None:
    """Card, split, numbers and report of one package."""
    parts, cohort, history = prepared.parts, prepared.cohort, built.candidate.history
    result["model"]["digest"] = digest
    leaks = prepared.removed.as_dict()
    training = {
        "recipe": built.candidate.recipe,
        "seed": options.seed,
        **_trained(history),
        "decision": verdict,
    }
    provenance = lineage(prepared, built.candidate, options)
    card = make_card(
        spec=spec,
        evaluation=result,
        source={"name": cohort.name, "digest": cohort.digest, **cohort.source},
        parts={part.name: describe_part(part) for part in parts},
        training=training,
        provenance=provenance,
        leaks=leaks,
        shortcuts=shortcuts,
        independent=cohort.independent,
        digest=digest,
    )
    audit = [msgspec.to_builtins(method) for method in spec.explanations]
    numbers = {**result, "leakage": leaks, "shortcuts": shortcuts, "audit": audit, "training": training,
               "history": history, "refused": len(cohort.refused)}  # fmt: skip
    write_bytes(folder / CARD, _json(card))
    write_bytes(folder / SPLIT, _json(split_record(parts, prepared.removed, pseudonym_key(settings))))
    write_bytes(folder / "evaluation" / "test.json", _json(numbers))
    write_report(
        folder / "evaluation" / "report.html",
        evaluation=result,
        model=card,
        training=training | {"history": history},
        leaks=leaks,
        audit=audit or None,
        shortcuts=shortcuts,
        gallery=gallery,
    )


def _trained(history: dict[str, Any] | None) -> dict[str, Any]:
    """How long and on what; a model fitted by a library has no epochs."""
    if not history or "epochs" not in history:
        return {"epochs": None, "seconds": (history or {}).get("seconds"), "device": None, "precision": None}
    seconds = round(sum(e["seconds"] for e in history["epochs"]), 1)
    said = {name: history[name] for name in ("device", "precision")}
    return {"epochs": len(history["epochs"]), "seconds": seconds, **said}


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, allow_nan=False).encode()
