"""Both ends of a connection joined in memory."""

from __future__ import annotations

import pytest

from vaultd.protocol import (
    MAX_OUTSTANDING,
    Connection,
    LocalProtocolError,
    Malformed,
    Push,
    RemoteProtocolError,
    Reply,
    Request,
    Role,
    encode_frame,
)
from vaultd.protocol.codec import encode


class Pair:
    """A client and a server joined in memory; `step` is how many bytes go over at once."""

    def __init__(self, step: int = 1 << 30) -> None:
        self.client = Connection(Role.CLIENT)
        self.server = Connection(Role.SERVER)
        self.step = step

    def up(self, frame: bytes | bytearray) -> list[Request | Malformed]:
        """Bytes to the server; the events that came of them."""
        return self._over(self.server, frame)  # type: ignore[return-value]

    def down(self, frame: bytes | bytearray) -> list[Reply | Push]:
        """Bytes to the client; the events that came of them."""
        return self._over(self.client, frame)  # type: ignore[return-value]

    def _over(self, end: Connection, frame: bytes | bytearray) -> list[object]:
        events = []
        for start in range(0, len(frame), self.step):
            end.receive_data(frame[start : start + self.step])
            while (event := end.next_event()) is not None:
                events.append(event)
        return events


@pytest.fixture(params=[1, 7, 1 << 30], ids=["byte by byte", "in sevens", "whole"])
def pair(request: pytest.FixtureRequest) -> Pair:
    """A pair, over which bytes go in pieces of several sizes."""
    return Pair(request.param)


def test_request_and_reply_find_each_other(pair: Pair) -> None:
    """A request arrives as it was made, its reply under its id."""
    id_, frame = pair.client.request("slot.remove", {"slot": 3}, run=b"r" * 32)
    (request,) = pair.up(frame)
    assert isinstance(request, Request)
    assert (request.id, request.op, request.run, request.keys) == (id_, "slot.remove", b"r" * 32, {"slot": 3})
    (reply,) = pair.down(pair.server.reply(request.id, {}))
    assert isinstance(reply, Reply)
    assert (reply.id, reply.op, reply.ok) == (id_, "slot.remove", True)
    assert pair.client.outstanding == pair.server.outstanding == 0


def test_pipelined_requests_may_be_answered_in_any_order(pair: Pair) -> None:
    """Ids pair replies with requests, not their order; pushes stand between them."""
    sent = [pair.client.request("logout", {}) for _ in range(3)]
    requests = pair.up(b"".join(bytes(frame) for _, frame in sent))
    assert [request.id for request in requests] == [id_ for id_, _ in sent]
    back = b"".join(
        bytes(frame)
        for frame in (
            pair.server.reply(requests[2].id, {}),
            pair.server.push("vault.sealed", {}),
            pair.server.error(requests[0].id, "denied", "no"),
            pair.server.reply(requests[1].id, {}),
        )
    )
    events = pair.down(back)
    assert [(type(event).__name__, getattr(event, "id", None)) for event in events] == [
        ("Reply", 3),
        ("Push", None),
        ("Reply", 1),
        ("Reply", 2),
    ]


def test_malformed_request_is_answered_and_the_connection_goes_on(pair: Pair) -> None:
    """An unknown operation is one refused request, not the end."""
    bad = encode_frame(encode({"v": 1, "id": 9, "op": "no.such"}))
    id_, good = pair.client.request("logout", {})
    malformed, request = pair.up(bytes(bad) + bytes(good))
    assert isinstance(malformed, Malformed)
    pair.server.error(malformed.id, malformed.code, malformed.message)
    assert isinstance(request, Request)
    assert request.id == id_


def test_broken_framing_is_the_end(pair: Pair) -> None:
    """After an impossible length nothing more is read, and the last word has id 0."""
    with pytest.raises(RemoteProtocolError):
        pair.up(b"\xff\xff\xff\xff")
    for _ in range(2):
        with pytest.raises(RemoteProtocolError):
            pair.server.next_event()
    (reply,) = pair.down(pair.server.error(None, "protocol", "framing is lost"))
    assert isinstance(reply, Reply)
    assert reply.id is None


def test_header_that_cannot_be_read_is_the_end(pair: Pair) -> None:
    """A header in two spellings could hide its id, so it is not answered; what follows it is not read."""
    twice = b"\x84\xa1v\x01\xa2id\x01\xa2id\x02\xa2op\xa6status"
    _, good = pair.client.request("logout", {})
    with pytest.raises(RemoteProtocolError, match="canonical"):
        pair.up(bytes(encode_frame(twice)) + bytes(good))
    with pytest.raises(RemoteProtocolError, match="canonical"):
        pair.server.next_event()


def test_id_used_twice_is_the_end() -> None:
    """Two waiting requests with one id could not be told apart; after its reply an id is free."""
    pair = Pair()
    frame = bytes(encode_frame(encode({"v": 1, "id": 5, "op": "logout"})))
    (first,) = pair.up(frame)
    pair.server.reply(first.id, {})
    (again,) = pair.up(frame)
    assert again.id == 5
    with pytest.raises(RemoteProtocolError, match="again"):
        pair.up(frame)


def test_waiting_requests_are_bounded_at_both_ends() -> None:
    """The client does not send one too many; a server that has that many takes no more until it answers one."""
    pair = Pair()
    frames = [pair.client.request("logout", {})[1] for _ in range(MAX_OUTSTANDING - 1)]
    with pytest.raises(LocalProtocolError, match="wait"):
        pair.client.request("logout", {})
    frames.append(encode_frame(encode({"v": 1, "id": MAX_OUTSTANDING, "op": "logout"})))
    requests = []
    for frame in frames:
        requests += pair.up(frame)
    assert len(requests) == MAX_OUTSTANDING
    assert pair.up(encode_frame(encode({"v": 1, "id": 999, "op": "logout"}))) == []
    assert pair.server.decoder.has_frame
    pair.server.reply(requests[0].id, {})
    event = pair.server.next_event()
    assert isinstance(event, Request)
    assert event.id == 999


def test_descriptors_go_one_at_a_time() -> None:
    """A second descriptor cannot be sent before the first is acknowledged, nor accepted."""
    pair = Pair()
    keys = {"tenant": "a", "secret": "b"}
    asked = [pair.client.request("secret.get", keys)[1] for _ in range(2)]
    first, second = pair.up(bytes(asked[0]) + bytes(asked[1]))
    value = {"version": 1, "state": "current"}
    (reply,) = pair.down(pair.server.reply(first.id, value, memfd=True))
    assert isinstance(reply, Reply)
    assert reply.memfd
    assert "memfd" not in reply.keys
    assert pair.server.unacknowledged == first.id
    with pytest.raises(LocalProtocolError, match="not acknowledged"):
        pair.server.reply(second.id, value, memfd=True)
    _, acknowledgement = pair.client.request("ack", {"of": first.id})
    (ack,) = pair.up(acknowledgement)
    assert isinstance(ack, Request)
    assert pair.server.unacknowledged is None
    pair.down(pair.server.reply(ack.id, {}))
    (reply,) = pair.down(pair.server.reply(second.id, value, memfd=True))
    assert isinstance(reply, Reply)


def test_client_refuses_a_second_descriptor_before_its_acknowledgement() -> None:
    """A server that does not wait for the acknowledgement has broken the protocol."""
    pair = Pair()
    for _ in range(2):
        pair.client.request("secret.get", {"tenant": "a", "secret": "b"})
    frames = [encode_frame(encode({"id": n, "ok": True, "version": 1, "state": "s", "memfd": True})) for n in (1, 2)]
    pair.down(frames[0])
    with pytest.raises(RemoteProtocolError, match="second descriptor"):
        pair.down(frames[1])


def test_acknowledgement_has_a_place_when_everything_else_waits() -> None:
    """With every other place taken by requests that may wait for it, the acknowledgement still goes out and in."""
    pair = Pair()
    asked = [pair.client.request("secret.get", {"tenant": "a", "secret": "b"})[1] for _ in range(MAX_OUTSTANDING - 1)]
    requests = [request for frame in asked for request in pair.up(frame)]
    value = {"version": 1, "state": "current"}
    pair.down(pair.server.reply(requests[0].id, value, memfd=True))
    pair.client.request("secret.get", {"tenant": "a", "secret": "b"})
    _, acknowledgement = pair.client.request("ack", {"of": requests[0].id})
    (ack,) = pair.up(acknowledgement)
    assert isinstance(ack, Request)
    assert pair.server.unacknowledged is None


def test_acknowledgement_of_nothing_is_refused() -> None:
    """An `ack` for a reply that had no descriptor, or had its ack, is one malformed request."""
    pair = Pair()
    with pytest.raises(LocalProtocolError, match="no descriptor"):
        pair.client.request("ack", {"of": 1})
    (event,) = pair.up(encode_frame(encode({"v": 1, "id": 1, "op": "ack", "of": 7})))
    assert isinstance(event, Malformed)
    assert "no descriptor" in event.message


def test_each_role_sends_only_what_is_its_own() -> None:
    """A client cannot reply or push, a server cannot ask, and nobody answers what was not asked."""
    pair = Pair()
    with pytest.raises(LocalProtocolError):
        pair.server.request("logout", {})
    for wrong in (
        lambda: pair.client.reply(1, {}),
        lambda: pair.client.error(1, "denied", "no"),
        lambda: pair.client.error(None, "denied", "no"),
        lambda: pair.client.push("vault.sealed", {}),
        lambda: pair.server.reply(1, {}),
        lambda: pair.server.error(1, "denied", "no"),
    ):
        with pytest.raises(LocalProtocolError):
            wrong()


def test_refused_request_uses_up_no_id() -> None:
    """A request that was not sent leaves no trace: ids go on, nothing waits."""
    pair = Pair()
    for _ in range(3):
        with pytest.raises(LocalProtocolError):
            pair.client.request("slot.remove", {})
    assert pair.client.outstanding == 0
    assert pair.client.request("logout", {})[0] == 1


def test_ids_go_around_without_zero_and_skip_those_that_wait() -> None:
    """After 2^32-1 comes 1, or the next that is free."""
    pair = Pair()
    assert pair.client.request("logout", {})[0] == 1
    pair.client._last_id = 2**32 - 2
    assert pair.client.request("logout", {})[0] == 2**32 - 1
    assert pair.client.request("logout", {})[0] == 2


def test_too_long_a_request_header_is_the_end_and_never_sent() -> None:
    """The work that a stranger can ask for is bounded below a frame's size."""
    pair = Pair()
    keys = {"tenant": "t", "service": "s", "secrets": ["x" * 512] * 32}
    with pytest.raises(LocalProtocolError, match="over the limit"):
        pair.client.request("grant.add", {**keys, "purposes": ["y" * 128] * 32})
    id_, frame = pair.client.request("grant.add", {**keys, "secrets": ["x" * 500] * 32})
    assert pair.up(frame)[0].id == id_
    with pytest.raises(RemoteProtocolError, match="over the limit"):
        pair.up(encode_frame(encode({"v": 1, "id": 2, "op": "grant.add", **keys, "tz": "z" * 1_000})))


def test_forget_ends_it_and_wipes() -> None:
    """A closed connection keeps nothing of a half frame and takes nothing more."""
    pair = Pair()
    pair.server.receive_data(bytes(encode_frame(b"\x80", b"sk-canary"))[:-1])
    buffer = pair.server.decoder._buffer
    pair.server.forget()
    assert b"canary" not in buffer
    with pytest.raises(RemoteProtocolError, match="closed"):
        pair.server.next_event()
