"""Every verb against a vault behind a real socket: what it asks, what it prints, how it ends."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

PASSPHRASE = b"correct horse battery staple"


def test_status_tells_state_and_caller(ctl: Any) -> None:
    """status prints the state for people, and the whole reply as one object with --json."""
    people = ctl("status")
    assert people.status == 0
    assert "unsealed" in people.text
    assert "used: peergroups, pidfd" in people.text
    (found,) = ctl("status", "--json").rows
    assert found["state"] == "unsealed"
    assert found["kernel"]["pidfd"] == "used"


@pytest.mark.parametrize(
    "line", [["--json", "tenant", "list"], ["tenant", "--json", "list"], ["tenant", "list", "--json"]]
)
def test_global_options_count_before_and_after_the_verb(ctl: Any, line: list[str]) -> None:
    """--json means the same wherever it stands."""
    assert [row["tenant"] for row in ctl(*line).rows] == ["acme", "globex"]


def test_the_socket_option_wins_over_the_environment(ctl: Any, tmp_path: Path) -> None:
    """--socket names the daemon's socket, before or after the verb."""
    missing = str(tmp_path / "none")
    for line in (["--socket", missing, "status"], ["status", "--socket", missing]):
        done = ctl(*line)
        assert done.status == 69
        assert missing in done.err


def test_put_stores_standard_input_byte_for_byte(ctl: Any, vault: Any) -> None:
    """What is piped in is stored as it is, a newline and bytes that are no text included; a hint says so."""
    done = ctl("put", "acme", "openai/prod", data=b"\x00\xff key\n")
    assert done.status == 0
    assert vault.tenants["acme"]["openai/prod"] == [b"\x00\xff key\n"]
    assert "version 1 is current" in done.text
    assert "ends with a newline" in done.err
    assert "key" not in done.text


def test_strip_newline_leaves_one_line_ending_out(ctl: Any, vault: Any) -> None:
    """--strip-newline takes exactly one trailing LF or CRLF away."""
    for sent in (b"key\n", b"key\r\n", b"key", b"key\n\n"):
        ctl("put", "acme", "k", "--strip-newline", data=sent)
    assert vault.tenants["acme"]["k"] == [b"key", b"key", b"key", b"key\n"]


def test_put_takes_a_file(ctl: Any, vault: Any, tmp_path: Path) -> None:
    """--file F reads F, and says nothing of it when all is well."""
    (tmp_path / "key").write_bytes(b"from a file")
    done = ctl("--json", "put", "acme", "k", "--file", str(tmp_path / "key"))
    assert done.rows == [{"tenant": "acme", "secret": "k", "version": 1}]
    assert done.err == ""
    assert vault.tenants["acme"]["k"] == [b"from a file"]


@pytest.mark.parametrize("size", [49_152, 49_153, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_long_values_go_and_come_whole(ctl: Any, vault: Any, size: int) -> None:
    """A value over one frame goes up in pieces and comes down beside the reply."""
    value = bytes(range(256)) * (size // 256) + bytes(size % 256)
    assert ctl("put", "acme", "big", data=value).status == 0
    assert vault.tenants["acme"]["big"] == [value]
    assert ctl("get", "acme", "big").out == value


def test_an_empty_value_is_refused(ctl: Any, vault: Any) -> None:
    """Nothing on standard input is no value."""
    done = ctl("put", "acme", "k", data=b"")
    assert done.status == 2
    assert vault.asked == []


def test_a_value_on_the_command_line_is_refused_and_not_repeated(ctl: Any, vault: Any) -> None:
    """put and rotate secret take no value from argv, and do not print the one that was there."""
    for line in (["put", "acme", "k", "sk-live-123"], ["rotate", "secret", "acme", "k", "sk-live-123"]):
        done = ctl(*line)
        assert done.status == 2
        assert "sk-live" not in done.err + done.text
        assert "never taken from the command line" in done.err
    assert vault.asked == []


def test_put_passes_metadata_and_compare_and_set(ctl: Any, vault: Any) -> None:
    """--cas, --description and --rotate-after reach the daemon; a lost race is exit 73."""
    line = ["put", "acme", "k", "--cas", "0", "--description", "chat", "--rotate-after", "60d"]
    assert ctl(*line, data=b"1").status == 0
    asked = vault.asked[-1][1]
    assert (asked["cas"], asked["description"], asked["rotate_after"]) == (0, "chat", 60 * 86_400)
    again = ctl(*line, data=b"2")
    assert again.status == 73
    assert again.err.startswith("vaultctl: error: version 1 is current\nhint: look at the history\n")


def test_get_writes_bytes_to_a_pipe_and_an_object_with_json(ctl: Any) -> None:
    """Without --json the value alone, nothing added; with it, text or base64, and which."""
    ctl("put", "acme", "k", data=b"value")
    ctl("put", "acme", "raw", data=b"\xff\x00")
    assert ctl("get", "acme", "k").out == b"value"
    assert ctl("get", "--json", "acme", "k").rows[0]["value"] == "value"
    raw = ctl("get", "--json", "acme", "raw").rows[0]
    assert (raw["encoding"], raw["value"]) == ("base64", "/wA=")


def test_get_out_makes_a_private_file_and_leaves_none_on_failure(ctl: Any, tmp_path: Path) -> None:
    """--out FILE is 0600 and whole; a refused get leaves neither the file nor another."""
    ctl("put", "acme", "k", data=b"value")
    target = tmp_path / "out" / "key"
    target.parent.mkdir()
    assert ctl("get", "acme", "k", "--out", str(target)).status == 0
    assert target.read_bytes() == b"value"
    assert target.stat().st_mode & 0o7777 == 0o600
    missing = target.with_name("missing")
    assert ctl("get", "acme", "none", "--out", str(missing)).status == 66
    assert [path.name for path in target.parent.iterdir()] == ["key"]


def test_history_rollback_destroy(ctl: Any, vault: Any) -> None:
    """Versions are listed across pages, rolled back to, and destroyed; the current one is refused."""
    for value in (b"1", b"2", b"3"):
        ctl("put", "acme", "k", data=value)
    assert [row["state"] for row in ctl("history", "acme", "k", "--json").rows] == ["retired", "previous", "current"]
    assert ctl("rollback", "acme", "k", "--to", "1", "--json").rows[0]["version"] == 4
    assert vault.tenants["acme"]["k"][-1] == b"1"
    assert ctl("destroy", "acme", "k", "--version", "2").status == 0
    assert ctl("destroy", "acme", "k", "--version", "4").status == 73


def test_secret_set_and_delete(ctl: Any, vault: Any) -> None:
    """Metadata is set (never: 0 seconds), nothing to set is refused, delete removes."""
    ctl("put", "acme", "k", data=b"1")
    assert ctl("secret", "set", "acme", "k").status == 2
    assert ctl("secret", "set", "acme", "k", "--rotate-after", "never", "--description", "").status == 0
    assert vault.asked[-1][1] == {"tenant": "acme", "secret": "k", "rotate_after": 0, "description": ""}
    assert ctl("secret", "delete", "acme", "k").status == 0
    assert vault.tenants["acme"] == {}


def test_slots(ctl: Any, vault: Any, tmp_path: Path) -> None:
    """A slot is added from a key file with its label, listed and removed; the last one stays."""
    (tmp_path / "key").write_bytes(bytes(32))
    (tmp_path / "key").chmod(0o600)
    line = ["slot", "add", "--key-file", str(tmp_path / "key"), "--label", "ops"]
    assert ctl(*line, "--json").rows == [{"slot": 2, "kind": "key-file", "label": "ops"}]
    assert [row["slot"] for row in ctl("slot", "list", "--json").rows] == [1, 2]
    assert ctl("slot", "remove", "1").status == 0
    assert ctl("slot", "remove", "2").status == 73
    assert list(vault.slots) == [2]


def test_a_slot_gets_another_passphrase(ctl: Any, vault: Any, tmp_path: Path) -> None:
    """Both secrets go in one tail with the length of the first; two of them from standard input are refused."""
    new = tmp_path / "new"
    new.write_bytes(b"another one\n")
    new.chmod(0o600)
    line = ["slot", "passwd", "1", "--passphrase-file", "-", "--new-passphrase-file"]
    done = ctl(*line, str(new), data=PASSPHRASE)
    assert done.status == 0, done.err
    assert "rotate root" in done.err
    assert vault.passwd == b"another one"
    assert vault.asked[-1][1] == {"slot": 1, "kind": "passphrase", "old": len(PASSPHRASE)}
    before = len(vault.asked)
    assert ctl(*line, "-", data=PASSPHRASE).status == 2
    assert ctl(*line, str(tmp_path / "absent"), data=PASSPHRASE).status == 74
    assert len(vault.asked) == before
    assert ctl(*line, str(new), data=b"wrong").status == 77


def test_removing_a_slot_offers_a_new_root(ctl: Any, vault: Any, tmp_path: Path) -> None:
    """Without --rotate-root the next step says it, with it the daemon is asked for both at once."""
    key = tmp_path / "credential"
    key.write_bytes(bytes(32))
    key.chmod(0o600)
    for _ in range(2):
        assert ctl("slot", "add", "--credential-file", str(key), "--json").rows[0]["kind"] == "credential"
    assert "vaultctl rotate root" in ctl("slot", "remove", "2").err
    done = ctl("slot", "remove", "3", "--rotate-root")
    assert vault.asked[-1][1] == {"slot": 3, "rotate_root": True}
    assert "rotate root" not in done.err


def test_tenants(ctl: Any) -> None:
    """Create, refuse a second one of the name, show, list."""
    assert ctl("tenant", "create", "initech").status == 0
    assert ctl("tenant", "create", "initech").status == 73
    assert ctl("tenant", "show", "initech", "--json").rows[0]["audit"]["records"] == 7
    assert "audit records" in ctl("tenant", "show", "initech").text
    assert len(ctl("tenant", "list", "--json").rows) == 3
    assert ctl("tenant", "show", "none").status == 66


def test_tenant_delete_wants_the_name_twice(ctl: Any, vault: Any) -> None:
    """Without --yes NAME nothing is asked; with it a receipt is printed."""
    for line in ([], ["--yes", "globex"]):
        assert ctl("tenant", "delete", "acme", *line).status == 2
    assert vault.asked == []
    done = ctl("tenant", "delete", "acme", "--yes", "acme", "--with-audit", "--rotate-root", "--json")
    assert done.rows[0]["receipt"]["audit"] == "kept"
    assert vault.asked[-1][1] == {"tenant": "acme", "confirm": "acme", "with_audit": True, "rotate_root": True}


def test_services_and_grants(ctl: Any, vault: Any) -> None:
    """Selectors and every bound of a grant reach the daemon in its own units; lists show them."""
    assert ctl("service", "add", "agents").status == 2
    assert ctl("service", "add", "agents", "--uid", "root", "--gid", "0", "--unit", "/system.slice/a/").status == 0
    assert vault.asked[-1][1] == {"service": "agents", "uid": 0, "gid": 0, "unit": "/system.slice/a/"}
    assert ctl("service", "add", "x", "--uid", "no-such-user").status == 2
    line = "grant add acme --service agents --secret openai/* --secret db/** --can lease --can rotate --purpose chat"
    bounds = "--deliver env --max-ttl 5m --max-uses 9 --rate 10/1m --hours 22:00-06:00 --tz Europe/Berlin --expires @99"
    (made,) = ctl(*line.split(), *bounds.split(), "--json").rows
    assert made["grant"].startswith("grant_")
    assert vault.asked[-1][1] == {
        "tenant": "acme",
        "service": "agents",
        "secrets": ["openai/*", "db/**"],
        "can": ["lease", "rotate"],
        "purposes": ["chat"],
        "deliver": ["env"],
        "max_ttl": 300,
        "max_uses": 9,
        "rate": [10, 60],
        "hours": "22:00-06:00",
        "tz": "Europe/Berlin",
        "expires": 99.0,
    }
    assert "ttl 5m" in " ".join(ctl("grant", "list", "acme").text.split())
    assert ctl("grant", "remove", "acme", made["grant"]).status == 0
    assert ctl("grant", "remove", "acme", made["grant"]).status == 66
    assert ctl("service", "list", "--json").rows[0]["service"] == "agents"
    assert ctl("service", "remove", "agents").status == 0


def test_explain_ends_well_either_way(ctl: Any, vault: Any) -> None:
    """A no is an answer too: exit 0, with the reason."""
    vault.denied_secrets = {"stripe/live"}
    (no,) = ctl("explain", "acme", "stripe/live", "--service", "agents", "--json").rows
    assert (no["allowed"], no["reason"]) == (False, "no grant of this service covers it")
    done = ctl("explain", "acme", "k", "--service", "agents", "--purpose", "chat", "--at", "2026-01-01")
    assert done.status == 0
    assert done.text.startswith("allowed  yes")
    assert vault.asked[-1][1]["at"] == 1_767_225_600.0


def test_unseal_seal_login_logout(ctl: Any, vault: Any, tmp_path: Path) -> None:
    """The slot's secret goes as it is but for one newline; a wrong one is exit 77; sealing shows as 69."""
    word = tmp_path / "pass"
    word.write_bytes(PASSPHRASE + b"\n")
    word.chmod(0o600)
    assert ctl("seal").status == 0
    refused = ctl("secrets", "acme")
    assert (refused.status, "hint: vaultctl unseal" in refused.err) == (69, True)
    assert ctl("unseal", "--passphrase-file", "-", data=b"wrong").status == 77
    (found,) = ctl("unseal", "--passphrase-file", str(word), "--json").rows
    assert (found["state"], found["expires_in"]) == ("unsealed", 900)
    assert ctl("login", "--ttl", "5m", "--passphrase-file", str(word), "--json").rows[0]["expires_in"] == 300
    assert ctl("logout").status == 0
    assert ctl("seal", "acme", "--json").rows == [{"state": "sealed", "tenant": "acme"}]


def test_a_passphrase_file_that_others_can_read_is_warned_about(ctl: Any, tmp_path: Path) -> None:
    """It works all the same, and standard error says what to do."""
    word = tmp_path / "pass"
    word.write_bytes(PASSPHRASE)
    word.chmod(0o644)
    done = ctl("login", "--passphrase-file", str(word))
    assert done.status == 0
    assert "warning" in done.err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["--passphrase-file", "-", "--key-file", "-"], "exclude each other"),
        (["--key-file", "-"], "under 32 bytes"),
        (["--credential-file", "-"], "under 32 bytes"),
        (["--credential-file", "-", "--key-file", "-"], "exclude each other"),
        (["--credential", "../x"], "not a credential's name"),
        (["--credential", "x"], "given no credentials"),
        (["--passphrase-file", "/no/such/file"], "no such file"),
    ],
)
def test_unusable_slot_secrets_are_refused_before_anything_is_asked(
    ctl: Any, vault: Any, line: list[str], words: str
) -> None:
    """Both kinds at once, a short key file, a missing file."""
    done = ctl("unseal", *line, data=b"x" * 31)
    assert done.status in {2, 74}
    assert words in done.err
    assert vault.asked == []


def test_a_lease_outside_a_run_opens_one_for_the_caller(ctl: Any, vault: Any) -> None:
    """The implicit run is anchored to vaultctl's parent; the value comes alone."""
    import os

    ctl("put", "acme", "openai/prod", data=b"sk-1")
    done = ctl.process("lease", "acme", "openai/prod", "--ttl", "1m", "--purpose", "chat", "--service", "agents")
    assert (done.status, done.out, done.err) == (0, b"sk-1", "")
    (asked,) = [keys for op, keys in vault.asked if op == "lease.acquire"]
    assert asked == {
        "tenant": "acme",
        "secret": "openai/prod",
        "delivery": "print",
        "ttl": 60,
        "purpose": "chat",
        "service": "agents",
        "anchor": "parent",
    }
    assert [run.anchor for run in vault.runs.values()] == [os.getpid()]


def test_lease_out_json_has_no_value_and_is_not_printed_delivery(ctl: Any, vault: Any) -> None:
    """--out json (and --json alone) tells of the lease; --json --out value adds the value."""
    ctl("put", "acme", "k", data=b"sk-1")
    for line in (["--out", "json"], ["--json"]):
        done = ctl.process("lease", "acme", "k", *line)
        (lease,) = done.rows
        assert lease["lease"].startswith("lease_")
        assert b"sk-1" not in done.out
        assert vault.asked[-1][1]["delivery"] == "fd"
    assert ctl.process("lease", "acme", "k", "--json", "--out", "value").rows[0]["value"] == "sk-1"
    assert vault.asked[-1][1]["delivery"] == "print"


def test_both_ways_of_lease_do_the_same(ctl: Any, vault: Any) -> None:
    """The short way (no click) and the long one ask the same, for the same words."""
    ctl("put", "acme", "k", data=b"sk-1")
    asked = []
    options = ["--version", "1", "--ttl", "2m", "--purpose", "chat", "--service", "a"]
    for line in (["lease", "acme", "k", *options], ["lease", *options, "--", "acme", "k"]):
        assert ctl.process(*line).out == b"sk-1"
        asked.append(vault.asked[-1])
    assert asked[0] == asked[1]


def test_leases_renew_release_revoke(ctl: Any, vault: Any) -> None:
    """Leases are listed, renewed, released, and revoked by each of the four names."""
    ctl("put", "acme", "a/b", data=b"1")
    for _ in range(3):
        ctl.process("lease", "acme", "a/b", "--out", "json")
    first, second, third = [row["lease"] for row in ctl("leases", "acme", "--json").rows]
    assert ctl("renew", first, "--ttl", "2m", "--json").rows == [{"lease": first, "expires_in": 120}]
    assert ctl("release", first).status == 0
    assert ctl("release", first).status == 77
    assert ctl("revoke", second, "--json").rows == [{"revoked": 1}]
    assert ctl("revoke", "--secret", "acme/a/b", "--json").rows == [{"revoked": 1}]
    assert third not in ctl("leases").text
    assert ctl("revoke", "--tenant", "acme", "--json").rows == [{"revoked": 0}]
    assert ctl("revoke", "--run", "run_x").status == 0


@pytest.mark.parametrize("line", [[], ["lease_1", "--tenant", "acme"], ["--secret", "acme"], ["--secret", "/x"]])
def test_revoke_wants_exactly_one_target(ctl: Any, vault: Any, line: list[str]) -> None:
    """None, two, or half a secret's name: exit 2, and nothing is asked."""
    assert ctl("revoke", *line).status == 2
    assert vault.asked == []


def test_run_open_prints_the_token_once_and_run_close_ends_it(ctl: Any, vault: Any) -> None:
    """The token has the form that VAULTD_RUN takes; the anchor is the caller unless one is named."""
    import os

    line = ["run-open", "--tenant", "acme", "--allow", "a/*", "--ttl", "10m", "--uid", "0", "--json"]
    (opened,) = ctl.process(*line).rows
    assert len(opened["token"]) == 43
    keys = vault.asked[-1][1]
    assert (keys["anchor"], keys["uid"], keys["ttl"], keys["scope"]) == (os.getpid(), 0, 600, ["a/*"])
    assert [row["run"] for row in ctl("runs", "acme", "--json").rows] == [opened["run"]]
    assert opened["token"] not in ctl("runs").text
    assert ctl("run-close", opened["run"]).status == 0
    assert ctl("run-close", opened["run"]).status == 77


def test_rotate(ctl: Any, vault: Any) -> None:
    """Root and tenant print receipts; a secret takes its value as put does, and must be there."""
    assert ctl("rotate", "root", "--json").rows[0]["receipt"]["tenants"] == 2
    assert ctl("rotate", "tenant", "acme", "--json").rows[0]["receipt"]["generation"] == 2
    assert ctl("rotate", "secret", "acme", "k", data=b"1").status == 66
    ctl("put", "acme", "k", data=b"1")
    done = ctl("rotate", "secret", "acme", "k", data=b"2")
    assert "version 2 is current; 0 holders told" in done.text
    assert vault.tenants["acme"]["k"] == [b"1", b"2"]


def _record(n: int) -> dict[str, Any]:
    actor = {"kind": "peer", "service": "agents", "uid": 1200}
    return {
        "time": f"2026-11-24T10:00:{n:02}.000000Z", "kind": "lease.acquire", "outcome": "ok", "actor": actor,
        "secret": "openai/prod", "version": n,
    }  # fmt: skip


def test_audit_show_prints_every_page(ctl: Any, vault: Any) -> None:
    """Records come flat and in order, over several pages; filters reach the daemon."""
    vault.records = [_record(n) for n in range(5)]
    rows = ctl("audit", "show", "acme", "--since", "@5", "--run", "run_1", "--secret", "k", "--json").rows
    assert [row["version"] for row in rows] == [0, 1, 2, 3, 4]
    assert rows[0]["kind"] == "lease.acquire"
    assert vault.asked[0][1] == {"tenant": "acme", "since": 5.0, "of_run": "run_1", "secret": "k"}
    people = ctl("audit", "show", "acme").text.splitlines()
    assert people[1].startswith("2026-11-24 10:00:01  lease.acquire  ok")
    assert all(len(line) <= 80 for line in people)


def test_audit_show_follow_waits_for_more(ctl: Any, vault: Any, until: Any) -> None:
    """--follow prints what is there, then what comes, and ends with 130 on Ctrl-C."""
    import signal

    vault.records = [_record(1)]
    process = ctl.start("audit", "show", "acme", "--follow", "--json")
    assert json.loads(process.stdout.readline())["version"] == 1
    vault.records.append(_record(2))
    assert json.loads(process.stdout.readline())["version"] == 2
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=10) == 130
    assert process.stderr.read() == b""


def test_audit_export_and_checkpoint_write_private_files(ctl: Any, vault: Any, tmp_path: Path) -> None:
    """Both are 0600 and whole; without --out a checkpoint goes to standard output as it is."""
    vault.records = [_record(n) for n in range(3)]
    assert ctl("audit", "export", "acme", "--out", str(tmp_path / "x")).status == 0
    assert len((tmp_path / "x").read_bytes().splitlines()) == 3
    assert (tmp_path / "x").stat().st_mode & 0o7777 == 0o600
    assert ctl("audit", "checkpoint", "--out", str(tmp_path / "c")).status == 0
    assert (tmp_path / "c").read_bytes() == ctl("audit", "checkpoint").out == b"vaultd/abab\n7\n"
    assert len(ctl("audit", "export", "acme", "--out", "-").out.splitlines()) == 3


def test_a_path_is_left_to_whoever_opens_it(ctl: Any, tmp_path: Path) -> None:
    """A file where a directory is wanted is no wrong command line: the verb says what is wrong, with its own code."""
    file = tmp_path / "file"
    file.write_bytes(b"x")
    done = ctl("audit", "verify", "--dir", str(file))
    assert done.status == 74
    assert "not a directory" in done.err


def test_an_empty_checkpoint_is_none_and_nothing_is_asked(ctl: Any, vault: Any, tmp_path: Path) -> None:
    """A file that a checkpoint never came into: 65, as for any other that is no checkpoint."""
    file = tmp_path / "checkpoint"
    file.write_bytes(b"")
    done = ctl("audit", "prune", "--before", str(file))
    assert done.status == 65
    assert vault.asked == []


def test_audit_prune_says_what_goes_first(ctl: Any, vault: Any, tmp_path: Path) -> None:
    """Lines, times, bytes and what stays; --dry-run only that; as JSON one object; and a file that cannot be read."""
    vault.records = [_record(n) for n in range(3)]
    file = tmp_path / "checkpoint"
    file.write_bytes(b"7")
    tried = ctl("audit", "prune", "--before", str(file), "--dry-run").text
    assert "3 lines from 2026-01-01 00:00:00 to 2026-06-01 00:00:00 (1 segment, 300 bytes) would go" in tried
    assert "2 lines before the checkpoint stay" in tried
    assert ctl("audit", "prune", "--before", str(file), "--dry-run", "--json").rows == [
        {"pruned": False, "lines": 3, "bytes": 300, "segments": 1, "begins": 4, "stays": 2}
        | {"first": "2026-01-01T00:00:00.000000Z", "last": "2026-06-01T00:00:00.000000Z"}
    ]
    assert len(vault.records) == 3
    done = ctl("audit", "prune", "--before", str(file))
    assert "3 lines from" in done.text
    assert "the log begins at line 4" in done.text
    assert not vault.records
    file.write_bytes(b"0")
    assert "nothing to remove" in ctl("audit", "prune", "--before", str(file)).text
    assert ctl("audit", "prune", "--before", str(file), "--json").rows[0]["lines"] == 0
    assert ctl("audit", "prune", "--before", str(tmp_path / "none")).status == 74
    assert ctl("audit", "prune").status == 2


def test_what_could_not_be_recorded_is_said(ctl: Any, vault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A halted daemon's answer says whether it is kept for later; people hear of both."""
    for owed, said in ((True, "recorded when the vault is reopened"), (False, "note what you have done")):
        monkeypatch.setattr(vault, "op_seal", lambda *_, owed=owed: {"recorded": False, "owed": owed})
        assert said in " ".join(ctl("seal").err.split())
