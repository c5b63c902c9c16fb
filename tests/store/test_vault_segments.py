"""Streams of authenticated segments."""

import io
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medserve.errors import Fault
from medserve.store.segments import SegmentWriter, read_segments, sealed_bytes
from medserve.store.wrap import TAG_BYTES, binding, new_key

SEGMENT = 64
SIZES = [0, 1, 63, 64, 65, 127, 128, 129, 300]


def seal(data: bytes, key: bytes, *, bound: bytes = b"b", pieces: list[int] | None = None) -> bytes:
    out = io.BytesIO()
    writer = SegmentWriter(out.write, key, bound, segment_bytes=SEGMENT)
    source = io.BytesIO(data)
    for piece in pieces or []:
        writer.write(source.read(piece))
    writer.write(source.read())
    writer.finish()
    assert writer.size == len(data)
    return out.getvalue()


def unseal(sealed: bytes, key: bytes, size: int, bound: bytes = b"b") -> list[bytes]:
    return list(read_segments(io.BytesIO(sealed).read, key, bound, size=size, segment_bytes=SEGMENT))


@pytest.mark.parametrize("size", SIZES)
def test_every_size_comes_back(size):
    """Nothing, one byte, and the neighbours of each boundary; the length on disk is known beforehand."""
    data, key = bytes(i % 251 for i in range(size)), new_key()
    sealed = seal(data, key)
    parts = unseal(sealed, key, size)
    assert b"".join(parts) == data
    assert all(len(part) == SEGMENT for part in parts[:-1])
    assert len(sealed) == sealed_bytes(size, SEGMENT)


@given(data=st.binary(max_size=400), pieces=st.lists(st.integers(0, 200), max_size=8))
def test_how_a_stream_is_cut_does_not_matter(data, pieces):
    """The same bytes in any pieces give the same segments."""
    key = bytes(32)
    assert seal(data, key, pieces=pieces) == seal(data, key)
    assert b"".join(unseal(seal(data, key, pieces=pieces), key, len(data))) == data


@given(data=st.data())
def test_no_change_of_the_bytes_goes_unseen(data):
    """A flipped bit, a cut, an addition: refused, and what came out before is a true beginning in whole segments."""
    plain = bytes(range(200))
    key = bytes(32)
    sealed = bytearray(seal(plain, key))
    change = data.draw(st.sampled_from(["flip", "cut", "add"]))
    at = data.draw(st.integers(0, len(sealed) - 1))
    if change == "flip":
        sealed[at] ^= 1 << data.draw(st.integers(0, 7))
    elif change == "cut":
        del sealed[at:]
    else:
        sealed += bytes(at + 1)
    got: list[bytes] = []
    with pytest.raises(Fault) as caught:
        for part in read_segments(io.BytesIO(sealed).read, key, b"b", size=200, segment_bytes=SEGMENT):
            got.append(part)
    assert caught.value.code == "object-damaged"
    assert b"".join(got) == plain[: SEGMENT * len(got)]


@pytest.mark.parametrize("order", [p for p in itertools.product(range(3), repeat=3) if p != (0, 1, 2)])
def test_segments_stay_in_their_places(order):
    """Exchanged or doubled segments of one stream are refused; all are of one length, so that only the number tells."""
    key, plain = new_key(), bytes(3 * SEGMENT)
    sealed = seal(plain, key)
    step = SEGMENT + TAG_BYTES
    parts = [sealed[i * step : (i + 1) * step] for i in range(3)]
    assert b"".join(unseal(b"".join(parts), key, len(plain))) == plain
    with pytest.raises(Fault, match="does not open"):
        unseal(b"".join(parts[i] for i in order), key, len(plain))


def test_a_stream_cut_at_a_segment_is_refused_even_with_its_size():
    """The last segment says that it is the last: two segments do not pass for a stream of two."""
    key = new_key()
    sealed = seal(bytes(3 * SEGMENT), key)
    with pytest.raises(Fault):
        unseal(sealed[: 2 * (SEGMENT + TAG_BYTES)], key, 2 * SEGMENT)


def test_words_are_part_of_the_stream():
    """Another tenant, object or version does not open it."""
    key = new_key()
    sealed = seal(b"x" * 70, key, bound=binding("a", "b", 1))
    assert unseal(sealed, key, 70, binding("a", "b", 1))
    for other in (binding("a", "b", 2), binding("ab", "", 1), binding("a", "b", "1"), b""):
        with pytest.raises(Fault):
            unseal(sealed, key, 70, other)


WORDS = st.lists(st.one_of(st.text("ab7", max_size=2), st.integers(0, 99), st.binary(max_size=2)), max_size=3)


@given(WORDS, WORDS)
def test_two_lists_of_words_never_bind_alike(one, other):
    assert (binding(*one) == binding(*other)) == (one == other)


def test_a_finished_stream_takes_nothing_more():
    writer = SegmentWriter(lambda _: None, new_key(), b"", segment_bytes=SEGMENT)
    writer.finish()
    with pytest.raises(ValueError):
        writer.write(b"x")
    with pytest.raises(ValueError):
        writer.finish()
