"""The founding article's network: our training loop and exported graph against the article's own Keras program.

    python benchmarks/article_cnn.py [--blocks 5] [--steps 3] [--threads 2] [--data pneumoniamnist.npz]

Both programs learn the same 88,699,969 parameters from the same generated pictures (224x224x3, batch 32, Adam 1e-3,
binary cross-entropy), each in its own process that is held at a gate: only one works at a time, blocks alternate, and
the ratio of each pair of neighbouring blocks is kept. Ours runs through `training.loop.fit` as a user's run does,
uint8 pictures in; theirs through `model.fit` with the pictures already as floats in memory, which spares it work. Then
prediction, as the product serves: a package that `medserve train` made of --data (else MEDSERVE_DATA, else 1200 drawn
phantoms) in one epoch, `medserve tune` with its accuracy gate on the calibration part, then `LoadedModel.score` on the
engine that was chosen (uint8 in), against `model.predict` (floats in): once with the whole graph, whose distance to the
training data Keras does not compute, and once with the outputs that Keras computes ("same").

TensorFlow lives in an environment of its own, benchmarks/.venvs/keras, made on the first run. Targets: training
>= 1.0x (>= 1.5x where the processor has bf16 instructions), prediction >= 2x. Prints one JSON object.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from dataclasses import replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
KERAS = HERE / ".venvs" / "keras"
WORK = HERE / ".work" / "article"
BATCH, SIDE = 32, 224
WARM_UP = 1  # blocks


class Gate:
    """A worker's side: waits for "go" on stdin, works a block, and says how long it took."""

    def __init__(self, steps: int, package: Path) -> None:
        self.steps, self.package, self.done, self.started = steps, package, 0, 0.0

    def wait(self) -> None:
        if sys.stdin.readline().strip() != "go":
            os._exit(0)
        self.started = time.perf_counter()

    def tell(self, **facts: Any) -> None:
        sys.stderr.write("@" + json.dumps(facts) + "\n")
        sys.stderr.flush()

    def step(self) -> None:
        """Call after every training step."""
        self.done += 1
        if self.done % self.steps == 0:
            self.tell(seconds=time.perf_counter() - self.started)
            self.wait()


def pictures(n: int) -> tuple[Any, Any]:
    import numpy as np

    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (n, SIDE, SIDE, 3), dtype=np.uint8), rng.integers(0, 2, n)


def ours_train(gate: Gate, n: int, threads: int) -> None:
    import numpy as np
    import torch

    from medserve.models.build import build_net
    from medserve.models.heads import Head
    from medserve.models.spec import OutputSpec
    from medserve.progress import Progress
    from medserve.training.loop import fit
    from medserve.training.plan import Plan
    from medserve.types import ArraySamples, Named

    class Gated(Progress):
        def step(self, bar: Any, advance: int = 1, *, note: str | None = None) -> None:
            if note is not None:  # a training step; the bar's first move has no note
                gate.step()

    torch.set_num_threads(threads)
    images, labels = pictures(n)
    data = ArraySamples(np.ascontiguousarray(images.transpose(0, 3, 1, 2)), labels.astype(np.int64))
    net = build_net(Named("article-cnn"), channels=3, size=SIDE, outputs=1)
    plan = Plan(
        epochs=1,
        batch=BATCH,
        optimizer="adam",
        schedule="constant",
        rate_peak=1e-3,
        weight_decay=0.0,
        clip=0.0,
        label_smoothing=0.0,
        balance=False,
        augment=None,
        ema=0.0,
    )
    gate.tell(parameters=sum(p.numel() for p in net.parameters()), version=f"torch {torch.__version__}")
    gate.wait()
    head = Head(OutputSpec(task="binary", labels=["no", "yes"]))
    fit(net, head, data, data, mean=[0.0] * 3, std=[1.0] * 3, plan=plan, progress=Gated(quiet=True))


def tuned_package(data: Path | None, threads: int) -> dict[str, Any]:
    """A trained article-cnn and the tuner's verdict on it. Returns: what `medserve tune --json` prints."""
    from medserve.data.phantoms import make_phantoms
    from medserve.progress import Progress
    from medserve.road.run import Options
    from medserve.road.train import train_package
    from medserve.road.tune import tune_package
    from medserve.settings import Settings

    settings = replace(Settings.from_environment(), home=WORK / "home")
    data = data or settings.data
    with Progress() as progress:
        if data is None:
            data = WORK / "phantoms"
            if not data.exists():
                make_phantoms(data, 1200, 64, progress=progress)
        package = WORK / f"model-{data.stem}"
        if not package.exists():
            options = Options(recipe="article-cnn", epochs=1, audit="none", keep="recipe")
            train_package(data, package, settings=settings, options=options, progress=progress)
        return {"package": str(package), **tune_package(package, data, settings=settings, threads=threads,
                                                        progress=progress)}  # fmt: skip


def ours_predict(gate: Gate, n: int, threads: int) -> None:
    import numpy as np

    from medserve.models.signing import Trust
    from medserve.runtime.model import LoadedModel
    from medserve.settings import Settings

    settings = replace(Settings.from_environment(), home=WORK / "home")
    trust, tuned = Trust.load(settings), settings.home / "tuned"
    model = LoadedModel.open(gate.package, trust, threads=threads, tuned=tuned, warn=sys.stderr.write)
    images = np.ascontiguousarray(pictures(n)[0].transpose(0, 3, 1, 2))
    gate.tell(version=str(model.engine.choice), batch=model.engine.max_batch, streams=model.engine.choice.streams)
    gate.wait()
    while True:
        model.score(images)
        gate.done = gate.steps - 1
        gate.step()


def ours_same(gate: Gate, n: int, threads: int) -> None:
    """The same weights on the same engine, exported without the distance: the outputs that Keras gives."""
    import numpy as np
    from safetensors.torch import load_file

    from medserve.models.export import export_onnx
    from medserve.models.package import WEIGHTS, open_package
    from medserve.models.served import open_served
    from medserve.models.signing import Trust
    from medserve.runtime.engine import Engine
    from medserve.runtime.model import LoadedModel
    from medserve.settings import Settings

    settings = replace(Settings.from_environment(), home=WORK / "home")
    trust, tuned = Trust.load(settings), settings.home / "tuned"
    choice = LoadedModel.open(gate.package, trust, threads=threads, tuned=tuned, warn=sys.stderr.write).engine.choice
    package = open_package(gate.package, trust)
    served = open_served(package.spec, load_file(package.path(WEIGHTS)))
    served.ood = None
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / "graph.onnx"
        export_onnx(served, package.spec.shape, path)
        engine = Engine(path.read_bytes(), shape=package.spec.shape, width=1, threads=threads, choice=choice)
    images = np.ascontiguousarray(pictures(n)[0].transpose(0, 3, 1, 2))
    gate.tell(version=str(choice), batch=engine.max_batch, streams=choice.streams, outputs=engine.outputs)
    gate.wait()
    while True:
        engine.score(images)
        gate.done = gate.steps - 1
        gate.step()


def keras_model(threads: int) -> Any:
    """The article's program."""
    import keras
    import tensorflow as tf
    from keras import layers

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    model = keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 3)),
            layers.Conv2D(32, (3, 3), activation="relu"),
            layers.MaxPooling2D((2, 2)),
            layers.Conv2D(64, (3, 3), activation="relu"),
            layers.MaxPooling2D((2, 2)),
            layers.Conv2D(128, (3, 3), activation="relu"),
            layers.MaxPooling2D((2, 2)),
            layers.Flatten(),
            layers.Dense(1024, activation="relu"),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.compile(optimizer="adam", loss="binary_crossentropy")
    return model


def keras_train(gate: Gate, n: int, threads: int) -> None:
    import keras
    import numpy as np
    import tensorflow as tf

    class Gated(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            gate.step()

    model = keras_model(threads)
    images, labels = pictures(n)
    floats = images.astype(np.float32) / 255
    gate.tell(parameters=model.count_params(), version=f"tensorflow {tf.__version__}, keras {keras.__version__}")
    gate.wait()
    model.fit(floats, labels, batch_size=BATCH, epochs=1, verbose=0, callbacks=[Gated()])


def keras_predict(gate: Gate, n: int, threads: int) -> None:
    import numpy as np
    import tensorflow as tf

    model = keras_model(threads)
    floats = pictures(n)[0].astype(np.float32) / 255
    gate.tell(version=f"tensorflow {tf.__version__}")
    gate.wait()
    while True:
        model.predict(floats[: gate.steps * BATCH], batch_size=BATCH, verbose=0)
        gate.done = gate.steps - 1
        gate.step()


WORKERS = {
    "ours-train": ours_train,
    "keras-train": keras_train,
    "ours-predict": ours_predict,
    "keras-predict": keras_predict,
    "ours-same": ours_same,
    "keras-same": keras_predict,
}


class Worker:
    """The parent's side of a gate."""

    def __init__(self, what: str, n: int, steps: int, threads: int, package: str) -> None:
        python = KERAS / "bin" / "python" if what.startswith("keras") else Path(sys.executable)
        env = dict(os.environ, OMP_NUM_THREADS=str(threads), OMP_WAIT_POLICY="PASSIVE", TF_CPP_MIN_LOG_LEVEL="3")
        command = [str(python), __file__, "--worker", what, "--pictures", str(n)]
        command += ["--steps", str(steps), "--threads", str(threads), "--package", package]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=env
        )
        self.facts = self.listen()

    def listen(self) -> dict[str, Any]:
        assert self.process.stderr is not None
        said: list[str] = []
        for line in self.process.stderr:
            if line.startswith("@"):
                return json.loads(line[1:])
            said.append(line)
        raise SystemExit("A worker stopped:\n" + "".join(said[-20:]))

    def block(self) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return float(self.listen()["seconds"])

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def compare(kind: str, blocks: int, steps: int, threads: int, package: str = "") -> dict[str, Any]:
    """Alternate blocks of ours and theirs. Returns: pictures a second of each block and the ratios of the pairs."""
    n = (blocks + WARM_UP) * steps * BATCH + BATCH if kind == "train" else steps * BATCH
    workers = {side: Worker(f"{side}-{kind}", n, steps, threads, package) for side in ("ours", "keras")}
    try:
        speed: dict[str, list[float]] = {side: [] for side in workers}
        for turn in range(blocks + WARM_UP):
            for side in sorted(workers, reverse=bool(turn % 2)):
                seconds = workers[side].block()
                if turn >= WARM_UP:
                    speed[side].append(steps * BATCH / seconds)
    finally:
        for worker in workers.values():
            worker.stop()
    ratios = [a / b for a, b in zip(speed["ours"], speed["keras"], strict=True)]
    return {
        "images_per_second": {side: [round(v, 2) for v in values] for side, values in speed.items()},
        "median": {side: round(statistics.median(values), 2) for side, values in speed.items()},
        "ratios": [round(r, 3) for r in ratios],
        "ratio_median": round(statistics.median(ratios), 3),
        "versions": {side: worker.facts for side, worker in workers.items()},
    }


def _brief(row: dict[str, Any]) -> str:
    choice = "{engine} {precision} {streams}x{batch}".format(**row["choice"])
    speed, wait = (round(row[name] or 0, 2) for name in ("images_per_s", "lone_ms"))
    return f"{choice}: {speed} images/s, {wait} ms alone{', ' + row['code'] if row['code'] else ''}"


def keras_environment() -> None:
    if (KERAS / "bin" / "python").exists():
        return
    venv.create(KERAS, with_pip=True)
    subprocess.run([str(KERAS / "bin" / "pip"), "install", "--quiet", "tensorflow-cpu"], check=True, stdout=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="batches of 32 in a block")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=("train", "predict"))
    parser.add_argument("--worker", choices=sorted(WORKERS), help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help="what the package for prediction is trained and judged on")
    parser.add_argument("--pictures", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--package", type=Path, default=Path(), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        WORKERS[given.worker](Gate(given.steps, given.package), given.pictures, given.threads)
        return
    keras_environment()
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    out: dict[str, Any] = {"threads": given.threads, "bf16": "avx512_bf16" in flags or "amx_bf16" in flags}
    kinds = {"train": ("train",), "predict": ("predict", "same")}
    tuned: dict[str, Any] = {}
    for kind in kinds[given.only] if given.only else ("train", "predict", "same"):
        if kind == "predict":
            tuned = tuned_package(given.data, given.threads)
        out[kind] = compare(kind, given.blocks, given.steps, given.threads, tuned.get("package", ""))
        if kind == "predict":
            verdict = tuned["verdict"]
            chosen = next(row for row in verdict["rows"] if row["choice"] == verdict["chosen"])
            out[kind] |= {"chosen": chosen, "cases": verdict["cases"], "data": verdict["data"],
                          "rows": [_brief(row) for row in verdict["rows"]]}  # fmt: skip
    json.dump(out, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
