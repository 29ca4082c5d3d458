"""What one tenant may keep: held before anything is staged, and never by taking away what is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.barrier_world import ADMIN, BarrierWorld
from vaultd.errors import QuotaExceeded
from vaultd.names import secret_name
from vaultd.vault.allowance import UNLIMITED, Allowance

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def world() -> BarrierWorld:
    world = BarrierWorld()
    world.tenant("acme")
    world.tenant("globex")
    return world


def refused(world: BarrierWorld, change: Callable[[], object], what: str) -> None:
    """The change is refused with a hint, and there is nothing of it: in memory, staged, or after a restart."""
    world.flush()
    before, trail = world.values(), world.bodies("acme")
    with pytest.raises(QuotaExceeded, match=what) as caught:
        change()
    assert caught.value.hint
    assert not world.barrier.ledger.dirty
    assert world.values() == before
    assert world.bodies("acme")[: len(trail)] == trail


def live(world: BarrierWorld) -> int:
    return world.barrier.tenant("acme").state.live


def test_secrets_up_to_the_cap(world: BarrierWorld) -> None:
    """The last secret fits, one more does not; another version of one that is there does, and so does one after a
    deletion."""
    world.barrier.allowance = Allowance(secrets=2)
    world.put("acme", "a", b"1")
    world.put("acme", "b", b"1")
    refused(world, lambda: world.put("acme", "c", b"1"), "more than 2 secrets")
    assert world.put("acme", "a", b"2") == 2
    world.barrier.delete("acme", secret_name("b"), actor=ADMIN)
    assert world.put("acme", "c", b"1") == 1


def test_bytes_up_to_the_cap(world: BarrierWorld) -> None:
    """Values fit until the cap to the byte, versions that are kept included; what is destroyed makes room."""
    world.put("acme", "a", bytes(1000))
    one = live(world)
    world.barrier.allowance = Allowance(value_bytes=2 * one)
    world.put("acme", "a", bytes(1000))
    refused(world, lambda: world.put("acme", "a", b"x"), "more than")
    refused(world, lambda: world.put("acme", "b", b"x"), "more than")
    refused(world, lambda: world.barrier.rollback("acme", secret_name("a"), 1, actor=ADMIN), "more than")
    world.barrier.destroy("acme", secret_name("a"), 1, actor=ADMIN)
    assert world.put("acme", "b", b"x") == 1
    world.barrier.allowance = Allowance(value_bytes=live(world) - 1)
    refused(world, lambda: world.put("acme", "b", b"x"), "more than")


def test_what_a_change_destroys_counts_for_it(world: BarrierWorld) -> None:
    """A secret whose oldest version goes as the new one comes is replaced at the cap, however often."""
    for _ in range(40):
        world.put("acme", "a", bytes(500))
    world.barrier.allowance = Allowance(value_bytes=live(world))
    for _ in range(5):
        world.put("acme", "a", bytes(500))
    assert live(world) == world.barrier.allowance.value_bytes
    refused(world, lambda: world.put("acme", "a", bytes(5_000)), "more than")


def test_a_lowered_cap_takes_nothing_away(world: BarrierWorld) -> None:
    """Over the cap everything is still there and readable, shrinks, and does not grow."""
    for name in "abc":
        world.put("acme", name, name.encode())
    world.barrier.allowance = Allowance(secrets=1, value_bytes=1)
    assert [world.get("acme", name) for name in "abc"] == [b"a", b"b", b"c"]
    refused(world, lambda: world.put("acme", "d", b"1"), "more than 1 secrets")
    refused(world, lambda: world.put("acme", "a", b"1"), "more than 1 bytes")
    world.barrier.delete("acme", secret_name("a"), actor=ADMIN)
    world.rotate_tenant("acme")
    assert [world.get("acme", name) for name in "bc"] == [b"b", b"c"]


def test_each_tenant_has_its_own(world: BarrierWorld) -> None:
    """A full tenant leaves the others theirs."""
    world.barrier.allowance = Allowance(secrets=1)
    world.put("acme", "a", b"1")
    refused(world, lambda: world.put("acme", "b", b"1"), "secrets")
    assert world.put("globex", "a", b"1") == 1


def test_nothing_is_capped_unless_said(world: BarrierWorld) -> None:
    """A vault that is opened without the daemon has no caps: they keep tenants from each other, and it has one user."""
    assert world.barrier.allowance == UNLIMITED == Allowance(None, None)
