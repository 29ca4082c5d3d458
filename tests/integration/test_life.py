"""The daemon's own life: drained by SIGTERM, told by SIGHUP, killed in the middle of its work."""

from __future__ import annotations

import json
import os
import random
import signal
import stat
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.daemon import PASSPHRASE, Daemon
from tests.support.raw import GROUP, Raw, as_uid, framed, packed
from tests.support.tenants import RESPONDER, World
from vaultclient.errors import VaultError
from vaultd.crypto.kdf import CHEAPEST
from vaultd.vault import offline

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def acme(daemon: Daemon) -> Daemon:
    """A daemon with a tenant."""
    daemon.tenant("acme", key=b"value")
    return daemon


def test_sigterm_drains(acme: Daemon) -> None:
    """What was sent before SIGTERM is answered and kept; then the daemon ends with 0 and its socket is gone."""
    with Raw(acme.socket) as raw:
        assert raw.call("login", {"kind": "passphrase", "bind": "self"}, PASSPHRASE, number=999).code == ""
        data = b""
        for number in range(1, 31):
            header = {"v": 1, "id": number, "op": "secret.put", "tenant": "acme", "secret": f"s{number}"}
            data += framed(packed(header), b"value %d" % number)
        raw.socket.sendall(data)
        first = raw.receive()
        acme.process.send_signal(signal.SIGTERM)
        done = [first.header["id"]]
        while True:
            try:
                answered = raw.receive()
            except EOFError:
                break
            assert answered.code == ""
            done.append(answered.header["id"])
    assert acme.ended() == 0  # without another signal: the second one forces
    assert not os.path.lexists(acme.socket)
    acme.start()
    acme.unseal()
    names = {one["secret"] for one in acme.admin.pages("secret.list", {"tenant": "acme"})}
    assert {f"s{number}" for number in done} <= names


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stops_in_every_state(number: int) -> None:
    """Without a vault, sealed, and unsealed: a signal ends it with 0."""
    with Daemon(unseal=False) as daemon:
        assert daemon.stop(number) == 0
        daemon.start()
        daemon.unseal()
        assert daemon.stop(number) == 0
        os.rename(daemon.dir, daemon.dir + ".aside")
        daemon.start()
        assert daemon.stop(number) == 0


def test_stops_at_once_for_those_who_wait() -> None:
    """Who waits for the next record, or for a slot's secret to be tried, hears of the end and does not hold it up."""
    with Daemon(longest=3_000) as daemon, Raw(daemon.socket) as raw, Raw(daemon.socket) as follower:
        daemon.tenant("acme")
        assert follower.call("login", {"kind": "passphrase", "bind": "self"}, PASSPHRASE).code == ""
        for count in range(11):
            raw.call("login", {"kind": "passphrase"}, b"wrong", number=count + 1)  # the next try is in a second
        after = follower.call("audit.show", {"tenant": "acme"}).header["next"]
        raw.send("login", {"kind": "passphrase"}, b"wrong", number=9)
        follower.send("audit.show", {"tenant": "acme", "after": after, "wait": 60}, number=9)
        for waiting in (raw, follower):
            assert waiting.call("status", number=10).header["id"] == 10
        started = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - started < 2
        for waiting in (raw, follower):
            answered = waiting.receive()
            assert (answered.header["id"], answered.code) == (9, "unavailable")


def test_restart_is_orderly(acme: Daemon) -> None:
    """After a restart everything is there, nothing had to be repaired, and the files verify whole."""
    for number in range(20):
        acme.admin.put("acme", "key", b"value %d" % number)
    assert acme.stop() == 0
    report = offline.check(acme.dir, secret=bytearray(PASSPHRASE), minimum=CHEAPEST)
    assert not report.problems
    acme.start()
    recovered = acme.admin.call("unseal", {"kind": "passphrase", "bind": "self"}, PASSPHRASE)["recovered"]
    assert recovered["journal_cut"] == recovered["log_cut"] == recovered["removed"] == 0
    assert not recovered["torn_anchor"]
    with acme.admin.get("acme", "key") as answer:
        assert bytes(answer.tail) == b"value 19"


def _configure(daemon: Daemon, text: str) -> None:
    with open(daemon.config, "w", encoding="utf-8") as file:
        file.write(text)
    daemon.process.send_signal(signal.SIGHUP)
    assert daemon.process.stderr is not None
    while b"configuration was read again" not in (line := daemon.process.stderr.readline()):
        assert line
    daemon.log += line


@pytest.mark.needs_root
def test_sighup() -> None:
    """SIGHUP reads the configuration again: a good one holds at once, a bad one is told and the one before stays."""
    watch = "[watch]\nconfig = false\n"
    with Daemon(config=f"socket_group = {GROUP}\n{watch}") as daemon:
        daemon.tenant("acme")

        def responds() -> str:
            answered = as_uid(RESPONDER, daemon.socket, lambda raw: raw.call("seal", {"tenant": "acme"}))
            return str(answered.code)

        assert responds() == "denied"
        _configure(daemon, f"socket_group = {GROUP}\nresponder_uids = [{RESPONDER}]\n{watch}")
        assert responds() == ""
        assert daemon.admin.status()["warnings"] == []
        for bad in (
            "responder_uids = [",
            'responder_uids = ["root"]',
            "responders = [1]",
            f'socket_group = {GROUP}\nsocket = "/tmp/elsewhere.sock"\n[limits]\nruns_per_uid = 0\n',
            "[limits]\nrunsperuid = 1\n",
            "socket_group = 1",
        ):
            _configure(daemon, bad)
            (warning,) = daemon.admin.status()["warnings"]
            assert "the one before is in force" in warning
            assert responds() == ""
        os.chmod(daemon.config, 0o666)  # noqa: S103
        _configure(daemon, f"socket_group = {GROUP}\n{watch}")
        (warning,) = daemon.admin.status()["warnings"]
        assert "others may write it" in warning
        assert responds() == ""
        os.chmod(daemon.config, 0o644)
        _configure(daemon, f"socket_group = {GROUP}\n{watch}")
        assert daemon.admin.status()["warnings"] == []
        assert responds() == "denied"


def test_a_changed_configuration_is_recorded() -> None:
    """Which keys changed, and who is admin and responder now; a file that does not hold, once; sealed as well."""
    watch = "[watch]\nconfig = false\n"
    with Daemon(config=watch) as daemon:

        def recorded() -> list[tuple[str, Any]]:
            bodies = [json.loads(line)["body"] for line in daemon.admin.audit_lines("audit.show", {})]
            return [(one["outcome"], one.get("public")) for one in bodies if one["kind"] == "config.reload"]

        _configure(daemon, watch)
        assert recorded() == []
        me = os.geteuid()
        _configure(daemon, f"responder_uids = [{RESPONDER}]\nadmin_uids = [{me}]\n{watch}[limits]\nruns_per_uid = 9\n")
        changed = ["admin_uids", "limits.runs_per_uid", "responder_uids"]
        assert recorded() == [
            ("ok", {"changed": changed, "admin_uids": [me], "responder_uids": [RESPONDER]}),
        ]
        for _ in range(2):
            _configure(daemon, "nonsense")
        daemon.admin.call("seal")
        _configure(daemon, f"admin_uids = [{me}]\n{watch}[limits]\nruns_per_uid = 9\n")
        daemon.unseal()
        assert recorded()[1:] == [("failed", None), ("ok", {"changed": ["responder_uids"], "responder_uids": []})]


@pytest.mark.needs_root
def test_limits_hold_at_once() -> None:
    """Caps on live runs and leases of a uid hold, say so, free as things end, and follow the configuration."""
    base = f"socket_group = {GROUP}\nresponder_uids = [{RESPONDER}]\n[watch]\nconfig = false\n"
    with World(config="[limits]\nruns_per_uid = 2\nleases_per_uid = 3\n[watch]\nconfig = false\n") as world:

        def there(raw: Raw) -> list[Any]:
            opened = [raw.call("run.open", {"tenant": "acme", "scope": ["openai/*"]}) for _ in range(3)]
            token = opened[0].header["token"]
            leased = [raw.call("lease.acquire", {"secret": "openai/prod"}, run=token) for _ in range(4)]
            raw.call("lease.release", {"lease": leased[0].header["lease"]}, run=token)
            again = raw.call("lease.acquire", {"secret": "openai/prod"}, run=token)
            return [answered.code for answered in (*opened, *leased, again)]

        assert as_uid(4201, world.socket, there) == ["", "", "quota", "", "", "", "quota", ""]
        _configure(world, base + "[limits]\nruns_per_uid = 3\nleases_per_uid = 4\n")
        assert as_uid(4201, world.socket, there) == ["", "", "", "", "", "", "", ""]


@pytest.mark.parametrize("mask", [0o000, 0o777])
def test_socket_mode_whatever_the_umask(mask: int) -> None:
    """The socket is for its owner (and group) alone, whatever the umask of whoever started the daemon."""
    before = os.umask(mask)
    try:
        daemon = Daemon(unseal=False)
        try:
            assert stat.S_IMODE(os.stat(daemon.socket).st_mode) & ~0o660 == 0
            assert daemon.admin.status()["state"] == "sealed"
        finally:
            daemon.close()
    finally:
        os.umask(before)


class Writer(threading.Thread):
    """Puts numbered values, one after the other, until the daemon is gone; knows what was acknowledged."""

    def __init__(self, daemon: Daemon, secret: str) -> None:
        super().__init__()
        self._client = daemon.client()
        self._secret = secret
        self.acknowledged = 0
        self.sent = 0
        self.enough = threading.Event()

    def run(self) -> None:
        try:
            for number in range(1, 100_000):
                self.sent = number
                assert self._client.put("acme", self._secret, b"%d" % number) == number
                self.acknowledged = number
                if number >= 5:
                    self.enough.set()
        except VaultError:
            return
        finally:
            self._client.close()


@pytest.fixture
def killable() -> Iterator[Daemon]:
    """A daemon whose admin ticket every client of this process shares."""
    with Daemon() as daemon:
        daemon.tenant("acme")
        yield daemon


def test_killed_under_load(killable: Daemon) -> None:
    """Killed in the middle of puts and rotations, it opens without help, with every acknowledged value and no other."""
    rng = random.Random(0x5EED)
    for round_ in range(4):
        writers = [Writer(killable, f"round{round_}/writer{number}") for number in range(3)]
        for writer in writers:
            writer.start()
        for writer in writers:
            assert writer.enough.wait(20)
        for op, keys in (("rotate.tenant", {"tenant": "acme"}), ("rotate.root", {})):
            if rng.random() < 0.7:
                killable.admin.call(op, keys)
        if round_ % 2:
            # In the middle of a rotation.
            with Raw(killable.socket) as raw:
                raw.call("login", {"kind": "passphrase", "bind": "self"}, PASSPHRASE)
                raw.send("rotate.tenant", {"tenant": "acme"})
                killable.process.kill()
        killable.stop(signal.SIGKILL)
        for writer in writers:
            writer.join(30)
        killable.start()
        killable.unseal()
        for writer in writers:
            secret = writer._secret
            with killable.admin.get("acme", secret) as answer:
                found = int(bytes(answer.tail))
                assert answer["version"] == found
            assert writer.acknowledged <= found <= writer.sent
    assert killable.stop() == 0
    report = offline.check(killable.dir, secret=bytearray(PASSPHRASE), minimum=CHEAPEST)
    assert not report.problems
    assert offline.verify(killable.dir).ok
