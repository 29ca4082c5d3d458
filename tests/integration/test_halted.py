"""What is done while nothing can be recorded is owed: kept beside the journal, recorded at the next opening."""

from __future__ import annotations

import json
import os
import shutil
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.test_audit_daemon import _fill, _put_until_halted, _small_disk
from tests.support.daemon import PASSPHRASE
from tests.support.peers import Peer
from tests.support.tenants import ACME, AGENT, GLOBEX, RESPONDER, STRANGER, World
from vaultclient.errors import VaultError

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.needs_root

OPEN = {"tenant": "acme", "scope": ["openai/*"]}
PROD = {"secret": "openai/prod"}


@pytest.fixture
def world() -> Iterator[World]:
    with World() as running:
        yield running


def bodies(world: World, tenant: str | None = None) -> list[dict[str, Any]]:
    """A trail's records, less those of the watch on files: it notices the link that halts, sooner or later."""
    found = [json.loads(line)["body"] for line in world.trail(tenant)]
    return [body for body in found if body["kind"] != "vault.changed"]


def owed(world: World, tenant: str | None = None) -> list[dict[str, Any]]:
    """The records of a trail that were owed."""
    return [body for body in bodies(world, tenant) if body.get("extra", {}).get("owed")]


def halt(world: World) -> str:
    """Have the next flush fail: somebody may be reading along. Returns what undoes it."""
    second = os.path.join(world.dir, "audit", "000001.jsonl") + ".second"
    os.link(second.removesuffix(".second"), second)
    return second


class Stopped:
    """A halted world in which everything that stops harm was done once."""

    def __init__(self, world: World) -> None:
        self.world = world
        with Peer(world.socket, uid=AGENT) as agent, Peer(world.socket, uid=STRANGER) as stranger:
            self.runs = [agent.call("run.open", OPEN).header for _ in range(3)]
            token = self.runs[0]["token"]
            self.leases = [agent.call("lease.acquire", PROD, run=token).header["lease"] for _ in range(2)]
            other = stranger.call("run.open", {"tenant": "globex", "scope": ["openai/*"]}).header
            self.globex = other["run"]
            self.second = halt(world)
            assert agent.call("lease.acquire", PROD, run=token).code == "halted"
            self.answers = [agent.call("lease.release", {"lease": self.leases[0]}, run=token)]
            with Peer(world.socket, uid=RESPONDER) as responder:
                self.answers.append(responder.call("lease.revoke", {"lease": self.leases[1]}))
                self.answers.append(responder.call("lease.revoke", {"of_run": self.runs[1]["run"]}))
                self.answers.append(responder.call("seal", {"tenant": "globex"}))
                self.answers.append(agent.call("run.close", run=token))
                self.answers.append(responder.call("seal"))

    def reopen(self, number: int = signal.SIGTERM) -> None:
        self.world.stop(number)
        assert b"Traceback" not in self.world.log
        if os.path.exists(self.second):
            os.unlink(self.second)
        self.world.start()
        self.world.unseal()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_was_done_is_recorded_at_reopening(world: World, number: int) -> None:
    """Every verb, by whom and when, in the trail where it belongs; before anything that comes after; and once."""
    stopped = Stopped(world)
    assert [(answer.code, answer.header["recorded"], answer.header["owed"]) for answer in stopped.answers] == [
        ("", False, True)
    ] * 6
    with open(os.path.join(world.dir, "owed"), "rb") as file:
        kept = file.read()
    for name in (b"openai", b"acme", b"globex", stopped.runs[0]["run"].encode(), stopped.leases[0].encode()):
        assert name not in kept
    stopped.reopen(number)
    acme = owed(world, "acme")
    assert [body["kind"] for body in acme] == ["lease.release", "lease.revoke", "lease.revoke", "run.close"]
    assert [body["actor"]["uid"] for body in acme] == [AGENT, RESPONDER, RESPONDER, AGENT]
    assert acme[0]["lease"] == stopped.leases[0]
    assert acme[2]["run"] == stopped.runs[1]["run"]
    assert all(body["extra"]["at"] < body["time"] and "verified" not in body["extra"] for body in acme)
    assert [body["kind"] for body in owed(world, "globex")] == ["tenant.seal", "lease.revoke"]
    assert [body["kind"] for body in owed(world)] == ["vault.halted", "run.ended", "vault.seal"]
    kinds = [body["kind"] for body in bodies(world)]
    assert kinds[kinds.index("vault.halted") - 1] == "vault.unseal"  # nothing was served in between
    with pytest.raises(VaultError, match="sealed"):
        world.admin.get("globex", "openai/prod")
    with Peer(world.socket, uid=AGENT) as agent:
        for run in stopped.runs:  # the third was ended with the vault's seal
            assert agent.call("lease.acquire", PROD, run=run["token"]).code == "denied"
    assert not os.path.exists(os.path.join(world.dir, "owed"))
    count = len(owed(world, "acme"))
    assert world.stop() == 0
    world.start()
    world.unseal()
    assert len(owed(world, "acme")) == count


def test_a_verb_whose_own_flush_fails_is_owed(world: World) -> None:
    """What was staged when the flush failed is owed too, and the first answer says that it is not recorded."""
    with Peer(world.socket, uid=AGENT) as agent, Peer(world.socket, uid=RESPONDER) as responder:
        run = agent.call("run.open", OPEN).header
        second = halt(world)
        answer = responder.call("lease.revoke", {"of_run": run["run"]})
        assert (answer.code, answer.header["recorded"], answer.header["owed"]) == ("", False, True)
    assert world.stop() == 0
    os.unlink(second)
    world.start()
    world.unseal()
    assert [body["run"] for body in owed(world, "acme") if body["kind"] == "lease.revoke"] == [run["run"]]


def test_where_nothing_takes_it_the_answer_says_so(world: World) -> None:
    """With no place for a file in either folder it is done all the same; answer and log say that it is not kept."""
    for path in (os.path.join(world.dir, "owed"), f"{world.socket}.owed"):
        os.mkdir(path)
    stopped = Stopped(world)
    assert {(answer.code, answer.header["recorded"], answer.header["owed"]) for answer in stopped.answers} == {
        ("", False, False)
    }
    os.rmdir(os.path.join(world.dir, "owed"))
    os.rmdir(f"{world.socket}.owed")
    world.stop()
    assert b"nothing takes what is owed to the audit trail" in world.log
    os.unlink(stopped.second)
    world.start()
    world.unseal()
    assert not owed(world, "acme")


def test_beside_the_socket_where_the_vaults_folder_takes_none(world: World) -> None:
    """The second place serves as the first."""
    os.mkdir(os.path.join(world.dir, "owed"))
    stopped = Stopped(world)
    assert {answer.header["owed"] for answer in stopped.answers} == {True}
    os.rmdir(os.path.join(world.dir, "owed"))
    stopped.reopen()
    assert len(owed(world, "acme")) == 4
    assert not os.path.exists(f"{world.socket}.owed")


@pytest.mark.parametrize("how", ["garbage", "empty", "cut", "changed", "link", "foreign"])
def test_a_file_that_somebody_changed(world: World, how: str) -> None:
    """It grants nothing and stops nothing from opening: what still opens is recorded, and that the rest does not."""
    stopped = Stopped(world)
    path = os.path.join(world.dir, "owed")
    with open(path, "rb") as file:
        data = file.read()
    world.stop(signal.SIGKILL)
    changed = {
        "garbage": b"\xff" * 5_000,
        "empty": b"",
        "cut": data[:-7],
        "changed": data[:2_000] + bytes([data[2_000] ^ 1]) + data[2_001:],
        "foreign": data[:16] + bytes(16) + data[32:],
    }
    os.unlink(path)
    if how == "link":
        os.symlink("/etc/passwd", path)
    else:
        with open(path, "wb") as file:
            file.write(changed[how])
    os.unlink(stopped.second)
    world.start()
    world.unseal()
    said = [body for body in bodies(world) if body["kind"] == "vault.halted" and not body.get("extra")]
    assert [body["outcome"] for body in said] == ["failed"]
    assert not os.path.lexists(path)
    with Peer(world.socket, uid=AGENT) as agent:  # the word of who lives, kept apart, has them end
        assert agent.call("lease.acquire", PROD, run=stopped.runs[0]["token"]).code == "denied"
        assert agent.call("lease.acquire", {"tenant": "acme", **PROD}).code == ""
    world.stop()
    assert b"Traceback" not in world.log


def test_one_put_back_later_is_recorded_as_unverified(world: World) -> None:
    """Replayed when the vault has long moved on, it seals nobody and ends nothing that lives; its records say so."""
    stopped = Stopped(world)
    path = os.path.join(world.dir, "owed")
    copy = os.path.join(world.folder, "copy")
    shutil.copy2(path, copy)
    stopped.reopen()
    world.admin.call("unseal", {"kind": "passphrase", "bind": "self", "tenant": "globex"}, PASSPHRASE)
    for number in range(20):
        world.admin.put("acme", "openai/growing", b"%d" % number)
    with Peer(world.socket, uid=AGENT) as agent:
        run = agent.call("run.open", OPEN).header
        before = len(owed(world, "acme"))
        world.stop()
        shutil.copy2(copy, path)
        world.start()
        world.unseal()
        agent.connect()
        again = owed(world, "acme")[before:]
        assert len(again) == before
        assert all(body["extra"]["verified"] is False for body in again)
        assert agent.call("lease.acquire", PROD, run=run["token"]).code == ""
    with world.admin.get("globex", "openai/prod") as answer:
        assert bytes(answer.tail) == GLOBEX


def test_space_in_reserve() -> None:
    """A full disk gives the reserve back, what is owed fits there, and a restart on the still full disk records it."""
    config = "[audit]\nreserve_bytes = 1048576\n"
    with _small_disk("8m") as prefix, World(config=config, prefix=prefix) as world:
        inside = f"/proc/{world.process.pid}/root{world.dir}"
        status = world.admin.call("status").keys
        assert status["more"]["reserve"] == {"bytes": 1048576, "held": True}
        assert os.stat(os.path.join(inside, "reserve")).st_blocks * 512 >= 1048576
        with Peer(world.socket, uid=AGENT) as agent, Peer(world.socket, uid=RESPONDER) as responder:
            run = agent.call("run.open", OPEN).header
            filler = _fill(world, 64 << 10)
            _put_until_halted(world)
            assert not os.path.exists(os.path.join(inside, "reserve"))
            answer = responder.call("lease.revoke", {"of_run": run["run"]})
            assert (answer.header["recorded"], answer.header["owed"]) == (False, True)
            assert os.path.getsize(os.path.join(inside, "owed")) > 0
            descriptor = os.open(filler, os.O_RDWR)
            world.stop(signal.SIGKILL)
            world.start()
            world.unseal()
            assert [body["kind"] for body in owed(world, "acme")] == ["lease.revoke"]
            status = world.admin.call("status").keys
            assert not status["more"]["reserve"]["held"]
            assert any("kept in reserve" in warning for warning in status["warnings"])
            os.ftruncate(descriptor, 0)
            os.close(descriptor)
        world.stop()
        world.start()
        world.unseal()
        assert world.admin.call("status").keys["more"]["reserve"]["held"]
        with world.admin.get("acme", "openai/prod") as value:
            assert bytes(value.tail) == ACME
