"""One blocking connection to the daemon: connect, check who listens, ask, wait for the answer.

A `Channel` serves one request at a time; a lock makes it usable from several threads. What a broken connection means
is explicit: connecting is tried for `retry_for` seconds, and only a request that may be done twice is sent again.
"""

from __future__ import annotations

import array
import contextlib
import os
import select
import socket
import struct
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from vaultclient._address import check_server
from vaultclient._calls import REPEATABLE, RETRIED_CODES, Answer, error_of
from vaultclient.errors import ProtocolError, TimedOut, Unavailable, VaultError
from vaultd.protocol import Connection, LocalProtocolError, Push, RemoteProtocolError, Reply, Role, wipe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

__all__ = ["ROOM_FOR_ONE", "Channel", "Descriptors", "lost", "no_daemon"]

ROOM_FOR_ONE: Final = socket.CMSG_SPACE(4)
"""Ancillary space for one descriptor: the protocol sends one at a time, and the kernel drops what does not fit."""


def no_daemon(path: str, error: OSError) -> Unavailable:
    """The error for a socket that nobody answers at."""
    if isinstance(error, PermissionError):
        return Unavailable(
            f"this user may not connect to {path}: permission denied",
            "those in the socket's group may: add the user to it (usermod --append --groups), then log in anew",
        )
    reason = (error.strerror or type(error).__name__).lower()
    return Unavailable(f"no daemon answers at {path}: {reason}", "is vaultd running, and is this its socket?")


def lost(reason: str = "") -> Unavailable:
    """The error for a connection that ended under a request."""
    return Unavailable(
        "the daemon closed the connection" + (f": {reason}" if reason else ""),
        "whether it did what was asked is not known: look before you repeat it",
    )


class Descriptors:
    """The descriptor that came ahead of its reply: at most one, closed unless taken."""

    __slots__ = ("_held", "dropped")

    def __init__(self) -> None:
        self._held: int | None = None
        self.dropped = False

    def receive(self, ancillary: list[tuple[int, int, bytes]], flags: int) -> None:
        """Take over what `recvmsg` gave; more than one is against the protocol and all are closed.

        Raises:
            ProtocolError: more came than may.
        """
        came = array.array("i")
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                came.frombytes(data[: len(data) - len(data) % came.itemsize])
        if flags & socket.MSG_CTRUNC:
            self.dropped = True  # this process has no descriptor free, or more than one was sent
        for descriptor in came:
            if self._held is None and len(came) == 1:
                self._held = descriptor
            else:
                os.close(descriptor)
                self.dropped = True
        if len(came) > 1 or (came and self._held not in came):
            raise ProtocolError("the daemon sent more descriptors than were asked for")

    def take(self) -> int:
        """The descriptor that belongs to a reply with `memfd` or `pipe`.

        Raises:
            Unavailable: the kernel dropped it on the way.
            ProtocolError: the daemon sent none.
        """
        descriptor, self._held = self._held, None
        if descriptor is not None:
            return descriptor
        if self.dropped:
            self.dropped = False
            raise Unavailable("the value's descriptor was lost on the way", "this process has too many files open")
        raise ProtocolError("the daemon announced a descriptor and sent none")

    def close(self) -> None:
        """Close what was not taken."""
        descriptor, self._held = self._held, None
        self.dropped = False
        if descriptor is not None:
            os.close(descriptor)

    def expect_none(self) -> None:
        """Refuse a descriptor that no reply announced."""
        if self._held is not None:
            self.close()
            raise ProtocolError("the daemon sent a descriptor that no reply announces")


class Channel:
    """A connection that is made when first needed, and made anew when it was lost or the process forked."""

    def __init__(
        self,
        path: str,
        *,
        timeout: float,
        retry_for: float = 0.0,
        pause: Callable[[float], object] = time.sleep,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self.timeout = timeout
        self.retry_for = retry_for
        self.pushes: deque[Push] = deque(maxlen=4_096)
        self._pause = pause
        self._now = now
        self._lock = threading.RLock()
        self._socket: socket.socket | None = None
        self._connection = Connection(Role.CLIENT)
        self._descriptors = Descriptors()
        self._owner = 0
        self.generation = 0
        """How many connections were made so far: a change means that a daemon may have restarted in between."""

    @property
    def connected(self) -> bool:
        """Whether a connection is open."""
        return self._socket is not None and self._owner == os.getpid()

    def fileno(self) -> int:
        """The open connection's descriptor, for poll."""
        if self._socket is None:
            raise lost()
        return self._socket.fileno()

    def connect(self, timeout: float | None = None) -> None:
        """Connect, once.

        Raises:
            Unavailable: nobody answers.
            UntrustedServer: somebody does who must not be told anything.
        """
        with self._lock:
            self.close()
            connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            limit = timeout if timeout is not None else self.timeout
            try:
                # In the kernel, as a connect that does not block fails at once where the daemon's queue is full.
                seconds = int(limit)
                span = struct.pack("@ll", seconds, max(1, int((limit - seconds) * 1_000_000)))
                connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, span)
                connected.connect(self.path)
                connected.settimeout(limit)
                check_server(connected, self.path)
            except OSError as error:
                connected.close()
                raise no_daemon(self.path, error) from None
            except BaseException:
                connected.close()
                raise
            self._socket, self._owner = connected, os.getpid()
            self._connection = Connection(Role.CLIENT)
            self.generation += 1

    def close(self) -> None:
        """End the connection and wipe what was received on it."""
        with self._lock:
            # In a forked child this closes the child's copy only: the parent's connection stays whole.
            open_socket, self._socket = self._socket, None
            if open_socket is not None:
                open_socket.close()
            self._connection.forget()
            self._descriptors.close()

    def interrupt(self) -> None:
        """Make whoever waits on the connection, in another thread, find it closed."""
        opened = self._socket
        if opened is not None:
            with contextlib.suppress(OSError):  # closed already
                opened.shutdown(socket.SHUT_RDWR)

    def call(
        self,
        op: str,
        keys: Mapping[str, Any],
        *,
        run: bytes | None = None,
        tail: bytes | bytearray | memoryview = b"",
        timeout: float | None = None,
    ) -> Answer:
        """Ask and wait.

        Raises:
            VaultError: the daemon's refusal, by its code; `Unavailable` and `TimedOut` where it did not answer;
                `ProtocolError` where either side broke the protocol.
        """
        limit = timeout if timeout is not None else self.timeout
        wait = 0.05
        with self._lock:
            give_up = self._now() + self.retry_for
            while True:
                outcome = self._attempt(op, keys, run, tail, limit)
                if isinstance(outcome, Answer):
                    return outcome
                error, again = outcome
                if not again or self._now() + wait > give_up:
                    raise error
                self._pause(wait)
                wait = min(wait * 2, 1.0)

    def held(self) -> AbstractContextManager[object]:
        """Keep other threads out between several calls."""
        return self._lock

    def wait_for_pushes(self) -> None:
        """Wait, for as long as it takes, until something comes; then as `receive_pushes`."""
        select.select([self._open()], [], [])
        self.receive_pushes()

    def receive_pushes(self) -> None:
        """Take what has come without being asked for, into `pushes`; does not wait.

        Raises:
            Unavailable: the connection ended.
            ProtocolError: the daemon broke the protocol.
        """
        with self._lock:
            try:
                self._receive(0.0)
            except BlockingIOError:
                pass
            except OSError as error:
                self.close()
                raise lost(error.strerror or "") from None
            except BaseException:
                self.close()
                raise
            self._take_pushes()

    def _attempt(
        self, op: str, keys: Mapping[str, Any], run: bytes | None, tail: bytes | bytearray | memoryview, limit: float
    ) -> Answer | tuple[VaultError, bool]:
        """One try: the answer, or what went wrong and whether trying again can help and cannot do it twice."""
        until = self._now() + limit
        try:
            id_ = self._ask(op, keys, run, tail, until)
        except Unavailable as error:
            return error, True  # nobody was there, or the frame did not go out whole: nothing can have been done
        except TimeoutError:
            raise self._timed_out(limit) from None
        try:
            reply = self._await(id_, until)
            if not reply.ok:
                if reply.id is None:
                    self.close()
                refusal = error_of(reply)
                return refusal, refusal.code in RETRIED_CODES  # a refusal did nothing: any request may be repeated
            return Answer(reply.keys, reply.tail, self._take_descriptor(reply, until), pipe=reply.pipe)
        except TimeoutError:
            raise self._timed_out(limit) from None
        except OSError as error:
            self.close()
            return lost(error.strerror or ""), op in REPEATABLE
        except RemoteProtocolError as error:
            self.close()
            raise ProtocolError(error.message, "is this daemon of the same version?") from None
        except BaseException:
            self.close()  # stopped in the middle: what comes next on this connection is nobody's answer
            raise

    def _ask(
        self,
        op: str,
        keys: Mapping[str, Any],
        run: bytes | None,
        tail: bytes | bytearray | memoryview,
        until: float,
    ) -> int:
        """Send one request and return its id; over a new connection when the old one turns out to be closed."""
        reused = self.connected
        while True:
            if not self.connected:
                self.connect(self._left(until))
            try:
                id_, frame = self._connection.request(op, keys, run=run, tail=tail)
            except LocalProtocolError as error:
                raise ProtocolError(error.message, "the request was not sent") from None
            try:
                self._send(frame, until)
            except TimeoutError:
                raise
            except OSError as error:
                self.close()
                if not reused:
                    raise lost(error.strerror or "") from None
                reused = False
            except BaseException:
                self.close()
                raise
            else:
                return id_
            finally:
                if tail:
                    wipe(frame)

    def _timed_out(self, limit: float) -> TimedOut:
        self.close()  # a late answer must not be taken for the next request's
        return TimedOut(f"the daemon did not answer within {limit:g} s", "whether it did what was asked is not known")

    def _open(self) -> socket.socket:
        if self._socket is None:
            raise lost()
        return self._socket

    def _send(self, frame: bytearray, until: float) -> None:
        opened = self._open()
        opened.settimeout(self._left(until))
        opened.sendall(frame)

    def _await(self, id_: int, until: float) -> Reply:
        while True:
            event = self._connection.next_event()
            if event is None:
                self._receive(self._left(until))
            elif isinstance(event, Push):
                self.pushes.append(event)
            elif isinstance(event, Reply):
                if event.id == id_ or event.id is None:
                    return event
                if not event.ok:  # the only other request on its way is an acknowledgement
                    raise RemoteProtocolError("the daemon refuses the acknowledgement of a descriptor")

    def _take_pushes(self) -> None:
        while True:
            try:
                event = self._connection.next_event()
            except RemoteProtocolError as error:
                self.close()
                raise ProtocolError(error.message) from None
            if event is None:
                return
            if isinstance(event, Push):
                self.pushes.append(event)
            elif isinstance(event, Reply) and not event.ok:
                self.close()
                raise error_of(event)

    def _receive(self, timeout: float) -> None:
        opened = self._open()
        opened.settimeout(timeout)
        count, ancillary, flags, _ = opened.recvmsg_into(
            [self._connection.get_buffer()], ROOM_FOR_ONE, socket.MSG_CMSG_CLOEXEC
        )
        if ancillary or flags & socket.MSG_CTRUNC:
            self._descriptors.receive(ancillary, flags)
        if count == 0:
            raise ConnectionResetError(0, "")
        self._connection.buffer_updated(count)

    def _take_descriptor(self, reply: Reply, until: float) -> int | None:
        if not reply.descriptor:
            if not self._connection.decoder.buffered:
                self._descriptors.expect_none()
            return None
        descriptor = self._descriptors.take()
        try:
            _, frame = self._connection.request("ack", {"of": reply.id})
            self._send(frame, until)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _left(self, until: float) -> float:
        left = until - self._now()
        if left <= 0:
            raise TimeoutError
        return left
