"""The anchor's side of `vaultctl run`: the process that becomes the command opens the run itself.

So the kernel names this very process as the run's anchor, before the command takes its place. What it needs of the
daemon it has done before exec; what the monitor must know it says over a socket that exec closes.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import time
from typing import TYPE_CHECKING, Any, Final, NoReturn

from vaultclient._address import encode_token
from vaultclient._memory import sealed_memfd
from vaultclient.cli.app import App
from vaultclient.cli.children import exec_failure, to_default_signals
from vaultclient.cli.downloads import in_memory
from vaultclient.cli.failures import CliError, describe
from vaultclient.cli.inputs import wipe
from vaultclient.cli.kernel import die_with_parent, set_dumpable
from vaultclient.cli.progress import working
from vaultclient.cli.terminal import Terminal
from vaultclient.errors import VaultError

if TYPE_CHECKING:
    import socket

    from vaultclient._calls import Answer
    from vaultclient.cli.run_plan import Placed, Plan
    from vaultclient.cli.run_redact import Redaction

__all__ = ["ask", "become", "receive"]

_AWAY: Final = frozenset({"unavailable", "sealed"})
_RETRY: Final = 0.25

_FIRST_FD: Final = 10
"""Descriptors of secrets start here: scripts use 3 to 9 for their own."""

_MAX_VARIABLE: Final = 128 * 1024 - 1
"""MAX_ARG_STRLEN of execve(2): one `NAME=value`, its NUL not counted."""


def _tell(link: socket.socket, message: dict[str, Any]) -> None:
    link.sendall(json.dumps(message).encode("ascii") + b"\n")


def receive(link: socket.socket) -> dict[str, Any] | None:
    """One message of the other side, or None when it has closed: a child that did so without a word has exec'd."""
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = link.recv(1)  # never past the line: a pipe-sized message each, a handful in all
        if not byte:
            return None
        line += byte
    message = json.loads(line)
    assert isinstance(message, dict)  # noqa: S101 - we wrote it
    return message


def become(
    plan: Plan, link: socket.socket, monitor: int, terminal: int | None, redaction: Redaction | None
) -> NoReturn:
    """In the forked child: open the run, take the leases, and become the command. Never returns.

    Args:
        plan: what to do.
        link: to the monitor.
        monitor: the monitor's pid; the child ends with it.
        terminal: the child's own terminal, or None.
        redaction: what its output goes through, or None.
    """
    status = 125
    try:
        set_dumpable(True)  # the daemon reads /proc/PID of whoever asks
        die_with_parent(signal.SIGTERM, monitor)
        os.setpgid(0, 0)
        if terminal is not None:
            _take_terminal(terminal)
        variables = _take_secrets(plan, link, redaction)
        if redaction is not None:
            redaction.take_over()
        to_default_signals()
        try:
            os.execvpe(plan.command[0], list(plan.command), variables)  # noqa: S606 - no shell is wanted
        except OSError as error:
            raise exec_failure(plan.command[0], error) from None
    except BaseException as error:  # noqa: BLE001 - nothing may run on in a forked child
        if isinstance(error, KeyboardInterrupt):
            code, message, hint, status = "unavailable", "interrupted before the command started", "", 130
        elif isinstance(error, Exception):
            code, message, hint = describe(error)
            status = getattr(error, "status", None) or 125
        else:
            code, message, hint = "internal", f"unexpected {type(error).__name__}", ""
        failed = {"code": code, "message": message, "hint": hint, "status": status}
        with contextlib.suppress(OSError):  # the monitor is gone; the status is all that is left to say
            _tell(link, {"failed": failed})
    os._exit(status)


def _take_terminal(terminal: int) -> None:
    """Put the child into the foreground of its session's terminal, and its standard streams onto it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTTOU])  # a background process may not do this otherwise
    os.tcsetpgrp(terminal, os.getpgrp())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTTOU])
    for number in [number for number in (0, 1, 2) if Terminal.carries(number)]:  # all looked at before 0 is another
        os.dup2(terminal, number)


def _take_secrets(plan: Plan, link: socket.socket, redaction: Redaction | None) -> dict[str, str | bytes]:
    """Open the run, let the monitor subscribe to what happens to it, then lease; returns the whole environment."""
    with App(plan.socket) as app:
        # Confined either way: the run is this process's alone, and this process's session gets nothing beside it.
        if plan.handed is not None:
            token = plan.handed
            opened = ask(app, plan, "run.claim", {}, run=token)
        else:
            opened = ask(app, plan, "run.open", {**plan.request(), "confine": True})
            token = opened["token"]
        _tell(link, {"run": opened["run"], "token": encode_token(token)})
        # Without this a revocation between our lease and the monitor's subscription would reach nobody.
        if receive(link) is None:
            raise CliError("unavailable", "the run's monitor ended")
        variables: dict[str, str | bytes] = dict(plan.environment)
        leases = []
        for placed in plan.placed:
            asked: dict[str, Any] = {"tenant": plan.tenant, "secret": placed.secret, "delivery": placed.delivery}
            if plan.purpose is not None:
                asked["purpose"] = plan.purpose
            # A pipe is for the command to read: whoever takes the lease anew later does not ask for it again.
            keys = {**asked, "pipe": True} if placed.delivery == "fd" else asked
            with app.call("lease.acquire", keys, run=token) as found:
                variables.update(_placed(placed, found, redaction))
                leases.append(
                    {"request": asked, **{key: found.keys[key] for key in ("lease", "version", "expires_in")}}
                )
        _tell(link, {"leases": leases})
    variables["VAULTD_RUN_FD"] = str(_inherited(sealed_memfd("vaultd-run", encode_token(token).encode("ascii"))))
    return variables


def ask(app: App, plan: Plan, op: str, keys: dict[str, Any], run: bytes | None = None) -> dict[str, Any]:
    """Open or claim the run; where the plan says so, wait for a daemon that is away or sealed, as after a restart."""
    end = time.monotonic() + plan.wait
    with working(app.out, "waiting for vaultd") if plan.wait else contextlib.nullcontext():
        while True:
            try:
                return app.call(op, keys, run=run).keys
            except VaultError as error:
                left = end - time.monotonic()
                if error.code not in _AWAY or left <= 0:
                    raise
            time.sleep(min(_RETRY, left))


def _placed(placed: Placed, found: Answer, redaction: Redaction | None) -> dict[str, str | bytes]:
    """The variables that lead to a leased value."""
    if found.pipe:
        descriptor = found.take_fd()
        assert descriptor is not None  # noqa: S101 - it came with the pipe
        # How long it is, as the end of a pipe cannot tell a whole value from a broken one.
        return {placed.name: f"/dev/fd/{_inherited(descriptor)}", f"{placed.name}_SIZE": str(found.length)}
    value = in_memory(found, f"--fd {placed.name}={placed.secret} hands it over as a file")
    try:
        if redaction is not None and "size" not in found.keys:
            redaction.teach(value)
        return {placed.name: _place(placed, value)}
    finally:
        wipe(value)


def _place(placed: Placed, value: bytearray) -> str | bytes:
    """What the variable holds: the value, or the path of a sealed memory file with it."""
    if placed.delivery == "fd":
        # A memory file of our own, not the daemon's: /dev/fd/N is opened anew, and must be ours to be opened.
        return f"/dev/fd/{_inherited(sealed_memfd('vaultd-secret', value))}"
    hint = f"--fd {placed.name}={placed.secret} hands it over as a file"
    if 0 in value:
        raise CliError("invalid", f"the value of {placed.secret} holds a NUL, which no variable can", hint)
    if len(placed.name) + 1 + len(value) > _MAX_VARIABLE:
        raise CliError("invalid", f"the value of {placed.secret} is too long for a variable", hint)
    return bytes(value)


def _inherited(descriptor: int) -> int:
    """Move a descriptor out of the way of scripts' own, and let the command inherit it."""
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD, _FIRST_FD)
    os.close(descriptor)
    return moved
