"""An orchestrator: 50 concurrent workers for 20 tenants, while tenants come and go. Did any see another's key?

    python scripts/examples/orchestrator.py [--processes] [--seconds 60]

Starts a throw-away vault and daemon. Each worker has a run of its own; it leases its tenant's key again and again, and
now and then asks for another tenant's, which must be refused. Workers are tasks of one event loop over one connection,
or with --processes a process each, which claims the run that it is handed. Meanwhile tenants are made, used and
deleted. Prints what each tenant's workers saw; ends with 1 if any saw another's key, failed, or saw nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from vaultclient import AsyncClient, VaultError

if TYPE_CHECKING:
    from collections.abc import Sequence

BIN = Path(sys.executable).parent
SECRET = "openai/prod"
PAUSE = 0.05
"""Seconds between a worker's calls: an agent does something with the key."""


@dataclasses.dataclass
class Seen:
    """What one worker saw."""

    tenant: str
    own: int = 0
    others: list[str] = dataclasses.field(default_factory=list)
    """Whose keys came that were not the tenant's; any is a failure of vaultd."""
    refused: int = 0
    failed: list[str] = dataclasses.field(default_factory=list)


def new_key(tenant: str) -> bytes:
    """A key that says whose it is."""
    return f"sk.{tenant}.{secrets.token_urlsafe(24)}".encode()


def note_key(seen: Seen, value: memoryview) -> None:
    """Look whose key came."""
    owner = bytes(value).split(b".")[1].decode()
    if owner == seen.tenant:
        seen.own += 1
    else:
        seen.others.append(owner)


async def work(vault: AsyncClient, token: bytes | None, seen: Seen, foreign: Sequence[str], seconds: float) -> Seen:
    """One worker's life in a run: its own key again and again, and now and then somebody else's.

    Args:
        vault: the connection.
        token: the run's, where many share the connection; None where the process has one of its own.
        seen: what to write down.
        foreign: names of other tenants, of which some come and go.
        seconds: how long.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            async with vault.lease(None, SECRET, ttl=60, purpose="chat", run=token) as lease:
                note_key(seen, lease.value)
        except VaultError as error:
            seen.failed.append(f"{error.code}: {error}")
        if foreign and random.random() < 0.2:
            try:
                async with vault.lease(random.choice(foreign), SECRET, run=token) as lease:
                    note_key(seen, lease.value)
            except VaultError as error:
                if error.code in {"denied", "throttled"}:
                    seen.refused += 1
                else:
                    seen.failed.append(f"{error.code}: {error}")
        await asyncio.sleep(PAUSE)
    return seen


# -- workers of either kind


async def as_task(vault: AsyncClient, tenant: str, foreign: Sequence[str], seconds: float) -> Seen:
    """A worker as a task: its run is told apart by its token, on a connection that all share."""
    async with vault.run(tenant, scope=["openai/*"], purpose="chat", service="agents") as run:
        return await work(vault, run.token, Seen(tenant), foreign, seconds)


async def as_process(vault: AsyncClient, tenant: str, foreign: Sequence[str], seconds: float) -> Seen:
    """A worker as a process, which claims the run with the token in its environment, and reports on its output."""
    async with vault.run(tenant, scope=["openai/*"], purpose="chat", service="agents") as run:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            __file__,
            "--worker",
            tenant,
            "--seconds",
            str(seconds),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=run.environment(),
        )
        try:
            out, _ = await process.communicate(json.dumps(list(foreign)).encode())
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            return Seen(tenant, failed=[f"a worker ended with {process.returncode}"])
        return Seen(**json.loads(out))


async def be_worker(tenant: str, seconds: float) -> None:
    """In a worker's own process."""
    foreign = json.loads(sys.stdin.read())
    async with AsyncClient() as vault:
        seen = await work(vault, None, Seen(tenant), foreign, seconds)
    print(json.dumps(dataclasses.asdict(seen)))


# -- tenants


async def add_tenant(vault: AsyncClient, tenant: str) -> None:
    """A tenant with a key, and what the agents may do for it."""
    await vault.call("tenant.create", {"tenant": tenant})
    await vault.put(tenant, SECRET, new_key(tenant))
    grant = {"tenant": tenant, "service": "agents", "secrets": ["openai/*"], "purposes": ["chat"]}
    await vault.call("grant.add", grant)


async def come_and_go(vault: AsyncClient, names: Sequence[str], seen: Seen, done: asyncio.Event) -> int:
    """Make, use and delete one tenant after the other until told to stop; returns how many there were."""
    count = 0
    while not done.is_set():
        tenant = names[count % len(names)]  # a name that was deleted comes again, as another tenant
        guest = Seen(tenant)
        try:
            await add_tenant(vault, tenant)
            async with vault.run(tenant, scope=["openai/*"], purpose="chat", service="agents") as run:
                async with run.lease(SECRET, purpose="chat") as lease:
                    note_key(guest, lease.value)
                await vault.call("tenant.delete", {"tenant": tenant, "confirm": tenant})
                try:
                    async with run.lease(SECRET, purpose="chat") as lease:
                        guest.failed.append(f"{tenant} is deleted, and its key came")
                except VaultError:
                    guest.refused += 1
        except VaultError as error:
            guest.failed.append(f"{tenant}: {error.code}: {error}")
        seen.own += guest.own
        seen.refused += guest.refused
        seen.others += guest.others
        seen.failed += guest.failed
        count += 1
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PAUSE):
                await done.wait()
    return count


# -- the whole


def judged(every: Sequence[Seen], guests: Seen, *, each: bool = False) -> int:
    """Print the table, a line for each tenant or each worker; returns the exit status."""
    rows = [["tenant", "worker" if each else "workers", "own key", "another's", "refused", "failed"]]
    tenants = sorted({seen.tenant for seen in every})
    crews = [[seen for seen in every if seen.tenant == tenant] for tenant in tenants]
    for number, mine in enumerate([[seen] for crew in crews for seen in crew] if each else crews, 1):
        tenant = mine[0].tenant
        counts = [
            number if each else len(mine),
            sum(s.own for s in mine),
            sum(len(s.others) for s in mine),
            sum(s.refused for s in mine),
            sum(len(s.failed) for s in mine),
        ]
        rows.append([tenant, *(f"{count:,}" for count in counts)])
    numbers = (guests.own, len(guests.others), guests.refused, len(guests.failed))
    rows.append([guests.tenant, "-", *(f"{n:,}" for n in numbers)])
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    for row in rows:
        print(row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)))
    everybody = [*every, guests]
    mixed = [f"a worker of {seen.tenant} saw a key of {other}" for seen in everybody for other in seen.others]
    failed = [f"a worker of {seen.tenant} failed: {text}" for seen in everybody for text in seen.failed]
    idle = [f"a worker of {seen.tenant} saw nothing" for seen in everybody if not seen.own]
    for text in (*mixed[:5], *failed[:5], *idle[:5]):
        print(f"orchestrator: {text}", file=sys.stderr)
    if mixed or failed or idle:
        return 1
    print("\nNo worker saw another tenant's key.")
    return 0


async def orchestrate(socket: Path, passphrase: bytes, options: argparse.Namespace) -> int:
    """Make the tenants, let the workers work, and judge."""
    tenants = [f"tenant-{n:02}" for n in range(1, options.tenants + 1)]
    comers = [f"guest-{n}" for n in range(1, 6)]
    # Two connections: with a ticket of its own for what only an admin may; and for the agents' runs.
    async with AsyncClient(socket) as admin, AsyncClient(socket) as vault:
        await admin.call("unseal", {"kind": "passphrase", "bind": "self"}, passphrase)
        await admin.call("service.add", {"service": "agents", "uid": os.geteuid()})
        await asyncio.gather(*(add_tenant(admin, tenant) for tenant in tenants))
        print(
            f"{options.workers} workers as {'processes' if options.processes else 'tasks'} for {len(tenants)} tenants,"
        )
        print(f"{options.seconds:g} s, while tenants come and go.\n", flush=True)
        done, guests = asyncio.Event(), Seen("(come and go)")
        coming = asyncio.create_task(come_and_go(admin, comers, guests, done))
        kind = as_process if options.processes else as_task
        try:
            every = await asyncio.gather(
                *(
                    kind(vault, tenant, [name for name in (*tenants, *comers) if name != tenant], options.seconds)
                    for tenant in (tenants[n % len(tenants)] for n in range(options.workers))
                )
            )
        finally:
            done.set()
            count = await coming
        print(f"{count} tenants were made and deleted meanwhile.\n")
        return judged(every, guests, each=options.each)


def with_daemon(options: argparse.Namespace) -> int:
    """A throw-away vault and its daemon, around it all."""
    folder = Path(tempfile.mkdtemp(prefix="vaultd-orchestrator-"))
    daemon = None
    try:
        (folder / "run").mkdir(0o755)
        secret, socket = folder / "passphrase", folder / "run" / "vaultd.sock"
        secret.touch(0o600)
        secret.write_text(secrets.token_urlsafe(24))
        vault = folder / "vault"
        subprocess.run(
            [BIN / "vaultctl", "--quiet", "init", "--dir", vault, "--passphrase-file", secret],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        daemon = subprocess.Popen([BIN / "vaultd", "--dir", vault, "--socket", socket], stderr=subprocess.PIPE)
        first = daemon.stderr.readline().decode() if daemon.stderr else ""
        if not first.startswith("listening on "):
            print(f"orchestrator: vaultd did not start: {first.strip()}", file=sys.stderr)
            return 1
        return asyncio.run(orchestrate(socket, secret.read_bytes(), options))
    finally:
        if daemon is not None:
            daemon.terminate()
            try:
                daemon.wait(timeout=15)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
            if daemon.stderr is not None:
                daemon.stderr.close()
        shutil.rmtree(folder, ignore_errors=True)


def between(least: float, most: float, kind: type) -> object:
    """An argument's type: a number within bounds."""

    def number(text: str) -> float:
        value: float = kind(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"not from {least:g} to {most:g}")
        return value

    return number


def main() -> NoReturn:
    parser = argparse.ArgumentParser(
        prog="orchestrator.py", description="Workers of many tenants at once; see the top."
    )
    parser.add_argument("--processes", action="store_true", help="a process for each worker, not a task")
    seconds = between(1, 600, float)
    parser.add_argument("--seconds", type=seconds, default=60.0, help="how long each works (1 to 600; 60)")
    parser.add_argument("--workers", type=between(1, 200, int), default=50, help="how many (1 to 200; 50)")
    parser.add_argument("--tenants", type=between(2, 100, int), default=20, help="for how many tenants (2 to 100; 20)")
    parser.add_argument("--each", action="store_true", help="a line for each worker, not for each tenant's together")
    parser.add_argument("--worker", metavar="TENANT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        asyncio.run(be_worker(options.worker, options.seconds))
        sys.exit(0)
    for name in ("VAULTD_RUN", "VAULTD_RUN_FD"):
        os.environ.pop(name, None)  # the orchestrator is in no run
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(with_daemon(options))
    except KeyboardInterrupt:
        sys.exit(130)
    except (OSError, VaultError, subprocess.SubprocessError) as error:
        sys.exit(f"orchestrator: {error}")


if __name__ == "__main__":
    main()
