"""Requests, replies and pushes against the table of operations."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from vaultd.protocol import (
    COMMON_CODES,
    EVENTS,
    MAX_TAIL,
    OPERATIONS,
    Frame,
    FrameDecoder,
    LocalProtocolError,
    Malformed,
    Push,
    RemoteProtocolError,
    Reply,
    Request,
    codes,
)
from vaultd.protocol.messages import (
    MAX_MESSAGE,
    encode_error,
    encode_push,
    encode_reply,
    encode_request,
    parse_from_server,
    parse_request,
)

TOKEN = bytes(range(32))

SAMPLES = {
    "text": "x",
    "int": 1,
    "u32": 2**32 - 1,
    "u64": 2**64 - 1,
    "seconds": -1,
    "i32": -1,
    "bytes": 2**53,
    "request": 5,
    "bool": True,
    "32": TOKEN,
    "unix": 1.5,
    "[count,": [100, 60],
    "map": {"a": 1},
    "list": ["x"],
}
"""A value of each kind, by the first word of its label."""


def sample(label: str) -> Any:
    """A value that a kind with this label accepts."""
    if label.startswith('"'):
        return label.split('"')[1]
    if label == "list of maps":
        return []
    return SAMPLES[label.split(maxsplit=1)[0].rstrip(",")] if label.split(maxsplit=1)[0] != "[count," else [100, 60]


def filled(required: Any, optional: Any, *, every: bool) -> dict[str, Any]:
    """Keys with sample values: the required ones, or all."""
    kinds = {**required, **(optional if every else {})}
    return {key: sample(kind.label) for key, kind in kinds.items()}


def only(frame: bytes | bytearray) -> Frame:
    """The one frame in these bytes."""
    decoder = FrameDecoder()
    decoder.feed(frame)
    found = decoder.next_frame()
    assert found is not None
    assert decoder.buffered == 0
    return found


def legal(op: str, *, every: bool) -> tuple[dict[str, Any], bytes]:
    """Keys and tail of a legal request of `op`."""
    operation = OPERATIONS[op]
    keys = filled(operation.required, operation.optional, every=every)
    tail = b"t" * operation.tail.least
    if op == "lease.revoke":
        keys = {"tenant": "x", "secret": "x"} if every else {"lease": "x"}
    if op == "value.begin" and not every:
        keys = {"size": 1}
    return keys, tail


@pytest.mark.parametrize("every", [False, True], ids=["required keys", "all keys"])
@pytest.mark.parametrize("op", OPERATIONS)
def test_every_request_comes_back(op: str, *, every: bool) -> None:
    """A request of each operation, with its required keys and with all, is parsed to what was encoded."""
    keys, tail = legal(op, every=every)
    run = TOKEN if every else None
    request = parse_request(only(encode_request(7, op, keys, run, tail)))
    assert isinstance(request, Request)
    assert (request.id, request.op, request.run, request.keys, bytes(request.tail)) == (7, op, run, keys, tail)


@pytest.mark.parametrize("op", OPERATIONS)
def test_every_wrong_request_is_answered_and_never_sent(op: str) -> None:
    """A key missing, unknown or of another kind, and a tail out of bounds: refused by sender and receiver alike."""
    operation = OPERATIONS[op]
    keys, tail = legal(op, every=False)
    wrong: list[tuple[dict[str, Any], bytes]] = [
        ({**keys, "unknown": 1}, tail),
        (keys, b"t" * (operation.tail.most + 1)),
    ]
    if operation.tail.least:
        wrong.append((keys, b"t" * (operation.tail.least - 1)))
    wrong += [({k: v for k, v in keys.items() if k != missing}, tail) for missing in operation.required]
    for key in {**operation.required, **operation.optional}:
        wrong += [({**keys, key: value}, tail) for value in (None, b"bytes", [[]], {"a": {}})]
    for key, kind in {**operation.required, **operation.optional}.items():
        other = "text" if not kind.accepts("text") else 1
        wrong.append(({**keys, key: other}, tail))
    for bad_keys, bad_tail in wrong:
        with pytest.raises(LocalProtocolError):
            encode_request(7, op, bad_keys, None, bad_tail)
        header = msgpack.packb({"v": 1, "id": 7, "op": op, **bad_keys})
        answer = parse_request(Frame(header, bytearray(bad_tail)))
        assert isinstance(answer, Malformed), (bad_keys, len(bad_tail))
        assert answer.id == 7
        assert answer.code == "protocol"


def test_bool_is_no_integer_and_a_float_is_none() -> None:
    """True is not 1 and 1.0 is not 1, in either direction."""
    for keys in ({"slot": True}, {"slot": 1.0}, {"slot": "1"}):
        with pytest.raises(LocalProtocolError, match="slot is not"):
            encode_request(1, "slot.remove", keys)
    for upload in (1, 0, None, "true"):
        with pytest.raises(LocalProtocolError, match="upload is not"):
            encode_request(1, "rotate.secret", {"tenant": "a", "secret": "b", "upload": upload})


def test_zero_and_negative_spans_are_well_formed() -> None:
    """A TTL of zero or less reaches the daemon, which can answer with the field's name; one beyond 32 bits does not."""
    for ttl in (0, -1, 2**31 - 1):
        encode_request(1, "lease.acquire", {"secret": "b", "ttl": ttl})
    with pytest.raises(LocalProtocolError):
        encode_request(1, "lease.acquire", {"secret": "b", "ttl": 2**31})


def test_rules_over_several_keys() -> None:
    """A value comes by upload or as the tail; a revocation names exactly one thing."""
    both = {"tenant": "a", "secret": "b", "upload": True}
    with pytest.raises(LocalProtocolError, match="not both"):
        encode_request(1, "secret.put", both, None, b"x")
    encode_request(1, "secret.put", both)
    for keys in ({}, {"lease": "l", "of_run": "r"}, {"secret": "s"}, {"lease": "l", "secret": "s"}):
        with pytest.raises(LocalProtocolError):
            encode_request(1, "lease.revoke", keys)


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ({"id": 7, "op": "status"}, "v is not 1"),
        ({"v": 2, "id": 7, "op": "status"}, "v is not 1"),
        ({"v": True, "id": 7, "op": "status"}, "v is not 1"),
        ({"v": 1, "id": 7}, "op is not text"),
        ({"v": 1, "id": 7, "op": 1}, "op is not text"),
        ({"v": 1, "id": 7, "op": "no.such"}, "unknown operation 'no.such'"),
        ({"v": 1, "id": 7, "op": "status", "run": b"short"}, "run is not"),
        ({"v": 1, "id": 7, "op": "status", "run": "x" * 32}, "run is not"),
    ],
)
def test_request_with_an_id_is_answered(header: dict[str, Any], says: str) -> None:
    """Whatever else is wrong, a request whose id can be read gets a reply that says what."""
    answer = parse_request(Frame(msgpack.packb(header), bytearray()))
    assert isinstance(answer, Malformed)
    assert answer.id == 7
    assert says in answer.message


@pytest.mark.parametrize("id_", [None, 0, -1, 2**32, True, 1.0, "1", b"1", [1]])
def test_request_without_a_valid_id_ends_the_connection(id_: object) -> None:
    """What cannot be answered cannot be ignored either."""
    header = {"v": 1, "op": "status", **({} if id_ is None else {"id": id_})}
    with pytest.raises(RemoteProtocolError, match="id"):
        parse_request(Frame(msgpack.packb(header), bytearray()))


def test_long_unknown_words_are_cut_in_messages() -> None:
    """What a stranger sends is quoted in bounds, in ASCII."""
    header = {"v": 1, "id": 7, "op": "é\n" * 1_000}
    answer = parse_request(Frame(msgpack.packb(header), bytearray()))
    assert isinstance(answer, Malformed)
    assert len(answer.message) < 100
    assert answer.message.isascii()
    assert "\n" not in answer.message


def legal_reply(op: str, *, every: bool) -> tuple[dict[str, Any], bytes]:
    """Keys and tail of a legal reply of `op`."""
    operation = OPERATIONS[op]
    keys = filled(operation.reply, operation.reply_optional, every=every)
    if operation.items:
        keys["items"] = [filled(operation.items, operation.items_optional, every=every)] * 2
    for beside in ("memfd", "pipe"):
        keys.pop(beside, None)
    return keys, b"t" * operation.reply_tail.least


@pytest.mark.parametrize("every", [False, True], ids=["required keys", "all keys"])
@pytest.mark.parametrize("op", OPERATIONS)
def test_every_reply_comes_back(op: str, *, every: bool) -> None:
    """A reply of each operation is parsed to what was encoded."""
    keys, tail = legal_reply(op, every=every)
    reply = parse_from_server(only(encode_reply(7, keys, tail)), {7: op})
    assert isinstance(reply, Reply)
    assert reply.ok
    assert (reply.id, reply.op, reply.keys, bytes(reply.tail), reply.memfd) == (7, op, keys, tail, False)


@pytest.mark.parametrize("op", OPERATIONS)
def test_every_wrong_reply_ends_the_connection(op: str) -> None:
    """A client that relies on keys refuses a reply without them, with others, or with a tail where none may be."""
    operation = OPERATIONS[op]
    keys, tail = legal_reply(op, every=False)
    wrong: list[tuple[dict[str, Any], bytes]] = [({**keys, "unknown": 1}, tail)]
    wrong.append((keys, b"t" * (operation.reply_tail.most + 1)))
    wrong += [({k: v for k, v in keys.items() if k != missing}, tail) for missing in operation.reply]
    wrong += [({**keys, key: None}, tail) for key in {**operation.reply, **operation.reply_optional}]
    if operation.items:
        wrong += [({**keys, "items": [{}]}, tail), ({**keys, "items": [1]}, tail)]
    for bad_keys, bad_tail in wrong:
        with pytest.raises(RemoteProtocolError):
            parse_from_server(only(encode_reply(7, bad_keys, bad_tail)), {7: op})


def test_reply_that_answers_nothing_ends_the_connection() -> None:
    """An id that was not asked, or was answered, is not a reply."""
    for id_ in (1, 2**32 - 1):
        with pytest.raises(RemoteProtocolError, match="no request"):
            parse_from_server(only(encode_reply(id_, {})), {7: "logout"})
    with pytest.raises(RemoteProtocolError, match="no request"):
        parse_from_server(only(encode_reply(0, {})), {7: "logout"})
    header = msgpack.packb({"id": 7, "ok": 1})
    with pytest.raises(RemoteProtocolError, match="ok is not"):
        parse_from_server(Frame(header, bytearray()), {7: "logout"})


def test_items_may_have_more_than_the_table_says() -> None:
    """A later daemon may tell more about an item; what this client relies on is still checked."""
    keys = {"items": [{"tenant": "acme", "state": None, "colour": "red"}]}
    reply = parse_from_server(only(encode_reply(7, keys)), {7: "tenant.list"})
    assert isinstance(reply, Reply)
    assert reply.keys == keys


def test_value_comes_as_the_tail_or_as_a_descriptor() -> None:
    """A reply with a descriptor has no tail."""
    keys = {"version": 1, "state": "current", "memfd": True}
    reply = parse_from_server(only(encode_reply(7, keys)), {7: "secret.get"})
    assert isinstance(reply, Reply)
    assert reply.memfd
    with pytest.raises(RemoteProtocolError, match="not both"):
        parse_from_server(only(encode_reply(7, keys, b"x")), {7: "secret.get"})


def test_error_carries_code_message_and_hint() -> None:
    """A refusal's three parts come back; unknown codes too; over-long texts are cut; a tail is refused."""
    for code in ("denied", "some_later_code"):
        reply = parse_from_server(only(encode_error(7, code, "no", "ask")), {7: "status"})
        assert isinstance(reply, Reply)
        assert (reply.ok, reply.id, reply.code, reply.message, reply.hint) == (False, 7, code, "no", "ask")
    long = parse_from_server(only(encode_error(7, "denied", "x" * 9_999, "y" * 9_999)), {7: "status"})
    assert isinstance(long, Reply)
    assert (len(long.message), len(long.hint)) == (MAX_MESSAGE, MAX_MESSAGE)
    frame = only(encode_error(7, "denied", "no"))
    with pytest.raises(RemoteProtocolError, match="tail"):
        parse_from_server(Frame(frame.header, bytearray(b"x")), {7: "status"})


def test_error_about_the_connection_has_id_zero() -> None:
    """Id 0 with `ok` false speaks of the whole connection, whatever waits."""
    reply = parse_from_server(only(encode_error(None, "quota", "too many connections")), {})
    assert isinstance(reply, Reply)
    assert reply.id is None
    assert reply.code == "quota"


@pytest.mark.parametrize("event", EVENTS)
def test_every_push_comes_back(event: str) -> None:
    """A push of each kind is parsed to what was encoded, and a wrong one is neither sent nor taken."""
    kind = EVENTS[event]
    keys = filled(kind.required, kind.optional, every=True)
    push = parse_from_server(only(encode_push(event, keys)), {})
    assert isinstance(push, Push)
    assert (push.event, push.keys) == (event, keys)
    with pytest.raises(LocalProtocolError):
        encode_push(event, {**keys, "unknown": 1})
    with pytest.raises(RemoteProtocolError):
        parse_from_server(Frame(msgpack.packb({"event": event, **keys, "unknown": 1}), bytearray()), {})
    with pytest.raises(RemoteProtocolError):
        parse_from_server(Frame(msgpack.packb({"event": event, **keys}), bytearray(b"tail")), {})


def test_push_of_a_later_version_is_ignored() -> None:
    """An event that this version does not know is no error; this side never sends one."""
    assert parse_from_server(Frame(msgpack.packb({"event": "moon.full"}), bytearray()), {}) is None
    with pytest.raises(LocalProtocolError, match="no such event"):
        encode_push("moon.full", {})
    with pytest.raises(RemoteProtocolError):
        parse_from_server(Frame(msgpack.packb({"event": 1}), bytearray()), {})


def test_reprs_show_no_values() -> None:
    """What ends up in logs names keys and sizes, never tokens, values or tails."""
    request = Request(1, "secret.put", b"T" * 32, {"tenant": "t-canary", "secret": "s"}, bytearray(b"v-canary"))
    reply = Reply(1, "run.open", {"token": b"k-canary"}, bytearray(b"v-canary"))
    for shown in (repr(request), repr(reply)):
        assert "canary" not in shown
        assert "TTT" not in shown


def test_table_names_only_known_codes() -> None:
    """Every code in the table is one of `codes.py`, none is listed twice for an operation."""
    for operation in OPERATIONS.values():
        listed = (*COMMON_CODES, *operation.codes)
        assert set(listed) <= set(codes.CODES), operation.name
        assert len(listed) == len(set(listed)), operation.name


def test_table_bounds_tails() -> None:
    """No tail may be longer than a frame has room for beside a full header's usual size."""
    for operation in OPERATIONS.values():
        for tail in (operation.tail, operation.reply_tail):
            assert 0 <= tail.least <= tail.most <= MAX_TAIL


def test_common_keys_are_no_operations_own() -> None:
    """No operation has a key that the envelope uses."""
    for operation in OPERATIONS.values():
        assert not {"v", "id", "op", "run"} & {*operation.required, *operation.optional}, operation.name
        assert not {"id", "ok", "code", "event"} & {*operation.reply, *operation.reply_optional}, operation.name
        assert not {*operation.required} & {*operation.optional}, operation.name
