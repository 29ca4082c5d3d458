"""Wraps and boxes: layout, one error, and commitment to the key."""

from __future__ import annotations

import hashlib
import os

import pytest

from vaultd.crypto import primitives
from vaultd.crypto.box import BOX_OVERHEAD, BOXED_KEY, box, open_box, open_box_key
from vaultd.crypto.memory import Key, SecretBytes
from vaultd.crypto.wrap import WRAP_OVERHEAD, WRAPPED_KEY, unwrap, unwrap_key, wrap
from vaultd.errors import IntegrityError, Internal

AAD = b"place"


@pytest.fixture
def key() -> Key:
    """A fresh wrapping key."""
    return Key.random()


def test_layout(key: Key) -> None:
    """A wrap is a seal and the commitment of key, nonce and place."""
    nonce = os.urandom(24)
    wrapped = wrap(key, AAD, b"secret", nonce=nonce)
    assert wrapped[:-32] == primitives.seal(key, AAD, b"secret", nonce=nonce)
    assert wrapped[-32:] == (
        hashlib.blake2b(nonce + AAD, key=bytes(key.view()), person=b"vaultd.commit", digest_size=32).digest()
    )


@pytest.mark.parametrize("size", [0, 1, 32, 64, 1000])
@pytest.mark.parametrize("form", [bytes, bytearray, memoryview, SecretBytes.copy_of])
def test_round_trip(key: Key, size: int, form: object) -> None:
    """Every length and form of a secret opens to itself."""
    secret = os.urandom(size)
    wrapped = wrap(key, AAD, form(secret))  # type: ignore[operator]
    assert len(wrapped) == size + WRAP_OVERHEAD
    assert unwrap(key, AAD, wrapped) == secret
    assert unwrap(key, AAD, memoryview(wrapped)) == secret


def test_keys_unwrap_into_the_arena(key: Key) -> None:
    """A wrapped key comes back as a key, and nothing of another length does."""
    secret = Key.random()
    wrapped = wrap(key, AAD, secret)
    assert len(wrapped) == WRAPPED_KEY
    opened = unwrap_key(key, AAD, wrapped)
    assert type(opened) is Key
    assert opened == secret
    for size in (0, 31, 33, 64):
        with pytest.raises(IntegrityError):
            unwrap_key(key, AAD, wrap(key, AAD, bytes(size)))


def test_one_error(key: Key) -> None:
    """Another key, another place, cut or extended: one and the same answer."""
    wrapped = wrap(key, AAD, bytes(32))
    wrong = [(Key.random(), AAD, wrapped), (key, AAD + b"s", wrapped), (key, b"", wrapped)]
    wrong += [(key, AAD, wrapped[:cut]) for cut in range(len(wrapped))]
    wrong += [(key, AAD, wrapped + b"\0"), (key, AAD, b"\0" + wrapped)]
    wrong += [(key, AAD, wrapped[:-32] + bytes(32)), (key, AAD, wrapped[:-32])]
    messages = set()
    for each in wrong:
        for opener in (unwrap, unwrap_key):
            with pytest.raises(IntegrityError) as caught:
                opener(*each)
            messages.add((caught.value.message, caught.value.hint))
    assert len(messages) == 1


def test_a_commitment_for_another_wrap_of_the_same_key_does_not_fit(key: Key) -> None:
    """Commitments cannot be exchanged between two wraps under one key: each binds its nonce and its place."""
    one, other, moved = wrap(key, AAD, bytes(32)), wrap(key, AAD, bytes(32)), wrap(key, b"elsewhere", bytes(32))
    for commitment in (other[-32:], moved[-32:]):
        with pytest.raises(IntegrityError):
            unwrap(key, AAD, one[:-32] + commitment)


def test_nonces(key: Key) -> None:
    """Nonces are fresh, and given ones have 24 bytes."""
    assert len({wrap(key, AAD, bytes(32))[:24] for _ in range(2000)}) == 2000
    for size in (0, 12, 23, 25):
        with pytest.raises(Internal):
            wrap(key, AAD, bytes(32), nonce=bytes(size))


def test_box_layout() -> None:
    """A box is the ephemeral public key and a wrap under the hashed shared point."""
    private, public = primitives.x25519_pair()
    ephemeral, sender = primitives.x25519_pair()
    nonce = os.urandom(24)
    boxed = box(public, AAD, b"secret", ephemeral=ephemeral, nonce=nonce)
    shared = primitives.x25519(private, sender)
    derived = hashlib.blake2b(sender + public, key=shared.view(), person=b"vaultd.box", digest_size=32).digest()
    assert boxed == sender + wrap(Key.copy_of(derived), AAD, b"secret", nonce=nonce)


@pytest.mark.parametrize("size", [0, 1, 32, 1000])
def test_box_round_trip(size: int) -> None:
    """Every length opens to itself, for the recipient alone, in its place alone."""
    private, public = primitives.x25519_pair()
    secret = os.urandom(size)
    boxed = box(public, AAD, secret)
    assert len(boxed) == size + BOX_OVERHEAD
    assert open_box(private, public, AAD, boxed) == secret
    assert open_box(private, public, AAD, memoryview(boxed)) == secret
    other, other_public = primitives.x25519_pair()
    wrong = [(other, other_public, AAD), (other, public, AAD), (private, other_public, AAD), (private, public, b"x")]
    for each in wrong:
        with pytest.raises(IntegrityError):
            open_box(*each, boxed)
    for cut in range(0, len(boxed), 7):
        with pytest.raises(IntegrityError):
            open_box(private, public, AAD, boxed[:cut])
    with pytest.raises(IntegrityError):
        open_box(private, public, AAD, boxed + b"\0")


def test_box_key() -> None:
    """A boxed key comes back as a key; nothing else does."""
    private, public = primitives.x25519_pair()
    secret = Key.random()
    boxed = box(public, AAD, secret)
    assert len(boxed) == BOXED_KEY
    opened = open_box_key(private, public, AAD, boxed)
    assert type(opened) is Key
    assert opened == secret
    for size in (31, 33):
        with pytest.raises(IntegrityError):
            open_box_key(private, public, AAD, box(public, AAD, bytes(size)))


def test_box_refuses_points_of_small_order() -> None:
    """Neither a recipient nor an ephemeral key of small order gets a box key that everybody knows."""
    private, public = primitives.x25519_pair()
    for point in (bytes(32), b"\x01" + bytes(31)):
        with pytest.raises(IntegrityError):
            box(point, AAD, b"secret")
        with pytest.raises(IntegrityError):
            open_box(private, public, AAD, point + box(public, AAD, b"secret")[32:])


def test_box_refuses_the_other_encoding_of_its_ephemeral_key() -> None:
    """X25519 ignores the top bit of a point; the box key does not, so a box has one encoding."""
    private, public = primitives.x25519_pair()
    boxed = bytearray(box(public, AAD, b"secret"))
    boxed[31] ^= 0x80
    with pytest.raises(IntegrityError):
        open_box(private, public, AAD, boxed)


def test_boxes_share_nothing() -> None:
    """Each box has an ephemeral key of its own, and keeps an injected one alive for its owner."""
    _, public = primitives.x25519_pair()
    assert len({box(public, AAD, b"x")[:32] for _ in range(500)}) == 500
    ephemeral = Key.random()
    box(public, AAD, b"x", ephemeral=ephemeral)
    assert len(ephemeral.view()) == 32
