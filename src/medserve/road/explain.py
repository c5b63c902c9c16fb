"""`medserve explain`: the evidence for one file, drawn over it, and the raw map beside it.

    explain_picture(Path("models/chest"), data, Path("heat.png"), name="film.dcm", settings=settings)

CAM and occlusion run on the served graph; integrated gradients needs the network itself, and so torch.
"""

import json
from pathlib import Path
from typing import Any

from medserve.errors import Usage
from medserve.explain.explainers import EXPLAINERS, Explainable, explain, target_of
from medserve.explain.overlay import pack, render
from medserve.explain.rules import rule_lines
from medserve.models.package import WEIGHTS
from medserve.models.signing import Trust
from medserve.models.spec import Method
from medserve.runtime.model import LoadedModel
from medserve.safety.policy import Standing
from medserve.settings import Settings
from medserve.store.files import write_bytes

_RANK = {"primary": 0, "secondary": 1}


def offered_methods(methods: list[Method]) -> list[Method]:
    """Methods that a person may be shown, the best first."""
    good = [m for m in methods if m.verdict != "FAIL"]
    return sorted(good, key=lambda m: (m.verdict != "PASS", _RANK.get(m.role, 2)))


def explain_picture(
    folder: Path, data: bytes, out: Path, *, name: str = "", method: str | None = None, settings: Settings
) -> dict[str, Any]:
    """Write `out` (PNG) and the raw map (JSON of the same name); of a molecule the structure as SVG too.

    Returns: {"method", "verdict", "role", "label", "files", "answer"}; a refused picture raises its Refusal.
    Raises: Usage "explanation-not-offered", "explanation-none".
    """
    rules = Standing.open(settings)
    model = LoadedModel.open(folder, Trust.load(settings), max_pixels=settings.max_pixels, rules=rules)
    chosen = _choose(model, method)
    tensor, about = model.take(data, name)
    scores = model.score(tensor[None])
    answer = model.answer(scores, case=tensor, about=about)
    target = target_of(model.spec.output, scores.logits[0])
    if model.spec.is_record:
        shown = model.explainer.evidence(chosen.name, tensor, target, answer["safety"])
        told: dict[str, Any] = {
            "values": shown.items,
            "base": shown.base,
            "total": shown.total if shown.items else None,
            "gap": shown.gap,
        }
        if answer["safety"] is not None:
            told["rules"] = rule_lines(answer["safety"])
        told |= {} if shown.heat is None else {"map": pack(shown.heat)}
        found = _write(out, shown.png, told, chosen, target.label, answer)
        if shown.svg is not None:
            drawn = out.with_suffix(".svg")
            write_bytes(drawn, shown.svg.encode())
            found["files"].append(str(drawn))
        return found
    heat = explain(chosen.name, _runner(model, chosen.name), tensor, target.column)
    return _write(out, render(tensor, heat), {"map": pack(heat)}, chosen, target.label, answer)


def _write(
    out: Path, png: bytes, evidence: dict[str, Any], chosen: Method, label: str, answer: dict[str, Any]
) -> dict[str, Any]:
    """The picture, and the raw evidence in a JSON file of the same name."""
    raw = out.with_suffix(".json")
    said = {"method": chosen.name, "verdict": chosen.verdict, "role": chosen.role, "label": label}
    whole = said | {"figures": chosen.figures, "model": answer["model"]} | evidence
    write_bytes(out, png)
    write_bytes(raw, json.dumps(whole).encode())
    return said | {"files": [str(out), str(raw)], "answer": answer}


def _choose(model: LoadedModel, name: str | None) -> Method:
    offered = offered_methods(model.spec.explanations)
    if name is None:
        if not offered and model.spec.output.task == "tags":
            raise Usage(
                "explanation-none",
                "No explanation is offered of marked words: no method has been audited for them.",
                hint="Each entity's place and probability stand in the answer: medserve predict.",
            )
        if not offered and model.spec.output.task == "generate":
            raise Usage("explanation-none", "A likelihood is not explained: no method has been audited for it.")
        if not offered:
            raise Usage(
                "explanation-none",
                "No explanation method passed this model's audit; none is offered.",
                hint="See the audit in the model's report, or train with --audit full.",
            )
        return offered[0]
    if not model.spec.is_record:
        EXPLAINERS[name]  # an unknown name lists its neighbours
    found = next((m for m in offered if m.name == name), None)
    if found is None:
        model.check_explain(name)  # raises, naming the verdict
    assert found is not None
    return found


def _runner(model: LoadedModel, name: str) -> Explainable:
    if not EXPLAINERS[name].needs_torch:
        return model
    from safetensors.torch import load_file

    from medserve.explain.gradients import NetModel
    from medserve.models.served import open_served

    return NetModel(open_served(model.spec, load_file(model.package.path(WEIGHTS))))
