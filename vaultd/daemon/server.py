"""Accepting connections and keeping them in bounds: how many, for how long, and how they end."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import socket
import sys
from typing import TYPE_CHECKING, Final

from vaultd.daemon.anchors import Watcher
from vaultd.daemon.connection import Connection
from vaultd.daemon.dispatch import INLINE_COST, Dispatcher
from vaultd.daemon.peer import attest
from vaultd.errors import VaultdError
from vaultd.protocol.messages import encode_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaultd.clock import Clock
    from vaultd.daemon.config import Limits
    from vaultd.daemon.handling import Committer, Handler
    from vaultd.daemon.kernel import Kernel
    from vaultd.daemon.listener import Listener
    from vaultd.daemon.peer import Peer

__all__ = ["Server"]

_log = logging.getLogger(__name__)

ACCEPT_SLICE: Final = 0.000_05
"""Seconds of accepting before others get their turn: attesting one peer costs as much as a few requests."""

SWEEP_SECONDS: Final = 0.5
"""How often deadlines are looked at: they are whole seconds."""

PAUSE_SECONDS: Final = 0.1
"""How long nothing is accepted after the descriptors ran out, unless a connection ends earlier."""

SWITCH_SECONDS: Final = 0.000_5
"""How long the interpreter's lock is kept from a thread that waits for it. With Python's 5 ms, the flush thread would
notice only that much later, while the loop is busy, that the disk is done."""

OTHER_DESCRIPTORS: Final = 128
"""Kept for the vault's files, the journal, sealed memory files and watched anchors' share."""

_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Server:
    """Serves one listening socket with one handler, in the running event loop.

    Args:
        listener: bound and listening; closed by `stop`.
        handler: decides requests.
        committer: makes records durable.
        kernel: attests peers.
        clock: for deadlines.
        limits: caps; `reconfigure` replaces them.
        inline_cost: seconds under which a flush is written without the detour over a thread; 0 is never.
    """

    def __init__(
        self,
        listener: Listener,
        handler: Handler,
        committer: Committer,
        *,
        kernel: Kernel,
        clock: Clock,
        limits: Limits,
        inline_cost: float = INLINE_COST,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._handler = handler
        self._kernel = kernel
        self._clock = clock
        self._limits = limits
        self.watcher = Watcher(self._loop)
        self.dispatcher = Dispatcher(handler, committer, self._loop, inline_cost=inline_cost)
        self.connections: set[Connection] = set()
        self._by_uid: dict[int, int] = {}
        self._connects: dict[int, tuple[float, int]] = {}
        self._accepting = False
        self._reserve: int | None = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._pause_timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to accept."""
        sys.setswitchinterval(SWITCH_SECONDS)
        self._resume_accepting()
        self._sweep_timer = self._loop.call_later(SWEEP_SECONDS, self._sweep)

    def reconfigure(self, limits: Limits) -> None:
        """Hold new connections to new limits; those that exist stay."""
        self._limits = limits

    def connections_of(self, uid: int) -> int:
        """How many connections `uid` has."""
        return self._by_uid.get(uid, 0)

    async def stop(self) -> None:
        """Take nothing more, answer what was taken, wait a bounded time for it to be read, close everything."""
        self._pause_accepting()
        for timer in (self._sweep_timer, self._pause_timer):
            if timer is not None:
                timer.cancel()
        self._listener.close()
        for connection in list(self.connections):
            connection.stop_reading()
        await self._wait(self._is_drained, self._limits.drain_seconds)
        for connection in list(self.connections):
            connection.close()
        await self._wait(lambda: self.dispatcher.is_idle, None)  # the last flush is never cut short
        self.dispatcher.close()
        self.watcher.close()
        if self._reserve is not None:
            os.close(self._reserve)
            self._reserve = None

    async def _wait(self, condition: Callable[[], bool], seconds: float | None) -> None:
        """Until `condition` holds, looked at whenever answers have left; at most `seconds`."""
        progress = asyncio.Event()
        self.dispatcher.on_progress = progress.set
        self.dispatcher.commit_soon()
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    progress.clear()
                    await progress.wait()
        except TimeoutError:
            _log.warning("some answers were not read in time; their connections are closed")

    def _is_drained(self) -> bool:
        return self.dispatcher.is_idle and all(connection.is_quiet for connection in self.connections)

    # -- accepting

    def _resume_accepting(self) -> None:
        self._pause_timer = None
        if not self._accepting:
            self._loop.add_reader(self._listener.socket.fileno(), self._accept)
            self._accepting = True

    def _pause_accepting(self) -> None:
        if self._accepting:
            self._loop.remove_reader(self._listener.socket.fileno())
            self._accepting = False

    def _accept(self) -> None:
        until = self._loop.time() + ACCEPT_SLICE
        while True:
            try:
                sock, _address = self._listener.socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                self._out_of_descriptors()
                return
            self._admit(sock)
            if self._loop.time() >= until:
                return

    def _out_of_descriptors(self) -> None:
        """Turn one caller away with the descriptor kept for that, then accept nothing for a moment.

        The listening socket stays readable when accept fails, so going on would spin; and leaving the caller in the
        queue would let it wait for as long as the shortage lasts.
        """
        if self._reserve is not None:
            os.close(self._reserve)
            self._reserve = None
        try:
            sock, _address = self._listener.socket.accept()
            sock.close()
        except OSError as error:
            _log.debug("nobody could be turned away: %s", error.strerror)
        try:
            self._reserve = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            _log.debug("no descriptor for the reserve: %s", error.strerror)  # the next shortage pauses all the same
        _log.warning("no descriptors left: connections are refused for a moment")
        self._pause_accepting()
        self._pause_timer = self._loop.call_later(PAUSE_SECONDS, self._resume_accepting)

    def _admit(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        try:
            uid = self._kernel.peer_credentials(sock).uid
            if self._by_uid.get(uid, 0) >= self._limits.connections_per_uid:
                self._turn_away(sock, "quota", "this uid has too many connections", "close some, or share one")
                return
            if not self._may_connect(uid):
                self._turn_away(sock, "throttled", "this uid connects too often", "keep a connection and use it again")
                return
            if _has_left(sock):
                sock.close()
                return
            if len(self.connections) >= self._most_connections():
                self._turn_away(sock, "quota", "the daemon has too many connections", "try again in a moment")
                return
            self._kernel.refuse_descriptors(sock)
            peer = attest(sock, self._kernel)
        except VaultdError as error:
            self._turn_away(sock, error.code, error.message, error.hint)
        except OSError as error:
            sock.close()
            if error.errno in _EXHAUSTED:
                self._out_of_descriptors()
            else:
                _log.warning("a peer could not be attested: %s", error.strerror)
        else:
            self._open(sock, peer)

    def _may_connect(self, uid: int) -> bool:
        """Take one from the uid's bucket: cheaper than attesting, which is what a flood of connections costs us."""
        rate = self._limits.connects_per_second
        now = self._clock.boot()
        left, since = self._connects.get(uid, (2.0 * rate, now))
        left = min(2.0 * rate, left + (now - since) * 1e-9 * rate)
        if left < 1:
            self._connects[uid] = (left, now)
            return False
        self._connects[uid] = (left - 1, now)
        return True

    def _forget_idle_buckets(self) -> None:
        """Drop the buckets that are full again: they say nothing."""
        rate, now = self._limits.connects_per_second, self._clock.boot()
        full = [uid for uid, (left, since) in self._connects.items() if left + (now - since) * 1e-9 * rate >= 2 * rate]
        for uid in full:
            del self._connects[uid]

    def _most_connections(self) -> int:
        # A connection costs its socket, and a process one pidfd for all of its connections.
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        # A pipe under way costs its file and both ends, an upload its file and folder; never most of what there is.
        blobs = min(3 * self._limits.streams + 2 * self._limits.uploads, descriptors // 4)
        return min(self._limits.connections, max(1, (descriptors - OTHER_DESCRIPTORS - blobs) // 2))

    def _open(self, sock: socket.socket, peer: Peer) -> None:
        connection = Connection(
            sock,
            peer.facts,
            self._loop,
            self._clock,
            self.dispatcher,
            self._closed,
            most_in_flight=self._limits.requests_in_flight,
        )
        connection.watch = self.watcher.watch(peer.process, connection.peer_ended)
        self.connections.add(connection)
        self._by_uid[connection.uid] = self._by_uid.get(connection.uid, 0) + 1
        self._handler.connected(connection)
        connection.start()

    @staticmethod
    def _turn_away(sock: socket.socket, code: str, message: str, hint: str) -> None:
        """Tell somebody who was never let in why, as far as the fresh socket's buffer takes it."""
        with sock:
            try:
                sock.send(encode_error(None, code, message, hint))
            except OSError as error:
                _log.debug("a refused peer was gone already: %s", error.strerror)

    def _closed(self, connection: Connection) -> None:
        self.connections.discard(connection)
        self.dispatcher.slow.discard(connection)
        left = self._by_uid[connection.uid] - 1
        if left:
            self._by_uid[connection.uid] = left
        else:
            del self._by_uid[connection.uid]
        self._handler.disconnected(connection)

    # -- deadlines

    def _sweep(self) -> None:
        self.enforce_deadlines()
        self._forget_idle_buckets()
        self._sweep_timer = self._loop.call_later(SWEEP_SECONDS, self._sweep)

    def enforce_deadlines(self) -> None:
        """End connections whose frame has been coming, or whose answer has been lying unread, for too long."""
        now = self._clock.boot()
        frame_limit = self._limits.frame_seconds * 1_000_000_000
        write_limit = self._limits.write_seconds * 1_000_000_000
        for connection in list(self.dispatcher.slow):
            frame, stalled = connection.frame_since, connection.stalled_since
            if stalled is not None and now - stalled > write_limit:
                connection.close()
            elif frame is not None and now - frame > frame_limit:
                connection.fail("a frame did not arrive whole in time")
            elif frame is None and stalled is None:
                self.dispatcher.slow.discard(connection)


def _has_left(sock: socket.socket) -> bool:
    """Whether the caller has closed again already; there is nothing to attest then."""
    try:
        return sock.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
