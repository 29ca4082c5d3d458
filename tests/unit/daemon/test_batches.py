"""Answers wait for their own flush, also where what was decided together goes to the disk in several batches."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.serving import Ledger, Small
from vaultd.access.facts import PeerFacts
from vaultd.clock import ManualClock
from vaultd.daemon.connection import Connection
from vaultd.daemon.dispatch import Dispatcher
from vaultd.daemon.kernel import Kernel
from vaultd.errors import Halted
from vaultd.protocol.connection import Connection as Wire
from vaultd.protocol.connection import Role
from vaultd.protocol.messages import Reply

if TYPE_CHECKING:
    from vaultd.protocol.messages import Request


class Piecemeal(Ledger):
    """Writes one record a batch; the write with number `fails_at` fails."""

    def __init__(self, fails_at: int = 0) -> None:
        super().__init__()
        self.writes = 0
        self.fails_at = fails_at

    @property
    def dirty(self) -> bool:
        return bool(self.staged) and not self.halted

    def stage(self, record: str) -> None:
        if self.halted:
            raise Halted("an earlier write failed")
        super().stage(record)

    def take(self) -> list[str]:
        return [self.staged.pop(0)]

    def write(self, batch: list[str]) -> None:
        self.writes += 1
        if self.writes == self.fails_at:
            raise OSError("the disk is gone")


class Sealing(Small):
    """Flushes inline when it is asked to seal, as the vault does before it drops its keys."""

    def handle(self, connection: Connection, request: Request) -> Any:
        pending = super().handle(connection, request)
        if request.op == "seal":
            while self.ledger.dirty:
                batch = self.ledger.take()
                try:
                    self.ledger.write(batch)
                except OSError as error:
                    self.ledger.finish(batch, error)
                else:
                    self.ledger.finish(batch, None)
        return pending


async def _answers(handler: Small, inline_cost: float, *operations: tuple[str, dict[str, Any]]) -> list[bool]:
    """Whether each of these requests, which come in one write, is acknowledged, in their order."""
    loop = asyncio.get_running_loop()
    dispatcher = Dispatcher(handler, handler.ledger, loop, inline_cost=inline_cost)
    here, there = socket.socketpair()
    here.setblocking(False)
    there.setblocking(False)
    facts = PeerFacts(uid=1, gid=1, pid=1, start_time=1, session=1)
    connection = Connection(there, facts, loop, ManualClock(), dispatcher, lambda closed: None, most_in_flight=32)
    handler.connected(connection)
    connection.start()
    wire = Wire(Role.CLIENT)
    replies: dict[int | None, bool] = {}
    try:
        here.sendall(b"".join(bytes(wire.request(op, keys)[1]) for op, keys in operations))
        async with asyncio.timeout(10):
            while len(replies) < len(operations):
                wire.receive_data(await loop.sock_recv(here, 65536))
                while (event := wire.next_event()) is not None:
                    assert isinstance(event, Reply)
                    replies[event.id] = event.ok
    finally:
        dispatcher.close()
        connection.close()
        here.close()
    return [replies[number] for number in sorted(replies, key=lambda number: number or 0)]


LEASES = [("lease.acquire", {"secret": "a"})] * 4


@pytest.mark.parametrize("inline_cost", [0, 1000])
@pytest.mark.parametrize("fails_at", [1, 2, 3, 4])
def test_a_later_batch_fails(inline_cost: float, fails_at: int) -> None:
    """What was decided together is acknowledged together, after the last batch that it needs."""
    handler = Small(Piecemeal(fails_at), Kernel())
    acknowledged = asyncio.run(_answers(handler, inline_cost, *LEASES))
    assert acknowledged.count(True) <= fails_at - 1
    assert not acknowledged[-1]


@pytest.mark.parametrize("inline_cost", [0, 1000])
def test_every_batch_is_written_first(inline_cost: float) -> None:
    """Nothing is answered before its record is durable."""
    handler = Small(Piecemeal(), Kernel())
    complete: list[int] = []
    inner = handler._lease

    def lease(request: Request) -> Any:
        step = inner(request)
        make = step.complete

        def note(error: Any) -> Any:
            complete.append(len(handler.ledger.durable))
            return make(error)

        step.complete = note  # type: ignore[method-assign]
        return step

    handler._lease = lease  # type: ignore[method-assign]
    assert all(asyncio.run(_answers(handler, inline_cost, *LEASES)))
    assert all(durable >= number for number, durable in enumerate(complete, 1))


def test_an_inline_flush_fails() -> None:
    """A change whose flush another request made, and which failed, is not acknowledged."""
    handler = Sealing(Piecemeal(fails_at=1), Kernel())
    assert asyncio.run(_answers(handler, 1000, LEASES[0], ("seal", {}))) == [False, True]
