"""The one order in which changes become durable.

A batch is everything that one flush writes: bytes that no longer change, so that it may be written in a thread of its
own while the next batch is staged. `FORMAT.md` has the order as a table, with what a crash at each point leaves.

    1  keyring.next, whole and flushed
    2  new logs, whole and flushed; records appended to the others, each flushed
    3  journal lines appended, the journal flushed: they vouch for the records of step 2; then the forward seal's state
    4  the keyring: an anchor that names its new hash (the commit point), the rename, old files removed
    5  the heads snapshot, if one is due
    6  the anchor
    7  blobs that nothing names any more, removed
    8  pruning: what the journal is to begin after, two anchors that say so (the commit point), old segments removed

Step 3 makes the next segment's file, empty, when a batch ends one; no line is written there before step 6 says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, NamedTuple

from vaultd.audit.base import hash_of
from vaultd.audit.segments import base_path, segment_path
from vaultd.errors import Internal
from vaultd.vault import heads
from vaultd.vault.anchor import NO_BASE, SLOTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vaultd.audit.base import Base
    from vaultd.audit.journal import Batch as Lines
    from vaultd.audit.journal import Journal, Position
    from vaultd.crypto.hierarchy import RootKeys
    from vaultd.crypto.memory import Key
    from vaultd.store import SlotFile, Store
    from vaultd.vault.anchor import Anchor
    from vaultd.vault.keyring import Keyring
    from vaultd.vault.log import LogFile
    from vaultd.vault.sealer import SealWrite

__all__ = [
    "KEYRING",
    "KEYRING_NEXT",
    "STATE",
    "Batch",
    "Committer",
    "Drop",
    "Write",
    "blob_path",
    "blobs_path",
    "heads_path",
    "log_path",
    "tenant_path",
]

KEYRING: Final = "keyring"
KEYRING_NEXT: Final = "keyring.next"
STATE: Final = "state"
_SYSTEM: Final = bytes(16)


def tenant_path(uid: bytes) -> str:
    """The directory of a domain."""
    return "system" if uid == _SYSTEM else f"tenants/{uid.hex()}"


def log_path(uid: bytes, generation: int) -> str:
    """The log of a domain."""
    return f"{tenant_path(uid)}/log.{generation}"


def blobs_path(uid: bytes) -> str:
    """The directory of a tenant's blobs; not there before the first one."""
    return f"{tenant_path(uid)}/blobs"


def blob_path(uid: bytes, file: bytes) -> str:
    """One blob."""
    return f"{blobs_path(uid)}/{file.hex()}"


def heads_path(number: int) -> str:
    """The heads snapshot of that number: two files take turns, so that the one in force is never overwritten."""
    return f"heads.{number % 2}"


class Drop(NamedTuple):
    """Files that a new keyring no longer names: one generation's log, or a tenant's whole directory."""

    uid: bytes
    generation: int | None = None


class Write(NamedTuple):
    """Bytes for one log, at the offset that staging gave them."""

    uid: bytes
    file: LogFile
    offset: int
    data: list[bytes]

    @property
    def end(self) -> int:
        return self.offset + sum(map(len, self.data))


@dataclass(slots=True)
class Batch:
    """What one flush writes. Closed, it does not change any more.

    Attributes:
        root: the keys that authenticate the anchor and the keyring; None while the vault is sealed.
        wall: the highest wall time seen, for the anchor.
        lines: the journal's part.
        seal: the forward seal's state as of the lines, if it changed.
        tag: sequence number of its newest tag line, for the anchor.
        end: where the journal stands after it.
        writes: per log, what is appended or, for a log that is not there yet, its whole content.
        keyring: the new keyring, if it changes.
        drop: files that the new keyring no longer names.
        heads: the encoded snapshot of all heads at `end`, if one is due.
        base: what the journal begins after from now on, if segments go.
        anchors: how many anchors end the batch: 0 for reads, 1 for changes, 2 when the vault is put to rest.
        unlink: blobs that no record names any more once the lines are durable.
        after: what the thread that decides does once the batch is durable, such as wiping keys that are replaced.
    """

    root: RootKeys | None = None
    wall: int = 0
    lines: Lines | None = None
    seal: SealWrite | None = None
    tag: int = 0
    end: Position | None = None
    writes: dict[LogFile, Write] = field(default_factory=dict)
    keyring: Keyring | None = None
    drop: list[Drop] = field(default_factory=list)
    heads: bytes | None = None
    base: Base | None = None
    anchors: int = 0
    unlink: list[str] = field(default_factory=list)
    after: list[Callable[[], None]] = field(default_factory=list)


class Committer:
    """Writes batches. One thread at a time; after any error it must not be used again.

    Args:
        anchor: the newest one on the disk.
        snapshot: up to where in the journal the heads snapshot that it names is true.
        seal: number of the chain that the journal is sealed forward with, 0 for none.
    """

    def __init__(
        self, store: Store, journal: Journal, state: SlotFile, anchor: Anchor, snapshot: Position, seal: int = 0
    ) -> None:
        self.anchor = anchor
        self.seal = seal
        self.snapshot = snapshot
        self._store = store
        self._journal = journal
        self._state = state

    def swept(self) -> None:
        """Nothing is left of earlier keyrings: the next anchor need not say so any more."""
        self.anchor = replace(self.anchor, pending=False)

    def write(self, batch: Batch) -> None:
        """Make `batch` durable, in the one order. Whatever this raises, the batch must not be acknowledged."""
        keyring_hash = self._prepare(batch)
        self._append(batch.writes.values())
        # After the records that the lines vouch for: a line on the disk whose record is not looks like tampering.
        if batch.lines is not None:
            self._journal.write(batch.lines)
        # After the tag is durable: until then the key that it was made with must be where a crash leaves it.
        if batch.seal is not None:
            batch.seal.write()
        if keyring_hash is not None:
            self._switch(batch, keyring_hash)
        if batch.heads is not None:
            self._snapshot(batch)
        for _ in range(batch.anchors):
            self._put(batch, self.anchor)
        # Last of all: as long as the line that lets go of them may be lost, something names them. `missing_ok`: their
        # tenant may have been deleted in the same batch.
        for path in batch.unlink:
            self._store.remove(path, missing_ok=True)
        if batch.base is not None:
            self._prune(batch, batch.base)

    def _prepare(self, batch: Batch) -> bytes | None:
        """Lay out what the keyring's change will put in force. Returns the new keyring's hash."""
        if batch.keyring is None:
            return None
        data, digest = batch.keyring.encode(_key(batch))
        # First of all: as long as it is there, recovery looks for files that belong to no keyring.
        self._store.replace(KEYRING_NEXT, data)
        return digest

    def _append(self, writes: Iterable[Write]) -> None:
        dirty = []
        for write in writes:
            data = b"".join(write.data)
            if not write.file.born:
                # Whole and flushed in one step. `replace`: an abandoned change may have left a file of this name.
                directory = write.file.path.rpartition("/")[0]
                self._store.mkdir(directory, exist_ok=True)
                self._store.replace(write.file.path, data)
                continue
            file = write.file.open()
            if file.size != write.offset:
                raise Internal("a log is not as long as staging knew it")
            file.append(data)
            dirty.append(file)
        # All appends before the first flush: the kernel may then write them together.
        for file in dirty:
            file.flush()

    def _switch(self, batch: Batch, keyring_hash: bytes) -> None:
        # From this write on the new keyring is the one in force, wherever it lies.
        self._put(batch, replace(self.anchor, keyring=keyring_hash, pending=True))
        self._store.rename(KEYRING_NEXT, KEYRING)
        for drop in batch.drop:
            if drop.generation is None:
                self._store.remove_tree(tenant_path(drop.uid), missing_ok=True)
            else:
                self._store.remove(log_path(drop.uid, drop.generation), missing_ok=True)
        # Only now: until then recovery must look for what was to be removed.
        self._put(batch, replace(self.anchor, pending=False))

    def _snapshot(self, batch: Batch) -> None:
        # Into the file that the newest anchor does not name. The slot beside it may still name that file, but it is
        # the one that the next anchor overwrites: if that write is torn, the newest takes over, not this one.
        number = self.anchor.heads_file + 1
        encoded = batch.heads or b""
        self._store.replace(heads_path(number), encoded)
        self.anchor = replace(self.anchor, heads_file=number, heads=heads.hash_of(encoded))
        self.snapshot = _end(batch)

    def _prune(self, batch: Batch, base: Base) -> None:
        before, data = self.anchor, base.encode()
        self._store.replace(base_path(base.segment), data)
        anchor = replace(before, first=base.segment, base=hash_of(data))
        for _ in range(SLOTS):  # both slots: one that speaks of segments that are gone could not take over
            self._put(batch, anchor)
        # From here on recovery removes what is left of them.
        for segment in range(before.first, base.segment):
            self._store.remove(segment_path(segment))
        if before.base != NO_BASE:
            self._store.remove(base_path(before.first))

    def _put(self, batch: Batch, anchor: Anchor) -> None:
        """Write the anchor that follows, as of the end of `batch`."""
        anchor = replace(
            anchor,
            sequence=self.anchor.sequence + 1,
            wall=max(batch.wall, self.anchor.wall),
            position=_end(batch),
            seal=self.seal,
            tag=max(batch.tag, self.anchor.tag),
        )
        self._state.write(anchor.slot, anchor.encode(_key(batch)))
        self.anchor = anchor


def _end(batch: Batch) -> Position:
    if batch.end is None:
        raise Internal("a batch was written before it was closed")
    return batch.end


def _key(batch: Batch) -> Key:
    if batch.root is None:
        raise Internal("the anchor was to be written while the vault is sealed")
    return batch.root.anchor
