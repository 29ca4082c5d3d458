"""The server over a real socket: requests, flushes, descriptors, deadlines, the end."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.serving import LEASE, VALUE, Caller, Child, Running, answered
from vaultd.clock import ManualClock
from vaultd.daemon.config import Limits
from vaultd.daemon.memfd import SEALS
from vaultd.protocol.messages import Push, encode_request

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def running() -> Iterator[Running]:
    """A server that writes every flush in its thread, so that a test can hold one back."""
    with Running() as running:
        yield running


@pytest.fixture(params=[0, 1000], ids=["thread", "inline"])
def either(request: pytest.FixtureRequest) -> Iterator[Running]:
    """A server that writes its flushes in one way or the other."""
    with Running(inline_cost=request.param) as running:
        yield running


def test_status_names_the_caller(running: Running) -> None:
    """An answer carries what the kernel said of the peer."""
    with running.caller() as caller:
        reply = caller.call("status")
    assert reply.keys["you"] == {"uid": os.geteuid(), "gid": os.getegid(), "pid": os.getpid()}


def test_answer_waits_for_the_flush(running: Running) -> None:
    """No answer leaves before its record is durable, and one flush serves everything staged meanwhile."""
    running.ledger.open.clear()
    with running.caller() as caller:
        first = caller.send("lease.acquire", LEASE)
        running.until(lambda: running.handler.seen == ["lease.acquire"])
        for _ in range(20):
            caller.send("lease.acquire", LEASE)
        running.until(lambda: len(running.handler.seen) == 21)
        caller.socket.settimeout(0.05)
        with pytest.raises(TimeoutError):
            caller.receive()
        assert running.ledger.durable == []
        caller.socket.settimeout(10)
        running.ledger.open.set()
        replies = [caller.receive() for _ in range(21)]
    assert [reply.id for reply in replies] == list(range(first, first + 21))
    assert all(bytes(reply.tail) == VALUE for reply in replies)
    assert running.ledger.batches == [1, 20]


def test_unrecorded_answers_do_not_wait(either: Running) -> None:
    """What stages nothing is answered at once while nothing is being flushed."""
    with either.caller() as caller:
        assert caller.call("status").ok
    assert either.ledger.batches == []


def test_later_answers_wait_for_what_they_saw(running: Running) -> None:
    """An answer made while a flush is under way waits for it: it may show what is not durable yet."""
    running.ledger.open.clear()
    with running.caller() as one, running.caller() as two:
        one.send("secret.put", {"tenant": "acme", "secret": "a"}, tail=b"abc")
        running.until(lambda: running.handler.seen == ["secret.put"])
        two.send("status")
        running.until(lambda: running.handler.seen == ["secret.put", "status"])
        two.socket.settimeout(0.05)
        with pytest.raises(TimeoutError):
            two.receive()
        running.ledger.open.set()
        two.socket.settimeout(10)
        assert two.receive().ok
        assert one.receive().keys == {"version": 3}


def test_failed_flush_releases_nothing(either: Running) -> None:
    """After a failed flush the group is answered `halted`, and only what stops harm says that it was done."""
    either.ledger.fails = OSError(28, "No space left on device")
    with either.caller() as caller:
        assert caller.call("lease.acquire", LEASE).code == "halted"
        assert caller.call("lease.release", {"lease": "x"}).code == "halted"
        assert caller.call("seal").keys == {"recorded": False}
    assert either.handler.opened == []
    assert either.ledger.halted


def test_denial_is_recorded_first(either: Running) -> None:
    """A refusal waits for its record as well."""
    with either.caller() as caller:
        reply = caller.call("lease.release", {"lease": "x"})
    assert (reply.code, reply.message) == ("denied", "not allowed, or not there")
    assert either.ledger.durable == ["denied 1"]


def test_bug_is_internal_and_silent(either: Running, caplog: pytest.LogCaptureFixture) -> None:
    """A bug in a verb answers `internal`, logs where it was and not what it said, and the connection goes on."""
    with either.caller() as caller:
        reply = caller.call("lease.renew", {"lease": "x"})
        assert caller.call("status").ok
    assert reply.code == "internal"
    assert "sk-live" not in f"{reply.message}{reply.hint}{caplog.text}"
    assert "ZeroDivisionError at serving.py" in caplog.text


def test_value_is_wiped_after_sending(either: Running) -> None:
    """The opened value and the tail of a request are zeroed once the answer has left."""
    with either.caller() as caller:
        caller.call("lease.acquire", LEASE)
        caller.call("secret.put", {"tenant": "acme", "secret": "a"}, tail=b"from outside")
        caller.call("status")
    assert either.handler.opened[0]._base is None
    assert either.handler.tails[1] == bytes(len(b"from outside"))


def test_deferred_answer(either: Running) -> None:
    """A request that is decided later is answered later, and others are served meanwhile."""
    with either.caller() as caller:
        number = caller.send("audit.show")
        assert caller.call("status").ok
        either.run(lambda: either.handler.deferred[0].settle(answered({"next": "c", "count": 0})))
        assert caller.receive().id == number


def test_push(running: Running) -> None:
    """An event reaches a connection between its answers."""
    with running.caller() as caller:
        caller.call("subscribe")
        running.run(lambda: running.handler.live[0].push("run.ended", {"run": "run_x"}))
        event = caller.receive()
    assert isinstance(event, Push)
    assert (event.event, event.keys) == ("run.ended", {"run": "run_x"})


def test_slow_subscriber_is_let_go(running: Running) -> None:
    """A peer that leaves its events unread is disconnected before they pile up."""
    with running.caller() as caller:
        caller.call("subscribe")

        def flood() -> bool:
            connection = running.handler.live[0]
            for _ in range(100_000):
                connection.push("run.ended", {"run": "run_x", "reason": "x" * 500})
                if connection.closed:
                    return True
            return False

        assert running.run(flood)


def test_descriptor_waits_for_acknowledgement(either: Running) -> None:
    """A second descriptor leaves only when the first is acknowledged; other answers do not wait for that."""
    with either.caller() as caller:
        first = caller.call("lease.acquire", {**LEASE, "memfd": True})
        assert first.memfd
        second = caller.send("lease.acquire", {**LEASE, "memfd": True})
        either.until(lambda: len(either.handler.seen) == 2)
        assert caller.call("ack", {"of": first.id}).ok
        reply = caller.receive()
        assert (reply.id, reply.memfd) == (second, True)
        assert len(caller.descriptors) == 2
        for descriptor in caller.descriptors:
            assert os.pread(descriptor, 100, 0) == VALUE
            assert fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & SEALS == SEALS
        number = 77
        _, frame = number, encode_request(number, "ack", {"of": 99})
        caller.socket.sendall(frame)
        caller.wire._outstanding[number] = "ack"
        assert caller.receive().code == "protocol"


def test_whole_value_arrives_at_a_slow_reader(either: Running) -> None:
    """Answers larger than the socket's buffer arrive whole; the next value is opened only when the last has left."""
    either.handler.value = bytes(range(256)) * 190  # 48,640 bytes
    with either.caller() as caller:
        for _ in range(20):
            caller.send("lease.acquire", LEASE)
        either.until(lambda: bool(either.server.dispatcher.slow))
        opened = either.run(lambda: len(either.handler.opened))
        assert opened < 20
        for _ in range(20):
            assert bytes(caller.receive().tail) == either.handler.value


@pytest.mark.parametrize("cut", [1, 3, 4, 5, 20])
def test_frames_in_pieces(running: Running, cut: int) -> None:
    """A frame may come in any pieces."""
    frame = encode_request(1, "status", {})
    with running.caller() as caller:
        caller.wire._outstanding[1] = "status"
        caller.socket.sendall(frame[:cut])
        running.until(lambda: bool(running.server.dispatcher.slow))
        caller.socket.sendall(frame[cut:])
        assert caller.receive().ok


def test_frame_deadline() -> None:
    """A frame must arrive whole in time, however its bytes trickle; an idle connection may stay."""
    clock = ManualClock()
    with Running(clock=clock, limits=Limits(frame_seconds=2)) as running, running.caller() as idle:
        assert idle.call("status").ok
        with running.caller() as slow:
            for byte in encode_request(1, "status", {})[:8]:
                slow.socket.sendall(bytes([byte]))
            running.until(lambda: bool(running.server.dispatcher.slow))
            clock.advance(1.9)
            running.run(running.server.enforce_deadlines)
            assert len(running.handler.live) == 2
            slow.socket.sendall(b"\0")
            clock.advance(0.2)
            running.run(running.server.enforce_deadlines)
            reply = slow.receive()
            assert (reply.id, reply.code, reply.message) == (None, "protocol", "a frame did not arrive whole in time")
            assert slow.is_closed()
        clock.advance(100_000)
        running.run(running.server.enforce_deadlines)
        assert idle.call("status").ok


def test_unread_answers_have_a_deadline() -> None:
    """A peer that does not read loses its connection, and what was not sent is dropped."""
    clock = ManualClock()
    with Running(clock=clock, limits=Limits(write_seconds=5)) as running, running.caller() as caller:
        running.handler.value = bytes(48_000)
        for _ in range(20):
            caller.send("lease.acquire", LEASE)
        running.until(lambda: bool(running.server.dispatcher.slow))
        clock.advance(6)
        running.run(running.server.enforce_deadlines)
        running.until(lambda: not running.handler.live)


def test_connection_ends_with_its_process(running: Running) -> None:
    """When the process that connected ends, its connection does, even if a child of it still holds the socket."""

    def connect_and_leave() -> None:
        caller = running.caller()
        assert caller.call("status").ok
        if os.fork() == 0:
            os._exit(0 if caller.is_closed() else 1)

    child = Child(connect_and_leave)
    child.result()
    running.until(lambda: not running.handler.live)


def test_too_many_connections_of_one_uid() -> None:
    """The cap of a uid answers `quota` and closes; a place that becomes free can be used."""
    with Running(limits=Limits(connections_per_uid=3)) as running:
        callers = [running.caller() for _ in range(3)]
        assert all(caller.call("status").ok for caller in callers)
        with running.caller() as refused:
            assert refused.receive().code == "quota"
            assert refused.is_closed()
        callers[0].close()
        running.until(lambda: len(running.handler.live) == 2)
        with running.caller() as admitted:
            assert admitted.call("status").ok
        for caller in callers:
            caller.close()


def test_stop_answers_what_was_taken(running: Running) -> None:
    """A stopping server answers what it has taken, closes, and removes its socket."""
    running.ledger.open.clear()
    with running.caller() as caller, running.caller() as idle:
        caller.send("lease.acquire", LEASE)
        running.until(lambda: running.handler.seen == ["lease.acquire"])
        running.loop.call_soon_threadsafe(running._stop.set)
        running.until(lambda: not os.path.exists(running.path))
        with pytest.raises((FileNotFoundError, ConnectionRefusedError)):
            Caller(running.path)
        running.ledger.open.set()
        assert bytes(caller.receive().tail) == VALUE
        assert caller.is_closed()
        assert idle.is_closed()
    running.stop()
    assert running.handler.live == []


def test_stop_does_not_wait_for_ever() -> None:
    """A peer that does not read cannot keep a stopping server."""
    with Running(limits=Limits(drain_seconds=0)) as running, running.caller() as caller:
        running.handler.value = bytes(48_000)
        for _ in range(20):
            caller.send("lease.acquire", LEASE)
        running.until(lambda: bool(running.server.dispatcher.slow))
        started = time.monotonic()
        running.stop()
        assert time.monotonic() - started < 5


def test_no_descriptor_is_left(running: Running) -> None:
    """Connections of every kind of end give all their descriptors back."""
    with running.caller() as first:
        assert first.call("status").ok  # the process itself is watched from here on
        before = set(os.listdir("/proc/self/fd"))
        for number in range(60):
            with running.caller() as caller:
                if number % 4 == 0:
                    caller.call("lease.acquire", {**LEASE, "memfd": True})
                elif number % 4 == 1:
                    caller.socket.sendall(struct.pack(">I", 0xFFFFFFFF))
                elif number % 4 == 2:
                    caller.send("lease.acquire", LEASE)
        with running.caller() as last:
            assert last.call("status").ok  # accepted last, so all the others have been
        running.until(lambda: len(running.handler.live) == 1)
        assert len(os.listdir("/proc/self/fd")) == len(before)


def test_out_of_descriptors() -> None:
    """When descriptors run out, callers are turned away for a moment, connections serve on, and nothing spins."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Running(limits=Limits(connections_per_uid=100_000)) as running, running.caller() as caller:
        assert caller.call("status").ok
        running.run(lambda: setattr(running.server, "_most_connections", lambda: 100_000))
        in_use = max(map(int, os.listdir("/proc/self/fd")))
        fill: list[int] = []
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (in_use + 8, hard))
            pending = [socket.socket(socket.AF_UNIX) for _ in range(3)]
            with contextlib.suppress(OSError):
                while True:
                    fill.append(os.dup(0))
            for sock in pending:
                sock.connect(running.path)
                sock.settimeout(10)
            turned_away = [sock for sock in pending if sock.recv(100) == b""]
            assert turned_away == pending
            assert caller.call("status").ok
            assert running.run(lambda: running.server._pause_timer is not None or True)
            for descriptor in fill:
                os.close(descriptor)
            fill.clear()
            with running.caller() as again:
                assert again.call("status").ok
            for sock in pending:
                sock.close()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for descriptor in fill:
                os.close(descriptor)
