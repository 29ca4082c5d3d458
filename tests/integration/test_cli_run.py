"""`vaultctl run` and the real daemon: the kernel's view of the command decides, and revocation reaches it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.serving import Child
from vaultclient import cli
from vaultclient.cli import run_command, run_front  # noqa: F401 - another uid may not be able to read them later

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.daemon import Daemon

STAY = "echo $$; exec sleep 100"


@pytest.fixture
def acme(daemon: Daemon) -> Daemon:
    """A tenant with two secrets, and a service of this uid that may lease them."""
    daemon.tenant("acme", openai__prod=b"sk-1", db__main=b"pw")
    daemon.tenant("globex", stripe__live=b"rk-1")
    daemon.service("agents")
    daemon.grant("acme", "agents", "**", deliver=["fd", "env", "print"])
    return daemon


@pytest.fixture
def start(acme: Daemon) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts `vaultctl run` for acme, and ends what is left of it."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "VAULTD_SOCKET": acme.socket}
        command = [sys.executable, "-m", "vaultclient.cli", "run", "--tenant", "acme", *arguments]
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **options,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=30)


def wait_for(what: str, condition: Callable[[], object]) -> None:
    """Until something holds that other processes bring about."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, f"{what}: not in time"
        time.sleep(0.01)


def leases(daemon: Daemon) -> list[dict[str, Any]]:
    return list(daemon.admin.pages("lease.list", {"tenant": "acme"}))


def running(start: Callable[..., subprocess.Popen[bytes]], *options: str) -> tuple[subprocess.Popen[bytes], int]:
    """A command that stays, and its pid."""
    process = start("--env", "KEY=openai/prod", *options, "--", "sh", "-c", STAY)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def test_a_command_gets_its_secret_and_its_run(acme: Daemon, start: Callable[..., Any]) -> None:
    """By variable and by memory file; inside, vaultctl and the library lease within the scope and no further."""
    code = (
        "import json, os, subprocess, sys\n"
        "from vaultclient import Client, VaultError\n"
        "said = {'env': os.environ['KEY'], 'fd': open(os.environ['PW']).read()}\n"
        "with Client() as vault:\n"
        "    with vault.lease('acme', 'openai/prod') as lease: said['library'] = bytes(lease.value).decode()\n"
        "    for tenant, secret in (('acme', 'other'), ('globex', 'stripe/live'), ('nobody', 'stripe/live')):\n"
        "        try: vault.lease(tenant, secret).acquire()\n"
        "        except VaultError as error: said[f'{tenant} {secret}'] = [error.code, error.message, error.hint]\n"
        "fd = int(os.environ['VAULTD_RUN_FD'])\n"
        "line = [sys.executable, '-m', 'vaultclient.cli', 'lease', 'acme', 'openai/prod']\n"
        "said['vaultctl'] = subprocess.run(line, pass_fds=[fd], capture_output=True, check=True).stdout.decode()\n"
        "print(json.dumps(said))"
    )
    process = start("--env", "KEY=openai/prod", "--fd", "PW=db/main", "--", sys.executable, "-c", code)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    said = json.loads(out)
    assert (said["env"], said["fd"], said["library"], said["vaultctl"]) == ("sk-1", "pw", "sk-1", "sk-1")
    assert said["acme other"] == said["globex stripe/live"] == said["nobody stripe/live"]
    assert said["acme other"][0] == "denied"
    wait_for("no lease is left", lambda: not leases(acme))


def test_the_anchor_is_the_command(acme: Daemon, start: Callable[..., Any]) -> None:
    """The run's process is the command's, not vaultctl's; kill -9 ends the run, its lease, and vaultctl with 137."""
    process, pid = running(start)
    (run,) = acme.admin.pages("run.list", {"tenant": "acme"})
    assert run["anchor"]["pid"] == pid != process.pid
    assert [lease["delivery"] for lease in leases(acme)] == ["env"]
    os.kill(pid, signal.SIGKILL)
    assert process.wait(timeout=20) == 137
    wait_for("no lease is left", lambda: not leases(acme))


@pytest.mark.parametrize("by", ["lease", "run", "secret", "tenant", "seal", "seal tenant", "delete"])
def test_taking_back_ends_the_command(acme: Daemon, start: Callable[..., Any], by: str) -> None:
    """However it is taken back: exit 143, the reason on standard error, and nothing of the command left."""
    process, pid = running(start)
    (lease,) = leases(acme)
    ask = acme.admin.call
    if by == "lease":
        ask("lease.revoke", {"lease": lease["lease"]})
    elif by == "run":
        ask("lease.revoke", {"of_run": lease["run"]})
    elif by == "secret":
        ask("lease.revoke", {"tenant": "acme", "secret": "openai/prod"})
    elif by == "tenant":
        ask("lease.revoke", {"tenant": "acme"})
    elif by == "seal":
        ask("seal")
    elif by == "seal tenant":
        ask("seal", {"tenant": "acme"})
    else:
        ask("secret.delete", {"tenant": "acme", "secret": "openai/prod"})
    assert process.wait(timeout=20) == 143
    assert b"vaultctl: error: the run was ended: " in process.stderr.read()
    assert not os.path.exists(f"/proc/{pid}")


def test_leases_are_renewed_beyond_their_time(acme: Daemon, start: Callable[..., Any]) -> None:
    """A grant of two seconds between renewals holds a command that runs for longer."""
    acme.tenant("initech", key=b"1")
    acme.grant("initech", "agents", "**", max_ttl=2)
    process = start("--tenant", "initech", "--env", "KEY=key", "--", "sh", "-c", "sleep 3.5; echo done")
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (0, b"done\n"), err


def test_a_grant_taken_back_ends_the_command_at_the_next_renewal(acme: Daemon, start: Callable[..., Any]) -> None:
    """Rights are checked again at every renewal."""
    acme.tenant("initech", key=b"1")
    grant = acme.grant("initech", "agents", "**", max_ttl=2)
    process = start("--tenant", "initech", "--env", "KEY=key", "--", "sh", "-c", "echo ready; sleep 60")
    assert process.stdout.readline() == b"ready\n"
    acme.admin.call("grant.remove", {"tenant": "initech", "grant": grant})
    assert process.wait(timeout=20) == 143


def test_a_run_that_is_over_ends_the_command(acme: Daemon, start: Callable[..., Any]) -> None:
    """--ttl is the hard end."""
    process, _ = running(start, "--ttl", "2s")
    assert process.wait(timeout=20) == 143


def test_the_run_s_token_is_worth_nothing_elsewhere(acme: Daemon, start: Callable[..., Any]) -> None:
    """Read out of the command's own descriptor and used by a process of the same uid, outside the session."""
    process, pid = running(start)

    def variables() -> dict[bytes, bytes]:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return dict(entry.split(b"=", 1) for entry in file.read().split(b"\0") if b"=" in entry)

    wait_for("the shell has become sleep", lambda: b"VAULTD_RUN_FD" in variables())  # in between there is none
    number = int(variables()[b"VAULTD_RUN_FD"])
    with open(f"/proc/{pid}/fd/{number}", "rb") as file:
        token = file.read().decode()
    stolen = subprocess.run(
        [sys.executable, "-m", "vaultclient.cli", "lease", "acme", "openai/prod"],
        env={**os.environ, "VAULTD_SOCKET": acme.socket, "VAULTD_RUN": token},
        capture_output=True,
        check=False,
    )
    assert (stolen.returncode, stolen.stdout) == (77, b"")
    process.terminate()
    assert process.wait(timeout=20) == 143


def test_no_admin_inside_a_run(acme: Daemon, start: Callable[..., Any]) -> None:
    """A command cannot become admin, even with the passphrase."""
    code = f"echo 'correct horse battery staple' | {sys.executable} -m vaultclient.cli login --passphrase-file -"
    process = start("--allow", "**", "--", "sh", "-c", code)
    process.communicate(timeout=20)
    assert process.returncode == 77


def test_a_refused_run_starts_nothing(acme: Daemon, start: Callable[..., Any], tmp_path: Any) -> None:
    """125, the code for programs, and the command never ran."""
    for line in (["--env", "K=not/there"], ["--tenant", "globex", "--env", "K=stripe/live"]):
        process = start("--json", *line, "--", "touch", str(tmp_path / "started"))
        _, err = process.communicate(timeout=20)
        assert process.returncode == 125
        assert json.loads(err)["error"]["code"] == "denied"
    assert not (tmp_path / "started").exists()
    assert not leases(acme)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_command_outlives_the_daemon(acme: Daemon, start: Callable[..., Any], number: int) -> None:
    """The command goes on while the daemon is away and sealed; then its lease is taken anew, and can be taken back."""
    process, pid = running(start)
    before = leases(acme)
    acme.stop(number)
    acme.start()
    acme.unseal()
    wait_for("the lease taken anew", lambda: leases(acme))
    (lease,) = leases(acme)
    assert lease["lease"] != before[0]["lease"]
    assert lease["run"] == before[0]["run"]
    assert [run["anchor"]["pid"] for run in acme.admin.pages("run.list")] == [pid]
    assert process.poll() is None
    acme.admin.call("lease.revoke", {"of_run": lease["run"]})
    assert process.wait(timeout=20) == 143


def test_a_restart_costs_a_command_no_use(acme: Daemon, start: Callable[..., Any]) -> None:
    """A grant that lets a run acquire once lets its command go on over restarts: what it held is taken anew."""
    acme.tenant("initech", key=b"of initech")
    acme.grant("initech", "agents", "**", max_uses=1)
    process = start("--tenant", "initech", "--env", "K=key", "--", "sh", "-c", STAY)
    process.stdout.readline()
    for _ in range(2):
        acme.stop(signal.SIGKILL)
        acme.start()
        acme.unseal()
        wait_for("the lease taken anew", lambda: list(acme.admin.pages("lease.list", {"tenant": "initech"})))
    assert process.poll() is None
    records = [json.loads(line)["body"] for line in acme.admin.audit_lines("audit.show", {"tenant": "initech"})]
    assert [body["extra"].get("anew", False) for body in records if body["kind"] == "lease.acquire"] == [0, 1, 1]


def test_a_daemon_that_comes_back_without_the_run_ends_the_command(acme: Daemon, start: Callable[..., Any]) -> None:
    """A run whose time is up while the daemon is away is ended and recorded when that is unsealed, and its command."""
    process, _ = running(start, "--ttl", "2s")
    acme.stop()
    time.sleep(2)  # the run's own time, on the kernel's clock
    acme.start()
    assert process.poll() is None
    acme.unseal()
    assert process.wait(timeout=20) == 143
    ends = [json.loads(line)["body"] for line in acme.admin.audit_lines("audit.show", {"tenant": "acme"})]
    assert [body["reason"] for body in ends if body["kind"] == "run.ended"] == ["expired"]


@pytest.mark.needs_root
def test_another_uid_runs_as_its_own_service(acme: Daemon) -> None:
    """Under the service's uid it works; under a third one it is denied, as if nothing were there."""
    acme.tenant("initech", key=b"of initech")
    acme.service("others", uid=12_345)
    acme.grant("initech", "others", "**")
    os.chmod(acme.socket, 0o666)  # noqa: S103 - the group that production has, for uids that have none here
    code = "echo $K $(id -u)"
    line = ["--socket", acme.socket, "run", "--tenant", "initech", "--env", "K=key", "--", "sh", "-c", code]
    out = os.path.join(acme.folder, "out")
    for uid, status, said in ((12_345, 0, b"of initech 12345\n"), (12_346, 125, b"")):
        with open(out, "wb") as file:
            os.fchmod(file.fileno(), 0o666)
        child = Child(lambda: (os.dup2(os.open(out, os.O_WRONLY), 1), cli.run(line))[1], uid=uid)
        assert child.result() == status
        with open(out, "rb") as file:
            assert file.read() == said


def test_a_command_that_ends_by_itself_keeps_its_status(start: Callable[..., Any]) -> None:
    """Whoever hears of the end first, the daemon or vaultctl, the status is the command's own."""
    for _ in range(3):
        several = [start("--env", "K=openai/prod", "--", "sh", "-c", "exit 3") for _ in range(8)]
        assert [process.wait(timeout=30) for process in several] == [3] * 8
