"""The system's unit starts what it says, as systemd would: under its own uid, with hardly an environment."""

from __future__ import annotations

import encodings.ascii  # noqa: F401 - another uid may not be able to read it later
import os
import shlex
import shutil
import signal
import stat
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.serving import Child
from vaultclient import Client, VaultError
from vaultd.daemon.main import main

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.needs_root

FOLDER = Path(__file__).resolve().parents[2] / "scripts" / "systemd"
DAEMON, MEMBER, STRANGER = 4301, 4302, 4303


@pytest.fixture
def folder() -> Iterator[str]:
    """Stands for the root of the file system, with the directories that the unit asks for."""
    path = tempfile.mkdtemp(prefix="vaultd-unit-")
    os.chmod(path, 0o755)  # noqa: S103 - processes of other uids come here
    for name, mode in (("var/lib/vaultd", 0o700), ("run/vaultd", 0o755), ("etc/vaultd", 0o755)):
        os.makedirs(os.path.join(path, name))
        os.chmod(os.path.join(path, name), mode)
        os.chown(os.path.join(path, name), DAEMON, DAEMON)
    yield path
    shutil.rmtree(path)


def command(folder: str) -> list[str]:
    """The arguments of the unit's ExecStart, below `folder`."""
    (line,) = [line for line in (FOLDER / "vaultd.service").read_text().splitlines() if line.startswith("ExecStart=")]
    program, *arguments = shlex.split(line.partition("=")[2])
    assert program == "/opt/vaultd/bin/vaultd"
    return [folder + word if word.startswith("/") else word for word in arguments]


def serve(arguments: list[str], log: str) -> int:
    """What runs under the daemon's uid: no HOME of a person, no runtime directory of a login."""
    os.environ.clear()
    os.environ.update(PATH="/usr/bin:/bin", HOME="/nonexistent", USER="vaultd")
    os.umask(0o077)
    sys.stderr = open(log, "w", buffering=1, encoding="utf-8")  # noqa: SIM115 - until the process ends
    return main(arguments)


def state(socket: str) -> str:
    """What the daemon answers to whoever this is."""
    try:
        with Client(socket, environ={}) as vault:
            return str(vault.status()["state"])
    except VaultError as error:
        return error.code + (": add the user to its group" if "usermod" in error.hint else "")


def test_the_unit_serves_the_members_of_its_group(folder: str) -> None:
    """The daemon starts with the paths and configuration that are shipped; its group may connect, others may not."""
    config = (FOLDER / "vaultd.toml").read_text()
    assert '"vaultd"' in config
    target = Path(folder, "etc/vaultd/vaultd.toml")
    target.write_text(config.replace('"vaultd"', str(DAEMON)))
    target.chmod(0o644)
    arguments = command(folder)
    socket = folder + "/run/vaultd/vaultd.sock"
    log = folder + "/var/lib/vaultd/log"
    daemon = Child(lambda: serve(arguments, log), uid=DAEMON)
    try:
        end = time.monotonic() + 15
        while not os.path.exists(socket) or stat.S_IMODE(os.stat(socket).st_mode) != 0o660:
            assert time.monotonic() < end, Path(log).read_text()
            time.sleep(0.01)
        assert os.stat(socket).st_gid == DAEMON
        assert Child(lambda: state(socket), uid=MEMBER, groups=(DAEMON,)).result() == "uninitialised"
        assert Child(lambda: state(socket), uid=STRANGER).result() == "unavailable: add the user to its group"
    finally:
        os.kill(daemon.pid, signal.SIGTERM)
    assert daemon.result() == 0
