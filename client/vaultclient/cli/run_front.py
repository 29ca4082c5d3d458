"""The outer process of `vaultctl run`: stays where it was called, passes on what comes, ends with the run's status."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
from typing import TYPE_CHECKING, Any

from vaultclient.cli.children import exit_status
from vaultclient.cli.failures import CliError
from vaultclient.cli.kernel import set_dumpable
from vaultclient.cli.run_monitor import PASSED_ON, monitor
from vaultclient.cli.run_within import open_within
from vaultclient.cli.terminal import Terminal

if TYPE_CHECKING:
    from types import FrameType

    from vaultclient.cli.run_plan import Plan
    from vaultclient.cli.run_redact import Redaction

__all__ = ["carry_out"]

QUIET = 100
"""Milliseconds of silence after which a person is shown the few characters that wait: a prompt may end in them."""

GLANCE = 3
"""Bytes that are shown so, at most; a value that they begin is hidden from there on."""

_LOOK_AGAIN = 200
"""Milliseconds between looks at whether a job in the background has come to the foreground."""


class _Front:
    def __init__(
        self, control: socket.socket, below: int, terminal: Terminal | None, redaction: Redaction | None
    ) -> None:
        self._control = control
        self._below = below
        self._terminal = terminal
        self._redaction = redaction
        self._received = bytearray()
        self._said: dict[str, Any] | None = None
        self._gone = False
        self._woken, waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        for number in PASSED_ON:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._pass_on)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])

    def _pass_on(self, number: int, _frame: FrameType | None) -> None:
        if self._gone:
            return
        if number == signal.SIGWINCH and self._terminal is not None:
            self._terminal.resize()  # and the kernel signals whoever is in that terminal's foreground
            return
        os.kill(self._below, number)  # the monitor is our child and not reaped: its pid is nobody else's

    def serve(self) -> dict[str, Any] | None:
        """Until the monitor has said how it ended, or is gone without a word."""
        poller = select.poll()
        poller.register(self._control, select.POLLIN)
        poller.register(self._woken, select.POLLIN)
        while self._said is None:
            pause = None
            if self._terminal is not None:
                self._terminal.attach()
                self._terminal.register(poller)
                if not self._terminal.attached:
                    pause = _LOOK_AGAIN  # a shell's fg says nothing to a job that runs already
            if self._redaction is not None:
                self._redaction.register(poller)
                if self._terminal is not None and self._redaction.shown.waiting:
                    pause = QUIET
            events = dict(poller.poll(pause))
            if not events and self._terminal is not None:
                self._terminal.show_waiting(GLANCE)
            if events.get(self._woken):
                with contextlib.suppress(BlockingIOError):
                    os.read(self._woken, 4_096)
            if self._redaction is not None:
                self._redaction.pass_on(events)
            if self._terminal is not None:
                self._terminal.pass_on(events)
            if events.get(self._control.fileno()) and not self._hear():
                return None
        return self._said

    def _hear(self) -> bool:
        came = self._control.recv(65_536)
        self._received += came
        while (end := self._received.find(b"\n")) >= 0:
            message = json.loads(self._received[:end])
            del self._received[: end + 1]
            if "exit" in message:
                self._said = message
            elif message.get("stopped"):
                self._stop_too()
        return bool(came) or self._said is not None

    def _stop_too(self) -> None:
        """The command was stopped (^Z): so are we, and the shell takes its terminal back; until it continues us."""
        if self._terminal is not None:
            self._terminal.restore()
        os.kill(os.getpid(), signal.SIGSTOP)
        os.kill(self._below, signal.SIGCONT)  # the terminal is taken again when it is ours: bg, fg

    def wait(self) -> int:
        """The monitor's own status."""
        _, status = os.waitpid(self._below, 0)
        self._gone = True
        return exit_status(status)


def carry_out(plan: Plan) -> tuple[int, int]:
    """Run the plan's command; returns its status, and how many of its processes it left behind.

    Raises:
        CliError: it did not start, or was ended; with the status that says so.
    """
    if plan.token is not None:
        plan = open_within(plan, plan.token)
    set_dumpable(False)  # what we carry for the run is not for the command to read
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)  # until there is somebody to pass them on to
    terminal = Terminal.for_person()
    redaction = None
    if plan.redact:
        from vaultclient.cli.run_redact import Redaction

        redaction = Redaction(terminal)
        if terminal is not None:
            terminal.redaction = redaction
    mine, theirs = socket.socketpair()
    me = os.getpid()
    below = os.fork()
    if below == 0:
        mine.close()
        monitor(plan, theirs, terminal, redaction, me)
    theirs.close()
    if redaction is not None:
        redaction.begin()
    front = _Front(mine, below, terminal, redaction)
    if terminal is not None:
        os.close(terminal.far)
    try:
        said = front.serve()
        status = front.wait()
        if redaction is not None:
            redaction.drain()
        if terminal is not None:
            terminal.drain()
    finally:
        if terminal is not None:
            terminal.restore()
        if redaction is not None:
            redaction.close()
        mine.close()
    if said is None:
        raise CliError("internal", f"the run's monitor ended unexpectedly, with status {status}", status=status or 125)
    failed = said.get("error")
    if failed is not None:
        raise CliError(failed["code"], failed["message"], failed["hint"], status=failed["status"])
    return said["exit"], said.get("left", 0)
