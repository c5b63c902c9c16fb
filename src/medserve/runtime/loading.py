"""From a folder to a model in memory, in two steps: verify it now, load its engine when it is needed.

    loader = Loader(lambda: trust, threads=2, tuned=settings.home / "tuned")
    known = loader.verify(folder)            # signature, manifest, spec; no engine
    loader.bytes_of(known)                   # what it will take in memory
    model = loader.load(known)               # verified again, engine, self-check, one batch of every size

What an engine takes is estimated, not measured: the growth of a process that answers meanwhile is nobody's figure, and
a budget must know before it loads. The estimate stands above what was measured for a 40 MiB and a 0.6 MiB network
(ONNX Runtime 137 and 29 MiB, OpenVINO 238 and 77 MiB, libraries included).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from medserve.errors import BadPackage
from medserve.models.package import open_package
from medserve.models.signing import Trust
from medserve.runtime.engine import DEFAULT, LARGE_GRAPH, Choice, usual
from medserve.runtime.known import KnownModel
from medserve.runtime.model import LoadedModel
from medserve.runtime.niceness import giving_way
from medserve.runtime.tuned import EXACT, Verdict, find_verdict
from medserve.safety.policy import CLOSED, Standing

MIB = 2**20
GRAPHS = {"onnxruntime": 3, "openvino": 4}  # copies of the graph that an engine holds: its weights, packed for it
OWN_MIB = {"onnxruntime": 0, "openvino": 64}  # beside them
PICTURES_MIB, RECORDS_MIB, PIECES_MIB = 32, 4, 96  # activations of its largest batch; `engine.PIXELS` bounds them


@dataclass(frozen=True, slots=True)
class Loader:
    """How this process opens packages.

    Args:
        trust: whose packages are opened; asked each time, since it may change.
        threads: processor threads of one model's pass; 0 means all cores.
        max_pixels: largest picture that is decoded.
        tuned: folder of the tuner's verdicts.
        rules: of safety, which what is advised of medicines is held against.
        warn: gets a line where a verdict could not be followed.
    """

    trust: Callable[[], Trust]
    threads: int = 0
    max_pixels: int = 64_000_000
    tuned: Path | None = None
    rules: Standing = CLOSED
    warn: Callable[[str], None] = lambda text: None

    def verify(self, folder: Path) -> KnownModel:
        """Raises: BadPackage."""
        return KnownModel(open_package(folder, self.trust()))

    def load(self, known: KnownModel) -> LoadedModel:
        """What was verified, with its engine, warm.

        Raises: BadPackage, also "package-altered": the folder is not what was verified; Fault "engine-failed".
        """
        package = open_package(known.package.folder, self.trust())
        if package.digest != known.digest:
            why = f"{package.folder} holds another model than the one that was verified."
            raise BadPackage("package-altered", why, hint="Give a new model a folder and a version of its own.")
        verdict = self._verdict(known)

        def opened() -> LoadedModel:
            model = LoadedModel(
                package,
                threads=self.threads,
                max_pixels=self.max_pixels,
                verdict=verdict,
                tuned=self.tuned,
                rules=self.rules,
                warn=self.warn,
            )
            model.warm()
            return model

        return giving_way(opened)

    def bytes_of(self, known: KnownModel) -> int:
        """Estimate of what its engines take in memory."""
        quiet = replace(self, warn=lambda text: None)
        verdict = quiet._verdict(known)
        own = usual(known.spec.shape, known.graph_bytes, self.threads)
        engines = [own] if verdict is None else [verdict.chosen]
        if verdict is not None and verdict.chosen.precision != EXACT:
            engines.append(DEFAULT)  # draws the explanations
        return sum(_engine_bytes(known, choice) for choice in engines)

    def _verdict(self, known: KnownModel) -> Verdict | None:
        if self.tuned is None:
            return None
        return find_verdict(self.tuned, known.digest, threads=self.threads, warn=self.warn)


def _engine_bytes(known: KnownModel, choice: Choice) -> int:
    graph = known.graph_bytes
    if not known.spec.is_record:
        passing = PICTURES_MIB
    else:
        passing = PIECES_MIB if graph > LARGE_GRAPH else RECORDS_MIB
    copies, own = GRAPHS.get(choice.engine, 6) * (2 if choice.shared else 1), OWN_MIB.get(choice.engine, 64)
    return copies * graph + (own + passing * choice.streams) * MIB
