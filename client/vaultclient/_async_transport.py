"""One asyncio connection to the daemon that many requests share: replies find their request by id, in any order.

Not a stream or a transport of asyncio's: those cannot receive descriptors and keep copies of what they send.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from vaultclient._address import check_server
from vaultclient._calls import REPEATABLE, RETRIED_CODES, Answer, error_of
from vaultclient._transport import ROOM_FOR_ONE, Descriptors, lost, no_daemon
from vaultclient.errors import ProtocolError, TimedOut, Unavailable, VaultError
from vaultd.protocol import (
    MAX_OUTSTANDING,
    Connection,
    LocalProtocolError,
    Push,
    RemoteProtocolError,
    Reply,
    Role,
    wipe,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

__all__ = ["AsyncChannel"]

_AT_ONCE: Final = MAX_OUTSTANDING // 2
"""Requests on their way at once; the other half is room for acknowledgements, which nobody waits for."""


class AsyncChannel:
    """A connection that is made when first needed and again when it was lost; belongs to one event loop."""

    def __init__(
        self,
        path: str,
        *,
        timeout: float,
        retry_for: float,
        on_push: Callable[[Push], object],
        on_lost: Callable[[VaultError], object],
        pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.path = path
        self.timeout = timeout
        self.retry_for = retry_for
        self._on_push = on_push
        self._on_lost = on_lost
        self._pause = pause
        self._socket: socket.socket | None = None
        self._connection = Connection(Role.CLIENT)
        self._descriptors = Descriptors()
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self._unsent: deque[tuple[int, bytearray, int, bool]] = deque()  # id, frame, bytes sent, whether to wipe it
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._connecting = asyncio.Lock()
        self.generation = 0
        """How many connections were made so far."""

    @property
    def connected(self) -> bool:
        """Whether a connection is open."""
        return self._socket is not None

    async def connect(self) -> None:
        """Connect, unless connected.

        Raises:
            Unavailable: nobody answers.
            UntrustedServer: somebody does who must not be told anything.
        """
        async with self._connecting:
            if self._socket is not None:
                return
            connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
            try:
                while True:
                    try:
                        connected.connect(self.path)
                        break
                    except BlockingIOError:  # the daemon's queue is full; a Unix socket gives no sign when it is not
                        await self._pause(0.01)
                check_server(connected, self.path)
            except OSError as error:
                connected.close()
                raise no_daemon(self.path, error) from None
            except BaseException:
                connected.close()
                raise
            self._socket = connected
            self._connection = Connection(Role.CLIENT)
            self.generation += 1
            asyncio.get_running_loop().add_reader(connected, self._readable, connected)

    async def call(
        self,
        op: str,
        keys: Mapping[str, Any],
        *,
        run: bytes | None = None,
        tail: bytes | bytearray | memoryview = b"",
        timeout: float | None = None,  # noqa: ASYNC109  part of the interface that both clients share
    ) -> Answer:
        """Ask and wait; other requests go on meanwhile. Raises as `Channel.call` does."""
        limit = timeout if timeout is not None else self.timeout
        now = asyncio.get_running_loop().time
        give_up, wait = now() + self.retry_for, 0.05
        while True:
            outcome = await self._attempt(op, keys, run, tail, limit)
            if isinstance(outcome, Answer):
                return outcome
            error, again = outcome
            if not again or now() + wait > give_up:
                raise error
            await self._pause(wait)
            wait = min(wait * 2, 1.0)

    def close(self) -> None:
        """End the connection; requests that wait fail with `Unavailable`."""
        self._break(lost("closed here"), tell=False)

    async def _attempt(
        self, op: str, keys: Mapping[str, Any], run: bytes | None, tail: bytes | bytearray | memoryview, limit: float
    ) -> Answer | tuple[VaultError, bool]:
        sent = False
        try:
            async with asyncio.timeout(limit), self._slots:
                reused = self.connected
                while True:
                    await self.connect()
                    answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
                    self._ask(op, keys, run, tail, answer)
                    sent = True
                    try:
                        return await answer
                    except _NotSent:
                        sent = False
                        if not reused:
                            raise
                        reused = False  # the old connection was closed: once more over a new one
        except TimeoutError:
            raise TimedOut(
                f"the daemon did not answer within {limit:g} s", "whether it did what was asked is not known"
            ) from None
        except _Refused as refused:
            return (
                refused.error,
                refused.error.code in RETRIED_CODES,
            )  # a refusal did nothing: any request may be repeated
        except Unavailable as error:
            return error, not sent or op in REPEATABLE

    def _ask(
        self,
        op: str,
        keys: Mapping[str, Any],
        run: bytes | None,
        tail: bytes | bytearray | memoryview,
        answer: asyncio.Future[Answer] | None,
    ) -> None:
        try:
            id_, frame = self._connection.request(op, keys, run=run, tail=tail)
        except LocalProtocolError as error:
            raise ProtocolError(error.message, "the request was not sent") from None
        if answer is not None:
            self._waiting[id_] = answer
        self._unsent.append((id_, frame, 0, len(tail) > 0))
        if len(self._unsent) == 1:
            self._send()

    def _send(self) -> None:
        """Send what the socket takes now; the rest when it takes more."""
        opened = self._socket
        if opened is None:
            return
        loop = asyncio.get_running_loop()
        try:
            while self._unsent:
                id_, frame, done, secret = self._unsent[0]
                done += opened.send(memoryview(frame)[done:])
                if done < len(frame):
                    self._unsent[0] = (id_, frame, done, secret)
                    continue
                if secret:
                    wipe(frame)
                self._unsent.popleft()
        except BlockingIOError:
            loop.add_writer(opened, self._send)
            return
        except OSError as error:
            self._break(lost(error.strerror or ""))
            return
        loop.remove_writer(opened)

    def _readable(self, opened: socket.socket) -> None:
        try:
            count, ancillary, flags, _ = opened.recvmsg_into(
                [self._connection.get_buffer()], ROOM_FOR_ONE, socket.MSG_CMSG_CLOEXEC
            )
            if ancillary or flags & socket.MSG_CTRUNC:
                self._descriptors.receive(ancillary, flags)
            if count == 0:
                self._break(lost())
                return
            self._connection.buffer_updated(count)
            while opened is self._socket:
                event = self._connection.next_event()
                if event is None:
                    break
                if isinstance(event, Push):
                    self._on_push(event)
                elif isinstance(event, Reply):
                    self._answered(event)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._break(lost(error.strerror or ""))
        except RemoteProtocolError as error:
            self._break(ProtocolError(error.message, "is this daemon of the same version?"))
        except VaultError as error:
            self._break(error)

    def _answered(self, reply: Reply) -> None:
        if reply.id is None:
            raise error_of(reply)
        future = self._waiting.pop(reply.id, None)
        if future is None:  # an acknowledgement's
            if not reply.ok:
                raise RemoteProtocolError("the daemon refuses the acknowledgement of a descriptor")
            return
        if not reply.ok:
            if not future.done():
                future.set_exception(_Refused(error_of(reply)))
            return
        descriptor = None
        if reply.descriptor:
            descriptor = self._descriptors.take()
            self._ask("ack", {"of": reply.id}, None, b"", None)
        elif not self._connection.decoder.buffered:
            self._descriptors.expect_none()
        answer = Answer(reply.keys, reply.tail, descriptor, pipe=reply.pipe)
        if future.done():  # nobody waits any more: cancelled, or too late
            answer.close()
        else:
            future.set_result(answer)

    def _break(self, error: VaultError, *, tell: bool = True) -> None:
        """The connection is over: whoever waits is told."""
        opened, self._socket = self._socket, None
        if opened is None:
            return
        with contextlib.suppress(RuntimeError):  # the loop may be closed already when the client is closed late
            loop = asyncio.get_running_loop()
            loop.remove_reader(opened)
            loop.remove_writer(opened)
        opened.close()
        self._connection.forget()
        self._descriptors.close()
        waiting, self._waiting = self._waiting, {}
        for id_, frame, _, secret in self._unsent:
            if secret:
                wipe(frame)
            future = waiting.pop(id_, None)
            if future is not None and not future.done():
                future.set_exception(_NotSent(error.message, error.hint, code=error.code))
        self._unsent.clear()
        for future in waiting.values():
            if not future.done():
                future.set_exception(error)
        if tell:
            self._on_lost(error)


class _NotSent(Unavailable):
    """The connection ended before the request had gone out whole: it cannot have been done."""


class _Refused(Exception):
    """Carries a daemon's refusal to the request that waits, apart from errors of the connection itself."""

    def __init__(self, error: VaultError) -> None:
        super().__init__(error.message)
        self.error = error
