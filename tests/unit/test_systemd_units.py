"""The units in scripts/systemd: what they must not hide from the daemon, and the exposure that they state."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent.parent / "scripts" / "systemd"
UNITS = ["vaultd.service", "vaultd-user.service"]
WORST = {"vaultd.service": 1.0, "vaultd-user.service": 6.3}
"""The exposure, as `systemd-analyze security` measures it, that a change of a unit must stay below."""


def settings(unit: str) -> list[tuple[str, str]]:
    """The unit's settings in order."""
    lines = (FOLDER / unit).read_text().splitlines()
    return [
        (name, value)
        for name, equals, value in (line.partition("=") for line in lines if line[:1] not in "#[")
        if equals
    ]


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
