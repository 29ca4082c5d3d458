"""Runs that outlive the daemon: what is kept of them in the vault, and how they come back.

A run is kept with the record of its opening, in the line that vouches for both, so that nothing has to be flushed
twice; it is dropped with the record of its end. After a restart, when the vault is unsealed, each run's anchor is
identified again: the runs of those that live go on, the others are ended and recorded then. Leases are not kept: who
held one takes it anew.

Uses are kept with each acquisition under a grant (or in a run) that bounds them, so that no crash gives any back; what
is only counted for people is kept when the daemon stops in order.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

from vaultd.access.kept import Confined, Used, kept_run, parents_first, restored_run
from vaultd.audit.body import Actor, Event
from vaultd.daemon.processes import boot_id, number_is_anothers, reidentify, sessions
from vaultd.errors import Invalid

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from vaultd.access.facts import Process
    from vaultd.access.grants import Grant
    from vaultd.access.instants import Now
    from vaultd.access.leases import Lease
    from vaultd.access.run import Run
    from vaultd.audit.receipt import Receipt
    from vaultd.daemon.engine import Engine
    from vaultd.daemon.lastword import LastWord
    from vaultd.daemon.processes import HeldProcess
    from vaultd.vault.barrier import Barrier

__all__ = ["KeptRuns", "Restored"]

_log = logging.getLogger(__name__)

_VAULTD = Actor("system")


class Restored(NamedTuple):
    """What became of the kept runs: how many go on, and how many have ended while nobody watched."""

    runs: int
    ended: int


class KeptRuns:
    """Keeps the engine's runs in the vault and brings them back."""

    def __init__(self, engine: Engine, word: LastWord) -> None:
        self._engine = engine
        self._word = word
        self._boot = boot_id()
        self._counted: dict[str, Run] = {}  # whose uses have changed since they were kept
        self._confined: dict[str, Process] = {}  # those that are kept; one that has ended goes with the next record
        self._inhabited: set[int] | None = None  # sessions that anybody is in, looked up once while restoring

    # -- keeping

    def record(
        self,
        event: Event,
        uid: bytes | None,
        keep: Iterable[Run],
        ended: Iterable[Run],
        charged: Iterable[Run] = (),
    ) -> Receipt | None:
        """Record an event, and in the same line keep runs, what others have used, and drop those that have ended.

        Returns:
            None when nothing of that is kept, or can be: then the event is still to be recorded.

        Raises:
            Halted: nothing can be recorded any more.
        """
        barrier = self._engine.vaults.barrier
        if barrier is None or barrier.sealed:
            return None
        whole = [run for run in keep if run.live and not run.implicit]
        kept = [kept_run(run, self._boot, self._held(run)) for run in whole]
        used = [run for run in charged if run.live and not run.implicit]
        kept += [Used.kept(run, self._held(run)) for run in used]
        dropped = [Used.id_of(run.id) for run in whole]
        for run in ended:
            if not run.implicit:
                dropped += [run.id, Used.id_of(run.id)]
                kept += self._still_confined(run)
        if not kept and not any(one in barrier.runs() for one in dropped):
            return None
        free = [one for one, process in self._confined.items() if not self._engine.book.runs.still_confines(process)]
        receipt = barrier.keep_runs(event, tenant=uid, keep=kept, drop=[*dropped, *free])
        for gone in free:
            del self._confined[gone]
        for run in (*whole, *used):
            self._counted.pop(run.id, None)
        return receipt

    def _held(self, run: Run) -> list[tuple[bytes, int]]:
        leases = self._engine.book.leases.of_run(run, self._engine.now())
        return [(lease.secret_id, lease.version) for lease in leases]

    def _still_confined(self, run: Run) -> list[dict[str, Any]]:
        if run.confined and self._engine.book.runs.still_confines(run.anchor):
            confined = Confined(run.anchor._replace(boot_id=self._boot), run.opener_uid)
            self._confined[confined.id] = run.anchor
            return [confined.to_dict()]
        return []

    def charged(self, run: Run, grant: Grant | None) -> tuple[Run, ...]:
        """A run was charged an acquisition: whose use is to be kept with the record of it."""
        if run.implicit:
            return ()
        lineage = tuple(run.lineage())  # all of them were charged
        if (grant is None or grant.max_uses is None) and all(one.scope.max_uses is None for one in lineage):
            self._counted.update((one.id, one) for one in lineage)
            return ()
        return lineage

    def let_go(self, leases: Iterable[Lease]) -> tuple[Run, ...]:
        """Leases were revoked or released: the live runs that would be kept as holding them still."""
        barrier = self._engine.vaults.barrier
        if barrier is None or barrier.sealed:
            return ()
        runs = {lease.run.id: lease.run for lease in leases if lease.run.live}
        kept = barrier.runs()
        # What a run held is kept with what it has used, and before its first use with the run.
        return tuple(
            run for one, run in runs.items() if Used.id_of(one) in kept or (one in kept and kept[one].get("held"))
        )

    def ended(self, run: Run) -> None:
        """A run has ended; its record drops it."""
        self._counted.pop(run.id, None)

    def leave_word(self) -> None:
        """Nothing can be recorded any more: say where the next daemon looks which runs live, and no others."""
        runs = self._engine.book.runs.all(self._engine.now())
        if not self._word.leave(run.id for run in runs if not run.implicit):
            _log.error("runs that end from now on may go on after a restart: end their processes")

    def keep_counts(self) -> None:
        """Keep what was counted since: the daemon is stopping, and the last request was answered."""
        counted = [run for run in self._counted.values() if run.live]
        if counted and self._engine.vaults.state == "unsealed":
            self.record(Event("run.kept", "ok", _VAULTD, total=len(counted)), None, (), (), counted)

    # -- coming back

    def restore(self, stopped: Collection[str] = ()) -> Restored:
        """Take the kept runs over from the vault that was just unsealed; those that are over end here, on the record.

        Args:
            stopped: runs that a halted daemon had ended, by what it owed to the record.

        Raises:
            Halted: their ends cannot be recorded.
        """
        engine = self._engine
        barrier, now = engine.unsealed(), engine.now()
        over: dict[tuple[bytes | None, str], list[str]] = {}
        confined: list[dict[str, Any]] = []
        runs = 0
        self._inhabited = None
        living = self._word.read()
        ends: dict[str, tuple[bytes | None, str]] = {}  # of runs that are over: what ends with them shares the record
        for kept, raw in parents_first(barrier.runs()):
            try:
                if Used.names(kept):
                    if Used.from_dict(raw).run not in barrier.runs():
                        over.setdefault((None, "malformed"), []).append(kept)
                    continue
                if Confined.names(kept):
                    found = Confined.from_dict(raw)
                    if not self._confine(found):
                        over.setdefault((None, "process"), []).append(kept)
                    continue
                run = restored_run(raw)
                if (used := barrier.runs().get(Used.id_of(run.id))) is not None:
                    Used.from_dict(used).give_to(run)
            except Invalid as error:
                _log.error("%s: it is dropped", error.message)
                over.setdefault((None, "malformed"), []).append(kept)
                continue
            if engine.book.runs.get(run.id, now) is not None:
                continue
            held, reason = self._identify(run.anchor)
            reason = reason or self._why_over(barrier, run, now)
            if run.parent is not None:
                reason = self._why_orphaned(run, run.parent, ends, now) or reason
            if run.id in stopped or (living is not None and run.id not in living):
                reason = "ended-unrecorded"  # by a verb that stops harm: this is the record that was owed
            if held is not None and not reason:
                run.anchor = run.anchor._replace(boot_id="")
                engine.book.runs.restore(run)
                engine.watch_anchor(run, held)
                runs += 1
                continue
            if held is not None:
                held.close()
            if run.confined:
                stays = Confined(run.anchor, run.opener_uid)
                if self._confine(stays):
                    confined.append(stays.to_dict())
            trail = run.tenant if barrier.ledger.keyring.entry(run.tenant) is not None else None
            ends[run.id] = trail, reason
            over.setdefault(ends[run.id], []).append(run.id)
        ended = self._record_ends(barrier, over, confined)
        if runs or ended:
            _log.info("%d runs go on, %d have ended meanwhile", runs, ended)
            engine.record(Event("run.restored", "ok", _VAULTD, total=runs))
        if living is not None:
            barrier.ledger.flush()  # no flush is under way while a vault is unsealed
            self._word.clear()
        engine.schedule()
        return Restored(runs, ended)

    def _identify(self, anchor: Process) -> tuple[HeldProcess | None, str]:
        """Hold the process, or say in a constant word why not; the word is empty when it is held."""
        if anchor.boot_id != self._boot:
            return None, "rebooted"  # and the run's deadline is of another clock
        try:
            held = reidentify(anchor, self._engine.kernel)
        except OSError as error:  # out of descriptors, say: what cannot be watched must not go on
            _log.error("a process of a kept run cannot be identified: %s", error.strerror)
            return None, "not-identified"
        return held, "" if held is not None else "anchor-died"

    def _why_over(self, barrier: Barrier, run: Run, now: Now) -> str:
        """Why the kept run of a process that lives does not go on; empty when it does."""
        entry = barrier.ledger.keyring.entry(run.tenant)
        if now.boot >= run.expires:
            return "expired"
        if entry is None or entry.deleted:
            return "tenant-deleted"
        if run.tenant in barrier.system.sealed:
            return "tenant-sealed"
        if self._engine.services.get(run.service) is None:
            return "service-removed"
        return ""

    def _why_orphaned(self, run: Run, parent_id: str, ends: Mapping[str, tuple[bytes | None, str]], now: Now) -> str:
        """Why a child run is over with its parent, for whatever reason that is; empty when its parent goes on."""
        if parent_id in ends:
            return ends[parent_id][1]
        parent = self._engine.book.runs.get(parent_id, now)
        if parent is None:
            return "parent-ended"  # on an earlier record, which did not come to its children
        return "" if parent.allows_child(run.scope, run.expires) else "malformed"

    def _confine(self, found: Confined) -> bool:
        """Confine a process again, or whom it left in its session; False when nobody is left."""
        held, reason = self._identify(found.process)
        if reason == "rebooted":
            return False
        process = found.process._replace(boot_id="")
        self._confined.pop(found.id, None)
        runs = self._engine.book.runs
        if held is not None or reason == "not-identified":
            runs.confine(process, found.opener_uid)  # for longer than it lives, when it cannot be watched
            if held is not None and not self._engine.watch_confined(process, held):
                held.close()
            self._confined[found.id] = process
            return True
        if process.session != process.pid or number_is_anothers(process):
            return False
        if self._inhabited is None:
            self._inhabited = sessions()
        if process.session not in self._inhabited:
            return False
        runs.left_by(process)
        self._confined[found.id] = process
        return True

    def _record_ends(
        self,
        barrier: Barrier,
        over: Mapping[tuple[bytes | None, str], list[str]],
        confined: Iterable[dict[str, Any]],
    ) -> int:
        """Record the ends, one record a tenant and reason, and drop what has ended. Returns how many runs that is."""
        ended, keep = 0, list(confined)
        anew = {one["id"] for one in keep}  # a number that came to another process, which is confined as well
        for (uid, reason), ids in over.items():
            if reason == "process":
                event = Event("run.unconfined", "ok", _VAULTD, total=len(ids))
            else:
                ended += len(ids)
                event = Event(
                    "run.ended", "ok", _VAULTD, reason=reason, run=ids[0] if len(ids) == 1 else None,
                    extra={"runs": ids[:256], "ended": len(ids)},
                )  # fmt: skip
            gone = [*(one for one in ids if one not in anew), *map(Used.id_of, ids)]
            barrier.keep_runs(event, tenant=uid, keep=keep, drop=gone)
            keep = []
        return ended
