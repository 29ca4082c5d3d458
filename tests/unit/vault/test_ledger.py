"""The ledger: creating, opening, unsealing, staging, flushing, sealing, and what each refuses."""

from __future__ import annotations

import errno
import random
import threading
from typing import TYPE_CHECKING

import pytest

from tests.support.vault_world import ADMIN, World, create_vault, open_vault, read_state, secret
from vaultd.audit.body import Event
from vaultd.clock import ManualClock
from vaultd.crypto.kdf import CHEAPEST
from vaultd.crypto.memory import Key, SecretBytes
from vaultd.crypto.slots import SlotKind
from vaultd.errors import (
    Closed,
    Conflict,
    Exists,
    Halted,
    IntegrityError,
    Internal,
    NotFound,
    Sealed,
    StoreError,
    Uninitialised,
    WrongSecret,
)
from vaultd.store import Fault, MemoryStore, PowerCut
from vaultd.vault.anchor import choose
from vaultd.vault.keyring import SYSTEM
from vaultd.vault.ledger import Ledger

if TYPE_CHECKING:
    from vaultd.vault.anchor import Anchor

JOURNAL = "audit/000001.jsonl"


@pytest.fixture
def world() -> World:
    """A vault with one tenant, flushed."""
    made = World(1)
    made.create_tenant("acme")
    made.flush()
    return made


def _slots(world: World) -> tuple[bytes, bytes]:
    raw = world.store.disk.peek("state")
    return raw[:512], raw[512:]


def _anchor(world: World) -> Anchor:
    """The newest on the disk."""
    return choose(_slots(world)).anchor


def _reopened(world: World) -> World:
    world.ledger.close()
    world.store.close()
    return World(2, MemoryStore(world.store.disk))


# Creating and opening


def test_no_vault() -> None:
    """An empty directory holds no vault, and says what to do."""
    with pytest.raises(Uninitialised) as found:
        Ledger.open(MemoryStore(), ManualClock())
    assert "init" in found.value.hint


def test_a_vault_is_made_once() -> None:
    """Where there is a vault, or anything else, none is made, and nothing changes."""
    store, rng = MemoryStore(), random.Random(0)
    store.create("notes.txt", b"mine")
    with pytest.raises(Exists, match="not empty"):
        create_vault(store, ManualClock(), rng)
    store.remove("notes.txt")
    create_vault(store, ManualClock(), rng)
    files = store.disk.files()
    with pytest.raises(Exists, match="already"):
        create_vault(store, ManualClock(), rng)
    assert store.disk.files() == files


def test_an_interrupted_creation_is_begun_anew() -> None:
    """Wherever the power goes while a vault is made, there is none or a whole one afterwards, and making one works."""
    for at in range(1, 60):
        store, rng = MemoryStore(), random.Random(at)
        store.arm(Fault(at=at))
        try:
            create_vault(store, ManualClock(), rng)
        except PowerCut:
            pass
        else:
            break
        store = store.crash(rng)
        try:
            open_vault(store, ManualClock(), rng)
        except Uninitialised:
            create_vault(store, ManualClock(), rng)
            open_vault(store, ManualClock(), rng)
    else:
        pytest.fail("creation never finished")
    assert at > 20


@pytest.mark.parametrize("path", ["keyring", "state", "heads", JOURNAL])
def test_a_missing_file_is_tampering(world: World, path: str) -> None:
    """Without any one of its files a vault does not open, and does not pass for a new one."""
    if path == "heads":
        path = f"heads.{_anchor(world).heads_file % 2}"
    world.store.disk.put(path, None)
    with pytest.raises(IntegrityError, match="gone"):
        open_vault(MemoryStore(world.store.disk.copy()), ManualClock(), random.Random(0))


def test_wrong_and_cheap_secrets(world: World) -> None:
    """A wrong passphrase is told from a slot that is cheaper than allowed, which is not even tried."""
    ledger = world.ledger
    with pytest.raises(WrongSecret):
        ledger.derive(SecretBytes.copy_of(b"wrong"), SlotKind.PASSPHRASE)
    with pytest.raises(WrongSecret):
        ledger.derive(SecretBytes.copy_of(b"k" * 32), SlotKind.KEY_FILE)
    ledger.close()
    world.store.close()
    strict = Ledger.open(MemoryStore(world.store.disk), ManualClock())
    with pytest.raises(IntegrityError, match="minimum"):
        strict.derive(secret(), SlotKind.PASSPHRASE)


def test_unsealing_reads_no_tenant_file(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """P9: opening and unsealing costs the same for any number of tenants, because none of their files is touched."""
    world.create_tenant("globex")
    world.ledger.close()
    world.store.close()
    store = MemoryStore(world.store.disk)
    touched = []
    for name in ("read", "append", "list", "exists"):
        genuine = getattr(MemoryStore, name)

        def spy(self: MemoryStore, path: str = "", *rest: object, genuine=genuine) -> object:
            touched.append(path)
            return genuine(self, path, *rest)

        monkeypatch.setattr(MemoryStore, name, spy)
    open_vault(store, ManualClock(), random.Random(0))
    assert "keyring" in touched
    assert not [path for path in touched if path.startswith("tenants")]


def test_the_systems_log_must_verify(world: World) -> None:
    """A vault whose own log was changed stays sealed, and keeps no key."""
    world.put("acme", system=True)
    world.flush()
    raw = bytearray(world.store.disk.peek("system/log.1"))
    raw[60] ^= 1
    world.store.disk.poke("system/log.1", bytes(raw))
    ledger = Ledger.open(MemoryStore(world.store.disk.copy()), ManualClock(), minimum=CHEAPEST)
    slot, key = ledger.derive(secret(), SlotKind.PASSPHRASE)
    with pytest.raises(IntegrityError, match="the system's log"):
        ledger.unseal(slot, key)
    assert ledger.state == "sealed"
    with pytest.raises(Sealed):
        ledger.find("acme")


def test_a_slot_key_is_of_a_present_slot(world: World) -> None:
    """A slot that was removed while its key was derived opens nothing; nor does a second unsealing."""
    slot, key = world.ledger.derive(secret(), SlotKind.PASSPHRASE)
    with pytest.raises(Conflict):
        world.ledger.unseal(slot, key)
    world.ledger.seal()
    world.ledger.keyring = world.ledger.keyring.with_slots([])
    with pytest.raises(Conflict):
        world.ledger.unseal(slot, key)


# Sealed


def test_sealed_the_system_is_still_recorded(world: World) -> None:
    """While sealed, system events are recorded and kept; nothing of a tenant, and no change, is."""
    uid = world.ledger.find("acme")
    world.ledger.seal()
    assert world.ledger.state == "sealed"
    receipt = world.read()
    for call in (
        lambda: world.ledger.stage(Event("x", "ok", ADMIN), tenant=uid),
        lambda: world.ledger.find("acme"),
        lambda: world.ledger.open_log(SYSTEM),
        lambda: world.ledger.root,
        lambda: list(world.ledger.names()),
        lambda: world.create_tenant("globex"),
    ):
        with pytest.raises(Sealed):
            call()
    world.flush()
    assert receipt.durable
    again = _reopened(world)
    assert again.report.unanchored == 2  # the event, and the tag that seals it
    assert again.report.replayed == 2


def test_sealing_wipes_every_key(world: World) -> None:
    """After seal the root key, what derives from it, and the logs' keys are wiped."""
    log, root, keys = world.log("acme"), world.ledger.root, world.ledger.root_keys
    system = world.ledger.system_log
    world.ledger.seal()
    for key in (root, keys.wrap, keys.anchor, log.keys.record, log.keys.data_key, system.keys.record):
        with pytest.raises(Internal, match="wiped"):
            key.view()


def test_rest_leaves_nothing_to_replay(world: World) -> None:
    """After an orderly end both slots and the snapshot stand at the journal's very end."""
    world.put("acme")
    world.read("acme")
    world.ledger.close()
    raw = _slots(world)
    anchors = [choose((raw[0], bytes(512))).anchor, choose((bytes(512), raw[1])).anchor]
    assert anchors[0].position == anchors[1].position
    assert anchors[0].heads_file == anchors[1].heads_file
    assert anchors[0].position.offset == len(world.store.disk.peek(JOURNAL))
    world.store.close()
    assert World(2, MemoryStore(world.store.disk)).report.replayed == 0


def test_wall_time_never_goes_back(world: World) -> None:
    """The ledger's time, records' included, is never less than any anchor has seen, across restarts."""
    start = world.clock.wall()
    world.clock.advance(3600)
    world.read()
    world.ledger.tick()
    world.flush()
    assert _anchor(world).wall == start + 3600 * 10**9
    world.ledger.close()
    world.store.close()
    again = World(2, MemoryStore(world.store.disk))
    assert again.clock.wall() == start
    assert again.ledger.now() == start + 3600 * 10**9
    again.clock.advance(7200)
    assert again.ledger.now() == start + 7200 * 10**9
    again.clock.set_wall(0)
    assert again.ledger.now() == start + 7200 * 10**9


# Staging and flushing


def test_visible_at_once_released_later(world: World) -> None:
    """What is staged is there for the next request; its receipt is durable only when the flush is finished."""
    receipt = world.put("acme", 50)
    log = world.log("acme")
    records, _ = log.scan()
    assert len(log.read_attachment(records[-1][1])) == 50
    batch = world.ledger.take()
    assert batch is not None
    world.ledger.write(batch)
    assert not receipt.durable
    world.ledger.finish(batch)
    assert receipt.durable
    assert len(log.read_attachment(records[-1][1])) == 50


def test_a_batch_does_not_change_while_it_is_written(world: World) -> None:
    """Staging goes on while another thread writes: what it stages goes into the next batch, and all of it survives."""
    receipts = [world.put("acme", 10)]
    batch = world.ledger.take()
    assert batch is not None
    assert world.ledger.take() is None
    stop = threading.Event()
    written: list[object] = []

    def write() -> None:
        world.ledger.write(batch)
        written.append(True)
        stop.set()

    thread = threading.Thread(target=write)
    thread.start()
    for _ in range(20):
        receipts.append(world.put("acme", 10))
        world.read("acme")
    assert stop.wait(10)
    thread.join()
    assert written
    world.ledger.finish(batch)
    assert [receipt.durable for receipt in receipts] == [True] + 20 * [False]
    world.flush()
    assert all(receipt.durable for receipt in receipts)
    world.kill()
    world.reopen()
    assert len(world.state.tenants["acme"]) == 22


def test_while_a_flush_is_under_way(world: World) -> None:
    """Sealing, unsealing and flushing inline wait for the thread that writes; finishing another batch is a bug."""
    world.read()
    batch = world.ledger.take()
    assert batch is not None
    for call in (world.ledger.seal, world.ledger.flush):
        with pytest.raises(Conflict):
            call()
    assert world.ledger.state == "unsealed"
    world.ledger.write(batch)
    world.ledger.finish(batch)
    with pytest.raises(Internal):
        world.ledger.finish(batch)
    world.ledger.seal()


def test_reads_are_flushed_without_an_anchor(world: World) -> None:
    """A read costs one flush of the journal, a tick anchors it later; a change is anchored when it is acknowledged."""
    before = _anchor(world)
    world.read("acme")
    world.flush()
    assert _anchor(world) == before
    world.ledger.tick()
    assert world.ledger.dirty
    world.flush()
    assert _anchor(world).sequence == before.sequence + 1
    world.ledger.tick()
    assert not world.ledger.dirty
    world.put("acme")
    world.flush()
    assert _anchor(world).sequence == before.sequence + 2
    assert _anchor(world).position.offset == len(world.store.disk.peek(JOURNAL))


def test_time_is_anchored_at_rest(world: World) -> None:
    """What has expired while nothing happened does not come back when the machine stops and its clock is set back."""
    world.put("acme")
    world.flush()
    before = _anchor(world)
    for _ in range(3):
        world.clock.advance(59.0)
        world.ledger.tick()
        world.flush()
    assert _anchor(world).sequence == before.sequence + 1
    assert _anchor(world).wall == before.wall + 118 * 10**9


def test_a_change_of_the_keyring_ends_its_batch(world: World) -> None:
    """A change of a log that comes after one of the keyring is in the next batch; another keyring change may join."""
    world.put("acme")
    world.create_tenant("globex")
    world.read("globex")
    world.rotate_tenant("acme")
    world.put("globex", system=True)
    first = world.ledger.take()
    assert first is not None
    assert first.keyring is world.ledger.keyring
    assert len(first.writes) == 3
    world.ledger.write(first)
    world.ledger.finish(first)
    second = world.ledger.take()
    assert second is not None
    assert second.keyring is None
    assert len(second.writes) == 2
    world.ledger.write(second)
    world.ledger.finish(second)
    assert world.ledger.take() is None
    assert read_state(world.ledger) == world.state


def test_a_refused_event_takes_its_records_back(world: World) -> None:
    """If the event cannot be recorded, nothing of the change stays staged, in any of its logs."""
    log, system = world.log("acme"), world.ledger.system_log
    before = (log.head, log.size, system.head, system.size)
    log.stage({"n": 1}, b"x")
    system.stage({"n": 1})
    with pytest.raises(Internal):
        world.ledger.stage(Event("x", "ok", ADMIN, extra={"f": 1.5}), logs=[log, system], tenant=log.uid)
    assert (log.head, log.size, system.head, system.size) == before
    world.put("acme")
    world.flush()
    assert read_state(world.ledger) == world.state


def test_no_line_vouches_for_a_log_that_cannot_be_opened(world: World) -> None:
    """If a log's file is gone or changed when its descriptor is needed again, the change is refused unrecorded."""
    log = world.log("acme")
    log.scan()
    log.file.close()
    whole = world.store.disk.peek(log.file.path)
    for tampered in (None, whole + b"x"):
        world.store.disk.put(log.file.path, tampered)
        log.stage({"n": 1})
        head = log.head.record
        with pytest.raises((NotFound, IntegrityError)):
            world.ledger.stage(Event("x", "ok", ADMIN), logs=[log], tenant=log.uid)
        assert log.head.record == head - 1
        assert not world.ledger.journal.pending
    world.store.disk.put(log.file.path, whole)
    world.put("acme")
    world.flush()
    assert read_state(world.ledger) == world.state


def test_a_refused_keyring_change_changes_nothing(world: World) -> None:
    """If a keyring change cannot be recorded, the keyring and the heads are as before."""
    ledger, keyring = world.ledger, world.ledger.keyring
    uid = b"x" * 16
    with Key.random() as key:
        entry, log = ledger.new_entry(uid, "globex", key), ledger.new_log(uid, 1, key)
    bad = Event("x", "ok", ADMIN, extra={"f": 1.5})
    with pytest.raises(Internal):
        ledger.stage_keyring(lambda ring: ring.with_entry(entry), bad, new_logs=[log])
    assert ledger.keyring is keyring
    assert ledger.find("globex") is None
    with pytest.raises(NotFound):
        ledger.domain(uid)
    with pytest.raises(Internal, match="fit"):
        ledger.stage_keyring(lambda ring: ring, Event("x", "ok", ADMIN), new_logs=[log])
    world.create_tenant("globex")
    world.flush()
    world.kill()
    world.reopen()


def test_a_change_names_what_it_changes(world: World) -> None:
    """Vouching for a log that has nothing new, or is not open, is a bug."""
    log = world.log("acme")
    with pytest.raises(Internal, match="nothing new"):
        world.ledger.stage(Event("x", "ok", ADMIN), logs=[log])
    log.stage({"n": 1})
    world.ledger.close_log(log.uid)
    with pytest.raises(Internal):
        world.ledger.stage(Event("x", "ok", ADMIN), logs=[log])
    world.log("acme")
    with pytest.raises(Internal, match="open already"):
        world.ledger.open_log(log.uid)


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC, errno.EROFS])
@pytest.mark.parametrize("change", ["read", "put", "create", "rotate root", "seal"])
def test_any_error_halts(error: int, change: str) -> None:
    """R6: whichever step of a flush fails, once or for good, nothing is acknowledged, nothing tried again, and opening
    anew finds a whole state."""
    for at in range(1, 40):
        world = World(at, snapshot_lines=1)
        world.create_tenant("acme")
        world.put("acme")
        world.flush()
        world.store.arm(Fault(at=at, error=error, repeat=bool(at % 2)))
        receipt = None
        try:
            if change == "read":
                receipt = world.read("acme")
            elif change == "put":
                receipt = world.put("acme", system=True)
            elif change == "create":
                receipt = world.create_tenant("globex")
            elif change == "rotate root":
                receipt = world.rotate_root()
            if change == "seal":
                world.ledger.seal()
            else:
                world.flush()
        except StoreError:
            assert receipt is None or not receipt.durable
            assert world.ledger.state == "halted"
            world.store.disk.arm(None)
            for call in (world.read, world.ledger.take, world.ledger.flush):
                with pytest.raises((Halted, Sealed)):
                    call()
            world.ledger.seal()
            world.ledger.close()
            world.kill()
            world.reopen()
            continue
        assert world.store.disk.fired == 0
        assert receipt is None or receipt.durable
        break
    else:
        pytest.fail("the change never went through")
    assert at > 1


def test_a_lost_journal_halts(world: World) -> None:
    """If somebody removes or cuts the journal, nothing is acknowledged any more."""
    for tamper in (lambda disk: disk.put(JOURNAL, None), lambda disk: disk.poke(JOURNAL, b"")):
        made = World(3)
        tamper(made.store.disk)
        receipt = made.read()
        with pytest.raises(IntegrityError):
            made.flush()
        assert not receipt.durable
        assert made.ledger.halted


# Domains


def test_names(world: World) -> None:
    """Tenants are found by name, listed, and named; deleted ones are listed but not found, and the name is free."""
    ledger = world.ledger
    uid = ledger.find("acme")
    assert uid is not None
    assert ledger.name(uid) == "acme"
    assert ledger.find("globex") is None
    world.delete_tenant("acme")
    assert ledger.find("acme") is None
    assert [(name, entry.deleted) for name, entry in ledger.names()] == [("acme", True)]
    with pytest.raises(NotFound):
        ledger.open_log(uid)
    world.create_tenant("acme")
    assert ledger.find("acme") not in (None, uid)
    world.flush()
    assert sorted(entry.deleted for _, entry in ledger.names()) == [False, True]
    # A deleted tenant's trail can still be written to; one deleted with its trail is unknown.
    ledger.stage(Event("audit.show", "ok", ADMIN), tenant=uid)
    world.flush()
    world.delete_tenant("acme", with_audit=True)
    world.flush()
    assert [entry.uid for _, entry in ledger.names()] == [uid]
    for unknown in (SYSTEM, b"x" * 16):
        with pytest.raises(NotFound):
            ledger.name(unknown)


def test_a_log_is_closed_and_opened_again(world: World) -> None:
    """Closing a log with records on their way loses nothing: they are flushed, and read when it is opened again."""
    world.put("acme", 10)
    log = world.log("acme")
    world.ledger.close_log(log.uid)
    again, records = world.ledger.open_log(log.uid)
    assert again is not log
    assert len(records) == 2
    world.ledger.close_log(log.uid)
    batch = world.ledger.take()
    assert batch is not None
    assert len(world.ledger.open_log(log.uid)[1]) == 2
    world.ledger.close_log(log.uid)
    world.ledger.write(batch)
    world.ledger.finish(batch)
    assert len(world.ledger.open_log(log.uid)[1]) == 2
    world.ledger.close_log(log.uid)
    world.ledger.close_log(log.uid)
    # What no event speaks of goes with the closing.
    log = world.log("acme")
    log.stage({"n": 1}, b"x")
    world.ledger.close_log(log.uid)
    assert read_state(world.ledger) == world.state


def test_old_keys_go_when_the_new_are_in_force(world: World) -> None:
    """A replaced log stays readable until the change is durable, and its keys, or the old root's, are wiped then."""
    old, root = world.log("acme"), world.ledger.root
    world.rotate_tenant("acme")
    world.rotate_root()
    assert old.scan()[0]
    root.view()
    world.flush()
    with pytest.raises(Internal):
        old.keys.record.view()
    with pytest.raises(Internal):
        root.view()
    assert not world.store.exists(old.file.path)
    world.reseal()
    assert read_state(world.ledger) == world.state


def test_a_missing_or_misplaced_log_closes_the_tenant(world: World) -> None:
    """A tenant whose file is gone, or whose keyring entry speaks of another generation, is closed; others are not."""
    world.create_tenant("globex")
    world.flush()
    uid = world.ledger.find("acme")
    assert uid is not None
    world.ledger.close_log(uid)
    world.store.disk.put(f"tenants/{uid.hex()}/log.1", None)
    with pytest.raises(Closed):
        world.ledger.open_log(uid)
    world.put("globex")
    world.flush()


def test_closing_twice(world: World) -> None:
    """Closing is idempotent, and a closed ledger does nothing."""
    world.ledger.close()
    world.ledger.close()
    with pytest.raises(Internal, match="closed"):
        world.read()


def test_a_halted_ledger_closes_without_writing(world: World) -> None:
    """After an error closing writes nothing: what the disk holds stays as it is for the next opening."""
    world.put("acme")
    world.store.arm(Fault(at=1, error=errno.EIO))
    with pytest.raises(StoreError):
        world.flush()
    files = world.store.disk.files()
    world.ledger.close()
    assert world.store.disk.files() == files
