"""Crash point by crash point: what opening finds, does, and tells."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.vault_world import World, open_vault, secret, strays
from vaultd.audit.chain import Line, parse
from vaultd.clock import ManualClock
from vaultd.crypto.kdf import CHEAPEST
from vaultd.crypto.memory import Key
from vaultd.crypto.slots import SlotKind
from vaultd.errors import FormatVersion, IntegrityError
from vaultd.store import Fault, MemoryStore, PowerCut
from vaultd.vault.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaultd.vault.recovery import RecoveryReport

JOURNAL = "audit/000001.jsonl"


def _world(seed: int = 1) -> World:
    world = World(seed)
    world.create_tenant("acme")
    world.put("acme")
    world.flush()
    return world


def _events(world: World) -> list[dict[str, Any]]:
    """The system's clear records."""
    lines = world.store.disk.peek(JOURNAL).splitlines(keepends=True)
    return [json.loads(line.body) for line in map(parse, lines) if isinstance(line, Line) and line.body]


def _after_each_step(change: Callable[[World], object]) -> list[tuple[RecoveryReport, bool]]:
    """Stop the process after each step of the flush of `change`: what opening reports, and whether the change is there.

    What was written is on the disk in its order; other orders are the crash property's matter.
    """
    found = []
    for at in range(1, 60):
        world = _world(at)
        change(world)
        world.store.arm(Fault(at=at))
        try:
            world.flush()
        except PowerCut:
            staged = world.state
            world.kill()
            world.reopen()
            assert strays(world.ledger, world.store) == []
            told = [event for event in _events(world) if event["kind"] == "vault.recovered"]
            assert bool(told) == world.report.repaired
            if told:
                assert told[-1]["public"] == world.report.public()
            found.append((world.report, world.state == staged))
            # What was found once is not found again.
            world.kill()
            world.reopen()
            assert not world.report.repaired
            continue
        return found
    pytest.fail("the change never went through")


@pytest.mark.parametrize("change", ["create", "rotate tenant", "rotate root", "delete", "delete with audit"])
def test_a_keyring_change_is_there_from_its_commit_on(change: str) -> None:
    """Before the commit it is abandoned and its files removed, after it finished and the old files removed."""
    changes: dict[str, Callable[[World], object]] = {
        "create": lambda world: world.create_tenant("globex"),
        "rotate tenant": lambda world: world.rotate_tenant("acme"),
        "rotate root": lambda world: world.rotate_root(),
        "delete": lambda world: world.delete_tenant("acme"),
        "delete with audit": lambda world: world.delete_tenant("acme", with_audit=True),
    }
    found = _after_each_step(changes[change])
    kinds = [report.keyring for report, _ in found]
    # In this order: nothing yet, an abandoned keyring.next, a finished change, nothing left to do.
    assert [kind for index, kind in enumerate(kinds) if index == 0 or kinds[index - 1] != kind] in (
        ["kept", "abandoned", "finished", "kept"],
        ["kept", "abandoned", "finished"],
    )
    if change in ("create", "delete", "delete with audit"):
        present = [there for _, there in found]
        assert present == sorted(present)
        assert present == [kind == "finished" or index > kinds.index("finished") for index, kind in enumerate(kinds)]
    if change == "create":
        assert any(report.removed for report, _ in found if report.keyring == "abandoned")
    if change in ("rotate tenant", "delete"):
        assert any(report.removed for report, _ in found if report.keyring == "finished")


def test_a_put_is_there_from_its_line_on() -> None:
    """Before its journal line is written a record is cut; from then on it is there, anchored or not."""
    found = _after_each_step(lambda world: world.put("acme", system=True))
    present = [there for _, there in found]
    assert present == sorted(present)
    assert {True, False} == set(present)
    assert next(report.unanchored > 0 for report, there in found if there)
    assert any(report.log_cut for report, there in found if not there)


def test_cuts_are_told() -> None:
    """A torn end of the journal and of a tenant's log is cut, and each leaves a record of how much."""
    world = _world()
    log = world.log("acme")
    whole = world.store.disk.peek(log.file.path)
    world.store.disk.poke(log.file.path, whole + b"torn")
    world.store.disk.poke(JOURNAL, world.store.disk.peek(JOURNAL) + b'{"v":1,')
    world.kill()
    world.reopen()
    world.flush()
    told = {event["kind"]: event.get("public") for event in _events(world)}
    assert told["journal.cut"] == {"bytes": 7}
    assert told["log.cut"] == {"bytes": 4, "uid": log.uid.hex()}
    assert told["vault.recovered"]["journal_cut"] == 7
    assert world.store.disk.peek(log.file.path) == whole


def test_a_line_of_a_newer_format_is_not_cut() -> None:
    """An older program leaves alone what a newer one wrote behind the anchor, and says so."""
    world = _world()
    before = world.store.disk.peek(JOURNAL)
    world.store.disk.poke(JOURNAL, before + b'{"v":3,"what":"ever"}\n')
    with pytest.raises(FormatVersion):
        open_vault(MemoryStore(world.store.disk.copy()), ManualClock(), random.Random(0))


def test_a_torn_slot_is_told() -> None:
    """The other slot takes over and the recovery record says so; then both are whole again."""
    world = _world()
    world.read()
    world.ledger.tick()
    world.flush()
    slot = world.ledger.anchor.slot
    raw = bytearray(world.store.disk.peek("state"))
    raw[512 * slot + 100] ^= 1
    world.store.disk.poke("state", bytes(raw))
    world.kill()
    world.reopen()
    assert world.report.torn_anchor
    world.kill()
    world.reopen()
    assert not world.report.torn_anchor


def test_what_was_recovered_is_told_once() -> None:
    """Sealed and unsealed again without an end in between: nothing more was found, told or recorded."""
    world = _world()
    world.read()
    world.ledger.tick()
    world.flush()
    slot = world.ledger.anchor.slot
    raw = bytearray(world.store.disk.peek("state"))
    raw[512 * slot + 100] ^= 1
    world.store.disk.poke("state", bytes(raw))
    world.kill()
    world.reopen()
    assert world.report.repaired
    world.ledger.seal()
    told = world.ledger.unseal(*world.ledger.derive(secret(), SlotKind.PASSPHRASE))
    assert not told.repaired
    assert not told.unanchored


def test_nothing_is_changed_before_the_key_is_there() -> None:
    """Opening without a key leaves keyring, logs and strays alone: an anchor that nobody verified decides nothing.

    What a crash left unsealed is sealed all the same: journal and seal need no key.
    """
    world = _world()
    world.create_tenant("globex")
    batch = world.ledger.take()
    assert batch is not None
    # Stop right after the commit.
    world.store.arm(Fault(at=1, kinds=frozenset({"rename"})))
    steps = 0
    while True:
        steps += 1
        world = _world()
        world.create_tenant("globex")
        world.store.arm(Fault(at=steps))
        with pytest.raises(PowerCut):
            world.flush()
        world.kill()
        files = world.store.disk.files()
        ledger = Ledger.open(world.store, world.clock, minimum=CHEAPEST)
        ledger.close()
        after = world.store.disk.files()
        assert {path: data for path, data in after.items() if path not in (JOURNAL, "seal")} == {
            path: data for path, data in files.items() if path not in (JOURNAL, "seal")
        }
        world.store.close()
        world.store = MemoryStore(world.store.disk)
        world.reopen()
        if world.report.keyring == "finished":
            break
    assert steps > 3


def test_sealed_events_between_two_crashes() -> None:
    """A change abandoned by one crash, events recorded while sealed, another crash: the vault still opens by itself."""
    world = _world()
    world.create_tenant("globex")
    world.store.arm(Fault(at=1, kinds=frozenset({"rename"}), error=None))
    batch = world.ledger.take()
    assert batch is not None
    # Everything up to the journal, but not the commit.
    world.store.disk.arm(None)
    world.ledger._committer._prepare(batch)
    world.ledger._committer._append(batch.writes.values())
    assert batch.lines is not None
    world.ledger.journal.write(batch.lines)
    for _ in range(2):
        world.kill()
        world.ledger = Ledger.open(world.store, world.clock, minimum=CHEAPEST)
        world.read()
        world.ledger.flush()
    world.kill()
    world.reopen()
    assert world.report.keyring == "abandoned"
    assert world.report.unanchored == 5  # each sealed opening's event has its tag
    assert sorted(world.state.tenants) == ["acme"]
    world.create_tenant("globex")
    world.flush()
    world.kill()
    world.reopen()
    assert sorted(world.state.tenants) == ["acme", "globex"]


def test_an_anchor_by_another_hand() -> None:
    """A state file whose checksums hold but whose MAC does not is refused as soon as the key is there."""
    world = _world()
    anchor = world.ledger.anchor
    with Key.random() as key:
        forged = anchor.encode(key)
    raw = bytearray(world.store.disk.peek("state"))
    raw[512 * anchor.slot : 512 * anchor.slot + 512] = forged
    world.store.disk.poke("state", bytes(raw))
    world.kill()
    ledger = Ledger.open(world.store, world.clock, minimum=CHEAPEST)
    slot, key = ledger.derive(secret(), SlotKind.PASSPHRASE)
    with pytest.raises(IntegrityError, match="anchor"):
        ledger.unseal(slot, key)
    assert ledger.state == "sealed"


def test_heads_grow_old_gracefully() -> None:
    """Replaying a thousand lines behind the snapshot gives what the snapshot would have said."""
    world = _world()
    for _ in range(300):
        world.put("acme", 5)
        world.read("acme")
        world.read()
    world.flush()
    world.kill()
    world.reopen()
    assert world.report.replayed > 900
    world.ledger.close()
    world.store.close()
    world.store = MemoryStore(world.store.disk)
    world.reopen()
    assert world.report.replayed == 0


@pytest.mark.parametrize("change", ["create", "rotate", "root"])
def test_a_kill_and_then_a_power_cut(change: str) -> None:
    """Killed in any flush of a change of keys, then without power in any flush of the opening: it opens."""
    done = 0
    for at in range(1, 16):
        for then in range(1, 12):
            world = World(at * 100 + then)
            world.create_tenant("acme")
            world.put("acme")
            world.flush()
            world.store.arm(Fault(at=at, kinds=frozenset({"flush", "sync"})))
            try:
                if change == "create":
                    world.create_tenant("globex")
                elif change == "rotate":
                    world.rotate_tenant("acme")
                else:
                    world.rotate_root()
                world.flush()
                break  # it went through
            except PowerCut:
                done += 1
            # The process is gone, the machine is not: what was written is there to be read, and not on the medium.
            world.store.disk.off, world.store.disk.holder = False, None
            world.store.disk.arm(None)
            world.store = MemoryStore(world.store.disk)
            world.store.arm(Fault(at=then, kinds=frozenset({"flush", "sync"})))
            with suppress(PowerCut):
                world._open()
            world.store.disk.off, world.store.disk.holder = False, None
            world.store.disk.arm(None)
            world.store = MemoryStore(world.store.disk)
            world.crash()
            world.reopen()
    assert done > 30


@pytest.mark.parametrize("change", ["delete", "rotate"])
def test_what_a_killed_process_removed_does_not_come_back(change: str) -> None:
    """Killed before it flushed that old files are gone, then without power once the opening has said they are."""
    done = 0
    for at in range(1, 12):
        for seed in range(6):
            world = World(at * 100 + seed)
            for name in ("acme", "globex"):
                world.create_tenant(name)
                world.put(name)
            world.flush()
            world.store.arm(Fault(at=at, kinds=frozenset({"flush", "sync"})))
            try:
                if change == "delete":
                    world.delete_tenant("globex")
                else:
                    world.rotate_tenant("acme")
                world.flush()
                break  # it went through
            except PowerCut:
                done += 1
            world.store.disk.off, world.store.disk.holder = False, None
            world.store.disk.arm(None)
            world.store = MemoryStore(world.store.disk)
            world._open()
            world.store.disk.holder = None
            world.store = MemoryStore(world.store.disk)
            world.crash()
            world.reopen()  # which holds that there are no strays
    assert done > 20
