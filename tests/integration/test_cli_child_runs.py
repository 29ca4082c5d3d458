"""`vaultctl run` under `vaultctl run`: sub-agents as processes, at the real daemon."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.daemon import Daemon

CTL = f"{sys.executable} -m vaultclient.cli"
STAY = "echo $$; exec sleep 100"


@pytest.fixture
def acme(daemon: Daemon) -> Daemon:
    """A tenant with two secrets, and a service of this uid that may lease them."""
    daemon.tenant("acme", openai__prod=b"sk-1", db__main=b"pw")
    daemon.service("agents")
    daemon.grant("acme", "agents", "**", deliver=["fd", "env", "print"])
    return daemon


@pytest.fixture
def start(acme: Daemon) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts `vaultctl run` for acme with a shell as its command, and ends what is left of it."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(script: str, *options: str) -> subprocess.Popen[bytes]:
        command = [
            sys.executable,
            "-m",
            "vaultclient.cli",
            "run",
            "--tenant",
            "acme",
            *options,
            "--",
            "sh",
            "-c",
            script,
        ]
        process = subprocess.Popen(
            command,
            env={**os.environ, "VAULTD_SOCKET": acme.socket},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
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


def runs(daemon: Daemon) -> dict[str, dict[str, Any]]:
    return {run["run"]: run for run in daemon.admin.pages("run.list", {"tenant": "acme"})}


def ended(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    out, err = process.communicate(timeout=30)
    return process.returncode, (out + err).decode()


def test_a_sub_agent_gets_its_part(acme: Daemon, start: Callable[..., Any]) -> None:
    """Within a run, `vaultctl run` needs no tenant: its command has what it names, and nothing else of the parent's."""
    code = (
        "import json, os, sys\n"
        "from vaultclient import Client, VaultError\n"
        "said = {'env': os.environ['KEY'], 'names': sorted(n for n in os.environ if n.startswith('VAULTD'))}\n"
        "own = int(os.environ['VAULTD_RUN_FD'])\n"
        "links = [os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd') if n.isdigit() and\n"
        "         os.path.exists(f'/proc/self/fd/{n}') or n == str(own)]\n"
        "said['tokens'] = sum('vaultd-run' in link for link in links)\n"
        "with Client() as vault:\n"
        "    said['run'] = vault.claim()\n"
        "    for secret in ('openai/prod', 'db/main'):\n"
        "        try: said[secret] = bytes(vault.lease(None, secret).acquire().value).decode()\n"
        "        except VaultError as error: said[secret] = error.code\n"
        "print(json.dumps(said))"
    )
    inner = f'{CTL} run --env KEY=openai/prod -- {sys.executable} -c "$CODE"'
    os.environ["CODE"] = code
    try:
        status, text = ended(start(inner, "--allow", "**", "--pass", "CODE"))
    finally:
        del os.environ["CODE"]
    assert status == 0, text
    said = json.loads(text)
    assert (said["env"], said["openai/prod"], said["db/main"]) == ("sk-1", "sk-1", "denied")
    assert said["run"]["tenant"] == "acme"
    assert said["names"] == ["VAULTD_RUN_FD", "VAULTD_SOCKET"]
    assert said["tokens"] == 1  # the parent's is not for it
    wait_for("no run is left", lambda: not runs(acme))


def test_the_middle_is_killed(acme: Daemon, start: Callable[..., Any]) -> None:
    """kill -9 of the middle command ends its run and the one below on one record; the outer run goes on."""
    innermost = f"{CTL} run --allow openai/prod -- sh -c '{STAY}'"
    middle = f'echo $$; {CTL} run --allow "openai/*" -- sh -c "echo \\$\\$; $INNER; true"; exec sleep 100'
    os.environ["INNER"] = innermost
    try:
        process = start(middle, "--allow", "**", "--pass", "INNER")
        outer_pid, middle_pid, inner_pid = (int(process.stdout.readline()) for _ in range(3))
    finally:
        del os.environ["INNER"]
    found = {run["anchor"]["pid"]: run for run in runs(acme).values()}
    assert found.keys() == {outer_pid, middle_pid, inner_pid}
    outer, mid, inner = found[outer_pid], found[middle_pid], found[inner_pid]
    assert (outer["parent"], mid["parent"], inner["parent"]) == (None, outer["run"], mid["run"])
    os.kill(middle_pid, signal.SIGKILL)
    wait_for("two runs are over", lambda: runs(acme).keys() == {outer["run"]})
    (record,) = [
        json.loads(line)["body"]
        for line in acme.admin.audit_lines("audit.show", {"tenant": "acme", "of_run": mid["run"]})
        if b'"run.ended"' in line
    ]
    assert record["reason"] == "anchor-died"
    assert record["extra"]["runs"] == [inner["run"], mid["run"]]
    wait_for("the innermost command is gone", lambda: not os.path.exists(f"/proc/{inner_pid}"))
    assert process.poll() is None


def test_revoking_a_sub_agent_ends_it_alone(acme: Daemon, start: Callable[..., Any]) -> None:
    """Revoked, a child run's command is ended as any run's, with 143; the command that started it goes on."""
    script = f"{CTL} run --env KEY=openai/prod -- sh -c '{STAY}'; echo over $?; echo $KEY"
    process = start(script, "--env", "KEY=db/main", "--allow", "**")
    assert process.stdout.readline().strip().isdigit()
    (child,) = [run for run in runs(acme).values() if run["parent"] is not None]
    acme.admin.call("lease.revoke", {"of_run": child["run"]})
    status, text = ended(process)
    assert status == 0, text
    assert text.startswith("over 143\npw\n")


def test_within_a_run_only_its_own_tenant(acme: Daemon, start: Callable[..., Any]) -> None:
    """Another tenant, there or not, another service, or more than the run may: 125 before the command starts."""
    acme.tenant("globex", openai__prod=b"rk-1")
    acme.grant("globex", "agents", "**")
    tries = [
        "--tenant globex --env K=openai/prod",
        "--tenant nowhere --env K=openai/prod",
        "--service other --env K=openai/prod",
        "--env K=db/main",
        "--allow '**'",
        "--ttl 31d --env K=openai/prod",
        "--uses 9 --env K=openai/prod",
    ]
    script = "; ".join(f"{CTL} run {line} -- echo started; echo $?" for line in tries)
    status, text = ended(start(script, "--allow", "openai/*", "--uses", "3"))
    assert status == 0
    assert "started" not in text
    assert text.split("\n").count("125") == len(tries)
    assert "Traceback" not in text
    assert len([line for line in text.splitlines() if "not allowed, or not there" in line]) == len(tries)


def test_the_verbs_within_a_run(acme: Daemon, start: Callable[..., Any]) -> None:
    """run-open opens a child run tied to the calling shell; runs shows the tree from there; run-close ends it."""
    script = (
        f"{CTL} run-open --allow openai/prod --ttl 5m --json > $TMPDIR/opened; {CTL} runs --json;"
        f'RUN=$(sed \'s/.*"run": *"\\([^"]*\\)".*/\\1/\' $TMPDIR/opened); {CTL} run-close $RUN >&2; {CTL} runs --json'
    )
    status, text = ended(start(script, "--allow", "openai/*"))
    assert status == 0, text
    rows = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    top, child, last = rows
    assert (child["parent"], top["parent"]) == (top["run"], None)
    assert child["anchor"] == top["anchor"]
    assert child["expires_in"] <= 300
    assert last["run"] == top["run"]


def test_a_tree_of_commands_outlives_the_daemon(acme: Daemon, start: Callable[..., Any]) -> None:
    """Killed and started again, the daemon finds both runs, and both leases are taken anew."""
    process = start(
        f"{CTL} run --env KEY=openai/prod --uses 1 -- sh -c '{STAY}'", "--env", "KEY=db/main", "--allow", "**"
    )
    pid = int(process.stdout.readline())
    before = runs(acme)
    acme.stop(signal.SIGKILL)
    acme.start()
    acme.unseal()
    assert runs(acme).keys() == before.keys()
    wait_for("both leases", lambda: len(list(acme.admin.pages("lease.list", {"tenant": "acme"}))) == 2)
    os.kill(pid, signal.SIGTERM)
    assert process.wait(timeout=20) == 143
    wait_for("no run is left", lambda: not runs(acme))
