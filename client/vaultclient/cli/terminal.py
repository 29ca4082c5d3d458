"""The child's own terminal: a pseudo-terminal between the person's and the command.

The command lives in a session of its own, and a terminal belongs to one session: without one of its own it would have
neither job control nor /dev/tty. And it cannot push keystrokes into the person's shell (TIOCSTI), as it could into a
terminal that both share.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import termios
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vaultclient.cli.run_redact import Redaction

__all__ = ["Terminal"]

_READ = 16_384
_DEV_TTY = os.makedev(5, 0)


def _in_foreground(terminal: int) -> bool:
    """Whether this process is in the foreground of its controlling terminal, and that is this one."""
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False


def _make_raw(attributes: list[Any]) -> None:
    """What cfmakeraw(3) does."""
    attributes[0] &= ~(
        termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP
        | termios.INLCR | termios.IGNCR | termios.ICRNL | termios.IXON
    )  # fmt: skip
    attributes[1] &= ~termios.OPOST
    attributes[2] = attributes[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
    attributes[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
    attributes[6][termios.VMIN], attributes[6][termios.VTIME] = 1, 0


def _set(terminal: int, attributes: list[Any]) -> bool:
    """Set a terminal's attributes; False when it has hung up."""
    while True:
        try:
            termios.tcsetattr(terminal, termios.TCSADRAIN, attributes)
        except termios.error as error:
            if error.args[0] != errno.EINTR:  # Python repeats most calls that a signal interrupts, but not this one
                return False
        else:
            return True


class _Turn:
    """Whose turn it is at the person's terminal, of several `vaultctl run` in one job.

    One at a time reads its keys, and that one alone finds the terminal as it was, to save that and put it back. A turn
    ends with its process.
    """

    def __init__(self) -> None:
        self._lock: int | None = None
        # Opened anew: an inherited descriptor would share its lock with the others. /dev/tty is one file for everybody.
        with contextlib.suppress(OSError):
            if os.fstat(0).st_rdev != _DEV_TTY:
                self._lock = os.open("/proc/self/fd/0", os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)

    def take(self) -> bool:
        """Whether it is ours now; always, where there is nothing to lock."""
        if self._lock is None:
            return True
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def leave(self) -> None:
        """Let another one have it."""
        if self._lock is not None:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def close(self) -> None:
        """In a forked process that has no part in it."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


class Terminal:
    """The person's terminal, and the pair of ends of the child's.

    Args:
        person: descriptor of the person's terminal, for both ways.
    """

    def __init__(self, person: int) -> None:
        self._person = person
        self._turn = _Turn()
        self._saved: list[Any] = []
        self.near, self.far = os.openpty()
        os.set_blocking(self.near, False)
        if self._turn.take():  # else it is raw, for another's child: then ours gets what the kernel gives a new one
            termios.tcsetattr(self.far, termios.TCSANOW, termios.tcgetattr(person))
            self._turn.leave()
        self.resize()
        self._typed = b""
        self._attached = False
        self._open = True
        self._reading = True
        self.redaction: Redaction | None = None

    @classmethod
    def for_person(cls) -> Terminal | None:
        """A terminal for the child where a person sits at ours, in the foreground; else None."""
        try:
            if os.isatty(0) and _in_foreground(0):
                # Opened anew: standard output may lead elsewhere, and standard input need not be writable.
                return cls(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
        except OSError:
            pass  # no pseudo-terminal is free: the child does without
        return None

    @staticmethod
    def carries(number: int) -> bool:
        """Whether a standard stream leads to the person's terminal; others stay as they are, other terminals too."""
        return os.isatty(number) and os.fstat(number).st_rdev in {os.fstat(0).st_rdev, _DEV_TTY}

    def hand_over(self) -> None:
        """In the child's session's leader: make the far end this session's terminal, and keep that end only."""
        os.close(self.near)
        self._turn.close()
        fcntl.ioctl(self.far, termios.TIOCSCTTY, 0)

    @property
    def attached(self) -> bool:
        """Whether keys go to the child: not while the job is in the background, where reading would stop it."""
        return self._attached

    def attach(self) -> None:
        """In the foreground, when no other run has them, let every key go to the child's terminal, whose line
        discipline does what ours did.
        """
        if not self._attached and _in_foreground(self._person) and self._turn.take():
            self._saved, raw = termios.tcgetattr(self._person), termios.tcgetattr(self._person)
            _make_raw(raw)
            self._attached = _set(self._person, raw)
            if not self._attached:
                self._turn.leave()
            self.resize()

    def restore(self) -> None:
        """The person's terminal as it was."""
        if self._attached:
            self._attached = False
            _set(self._person, self._saved)
            self._turn.leave()  # not before: whoever is next saves the terminal as it finds it

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
        if self._open and (self.redaction is None or self.redaction.ready):
            poller.register(self.near, select.POLLIN | (select.POLLOUT if self._typed else 0))
            if self._attached and self._reading and not self._typed:
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
        self._write(shown if self.redaction is None else self.redaction.shown.feed(shown))
        return True

    def _write(self, shown: bytes) -> None:
        view = memoryview(shown)
        with contextlib.suppress(OSError):  # the person's terminal hung up: nobody looks any more
            while view:
                view = view[os.write(self._person, view) :]

    def show_waiting(self, most: int) -> None:
        """Nothing came for a moment: show the few bytes that redaction holds back."""
        if self.redaction is not None:
            self._write(self.redaction.shown.glance(most))

    def drain(self) -> None:
        """Show what the child wrote last; what its own children write later is theirs alone."""
        while self._open and self._show():
            pass
        if self.redaction is not None:
            self._write(self.redaction.shown.end())
