"""The verbs on the audit trail that need a key: reading a trail, and signing a checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaultd.audit.checkpoint import Checkpoint, issue
from vaultd.audit.domain import SYSTEM_UID
from vaultd.audit.reader import Bookmark, TrailReader
from vaultd.errors import NotFound
from vaultd.vault import entries
from vaultd.vault.core import Core

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vaultd.audit.reader import Record

__all__ = ["TrailVerbs"]


class TrailVerbs(Core):
    """See the module. All raise `Sealed` while the vault is."""

    def trail_uid(self, tenant: str | bytes | None) -> bytes:
        """Whose trail is meant: the system's for None; a deleted tenant's is found by its uid.

        Raises:
            NotFound: there is no such trail.
        """
        if tenant is None:
            return SYSTEM_UID
        if isinstance(tenant, str):
            return self.uid(tenant)
        if self.ledger.keyring.entry(tenant) is None:
            raise NotFound("there is no such tenant", "see: vaultctl tenant list")
        return tenant

    def beginning(self, uid: bytes) -> Bookmark:
        """Where a trail begins: before its first record, or before the first that was not pruned."""
        return Bookmark(self.ledger.base.begin.place, *self.ledger.base.trail(uid))

    def trail(self, uid: bytes, start: Bookmark | None = None) -> Iterator[Record | None]:
        """The records of one trail that are durable now; None where the caller may let others have the processor.

        Reading a trail is itself to be recorded in it, before this is called.

        Args:
            uid: from `trail_uid`.
            start: where to begin; at the beginning when left out. For following a trail, keep a `TrailReader` of
                `trail_reader` instead.

        Raises:
            IntegrityError: a record does not open, or does not follow from the one before it.
        """
        reader = self.trail_reader(uid, start)
        try:
            yield from self.trail_more(reader)
        finally:
            reader.close()

    def trail_reader(self, uid: bytes, start: Bookmark | None = None) -> TrailReader:
        """A reader of one trail, for `trail_more`; the caller closes it. Raises `NotFound`."""
        entry = self.ledger.keyring.entry(uid)
        if entry is None:
            raise NotFound("there is no such tenant", "see: vaultctl tenant list")
        private = entries.audit_private(self.ledger.vault_id, entry, self.ledger.root_keys)
        return TrailReader(self.ledger.vault_id, uid, entry.audit_public, private, start or self.beginning(uid))

    def trail_more(self, reader: TrailReader) -> Iterator[Record | None]:
        """What has become durable since the reader's last record.

        Raises:
            Unavailable: what comes next was pruned.
        """
        return reader.records(self.ledger.journal.raw_from(reader.place))

    def checkpoint(self) -> str:
        """A signed statement of the journal's size and head as they are on the disk; to be kept elsewhere."""
        ledger = self.ledger
        durable = ledger.journal.durable
        said = Checkpoint(ledger.vault_id, durable.seq, durable.head, self.now())
        keyring = ledger.keyring
        with entries.open_checkpoint_seed(ledger.vault_id, ledger.root_keys, keyring.wrapped_checkpoint) as seed:
            return issue(said, seed, keyring.checkpoint_public)
