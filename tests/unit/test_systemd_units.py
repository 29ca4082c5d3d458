"""The units in scripts/systemd: what they must not hide from the daemon, and the exposure that they state."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.support import sandbox
from vaultd.daemon.config import defaults

FOLDER = Path(__file__).resolve().parent.parent.parent / "scripts" / "systemd"
UNITS = ["vaultd.service", "vaultd-user.service"]
WORST = {"vaultd.service": 1.0, "vaultd-user.service": 6.3}
"""The exposure, as `systemd-analyze security` measures it, that a change of a unit must stay below."""


def settings(unit: str) -> list[tuple[str, str]]:
    """The unit's settings in order."""
    return sandbox.settings(FOLDER / unit)


@pytest.mark.parametrize("unit", UNITS)
def test_nothing_hides_the_peers_from_the_daemon(unit: str) -> None:
    """User namespaces and a filtered /proc would blind attestation."""
    given = dict(settings(unit))
    assert "PrivateUsers" not in given
    assert given.get("ProtectProc", "default") == "default"
    assert given.get("ProcSubset", "all") == "all"


@pytest.mark.parametrize("unit", UNITS)
def test_no_network_and_no_privilege(unit: str) -> None:
    """Unix sockets alone, no new privileges, no core file, no memory that is written and executed."""
    given = dict(settings(unit))
    assert given["RestrictAddressFamilies"] == "AF_UNIX"
    assert given["NoNewPrivileges"] == given["MemoryDenyWriteExecute"] == "yes"
    assert given["LimitCORE"] == "0"
    if unit == "vaultd.service":
        assert given["PrivateNetwork"] == "yes"
        assert given["CapabilityBoundingSet"] == given["AmbientCapabilities"] == ""


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_the_stated_exposure_is_the_measured_one(unit: str) -> None:
    """What the unit's head says; other versions of systemd weigh a little differently."""
    text = (FOLDER / unit).read_text()
    stated = float(re.search(r"`: (\d\.\d), [A-Z]+", text.replace("\n# ", " "))[1])  # type: ignore[index]
    line = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(FOLDER / unit)]
    measured = subprocess.run(line, capture_output=True, text=True, check=False).stdout
    found = re.search(r"exposure level for \S+: (\d+\.\d)", measured)
    assert found is not None, measured
    assert abs(float(found[1]) - stated) <= 0.3
    assert float(found[1]) <= WORST[unit]


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_each_exposure_that_is_left_has_its_note(unit: str) -> None:
    """What the measurement counts against the unit is named at its head, by the setting or the set of calls."""
    line = ["systemd-analyze", "security", "--offline=true", "--no-pager", "--json=short", str(FOLDER / unit)]
    rows = json.loads(subprocess.run(line, capture_output=True, text=True, check=True).stdout)
    counted = {row["name"] for row in rows if float(row["exposure"] or 0)}
    # The setting, or what of it is let through; of two settings that count as one, either will do.
    named = {re.sub(r"^(SystemCallFilter|RestrictAddressFamilies)=~|[=/].*$", "", name) for name in counted}
    assert named
    notes = (FOLDER / unit).read_text().partition("[Unit]")[0]
    assert [name for name in sorted(named) if name not in notes] == []


@pytest.mark.parametrize("unit", ["vaultd.service", "vaultd.socket", "vaultd-user.service", "vaultd-user.socket"])
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_reads_every_line(unit: str, tmp_path: Path) -> None:
    """Nothing is misspelt, in a wrong section, or unknown to it."""
    for name in (unit, unit.replace(".socket", ".service")):
        text = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", (FOLDER / name).read_text(), flags=re.MULTILINE)
        (tmp_path / name.replace("-user", "")).write_text(text)
    line = ["systemd-analyze", "verify", "--man=no", str(tmp_path / unit.replace("-user", ""))]
    said = subprocess.run(line, capture_output=True, text=True, check=False).stderr
    assert [one for one in said.splitlines() if "vaultd" in one] == []


@pytest.mark.parametrize("unit", UNITS)
def test_the_manager_hears_from_the_daemon(unit: str) -> None:
    """It waits for the daemon to listen, and for its signs of life."""
    given = dict(settings(unit))
    assert (given["Type"], given["NotifyAccess"]) == ("notify", "main")
    assert "WatchdogSec" in given


def test_the_socket_is_the_one_that_the_daemon_takes() -> None:
    """Path, group and mode are those of the service and its configuration; the folder outlives the daemon."""
    given, service = dict(settings("vaultd.socket")), dict(settings("vaultd.service"))
    config = tomllib.loads((FOLDER / "vaultd.toml").read_text())
    assert f"--socket {given['ListenStream']}" in service["ExecStart"]
    assert (given["SocketMode"], given["SocketGroup"]) == ("0660", config["socket_group"])
    assert given["FileDescriptorName"] == "vaultd.socket"
    assert service["RuntimeDirectoryPreserve"] == "yes"


def test_a_users_socket_is_the_one_that_the_users_daemon_takes() -> None:
    """Its path is the daemon's own default, and nobody else may connect."""
    given, service = dict(settings("vaultd-user.socket")), dict(settings("vaultd-user.service"))
    assert service["ExecStart"] == "/opt/vaultd/bin/vaultd"
    environment = {"HOME": "/home/u", "XDG_RUNTIME_DIR": "/run/user/1000"}
    assert given["ListenStream"].replace("%t", "/run/user/1000") == defaults(environment, 1000).socket
    assert (given["SocketMode"], given["DirectoryMode"]) == ("0600", "0700")
    assert given["FileDescriptorName"] == "vaultd.socket"
    assert service["RuntimeDirectoryPreserve"] == "yes"
