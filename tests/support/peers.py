"""Processes that do as a test tells them: each with its uid, session and parent, and a connection of its own."""

from __future__ import annotations

import os
import pickle
import select
import signal
import socket
from typing import Any, Self

from tests.support.raw import GROUP, Answered, Raw
from tests.support.serving import fork

__all__ = ["Peer"]

_MOST = 1 << 17


class Peer:
    """A forked process, connected to the daemon; it makes the requests that `call` is given.

    Args:
        path: the daemon's socket.
        uid: whose process it is; this process's when left out.
        session: whether it leads a session of its own.
        parent: the peer that is to fork it; this process when left out.

    Attributes:
        pid: the process.
    """

    def __init__(self, path: str, *, uid: int | None = None, session: bool = True, parent: Peer | None = None) -> None:
        self._path = path
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(30)
        self._socket = ours
        if parent is not None:
            parent._tell(("spawn", path, session), theirs)
            self.pid = parent._told()
        else:
            self.pid = _start(theirs, path, uid, session)
        theirs.close()
        self._pidfd = os.pidfd_open(self.pid)
        self._ours = parent is None
        self._told()  # it is connected

    def call(
        self, op: str, keys: dict[str, Any] | None = None, tail: bytes = b"", *, run: bytes | None = None
    ) -> Answered:
        """What the daemon answers this process."""
        return Answered(*self._ask("call", op, keys, tail, run))

    def push(self) -> dict[str, Any]:
        """The next push that this process is sent."""
        pushed: dict[str, Any] = self._ask("push")
        return pushed

    def connect(self) -> None:
        """Connect anew: what the kernel says of the process is asked again."""
        self._ask("connect")

    def has_ended(self) -> bool:
        """Whether the daemon closes the connection."""
        ended: bool = self._ask("has_ended")
        return ended

    def spawn(self, *, session: bool = False) -> Peer:
        """A child of this process."""
        return Peer(self._path, session=session, parent=self)

    def end(self) -> None:
        """Kill it, and wait until it is gone."""
        if self._pidfd < 0:
            return
        signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        select.select([self._pidfd], [], [], 30)
        if self._ours:
            os.waitpid(self.pid, 0)
        os.close(self._pidfd)
        self._pidfd = -1
        self._socket.close()

    def _ask(self, *command: Any) -> Any:
        self._tell(command)
        return self._told()

    def _tell(self, command: Any, passed: socket.socket | None = None) -> None:
        descriptors = [passed.fileno()] if passed is not None else []
        socket.send_fds(self._socket, [pickle.dumps(command)], descriptors)

    def _told(self) -> Any:
        fine, value = pickle.loads(self._socket.recv(_MOST))  # noqa: S301  our own child wrote it
        assert fine, value
        return value

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def _start(channel: socket.socket, path: str, uid: int | None, session: bool) -> int:
    pid = fork()
    if pid == 0:
        code = 1
        try:
            os.dup2(channel.fileno(), 3)
            os.closerange(4, 65536)  # sockets of the test, above all: they would stay open with us
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
            if session:
                os.setsid()
            if uid is not None:
                os.setgroups([GROUP])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
            _serve(socket.socket(fileno=3), path)
            code = 0
        finally:
            os._exit(code)
    return pid


def _serve(channel: socket.socket, path: str) -> None:
    raw: Raw | None = None

    def connect() -> None:
        nonlocal raw
        if raw is not None:
            raw.close()
        raw = Raw(path)

    command: tuple[Any, ...] = ("connect",)
    descriptors: list[int] = []
    while True:
        try:
            match command[0]:
                case "connect":
                    value = connect()
                case "spawn":
                    with socket.socket(fileno=descriptors[0]) as passed:
                        value = _start(passed, command[1], None, command[2])
                case name:
                    value = getattr(raw, name)(*command[1:])
                    if isinstance(value, Answered):
                        value = tuple(value)
            told = (True, value)
        except BaseException as error:  # noqa: BLE001  shown to the test
            told = (False, f"{type(error).__name__}: {error}")
        channel.send(pickle.dumps(told))
        data, descriptors, _flags, _address = socket.recv_fds(channel, _MOST, 1)
        if not data:
            return
        command = pickle.loads(data)  # noqa: S301  the test wrote it
