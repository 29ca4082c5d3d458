"""The protocol under arbitrary bytes, arbitrary cuts and arbitrary interleavings."""

from __future__ import annotations

from typing import Any

import msgpack
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from vaultd.protocol import (
    MAX_FRAME,
    OPERATIONS,
    Connection,
    FrameDecoder,
    LocalProtocolError,
    Malformed,
    RemoteProtocolError,
    Reply,
    Request,
    Role,
    encode_frame,
)
from vaultd.protocol.codec import decode, encode
from vaultd.protocol.framing import LENGTH_SIZE

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.binary(max_size=40)
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
)


def depth(value: Any) -> int:
    """How deep containers nest in a value."""
    if isinstance(value, dict):
        return 1 + max((depth(item) for item in value.values()), default=0)
    if isinstance(value, list):
        return 1 + max((depth(item) for item in value), default=0)
    return 0


headers = st.dictionaries(st.text(max_size=8), values, max_size=8).filter(lambda header: depth(header) <= 5)


@given(headers)
def test_headers_come_back(header: dict[str, Any]) -> None:
    """What can be packed is parsed to the same, and packs to the same bytes."""
    packed = encode(header)
    assert decode(packed) == header
    assert encode(decode(packed)) == packed


@given(st.binary(max_size=200) | headers.map(msgpack.packb), st.data())
def test_any_bytes_are_one_header_or_refused(packed: bytes, data: st.DataObject) -> None:
    """Parsing gives a map that packs to the very same bytes, or a remote error; nothing else, ever."""
    if packed and data.draw(st.booleans()):  # one byte changed in what was valid finds more than noise does
        at = data.draw(st.integers(0, len(packed) - 1))
        packed = packed[:at] + bytes([data.draw(st.integers(0, 255))]) + packed[at + 1 :]
    try:
        header = decode(packed)
    except RemoteProtocolError:
        return
    assert encode(header) == packed


messages = st.lists(st.tuples(st.binary(max_size=300), st.binary(max_size=6_000)), max_size=6)


@given(messages, st.lists(st.integers(1, 5_000), min_size=1, max_size=20))
def test_frames_survive_any_cut(sent: list[tuple[bytes, bytes]], cuts: list[int]) -> None:
    """However a stream is cut, the frames are those that were sent, and what is kept stays bounded."""
    stream = b"".join(bytes(encode_frame(header, tail)) for header, tail in sent)
    decoder = FrameDecoder()
    got: list[tuple[bytes, bytes]] = []
    at = turn = 0
    while at < len(stream):
        room = decoder.get_buffer()
        count = min(len(room), len(stream) - at, cuts[turn % len(cuts)])
        room[:count] = stream[at : at + count]
        decoder.buffer_updated(count)
        at, turn = at + count, turn + 1
        while (frame := decoder.next_frame()) is not None:
            got.append((frame.header, bytes(frame.tail)))
    assert got == sent
    assert decoder.buffered == 0
    assert len(decoder._buffer) <= LENGTH_SIZE + MAX_FRAME


@given(st.binary(max_size=2_000), st.integers(1, 100))
def test_a_server_survives_any_bytes(stream: bytes, step: int) -> None:
    """Whatever a stranger sends becomes requests, refusals or the end of the connection: no other exception."""
    survive(stream, step)


@given(st.lists(st.binary(max_size=100), max_size=5), st.integers(1, 100))
def test_a_server_survives_any_headers(contents: list[bytes], step: int) -> None:
    """The same with frames that are well formed around headers that are not."""
    survive(b"".join(bytes(encode_frame(content)) for content in contents), step)


@given(
    st.sampled_from(sorted(OPERATIONS)),
    st.dictionaries(
        st.sampled_from(sorted({key for op in OPERATIONS.values() for key in {**op.required, **op.optional}}))
        | st.text(max_size=3),
        values,
        max_size=5,
    ).filter(lambda keys: depth(keys) <= 5 and "id" not in keys and "op" not in keys),
    st.binary(max_size=20),
)
def test_a_server_answers_any_request_with_an_id(op: str, keys: dict[str, Any], tail: bytes) -> None:
    """A canonical header with an id gets an answer, and the client's own check agrees with the server's."""
    server, client = Connection(Role.SERVER), Connection(Role.CLIENT)
    server.receive_data(encode_frame(encode({"v": 1, "id": 7, "op": op, **keys}), tail))
    event = server.next_event()
    assert isinstance(event, Request | Malformed)
    assert event.id == 7
    if op == "ack" or "run" in keys or "v" in keys:
        return
    try:
        client.request(op, keys, tail=tail)
        legal = True
    except LocalProtocolError:
        legal = False
    assert legal == isinstance(event, Request)


def survive(stream: bytes, step: int) -> None:
    """Feed a server and answer whatever it makes of it."""
    server = Connection(Role.SERVER)
    try:
        for start in range(0, len(stream), step):
            server.receive_data(stream[start : start + step])
            while (event := server.next_event()) is not None:
                assert isinstance(event, Request | Malformed)
                server.error(event.id, "denied", "no")
    except RemoteProtocolError:
        server.error(None, "protocol", "framing is lost")


@given(st.binary(max_size=2_000), st.integers(1, 100))
def test_a_client_survives_any_bytes(stream: bytes, step: int) -> None:
    """A client that meets another server than it thinks ends with a remote error, never another."""
    client = Connection(Role.CLIENT)
    client.request("status", {})
    try:
        for start in range(0, len(stream), step):
            client.receive_data(stream[start : start + step])
            while client.next_event() is not None:
                pass
    except RemoteProtocolError:
        return


class Conversation(RuleBasedStateMachine):
    """A client and a server that speak at random, bytes going over in random pieces in either direction."""

    def __init__(self) -> None:
        super().__init__()
        self.client = Connection(Role.CLIENT)
        self.server = Connection(Role.SERVER)
        self.up = bytearray()
        self.down = bytearray()
        self.asked: dict[int, str] = {}
        self.waiting: list[Request] = []
        self.answered: dict[int, str] = {}
        self.on_its_way: list[int] = []
        self.to_acknowledge: int | None = None

    @rule(op=st.sampled_from(["status", "logout", "secret.get"]))
    @precondition(lambda self: len(self.asked) < 50)
    def ask(self, op: str) -> None:
        """The client asks."""
        keys = {"tenant": "a", "secret": "b"} if op == "secret.get" else {}
        id_, frame = self.client.request(op, keys)
        assert id_ not in self.asked
        self.asked[id_] = op
        self.up += frame

    @rule(count=st.integers(1, 200))
    @precondition(lambda self: self.up)
    def go_up(self, count: int) -> None:
        """Some bytes reach the server."""
        self.server.receive_data(self.up[:count])
        del self.up[:count]
        while (event := self.server.next_event()) is not None:
            assert isinstance(event, Request)
            if event.op == "ack":
                assert event.keys["of"] in self.on_its_way
                self.on_its_way.remove(event.keys["of"])
                self.down += self.server.reply(event.id, {})
            else:
                assert event.op == self.asked[event.id]
                self.waiting.append(event)

    @rule(pick=st.randoms(use_true_random=False), refuse=st.booleans(), memfd=st.booleans())
    @precondition(lambda self: self.waiting)
    def answer(self, pick: Any, refuse: bool, memfd: bool) -> None:
        """The server answers any request that waits, with a descriptor where it may."""
        request = self.waiting.pop(pick.randrange(len(self.waiting)))
        if refuse or request.op == "status":
            self.down += self.server.error(request.id, "denied", "no")
            self.answered[request.id] = "denied"
            return
        value = {"version": 1, "state": "current"} if request.op == "secret.get" else {}
        if memfd and request.op == "secret.get":
            try:
                self.down += self.server.reply(request.id, value, memfd=True)
            except LocalProtocolError:
                assert self.on_its_way, "refused although no descriptor is on its way"
                self.waiting.append(request)
                return
            self.on_its_way.append(request.id)
        else:
            self.down += self.server.reply(request.id, value)
        self.answered[request.id] = "ok"

    @rule()
    def push(self) -> None:
        """The server tells something."""
        self.down += self.server.push("vault.sealed", {})

    @rule(count=st.integers(1, 200))
    @precondition(lambda self: self.down)
    def go_down(self, count: int) -> None:
        """Some bytes reach the client, which acknowledges what it must."""
        self.client.receive_data(self.down[:count])
        del self.down[:count]
        while (event := self.client.next_event()) is not None:
            if not isinstance(event, Reply) or event.op == "ack":
                continue
            assert event.id is not None
            assert event.op == self.asked.pop(event.id)
            assert self.answered.pop(event.id) == (event.code or "ok")
            if event.memfd:
                _, frame = self.client.request("ack", {"of": event.id})
                self.up += frame

    @invariant()
    def one_descriptor_at_a_time(self) -> None:
        """Never more than one descriptor is unacknowledged."""
        assert len(self.on_its_way) <= 1
        assert self.server.unacknowledged == (self.on_its_way[0] if self.on_its_way else None)

    @invariant()
    def every_request_waits_or_was_answered(self) -> None:
        """The client's count of waiting requests is the model's, acknowledgements aside."""
        assert self.client.outstanding >= len(self.asked)


Conversation.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestConversation = Conversation.TestCase
