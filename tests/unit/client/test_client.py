"""The sync client against a real socket."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

from vaultclient import Client, errors
from vaultd.protocol import MAX_TAIL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vaultd.protocol import Request


@pytest.fixture
def client(daemon: Any) -> Iterator[Client]:
    """A client of that daemon, outside any run."""
    with Client(daemon.path, environ={}) as connected:
        yield connected


def test_lease_gives_the_value_and_wipes_it_on_exit(daemon: Any, client: Client) -> None:
    """A lease's buffer holds the value inside the with block and zeros after it, and the daemon is told."""
    with client.lease("acme", "openai/prod", ttl=300, purpose="chat") as lease:
        view = lease.value
        assert bytes(view) == b"sk-first"
        assert view.readonly
        assert lease.version == 1
        assert list(daemon.leases) == [lease.id]
    assert bytes(view) == bytes(8)
    assert not daemon.leases
    with pytest.raises(errors.LeaseEnded):
        _ = lease.value


def test_lease_is_renewed_at_half_its_time(daemon: Any, client: Client) -> None:
    """A held lease whose half time is over is renewed in the background, without the holder doing anything."""
    daemon.lease_seconds = iter([0])
    with client.lease("acme", "openai/prod") as lease:
        daemon.wait_for("lease.renew")
        assert lease.active
    assert daemon.ops().count("lease.renew") == 1


def test_revocation_wipes_the_value_and_calls_back(daemon: Any) -> None:
    """A revoked lease is over at once in the holder's process: wiped, refused, and told to `on_revoked`."""
    told: list[tuple[str | None, str]] = []
    called = threading.Event()

    def on_revoked(lease: Any, reason: str) -> None:
        told.append((lease.id, reason))
        called.set()

    with Client(daemon.path, environ={}, on_revoked=on_revoked) as client, client.lease("acme", "openai/prod") as lease:
        view = lease.value
        daemon.revoke(lease.id, "by an admin")
        assert called.wait(10)
        assert told == [(lease.id, "by an admin")]
        assert bytes(view) == bytes(8)
        with pytest.raises(errors.LeaseEnded, match="by an admin"):
            _ = lease.value
    assert "lease.release" not in daemon.ops()


def test_large_value_arrives_as_a_descriptor(daemon: Any, client: Client) -> None:
    """A value over 48 KiB comes in a sealed memory file, acknowledged, one after another."""
    big = os.urandom(MAX_TAIL + 1)
    daemon.secrets["acme", "big"] = [big]
    for _ in range(3):
        with client.lease("acme", "big") as lease:
            assert bytes(lease.value) == big
            assert os.pread(lease.fd(), len(big) + 1, 0) == big


def test_fd_is_a_sealed_copy_that_cannot_be_changed(daemon: Any, client: Client) -> None:
    """`fd()` of a small value is a memory file with the value, read-only for everybody, closed with the lease."""
    with client.lease("acme", "openai/prod") as lease:
        descriptor = lease.fd()
        assert os.pread(descriptor, 100, 0) == b"sk-first"
        with pytest.raises(PermissionError):
            os.write(descriptor, b"x")
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, 0)
        assert not os.get_inheritable(descriptor)
    with pytest.raises(OSError):
        os.fstat(descriptor)


def test_denial_carries_code_message_and_hint(client: Client) -> None:
    """A refused lease raises `Denied` with what the daemon said."""
    with pytest.raises(errors.Denied) as caught, client.lease("acme", "absent"):
        pass
    assert caught.value.code == "denied"
    assert caught.value.message == "not allowed, or not there"
    assert "explain" in caught.value.hint
    assert caught.value.exit_code == 77


def test_run_is_handed_to_a_child_by_environment_or_descriptor(daemon: Any, client: Client) -> None:
    """A child finds the daemon and the run by what `environment` or `open_fd` give it, and claims the run once."""
    with client.run("acme", scope=["openai/*"], purpose="chat") as run:
        environment = run.environment()
        descriptor = run.open_fd()
        by_fd = {"VAULTD_SOCKET": daemon.path, "VAULTD_RUN_FD": str(descriptor)}
        for environ in (environment, by_fd, by_fd):  # a second reader of the descriptor finds it whole
            with Client(environ=environ) as child, child.lease(None, "openai/prod") as lease:
                assert bytes(lease.value) == b"sk-first"
                assert lease.run_id == run.id
        os.close(descriptor)
    assert daemon.ops().count("run.claim") == 3
    assert not daemon.runs


def test_a_run_within_a_run_is_its_child(daemon: Any, client: Client) -> None:
    """By the run that one holds, by a token, and by the environment; no tenant is named, and another refused."""
    with client.run("acme", scope=["openai/*"]) as top:
        with top.run(scope=["openai/prod"], uses=2) as child, child.lease("openai/prod") as lease:
            assert (child.tenant, lease.tenant, lease.run_id) == ("acme", "acme", child.id)
            opened = daemon.runs[child.token]
            assert (opened["parent"], opened["uses"]) == (top.token, 2)
        for inside in (Client(daemon.path, run=top.token, environ={}), Client(environ=top.environment())):
            with inside, inside.run(scope=["openai/prod"]) as child, child.run(scope=["openai/prod"]) as below:
                assert child.tenant == below.tenant == "acme"
                assert daemon.runs[child.token]["parent"] == top.token
                assert daemon.runs[below.token]["parent"] == child.token
            with pytest.raises(errors.Denied), inside.run("globex", scope=["**"]):
                pass
            inside.close()
    assert not daemon.runs


def test_value_of_a_mebibyte_goes_up_in_chunks(daemon: Any, client: Client) -> None:
    """A value over 48 KiB is uploaded in order on one connection, then stored."""
    big = os.urandom(1_048_576)
    assert client.put("acme", "big", big, cas=0) == 1
    assert daemon.secrets["acme", "big"] == [big]
    with pytest.raises(errors.Conflict):
        client.put("acme", "big", b"x", cas=0)


def test_pages_go_on_until_the_last(daemon: Any, client: Client) -> None:
    """A listing is followed through every page."""
    for number in range(5):
        daemon.secrets["acme", f"s{number}"] = [b"x"]
    assert [item["secret"] for item in client.pages("secret.list", {"tenant": "acme"})] == [
        "openai/prod",
        *(f"s{number}" for number in range(5)),
    ]


def test_audit_lines_come_page_by_page(client: Client) -> None:
    """The audit trail is read to its end."""
    assert list(client.audit_lines()) == [b'{"n":%d}' % n for n in range(5)]


def test_events_yields_pushes(daemon: Any, client: Client) -> None:
    """`events` tells what happens after it subscribed, and ends when the daemon goes."""
    events = client.events()
    told: list[Any] = []

    def listen() -> None:
        with pytest.raises(errors.Unavailable):
            told.extend(events)

    listener = threading.Thread(target=listen)
    listener.start()
    daemon.wait_for("subscribe")
    client.rotate_secret("acme", "openai/prod", b"sk-second")
    daemon.stop()
    listener.join(10)
    assert [(push.event, push.keys) for push in told] == [
        ("secret.rotated", {"tenant": "acme", "secret": "openai/prod", "version": 2})
    ]


def test_everything_works_byte_by_byte(daemon: Any, client: Client) -> None:
    """Frames that arrive one byte at a time, descriptors with them, are the same frames."""
    daemon.chop = True
    daemon.secrets["acme", "big"] = [b"b" * (MAX_TAIL + 1)]
    with client.lease("acme", "openai/prod") as small, client.lease("acme", "big") as large:
        assert bytes(small.value) == b"sk-first"
        assert len(large.value) == MAX_TAIL + 1


def test_timeout_ends_the_connection_and_not_the_client(daemon: Any, client: Client) -> None:
    """A late answer is never taken for the next request's: the client goes on with a new connection."""
    daemon.before["status"] = lambda session, request: True  # never answers
    with pytest.raises(errors.TimedOut):
        client.call("status", timeout=0.05)
    daemon.before.clear()
    assert client.status()["state"] == "unsealed"


def test_cut_reply_is_unavailable(daemon: Any, client: Client) -> None:
    """A connection that ends inside a reply gives `Unavailable`, and what may not be done twice is not repeated."""

    def cut(session: Any, request: Request) -> bool:
        frame = session.connection.reply(request.id, {"version": 1})
        session.socket.sendall(frame[:-3])
        session.socket.close()
        return True

    daemon.before["secret.put"] = cut
    with (
        Client(daemon.path, environ={}, retry_for=10) as retrying,
        pytest.raises(errors.Unavailable, match="closed the connection"),
    ):
        retrying.put("acme", "new", b"x")
    assert daemon.ops().count("secret.put") == 1


def test_what_may_be_done_twice_is_repeated(daemon: Any) -> None:
    """With `retry_for`, a harmless request whose connection broke is sent again."""
    once = iter([True, False])

    def hang_up(session: Any, request: Request) -> bool:
        if next(once):
            session.socket.shutdown(2)
            return True
        return False

    daemon.before["status"] = hang_up
    with Client(daemon.path, environ={}, retry_for=10) as client:
        assert client.status()["state"] == "unsealed"
    assert daemon.ops().count("status") == 2


def test_idle_connection_that_the_daemon_closed_is_replaced(daemon: Any, client: Client) -> None:
    """A daemon that restarted between two requests costs nothing: what was not sent whole cannot have been done."""
    assert client.status()["state"] == "unsealed"
    for n in range(3):
        daemon.restart()
        assert client.put("acme", "new", b"x") == n + 1
    daemon.stop()
    with pytest.raises(errors.Unavailable, match="no daemon answers"):
        client.put("acme", "new", b"x")
