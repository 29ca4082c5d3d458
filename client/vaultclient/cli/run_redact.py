"""`vaultctl run --redact`: the command's output goes through here, and no value that it was given comes out.

The command's process hands the values that it leased to the front before it becomes the command, over a socket that
exec closes; only then is its output read. Each stream has a pipe of its own, so standard output and error stay apart;
where both are one file, one pipe keeps their order. What is on a terminal goes through the command's pseudo-terminal.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import stat
from typing import TYPE_CHECKING, Final

from vaultclient._redactor import Redactor, Stream
from vaultd.protocol import MAX_VALUE, wipe

if TYPE_CHECKING:
    from vaultclient.cli.terminal import Terminal

__all__ = ["Redaction", "write_all"]

_READ: Final = 65_536
_LENGTH: Final = 4


def write_all(target: int, data: bytes) -> None:
    """Write everything, also where whoever shares the descriptor made it non-blocking.

    Raises:
        OSError: the reader went away, or the disk is full.
    """
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(target, view) :]
        except BlockingIOError:
            poller = select.poll()
            poller.register(target, select.POLLOUT)
            poller.poll()


class _Pipe:
    """One pipe from the command to one or two of our own streams."""

    def __init__(self, numbers: tuple[int, ...], stream: Stream) -> None:
        self.numbers = numbers
        self.stream = stream
        self.near, self.far = os.pipe2(os.O_CLOEXEC)
        self.open = True

    def close(self) -> None:
        if self.open:
            self.open = False
            os.close(self.near)

    def carry(self) -> bool:
        """One read, and what it lets out; False when nothing came."""
        try:
            came = os.read(self.near, _READ)
        except BlockingIOError:
            return False
        try:
            write_all(self.numbers[0], self.stream.feed(came) if came else self.stream.end())
        except OSError:
            came = b""  # nobody reads: the command learns it from its next write, as without us
        if not came:
            self.close()
        return bool(came)


class Redaction:
    """The front's side of it.

    Args:
        terminal: the command's own, which carries those of its streams that are on the person's.
    """

    def __init__(self, terminal: Terminal | None) -> None:
        self._redactor = Redactor()
        self._learning, self._teaching = socket.socketpair()
        self._learning.setblocking(False)
        self._received = bytearray()
        self.ready = False
        """Whether every value is known, so that output may be shown."""
        self.shown = Stream(self._redactor)
        """What the terminal shows."""
        self._pipes: list[_Pipe] = []
        left = [number for number in (1, 2) if terminal is None or not terminal.carries(number)]
        groups = [tuple(left)] if len(left) == 2 and _same_file(*left) else [(number,) for number in left]
        for numbers in groups:
            self._pipes.append(_Pipe(numbers, Stream(self._redactor)))

    # -- in the other processes

    def leave(self) -> None:
        """In the monitor once the command's process is made, and in the front: the command's ends are not ours."""
        self._teaching.close()
        for pipe in self._pipes:
            os.close(pipe.far)

    def leave_near(self) -> None:
        """In the monitor, first of all: the front's ends are not ours; so a front that is killed ends the pipes."""
        self._learning.close()
        for pipe in self._pipes:
            pipe.close()

    def teach(self, value: bytearray) -> None:
        """In the command's process: tell the front a value."""
        self._teaching.sendall(len(value).to_bytes(_LENGTH, "big"))
        self._teaching.sendall(value)

    def take_over(self) -> None:
        """In the command's process, last of all: its output goes into the pipes."""
        for pipe in self._pipes:
            for number in pipe.numbers:
                os.dup2(pipe.far, number)

    # -- in the front

    def begin(self) -> None:
        """Once the monitor is forked."""
        self.leave()
        for pipe in self._pipes:
            os.set_blocking(pipe.near, False)

    def register(self, poller: select.poll) -> None:
        """Ask for what can be carried right now: values first, output only when all of them are known."""
        for number in (self._learning.fileno(), *(pipe.near for pipe in self._pipes)):
            with contextlib.suppress(KeyError):
                poller.unregister(number)
        if not self.ready:
            poller.register(self._learning, select.POLLIN)
            return
        for pipe in self._pipes:
            if pipe.open:
                poller.register(pipe.near, select.POLLIN)

    def pass_on(self, events: dict[int, int]) -> None:
        """Carry what came."""
        if not self.ready:
            self._learn()
            return
        for pipe in self._pipes:
            if pipe.open and events.get(pipe.near):
                pipe.carry()

    def _learn(self) -> None:
        """Take the values as they come; all are there when the other side has closed, by exec or by ending."""
        room = bytearray(_READ)
        while not self.ready:
            try:
                count = self._learning.recv_into(room)
            except BlockingIOError:
                break
            self._received += memoryview(room)[:count]
            while len(self._received) >= _LENGTH:
                end = _LENGTH + int.from_bytes(self._received[:_LENGTH], "big")
                assert end <= _LENGTH + MAX_VALUE  # noqa: S101 - we wrote it
                if len(self._received) < end:
                    break
                value = self._received[_LENGTH:end]
                self._redactor.add(value)
                wipe(value)
                self._received[:end] = bytes(end)  # what is cut off below stays in memory
                del self._received[:end]
            self.ready = not count
        wipe(room)

    def drain(self) -> None:
        """Carry what the command wrote last, and let out what was held back."""
        self._learning.setblocking(True)  # the command's process has ended: its side is closed
        self._learn()
        for pipe in self._pipes:
            while pipe.open and pipe.carry():
                pass
            if pipe.open:
                with contextlib.suppress(OSError):  # nobody reads
                    write_all(pipe.numbers[0], pipe.stream.end())
                pipe.close()

    def close(self) -> None:
        """Forget every value."""
        self._redactor.forget_all()
        self._learning.close()
        for pipe in self._pipes:
            pipe.close()


def _same_file(one: int, other: int) -> bool:
    """Whether two streams lead to the same place, as after `2>&1`; terminals apart, which have no order to lose."""
    a, b = os.fstat(one), os.fstat(other)
    return os.path.samestat(a, b) and not stat.S_ISCHR(a.st_mode)
