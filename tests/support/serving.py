"""A running server for tests: real sockets and processes, a handler and a ledger with simple, complete behaviour."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import select
import shutil
import signal
import socket
import tempfile
import threading
import warnings
from typing import TYPE_CHECKING, Any, Self, TypeVar

from vaultd.clock import SystemClock
from vaultd.crypto.memory import SecretBytes
from vaultd.daemon.config import Limits
from vaultd.daemon.handling import Answer, Deferred, Handler
from vaultd.daemon.kernel import Kernel
from vaultd.daemon.listener import listen
from vaultd.daemon.memfd import sealed_memfd
from vaultd.daemon.server import Server
from vaultd.errors import Denied, Unsupported, VaultdError
from vaultd.protocol.connection import Connection as Wire
from vaultd.protocol.connection import Role
from vaultd.protocol.messages import Push, Reply, Request

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaultd.clock import Clock
    from vaultd.daemon.connection import Connection

T = TypeVar("T")

VALUE = b"the value of the secret"


class Ledger:
    """A committer in memory: staged, then durable. A test can hold a flush back, or make it fail."""

    def __init__(self) -> None:
        self.staged: list[str] = []
        self.durable: list[str] = []
        self.batches: list[int] = []
        self.open = threading.Event()
        self.open.set()
        self.fails: BaseException | None = None
        self.halted = False

    @property
    def dirty(self) -> bool:
        return bool(self.staged)

    def stage(self, record: str) -> None:
        self.staged.append(record)

    def take(self) -> list[str]:
        batch, self.staged = self.staged, []
        return batch

    def write(self, batch: list[str]) -> None:
        assert self.open.wait(20), "the test never let the flush go on"
        if self.fails is not None:
            raise self.fails

    def finish(self, batch: list[str], error: BaseException | None) -> None:
        if error is None:
            self.durable += batch
            self.batches.append(len(batch))
        else:
            self.halted = True


class Step:
    """A pending answer made by a function of the flush's error."""

    def __init__(self, complete: Callable[[VaultdError | None], Answer], *, descriptor: bool = False) -> None:
        self.complete = complete
        self.descriptor = descriptor


def answered(keys: dict[str, Any]) -> Step:
    """Answer with `keys` if the flush succeeded."""

    def complete(error: VaultdError | None) -> Answer:
        if error is not None:
            raise error
        return Answer(keys)

    return Step(complete)


class Small(Handler):
    """Enough verbs to see each way that a request can go."""

    def __init__(self, ledger: Ledger, kernel: Kernel) -> None:
        self.ledger = ledger
        self.kernel = kernel
        self.live: list[Connection] = []
        self.seen: list[str] = []
        self.counted = 0
        self.deferred: list[Deferred] = []
        self.value: bytes = VALUE
        self.opened: list[SecretBytes] = []
        self.tails: list[bytearray] = []

    def connected(self, connection: Connection) -> None:
        self.live.append(connection)

    def disconnected(self, connection: Connection) -> None:
        self.live.remove(connection)

    def malformed(self, connection: Connection, message: str) -> None:
        self.counted += 1

    def handle(self, connection: Connection, request: Request) -> Step | Deferred:
        self.seen.append(request.op)
        self.tails.append(request.tail)
        match request.op:
            case "status":
                facts = connection.facts
                you = {"uid": facts.uid, "gid": facts.gid, "pid": facts.pid}
                return answered({
                    "state": "sealed", "version": "0", "protocol": 1, "kernel": self.kernel.features.table(), "you": you
                })  # fmt: skip
            case "lease.acquire":
                self.ledger.stage(f"acquire {request.id}")
                return self._lease(request)
            case "lease.release":
                self.ledger.stage(f"denied {request.id}")
                raise Denied("not allowed, or not there")
            case "lease.renew":
                raise ZeroDivisionError("sk-live-0123456789 must not be seen")
            case "seal":
                self.ledger.stage("seal")
                return Step(lambda error: Answer({"recorded": error is None}))
            case "secret.put":
                self.ledger.stage("put")
                return answered({"version": len(request.tail)})
            case "audit.show":
                self.deferred.append(Deferred())
                return self.deferred[-1]
            case "subscribe":
                return answered({})
        raise Unsupported("not in this test")

    def _lease(self, request: Request) -> Step:
        keys = {"lease": "lease_x", "secret": request.keys["secret"], "version": 1, "expires_in": 300, "max_ttl": 300}
        keys["delivery"] = "fd"
        memfd = request.keys.get("memfd", False)

        def complete(error: VaultdError | None) -> Answer:
            if error is not None:
                raise error
            if memfd:
                return Answer(keys, descriptor=sealed_memfd(self.value, self.kernel.features))
            secret = SecretBytes.copy_of(self.value)
            self.opened.append(secret)
            return Answer(keys, secret=secret)

        return Step(complete, descriptor=memfd)


class Caller:
    """A blocking client of the raw protocol, with a limit on every wait."""

    def __init__(self, path: str | None = None, *, sock: socket.socket | None = None, timeout: float = 10) -> None:
        self.socket = sock or socket.socket(socket.AF_UNIX)
        if path is not None:
            try:
                self.socket.connect(path)  # without a time limit: with one, a full backlog is an error and no wait
            except OSError:
                self.socket.close()
                raise
        self.socket.settimeout(timeout)
        self.wire = Wire(Role.CLIENT)
        self.descriptors: list[int] = []

    def send(self, op: str, keys: dict[str, Any] | None = None, tail: bytes = b"") -> int:
        number, frame = self.wire.request(op, keys or {}, tail=tail)
        self.socket.sendall(frame)
        return number

    def receive(self) -> Reply | Push:
        while (event := self.wire.next_event()) is None:
            data, descriptors, _flags, _address = socket.recv_fds(self.socket, len(self.wire.get_buffer()), 8)
            self.descriptors += descriptors
            if not data:
                raise EOFError
            self.wire.receive_data(data)
        return event

    def call(self, op: str, keys: dict[str, Any] | None = None, tail: bytes = b"") -> Reply:
        number = self.send(op, keys, tail)
        while True:
            reply = self.receive()
            if isinstance(reply, Reply) and (reply.id == number or reply.id is None):
                return reply

    def is_closed(self) -> bool:
        """Wait for the other side to close; False when it says something else first."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self.socket.close()
        for descriptor in self.descriptors:
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


LEASE = {"secret": "openai/prod"}


class Running:
    """A server in a thread of its own, in a directory that every uid can reach."""

    def __init__(
        self,
        *,
        limits: Limits | None = None,
        kernel: Kernel | None = None,
        clock: Clock | None = None,
        group: int | None = None,
        handler: Callable[[Ledger, Kernel], Handler] | None = None,
        inline_cost: float = 0,
    ) -> None:
        self.directory = tempfile.mkdtemp(prefix="vaultd-test-", dir="/tmp")
        os.chmod(self.directory, 0o755)  # noqa: S103  other uids must get there
        self.path = os.path.join(self.directory, "v.sock")
        self.limits = limits or Limits()
        self.kernel = kernel or Kernel()
        self.kernel.probe()
        self.ledger = Ledger()
        self.handler: Any = (handler or Small)(self.ledger, self.kernel)
        self._clock = clock or SystemClock()
        self._group = group
        self._inline_cost = inline_cost
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="server")
        self._thread.start()
        assert self._started.wait(10)
        if self._failure is not None:
            self._thread.join()
            shutil.rmtree(self.directory)
            raise self._failure

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        self.loop = asyncio.get_running_loop()
        try:
            listener = listen(self.path, self.kernel, group=self._group)
            self.server = Server(
                listener,
                self.handler,
                self.ledger,
                kernel=self.kernel,
                clock=self._clock,
                limits=self.limits,
                inline_cost=self._inline_cost,
            )
            self.server.start()
        except BaseException as error:  # noqa: BLE001  shown to the test
            self._failure = error
            return
        finally:
            self._started.set()
        await self._stop.wait()
        await self.server.stop()

    def run(self, function: Callable[[], T]) -> T:
        """Call `function` in the server's loop and return its result."""
        answer: list[T] = []
        done = threading.Event()

        def call() -> None:
            try:
                answer.append(function())
            finally:
                done.set()

        self.loop.call_soon_threadsafe(call)
        assert done.wait(10)
        return answer[0]

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds in the server's loop; looked at after each turn of it."""
        done = threading.Event()

        def look() -> None:
            if condition():
                done.set()
            else:
                self.loop.call_later(0.001, look)

        self.loop.call_soon_threadsafe(look)
        assert done.wait(10), "it never happened"

    def caller(self, **options: Any) -> Caller:
        return Caller(self.path, **options)

    def stop(self) -> None:
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(20)
            assert not self._thread.is_alive(), "the server does not stop"
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.ledger.open.set()
        self.stop()


def fork() -> int:
    """fork(2); Python warns of it where threads run, and every child here only makes system calls and leaves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


class Child:
    """A forked process that runs one function, under another uid if asked; its result comes back by pipe."""

    def __init__(
        self,
        function: Callable[[], Any],
        *,
        uid: int | None = None,
        groups: tuple[int, ...] = (),
        keep: tuple[int, ...] = (),
    ) -> None:
        read, write = os.pipe()
        self.pid = fork()
        if self.pid == 0:
            code = 1
            try:
                os.dup2(write, 3)
                for descriptor in range(4, 4096):  # the server's sockets, above all: they would stay open with us
                    if descriptor not in keep:
                        with contextlib.suppress(OSError):
                            os.close(descriptor)
                if uid is not None:
                    os.setgroups(groups)
                    os.setresgid(uid, uid, uid)
                    os.setresuid(uid, uid, uid)
                try:
                    result = (True, function())
                except BaseException as error:  # noqa: BLE001  shown to the test
                    result = (False, f"{type(error).__name__}: {error}")
                os.write(3, pickle.dumps(result))
                code = 0
            finally:
                os._exit(code)
        os.close(write)
        self._pipe = read

    def result(self) -> Any:
        """What the function returned; raises AssertionError with what it raised."""
        data = b""
        while True:
            ready, _, _ = select.select([self._pipe], [], [], 20)
            assert ready, "the child does not end"
            part = os.read(self._pipe, 65536)
            if not part:
                break
            data += part
        os.close(self._pipe)
        self.wait()
        assert data, "the child ended without a result"
        fine, value = pickle.loads(data)  # noqa: S301  our own child wrote it
        assert fine, value
        return value

    def wait(self) -> None:
        os.waitpid(self.pid, 0)


class Paused:
    """A forked process that does nothing until it is killed; killed and reaped at the end of the block."""

    def __init__(self, uid: int | None = None) -> None:
        self.pid = fork()
        if self.pid == 0:
            os.closerange(3, 65536)
            if uid is not None:
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
            signal.pause()
            os._exit(0)
        self._alive = True

    def kill(self) -> None:
        """End it now, by SIGKILL."""
        if self._alive:
            self._alive = False
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
