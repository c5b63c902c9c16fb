"""A package that writes molecules: letter after letter by its step graph, with no training framework.

    writer = Writer(open_package(folder, trust))
    writer.write(500, random, temperature=1.0)       # ["CCOc1ccc...", ...]: texts, valid or not

A text that has not ended after as many letters as the model reads is given as it stands: it counts as invalid.
"""

import numpy as np

from medserve.errors import BadPackage, Usage
from medserve.models.package import STEP, Package
from medserve.runtime.graphfile import read_graph
from medserve.types import Array

END = 0


class Writer:
    """Args:
        package: of task "generate".
        threads: processor threads of one pass.

    Raises: Usage "not-a-writer": another kind of model. BadPackage "graph-broken", "graph-signature".
    """

    def __init__(self, package: Package, *, threads: int = 1) -> None:
        import onnxruntime as ort

        spec = package.spec
        if spec.output.task != "generate" or not package.path(STEP).is_file():
            raise Usage(
                "not-a-writer", f"{package.folder} answers {spec.output.task}; it does not write molecules.",
                hint="Train one: `target: {kind: generate}` in a dataset.yaml, then medserve train.",
            )  # fmt: skip
        facts = spec.architecture.params["blocks"][0]["facts"]
        self.alphabet, self.longest = str(facts["alphabet"]), int(facts["length"])
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 4
        try:
            self._session = ort.InferenceSession(
                read_graph(package.path(STEP)), options, providers=["CPUExecutionProvider"]
            )
            inputs = {one.name: one for one in self._session.get_inputs()}
            self._state = int(inputs["state"].shape[1])
            logits, _ = self._step(np.zeros(1, np.int64), np.zeros((1, self._state), np.float32))
        except Exception as error:  # the engine's own errors share no base class
            if isinstance(error, BadPackage):
                raise
            raise BadPackage("graph-broken", f"The engine cannot run {STEP} ({type(error).__name__}).") from error
        if logits.shape != (1, len(self.alphabet) + 2):
            raise BadPackage(
                "graph-signature", f"{STEP} does not give a score for each letter of the model's alphabet."
            )

    def write(self, count: int, random: np.random.Generator, *, temperature: float = 1.0) -> list[str]:
        """`count` texts. temperature: below 1 keeps to what is usual, above 1 strays; at least .1, at most 3.

        Raises: Usage "temperature-range".
        """
        if not 0.1 <= temperature <= 3:
            raise Usage("temperature-range", "The temperature lies between 0.1 and 3.", hint="1 is what was learned.")
        letters = np.full((count, self.longest), END, np.int64)
        rows, letter = np.arange(count), np.zeros(count, np.int64)
        state = np.zeros((count, self._state), np.float32)
        for place in range(self.longest):
            logits, state = self._step(letter, state)
            letter = _drawn(logits[:, :-1] / temperature, random)  # the last is no letter: what training never saw
            letters[rows, place] = letter
            going = letter != END
            rows, letter, state = rows[going], letter[going], state[going]
            if not len(rows):
                break
        return [self._text(row) for row in letters]

    def _step(self, letter: Array, state: Array) -> tuple[Array, Array]:
        logits, after = self._session.run(["logits", "next"], {"letter": letter, "state": state})
        return np.asarray(logits), np.asarray(after)

    def _text(self, row: Array) -> str:
        end = np.flatnonzero(row == END)
        return "".join(self.alphabet[i - 1] for i in row[: end[0] if len(end) else len(row)])


def _drawn(logits: Array, random: np.random.Generator) -> Array:
    """(B, V) -> (B,): one of each row, by its probability (the Gumbel trick)."""
    noise = random.gumbel(size=logits.shape)
    drawn: Array = (logits + noise).argmax(1)
    return drawn
