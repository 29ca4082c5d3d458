"""`vaultctl run` with real processes: what the command gets, how it ends, and that nothing outlives a revocation."""

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
    from collections.abc import Callable
    from pathlib import Path

    Until = Callable[[str, Callable[[], object]], None]

RUN = ("run", "--tenant", "acme")
SHOW = "import json, os; print(json.dumps(dict(os.environ)))"


@pytest.fixture(autouse=True)
def secrets(vault: Any) -> None:
    """What the commands below are given."""
    vault.tenants["acme"] = {
        "openai/prod": [b"sk-1"],
        "db/main": [b"pw \xff\n"],
        "nul": [b"a\0b"],
        "big": [b"x" * 200_000],
    }


def alive(pid: int) -> bool:
    """Whether a process runs: a zombie does not."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in {b"Z", b"X"}
    except OSError:
        return False


def python(*arguments: str) -> list[str]:
    return ["--", sys.executable, *arguments]


def test_the_environment_is_clean_but_for_what_was_named(ctl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The secret, the socket, the run's descriptor, the list of kept names and --pass; nothing else."""
    for name, value in {"LC_TIME": "C", "TZ": "UTC", "MINE": "1", "OTHER": "2", "TMPDIR": "/tmp"}.items():  # noqa: S108
        monkeypatch.setenv(name, value)
    done = ctl.process(*RUN, "--env", "KEY=openai/prod", "--pass", "MINE", *python("-c", SHOW))
    found = done.rows[0]
    assert (found["KEY"], found["MINE"], found["VAULTD_SOCKET"]) == ("sk-1", "1", str(ctl.socket))
    kept = {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TERM", "TZ", "TMPDIR", "LC_TIME"}
    own = {"KEY", "MINE", "VAULTD_SOCKET", "VAULTD_RUN_FD", "LC_CTYPE"}  # the last is Python's own doing
    assert set(found) <= kept | own
    assert "OTHER" not in found


def test_fd_is_a_sealed_file_with_exactly_the_value(ctl: Any) -> None:
    """--fd names a path that opens, reads back byte for byte, and cannot be written to."""
    code = (
        "import os, sys; p = os.environ['PW']; sys.stdout.buffer.write(open(p, 'rb').read()); sys.stdout.flush()\n"
        "try: os.write(os.open(p, os.O_WRONLY), b'x')\n"
        "except OSError: print('refused', p.rpartition('/')[2] >= '10')"
    )
    done = ctl.process(*RUN, "--fd", "PW=db/main", *python("-c", code))
    assert done.out == b"pw \xff\nrefused True\n"


def test_the_run_belongs_to_the_command_and_works_inside_it(ctl: Any, vault: Any) -> None:
    """The anchor is the command's own pid; a grandchild leases with the token, in the run's session."""
    code = (
        "import os, subprocess, sys; print(os.getpid(), flush=True)\n"
        "subprocess.run([sys.executable, '-m', 'vaultclient.cli', 'lease', 'acme', 'db/main', '--out', 'json'], "
        "pass_fds=[int(os.environ['VAULTD_RUN_FD'])], check=True)"
    )
    done = ctl.process(*RUN, "--env", "KEY=openai/prod", "--allow", "db/*", *python("-c", code))
    assert done.status == 0, done.err
    pid, lease = done.out.splitlines()
    (opened,) = [keys for op, keys in vault.asked if op == "run.open"]
    assert opened["scope"] == ["openai/prod", "db/*"]
    assert "anchor" not in opened  # the peer itself
    assert json.loads(lease)["secret"] == "db/main"
    assert int(pid) > 0
    assert vault.runs == {} or ctl("runs", "--json").rows == []


def test_the_token_does_not_work_outside_the_session(ctl: Any, until: Until) -> None:
    """Whoever copies the token out of the run's session gets nothing with it."""
    code = (
        "import os, time; print(os.pread(int(os.environ['VAULTD_RUN_FD']), 99, 0).decode(), flush=True); time.sleep(60)"
    )
    process = ctl.start(*RUN, "--allow", "db/*", *python("-c", code))
    token = process.stdout.readline().decode().strip()
    stolen = ctl.process("lease", "acme", "db/main", env={**os.environ, "VAULTD_RUN": token})
    assert stolen.status == 77
    process.terminate()
    assert process.wait(timeout=10) == 143


@pytest.mark.parametrize("status", [0, 1, 7, 125, 255])
def test_the_command_s_status_is_the_run_s(ctl: Any, status: int) -> None:
    """Whatever the command ends with."""
    assert ctl.process(*RUN, "--", "sh", "-c", f"exit {status}").status == status


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_command_ended_by_a_signal_is_128_and_the_signal(ctl: Any, number: int) -> None:
    """As a shell reports it; and nothing is said, for it was nothing of ours."""
    done = ctl.process(*RUN, "--", "sh", "-c", f"kill -{int(number)} $$")
    assert (done.status, done.err) == (128 + number, "")


def test_a_command_that_does_not_exist_is_127_and_nothing_was_asked(ctl: Any, vault: Any) -> None:
    """Neither by name nor by path; no run is opened for a typing error."""
    for command in ("no-such-command-here", "/no/such/command"):
        done = ctl.process(*RUN, "--env", "KEY=openai/prod", "--", command)
        assert done.status == 127
        assert "command not found" in done.err
    assert vault.asked == []


def test_a_command_that_cannot_be_executed_is_126(ctl: Any, vault: Any, tmp_path: Path) -> None:
    """A file without the bit, a directory, and a script whose interpreter is missing."""
    plain = tmp_path / "plain"
    plain.write_text("true\n")
    assert ctl.process(*RUN, "--", str(plain)).status == 126
    assert ctl.process(*RUN, "--", str(tmp_path)).status == 126
    assert vault.asked == []
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    done = ctl.process(*RUN, "--env", "KEY=openai/prod", "--", str(script))
    assert done.status == 126
    assert done.err.startswith("vaultctl: error: ")


@pytest.mark.parametrize(
    "line",
    [
        ["--frob"],
        [],
        ["--ttl", "0", "--", "true"],
        ["--ttl", "-5m", "--", "true"],
        ["--env", "KEY", "--", "true"],
        ["--env", "1KEY=a", "--", "true"],
        ["--env", "A=a", "--fd", "A=b", "--", "true"],
        ["--env", "VAULTD_RUN=a", "--", "true"],
        ["--pass", "NOT_SET_ANYWHERE", "--", "true"],
        ["--wait", "soon", "--", "true"],
        [*(word for n in range(65) for word in ("--allow", f"a{n}")), "--", "true"],
    ],
)
def test_a_wrong_line_is_125_and_nothing_was_asked(ctl: Any, vault: Any, line: list[str]) -> None:
    """Every status but 125 to 127 could be the command's; so usage errors are 125 here."""
    done = ctl(*RUN, *line)
    assert done.status == 125
    assert done.err.startswith("vaultctl: error: ")
    assert vault.asked == []


@pytest.mark.parametrize(
    ("name", "text"), [("VAULTD_RUN", "no token"), ("VAULTD_RUN_FD", "99"), ("VAULTD_SOCKET", "/" + "s" * 200)]
)
def test_a_wrong_environment_is_125_and_nothing_was_asked(
    ctl: Any, vault: Any, monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    """A token that is none, and a socket's path that is none: 125 as well, for 2 and 69 could be the command's."""
    monkeypatch.setenv(name, text)
    done = ctl.process(*RUN, "--allow", "openai/*", "--", "true")
    assert done.status == 125
    assert done.err.startswith("vaultctl: error: ")
    assert vault.asked == []


def test_a_refusal_is_125_with_its_code(ctl: Any, vault: Any) -> None:
    """A denied secret, no daemon: 125 before the command starts, and --json has the code."""
    vault.denied_secrets = {"stripe/live"}
    done = ctl.process("--json", *RUN, "--env", "KEY=stripe/live", "--", "touch", "started")
    assert done.status == 125
    assert json.loads(done.err)["error"]["code"] == "denied"
    done = ctl.process("--socket", "/no/such/socket", *RUN, "--", "true")
    assert done.status == 125
    assert "no daemon answers" in done.err


def test_a_refused_lease_ends_the_run_before_the_command_starts(ctl: Any, vault: Any, tmp_path: Path) -> None:
    """The run was opened, one of two leases is refused: the command never runs, and nothing is left."""
    line = ["--env", "A=openai/prod", "--env", "B=no/such", "--", "touch", str(tmp_path / "started")]
    assert ctl.process(*RUN, *line).status == 125
    assert not (tmp_path / "started").exists()
    assert ctl("leases", "--json").rows == []


@pytest.mark.parametrize(("secret", "words"), [("nul", "holds a NUL"), ("big", "too long for a variable")])
def test_a_value_that_no_variable_can_hold_is_refused(ctl: Any, secret: str, words: str) -> None:
    """NUL and over 128 KiB: the hint says --fd, which takes both."""
    done = ctl.process(*RUN, "--env", f"V={secret}", "--", "true")
    assert done.status == 125
    assert words in done.err
    assert f"--fd V={secret}" in done.err
    assert ctl.process(*RUN, "--fd", f"V={secret}", "--", "sh", "-c", 'wc -c < "$V"').status == 0


def test_a_large_value_comes_by_memory_file(ctl: Any) -> None:
    """200,000 bytes through the daemon's descriptor into one of the command's own."""
    assert ctl.process(*RUN, "--fd", "V=big", "--", "sh", "-c", 'wc -c < "$V"').out.strip() == b"200000"


def below(pid: int) -> list[int]:
    """The descendants of a process, by /proc."""
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        children = [int(word) for word in file.read().split()]
    return [one for child in children for one in (child, *below(child))]


def started(ctl: Any, code: str, *options: str) -> tuple[Any, list[int]]:
    """A running command that prints pids on its first line."""
    process = ctl.start(*RUN, "--env", "KEY=openai/prod", *options, "--", "sh", "-c", code)
    return process, [int(word) for word in process.stdout.readline().split()]


def test_revoking_a_lease_ends_the_command(ctl: Any, vault: Any) -> None:
    """TERM to the session, exit 143, and the reason on standard error."""
    process, pids = started(ctl, "sleep 100 & echo $$ $!; wait")
    (lease,) = vault.leases
    vault.revoke(lease)
    assert process.wait(timeout=10) == 143
    assert not any(map(alive, pids))
    assert b"the run was ended: " + lease.encode() + b" was revoked" in process.stderr.read()


def test_a_command_that_ignores_term_is_killed(ctl: Any, vault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the grace comes KILL, also for its children, also for those in a session of their own."""
    code = (
        "import os, signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "other = subprocess.Popen([sys.executable, '-c', 'import signal, time; "
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(100)'], "
        "start_new_session=True, stdout=subprocess.PIPE)\n"
        "other.stdout.readline()\n"
        "print(os.getpid(), other.pid, flush=True); time.sleep(100)"
    )
    process = ctl.start(*RUN, "--env", "KEY=openai/prod", *python("-c", code))
    pids = [int(word) for word in process.stdout.readline().split()]
    (token,) = vault.runs
    vault.end_run(token, "revoked by an admin")
    assert process.wait(timeout=15) == 143
    assert not any(map(alive, pids))
    assert b"revoked by an admin" in process.stderr.read()


def test_a_command_that_forks_and_exits_ends_the_run(ctl: Any, vault: Any, until: Until) -> None:
    """Its status counts at once; the run and its leases are over, what it left behind runs on without them."""
    process, (left,) = started(ctl, "sleep 100 >/dev/null 2>&1 & echo $!; exit 3")
    assert process.wait(timeout=10) == 3
    assert b"1 process that the command started still run" in process.stderr.read()
    until("the run is over", lambda: not vault.runs and not vault.leases)
    assert alive(left)
    os.kill(left, signal.SIGKILL)


def test_a_killed_command_is_reported_and_its_run_over(ctl: Any, vault: Any, until: Until) -> None:
    """kill -9 of the anchor: 137, and no lease is left."""
    process, (pid,) = started(ctl, "echo $$; sleep 100")
    (run,) = vault.runs.values()
    assert run.anchor == pid
    os.kill(pid, signal.SIGKILL)
    assert process.wait(timeout=10) == 137
    until("no lease is left", lambda: not vault.leases)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_signals_reach_the_command(ctl: Any, number: int) -> None:
    """What vaultctl is sent, the command is sent; what it makes of it is its own."""
    code = f"trap 'echo got; exit 9' {int(number)}; echo $$; while :; do sleep 0.05; done"
    process, _ = started(ctl, code)
    process.send_signal(number)
    assert process.wait(timeout=10) == 9
    assert process.stdout.read() == b"got\n"


def test_stopping_the_command_stops_vaultctl_until_it_is_continued(ctl: Any, until: Until) -> None:
    """A shell sees the whole job stop, as with any other command, and continues it."""
    process, (pid,) = started(ctl, "echo $$; sleep 0.3; kill -STOP $$; exit 4")

    def state(of: int) -> bytes:
        with open(f"/proc/{of}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0]

    until("both stopped", lambda: state(pid) == b"T" and state(process.pid) == b"T")
    process.send_signal(signal.SIGCONT)
    assert process.wait(timeout=10) == 4


def test_killing_vaultctl_ends_the_command(ctl: Any, vault: Any, until: Until) -> None:
    """With nobody left to answer for it, the command is ended too; the same when the monitor is killed."""
    for killed in ("front", "monitor"):
        process, (pid,) = started(ctl, "echo $$; sleep 100")
        with open(f"/proc/{pid}/stat", "rb") as file:
            monitor = int(file.read().rpartition(b")")[2].split()[1])
        os.kill(process.pid if killed == "front" else monitor, signal.SIGKILL)
        process.wait(timeout=10)
        until(f"the command is gone, {killed}", lambda pid=pid: not alive(pid))
        until("the run is over", lambda: not vault.runs)


def test_leases_are_renewed_in_half_their_time(ctl: Any, vault: Any) -> None:
    """The monitor renews over a connection of its own, with the token, from the run's session."""
    vault.lease_ttl = 1
    process, _ = started(ctl, "echo $$; sleep 100")
    assert vault.renewed.wait(10)
    assert process.poll() is None
    process.terminate()
    assert process.wait(timeout=10) == 143


def test_a_refused_renewal_ends_the_command(ctl: Any, vault: Any) -> None:
    """Without a push as well: whoever may not renew is over."""
    vault.lease_ttl = 1
    process, _ = started(ctl, "echo $$; sleep 100")
    vault.leases.clear()
    assert process.wait(timeout=10) == 143


def test_a_daemon_that_restarts_is_waited_for(ctl: Any, vault: Any, server: Any, until: Until) -> None:
    """The run goes on; leases that the new daemon does not know are taken anew, in the same version."""
    process, _ = started(ctl, "echo $$; sleep 100")
    server.stop()
    vault.leases.clear()
    vault.tenants["acme"]["openai/prod"].append(b"sk-2")
    server.start()
    until("leased anew", lambda: vault.leases)
    (lease,) = vault.leases.values()
    assert (lease["secret"], lease["version"]) == ("openai/prod", 1)
    assert process.poll() is None
    vault.revoke(lease["lease"])
    assert process.wait(timeout=10) == 143


def test_a_daemon_that_is_away_at_the_start(ctl: Any, vault: Any, server: Any) -> None:
    """Without --wait that is said at once; with it the command starts when the daemon is there and unsealed."""
    server.stop()
    vault.state = "sealed"
    done = ctl.process("--json", *RUN, "--env", "KEY=openai/prod", "--", "true")
    assert (done.status, json.loads(done.err)["error"]["code"]) == (125, "unavailable")
    waiting = ctl.start(*RUN, "--wait", "60s", "--env", "KEY=openai/prod", "--", "echo", "started")
    server.start()
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(0.6)  # sealed is still away
    vault.state = "unsealed"
    assert (waiting.communicate(timeout=20)[0], waiting.returncode) == (b"started\n", 0)
    vault.state = "sealed"
    done = ctl.process("--json", *RUN, "--wait", "1s", "--env", "KEY=openai/prod", "--", "true")
    assert (done.status, json.loads(done.err)["error"]["code"]) == (125, "sealed")


def test_a_signal_ends_the_wait(ctl: Any, server: Any, tmp_path: Path, until: Until) -> None:
    """Whoever has waited enough ends it, and the command never starts."""
    server.stop()
    started = tmp_path / "started"
    waiting = ctl.start(*RUN, "--allow", "*", "--wait", "60s", "--", "touch", str(started))
    until("two processes below", lambda: len(below(waiting.pid)) == 2)
    waiting.send_signal(signal.SIGTERM)  # SIGINT is ignored where a shell started the tests in the background
    assert waiting.wait(timeout=10) == 143
    assert not started.exists()


def test_a_daemon_that_restarts_before_the_first_look_is_another_one(
    ctl: Any, vault: Any, server: Any, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The monitor sleeps from before the command started until the daemon is back: its leases are taken anew."""
    acquire = vault.op_lease_acquire
    monitors: list[int] = []

    def meanwhile(peer: Any, *rest: Any) -> Any:
        if not monitors:
            with open(f"/proc/{peer.pid}/stat", "rb") as file:
                monitors.append(int(file.read().rpartition(b")")[2].split()[1]))
            os.kill(monitors[0], signal.SIGSTOP)
        return acquire(peer, *rest)

    monkeypatch.setattr(vault, "op_lease_acquire", meanwhile)
    process, _ = started(ctl, "echo $$; sleep 100")
    server.stop()
    vault.leases.clear()
    server.start()
    os.kill(monitors[0], signal.SIGCONT)
    until("leased anew", lambda: vault.leases)
    assert process.poll() is None
    process.terminate()
    assert process.wait(timeout=10) == 143


def test_a_run_that_a_restarted_daemon_does_not_know_is_ended(ctl: Any, vault: Any, server: Any) -> None:
    """Runs that are gone give no more rights."""
    process, _ = started(ctl, "echo $$; sleep 100")
    server.stop()
    vault.runs.clear()
    server.start()
    assert process.wait(timeout=10) == 143


def test_sealing_the_vault_ends_the_command(ctl: Any, vault: Any) -> None:
    """seal is for stopping harm."""
    process, _ = started(ctl, "echo $$; sleep 100")
    assert ctl("seal").status == 0
    assert process.wait(timeout=10) == 143


def test_standard_streams_are_the_command_s(ctl: Any) -> None:
    """Input reaches it, both outputs are its own, and vaultctl adds nothing."""
    import subprocess

    process = ctl.start(*RUN, "--", "sh", "-c", "cat; echo err >&2", stdin=subprocess.PIPE)
    out, err = process.communicate(b"in\n", timeout=10)
    assert (out, err, process.returncode) == (b"in\n", b"err\n", 0)


def test_login_with_a_command_keeps_the_ticket_to_vaultctl(ctl: Any, vault: Any, tmp_path: Path) -> None:
    """The ticket is bound to vaultctl itself, which is the command's parent and ends with its status."""
    word = tmp_path / "pass"
    word.write_bytes(b"correct horse battery staple\n")
    word.chmod(0o600)
    process = ctl.start("login", "--passphrase-file", str(word), "--", "sh", "-c", "echo $PPID; exit 5")
    out, _ = process.communicate(timeout=10)
    assert (process.returncode, int(out)) == (5, process.pid)
    assert vault.asked[-1] == ("login", {"kind": "passphrase", "bind": "self"})
    assert ctl.process("login", "--passphrase-file", str(word), "--", "no-such-command").status == 127


def test_a_lease_that_ran_out_while_the_monitor_slept_is_taken_anew(ctl: Any, vault: Any, until: Until) -> None:
    """After a suspend the run is what counts: the same version again, and the command goes on."""
    vault.lease_ttl = 1
    process, (pid,) = started(ctl, "echo $$; sleep 100")
    with open(f"/proc/{pid}/stat", "rb") as file:
        monitor = int(file.read().rpartition(b")")[2].split()[1])
    os.kill(monitor, signal.SIGSTOP)
    vault.leases.clear()
    asleep = time.monotonic()
    until("its time is over", lambda: time.monotonic() > asleep + 1.1)
    os.kill(monitor, signal.SIGCONT)
    until("leased anew", lambda: vault.leases)
    assert process.poll() is None
    process.terminate()
    assert process.wait(timeout=10) == 143
