"""Files in an embedded tenant: what `vaultd.vault.embedded.Tenant` has for values that are not held in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaultd.audit.body import Event
from vaultd.errors import VaultdError
from vaultd.names import secret_name
from vaultd.vault.files import FileSource, SecretFile, feed

if TYPE_CHECKING:
    from vaultd.vault.embedded import Vault
    from vaultd.vault.streams import BlobReader

__all__ = ["FileVerbs"]


class FileVerbs:
    """See the module. `Tenant` has the rest of a tenant's verbs."""

    _vault: Vault
    _name: str

    def put_file(
        self,
        name: str,
        source: FileSource,
        *,
        cas: int | None = None,
        description: str | None = None,
        rotate_after: int | None = None,
        sparse: bool = False,
    ) -> int:
        """Store a file, of any size and in constant memory, as the secret's new current version; returns its number.

        A file of at most 1 MiB becomes a value as `put` makes it; a larger one is read through `open`.

        Args:
            source: a path, or a file open for reading bytes, a pipe too, which is read to its end.
            sparse: take holes for the zeros that they read as, instead of refusing them.
            cas, description, rotate_after: as for `put`.

        Raises:
            Conflict: `cas` names another version; or the file grew, shrank or was written to while it was read.
            Invalid: it is empty, has holes, or is not open for bytes; or as `put`.
            StoreError: it cannot be read, or the disk is full. Nothing is stored then.
        """
        with self._vault._changing():
            writer = self._vault._barrier.put_stream(
                self._name,
                secret_name(name),
                actor=self._vault._actor,
                cas=cas,
                description=description,
                rotate_after=rotate_after,
            )
            with writer:
                feed(source, writer, sparse=sparse)
                return writer.finish().version

    def open(self, name: str, version: int | None = None) -> SecretFile:
        """A secret's value, of any size, as a raw file: `readinto`, `seek`, `size`; to be closed.

        Every chunk is verified before a byte of it is given out. It ends when its version is destroyed.

        Raises:
            NotFound: there is no such secret or version, or it is destroyed.
            IntegrityError: its file was changed; recorded.
        """
        barrier = self._vault._barrier
        ref = barrier.prepare_reveal(self._name, secret_name(name), version)
        with self._vault._flushed():
            receipt = barrier.record_reveal(ref, Event("secret.get", "ok", self._vault._actor))
        try:
            reader = barrier.open_blob(receipt, ref, self._vault._actor)
        except VaultdError:
            barrier.ledger.flush()
            raise
        return SecretFile(reader, self._damaged)

    def _damaged(self, reader: BlobReader) -> None:
        with self._vault._flushed():
            self._vault._barrier.record_damage(reader, self._vault._actor)
