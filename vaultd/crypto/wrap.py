"""Key wrapping that commits to its key: for every key and key pair that is stored sealed.

    wrapped = nonce (24) ‖ ciphertext (as long as the secret) ‖ tag (16) ‖ commitment (32)
    commitment = BLAKE2b-256(key = wrapping key, person = "vaultd.commit", data = nonce ‖ aad)

XChaCha20-Poly1305 alone does not commit: whoever knows two keys can build one ciphertext that opens under both, and
with several key slots that is an oracle, or a file that two admins read differently. The commitment is collision
resistant in key, nonce and associated data together, and is compared before anything is opened. `nonce` has a fixed
length, so `nonce ‖ aad` needs no separator.
"""

from __future__ import annotations

from typing import Final, TypeVar

from vaultd.crypto import sodium
from vaultd.crypto.labels import COMMIT
from vaultd.crypto.memory import Buffer, Key, SecretBytes
from vaultd.crypto.primitives import does_not_open, padded_label
from vaultd.errors import Internal

__all__ = ["COMMITMENT", "WRAPPED_KEY", "WRAP_OVERHEAD", "unwrap", "unwrap_key", "wrap"]

COMMITMENT: Final = 32
WRAP_OVERHEAD: Final = sodium.NONCE + sodium.TAG + COMMITMENT
"""How many bytes `wrap` adds."""
WRAPPED_KEY: Final = sodium.KEY + WRAP_OVERHEAD
"""Bytes of a wrapped key of 32 bytes: 104."""

_COMMIT: Final = padded_label(COMMIT)
_SecretT = TypeVar("_SecretT", bound=SecretBytes)


def wrap(key: Key, aad: bytes, secret: SecretBytes | Buffer, *, nonce: bytes | None = None) -> bytes:
    """Wrap a secret under `key`, committed.

    Args:
        key: the wrapping key.
        aad: from `context`: which secret this is and where it belongs.
        secret: any length; its length shows.
        nonce: only for generators of golden files; 24 bytes, never the same twice under one key.
    """
    size = len(secret)
    wrapped = bytearray(size + WRAP_OVERHEAD)
    out = sodium.from_buffer(wrapped)
    if nonce is None:
        sodium.randombytes(out, sodium.NONCE)
        nonce = bytes(wrapped[: sodium.NONCE])
    elif len(nonce) != sodium.NONCE:
        raise Internal("a nonce has 24 bytes")
    else:
        wrapped[: sodium.NONCE] = nonce
    source = secret.pointer if isinstance(secret, SecretBytes) else sodium.from_buffer(secret)
    sodium.aead_encrypt(out + sodium.NONCE, sodium.NULL, source, size, aad, len(aad), sodium.NULL, nonce, key.pointer)
    commit(out + (sodium.NONCE + size + sodium.TAG), key.pointer, nonce + aad)
    return bytes(wrapped)


def unwrap(key: Key, aad: bytes, wrapped: Buffer) -> SecretBytes:
    """Open what `wrap` made.

    Raises:
        IntegrityError: another key, another place, or changed bytes.
    """
    if len(wrapped) < WRAP_OVERHEAD:
        raise does_not_open()
    secret = SecretBytes.take(bytearray(len(wrapped) - WRAP_OVERHEAD))
    return _unwrap_into(secret, key, aad, wrapped)


def unwrap_key(key: Key, aad: bytes, wrapped: Buffer) -> Key:
    """Open a wrapped key of 32 bytes, straight into the arena.

    Raises:
        IntegrityError: another length, another key, another place, or changed bytes.
    """
    if len(wrapped) != WRAPPED_KEY:
        raise does_not_open()
    return _unwrap_into(Key(), key, aad, wrapped)


def _unwrap_into(secret: _SecretT, key: Key, aad: bytes, wrapped: Buffer) -> _SecretT:
    start = sodium.from_buffer(wrapped)
    if not open_wrapped(secret.pointer, start, len(secret), key.pointer, aad):
        secret.wipe()
        raise does_not_open()
    return secret


def commit(out: sodium.Pointer, key: sodium.Pointer, bound: bytes) -> None:
    """Write the commitment of `key` to `bound` (nonce ‖ aad): strictly for this room."""
    sodium.blake2b(out, COMMITMENT, bound, len(bound), key, sodium.KEY, sodium.NULL, _COMMIT)


def open_wrapped(out: sodium.Pointer, wrapped: sodium.Pointer, size: int, key: sodium.Pointer, aad: bytes) -> bool:
    """Open a wrap of a `size`-byte secret into `out`; False when it does not verify: strictly for this room."""
    scratch = bytearray(COMMITMENT)
    expected = sodium.from_buffer(scratch)
    commit(expected, key, sodium.copy(wrapped, sodium.NONCE) + aad)
    # The commitment first: opening under a key that the wrap does not commit to is what an attacker would ask for.
    if sodium.memcmp(expected, wrapped + (sodium.NONCE + size + sodium.TAG), COMMITMENT):
        return False
    return not sodium.aead_decrypt(
        out, sodium.NULL, sodium.NULL, wrapped + sodium.NONCE, size + sodium.TAG, aad, len(aad), wrapped, key
    )
