"""The service manager's datagrams: where they go, and when a sign of life is kept back."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.notified import Manager
from vaultd.daemon.notify import Notifier, Supervised, watchdog_seconds


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_asked_for_by_the_manager(environment: dict[str, str], seconds: float | None) -> None:
    """By a positive number of microseconds, for this process or for whoever reads it."""
    assert watchdog_seconds(environment, 7) == seconds


@pytest.mark.parametrize("address", ["", "relative", "vsock:2:1234", "/no/such/socket", "@no-such-socket-of-vaultd"])
def test_a_manager_that_does_not_listen_is_no_error(address: str) -> None:
    """Nor is an address of a kind that we do not know."""
    Notifier(address).send(READY="1")


@pytest.mark.parametrize("abstract", [False, True])
def test_both_kinds_of_address(abstract: bool) -> None:
    """A path, and an abstract name."""
    with Manager(abstract=abstract) as manager:
        Notifier(manager.environment["NOTIFY_SOCKET"]).send(READY="1", STATUS="sealed")
        assert manager.wait(lambda _: True) == {"READY": "1", "STATUS": "sealed"}


def test_no_sign_of_life_while_a_flush_hangs() -> None:
    """The same flush twice in a row is a disk that hangs; another one, or none, is progress."""
    flights = [None, 1, 2, 2, 2, 3]
    with Manager() as manager:

        async def beats() -> None:
            left = iter(flights)
            done = asyncio.Event()

            def flight() -> int | None:
                number = next(left, "end")
                if number == "end":
                    done.set()
                    return None
                return number  # type: ignore[return-value]

            supervised = Supervised(
                Notifier(manager.environment["NOTIFY_SOCKET"]),
                asyncio.get_running_loop(),
                describe=lambda: "unsealed",
                flight=flight,
                within=0.01,
            )
            supervised.ready()
            await asyncio.wait_for(done.wait(), 10)
            supervised.stopping()
            supervised.close()

        asyncio.run(beats())
        manager.wait(lambda said: "STOPPING" in said)
        beaten = sum("WATCHDOG" in said for said in manager.heard)
    # Of six looks two found the flush of the look before; the one after them, which ends the test, found none.
    assert beaten == len(flights) - 2 + 1
