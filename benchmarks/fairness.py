"""What a flooding uid costs an honest one: the honest caller's latency without, and beside floods of three kinds.

Two figures each. "daemon": from the caller's send to its answer being made, which is what fairness inside the daemon
decides. "caller": the round trip, in which the caller also waits for a processor that daemon and generator keep busy.

The base is the honest caller beside a process that uses as much of a processor as a flood does and asks the daemon
nothing: on a small machine the generator itself takes half of it, and that is not the daemon's doing.

Claim (R12, and the issue's "one cannot starve another"): the honest p99 grows at most 2 x. First the daemon's lower
half, with a handler that makes a small value and a ledger that appends and flushes a real file: deciding costs next to
nothing there, so whatever a flood puts in the way shows. Then the real daemon and real leases of two tenants, at the
caller. Requests over a uid's rate are not refused here, so the floods hit with everything they have.

    python benchmarks/fairness.py [--seconds 4] [--check]

Needs root, to run the two callers under two uids. `--check` exits 1 where the claim does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import os
import selectors
import shutil
import signal
import socket
import struct
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.support.raw import GROUP
from tests.support.tenants import AGENT, STRANGER, World
from vaultclient import Client
from vaultd.clock import SystemClock
from vaultd.crypto.memory import SecretBytes
from vaultd.daemon.config import Limits
from vaultd.daemon.handling import Answer, Handler
from vaultd.daemon.kernel import Kernel
from vaultd.daemon.listener import listen
from vaultd.daemon.server import Server
from vaultd.protocol.messages import Request, encode_reply, encode_request

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaultd.daemon.connection import Connection
    from vaultd.errors import VaultdError

HONEST, FLOODING = STRANGER, AGENT
UNLIMITED = """
[limits]
leases_per_uid = 10000000
requests_per_second = 10000000
requests_burst = 10000000
connections_per_uid = 100
"""
KEYS = {"lease": "lease_x", "secret": "openai/prod", "version": 1, "expires_in": 300, "max_ttl": 300, "delivery": "fd"}
REPLY = bytes(encode_reply(1, KEYS, b"x" * 64))
FRAME = bytes(encode_request(1, "lease.acquire", {"secret": "openai/prod"}, run=bytes(32)))
OK = b"\xa2ok\xc3"


class File:
    """A ledger that appends and flushes a real file."""

    halted = False

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._staged: list[bytes] = []

    @property
    def dirty(self) -> bool:
        return bool(self._staged)

    def stage(self, record: bytes) -> None:
        self._staged.append(record)

    def take(self) -> bytes:
        batch, self._staged = b"".join(self._staged), []
        return batch

    def write(self, batch: bytes) -> None:
        os.write(self._descriptor, batch)
        os.fdatasync(self._descriptor)

    def finish(self, batch: bytes, error: BaseException | None) -> None:  # noqa: ARG002  as the protocol has it
        if error is not None:
            raise error


class Lease:
    """The second half of a lease: the value, as a wipeable secret."""

    descriptor = False

    def __init__(self, sent: int, report: int) -> None:
        self._sent = sent
        self._report = report

    def complete(self, error: VaultdError | None) -> Answer:
        if error is not None:
            raise error
        if self._sent:
            os.write(self._report, struct.pack("=d", (time.monotonic_ns() - self._sent) / 1000))
        return Answer(KEYS, secret=SecretBytes.copy_of(b"x" * 64))


class Leases(Handler):
    """Stages a record of a usual size for each request."""

    def __init__(self, file: File, report: int) -> None:
        self._file = file
        self._report = report

    def connected(self, connection: Connection) -> None: ...

    def disconnected(self, connection: Connection) -> None: ...

    def malformed(self, connection: Connection, message: str) -> None: ...

    def handle(self, connection: Connection, request: Request) -> Lease:  # noqa: ARG002  as the protocol has it
        self._file.stage(b"r" * 600)
        sent = request.keys.get("purpose")  # the honest caller says when it asked
        return Lease(int(sent) if sent else 0, self._report)


async def serve(directory: str) -> None:
    kernel = Kernel()
    kernel.probe()
    listener = listen(f"{directory}/s", kernel, group=GROUP)
    file = File(f"{directory}/journal")
    report = os.open(f"{directory}/report", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    server = Server(listener, Leases(file, report), file, kernel=kernel, clock=SystemClock(), limits=Limits())
    server.start()
    await asyncio.Event().wait()


def child(function: Callable[[], Any], uid: int | None = None) -> int:
    """Fork a process that runs `function`, and that ends with us."""
    pid = os.fork()
    if pid:
        return pid
    try:
        if uid is not None:
            os.setgroups([GROUP])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        function()
    finally:
        os._exit(0)


def connect(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    return sock


def lease(number: int, token: bytes, **keys: Any) -> bytes:
    return bytes(encode_request(number, "lease.acquire", {"secret": "openai/prod", "ttl": 5, **keys}, run=token))


def closed_loop(path: str, connections: int, depth: int = 1, token: bytes = bytes(32)) -> None:
    """Ask `depth` times on each of `connections`, and again once all of that is answered, for ever."""
    frames = b"".join(lease(number + 1, token) for number in range(depth))
    selector = selectors.DefaultSelector()
    for _ in range(connections):
        sock = connect(path)
        selector.register(sock, selectors.EVENT_READ, [sock, b"", 0])
        sock.sendall(frames)
    while True:
        for key, _ in selector.select():
            sock, data, answers = key.data
            data += sock.recv(65536)
            while len(data) >= 4 and len(data) >= (size := 4 + int.from_bytes(data[:4], "big")):
                assert OK in data[:size], data[:size]
                data = data[size:]
                answers += 1
            if answers == depth:
                answers = 0
                sock.sendall(frames)
            key.data[1:] = data, answers


def busy() -> None:
    """Use as much of a processor as a flood does, and ask the daemon nothing."""
    here, there = socket.socketpair()
    while True:
        here.sendall(FRAME)
        there.recv(65536)


def connecting(path: str) -> None:
    """Connect and leave, for ever."""
    while True:
        with socket.socket(socket.AF_UNIX) as sock:
            try:
                sock.connect(path)
            except BlockingIOError:
                continue


FLOODS: dict[str, Callable[[str], None]] = {
    "64 connections, one request each": lambda path: closed_loop(path, 64),
    "64 connections, 16 requests each": lambda path: closed_loop(path, 64, 16),
    "connecting and leaving": connecting,
}


def honest(path: str, seconds: float, report: int, token: bytes = bytes(32)) -> None:
    """One request at a time with a short pause, as an agent does; latencies in microseconds to `report`."""
    sock = connect(path)
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        started = time.monotonic_ns()
        sock.sendall(lease(1, token, purpose=str(started)))
        answer = sock.recv(4096)
        assert OK in answer, answer
        os.write(report, struct.pack("=d", (time.monotonic_ns() - started) / 1000))
        time.sleep(0.001)


def measured(ask: Callable[[int], None]) -> list[float]:
    """What `ask` reports from a process of the honest uid, sorted."""
    read, write = os.pipe()
    pid = child(lambda: ask(write), HONEST)
    os.close(write)
    with open(read, "rb") as file:
        found = unpacked(file.read())
    os.waitpid(pid, 0)
    return found


class Figures:
    """The latencies of one phase, in microseconds, sorted."""

    def __init__(self, path: str, seconds: float) -> None:
        in_daemon = os.path.join(os.path.dirname(path), "report")
        os.truncate(in_daemon, 0)
        self.caller = measured(lambda report: honest(path, seconds, report))
        with open(in_daemon, "rb") as file:
            self.daemon = unpacked(file.read())


def unpacked(data: bytes) -> list[float]:
    return sorted(value for (value,) in struct.iter_unpack("=d", data))


def end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--check", action="store_true", help="exit 1 where the claim does not hold")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("fairness: needs root, to run two callers under two uids", file=sys.stderr)
        return 77
    directory = tempfile.mkdtemp(prefix="vaultd-fairness-")
    os.chmod(directory, 0o755)  # noqa: S103  both uids must get there
    server = child(lambda: asyncio.run(serve(directory)))
    path = f"{directory}/s"
    while (
        not os.path.exists(path) or not os.path.exists(f"{directory}/report") or os.stat(path).st_mode & 0o777 != 0o660
    ):
        time.sleep(0.01)
    held = True
    try:
        print(f"{'':<36}{'daemon':>16}{'caller':>18}\n{'beside':<36}{'p50':>8}{'p99':>8}{'p50':>10}{'p99':>8}{'n':>8}")
        for name, flood in FLOODS.items():
            idle = Figures(path, options.seconds)
            pid = child(busy, FLOODING)
            alone = Figures(path, options.seconds)
            end(pid)
            pid = child(lambda flood=flood: flood(path), FLOODING)
            time.sleep(0.5)
            beside = Figures(path, options.seconds)
            end(pid)
            grown = at(beside.daemon, 0.99) / at(alone.daemon, 0.99)
            held = held and grown <= 2
            row("nobody", idle)
            row("a busy process that asks nothing", alone)
            row(name, beside, f"   {grown:.1f} x p99 in the daemon")
    finally:
        end(server)
        shutil.rmtree(directory)
    held = real(options.seconds) and held
    return 1 if options.check and not held else 0


def real(seconds: float) -> bool:
    """The same of the whole daemon: leases of two tenants, by a run each. Whether the claim holds."""

    def opened(tenant: str) -> bytes:
        client = Client(world.socket, environ={})
        return bytes(client.run(tenant, scope=["openai/*"]).__enter__().token)  # for as long as the process lives

    def ask(report: int) -> None:
        honest(world.socket, seconds, report, opened("globex"))

    held = True
    with World(config=UNLIMITED) as world:
        print(f"\n{'the real daemon, at the caller, beside':<52}{'p50':>8}{'p99':>8}{'n':>8}")
        for depth in (1, 16):
            pid = child(busy, FLOODING)
            alone = measured(ask)
            end(pid)
            pid = child(lambda depth=depth: closed_loop(world.socket, 64, depth, opened("acme")), FLOODING)
            time.sleep(0.5)
            beside = measured(ask)
            end(pid)
            grown = at(beside, 0.99) / at(alone, 0.99)
            held = held and grown <= 2
            for name, found in (
                ("a busy process that asks nothing", alone),
                (f"64 connections, leasing, {depth} at once each", beside),
            ):
                print(f"{name:<52}{at(found, 0.5):>8.0f}{at(found, 0.99):>8.0f}{len(found):>8}", end="")
                print(f"   {grown:.1f} x p99" if found is beside else "", flush=True)
    return held


def row(name: str, figures: Figures, note: str = "") -> None:
    daemon, caller = figures.daemon, figures.caller
    print(
        f"{name:<36}{at(daemon, 0.5):>8.0f}{at(daemon, 0.99):>8.0f}{at(caller, 0.5):>10.0f}{at(caller, 0.99):>8.0f}"
        f"{len(caller):>8}{note}",
        flush=True,
    )


def at(values: list[float], share: float) -> float:
    return values[min(len(values) - 1, int(len(values) * share))]


if __name__ == "__main__":
    sys.exit(main())
