"""One end of a connection without the connection: bytes in, events out; messages in, bytes out.

The same class serves both roles; only who may send what differs:

    role      sends                          receives (`next_event`)
    CLIENT    request()                      Reply, Push
    SERVER    reply() error() push()         Request, Malformed

Rules that live here and nowhere else:

- Ids pair replies with requests. An id may be used again once its reply has been sent; two at once end the connection.
- At most `MAX_OUTSTANDING` requests wait for replies. A server that reaches it takes no further frame until it has
  answered one; a client that would pass it gets `LocalProtocolError`. The last place is kept for an `ack`: replies may
  wait for it, so it must never wait for them.
- A reply with `memfd` or `pipe` true has one descriptor beside it, and after it the server sends no other until the
  client's `ack` with that reply's id was received. So a client can never collect many that are charged to the daemon.
- A connection that lost its framing, or whose peer broke a rule that cannot be answered, stays broken.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from vaultd.protocol.errors import LocalProtocolError, RemoteProtocolError
from vaultd.protocol.framing import FrameDecoder
from vaultd.protocol.messages import (
    Malformed,
    Push,
    Reply,
    Request,
    encode_error,
    encode_push,
    encode_reply,
    encode_request,
    parse_from_server,
    parse_request,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MAX_OUTSTANDING", "Connection", "Role"]

MAX_OUTSTANDING: Final = 256
"""Most requests of one connection that may wait for their replies."""

Buffer = bytes | bytearray | memoryview


class Role(Enum):
    """Which end of the connection this is."""

    CLIENT = "client"
    SERVER = "server"


class Connection:
    """The protocol's state at one end. Does no I/O, knows no clock; not for several threads at once."""

    def __init__(self, role: Role) -> None:
        self.role = role
        self.decoder = FrameDecoder()
        self._outstanding: dict[int, str] = {}
        self._last_id = 0
        self._unacknowledged: int | None = None
        self._over = ""

    # -- bytes in

    def receive_data(self, data: Buffer) -> None:
        """Take received bytes. Raises as `FrameDecoder.feed` does."""
        self.decoder.feed(data)

    def get_buffer(self, sizehint: int = -1) -> memoryview:
        """Room for bytes to be received into; see `FrameDecoder.get_buffer`."""
        return self.decoder.get_buffer(sizehint)

    def buffer_updated(self, count: int) -> None:
        """How many bytes came into that room; see `FrameDecoder.buffer_updated`."""
        self.decoder.buffer_updated(count)

    @property
    def outstanding(self) -> int:
        """How many requests wait for their replies."""
        return len(self._outstanding)

    @property
    def unacknowledged(self) -> int | None:
        """The id of the reply whose descriptor has not been acknowledged, or None."""
        return self._unacknowledged

    def next_event(self) -> Request | Malformed | Reply | Push | None:
        """The next message of the peer, or None while none is complete (or, as a server, while too many wait).

        Raises:
            RemoteProtocolError: the peer broke the protocol beyond an answer. It stays so: send what `error(None, …)`
                gives, if anything, and close.
        """
        if self._over:
            raise RemoteProtocolError(self._over)
        try:
            return self._next_request() if self.role is Role.SERVER else self._next_from_server()
        except RemoteProtocolError as error:
            self._over = error.message
            raise

    def _next_request(self) -> Request | Malformed | None:
        if len(self._outstanding) >= MAX_OUTSTANDING:
            return None
        frame = self.decoder.next_frame()
        if frame is None:
            return None
        event = parse_request(frame)
        if event.id in self._outstanding:
            raise RemoteProtocolError("an id is used again before its reply")
        if type(event) is Request and event.op == "ack":
            if event.keys["of"] != self._unacknowledged:
                event = Malformed(event.id, "ack: no descriptor of that reply waits to be acknowledged")
            else:
                self._unacknowledged = None
        self._outstanding[event.id] = event.op if type(event) is Request else ""
        return event

    def _next_from_server(self) -> Reply | Push | None:
        while True:
            frame = self.decoder.next_frame()
            if frame is None:
                return None
            event = parse_from_server(frame, self._outstanding)
            if event is not None:
                break
        if type(event) is Reply and event.id is not None:
            del self._outstanding[event.id]
            if event.descriptor:
                if self._unacknowledged is not None:
                    raise RemoteProtocolError("a second descriptor was sent before the first was acknowledged")
                self._unacknowledged = event.id
        return event

    # -- messages out, as a client

    def request(
        self, op: str, keys: Mapping[str, Any], *, run: bytes | None = None, tail: Buffer = b""
    ) -> tuple[int, bytearray]:
        """A request's id and the frame to send; wipe the frame after sending when the tail was secret.

        Raises:
            LocalProtocolError: not as the table says, or too many requests wait already.
        """
        self._must_be(Role.CLIENT)
        if len(self._outstanding) >= (MAX_OUTSTANDING if op == "ack" else MAX_OUTSTANDING - 1):
            raise LocalProtocolError(f"{len(self._outstanding)} requests wait for their replies already")
        id_ = self._last_id % (2**32 - 1) + 1  # 1 … 2^32-1, around: 0 speaks of the connection
        while id_ in self._outstanding:
            id_ = id_ % (2**32 - 1) + 1
        frame = encode_request(id_, op, keys, run, tail)
        if op == "ack":
            if keys["of"] != self._unacknowledged:
                raise LocalProtocolError("no descriptor of that reply waits to be acknowledged")
            self._unacknowledged = None
        self._last_id = id_
        self._outstanding[id_] = op
        return id_, frame

    # -- messages out, as a server

    def reply(
        self,
        id: int,  # noqa: A002  the wire's word
        keys: Mapping[str, Any],
        *,
        tail: Buffer = b"",
        memfd: bool = False,
        pipe: bool = False,
    ) -> bytearray:
        """The frame that answers request `id`; with `memfd` or `pipe`, send one descriptor beside its first byte.

        Raises:
            LocalProtocolError: no such request waits, or a descriptor was sent and is not acknowledged.
        """
        self._must_wait(id)
        if memfd or pipe:
            if self._unacknowledged is not None:
                raise LocalProtocolError("a descriptor sent before is not acknowledged yet")
            keys = {**keys, "memfd" if memfd else "pipe": True}
        frame = encode_reply(id, keys, tail)
        if memfd or pipe:
            self._unacknowledged = id
        del self._outstanding[id]
        return frame

    def error(self, id: int | None, code: str, message: str, hint: str = "") -> bytearray:  # noqa: A002  the wire's word
        """The frame that refuses request `id`, or (None) the last one of a connection that ends."""
        self._must_be(Role.SERVER)
        if id is not None:
            self._must_wait(id)
        frame = encode_error(id, code, message, hint)
        if id is not None:
            del self._outstanding[id]
        return frame

    def push(self, event: str, keys: Mapping[str, Any]) -> bytearray:
        """The frame of a push. Raises `LocalProtocolError` when it is not as the table says."""
        self._must_be(Role.SERVER)
        return encode_push(event, keys)

    def forget(self) -> None:
        """Zero and free what was received and not taken: the connection is closed."""
        self._over = self._over or "the connection is closed"
        self._outstanding.clear()
        self.decoder.close()

    def _must_be(self, role: Role) -> None:
        if self.role is not role:
            raise LocalProtocolError(f"only a {role.value} sends this")

    def _must_wait(self, id_: int) -> None:
        self._must_be(Role.SERVER)
        if id_ not in self._outstanding:
            raise LocalProtocolError(f"no request {id_} waits for a reply")
