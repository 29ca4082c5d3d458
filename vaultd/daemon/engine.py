"""The daemon's upper half: everything that lives as long as the daemon does, and what happens by itself.

Requests come in through `handle`, one at a time; `ops` says what each does. What happens without a request (a process
ends, a lease runs out, a minute is over) is here too. All of it runs in the event loop; only deriving a slot's key and
flushing run in threads of their own.
"""

from __future__ import annotations

import asyncio
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

from vaultd.access.book import Book, Ended
from vaultd.access.denials import denied
from vaultd.access.grants import GrantTable
from vaultd.access.instants import Now
from vaultd.access.quotas import Limits as LiveLimits
from vaultd.access.quotas import Tally
from vaultd.access.services import Service, ServiceTable
from vaultd.access.throttle import FailureDelays, Rate, Throttle
from vaultd.access.tickets import TicketTable
from vaultd.audit.body import Actor, Event
from vaultd.audit.segments import SegmentLimits
from vaultd.crypto.kdf import RFC_9106_LOW, Profile
from vaultd.daemon import zones
from vaultd.daemon.call import Call
from vaultd.daemon.confinement import Confinement
from vaultd.daemon.kept import KeptRuns
from vaultd.daemon.lastword import LastWord
from vaultd.daemon.owed import Owed
from vaultd.daemon.parcels import Parcel, Rooms
from vaultd.daemon.pushes import Pushes
from vaultd.daemon.readers import Readers
from vaultd.daemon.refusals import Refusals
from vaultd.daemon.streams import Streams
from vaultd.daemon.uploads import Uploads
from vaultd.daemon.workers import Workers
from vaultd.errors import Halted, NotFound, Sealed, Uninitialised, VaultdError
from vaultd.vault.allowance import Allowance
from vaultd.vault.owed import Debt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vaultd.access.facts import Process
    from vaultd.access.leases import Lease
    from vaultd.access.run import Run
    from vaultd.access.tickets import Ticket
    from vaultd.audit.receipt import Receipt
    from vaultd.clock import Clock
    from vaultd.daemon.anchors import Watch
    from vaultd.daemon.config import AuditConfig, Config, Limits, LiveConfig
    from vaultd.daemon.connection import Connection
    from vaultd.daemon.handling import Deferred, Pending
    from vaultd.daemon.kernel import Kernel
    from vaultd.daemon.processes import HeldProcess, Lineage
    from vaultd.daemon.server import Server
    from vaultd.daemon.vaults import VaultHolder
    from vaultd.protocol.messages import Request
    from vaultd.vault.barrier import Barrier
    from vaultd.vault.rotation import Slices

__all__ = ["Context", "Engine"]

_log = logging.getLogger(__name__)

TICK_SECONDS: Final = 1.0

COMPACT_TICKS: Final = 10
"""Ticks between two looks for a log of which most is dead: one is compacted at a time, so no more often than this."""

MOST_UPLOADED: Final = 16 << 20
"""Bytes of unfinished uploads that one uid may have: sixteen of the largest values at once."""

_VAULTD: Final = Actor("system")

_STOPPING: Final = frozenset({"run.close", "lease.release", "lease.revoke"})
"""What a run may do of its own when nothing can be recorded any more: end things."""


class Context:
    """What the engine keeps with a connection."""

    __slots__ = ("actors", "lineage", "parcel_turn", "parcels", "upload")

    def __init__(self) -> None:
        self.actors: dict[tuple[str, str | None, int | None], Actor] = {}
        self.lineage: Lineage | None = None
        self.parcel_turn = asyncio.Lock()
        self.parcels: set[Parcel] = set()
        """Values that were opened for an answer which has not left."""
        self.upload: Any = None


class Engine:
    """Implements `dispatch.Handler`.

    Args:
        live: the configuration, re-read on SIGHUP and on change.
        vaults: opens the vault's files when they are there.
        kernel: for looking at processes.
        clock: dates and deadlines.
        random: source of ids and tokens.
        delays: after wrong slot secrets.
        profile: the Argon2id cost of new slots.
    """

    def __init__(
        self,
        live: LiveConfig,
        vaults: VaultHolder,
        *,
        kernel: Kernel,
        clock: Clock,
        random: Callable[[int], bytes],
        delays: FailureDelays | None = None,
        profile: Profile = RFC_9106_LOW,
    ) -> None:
        from vaultd.daemon.ops import TABLE  # here: the operations import this module for its types

        self._table = TABLE
        self.live = live
        self.vaults = vaults
        self.kernel = kernel
        self.clock = clock
        self.random = random
        self.delays = delays if delays is not None else FailureDelays()
        self.profile = profile
        self._anchored = 0
        limits = live.current.limits
        vaults.allow(_allowance(limits))
        vaults.segment(_segments(live.current.audit))
        vaults.keep_free(live.current.audit.reserve_bytes)
        self.book = Book(self._live_limits(), random)
        self.confinement = Confinement(self.book.runs, kernel)
        self.tickets = TicketTable(self._live_limits())
        self.services = ServiceTable()
        self.pushes = Pushes()
        rate = _rate(limits)
        self._throttle: Throttle[int] = Throttle(rate)
        self._tenant_throttle: Throttle[bytes] = Throttle(rate)
        self._share: Throttle[int] = Throttle(_share(rate))
        self.refusals = Refusals(self._record_quietly, live.current.audit.throttle_window_seconds * 10**9)
        self.derivations = 0
        self.deriving: dict[int, int] = {}
        self.uploads: Tally[int] = Tally(MOST_UPLOADED, "bytes of uploads")
        self.waiting: dict[int, Callable[[], None]] = {}
        """By uid, what gives up a try of a slot's secret that waits for its delay."""
        self.worker = ThreadPoolExecutor(1, "argon2id")
        self.workers = Workers()
        self.blob_uploads = Uploads(self.workers)
        self.streams = Streams(self.workers, clock.boot)
        self.rooms = Rooms()
        self.tasks: set[asyncio.Task[None]] = set()
        self.readers = Readers()
        self.surroundings: list[str] = []
        """What is wrong around the daemon, for `status`: said once, by whoever looked at start."""
        self.notices: dict[str, str] = {}
        """What went wrong since, for `status`, by what it is about."""
        self._grants: dict[bytes, GrantTable] = {}
        self._anchors: dict[str, Watch] = {}
        self._confined: dict[Process, Watch] = {}
        config = live.current
        living, owed = ((os.path.join(config.dir, name), f"{config.socket}.{name}") for name in ("living", "owed"))
        self.kept = KeptRuns(self, LastWord(living, vaults.wrote))
        self.owed = Owed(owed, random, vaults.wrote)
        vaults.on_halt = self._halted
        self._holders: dict[str, Watch] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._alarm = 0
        """Boot instant (ns) for which the timer is set."""
        self._tick_timer: asyncio.TimerHandle | None = None
        self._ticks = 0
        self.server: Server
        self._loop: asyncio.AbstractEventLoop

    def start(self, server: Server) -> None:
        """Begin: the server is about to accept."""
        self.server = server
        self._loop = asyncio.get_running_loop()
        self._tick_timer = self._loop.call_later(TICK_SECONDS, self._tick)

    def stop(self) -> None:
        """Nothing is decided any more: drop the timers, write what was only counted."""
        for timer in (self._timer, self._tick_timer):
            if timer is not None:
                timer.cancel()
        for task in self.tasks:
            task.cancel()
        for give_up in self.waiting.values():
            give_up()
        self.refusals.drain()
        self.blob_uploads.drop_all()
        self.streams.end_all()
        self.worker.shutdown(wait=True, cancel_futures=True)

    def close(self) -> None:
        """Everything was answered: end what worked for it."""
        self.workers.close()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that everything here runs in."""
        return self._loop

    @property
    def config(self) -> Config:
        """The configuration as of now."""
        return self.live.current

    def _live_limits(self) -> LiveLimits:
        limits = self.live.current.limits
        return LiveLimits(runs_per_uid=limits.runs_per_uid, leases_per_uid=limits.leases_per_uid)

    # -- dispatch.Handler

    def connected(self, connection: Connection) -> None:
        """A peer was attested."""
        connection.context = Context()

    def disconnected(self, connection: Connection) -> None:
        """A peer is gone: its upload is wiped, its subscription ends. Its runs end with its process, not with this."""
        context: Context = connection.context
        if context.upload is not None:
            context.upload.wipe()
            context.upload = None
        while context.parcels:
            context.parcels.pop().close()
        self.streams.end_of(connection)
        self.pushes.drop(connection)

    def malformed(self, connection: Connection, message: str) -> None:  # noqa: ARG002  the interface's
        """A request had the wrong form; `message` may quote it, so it is not recorded."""
        self.refusals.count("malformed", connection.uid, self.clock.boot())

    def handle(self, connection: Connection, request: Request) -> Pending | Deferred:
        """Decide one request; see `dispatch.Handler`."""
        now = self.now()
        wait = self._throttle.take(connection.uid, now.boot)
        if wait:
            self.refusals.count("throttled", connection.uid, now.boot)
            self._throttle.check(connection.uid, now.boot)
        call = Call(self, connection, request, now)
        try:
            if request.run is not None:
                call.run = self._run_of(call, request.run)
                self._hold_tenant_rate(call)
            return self._table[request.op](call)
        except VaultdError as error:
            call.failed(error)
            if isinstance(error, NotFound) and not (call.is_admin or call.is_responder):
                # Whatever verb it came from: to know what is not there is to know what is.
                raise denied() from None
            raise

    def _run_of(self, call: Call, token: bytes) -> Run | None:
        if call.op == "run.claim":
            return None  # the token is of a run that the peer is not in yet: the verb itself looks at it
        if call.op in ("hello", "status"):
            return None  # these are the same for everybody, in a run whose time is up as well
        self.unsealed(stopping=call.op in _STOPPING)
        run = self.book.find_run(token, call.facts, call.now)
        if not self.anchor_lives(run):
            raise denied()
        return run

    def _hold_tenant_rate(self, call: Call) -> None:
        """Hold a run's request against its tenant's rate; what its uid has for itself is not.

        Otherwise one of a tenant's agents could send all that the tenant may, and every other would be refused.
        """
        if call.run is None or not self._share.take(call.facts.uid, call.now.boot):
            return
        if self._tenant_throttle.take(call.run.tenant, call.now.boot):
            self.refusals.count("throttled", call.facts.uid, call.now.boot)
            self._tenant_throttle.check(call.run.tenant, call.now.boot)

    # -- facts

    def now(self) -> Now:
        """This instant on both clocks; the wall never below the highest that the vault has seen."""
        ledger = self.vaults.ledger
        wall = self.clock.wall()
        return Now(self.clock.boot(), wall, ledger.wall if ledger is not None else 0)

    @property
    def admin_uids(self) -> frozenset[int]:
        """Uids that may become admins: the configuration's, else those of `init`."""
        if self.config.admin_uids is not None:
            return frozenset(self.config.admin_uids)
        ledger = self.vaults.ledger
        return frozenset(ledger.admin_uids) if ledger is not None else frozenset()

    def shared_uids(self) -> list[int]:
        """Uids whose services have grants at more than one tenant: their agents can read each other's memory."""
        tenants: dict[int, set[bytes]] = {}
        links = self.unsealed(stopping=True).system.links  # a halted vault's status is wanted most of all
        for service in self.services.all():
            if service.uid is not None:
                tenants.setdefault(service.uid, set()).update(links.get(service.name, ()))
        return sorted(uid for uid, uids in tenants.items() if len(uids) > 1)

    def unsealed(self, *, stopping: bool = False) -> Barrier:
        """The vault, when its keys are loaded.

        Args:
            stopping: the verb stops harm, which does not wait for a disk: a halted vault will do.

        Raises:
            Uninitialised: there is none.
            Sealed: its keys are not loaded.
            Halted: a durable write failed.
        """
        barrier = self.vaults.barrier
        if barrier is None:
            raise Uninitialised("there is no vault yet", "make one: vaultctl init")
        if self.vaults.state == "halted" and not stopping:
            raise Halted("a durable write failed; nothing is released or changed", "make room, then restart vaultd")
        if barrier.sealed:
            raise Sealed("the vault is sealed", "vaultctl unseal")
        return barrier

    def find_tenant(self, name: str) -> bytes | None:
        """The uid of the tenant of that name, if there is one; None while sealed."""
        barrier = self.vaults.barrier
        if barrier is None or barrier.sealed:
            return None
        return barrier.ledger.find(name)

    def grants(self, uid: bytes, *, stopping: bool = False) -> GrantTable:
        """A tenant's grants, parsed once and until they change. Raises what opening the tenant does, and `unsealed`."""
        barrier = self.unsealed(stopping=stopping)
        stored = barrier.grants(uid)  # also when cached: a tenant that was sealed since answers for itself
        table = self._grants.get(uid)
        if table is None:
            table = self._grants[uid] = GrantTable.from_dicts(stored.values(), load=zones.load)
        return table

    def forget_grants(self, uid: bytes) -> None:
        """The tenant's grants changed, or it is gone."""
        self._grants.pop(uid, None)

    def load_services(self) -> None:
        """Take the services over from the vault that was just unsealed."""
        self.notices.pop("unseal", None)
        self.services = ServiceTable(Service.from_dict(raw) for raw in self.unsealed().services().values())

    def actor(self, connection: Connection, kind: str, service: str | None, slot: int | None) -> Actor:
        """The actor of records about this connection in this role, made once."""
        key = (kind, service, slot)
        actors = connection.context.actors
        actor: Actor | None = actors.get(key)
        if actor is None:
            facts = connection.facts
            actor = actors[key] = Actor(
                kind,
                service=service,
                uid=facts.uid,
                gid=facts.gid,
                pid=facts.pid,
                pidfd_inode=facts.pidfd_inode,
                exe=facts.exe_path,
                cgroup=facts.cgroup,
                slot=slot,
            )
        return actor

    def ticket_of(self, call: Call) -> Ticket | None:
        """The admin ticket that the peer may use: of an admin's uid, not inside a run, of its session and lineage."""
        return None if call.run is not None else self.ticket_on(call.connection, call.now)

    def ticket_on(self, connection: Connection, now: Now) -> Ticket | None:
        """As `ticket_of`, for what goes on after a request: the ticket may have ended since."""
        facts = connection.facts
        if facts.uid not in self.admin_uids or not len(self.tickets) or self.is_inside_run(connection):
            return None
        ticket = self.tickets.find(facts, now)
        if ticket is None:
            ticket = self.tickets.find(facts, now, self.confinement.lineage(connection).processes)
        return ticket

    def is_inside_run(self, connection: Connection) -> bool:
        """Whether the peer is confined to a run, and gets what its run's token gives and nothing else."""
        return self.confinement.holds(connection)

    # -- records

    def record(
        self,
        event: Event,
        uid: bytes | None = None,
        *,
        keep: Iterable[Run] = (),
        charged: Iterable[Run] = (),
        ended: Iterable[Run] = (),
    ) -> Receipt:
        """Stage a record in a tenant's trail, or in the system's.

        Args:
            keep: runs that are kept over a restart with this record, anew or as they have become.
            charged: runs of which what they have used is.
            ended: runs whose end this is the record of.

        Raises:
            Uninitialised: there is no journal yet.
            Halted: nothing can be recorded any more.
        """
        ledger = self.vaults.ledger
        if ledger is None:
            raise Uninitialised("there is no vault yet", "make one: vaultctl init")
        kept = self.kept.record(event, uid, keep, ended, charged) if keep or ended or charged else None
        return kept if kept is not None else ledger.stage(event, tenant=uid)

    def has_trail(self, uid: bytes) -> bool:
        """Whether a tenant's trail can be written to now: not while the vault is sealed, nor once it is deleted."""
        ledger = self.vaults.ledger
        return ledger is not None and ledger.state == "unsealed" and ledger.keyring.entry(uid) is not None

    def _record_quietly(self, event: Event, uid: bytes | None) -> None:
        """A count: lost when there is no journal to write it to, as is every request that it counts."""
        ledger = self.vaults.ledger
        if ledger is None or ledger.halted:
            return
        if uid is not None and not self.has_trail(uid):
            uid = None  # sealed or deleted since: the count is kept where it can be
        ledger.stage(event, tenant=uid)
        self.commit_soon()

    def try_record(
        self, event: Event, uid: bytes | None = None, *, ended: Iterable[Run] = (), let_go: Iterable[Lease] = ()
    ) -> bool:
        """Record that harm was stopped; False when that cannot be recorded any more: then it is owed.

        Args:
            ended: runs whose end this is the record of.
            let_go: leases whose end it is: after a restart their runs may not take them anew.
        """
        debt = Debt(event, self.now().wall, uid, tuple(run.id for run in ended))
        try:
            receipt = self.record(event, uid, ended=ended, charged=self.kept.let_go(let_go))
        except Halted:
            self.owe(debt)
            return False
        except Uninitialised:
            return False
        self.owed.staged(receipt, debt)
        return True

    def owe(self, debt: Debt) -> None:
        """Nothing can be recorded any more: keep it for whoever opens the vault next."""
        self.vaults.notice_halt()
        self.owed.owe(debt)

    def _halted(self) -> None:
        ledger = self.vaults.ledger
        failure = ledger.failure if ledger is not None else None
        cause = failure.message if isinstance(failure, VaultdError) else type(failure).__name__
        self.owed.halted(self.now().wall, cause[:200])
        self.kept.leave_word()

    def reopened(self) -> None:
        """The vault was just unsealed: record what was owed before anything else, then go on where it was left."""
        ended = self.owed.settle(self.unsealed())
        self.load_services()
        self.kept.restore(ended)

    def commit_soon(self) -> None:
        """Have what is staged flushed although no request waits for it."""
        self.server.dispatcher.commit_soon()

    # -- runs and leases

    def watch_anchor(self, run: Run, process: HeldProcess) -> None:
        """End the run when `process`, taken over, ends."""
        before = self._anchors.pop(run.id, None)
        self._anchors[run.id] = self.server.watcher.watch(process, lambda: self._anchor_died(run.anchor))
        if before is not None:
            before.cancel()
        held = self._anchors[run.id].process
        if run.confined and held is not None:
            # Confinement outlives the run: who could end its run and be free of it would have more than the run gave.
            self.watch_confined(run.anchor, held)
        self.schedule()

    def watch_confined(self, process: Process, held: HeldProcess) -> bool:
        """Free a confined process when it has ended; takes `held`, the same one, over, or says that it did not."""
        if process in self._confined:
            return False
        self._confined[process] = self.server.watcher.watch(held, lambda: self._confined_died(process))
        return True

    def _confined_died(self, process: Process) -> None:
        self._confined.pop(process, None)
        self.book.runs.process_died(process)

    def _anchor_died(self, process: Process) -> None:
        self.ended(self.book.anchor_died(process), "anchor-died")
        self.commit_soon()

    def ended(self, ended: Ended, reason: str, *, quiet: bool = False) -> bool:
        """Runs or leases have ended: tell their holders, and record it, one record a tenant.

        Args:
            reason: a constant word.
            quiet: the request that ended them has its own record.

        Returns:
            Whether it is recorded, or need not be.
        """
        for lease in ended.leases:
            self.streams.end_of(lease)
            if reason != "released":
                self.pushes.lease_revoked(lease, reason)
        for run in ended.runs:  # after its leases: who listens to one run hears nothing any more once it has ended
            self.kept.ended(run)
            watch = self._anchors.pop(run.id, None)
            if watch is not None:
                watch.cancel()
            self.pushes.run_ended(run, reason)
        if ended.runs and self.vaults.state == "halted":
            self.kept.leave_word()
        recorded = True
        if not quiet and ended.runs:
            for uid in {run.tenant for run in ended.runs}:
                theirs = [run for run in ended.runs if run.tenant == uid]
                runs = [run.id for run in theirs]
                leases = sum(1 for lease in ended.leases if lease.run.tenant == uid)
                tops = [run.id for run in theirs if run.above is None or run.above.live]  # one, or one a tree
                event = Event(
                    "run.ended", "ok", _VAULTD, reason=reason, run=tops[0] if len(tops) == 1 else None, total=leases,
                    extra={"runs": runs[:256], "ended": len(runs)},
                )  # fmt: skip
                recorded = self._try_record_ending(event, uid, theirs) and recorded
        self.schedule()
        return recorded

    def _try_record_ending(self, event: Event, uid: bytes, runs: list[Run]) -> bool:
        return self.try_record(event, uid if self.has_trail(uid) else None, ended=runs)

    def schedule(self) -> None:
        """Wake up when the next lease or run ends; an alarm that is set for earlier stays, and looks again then."""
        deadline = self.book.next_deadline()
        if self._timer is not None:
            if deadline is not None and deadline >= self._alarm:
                return
            self._timer.cancel()
            self._timer = None
        if deadline is not None:
            self._alarm = deadline
            delay = max(0, deadline - self.clock.boot()) / 1e9
            self._timer = self._loop.call_later(delay, self._expire)

    def _expire(self) -> None:
        self._timer = None
        self.ended(self.book.expire(self.now()), "expired")
        self.commit_soon()

    def anchor_lives(self, run: Run) -> bool:
        """Whether the run's anchor and those of the runs above still run, asked of the kernel now: the event loop may
        not have heard yet."""
        watches = [self._anchors.get(one.id) for one in run.lineage()]
        return all(watch is not None and watch.is_alive() for watch in watches)

    def anchor_of(self, run: Run) -> HeldProcess | None:
        """The process that the run is tied to; the watch's to close. None when it has ended."""
        watch = self._anchors.get(run.id)
        return watch.process if watch is not None else None

    def is_live(self, lease: Lease) -> bool:
        """Whether the lease still holds at this instant."""
        return lease.live and self.book.leases.get(lease.id, self.now()) is lease and self.anchor_lives(lease.run)

    def let_go(self, lease: Lease) -> None:
        """A lease whose value was not handed out after all."""
        self.ended(self.book.release(lease), "released")

    # -- tickets

    def watch_holder(self, ticket: Ticket, process: HeldProcess) -> None:
        """End the ticket when `process`, taken over, ends."""
        self._holders[ticket.id] = self.server.watcher.watch(process, lambda: self._holder_died(ticket))

    def _holder_died(self, ticket: Ticket) -> None:
        self.forget_tickets(self.tickets.holder_died(ticket.holder))

    def forget_tickets(self, tickets: list[Ticket]) -> None:
        """Watch their holders no longer."""
        for ticket in tickets:
            watch = self._holders.pop(ticket.id, None)
            if watch is not None:
                watch.cancel()

    # -- time, configuration

    def _tick(self) -> None:
        self._tick_timer = self._loop.call_later(TICK_SECONDS, self._tick)
        now = self.now()
        self.refusals.sweep(now.boot)
        self.forget_tickets(self.tickets.expire(now))
        self.confinement.sweep()
        limits = self.config.limits
        self.blob_uploads.sweep(now.boot, limits)
        self.streams.sweep(limits)
        if now.boot - self._anchored >= self.config.audit.anchor_seconds * 10**9:
            self._anchored = now.boot
            self.vaults.tick()
        self.vaults.evolve()
        self._ticks += 1
        if self._ticks % COMPACT_TICKS == 0 and self.vaults.state == "unsealed":
            slices = self.unsealed().compaction()
            if slices is not None:
                task = self.loop.create_task(self._compact(slices))
                self.tasks.add(task)
                task.add_done_callback(self.tasks.discard)
        self.commit_soon()

    async def _compact(self, slices: Slices) -> None:
        """Give the space of what was replaced or undone back, slice by slice, others served in between."""
        try:
            for _ in slices:
                await asyncio.sleep(0)
        except VaultdError as error:
            # Sealed, deleted or being rotated: then there is nothing to do, or another time will do.
            _log.info("a log was not compacted: %s", error.message)
        finally:
            slices.close()
        self.commit_soon()

    def reconfigure(self) -> None:
        """The configuration was read again, well."""
        limits = self.live.current.limits
        self.server.reconfigure(limits)
        self._throttle.rate = self._tenant_throttle.rate = _rate(limits)
        self._share.rate = _share(self._throttle.rate)
        self.book.limits = self._live_limits()
        self.vaults.allow(_allowance(limits))
        self.vaults.segment(_segments(self.live.current.audit))
        self.vaults.keep_free(self.live.current.audit.reserve_bytes)

    def describe(self) -> str:
        """One line on how things stand, for the service manager."""
        state = self.vaults.state
        if state != "unsealed":
            return state
        return f"{state}: {len(self.book.runs)} runs, {len(self.book.leases)} leases"

    # -- the whole vault

    def drop_everything(self, reason: str) -> Ended:
        """Every run, lease, ticket and parsed grant goes: the vault's keys are about to be dropped."""
        ended = self.book.revoke_all(self.now())
        self.ended(ended, reason, quiet=True)
        self.forget_tickets(self.tickets.end_all())
        self._grants.clear()
        self.readers.clear()
        self.blob_uploads.drop_all()
        self.streams.end_all()
        for wake in list(self.vaults.followers):  # the seal's flush is its own: who waits for one looks at the state
            wake()
        self.services = ServiceTable()
        return ended


def _allowance(limits: Limits) -> Allowance:
    """What each tenant may keep."""
    return Allowance(limits.secrets_per_tenant, limits.bytes_per_tenant)


def _segments(audit: AuditConfig) -> SegmentLimits:
    """When a segment of the journal is full."""
    return SegmentLimits(audit.segment_bytes, audit.segment_age * 10**9)


def _rate(limits: Limits) -> Rate:
    """The bucket of one uid or tenant: its burst as whole seconds' worth of its rate, at least one."""
    seconds = max(1, limits.requests_burst // limits.requests_per_second)
    return Rate(limits.requests_per_second * seconds, seconds)


def _share(rate: Rate) -> Rate:
    """What a uid may send in its tenant's runs whatever the tenant's others send: an eighth of the whole."""
    return Rate(max(1, rate.tokens // 8), rate.seconds)
