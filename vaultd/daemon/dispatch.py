"""Who is served next, and when an answer may leave.

Requests are taken one at a time, round robin over uids and then over a uid's connections; each is decided and staged at
once. Everything staged up to an instant becomes one group: it is made durable by one flush, in a thread of its own, and
only then are its answers made and released, again round robin over uids. What arrives meanwhile is decided meanwhile
and forms the next group. So many requests share a flush, nobody's answer leaves before the record of it is on the disk,
and a uid that floods waits behind itself.

The loop works in slices of time: between two slices it looks at the sockets again, so an honest request never waits for
more than a slice of somebody else's.
"""

from __future__ import annotations

import logging
import traceback
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from vaultd.daemon.flush import FlushThread, timed_write
from vaultd.daemon.handling import Answer, Deferred, Ticket
from vaultd.daemon.turns import FairQueue
from vaultd.errors import Halted, Internal, ProtocolError, VaultdError
from vaultd.protocol.framing import wipe
from vaultd.protocol.messages import Malformed, Request

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator

    from vaultd.daemon.connection import Connection
    from vaultd.daemon.handling import Committer, Handler, Pending

__all__ = ["Dispatcher", "describe"]

_log = logging.getLogger(__name__)

SLICE: Final = 0.000_1
"""Seconds of work on requests, or on answers, between two looks at the sockets while several uids are served; every uid
that waits has a turn first, however many there are..."""

SLICE_ALONE: Final = 0.002
"""...but never longer than this; and this long while one uid has the daemon to itself: longer slices, larger groups."""

SHARED_FOR: Final = 0.05
"""Seconds after which a uid that asked nothing more no longer counts as being served."""

UID_IN_FLIGHT: Final = 256
"""Requests of one uid that may be decided and not yet answered: what a flood can put in front of its own flush."""

SHARED_IN_FLIGHT: Final = 2
"""The same while several uids are served and the disk is fast (`INLINE_COST`): what another uid waits for is then
mostly the deciding and answering of these. Before a slow disk it is the flush, which costs the same with many in it."""

INLINE_COST: Final = 0.001
"""While the last flush took no longer than this many seconds, the next is written without the detour over the thread.

The detour costs two changes of the interpreter's lock, which next to a busy event loop take longer than a fast disk. A
slow disk's flush runs in the thread, and the loop goes on deciding meanwhile.
"""

INLINE_GROUP: Final = 8
"""Larger groups go through the thread all the same: there is enough to decide meanwhile to make up for the detour."""


class _Refusal:
    """A `Pending` that refuses."""

    __slots__ = ("_error",)
    descriptor: Final = False

    def __init__(self, error: VaultdError) -> None:
        self._error = error

    def complete(self, error: VaultdError | None) -> Answer:
        # A failed flush speaks first: what the refusal was decided on may not be durable.
        raise error or self._error


def _nothing() -> None:
    """Nobody waits."""


class Dispatcher:
    """Takes turns, groups decisions into flushes, releases answers. One per event loop.

    Args:
        handler: decides requests.
        committer: makes what they staged durable.
        loop: the event loop.
        inline_cost: see `INLINE_COST`; 0 writes every flush in the thread.

    Attributes:
        slow: connections that have a frame or an answer under way, for the server's deadlines.
    """

    def __init__(
        self,
        handler: Handler,
        committer: Committer,
        loop: asyncio.AbstractEventLoop,
        *,
        inline_cost: float = INLINE_COST,
    ) -> None:
        self._handler = handler
        self._committer = committer
        self._loop = loop
        self._thread = FlushThread(loop, committer.write)
        self.slow: set[Connection] = set()
        self._turns: FairQueue[Connection] = FairQueue()
        self._parked: dict[int, deque[Connection]] = {}
        self._in_flight: dict[int, int] = {}
        self._group: list[Ticket] = []
        self._releasable: FairQueue[Ticket] = FairQueue()
        self._flushing = False
        self._halted = False
        self._inline_cost = inline_cost
        self._last_flush = 0.0
        self._last_uid = -1
        self._shared_until = 0.0
        self._pumping = False
        self._releasing = False
        self.on_progress: Callable[[], None] = _nothing
        """Called after answers have left: a stopping server waits for the last of them."""

    @property
    def is_idle(self) -> bool:
        """Whether every request that was taken and decided has been answered."""
        return not (self._turns or self._group or self._releasable or self._flushing or self._committer.dirty)

    def close(self) -> None:
        """End the flush thread, after what it has to write."""
        self._thread.close()

    # -- turns

    def ready(self, connection: Connection) -> None:
        """A request waits on `connection`: give it a turn."""
        if connection.queued or connection.closed:
            return
        connection.queued = True
        self._queue_turn(connection)

    def _queue_turn(self, connection: Connection) -> None:
        uid = connection.uid
        if self._in_flight.get(uid, 0) >= self._most_in_flight():
            self._parked.setdefault(uid, deque()).append(connection)
            return
        self._turns.put(uid, connection)
        self.commit_soon()

    def _is_shared(self) -> bool:
        return self._loop.time() < self._shared_until

    def _most_in_flight(self) -> int:
        return SHARED_IN_FLIGHT if self._last_flush < self._inline_cost and self._is_shared() else UID_IN_FLIGHT

    def commit_soon(self) -> None:
        """Take turns and flush what is staged, soon: also what no request asks for (a death, an expiry, an anchor)."""
        if not self._pumping:
            self._pumping = True
            if self._is_shared():
                self._pump_after_sockets()
            else:
                self._loop.call_soon(self._pump)

    def _pump_after_sockets(self) -> None:
        # What is called soon runs before the sockets that are found ready by then. One call further, it runs after
        # them, so whoever asked during this slice has a turn in the next one, and not in the one after that.
        self._loop.call_soon(self._loop.call_soon, self._pump)

    def _pump(self) -> None:
        self._take_turns()
        self._pumping = bool(self._turns)
        if self._pumping:
            self._pump_after_sockets()
        self._commit()

    def _take_turns(self) -> None:
        turns = self._turns
        now = started = self._loop.time()
        served: set[int] = set()
        while turns:
            connection = turns.get()
            connection.queued = False
            uid = connection.uid
            served.add(uid)
            if uid != self._last_uid:
                if self._last_uid >= 0:
                    self._shared_until = now + SHARED_FOR
                self._last_uid = uid
            if self._in_flight.get(uid, 0) >= self._most_in_flight():
                connection.queued = True
                self._queue_turn(connection)
                continue
            try:
                if connection.has_turn:
                    self._serve(connection)
                if connection.turn_over():
                    connection.queued = True
                    self._queue_turn(connection)
                if uid not in self._in_flight:
                    self._unpark(uid)  # nothing came of this turn, and nothing else will land
            except Exception as error:  # noqa: BLE001  a bug costs the connection that met it, and nobody else
                _give_up(connection, error)
            now = self._loop.time()
            # A uid that asks now and then is flushed for as soon as everybody had a turn, not after the flood's slice.
            if self._slice_is_over(now, now - started, turns, served, early=len(served) > 1 and not turns.has(uid)):
                break

    def _slice_is_over(
        self, now: float, elapsed: float, waiting: FairQueue[Any], served: set[int], *, early: bool = False
    ) -> bool:
        if elapsed >= SLICE_ALONE:
            return True
        if now >= self._shared_until or not waiting or waiting.next_uid not in served:
            return False
        return early or elapsed >= SLICE

    def _serve(self, connection: Connection) -> None:
        request = connection.next_request()
        if request is None:
            return
        if type(request) is Malformed:
            self._handler.malformed(connection, request.message)
            # Refused with the next group: the count of it may be a record, and that is durable first.
            ticket = Ticket(connection, Request(request.id, "malformed", None, {}, bytearray()))
            self._decided(ticket, _Refusal(ProtocolError(request.message, "see PROTOCOL.md")))
            return
        assert type(request) is Request  # noqa: S101  for the type checker: nothing else comes to a server
        if request.op == "ack":
            connection.answer(request.id, {})  # the wire has taken note; nothing is decided, so nothing is recorded
            self.room(connection)
            return
        ticket = Ticket(connection, request)
        pending: Pending | Deferred
        try:
            pending = self._handler.handle(connection, request)
        except VaultdError as error:
            pending = _Refusal(error)
        except Exception as error:  # noqa: BLE001  a bug in one verb ends neither daemon nor connection
            pending = _Refusal(_as_internal(error, request.op))
        if type(pending) is Deferred:
            pending._attach(self, ticket)
            return
        self._decided(ticket, pending)  # type: ignore[arg-type]  # not a Deferred

    def _decided(self, ticket: Ticket, pending: Pending) -> None:
        ticket.pending = pending
        uid = ticket.connection.uid
        self._in_flight[uid] = self._in_flight.get(uid, 0) + 1
        self._group.append(ticket)

    def _settle(self, ticket: Ticket, pending: Pending) -> None:
        self._decided(ticket, pending)
        self.commit_soon()

    # -- groups

    def _commit(self) -> None:
        """Start the next flush, if one is needed and none is under way; with nothing to flush, release at once."""
        while not self._flushing:
            group, self._group = self._group, []
            batch = self._committer.take() if self._committer.dirty else None
            if batch is None:
                # Whatever these answers show was staged earlier and is durable: the last flush has ended.
                self._release(group, self._failed_meanwhile())
                break
            self._flushing = True
            many = len(group) > INLINE_GROUP
            if self._committer.dirty:
                # More was staged than this batch holds, and nobody knows for whom: all wait for the last of it.
                self._group, group = group, []
            if self._last_flush >= self._inline_cost or many:
                self._thread.submit(batch, partial(self._flushed, batch, group))
                break
            self._finish(batch, group, *timed_write(self._committer.write, batch))
        self._release_some()

    def _flushed(self, batch: Any, group: list[Ticket], error: BaseException | None, seconds: float) -> None:
        self._finish(batch, group, error, seconds)
        self._commit()  # the next group is on its way to the disk while this one's answers are made

    def _finish(self, batch: Any, group: list[Ticket], error: BaseException | None, seconds: float) -> None:
        self._flushing = False
        self._last_flush = seconds
        self._committer.finish(batch, error)
        if error is None:
            self._release(group, None)
            return
        self._halted = True
        _log.error("a flush failed: %s", describe(error))
        # What was decided meanwhile is staged behind it, and will never be written either.
        group += self._group
        self._group = []
        self._release(group, _halted())

    def _failed_meanwhile(self) -> VaultdError | None:
        """What answers are told that were decided before somebody else's flush (sealing makes its own) failed."""
        if self._halted or not self._committer.halted:
            return None
        self._halted = True
        return _halted()

    # -- answers

    def _release(self, group: list[Ticket], error: VaultdError | None) -> None:
        for ticket in group:
            ticket.error = error
            self._releasable.put(ticket.connection.uid, ticket)

    def _release_later(self) -> None:
        self._releasing = False
        self._release_some()

    def _release_some(self) -> None:
        releasable = self._releasable
        if self._releasing or not releasable:
            self.on_progress()  # a flush that nobody waited for may have been the last thing that was under way
            return
        started = self._loop.time()
        served: set[int] = set()
        while releasable:
            ticket = releasable.get()
            connection = ticket.connection
            served.add(connection.uid)
            self._landed(connection.uid)
            if connection.is_over:
                wipe(ticket.request.tail)
            elif not self._may_answer(ticket, first=not connection.held):
                connection.held.append(ticket)
                connection.stalled()
            else:
                try:
                    self._answer(ticket)
                except Exception as error:  # noqa: BLE001  as in a turn
                    _give_up(connection, error)
            now = self._loop.time()
            if self._slice_is_over(now, now - started, releasable, served):
                break
        if releasable:
            self._releasing = True
            self._loop.call_soon(self._release_later)
        self.on_progress()

    def _landed(self, uid: int) -> None:
        left = self._in_flight[uid] - 1
        if left:
            self._in_flight[uid] = left
        else:
            del self._in_flight[uid]
        self._unpark(uid)

    def _unpark(self, uid: int) -> None:
        """Give one more of the uid's connections a turn: one of its requests was answered, or came to nothing."""
        parked = self._parked.get(uid)
        if parked is None:
            return
        connection = parked.popleft()
        if not parked:
            del self._parked[uid]
        self._queue_turn(connection)

    @staticmethod
    def _may_answer(ticket: Ticket, *, first: bool) -> bool:
        """Whether the answer can leave now; one with a descriptor not before those that wait for an `ack` already."""
        assert ticket.pending is not None  # noqa: S101  only decided tickets get here
        connection = ticket.connection
        if not connection.can_send:
            return False
        return not ticket.pending.descriptor or (first and connection.wire.unacknowledged is None)

    def room(self, connection: Connection) -> None:
        """The peer has read what was sent, or acknowledged a descriptor: go on with what waited for that."""
        for ticket in [connection.held.popleft() for _ in range(len(connection.held))]:
            if connection.is_over:
                wipe(ticket.request.tail)
            elif self._may_answer(ticket, first=True):  # the first in line that carries a descriptor; then one is owed
                self._answer(ticket)
            else:
                connection.held.append(ticket)
        if connection.held:
            connection.stalled()
        elif connection.can_send:
            connection.stalled_since = None
        if not connection.queued and connection.turn_over():
            self.ready(connection)
        self.on_progress()

    def _answer(self, ticket: Ticket) -> None:
        connection, request, pending = ticket.connection, ticket.request, ticket.pending
        assert pending is not None  # noqa: S101  only decided tickets get here
        try:
            answer = pending.complete(ticket.error)
            if answer.secret is not None:
                try:
                    view = answer.secret.view()
                    connection.answer(request.id, answer.keys, view, descriptor=answer.descriptor, secret=True)
                finally:
                    answer.secret.wipe()
            else:
                connection.answer(request.id, answer.keys, answer.tail, descriptor=answer.descriptor)
        except VaultdError as error:
            self._refuse(ticket, error)
        except Exception as error:  # noqa: BLE001  a bug in one verb ends neither daemon nor connection
            self._refuse(ticket, _as_internal(error, request.op))
        finally:
            wipe(request.tail)
        if not connection.queued and connection.has_turn:
            self.ready(connection)  # it was at its limit

    @staticmethod
    def _refuse(ticket: Ticket, error: VaultdError) -> None:
        if error.code == "internal":
            _log.error("%s: %s", ticket.request.op, describe(error))
        ticket.connection.refuse(ticket.request.id, error.code, error.message, error.hint)
        # Its frames know the ticket, which knows it: let go of them now, and not when garbage is next collected.
        error.__traceback__ = error.__cause__ = error.__context__ = None


def _as_internal(error: BaseException, op: str) -> Internal:
    _log.error("a bug in %s: %s", op, describe(error))
    return Internal("an unexpected error in the daemon", "its log says where; please report it")


def _halted() -> Halted:
    return Halted("a durable write failed", "make room or repair the disk, then restart the daemon")


def _give_up(connection: Connection, error: Exception) -> None:
    _log.error("a bug, and a connection closed for it: %s", describe(error))
    connection.close()


def describe(error: BaseException) -> str:
    """Type and place of an error, without its message: that of a library's could quote what it was given."""
    return f"{type(error).__name__} at {' < '.join(_places(error)) or 'an unknown place'}"


def _places(error: BaseException) -> Iterator[str]:
    for frame in reversed(traceback.extract_tb(error.__traceback__)[-4:]):
        yield f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}"
