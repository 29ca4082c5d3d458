"""The forward seal in a vault: when epochs end, what is on the disk then, crashes, and a chain begun anew."""

from __future__ import annotations

import errno
import json
import random
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.seal_world import lines_of, shown, tags_of
from tests.support.vault_world import ADMIN, World, hold_seal, open_vault
from vaultd.audit.sealslots import SLOT_SIZE, choose
from vaultd.clock import ManualClock
from vaultd.crypto.kdf import CHEAPEST
from vaultd.errors import Exists, FormatVersion, Halted, IntegrityError, Locked, StoreError, Uninitialised
from vaultd.store import Fault, MemoryStore, PowerCut
from vaultd.vault import offline
from vaultd.vault.forward import SEAL, SEAL_NEXT
from vaultd.vault.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaultd.audit.seal import SealChain
    from vaultd.store import Disk

GOLDEN = Path(__file__).resolve().parents[2] / "vectors" / "golden"


def state(disk: Disk) -> SealChain:
    return choose([bytearray(disk.peek(SEAL)[at : at + SLOT_SIZE]) for at in (0, SLOT_SIZE)]).chain


def keys_on(disk: Disk) -> set[bytes]:
    """The epoch keys in both slots."""
    raw = disk.peek(SEAL)
    return {raw[at + 128 : at + 160] for at in (0, SLOT_SIZE)}


def second(world: World, *, reads: int = 0) -> None:
    for _ in range(reads):
        world.read()
    world.clock.advance(1)
    world.ledger.evolve()
    world.flush()


@pytest.fixture
def world() -> World:
    world = World(1)
    world.create_tenant("acme")
    world.flush()
    return world


def test_the_first_key_is_nowhere_on_the_disk(world: World) -> None:
    """Neither its text nor its bytes, from the first moment on."""
    _, key, _ = world.seal_key.decode().split(":")
    for data in world.store.disk.files().values():
        assert key.encode() not in data
        assert bytes.fromhex(key) not in data
    assert hold_seal(world.store.disk, world.seal_key).begins == 2


def test_a_lone_record_is_sealed_by_its_own_flush(world: World) -> None:
    """A second or more after the newest tag, record and tag are one batch: nothing is left for a second flush."""
    world.clock.advance(5)
    world.put("acme")
    batch = world.ledger.take()
    assert batch is not None
    assert batch.lines is not None
    assert [b'"seal":' in line for line in batch.lines.data.splitlines()] == [False, True]
    world.ledger.write(batch)
    world.ledger.finish(batch)
    assert not world.ledger.dirty
    assert hold_seal(world.store.disk, world.seal_key).unsealed == 0


def test_under_load_a_second_has_one_tag(world: World) -> None:
    """Two thousand records in ten seconds, a flush every ten: one tag a second, and the tick sees to what came last."""
    before = len(tags_of(lines_of(world)))
    for number in range(2_000):
        world.read("acme")
        if number % 10 == 9:
            world.flush()
        world.clock.advance(0.005)
        if number % 200 == 199:
            world.ledger.evolve()
    assert 9 <= len(tags_of(lines_of(world))) - before <= 11
    second(world)
    assert hold_seal(world.store.disk, world.seal_key).unsealed == 0


def test_a_tick_seals_what_is_new(world: World) -> None:
    """Lines right behind a tag wait for the tick after the next half second, and no longer."""
    second(world, reads=1)
    world.clock.advance(0.1)
    world.read()
    world.flush()
    world.ledger.evolve()
    world.flush()
    assert hold_seal(world.store.disk, world.seal_key).unsealed == 1
    world.clock.advance(0.9)
    world.ledger.evolve()
    assert world.ledger.dirty
    world.flush()
    assert hold_seal(world.store.disk, world.seal_key).unsealed == 0


def test_an_idle_second_moves_the_key_on_and_writes_no_line(world: World) -> None:
    """Each second one slot is overwritten with another key; the journal and the anchor stay as they are."""
    second(world)
    journal, anchor = lines_of(world), world.store.disk.peek("state")
    seen = set(keys_on(world.store.disk))
    for _ in range(5):
        epoch = state(world.store.disk).key.epoch
        world.store.disk.arm(None)
        second(world)
        assert world.store.disk.steps == 2  # one write and its flush
        assert state(world.store.disk).key.epoch == epoch + 1
        new = keys_on(world.store.disk) - seen
        assert len(new) == 1
        seen |= new
    assert (lines_of(world), world.store.disk.peek("state")) == (journal, anchor)
    hold_seal(world.store.disk, world.seal_key)


def test_a_quarter_of_an_hour_of_rest_is_one_line(world: World) -> None:
    """Idle epochs are tagged 900 at a time; an hour costs four lines."""
    second(world)
    before = len(lines_of(world))
    for _ in range(3_600):
        second(world)
    new = tags_of(lines_of(world)[before:])
    assert [tag.last - tag.first + 1 for tag in new] == [900] * 4
    found = hold_seal(world.store.disk, world.seal_key)
    assert found.epochs > 3_600


def test_no_slot_keeps_the_key_of_a_tag(world: World) -> None:
    """After a tag both slots hold the next epoch's key: who takes the disk cannot make that tag again."""
    for _ in range(3):
        second(world)
        before = keys_on(world.store.disk)
        second(world, reads=1)
        assert len(keys_on(world.store.disk)) == 1
        assert not keys_on(world.store.disk) & before


def test_sealed_it_goes_on(world: World) -> None:
    """A sealed vault's own events are tagged as well, and its idle seconds counted; closing leaves nothing untagged."""
    world.ledger.seal()
    epoch = state(world.store.disk).key.epoch
    second(world)
    second(world, reads=1)
    assert state(world.store.disk).key.epoch == epoch + 2
    world.read()
    world.ledger.close()
    found = hold_seal(world.store.disk, world.seal_key)
    assert (found.unsealed, found.held) == (0, True)
    assert len(keys_on(world.store.disk)) == 1


def test_the_key_in_memory_goes_with_the_vault(world: World) -> None:
    """Closing wipes it."""
    sealer = world.ledger._pipeline.sealer
    assert sealer is not None
    world.ledger.close()
    with pytest.raises(Exception, match="wiped"):
        sealer.chain.key.tag(b"")


@pytest.mark.parametrize("what", ["idle", "read", "put", "create", "close"])
def test_power_is_cut_at_every_write(what: str) -> None:
    """Between tag and state, and in either slot: opening finds either, goes on, and all of it verifies."""
    ahead = torn = 0
    for at in range(1, 60):
        for image in range(3):
            world = World(at)
            world.create_tenant("acme")
            second(world)
            second(world)
            steps: dict[str, Callable[[], object]] = {
                "idle": lambda: None,
                "read": world.read,
                "put": lambda world=world: world.put("acme", system=True),  # type: ignore[misc]
                "create": lambda world=world: world.create_tenant("globex"),  # type: ignore[misc]
                "close": world.read,
            }
            steps[what]()
            world.clock.advance(1)
            world.ledger.evolve()
            world.store.arm(Fault(at=at))
            try:
                world.flush()
                if what == "close":
                    world.ledger.close()
            except PowerCut:
                pass
            else:
                assert at > 2
                assert what == "idle" or ahead
                return
            world.kill() if image == 0 else world.crash()
            disk = world.store.disk
            lines = tags_of(disk.peek("audit/000001.jsonl").splitlines(keepends=True))
            try:
                ahead += lines[-1].seq > state(disk).tag_seq
            except IntegrityError:
                pytest.fail("no slot is whole")
            world.reopen()  # holds the seal, too
            torn += world.report.torn_seal
            second(world, reads=1)
            assert hold_seal(world.store.disk, world.seal_key).unsealed == 0
    pytest.fail("it never went through")


@pytest.mark.parametrize("change", ["read", "put"])
def test_a_kill_and_then_a_power_cut(change: str) -> None:
    """What the killed process wrote and never flushed is flushed before the state, or the anchor, speaks of it."""
    for seed in range(40):
        world = World(seed)
        world.create_tenant("acme")
        second(world, reads=1)
        world.clock.advance(1)
        world.read() if change == "read" else world.put("acme")
        flushes = 1 if change == "read" else 2  # of the tenant's log before the journal's
        world.store.arm(Fault(at=flushes, kinds=frozenset({"flush"})))
        with pytest.raises(PowerCut):
            world.flush()
        # The process is gone, the machine is not: what was written is there to be read, and not on the medium.
        world.store.disk.off, world.store.disk.holder = False, None
        world.store.disk.arm(None)
        ahead = tags_of(lines_of(world))[-1].seq > state(world.store.disk).tag_seq
        world.store = MemoryStore(world.store.disk)
        world.reopen()
        assert ahead
        assert state(world.store.disk).tag_seq == tags_of(lines_of(world))[-1].seq
        world.acknowledge()
        world.crash()
        world.reopen()


def test_a_kill_in_any_write_and_then_a_power_cut() -> None:
    """Killed in the middle of a flush, opened again, killed by the power in the next flush: it opens, and verifies."""
    done = 0
    for at in range(1, 12):
        for then in range(1, 14):
            world = World(at)
            second(world, reads=1)
            world.clock.advance(1)
            world.read()
            for number in (at, then):
                world.store.arm(Fault(at=number, kinds=frozenset({"flush"})))
                try:
                    world.flush()
                except PowerCut:
                    done += 1
                if number == at:
                    world.store.disk.off, world.store.disk.holder = False, None
                    world.store.disk.arm(None)
                    world.store = MemoryStore(world.store.disk)
                    world.reopen()
                    world.clock.advance(1)
                    world.read()
            world.crash()
            world.reopen()
    assert done > 40


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_the_state_cannot_be_written(world: World, error: int) -> None:
    """Then the vault halts as after any failed write, and opening it anew finds the tag and goes on."""
    second(world)
    receipt = world.read()
    world.clock.advance(1)
    world.store.arm(Fault(at=3, error=error, kinds=frozenset({"write", "flush"})))  # behind the journal's own two
    with pytest.raises(StoreError):
        world.flush()
    assert not receipt.durable
    world.store.arm(None)
    world.ledger.evolve()
    with pytest.raises(Halted):
        world.flush()
    world.kill()
    assert tags_of(lines_of(world))[-1].seq > state(world.store.disk).tag_seq
    world.reopen()
    second(world, reads=1)


def test_a_torn_slot_is_told(world: World) -> None:
    """The other takes over, `vault.recovered` says so, and both are whole again."""
    second(world)
    raw = bytearray(world.store.disk.peek(SEAL))
    raw[130] ^= 1
    world.store.disk.poke(SEAL, bytes(raw))
    world.kill()
    world.reopen()
    assert world.report.torn_seal
    told = [json.loads(raw)["body"] for raw in lines_of(world) if b'"kind":"vault.recovered"' in raw]
    assert told[-1]["public"]["torn_seal"]
    world.kill()
    world.reopen()
    assert not world.report.torn_seal


def test_a_state_of_a_later_format_is_named(world: World) -> None:
    """It is refused with what helps, and nothing is written."""
    from vaultd.crypto.primitives import keyed_hash

    slots = [bytearray(world.store.disk.peek(SEAL)[at : at + SLOT_SIZE]) for at in (0, SLOT_SIZE)]
    for slot in slots:
        slot[8:10] = b"\0\2"
        slot[480:] = keyed_hash(None, bytes(slot[:480]), person=b"vaultd.seal.sum", size=32)
    world.store.disk.poke(SEAL, bytes(slots[0] + slots[1]))
    world.kill()
    before = world.store.disk.files()
    with pytest.raises(FormatVersion):
        Ledger.open(world.store, world.clock, minimum=CHEAPEST)
    assert world.store.disk.files() == before


# A chain begun anew


def restarted(store: MemoryStore, clock: ManualClock) -> bytes:
    """`audit seal-key`; returns the first key's text."""
    ledger = Ledger.open(store, clock, minimum=CHEAPEST, hold_seal=False)
    try:
        with ledger.start_seal(ADMIN) as first:
            return shown(first.text())
    finally:
        ledger.close()


def test_a_new_chain_takes_over(world: World) -> None:
    """The old key verifies up to the handover, the new one from there, with every line before; a record says so."""
    old = world.seal_key
    second(world, reads=2)
    world.ledger.close()
    store = MemoryStore(world.store.disk.copy())
    new = restarted(store, world.clock)
    assert store.list() == sorted({*world.store.list(), SEAL} - {SEAL_NEXT})
    before = hold_seal(store.disk, old)
    after = hold_seal(store.disk, new)
    assert (before.over, before.held, before.sealed + 1) == (True, False, after.begins)
    assert (after.chain, after.held, after.unsealed) == (2, True, 0)
    told = [raw for raw in store.disk.peek("audit/000001.jsonl").splitlines() if b"audit.seal_key" in raw]
    assert json.loads(told[0])["body"]["public"] == {"before": "handed over", "chain": 2}
    world.store, world.seal_key = MemoryStore(store.disk.copy()), new
    world.reopen()
    assert world.ledger.anchor.seal == 2
    second(world, reads=1)
    assert hold_seal(world.store.disk, new).unsealed == 0


@pytest.mark.parametrize("lost", ["gone", "torn", "older", "of another vault"])
def test_a_lost_state(world: World, lost: str) -> None:
    """It is refused at opening until a new chain is begun, which works; the old key then says what is missing."""
    second(world, reads=1)
    early = world.store.disk.peek(SEAL)
    for _ in range(3):
        second(world, reads=1)
    world.ledger.close()
    disk = world.store.disk.copy()
    other = World(2)
    disk.put(SEAL, {"gone": None, "torn": bytes(1024), "older": early}.get(lost, other.store.disk.peek(SEAL)))
    with pytest.raises(IntegrityError) as caught:
        open_vault(MemoryStore(disk.copy()), world.clock, random.Random(0))
    assert "audit seal-key" in caught.value.hint
    store = MemoryStore(disk)
    new = restarted(store, world.clock)
    assert hold_seal(store.disk, new).chain == 2
    with pytest.raises(IntegrityError, match="did not hand over"):
        hold_seal(store.disk, world.seal_key)
    assert b'"before":"lost"' in store.disk.peek("audit/000001.jsonl")
    world.store, world.seal_key = MemoryStore(store.disk.copy()), new
    world.reopen()


def test_power_is_cut_at_every_write_of_a_new_chain(world: World) -> None:
    """Either the old chain goes on, under the old key, or the new one is in force; its key may be lost with the cut."""
    second(world, reads=1)
    world.ledger.close()
    chains = set()
    for at in range(1, 60):
        for image in range(3):
            store = MemoryStore(world.store.disk.copy())
            store.arm(Fault(at=at))
            try:
                restarted(store, world.clock)
            except PowerCut:
                pass
            else:
                assert chains == {1, 2}
                return
            found = MemoryStore(store.disk.copy()) if image == 0 else store.crash(random.Random(at + image))
            found.disk.arm(None)
            ledger, _ = open_vault(found, world.clock, random.Random(0))
            assert SEAL_NEXT not in found.list()
            chain = state(found.disk).chain
            chains.add(chain)
            if chain == 1:
                hold_seal(found.disk, world.seal_key)
            else:
                assert hold_seal(found.disk, world.seal_key).over
            ledger.close()
            again = MemoryStore(found.disk.copy())
            assert hold_seal(again.disk, restarted(again, world.clock)).chain == chain + 1
    pytest.fail("it never went through")


def test_a_vault_of_before_goes_on_without_and_may_begin(tmp_path: Path) -> None:
    """The golden vault of format 1 opens without a seal and gets none by itself; an admin's verb begins it."""
    path = tmp_path / "vault"
    shutil.copytree(GOLDEN / "vault-v1" / "vault", path)
    for item in [path, *path.rglob("*")]:
        item.chmod(0o700 if item.is_dir() else 0o600)
    from vaultd.vault.embedded import Vault

    expected = json.loads((GOLDEN / "vault-v1" / "expected.json").read_text())
    clock = ManualClock(expected["wall"])
    with Vault.open(path, passphrase=expected["passphrase"], clock=clock) as vault:
        vault.tenant("acme").put("new", b"x")
    assert not (path / SEAL).exists()
    assert (path / "state").read_bytes()[8:10] == b"\0\1"
    report = offline.verify(str(path))
    assert report.ok
    assert "not sealed forward" in report.not_ruled_out[0]
    started = offline.start_seal(str(path))
    key = shown(started.seal_key)
    assert (started.chain, started.vault_id.hex()) == (1, expected["vault"])
    with Vault.open(path, passphrase=expected["passphrase"], clock=clock) as vault:
        vault.tenant("acme").put("new", b"y")
    assert (path / "state").read_bytes()[8:10] == b"\0\2"
    report = offline.verify(str(path), seal_key=bytearray(key))
    assert report.ok
    assert report.seal is not None
    assert (report.seal.begins, report.seal.unsealed) == (started.line, 0)
    assert f"for lines before {started.line}" in report.ruled_out[-1]
    secret = bytearray(expected["passphrase"].encode())
    assert offline.check(str(path), secret=secret).problems == []


def test_where_a_new_chain_cannot_begin(tmp_path: Path) -> None:
    """No vault, or one that is open: the usual errors, and nothing changes."""
    with pytest.raises((Uninitialised, Exists, StoreError)):
        offline.start_seal(str(tmp_path / "nowhere"))
    made = offline.init(str(tmp_path / "v"), secret=bytearray(b"pw"), profile=CHEAPEST)
    made.seal_key.wipe()
    from vaultd.store import DirectoryStore

    with DirectoryStore(tmp_path / "v"), pytest.raises(Locked):
        offline.start_seal(str(tmp_path / "v"))
