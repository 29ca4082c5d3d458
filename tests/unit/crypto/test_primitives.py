"""The primitives through our own functions: lengths, errors, and agreement with a second implementation."""

from __future__ import annotations

import hashlib
import os

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from vaultd.crypto import primitives
from vaultd.crypto.memory import Key, SecretBytes
from vaultd.errors import IntegrityError, Internal

AAD = b"associated"
NONCE = bytes(range(24))


@pytest.fixture
def key() -> Key:
    """A fresh key."""
    return Key.random()


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 63, 64, 65, 4095, 4096, 4097, 1 << 20])
def test_seal_round_trip(key: Key, size: int) -> None:
    """Every length opens to itself, and costs exactly the overhead."""
    plaintext = os.urandom(size)
    sealed = primitives.seal(key, AAD, plaintext)
    assert len(sealed) == size + primitives.OVERHEAD
    opened = primitives.open_sealed(key, AAD, sealed)
    assert isinstance(opened, bytearray)
    assert opened == plaintext


@pytest.mark.parametrize("form", [bytes, bytearray, memoryview, SecretBytes.copy_of])
def test_every_form_of_plaintext_seals_alike(key: Key, form: object) -> None:
    """Bytes, views and secrets of the same content seal to the same bytes under one nonce."""
    sealed = primitives.seal(key, AAD, form(b"plaintext"), nonce=NONCE)  # type: ignore[operator]
    assert sealed == primitives.seal(key, AAD, b"plaintext", nonce=NONCE)
    assert sealed[:24] == NONCE
    assert sealed[24:] == primitives.seal_with_nonce(key, NONCE, AAD, b"plaintext")


@pytest.mark.parametrize("form", [bytes, bytearray, memoryview])
def test_every_form_of_sealed_bytes_opens(key: Key, form: object) -> None:
    """Sealed bytes open from any buffer, also from within a larger one."""
    sealed = primitives.seal(key, AAD, b"plaintext")
    assert primitives.open_sealed(key, AAD, form(sealed)) == b"plaintext"  # type: ignore[operator]
    assert primitives.open_sealed(key, AAD, memoryview(b"<" + sealed + b">")[1:-1]) == b"plaintext"
    assert primitives.open_with_nonce(key, sealed[:24], AAD, form(sealed[24:])) == b"plaintext"  # type: ignore[operator]


def test_nonces_are_fresh(key: Key) -> None:
    """Two seals of the same thing share no nonce."""
    assert len({primitives.seal(key, AAD, b"x")[:24] for _ in range(10_000)}) == 10_000


def test_another_key_or_aad_does_not_open(key: Key) -> None:
    """One error, whatever is wrong."""
    sealed = primitives.seal(key, AAD, b"plaintext")
    wrong = [(Key.random(), AAD, sealed), (key, AAD + b"\0", sealed), (key, AAD[:-1], sealed), (key, b"", sealed)]
    wrong += [(key, AAD, sealed[:cut]) for cut in range(len(sealed))]
    wrong += [(key, AAD, sealed + b"\0"), (key, AAD, b"\0" + sealed), (key, AAD, b"")]
    messages = set()
    for each in wrong:
        with pytest.raises(IntegrityError) as caught:
            primitives.open_sealed(*each)
        messages.add((caught.value.message, caught.value.hint))
    assert len(messages) == 1
    for cut in range(25):
        with pytest.raises(IntegrityError):
            primitives.open_with_nonce(key, sealed[:24], AAD, sealed[24 : 24 + cut])


@pytest.mark.parametrize("size", [0, 12, 23, 25])
def test_nonce_of_another_size_is_a_bug(key: Key, size: int) -> None:
    """A nonce that libsodium would read past, or not whole, never gets there."""
    with pytest.raises(Internal):
        primitives.seal(key, AAD, b"", nonce=bytes(size))
    with pytest.raises(Internal):
        primitives.seal_with_nonce(key, bytes(size), AAD, b"")
    with pytest.raises(Internal):
        primitives.open_with_nonce(key, bytes(size), AAD, bytes(16))


@pytest.mark.parametrize("size", [16, 32, 64])
@pytest.mark.parametrize("length", [0, 1, 127, 128, 129, 1000])
def test_keyed_hash_is_blake2b(key: Key, size: int, length: int) -> None:
    """The hash is BLAKE2b with key and personalisation, as Python's own computes it."""
    data = os.urandom(length)
    expected = hashlib.blake2b(data, key=bytes(key.view()), person=b"test", digest_size=size).digest()
    assert primitives.keyed_hash(key, data, person=b"test", size=size) == expected
    unkeyed = hashlib.blake2b(data, person=b"test", digest_size=size).digest()
    assert primitives.keyed_hash(None, data, person=b"test", size=size) == unkeyed


def test_derive_is_keyed_blake2b(key: Key) -> None:
    """A derived key is BLAKE2b-256 of nothing, keyed and personalised."""
    expected = hashlib.blake2b(b"", key=bytes(key.view()), person=b"label", digest_size=32).digest()
    assert primitives.derive(key, b"label") == expected
    assert primitives.derive(key, b"label", b"data") == (
        hashlib.blake2b(b"data", key=bytes(key.view()), person=b"label", digest_size=32).digest()
    )
    assert primitives.hash_to_key(SecretBytes.copy_of(b"file"), b"label", bytes(range(16))) == (
        hashlib.blake2b(b"file", person=b"label", salt=bytes(range(16)), digest_size=32).digest()
    )


@pytest.mark.parametrize("label", [b"", b"x" * 17, b"ends in zero\0"])
def test_labels_that_could_meet_are_refused(key: Key, label: bytes) -> None:
    """A label that zero padding could make equal to another one is a bug."""
    with pytest.raises(Internal):
        primitives.derive(key, label)


def test_hash_bounds(key: Key) -> None:
    """Sizes that BLAKE2b would refuse, or that are too short to be worth anything, are bugs."""
    for size in (0, 15, 65):
        with pytest.raises(Internal):
            primitives.keyed_hash(key, b"", person=b"test", size=size)
    for size in (0, 65):
        with pytest.raises(Internal):
            primitives.keyed_hash(SecretBytes.take(bytearray(size)), b"", person=b"test")
    with pytest.raises(Internal):
        primitives.hash_to_key(SecretBytes.take(bytearray(32)), b"test", bytes(15))


def test_x25519_agrees_with_cryptography() -> None:
    """Both sides, and a second implementation, meet at the same point."""
    ours, public = primitives.x25519_pair()
    theirs = X25519PrivateKey.generate()
    expected = theirs.exchange(X25519PublicKey.from_public_bytes(public))
    assert primitives.x25519(ours, theirs.public_key().public_bytes_raw()) == expected
    assert primitives.x25519_public(SecretBytes.copy_of(theirs.private_bytes_raw())) == (
        theirs.public_key().public_bytes_raw()
    )


def test_x25519_refuses_small_order() -> None:
    """A point whose result does not depend on our key is refused."""
    private = Key.random()
    for point in (bytes(32), b"\x01" + bytes(31), bytes.fromhex("ec" + "ff" * 30 + "7f")):
        with pytest.raises(IntegrityError):
            primitives.x25519(private, point)


def test_x25519_sizes() -> None:
    """Scalars and points have 32 bytes."""
    for private, public in ((31, 32), (33, 32), (32, 31), (32, 33)):
        with pytest.raises(Internal):
            primitives.x25519(SecretBytes.take(bytearray(private)), bytes(public))
    with pytest.raises(Internal):
        primitives.x25519_public(SecretBytes.take(bytearray(31)))
    with pytest.raises(Internal):
        primitives.ed25519_public(SecretBytes.take(bytearray(64)))


@pytest.mark.parametrize("length", [0, 1, 64, 10_000])
def test_ed25519_agrees_with_cryptography(length: int) -> None:
    """Signatures are RFC 8032's: the second implementation makes the same and accepts ours."""
    seed, public = primitives.ed25519_pair()
    message = os.urandom(length)
    signature = primitives.sign(seed, message)
    theirs = Ed25519PrivateKey.from_private_bytes(bytes(seed.view()))
    assert theirs.sign(message) == signature
    theirs.public_key().verify(signature, message)
    assert public == theirs.public_key().public_bytes_raw()
    primitives.verify(public, message, signature)


def test_signature_binds_message_and_key() -> None:
    """Any change of message, signature, key, or of the border between them, is refused."""
    seed, public = primitives.ed25519_pair()
    message = b"statement"
    signature = primitives.sign(seed, message)
    flipped = bytes([signature[0] ^ 1]) + signature[1:]
    for each in (
        (public, b"statemenT", signature),
        (public, message, flipped),
        (public, message + b"\0", signature),
        (public, signature[-1:] + message, signature[:-1]),  # the same bytes, cut elsewhere
        (public, message[1:], signature + message[:1]),
        (primitives.ed25519_pair()[1], message, signature),
        (public[:-1], message, signature),
        (public + b"\0", message, signature),
        (b"", message, signature),
        (public, message, b""),
    ):
        with pytest.raises(IntegrityError, match="signature"):
            primitives.verify(*each)


def test_constant_time_equal() -> None:
    """Equality over every pair of forms; lengths that differ are not equal."""
    one = b"0123456789abcdef"
    for left in (one, bytearray(one), memoryview(one), SecretBytes.copy_of(one)):
        for right in (one, bytearray(one), memoryview(one), SecretBytes.copy_of(one)):
            assert primitives.constant_time_equal(left, right)
        for wrong in (one[:-1], one + b"\0", b"", one[:-1] + b"g"):
            assert not primitives.constant_time_equal(left, wrong)
    assert primitives.constant_time_equal(b"", b"")


def test_random_bytes() -> None:
    """Random bytes have the asked length and do not repeat."""
    assert [len(primitives.random_bytes(size)) for size in (0, 1, 16, 1000)] == [0, 1, 16, 1000]
    assert len({primitives.random_bytes(16) for _ in range(10_000)}) == 10_000


def test_randomness_differs_after_fork(key: Key) -> None:
    """Parent and child of a fork draw different keys, nonces and ids, however much was drawn before."""

    def draw() -> bytes:
        drawn = Key.random()
        return primitives.random_bytes(16) + bytes(drawn.view()) + primitives.seal(key, b"", b"")[:24]

    draw()
    answers = []
    for _ in range(4):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.write(writer, draw())
                status = 0
            finally:
                os._exit(status)
        mine = draw()
        os.close(writer)
        with os.fdopen(reader, "rb") as answer:
            answers += [mine, answer.read()]
        assert os.waitpid(child, 0)[1] == 0
    for start, end in ((0, 16), (16, 48), (48, 72)):
        assert len({answer[start:end] for answer in answers}) == len(answers)


def test_a_child_does_not_wipe_its_parents_keys(key: Key) -> None:
    """The arena is private to a process: what a forked child wipes, its parent keeps."""
    before = bytes(key.view())
    child = os.fork()
    if child == 0:
        status = 1
        try:
            key.wipe()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert key == before
