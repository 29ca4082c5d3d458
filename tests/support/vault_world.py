"""A vault on a simulated disk, and a model of what must be in it: for the tests of the durability core.

The model is a list of states, one after each staged change. Whatever happens to the disk, what a vault holds when it is
opened again must be one of them, and none before the last that was acknowledged.
"""

from __future__ import annotations

import copy
import json
import random
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vaultd.audit.base import TrailBase
from vaultd.audit.body import Actor, Event
from vaultd.audit.chain import Link, Walk
from vaultd.audit.domain import SYSTEM_UID
from vaultd.audit.seal import FirstKey
from vaultd.audit.sealcheck import SealCheck
from vaultd.audit.sealslots import SLOT_SIZE, choose
from vaultd.audit.segments import UNBOUNDED, SegmentLimits, base_path, segment_path
from vaultd.clock import ManualClock
from vaultd.crypto.hierarchy import RootKeys
from vaultd.crypto.kdf import CHEAPEST
from vaultd.crypto.memory import Key, SecretBytes
from vaultd.crypto.slots import SlotKind, rebox, slot_public
from vaultd.store import MemoryStore
from vaultd.store.interface import TEMPORARY
from vaultd.vault import entries
from vaultd.vault.commit import Drop
from vaultd.vault.create import create
from vaultd.vault.ledger import Ledger
from vaultd.vault.pruning import PruneVerbs, Pruning
from vaultd.vault.trails import TrailVerbs

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaultd.audit.receipt import Receipt
    from vaultd.audit.sealcheck import Finding
    from vaultd.store import Disk, Store
    from vaultd.vault.commit import Batch
    from vaultd.vault.keyring import Keyring
    from vaultd.vault.log import SealedLog
    from vaultd.vault.recovery import RecoveryReport

__all__ = ["ADMIN", "State", "World", "create_vault", "hold_seal", "open_vault", "read_state"]

ADMIN = Actor("admin", uid=0)
PASSPHRASE = b"correct horse"

Records = list[tuple[dict[str, Any], bytes]]


@dataclass
class State:
    """What a vault holds: the records of every tenant by name, and of the system."""

    tenants: dict[str, Records] = field(default_factory=dict)
    system: Records = field(default_factory=list)
    roots: int = 0
    """How often the root key was rotated: not to be read back."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, State) and (self.tenants, self.system) == (other.tenants, other.system)

    __hash__ = None  # type: ignore[assignment]


def secret() -> SecretBytes:
    return SecretBytes.copy_of(PASSPHRASE)


def create_vault(store: Store, clock: ManualClock, rng: random.Random) -> bytes:
    """A new vault with one cheap passphrase slot. Returns the text of its first seal key."""
    made = create(
        store,
        clock,
        secret=secret(),
        kind=SlotKind.PASSPHRASE,
        label="first",
        admin_uids=[0],
        actor=ADMIN,
        profile=CHEAPEST,
        random=rng.randbytes,
    )
    return bytes(made.seal_key.view())


def open_vault(
    store: Store,
    clock: ManualClock,
    rng: random.Random,
    snapshot_lines: int = 4096,
    segments: SegmentLimits = UNBOUNDED,
) -> tuple[Ledger, RecoveryReport]:
    """Open and unseal."""
    ledger = Ledger.open(store, clock, minimum=CHEAPEST, random=rng.randbytes, snapshot_lines=snapshot_lines)
    ledger.journal.limits = segments
    slot, key = ledger.derive(secret(), SlotKind.PASSPHRASE)
    return ledger, ledger.unseal(slot, key)


def read_state(ledger: Ledger) -> State:
    """What the vault holds, every log read from the disk anew."""
    state = State()
    for name, entry in ledger.names():
        if not entry.deleted:
            ledger.close_log(entry.uid)
            log, records = ledger.open_log(entry.uid)
            state.tenants[name] = [(header, log.read_attachment(ref)) for header, ref in records]
    log = ledger.system_log
    state.system = [(header, log.read_attachment(ref)) for header, ref in log.scan()[0]]
    return state


def strays(ledger: Ledger, store: Store) -> list[str]:
    """Files that nothing names."""
    known = {"audit", "heads.0", "heads.1", "keyring", "seal", "state", "system", "tenants"}
    found = [name for name in store.list() if name not in known]
    logs = {entry.uid.hex(): entry for entry in ledger.keyring if not entry.deleted}
    for name in store.list("tenants"):
        if name not in logs:
            found.append(name)
        elif store.list(f"tenants/{name}") != [f"log.{logs[name].generation}"]:
            found.append(f"{name}/{store.list(f'tenants/{name}')}")
    if isinstance(store, MemoryStore):  # which shows what a store does not list
        found += [path for path in store.disk.files() if TEMPORARY in path]
    journal = ledger.journal
    named = {segment_path(n) for n in range(journal.begin.segment, journal.durable.segment + 1)}
    named |= {base_path(journal.begin.segment)} if journal.begin.segment > 1 else set()
    return found + sorted({f"audit/{name}" for name in store.list("audit")} ^ named)


class Verbs(TrailVerbs, PruneVerbs):
    """What people do with the journal, over a ledger alone."""


def plan(verbs: PruneVerbs, signed: str) -> Pruning:
    """What pruning by a checkpoint would take."""
    steps = verbs.plan_pruning(signed)
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            found: Pruning = stop.value
            return found


def hold_journal(ledger: Ledger) -> None:
    """Hold that what is left of the journal verifies from where it begins, and that every trail opens from there."""
    journal, base = ledger.journal, ledger.base
    walk = Walk(Link(base.seq, base.head), trails=base.counts())
    first = True
    for raw, place in journal.raw_from(base.begin.place):
        walk.step(raw, first=first)
        first = place.offset == 0
    assert walk.at == (journal.durable.seq, journal.durable.head)
    verbs = Verbs(ledger, random.randbytes)
    for uid in [SYSTEM_UID, *ledger.keyring.by_index.values()]:
        last = base.trail(uid)
        for record in verbs.trail(uid):
            if record is not None:
                last = TrailBase(record.seq, record.hash)
        assert last == (ledger.domain(uid).sub_seq, ledger.domain(uid).sub_head)


def hold_seal(disk: Disk, key: bytes) -> Finding:
    """Hold every tag of the journal, and the state beside it, against the first seal key."""
    slots = [bytearray(disk.peek("seal")[at : at + SLOT_SIZE]) for at in (0, SLOT_SIZE)]
    files = sorted((path, data) for path, data in disk.files().items() if re.fullmatch(r"audit/[0-9]{6}\.jsonl", path))
    lines = [(raw, n == 0) for _, data in files for n, raw in enumerate(data.splitlines(keepends=True))]
    bases = sorted(path for path in disk.files() if path.endswith(".base"))
    pruned = bases and "audit/000001.jsonl" not in disk.files()
    base = json.loads(disk.peek(bases[-1]).splitlines()[0]) if pruned else None
    walk = Walk() if base is None else Walk(Link(base["seq"], bytes.fromhex(base["head"])))
    with FirstKey.parse(bytearray(key)) as first, choose(slots).chain as state, SealCheck(first, state) as check:
        for raw, starts in lines:
            before = walk.at
            walk.step(raw, first=starts)
            if walk.tag is not None and walk.tag.seq == walk.at.seq:
                check.take(walk.tag, before, state.vault_id)
        check.finish(state)
        return check.finding(walk.at.seq)


class World:
    """One vault, the model of it, and how far it was acknowledged."""

    def __init__(
        self,
        seed: int = 0,
        store: MemoryStore | None = None,
        *,
        snapshot_lines: int = 4096,
        segments: SegmentLimits = UNBOUNDED,
    ) -> None:
        self.rng = random.Random(seed)
        self.clock = ManualClock()
        self.store = MemoryStore() if store is None else store
        self.states = [State()]
        self.acknowledged = 0
        self.receipts: list[tuple[int, Receipt]] = []
        self.flying: Batch | None = None
        self.count = 0
        self._snapshot_lines = snapshot_lines
        self._segments = segments
        self.checkpoints: list[str] = []
        self.seal_key = create_vault(self.store, self.clock, self.rng) if store is None else b""
        self.ledger, self.report = self._open()

    def _open(self) -> tuple[Ledger, RecoveryReport]:
        return open_vault(self.store, self.clock, self.rng, self._snapshot_lines, self._segments)

    @property
    def state(self) -> State:
        """As staged."""
        return self.states[-1]

    def log(self, name: str) -> SealedLog:
        """A tenant's open log."""
        uid = self.ledger.find(name)
        assert uid is not None
        found = self.ledger.opened(uid)
        return self.ledger.open_log(uid)[0] if found is None else found

    def staged(self, receipt: Receipt, state: State) -> Receipt:
        self.states.append(state)
        self.receipts.append((len(self.states) - 1, receipt))
        return receipt

    # Changes

    def put(self, name: str, size: int = 100, *, system: bool = False) -> Receipt:
        """One record in a tenant's log; with `system` one in the system's as well, as a grant has."""
        self.count += 1
        state = copy.deepcopy(self.state)
        header, attachment = {"op": "put", "n": self.count}, self.rng.randbytes(size)
        log = self.log(name)
        log.stage(header, attachment)
        state.tenants[name].append((header, attachment))
        logs = [log]
        if system:
            logs.append(self.ledger.system_log)
            self.ledger.system_log.stage({"op": "link", "n": self.count})
            state.system.append(({"op": "link", "n": self.count}, b""))
        event = Event("secret.put", "ok", ADMIN, secret=f"s{self.count}")
        return self.staged(self.ledger.stage(event, logs=logs, tenant=log.uid), state)

    def read(self, name: str | None = None) -> Receipt:
        """An audited read: changes nothing."""
        tenant = None if name is None else self.ledger.find(name)
        event = Event("lease.acquire", "ok", ADMIN, secret="s" if tenant else None)
        return self.ledger.stage(event, tenant=tenant)

    def create_tenant(self, name: str) -> Receipt:
        uid = self.rng.randbytes(16)
        state = copy.deepcopy(self.state)
        state.tenants[name] = [({"op": "begin"}, b"")]
        with Key.random() as key:
            entry = self.ledger.new_entry(uid, name, key)
            log = self.ledger.new_log(uid, 1, key)
        log.stage({"op": "begin"})
        return self._keyring(lambda ring: ring.with_entry(entry), state, "tenant.create", new_logs=[log])

    def delete_tenant(self, name: str, *, with_audit: bool = False) -> Receipt:
        uid = self.ledger.find(name)
        assert uid is not None
        entry = self.ledger.keyring.entry(uid)
        assert entry is not None
        state = copy.deepcopy(self.state)
        del state.tenants[name]
        gone = entries.tombstone(self.ledger.vault_id, entry, self.ledger.root_keys)

        def build(ring: Keyring) -> Keyring:
            return ring.without(uid) if with_audit else ring.with_entry(gone)

        return self._keyring(build, state, "tenant.delete", drop=[Drop(uid)])

    def rotate_tenant(self, name: str, *, keep: int | None = None) -> Receipt:
        """A new key and log; with `keep` only the last records live on, as in a compaction."""
        old = self.log(name)
        entry = self.ledger.keyring.entry(old.uid)
        assert entry is not None
        state = copy.deepcopy(self.state)
        if keep is not None:
            state.tenants[name] = state.tenants[name][-keep:] if keep else []
        with Key.random() as key:
            entry = entries.with_tenant_key(self.ledger.vault_id, entry, self.ledger.root_keys, key)
            log = self.ledger.new_log(old.uid, entry.generation, key)
        for header, attachment in state.tenants[name]:
            log.stage(header, attachment)
        drop = [Drop(old.uid, old.generation)]
        return self._keyring(lambda ring: ring.with_entry(entry), state, "rotate.tenant", new_logs=[log], drop=drop)

    def rotate_root(self) -> Receipt:
        state = copy.deepcopy(self.state)
        state.roots += 1
        ledger, vault_id, old = self.ledger, self.ledger.vault_id, self.ledger.root_keys
        root = Key.random()
        with RootKeys(root) as new:
            slots = [rebox(slot, slot_public(slot, old.wrap), root, new.wrap) for slot in ledger.slots]
            with entries.open_checkpoint_seed(vault_id, old, ledger.keyring.wrapped_checkpoint) as seed:
                wrapped = entries.seal_checkpoint_seed(vault_id, new, seed)
            rows = [entries.rewrapped(vault_id, entry, old, new) for entry in ledger.keyring]
        return self._keyring(
            lambda ring: ring.with_entries(rows, wrapped_checkpoint=wrapped, slots=slots),
            state,
            "rotate.root",
            root=root,
        )

    def _keyring(self, build: Callable[[Keyring], Keyring], state: State, kind: str, **rest: Any) -> Receipt:
        return self.staged(self.ledger.stage_keyring(build, Event(kind, "ok", ADMIN), **rest), state)

    # Pruning

    def checkpoint(self) -> None:
        """Sign what is on the disk, for later."""
        self.checkpoints.append(Verbs(self.ledger, random.randbytes).checkpoint())

    def prune(self, signed: str) -> Pruning:
        """Take off what a checkpoint lets go; acknowledged with the next flush."""
        verbs = Verbs(self.ledger, random.randbytes)
        found = plan(verbs, signed)
        verbs.prune(found, actor=ADMIN)
        return found

    # Flushing

    def take(self) -> bool:
        self.flying = self.ledger.take()
        return self.flying is not None

    def land(self) -> None:
        """Write the batch that was taken; what it covers is acknowledged then."""
        batch, self.flying = self.flying, None
        assert batch is not None
        error: BaseException | None = None
        try:
            self.ledger.write(batch)
        except BaseException as found:
            error = found
            raise
        finally:
            self.ledger.finish(batch, error)
        self.acknowledge()

    def flush(self) -> None:
        if self.flying is not None:
            self.land()
        self.ledger.flush()
        self.acknowledge()

    def acknowledge(self) -> None:
        done = [number for number, receipt in self.receipts if receipt.durable]
        self.acknowledged = max([self.acknowledged, *done])

    def reseal(self) -> None:
        """Seal the vault and unseal it again."""
        self.ledger.seal()
        self.acknowledge()
        self.ledger.unseal(*self.ledger.derive(secret(), SlotKind.PASSPHRASE))

    # Crashing

    def crash(self) -> None:
        """Cut the power, and go on with one of the disks that may be found afterwards, not yet opened."""
        self.store = self.store.crash(self.rng)

    def kill(self) -> None:
        """End the process, but not the machine: whatever was written is there."""
        self.store = MemoryStore(self.store.disk.copy())

    def reopen(self) -> None:
        """Open what is there, and hold it against the model: exactly one of the states from the acknowledged one on."""
        self.flying = None
        self.ledger, self.report = self._open()
        found = read_state(self.ledger)
        if self.seal_key:
            hold_seal(self.store.disk, self.seal_key)
        assert strays(self.ledger, self.store) == []
        self.ledger.flush()
        hold_journal(self.ledger)
        candidates = [number for number in range(self.acknowledged, len(self.states)) if self.states[number] == found]
        assert candidates, f"the vault holds none of states {self.acknowledged} to {len(self.states) - 1}"
        self.states = [self.states[candidates[0]]]
        self.acknowledged = 0
        self.receipts.clear()
