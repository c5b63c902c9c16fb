"""How much like the training molecules a molecule is: the applicability domain, and the nearest of them.

    known = gather(bits, public=True)                  # bits: (N, BITS) bool of the training part
    known.similarity(bits[:1])                         # (1.0,), (0,): the largest, and which one it was

Tanimoto similarity of circular fragments, folded. Of public data the molecules themselves are kept. Of any other only
groups: for each fragment the share of a group's molecules that hold it. A group has at least `LEAST` molecules, and
what fewer than `SHARED` of them hold is left out, so that no molecule can be read off a package.
Sources: Rogers and Hahn 2010; Sheridan et al., J Chem Inf Comput Sci 44:1912 (2004): the similarity to the nearest
training molecule tells how far a model of molecules can be believed. Shares for bits: the continuous Tanimoto of
Willett et al., J Chem Inf Comput Sci 38:983 (1998).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from medserve.data.molecules.describe import BITS
from medserve.errors import BadPackage
from medserve.types import Array

MOST = 20_000  # molecules kept, drawn from more
LEAST, SHARED = 10, 3
TYPICAL = 20  # molecules a group, about
FULL = 255  # a share of 1


@dataclass(frozen=True)
class Known:
    """profiles: (BITS, G) uint8, the share of each group that holds a fragment, `FULL` for all. rows: (G,) which
    molecule of `gather`'s each is, of public data; empty of groups."""

    profiles: Array
    rows: Array

    def __post_init__(self) -> None:
        object.__setattr__(self, "_sizes", self.profiles.sum(0, dtype=np.int64) / FULL)

    def each(self, bits: Array) -> Array:
        """(G,) similarity of one molecule to each. bits: (BITS,) bool."""
        there = np.flatnonzero(bits)
        if not len(there):
            return np.zeros(self.profiles.shape[1])
        both = self.profiles[there].sum(0, dtype=np.int32) / FULL
        sizes: Array = self._sizes  # type: ignore[attr-defined]
        return np.asarray(both / (len(there) + sizes - both))

    def similarity(self, bits: Array) -> tuple[Array, Array]:
        """(B,) the largest, 0 to 1; (B,) to which. bits: (B, BITS) bool."""
        found = [self.each(row) for row in bits]
        at = np.array([int(one.argmax()) for one in found], np.int64)
        return np.array([one[i] for one, i in zip(found, at, strict=True)]), at

    def arrays(self) -> dict[str, Array]:
        """For safetensors; molecules take an eighth of the room of groups."""
        if len(self.rows):
            return {"bits": np.packbits(self.profiles > 0, axis=0), "rows": self.rows.astype(np.int64)}
        return {"profiles": self.profiles}

    @classmethod
    def of(cls, arrays: Mapping[str, Array]) -> "Known":
        """Raises: BadPackage "package-tensors"."""
        if "profiles" in arrays:
            profiles, rows = np.asarray(arrays["profiles"]), np.zeros(0, np.int64)
        else:
            packed, rows = np.asarray(arrays.get("bits")), np.asarray(arrays.get("rows"))
            if packed.ndim != 2 or packed.dtype != np.uint8 or rows.shape != packed.shape[1:]:
                raise _unfit()
            profiles = np.unpackbits(packed, axis=0) * np.uint8(FULL)
        if profiles.dtype != np.uint8 or profiles.ndim != 2 or len(profiles) != BITS or not profiles.shape[1]:
            raise _unfit()
        return cls(profiles, rows)


def gather(bits: Array, *, public: bool, seed: int = 0) -> Known | None:
    """What a package may keep of (N, BITS) bool training molecules; None where there are too few to make a group."""
    random = np.random.default_rng(seed)
    rows = np.arange(len(bits))
    if len(rows) > MOST:
        rows = np.sort(random.permutation(rows)[:MOST])
        bits = bits[rows]
    if public and len(bits):
        return Known(np.ascontiguousarray(bits.T).astype(np.uint8) * np.uint8(FULL), rows)
    groups = _groups(bits, random)
    if not groups:
        return None
    return Known(np.stack([_profile(bits[members]) for members in groups], axis=1), np.zeros(0, np.int64))


def _groups(bits: Array, random: np.random.Generator) -> list[Array]:
    """Molecules beside the most alike of some drawn ones; groups that stay too small are dealt to the others."""
    if len(bits) < LEAST:
        return []
    x, size = bits.astype(np.float32), bits.sum(1).astype(np.float32)
    leaders = random.permutation(len(bits))[: max(1, len(bits) // TYPICAL)]
    while True:
        both = x @ x[leaders].T
        nearest = (both / np.maximum(size[:, None] + size[leaders] - both, 1)).argmax(1)
        count = np.bincount(nearest, minlength=len(leaders))
        if len(leaders) == 1 or count.min() >= LEAST:
            return [np.flatnonzero(nearest == k) for k in range(len(leaders)) if count[k]]
        leaders = leaders[count >= LEAST] if (count >= LEAST).any() else leaders[: max(1, len(leaders) // 2)]


def _profile(members: Array) -> Array:
    count = members.sum(0)
    share = np.where(count >= SHARED, count / len(members), 0)
    return np.round(share * FULL).astype(np.uint8)


def _unfit() -> BadPackage:
    return BadPackage("package-tensors", "The known molecules of the package are not as they were written.")
