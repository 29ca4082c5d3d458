"""A vault's audit trails and nothing else: a journal in memory, the system's trail, tenants' trails, pinned chance."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from vaultd.audit.body import Actor, Event
from vaultd.audit.domain import SYSTEM_UID, Domain
from vaultd.audit.journal import Journal, segment_path
from vaultd.audit.reader import BEGINNING, Bookmark, Record, TrailReader
from vaultd.audit.segments import Place
from vaultd.audit.trail import Trail
from vaultd.clock import ManualClock
from vaultd.crypto.primitives import x25519_pair
from vaultd.store import MemoryStore, Store

if TYPE_CHECKING:
    from vaultd.audit.receipt import Receipt
    from vaultd.crypto.memory import Key

VAULT = bytes(range(16))
ACTOR = Actor("run", "agents", 1001, 1001, 4242, 99123, "/usr/bin/python3.11", "/system.slice/agents.service")
ADMIN = Actor("admin", uid=0, gid=0, pid=7, pidfd_inode=88)


class World:
    """A journal with `tenants` trails beside the system's; `lease` and the like write records that look real."""

    def __init__(self, tenants: int = 2, *, seed: int = 1, store: Store | None = None) -> None:
        self.random = random.Random(seed)
        self.clock = ManualClock()
        self.store = MemoryStore() if store is None else store
        self.journal = Journal.create(self.store)
        self.pairs: dict[bytes, tuple[Key, bytes]] = {}
        self.system = self._domain(SYSTEM_UID)
        self.tenants = [self._domain(self.random.randbytes(16)) for _ in range(tenants)]
        self.trail = Trail(VAULT, self.journal, self.clock, self.random.randbytes, self.system)

    def _domain(self, uid: bytes) -> Domain:
        self.pairs[uid] = x25519_pair()
        return Domain(uid, self.pairs[uid][1])

    def start(self) -> Receipt:
        """The record every journal begins with."""
        return self.trail.record(Event("vault.create", "ok", ADMIN, public={"version": "0.1.0"}))

    def lease(self, tenant: int, name: str = "openai/prod", **more: Any) -> Receipt:
        """A lease in a tenant's trail, a second later than what came before."""
        self.clock.advance(1)
        facts: dict[str, Any] = {
            "run": "run_a",
            "purpose": "chat",
            "lease": "lease_b",
            "version": 3,
            "secret_id": bytes(16),
        } | more
        return self.trail.record(Event("lease.acquire", "ok", ACTOR, secret=name, **facts), self.tenants[tenant])

    def denial(self, name: str = "acme") -> Receipt:
        """A system record that has a name to keep sealed."""
        return self.trail.record(Event("lease.acquire", "denied", ACTOR, reason="no such thing for you", tenant=name))

    def flush(self, *, closing: bool = False) -> None:
        """Write what is staged and mark its receipts, as the ledger does; with `closing` the segment ends there."""
        batch = self.journal.take(closing=closing)
        if closing:
            self.trail.forget_sessions()
        if batch is not None:
            self.journal.write(batch)
            for receipt in batch.receipts:
                receipt.mark_durable()

    def mixed(self, rounds: int) -> None:
        """A journal of some length: the system and every tenant in turn, flushed."""
        self.start()
        for number in range(rounds):
            for tenant in range(len(self.tenants)):
                self.lease(tenant, f"secret-{number}")
            self.denial(f"tenant-{number}")
        self.flush()

    def data(self) -> bytes:
        """The journal's bytes."""
        return self.store.read(segment_path(1), 1 << 30)

    def poke(self, data: bytes) -> None:
        """Change the journal's file past the store, as somebody with the disk in hand would."""
        assert isinstance(self.store, MemoryStore)
        self.store.disk.poke(segment_path(1), data)

    def reopen(self, journal: Journal) -> None:
        """Go on with another journal, as after a restart: with a new trail over the same domains."""
        self.journal = journal
        self.trail = Trail(VAULT, journal, self.clock, self.random.randbytes, self.system)

    def lines(self) -> list[bytes]:
        """The journal's lines."""
        return self.data().splitlines(keepends=True)

    def reader(self, domain: Domain, start: Bookmark = BEGINNING) -> TrailReader:
        """A reader of one trail, with the keys to open it."""
        private, public = self.pairs[domain.uid]
        return TrailReader(VAULT, domain.uid, public, private, start)

    def records(self, domain: Domain) -> list[Record]:
        """A trail, read back whole."""
        return [record for record in self.reader(domain).records(raw_lines(self.data())) if record is not None]


def raw_lines(data: bytes, start: int = 0) -> list[tuple[bytes, Place]]:
    """Lines with the places behind them, as `Journal.raw_from` gives them."""
    found, at = [], start
    for line in data[start:].splitlines(keepends=True):
        at += len(line)
        found.append((line, Place(1, at)))
    return found
