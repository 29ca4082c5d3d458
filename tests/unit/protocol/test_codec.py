"""Headers: one canonical form, bounds, and nothing of msgpack beyond what is used."""

from __future__ import annotations

import msgpack
import pytest

from vaultd.protocol import LocalProtocolError, RemoteProtocolError
from vaultd.protocol.codec import MAX_DEPTH, MAX_ITEMS, MAX_KEYS, MAX_TEXT, decode, encode
from vaultd.protocol.framing import MAX_HEADER

GOOD = [
    {},
    {"a": None, "b": True, "c": False},
    {"i": 0, "j": 127, "k": 128, "l": 2**64 - 1, "m": -1, "n": -32, "o": -33, "p": -(2**63)},
    {"f": 0.0, "g": -0.0, "h": 1.5, "i": 1e308},
    {"s": "", "t": "é\0\n", "u": "x" * MAX_TEXT},
    {"b": b"", "c": b"\0" * 32},
    {"l": [], "m": [1, "a", None, [True], {"k": [2]}], "n": list(range(MAX_ITEMS))},
    {f"k{n}": n for n in range(MAX_KEYS)},
    {"z": 1, "a": 2},  # the order is the sender's
]


@pytest.mark.parametrize("header", GOOD)
def test_header_comes_back(header: dict[str, object]) -> None:
    """What is packed is parsed to the same map, and packs to the same bytes."""
    packed = encode(header)
    assert decode(packed) == header
    assert list(decode(packed)) == list(header)
    assert encode(decode(packed)) == packed


@pytest.mark.parametrize("header", GOOD)
def test_every_cut_and_every_trailing_byte_is_refused(header: dict[str, object]) -> None:
    """No proper prefix of a header is a header, and neither is one with bytes behind it."""
    packed = encode(header)
    for end in range(len(packed)) if len(packed) < 300 else (0, 1, len(packed) // 2, len(packed) - 1):
        with pytest.raises(RemoteProtocolError):
            decode(packed[:end])
    for extra in (b"\0", b"\xc0", b"\x80"):
        with pytest.raises(RemoteProtocolError):
            decode(packed + extra)


OTHER_SPELLINGS = {
    "map16 for a small map": b"\xde\x00\x01\xa1a\x01",
    "map32 for a small map": b"\xdf\x00\x00\x00\x01\xa1a\x01",
    "str8 for a short key": b"\x81\xd9\x01a\x01",
    "str16 for a short value": b"\x81\xa1a\xda\x00\x01b",
    "uint8 for a fixint": b"\x81\xa1a\xcc\x01",
    "uint16 for a byte": b"\x81\xa1a\xcd\x00\xff",
    "uint64 for a byte": b"\x81\xa1a\xcf\x00\x00\x00\x00\x00\x00\x00\xff",
    "int8 for a positive": b"\x81\xa1a\xd0\x01",
    "int64 for a negative fixint": b"\x81\xa1a\xd3\xff\xff\xff\xff\xff\xff\xff\xff",
    "array16 for a short list": b"\x81\xa1a\xdc\x00\x00",
    "bin16 for short bytes": b"\x81\xa1a\xc5\x00\x01b",
    "float32": b"\x81\xa1a\xca\x3f\x80\x00\x00",
    "a key twice": b"\x82\xa1a\x01\xa1a\x01",
    "a key twice with another value": b"\x82\xa1a\x01\xa1a\x02",
    "a key twice further in": b"\x81\xa1m\x82\xa1a\x01\xa1a\x02",
}


@pytest.mark.parametrize("packed", OTHER_SPELLINGS.values(), ids=OTHER_SPELLINGS.keys())
def test_second_spelling_of_a_header_is_refused(packed: bytes) -> None:
    """msgpack reads each of these without complaint; here a header has one form."""
    msgpack.unpackb(packed)
    with pytest.raises(RemoteProtocolError, match="canonical"):
        decode(packed)


NOT_HEADERS = {
    "nothing": b"",
    "nil": b"\xc0",
    "an array": b"\x90",
    "an integer": b"\x01",
    "text": b"\xa1a",
    "the byte msgpack never uses": b"\xc1",
    "an integer key": b"\x81\x01\x01",
    "a bytes key": b"\x81\xc4\x01a\x01",
    "a nil key": b"\x81\xc0\x01",
    "an integer key further in": b"\x81\xa1a\x81\x01\x01",
    "a bytes key further in": b"\x81\xa1a\x91\x81\xc4\x01a\x01",
    "an extension": b"\x81\xa1a\xd4\x05\x00",
    "an empty extension": b"\x81\xa1a\xc7\x00\x05",
    "a timestamp": b"\x81\xa1a\xd6\xff\x00\x00\x00\x00",
    "an infinity": b"\x81\xa1a\xcb\x7f\xf0\x00\x00\x00\x00\x00\x00",
    "not a number": b"\x81\xa1a\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",
    "not a number further in": b"\x81\xa1a\x91\xcb\x7f\xf8\x00\x00\x00\x00\x00\x01",
    "text that is not UTF-8": b"\x81\xa1a\xa1\xff",
    "a surrogate": b"\x81\xa1a\xa3\xed\xa0\x80",
    "a map of four billion": b"\xdf\xff\xff\xff\xff",
    "an array of four billion": b"\x81\xa1a\xdd\xff\xff\xff\xff",
    "text of four billion": b"\x81\xa1a\xdb\xff\xff\xff\xff",
    "bytes of four billion": b"\x81\xa1a\xc6\xff\xff\xff\xff",
    "nested beyond every stack": b"\x81\xa1a" + b"\x91" * 60_000 + b"\xc0",
    "maps nested beyond every stack": b"\x81\xa1a" * 20_000 + b"\xc0",
    "one text too long": b"\x81\xa1a\xda" + (MAX_TEXT + 1).to_bytes(2, "big") + b"x" * (MAX_TEXT + 1),
    "one item too many": b"\x81\xa1a\xdc" + (MAX_ITEMS + 1).to_bytes(2, "big") + b"\x01" * (MAX_ITEMS + 1),
    "one key too many": b"\xde"
    + (MAX_KEYS + 1).to_bytes(2, "big")
    + b"".join(bytes([0xA2, 65 + n // 26, 65 + n % 26, 1]) for n in range(MAX_KEYS + 1)),
}


@pytest.mark.parametrize("packed", NOT_HEADERS.values(), ids=NOT_HEADERS.keys())
def test_what_is_no_header_is_refused(packed: bytes) -> None:
    """Nothing of msgpack beyond the few types, and nothing over a bound, gets through; each is the peer's fault."""
    with pytest.raises(RemoteProtocolError):
        decode(packed)


def nested(depth: int) -> dict[str, object]:
    """A header whose containers nest `depth` deep, itself included."""
    value: object = 1
    for _ in range(depth - 1):
        value = [value]
    return {"a": value}


def test_nesting_has_a_limit() -> None:
    """Containers nest to the limit and not one deeper."""
    assert decode(encode(nested(MAX_DEPTH))) == nested(MAX_DEPTH)
    for depth in (MAX_DEPTH + 1, 100, 500):
        with pytest.raises(RemoteProtocolError):
            decode(msgpack.packb(nested(depth)))


def test_header_over_its_limit_is_not_parsed() -> None:
    """The size is judged before a byte is parsed."""
    packed = encode({"a": "x" * 100})
    with pytest.raises(RemoteProtocolError, match="over the limit"):
        decode(packed, limit=len(packed) - 1)
    with pytest.raises(RemoteProtocolError, match="over the limit"):
        decode(b"\x80" + bytes(MAX_HEADER))


@pytest.mark.parametrize(
    "value", [object(), {1, 2}, bytearray, 2**64, -(2**63) - 1, "\ud800", 1j], ids=lambda value: type(value).__name__
)
def test_value_without_a_place_in_a_header_is_the_senders_fault(value: object) -> None:
    """What cannot be sent is refused before anything is, and the next header is untouched by it."""
    with pytest.raises(LocalProtocolError):
        encode({"a": 1, "b": value})
    assert encode({"a": 1}) == b"\x81\xa1a\x01"


def test_header_over_the_frame_is_not_packed() -> None:
    """A header that no frame can hold is the sender's fault."""
    with pytest.raises(LocalProtocolError, match="over the limit"):
        encode({f"k{n}": "x" * 8_000 for n in range(9)})


def test_errors_say_nothing_of_values() -> None:
    """A refused header's error does not quote what was in it."""
    for packed in (b"\x81\xa1a\xa9sk-canary\x00", b"\x81\xa1a\xd9\x09sk-canary"):
        with pytest.raises(RemoteProtocolError) as caught:
            decode(packed)
        assert "canary" not in str(caught.value)
        assert caught.value.__cause__ is None
