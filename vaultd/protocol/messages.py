"""Requests, replies and pushes: what a header must hold, checked against the table of operations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from vaultd.protocol.codec import MAX_REQUEST_HEADER, Header, decode, encode
from vaultd.protocol.errors import LocalProtocolError, RemoteProtocolError
from vaultd.protocol.fields import ID, TEXT, TOKEN, WORD, Kind
from vaultd.protocol.framing import Frame, encode_frame
from vaultd.protocol.operations import EVENTS, OPERATIONS, Operation, Tail

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "MAX_MESSAGE",
    "VERSION",
    "Malformed",
    "Push",
    "Reply",
    "Request",
    "encode_error",
    "encode_push",
    "encode_reply",
    "encode_request",
    "parse_from_server",
    "parse_request",
]

VERSION: Final = 1
"""The protocol's version, `v` of every request."""

MAX_MESSAGE: Final = 1_024
"""Most characters of an error's message or hint; longer ones are cut by the sender."""

_COMMON_REQUEST: Final = frozenset({"v", "id", "op", "run"})


class Request:
    """One well-formed request; `tail` is the receiver's to wipe. Its repr shows neither token, values nor tail."""

    __slots__ = ("id", "keys", "op", "run", "tail")

    def __init__(self, id: int, op: str, run: bytes | None, keys: Header, tail: bytearray) -> None:  # noqa: A002  the wire's word
        self.id = id
        self.op = op
        self.run = run
        self.keys = keys
        self.tail = tail

    def __repr__(self) -> str:
        return f"<Request {self.id} {self.op} keys={sorted(self.keys)} tail={len(self.tail)} bytes>"


class Malformed:
    """A request that cannot be done but can be answered: `code` is always `protocol`, `id` is the request's."""

    __slots__ = ("id", "message")

    code: Final = "protocol"

    def __init__(self, id: int, message: str) -> None:  # noqa: A002  the wire's word
        self.id = id
        self.message = message

    def __repr__(self) -> str:
        return f"<Malformed {self.id}: {self.message}>"


class Reply:
    """One reply. `id` is None for an error about the whole connection (0 on the wire).

    `code` is None when the request was done; else `message` and `hint` say why not. `memfd` and `pipe` say that a
    descriptor came with this frame, and of what. `tail` is the receiver's to wipe; the repr does not show it.
    """

    __slots__ = ("code", "hint", "id", "keys", "memfd", "message", "op", "pipe", "tail")

    def __init__(
        self,
        id: int | None,  # noqa: A002  the wire's word
        op: str,
        keys: Header,
        tail: bytearray,
        *,
        memfd: bool = False,
        pipe: bool = False,
        code: str | None = None,
        message: str = "",
        hint: str = "",
    ) -> None:
        self.id = id
        self.op = op
        self.keys = keys
        self.tail = tail
        self.memfd = memfd
        self.pipe = pipe
        self.code = code
        self.message = message
        self.hint = hint

    @property
    def ok(self) -> bool:
        """Whether the request was done."""
        return self.code is None

    @property
    def descriptor(self) -> bool:
        """Whether a descriptor came with this frame."""
        return self.memfd or self.pipe

    def __repr__(self) -> str:
        if self.code is not None:
            return f"<Reply {self.id} {self.op} {self.code}: {self.message}>"
        return f"<Reply {self.id} {self.op} keys={sorted(self.keys)} tail={len(self.tail)} bytes>"


class Push:
    """One thing that happened, told to a subscriber."""

    __slots__ = ("event", "keys")

    def __init__(self, event: str, keys: Header) -> None:
        self.event = event
        self.keys = keys

    def __repr__(self) -> str:
        return f"<Push {self.event} {self.keys}>"


class _Shape:
    """The keys of one kind of message, prepared for checking: requests are checked on the daemon's hot path."""

    __slots__ = ("_accepts", "_kinds", "_required")

    def __init__(self, required: Mapping[str, Kind], optional: Mapping[str, Kind]) -> None:
        self._kinds = {**required, **optional}
        self._accepts = {key: kind.accepts for key, kind in self._kinds.items()}
        self._required = tuple(required)

    def wrong(self, keys: Mapping[str, Any]) -> str:
        """What is wrong with a set of keys; "" when nothing is. Never quotes a value."""
        for key, value in keys.items():
            accepts = self._accepts.get(key)
            if accepts is None:
                return f"unknown key {_shown(key)}"
            if not accepts(value):
                return f"{key} is not {self._kinds[key].label}"
        for key in self._required:
            if key not in keys:
                return f"{key} is missing"
        return ""

    def lacks(self, keys: Mapping[str, Any]) -> str:
        """As `wrong`, of the required keys only: others are not looked at."""
        for key in self._required:
            if key not in keys:
                return f"{key} is missing"
            if not self._accepts[key](keys[key]):
                return f"{key} is not {self._kinds[key].label}"
        return ""


_REQUESTS: Final = {name: _Shape(known.required, known.optional) for name, known in OPERATIONS.items()}
_REPLIES: Final = {name: _Shape(known.reply, known.reply_optional) for name, known in OPERATIONS.items()}
_ITEMS: Final = {name: _Shape(known.items, {}) for name, known in OPERATIONS.items() if known.items}
_PUSHES: Final = {name: _Shape(known.required, known.optional) for name, known in EVENTS.items()}
_ERROR: Final = _Shape({"code": WORD, "message": TEXT}, {"hint": TEXT})


def _wrong_tail(length: int, tail: Tail) -> str:
    if tail.least <= length <= tail.most:
        return ""
    if tail.most == 0:
        return "nothing may follow this header"
    return f"{length} bytes follow the header where {tail.least} to {tail.most} may"


def _shown(word: object) -> str:
    text = ascii(word)
    return text if len(text) <= 40 else text[:37] + "..."


def _wrong_request(operation: Operation, keys: Mapping[str, Any], tail: int) -> str:
    return (
        _REQUESTS[operation.name].wrong(keys)
        or _wrong_tail(tail, operation.tail)
        or (operation.rule(keys, tail) if operation.rule is not None else "")
    )


def encode_request(
    id: int,  # noqa: A002  the wire's word
    op: str,
    keys: Mapping[str, Any],
    run: bytes | None = None,
    tail: bytes | bytearray | memoryview = b"",
) -> bytearray:
    """A request's frame; the caller wipes it when the tail was secret.

    Raises:
        LocalProtocolError: the operation, a key, a kind, the tail or the whole is not as the table says.
    """
    operation = OPERATIONS.get(op)
    if operation is None:
        raise LocalProtocolError(f"no such operation: {_shown(op)}")
    wrong = _wrong_request(operation, keys, len(tail))
    if wrong:
        raise LocalProtocolError(f"{op}: {wrong}")
    header: Header = {"v": VERSION, "id": id, "op": op}
    if not ID.accepts(id):
        raise LocalProtocolError(f"id is not {ID.label}")
    if run is not None:
        if not TOKEN.accepts(run):
            raise LocalProtocolError(f"run is not {TOKEN.label}")
        header["run"] = run
    header.update(keys)
    return encode_frame(encode(header, limit=MAX_REQUEST_HEADER), tail)


def parse_request(frame: Frame) -> Request | Malformed:
    """Read one request.

    Raises:
        RemoteProtocolError: the header cannot be read, or names no id to answer.
    """
    header = decode(frame.header, limit=MAX_REQUEST_HEADER)
    id_ = header.pop("id", None)
    if not ID.accepts(id_):
        raise RemoteProtocolError("the request has no valid id, so it cannot be answered")
    version = header.pop("v", None)
    if type(version) is not int or version != VERSION:
        return Malformed(id_, f"v is not {VERSION}, the one version spoken here")
    op = header.pop("op", None)
    operation = OPERATIONS.get(op) if type(op) is str else None
    if operation is None:
        return Malformed(id_, f"unknown operation {_shown(op)}" if type(op) is str else "op is not text")
    run = None
    if "run" in header and not TOKEN.accepts(run := header.pop("run")):  # nil is not a way to leave it out
        return Malformed(id_, f"run is not {TOKEN.label}")
    wrong = _wrong_request(operation, header, len(frame.tail))
    if wrong:
        return Malformed(id_, f"{operation.name}: {wrong}")
    return Request(id_, operation.name, run, header, frame.tail)


def encode_reply(id: int, keys: Mapping[str, Any], tail: bytes | bytearray | memoryview = b"") -> bytearray:  # noqa: A002
    """The frame of a reply with `ok` true; the caller wipes it when the tail was secret.

    Keys are checked by whoever receives (and by tests against this table), not here: this is the daemon's hot path.
    """
    header: Header = {"id": id, "ok": True}
    header.update(keys)
    return encode_frame(encode(header), tail)


def encode_error(id: int | None, code: str, message: str, hint: str = "") -> bytearray:  # noqa: A002  the wire's word
    """The frame of a reply with `ok` false; `id` None speaks of the whole connection, which then ends."""
    header = {"id": id or 0, "ok": False, "code": code, "message": message[:MAX_MESSAGE], "hint": hint[:MAX_MESSAGE]}
    return encode_frame(encode(header))


def encode_push(event: str, keys: Mapping[str, Any]) -> bytearray:
    """A push's frame.

    Raises:
        LocalProtocolError: the event or a key is not as the table says.
    """
    shape = _PUSHES.get(event)
    wrong = shape.wrong(keys) if shape is not None else "no such event"
    if wrong:
        raise LocalProtocolError(f"{_shown(event)}: {wrong}")
    return encode_frame(encode({"event": event, **keys}))


def parse_from_server(frame: Frame, outstanding: Mapping[int, str]) -> Reply | Push | None:
    """Read a reply to one of the `outstanding` requests (id to operation), or a push.

    Returns None for a push of a kind that this version does not know: later versions may tell more.

    Raises:
        RemoteProtocolError: the header cannot be read, answers nothing that was asked, or is not as the table says.
    """
    header = decode(frame.header)
    if "event" in header:
        return _parse_push(header, frame)
    id_, ok = header.pop("id", None), header.pop("ok", None)
    if id_ == 0 and ok is False:
        return _parse_error(None, "", header, frame)
    op = outstanding.get(id_) if type(id_) is int else None
    if op is None:
        raise RemoteProtocolError("a reply answers no request of ours")
    if ok is False:
        return _parse_error(id_, op, header, frame)
    if ok is not True:
        raise RemoteProtocolError("ok is not a bool")
    wrong = _REPLIES[op].wrong(header) or _wrong_tail(len(frame.tail), OPERATIONS[op].reply_tail)
    if wrong:
        raise RemoteProtocolError(f"reply to {op}: {wrong}")
    listed = _ITEMS.get(op)
    if listed is not None:
        wrong = next(filter(None, map(listed.lacks, header["items"])), "")
        if wrong:
            raise RemoteProtocolError(f"reply to {op}: an item's {wrong}")
    memfd, pipe = header.pop("memfd", False), header.pop("pipe", False)
    if memfd + pipe + bool(frame.tail) > 1:
        raise RemoteProtocolError(f"reply to {op}: a value comes as the tail or as one descriptor, not both")
    return Reply(id_, op, header, frame.tail, memfd=memfd, pipe=pipe)


def _parse_error(id_: int | None, op: str, header: Header, frame: Frame) -> Reply:
    wrong = _ERROR.wrong(header)
    if wrong or frame.tail:
        raise RemoteProtocolError(f"an error reply is malformed: {wrong or 'it has a tail'}")
    return Reply(id_, op, {}, frame.tail, code=header["code"], message=header["message"], hint=header.get("hint", ""))


def _parse_push(header: Header, frame: Frame) -> Push | None:
    event = header.pop("event")
    if type(event) is not str or frame.tail:
        raise RemoteProtocolError("a push is malformed")
    shape = _PUSHES.get(event)
    if shape is None:
        return None
    wrong = shape.wrong(header)
    if wrong:
        raise RemoteProtocolError(f"push {event}: {wrong}")
    return Push(event, header)
