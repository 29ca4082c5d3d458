"""From staged to durable: what is staged gathers in an open batch, is closed, written, and then acknowledged.

One thread stages, takes and finishes; `write` may run in another, one batch at a time. A batch that holds a change of
the keyring ends with it: a change of a log that came later in the batch would be half there if the commit never came.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from vaultd.audit.chain import Vouch
from vaultd.errors import Conflict, Halted, Internal, VaultdError
from vaultd.vault.commit import Batch, Write
from vaultd.vault.vouching import vouch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vaultd.audit.base import Base
    from vaultd.audit.body import Event
    from vaultd.audit.domain import Domain
    from vaultd.audit.journal import Journal, Position
    from vaultd.audit.receipt import Receipt
    from vaultd.audit.trail import Trail
    from vaultd.vault.commit import Committer
    from vaultd.vault.heads import Heads
    from vaultd.vault.log import SealedLog
    from vaultd.vault.recovery import RecoveryReport
    from vaultd.vault.sealer import Sealer
    from vaultd.vault.unsealed import UnsealedKeys

__all__ = ["SNAPSHOT_LINES", "Pipeline"]

SNAPSHOT_LINES: Final = 4096
"""Journal lines between two heads snapshots, at least: what a crash makes the next opening read."""


class Pipeline:
    """The batches of one open vault.

    Args:
        trail: where events become lines.
        heads: kept up to date with what is staged.
        position: where the journal goes on.
        now: wall time for the anchor.
        report: how much of the journal is not yet in a snapshot, or anchored.
        sealer: makes the forward seal's tags; None for a journal that is not sealed forward.
        snapshot_lines: see `SNAPSHOT_LINES`.

    Attributes:
        keys: what authenticates anchors and vouching; None while the vault is sealed. Set by the ledger.
        halted: a flush failed; nothing can be staged or flushed any more.
        failure: why, if it was a batch that failed.
        landed: called with each batch that became durable.
    """

    def __init__(
        self,
        journal: Journal,
        trail: Trail,
        committer: Committer,
        heads: Heads,
        position: Position,
        now: Callable[[], int],
        report: RecoveryReport,
        snapshot_lines: int = SNAPSHOT_LINES,
        sealer: Sealer | None = None,
    ) -> None:
        self.keys: UnsealedKeys | None = None
        self.halted = False
        self.failure: BaseException | None = None
        self.landed: Callable[[Batch], None] = _nothing
        self.open = Batch()
        self._journal = journal
        self._trail = trail
        self._committer = committer
        self._heads = heads
        self._position = position
        self._now = now
        self._snapshot_lines = snapshot_lines
        self.sealer = sealer
        self._since_snapshot = report.replayed
        self._since_anchor = report.unanchored
        self._closed: deque[Batch] = deque()
        self._flying: Batch | None = None

    @property
    def dirty(self) -> bool:
        """Whether a flush would have something to do."""
        sealing = self.sealer is not None and self.sealer.dirty
        return bool(self._closed or self._journal.pending or self.open.anchors or sealing)

    def require_running(self) -> None:
        """Raise `Halted` after a failed flush."""
        if self.halted:
            raise Halted(
                "a durable write failed, so nothing is released or changed", "repair the cause, then restart vaultd"
            )

    def require_landed(self) -> None:
        """Raise `Conflict` while a batch is being written."""
        if self._flying is not None:
            raise Conflict("a flush is under way", "wait for it")

    def record(
        self, event: Event, domain: Domain, logs: Sequence[SealedLog] = (), *, revision: int | None = None
    ) -> Receipt:
        """Stage one line, which vouches for everything staged in `logs`.

        Args:
            revision: of the keyring as of this line; None for a line that changes neither a log nor the keyring.
        """
        for log in logs:
            # Before there is a line that vouches: from then on nothing may fail. And here, because only this thread
            # opens files.
            if log.file.born:
                log.file.open()
        claim: Sequence[Vouch] = ()
        if revision is not None:
            if self.keys is None:
                raise Internal("a change was staged while the vault is sealed")
            heads = [Vouch(log.uid, *log.head) for log in logs]
            journal, vault_id = self._journal, self._heads.vault_id
            claim = vouch(self.keys.vouching, vault_id, journal.seq + 1, journal.head, revision, heads)
        elif logs:
            raise Internal("a change was staged without the keyring's revision")
        receipt = self._trail.record(event, domain, claim)
        self._heads.set_trail(domain.uid, domain.sub_seq, domain.sub_head)
        self._since_snapshot += 1
        self._since_anchor += 1
        for log in logs:
            self._write_later(log)
        if claim:
            # An acknowledged change is always anchored: from then on nobody with the disk can take it back unseen.
            self.open.anchors = 1
        return receipt

    def _write_later(self, log: SealedLog) -> None:
        start, records = log.vouch()
        self._heads.set_head(log.uid, log.head)
        write = self.open.writes.get(log.file)
        if write is None:
            write = self.open.writes[log.file] = Write(log.uid, log.file, start, [])
        write.data.extend(records)

    def before_log_change(self) -> None:
        """To be called before a line that vouches for logs of the present keyring is staged."""
        if self.open.keyring is not None:
            self.shut()

    def prune(self, base: Base) -> None:
        """Have the open batch take off the journal what `base` says; with a snapshot, which must not lie in that."""
        self.open.base, self.open.anchors = base, max(self.open.anchors, 1)
        if self.sealer is not None:
            self.sealer.due = True  # the seal's state is held against the newest tag line, which must be one that stays

    def want_anchor(self, *, at_rest: bool = False) -> None:
        """Anchor the reads that are not, with the next flush; or, if nothing happened, the time that has passed."""
        if self._since_anchor or at_rest:
            self.open.anchors = max(self.open.anchors, 1)

    def rest(self) -> None:
        """Leave both anchors and the heads snapshot at the very end, so that the next opening has nothing to replay."""
        self.flush()
        if self.sealer is not None:
            self.sealer.settle()
        self.open.anchors = 2
        self._since_snapshot = max(self._since_snapshot, self._snapshot_due)
        self.flush()

    def settle(self) -> None:
        """Write everything staged, and leave no line without a tag."""
        self.flush()
        if self.sealer is not None:
            self.sealer.settle()
            self.flush()

    @property
    def _snapshot_due(self) -> int:
        # With more domains a snapshot costs more, so it is taken less often: its cost per line stays the same.
        return max(self._snapshot_lines, len(self._heads))

    def shut(self) -> None:
        """Close the open batch: nothing is added to it any more."""
        batch, self.open = self.open, Batch()
        if self.sealer is not None:
            if self.sealer.end_batch():
                self._since_snapshot += 1
                self._since_anchor += 1
            batch.seal, batch.tag = self.sealer.take(), self.sealer.chain.tag_seq
        # Not while sealed: the anchor must say that there is another segment before a line of it is written.
        closing = self.keys is not None and self._journal.full(self._now())
        batch.lines = self._journal.take(closing=closing)
        if closing:
            self._trail.forget_sessions()  # pruning takes whole segments, and with one no other's session keys
            batch.anchors = 2  # one that is behind the next segment's lines could not take over from a damaged one
        if batch.lines is not None:
            self._position = batch.lines.end
        batch.end = self._position
        batch.wall = self._now()
        if self.keys is not None:
            batch.root = self.keys.root_keys
        if self.keys is not None and (self._since_snapshot >= self._snapshot_due or batch.base is not None):
            # Encoded now: a moment later the rows know of lines that are not in this batch.
            batch.heads = self._heads.encode(batch.end)
            batch.anchors = max(batch.anchors, 1)
            self._since_snapshot = 0
        if batch.anchors:
            self._since_anchor = 0
        self._closed.append(batch)

    def take(self) -> Batch | None:
        """The next batch to write; None when there is none, or one is being written. Raises `Halted`."""
        self.require_running()
        if self._flying is not None:
            return None
        if not self._closed:
            if not self.dirty:
                return None
            self.shut()
        self._flying = self._closed.popleft()
        return self._flying

    def write(self, batch: Batch) -> None:
        """Make a batch durable; may run in another thread. Raises what went wrong, and halts."""
        self.require_running()
        try:
            self._committer.write(batch)
        except BaseException as error:
            self.halted, self.failure = True, error
            raise

    def finish(self, batch: Batch, error: BaseException | None = None) -> None:
        """Take in how `write` ended: receipts become durable, or the vault is halted."""
        if batch is not self._flying:
            raise Internal("a batch was finished that is not being written")
        self._flying = None
        if error is not None or self.halted:
            self.halted = True
            return
        for write in batch.writes.values():
            write.file.settle(write.end)
            if not write.file.clean:
                # It was made by this batch, and the next one appends to it: opened here, by the thread that decides,
                # so that the one that writes never opens it at the same time. If it cannot be, that batch will say so.
                with suppress(VaultdError):
                    write.file.open()
        if batch.lines is not None:
            for receipt in batch.lines.receipts:
                receipt.mark_durable()
        for call in batch.after:
            call()
        self.landed(batch)

    def flush(self) -> None:
        """Write everything staged, here and now.

        Raises:
            Conflict: a batch is being written in another thread.
            StoreError: the disk refused; the vault is halted.
        """
        self.require_landed()
        while (batch := self.take()) is not None:
            try:
                self.write(batch)
            except BaseException as error:
                self.finish(batch, error)
                raise
            self.finish(batch)


def _nothing(_: Batch) -> None:
    """Until the ledger says what is to happen."""
