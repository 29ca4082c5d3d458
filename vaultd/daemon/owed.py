"""What a halted daemon owes to the record: kept outside the journal, recorded when the vault is opened again.

Stopping harm does not wait for a disk: on a halted vault it is done in memory, and what was done, by whom and when is
appended, sealed, to a file in the vault's directory, or beside the socket where that takes nothing. Nobody waits for a
flush of it: a dying disk may hang there for good. The next unsealing records it before anything else.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from typing import TYPE_CHECKING, Final

from vaultd.audit.body import Actor, Event
from vaultd.crypto.memory import Key
from vaultd.vault.owed import MAX_SIZE, Debt, Header, Writer, read

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vaultd.audit.receipt import Receipt
    from vaultd.vault.barrier import Barrier

__all__ = ["Owed"]

_log = logging.getLogger(__name__)

_VAULTD: Final = Actor("system")

MOST: Final = 8_192
"""Debts that are kept; a halted daemon has little left to stop after so many."""

MOST_OF_OTHERS: Final = 4_096
"""Of these, such as neither an admin nor a responder made: who ends much of its own leaves room for them."""

_FRESH: Final = 16
"""Anchors that may have been written between the halt and the opening that settles it: by the flush that failed, and by
openings that were interrupted. A file from longer ago was put back by somebody."""


class Owed:
    """See the module.

    Args:
        paths: where it is kept; the first that takes it does.
        random: source of a halt's id.
        wrote: called with each path after it was changed.
    """

    def __init__(
        self, paths: Sequence[str], random: Callable[[int], bytes], wrote: Callable[[str], None] = lambda _: None
    ) -> None:
        self._paths = tuple(paths)
        self._random = random
        self._wrote = wrote
        self._key: Key | None = None
        self._barrier: Barrier | None = None
        self._writer: Writer | None = None
        self._data = bytearray()
        self._count = self._others = 0
        self._dropped = self._said = False
        self._file: int | None = None
        self._path = ""
        self._written = 0  # bytes of the data that the file has
        self._flusher = _Flusher()
        self._staged: deque[tuple[Receipt, Debt]] = deque()  # harm was stopped, and the record of it is not durable yet
        self._unsettled: list[Debt] = []  # read from a file, and not on the record yet
        self.last = True
        """Whether what was owed last is in a file."""

    @property
    def kept(self) -> bool:
        """Whether everything that is owed is in a file."""
        return not self._dropped and self._written == len(self._data)

    # -- owing

    def staged(self, receipt: Receipt, debt: Debt) -> None:
        """Harm was stopped, and its record staged: owed if that flush fails."""
        while self._staged and self._staged[0][0].durable:
            self._staged.popleft()
        self._staged.append((receipt, debt))

    def halted(self, wall: int, cause: str) -> None:
        """A flush has failed: from now on things are owed, those of that flush first."""
        if self._writer is not None or self._key is None:
            return  # sealed, nothing of anybody's is open, and nothing is left to be stopped
        event = Event("vault.halted", "failed", _VAULTD, reason="a durable write failed", public={"cause": cause})
        self.owe(Debt(event, wall))

    def owe(self, debt: Debt) -> bool:
        """Keep a debt; whether a file has it."""
        people = debt.event.actor.kind in ("admin", "responder")
        full = self._count >= MOST or (not people and self._others >= MOST_OF_OTHERS)
        if self._key is None or self._barrier is None or full:
            return self._lost(debt)
        self._others += not people
        if self._writer is None:
            ledger = self._barrier.ledger
            self._writer = Writer(self._key, Header(ledger.vault_id, self._random(16), ledger.anchor.sequence))
            self._data += self._writer.header
            # What was staged may have reached the disk all the same: it may then stand twice.
            for earlier in (*self._unsettled, *(its for receipt, its in self._staged if not receipt.durable)):
                self._data += self._writer.entry(earlier)
                self._count += 1
        self._data += self._writer.entry(debt)
        self._count += 1
        self.last = self._save()
        if not self.last:
            self._say(debt)
        return self.last

    def _lost(self, debt: Debt) -> bool:
        self._say(debt)
        self._dropped, self.last = True, False
        return False

    def _say(self, debt: Debt) -> None:
        if not self._said:
            self._said = True
            _log.error(
                "nothing takes what is owed to the audit trail: %s, by uid %s, may be lost, and more",
                debt.event.kind,
                debt.event.actor.uid,
            )

    def _save(self) -> bool:
        """Have all of it in one file: the one there is, else the first place that takes it whole."""
        if not self._put() and not any(self._begin(path) for path in self._paths if path != self._path):
            return False
        self._flusher.flush(self._path)
        return True

    def _put(self) -> bool:
        """Append to the file what it has not got; what did not fit whole is taken back."""
        if self._file is None:
            return False
        rest = memoryview(self._data)[self._written :]
        try:
            if os.pwrite(self._file, rest, self._written) == len(rest):
                self._written = len(self._data)
                return True
            os.ftruncate(self._file, self._written)
        except OSError as error:
            _log.warning("what is owed cannot be kept at %s: %s", self._path, error.strerror)
        finally:
            rest.release()
            self._wrote(self._path)
        return False

    def _begin(self, path: str) -> bool:
        """Put everything at `path`, in place of where it was so far."""
        before = self._file, self._path, self._written
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            self._file, self._path, self._written = os.open(path, flags, 0o600), path, 0
        except OSError as error:
            _log.warning("what is owed cannot be kept at %s: %s", path, error.strerror)
            return False
        if self._put():
            if before[0] is not None:
                os.close(before[0])
                self._unlink(before[1])
            return True
        self._close_file()
        self._unlink(path)
        self._file, self._path, self._written = before
        return False

    def _close_file(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def close(self) -> None:
        """Wipe the key: the vault is sealed, and no more can be owed."""
        self._close_file()
        if self._key is not None:
            self._key.wipe()
        self._key = self._barrier = self._writer = None

    # -- settling

    def settle(self, barrier: Barrier) -> frozenset[str]:
        """Record what an earlier daemon owed, and make it durable; from now on things may be owed again.

        Returns:
            The runs that it had ended.

        Raises:
            Halted, StoreError: it cannot be recorded; it stays owed.
        """
        self.close()
        self._data.clear()
        self._staged.clear()
        self._count = self._others = self._written = 0
        self._path, self._dropped, self._said, self.last = "", False, False, True
        # A copy: what is done while the vault is being sealed is owed when its keys are gone.
        self._key, self._barrier = Key.copy_of(barrier.ledger.owed_key), barrier
        found = [data for path in self._paths if (data := _read(path)) is not None]
        ended: set[str] = set()
        for data in found:
            ended |= self._settle_file(barrier, data)
        if found:
            barrier.ledger.flush()  # no flush is under way while a vault is unsealed
            self._unsettled = []
            self._clear()
        return frozenset(ended)

    def _settle_file(self, barrier: Barrier, data: bytes) -> set[str]:
        ledger = barrier.ledger
        header, debts, whole = read(data, ledger.vault_id, ledger.owed_key)
        fresh = header is not None and 0 <= ledger.found_anchor - header.anchor <= _FRESH
        self._unsettled += debts
        for debt in debts:
            entry = ledger.keyring.entry(debt.trail) if debt.trail is not None else None
            event = debt.late(verified=fresh)
            if fresh and debt.seals and entry is not None and not entry.deleted:
                barrier.seal_tenant(entry.uid, actor=debt.event.actor, event=event)
            else:
                ledger.stage(event, tenant=entry.uid if entry is not None else None)
        if not whole:
            _log.error("what a halted daemon owed to the audit trail cannot be read, or not to its end")
            reason = "what a halted daemon owed cannot be read to its end"
            ledger.stage(Event("vault.halted", "failed", _VAULTD, reason=reason, public={"read": len(debts)}))
        return {run for debt in debts for run in debt.ended}

    def _clear(self) -> None:
        for path in self._paths:
            self._unlink(path)

    def _unlink(self, path: str) -> None:
        try:
            os.unlink(path)
        except FileNotFoundError:
            return
        except OSError as error:
            _log.error("%s cannot be removed, and would be recorded again: %s", path, error.strerror)
        self._wrote(path)


def _read(path: str) -> bytes | None:
    """What lies there; empty when it cannot be read or is no file of its kind."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        _log.error("what was left at %s cannot be read: %s", path, error.strerror)
        return b""
    try:
        # `open` refuses a directory, which somebody may have put there, and leaves the descriptor to us.
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(MAX_SIZE) or b""
    except OSError as error:
        _log.error("what was left at %s cannot be read: %s", path, error.strerror)
        return b""
    finally:
        os.close(descriptor)


class _Flusher:
    """Flushes a file as far as the disk does it: in one thread at a time, which nobody waits for."""

    def __init__(self) -> None:
        self._wanted = ""
        self._lock = threading.Lock()
        self._busy = False

    def flush(self, path: str) -> None:
        """Have what was written to `path` so far flushed."""
        with self._lock:
            self._wanted = path
            if self._busy:
                return
            self._busy = True
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            with self._lock:
                path, self._wanted = self._wanted, ""
                if not path:
                    self._busy = False
                    return
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
                try:
                    os.fdatasync(descriptor)
                finally:
                    os.close(descriptor)
            except OSError as error:
                _log.warning("what is owed may be lost with the power: %s: %s", path, error.strerror)
