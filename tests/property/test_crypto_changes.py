"""R4 for sealed objects: every single flipped bit, every cut, and random damage are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from vaultd.crypto import kdf
from vaultd.crypto.box import box, open_box
from vaultd.crypto.hierarchy import RootKeys
from vaultd.crypto.memory import Key, SecretBytes
from vaultd.crypto.primitives import ed25519_pair, keyed_hash, open_sealed, seal, sign, verify, x25519_pair
from vaultd.crypto.slots import Slot, SlotKind, new_slot
from vaultd.crypto.values import VALUE_MAX, Envelope, pad
from vaultd.crypto.wrap import unwrap, wrap
from vaultd.errors import FormatVersion, IntegrityError

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = Key.random()
PRIVATE, PUBLIC = x25519_pair()
SEED, SIGNER = ed25519_pair()
VAULT, TENANT, SECRET = bytes(16), b"\x01" * 16, b"\x02" * 16
ENVELOPE = Envelope(VAULT, TENANT, 1, KEY)
ROOT = Key.random()
SLOT = new_slot(
    vault_id=VAULT,
    slot_id=1,
    kind=SlotKind.PASSPHRASE,
    label="ops",
    created=0,
    secret=SecretBytes.copy_of(b"passphrase"),
    root=ROOT,
    wrap_key=RootKeys(ROOT).wrap,
    profile=kdf.CHEAPEST,
).serialise()
AAD = b"place"
MESSAGE = b"statement"
SEALED: dict[str, tuple[bytes, Callable[[bytes], object]]] = {
    "seal": (seal(KEY, AAD, b"s" * 100), lambda data: open_sealed(KEY, AAD, data)),
    "empty seal": (seal(KEY, AAD, b""), lambda data: open_sealed(KEY, AAD, data)),
    "wrap": (wrap(KEY, AAD, bytes(32)), lambda data: unwrap(KEY, AAD, data)),
    "box": (box(PUBLIC, AAD, bytes(32)), lambda data: open_box(PRIVATE, PUBLIC, AAD, data)),
    "value": (
        ENVELOPE.seal(SECRET, 1, SecretBytes.copy_of(b"sk-live")),
        lambda data: ENVELOPE.open(SECRET, 1, data),
    ),
    "signature": (sign(SEED, MESSAGE), lambda data: verify(SIGNER, MESSAGE, data)),
    "slot": (SLOT, lambda data: Slot.parse(data, VAULT)),
}


@pytest.mark.parametrize("name", SEALED)
def test_every_flipped_bit_is_refused(name: str) -> None:
    """One bit, anywhere: refused, with the right class of error."""
    data, opener = SEALED[name]
    opener(data)
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises((IntegrityError, FormatVersion)) as caught:
            opener(bytes(flipped))
        # Only a slot's version byte may look like a newer format.
        assert isinstance(caught.value, IntegrityError) or (name == "slot" and bit // 8 == 4)


@pytest.mark.parametrize("name", SEALED)
def test_every_cut_and_every_trailing_byte_is_refused(name: str) -> None:
    """No prefix, no suffix and nothing longer is accepted."""
    data, opener = SEALED[name]
    for cut in range(len(data)):
        for part in (data[:cut], data[len(data) - cut :]):
            with pytest.raises(IntegrityError):
                opener(part)
    for extended in (data + b"\0", b"\0" + data, data + data):
        with pytest.raises(IntegrityError):
            opener(extended)


@pytest.mark.parametrize("name", SEALED)
@given(st.data())
def test_random_damage_is_refused(name: str, draw: st.DataObject) -> None:
    """A random stretch overwritten, swapped or removed is refused."""
    data, opener = SEALED[name]
    start = draw.draw(st.integers(0, len(data) - 1))
    stop = draw.draw(st.integers(start + 1, len(data)))
    damaged = data[:start] + draw.draw(st.binary(max_size=stop - start + 8)) + data[stop:]
    assume(damaged != data)
    with pytest.raises((IntegrityError, FormatVersion)):
        opener(damaged)


@given(st.binary(max_size=600))
def test_random_bytes_are_refused(noise: bytes) -> None:
    """Bytes that nobody sealed are refused by every opener, and never as a bug."""
    for _, opener in SEALED.values():
        with pytest.raises((IntegrityError, FormatVersion)):
            opener(noise)


@given(start=st.integers(4, 123), noise=st.one_of(st.binary(max_size=8), st.text(max_size=8).map(str.encode)))
def test_whatever_parses_as_a_slot_serialises_back(start: int, noise: bytes) -> None:
    """A slot has one encoding: what parses, serialises to the same bytes."""
    body = (SLOT[:start] + noise + SLOT[start + len(noise) :])[: len(SLOT) - 16]
    data = body + keyed_hash(None, body, person=b"vaultd.slot.sum", size=16)
    try:
        slot = Slot.parse(data, VAULT)
    except (IntegrityError, FormatVersion):
        return
    assert slot.serialise() == data


@given(
    value=st.binary(min_size=1, max_size=5000),
    secret=st.binary(min_size=16, max_size=16),
    version=st.integers(0, (1 << 64) - 1),
)
def test_values_come_back(value: bytes, secret: bytes, version: int) -> None:
    """Whatever goes in comes out, and only the padded length shows."""
    attachment = ENVELOPE.seal(secret, version, SecretBytes.copy_of(value))
    assert len(attachment) == 104 + 24 + pad(4 + len(value)) + 16
    assert ENVELOPE.open(secret, version, attachment) == value


@given(size=st.integers(0, VALUE_MAX * 4))
def test_padding_is_padme(size: int) -> None:
    """The padded length is the smallest one with few enough significant bits, worked out the long way."""
    padded = max(size, 64)
    exponent = padded.bit_length() - 1
    low_bits = exponent - exponent.bit_length()
    while padded % (1 << low_bits):
        padded += 1
    assert pad(size) == padded
