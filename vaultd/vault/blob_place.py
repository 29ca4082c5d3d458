"""Where one blob is, on the disk and in its associated data; and how much room those on their way take."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from vaultd.crypto.blobkeys import stream_context
from vaultd.crypto.primitives import does_not_open
from vaultd.crypto.stream import HEADER, StreamOpener, StreamSealer
from vaultd.errors import IntegrityError, NotFound
from vaultd.vault.allowance import too_many_bytes
from vaultd.vault.commit import blob_path, blobs_path

if TYPE_CHECKING:
    from vaultd.crypto.memory import Key
    from vaultd.store import NewFile, RangeFile, Store

__all__ = ["BlobPlace", "Room", "Share"]


class BlobPlace:
    """One blob's place. Everything here may be called from any thread.

    Args:
        store: the vault directory.
        vault_id: 16 bytes.
        uid: its tenant's, 16 bytes.
        file: its random id, 16 bytes.
    """

    def __init__(self, store: Store, vault_id: bytes, uid: bytes, file: bytes) -> None:
        self.file = file
        self.path = blob_path(uid, file)
        self._store = store
        self._directory = blobs_path(uid)
        self._context = stream_context(vault_id, uid, file)

    def begin(self) -> NewFile:
        """The file, to be written in pieces."""
        self._store.mkdir(self._directory, exist_ok=True)
        return self._store.begin(self.path)

    def remove(self) -> None:
        """Remove the file, if it is there."""
        self._store.remove(self.path, missing_ok=True)

    def sealer(self, data_key: Key) -> StreamSealer:
        """What seals its chunks; `data_key` is for this blob alone, and stays the caller's."""
        return StreamSealer(data_key, self._context, self.file)

    def open(self, data_key: Key, size: int) -> tuple[RangeFile, StreamOpener]:
        """Open the file, and hold that its header and length are those of this blob.

        Args:
            data_key: unwrapped; stays the caller's.
            size: of its content, as the record says.

        Raises:
            IntegrityError: it is gone, cut, or another.
            FormatVersion: a newer version wrote it.
        """
        try:
            file = self._store.ranges(self.path)
        except NotFound:
            raise IntegrityError("the file of this version is gone", "restore the vault from a backup") from None
        try:
            header = bytearray(HEADER)
            count = file.read_into(0, header)
            opener = StreamOpener(data_key, self._context, self.file, bytes(header[:count]), size)
        except BaseException:
            file.close()
            raise
        if file.size != opener.layout.total:
            file.close()
            opener.wipe()
            raise does_not_open()
        return file, opener


class Room:
    """Bytes that a tenant's unfinished blobs take: they are on the disk, and in no state yet."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.taken = 0


class Share:
    """What one unfinished blob takes of its tenant's room. Used by one thread at a time, beside others of the tenant.

    Args:
        room: the tenant's.
        spare: bytes that the tenant may add, as of the beginning; None for any number. `check_value` has the last word.
        cap: what the error names.
    """

    def __init__(self, room: Room, spare: int | None, cap: int | None) -> None:
        self._room = room
        self._spare = spare
        self._cap = cap
        self._mine = 0

    def grow(self, size: int) -> None:
        """Take `size` bytes in all. Raises `QuotaExceeded`, and then takes no more than before."""
        room = self._room
        with room.lock:
            if self._spare is not None and room.taken - self._mine + size > self._spare:
                raise too_many_bytes(self._cap or 0)
            room.taken += size - self._mine
            self._mine = size

    def release(self) -> None:
        """Give everything back."""
        with self._room.lock:
            self._room.taken -= self._mine
            self._mine = 0
