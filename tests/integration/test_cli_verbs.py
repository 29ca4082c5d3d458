"""vaultctl and the real daemon: the verbs of an operator's first day, as programs and people call them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.daemon import PASSPHRASE, Daemon

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Ctl = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def ctl(daemon: Daemon) -> Ctl:
    """vaultctl with an admin ticket for this process, which is its parent."""
    assert daemon.ctl("unseal", "--passphrase-file", "-", data=PASSPHRASE + b"\n").returncode == 0
    return daemon.ctl


def rows(done: subprocess.CompletedProcess[bytes]) -> list[Any]:
    """What one `vaultctl --json` printed, an object a line."""
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def error(done: subprocess.CompletedProcess[bytes], status: int) -> dict[str, Any]:
    """The error of one `vaultctl --json`, alone on standard error."""
    assert (done.returncode, done.stdout) == (status, b"")
    found = json.loads(done.stderr)
    assert set(found) == {"error"}
    assert set(found["error"]) == {"code", "message", "hint"}
    assert isinstance(found["error"], dict)
    return found["error"]


def test_a_first_day(daemon: Daemon, ctl: Ctl, tmp_path: Path) -> None:
    """From a tenant to a lease, an explanation, a rotation and the trail: every verb says what it did."""
    assert rows(ctl("--json", "tenant", "create", "acme"))[0]["tenant"] == "acme"
    assert rows(ctl("--json", "put", "acme", "openai/prod", data=b"sk-1"))[0] == {
        "tenant": "acme",
        "secret": "openai/prod",
        "version": 1,
    }
    assert ctl("service", "add", "agents", "--uid", str(os.geteuid())).returncode == 0
    line = "grant add acme --service agents --secret openai/* --deliver print --deliver fd --max-ttl 5m --rate 10/1m"
    grant = rows(ctl("--json", *line.split()))[0]["grant"]
    listed = rows(ctl("--json", "grant", "list", "acme"))[0]
    assert (listed["grant"], listed["secrets"], listed["max_ttl"]) == (grant, ["openai/*"], 300)

    leased = ctl("lease", "acme", "openai/prod", "--ttl", "2m")
    assert (leased.returncode, leased.stdout, leased.stderr) == (0, b"sk-1", b"")
    about = rows(ctl("lease", "acme", "openai/prod", "--out", "json"))[0]
    assert (about["version"], about["delivery"], "value" in about) == (1, "fd", False)
    live = rows(ctl("--json", "leases", "acme"))
    assert [lease["secret"] for lease in live] == ["openai/prod"] * 2
    assert rows(ctl("--json", "renew", about["lease"]))[0]["expires_in"] == 300
    assert ctl("release", about["lease"]).returncode == 0

    allowed = rows(ctl("--json", "explain", "acme", "openai/prod", "--service", "agents"))[0]
    assert (allowed["allowed"], allowed["grant"]) == (True, grant)
    assert rows(ctl("--json", "explain", "acme", "stripe/live", "--service", "agents"))[0]["allowed"] is False

    assert rows(ctl("--json", "rotate", "secret", "acme", "openai/prod", data=b"sk-2"))[0]["version"] == 2
    assert "receipt" in rows(ctl("--json", "rotate", "tenant", "acme"))[0]
    assert "receipt" in rows(ctl("--json", "rotate", "root"))[0]
    assert ctl("get", "acme", "openai/prod").stdout == b"sk-2"
    assert ctl("get", "acme", "openai/prod", "--version", "1").stdout == b"sk-1"
    assert [v["state"] for v in rows(ctl("--json", "history", "acme", "openai/prod"))] == ["previous", "current"]
    assert rows(ctl("--json", "revoke", "--tenant", "acme"))[0]["revoked"] == 1

    trail = rows(ctl("--json", "audit", "show", "acme"))
    assert {"tenant.create", "secret.put", "grant.add", "lease.acquire", "secret.get"} <= {r["kind"] for r in trail}
    assert all(b"sk-" not in json.dumps(record).encode() for record in trail)
    assert ctl("audit", "export", "acme", "--out", str(tmp_path / "export")).returncode == 0
    assert ctl("audit", "checkpoint", "--out", str(tmp_path / "checkpoint")).returncode == 0
    verdict = rows(ctl("--json", "audit", "verify", "--dir", daemon.dir, "--checkpoint", str(tmp_path / "checkpoint")))[
        0
    ]
    assert verdict["verified"] is True
    assert verdict["trails"] == 2


@pytest.mark.parametrize("size", [1, 49_152, 49_153, 1 << 20])
def test_values_of_every_size_come_back_as_they_went(ctl: Ctl, tmp_path: Path, size: int) -> None:
    """1 byte to 1 MiB, NUL and bytes that are no text among them, by pipe and by file."""
    ctl("tenant", "create", "acme")
    value = (bytes(range(255, -1, -1)) * (size // 256 + 1))[:size]
    assert ctl("put", "acme", "k", data=value).returncode == 0
    assert ctl("get", "acme", "k").stdout == value
    assert ctl("get", "acme", "k", "--out", str(tmp_path / "k")).returncode == 0
    assert (tmp_path / "k").read_bytes() == value


def test_errors_have_their_codes(daemon: Daemon, ctl: Ctl) -> None:
    """One of each kind that a first day meets, alone on standard error as JSON, with the exit code of its code."""
    ctl("tenant", "create", "acme")
    ctl("put", "acme", "k", data=b"1")
    for status, code, line in (
        (2, "invalid", ["tenant", "create", "Acme"]),
        (2, "invalid", ["tenant", "create", "../x"]),
        (2, "invalid", ["tenant", "create", "a" * 65]),
        (2, "invalid", ["tenant", "create", "system"]),
        (2, "invalid", ["service", "add", "nothing"]),
        (2, "invalid", ["grant", "add", "acme", "--service", "s", "--secret", "**a"]),
        (66, "not_found", ["secrets", "no-such-tenant"]),
        (66, "not_found", ["get", "acme", "no/such/secret"]),
        (66, "not_found", ["get", "acme", "k", "--version", "9"]),
        (66, "not_found", ["revoke", "lease_xxxxxxxxxxxxxxxxxxxx"]),
        (73, "exists", ["tenant", "create", "acme"]),
        (73, "conflict", ["destroy", "acme", "k", "--version", "1"]),
        (73, "conflict", ["slot", "remove", "1"]),
        (77, "denied", ["lease", "acme", "k"]),
        (77, "wrong_secret", ["login", "--passphrase-file", "-"]),
    ):
        found = error(ctl("--json", *line, data=b"wrong passphrase"), status)
        assert found["code"] == code, line
        assert found["message"] == found["message"].rstrip("."), line
    assert error(ctl("--json", "put", "acme", "k", "--cas", "7", data=b"2"), 73)["code"] == "conflict"


def test_sealed_and_unreachable(daemon: Daemon, ctl: Ctl) -> None:
    """69 while sealed and while nobody listens, each with the command that helps."""
    ctl("tenant", "create", "acme")
    assert rows(ctl("--json", "seal"))[0]["state"] == "sealed"
    assert error(ctl("--json", "secrets", "acme"), 69)["hint"].startswith("vaultctl unseal")
    assert rows(ctl("--json", "status"))[0]["state"] == "sealed"
    daemon.stop()
    assert error(ctl("--json", "status"), 69)["code"] == "unavailable"


def test_a_sealed_tenant_opens_with_unseal_tenant(ctl: Ctl) -> None:
    """The flag is one tenant's; the other serves on."""
    for name in ("acme", "globex"):
        ctl("tenant", "create", name)
    assert ctl("seal", "acme").returncode == 0
    assert error(ctl("--json", "secrets", "acme"), 69)["code"] == "sealed"
    assert rows(ctl("--json", "secrets", "globex")) == []
    assert ctl("unseal", "acme", "--passphrase-file", "-", data=PASSPHRASE).returncode == 0
    assert rows(ctl("--json", "secrets", "acme")) == []


def test_admin_is_a_ticket_of_one_process(daemon: Daemon) -> None:
    """Without a ticket no admin verb; `login -- CMD` lets CMD and nobody else; logout ends it."""
    daemon.admin.call("logout")
    assert daemon.ctl("tenant", "list").returncode == 77
    inside = [sys.executable, "-m", "vaultclient.cli", "tenant", "list"]
    done = daemon.ctl("login", "--passphrase-file", "-", "--", *inside, data=PASSPHRASE)
    assert done.returncode == 0, done.stderr
    assert daemon.ctl("tenant", "list").returncode == 77
    assert daemon.ctl("login", "--passphrase-file", "-", data=PASSPHRASE).returncode == 0
    assert daemon.ctl("tenant", "list").returncode == 0
    assert daemon.ctl("logout").returncode == 0
    assert daemon.ctl("tenant", "list").returncode == 77


def test_slots_open_and_close(daemon: Daemon, ctl: Ctl, tmp_path: Path) -> None:
    """A key file opens the vault beside the passphrase, until its slot is removed."""
    key = tmp_path / "key"
    key.write_bytes(os.urandom(64))
    key.chmod(0o600)
    added = rows(ctl("--json", "slot", "add", "--key-file", str(key), "--label", "backup"))[0]
    listed = rows(ctl("--json", "slot", "list"))
    assert [(slot["kind"], slot["label"]) for slot in listed] == [("passphrase", ""), ("key-file", "backup")]
    assert ctl("seal").returncode == 0
    assert ctl("unseal", "--key-file", str(key)).returncode == 0
    assert ctl("slot", "remove", str(added["slot"])).returncode == 0
    assert ctl("login", "--key-file", str(key)).returncode == 77


def test_deleting_a_tenant_prints_what_is_gone_and_what_is_not(ctl: Ctl) -> None:
    """The receipt has both, and the name is free again."""
    ctl("tenant", "create", "acme")
    receipt = rows(ctl("--json", "tenant", "delete", "acme", "--yes", "acme", "--rotate-root"))[0]["receipt"]
    assert receipt["gone"]
    assert receipt["remains"]
    assert receipt["root_rotated"] is True
    assert ctl("tenant", "create", "acme").returncode == 0


def test_run_open_hands_a_token_on(daemon: Daemon, ctl: Ctl) -> None:
    """A worker in the caller's session leases with VAULTD_RUN; run-close ends it."""
    ctl("tenant", "create", "acme")
    ctl("put", "acme", "k", data=b"1")
    ctl("service", "add", "agents", "--uid", str(os.geteuid()))
    ctl("grant", "add", "acme", "--service", "agents", "--secret", "**", "--deliver", "print")
    opened = rows(ctl("--json", "run-open", "--tenant", "acme", "--allow", "k", "--ttl", "10m"))[0]
    assert [run["run"] for run in rows(ctl("--json", "runs", "acme"))] == [opened["run"]]
    line = [sys.executable, "-m", "vaultclient.cli", "lease", "acme", "k"]
    environment = {**os.environ, "VAULTD_SOCKET": daemon.socket, "VAULTD_RUN": opened["token"]}
    leased = subprocess.run(line, env=environment, capture_output=True, check=False)
    assert (leased.returncode, leased.stdout) == (0, b"1"), leased.stderr
    assert ctl("run-close", opened["run"]).returncode == 0
    assert rows(ctl("--json", "runs", "acme")) == []


def test_check_says_what_it_checked(daemon: Daemon, ctl: Ctl, tmp_path: Path) -> None:
    """While a daemon has the vault it is 69; afterwards the structure, and damage is 65 by the file's name."""
    ctl("tenant", "create", "acme")
    ctl("put", "acme", "k", data=b"1")
    assert error(ctl("--json", "check", "--dir", daemon.dir), 69)["code"] == "locked"
    daemon.stop()
    found = rows(ctl("--json", "check", "--dir", daemon.dir))[0]
    assert (found["ok"], found["seals"], found["problems"]) == (True, False, [])
    with open(os.path.join(daemon.dir, "keyring"), "r+b") as file:
        file.write(b"\0")
    done = ctl("check", "--dir", daemon.dir)
    assert done.returncode == 65
    assert b"vaultctl: error: keyring" in done.stderr


def test_init_makes_a_vault_that_the_daemon_opens(tmp_path: Path, daemon: Daemon) -> None:
    """At the cost that people get; a second init leaves it alone."""
    place = str(tmp_path / "new" / "vault")
    os.mkdir(tmp_path / "new")
    made = rows(daemon.ctl("--json", "init", "--dir", place, "--passphrase-file", "-", data=b"a passphrase\n"))[0]
    assert len(made["vault"]) == 32
    assert len(made["checkpoint_key"]) == 64
    assert os.stat(place).st_mode & 0o777 == 0o700
    again = daemon.ctl("--json", "init", "--dir", place, "--passphrase-file", "-", data=b"other")
    assert error(again, 73)["code"] == "exists"
    checked = rows(daemon.ctl("--json", "check", "--dir", place, "--passphrase-file", "-", data=b"a passphrase"))[0]
    assert (checked["ok"], checked["seals"]) == (True, True)
    verified = rows(daemon.ctl("--json", "audit", "verify", "--dir", place))[0]
    assert verified["lines"] == 2


def test_verify_names_the_first_bad_line(daemon: Daemon, ctl: Ctl) -> None:
    """Exit 65, the line in the message and as a number; and a checkpoint finds a cut that the chain cannot."""
    for name in ("acme", "globex", "initech"):
        ctl("tenant", "create", name)
    checkpoint = os.path.join(daemon.folder, "checkpoint")
    assert ctl("audit", "checkpoint", "--out", checkpoint).returncode == 0
    daemon.stop()
    journal = os.path.join(daemon.dir, "audit", "000001.jsonl")
    with open(journal, "rb") as file:
        whole = file.read().splitlines(keepends=True)
    with open(journal, "wb") as file:
        file.writelines(whole[:-4])
    assert ctl("audit", "verify", "--dir", daemon.dir).returncode == 0
    cut = ctl("audit", "verify", "--dir", daemon.dir, "--checkpoint", checkpoint)
    assert cut.returncode == 65
    assert b"the journal ends after line" in cut.stderr
    with open(journal, "wb") as file:
        file.writelines([*whole[:2], whole[2].replace(b'"time":"2', b'"time":"1'), *whole[3:]])
    done = ctl("--json", "audit", "verify", "--dir", daemon.dir)
    assert done.returncode == 65
    assert json.loads(done.stdout)["line"] == 3
    assert "line 3" in json.loads(done.stderr)["error"]["message"]
