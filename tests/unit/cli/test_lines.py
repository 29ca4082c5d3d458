"""The command line itself: verbs, help, wrong lines, streams that close, and what starting costs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import click
import pytest
from click.testing import CliRunner

from vaultclient.cli.app import App
from vaultclient.cli.group import ROOT

if TYPE_CHECKING:
    from pathlib import Path

VERBS = [
    *("init", "status", "unseal", "seal", "login", "logout", "check", "explain", "completion"),
    *("put", "get", "secrets", "history", "rollback", "destroy"),
    *("run", "run-open", "run-close", "runs", "lease", "renew", "release", "leases", "revoke"),
]
FAMILIES = {
    "slot": {"add", "list", "passwd", "remove"},
    "tenant": {"create", "list", "show", "delete"},
    "secret": {"set", "delete"},
    "service": {"add", "list", "remove"},
    "grant": {"add", "list", "remove"},
    "rotate": {"root", "tenant", "secret"},
    "audit": {"show", "verify", "export", "checkpoint", "prune", "seal-key"},
}
PATHS = [[one] for one in VERBS] + [[one, two] for one, those in FAMILIES.items() for two in sorted(those)]


def test_every_verb_is_there_and_no_other() -> None:
    """What the contract lists for this version."""
    context = click.Context(ROOT)
    assert set(ROOT.list_commands(context)) == set(VERBS) | set(FAMILIES)
    for name, verbs in FAMILIES.items():
        family = ROOT.get_command(context, name)
        assert isinstance(family, click.Group)
        assert set(family.commands) == verbs


@pytest.mark.parametrize("path", [[], *PATHS, *([one] for one in FAMILIES)], ids=" ".join)
def test_help_is_complete_and_fits(path: list[str]) -> None:
    """Every verb and option has words, in lines of at most 80 columns, and the global options are everywhere."""
    result = CliRunner().invoke(ROOT, [*path, "--help"], obj=App())
    assert result.exit_code == 0
    assert all(len(line) <= 80 for line in result.output.splitlines())
    for option in ("--socket", "--json", "--quiet", "--help"):
        assert option in result.output
    assert not re.search(r"[a-z]\.\.\.$", result.output, re.MULTILINE)  # nothing is cut off
    command: click.Command | None = ROOT
    for name in path:
        assert isinstance(command, click.Group)
        command = command.get_command(click.Context(command), name)
    assert command is not None
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{parameter.name} has no words"


@pytest.mark.parametrize(
    ("line", "words", "hint"),
    [
        (["statsu"], "no such verb: 'statsu'", "did you mean 'vaultctl status'?"),
        (["frobnicate"], "no such verb", "see 'vaultctl --help'"),
        (["tenant", "frob"], "no such command 'frob'", "see 'vaultctl tenant --help'"),
        (["status", "--frob"], "no such option '--frob'", "see 'vaultctl status --help'"),
        (["put", "acme"], "missing argument 'SECRET'", "see 'vaultctl put --help'"),
        (["rollback", "a", "b", "--to", "x"], "invalid value for '--to'", "see 'vaultctl rollback --help'"),
        (["rollback", "a", "b", "--to", "0"], "not a whole number from 1", "see 'vaultctl rollback --help'"),
        (["status", "more"], "1 argument too many for 'status'", "see 'vaultctl status --help'"),
        (["--socket"], "option '--socket' requires an argument", "see 'vaultctl --help'"),
        (["lease", "acme"], "missing argument 'SECRET'", "see 'vaultctl lease --help'"),
        (["lease", "a", "b", "--out", "x"], "invalid value for '--out'", "see 'vaultctl lease --help'"),
        (["lease", "a", "b", "--version", "0"], "invalid value for '--version'", "see 'vaultctl lease --help'"),
        (["lease", "a", "b", "--ttl", "0"], "not a TTL", ""),
    ],
)
def test_a_wrong_line_is_two_and_says_what_helps(ctl: Any, line: list[str], words: str, hint: str) -> None:
    """In the voice of every error; with --json as its object."""
    done = ctl(*line)
    assert (done.status, done.out) == (2, b"")
    assert re.match(r"vaultctl: error: [^A-Z]", done.err)
    assert words in done.err.replace(":", "", 1) or words in done.err
    assert f"hint: {hint}" in done.err
    assert not done.err.splitlines()[0].endswith(".")
    told = json.loads(ctl("--json", *line).err)["error"]
    assert told["code"] == "invalid"


def test_no_verb_shows_the_help(ctl: Any) -> None:
    """On standard error, with 2: nothing was asked for."""
    done = ctl()
    assert (done.status, done.out) == (2, b"")
    assert "Usage: vaultctl" in done.err
    assert ctl("tenant").status == 2


def test_version(ctl: Any) -> None:
    """--version prints one line."""
    assert re.fullmatch(r"vaultctl \d+\.\d+\.\d+\n", ctl("--version").text)


def test_a_reader_that_goes_away_is_no_error(ctl: Any, vault: Any) -> None:
    """`vaultctl ... | head` ends quietly, with the status that SIGPIPE would give."""
    vault.tenants["acme"] = {f"secret-{n}": [b"1"] for n in range(3_000)}
    vault.page = 100
    process = ctl.start("secrets", "acme", "--json")
    assert process.stdout.readline().startswith(b"{")
    process.stdout.close()
    assert process.wait(timeout=20) == 141
    assert process.stderr.read() == b""


def test_closed_and_full_streams_are_told(ctl: Any) -> None:
    """Standard output on a full device is exit 74; a closed standard error changes no exit code."""
    with open("/dev/full", "wb") as full:
        done = ctl.process("status", stdout=full)
    assert done.status == 74
    assert "no space left on device" in done.err
    line = [sys.executable, "-m", "vaultclient.cli", "secrets"]
    closed = subprocess.run(["sh", "-c", '"$@" 2>&-', "sh", *line, "none"], check=False)
    assert closed.returncode == 66
    closed = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *line, "acme"], capture_output=True, check=False)
    assert closed.returncode == 74
    assert closed.stderr.startswith(b"vaultctl: error: standard output is closed\nhint: ")


def test_ctrl_c_ends_with_130(ctl: Any, vault: Any, until: Any) -> None:
    """While it waits for the daemon: no words, no traceback."""
    with vault.lock:
        process = ctl.start("status")
        until("connected", lambda: vault.peers)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 130
    assert process.stderr.read() == b""


def test_lease_loads_no_click(ctl: Any, vault: Any) -> None:
    """The helper that agents call many times pays for the client and msgpack only; its errors too."""
    vault.tenants["acme"]["k"] = [b"1"]
    code = (
        "import sys; from vaultclient import cli\n"
        "status = cli.run(sys.argv[1:])\n"
        "heavy = {'click', 'asyncio', 'rich', 'nacl', 'argon2', 'subprocess', 'ctypes'}\n"
        "print(status, sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    for secret, status in (("k", 0), ("none", 66)):
        line = [sys.executable, "-c", code, "lease", "acme", secret, "--ttl", "1m"]
        done = subprocess.run(line, capture_output=True, text=True, check=True)
        assert done.stderr.splitlines()[-1] == f"{status} []"


def test_the_client_alone_can_run_all_but_the_offline_verbs(ctl: Any, tmp_path: Path) -> None:
    """Where the daemon's libraries are not installed, status works, and init says what is missing."""
    code = (
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        top = name.split('.')[0]\n"
        "        if top in {'nacl', 'argon2', 'cffi'}: raise ModuleNotFoundError(name, name=top)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "from vaultclient import cli; sys.exit(cli.run(sys.argv[1:]))"
    )
    line = [sys.executable, "-c", code]
    assert subprocess.run([*line, "status"], capture_output=True, check=False).returncode == 0
    done = subprocess.run(
        [*line, "init", "--dir", str(tmp_path / "v"), "--passphrase-file", "-"],
        input=b"x", capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 69
    assert b"needs the daemon's libraries" in done.stderr
    assert not (tmp_path / "v").exists()


def test_a_bad_run_token_in_the_environment_is_told_and_not_repeated(ctl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """VAULTD_RUN that is no token: exit 2 without the text itself."""
    monkeypatch.setenv("VAULTD_RUN", "not-a-token-sk-live")
    done = ctl("status")
    assert done.status == 2
    assert "sk-live" not in done.err
    monkeypatch.delenv("VAULTD_RUN")
    monkeypatch.setenv("VAULTD_RUN_FD", "999999")
    assert ctl("status").status == 69


def test_a_socket_path_that_is_too_long_is_told(ctl: Any) -> None:
    """Over 107 bytes the kernel takes none."""
    done = ctl("--socket", "/" + "x" * 107, "status")
    assert done.status == 2
    assert "107" in done.err


def test_the_default_directory_follows_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root's vault is the system's, a user's is in the state directory."""
    from vaultclient.cli.offline import default_directory

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_directory() == "/var/lib/vaultd"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", "/home/u/.state")
    assert default_directory() == "/home/u/.state/vaultd"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/u")
    assert default_directory() == "/home/u/.local/state/vaultd"
