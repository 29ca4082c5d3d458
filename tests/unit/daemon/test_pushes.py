"""Telling of what happened: in order, in slices, and no more than is bearable."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tests.support.access_world import World
from vaultd.daemon import pushes
from vaultd.daemon.pushes import Pushes, Topic

if TYPE_CHECKING:
    import pytest

    from vaultd.access.run import Run


class Listener:
    """A connection that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []
        self.closed = False

    def push(self, event: str, keys: dict[str, Any]) -> None:
        self.told.append((event, keys.get("lease", keys["run"])))

    def close(self) -> None:
        self.closed = True


def _run(uid: int) -> tuple[World, Run]:
    world = World()
    world.grant()
    return world, world.open(peer=world.peer(uid, uid)).run


def test_many_are_told_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty leases and the end of their run reach each of thirty connections in order, others served in between."""
    monkeypatch.setattr(pushes, "SLICE", 0.0)
    world, run = _run(1000)
    leases = [world.lease(run, f"s{n}") for n in range(40)]
    expected = [*(("lease.revoked", lease.id) for lease in leases), ("run.ended", run.id)]
    listeners = [Listener() for _ in range(30)]

    async def tell() -> int:
        told = Pushes()
        for listener in listeners:
            told.subscribe(listener, Topic("run", run.id))  # type: ignore[arg-type]
        for lease in leases:
            told.lease_revoked(lease, "revoked")
        told.run_ended(run, "revoked")
        turns = 0
        while any(len(listener.told) < 41 for listener in listeners):
            turns += 1
            await asyncio.sleep(0)
        told.run_ended(run, "again")  # nobody hears of it any more
        await asyncio.sleep(0)
        return turns

    assert asyncio.run(tell()) >= 41 * 30 - 2
    assert all(listener.told == expected for listener in listeners)


def test_one_uids_news_wait_behind_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """What happens to one uid's run is told although another's has thousands of events before it."""
    monkeypatch.setattr(pushes, "SLICE", 0.0)
    (loud, flood), (_, quiet) = _run(1000), _run(2000)
    leases = [loud.lease(flood, f"s{n}") for n in range(2_000)]
    many, one = Listener(), Listener()

    async def tell() -> None:
        told = Pushes()
        told.subscribe(many, Topic("uid", 1000))  # type: ignore[arg-type]
        told.subscribe(one, Topic("uid", 2000))  # type: ignore[arg-type]
        told.secret_rotated("acme", "s", 2, leases)
        told.run_ended(quiet, "closed")
        for _ in range(3):
            await asyncio.sleep(0)

    asyncio.run(tell())
    assert one.told == [("run.ended", quiet.id)]
    assert len(many.told) < 10


def test_who_cannot_be_told_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """More events than may wait end the connections that they are for, and no others."""
    monkeypatch.setattr(pushes, "SLICE", 0.0)
    monkeypatch.setattr(pushes, "MOST_WAITING", 10)
    (loud, flood), (_, quiet) = _run(1000), _run(2000)
    many, one = Listener(), Listener()

    async def tell() -> None:
        told = Pushes()
        told.subscribe(many, Topic("uid", 1000))  # type: ignore[arg-type]
        told.subscribe(one, Topic("uid", 2000))  # type: ignore[arg-type]
        told.secret_rotated("acme", "s", 2, [loud.lease(flood, "a")] * 20)
        told.run_ended(quiet, "closed")

    asyncio.run(tell())
    assert many.closed
    assert not one.closed
