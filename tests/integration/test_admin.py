"""Admins at the real daemon: slot secrets tried, tickets and where they do not reach, two admins at once."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.daemon import PASSPHRASE, Daemon
from tests.support.peers import Peer
from tests.support.raw import GROUP, Raw
from vaultclient.errors import VaultError

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.needs_root

OTHER_ADMIN = 4206
CONFIG = f"socket_group = {GROUP}\nadmin_uids = [0, {OTHER_ADMIN}]\n"
LOGIN = {"kind": "passphrase", "bind": "self"}
PARENT = {"kind": "passphrase", "bind": "parent"}


@pytest.fixture(scope="module")
def vault() -> Iterator[Daemon]:
    """A daemon with two admin uids, whose delay after wrong secrets grows to a second and a half."""
    with Daemon(config=CONFIG, longest=1_500) as running:
        yield running


def _kinds(daemon: Daemon, since: int) -> list[dict[str, Any]]:
    lines = list(daemon.admin.audit_lines("audit.show", {}))[since:]
    return [json.loads(line)["body"] for line in lines]


def test_ten_wrong_passphrases(vault: Daemon) -> None:
    """Each further wrong passphrase waits longer, for its uid alone; all are recorded; the right one then works."""
    before = len(list(vault.admin.audit_lines("audit.show", {})))
    with Peer(vault.socket, uid=OTHER_ADMIN) as guesser, Raw(vault.socket) as mine:
        waits = []
        for number in range(10):
            started = time.monotonic()
            answered = guesser.call("login", LOGIN, b"wrong %d" % number)
            waits.append(time.monotonic() - started)
            assert answered.code == "wrong_secret"
            assert answered.header["hint"]
        # Delays of 0, 1, 2, 4 ... 256 ms came before them.
        assert waits[9] > 0.2 > waits[3]
        assert waits[9] > waits[8] > waits[7] > waits[6]
        # While one waits for its next try, other uids are not held up.
        started = time.monotonic()
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(guesser.call, "login", LOGIN, PASSPHRASE)
            assert mine.call("login", LOGIN, PASSPHRASE).code == ""
            assert time.monotonic() - started < 0.4
            # Never locked out: the right passphrase opens after ten wrong ones, when its wait is over.
            assert waiting.result().code == ""
        assert time.monotonic() - started > 0.4
        assert guesser.call("tenant.list").code == ""
    tried = [body for body in _kinds(vault, before) if body["kind"] == "login"]
    failed = [body for body in tried if body["outcome"] == "failed"]
    assert len(failed) == 10
    assert {body["reason"] for body in failed} == {"wrong_secret"}
    assert {body["actor"]["uid"] for body in failed} == {OTHER_ADMIN}  # type: ignore[index]  # it is JSON
    assert not [body for body in _kinds(vault, before) if "wrong 1" in json.dumps(body)]


def test_one_try_at_a_time(vault: Daemon) -> None:
    """One uid has one try under way: a second beside it is throttled, with the time to come back."""
    with Raw(vault.socket) as one, Raw(vault.socket) as two:
        for number in range(8):
            assert one.call("login", LOGIN, b"wrong %d" % number).code == "wrong_secret"
        one.send("login", LOGIN, PASSPHRASE, number=1)
        assert one.call("status", number=2).header["id"] == 2  # the first is taken by now, and waits
        for secret in (PASSPHRASE, b"beside it"):
            answered = two.call("login", LOGIN, secret)
            assert answered.code == "throttled"
            assert "try again in" in answered.header["hint"]
        assert one.receive().code == ""


@pytest.mark.parametrize("secret", [b"x", b"x" * 4096, bytes(32), b"\xff" * 31, PASSPHRASE + b"\n", PASSPHRASE[:-1]])
@pytest.mark.parametrize("kind", ["passphrase", "key-file"])
def test_other_secrets(vault: Daemon, kind: str, secret: bytes) -> None:
    """Nothing but the slot's very bytes opens it, and no kind of slot opens another."""
    with Peer(vault.socket) as admin:
        answered = admin.call("login", {"kind": kind, "bind": "self"}, secret)
        assert answered.code in ("wrong_secret", "invalid")
        assert admin.call("tenant.list").code == "denied"
        assert admin.call("login", LOGIN, PASSPHRASE).code == ""


def test_not_admins(vault: Daemon) -> None:
    """Whoever's uid is no admin's is refused before any secret is looked at, however right it is."""
    with Peer(vault.socket, uid=4299) as peer:
        frames = set()
        for op in ("login", "unseal"):
            for secret in (PASSPHRASE, b"wrong"):
                answered = peer.call(op, {"kind": "passphrase"}, secret)
                assert answered.code == "denied"
                frames.add(answered.frame)
        frames |= {peer.call(op).frame for op in ("logout", "slot.list", "tenant.list", "rotate.root", "seal")}
        assert len(frames) == 1


def test_ticket_is_its_sessions(vault: Daemon) -> None:
    """A ticket bound to a shell serves that shell's session and uid, and nobody in another; it ends with the shell."""
    with Peer(vault.socket) as shell:
        with shell.spawn() as login:
            assert login.call("login", PARENT, PASSPHRASE).code == ""
        with shell.spawn() as command, shell.spawn(session=True) as elsewhere, Peer(vault.socket) as stranger:
            assert command.call("tenant.list").code == ""
            for peer in (elsewhere, stranger):
                answered = peer.call("tenant.list")
                assert answered.code == "denied"
                assert "vaultctl login" in answered.header["hint"]
            with Peer(vault.socket, uid=OTHER_ADMIN) as other:
                assert other.call("tenant.list").code == "denied"
            shell.end()
            assert command.call("tenant.list").code == "denied"


def test_ticket_of_a_command(vault: Daemon) -> None:
    """A ticket bound to one command serves it and what it starts, and not the shell beside it."""
    with Peer(vault.socket) as shell, shell.spawn() as command, shell.spawn() as beside:
        assert command.call("login", LOGIN, PASSPHRASE).code == ""
        assert command.call("tenant.list").code == ""
        with command.spawn() as child, command.spawn(session=True) as elsewhere:
            assert child.call("tenant.list").code == ""
            assert elsewhere.call("tenant.list").code == "denied"
        assert beside.call("tenant.list").code == "denied"
        assert shell.call("tenant.list").code == "denied"


def test_logout_and_ttl(vault: Daemon) -> None:
    """A ticket ends by logout, and by its time."""
    with Peer(vault.socket) as admin:
        assert admin.call("login", {**LOGIN, "ttl": 3600}, PASSPHRASE).header["expires_in"] == 3600
        assert admin.call("logout").header["ended"] == 1
        assert admin.call("tenant.list").code == "denied"
        assert admin.call("logout").header["ended"] == 0
        assert admin.call("login", {**LOGIN, "ttl": 1}, PASSPHRASE).header["expires_in"] == 1
        assert admin.call("tenant.list").code == ""
        deadline = time.monotonic() + 5
        while (code := admin.call("tenant.list").code) == "" and time.monotonic() < deadline:
            pass
        assert code == "denied"


def test_tickets_do_not_outlive_the_daemon() -> None:
    """After a restart there is no ticket, and the vault is sealed."""
    with Daemon() as daemon:
        assert daemon.admin.call("tenant.list")["items"] == []
        assert daemon.stop() == 0
        daemon.start()
        with daemon.client() as client, pytest.raises(VaultError) as caught:
            client.call("tenant.list")
        assert caught.value.code == "sealed"
        with daemon.client() as client:
            assert client.status()["state"] == "sealed"
        daemon.unseal()
        daemon.admin.call("tenant.list")


def _both(one: Peer, two: Peer, first: str, second: str) -> list[str]:
    """The codes of two operations on the tenant `busy`, asked for by two admins at one time."""

    def ask(peer: Peer, op: str) -> str:
        return peer.call(op, {"tenant": "busy"} if op == "rotate.tenant" else {}).code

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(ask, (one, two), (first, second)))


def test_two_admins_rotate_at_once(vault: Daemon) -> None:
    """Of two rotations of one thing at one time one is done and the other refused; every value is as before."""
    secrets = {f"s{number}": os.urandom(2000) for number in range(100)}
    vault.tenant("busy", **secrets)
    with Peer(vault.socket) as one, Peer(vault.socket, uid=OTHER_ADMIN) as two:
        for peer in (one, two):
            assert peer.call("login", LOGIN, PASSPHRASE).code == ""
        seen: set[tuple[str, ...]] = set()
        for _ in range(12):
            seen.add(tuple(sorted(_both(one, two, "rotate.tenant", "rotate.tenant"))))
        assert seen <= {("", ""), ("", "conflict")}  # where one was done before the other came, both are
        assert ("", "conflict") in seen
        for _ in range(3):
            for second in ("rotate.root", "rotate.tenant"):
                assert "" in _both(one, two, "rotate.root", second)
    for name, value in secrets.items():
        with vault.admin.get("busy", name) as answer:
            assert bytes(answer.tail) == value


def test_two_admins_put_at_once(vault: Daemon) -> None:
    """Compare-and-set lets one of many writers through, each time."""
    vault.tenant("contested", key=b"first")
    peers = [Peer(vault.socket) for _ in range(4)]
    try:
        for peer in peers:
            assert peer.call("login", LOGIN, PASSPHRASE).code == ""
        with ThreadPoolExecutor(4) as pool:
            for version in range(1, 6):
                keys = {"tenant": "contested", "secret": "key", "cas": version}
                answers = list(pool.map(lambda peer: peer.call("secret.put", keys, b"next"), peers))  # noqa: B023
                assert sorted(answered.code for answered in answers) == ["", "conflict", "conflict", "conflict"]
    finally:
        for peer in peers:
            peer.end()


def test_a_slot_gets_another_passphrase(vault: Daemon) -> None:
    """Against a slot's secret, by an admin: then only the new one opens, and every record says which slot was shown."""
    new = b"another passphrase"
    with Peer(vault.socket) as admin, Peer(vault.socket) as guest:
        admin.call("login", LOGIN, PASSPHRASE)
        number = admin.call("slot.add", {"kind": "passphrase", "label": "laptop"}, b"second").header["slot"]
        keys = {"slot": number, "kind": "passphrase", "old": len(PASSPHRASE)}
        assert guest.call("slot.passwd", keys, PASSPHRASE + new).code == "denied"
        for wrong, tail, code in (
            ({**keys, "slot": 99}, PASSPHRASE + new, "not_found"),
            ({**keys, "old": 5}, b"wrong" + new, "wrong_secret"),
            ({**keys, "kind": "key-file"}, PASSPHRASE + new, "wrong_secret"),
            ({**keys, "kind": "credential", "old": 32}, bytes(32) + new, "wrong_secret"),
        ):
            assert admin.call("slot.passwd", wrong, tail).code == code
        assert admin.call("slot.passwd", keys, PASSPHRASE).code == "protocol"
    with Peer(vault.socket) as admin:
        assert admin.call("login", LOGIN, b"second").header["slot"] == number
        before = admin.call("slot.list").header["items"]
        assert admin.call("slot.passwd", {**keys, "old": 6}, b"second" + new).code == ""
        assert admin.call("slot.list").header["items"] == before
        assert admin.call("login", LOGIN, b"second").code == "wrong_secret"
        assert admin.call("login", LOGIN, new).header["slot"] == number
        bodies = _kinds(vault, 0)
        changed = [body for body in bodies if body["kind"] == "slot.passwd" and body["outcome"] == "ok"]
        assert [body["public"] for body in changed] == [{"slot": number, "proved": number}]
        logins = [body["actor"]["slot"] for body in bodies if body["kind"] == "login" and body["outcome"] == "ok"]
        assert logins[-1] == number
        removed = admin.call("slot.remove", {"slot": number, "rotate_root": True})
        assert removed.header["receipt"]["rotated"] == "root"
        assert admin.call("login", LOGIN, new).code == "wrong_secret"
        assert admin.call("login", LOGIN, PASSPHRASE).code == ""


def test_slots(vault: Daemon) -> None:
    """Further slots open the vault until they are removed; the last is refused; ids do not come again."""
    with Peer(vault.socket) as admin:
        admin.call("login", LOGIN, PASSPHRASE)
        key = os.urandom(64)
        added = admin.call("slot.add", {"kind": "key-file", "label": "spare"}, key)
        assert added.code == ""
        slot = added.header["slot"]
        assert admin.call("logout").code == ""
        assert admin.call("login", {"kind": "key-file", "bind": "self"}, key).header["slot"] == slot
        listed = admin.call("slot.list").header["items"]
        assert [one["label"] for one in listed if one["slot"] == slot] == ["spare"]
        for keys, secret in (
            ({"kind": "passphrase", "label": "\n"}, b""),
            ({"kind": "key-file"}, b"too short"),
            ({"kind": "passphrase", "label": "é" * 64}, b"long label"),
        ):
            assert admin.call("slot.add", keys, secret).code in ("invalid", "protocol")
        assert admin.call("slot.remove", {"slot": 77}).code == "not_found"
        assert admin.call("slot.remove", {"slot": slot}).code == ""
        assert admin.call("slot.remove", {"slot": slot}).code == "not_found"
        last = [one["slot"] for one in admin.call("slot.list").header["items"]]
        assert len(last) == 1
        refused = admin.call("slot.remove", {"slot": last[0]})
        assert refused.code == "conflict"
        assert "slot add" in refused.header["hint"]
        again = admin.call("slot.add", {"kind": "key-file"}, key).header["slot"]
        assert again != slot
        admin.call("slot.remove", {"slot": again})
        assert admin.call("login", {"kind": "key-file", "bind": "self"}, key).code == "wrong_secret"


def test_a_slot_is_removed_for_somebody(vault: Daemon) -> None:
    """Who logged in with a slot's secret is no admin any more once somebody else has removed the slot."""
    with Peer(vault.socket) as admin, Peer(vault.socket) as gone:
        admin.call("login", LOGIN, PASSPHRASE)
        key = os.urandom(64)
        slot = admin.call("slot.add", {"kind": "key-file"}, key).header["slot"]
        assert gone.call("login", {"kind": "key-file", "bind": "self"}, key).code == ""
        assert gone.call("slot.list").code == ""
        assert admin.call("slot.remove", {"slot": slot}).code == ""
        assert gone.call("slot.list").code == "denied"
        assert admin.call("slot.list").code == ""
