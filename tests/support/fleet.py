"""Agents of many tenants at work while their daemon restarts: what each met is counted.

A fleet is 50 runs of 20 tenants: commands under `vaultctl run` that got their key by variable, by file, or lease it
with the library; and an orchestrator that holds runs for its own tasks and hands others to workers, which claim them.

    python tests/support/fleet.py agent SECRET EXPECTED REPORT      leases again and again until TERM
    python tests/support/fleet.py orchestrator REPORT TENANT...     holds two runs at each tenant until TERM
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from vaultclient import AsyncClient, Client
from vaultclient.errors import VaultError

if TYPE_CHECKING:
    from tests.support.daemon import Daemon

__all__ = ["RUNS", "TENANTS", "Fleet", "Outcome"]

TENANTS = 20
RUNS = 50
_ME = os.path.abspath(__file__)
_PATIENCE = 60.0
_PAUSE = 0.1
_STAY = 'sleep 600 & trap "kill $!; exit 0" TERM; touch "$2"; wait'
_SCRIPT = {
    "env": f'[ "$KEY" = "$1" ] || exit 9; {_STAY}',
    "fd": f'[ "$(cat "$KEY")" = "$1" ] || exit 9; {_STAY}',
}


class Tally:
    """What one agent met: its calls, the longest, and what failed."""

    def __init__(self) -> None:
        self.calls = 0
        self.longest = 0.0
        self.failed: list[str] = []

    def done(self, began: float, problem: str = "") -> None:
        self.calls += 1
        self.longest = max(self.longest, time.monotonic() - began)
        if problem:
            self.failed.append(problem)

    def save(self, path: str) -> None:
        with open(f"{path}.new", "w", encoding="utf-8") as file:
            json.dump({"calls": self.calls, "longest": self.longest, "failed": self.failed}, file)
        os.rename(f"{path}.new", path)


def _agent(secret: str, expected: str, report: str) -> None:
    tally, going = Tally(), True

    def stop(_number: int, _frame: object) -> None:
        nonlocal going
        going = False

    signal.signal(signal.SIGTERM, stop)
    with Client(retry_for=_PATIENCE) as vault:
        held = vault.lease(None, secret, ttl=60, on_revoked=lambda _lease, why: tally.failed.append(why))
        with held:
            while going:
                began = time.monotonic()
                try:
                    lease = vault.lease(None, secret, ttl=30).acquire()
                    tally.done(began, "" if bytes(lease.value) == expected.encode() else "another's value")
                    lease.release()
                except VaultError as error:
                    tally.done(began, f"{error.code}: {error.message}")
                tally.save(report)
                time.sleep(_PAUSE)
    tally.save(report)


async def _task(vault: AsyncClient, tenant: str, tally: Tally) -> None:
    async with vault.run(tenant, scope=["**"]) as run, run.lease("key", ttl=60) as held:
        while True:
            began = time.monotonic()
            try:
                lease = await run.lease("key", ttl=30).acquire()
                fine = bytes(lease.value) == bytes(held.value) == f"key of {tenant}".encode()
                tally.done(began, "" if fine else "another's value")
                await lease.release()
            except VaultError as error:
                tally.done(began, f"{error.code}: {error.message}")
            await asyncio.sleep(_PAUSE)


async def _orchestrate(report: str, tenants: list[str]) -> None:
    tally, stopping = Tally(), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    workers = []
    async with AsyncClient(retry_for=_PATIENCE) as vault:
        tasks = [asyncio.create_task(_task(vault, tenant, tally)) for tenant in tenants]
        for number, tenant in enumerate(tenants):
            run = await vault.run(tenant, scope=["**"]).open()
            environment = {**os.environ, **run.environment()}
            command = [sys.executable, _ME, "agent", "key", f"key of {tenant}", f"{report}.{number}"]
            workers.append(await asyncio.create_subprocess_exec(*command, env=environment))
        while not stopping.is_set():
            tally.save(report)
            await asyncio.sleep(_PAUSE)
        for worker in workers:
            worker.terminate()
        statuses = [await worker.wait() for worker in workers]
        tally.failed += [f"a worker ended with {status}" for status in statuses if status]
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                tally.failed.append(f"a task ended: {result}")
    tally.save(report)


class Outcome(NamedTuple):
    """What a restart, or a whole life, looked like from the agents' side. Times in seconds."""

    ended: int
    calls: int
    failed: list[str]
    longest: float


class Fleet:
    """See the module.

    Args:
        daemon: fresh, unsealed; the tenants are made here.
    """

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._reports = os.path.join(daemon.folder, "reports")
        os.mkdir(self._reports)
        self.tenants = [f"tenant-{number:02}" for number in range(TENANTS)]
        daemon.service("agent")
        for tenant in self.tenants:
            daemon.tenant(tenant, key=f"key of {tenant}".encode())
            daemon.grant(tenant, "agent", "**")
        self.processes: list[subprocess.Popen[bytes]] = []
        for number in range(30):
            self._command(("env", "fd", "library")[number % 3], self.tenants[number % TENANTS], number)
        self._start(sys.executable, _ME, "orchestrator", self._path("o"), *self.tenants[:10])
        self._expected = [self._path(str(number)) for number in range(30)]
        self._expected += [self._path("o"), *(self._path(f"o.{number}") for number in range(10))]
        _wait("the fleet to be at work", lambda: all(os.path.exists(path) for path in self._expected))

    def _path(self, name: str) -> str:
        return os.path.join(self._reports, name)

    def _start(self, *command: str) -> None:
        environment = {**os.environ, "VAULTD_SOCKET": self._daemon.socket}
        self.processes.append(subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL))

    def _command(self, kind: str, tenant: str, number: int) -> None:
        value, report = f"key of {tenant}", self._path(str(number))
        if kind == "library":
            options, command = ["--allow", "key"], [sys.executable, _ME, "agent", "key", value, report]
        else:
            options, command = [f"--{kind}", "KEY=key"], ["sh", "-c", _SCRIPT[kind], kind, value, report]
        self._start(sys.executable, "-m", "vaultclient.cli", "run", "--tenant", tenant, *options, "--", *command)

    def runs(self) -> set[str]:
        """The live runs, as the daemon lists them."""
        return {run["run"] for run in self._daemon.admin.pages("run.list")}

    def restart(self, number: int) -> float:
        """Restart the daemon; returns the seconds from the signal until the vault is unsealed again."""
        began = time.monotonic()
        self._daemon.stop(number)
        self._daemon.start()
        self._daemon.unseal()
        return time.monotonic() - began

    def wait(self) -> None:
        """Until everybody has come back: each who leases has leased since now, and each command's lease is there."""
        before = {path: self._calls(path) for path in self._expected}
        leasing = [path for path, calls in before.items() if calls is not None]
        _wait("every agent to lease again", lambda: all((self._calls(p) or 0) > (before[p] or 0) + 1 for p in leasing))

        def leased() -> bool:
            return len({lease["run"] for lease in self._daemon.admin.pages("lease.list")}) == RUNS

        _wait("every run to hold its leases", leased)

    @staticmethod
    def _calls(path: str) -> int | None:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        return int(json.loads(text)["calls"]) if text else None

    def end(self) -> Outcome:
        """End every agent in order, and sum up what they met."""
        ended = sum(process.poll() is not None for process in self.processes)
        for process in self.processes:
            process.terminate()
        statuses = [process.wait(timeout=60) for process in self.processes]
        failed = [f"an agent ended with {status}" for status in statuses if status]
        calls, longest = 0, 0.0
        for path in self._expected:
            with open(path, encoding="utf-8") as file:
                text = file.read()
            if text:
                report: dict[str, Any] = json.loads(text)
                calls += report["calls"]
                longest = max(longest, report["longest"])
                failed += report["failed"]
        return Outcome(ended, calls, failed, longest)

    def kill(self) -> None:
        """End whoever is left."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()


def _wait(what: str, condition: Any) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.02)


if __name__ == "__main__":
    if sys.argv[1] == "agent":
        _agent(*sys.argv[2:])
    else:
        asyncio.run(_orchestrate(sys.argv[2], sys.argv[3:]))
