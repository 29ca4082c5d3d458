"""The verbs on blobs: values above 1 MiB, each in a sealed file of its own that a version's record names.

What a secret is does not change with it: its versions, states, grants and history are the same, and each version is
either a value in the log or a blob, by its size alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vaultd.audit.body import Event
from vaultd.errors import Internal, VaultdError
from vaultd.vault import changes
from vaultd.vault.allowance import check_value, spare_bytes
from vaultd.vault.blob_place import BlobPlace, Room, Share
from vaultd.vault.sealing import Sealing
from vaultd.vault.state import Blob
from vaultd.vault.streams import BlobReader, BlobWriter

if TYPE_CHECKING:
    from vaultd.audit.body import Actor
    from vaultd.audit.receipt import Receipt
    from vaultd.crypto.stream import StreamOpener
    from vaultd.names import SecretName
    from vaultd.store import RangeFile
    from vaultd.vault.sealing import SecretRef, Stored
    from vaultd.vault.state import Secret, Version
    from vaultd.vault.tenant import OpenTenant

__all__ = ["BlobVerbs"]

_ID = 16


class BlobVerbs(Sealing):
    """See the module. `tenant` is a name or a uid; every method raises what `Core.tenant` does."""

    def put_stream(
        self,
        tenant: str | bytes,
        name: SecretName,
        *,
        actor: Actor,
        cas: int | None = None,
        description: str | None = None,
        rotate_after: int | None = None,
        pending: bool = False,
        grace: int = changes.GRACE,
        kind: str = "secret.put",
        run: str | None = None,
    ) -> BlobWriter:
        """Begin a new version whose value comes in pieces and may have any size. Nothing of it shows before `finish`.

        The arguments are those of `put`, and are looked at now and again at the end: the version gets its number then.

        Raises:
            Conflict, Invalid: as `put`.
            QuotaExceeded: the tenant may not have another secret.
            Halted: nothing can be changed any more.
        """
        opened = self.tenant(tenant)
        uid, stream_id, new_id = opened.uid, self._random(_ID), self._random(_ID)
        self.ledger.require_running()

        def wanted(state_of: OpenTenant, blob: Blob | None) -> dict[str, Any]:
            return changes.put(
                state_of.state,
                name,
                now=self.now(),
                new_id=new_id,
                cas=cas,
                description=description,
                rotate_after=rotate_after,
                pending=pending,
                grace=grace,
                blob=blob,
            )

        # A mistake that is there already must not cost an upload.
        check_value(self.allowance, opened.state, wanted(opened, None), 0)
        place = self._place(uid, stream_id)
        spare = spare_bytes(self.allowance, opened.state, name)
        share = Share(self._rooms.setdefault(uid, Room()), spare, self.allowance.value_bytes)

        def finish(writer: BlobWriter) -> Stored:
            target = self.tenant(uid)
            value = writer.value()
            blob = None if value is not None else Blob(stream_id, writer.size)
            header = wanted(target, blob)
            event = Event(kind, "ok", writer.actor or actor, secret=name, version=header["version"], run=run)
            if value is not None:
                with value:
                    return self._store(target, header, value, event)
            if blob is None:
                raise Internal("a value is neither in the log nor a file")
            wrapped = target.blob_keys.wrap(header["id"], header["version"], writer.data_key)
            return self._keep(target, header, wrapped, event, added=blob.stored)

        writer = BlobWriter(place, share, finish)
        self._track(uid, writer)
        return writer

    def open_blob(self, receipt: Receipt, ref: SecretRef, actor: Actor) -> BlobReader:
        """Open a version's value for reading in pieces, whether it is a blob or in the log.

        Args:
            receipt: of the durable audit record that says so; used up by this.
            ref: from `prepare_reveal`.
            actor: who gets it, for the second record if it does not open.

        Raises:
            Internal: the receipt is not durable, was used, or names something else.
            NotFound: the version was destroyed meanwhile.
            IntegrityError, FormatVersion, ConfigError, StoreError: it does not verify or cannot be read; recorded.
                The tenant and its other secrets are not concerned.
            Closed: a value in the log does not; recorded, and the tenant stays closed.
        """
        opened, secret, version = self._spent(receipt, ref)
        if version.blob is None:
            reader = BlobReader(ref, value=self._reveal(opened, secret, ref, actor))
        else:
            try:
                reader = BlobReader(ref, blob=self._open_stream(opened, secret, version, version.blob))
            except VaultdError:
                self._record_failure(ref, actor)
                raise
            reader.file = version.blob.file
        self._track(opened.uid, reader)
        return reader

    def record_damage(self, reader: BlobReader, actor: Actor) -> None:
        """Record that a read of a blob found it changed, as `open_blob` does. Raises `Halted`."""
        self._record_failure(reader.ref, actor)

    def _share(self, opened: OpenTenant, secret: Secret, to: Version, blob: Blob, version: int) -> bytes:
        """The data key of a blob, wrapped for one version more, which shares the file. Raises `IntegrityError`."""
        # A version must not come into force whose file is not there.
        file, opener = self._open_stream(opened, secret, to, blob)
        file.close()
        opener.wipe()
        with opened.blob_keys.unwrap(secret.id, to.number, self._attachment(opened, to)) as data_key:
            return opened.blob_keys.wrap(secret.id, version, data_key)

    def _open_stream(
        self, opened: OpenTenant, secret: Secret, version: Version, blob: Blob
    ) -> tuple[RangeFile, StreamOpener]:
        with opened.blob_keys.unwrap(secret.id, version.number, self._attachment(opened, version)) as data_key:
            return self._place(opened.uid, blob.file).open(data_key, blob.size)

    def _place(self, uid: bytes, file: bytes) -> BlobPlace:
        return BlobPlace(self.ledger.store, self.ledger.vault_id, uid, file)

    def _track(self, uid: bytes, stream: BlobReader | BlobWriter) -> None:
        streams = self._streams.setdefault(uid, set())
        streams -= {one for one in streams if one.ended}
        streams.add(stream)
