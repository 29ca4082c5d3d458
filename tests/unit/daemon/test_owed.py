"""Where a halted daemon keeps what it owes: whole wherever a place takes it, and never twice."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.support.barrier_world import ADMIN, BarrierWorld
from vaultd.audit.body import Actor, Event
from vaultd.daemon import owed as owed_module
from vaultd.daemon.owed import MOST, MOST_OF_OTHERS, Owed
from vaultd.vault.owed import Debt, read

if TYPE_CHECKING:
    from pathlib import Path

AGENT = Actor("service", uid=1001)
WALL = 10**18


@pytest.fixture
def world() -> BarrierWorld:
    world = BarrierWorld()
    world.tenant("acme")
    return world


@pytest.fixture
def places(tmp_path: Path) -> tuple[str, str]:
    for name in ("vault", "run"):
        (tmp_path / name).mkdir()
    return str(tmp_path / "vault" / "owed"), str(tmp_path / "run" / "owed")


def debt(number: int = 0, actor: Actor = ADMIN) -> Debt:
    return Debt(Event("lease.revoke", "ok", actor, total=number), WALL + number)


def kept(world: BarrierWorld, path: str) -> list[Debt]:
    """What the file at `path` has, which must be whole."""
    with open(path, "rb") as file:
        _, debts, whole = read(file.read(), world.barrier.ledger.vault_id, world.barrier.ledger.owed_key)
    assert whole
    return debts


def opened(world: BarrierWorld, places: tuple[str, str]) -> Owed:
    owed = Owed(places, os.urandom)
    owed.settle(world.barrier)
    return owed


def test_each_is_in_the_file_when_it_is_owed(world: BarrierWorld, places: tuple[str, str]) -> None:
    """One after the other, in one file of mode 0600; the other place stays empty."""
    owed = opened(world, places)
    for number in range(5):
        assert owed.owe(debt(number))
        assert kept(world, places[0]) == [debt(n) for n in range(number + 1)]
    assert owed.kept
    assert os.stat(places[0]).st_mode & 0o777 == 0o600
    assert not os.path.exists(places[1])


def test_a_place_that_fills_up_gives_way_to_the_next(
    world: BarrierWorld, places: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What did not fit goes to the next place with all before it, and stands in one place only."""
    owed = opened(world, places)
    assert owed.owe(debt(0))
    first = os.stat(places[0]).st_ino
    real = os.pwrite

    def full(file: int, data: bytes, offset: int) -> int:
        if os.fstat(file).st_ino == first:
            return real(file, bytes(data)[:10], offset)  # a short write, as a full disk's
        return real(file, data, offset)

    monkeypatch.setattr(owed_module.os, "pwrite", full)
    assert owed.owe(debt(1))
    assert kept(world, places[1]) == [debt(0), debt(1)]
    assert not os.path.exists(places[0])
    assert owed.kept


def test_where_none_takes_it_what_was_kept_stays(
    world: BarrierWorld, places: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is no, what was there before is whole, and when there is room again nothing is missing."""
    owed = opened(world, places)
    assert owed.owe(debt(0))
    real = os.pwrite
    monkeypatch.setattr(owed_module.os, "pwrite", lambda file, data, offset: real(file, bytes(data)[:10], offset))
    assert not owed.owe(debt(1))
    assert not owed.kept
    assert kept(world, places[0]) == [debt(0)]
    assert not os.path.exists(places[1])
    monkeypatch.undo()
    assert owed.owe(debt(2))
    assert owed.kept
    assert kept(world, places[0]) == [debt(0), debt(1), debt(2)]


def test_room_for_who_stops_harm(world: BarrierWorld, places: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever ends much of its own fills its share, not that of admins and responders; theirs has an end too."""
    monkeypatch.setattr(owed_module, "MOST_OF_OTHERS", 3)
    monkeypatch.setattr(owed_module, "MOST", 6)
    assert MOST > MOST_OF_OTHERS
    owed = opened(world, places)
    assert [owed.owe(debt(n, AGENT)) for n in range(5)] == [True] * 3 + [False] * 2
    assert [owed.owe(debt(n)) for n in range(5)] == [True] * 3 + [False] * 2
    assert len(kept(world, places[0])) == 6


def test_settled_once(world: BarrierWorld, places: tuple[str, str]) -> None:
    """Both places are read and recorded, then removed; a second opening finds nothing."""
    owed = opened(world, places)
    assert owed.owe(debt(7))
    owed.close()
    other = Owed((places[1],), os.urandom)
    other.settle(world.barrier)
    assert other.owe(Debt(Event("run.close", "ok", AGENT, run="run_a"), WALL, world.barrier.uid("acme"), ("run_a",)))
    other.close()
    again = Owed(places, os.urandom)
    assert again.settle(world.barrier) == {"run_a"}
    assert any('"run":"run_a"' in body and '"owed":true' in body for body in world.bodies("acme"))
    assert sum('"owed":true' in body for body in world.bodies()) == 1
    assert not any(os.path.exists(path) for path in places)
    assert again.settle(world.barrier) == frozenset()
    assert sum('"owed":true' in body for body in world.bodies()) == 1


@pytest.mark.parametrize("kind", ["folder", "pipe", "link"])
def test_another_kind_of_file_does_not_keep_the_vault_from_opening(
    world: BarrierWorld, places: tuple[str, str], kind: str
) -> None:
    """It is said that nothing could be read there, and the other place is settled all the same."""
    assert opened(world, places).owe(debt(1))
    os.rename(*places)
    make = {"folder": os.mkdir, "pipe": os.mkfifo, "link": lambda path: os.symlink("/dev/zero", path)}
    make[kind](places[0])
    opened(world, places)
    assert sum('"kind":"vault.halted"' in body for body in world.bodies()) == 1
    assert sum('"owed":true' in body for body in world.bodies()) == 1


def test_sealed_it_owes_nothing(world: BarrierWorld, places: tuple[str, str]) -> None:
    """Without a key nothing is kept, and nothing is said to be."""
    owed = opened(world, places)
    owed.close()
    assert not owed.owe(debt())
    assert not owed.kept
    assert not os.path.exists(places[0])


def test_one_that_cannot_be_recorded_stays_owed(world: BarrierWorld, places: tuple[str, str]) -> None:
    """A flush that fails while what is owed is recorded leaves the file; what comes then goes behind it."""
    owed = opened(world, places)
    assert owed.owe(debt(1))
    owed.close()
    again = Owed(places, os.urandom)
    world.barrier.ledger._pipeline.halted = True
    with pytest.raises(Exception, match="durable write"):
        again.settle(world.barrier)
    assert again.owe(debt(2))
    assert kept(world, places[0]) == [debt(1), debt(2)]
