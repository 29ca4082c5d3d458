"""Sealing to a public key: anonymous, with associated data, committed.

    boxed = ephemeral public key (32) ‖ wrap(box key, aad, plaintext)
    box key = BLAKE2b-256(key = X25519(ephemeral private, public), person = "vaultd.box", data = ephemeral ‖ public)

Both public keys go into the box key, so a boxed object opens for one recipient and under one encoding of the ephemeral
key only. libsodium's sealed box has neither associated data nor a commitment, which is why this is not that.
"""

from __future__ import annotations

from typing import Final

from vaultd.crypto import sodium
from vaultd.crypto.labels import BOX
from vaultd.crypto.memory import Buffer, Key, SecretBytes
from vaultd.crypto.primitives import derive, does_not_open, x25519, x25519_public
from vaultd.crypto.wrap import WRAP_OVERHEAD, unwrap, unwrap_key, wrap

__all__ = ["BOXED_KEY", "BOX_OVERHEAD", "box", "open_box", "open_box_key"]

BOX_OVERHEAD: Final = sodium.KEY + WRAP_OVERHEAD
"""How many bytes `box` adds: 104."""
BOXED_KEY: Final = sodium.KEY + BOX_OVERHEAD
"""Bytes of a boxed key of 32 bytes: 136."""


def box(
    public: bytes,
    aad: bytes,
    plaintext: SecretBytes | Buffer,
    *,
    ephemeral: Key | None = None,
    nonce: bytes | None = None,
) -> bytes:
    """Seal to `public` so that only its private key opens.

    Args:
        public: the recipient's X25519 public key.
        aad: from `context`.
        plaintext: any length; its length shows.
        ephemeral: only for generators of golden files; a private key that is never used twice.
        nonce: only for generators of golden files.

    Raises:
        IntegrityError: `public` is a point of small order.
    """
    private = Key.random() if ephemeral is None else ephemeral
    try:
        sender = x25519_public(private)
        with _box_key(private, public, sender, public) as key:
            return sender + wrap(key, aad, plaintext, nonce=nonce)
    finally:
        if ephemeral is None:
            private.wipe()


def open_box(private: SecretBytes, public: bytes, aad: bytes, boxed: Buffer) -> SecretBytes:
    """Open what `box` made.

    Args:
        private: the recipient's private key.
        public: the recipient's public key, which belongs to `private`.
        aad: what `box` was given.
        boxed: what `box` returned.

    Raises:
        IntegrityError: another recipient, another place, or changed bytes.
    """
    sender, wrapped = _split(boxed)
    with _box_key(private, sender, sender, public) as key:
        return unwrap(key, aad, wrapped)


def open_box_key(private: SecretBytes, public: bytes, aad: bytes, boxed: Buffer) -> Key:
    """Open a boxed key of 32 bytes, straight into the arena; otherwise as `open_box`."""
    sender, wrapped = _split(boxed)
    with _box_key(private, sender, sender, public) as key:
        return unwrap_key(key, aad, wrapped)


def _split(boxed: Buffer) -> tuple[bytes, bytes]:
    if len(boxed) < BOX_OVERHEAD:
        raise does_not_open()
    return bytes(boxed[: sodium.KEY]), bytes(boxed[sodium.KEY :])


def _box_key(private: SecretBytes, point: bytes, sender: bytes, recipient: bytes) -> Key:
    with x25519(private, point) as shared:
        return derive(shared, BOX, sender + recipient)
