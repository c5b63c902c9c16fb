"""`medserve replay`: ask again what was asked then, and compare."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from medserve.cli._answer import Answer, table
from medserve.cli.predict import read_input
from medserve.errors import NotFound, Usage
from medserve.progress import Progress
from medserve.settings import Settings

if TYPE_CHECKING:
    from medserve.access.audit import Event
    from medserve.runtime.model import LoadedModel

STORED = "vault:"


def replay(
    trace: str,
    /,
    *,
    models: Annotated[list[Path], Parameter(consume_multiple=True, negative=())],
    input: Path | None = None,
    home: Path | None = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> Answer:
    """Run a prediction of the audit log again, and say whether the answer is the same.

    Exit code 1 says that it differs: another input, another model, or other numbers. Of a stored case input and answer
    are taken from the vault. Of a body that was sent, the log has keyed digests: name the file with --input.

    Parameters
    ----------
    trace
        As the answer had it, and the header X-Trace-Id.
    models
        Model packages; the one with the digest of then is run, else one of the same name.
    input
        The file that was asked about, where it was not a stored case.
    home
        Where keys and state live. Default: MEDSERVE_HOME, else ~/.medserve.
    json
        Print exactly one JSON object.
    """
    from medserve.access.audit import Event, Ledger
    from medserve.access.witness import Witness
    from medserve.runtime.replay import SAME, candidates, difference

    settings = Settings.from_environment(home)
    ledger = Ledger.open(settings)
    event = _asked((event for _, event in ledger.read()), trace)
    stored = event.input.startswith(STORED)
    if not stored and input is None:
        raise Usage("input-missing", "What was asked about is not stored.", hint="Name the file: --input FILE")
    model = _model(models, event, settings)
    looked = Event(
        action="cases.read" if stored else "audit.read", outcome="allow", principal="local", purpose="audit",
        tenant=event.tenant, resource=event.input.removeprefix(STORED) if stored else "", patient=event.patient,
    )  # fmt: skip
    ledger.write([looked])

    now: dict[str, Any] = {}
    same_input, same_numbers, gap = True, False, None
    if stored:
        data, media, then = _kept(event, model, settings)
        now = _again(model, data, media, trace)
        gap = difference(then, now)
        same_numbers = gap is not None and gap <= SAME
    else:
        assert input is not None
        data, witness = read_input(input, settings.max_upload_bytes), Witness.open(settings)
        same_input = witness.agrees(event.input, "input", event.tenant, trace, data)
        if same_input:
            now = _again(model, data, "", trace)
            seen = candidates(now)
            same_numbers = any(witness.agrees(event.answer, "answer", event.tenant, trace, one) for one in seen)
    same_digest = model.digest == event.model
    rules = (now.get("safety") or {}).get("rules", "")
    same_rules = rules == event.rules if rules or event.rules else None  # None: none were asked
    data_out: dict[str, Any] = {
        "trace": trace, "model": {"name": model.name, "version": model.version, "digest": model.digest},
        "stored": stored, "same_input": same_input, "same_digest": same_digest, "same_numbers": same_numbers,
        "largest_difference": gap, "same_rules": same_rules,
    }  # fmt: skip
    good = same_input and same_digest and same_numbers
    rows = [("input", _word(same_input)), ("model's digest", _word(same_digest)), ("numbers", _word(same_numbers)),
            ("largest difference", "-" if gap is None else f"{gap:.3g}")]  # fmt: skip
    if same_rules is not None:
        rows.append(("rules of safety", _word(same_rules)))
    title = f"{trace}: {'the same answer' if good else 'NOT the same answer'}"
    return Answer(data_out, table(title, "compared", "", rows=rows), exit_code=0 if good else 1)


def _asked(events: "Iterable[Event]", trace: str) -> "Event":
    """The event of a prediction that was answered. Raises: NotFound "unknown-trace"; Usage "trace-not-answered",
    "trace-is-a-batch"."""
    event = next((event for event in events if event.trace == trace), None)
    if event is None:
        raise NotFound("trace", trace[:64], None, hint="`medserve audit list --json` shows the traces of the log.")
    if event.action == "batches.predict":
        raise Usage(
            "trace-is-a-batch",
            "This is a batch: what it asked was destroyed when it had ended, so it is not run again as a whole.",
            hint="Send its manifest again; the answers of then are at GET /v1/batches/BATCH/results.",
        )
    if event.action not in ("models.predict", "models.explain") or event.status != 200 or not event.answer:
        raise Usage(
            "trace-not-answered",
            f"The log has this trace as {event.action}, status {event.status}: no answered prediction to run again.",
            hint="Only predictions that were answered are replayed.",
        )
    return event


def _model(folders: Sequence[Path], event: "Event", settings: Settings) -> "LoadedModel":
    """The model that answered, else one of its name. Raises: NotFound "unknown-model"; BadPackage."""
    from medserve.models.signing import Trust
    from medserve.runtime.model import LoadedModel
    from medserve.safety.policy import Standing

    trust = Trust.load(settings)
    opened = {"max_pixels": settings.max_pixels, "tuned": settings.home / "tuned", "rules": Standing.open(settings),
              "warn": Progress().say}  # fmt: skip
    loaded = [LoadedModel.open(folder, trust, **opened) for folder in folders]  # type: ignore[arg-type]
    found = [m for m in loaded if m.digest == event.model] + [m for m in loaded if m.name == event.resource]
    if not found:
        raise NotFound("model", event.resource, {m.name for m in loaded}, hint="Name its package: --models DIR")
    return found[0]


def _kept(event: "Event", model: "LoadedModel", settings: Settings) -> tuple[bytes, str, dict[str, Any]]:
    """Input, its media type and the answer, out of the vault. Raises: NotFound "unknown-case"; Gone "erased"."""
    import msgspec

    from medserve.serving import bodies
    from medserve.store.cases import Cases

    cases = Cases(settings)
    try:
        case = cases.look(event.tenant, event.input.removeprefix(STORED))
        body = cases.read(case, max_bytes=max(case.size, settings.max_upload_bytes))
        then = msgspec.json.decode(cases.answer(event.tenant, event.answer.removeprefix(STORED)))
    finally:
        cases.close()
    return bodies.case_bytes(body, case.media_type, model.spec), case.media_type, then


def _again(model: "LoadedModel", data: bytes, media: str, trace: str) -> dict[str, Any]:
    tensor, about = model.take(data, media=media)
    text = model.text_of(data, media=media)
    return model.answer(model.score(tensor[None]), case=tensor, text=text, trace=trace, about=about)


def _word(same: bool) -> str:
    return "same" if same else "DIFFERENT"
