"""The middle process of `vaultctl run`: leader of the run's session, parent of the command, keeper of its leases.

Three processes take part, because three things must be true at once:

    front     stays in the caller's session and terminal; passes signals and keystrokes on; its status is the run's
    monitor   (here) leads a new session; a run's token works in the anchor's session, so it may renew the leases over
              connections of its own, also after the daemon restarted; reaps what the command leaves behind
    command   the anchor: opens the run itself, then execs

It waits on one poll for the daemon's pushes, ended children, the front's end of the control socket, and the next
renewal. Signals are passed on from their handlers, so a slow daemon never delays them.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import time
from typing import TYPE_CHECKING, Any, Final, NoReturn

from vaultclient._address import decode_token
from vaultclient._keeper import renewal_ended
from vaultclient._transport import Channel
from vaultclient.cli.children import exit_status
from vaultclient.cli.failures import CliError, describe
from vaultclient.cli.kernel import adopt_orphans
from vaultclient.cli.processes import end_all, members
from vaultclient.cli.run_child import become, receive
from vaultclient.errors import VaultError

if TYPE_CHECKING:
    from types import FrameType

    from vaultclient.cli.run_plan import Plan
    from vaultclient.cli.run_redact import Redaction
    from vaultclient.cli.terminal import Terminal
    from vaultd.protocol import Push

__all__ = ["PASSED_ON", "monitor"]

GRACE: Final = 5.0
"""Seconds between TERM and KILL when a run is ended."""

PATIENCE: Final = 60.0
"""Seconds that a daemon may be away, restarting or sealed, before the run is ended."""

ENDED: Final = 143
"""The status of a run that was ended by revocation: 128 + SIGTERM."""

_ANSWER: Final = 5.0
_LONGEST_SLEEP: Final = 30.0
_RETRY: Final = 0.25

PASSED_ON: Final = (
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTSTP,
    signal.SIGHUP,
    signal.SIGWINCH,
    signal.SIGCONT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
)
"""Signals that reach the command; but for the last four, its whole process group, as a terminal would do it."""

_TO_ONE: Final = frozenset(PASSED_ON[-4:])
_OWN_WISH: Final = frozenset({"released", "expired"})


class _Lease:
    """One lease that the command holds, and when its renewal is due (seconds of the boot clock, as the daemon's)."""

    def __init__(self, request: dict[str, Any], given: dict[str, Any]) -> None:
        self.request = request
        self.id = ""
        self.version = 0
        self.held(given)

    def held(self, given: dict[str, Any]) -> None:
        """It was acquired or renewed just now: due again at half its time, so that trying can fail and be repeated."""
        self.id = given.get("lease", self.id)
        self.version = given.get("version", self.version)
        now = _boot()
        self.due = now + given["expires_in"] / 2
        self._end = now + given["expires_in"]
        self.unknown = False
        """Whether the daemon may have restarted since, and then knows nothing of it."""

    def may_be_gone(self, now: float) -> bool:
        """Whether it may be over for no other reason than time or a restart: then it may be taken anew."""
        return self.unknown or now >= self._end


def _boot() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class _Monitor:
    def __init__(self, plan: Plan, control: socket.socket, front: int) -> None:
        self._plan = plan
        self._control = control
        self._front = front
        self._child = 0
        self._status: int | None = None
        self._stopped = False
        self._ending = ""
        self._channel = Channel(plan.socket, timeout=_ANSWER)
        self._run = ""
        self._token = b""
        self._leases: list[_Lease] = []
        self._generation = 0
        self._away_since: float | None = None
        self._next_try = 0.0
        self._woken, waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)

    # -- start

    def start(self, terminal: Terminal | None, redaction: Redaction | None) -> None:
        """Fork the command's process, and go through the opening of the run with it.

        Raises:
            CliError: the command did not start.
        """
        if terminal is not None:
            terminal.hand_over()
        if redaction is not None:
            redaction.leave_near()
        mine, theirs = socket.socketpair()
        me = os.getpid()
        child = os.fork()
        if child == 0:
            signal.set_wakeup_fd(-1)
            for number in PASSED_ON:
                if signal.getsignal(number) != signal.SIG_IGN:
                    signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, [])
            mine.close()
            become(self._plan, theirs, me, None if terminal is None else terminal.far, redaction)
        self._child = child
        theirs.close()
        if redaction is not None:
            redaction.leave()
        if terminal is not None:
            os.close(terminal.far)
        with contextlib.suppress(OSError):  # the child does it too; whoever is first
            os.setpgid(child, child)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)  # for the wake-up alone
        for number in PASSED_ON:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._pass_on)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        with mine:
            self._opening(mine)

    def _opening(self, link: socket.socket) -> None:
        opened = self._hear_child(link)
        self._run, self._token = opened["run"], decode_token(opened["token"])
        self._subscribe()
        self._generation = self._channel.generation  # a daemon that restarts before our first look is another one too
        link.sendall(b'{"go":true}\n')
        self._leases = [_Lease(lease["request"], lease) for lease in self._hear_child(link)["leases"]]
        failed = receive(link)
        if failed is not None:
            raise _failure(failed["failed"])

    def _hear_child(self, link: socket.socket) -> dict[str, Any]:
        message = receive(link)
        if message is None:  # it was killed
            _, status = os.waitpid(self._child, 0)
            raise CliError("unavailable", "ended before the command started", status=exit_status(status))
        if "failed" in message:
            raise _failure(message["failed"])
        return message

    def _pass_on(self, number: int, _frame: FrameType | None) -> None:
        if self._status is not None:
            return
        with contextlib.suppress(OSError):  # it has ended, and is not reaped yet
            if number in _TO_ONE:
                os.kill(self._child, number)
            else:
                os.killpg(self._child, number)

    # -- while the command runs

    def watch(self) -> int:
        """Until the command has ended, by itself or by us; returns the run's status.

        Raises:
            CliError: it was ended.
        """
        poller = select.poll()
        poller.register(self._woken, select.POLLIN)
        poller.register(self._control, select.POLLIN)
        while True:
            self._reap()
            if self._status is not None:
                return exit_status(self._status)
            self._attend()
            if self._ending:
                # The daemon hears of the command's end as soon as we do: what it tells of may be just that.
                self._reap()
                if self._status is not None:
                    return exit_status(self._status)
                left = end_all(os.getpid(), GRACE, self._reap)
                hint = "the tenant's audit trail says by whom: vaultctl audit show TENANT"
                if left:
                    hint = f"{left} of its processes could not be ended: they run under another uid"
                raise CliError("denied", f"the run was ended: {self._ending}", hint, status=ENDED)
            watched = self._channel.fileno() if self._channel.connected else None
            if watched is not None:
                poller.register(watched, select.POLLIN)
            events = dict(poller.poll(self._pause()))
            if watched is not None:
                poller.unregister(watched)
            with contextlib.suppress(BlockingIOError):
                os.read(self._woken, 4_096)
            if events.get(self._control.fileno()) and not self._control.recv(1):
                self._ending = "vaultctl itself was killed"

    def _pause(self) -> float | None:
        """Milliseconds until something is due; None for ever."""
        now = _boot()
        if self._channel.pushes:
            return 0
        if not self._channel.connected:
            return max(0.0, self._next_try - now) * 1000
        due = min((lease.due for lease in self._leases), default=None)
        # Suspend stops poll's clock and not the leases': look again soon after it.
        return None if due is None else min(max(0.0, due - now), _LONGEST_SLEEP) * 1000

    def _reap(self) -> None:
        """Collect what ended, orphans included; note when the command stops or goes on."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if os.WIFSTOPPED(status):
                if pid == self._child:
                    self._stopped = True
                    self._say({"stopped": True})
            elif os.WIFCONTINUED(status):
                if pid == self._child and self._stopped:
                    self._stopped = False
                    with contextlib.suppress(OSError):
                        os.kill(self._front, signal.SIGCONT)
            elif pid == self._child:
                self._status = status

    # -- the daemon

    def _subscribe(self) -> None:
        self._channel.connect(_ANSWER)
        self._channel.call("subscribe", {}, run=self._token)

    def _attend(self) -> None:
        """Hear what happened, renew what is due; see to a daemon that is away."""
        now = _boot()
        try:
            if self._channel.connected:
                self._channel.receive_pushes()
            elif now < self._next_try:
                return
            else:
                self._subscribe()
                self._away_since = None
            self._hear()
            self._renew()
            self._away_since = None
        except VaultError as error:
            self._trouble(error)

    def _trouble(self, error: VaultError) -> None:
        if renewal_ended(error):
            self._ending = error.message
            return
        now = _boot()
        if self._away_since is None:
            self._away_since = now
        elif now - self._away_since > PATIENCE:
            self._ending = f"no answer for {PATIENCE:g} s: {error.message}"
        self._channel.close()
        self._next_try = now + _RETRY

    def _hear(self) -> None:
        while self._channel.pushes:
            self._heard(self._channel.pushes.popleft())

    def _heard(self, push: Push) -> None:
        keys, reason = push.keys, str(push.keys.get("reason") or "")
        if push.event == "run.ended" and keys["run"] == self._run:
            self._ending = reason or "it is over"
        elif push.event == "lease.revoked":
            # A lease that the command took by itself counts too: what it has read cannot be taken back otherwise.
            ours = any(lease.id == keys["lease"] for lease in self._leases) or keys.get("run") == self._run
            if ours and reason not in _OWN_WISH:
                self._ending = f"{keys['lease']} was revoked" + (f": {reason}" if reason not in {"", "revoked"} else "")
        elif push.event in {"tenant.sealed", "tenant.contained"} and keys["tenant"] == self._plan.tenant:
            self._ending = f"the tenant was {push.event.removeprefix('tenant.')}"
        elif push.event == "vault.sealed":
            self._ending = "the vault was sealed"

    def _renew(self) -> None:
        if self._channel.generation != self._generation:  # perhaps another daemon, which knows no lease of ours
            self._generation = self._channel.generation
            for lease in self._leases:
                lease.unknown = True
        for lease in sorted(self._leases, key=lambda lease: lease.due):
            if lease.unknown or lease.due <= _boot():
                self._renew_one(lease)
                self._hear()

    def _renew_one(self, lease: _Lease) -> None:
        may_be_gone = lease.may_be_gone(_boot())
        try:
            answer = self._channel.call("lease.renew", {"lease": lease.id}, run=self._token)
        except VaultError as error:
            if not (may_be_gone and renewal_ended(error)):
                raise
            # The same version again: the command has its value already, so what comes here is wiped unseen.
            asked = {**lease.request, "version": lease.version}
            answer = self._channel.call("lease.acquire", asked, run=self._token)
        with answer:
            lease.held(answer.keys)

    # -- the end

    def _say(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # the front is gone: nobody to tell
            self._control.sendall(json.dumps(message).encode("ascii") + b"\n")

    def report(self, status: int, error: Exception | None) -> None:
        """Tell the front how it ended, and what is left."""
        message: dict[str, Any] = {"exit": status}
        if error is not None:
            code, text, hint = describe(error)
            message["error"] = {"code": code, "message": text, "hint": hint, "status": status}
        elif self._run:
            message["left"] = len(members(os.getpid()))
        self._say(message)

    def abandon(self) -> None:
        """Nothing of the command may live on after we failed."""
        if self._child and self._status is None:
            end_all(os.getpid(), GRACE, self._reap)


def _failure(failed: dict[str, Any]) -> CliError:
    return CliError(failed["code"], failed["message"], failed["hint"], status=failed["status"])


def monitor(
    plan: Plan, control: socket.socket, terminal: Terminal | None, redaction: Redaction | None, front: int
) -> NoReturn:
    """In the process that `vaultctl run` forked first: lead a session, run the command in it. Never returns."""
    status = 125
    try:
        os.setsid()
        adopt_orphans()
        one = _Monitor(plan, control, front)
        try:
            one.start(terminal, redaction)
            status = one.watch()
            one.report(status, None)
        except Exception as error:  # noqa: BLE001 - told to the front, which tells the person
            one.abandon()
            status = getattr(error, "status", None) or 125
            one.report(status, error)
    finally:
        os._exit(status)
