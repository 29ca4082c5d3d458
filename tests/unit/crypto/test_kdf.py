"""Argon2id and key files: agreement with other implementations, and bounds on both ends."""

from __future__ import annotations

import hashlib

import pytest
from argon2.low_level import Type, hash_secret_raw
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from vaultd.crypto import kdf
from vaultd.crypto.memory import SecretBytes
from vaultd.errors import IntegrityError, Internal, Invalid, Unavailable

SALT = bytes(range(16))


@pytest.mark.parametrize("profile", [kdf.CHEAPEST, kdf.Profile(2, 64, 4), kdf.Profile(1, 1024, 2)])
@pytest.mark.parametrize("passphrase", [b"x", b"correct horse battery staple", b"\0" * 4096, "pässword".encode()])
def test_agrees_with_two_other_callers(profile: kdf.Profile, passphrase: bytes) -> None:
    """Our pointers into the library give what its own wrapper and what `cryptography` give."""
    time_cost, memory_kib, lanes = profile
    ours = kdf.argon2id(SecretBytes.copy_of(passphrase), SALT, profile)
    assert ours == hash_secret_raw(passphrase, SALT, time_cost, memory_kib, lanes, 32, Type.ID)
    theirs = Argon2id(salt=SALT, length=32, iterations=time_cost, lanes=lanes, memory_cost=memory_kib)
    assert ours == theirs.derive(passphrase)


def test_rfc_9106_low_is_what_the_rfc_says() -> None:
    """The default profile is RFC 9106's second recommended choice, and passes the default bounds."""
    assert kdf.RFC_9106_LOW == (3, 64 * 1024, 4)
    kdf.check_bounds(kdf.RFC_9106_LOW)
    kdf.check_bounds(kdf.FLOOR)


@pytest.mark.parametrize(
    "profile",
    [
        (0, 65536, 4),
        (17, 65536, 4),
        (2**32 - 1, 65536, 4),
        (3, 0, 4),
        (3, 1024 * 1024 + 1, 4),
        (3, 2**32 - 1, 4),
        (3, 65536, 0),
        (3, 65536, 17),
        (3, 31, 4),
        (3, 7, 1),
    ],
)
def test_absurd_cost_is_refused(profile: tuple[int, int, int]) -> None:
    """A cost that would never end, not fit, or not be Argon2id is refused, whatever the minimum."""
    with pytest.raises(IntegrityError, match="outside the bounds"):
        kdf.check_bounds(kdf.Profile(*profile), minimum=kdf.Profile(0, 0, 0))


@pytest.mark.parametrize("profile", [(1, 65536, 4), (2, 19 * 1024 - 1, 1), (16, 8, 1), kdf.CHEAPEST])
def test_cheap_cost_is_refused(profile: tuple[int, int, int]) -> None:
    """A cost below the minimum is refused unless the caller names a lower minimum."""
    with pytest.raises(IntegrityError, match="below"):
        kdf.check_bounds(kdf.Profile(*profile))
    kdf.check_bounds(kdf.Profile(*profile), minimum=kdf.CHEAPEST)


def test_passphrase_bounds() -> None:
    """An empty or overlong passphrase is refused before any cost is paid."""
    for size in (0, 4097):
        with pytest.raises(Invalid):
            kdf.argon2id(SecretBytes.take(bytearray(size)), SALT, kdf.CHEAPEST)
    with pytest.raises(Internal):
        kdf.argon2id(SecretBytes.copy_of(b"x"), SALT[:-1], kdf.CHEAPEST)


def test_library_failure_is_reported() -> None:
    """Whatever the library refuses becomes an error, never a key."""
    with pytest.raises(Unavailable, match="argon2id"):
        kdf.argon2id(SecretBytes.copy_of(b"x"), SALT, kdf.Profile(0, 8, 1))


@pytest.mark.parametrize("size", [32, 33, 128, 129, 4096])
def test_key_file(size: int) -> None:
    """A key file's key is salted, personalised BLAKE2b-256 of its content."""
    content = bytes(index % 251 for index in range(size))
    expected = hashlib.blake2b(content, salt=SALT, person=b"vaultd.keyfile", digest_size=32).digest()
    assert kdf.key_file_key(SecretBytes.copy_of(content), SALT) == expected


@pytest.mark.parametrize("size", [0, 1, 31, 4097])
def test_key_file_bounds(size: int) -> None:
    """A key file too short to hold a key, or too long to be one, is refused."""
    with pytest.raises(Invalid):
        kdf.key_file_key(SecretBytes.take(bytearray(size)), SALT)
