"""`medserve demo`: the whole product once, ending with a running service and a report to look at."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from medserve.cli._answer import Answer, figure
from medserve.errors import Fault, MedServeError
from medserve.progress import Progress
from medserve.settings import Settings

PHANTOMS, SIDE = 600, 32  # films, and pixels a side
TABLE = "table-model"
MAX_TRAIN_S = 60  # the demo's share for training; the whole stays within three minutes on 2 cores
_PID, _LOG, _KEY = "service.pid", "service.log", "key"


def demo(
    *,
    data: Path | None = None,
    folder: Path = Path("demo"),
    port: int = 8000,
    stop: Annotated[bool, Parameter(negative=())] = False,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> Answer:
    """Train, evaluate, explain and serve a model on images and one on a table, and leave the service running.

    DATA (images, or records of any kind) is --data, else the variable MEDSERVE_DATA, else a checksummed download of
    PneumoniaMNIST, else generated phantoms. The table is 569 breast biopsies that scikit-learn ships. Everything is
    kept in one folder; `medserve demo --stop` ends the service.

    Parameters
    ----------
    data
        A data set, of images or of records.
    folder
        Where the demo lives; its own keys and database are inside.
    port
        Of the service, on this machine only; another free one is taken if it is busy.
    stop
        End the service that a demo left running.
    json
        Print one JSON object.
    """
    folder = folder.absolute()
    stopped = _stop(folder)
    if stop:
        return Answer({"stopped": stopped}, "The demo's service has ended." if stopped else "No demo was running.")
    settings = Settings.from_environment(folder / "home")
    with Progress(quiet=json) as progress:
        result = _run(data or Settings.from_environment().data, folder, port, settings, progress)
    return Answer(result, _show(result))


def _run(data: Path | None, folder: Path, port: int, settings: Settings, progress: Progress) -> dict[str, Any]:
    import shutil

    from medserve.road.collect import list_data
    from medserve.road.run import Options
    from medserve.road.train import train_package

    started = time.monotonic()
    data, said = _find_data(data, folder, settings, progress)
    progress.say(said)
    shutil.rmtree(folder / "model", ignore_errors=True)
    kind = list_data(data, settings).kind
    quick = "residual-quick" if kind == "image" else None  # elsewhere the data set's own default
    options = Options(recipe=quick, audit="quick", max_train_s=MAX_TRAIN_S)
    trained = train_package(data, folder / "model", settings=settings, options=options, progress=progress)
    sample = _sample(data, folder, settings, kind)
    table, case = _table(folder, settings, progress)
    key = _key(folder, settings)
    url, pid = _start(folder, port, settings)
    name = trained["model"]["name"]
    answer = _ask(url, key, sample, name)
    media = {".dcm": "application/dicom", ".png": "image/png", ".json": "application/json"}.get(
        sample.suffix, "image/jpeg"
    )
    head = f'curl -H "Authorization: Bearer $(cat {folder / _KEY})" -H "Content-Type: '
    curl = f'{head}{media}" --data-binary @{sample} {url}/v1/models/{name}/predict'
    about = f"{url}/v1/models/{table['model']['name']}/predict?explain=shapley"
    second = {
        "package": table["package"], "report": table["report"], "metrics": table["metrics"], "chosen": table["chosen"],
        "curl": f"{head}application/json\" --data-binary @{case} '{about}'",
        "answer": _ask(url, key, case, table["model"]["name"], explain="shapley"),
    }  # fmt: skip
    return {
        "data": str(data), "said": said, "synthetic": said.startswith("No real data"),
        "package": trained["package"], "report": trained["report"], "metrics": trained["metrics"],
        "chosen": trained["chosen"], "table": second, "address": url, "pid": pid, "curl": curl, "answer": answer,
        "seconds": round(time.monotonic() - started, 1),
    }  # fmt: skip


def _find_data(data: Path | None, folder: Path, settings: Settings, progress: Progress) -> tuple[Path, str]:
    if data is not None:
        return data, f"Training on {data}."
    from medserve.data.download import DATASETS, fetch

    target = folder / "data" / "pneumoniamnist.npz"
    try:
        return fetch(DATASETS["pneumoniamnist"], target, progress=progress), "Training on PneumoniaMNIST (downloaded)."
    except MedServeError:
        from medserve.data.phantoms import make_phantoms

        phantoms = folder / "data" / "phantoms"
        if not (phantoms / "dataset.yaml").exists():
            make_phantoms(phantoms, PHANTOMS, SIDE, progress=progress)
        return phantoms, ("No real data could be had: training on generated phantoms, which are not patients. "
                          "Give real images with --data PATH or MEDSERVE_DATA.")  # fmt: skip


def _sample(data: Path, folder: Path, settings: Settings, kind: str) -> Path:
    """One case of the data set as a file that can be sent: a picture, or the JSON of a record."""
    from medserve.road.sample import write_case, write_sample

    if kind == "record":
        return write_case(data, folder, settings, name="sample.json")
    return write_sample(data, folder, settings)


def _table(folder: Path, settings: Settings, progress: Progress) -> tuple[dict[str, Any], Path]:
    """The second model, of the biopsies, and one of them as a request's body."""
    import shutil

    from medserve.data.biopsies import write_biopsies
    from medserve.road.run import Options
    from medserve.road.sample import write_case
    from medserve.road.train import train_package

    progress.say("Training on 569 breast biopsies (Wisconsin, as scikit-learn ships them).")
    data = write_biopsies(folder / "data" / "biopsies")
    shutil.rmtree(folder / TABLE, ignore_errors=True)
    options = Options(audit="quick", max_train_s=MAX_TRAIN_S)
    trained = train_package(data, folder / TABLE, settings=settings, options=options, progress=progress)
    return trained, write_case(data, folder, settings)


def _key(folder: Path, settings: Settings) -> str:
    """A key of the demo's own, in a file that only its owner can read."""
    from medserve.access.keys import KeyRing

    key = KeyRing.open(settings).create("demo", days=7).key
    path = folder / _KEY
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(key)
    return key


def _start(folder: Path, port: int, settings: Settings) -> tuple[str, int]:
    """The service in the background. Returns: its address and process id once it is ready."""
    from medserve.client import Client

    port = _free_port(port)
    command = [sys.executable, "-m", "medserve.cli", "serve", "--models", str(folder / "model"), str(folder / TABLE),
               "--port", str(port), "--home", str(settings.home)]  # fmt: skip
    with open(folder / _LOG, "wb") as log:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    (folder / _PID).write_text(str(child.pid))
    url = f"http://127.0.0.1:{port}"
    with Client(url, "") as client:
        for _ in range(1200):  # two minutes: a busy machine starts slowly
            if child.poll() is not None:
                break
            try:
                if client.ready():
                    return url, child.pid
            except MedServeError:
                pass
            time.sleep(0.1)
    _stop(folder)
    raise Fault("demo-service", "The service did not get ready.", hint=f"Its log: {folder / _LOG}")


def _ask(url: str, key: str, sample: Path, name: str, explain: str | None = None) -> dict[str, Any]:
    import msgspec

    from medserve.client import Client

    with Client(url, key) as client:
        try:
            return msgspec.to_builtins(client.predict(sample, model=name, explain=explain))
        except MedServeError as error:  # a refusal is an answer too, and is shown as one
            return error.as_dict()


def _free_port(port: int) -> int:
    for wanted in (port, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", wanted))
            except OSError:
                continue
            return probe.getsockname()[1]
    raise Fault("no-port", "No free port on this machine.")


def _stop(folder: Path) -> bool:
    """End the service that this folder's pid file names, if it is still ours."""
    path = folder / _PID
    try:
        pid = int(path.read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes() if Path("/proc").is_dir() else b"medserve.cli"
        running = b"medserve.cli" in command
        if running:
            os.kill(pid, signal.SIGTERM)
            for _ in range(100):
                os.kill(pid, 0)
                time.sleep(0.1)
    except ProcessLookupError:
        running = True  # it was there a moment ago
    except (OSError, ValueError):
        running = False
    path.unlink(missing_ok=True)
    return running


def _show(result: dict[str, Any]) -> str:
    metrics, answer, table = result["metrics"], result["answer"], result["table"]
    lines = [
        "",
        result["said"],
        f"test part:  AUROC {figure(metrics.get('auroc'))}, accuracy {figure(metrics.get('accuracy'))}",
        f"answer:     {_one_line(answer)}",
        f"report:     {result['report']}",
        f"service:    {result['address']}   (ends with: make demo-stop)",
        f"ask it:     {result['curl']}",
        "",
        "Breast biopsies, a table:",
        f"test part:  AUROC {figure(table['metrics'].get('auroc'))}, "
        f"accuracy {figure(table['metrics'].get('accuracy'))}",
        f"answer:     {_one_line(table['answer'])}{_because(table['answer'])}",
        f"report:     {table['report']}",
        f"ask it:     {table['curl']}",
        "",
        f"took:       {result['seconds']:.0f} s",
        "MedServe is software for building and serving models; it makes no claim of clinical validity.",
    ]
    return "\n".join(lines)


def _because(answer: dict[str, Any]) -> str:
    """The inputs that moved it most."""
    values = (answer.get("explanation") or {}).get("values", [])[:3]
    return f", because of {', '.join(v['input'] for v in values)}" if values else ""


def _one_line(answer: dict[str, Any]) -> str:
    if "error" in answer:
        return f"refused ({answer['error']['code']})"
    if not answer["outputs"]:
        return str(answer["status"])
    best = max(answer["outputs"], key=lambda o: o.get("probability") or 0)
    said = best["value"] if best.get("probability") is None else best["probability"]
    return f"{answer['status']}: {best['label']} {said:.2f}"
