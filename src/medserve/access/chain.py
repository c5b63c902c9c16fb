"""The chain of the audit log: how each row holds the one before it, and how a reader tells that all of them still do.

    head = chain(head, body)                            # of every row; START stands before the first
    verdict = walk(rows, points, state, public, end)    # names the first bad row
    problem = mirrored(mirror, points)                  # "" where the copy on another disk agrees

Nothing here writes, or knows where rows are kept: that is `audit.Ledger`.
"""

import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

START = bytes(32)  # the hash before the first row


class State(msgspec.Struct, forbid_unknown_fields=True):
    """The secrets of the open epoch; `following` while one epoch passes to the next."""

    epoch: int
    since: float
    key: bytes
    signing: bytes
    following: bytes | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """problem: "" where the log is sound; `seq` is then None, else the first bad row (0: the log as a whole)."""

    events: int
    epochs: int
    problem: str = ""
    seq: int | None = None

    @property
    def sound(self) -> bool:
        return not self.problem


def chain(head: bytes, body: bytes) -> bytes:
    """The hash of a row, from that of the row before it."""
    return hashlib.sha256(head + body).digest()


def said(epoch: int, seq: int, head: bytes, public: bytes, at: float) -> bytes:
    """What is signed at the end of an epoch. public: key of the next one. at: seconds since 1970."""
    return msgspec.json.encode(["medserve audit", epoch, seq, head.hex(), public.hex(), at])


def walk(rows: Iterable[Any], points: Mapping[int, Any], state: State, public: bytes, end: int) -> Verdict:
    """Whether the chain holds from the first row to the last.

    Args:
        rows: seq, epoch, body, hash and mac of each, in order. points: epoch -> its signed end.
        state: of the open epoch. public: the first epoch's key.
        end: the last row when the state was read; others may have been written since.
    """
    seq, head, epoch = 0, START, 1
    last: Any = None
    for row in rows:
        if row.seq > end:
            break
        if row.seq != seq + 1:
            return Verdict(seq, epoch, "row-missing", seq + 1)
        if not (isinstance(row.body, bytes) and isinstance(row.hash, bytes) and isinstance(row.mac, bytes)):
            return Verdict(seq, epoch, "row-altered", row.seq)
        if row.epoch != epoch:
            problem, public = _closes(points.get(epoch), epoch, seq, head, public)
            if problem or row.epoch != epoch + 1:
                return Verdict(seq, epoch, problem or "epoch-out-of-order", row.seq)
            epoch = row.epoch
        seq, head, last = row.seq, chain(head, row.body), row
        if head != row.hash:
            return Verdict(seq, epoch, "row-altered", seq)
        if epoch == state.epoch and not hmac.compare_digest(hmac.digest(state.key, head, "sha256"), row.mac):
            return Verdict(seq, epoch, "row-forged", seq)
    if last is not None and epoch != state.epoch:  # the open epoch is empty: the last signed one has to close
        problem, public = _closes(points.get(epoch), epoch, seq, head, public)
        if problem or epoch + 1 != state.epoch:
            return Verdict(seq, epoch, problem or "rows-cut", seq)
    if last is None and points:
        return Verdict(0, 0, "rows-cut", 0)
    own = Ed25519PrivateKey.from_private_bytes(state.signing).public_key().public_bytes_raw()
    if own != public:
        return Verdict(seq, epoch, "anchor-differs", 0)
    return Verdict(seq, len(points))


def mirrored(mirror: bytes, points: Mapping[int, Any]) -> str:
    """What is wrong with the mirror, or "". It may begin after the log did; from there on it has to hold all epochs."""
    told: set[int] = set()
    for line in mirror.splitlines():
        try:
            kept = json.loads(line)
            epoch, digest = int(kept["epoch"]), str(kept["hash"])
        except (ValueError, KeyError, TypeError):
            continue  # a line that a crash cut off; it is told again
        if epoch not in points or points[epoch].hash.hex() != digest:
            return "mirror-differs"
        told.add(epoch)
    if not told or told < set(range(min(told), max(points) + 1)):
        return "mirror-short"
    return ""


def _closes(point: Any, epoch: int, seq: int, head: bytes, public: bytes) -> tuple[str, bytes]:
    """What is wrong with the end of an epoch, or ""; and the public key of the next one."""
    if point is None:
        return "checkpoint-missing", public
    if (point.seq, point.hash) != (seq, head):
        return "rows-cut" if point.seq > seq else "checkpoint-differs", public
    try:
        signed = said(epoch, seq, head, point.next, point.at)
        Ed25519PublicKey.from_public_bytes(public).verify(point.signature, signed)
    except (InvalidSignature, ValueError):
        return "signature-invalid", public
    return "", point.next
