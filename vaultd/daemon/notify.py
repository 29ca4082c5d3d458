"""What the service manager is told: ready, how things stand, reloading, stopping, and that there is progress.

sd_notify(3) in a few lines: a datagram of `NAME=value` lines to the socket that `NOTIFY_SOCKET` names. A manager that
does not listen is no reason to stop, so nothing here raises.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

__all__ = ["Notifier", "Supervised", "watchdog_seconds"]

_log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 1.0
"""How often the status line is looked at; it is sent when it changed."""


def watchdog_seconds(environment: Mapping[str, str], pid: int) -> float | None:
    """The time within which the manager wants a sign of life, if it wants any of process `pid`."""
    text, whose = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", str(pid))
    if not (text.isascii() and text.isdigit() and int(text)) or whose != str(pid):
        return None
    return int(text) / 1e6


class Notifier:
    """Sends to the manager's socket; without one, nowhere.

    Args:
        address: of `NOTIFY_SOCKET`: an absolute path, or `@` and an abstract name.
    """

    def __init__(self, address: str) -> None:
        self._address: str | None = None
        if address[:1] in ("/", "@"):
            self._address = "\0" + address[1:] if address[0] == "@" else address

    def send(self, **values: str) -> None:
        """Tell the manager `values`."""
        if self._address is None:
            return
        message = "\n".join(f"{name}={value}" for name, value in values.items())
        try:
            # A socket for each message: the sandbox may change the one path behind a connected one.
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as sock:
                sock.sendto(message.encode(), self._address)
        except OSError as error:
            _log.debug("the service manager does not listen: %s", os.strerror(error.errno or 0).lower())


class Supervised:
    """Keeps the manager told, from the event loop.

    Args:
        notifier: where to.
        loop: the event loop.
        describe: one line on how things stand.
        flight: number of the flush that is under way, None when there is none.
        within: seconds within which the manager wants a sign of life; None: it wants none.
    """

    def __init__(
        self,
        notifier: Notifier,
        loop: asyncio.AbstractEventLoop,
        *,
        describe: Callable[[], str],
        flight: Callable[[], int | None],
        within: float | None,
    ) -> None:
        self._notifier = notifier
        self._loop = loop
        self._describe = describe
        self._flight = flight
        self._within = within
        self._told = ""
        self._seen: int | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def ready(self) -> None:
        """It listens, sealed or not: say so, and go on saying how it stands."""
        self._told = self._describe()
        self._notifier.send(READY="1", STATUS=self._told)
        if "look" not in self._timers:
            self._look()
            if self._within is not None:
                self._beat()

    def reloading(self) -> None:
        """The configuration is about to be read again; `ready` ends that."""
        self._notifier.send(RELOADING="1", MONOTONIC_USEC=str(time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1_000))

    def stopping(self) -> None:
        """Nothing new is taken any more."""
        timer = self._timers.pop("look", None)
        if timer is not None:
            timer.cancel()
        self._notifier.send(STOPPING="1", STATUS="stopping")

    def close(self) -> None:
        """No further signs of life."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _look(self) -> None:
        self._timers["look"] = self._loop.call_later(LOOK_SECONDS, self._look)
        now = self._describe()
        if now != self._told:
            self._told = now
            self._notifier.send(STATUS=now)

    def _beat(self) -> None:
        """A sign of life, unless the flush that was under way the last time still is: then the disk hangs.

        That this runs at all shows that the event loop does.
        """
        if self._within is None:
            return
        self._timers["beat"] = self._loop.call_later(self._within / 2, self._beat)
        before, self._seen = self._seen, self._flight()
        if self._seen is None or self._seen != before:
            self._notifier.send(WATCHDOG="1")
        else:
            _log.error("no sign of life for the service manager: a flush makes no progress")
