"""Strangers at the socket: bad bytes, slow bytes, floods, stolen and borrowed sockets. Everybody else is served on."""

from __future__ import annotations

import os
import random
import resource
import socket
import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.serving import LEASE, VALUE, Caller, Child, Running
from vaultd.clock import ManualClock
from vaultd.daemon.config import Limits
from vaultd.protocol.messages import encode_request

if TYPE_CHECKING:
    from collections.abc import Iterator

OTHER = 54_321
GROUP = 54_999


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    """One server for all of this module's strangers: what one does must not reach the next."""
    with Running(
        limits=Limits(connections_per_uid=2_000, connects_per_second=100_000),
        group=GROUP if os.geteuid() == 0 else None,
    ) as running:
        yield running


@pytest.fixture(autouse=True)
def honest(running: Running) -> Iterator[None]:
    """After each attack an honest caller is served, and no connection is left."""
    yield
    with running.caller() as caller:
        assert bytes(caller.call("lease.acquire", LEASE).tail) == VALUE
    running.until(lambda: not running.handler.live)


def last_words(running: Running, data: bytes) -> str | None:
    """Send `data`; the code of the error that ends the connection, or None when it ends without one."""
    with running.caller() as caller:
        caller.socket.sendall(data)
        try:
            reply = caller.receive()
        except (EOFError, ConnectionResetError):
            return None
        assert reply.id is None  # type: ignore[union-attr]
        assert caller.is_closed()
        return reply.code  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "data",
    [
        struct.pack(">I", 0),
        struct.pack(">I", 1),
        struct.pack(">I", 65_537),
        struct.pack(">I", 0xFFFFFFFF),
        struct.pack(">IH", 2, 1),
        struct.pack(">IH", 2, 0),
        struct.pack(">IH", 3, 1) + b"\xc0",
        struct.pack(">IH", 3, 1) + b"\x80",
        struct.pack(">IH", 7, 5) + b"\xdf\xff\xff\xff\xff",
        struct.pack(">IH", 1002, 1000) + b"\x91" * 1000,
        struct.pack(">IH", 60_002, 60_000) + b"\x90" * 60_000,
    ],
    ids=["empty", "short", "long", "longest", "cut", "nothing", "nil", "no-id", "huge-map", "nested", "wide"],
)
def test_bad_frames(running: Running, data: bytes) -> None:
    """Bytes that are no request end the connection with `protocol`, and nothing else."""
    assert last_words(running, data) == "protocol"


def test_request_without_sense(running: Running) -> None:
    """A request that can be answered is: unknown verbs, keys and types are `protocol`, and the connection goes on."""
    with running.caller() as caller:
        for number, (op, keys) in enumerate(
            [("nonsense", {}), ("status", {"x": 1}), ("lease.acquire", {"secret": 5}), ("lease.acquire", {})], 1
        ):
            frame = _raw(number, op, keys)
            caller.socket.sendall(frame)
            caller.wire._outstanding[number] = "status"
            assert caller.receive().code == "protocol"  # type: ignore[union-attr]
        assert caller.call("status").ok
    assert running.handler.counted >= 4


def _raw(number: int, op: str, keys: dict[str, object]) -> bytes:
    import msgpack

    header = msgpack.packb({"v": 1, "id": number, "op": op, **keys})
    return struct.pack(">IH", 2 + len(header), len(header)) + header


def test_one_id_twice(running: Running) -> None:
    """An id that is used again before its answer ends the connection: the two answers could not be told apart."""
    running.ledger.open.clear()
    try:
        with running.caller() as caller:
            frame = encode_request(5, "lease.acquire", LEASE)
            caller.socket.sendall(frame + frame)
            reply = caller.receive()
            assert (reply.id, reply.code) == (None, "protocol")  # type: ignore[union-attr]
    finally:
        running.ledger.open.set()


@settings(max_examples=150)
@given(st.lists(st.binary(max_size=80), max_size=8), st.integers(0, 2**32))
def test_any_bytes(running: Running, pieces: list[bytes], seed: int) -> None:
    """Any bytes, and any change to good ones, end in answers or in an end; the server lives."""
    chance = random.Random(seed)
    good = bytearray(encode_request(1, "lease.acquire", LEASE) + encode_request(2, "status", {}))
    for _ in range(chance.randrange(4)):
        good[chance.randrange(len(good))] = chance.randrange(256)
    with running.caller(timeout=5) as caller:
        try:
            caller.socket.sendall(bytes(good))
            for piece in pieces:
                caller.socket.sendall(piece)
            caller.socket.shutdown(socket.SHUT_WR)
            while caller.socket.recv(65536):
                pass
        except (BrokenPipeError, ConnectionResetError):
            pass


def test_announced_frames_cost_nothing(running: Running) -> None:
    """Hundreds of connections that announce the longest frame and send little of it cost little memory."""
    callers = [running.caller() for _ in range(300)]
    running.until(lambda: len(running.handler.live) == 300)
    before = _resident()
    for caller in callers:
        caller.socket.sendall(struct.pack(">IH", 65_536, 10) + b"x" * 100)
    running.until(lambda: len(running.server.dispatcher.slow) >= 300)
    assert _resident() - before < 8 << 20  # 20 MiB, had each been given its whole frame
    with running.caller() as caller:
        assert caller.call("status").ok
    for caller in callers:
        caller.close()


def _resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_thousands_of_idle_connections() -> None:
    """Thousands of connections that ask nothing keep nobody waiting, cost little, and give everything back."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    count = min(4_000, (soft - 600) // 2)  # both ends are in this process
    with Running(limits=Limits(connections_per_uid=10_000, connects_per_second=100_000)) as running:
        before, descriptors = _resident(), len(os.listdir("/proc/self/fd"))
        idle = []
        for _ in range(count):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(running.path)
            idle.append(sock)
        with running.caller() as caller:
            assert caller.call("status").ok
            assert len(running.handler.live) == count + 1
            assert _resident() - before < count * 8_192
        for sock in idle:
            sock.close()
        running.until(lambda: not running.handler.live)
        assert len(os.listdir("/proc/self/fd")) <= descriptors


def test_connect_and_leave(running: Running) -> None:
    """A thousand connections that come and go at once leave nothing behind."""
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(1000):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(running.path)
    with running.caller() as last:
        assert last.call("status").ok  # accepted last, so all the others have been
    running.until(lambda: not running.handler.live)
    assert abs(len(os.listdir("/proc/self/fd")) - before) <= 1  # the process is watched while it has a connection


def test_sent_descriptors_are_refused(running: Running) -> None:
    """A stranger's descriptors are refused by the kernel before they reach us, from the first byte on."""
    if running.kernel.features.table()["pass_rights_off"] != "used":
        pytest.skip("this kernel is older than SO_PASSRIGHTS")
    with running.caller() as caller:
        for _ in range(2):
            with pytest.raises(PermissionError):
                socket.send_fds(caller.socket, [b"x"], [0])
        assert caller.call("status").ok
    with running.caller() as early, pytest.raises(PermissionError):  # before it has been accepted
        socket.send_fds(early.socket, [b"x"], [0])


def test_pipelined_flood_is_bounded(running: Running) -> None:
    """A peer that sends without reading is stopped by its own unread answers; what it can make us hold is bounded."""
    before = _resident()
    callers = [running.caller() for _ in range(20)]
    frames = b"".join(bytes(encode_request(number, "status", {})) for number in range(1, 100_000))
    for caller in callers:
        caller.socket.settimeout(0.02)  # long enough for the server to take what it is going to take
        with pytest.raises(TimeoutError):
            caller.socket.sendall(frames)
    with running.caller() as caller:
        assert caller.call("status").ok
    assert _resident() - before < 40 << 20
    for caller in callers:
        caller.close()


def test_acknowledgements_without_cause(running: Running) -> None:
    """An `ack` of nothing is refused and frees nothing: the second descriptor still waits for the first."""
    with running.caller() as caller:
        first = caller.call("lease.acquire", {**LEASE, "memfd": True})
        caller.send("lease.acquire", {**LEASE, "memfd": True})
        caller.socket.sendall(encode_request(900, "ack", {"of": 901}))
        caller.wire._outstanding[900] = "ack"
        assert caller.receive().code == "protocol"  # type: ignore[union-attr]
        assert len(caller.descriptors) == 1
        assert caller.call("ack", {"of": first.id}).ok
        assert caller.receive().memfd  # type: ignore[union-attr]


def test_descriptors_left_unread(running: Running) -> None:
    """Peers that never read their descriptor hold one each, and no more, whatever they ask for."""
    callers = [running.caller() for _ in range(10)]
    for caller in callers:
        for _ in range(20):
            caller.send("lease.acquire", {**LEASE, "memfd": True})
    with running.caller() as caller:
        assert caller.call("lease.acquire", {**LEASE, "memfd": True}).memfd
    memory_files = [name for name in os.listdir("/proc/self/fd") if _is_memory_file(name)]
    assert len(memory_files) <= 1  # ours: the server keeps none open, sent or waiting
    for caller in callers:
        caller.close()


def _is_memory_file(name: str) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{name}").startswith("/memfd:vaultd")
    except FileNotFoundError:
        return False


def test_connecting_too_often() -> None:
    """A uid that connects too often is told so, and may again after a while; its connections serve on."""
    clock = ManualClock()
    with Running(limits=Limits(connects_per_second=2), clock=clock) as running, running.caller() as first:
        assert first.call("status").ok
        for _ in range(3):
            with running.caller() as caller:
                assert caller.call("status").ok
        with running.caller() as refused:
            assert refused.receive().code == "throttled"  # type: ignore[union-attr]
        assert first.call("status").ok
        clock.advance(0.5)
        with running.caller() as again:
            assert again.call("status").ok
        with running.caller() as refused:
            assert refused.receive().code == "throttled"  # type: ignore[union-attr]
        clock.advance(60)
        running.run(running.server._forget_idle_buckets)
        assert running.server._connects == {}


@pytest.mark.needs_root
def test_one_uid_cannot_take_the_places_of_another() -> None:
    """A uid at its cap of connections is refused; another uid's caller is let in."""
    with Running(limits=Limits(connections_per_uid=4), group=GROUP) as running:
        hoard = [running.caller() for _ in range(4)]
        running.until(lambda: len(running.handler.live) == 4)
        with running.caller() as refused:
            assert refused.receive().code == "quota"
        other = Child(lambda: Caller(running.path).call("status").keys["you"]["uid"], uid=OTHER, groups=(GROUP,))
        assert other.result() == OTHER
        for caller in hoard:
            caller.close()


@pytest.mark.needs_root
def test_borrowed_socket_is_its_makers(running: Running) -> None:
    """A socket that one uid connected speaks as that uid, whoever uses it."""
    with running.caller() as caller:
        assert Child(lambda: _use(caller), uid=OTHER, keep=(caller.socket.fileno(),)).result() == os.geteuid()


def _use(caller: Caller) -> object:
    return caller.call("status").keys["you"]["uid"]
