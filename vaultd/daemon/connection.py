"""One accepted connection: bytes in and out of a non-blocking socket, driven by the event loop's readiness.

This is the part of a transport that we do ourselves, because a library's would keep what it cannot send at once in
buffers of its own, where a secret could neither be wiped nor be kept apart from a descriptor (decisions.md, 1). Here a
frame that holds a value stays in one bytearray from its making until it is sent, and is zeroed then; and a value is
only opened when the socket has taken everything before it.
"""

from __future__ import annotations

import logging
import os
import socket
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from vaultd.errors import Denied, Internal
from vaultd.protocol.codes import CODES
from vaultd.protocol.connection import MAX_OUTSTANDING, Role
from vaultd.protocol.connection import Connection as Wire
from vaultd.protocol.errors import ProtocolError, RemoteProtocolError
from vaultd.protocol.framing import wipe

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

    from vaultd.access.facts import PeerFacts
    from vaultd.clock import Clock
    from vaultd.daemon.anchors import Watch
    from vaultd.daemon.dispatch import Dispatcher
    from vaultd.daemon.handling import Ticket
    from vaultd.daemon.processes import HeldProcess
    from vaultd.protocol.messages import Malformed, Request

__all__ = ["Connection"]

_log = logging.getLogger(__name__)

MAX_UNREAD: Final = 262_144
"""Bytes of pushes and answers that a peer may leave unread; a slower subscriber is let go and may ask again."""


class _Output:
    """One frame on its way out."""

    __slots__ = ("descriptor", "frame", "secret", "sent")

    def __init__(self, frame: bytearray, descriptor: int | None, *, secret: bool) -> None:
        self.frame = frame
        self.descriptor = descriptor
        self.secret = secret
        self.sent = 0

    def discard(self) -> None:
        """Zero the value, close the descriptor: it was sent, or never will be."""
        if self.secret:
            wipe(self.frame)
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


class Connection:
    """A peer's connection, as the handler sees it: who it is, and a way to push events to it.

    Attributes:
        facts: what the kernel said of the peer when it connected.
        context: the handler's own place for what belongs to this connection (an upload, a subscription).
        closed: whether it is over; `push` then does nothing.
    """

    def __init__(
        self,
        sock: socket.socket,
        facts: PeerFacts,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        dispatcher: Dispatcher,
        on_close: Callable[[Connection], None],
        *,
        most_in_flight: int,
    ) -> None:
        self.facts = facts
        self.uid = facts.uid
        self.context: Any = None
        self.closed = False
        self.wire = Wire(Role.SERVER)
        self.held: deque[Ticket] = deque()
        """Decided requests whose answers wait until the peer has read what came before."""
        self.queued = False
        """Whether the dispatcher has this connection in its queue of turns."""
        self.frame_since: int | None = None
        """Boot time (ns) at which the frame that is now incomplete began."""
        self.stalled_since: int | None = None
        """Boot time (ns) since which the peer has left something unread or unacknowledged."""
        self.on_hold = False
        """Whether the next request waits for something slow: what comes meanwhile stays in the kernel's buffer."""
        self.watch: Watch | None = None
        """Watches the process that connected; set right after attestation."""
        self._socket = sock
        self._fd = sock.fileno()
        self._loop = loop
        self.clock = clock
        self._dispatcher = dispatcher
        self._on_close = on_close
        self._most_in_flight = most_in_flight
        self._output: deque[_Output] = deque()
        self._unread = 0
        self._reading = False
        self._has_frame = False
        self._ending = False
        self._last_word = False

    @property
    def is_over(self) -> bool:
        """Whether no answer can leave any more: closed, or about to be after a last error."""
        return self.closed or self._last_word

    def is_peer_alive(self) -> bool:
        """Whether the process that connected still runs, asked of the kernel now."""
        return self.watch is not None and self.watch.is_alive()

    def peer_process(self) -> HeldProcess:
        """The process that connected, held for as long as the connection is open; `dup` it to keep it longer.

        Raises:
            Denied: it has ended.
        """
        process = self.watch.process if self.watch is not None else None
        if process is None or not process.is_alive():
            raise Denied("the process that connected has ended", "connect from a process that stays")
        return process

    @property
    def can_send(self) -> bool:
        """Whether everything before has left, so that a value may be opened for this peer now."""
        return not self._output

    @property
    def has_turn(self) -> bool:
        """Whether a request waits here that may be taken now.

        Nothing is taken while the peer leaves answers unread. While it merely owes an `ack`, requests are taken up to
        the protocol's limit: the `ack` comes behind what was sent before it, and everything taken may wait for it.
        """
        if self.on_hold:
            return False
        limit = self._most_in_flight if self.wire.unacknowledged is None else MAX_OUTSTANDING
        return not self._output and not self._ending and self._has_frame and self.wire.outstanding < limit

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is owed to this peer: no answer pending, nothing left to send."""
        return not self.wire.outstanding and not self._output

    def stalled(self) -> None:
        """The peer keeps us waiting, from now on: it leaves something unread or unacknowledged."""
        if self.stalled_since is None:
            self.stalled_since = self.clock.boot()
            self._dispatcher.slow.add(self)

    # -- in

    def start(self) -> None:
        """Begin to read."""
        self._resume()

    def stop_reading(self) -> None:
        """Take nothing more in; what was taken is still answered."""
        self._ending = True
        self._pause()

    def _resume(self) -> None:
        if not self._reading and not self.closed and not self._ending:
            self._loop.add_reader(self._fd, self._readable)
            self._reading = True

    def _pause(self) -> None:
        if self._reading:
            self._loop.remove_reader(self._fd)
            self._reading = False

    def _readable(self) -> None:
        if self._has_frame:
            # More than the one request that waits for its turn: the rest stays in the kernel's buffer and slows its
            # sender down, so one connection never costs more than one read a turn.
            self._pause()
            return
        wire = self.wire
        try:
            count = self._socket.recv_into(wire.get_buffer())
            if count == 0:
                self.close()
                return
            wire.buffer_updated(count)
        except (BlockingIOError, InterruptedError):
            return
        except RemoteProtocolError as error:
            self.fail(error.message)
            return
        except OSError:
            self.close()  # a reset: the peer is gone
            return
        if wire.decoder.has_frame:
            self._has_frame = True
            self.frame_since = None
            if self.has_turn:
                self._dispatcher.ready(self)
        elif self.frame_since is None:
            self.frame_since = self.clock.boot()
            self._dispatcher.slow.add(self)

    def next_request(self) -> Request | Malformed | None:
        """Take one request out of the buffer; None, and the connection over, when the peer broke the framing."""
        try:
            event = self.wire.next_event()
        except RemoteProtocolError as error:
            self.fail(error.message)
            return None
        decoder = self.wire.decoder
        try:
            self._has_frame = decoder.buffered > 0 and decoder.has_frame
        except RemoteProtocolError:
            self._has_frame = True  # what follows is no frame: its turn will say so, after this one
        return event  # type: ignore[return-value]  # what a server receives

    def turn_over(self) -> bool:
        """After a turn: whether another request waits; if none does, read on."""
        if self.closed:
            return False
        if self.has_turn:
            return True
        if not self._has_frame and not self._ending:
            if self.frame_since is None and self.wire.decoder.buffered:
                self.frame_since = self.clock.boot()
                self._dispatcher.slow.add(self)
            self._resume()
        return False

    def hold(self) -> None:
        """Take no further request until `go_on`: one that was taken is slow, and what follows it would gather here."""
        self.on_hold = True

    def go_on(self) -> None:
        """Take requests again."""
        self.on_hold = False
        if not self.queued and self.turn_over():
            self._dispatcher.ready(self)

    # -- out

    def answer(
        self,
        request_id: int,
        keys: Mapping[str, Any],
        tail: bytes | bytearray | memoryview = b"",
        *,
        descriptor: int | None = None,
        secret: bool = False,
    ) -> None:
        """Send the answer to one request. `descriptor` becomes ours; `secret` zeroes the frame once it is sent."""
        pipe = "pipe" in keys
        try:
            frame = self.wire.reply(request_id, keys, tail=tail, memfd=descriptor is not None and not pipe, pipe=pipe)
        except ProtocolError as error:
            if descriptor is not None:
                os.close(descriptor)
            raise Internal(f"an answer does not fit the protocol: {error.message}") from error
        self._send(_Output(frame, descriptor, secret=secret))

    def refuse(self, request_id: int, code: str, message: str, hint: str = "") -> None:
        """Send the error that answers one request."""
        assert code in CODES, code  # noqa: S101  a code that clients cannot know is a bug of ours
        self._send(_Output(self.wire.error(request_id, code, message, hint), None, secret=False))

    def push(self, event: str, keys: Mapping[str, Any]) -> None:
        """Tell the peer of `event`; a peer that has left too much unread is disconnected instead.

        Raises:
            Internal: the event or its keys are not as the protocol's table says.
        """
        if self.closed or self._ending:
            return
        try:
            frame = self.wire.push(event, keys)
        except ProtocolError as error:
            raise Internal(f"a push does not fit the protocol: {error.message}") from error
        if self._unread + len(frame) > MAX_UNREAD:
            _log.warning("uid %d leaves its events unread and is disconnected", self.uid)
            self.close()
            return
        self._send(_Output(frame, None, secret=False))

    def fail(self, message: str) -> None:
        """Say that the peer broke the protocol, as far as it still listens, and end the connection."""
        self.end("protocol", message)

    def end(self, code: str, message: str, hint: str = "") -> None:
        """Send a last error about the whole connection and close it once that has left."""
        if self.is_over:
            return
        self.stop_reading()
        self._last_word = True
        self._send(_Output(self.wire.error(None, code, message, hint), None, secret=False))
        if not self._output:
            self.close()

    def _send(self, output: _Output) -> None:
        if self.closed:
            output.discard()
            return
        self._unread += len(output.frame)
        if not self._output and self._try(output):
            return
        if self.closed:
            output.discard()
            return
        if not self._output:
            self._loop.add_writer(self._fd, self._writable)
            self.stalled()
        self._output.append(output)

    def _try(self, output: _Output) -> bool:
        """Send as much as the socket takes; True when that was all. Closes the connection when the peer is gone."""
        try:
            if output.descriptor is not None:
                # The descriptor travels with the first byte, and only with it: the frame's start is ours to find.
                output.sent = socket.send_fds(self._socket, [output.frame], [output.descriptor])
                os.close(output.descriptor)
                output.descriptor = None
            elif output.sent:
                output.sent += self._socket.send(memoryview(output.frame)[output.sent :])
            else:
                output.sent = self._socket.send(output.frame)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            # EPIPE, ECONNRESET: gone. ETOOMANYREFS: too many descriptors of ours lie unread; nothing to wait for.
            _log.debug("uid %d: %s", self.uid, error.strerror)
            self.close()
            return False
        if output.sent < len(output.frame):
            return False
        self._unread -= len(output.frame)
        output.discard()
        return True

    def _writable(self) -> None:
        while self._output:
            if not self._try(self._output[0]):
                return
            self._output.popleft()
        self._loop.remove_writer(self._fd)
        self.stalled_since = None
        if self._last_word:
            self.close()
            return
        self._dispatcher.room(self)

    # -- end

    def peer_ended(self) -> None:
        """The process that connected has ended: whoever else holds this socket is not the peer that was attested."""
        self.close()

    def close(self) -> None:
        """End the connection: zero and forget what is in its buffers, give its descriptors back."""
        if self.closed:
            return
        self.closed = True
        self._pause()
        self._loop.remove_writer(self._fd)
        while self._output:
            self._output.popleft().discard()
        while self.held:
            wipe(self.held.popleft().request.tail)
        self.wire.forget()
        self._socket.close()
        if self.watch is not None:
            self.watch.cancel()
        self._on_close(self)
