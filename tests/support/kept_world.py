"""A vault in memory, a book of runs and what keeps the one in the other: an engine without a daemon around it.

Its processes are real: this one, and children that a test ends.
"""

from __future__ import annotations

import json
import os
import random
from typing import TYPE_CHECKING, Any, cast

from tests.support.barrier_world import ADMIN, BarrierWorld
from vaultd.access.book import Book
from vaultd.access.facts import PeerFacts
from vaultd.access.grants import GrantTable
from vaultd.access.instants import Now
from vaultd.access.quotas import Limits
from vaultd.access.scope import Scope
from vaultd.access.services import Service, ServiceTable
from vaultd.audit.body import Event
from vaultd.clock import SystemClock
from vaultd.daemon.kept import KeptRuns
from vaultd.daemon.kernel import Kernel
from vaultd.daemon.lastword import LastWord
from vaultd.daemon.processes import open_process

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vaultd.access.facts import Process
    from vaultd.access.grants import Grant
    from vaultd.access.run import Run
    from vaultd.audit.receipt import Receipt
    from vaultd.daemon.engine import Engine
    from vaultd.daemon.processes import HeldProcess
    from vaultd.daemon.vaults import VaultHolder
    from vaultd.vault.barrier import Barrier

__all__ = ["KeptWorld"]

_KERNEL = Kernel()
_KERNEL.probe()


class _Vaults:
    """As much of a `VaultHolder` as is asked for."""

    def __init__(self, barrier: Barrier) -> None:
        self.barrier = barrier

    @property
    def state(self) -> str:
        return self.barrier.ledger.state


class KeptWorld:
    """One tenant, one service, and the runs that are kept. It is its own engine.

    Args:
        vault: one that has been there before; a fresh one when left out.
        seed: of ids.
        acme: the tenant's uid in `vault`.
        ahead: nanoseconds that its boot clock is ahead of the machine's.
        folder: where a halted daemon leaves its last word.
    """

    def __init__(
        self,
        vault: BarrierWorld | None = None,
        *,
        seed: int = 0,
        acme: bytes | None = None,
        ahead: int = 0,
        folder: str = "/nowhere",
    ) -> None:
        self.ahead = ahead
        self.vault = vault if vault is not None else BarrierWorld(seed=seed)
        self.kernel = _KERNEL
        self.book = Book(Limits(), random.Random(seed + 1).randbytes)
        self.vaults = cast("VaultHolder", _Vaults(self.vault.barrier))
        if acme is None:
            self.vault.barrier.add_service({"name": "agent", "uid": 1000}, actor=ADMIN)
            acme = self.vault.tenant("acme")
        self.acme = acme
        self.services = ServiceTable(Service.from_dict(raw) for raw in self.vault.barrier.services().values())
        self.watched: list[Process] = []
        self.folder = folder
        self.kept = KeptRuns(cast("Engine", self), LastWord([os.path.join(folder, "living")]))

    # -- what `KeptRuns` asks its engine for

    def now(self) -> Now:
        clock = SystemClock()
        return Now(clock.boot() + self.ahead, clock.wall(), 0)

    def unsealed(self) -> Barrier:
        return self.vault.barrier

    def record(
        self,
        event: Event,
        uid: bytes | None = None,
        *,
        keep: Iterable[Run] = (),
        charged: Iterable[Run] = (),
        ended: Iterable[Run] = (),
    ) -> Receipt:
        receipt = self.kept.record(event, uid, keep, ended, charged) if keep or ended or charged else None
        return receipt if receipt is not None else self.vault.barrier.ledger.stage(event, tenant=uid)

    def watch_anchor(self, run: Run, process: HeldProcess) -> None:
        self.watched.append(run.anchor)
        process.close()

    def watch_confined(self, process: Process, held: HeldProcess) -> bool:
        self.watched.append(process)
        held.close()
        return True

    def schedule(self) -> None:
        """Nothing expires by itself here."""

    # -- what tests do

    def open(
        self,
        pid: int | None = None,
        *,
        ttl: int = 3600,
        confined: bool = False,
        parent: Run | None = None,
        uses: int | None = None,
    ) -> Run:
        """Open a run tied to a process, in another one if told so, and stage the record of it."""
        with open_process(pid if pid is not None else os.getpid(), self.kernel) as process:
            anchor = process.identity
        opener = PeerFacts(
            uid=1000, gid=1000, pid=anchor.pid, start_time=anchor.start_time, session=anchor.session,
            pidfd_inode=anchor.pidfd_inode,
        )  # fmt: skip
        scope = Scope.parse(["**"], None, uses)
        opened = self.book.open_run(
            tenant=self.acme, service=self.services.all()[0].name, opener=opener,
            scope=scope if parent is None else scope.completed(parent.scope),
            anchor=anchor, now=self.now(), ttl=ttl, confined=confined,
            parent=parent,
        )  # fmt: skip
        self.record(Event("run.open", "ok", ADMIN, run=opened.run.id), self.acme, keep=[opened.run])
        return opened.run

    def charge(self, run: Run, grant: Grant) -> None:
        """Count an acquisition, and stage the record of it."""
        run.charge(grant.id)
        event = Event("lease.acquire", "ok", ADMIN, run=run.id)
        self.record(event, self.acme, charged=self.kept.charged(run, grant))

    def close(self, *runs: Run) -> None:
        """End runs and those in them, and stage the record of it."""
        ended = [one for run in runs for one in self.book.end_run(run).runs]
        for run in ended:
            self.kept.ended(run)
        self.record(Event("run.close", "ok", ADMIN), self.acme, ended=ended)

    def grant(self, **bounds: Any) -> Grant:
        """A grant as `access` makes it; it is not stored."""
        raw = {"id": "grant_bounded" if bounds else "grant_free", "service": "agent", "secrets": ["**"], **bounds}
        (grant,) = GrantTable.from_dicts([raw]).all()
        return grant

    def ends(self) -> list[tuple[str, int]]:
        """The reasons of the durable records of runs' ends, with their counts."""
        found = [json.loads(body) for trail in (self.acme, None) for body in self.vault.bodies(trail)]
        return [(body["reason"], body["extra"]["ended"]) for body in found if body["kind"] == "run.ended"]

    def after(self, vault: BarrierWorld, *, ahead: int = 0) -> KeptWorld:
        """The daemon that comes after this one, unsealed over `vault`; its runs are restored and flushed."""
        seed = self.vault.rng.randrange(1 << 30)
        world = KeptWorld(vault, seed=seed, acme=self.acme, ahead=ahead, folder=self.folder)
        world.restored = world.kept.restore()
        world.vault.flush()
        return world

    restored: Any = None
