"""The vault's files as the daemon holds them: not there yet, or open; and when a flush is not under way.

The daemon serves before there is a vault: `vaultctl init` makes one beside it, and the next `status` or `unseal` finds
it.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

from vaultd.audit.segments import UNBOUNDED, SegmentLimits
from vaultd.crypto.kdf import FLOOR
from vaultd.errors import Halted, Internal, Uninitialised, VaultdError
from vaultd.store import RESERVE, DirectoryStore, NotedStore, Reserve, out_of_space
from vaultd.vault.allowance import UNLIMITED, Allowance
from vaultd.vault.barrier import Barrier

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaultd.clock import Clock
    from vaultd.crypto.kdf import Profile
    from vaultd.vault.ledger import Ledger

__all__ = ["VaultHolder"]

_log = logging.getLogger(__name__)


def _nothing() -> None:
    """Nobody asked to be told."""


class VaultHolder:
    """Implements `dispatch.Committer` over a vault that may come later.

    Args:
        directory: of the vault.
        clock: dates records.
        random: source of ids and salts.
        minimum: the least Argon2id cost of a slot; lower only in tests, which pass it here.
    """

    def __init__(
        self, directory: str, clock: Clock, random: Callable[[int], bytes], *, minimum: Profile = FLOOR
    ) -> None:
        self._directory = directory
        self._clock = clock
        self._random = random
        self._minimum = minimum
        self.store: NotedStore | None = None
        self.on_open: Callable[[NotedStore], None] | None = None
        """Called when a vault that was not there at start has been opened."""
        self.barrier: Barrier | None = None
        self._allowance = UNLIMITED
        self._segments = UNBOUNDED
        self._complaint = ""
        self._flying = False
        self._flights = 0
        self._landed: list[Callable[[], None]] = []
        self.on_halt: Callable[[], None] = _nothing
        """Called when a flush has failed, before anybody is answered."""
        self._halt_seen = False
        self.reserve = Reserve(directory, 0, lambda: self.wrote(os.path.join(directory, RESERVE)))
        """Space for what is to be recorded when the disk is full."""
        self.followers: set[Callable[[], None]] = set()
        """Called whenever records have become durable: those who follow a trail."""

    def open(self) -> None:
        """Open the vault if there is one.

        Raises:
            ConfigError, Locked, StoreError: the directory cannot be used.
            IntegrityError, FormatVersion: what is in it cannot.
        """
        if self.barrier is not None or not os.path.lexists(os.path.join(self._directory, "keyring")):
            return
        store = NotedStore(DirectoryStore(self._directory))
        try:
            self.barrier = Barrier.open(store, self._clock, minimum=self._minimum, random=self._random)
        except BaseException:
            store.close()
            raise
        self.barrier.allowance = self._allowance
        self.barrier.ledger.journal.limits = self._segments
        self.store = store
        self.reserve.hold()
        if self.on_open is not None:
            self.on_open(store)
        _log.debug("vault %s is open, sealed", self.barrier.ledger.vault_id.hex())

    def allow(self, allowance: Allowance) -> None:
        """Hold each tenant to these caps from now on, also in a vault that is made later."""
        self._allowance = allowance
        if self.barrier is not None:
            self.barrier.allowance = allowance

    def segment(self, limits: SegmentLimits) -> None:
        """Begin another segment of the journal when one has had this, also in a vault that is made later."""
        self._segments = limits
        if self.barrier is not None:
            self.barrier.ledger.journal.limits = limits

    def keep_free(self, size: int) -> None:
        """Keep so many bytes of the disk in reserve, as long as the vault is not halted."""
        self.reserve.size = size
        if self.barrier is not None and not self.halted:
            self.reserve.hold()

    def wrote(self, path: str) -> None:
        """A file that is not the store's was changed by ourselves: nobody need be told of it."""
        if self.store is not None and os.path.dirname(path) == self._directory:
            self.store.note(os.path.basename(path))

    def look(self) -> None:
        """Open the vault if one was made meanwhile; what is wrong with it is logged and leaves things as they are."""
        if self.barrier is None:
            try:
                self.open()
            except Uninitialised:
                return
            except VaultdError as error:
                if error.message != self._complaint:  # anybody may ask for the status, as often as they like
                    _log.warning("there is a vault that cannot be opened: %s", error.message)
                self._complaint = error.message

    def close(self) -> None:
        """Flush, drop every key, let go of the directory."""
        barrier, self.barrier = self.barrier, None
        try:
            if barrier is not None:
                barrier.close()
        finally:
            if self.store is not None:
                self.store.close()
                self.store = None

    @property
    def ledger(self) -> Ledger | None:
        """The vault's ledger, if there is a vault."""
        return self.barrier.ledger if self.barrier is not None else None

    def require(self) -> Barrier:
        """The vault, sealed or not. Raises `Uninitialised`."""
        if self.barrier is None:
            raise Uninitialised("there is no vault yet", "make one: vaultctl init")
        return self.barrier

    @property
    def state(self) -> str:
        """`uninitialised`, `sealed`, `unsealed` or `halted`."""
        return self.barrier.ledger.state if self.barrier is not None else "uninitialised"

    def tick(self) -> None:
        """Let the anchor follow the journal, when only reads happened; and take space back that is there again."""
        if self.barrier is not None and not self.notice_halt():
            self.barrier.ledger.tick()
            self.reserve.hold()

    def notice_halt(self) -> bool:
        """Whether the vault is halted; the first to ask makes room, and has it said what is owed from now on."""
        ledger = self.ledger
        if ledger is None or not ledger.halted:
            return False
        if not self._halt_seen:
            self._halt_seen = True
            if out_of_space(ledger.failure):
                self.reserve.release()
            self.on_halt()
        return True

    def evolve(self) -> None:
        """Let an epoch of the audit's forward seal end."""
        if self.barrier is not None:
            self.barrier.ledger.evolve()

    @property
    def unflushed(self) -> bool:
        """Whether anything is staged, or being written."""
        return self._flying or self.dirty

    @property
    def flight(self) -> int | None:
        """The number of the flush that is under way; None when there is none."""
        return self._flights if self._flying else None

    # -- dispatch.Committer

    @property
    def dirty(self) -> bool:
        """Whether anything is staged and not taken. A halted vault takes nothing any more, whatever is staged."""
        ledger = self.ledger
        return ledger is not None and not ledger.halted and ledger.dirty

    @property
    def halted(self) -> bool:
        """Whether a flush failed, of the dispatcher's or one of the vault's own."""
        ledger = self.ledger
        return ledger is not None and ledger.halted

    def take(self) -> Any:
        """The next batch of what is staged: a change of the keyring ends one."""
        ledger = self.ledger
        batch = ledger.take() if ledger is not None else None
        self._flying = batch is not None
        self._flights += self._flying
        return batch

    def write(self, batch: Any) -> None:
        """Make a batch durable; in the flush thread."""
        if self.barrier is None:
            raise Internal("a batch outlived its vault")
        self.barrier.ledger.write(batch)

    def finish(self, batch: Any, error: BaseException | None) -> object:
        """Back in the event loop: acknowledge the batch or halt; then what waited for the flush to end."""
        ledger = self.require().ledger
        self._flying = False
        if error is not None:
            _log.error("a flush failed, the vault is halted: %s", error)
        ledger.finish(batch, error)
        self.notice_halt()
        waiting, self._landed = self._landed, []
        for callback in (*waiting, *self.followers):
            callback()
        if error is None:
            return None
        return Halted("a durable write failed; nothing is released or changed", "make room, then restart vaultd")

    def when_landed(self, callback: Callable[[], None]) -> None:
        """Call back when no flush is under way: now, or as the one under way ends. Callbacks may flush inline."""
        if self._flying:
            self._landed.append(callback)
        else:
            callback()
