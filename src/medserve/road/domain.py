"""What a package keeps of its training molecules, and whether looking at the nearest ones tells anything.

domain = fit_domain(parts, plain, folder, seed=7)      # writes folder/domain.safetensors; None without molecules
method = audit_neighbours(built, parts, seed=7)        # of public data: do alike molecules have like labels?
"""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medserve.data.fields import Block, Records
from medserve.data.molecules.describe import BITS
from medserve.data.molecules.domain import Known, gather
from medserve.data.records import values_of
from medserve.data.split import Parts, PartView
from medserve.models.package import DOMAIN
from medserve.models.spec import Domain, Method, ModelSpec, OutputSpec
from medserve.store.files import write_bytes
from medserve.types import Array

if TYPE_CHECKING:
    from medserve.road.build import Built

CHUNK = 4096
STEPS = 21  # quantiles, 0 to 100 %
LOOK = 400  # validation molecules whose neighbours are looked at


def molecule_block(spec: ModelSpec) -> Block | None:
    """The first input that is a molecule and whose fragments are counted (a model that writes reads letters alone)."""
    if not spec.is_record:
        return None
    return next((b for b in Records.build(spec.transforms).blocks if b.kind == "molecule" and b.facts["bits"]), None)


def fit_domain(parts: Parts, plain: ModelSpec, folder: Path, *, seed: int) -> Domain | None:
    """Molecules and labels of public data, groups of any other; see `data.molecules.domain`."""
    from safetensors.numpy import save

    block = molecule_block(plain)
    if block is None:
        return None
    bits, rows = bits_of(parts.train, block)
    public = bool(parts.cohort.source.get("public"))
    known = gather(bits, public=public, seed=seed)
    if known is None:
        return None
    near, there = bits_of(parts.calibration, block)
    alike = known.similarity(near)[0] if len(there) else np.zeros(1)
    stored = known.arrays()
    if public:
        stored |= _told(parts.train, rows[known.rows], block.name, plain.output)
    data = save(stored)
    write_bytes(folder / DOMAIN, data)
    return Domain(
        input=block.name,
        of="molecules" if public else "groups",
        n=int(known.profiles.shape[1]),
        sha256=hashlib.sha256(data).hexdigest(),
        quantiles=[round(float(q), 6) for q in np.quantile(alike, np.linspace(0, 1, STEPS))],
    )


def bits_of(part: PartView, block: Block) -> tuple[Array, Array]:
    """(N, BITS) bool, which fragments are there, and the rows of the part that have a molecule."""
    found, kept = [np.zeros((0, BITS), bool)], [np.zeros(0, np.int64)]
    for start in range(0, len(part), CHUNK):
        rows = np.arange(start, min(start + CHUNK, len(part)))
        counts = part.take(rows)[:, block.start : block.start + BITS]
        there = np.isfinite(counts[:, 0])
        found.append(counts[there] > 0)
        kept.append(rows[there])
    return np.concatenate(found), np.concatenate(kept)


def likeness_groups(known: Known, domain: Domain, part: PartView, block: Block) -> Array:
    """(N,) str: whether each case of a part is less, or as much, like the training molecules as the middle one of the
    calibration part; a subgroup of the report."""
    bits, rows = bits_of(part, block)
    alike = known.similarity(bits)[0]
    out = np.full(len(part), "", dtype="<U16")
    out[rows] = np.where(alike < domain.quantiles[STEPS // 2], "less alike", "as alike")
    return out


def read_known(folder: Path) -> Known:
    from safetensors.numpy import load_file

    return Known.of(load_file(folder / DOMAIN))


def audit_neighbours(built: "Built", parts: Parts, *, seed: int) -> Method | None:
    """Whether the label of a molecule is nearer to that of the training molecule it is most like than to that of any;
    the difference of the two gaps over validation molecules, with its 95 % interval. None without molecules kept."""
    domain, block = built.spec.domain, molecule_block(built.spec)
    if domain is None or block is None or domain.of != "molecules" or built.spec.output.task == "tags":
        return None
    known, random = read_known(built.folder), np.random.default_rng(seed)
    bits, rows = bits_of(parts.val, block)
    some = np.sort(random.permutation(len(rows))[:LOOK])
    if not len(some):
        return None
    _, train = bits_of(parts.train, block)
    kept = train[known.rows]
    y, ours = np.asarray(parts.train.targets, float)[kept], np.asarray(parts.val.targets, float)[rows[some]]
    nearest = known.similarity(bits[some])[1]
    other = random.integers(0, len(kept), (20, len(some)))
    gain = np.mean([_gap(built.spec.output, ours, y[k]) for k in other], axis=0) - _gap(
        built.spec.output, ours, y[nearest]
    )
    gain = gain[np.isfinite(gain)]
    if not len(gain):
        return None
    low, high = np.percentile(random.choice(gain, (1000, len(gain))).mean(1), [2.5, 97.5])
    verdict = "PASS" if low > 0 else "FAIL"
    agreement = {"value": float(gain.mean()), "low": float(low), "high": float(high), "n": len(gain), "level": verdict}
    role = "secondary" if verdict == "PASS" else "not offered"
    return Method(name="neighbours", verdict=verdict, role=role, figures={"agreement": agreement, "seed": seed})  # type: ignore[arg-type]


def _gap(output: OutputSpec, a: Array, b: Array) -> Array:
    """(N,) how far labels are apart, NaN where both are not known."""
    if output.task in ("number", "ordinal"):
        return np.abs(a - b)
    if output.task == "survival":
        return np.abs(np.log1p(a[:, 0]) - np.log1p(b[:, 0]))
    if a.ndim == 1:
        return (a != b).astype(float)
    both = np.isfinite(a) & np.isfinite(b)
    total = np.where(both, np.abs(a - b), 0).sum(1)
    return np.where(both.any(1), total / np.maximum(both.sum(1), 1), np.nan)


def _told(train: PartView, rows: Array, name: str, output: OutputSpec) -> dict[str, Array]:
    smiles = [str(values_of(train.cohort, int(train.rows[row]))[name]) for row in rows]
    labels = [label_text(output, train.targets[row]) for row in rows]
    return {"smiles": _packed(smiles), "labels": _packed(labels)}


def _packed(texts: list[str]) -> Array:
    return np.frombuffer("\n".join(texts).encode(), np.uint8).copy()


def label_text(output: OutputSpec, target: Array) -> str:
    """A label for a person: the class, the number with its unit, the names of what is there, the time of an event."""
    if output.task == "number":
        return f"{float(target):.4g} {output.unit or ''}".strip()
    if output.task == "survival":
        time, event = (float(v) for v in target)
        return f"{output.labels[0] if event else 'none'} by {time:.4g} {output.unit or ''}".strip()
    if output.task == "multilabel":
        there = [label for label, value in zip(output.labels, target, strict=True) if value == 1]
        unknown = int((~np.isfinite(target)).sum())
        said = ", ".join(there) or "none"
        return f"{said} ({unknown} not known)" if unknown else said
    return output.labels[int(target)] if output.task in ("binary", "multiclass", "ordinal") else ""
