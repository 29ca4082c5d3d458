"""What every verb of the barrier rests on: the ledger, the open tenants, and the one way in which a change is made."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from vaultd.audit.body import Actor, Event
from vaultd.errors import Closed, ConfigError, FormatVersion, Halted, IntegrityError, NotFound, Sealed, StoreError
from vaultd.vault.allowance import UNLIMITED
from vaultd.vault.commit import blob_path, blobs_path
from vaultd.vault.entries import open_name
from vaultd.vault.keyring import SYSTEM
from vaultd.vault.system import SystemState
from vaultd.vault.tenant import OpenTenant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from vaultd.audit.receipt import Receipt
    from vaultd.errors import VaultdError
    from vaultd.vault.blob_place import Room
    from vaultd.vault.keyring import Entry
    from vaultd.vault.ledger import Ledger
    from vaultd.vault.log import Ref, SealedLog
    from vaultd.vault.streams import Stream
    from vaultd.vault.tenant import Wanted

__all__ = ["OURSELVES", "Core"]

OURSELVES: Final = Actor("system")
"""The actor of what the vault does by itself."""

_BLOB_NAME: Final = re.compile(r"[0-9a-f]{32}")
_RESTORE: Final = "restore this tenant from a backup; the others are not affected"


class Core:
    """The state that the barrier's verbs share. Belongs to the thread that decides.

    Args:
        ledger: open and sealed.
        random: `random(n)` gives n random bytes: the source of ids.

    Attributes:
        ledger: for flushing, ticking and the audit trail's own verbs.
        system: services, links, sealed flags and runs; empty while sealed. To be read only.
        allowance: what each tenant may keep; may be set at any time.
    """

    def __init__(self, ledger: Ledger, random: Callable[[int], bytes]) -> None:
        self.ledger = ledger
        self.system = SystemState()
        self.allowance = UNLIMITED
        self._random = random
        self._tenants: dict[bytes, OpenTenant] = {}
        self._closed: dict[bytes, str] = {}
        self._under_way: set[bytes] = set()
        self._streams: dict[bytes, set[Stream]] = {}  # by tenant: blobs that are being written or read
        self._rooms: dict[bytes, Room] = {}
        self._compacted = 0  # bytes that the last compaction of the system's log left
        self._carried: list[dict[str, Any]] | None = None  # system records made while its log is being compacted

    @property
    def sealed(self) -> bool:
        """Whether no key is in memory."""
        return self.ledger.state == "sealed"

    def now(self) -> int:
        """Wall time in nanoseconds that never runs back: what an expiry or the end of a grace is measured with."""
        return self.ledger.now()

    def uid(self, tenant: str | bytes) -> bytes:
        """The uid of a tenant given by name or uid.

        Raises:
            Sealed: the vault is.
            NotFound: there is no such tenant.
        """
        if isinstance(tenant, str):
            found = self.ledger.find(tenant)
            if found is not None:
                return found
        else:
            entry = self.ledger.keyring.entry(tenant)
            if entry is not None and tenant != SYSTEM and not entry.deleted:
                return tenant
        raise NotFound("there is no such tenant", "see: vaultctl tenant list")

    def tenant(self, tenant: str | bytes) -> OpenTenant:
        """An open tenant, read from its files at its first use.

        Raises:
            NotFound: there is no such tenant.
            Sealed: the vault or this tenant is.
            Closed: its files do not verify.
            StoreError: its files cannot be read.
        """
        # By uid first: an open tenant is one that exists, and this is on the way of every lease several times.
        found = self._tenants.get(tenant) if isinstance(tenant, bytes) else None
        if found is not None:
            return found
        uid = self.uid(tenant)
        found = self._tenants.get(uid)
        if found is not None:
            return found
        if uid in self.system.sealed:
            raise Sealed("the tenant is sealed", "vaultctl unseal TENANT")
        if uid in self._closed:
            raise Closed(self._closed[uid], _RESTORE)
        return self._open(uid)

    def name(self, uid: bytes) -> str:
        """What people call the tenant, a deleted one included; raises `NotFound`."""
        opened = self._tenants.get(uid)
        if opened is not None:
            return opened.name
        return open_name(self.ledger.vault_id, self._entry(uid), self.ledger.system_log.keys.record)

    def record(self, event: Event, tenant: str | bytes | None = None) -> Receipt:
        """Stage an audit record that goes with no change: in the tenant's trail, or with None in the system's.

        Raises:
            Halted: nothing can be recorded any more, so nothing may be answered.
        """
        return self.ledger.stage(event, tenant=None if tenant is None else self.uid(tenant))

    def _entry(self, uid: bytes) -> Entry:
        entry = self.ledger.keyring.entry(uid)
        if entry is None or uid == SYSTEM:
            raise NotFound("there is no such tenant", "see: vaultctl tenant list")
        return entry

    def _open(self, uid: bytes) -> OpenTenant:
        try:
            log, records = self.ledger.open_log(uid)
            try:
                opened = OpenTenant(self.ledger.vault_id, uid, self.name(uid), log)
                opened.replay(records)
            except BaseException:
                self.ledger.close_log(uid)
                raise
        except (Closed, IntegrityError, FormatVersion) as error:
            raise self._shut(uid, error.message) from error
        self._tenants[uid] = opened
        self._sweep(opened)
        return opened

    def _sweep(self, opened: OpenTenant) -> None:
        """Remove what a crash left of blobs: unfinished files, and whole ones that no record names."""
        if self.ledger.halted:  # then nothing is changed; the next opening will
            return
        store, path = self.ledger.store, blobs_path(opened.uid)
        try:
            names = store.list(path)
            unfinished = store.tidy(path)
        except NotFound:
            return
        except (ConfigError, StoreError) as error:
            # What is in there says nothing of the tenant's other secrets; whoever reads a blob gets the error.
            public = {"uid": opened.uid.hex()}
            self.ledger.stage(Event("blobs.swept", "failed", OURSELVES, reason=error.code, public=public))
            return
        known = {file.hex() for file in opened.state.files(opened.state.by_id)}
        unnamed = [name for name in names if _BLOB_NAME.fullmatch(name) and name not in known]
        if unfinished or unnamed:
            found = {"uid": opened.uid.hex(), "unfinished": unfinished, "unnamed": len(unnamed)}
            self.ledger.stage(Event("blobs.swept", "ok", OURSELVES, public=found))
            # With the flush, not now: what lets go of them may itself not be durable yet.
            self.ledger.unlink_later([f"{path}/{name}" for name in unnamed])

    def _let_go(self, uid: bytes, gone: set[bytes]) -> None:
        """Have blobs removed that no version names any more since the change that was staged last."""
        self.ledger.unlink_later([blob_path(uid, file) for file in sorted(gone)])
        for stream in [one for one in self._streams.get(uid, ()) if one.file in gone]:
            stream.end(NotFound("the version was destroyed meanwhile", "see: vaultctl history TENANT SECRET"))

    def _end_streams(self, uid: bytes, error: VaultdError) -> None:
        """Nothing more is read from or written to a tenant's blobs, whose keys go."""
        self._rooms.pop(uid, None)  # who is still in there counts in it, and no longer matters
        for stream in self._streams.pop(uid, set()):
            stream.end(error)

    def _shut(self, uid: bytes, reason: str) -> Closed:
        """Keep a tenant closed whose files do not verify: the others serve on. Returns the error to raise."""
        self._forget(uid)
        self._closed[uid] = reason
        with suppress(Halted):  # then nothing is recorded any more, and the tenant is closed all the same
            self.ledger.stage(Event("tenant.closed", "failed", OURSELVES, reason=reason), tenant=uid)
        return Closed(reason, _RESTORE)

    def _forget(self, uid: bytes) -> None:
        """Drop a tenant's keys and all that was read of it."""
        self._end_streams(uid, Sealed("the tenant's keys were dropped meanwhile", "unseal it, and begin anew"))
        if self._tenants.pop(uid, None) is not None:
            self.ledger.close_log(uid)

    def _change(
        self,
        event: Event,
        opened: OpenTenant | None = None,
        records: Iterable[Wanted] = (),
        system: Sequence[dict[str, Any]] = (),
        trail: bytes | None = None,
    ) -> Receipt:
        """Change a tenant, the system's state, or both as one: the line that vouches for the records makes them one.

        Args:
            trail: whose trail the event belongs to, if there is no `opened`; the system's when left out.

        Raises:
            Halted: a flush failed before; nothing is changed.
        """
        staged: list[tuple[dict[str, Any], Ref]] = []
        logs: list[SealedLog] = []
        try:
            if opened is not None:
                logs.append(opened.log)
                staged += [(wanted.header, opened.log.stage(*wanted)) for wanted in records]
            if system:
                logs.append(self.ledger.system_log)
                for header in system:
                    self.ledger.system_log.stage(header)
            receipt = self.ledger.stage(event, logs=logs, tenant=trail if opened is None else opened.uid)
        except BaseException:
            for log in logs:
                log.unstage()
            raise
        # Only now: whatever could refuse the change has not.
        if opened is not None:
            ids = {header["id"] for header, _ in staged if header.get("id") in opened.state.by_id}
            before = opened.state.files(ids)
            for header, ref in staged:
                opened.apply(header, ref)
            # A file is shared within one secret only, so no other can still name it.
            gone = before - opened.state.files(ids)
            if gone:
                self._let_go(opened.uid, gone)
        for header in system:
            self.system.apply(header)
            if self._carried is not None:
                self._carried.append(header)
        return receipt
