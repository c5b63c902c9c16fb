"""The one command-line face: `medserve VERB`, one file per verb.

Every verb takes `--json`: then stdout holds exactly one JSON object (progress and logs go to stderr). Exit code: 0
done, 1 failed, 2 bad input. An error is `{"error": {"code", "message", "hint", "kind"}}`.
"""

import errno
import itertools
import json
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from cyclopts import App, CycloptsError
from rich.console import Console

from medserve import __version__, guard
from medserve.cli._answer import Answer
from medserve.errors import Fault, MedServeError, Usage
from medserve.store.files import cannot_write

VERBS = {
    "demo": "The whole product once: train, report, serve, ask.",
    "inspect": "Step 1: what is there, and what is wrong with it.",
    "train": "Steps 2 and 3: a model, its baseline, its report.",
    "evaluate": "Step 4: the numbers again, here or on other data.",
    "explain": "Draw the evidence for one answer.",
    "predict": "One answer, as the network would give it.",
    "screen": "A library of molecules, ranked.",
    "generate": "New molecules, plain or made to score well.",
    "admet": "Molecules: 52 properties beside approved drugs.",
    "safety": "Medicines held against rules, apart from every model.",
    "batch": "Many inputs at a running service, one result each.",
    "tune": "The fastest engine here that answers alike.",
    "serve": "Step 5: answer over HTTP.",
    "traffic": "Which versions answer, how often; the way back.",
    "keys": "Make, list and revoke API keys.",
    "clients": "Programs that sign in with a key of their own.",
    "admin": "People with an account of this service.",
    "audit": "Who did what, and whether the log is unchanged.",
    "replay": "Ask again what was asked then, and compare.",
    "vault": "What is encrypted at rest; new keys; erasing a patient.",
    "backup": "A signed copy of everything, made while the service runs.",
    "restore": "A home from a backup, verified, in an empty place.",
    "models": "Recipes, ranked for your data; or what a package is.",
}

OPENS_NOTHING = ("keys", "audit", "vault", "admin", "clients")  # no file of a user
STRICT = ("serve", "predict", "replay")  # no library there has a reason to pickle; see `guard`

_EPILOGUE = """The road:

    medserve inspect DATA
    medserve train DATA --out DIR
    medserve predict DIR --input FILE
    medserve explain DIR --input FILE --out heat.png
    medserve keys create --name me
    medserve serve --models DIR

MedServe is software for building and serving models; it makes no claim of
clinical validity.
"""


def make_app(verb: str = "") -> App:
    """The command line; only the module of the verb that is asked for is imported."""
    app = App(
        name="medserve",
        help="Model-as-a-Service for medicine: from data to a calibrated, explained, protected prediction service.",
        help_epilogue=None if verb in VERBS else _EPILOGUE,
        help_format="plaintext",
        version=__version__,
        result_action="return_value",
    )
    for name, what in VERBS.items():
        target = "app" if name in ("keys", "clients", "admin", "audit", "vault", "backup") else name
        if name == verb:
            app.command(f"medserve.cli.{name}:{target}", name=name)
        else:
            app.command(f"medserve.cli.{name}:{target}", name=name, help=what)
    return app


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the `medserve` script."""
    argv = sys.argv[1:] if argv is None else list(argv)
    verb = argv[0] if argv else ""
    if verb in VERBS and verb not in OPENS_NOTHING:
        guard.install(between=verb not in STRICT, carrier="ray" if _on_ray(argv) else "")
    sys.exit(run(argv))


def _on_ray(argv: list[str]) -> bool:
    """Whether work goes to a cluster, which carries calls by pickle."""
    return "--engine=ray" in argv or ("--engine", "ray") in itertools.pairwise(argv)


def run(argv: list[str]) -> int:
    """Run one command line; returns the exit code. The only place where errors become text."""
    as_json = "--json" in argv
    try:
        result = make_app(argv[0] if argv else "")(argv, exit_on_error=False, print_error=False)
        if isinstance(result, Answer):
            _print(result, as_json)
            return result.exit_code
        return 0
    except CycloptsError as error:
        return _fail(Usage("bad-arguments", _plain(error), hint=_see(argv)), as_json)
    except MedServeError as error:
        return _fail(error, as_json)
    except KeyboardInterrupt:
        return _fail(Usage("interrupted", "Stopped.", hint="Run the same command again to go on."), as_json)
    except OSError as error:
        return _fail(_system(error), as_json)
    except Exception as error:
        fault = Fault("internal", f"Unexpected {type(error).__name__}: {error}",
                      hint="This is a defect of MedServe; set MEDSERVE_DEBUG=1 to see where.")  # fmt: skip
        if os.environ.get("MEDSERVE_DEBUG"):
            traceback.print_exc()
        return _fail(fault, as_json)


def _see(argv: list[str]) -> str:
    return f"See: medserve {argv[0]} --help" if argv and argv[0] in VERBS else "See: medserve --help"


def _system(error: OSError) -> Fault:
    """A full disk has its own code wherever it is met."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return cannot_write(Path(error.filename or "a file"), error)
    name = f" {error.filename}" if error.filename else ""
    return Fault("system", f"{error.strerror or error}{name}.", hint="Check the path and its rights.")


def _plain(error: CycloptsError) -> str:
    return " ".join(str(error).split())


def _print(answer: Answer, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(answer.data, allow_nan=False) + "\n")
    elif isinstance(answer.shown, str):
        sys.stdout.write(answer.shown + "\n" if answer.shown else "")  # never wrapped: lines may be copied
    else:
        Console(highlight=False, markup=False).print(answer.shown)


def _fail(error: MedServeError, as_json: bool) -> int:
    if as_json:
        sys.stdout.write(json.dumps(error.as_dict()) + "\n")
    else:
        text = f"{error.code}: {error.message}" + (f"\n  next: {error.hint}" if error.hint else "")
        sys.stderr.write(text + "\n")
    return error.exit_code
