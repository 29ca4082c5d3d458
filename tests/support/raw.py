"""A peer that speaks bytes: whole reply frames for comparing, and whatever a well-behaved client would never send."""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import msgpack

from tests.support.serving import Child

if TYPE_CHECKING:
    from collections.abc import Callable


GROUP = 4200
"""The group that may connect, of every process that `as_uid` starts."""


class Answered(NamedTuple):
    """One reply: its bytes as they came, and what they say."""

    frame: bytes
    header: dict[str, Any]
    tail: bytes

    @property
    def code(self) -> str:
        """The error's code, or "" for success."""
        return "" if self.header["ok"] else str(self.header["code"])


class Raw:
    """One connection, without a client's checks.

    Attributes:
        pushes: headers of the pushes that came in between.
        descriptors: that came beside replies; closed with the connection.
    """

    def __init__(self, path: str, *, timeout: float = 20) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(timeout)
        self.socket.connect(path)
        self.pushes: list[dict[str, Any]] = []
        self.descriptors: list[int] = []
        self._buffer = b""

    def send(
        self, op: str, keys: dict[str, Any] | None = None, tail: bytes = b"", run: bytes | None = None, number: int = 1
    ) -> None:
        """Send one request, well formed or not."""
        header: dict[str, Any] = {"v": 1, "id": number, "op": op}
        if run is not None:
            header["run"] = run
        self.socket.sendall(framed(packed(header | (keys or {})), tail))

    def call(
        self, op: str, keys: dict[str, Any] | None = None, tail: bytes = b"", run: bytes | None = None, number: int = 1
    ) -> Answered:
        """Send one request and wait for its reply; a descriptor that came with it is acknowledged."""
        self.send(op, keys, tail, run, number)
        answered = self.receive()
        if answered.header.get("memfd"):
            self.send("ack", {"of": number}, number=number + 1)
            assert self.receive().header["ok"]
        return answered

    def receive(self) -> Answered:
        """The next reply; pushes before it are kept aside. Raises EOFError when the connection has ended."""
        while True:
            frame = self._frame()
            length = struct.unpack_from(">H", frame, 4)[0]
            header = msgpack.unpackb(frame[6 : 6 + length])
            if "event" not in header:
                return Answered(frame, header, frame[6 + length :])
            self.pushes.append(header)

    def push(self) -> dict[str, Any]:
        """The next push."""
        while not self.pushes:
            frame = self._frame()
            length = struct.unpack_from(">H", frame, 4)[0]
            header = msgpack.unpackb(frame[6 : 6 + length])
            assert "event" in header, header
            self.pushes.append(header)
        return self.pushes.pop(0)

    def _frame(self) -> bytes:
        while len(self._buffer) < 4 or len(self._buffer) < 4 + struct.unpack_from(">I", self._buffer)[0]:
            data, descriptors, _flags, _address = socket.recv_fds(self.socket, 65536, 4)
            self.descriptors += descriptors
            if not data:
                raise EOFError
            self._buffer += data
        end = 4 + struct.unpack_from(">I", self._buffer)[0]
        frame, self._buffer = self._buffer[:end], self._buffer[end:]
        return frame

    def has_ended(self) -> bool:
        """Wait for the daemon to close the connection; False when it says something instead."""
        try:
            return not self._buffer and self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        """End the connection."""
        self.socket.close()
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def packed(header: Any) -> bytes:
    """A header as the protocol packs it."""
    data: bytes = msgpack.packb(header, use_bin_type=True)
    return data


def framed(header: bytes, tail: bytes = b"") -> bytes:
    """One frame."""
    return struct.pack(">IH", 2 + len(header) + len(tail), len(header)) + header + tail


def whole(descriptor: int) -> bytes:
    """Everything in a memory file."""
    return os.pread(descriptor, 2 << 20, 0)


def as_uid(uid: int, path: str, function: Callable[[Raw], Any], *, session: bool = True) -> Any:
    """What `function` returns in a process of its own under `uid`, connected to the daemon.

    Args:
        session: whether the process leads a session of its own, as an agent that was started properly does.
    """

    def there() -> Any:
        if session:
            os.setsid()
        with Raw(path) as raw:
            return function(raw)

    return Child(there, uid=uid, groups=(GROUP,)).result()
