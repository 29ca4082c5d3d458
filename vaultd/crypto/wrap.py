"""Key wrapping that commits to its key: for every key and key pair that is stored sealed.

    wrapped = nonce (24) ‖ ciphertext (as long as the secret) ‖ tag (16) ‖ commitment (32)
    commitment = BLAKE2b-256(key = wrapping key, person = "vaultd.commit", data = nonce ‖ aad)

XChaCha20-Poly1305 alone does not commit: whoever knows two keys can build one ciphertext that opens under both, and
with several key slots that is an oracle, or a file that two admins read differently. The commitment is collision
resistant in key, nonce and associated data together, and is compared before anything is opened. `nonce` has a fixed
length, so `nonce ‖ aad` needs no separator.
"""

from __future__ import annotations

from hmac import compare_digest
from typing import Final, TypeVar

from vaultd.crypto import sodium
from vaultd.crypto.labels import COMMIT
from vaultd.crypto.memory import Buffer, Key, SecretBytes, pointer_to
from vaultd.crypto.primitives import does_not_open, padded_label
from vaultd.errors import Internal

__all__ = ["COMMITMENT", "WRAPPED_KEY", "WRAP_OVERHEAD", "unwrap", "unwrap_key", "wrap"]

COMMITMENT: Final = 32
WRAP_OVERHEAD: Final = sodium.NONCE + sodium.TAG + COMMITMENT
"""How many bytes `wrap` adds."""
WRAPPED_KEY: Final = sodium.KEY + WRAP_OVERHEAD
"""Bytes of a wrapped key of 32 bytes: 104."""

_PERSON: Final = padded_label(COMMIT)
_NULL: Final = sodium.NULL
_encrypt: Final = sodium.aead_encrypt  # module names: one lookup less on the path of every lease
_decrypt: Final = sodium.aead_decrypt
_blake2b: Final = sodium.blake2b
_SecretT = TypeVar("_SecretT", bound=SecretBytes)


def wrap(key: Key, aad: bytes, secret: SecretBytes | Buffer, *, nonce: bytes | None = None) -> bytes:
    """Wrap a secret under `key`, committed.

    Args:
        key: the wrapping key.
        aad: from `context`: which secret this is and where it belongs.
        secret: any length; its length shows.
        nonce: only for generators of golden files; 24 bytes, never the same twice under one key.
    """
    source, size = pointer_to(secret)
    wrapped = bytearray(size + WRAP_OVERHEAD)
    out = sodium.from_buffer(wrapped)
    if nonce is None:
        sodium.randombytes(out, sodium.NONCE)
        nonce = bytes(wrapped[: sodium.NONCE])
    elif len(nonce) != sodium.NONCE:
        raise Internal("a nonce has 24 bytes")
    else:
        wrapped[: sodium.NONCE] = nonce
    text = out + sodium.NONCE
    _encrypt(text, _NULL, source, size, aad, len(aad), _NULL, nonce, key.pointer)
    bound = nonce + aad
    _blake2b(text + (size + sodium.TAG), COMMITMENT, bound, len(bound), key.pointer, sodium.KEY, _NULL, _PERSON)
    return bytes(wrapped)


def unwrap(key: Key, aad: bytes, wrapped: Buffer) -> SecretBytes:
    """Open what `wrap` made.

    Raises:
        IntegrityError: another key, another place, or changed bytes.
    """
    if len(wrapped) < WRAP_OVERHEAD:
        raise does_not_open()
    return _unwrap_into(SecretBytes.take(bytearray(len(wrapped) - WRAP_OVERHEAD)), key, aad, wrapped)


def unwrap_key(key: Key, aad: bytes, wrapped: Buffer) -> Key:
    """Open a wrapped key of 32 bytes, straight into the arena.

    Raises:
        IntegrityError: another length, another key, another place, or changed bytes.
    """
    if len(wrapped) != WRAPPED_KEY:
        raise does_not_open()
    return _unwrap_into(Key(), key, aad, wrapped)


def _unwrap_into(secret: _SecretT, key: Key, aad: bytes, wrapped: Buffer) -> _SecretT:
    raw = bytes(wrapped)
    parts = raw[: sodium.NONCE], raw[sodium.NONCE : -COMMITMENT], raw[-COMMITMENT:]
    if not open_wrapped(secret.pointer, key.pointer, aad, parts, Scratch()):
        raise does_not_open()
    return secret


class Scratch:
    """Where the expected commitment is computed: strictly for this room, which keeps one where it unwraps often."""

    __slots__ = ("commitment", "pointer")

    def __init__(self) -> None:
        self.commitment = bytearray(COMMITMENT)
        self.pointer = sodium.from_buffer(self.commitment)


def open_wrapped(
    out: sodium.Pointer, key: sodium.Pointer, aad: bytes, parts: tuple[bytes, bytes, bytes], scratch: Scratch
) -> bool:
    """Open a wrap into `out`: strictly for this room, which has checked all lengths.

    Args:
        out: room for the secret.
        key: the wrapping key.
        aad: associated data.
        parts: nonce, ciphertext with tag, commitment.
        scratch: not in use by another thread.

    Returns:
        False when it does not verify; `out` then holds zeros or what it held.
    """
    nonce, ciphertext, commitment = parts
    bound = nonce + aad
    _blake2b(scratch.pointer, COMMITMENT, bound, len(bound), key, sodium.KEY, _NULL, _PERSON)
    # The commitment comes first, in constant time: to open under a key that the wrap does not commit to, and to let
    # anybody see whether it opened, is the oracle that the commitment is there against.
    if not compare_digest(scratch.commitment, commitment):
        return False
    return not _decrypt(out, _NULL, _NULL, ciphertext, len(ciphertext), aad, len(aad), nonce, key)
