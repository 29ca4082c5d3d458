"""The child's own terminal: a pseudo-terminal between the person's and the command.

The command lives in a session of its own, and a terminal belongs to one session: without one of its own it would have
neither job control nor /dev/tty. And it cannot push keystrokes into the person's shell (TIOCSTI), as it could into a
terminal that both share.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import termios
import tty

__all__ = ["Terminal"]

_READ = 16_384


class Terminal:
    """The person's terminal (standard input), and the pair of ends of the child's."""

    def __init__(self, person: int) -> None:
        self._person = person
        self._saved = termios.tcgetattr(person)
        self.near, self.far = os.openpty()
        os.set_blocking(self.near, False)
        termios.tcsetattr(self.far, termios.TCSANOW, self._saved)
        self.resize()
        self._typed = b""
        self._open = True
        self._reading = True

    @classmethod
    def for_person(cls) -> Terminal | None:
        """A terminal for the child where a person sits at ours, in the foreground; else None."""
        try:
            if os.isatty(0) and os.tcgetpgrp(0) == os.getpgrp():
                return cls(0)
        except OSError:
            pass  # not our controlling terminal, or none free: the child does without
        return None

    def hand_over(self) -> None:
        """In the child's session's leader: make the far end this session's terminal, and keep that end only."""
        os.close(self.near)
        fcntl.ioctl(self.far, termios.TIOCSCTTY, 0)

    def start(self) -> None:
        """Every key goes to the child's terminal, whose line discipline does what ours did."""
        tty.setraw(self._person, termios.TCSADRAIN)

    def restore(self) -> None:
        """The person's terminal as it was."""
        with contextlib.suppress(termios.error):  # it may have hung up
            termios.tcsetattr(self._person, termios.TCSADRAIN, self._saved)

    def resize(self) -> None:
        """Give the child's terminal the size of ours; the kernel tells its foreground processes."""
        with contextlib.suppress(OSError):
            size = fcntl.ioctl(self._person, termios.TIOCGWINSZ, bytes(8))
            fcntl.ioctl(self.near, termios.TIOCSWINSZ, size)

    def register(self, poller: select.poll) -> None:
        """Ask for what can be passed on right now."""
        for number in (self._person, self.near):
            with contextlib.suppress(KeyError):
                poller.unregister(number)
        if self._open:
            poller.register(self.near, select.POLLIN | (select.POLLOUT if self._typed else 0))
            if self._reading and not self._typed:
                poller.register(self._person, select.POLLIN)

    def pass_on(self, events: dict[int, int]) -> None:
        """Carry what came, each way."""
        if events.get(self._person):
            try:
                self._typed = os.read(self._person, _READ)
            except OSError:
                self._typed = b""
            if not self._typed:
                self._reading = False  # it hung up
        if self._typed:
            try:
                self._typed = self._typed[os.write(self.near, self._typed) :]
            except BlockingIOError:
                pass
            except OSError:
                self._typed = b""
        if events.get(self.near):
            self._show()

    def _show(self) -> bool:
        try:
            shown = os.read(self.near, _READ)
        except BlockingIOError:
            return False
        except OSError:  # EIO: nobody has the far end open any more
            shown = b""
        if not shown:
            self._open = False
            return False
        view = memoryview(shown)
        while view:
            view = view[os.write(1, view) :]
        return True

    def drain(self) -> None:
        """Show what the child wrote last; what its own children write later is theirs alone."""
        while self._open and self._show():
            pass
