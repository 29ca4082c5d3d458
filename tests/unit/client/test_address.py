"""Which socket, which server, which run."""

from __future__ import annotations

import os
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from vaultclient import Client, errors
from vaultclient._address import (
    MAX_PATH,
    SYSTEM_SOCKET,
    check_server,
    decode_token,
    encode_token,
    find_socket,
    find_token,
)
from vaultclient._memory import sealed_memfd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TOKEN = bytes(range(32))
STRANGER = 4_321
OTHER_STRANGER = 4_322


def test_socket_is_the_given_one_before_all_others(tmp_path: Path) -> None:
    """An argument comes before VAULTD_SOCKET, that before the user's daemon, that before the system's."""
    runtime = tmp_path / "run"
    (runtime / "vaultd").mkdir(parents=True)
    users = runtime / "vaultd" / "vaultd.sock"
    environ = {"VAULTD_SOCKET": "/a", "XDG_RUNTIME_DIR": str(runtime)}
    assert find_socket("/b", environ) == "/b"
    assert find_socket(tmp_path / "c", environ) == str(tmp_path / "c")
    assert find_socket(None, environ) == "/a"
    del environ["VAULTD_SOCKET"]
    assert find_socket(None, environ) == SYSTEM_SOCKET  # the user's daemon has no socket there
    users.touch()
    assert find_socket(None, environ) == str(users)
    assert find_socket(None, {**environ, "VAULTD_SOCKET": ""}) == str(users)
    assert find_socket(None, {}) == SYSTEM_SOCKET


def test_socket_path_over_107_bytes_is_a_clear_error() -> None:
    """The kernel's limit is named, in bytes, before anything is tried; the longest path passes."""
    find_socket("/" + "x" * (MAX_PATH - 1))
    for path in ("/" + "x" * MAX_PATH, "/" + "é" * 54):
        with pytest.raises(errors.Invalid, match="107") as caught:
            Client(path, environ={})
        assert caught.value.hint
    for path in ("", "/a\0b"):
        with pytest.raises(errors.Invalid, match="empty or holds a NUL"):
            find_socket(path)


def test_nobody_there_is_unavailable(tmp_path: Path) -> None:
    """No socket, or one that nobody listens at, says so with the path and a hint."""
    path = str(tmp_path / "vaultd.sock")
    with pytest.raises(errors.Unavailable, match="no such file") as caught:
        Client(path, environ={}).status()
    assert path in caught.value.message
    assert caught.value.exit_code == 69
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(path)
    stale.close()
    with pytest.raises(errors.Unavailable, match="refused"):
        Client(path, environ={}).status()


def test_retry_waits_for_a_daemon_that_starts(daemon: Any) -> None:
    """With `retry_for` a client outlasts a daemon that is away; it waits a little longer each time."""
    daemon.stop()
    waits: list[float] = []

    def pause(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            daemon.start()

    with Client(daemon.path, environ={}, retry_for=60) as client:
        client._channel._pause = pause
        assert client.status()["state"] == "unsealed"
    assert waits == [0.05, 0.1, 0.2]


def test_retry_gives_up_after_its_time(tmp_path: Path) -> None:
    """`retry_for` is a bound: the last try's error is what the caller gets."""
    clock = [0.0]

    def pause(seconds: float) -> None:
        clock[0] += seconds

    with Client(tmp_path / "vaultd.sock", environ={}, retry_for=5) as client:
        client._channel._pause, client._channel._now = pause, lambda: clock[0]
        with pytest.raises(errors.Unavailable):
            client.status()
    assert 3.9 <= clock[0] <= 5


def test_retry_waits_for_a_daemon_that_is_not_unsealed_yet(daemon: Any) -> None:
    """A restarted daemon is sealed at first; with `retry_for` that is waited out, without it it is an error."""
    daemon.state = "sealed"
    with Client(daemon.path, environ={}) as client, pytest.raises(errors.Sealed):
        client.call("lease.acquire", {"tenant": "acme", "secret": "openai/prod"})

    def pause(seconds: float) -> None:
        daemon.state = "unsealed"

    with Client(daemon.path, environ={}, retry_for=60) as client:
        client._channel._pause = pause
        with client.call("lease.acquire", {"tenant": "acme", "secret": "openai/prod"}) as answer:
            assert answer.tail == b"sk-first"


@pytest.fixture
def serve_as(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Start a forked listener under another uid, in a directory of some owner and mode; it counts what it is sent."""
    children: list[tuple[int, int]] = []

    def serve(uid: int, *, owner: int, mode: int, above: int = 0o755) -> str:
        os.chmod(tmp_path, above)
        directory = tmp_path / "d"
        directory.mkdir()
        path = str(directory / "s")
        ready, tell = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                listener = socket.socket(socket.AF_UNIX)
                listener.bind(path)
                os.chmod(path, 0o666)  # noqa: S103  others must be able to connect
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
                listener.listen(1)
                os.write(tell, b"1")
                connected, _ = listener.accept()
                os.write(tell, b"s" if connected.recv(1) else b"n")
            finally:
                os._exit(0)
        os.chown(directory, owner, owner)
        os.chmod(directory, mode)
        assert os.read(ready, 1) == b"1"
        children.append((child, ready))
        os.close(tell)
        return path

    yield serve
    for child, ready in children:
        assert os.read(ready, 1) in {b"n", b"s", b""}
        os.close(ready)
        os.waitpid(child, 0)


def connect(path: str) -> int:
    """Connect and judge the server."""
    with socket.socket(socket.AF_UNIX) as connected:
        connected.connect(path)
        return check_server(connected, path)


@pytest.mark.needs_root
@pytest.mark.parametrize(
    ("owner", "mode", "above"),
    [
        (STRANGER, 0o777, 0o755),
        (STRANGER, 0o775, 0o755),
        (STRANGER, 0o757, 0o755),
        (OTHER_STRANGER, 0o755, 0o755),
        (0, 0o755, 0o755),
        (STRANGER, 0o755, 0o777),
    ],
    ids=["all may write", "its group may write", "others may write", "another's", "root's", "its parent is open"],
)
def test_server_of_another_uid_is_not_trusted(serve_as: Callable[..., str], owner: int, mode: int, above: int) -> None:
    """A server that is not root, not us, and not the only one who may write to its directory is told nothing."""
    path = serve_as(STRANGER, owner=owner, mode=mode, above=above)
    with pytest.raises(errors.UntrustedServer, match="uid 4321"), Client(path, environ={}) as client:
        client.status()


@pytest.mark.needs_root
@pytest.mark.parametrize("mode", [0o755, 0o750, 0o700, 0o2755])
def test_owner_of_its_directory_is_trusted(serve_as: Callable[..., str], mode: int) -> None:
    """A service user who alone may write to the socket's directory is the daemon it says it is."""
    assert connect(serve_as(STRANGER, owner=STRANGER, mode=mode)) == STRANGER


@pytest.mark.needs_root
def test_root_and_oneself_are_trusted_anywhere(tmp_path: Path) -> None:
    """A server under uid 0 or the client's own may have its socket anywhere."""
    path = str(tmp_path / "s")
    os.chmod(tmp_path, 0o777)  # noqa: S103  the point of the test
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)
        assert connect(path) == 0


def test_token_text_is_canonical() -> None:
    """A token's 43 characters decode to its bytes, and no second text does."""
    text = encode_token(TOKEN)
    assert len(text) == 43
    assert decode_token(text) == TOKEN
    assert decode_token(text + "\n") == TOKEN
    last = text[-1]
    for wrong in (text[:-1], text + "A", text + "=", text[:-1] + chr(ord(last) + 1), text[:-1] + "+", "", "é" * 43):
        with pytest.raises(errors.Invalid) as caught:
            decode_token(wrong)
        assert not wrong or wrong not in str(caught.value)


def test_token_is_found_in_either_variable() -> None:
    """VAULTD_RUN holds the text; VAULTD_RUN_FD a descriptor with the bytes or the text, which stays readable."""
    assert find_token({}) is None
    assert find_token({"VAULTD_RUN": ""}) is None
    assert find_token({"VAULTD_RUN": encode_token(TOKEN)}) == TOKEN
    for content in (TOKEN, encode_token(TOKEN).encode(), encode_token(TOKEN).encode() + b"\n"):
        descriptor = sealed_memfd("run", content)
        environ = {"VAULTD_RUN_FD": str(descriptor), "VAULTD_RUN": encode_token(bytes(32))}
        assert find_token(environ) == find_token(environ) == TOKEN
        assert os.lseek(descriptor, 0, os.SEEK_CUR) == 0
        os.close(descriptor)


def test_token_that_cannot_be_read_is_an_error_without_it() -> None:
    """A closed descriptor, a pipe, something else than a token: errors that say what to do and quote nothing."""
    reader, writer = os.pipe()
    closed = os.dup(reader)
    os.close(closed)
    junk = sealed_memfd("junk", b"sk-canary")
    for environ in (
        {"VAULTD_RUN_FD": str(closed)},
        {"VAULTD_RUN_FD": str(reader)},
        {"VAULTD_RUN_FD": "9" * 30},
        {"VAULTD_RUN_FD": "-1"},
        {"VAULTD_RUN_FD": "canary"},
        {"VAULTD_RUN_FD": str(junk)},
        {"VAULTD_RUN": "sk-canary"},
    ):
        with pytest.raises((errors.Invalid, errors.Unavailable)) as caught:
            Client("/s", environ=environ)
        assert "canary" not in str(caught.value)
        assert caught.value.hint
    for descriptor in (reader, writer, junk):
        os.close(descriptor)


def test_connection_error_from_the_server_is_its_code(daemon: Any) -> None:
    """What the daemon says about the connection as a whole (too many, say) is what the caller gets."""

    def too_many(session: Any, request: Any) -> bool:
        session.send(session.connection.error(None, "quota", "too many connections", "close some"))
        session.socket.shutdown(2)
        return True

    daemon.before["status"] = too_many
    with Client(daemon.path, environ={}) as client, pytest.raises(errors.Throttled, match="too many") as caught:
        client.status()
    assert caught.value.code == "quota"


def test_threads_share_a_client(daemon: Any) -> None:
    """Requests of several threads on one client each get their own answer."""
    daemon.secrets.update({("acme", f"s{n}"): [b"value-%d" % n] for n in range(8)})
    wrong: list[object] = []
    with Client(daemon.path, environ={}) as client:

        def work(number: int) -> None:
            for _ in range(25):
                with client.lease("acme", f"s{number}") as lease:
                    if bytes(lease.value) != b"value-%d" % number:
                        wrong.append(number)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
    assert not daemon.leases


def test_forked_child_uses_a_connection_of_its_own(daemon: Any) -> None:
    """A child never speaks over its parent's connection: the daemon would take it for the parent."""
    with Client(daemon.path, environ={}) as client, client.lease("acme", "openai/prod") as lease:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                with client.lease("acme", "openai/prod") as own:
                    status = 0 if bytes(own.value) == b"sk-first" and own.id != lease.id else 2
                client.close()
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        assert client.status()["state"] == "unsealed"
        assert bytes(lease.value) == b"sk-first"
        assert list(daemon.leases) == [lease.id]
