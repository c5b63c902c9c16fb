"""A package that was verified and whose engine is not in memory: what it is, what it takes, what it offers.

    known = KnownModel(open_package(folder, trust))
    known.name, known.version, known.digest, known.spec, known.card, known.offered

`LoadedModel` is the same with an engine. A service knows many of these and holds as many engines as fit.
"""

import re
from collections.abc import Mapping
from typing import Any

from medserve.errors import BadPackage, Usage
from medserve.explain.explainers import EXPLAINERS
from medserve.explain.records import RECORD_METHODS
from medserve.models.package import GRAPH, Package
from medserve.models.spec import ModelSpec

_NAME = re.compile(r"[^/\x00-\x1f\x7f]{1,128}")


class KnownModel:
    """One version of one model.

    Args:
        package: opened and verified.

    Raises: BadPackage "package-name".
    """

    def __init__(self, package: Package) -> None:
        self.package = package
        self.spec: ModelSpec = package.spec
        self.digest = package.digest
        self.medicines = package.spec.medicines  # label -> codes of what it may advise; empty for most models
        self.reviewed = bool(self.medicines) or package.spec.uncoded  # by the rules of safety
        self.advises = package.spec.question == "treatment" or bool(self.medicines)
        self.card: Mapping[str, Any] = package.card
        self.name = str(self.card.get("name") or self.spec.name)
        self.version = self.spec.version
        for text in (self.name, self.version):
            if not _NAME.fullmatch(text):
                raise BadPackage("package-name", "A model's name and version must fit one step of a web address.")

    @property
    def graph_bytes(self) -> int:
        return self.package.path(GRAPH).stat().st_size

    @property
    def has_cam(self) -> bool:
        """Whether the graph gives class activation maps; before it is loaded, its audit's word."""
        return True

    @property
    def offered(self) -> dict[str, str]:
        """Explanation methods that passed their audit and run without torch, with the verdict; PASS first."""
        good = [m for m in self.spec.explanations if m.verdict != "FAIL" and self._runs_here(m.name)]
        return {m.name: m.verdict for m in sorted(good, key=lambda m: m.verdict != "PASS")}

    def _runs_here(self, method: str) -> bool:
        if self.spec.is_record:
            return method in RECORD_METHODS
        if method not in EXPLAINERS or EXPLAINERS[method].needs_torch:
            return False
        return method != "cam" or self.has_cam

    def check_explain(self, method: str | None) -> None:
        """Raises: Usage "explanation-not-offered", naming the audit's verdict."""
        if method is None or method in self.offered:
            return
        verdict = next((m.verdict for m in self.spec.explanations if m.name == method), None)
        if verdict is None:
            why = "it was not audited for this model"
        else:
            why = f"its audit says {verdict}" if verdict == "FAIL" else f"its audit says {verdict}, but it needs torch"
        raise Usage(
            "explanation-not-offered",
            f"This model does not offer {method!r}: {why}.",
            hint=f"Offered: {', '.join(self.offered) or 'none'}.",
        )
