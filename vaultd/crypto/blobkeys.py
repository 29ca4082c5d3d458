"""The keys of one tenant's blobs: where a data key belongs, and where its stream does.

A blob's data key is wrapped for one version of one secret. Its stream names the vault, the tenant and its own random
id; which secret and version it is the value of is what the wrap says. So a rollback wraps the key for one version more
and leaves the stream as it is, and what is being written need not know yet which version it will be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaultd.crypto.context import context
from vaultd.crypto.wrap import unwrap_key, wrap

if TYPE_CHECKING:
    from vaultd.crypto.memory import Buffer, Key

__all__ = ["BlobKeys", "stream_context"]


def stream_context(vault_id: bytes, tenant: bytes, stream_id: bytes) -> bytes:
    """A stream's associated data."""
    return context("blob", vault_id, tenant, stream_id)


class BlobKeys:
    """Wraps data keys of blobs under one generation of a tenant key.

    Args:
        vault_id: 16 bytes.
        tenant: the tenant's uid, 16 bytes.
        generation: of the tenant key.
        data_key_key: `TenantKeys(...).data_key`; it stays its owner's.
    """

    __slots__ = ("_place", "_wrapping")

    def __init__(self, vault_id: bytes, tenant: bytes, generation: int, data_key_key: Key) -> None:
        self._wrapping = data_key_key
        self._place = (vault_id, tenant, generation)

    def wrap(self, secret_id: bytes, version: int, data_key: Key, *, nonce: bytes | None = None) -> bytes:
        """A data key as a log record carries it: 104 bytes. `nonce` is only for generators of golden files."""
        return wrap(self._wrapping, self._aad(secret_id, version), data_key, nonce=nonce)

    def unwrap(self, secret_id: bytes, version: int, wrapped: Buffer) -> Key:
        """Open a wrapped data key.

        Raises:
            IntegrityError: another tenant, generation, secret or version, or changed bytes.
        """
        return unwrap_key(self._wrapping, self._aad(secret_id, version), wrapped)

    def rewrap(self, target: BlobKeys, secret_id: bytes, version: int, wrapped: Buffer) -> bytes:
        """The same data key under another generation's key. Raises `IntegrityError`."""
        with self.unwrap(secret_id, version, wrapped) as data_key:
            return target.wrap(secret_id, version, data_key)

    def _aad(self, secret_id: bytes, version: int) -> bytes:
        return context("blobkey", *self._place, secret_id, version)
