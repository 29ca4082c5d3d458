"""Nothing is answered that is not recorded first (I5); and when nothing can be recorded, nothing leaves."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.daemon import PASSPHRASE, Daemon
from tests.support.peers import Peer
from tests.support.raw import Raw, framed, packed
from tests.support.tenants import ACME, AGENT, GLOBEX, MANAGER, NOBODY, RESPONDER, World
from vaultclient.errors import VaultError
from vaultd.protocol.operations import OPERATIONS
from vaultd.vault import offline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.raw import Answered

pytestmark = pytest.mark.needs_root

VERIFY = os.path.join(os.path.dirname(__file__), "..", "..", "scripts", "verify_audit.py")
PROD = {"tenant": "acme", "secret": "openai/prod"}
LOGIN = {"kind": "passphrase", "bind": "self"}

ADMIN: list[tuple[str, dict[str, Any], bytes]] = [
    ("login", LOGIN, PASSPHRASE),
    ("unseal", LOGIN, PASSPHRASE),
    ("slot.add", {"kind": "key-file"}, b"k" * 32),
    ("slot.list", {}, b""),
    ("slot.remove", {"slot": 2}, b""),
    ("slot.add", {"kind": "passphrase"}, b"third"),
    ("slot.passwd", {"slot": 3, "kind": "passphrase", "old": 5}, b"third" + b"changed"),
    ("slot.remove", {"slot": 3}, b""),
    ("tenant.create", {"tenant": "initech"}, b""),
    ("tenant.list", {}, b""),
    ("tenant.show", {"tenant": "initech"}, b""),
    ("value.begin", {"size": 1}, b""),
    ("value.chunk", {"offset": 0}, b"x"),
    ("secret.put", {"tenant": "initech", "secret": "a", "upload": True}, b""),
    ("secret.put", {"tenant": "initech", "secret": "a"}, b"y"),
    ("secret.get", {"tenant": "initech", "secret": "a"}, b""),
    ("secret.list", {"tenant": "initech"}, b""),
    ("secret.history", {"tenant": "initech", "secret": "a"}, b""),
    ("secret.rollback", {"tenant": "initech", "secret": "a", "to": 1}, b""),
    ("secret.destroy", {"tenant": "initech", "secret": "a", "version": 1}, b""),
    ("secret.set", {"tenant": "initech", "secret": "a", "description": "x"}, b""),
    ("rotate.secret", {"tenant": "initech", "secret": "a"}, b"z"),
    ("rotate.tenant", {"tenant": "initech"}, b""),
    ("rotate.root", {}, b""),
    ("service.add", {"service": "web", "uid": 4208}, b""),
    ("service.list", {}, b""),
    ("grant.add", {"tenant": "initech", "service": "web", "secrets": ["**"]}, b""),
    ("grant.list", {"tenant": "initech"}, b""),
    ("explain", {"tenant": "initech", "secret": "a", "service": "web"}, b""),
    ("lease.revoke", {"tenant": "initech"}, b""),
    ("secret.delete", {"tenant": "initech", "secret": "a"}, b""),
    ("audit.show", {"tenant": "initech"}, b""),
    ("audit.show", {}, b""),
    ("audit.show", {"after": "3"}, b""),
    ("audit.export", {"tenant": "initech"}, b""),
    ("audit.checkpoint", {}, b""),
    ("subscribe", {"tenant": "initech"}, b""),
    ("run.list", {}, b""),
    ("lease.list", {}, b""),
    ("hello", {}, b""),
    ("status", {}, b""),
    ("seal", {"tenant": "initech"}, b""),
    ("unseal", {**LOGIN, "tenant": "initech"}, PASSPHRASE),
    ("tenant.delete", {"tenant": "initech", "confirm": "initech"}, b""),
    ("logout", {}, b""),
]


class Journal:
    """The journal's file, looked at from outside."""

    def __init__(self, world: Daemon) -> None:
        self._path = os.path.join(world.dir, "audit", "000001.jsonl")
        self._size = os.path.getsize(self._path)

    def news(self) -> list[dict[str, Any]]:
        """The lines that came since the last call; each is whole."""
        with open(self._path, "rb") as file:
            file.seek(self._size)
            data = file.read()
        self._size += len(data)
        assert not data or data.endswith(b"\n")
        return [json.loads(line) for line in data.splitlines()]


@pytest.fixture(scope="module")
def quiet() -> Iterator[World]:
    """A world whose windows of counting end only after the tests: the first of each kind and uid has its record."""
    with World(config="[audit]\nthrottle_window_seconds = 3600\n") as running:
        yield running


def test_every_operation_is_recorded(quiet: World) -> None:
    """For each operation of the protocol, done: its record is on the disk when the answer has arrived."""
    done = set()
    with Peer(quiet.socket) as admin, Peer(quiet.socket, uid=AGENT) as agent:

        def ask(peer: Peer, op: str, keys: dict[str, Any], tail: bytes = b"", run: bytes | None = None) -> Answered:
            journal = Journal(quiet)
            answered = peer.call(op, keys, tail, run=run)
            lines = journal.news()
            assert answered.code == "", (op, answered)
            assert lines, op
            done.add(op)
            return answered

        for op, keys, tail in ADMIN:
            ask(admin, op, keys, tail)
        admin.call("login", LOGIN, PASSPHRASE)
        ask(admin, "audit.prune", {"dry_run": True}, bytes(admin.call("audit.checkpoint").tail))
        token = ask(agent, "run.open", {"tenant": "acme", "scope": ["openai/*"]}).header["token"]
        lease = ask(agent, "lease.acquire", {"secret": "openai/prod"}, run=token).header["lease"]
        ask(agent, "lease.renew", {"lease": lease}, run=token)
        ask(agent, "lease.read", {"lease": lease, "offset": 1, "length": 2}, run=token)
        ask(agent, "run.claim", {}, run=token)
        ask(agent, "lease.list", {}, run=token)
        ask(agent, "lease.release", {"lease": lease}, run=token)
        ask(agent, "run.close", {}, run=token)
        ask(admin, "grant.remove", {"tenant": "acme", "grant": quiet.grant("acme", "acme-agent", "x")})
        quiet.service("gone", uid=4209)
        ask(admin, "service.remove", {"service": "gone"})
        ask(admin, "seal", {})
        quiet.unseal()
    # An `ack` only says that a descriptor arrived: nothing is decided, given out or changed by it.
    assert done == set(OPERATIONS) - {"ack"}


def test_every_refusal_is_recorded(quiet: World) -> None:
    """The same of each operation refused: denied to a stranger, or malformed."""
    with Peer(quiet.socket, uid=NOBODY) as nobody:
        for op, keys, tail in ADMIN:
            if op in ("hello", "status", "subscribe", "run.list", "lease.list"):
                continue  # anybody's
            journal = Journal(quiet)
            answered = nobody.call(op, keys, tail)
            lines = journal.news()
            assert answered.code in ("denied", "invalid"), (op, answered)
            assert len(lines) == 1, op
        for op, keys in (
            ("lease.acquire", PROD),
            ("lease.renew", {"lease": "x"}),
            ("lease.read", {"lease": "x", "offset": 0}),
            ("lease.release", {"lease": "x"}),
            ("run.open", {"tenant": "acme", "scope": ["**"]}),
            ("run.claim", {}),
            ("run.close", {"of_run": "x"}),
            ("grant.remove", {"tenant": "acme", "grant": "x"}),
            ("service.remove", {"service": "acme-agent"}),
            ("tenant.create", {"tenant": "Not A Name"}),
            ("lease.list", {"unknown": 1}),
        ):
            journal = Journal(quiet)
            assert nobody.call(op, keys).code in ("denied", "invalid", "protocol"), op
            assert len(journal.news()) == 1, op


def test_refusals_are_bounded(quiet: World) -> None:
    """Somebody who is refused ten thousand times leaves some sixty records and a count, not ten thousand records."""
    before = os.path.getsize(os.path.join(quiet.dir, "audit", "000001.jsonl"))
    with Raw(quiet.socket) as raw, Peer(quiet.socket, uid=4290) as flood:
        for _ in range(200):
            assert flood.call("lease.acquire", PROD).code == "denied"
        # As many again in one go, from a uid that may not even ask so much.
        frames = b"".join(
            framed(packed({"v": 1, "id": number, "op": "lease.acquire", "tenant": "acme", "secret": "No Name"}))
            for number in range(1, 101)
        )
        for _ in range(20):
            raw.socket.sendall(frames)
            for _ in range(100):
                assert raw.receive().code == "invalid"
    grown = os.path.getsize(os.path.join(quiet.dir, "audit", "000001.jsonl")) - before
    assert grown < 2 * 70 * 1_500


def test_trails_and_journal_verify(quiet: World) -> None:
    """After all of it the journal verifies offline without keys, beside the running daemon, and by checkpoint."""
    checkpoint = bytes(quiet.admin.call("audit.checkpoint").tail)
    report = offline.verify(quiet.dir, checkpoint=checkpoint)
    assert report.ok, report
    done = subprocess.run([sys.executable, VERIFY, quiet.dir], capture_output=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr
    # One byte changed on a copy, and both name the line.
    with tempfile.TemporaryDirectory() as folder:
        copy = os.path.join(folder, "vault")
        shutil.copytree(quiet.dir, copy)
        path = os.path.join(copy, "audit", "000001.jsonl")
        with open(path, "r+b") as file:
            lines = file.read().splitlines(keepends=True)
            at = sum(map(len, lines[:9])) + lines[9].index(b'"time":"2') + 10
            file.seek(at)
            file.write(b"9")
        assert offline.verify(copy).verdict.bad_line == 10
        bad = subprocess.run([sys.executable, VERIFY, copy], capture_output=True, check=False, timeout=30)
        assert bad.returncode == 1
        assert b"line 10 " in bad.stderr


# -- fail closed


def _deleted(path: str) -> None:
    os.remove(path)


def _replaced(path: str) -> None:
    shutil.copy2(path, path + ".copy")
    os.rename(path + ".copy", path)


def _cut(path: str) -> None:
    os.truncate(path, os.path.getsize(path) - 1)


def _emptied(path: str) -> None:
    os.truncate(path, 0)


def _grown(path: str) -> None:
    with open(path, "ab") as file:
        file.write(b"\n")


def _linked(path: str) -> None:
    os.link(path, path + ".second")


def _halted(answered: Answered) -> None:
    assert answered.code == "halted", answered
    assert answered.header["hint"]
    assert ACME not in answered.frame
    assert GLOBEX not in answered.frame


def _holds_nothing_back_but_stops(world: World, agent: Peer, token: bytes, leases: list[str]) -> None:
    """What a halted daemon must do: release and change nothing, stop what is to be stopped, and say so."""
    for _ in range(3):
        _halted(agent.call("lease.acquire", {"secret": "openai/prod"}, run=token))
        _halted(agent.call("lease.acquire", PROD))
        _halted(agent.call("lease.renew", {"lease": leases[0]}, run=token))
        _halted(agent.call("run.open", {"tenant": "acme", "scope": ["openai/*"]}))
    with Peer(world.socket, uid=NOBODY) as nobody, Peer(world.socket, uid=MANAGER) as manager:
        assert nobody.call("status").header["state"] == "halted"
        _halted(nobody.call("lease.acquire", PROD))
        _halted(manager.call("secret.put", PROD, b"new"))
        _halted(manager.call("secret.list", {"tenant": "acme"}))
        _halted(manager.call("audit.show", {"tenant": "acme"}))
    for op, keys, tail in (
        ("secret.get", PROD, b""),
        ("secret.put", PROD, b"new"),
        ("tenant.create", {"tenant": "late"}, b""),
        ("rotate.root", {}, b""),
        ("rotate.tenant", {"tenant": "acme"}, b""),
        ("audit.show", {}, b""),
        ("tenant.list", {}, b""),
    ):
        with pytest.raises(Exception, match="durable write failed") as caught:
            world.admin.call(op, keys, tail)
        assert getattr(caught.value, "code", "") == "halted"
    # Stopping harm works, and does not claim to be recorded.
    released = agent.call("lease.release", {"lease": leases[0]}, run=token)
    assert (released.code, released.header["recorded"]) == ("", False)
    with Peer(world.socket, uid=RESPONDER) as responder:
        revoked = responder.call("lease.revoke", {"lease": leases[1]})
        assert (revoked.code, revoked.header["recorded"], revoked.header["revoked"]) == ("", False, 1)
        sealed = responder.call("seal", {"tenant": "globex"})
        assert (sealed.code, sealed.header["recorded"]) == ("", False)
        closed = agent.call("run.close", run=token)
        assert (closed.code, closed.header["recorded"], closed.header["revoked"]) == ("", False, 1)
        sealed = responder.call("seal")
        assert (sealed.code, sealed.header["recorded"]) == ("", False)
        assert responder.call("status").header["state"] == "halted"
    assert world.stop() == 0
    assert b"Traceback" not in world.log
    assert b"exception was never retrieved" not in world.log
    assert b"Exception in callback" not in world.log


def _busy(world: World) -> tuple[Peer, bytes, list[str]]:
    agent = Peer(world.socket, uid=AGENT)
    token = agent.call("run.open", {"tenant": "acme", "scope": ["openai/*"]}).header["token"]
    acquire = {"secret": "openai/prod"}
    leases = [agent.call("lease.acquire", acquire, run=token).header["lease"] for _ in range(3)]
    return agent, token, leases


@pytest.mark.parametrize(
    "spoil", [_deleted, _replaced, _cut, _emptied, _grown, _linked], ids=lambda spoil: spoil.__name__[1:]
)
def test_journal_spoilt_under_the_daemon(spoil: Callable[[str], None]) -> None:
    """A journal that somebody deletes, replaces, cuts, links or writes to is noticed before the next answer."""
    with World() as world:
        agent, token, leases = _busy(world)
        with agent:
            spoil(os.path.join(world.dir, "audit", "000001.jsonl"))
            _holds_nothing_back_but_stops(world, agent, token, leases)


def test_requests_under_way_when_it_halts() -> None:
    """Everything that was sent when the journal is lost is answered, and nothing of it with a value."""
    with World() as world:
        with Raw(world.socket) as raw:
            os.remove(os.path.join(world.dir, "audit", "000001.jsonl"))
            requests = [("secret.get", PROD, b""), ("secret.put", PROD, b"v"), ("tenant.list", {}, b"")] * 8
            data = b""
            for number, (op, keys, tail) in enumerate(requests, 1):
                data += framed(packed({"v": 1, "id": number, "op": op, **keys}), tail)
            assert raw.call("login", LOGIN, PASSPHRASE, number=1000).code == "halted"
            raw.socket.sendall(data)
            answers = [raw.receive() for _ in requests]
        assert {answered.header["id"] for answered in answers} == set(range(1, len(requests) + 1))
        assert {answered.code for answered in answers} <= {"halted", "denied"}
        assert world.stop() == 0
        assert b"Exception in callback" not in world.log


@contextlib.contextmanager
def _small_disk(size: str) -> Iterator[Callable[[str], list[str]]]:
    """A mount namespace in which a vault's folder lies on a disk of its own; gives a prefix for a daemon's command."""
    holders: list[subprocess.Popen[bytes]] = []

    def prefix(folder: str) -> list[str]:
        if not holders:
            script = (
                f'mkdir "$1/small"; mount -t tmpfs -o size={size},mode=700 none "$1/small"; '
                'cp -a "$1/vault/." "$1/small/"; mount --move "$1/small" "$1/vault"; echo ready; exec cat'
            )
            command = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script, "sh", folder]
            holders.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            assert holders[0].stdout is not None
            assert holders[0].stdout.readline() == b"ready\n"
        return ["nsenter", f"--mount=/proc/{holders[0].pid}/ns/mnt"]

    try:
        yield prefix
    finally:
        for holder in holders:
            holder.communicate(timeout=10)


def _fill(world: World, leave: int) -> str:
    """Fill the vault's disk but for about `leave` bytes; the path of the file that does."""
    inside = f"/proc/{world.process.pid}/root{world.dir}"
    filler = os.path.join(inside, "filler")
    with open(filler, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
        file.truncate(max(0, os.path.getsize(filler) // 4096 * 4096 - leave))
    return filler


def _put_until_halted(world: World) -> int:
    """The number of the last value that was acknowledged."""
    for number in range(200):
        try:
            world.admin.put("acme", "openai/growing", b"%d" % number * 1000)
        except VaultError as error:
            assert error.code == "halted"  # noqa: PT017  how many came before it is what is asked
            return number - 1
    raise AssertionError("the disk was never full")


def test_full_disk() -> None:
    """A full disk halts the vault; with room again, a restart has everything that was acknowledged."""
    with _small_disk("2m") as prefix, World(prefix=prefix) as world:
        agent, token, leases = _busy(world)
        with agent:
            filler = _fill(world, 64 << 10)
            kept = _put_until_halted(world)
            assert kept > 0
            # The file outlives its daemon in the other namespace: opened here, removed there.
            descriptor = os.open(filler, os.O_RDWR)
            _holds_nothing_back_but_stops(world, agent, token, leases)
            os.ftruncate(descriptor, 0)
            os.close(descriptor)
        world.start()
        world.unseal()
        with world.admin.get("acme", "openai/growing") as answer:
            assert bytes(answer.tail) in (b"%d" % kept * 1000, b"%d" % (kept + 1) * 1000)
        # The responder sealed it meanwhile, and that outlives a restart although it could not be recorded then.
        with pytest.raises(VaultError, match="sealed"):
            world.admin.get("globex", "openai/prod")


def test_slow_flushes_that_fail() -> None:
    """Requests decided while the failing flush was under way hear of it too: none is acknowledged, none is lost."""
    with World() as world:
        path = os.path.join(world.dir, "audit", "000001.jsonl")
        peers = [Raw(world.socket) for _ in range(4)]
        try:
            versions = []
            os.link(path, path + ".second")
            for number in range(1, 30):
                for peer in peers:
                    peer.send("secret.put", PROD, b"late", number=number)
            deadline = time.monotonic() + 20
            for _ in range(1, 30):
                for peer in peers:
                    answered = peer.receive()
                    assert time.monotonic() < deadline
                    versions.append(answered.code)
            assert set(versions) <= {"halted", "denied"}
        finally:
            for peer in peers:
                peer.close()
        assert world.stop() == 0
        os.remove(path + ".second")
        world.start()
        world.unseal()
        with world.admin.get("acme", "openai/prod") as answer:
            assert bytes(answer.tail) == ACME
