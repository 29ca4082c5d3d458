"""Values through both seals: bounds, padding, layout, and that nothing else opens."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

from vaultd.crypto import primitives, sodium, values
from vaultd.crypto.hierarchy import TenantKeys
from vaultd.crypto.memory import Key, SecretBytes
from vaultd.crypto.values import VALUE_MAX, Envelope, open_value, pad, seal_value
from vaultd.errors import IntegrityError, Internal, Invalid

VAULT, TENANT, SECRET = bytes(16), b"\x01" * 16, b"\x02" * 16
SIZES = [1, 59, 60, 61, 64, 1000, 4031, 4032, 4033, 4096, 65536, VALUE_MAX - 1, VALUE_MAX]


@pytest.fixture
def data_key() -> Key:
    """A fresh data key."""
    return values.new_data_key()


@pytest.fixture
def envelope() -> Envelope:
    """A tenant's envelope at generation 1."""
    return Envelope(VAULT, TENANT, 1, TenantKeys(Key.random()).data_key)


@pytest.mark.parametrize("size", SIZES)
def test_value_round_trip(data_key: Key, size: int) -> None:
    """Every size up to 1 MiB opens to itself, and what shows is the padded length."""
    value = SecretBytes.random(size)
    sealed = seal_value(data_key, VAULT, TENANT, SECRET, 1, value)
    assert len(sealed) == pad(4 + size) + primitives.OVERHEAD
    assert open_value(data_key, sealed, VAULT, TENANT, SECRET, 1) == value
    assert open_value(data_key, memoryview(sealed), VAULT, TENANT, SECRET, 1).view() == value.view()


@pytest.mark.parametrize("content", [b"\0", b"\0" * 60, b"key\n", b"a\0b", b"\xff\xfe", bytes(61)])
def test_any_bytes_are_a_value(envelope: Envelope, content: bytes) -> None:
    """NUL bytes, trailing zeros and what is not text come back exactly."""
    attachment = envelope.seal(SECRET, 1, SecretBytes.copy_of(content))
    assert envelope.open(SECRET, 1, attachment) == content


@pytest.mark.parametrize("size", [0, VALUE_MAX + 1])
def test_value_bounds(data_key: Key, envelope: Envelope, size: int) -> None:
    """Nothing, and more than 1 MiB, is refused."""
    value = SecretBytes.take(bytearray(size))
    with pytest.raises(Invalid):
        seal_value(data_key, VAULT, TENANT, SECRET, 1, value)
    with pytest.raises(Invalid):
        envelope.seal(SECRET, 1, value)


def test_layout(data_key: Key) -> None:
    """The plaintext is length, value, zeros; the seal is `primitives.seal` under the value's place."""
    nonce = os.urandom(24)
    sealed = seal_value(data_key, VAULT, TENANT, SECRET, 5, SecretBytes.copy_of(b"hello"), nonce=nonce)
    plaintext = b"\0\0\0\x05hello" + bytes(55)
    aad = values.value_context(VAULT, TENANT, SECRET, 5)
    assert sealed == primitives.seal(data_key, aad, plaintext, nonce=nonce)
    for size in (0, 23, 25):
        with pytest.raises(Internal):
            seal_value(data_key, VAULT, TENANT, SECRET, 5, SecretBytes.copy_of(b"hello"), nonce=bytes(size))


def forged(data_key: Key, plaintext: bytes) -> bytes:
    """What a holder of the data key could seal in a value's place."""
    return primitives.seal(data_key, values.value_context(VAULT, TENANT, SECRET, 1), plaintext)


@pytest.mark.parametrize(
    "plaintext",
    [
        b"\0\0\0\0" + bytes(60),  # no value
        b"\0\0\0\x3d" + bytes(60),  # longer than its room
        b"\xff\xff\xff\xff" + bytes(60),
        b"\0\0\0\x05hello" + bytes(54) + b"x",  # something in the padding
        b"\0\0\0\x05hellox" + bytes(54),
        b"\0\0\0\x05hello" + bytes(119),  # more padding than pad() gives
        b"\0\0\0\x05hello" + bytes(54),  # less
        b"\0\0\0\x05hello",
        b"",
        b"\0\0\0",
        b"\0\x10\0\x01" + bytes(pad(4 + VALUE_MAX) - 4),  # one byte over the maximum
    ],
)
def test_other_plaintexts_do_not_open(data_key: Key, envelope: Envelope, plaintext: bytes) -> None:
    """A value has one plaintext: even a holder of the key can seal no second form of it."""
    with pytest.raises(IntegrityError):
        open_value(data_key, forged(data_key, plaintext), VAULT, TENANT, SECRET, 1)
    genuine = envelope.seal(SECRET, 1, SecretBytes.copy_of(b"x"))
    inner = values.unwrap_data_key(envelope._wrapping, genuine[:104], VAULT, TENANT, 1, SECRET, 1)
    with pytest.raises(IntegrityError):
        envelope.open(SECRET, 1, genuine[:104] + forged(inner, plaintext))


def test_a_kept_error_holds_no_plaintext(data_key: Key) -> None:
    """An error that somebody keeps also keeps the frames it passed; what was decrypted in them is wiped."""
    with pytest.raises(IntegrityError) as caught:
        open_value(data_key, forged(data_key, b"\0\0\0\0" + b"s" * 60), VAULT, TENANT, SECRET, 1)
    held = [entry.frame.f_locals["buffer"] for entry in caught.traceback if "buffer" in entry.frame.f_locals]
    assert held == [bytearray(64)]


def test_largest_plaintext_opens(data_key: Key) -> None:
    """The forger's control: the genuine form of the largest value does open."""
    plaintext = b"\0\x10\0\0" + bytes(pad(4 + VALUE_MAX) - 4)
    assert len(open_value(data_key, forged(data_key, plaintext), VAULT, TENANT, SECRET, 1)) == VALUE_MAX


@pytest.mark.parametrize("size", SIZES)
def test_envelope_is_the_two_seals(envelope: Envelope, size: int) -> None:
    """The fast path and the two steps read and write the same bytes."""
    value = SecretBytes.random(size)
    attachment = envelope.seal(SECRET, 3, value)
    data_key = values.unwrap_data_key(envelope._wrapping, attachment[:104], VAULT, TENANT, 1, SECRET, 3)
    assert open_value(data_key, attachment[104:], VAULT, TENANT, SECRET, 3) == value
    assert envelope.open(SECRET, 3, attachment) == value
    wrapped = values.wrap_data_key(envelope._wrapping, data_key, VAULT, TENANT, 1, SECRET, 3)
    assert envelope.open(SECRET, 3, wrapped + seal_value(data_key, VAULT, TENANT, SECRET, 3, value)) == value


def test_each_version_has_its_own_data_key(envelope: Envelope) -> None:
    """Two seals of one value share neither nonce, nor data key, nor ciphertext."""
    value = SecretBytes.copy_of(b"the same")
    one, other = envelope.seal(SECRET, 1, value), envelope.seal(SECRET, 1, value)
    assert all(one[at : at + 16] != other[at : at + 16] for at in range(0, len(one), 16))
    with pytest.raises(IntegrityError):
        envelope.open(SECRET, 1, one[:104] + other[104:])


def test_every_place_is_bound(envelope: Envelope) -> None:
    """Another secret, version, tenant, vault or generation does not open, in either half."""
    attachment = envelope.seal(SECRET, 1, SecretBytes.copy_of(b"value"))
    key = envelope._wrapping
    for other, secret, version in (
        (envelope, TENANT, 1),
        (envelope, SECRET, 2),
        (Envelope(TENANT, TENANT, 1, key), SECRET, 1),
        (Envelope(VAULT, VAULT, 1, key), SECRET, 1),
        (Envelope(VAULT, TENANT, 2, key), SECRET, 1),
        (Envelope(VAULT, TENANT, 1, Key.random()), SECRET, 1),
    ):
        with pytest.raises(IntegrityError):
            other.open(secret, version, attachment)
    data_key = values.unwrap_data_key(key, attachment[:104], VAULT, TENANT, 1, SECRET, 1)
    here = (VAULT, TENANT, SECRET, 1)
    for place in ((TENANT, *here[1:]), (VAULT, VAULT, *here[2:]), (VAULT, TENANT, TENANT, 1), (*here[:3], 2)):
        with pytest.raises(IntegrityError):
            open_value(data_key, attachment[104:], *place)
    assert open_value(data_key, attachment[104:], *here) == b"value"


def test_cut_and_extended_attachments(envelope: Envelope) -> None:
    """No prefix opens, and no trailing byte is ignored."""
    attachment = envelope.seal(SECRET, 1, SecretBytes.copy_of(b"value"))
    wrong = [attachment[:cut] for cut in range(len(attachment))]
    for data in [*wrong, attachment + b"\0", attachment * 2, b"\0" + attachment]:
        with pytest.raises(IntegrityError):
            envelope.open(SECRET, 1, data)


def test_rewrap_leaves_the_value_alone(envelope: Envelope) -> None:
    """Rotating a tenant's key wraps the data key anew: the value's bytes stay, the old key opens nothing new."""
    target = Envelope(VAULT, TENANT, 2, TenantKeys(Key.random()).data_key)
    attachment = envelope.seal(SECRET, 1, SecretBytes.copy_of(b"value"))
    moved = envelope.rewrap(target, SECRET, 1, attachment)
    assert moved[104:] == attachment[104:]
    assert target.open(SECRET, 1, moved) == b"value"
    with pytest.raises(IntegrityError):
        envelope.open(SECRET, 1, moved)
    for secret, version in ((TENANT, 1), (SECRET, 2)):
        with pytest.raises(IntegrityError):
            envelope.rewrap(target, secret, version, attachment)
    for cut in (0, 103, 104, 207):
        with pytest.raises(IntegrityError):
            envelope.rewrap(target, SECRET, 1, attachment[:cut])


def test_secret_id_size(envelope: Envelope) -> None:
    """A secret's id has 16 bytes; the fixed layout would cut or fill any other."""
    for size in (0, 15, 17):
        with pytest.raises(Internal):
            envelope.open(bytes(size), 1, bytes(208))
        with pytest.raises(Internal):
            values.value_context(VAULT, TENANT, bytes(size), 1)
    for size in (0, 15, 17):
        with pytest.raises(Internal):
            Envelope(bytes(size), TENANT, 1, Key.random())
        with pytest.raises(Internal):
            Envelope(VAULT, bytes(size), 1, Key.random())


def test_failed_open_leaves_no_data_key(envelope: Envelope) -> None:
    """After each open, good or bad, the place the data key was unwrapped into is zero."""
    attachment = envelope.seal(SECRET, 1, SecretBytes.copy_of(b"value"))
    envelope.open(SECRET, 1, attachment)
    with pytest.raises(IntegrityError):
        envelope.open(SECRET, 1, attachment[:-1] + bytes([attachment[-1] ^ 1]))
    assert len(envelope._places) == 1
    assert envelope._places[0].key == bytes(32)


def test_threads_share_an_envelope(envelope: Envelope) -> None:
    """Several threads open through one envelope at once and each gets its own value."""
    sealed = [envelope.seal(SECRET, version, SecretBytes.copy_of(b"%d" % version * 5000)) for version in range(1, 9)]

    def work(offset: int) -> bool:
        return all(
            envelope.open(SECRET, version, sealed[version - 1]) == b"%d" % version * 5000
            for _ in range(50)
            for version in ((offset + step) % 8 + 1 for step in range(8))
        )

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


def test_wiping_a_value_wipes_its_padding_and_length() -> None:
    """The buffer behind an opened value is zeroed as a whole."""
    key = values.new_data_key()
    sealed = seal_value(key, VAULT, TENANT, SECRET, 1, SecretBytes.copy_of(b"v" * 50))
    value = open_value(key, sealed, VAULT, TENANT, SECRET, 1)
    base = value._base
    assert base is not None
    whole = sodium.memory(base)
    assert bytes(whole[:54]) == b"\0\0\0\x32" + b"v" * 50
    value.wipe()
    assert bytes(whole) == bytes(64)


@pytest.mark.parametrize(
    ("size", "padded"),
    [
        (0, 64),
        (64, 64),
        (65, 72),
        (72, 72),
        (73, 80),
        (128, 128),
        (129, 144),
        (1000, 1024),
        (1025, 1088),
        (1048580, 1081344),
    ],
)
def test_pad_examples(size: int, padded: int) -> None:
    """Padmé with a floor of 64, on lengths worked out by hand."""
    assert pad(size) == padded


def test_pad_costs_little_and_shows_little() -> None:
    """Padding is monotone, idempotent, at most 12 % (above the floor), and few lengths remain."""
    lengths = [pad(size) for size in range(VALUE_MAX + 5)]
    assert all(one <= other for one, other in pairwise(lengths))
    assert all(padded >= size for size, padded in enumerate(lengths))
    assert all(pad(padded) == padded for padded in set(lengths))
    assert max(padded / size for size, padded in enumerate(lengths) if size > 64) < 1.12
    assert len(set(lengths)) == 274
