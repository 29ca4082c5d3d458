"""The two ciphers that chunks are sealed with, from the caller's buffers into the caller's buffers.

Sources: draft-irtf-cfrg-xchacha-03 and RFC 8439 (XChaCha20-Poly1305), draft-irtf-cfrg-aegis-aead (AEGIS-256, with its
256-bit tag). Neither commits to its key: a stream's header does.
"""

from __future__ import annotations

from enum import IntEnum

from vaultd.crypto import sodium
from vaultd.crypto.memory import Buffer, Key, SecretBytes
from vaultd.crypto.primitives import does_not_open
from vaultd.errors import Internal

__all__ = ["Algorithm", "preferred"]


class Algorithm(IntEnum):
    """What chunks are sealed with; the number stands in a stream's header, and is authenticated there."""

    XCHACHA20_POLY1305 = 1
    AEGIS_256 = 2

    @property
    def nonce(self) -> int:
        """Bytes of a nonce."""
        return sodium.NONCE if self is Algorithm.XCHACHA20_POLY1305 else sodium.AEGIS_NONCE

    @property
    def tag(self) -> int:
        """Bytes that a plaintext grows by."""
        return sodium.TAG if self is Algorithm.XCHACHA20_POLY1305 else sodium.AEGIS_TAG

    def seal_into(
        self, out: bytearray | memoryview, key: Key, nonce: bytes, aad: bytes, plaintext: Buffer | SecretBytes
    ) -> int:
        """Seal into `out`, which has room and does not overlap; returns how many bytes: `tag` more than there were.

        The caller says, where it calls this, why the nonce is unique under the key.
        """
        length = len(plaintext)
        if len(nonce) != self.nonce or len(out) < length + self.tag:
            raise Internal("a nonce has its cipher's length, and there is room for the tag")
        encrypt = sodium.aead_encrypt if self is Algorithm.XCHACHA20_POLY1305 else sodium.aegis_encrypt
        encrypt(
            sodium.from_buffer(out),
            sodium.NULL,
            plaintext.pointer if isinstance(plaintext, SecretBytes) else sodium.from_buffer(plaintext),
            length,
            aad,
            len(aad),
            sodium.NULL,
            nonce,
            key.pointer,
        )
        return length + self.tag

    def open_into(self, out: bytearray | memoryview, key: Key, nonce: bytes, aad: bytes, sealed: Buffer) -> int:
        """Open what `seal_into` made into `out`, which has room and is zeroed if it fails; returns how many bytes.

        Raises:
            IntegrityError: it does not open.
        """
        length = len(sealed) - self.tag
        if len(nonce) != self.nonce or len(out) < length:
            raise Internal("a nonce has its cipher's length, and there is room for the plaintext")
        if length < 0:
            raise does_not_open()
        decrypt = sodium.aead_decrypt if self is Algorithm.XCHACHA20_POLY1305 else sodium.aegis_decrypt
        # No pointer is kept in this frame, which an error would keep: see `primitives`.
        if decrypt(
            sodium.from_buffer(out),
            sodium.NULL,
            sodium.NULL,
            sodium.from_buffer(sealed),
            length + self.tag,
            aad,
            len(aad),
            nonce,
            key.pointer,
        ):
            raise does_not_open()  # libsodium verifies the whole before it gives out any of it, and leaves zeros
        return length


def preferred() -> Algorithm:
    """The faster one here: AEGIS-256 where the processor has AES instructions. Both open everywhere."""
    return Algorithm.AEGIS_256 if sodium.has_aes() else Algorithm.XCHACHA20_POLY1305
