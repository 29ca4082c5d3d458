"""The real daemon inside its units' seccomp filters: it makes no call that they refuse, and they do refuse."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.test_audit_daemon import ADMIN
from tests.support import sandbox
from tests.support.daemon import Daemon
from tests.support.peers import Peer
from tests.support.tenants import ACME, AGENT, World

if TYPE_CHECKING:
    from collections.abc import Iterator


def _there() -> bool:
    try:
        ctypes.CDLL(sandbox.LIBRARY)
    except OSError:
        return False
    return shutil.which("systemd-analyze") is not None


HERE = _there()
pytestmark = pytest.mark.skipif(not HERE, reason="needs systemd-analyze and libseccomp")

UNITS = [
    Path(__file__).resolve().parents[2] / "scripts" / "systemd" / f"{name}.service"
    for name in ("vaultd", "vaultd-user")
]
PROGRAM = os.path.abspath(sandbox.__file__)


def inside(unit: Path, *command: str) -> list[str]:
    """The command, put into the unit's filter."""
    return [sys.executable, PROGRAM, str(unit), "--", *command]


class Mine(Daemon):
    """One user's daemon: no socket group, and the only agents are this uid's."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.tenant("acme", openai__prod=ACME)
        self.service("acme-agent")
        self.grant("acme", "acme-agent", "openai/*")


SYSTEM = pytest.param((World, UNITS[0], AGENT), id="system", marks=[pytest.mark.needs_root] if HERE else [])


@pytest.fixture(params=[SYSTEM, pytest.param((Mine, UNITS[1], None), id="user")])
def confined(request: pytest.FixtureRequest) -> Iterator[tuple[Daemon, int | None]]:
    """A daemon in its unit's filter, and the uid of its agents."""
    kind, unit, uid = request.param
    with kind(prefix=lambda folder: inside(unit)) as world:
        yield world, uid


def test_the_daemon_makes_no_call_that_its_unit_refuses(confined: tuple[Daemon, int | None]) -> None:
    """Every operation, agents that die, values by descriptor and in pieces, a reload, a stranger's file, a restart."""
    world, uid = confined

    def warned(word: str) -> bool:
        return any(word in line for line in world.admin.call("status").keys["warnings"])

    with Peer(world.socket) as admin, Peer(world.socket, uid=uid) as agent:
        for op, keys, tail in ADMIN:
            assert admin.call(op, keys, tail).code == "", op
        opened = agent.call("run.open", {"tenant": "acme", "scope": ["openai/*"]}).header
        assert agent.call("lease.acquire", {"secret": "openai/prod"}, run=opened["token"]).code == ""
        with Peer(world.socket, uid=uid) as other:
            other.call("run.open", {"tenant": "acme", "scope": ["openai/*"]})
        world.admin.put("acme", "openai/large", bytes(1 << 20))
        with world.admin.get("acme", "openai/large") as answer:
            assert answer.fd is not None
            assert os.fstat(answer.fd).st_size == 1 << 20
        sign, config = Path(world.dir, "sign"), Path(world.config)
        sign.write_text("")
        until(lambda: warned("sign"))
        sign.unlink()
        before = config.read_text()
        config.write_text(before + "unknown = 1\n")
        world.process.send_signal(signal.SIGHUP)
        until(lambda: warned("unknown"))
        config.write_text(before)
        assert world.stop() == 0, world.log.decode()
        world.start()
        world.admin.close()
        world.admin = world.client()
        world.unseal()
        assert [run["run"] for run in world.admin.pages("run.list")] == [opened["run"]]
    assert bytes(world.admin.get("acme", "openai/prod").tail) == ACME
    world.admin.call("seal")
    assert world.stop() == 0, world.log.decode()


def until(condition: Any) -> None:
    """Wait for what the daemon does by itself."""
    end = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
@pytest.mark.parametrize(
    "code",
    [
        "os.chroot('/')",
        "os.setuid(4201)",
        "socket.socket(socket.AF_INET)",
        "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
        "mmap.mmap(-1, 4096, prot=7)",
        "ctypes.CDLL(None).unshare(0x10000000)",
        "ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0)",
        "ctypes.CDLL(None).mount(b'', b'/mnt', b'tmpfs', 0, 0)",
        "ctypes.CDLL(None).swapoff(b'/none')",
        "ctypes.CDLL(None).process_vm_readv(os.getppid(), 0, 0, 0, 0, 0)",
    ],
)
def test_what_a_unit_refuses_ends_there(unit: Path, code: str) -> None:
    """Calls that would make, trace or reach anything outside; so the test above would have seen one."""
    line = inside(unit, sys.executable, "-c", f"import ctypes, mmap, os, socket; {code}")
    assert subprocess.run(line, capture_output=True, check=False).returncode == -signal.SIGSYS
