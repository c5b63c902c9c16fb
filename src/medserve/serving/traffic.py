"""Which version answers a request that names a model alone.

    split = Split.of(row)                                   # {"1": 90, "2": 10}, shadow ["3"]
    split.pick("p-8c1f", ["1", "2", "3"])                   # "1" or "2", always the same for one patient

A patient is a point between 0 and 1, by a hash under the salt of this model; the versions share that line in their own
order. Raising the share of a new version therefore moves some patients to it, and none away from it. Without a split
the version that was added last answers.
"""

import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from medserve.errors import NotFound, Usage
from medserve.store.traffic import SplitRow

MOST_SHADOWS = 4
_POINTS = 2**64


@dataclass(frozen=True, slots=True)
class Split:
    """versions: (version, share), in the order of their versions. row: as it is kept."""

    versions: tuple[tuple[str, int], ...]
    shadow: tuple[str, ...]
    row: SplitRow

    @classmethod
    def of(cls, row: SplitRow) -> "Split":
        shares = sorted((item for item in row.versions.items() if item[1]), key=lambda item: version_key(item[0]))
        return cls(tuple(shares), tuple(row.shadow), row)

    def pick(self, key: str, served: Collection[str]) -> str | None:
        """The version for this patient, or whatever else the key names.

        Args:
            served: versions that are here; the share of one that is not goes to the others.

        Returns: None where none of them is.
        """
        shares = [item for item in self.versions if item[0] in served]
        if len(shares) < 2:
            return shares[0][0] if shares else None
        hashed = hashlib.blake2b(key.encode(), digest_size=8, key=self.row.salt).digest()
        point = int.from_bytes(hashed, "big") * sum(share for _, share in shares)
        for version, share in shares:
            point -= share * _POINTS
            if point < 0:
                return version
        return shares[-1][0]

    def largest(self, served: Collection[str]) -> str | None:
        """The version that most requests meet; None where none of them is here."""
        return max((item for item in self.versions if item[0] in served), key=lambda item: item[1], default=(None, 0))[
            0
        ]


@dataclass(slots=True)
class Compared:
    """Of one shadow, since the process started. differences: of probabilities; the largest one of each answer."""

    agreed: int = 0
    differed: int = 0
    refused: int = 0
    failed: int = 0
    dropped: int = 0
    measured: int = 0  # with probabilities to compare
    sum_difference: float = 0.0
    most_difference: float = 0.0


def check_split(name: str, versions: Mapping[str, int], shadow: Collection[str], served: Collection[str]) -> None:
    """Raises: NotFound "unknown-version"; Usage "traffic-invalid"."""
    for version in (*versions, *shadow):
        if version not in served:
            raise NotFound("version", version[:128], served, hint=f"List them with GET /v1/models/{name}.")
    why = ""
    if any(share < 0 for share in versions.values()) or sum(versions.values()) != 100:
        why = "The shares are whole numbers of per cent, 100 together."
    elif len(shadow) > MOST_SHADOWS or len(set(shadow)) != len(shadow):
        why = f"At most {MOST_SHADOWS} different versions are shadows."
    elif any(versions.get(version) for version in shadow):
        why = "A version that answers is no shadow."
    if why:
        raise Usage("traffic-invalid", why, hint='For instance {"versions": {"1": 90, "2": 10}, "shadow": ["3"]}')


def version_key(version: str) -> list[tuple[int, int, str]]:
    """For the order of versions: runs of digits count as numbers, so that 10 comes after 9."""
    runs = re.findall(r"[0-9]+|[^0-9]+", version)
    return [(1, int(run), "") if run.isascii() and run.isdigit() else (0, 0, run) for run in runs]
