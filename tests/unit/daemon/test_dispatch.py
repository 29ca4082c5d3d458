"""The order in which requests are decided and answered, with connections of several uids in one event loop."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.serving import Ledger, Small, answered
from vaultd.access.facts import PeerFacts
from vaultd.clock import ManualClock
from vaultd.daemon import dispatch
from vaultd.daemon.connection import Connection
from vaultd.daemon.dispatch import SHARED_IN_FLIGHT, UID_IN_FLIGHT, Dispatcher
from vaultd.daemon.handling import Deferred
from vaultd.daemon.kernel import Kernel
from vaultd.daemon.turns import FairQueue
from vaultd.errors import Internal
from vaultd.protocol.connection import Connection as Wire
from vaultd.protocol.connection import Role
from vaultd.protocol.messages import Reply, encode_request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from vaultd.protocol.messages import Request


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=60))
def test_fair_queue(steps: list[tuple[int, bool]]) -> None:
    """Within a uid first come is first served; while a uid waits, no other is served twice before it."""
    queue: FairQueue[tuple[int, int]] = FairQueue()
    waiting: dict[int, deque[int]] = {}
    served_while_waiting: dict[int, list[int]] = {}
    number = 0
    for uid, put in steps:
        if put or not len(queue):
            number += 1
            queue.put(uid, (uid, number))
            waiting.setdefault(uid, deque()).append(number)
            served_while_waiting.setdefault(uid, [])
            continue
        got, item = queue.get()
        assert waiting[got].popleft() == item
        del served_while_waiting[got]
        for others in served_while_waiting.values():
            assert got not in others
            others.append(got)
        if waiting[got]:
            served_while_waiting[got] = []
        else:
            del waiting[got]
    assert len(queue) == sum(map(len, waiting.values()))
    assert all(queue.has(uid) for uid in waiting)
    for _ in range(len(queue)):
        queue.get()
    with pytest.raises(IndexError):
        queue.get()


class Tracing(Small):
    """Notes in order whose requests are decided and whose answers are made."""

    def __init__(self) -> None:
        super().__init__(Ledger(), Kernel())
        self.decided: list[int] = []
        self.made: list[int] = []

    def handle(self, connection: Connection, request: Request) -> Any:
        self.decided.append(connection.uid)
        step = super().handle(connection, request)
        if not isinstance(step, Deferred):
            complete = step.complete

            def note(error: Any) -> Any:
                self.made.append(connection.uid)
                return complete(error)

            step.complete = note
        return step


class World:
    """A dispatcher whose peers are socket pairs with uids of our choosing."""

    def __init__(self, inline_cost: float = 1000) -> None:
        self.handler = Tracing()
        self.ledger = self.handler.ledger
        self.loop = asyncio.get_running_loop()
        self.dispatcher = Dispatcher(self.handler, self.ledger, self.loop, inline_cost=inline_cost)
        self.connections: list[Connection] = []
        self.sockets: list[socket.socket] = []

    def connect(self, uid: int) -> socket.socket:
        here, there = socket.socketpair()
        here.setblocking(False)
        there.setblocking(False)
        facts = PeerFacts(uid=uid, gid=uid, pid=1, start_time=1, session=1)
        connection = Connection(
            there, facts, self.loop, ManualClock(), self.dispatcher, lambda closed: None, most_in_flight=32
        )
        self.handler.connected(connection)
        connection.start()
        self.connections.append(connection)
        self.sockets.append(here)
        return here

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110  it is the loop's turns that are waited for
                await asyncio.sleep(0)

    def close(self) -> None:
        self.ledger.open.set()
        self.dispatcher.close()
        for connection in self.connections:
            connection.close()
        for sock in self.sockets:
            sock.close()


def in_world(test: Callable[[World], Awaitable[None]], **options: Any) -> None:
    async def run() -> None:
        world = World(**options)
        try:
            await test(world)
        finally:
            world.close()

    asyncio.run(run())


def frames(count: int) -> bytes:
    return b"".join(bytes(encode_request(number + 1, "lease.acquire", {"secret": "a"})) for number in range(count))


def test_honest_uid_passes_a_flood() -> None:
    """With a thousand requests of one uid waiting, another uid's request is decided and answered among the first."""

    async def test(world: World) -> None:
        for _ in range(64):
            world.connect(1).sendall(frames(16))
        honest = world.connect(2)
        await world.until(lambda: len(world.handler.decided) > 100)
        at_arrival, made_at_arrival = len(world.handler.decided), len(world.handler.made)
        honest.sendall(frames(1))
        await world.until(lambda: 2 in world.handler.made)
        assert world.handler.decided.index(2) - at_arrival < 200
        assert world.handler.made.index(2) - made_at_arrival < 400
        await world.until(lambda: len(world.handler.made) == 64 * 16 + 1)

    in_world(test)


def test_two_floods_take_turns() -> None:
    """While two uids have requests waiting, neither is decided twice in a row, however many connections it has."""

    async def test(world: World) -> None:
        for _ in range(30):
            world.connect(1).sendall(frames(4))
        for _ in range(2):
            world.connect(2).sendall(frames(20))
        await world.until(lambda: len(world.handler.made) == 160)
        order = world.handler.decided
        first, last = order.index(2), len(order) - order[::-1].index(2)
        while_both = order[first:last]
        assert while_both.count(1) <= while_both.count(2) + 2

    in_world(test)


def test_many_uids_share_a_flush() -> None:
    """Uids with one request each are decided together: being fair to many does not cost each of them a flush."""

    async def test(world: World) -> None:
        socks = [world.connect(uid) for uid in range(1, 65)]
        for _ in range(3):
            for sock in socks:
                sock.sendall(frames(1))
            await world.until(lambda: world.dispatcher.is_idle and len(world.handler.made) == 64)
            world.handler.made.clear()
            for sock in socks:
                sock.recv(4096)
        assert len(world.ledger.durable) == 3 * 64
        assert len(world.ledger.batches) < 24

    in_world(test)


@pytest.mark.parametrize("inline_cost", [0, 1000])
def test_every_request_is_answered_once(inline_cost: float) -> None:
    """Far more requests than may be in flight are all answered, each once and in its connection's order."""

    async def test(world: World) -> None:
        callers = [(world.connect(uid), Wire(Role.CLIENT)) for uid in (1, 1, 1, 2) for _ in range(12)]
        for sock, wire in callers:
            sock.sendall(b"".join(wire.request("lease.acquire", {"secret": "a"})[1] for _ in range(31)))
        total = len(callers) * 31
        await world.until(lambda: len(world.handler.made) == total)
        assert world.dispatcher.is_idle
        assert world.dispatcher._in_flight == {}
        for sock, wire in callers:
            ids = []
            while len(ids) < 31:
                wire.receive_data(sock.recv(4096))
                while (reply := wire.next_event()) is not None:
                    assert isinstance(reply, Reply)
                    assert reply.ok
                    ids.append(reply.id)
            assert ids == list(range(1, 32))

    in_world(test, inline_cost=inline_cost)


def test_flood_behind_a_slow_disk_is_bounded() -> None:
    """While a flush lasts, one uid has at most so many requests decided; another's are decided all the same."""

    async def test(world: World) -> None:
        world.ledger.open.clear()
        for _ in range(40):
            world.connect(1).sendall(frames(16))
        await world.until(lambda: len(world.handler.decided) >= UID_IN_FLIGHT)
        for _ in range(50):
            await asyncio.sleep(0)
        assert world.handler.decided == [1] * UID_IN_FLIGHT
        world.connect(2).sendall(frames(5))
        await world.until(lambda: world.handler.decided.count(2) == 5)
        assert world.handler.made == []
        world.ledger.open.set()
        await world.until(lambda: len(world.handler.made) == 645)

    in_world(test, inline_cost=0)


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two uids count as being served, and no slice ends by time, however long the machine stops meanwhile."""
    for name in ("SHARED_FOR", "SLICE", "SLICE_ALONE"):
        monkeypatch.setattr(dispatch, name, 60.0)


async def _flooded(world: World) -> None:
    """Serve two uids, then have 40 connections of the first ask for all they can."""
    for uid in (1, 2):
        world.connect(uid).sendall(frames(1))
        await world.until(lambda uid=uid: len(world.handler.made) == uid)  # type: ignore[misc]
    for _ in range(40):
        world.connect(1).sendall(frames(16))


@pytest.mark.usefixtures("shared")
def test_beside_another_uid_a_flood_has_less_under_way() -> None:
    """Once another uid is served too, few requests of the flood are decided and not yet answered, at any time."""

    async def test(world: World) -> None:
        under_way: list[int] = []
        write = world.ledger.write

        def watched(batch: list[str]) -> None:
            under_way.append(len(world.handler.decided) - len(world.handler.made))
            write(batch)

        await _flooded(world)
        world.dispatcher._committer.write = watched  # type: ignore[method-assign]
        await world.until(lambda: len(world.handler.made) == 642)
        assert set(under_way) == {SHARED_IN_FLIGHT}

    in_world(test)


@pytest.mark.usefixtures("shared")
def test_who_asks_during_a_floods_flush_is_in_the_next() -> None:
    """A request that came while a flood's records were written is decided before the flood has one more flush."""

    async def test(world: World) -> None:
        await _flooded(world)
        honest = world.connect(2)
        write = world.ledger.write
        seen: list[int] = []

        def asking(batch: list[str]) -> None:
            write(batch)
            if len(seen) % 7 == 0:
                honest.sendall(frames(1))
            seen.append(world.handler.decided.count(2))

        world.dispatcher._committer.write = asking  # type: ignore[method-assign]
        await world.until(lambda: len(world.handler.made) >= 642)
        asked = seen[: len(seen) - len(seen) % 7]
        assert asked[1::7] == list(range(2, 2 + len(asked) // 7))

    in_world(test)


def test_connection_that_leaves_its_turn_behind() -> None:
    """Connections that are closed while they wait for a turn, or for a flush, hold up nobody."""

    async def test(world: World) -> None:
        world.ledger.open.clear()
        for _ in range(40):
            world.connect(1).sendall(frames(16))
        await world.until(lambda: len(world.handler.decided) >= UID_IN_FLIGHT)
        for connection in world.connections[:-1]:
            connection.close()
        world.ledger.open.set()
        await world.until(lambda: world.dispatcher.is_idle and not world.connections[-1].wire.outstanding)
        assert world.dispatcher._in_flight == {}
        assert world.dispatcher._parked == {}
        last = world.sockets[-1]
        before = len(world.handler.made)
        last.sendall(bytes(encode_request(100, "lease.acquire", {"secret": "a"})))
        await world.until(lambda: len(world.handler.made) == before + 1)

    in_world(test, inline_cost=0)


def test_failed_flush_takes_the_next_group_along() -> None:
    """What was decided while a flush failed is refused as well: it was staged behind it."""

    async def test(world: World) -> None:
        world.ledger.open.clear()
        world.ledger.fails = OSError(5, "Input/output error")
        sock, wire = world.connect(1), Wire(Role.CLIENT)
        sock.sendall(wire.request("lease.acquire", {"secret": "a"})[1])
        await world.until(lambda: len(world.handler.decided) == 1)
        sock.sendall(wire.request("lease.acquire", {"secret": "a"})[1])
        await world.until(lambda: len(world.handler.decided) == 2)
        world.ledger.open.set()
        await world.until(lambda: len(world.handler.made) == 2)
        wire.receive_data(sock.recv(4096))
        for _ in range(2):
            reply = wire.next_event()
            assert isinstance(reply, Reply)
            assert reply.code == "halted"
        assert world.handler.opened == []

    in_world(test, inline_cost=0)


def test_bug_costs_its_connection_only(caplog: pytest.LogCaptureFixture) -> None:
    """When the turn itself fails, that connection is closed and the others are served."""

    async def test(world: World) -> None:
        broken, fine = world.connect(1), world.connect(1)

        def fail() -> None:
            raise ZeroDivisionError("secret text")

        world.connections[0].next_request = fail  # type: ignore[assignment,method-assign]
        broken.sendall(frames(1))
        fine.sendall(frames(1))
        await world.until(lambda: world.connections[0].closed and world.handler.made == [1])

    in_world(test)
    assert "a connection closed for it: ZeroDivisionError" in caplog.text
    assert "secret text" not in caplog.text


def test_deferred_is_settled_once() -> None:
    """A deferred request may be settled before it is even returned, and only once."""
    deferred = Deferred()
    deferred.settle(answered({}))
    with pytest.raises(Internal, match="twice"):
        deferred.settle(answered({}))

    async def test(world: World) -> None:
        def at_once(connection: Connection, request: Request) -> Deferred:
            early = Deferred()
            early.settle(answered({}))
            return early

        world.handler.handle = at_once  # type: ignore[method-assign]
        sock = world.connect(1)
        sock.sendall(bytes(encode_request(1, "subscribe", {})))
        async with asyncio.timeout(10):
            assert b"\xa2ok\xc3" in await world.loop.sock_recv(sock, 100)

    in_world(test)
