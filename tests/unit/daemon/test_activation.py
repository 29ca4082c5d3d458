"""Sockets that a service manager passes: which is taken, and what it must be."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
from typing import TYPE_CHECKING, Any

import pytest

from vaultd.daemon.activation import adopt, passed
from vaultd.daemon.kernel import Kernel
from vaultd.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

PID = 4711


def given(**more: str) -> dict[str, str]:
    return {"LISTEN_PID": str(PID), **more}


@contextlib.contextmanager
def descriptors(count: int) -> Iterator[int]:
    """The first of `count` listening sockets on neighbouring descriptors, high up."""
    first = 700
    held = [socket.socket(socket.AF_UNIX) for _ in range(count)]
    for number, sock in enumerate(held):
        os.dup2(sock.fileno(), first + number)
        sock.close()
    yield first
    for number in range(count):
        with contextlib.suppress(OSError):
            os.close(first + number)


@pytest.mark.parametrize("environment", [{}, {"LISTEN_FDS": "1"}, {"LISTEN_FDS": "1", "LISTEN_PID": "1"}])
def test_what_was_meant_for_another_process_is_left_alone(environment: dict[str, str]) -> None:
    """Without our pid there is nothing for us, whatever the other variables say."""
    assert passed(environment, PID) is None


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        (given(), "LISTEN_FDS"),
        (given(LISTEN_FDS="0"), "LISTEN_FDS"),
        (given(LISTEN_FDS="65"), "LISTEN_FDS"),
        (given(LISTEN_FDS="-1"), "LISTEN_FDS"),
        (given(LISTEN_FDS="one"), "LISTEN_FDS"),
        (given(LISTEN_FDS="1", LISTEN_FDNAMES="a:b"), "do not agree"),
        (given(LISTEN_FDS="2"), "one is wanted"),
        (given(LISTEN_FDS="2", LISTEN_FDNAMES="a:b"), "one is wanted"),
        (given(LISTEN_FDS="2", LISTEN_FDNAMES="vaultd:vaultd.socket"), "one is wanted"),
        (given(LISTEN_FDS="1"), "not a socket"),
    ],
)
def test_what_makes_no_sense_is_refused(environment: dict[str, str], words: str) -> None:
    """Numbers, names and descriptors that do not fit each other."""
    with pytest.raises(ConfigError, match=words):
        passed(environment, PID, first=900)


def test_of_several_the_named_one_is_taken() -> None:
    """The others are closed, and what is taken is not inherited by anybody."""
    with descriptors(3) as first:
        environment = given(LISTEN_FDS="3", LISTEN_FDNAMES="http:vaultd.socket:other")
        sock = passed(environment, PID, first=first)
        assert sock is not None
        with sock:
            assert sock.fileno() == first + 1
            assert not sock.get_inheritable()
            for number in (first, first + 2):
                with pytest.raises(OSError, match="Bad file"):
                    os.fstat(number)


@pytest.fixture
def path() -> Iterator[str]:
    folder = tempfile.mkdtemp(prefix="vaultd-test-")
    yield os.path.join(folder, "v.sock")
    shutil.rmtree(folder)


def bound(path: str, mode: int = 0o660, kind: int = socket.SOCK_STREAM, *, listening: bool = True) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, kind)
    sock.bind(path)
    os.chmod(path, mode)
    if listening:
        sock.listen()
    return sock


def test_the_path_stays_the_managers(path: str) -> None:
    """Closing the listener removes nothing, and no lock was taken."""
    listener = adopt(bound(path), path, Kernel())
    assert listener.socket.getblocking() is False
    listener.close()
    assert os.listdir(os.path.dirname(path)) == ["v.sock"]


@pytest.mark.parametrize(
    ("make", "more", "words"),
    [
        (lambda path: bound(path, listening=False), {}, "does not listen"),
        (lambda path: bound(path, kind=socket.SOCK_SEQPACKET), {}, "not a Unix stream"),
        (lambda path: bound(path, kind=socket.SOCK_DGRAM, listening=False), {}, "not a Unix stream"),
        (lambda path: bound(path, 0o666), {}, "everybody may connect"),
        (bound, {"group": 4299}, "socket_group"),
        (lambda path: bound(path + "2"), {}, "the configuration says"),
        (lambda _: socket.create_server(("127.0.0.1", 0)), {}, "not a Unix stream"),
    ],
)
def test_what_we_would_not_have_made_is_refused(path: str, make: Any, more: dict[str, Any], words: str) -> None:
    """Another kind, another path, too open, of another group; the descriptor is closed."""
    sock = make(path)
    with pytest.raises(ConfigError, match=words):
        adopt(sock, path, Kernel(), **more)
    assert sock.fileno() == -1


def test_an_abstract_socket_is_refused(path: str) -> None:
    """Its name has no owner and no mode."""
    sock = socket.socket(socket.AF_UNIX)
    sock.bind("\0" + path)
    sock.listen()
    with pytest.raises(ConfigError, match="no path"):
        adopt(sock, path, Kernel())


def test_a_directory_that_others_may_write_is_refused(path: str) -> None:
    """Whoever may rename the socket could put another in its place."""
    sock = bound(path)
    os.chmod(os.path.dirname(path), 0o777)  # noqa: S103
    with pytest.raises(ConfigError, match="others may write"):
        adopt(sock, path, Kernel())
