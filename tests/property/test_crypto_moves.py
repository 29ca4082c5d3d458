"""I3: no sealed object opens in another place. Every object is tried in every other object's place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vaultd.crypto import values
from vaultd.crypto.box import box, open_box
from vaultd.crypto.context import context, field
from vaultd.crypto.memory import Key, SecretBytes
from vaultd.crypto.primitives import open_sealed, open_with_nonce, seal, seal_with_nonce, x25519_pair
from vaultd.crypto.values import Envelope
from vaultd.crypto.wrap import unwrap, wrap
from vaultd.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Callable

IDS = st.sampled_from([bytes(16), bytes(15) + b"\x01", b"\x01" + bytes(15), b"vaultd\x01\x05value\0\0\0\x10"[:16]])
NUMBERS = st.sampled_from([0, 1, 2, 256, 1 << 32, (1 << 64) - 1])
KINDS = st.sampled_from(["value", "datakey", "slot.root", "a", "b", "valu", "value."])
FIELDS = st.lists(st.one_of(st.binary(max_size=12), IDS), max_size=4)


@dataclass(frozen=True)
class Place:
    """Where a value belongs; two that differ in one field are the interesting pair."""

    vault: bytes
    tenant: bytes
    generation: int
    secret: bytes
    version: int

    def of_value(self) -> tuple[bytes, bytes, bytes, int]:
        """The value's own place: without the generation, which rotating a tenant's key changes."""
        return self.vault, self.tenant, self.secret, self.version


CONTEXTS = st.tuples(KINDS, FIELDS)
PLACES = st.builds(Place, IDS, IDS, NUMBERS, IDS, NUMBERS)
KEY, DATA_KEY = Key.random(), Key.random()
PRIVATE, PUBLIC = x25519_pair()
NONCE = bytes(24)
SEALERS: dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes, bytes], object]]] = {
    "seal": (lambda aad: seal(KEY, aad, b"secret"), lambda aad, data: open_sealed(KEY, aad, data)),
    "wrap": (lambda aad: wrap(KEY, aad, b"secret"), lambda aad, data: unwrap(KEY, aad, data)),
    "box": (lambda aad: box(PUBLIC, aad, b"secret"), lambda aad, data: open_box(PRIVATE, PUBLIC, aad, data)),
    "nonce": (
        lambda aad: seal_with_nonce(KEY, NONCE, aad, b"secret"),
        lambda aad, data: open_with_nonce(KEY, NONCE, aad, data),
    ),
}


@pytest.mark.parametrize("construction", SEALERS)
@settings(max_examples=40)
@given(
    places=st.lists(
        st.tuples(KINDS, FIELDS), min_size=2, max_size=8, unique_by=lambda place: context(place[0], *place[1])
    )
)
def test_move_matrix(construction: str, places: list[tuple[str, list[bytes]]]) -> None:
    """Every seal opens in its own place and in none of the others, whatever the construction."""
    sealer, opener = SEALERS[construction]
    contexts = [context(kind, *fields) for kind, fields in places]
    sealed = [sealer(aad) for aad in contexts]
    for mine, data in enumerate(sealed):
        for there, aad in enumerate(contexts):
            if mine == there:
                assert opener(aad, data) == b"secret"
            else:
                with pytest.raises(IntegrityError):
                    opener(aad, data)


@settings(max_examples=60)
@given(places=st.lists(PLACES, min_size=2, max_size=7, unique=True))
def test_values_move_matrix(places: list[Place]) -> None:
    """A value and its data key open in their own place only, for places that differ in a single field."""
    envelopes = [Envelope(place.vault, place.tenant, place.generation, KEY) for place in places]
    sealed = [
        envelope.seal(place.secret, place.version, SecretBytes.copy_of(b"secret"))
        for envelope, place in zip(envelopes, places, strict=True)
    ]
    for mine, attachment in enumerate(sealed):
        for there, place in enumerate(places):
            if mine == there:
                assert envelopes[there].open(place.secret, place.version, attachment) == b"secret"
            else:
                with pytest.raises(IntegrityError):
                    envelopes[there].open(place.secret, place.version, attachment)


@settings(max_examples=60)
@given(places=st.lists(PLACES, min_size=2, max_size=7, unique_by=Place.of_value))
def test_values_under_one_data_key_move_matrix(places: list[Place]) -> None:
    """Even under one and the same data key, a value opens in its own place only; the generation is not part of it."""
    sealed = [
        values.seal_value(
            DATA_KEY, place.vault, place.tenant, place.secret, place.version, SecretBytes.copy_of(b"secret")
        )
        for place in places
    ]
    for mine, data in enumerate(sealed):
        for there, place in enumerate(places):
            if mine == there:
                assert values.open_value(DATA_KEY, data, *place.of_value()) == b"secret"
            else:
                with pytest.raises(IntegrityError):
                    values.open_value(DATA_KEY, data, *place.of_value())


@given(one=st.tuples(KINDS, FIELDS), other=st.tuples(KINDS, FIELDS))
def test_context_is_injective(one: tuple[str, list[bytes]], other: tuple[str, list[bytes]]) -> None:
    """Two lists of fields have the same associated data exactly when they are the same."""
    same = context(one[0], *one[1]) == context(other[0], *other[1])
    assert same == (one == other)


def parse(aad: bytes) -> tuple[str, list[bytes]]:
    """Read associated data back: that this is possible is why no two places share it."""
    assert aad[:7] == b"vaultd\x01"
    kind, rest = aad[8 : 8 + aad[7]].decode(), aad[8 + aad[7] :]
    fields = []
    while rest:
        size = int.from_bytes(rest[:4], "big")
        assert len(rest) >= 4 + size
        fields.append(rest[4 : 4 + size])
        rest = rest[4 + size :]
    return kind, fields


@given(kind=KINDS, fields=FIELDS, numbers=st.lists(st.integers(0, (1 << 64) - 1), max_size=3))
def test_context_can_be_read_back(kind: str, fields: list[bytes], numbers: list[int]) -> None:
    """Associated data can be taken apart again into exactly what it was made of."""
    aad = context(kind, *fields, *numbers)
    assert parse(aad) == (kind, fields + [number.to_bytes(8, "big") for number in numbers])
    assert aad == context(kind) + b"".join(map(field, [*fields, *numbers]))
