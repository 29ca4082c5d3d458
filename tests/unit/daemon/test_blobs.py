"""Uploads and pipes against a disk that is held up, a clock that moves, and peers that stop, leave or lose rights."""

from __future__ import annotations

import contextlib
import os
import select
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.raw import framed, packed
from tests.support.slow_world import SlowWorld
from vaultclient.errors import Conflict, Denied, Invalid, NotFound, Sealed, Throttled, Unavailable, VaultError
from vaultd.protocol import MAX_OUTSTANDING, MAX_TAIL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from io import RawIOBase

    from vaultclient import Client

MIB = 1 << 20
BIG = {"tenant": "acme", "secret": "big"}
CHUNK = os.urandom(MAX_TAIL)


@pytest.fixture
def world() -> Iterator[SlowWorld]:
    """A server of its own."""
    with SlowWorld() as running:
        yield running


def begun(client: Client, chunks: int = 30, **keys: Any) -> int:
    """An upload of `chunks` chunks, all sent; its size."""
    size = chunks * MAX_TAIL
    client.call("value.begin", {**BIG, "size": size, **keys})
    for offset in range(0, size, MAX_TAIL):
        client.call("value.chunk", {"offset": offset}, CHUNK)
    return size


def send(client: Client, chunks: list[tuple[int, int]], keys: dict[str, Any] | None = None) -> None:
    """Chunks of these lengths at these offsets; with `keys`, the request that uses them."""
    for offset, length in chunks:
        client.call("value.chunk", {"offset": offset}, bytes(length))
    if keys is not None:
        client.call("secret.put", {**keys, "upload": True})


def drain(file: RawIOBase, into: bytearray | None = None) -> None:
    """Read to the end, or to the error."""
    while part := file.read(65_536):
        if into is not None:
            into += part


def stored(world: SlowWorld, size: int = 6 * MIB) -> bytes:
    """The value of a blob at `big`."""
    value = os.urandom(size)
    world.admin.put("acme", "big", value)
    return value


def gone(world: SlowWorld) -> bool:
    """Wait until no upload and no file is left."""
    world.until(lambda: len(world.engine.blob_uploads) == 0)
    done = threading.Event()
    world.engine.workers.later(done.set)  # behind what removes it
    assert done.wait(10)
    return not world.files()


def test_a_disk_that_hangs_holds_up_nobody_else(world: SlowWorld) -> None:
    """While an upload's chunk and a download's read wait for the disk, leases and puts are served."""
    stored(world)
    world.admin.put("acme", "small", b"sk-small")
    world.gate.close()
    with world.client() as uploading, world.client() as reading, world.client() as other:
        ends: list[str] = []

        def upload() -> None:
            begun(uploading)
            ends.append("uploaded")

        def read() -> None:
            reading.call("secret.get", {**BIG, "offset": MIB, "length": 10}).close()
            ends.append("read")

        world.run(lambda: None)
        reading.call("login", {"kind": "passphrase", "bind": "self"}, b"correct horse battery staple")
        threads = [threading.Thread(target=upload), threading.Thread(target=read)]
        for thread in threads:
            thread.start()
        assert world.gate.reached.wait(10)
        for _ in range(50):
            with other.lease("acme", "small") as lease:
                assert bytes(lease.value) == b"sk-small"
        assert other.put("acme", "small", b"sk-small") == 2
        assert ends == []
        world.gate.open.set()
        for thread in threads:
            thread.join(20)
    assert sorted(ends) == ["read", "uploaded"]


def test_chunks_sent_ahead_stay_outside(world: SlowWorld) -> None:
    """A client that sends without waiting fills its socket, not the daemon: one chunk is taken until it is written."""
    world.gate.close()
    with world.caller() as caller:
        caller.call("value.begin", BIG)
        sent = 0
        caller.socket.settimeout(0.3)
        with contextlib.suppress(TimeoutError):
            while sent < MAX_OUTSTANDING:
                caller.send("value.chunk", {"offset": sent * MAX_TAIL}, CHUNK)
                sent += 1
        assert world.gate.reached.wait(10)
        assert sent < 40  # a mebibyte in the vault's buffer, and what the socket holds
        (connection,) = [one for one in world.server.connections if one.on_hold]
        assert world.run(lambda: connection.wire.outstanding) == 1
        assert world.run(lambda: connection.wire.decoder.buffered) <= 2 * 65_540
        world.gate.open.set()
    assert gone(world)


def test_what_a_pipe_does_not_take_is_not_opened(world: SlowWorld) -> None:
    """A reader that stops holds one chunk; after `stream_seconds` its pipe ends, and it can tell."""
    value = stored(world)
    with world.client() as client, client.lease("acme", "big", ttl=3_600) as lease, lease.stream() as stream:
        assert stream.read(10) == value[:10]
        world.until(lambda: any(one.stalled_since is not None for one in world.engine.streams._all))
        (sending,) = world.engine.streams._all
        assert sending.left > len(value) - 2 * 65_536 - 262_144
        world.pass_time(299)
        assert world.run(lambda: len(world.engine.streams)) == 1
        world.pass_time(2)
        world.until(lambda: len(world.engine.streams) == 0)
        with pytest.raises(Unavailable, match="ended after"):
            drain(stream)
        assert not any(sending._buffer)


def test_a_reader_that_leaves_ends_its_pipe(world: SlowWorld) -> None:
    """Closing the read end is noticed at once, whether the pipe was full or not."""
    stored(world)
    with world.client() as client, client.lease("acme", "big") as lease:
        for read in (0, 10, 3 * MIB):
            stream = lease.stream()
            while read > 0:
                read -= len(stream.read(min(read, 65_536)))
            stream.close()
            world.until(lambda: len(world.engine.streams) == 0)


ENDS: dict[str, Callable[[SlowWorld, Any], object]] = {
    "revoked": lambda world, lease: world.admin.call("lease.revoke", {"lease": lease.id}),
    "released": lambda _world, lease: lease._client.call("lease.release", {"lease": lease.id}),
    "version destroyed": lambda world, _lease: (
        world.admin.put("acme", "big", b"new"),
        world.admin.call("secret.destroy", {**BIG, "version": 1}),
    ),
    "secret deleted": lambda world, _lease: world.admin.call("secret.delete", BIG),
    "tenant sealed": lambda world, _lease: world.admin.call("seal", {"tenant": "acme"}),
    "tenant deleted": lambda world, _lease: world.admin.call("tenant.delete", {"tenant": "acme", "confirm": "acme"}),
    "vault sealed": lambda world, _lease: world.admin.call("seal", {}),
}


@pytest.mark.parametrize("end", ENDS)
def test_the_end_of_the_right_ends_the_pipe(world: SlowWorld, end: str) -> None:
    """Whatever ends a lease ends its pipe, also one that nobody reads; the reader is told, and gets no range either."""
    value = stored(world)
    with world.client() as client:
        lease = client.lease("acme", "big").acquire()
        with lease.stream() as stream, lease.open() as file:
            assert stream.read(10) == value[:10]
            world.until(lambda: any(one.stalled_since is not None for one in world.engine.streams._all))
            ENDS[end](world, lease)
            world.until(lambda: len(world.engine.streams) == 0)
            done = bytearray(value[:10])
            with pytest.raises((Denied, Sealed)):
                drain(stream, done)
            assert done == value[: len(done)]
            assert len(done) < len(value)
            with pytest.raises((Denied, Sealed)):
                file.read(1)


def test_an_admins_pipe_ends_with_ticket_or_connection(world: SlowWorld) -> None:
    """What a ticket opened ends with it, and with the connection that asked."""
    stored(world)
    for end in ("logout", "close"):
        with world.client() as client:
            world.admin.call("login", {"kind": "passphrase", "bind": "self"}, b"correct horse battery staple")
            answer = client.call("secret.get", {**BIG, "pipe": True})
            assert answer.pipe
            world.until(lambda: any(one.stalled_since is not None for one in world.engine.streams._all))
            if end == "logout":
                client.call("logout")
                world.pass_time(1)
            else:
                client.close()
            world.until(lambda: len(world.engine.streams) == 0)
            assert not world.engine.streams._owned
            answer.close()


def test_pipes_are_bounded() -> None:
    """One uid has so many pipes under way; the next is `quota`, its lease is not left behind, and ranges still come."""
    with SlowWorld(streams_per_uid=2) as world:
        value = stored(world)
        with world.client() as client, client.lease("acme", "big") as lease:
            streams = [lease.stream(), lease.stream()]
            before = len(list(world.admin.pages("lease.list")))
            for op, keys in (("lease.read", {"lease": lease.id, "offset": 0}), ("lease.acquire", BIG)):
                with pytest.raises(Throttled) as caught:
                    client.call(op, {**keys, "pipe": True})
                assert caught.value.code == "quota"
            assert len(list(world.admin.pages("lease.list"))) == before
            with lease.open() as file:
                assert file.read(5) == value[:5]
            streams.pop().close()
            world.until(lambda: len(world.engine.streams) == 1)
            lease.stream().close()
            streams.pop().close()


def test_a_damaged_file_ends_its_pipe_before_the_damage(world: SlowWorld) -> None:
    """Not a byte of a chunk that does not verify leaves; the reader hears `integrity`, and it is on record."""
    value = stored(world)

    def damage() -> None:
        uid = world.engine.find_tenant("acme")
        assert uid is not None
        folder = f"tenants/{uid.hex()}/blobs"
        (name,) = world.store.list(folder)
        file = world.store._file(f"{folder}/{name}")
        file.live[3 * MIB] ^= 1

    world.run(damage)
    with world.client() as client, client.lease("acme", "big") as lease:
        for opened in (lease.stream(), lease.open()):
            with opened:
                got = bytearray()
                with pytest.raises(VaultError) as caught:
                    drain(opened, got)
                assert caught.value.code == "integrity"
                assert got == value[: len(got)]
                assert len(got) <= 3 * MIB
    trail = b"".join(world.admin.audit_lines("audit.show", {"tenant": "acme"}))
    assert b'"secret.open"' in trail
    assert world.admin.put("acme", "other", b"x") == 1  # the tenant is not concerned


LOST: dict[str, tuple[list[tuple[str, dict[str, Any], bytes]], type[VaultError]]] = {
    "the grant": ([("grant.remove", {"tenant": "acme", "grant": "GRANT"}, b"")], Denied),
    "the service": (
        [("grant.remove", {"tenant": "acme", "grant": "GRANT"}, b""), ("service.remove", {"service": "me"}, b"")],
        Denied,
    ),
    "the tenant's seal": ([("seal", {"tenant": "acme"}, b"")], Sealed),
    "the tenant": (
        [("tenant.delete", {"tenant": "acme", "confirm": "acme"}, b""), ("tenant.create", {"tenant": "acme"}, b"")],
        Denied,
    ),
    "the vault's seal": ([("seal", {}, b"")], Sealed),
    "compare-and-set": ([("secret.put", BIG, b"first")], Conflict),
}


def _lose(world: SlowWorld, what: str) -> None:
    with contextlib.suppress(Denied, Sealed), world.as_admin() as admin:  # with the vault sealed, the ticket has gone
        for op, keys, tail in LOST[what][0]:
            admin.call(op, {key: world.grant if value == "GRANT" else value for key, value in keys.items()}, tail)


@pytest.mark.parametrize("when", ["before the last request", "while the file is made durable"])
@pytest.mark.parametrize("what", LOST)
def test_a_right_lost_meanwhile(world: SlowWorld, what: str, when: str) -> None:
    """Whatever is lost during an upload, its last request is refused for it, and nothing is left."""
    error = LOST[what][1]
    world.admin.call("logout")
    with world.client() as client:
        begun(client, cas=0)
        put = {**BIG, "cas": 0, "upload": True}
        if when == "before the last request":
            _lose(world, what)
            with pytest.raises((error, Invalid)):  # a sealed vault has dropped it: there is no upload any more
                client.call("secret.put", put)
            assert not world.engine.blob_uploads._all
        else:
            world.gate.close()
            raised: list[BaseException] = []

            def finish() -> None:
                try:
                    client.call("secret.put", put)
                except VaultError as problem:
                    raised.append(problem)

            thread = threading.Thread(target=finish)
            thread.start()
            assert world.gate.reached.wait(10)
            _lose(world, what)
            world.gate.open.set()
            thread.join(20)
            assert [type(one) for one in raised] == [error], [(e.code, str(e)) for e in raised]
    if what in ("the vault's seal", "the tenant's seal"):
        return
    assert gone(world)
    with world.as_admin() as admin:
        versions = {one["secret"]: one["version"] for one in admin.pages("secret.list", {"tenant": "acme"})}
        assert versions == ({"big": 1} if what == "compare-and-set" else {})


@pytest.mark.parametrize("what", ["the grant", "the service", "the tenant"])
def test_a_lost_right_takes_no_more_of_the_disk(world: SlowWorld, what: str) -> None:
    """Without the right to store it, an upload is not written on: its next chunks are refused, and nothing is left."""
    world.admin.call("logout")
    with world.client() as client:
        client.call("value.begin", BIG)  # of any size: it could go on for as long as it likes
        send(client, [(n * MAX_TAIL, MAX_TAIL) for n in range(24)])
        _lose(world, what)
        with pytest.raises(LOST[what][1]):
            send(client, [(n * MAX_TAIL, MAX_TAIL) for n in range(24, 29)])
        assert not world.engine.blob_uploads._all
    assert gone(world)


def test_keys_rotated_meanwhile(world: SlowWorld) -> None:
    """A new tenant key and a new root key under an upload do not concern it."""
    with world.client() as client:
        size = begun(client)
        world.admin.call("rotate.tenant", {"tenant": "acme"})
        world.admin.call("rotate.root")
        assert client.call("secret.put", {**BIG, "upload": True})["version"] == 1
        with client.lease("acme", "big") as lease, lease.open() as file:
            assert file.size == size
            assert file.read(MAX_TAIL) == CHUNK


def test_the_record_names_who_finished(world: SlowWorld) -> None:
    """What an admin began and, the ticket gone, a service's grant let be stored is on record as the service's."""
    begun(world.admin)
    world.admin.call("logout")
    world.admin.call("secret.put", {**BIG, "upload": True})
    with world.as_admin() as admin:
        lines = admin.audit_lines("audit.show", {"tenant": "acme"})
        (put,) = [line for line in lines if b'"kind":"secret.put"' in line and b'"ok"' in line]
    assert b'"kind":"service"' in put
    assert b'"slot"' not in put


def test_a_rotation_by_upload(world: SlowWorld) -> None:
    """`rotate.secret` takes a file for a secret that is there; for one that is not, it is refused at once."""
    world.admin.call("logout")
    with world.client() as client:
        with pytest.raises(Denied):
            client.call("value.begin", {**BIG, "rotate": True})
        client.put("acme", "big", b"first")
        begun(client, rotate=True)
        with pytest.raises(Invalid, match="something else"):
            client.call("secret.put", {**BIG, "upload": True})
        assert gone(world)
        begun(client, rotate=True)
        assert client.call("rotate.secret", {**BIG, "upload": True})["version"] == 2
        begun(client, rotate=True)
        with world.as_admin() as admin:
            admin.call("secret.delete", BIG)
        with pytest.raises(Denied):
            client.call("rotate.secret", {**BIG, "upload": True})
    assert gone(world)


def test_an_upload_that_is_broken_off(world: SlowWorld) -> None:
    """The end of the connection, another `value.begin`, and standing still leave nothing of it."""
    with world.client() as client:
        begun(client)
    assert gone(world)
    with world.client() as client:
        begun(client)
        client.call("value.begin", {"size": 5})
        assert gone(world)
        begun(client)
        world.pass_time(599)
        assert len(world.engine.blob_uploads) == 1
        world.pass_time(2)
        assert gone(world)
        with pytest.raises(Invalid, match="dropped"):
            client.call("secret.put", {**BIG, "upload": True})
        world.gate.close()
        caller = world.caller()
        caller.call("value.begin", BIG)
        for number in range(25):
            caller.send("value.chunk", {"offset": number * MAX_TAIL}, CHUNK)
        assert world.gate.reached.wait(10)
        caller.close()  # while a chunk is being written, and others wait in the socket
        world.gate.open.set()
        assert gone(world)


def test_uploads_are_bounded() -> None:
    """One uid has so many unfinished uploads, a tenant so many bytes, finished or not; more is `quota` and no file."""
    with SlowWorld(uploads_per_uid=2, bytes_per_tenant=8 * MIB) as world:
        world.engine.reconfigure()
        clients = [world.client() for _ in range(3)]
        for client in clients[:2]:
            client.call("value.begin", {**BIG, "size": 2 * MIB})
        with pytest.raises(Throttled, match="unfinished uploads"):
            clients[2].call("value.begin", {**BIG, "size": 2 * MIB})
        begun(clients[0], 110)  # 5 MiB, in place of its first
        clients[1].close()
        world.until(lambda: len(world.engine.blob_uploads) == 1)
        with pytest.raises(Throttled, match="of this size"):
            clients[2].call("value.begin", {**BIG, "size": 9 * MIB})
        clients[2].call("value.begin", BIG)
        with pytest.raises(Throttled, match="more than"):
            send(clients[2], [(number * MAX_TAIL, MAX_TAIL) for number in range(200)])
        clients[0].close()
        assert gone(world)
        world.admin.put("acme", "kept", os.urandom(5 * MIB))
        with pytest.raises(Throttled, match="of this size"):
            clients[2].call("value.begin", {**BIG, "size": 5 * MIB})
        for client in clients:
            client.close()


WRONG: list[tuple[str, dict[str, Any], list[tuple[int, int]], dict[str, Any], str]] = [
    ("too few", {"size": 3 * MAX_TAIL}, [(0, MAX_TAIL)], BIG, "invalid"),
    ("too many", {"size": 2 * MIB}, [(0, MAX_TAIL), (MAX_TAIL, MAX_TAIL), (3 * MAX_TAIL, 1)], BIG, "invalid"),
    ("a gap", {}, [(1, 1)], BIG, "invalid"),
    ("a repeat", {}, [(0, 9), (0, 9)], BIG, "invalid"),
    ("nothing", {}, [], BIG, "invalid"),
    ("another secret", {}, [(0, 9)], {**BIG, "secret": "other"}, "invalid"),
    ("another cas", {"cas": 0}, [(0, 9)], {**BIG, "cas": 1}, "invalid"),
    ("a description that was not announced", {}, [(0, 9)], {**BIG, "description": "x"}, "invalid"),
]


@pytest.mark.parametrize("case", WRONG, ids=[case[0] for case in WRONG])
def test_wrong_uploads(world: SlowWorld, case: tuple[Any, ...]) -> None:
    """Each is refused with its code, stores nothing, and is not to be gone on with."""
    _, announced, chunks, keys, code = case
    with world.client() as client:
        client.call("value.begin", {**BIG, **announced})
        with pytest.raises(VaultError) as caught:
            send(client, chunks, keys)
        assert caught.value.code == code
        assert gone(world)
        with pytest.raises(Invalid):
            client.call("secret.put", {**keys, "upload": True})
    assert list(world.admin.pages("secret.list", {"tenant": "acme"})) == []


def test_wrong_announcements(world: SlowWorld) -> None:
    """What can be refused before a byte was sent is."""
    world.admin.put("acme", "big", b"first")
    cases: list[tuple[dict[str, Any], str]] = [
        ({**BIG, "cas": 2}, "conflict"),
        ({**BIG, "rotate_after": -5}, "invalid"),
        ({**BIG, "rotate": True, "cas": 1}, "invalid"),
        ({**BIG, "size": 0}, "invalid"),
        ({**BIG, "size": 2**63 - 1}, "invalid"),
        ({**BIG, "secret": "../x"}, "invalid"),
        ({**BIG, "tenant": "nowhere"}, "not_found"),
        ({"tenant": "acme"}, "protocol"),
        ({"size": 1, "cas": 1}, "protocol"),
        ({}, "protocol"),
    ]
    for keys, code in cases:
        with world.caller() as caller:
            assert _raw_code(caller, keys) == code, keys
    assert len(world.engine.blob_uploads) == 0


def _raw_code(caller: Any, keys: dict[str, Any]) -> str:
    """What the request is answered, sent as it is: a client would not send what is malformed."""
    caller.wire._outstanding[1] = "value.begin"
    caller.socket.sendall(framed(packed({"v": 1, "id": 1, "op": "value.begin", **keys})))
    return str(caller.receive().code)


def test_ranges(world: SlowWorld) -> None:
    """Every kind of range of a file and of a value in the log comes exactly, or is refused."""
    value = stored(world)
    small = os.urandom(60_000)
    world.admin.put("acme", "small", small)
    with world.client() as client:
        for name, whole in (("big", value), ("small", small)):
            lease = client.call("lease.acquire", {"tenant": "acme", "secret": name})["lease"]
            for offset, length in (
                (0, 0), (0, 1), (1, 49_152), (0, 49_153), (262_143, 2), (262_144, 262_144), (len(whole) - 1, 5),
                (len(whole), 1), (2**62, 9), (5, None),
            ):  # fmt: skip
                keys = {"offset": offset, **({} if length is None else {"length": length})}
                wanted = whole[offset:] if length is None else whole[offset : offset + length]
                if len(wanted) > world.engine.config.limits.memfd_bytes:
                    with pytest.raises(Invalid, match="more than a memory file"):
                        client.call("lease.read", {"lease": lease, **keys})
                    continue
                for op, target in (
                    ("lease.read", {"lease": lease}),
                    ("secret.get", {"tenant": "acme", "secret": name}),
                ):
                    caller = client if op == "lease.read" else world.admin
                    for memfd in (False, True):
                        with caller.call(op, {**target, **keys, "memfd": memfd}) as answer:
                            assert answer["size"] == len(whole)
                            by_descriptor = len(wanted) > MAX_TAIL or (memfd and len(wanted) > 0)
                            assert (answer.fd is not None) == by_descriptor
                            got = bytes(answer.tail) if answer.fd is None else os.pread(answer.fd, 9 * MIB, 0)
                            assert got == wanted, (op, keys)


def test_ranges_that_nobody_takes_are_not_opened(world: SlowWorld) -> None:
    """Of all the memory files that a connection asks for and does not acknowledge, one waits; the rest are not made."""
    value = stored(world)
    with world.caller() as caller, world.client() as other:
        lease = other.call("lease.acquire", BIG)["lease"]
        asked = [caller.send("lease.read", {"lease": lease, "offset": n, "length": MIB}) for n in range(9)]
        first = caller.receive()
        (connection,) = [one for one in world.server.connections if one.wire.unacknowledged is not None]
        world.until(lambda: connection.wire.outstanding == 8 and len(connection.held) == 1)
        assert len(world.run(lambda: set(connection.context.parcels))) == 1
        with other.call("lease.read", {"lease": lease, "offset": 3, "length": MIB}) as answer:  # is served meanwhile
            assert answer.fd is not None
        answered = [first]
        while len(answered) < len(asked):
            caller.call("ack", {"of": answered[-1].id})
            answered.append(caller.receive())
        offsets = [asked.index(reply.id or 0) for reply in answered]  # in any order, each with its own
        assert sorted(offsets) == list(range(9))
        assert [os.pread(fd, 2 * MIB, 0) for fd in caller.descriptors] == [value[n : n + MIB] for n in offsets]
        caller.send("ack", {"of": answered[-1].id})
        for n in range(5):
            caller.send("lease.read", {"lease": lease, "offset": n, "length": MIB})
    world.until(lambda: not world.engine.rooms._uids)  # whoever leaves gives its places back


def test_dropped_uploads_are_bounded(world: SlowWorld) -> None:
    """Uploads begun anew faster than a disk that hangs lets the old ones go are `quota`, until it goes on."""
    with world.client() as client:
        held = threading.Event()
        for _ in range(4):
            world.engine.workers.later(lambda: held.wait(20))  # every thread is busy
        refused = 0
        for _ in range(40):
            try:
                client.call("value.begin", BIG)
            except Throttled:
                refused += 1
        assert refused >= 20
        assert len(world.engine.blob_uploads._going) <= 16
        held.set()
        world.until(lambda: not world.engine.blob_uploads._going)
        client.call("value.begin", BIG)
    assert gone(world)


def test_a_file_needs_a_way_out(world: SlowWorld) -> None:
    """Up to `memfd_bytes` a file comes as a memory file; above, as a pipe if that was said to do, else as its size."""
    value = stored(world, 4 * MIB)
    with world.client() as client:
        with client.call("lease.acquire", BIG) as answer:
            assert answer.fd is not None
            assert not answer.pipe
            assert os.pread(answer.fd, 9 * MIB, 0) == value
        stored(world, 4 * MIB + 1)
        with client.call("lease.acquire", BIG) as answer:
            assert (answer.fd, bytes(answer.tail), answer["size"]) == (None, b"", 4 * MIB + 1)
        with client.call("lease.acquire", {**BIG, "pipe": True}) as answer:
            assert answer.pipe
        with client.lease("acme", "big") as lease:
            assert lease.size == 4 * MIB + 1
            for way in (lambda: lease.value, lease.fd):
                with pytest.raises(Invalid, match="handed out at once") as caught:
                    way()
                assert "open()" in caught.value.hint


def test_a_pipe_is_read_by_others_too(world: SlowWorld) -> None:
    """Its end can be opened anew by path, for reading alone, and it is blocking."""
    value = stored(world)
    with world.client() as client, client.call("lease.acquire", {**BIG, "pipe": True}) as answer:
        assert answer.fd is not None
        assert os.get_blocking(answer.fd)
        assert os.fstat(answer.fd).st_mode & 0o777 == 0o444
        poll = select.poll()
        poll.register(answer.fd, select.POLLIN)
        assert poll.poll(10_000)
        with open(f"/dev/fd/{answer.fd}", "rb") as again:
            assert again.read() == value


def test_restart_of_the_engine_is_not_waited_for(world: SlowWorld) -> None:
    """Stopping ends pipes and drops uploads, and does not wait for their readers."""
    stored(world)
    with world.client() as client, world.client() as uploading:
        begun(uploading)
        with client.lease("acme", "big") as lease:
            stream = lease.stream()
            world.stop()
            with pytest.raises(VaultError):
                drain(stream)
            stream.close()


@pytest.mark.parametrize(("who", "error"), [("admin", NotFound), ("service", Denied)])
def test_not_found_is_told_to_admins_only(world: SlowWorld, who: str, error: type[VaultError]) -> None:
    """A rotation whose secret went while its file was made durable: each is told what it may know."""
    world.admin.put("acme", "big", b"first")
    if who == "service":
        world.admin.call("logout")
    with world.client() as client:
        begun(client, rotate=True)
        world.gate.close()
        raised: list[BaseException] = []

        def finish() -> None:
            try:
                client.call("rotate.secret", {**BIG, "upload": True})
            except VaultError as problem:
                raised.append(problem)

        thread = threading.Thread(target=finish)
        thread.start()
        assert world.gate.reached.wait(10)
        if who == "service":
            with world.as_admin() as admin:
                admin.call("secret.delete", BIG)
        else:
            world.admin.call("secret.delete", BIG)
        world.gate.open.set()
        thread.join(20)
        assert [type(one) for one in raised] == [error]
