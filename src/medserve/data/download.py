"""Downloads that are what they claim: a pinned digest, a size cap, resumed after a break, whole or absent.

    path = fetch(DATASETS["pneumoniamnist"], settings.folder("data") / "pneumoniamnist.npz", progress=progress)
    download(url, out, digest="sha256:0f3c...")

Only https is followed, redirects included; plain http is for this machine itself (tests, mirrors on the loopback).
"""

import contextlib
import hashlib
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from medserve.errors import BadData, Fault, Usage
from medserve.progress import SILENT, Progress
from medserve.store.files import cannot_write

CONNECT_S, READ_S = 5.0, 30.0
MAX_REDIRECTS = 5
ATTEMPTS = 3
CHUNK_BYTES = 2**16
_LENGTHS = {"sha256": 64, "md5": 32}


@dataclass(frozen=True, slots=True)
class Source:
    """One published file. `digest` is "sha256:HEX", or "md5:HEX" where the publisher gives nothing better."""

    url: str
    digest: str
    max_bytes: int
    licence: str
    citation: str


DATASETS: dict[str, Source] = {
    "pneumoniamnist": Source(
        url="https://zenodo.org/records/10519652/files/pneumoniamnist.npz",
        digest="md5:28209eda62fecd6e6a2d98b1501bb15f",
        max_bytes=16 * 2**20,
        licence="CC BY 4.0",
        citation="Yang et al., MedMNIST v2, Scientific Data 10:41 (2023)",
    )
}


def fetch(source: Source, out: Path, *, progress: Progress = SILENT) -> Path:
    """A known data set at `out`; not loaded again when the file is there and is the right one."""
    if out.exists() and matches(out, source.digest):
        return out
    return download(source.url, out, digest=source.digest, max_bytes=source.max_bytes, progress=progress)


def download(
    url: str,
    out: Path,
    *,
    digest: str,
    max_bytes: int = 4 * 2**30,
    attempts: int = ATTEMPTS,
    progress: Progress = SILENT,
) -> Path:
    """Load `url` to `out`. A break leaves `out.part`, from which the next call goes on.

    Args:
        digest: "sha256:HEX" (or bare 64 hex digits), "md5:HEX".

    Raises: BadData "checksum-mismatch": other bytes than published; the file is removed. Fault "download-failed",
        "download-too-large", "disk-full". Usage "download-url", "digest-unknown".
    """
    import httpx2

    algorithm, value = _digest(digest)
    _check_url(url)
    part = out.with_name(out.name + ".part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(out, error) from error
    limits = httpx2.Timeout(READ_S, connect=CONNECT_S)
    with httpx2.Client(timeout=limits, follow_redirects=False, headers={"Accept-Encoding": "identity"}) as client:
        for attempt in range(1, attempts + 1):
            try:
                _load(client, url, part, max_bytes, progress)
                break
            except (httpx2.HTTPError, ssl.SSLError) as error:
                if attempt == attempts:
                    raise Fault(
                        "download-failed",
                        f"{_host(url)} could not be reached or broke off ({type(error).__name__}).",
                        hint="Try again later; what has come so far is kept. Or give a local copy of the file.",
                    ) from error
    if not matches(part, f"{algorithm}:{value}"):
        part.unlink(missing_ok=True)
        raise BadData(
            "checksum-mismatch",
            f"What {_host(url)} sent for {out.name} is not the published file ({algorithm} differs); it was removed.",
            hint="Try again; if it stays so, the file was changed at its source: do not use it.",
        )
    try:
        os.replace(part, out)
    except OSError as error:
        raise cannot_write(out, error) from error
    return out


def matches(path: Path, digest: str) -> bool:
    """Whether a file has this digest; False when it cannot be read."""
    algorithm, value = _digest(digest)
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, _hasher(algorithm)).hexdigest() == value
    except OSError:
        return False


def _load(client: Any, url: str, part: Path, max_bytes: int, progress: Progress) -> None:
    """One attempt: ask for what is missing, append it to the partial file."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    with contextlib.ExitStack() as stack:
        response = _follow(client, stack, url, headers)
        if response.status_code == 416 and have:  # all of it is here already, or it is not ours: the digest decides
            return
        if response.status_code not in (200, 206):
            raise Fault(
                "download-failed",
                f"{_host(url)} answered {response.status_code} for {part.stem}.",
                hint="Check the address, or give a local copy of the file.",
            )
        resumed = response.status_code == 206 and _starts_at(response.headers.get("content-range", ""), have)
        if response.status_code == 206 and not resumed:
            part.unlink(missing_ok=True)
            raise Fault("download-failed", f"{_host(url)} sent another part of the file than asked for.")
        done = have if resumed else 0
        length = int(response.headers.get("content-length") or 0)
        if done + length > max_bytes:
            raise _too_large(url, part, max_bytes)
        bar = progress.start(f"Loading {part.stem}", done + length or None)
        try:
            progress.step(bar, done)
            with part.open("ab" if resumed else "wb") as file:
                for data in response.iter_raw(CHUNK_BYTES):
                    done += len(data)
                    if done > max_bytes:
                        raise _too_large(url, part, max_bytes)
                    file.write(data)
                    progress.step(bar, len(data))
        except OSError as error:
            raise cannot_write(part, error) from error
        finally:
            progress.end(bar)


def _follow(client: Any, stack: contextlib.ExitStack, url: str, headers: dict[str, str]) -> Any:
    """The response behind at most five redirects, each checked before it is followed."""
    for _ in range(MAX_REDIRECTS + 1):
        response = stack.enter_context(client.stream("GET", url, headers=headers))
        if response.status_code not in (301, 302, 303, 307, 308):
            return response
        secure = urlsplit(url).scheme == "https"
        url = urljoin(url, response.headers.get("location", ""))
        _check_url(url, https_only=secure)
    raise Fault("download-failed", f"{_host(url)} redirects without end.")


def _check_url(url: str, *, https_only: bool = False) -> None:
    split = urlsplit(url)
    if split.scheme == "https" and split.hostname:
        return
    if not https_only and split.scheme == "http" and split.hostname and _loopback(split.hostname):
        return
    raise Usage(
        "download-url", f"{split.scheme or 'no'}: addresses are not loaded from.", hint="Give an https:// address."
    )


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _starts_at(content_range: str, have: int) -> bool:
    return content_range.startswith(f"bytes {have}-")


def _too_large(url: str, part: Path, max_bytes: int) -> Fault:
    part.unlink(missing_ok=True)
    return Fault(
        "download-too-large",
        f"{_host(url)} sends more than the {max_bytes} bytes that {part.stem} may have; it was removed.",
    )


def _digest(text: str) -> tuple[str, str]:
    algorithm, _, value = text.rpartition(":")
    algorithm, value = algorithm or "sha256", value.lower()
    if len(value) != _LENGTHS.get(algorithm) or not set(value) <= set("0123456789abcdef"):
        raise Usage("digest-unknown", "A digest is sha256:HEX or md5:HEX, in full.", hint="Copy it from the publisher.")
    return algorithm, value


def _hasher(algorithm: str) -> Callable[[], Any]:
    return (lambda: hashlib.md5(usedforsecurity=False)) if algorithm == "md5" else hashlib.sha256


def _host(url: str) -> str:
    return urlsplit(url).hostname or url
