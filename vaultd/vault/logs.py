"""Which domains' logs are open, and the files behind them.

A log is what the keys make readable; its file is what a flush writes. The file outlives the log's closing for as long
as something staged waits for a flush: it is sealed already and needs no key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vaultd.crypto.hierarchy import TenantKeys
from vaultd.errors import Closed, IntegrityError, Internal, NotFound
from vaultd.vault import entries
from vaultd.vault.commit import log_path
from vaultd.vault.heads import NO_RECORD, Head
from vaultd.vault.keyring import SYSTEM
from vaultd.vault.log import Handles, LogFile, Ref, SealedLog

if TYPE_CHECKING:
    from vaultd.crypto.hierarchy import RootKeys
    from vaultd.crypto.memory import Key
    from vaultd.store import Store
    from vaultd.vault.commit import Batch
    from vaultd.vault.keyring import Entry

__all__ = ["LogTable", "Records"]

Records = list[tuple[dict[str, Any], Ref]]
"""Every record's header, and where its attachment lies."""


class LogTable:
    """The open logs of one vault. Belongs to the thread that decides."""

    def __init__(self, store: Store, vault_id: bytes) -> None:
        self._vault_id = vault_id
        self._handles = Handles(store)
        self._logs: dict[bytes, SealedLog] = {}
        self._files: dict[bytes, LogFile] = {}

    def get(self, uid: bytes) -> SealedLog | None:
        """A domain's log, if it is open."""
        return self._logs.get(uid)

    def open(self, entry: Entry, root: RootKeys, head: Head) -> tuple[SealedLog, Records, int]:
        """Open a domain's log, verified up to `head`; what stands behind it was never acknowledged, and is cut.

        Returns:
            The log, its records, and how many bytes were cut.

        Raises:
            Closed: the log does not verify. `IntegrityError` for the system's.
        """
        uid = entry.uid
        if uid in self._logs:
            raise Internal("the log is open already")
        with entries.tenant_key(self._vault_id, entry, root) as key:
            keys = TenantKeys(key)
        try:
            log, records, end = self._verified(entry, keys, head)
            cut = log.cut(end) if log.size > end else 0
        except BaseException as error:
            keys.wipe()
            if not isinstance(error, (IntegrityError, NotFound)):
                raise
            if uid == SYSTEM:
                raise IntegrityError(f"the system's log does not verify: {error.message}", error.hint) from error
            raise Closed(
                "this tenant's log does not verify, so the tenant stays closed", "restore the tenant from a backup"
            ) from error
        self._logs[uid], self._files[uid] = log, log.file
        return log, records, cut

    def _verified(self, entry: Entry, keys: TenantKeys, head: Head) -> tuple[SealedLog, Records, int]:
        if head.generation != entry.generation:
            raise IntegrityError("the journal vouches for no log of this generation")
        file = self._files.get(entry.uid)
        if file is None:
            file = self._handles.found(log_path(entry.uid, entry.generation))
        log = SealedLog(self._vault_id, entry.uid, keys, file, head)
        records, end = log.scan()
        return log, records, end

    def new(self, uid: bytes, generation: int, tenant_key: Key) -> SealedLog:
        """A log that is not there yet, and not open until `put`."""
        file = LogFile(self._handles, log_path(uid, generation))
        return SealedLog(self._vault_id, uid, TenantKeys(tenant_key), file, Head(generation, 0, NO_RECORD))

    def put(self, log: SealedLog, batch: Batch) -> None:
        """Open a new log in place of what its domain had; that stays readable until `batch` is durable."""
        self._retire(log.uid, batch)
        self._logs[log.uid], self._files[log.uid] = log, log.file

    def drop(self, uid: bytes, batch: Batch) -> None:
        """A domain goes; its log stays readable until `batch` is durable."""
        self._retire(uid, batch)
        self._logs.pop(uid, None)
        self._files.pop(uid, None)

    def _retire(self, uid: bytes, batch: Batch) -> None:
        log = self._logs.get(uid)
        if log is not None:
            batch.after += [log.close, log.file.close]

    def close(self, uid: bytes) -> None:
        """Wipe a log's keys and close it."""
        log = self._logs.pop(uid, None)
        if log is not None:
            log.close()
            self._release(uid)

    def close_all(self) -> None:
        """Wipe every log's keys."""
        for uid in list(self._logs):
            self.close(uid)

    def landed(self, batch: Batch) -> None:
        """A batch became durable: files that only waited for it are let go."""
        for write in batch.writes.values():
            self._release(write.uid)

    def _release(self, uid: bytes) -> None:
        file = self._files.get(uid)
        if file is not None and file.clean and uid not in self._logs:
            file.close()
            del self._files[uid]

    def close_files(self) -> None:
        """Let go of every descriptor."""
        for file in self._files.values():
            file.close()
