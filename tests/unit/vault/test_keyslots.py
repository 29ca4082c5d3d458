"""Key slots: added beside the others, removed, never the last."""

from __future__ import annotations

import pytest

from tests.support.barrier_world import ADMIN, PASSPHRASE, BarrierWorld, passphrase
from vaultd.crypto.kdf import CHEAPEST
from vaultd.crypto.memory import SecretBytes
from vaultd.crypto.slots import Slot, SlotKind
from vaultd.errors import Conflict, Invalid, NotFound, QuotaExceeded, Sealed, WrongSecret


@pytest.fixture
def world() -> BarrierWorld:
    return BarrierWorld()


def make(world: BarrierWorld, text: bytes, kind: SlotKind = SlotKind.PASSPHRASE, label: str = "x") -> Slot:
    with SecretBytes.copy_of(text) as given:
        return world.barrier.slot_maker(given, kind, label, profile=CHEAPEST)()


def test_an_added_slot_opens_the_vault(world: BarrierWorld) -> None:
    """Passphrase and key file slots open it beside the first, across restarts; the listing has kind and label."""
    world.barrier.add_slot(make(world, b"second", label="laptop"), actor=ADMIN)
    world.barrier.add_slot(make(world, b"k" * 40, SlotKind.KEY_FILE, "safe"), actor=ADMIN)
    world.flush()
    listed = [(slot.id, slot.kind, slot.label) for slot in world.barrier.slots()]
    assert listed == [
        (1, SlotKind.PASSPHRASE, "first"),
        (2, SlotKind.PASSPHRASE, "laptop"),
        (3, SlotKind.KEY_FILE, "safe"),
    ]
    world.barrier.seal(actor=ADMIN)
    for text, kind in (
        (b"second", SlotKind.PASSPHRASE),
        (b"k" * 40, SlotKind.KEY_FILE),
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


def test_slots_are_listed_while_sealed_and_made_only_unsealed(world: BarrierWorld) -> None:
    """What is in a slot is no secret; making one takes the root key."""
    world.barrier.seal(actor=ADMIN)
    assert len(world.barrier.slots()) == 1
    with pytest.raises(Sealed):
        make(world, b"second")
