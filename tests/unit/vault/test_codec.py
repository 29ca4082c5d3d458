"""The strict msgpack wrapper: one spelling, bounded in every dimension."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaultd.errors import IntegrityError, Internal
from vaultd.vault.codec import MAX_DEPTH, MAX_MAP, pack, unpack

_scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=20) | st.binary(max_size=20)
_values = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
_maps = st.dictionaries(st.text(max_size=8), _values, max_size=5)


def _depth(value: object) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, inner), default=0) if isinstance(value, (dict, list)) else 0


@given(_maps)
def test_a_map_comes_back(value: dict[str, object]) -> None:
    """What is packed unpacks to the same map, and packs to the same bytes again."""
    if _depth(value) > MAX_DEPTH:
        with pytest.raises(Internal):
            pack(value)
        return
    packed = pack(value)
    assert unpack(packed) == value
    assert pack(unpack(packed)) == packed


@given(st.binary(max_size=64))
def test_bytes_have_one_reading(data: bytes) -> None:
    """Whatever unpacks, packs to the very same bytes; all else is one error."""
    try:
        value = unpack(data)
    except IntegrityError:
        return
    assert pack(value) == data


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"\x80\x00",  # trailing
        b"\x90",  # not a map
        b"\xc0",
        b"\x82\xa1a\x01\xa1a\x02",  # a key twice
        b"\x81\x01\x02",  # a key that is no string
        b"\x81\xc4\x01a\x02",
        b"\x81\xa1a\xcc\x01",  # a longer spelling of 1
        b"\x81\xd9\x01a\x01",  # a longer spelling of "a"
        b"\xde\x00\x01\xa1a\x01",  # a longer spelling of a map of one
        b"\x81\xa1a\xcb" + bytes(8),  # a fraction
        b"\x81\xa1a\xca" + bytes(4),
        b"\x81\xa1a\xd4\x01\x00",  # an extension
        b"\x81\xa1a\xd6\xff" + bytes(4),  # a timestamp
        b"\x81\xa1a\xa1\xff",  # not UTF-8
        b"\x81\xa1a\xa3\xed\xa0\x80",  # a surrogate
        b"\xdf\xff\xff\xff\xff",  # a length without content
        b"\x81\xa1a\xc6\xff\xff\xff\xff",
        b"\x81\xa1a" + b"\x91" * 2000 + b"\x01",
        b"\x81\xa1a" + b"\x91" * MAX_DEPTH + b"\x01",
        b"\xc1",
    ],
)
def test_refused(packed: bytes) -> None:
    """Every other spelling, type and size that msgpack knows is refused, and nothing but our own error leaves."""
    with pytest.raises(IntegrityError):
        unpack(packed)


def test_every_prefix_is_refused() -> None:
    """A map cut anywhere does not unpack, nor does one with a byte more."""
    packed = pack({"op": "put", "list": [1, b"x", None], "map": {"a": True}})
    for size in range(len(packed)):
        with pytest.raises(IntegrityError):
            unpack(packed[:size])
    with pytest.raises(IntegrityError):
        unpack(packed + b"\0")


def test_sizes_are_bounded() -> None:
    """The caller's limit and the format's own hold, on both ways."""
    packed = pack({"a": bytes(100)})
    assert unpack(packed, len(packed)) == {"a": bytes(100)}
    with pytest.raises(IntegrityError, match="too long"):
        unpack(packed, len(packed) - 1)
    with pytest.raises(Internal, match="too long"):
        pack({"a": bytes(MAX_MAP)})
    with pytest.raises(IntegrityError, match="too long"):
        unpack(msgpack.packb({"a": bytes(MAX_MAP)}))


@pytest.mark.parametrize(
    "value", [{"a": 1.5}, {"a": {1, 2}}, {1: 2}, {"a": 2**64}, {"a": bytearray(b"x")}, {"a": object()}]
)
def test_only_what_unpacks_is_packed(value: dict[str, object]) -> None:
    """A bug of a caller shows where it is made, not when the record is read again."""
    with pytest.raises(Internal):
        pack(value)
