"""The thread that keeps a sync client's leases: renews them at half their time and hears of their revocation.

It has a connection of its own, so a slow request in the foreground never makes a renewal late, and nothing here needs
the foreground's lock. It starts with the first lease that is held as a context manager.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final, TypeVar

from vaultclient._calls import keys_of
from vaultclient._schedule import Schedule
from vaultclient._transport import Channel
from vaultclient.errors import Unavailable, VaultError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vaultclient._leases import HeldValue
    from vaultd.protocol import Push

__all__ = ["Keeper", "endings", "renewal_ended"]

_L = TypeVar("_L", bound="HeldValue")

_REMEMBERED: Final = 1_024


def renewal_ended(error: VaultError) -> bool:
    """Whether a failed renewal means that the lease is over, rather than that it should be tried again."""
    return error.code in {"denied", "not_found", "invalid", "closed", "uninitialised"}


def endings(push: Push, leases: Iterable[_L]) -> list[tuple[_L, str]]:
    """Which of the held leases a push says are over, and why."""
    keys = push.keys
    if push.event == "lease.revoked":
        return [(lease, keys.get("reason", "revoked")) for lease in leases if lease.id == keys["lease"]]
    if push.event == "run.ended":
        reason = "its run ended" + (f": {keys['reason']}" if keys.get("reason") else "")
        return [(lease, reason) for lease in leases if lease.run_id == keys["run"]]
    if push.event in {"tenant.sealed", "tenant.contained"}:
        reason = push.event.replace("tenant.", "its tenant was ")
        return [(lease, reason) for lease in leases if lease.tenant == keys["tenant"]]
    if push.event == "vault.sealed":
        return [(lease, "the vault was sealed") for lease in leases]
    return []


class Keeper:
    """Background renewal for one client. A lease's `on_revoked` runs on its thread."""

    def __init__(
        self,
        path: str,
        run: bytes | None,
        *,
        timeout: float,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._channel = Channel(path, timeout=timeout)
        self._run = run
        self._now = now
        self._lock = threading.Lock()  # over the schedule and what is gone; never held while asking or calling back
        self._starting = threading.Lock()
        self._schedule = Schedule()
        self._gone: deque[tuple[str, str]] = deque(maxlen=_REMEMBERED)  # ids revoked before `keep` was told of them
        self._waker = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._stopping = False
        self._thread: threading.Thread | None = None
        self.owner = os.getpid()

    # -- called from the foreground

    def listen(self) -> None:
        """Hear from now on of what happens to leases and runs of this client: call it before acquiring, keep after.

        Raises:
            VaultError: the daemon cannot be reached or refuses.
        """
        with self._starting:
            if self._thread is None:
                self._subscribe()
                self._thread = threading.Thread(target=self._work, name="vaultclient-keeper", daemon=True)
                self._thread.start()

    def keep(self, lease: HeldValue) -> None:
        """Renew this lease until `drop`."""
        with self._lock:
            reason = next((why for gone, why in self._gone if gone == lease.id), None)
            if reason is None:
                lease._generation = self._channel.generation
                before = self._schedule.next_due()
                self._schedule.held(lease, self._now())
                sooner = before is None or (self._schedule.next_due() or before) < before
        if reason is not None:
            self._over(lease, reason)
        elif sooner:
            self._wake()

    def drop(self, lease: HeldValue) -> None:
        """Stop renewing a lease."""
        with self._lock:
            self._schedule.drop(lease)

    def stop(self) -> None:
        """End the thread and its connection; leases that are still held stay as they are until they expire."""
        self._stopping = True
        thread = self._thread
        if thread is not None and self.owner == os.getpid():
            self._wake()
            self._channel.interrupt()  # a renewal that is on its way is not waited for
            if thread is not threading.current_thread():
                thread.join()
        self._channel.close()
        if self._waker >= 0:
            os.close(self._waker)
            self._waker = -1

    def _wake(self) -> None:
        os.eventfd_write(self._waker, 1)

    # -- the thread

    def _work(self) -> None:
        while not self._stopping:
            try:
                self._wait()
                if self._stopping:
                    return
                self._hear()
                self._renew_due()
            except VaultError:
                self._daemon_away()

    def _wait(self) -> None:
        """Until something comes, something is due, or somebody wakes us; while the daemon is away, a little while."""
        with self._lock:
            due = self._schedule.next_due()
        poller = select.poll()
        poller.register(self._waker, select.POLLIN)
        if self._channel.connected:
            poller.register(self._channel, select.POLLIN)
            left = None if due is None else max(0.0, due - self._now())
        else:
            left = self._schedule.retry_after
        if self._channel.pushes:
            left = 0.0
        poller.poll(None if left is None else left * 1000)
        with contextlib.suppress(BlockingIOError):  # nobody woke us
            os.eventfd_read(self._waker)

    def _subscribe(self) -> None:
        self._channel.connect()
        try:
            self._channel.call("subscribe", {}, run=self._run)
        except VaultError:
            self._channel.close()  # a connection without a subscription would look like one that is listened to
            raise

    def _hear(self) -> None:
        if self._channel.connected:
            self._channel.receive_pushes()
        else:
            try:
                self._subscribe()
            except VaultError as error:
                if not renewal_ended(error):
                    raise
                self._channel.connect()  # our run is over, say: no pushes, but each lease still gets its own answer
            with self._lock:  # it may be another daemon, which knows none of them
                self._schedule.all_due(self._now())
        self._tell()

    def _tell(self) -> None:
        while self._channel.pushes:
            self._told(self._channel.pushes.popleft())

    def _told(self, push: Push) -> None:
        with self._lock:
            if push.event == "lease.revoked":
                self._gone.append((push.keys["lease"], push.keys.get("reason", "revoked")))
            ended = list(endings(push, self._schedule.leases()))
        for lease, reason in ended:
            self._over(lease, reason)

    def _renew_due(self) -> None:
        while True:
            with self._lock:
                lease = self._schedule.take_due(self._now())
            if lease is None:
                return
            self._renew(lease)
            self._tell()

    def _renew(self, lease: HeldValue) -> None:
        keys = keys_of(lease=lease.id, ttl=lease._request.get("ttl"))
        try:
            lease._renewed(self._channel.call("lease.renew", keys, run=lease._run))
        except VaultError as error:
            if not renewal_ended(error) or lease._generation == self._channel.generation:
                self._renewal_failed(lease, error)
                return
        else:
            self._kept(lease)
            return
        try:  # after a reconnection: a restarted daemon knows no lease, but the run goes on: take the same version anew
            lease._hold_again(self._channel.call("lease.acquire", lease._anew(), run=lease._run))
        except VaultError as error:
            self._renewal_failed(lease, error)
        else:
            self._kept(lease)

    def _kept(self, lease: HeldValue) -> None:
        lease._generation = self._channel.generation
        with self._lock:
            if lease.active:
                self._schedule.held(lease, self._now())

    def _renewal_failed(self, lease: HeldValue, error: VaultError) -> None:
        now = self._now()
        with self._lock:
            if not lease.active:  # released meanwhile
                self._schedule.drop(lease)
                return
            expired = self._schedule.expired(lease, now)
            if not expired and not renewal_ended(error):
                self._schedule.failed(lease, now)
                if isinstance(error, Unavailable):
                    raise error
                return
        self._over(lease, "expired" if expired else error.message)

    def _over(self, lease: HeldValue, reason: str) -> None:
        with self._lock:
            self._schedule.drop(lease)
        if lease._end(reason) and lease.on_revoked is not None:
            try:
                lease.on_revoked(lease, reason)
            except Exception:  # noqa: BLE001  the caller's code; the other leases still need this thread
                kind, error, trace = sys.exc_info()
                threading.excepthook(threading.ExceptHookArgs((kind, error, trace, self._thread)))

    def _daemon_away(self) -> None:
        """The daemon is away: end what has expired, and try again soon."""
        now = self._now()
        with self._lock:
            over = [lease for lease in self._schedule.leases() if self._schedule.expired(lease, now)]
        for lease in over:
            self._over(lease, "expired while the daemon was away")
