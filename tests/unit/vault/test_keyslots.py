"""Key slots: added beside the others, given another secret, removed, never the last."""

from __future__ import annotations

import json
import random

import pytest

from tests.support.barrier_world import ADMIN, PASSPHRASE, BarrierWorld, passphrase
from vaultd.crypto.kdf import CHEAPEST
from vaultd.crypto.memory import SecretBytes
from vaultd.crypto.slots import Slot, SlotKind
from vaultd.errors import Conflict, Invalid, NotFound, QuotaExceeded, Sealed, WrongSecret
from vaultd.store import Fault, MemoryStore, PowerCut


@pytest.fixture
def world() -> BarrierWorld:
    return BarrierWorld()


def make(world: BarrierWorld, text: bytes, kind: SlotKind = SlotKind.PASSPHRASE, label: str = "x") -> Slot:
    with SecretBytes.copy_of(text) as given:
        return world.barrier.slot_maker(given, kind, label, profile=CHEAPEST)()


def test_an_added_slot_opens_the_vault(world: BarrierWorld) -> None:
    """Slots of every kind open it beside the first, across restarts; the listing has kind and label."""
    world.barrier.add_slot(make(world, b"second", label="laptop"), actor=ADMIN)
    world.barrier.add_slot(make(world, b"k" * 40, SlotKind.KEY_FILE, "safe"), actor=ADMIN)
    world.barrier.add_slot(make(world, b"c" * 40, SlotKind.CREDENTIAL, "host"), actor=ADMIN)
    world.flush()
    listed = [(slot.id, slot.kind, slot.label) for slot in world.barrier.slots()]
    assert listed == [
        (1, SlotKind.PASSPHRASE, "first"),
        (2, SlotKind.PASSPHRASE, "laptop"),
        (3, SlotKind.KEY_FILE, "safe"),
        (4, SlotKind.CREDENTIAL, "host"),
    ]
    world.barrier.seal(actor=ADMIN)
    for text, kind in (
        (b"second", SlotKind.PASSPHRASE),
        (b"k" * 40, SlotKind.KEY_FILE),
        (b"c" * 40, SlotKind.CREDENTIAL),
        (PASSPHRASE, SlotKind.PASSPHRASE),
    ):
        with SecretBytes.copy_of(text) as given:
            slot, key = world.barrier.derive(given, kind)
        with key:
            world.barrier.unseal(slot, key, actor=ADMIN)
        world.barrier.seal(actor=ADMIN)


def test_a_removed_slot_opens_nothing(world: BarrierWorld) -> None:
    """After its removal a slot's secret is wrong, and its number does not come again."""
    world.barrier.add_slot(make(world, b"second"), actor=ADMIN)
    world.barrier.remove_slot(1, actor=ADMIN)
    world.barrier.add_slot(make(world, b"third"), actor=ADMIN)
    world.flush()
    assert [slot.id for slot in world.barrier.slots()] == [2, 3]
    with pytest.raises(WrongSecret), passphrase() as given:
        world.barrier.derive(given, SlotKind.PASSPHRASE)


def test_the_last_slot_stays(world: BarrierWorld) -> None:
    """Removing the only slot would close the vault for ever, and is refused; an unknown one is not found."""
    with pytest.raises(Conflict, match="last"):
        world.barrier.remove_slot(1, actor=ADMIN)
    with pytest.raises(NotFound):
        world.barrier.remove_slot(2, actor=ADMIN)


def test_a_slot_made_before_a_root_rotation_is_refused(world: BarrierWorld) -> None:
    """It would hold the old root; so would one made while another was added have its number."""
    late = make(world, b"late")
    world.rotate_root()
    with pytest.raises(Conflict, match="rotated"):
        world.barrier.add_slot(late, actor=ADMIN)
    one, two = make(world, b"one"), make(world, b"two")
    world.barrier.add_slot(one, actor=ADMIN)
    with pytest.raises(Conflict, match="another slot"):
        world.barrier.add_slot(two, actor=ADMIN)


def test_a_slot_of_another_vault_is_refused(world: BarrierWorld) -> None:
    """A slot that does not box this vault's root never gets into the keyring."""
    with pytest.raises(Conflict):
        world.barrier.add_slot(make(BarrierWorld(seed=7), b"other"), actor=ADMIN)


def test_bounds(world: BarrierWorld) -> None:
    """An empty passphrase, a short key file, a label with control characters, a 33rd slot: refused."""
    for text, kind, label in (
        (b"", SlotKind.PASSPHRASE, "x"),
        (b"k" * 31, SlotKind.KEY_FILE, "x"),
        (b"fine", SlotKind.PASSPHRASE, "a\nb"),
        (b"fine", SlotKind.PASSPHRASE, "x" * 65),
    ):
        with pytest.raises(Invalid):
            make(world, text, kind, label)
    for number in range(31):
        world.barrier.add_slot(make(world, b"k" * 32 + bytes([number]), SlotKind.KEY_FILE), actor=ADMIN)
    with pytest.raises(QuotaExceeded):
        make(world, b"k" * 32, SlotKind.KEY_FILE)
    world.flush()
    assert len(world.reopen().barrier.slots()) == 32


def change(world: BarrierWorld, slot: int, text: bytes, *, flush: bool = True) -> None:
    with SecretBytes.copy_of(text) as given:
        before, maker = world.barrier.passwd_maker(slot, given, profile=CHEAPEST)
        world.barrier.change_slot(before, maker(), proved=1, actor=ADMIN)
    if flush:
        world.flush()


def test_a_changed_slot_opens_with_the_new_secret_alone(world: BarrierWorld) -> None:
    """Number, label and time of creation stay, the other slots too; the record says which slot, and which proved it."""
    world.barrier.add_slot(make(world, b"second", label="laptop"), actor=ADMIN)
    before = world.barrier.slots()
    change(world, 2, b"changed")
    world.rotate_root()
    after = world.barrier.slots()
    assert [(slot.id, slot.label, slot.created) for slot in after] == [(s.id, s.label, s.created) for s in before]
    assert after[1].salt != before[1].salt
    world.barrier.close()
    world = BarrierWorld(world.store, clock=world.clock, secret=b"changed")
    bodies = [json.loads(body) for body in world.bodies()]
    found = [body for body in bodies if body["kind"] == "slot.passwd"]
    assert [(body["outcome"], body["public"]) for body in found] == [("ok", {"proved": 1, "slot": 2})]
    with pytest.raises(WrongSecret), passphrase(b"second") as given:
        world.barrier.derive(given, SlotKind.PASSPHRASE)


def test_only_a_passphrase_is_changed(world: BarrierWorld) -> None:
    """Another kind of slot, an absent one, an empty passphrase, a sealed vault: refused, and nothing is staged."""
    world.barrier.add_slot(make(world, b"k" * 40, SlotKind.KEY_FILE), actor=ADMIN)
    world.flush()
    before = world.barrier.slots()
    for slot, text, error in ((2, b"new", Invalid), (7, b"new", NotFound), (1, b"", Invalid)):
        with pytest.raises(error):
            change(world, slot, text)
    assert world.barrier.slots() == before
    assert not world.barrier.ledger.dirty
    world.barrier.seal(actor=ADMIN)
    with pytest.raises(Sealed):
        change(world, 1, b"new")


def test_a_change_that_was_overtaken_is_refused(world: BarrierWorld) -> None:
    """The root was rotated, the slot was changed or removed, since the new one was prepared."""
    world.barrier.add_slot(make(world, b"second"), actor=ADMIN)
    barrier = world.barrier
    with SecretBytes.copy_of(b"late") as given:
        for overtake, error in (
            (world.rotate_root, Conflict),
            (lambda: change(world, 2, b"sooner"), Conflict),
            (lambda: barrier.remove_slot(2, actor=ADMIN), NotFound),
        ):
            before, maker = barrier.passwd_maker(2, given, profile=CHEAPEST)
            made = maker()
            overtake()
            with pytest.raises(error):
                barrier.change_slot(before, made, proved=1, actor=ADMIN)


def test_a_crash_at_every_step_of_a_change_leaves_a_secret_that_opens() -> None:
    """The only slot's passphrase is changed and power is cut anywhere: the old one opens or the new one, never none."""
    opened = set()
    for at in range(1, 40):
        world = BarrierWorld(seed=at)
        world.tenant("acme")
        world.put("acme", "k", b"kept")
        disk = world.store
        assert isinstance(disk, MemoryStore)
        disk.arm(Fault(at))
        done = False
        try:
            change(world, 1, b"new")
            done = True
        except PowerCut:
            pass
        crashed = disk.crash(random.Random(at))
        for text in (b"new", PASSPHRASE):
            try:
                again = BarrierWorld(crashed, clock=world.clock, secret=text)
            except WrongSecret:
                assert not (done and text == b"new"), "acknowledged, and lost"
                continue
            assert again.get("acme", "k") == b"kept"
            opened.add(text)
            break
        else:
            pytest.fail(f"neither secret opens the vault after a cut at step {at}")
        if done:
            break
    assert done, "the steps were not all tried"
    assert opened == {b"new", PASSPHRASE}


def test_slots_are_listed_while_sealed_and_made_only_unsealed(world: BarrierWorld) -> None:
    """What is in a slot is no secret; making one takes the root key."""
    world.barrier.seal(actor=ADMIN)
    assert len(world.barrier.slots()) == 1
    with pytest.raises(Sealed):
        make(world, b"second")
