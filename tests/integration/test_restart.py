"""Runs outlive the daemon, whether it is told to stop or killed; what ended stays ended; needs root for the uids."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.daemon import PASSPHRASE
from tests.support.fleet import RUNS, Fleet
from tests.support.peers import Peer
from tests.support.tenants import ACME, AGENT, NOBODY, RESPONDER, World
from vaultclient import Client
from vaultd.audit.body import Actor, Event
from vaultd.clock import SystemClock
from vaultd.crypto.kdf import CHEAPEST
from vaultd.crypto.memory import SecretBytes
from vaultd.crypto.slots import SlotKind
from vaultd.store import DirectoryStore
from vaultd.vault.barrier import Barrier

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.daemon import Daemon

pytestmark = pytest.mark.needs_root

OPEN = {"tenant": "acme", "scope": ["openai/*"]}
PROD = {"secret": "openai/prod"}
ACME_PROD = {"tenant": "acme", **PROD}
ENDINGS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])


@pytest.fixture(scope="module")
def shared() -> Iterator[World]:
    """One vault for the module; each test leaves no run behind that another would stumble over."""
    with World() as running:
        yield running


def restart(world: World, number: int, *, unseal: bool = True) -> None:
    """End the daemon, and start it again."""
    world.stop(number)
    world.start()
    if unseal:
        world.unseal()


def acquire(peer: Peer, token: bytes | None, keys: dict[str, Any] | None = None) -> str:
    """Take a lease; the code of the refusal, or "" when the value came."""
    with contextlib.suppress(BrokenPipeError, ConnectionError):
        peer.connect()
    answered = peer.call("lease.acquire", keys or PROD, run=token)
    assert answered.code or answered.tail == ACME
    return answered.code


def bodies(world: World, tenant: str | None = "acme") -> list[dict[str, Any]]:
    return [json.loads(line)["body"] for line in world.trail(tenant)]


def ends(world: World, since: int, tenant: str | None = "acme") -> list[tuple[str | None, Any]]:
    return [
        (body.get("reason"), body["extra"]["runs"])
        for body in bodies(world, tenant)[since:]
        if body["kind"] == "run.ended"
    ]


def test_a_fleet_at_work(daemon: Daemon) -> None:
    """50 runs of 20 tenants, of every kind: a stop and a kill end no agent, and fail no lease for longer than that."""
    fleet = Fleet(daemon)
    try:
        before = fleet.runs()
        assert len(before) == RUNS
        away = []
        for number in (signal.SIGTERM, signal.SIGKILL):
            away.append(fleet.restart(number))
            fleet.wait()
            assert fleet.runs() == before
        outcome = fleet.end()
    finally:
        fleet.kill()
    assert (outcome.ended, outcome.failed) == (0, [])
    assert outcome.calls > 200
    print(f"away {max(away) * 1e3:.0f} ms, longest lease call {outcome.longest * 1e3:.0f} ms of {outcome.calls}")
    # A client asks again after at most a second; all else is the restart.
    assert outcome.longest < max(away) + 5


@ENDINGS
def test_what_lives_goes_on(shared: World, number: int) -> None:
    """A run, a claimed one and one tied to a child go on; those that ended meanwhile are ended, on the record, once."""
    with Peer(shared.socket, uid=AGENT) as agent, Peer(shared.socket, uid=AGENT) as worker:
        own = agent.call("run.open", OPEN).header
        handed = agent.call("run.open", OPEN).header
        assert worker.call("run.claim", run=handed["token"]).code == ""
        with agent.spawn() as child, agent.spawn() as dying:
            tied = agent.call("run.open", {**OPEN, "anchor": child.pid}).header
            lost = agent.call("run.open", {**OPEN, "anchor": dying.pid}).header
            short = agent.call("run.open", {**OPEN, "ttl": 1}).header
            closed = agent.call("run.open", OPEN).header
            assert agent.call("run.close", run=closed["token"]).code == ""
            lease = agent.call("lease.acquire", PROD, run=own["token"]).header["lease"]
            since = len(bodies(shared))
            shared.stop(number)
            dying.end()
            time.sleep(1)  # the short run's own time, on the kernel's clock
            shared.start()
            assert acquire(agent, own["token"]) == acquire(worker, handed["token"]) == "sealed"
            shared.unseal()
            assert acquire(agent, own["token"]) == acquire(worker, handed["token"]) == ""
            assert acquire(child, tied["token"]) == ""
            assert acquire(agent, handed["token"]) == "denied"  # claimed is claimed
            for over in (lost, short, closed):
                assert acquire(agent, over["token"]) == "denied"
            assert agent.call("lease.renew", {"lease": lease}, run=own["token"]).code == "denied"
            assert sorted(ends(shared, since)) == [("anchor-died", [lost["run"]]), ("expired", [short["run"]])]
            listed = {run["run"]: run for run in shared.admin.pages("run.list")}
            assert set(listed) == {own["run"], handed["run"], tied["run"]}
            assert listed[handed["run"]]["anchor"]["pid"] == worker.pid
            assert 3500 < listed[own["run"]]["expires_in"] <= 3600
        # The anchors are watched as before, and the ends are recorded as before; a second restart ends nothing twice.
        agent.end()
        worker.end()
        restart(shared, number)
        assert not list(shared.admin.pages("run.list"))
        found = sorted(run for _, runs in ends(shared, since) for run in runs)
        assert found == sorted(run["run"] for run in (own, handed, tied, lost, short))


@ENDINGS
@pytest.mark.parametrize("by", ["run.close", "lease.revoke", "tenant", "seal", "seal-tenant"])
def test_what_ended_stays_ended(shared: World, number: int, by: str) -> None:
    """I4: whoever was told that a run has ended does not meet it again, however soon the daemon is killed then."""
    with Peer(shared.socket, uid=AGENT) as agent, Peer(shared.socket, uid=RESPONDER) as responder:
        run = agent.call("run.open", OPEN).header
        assert acquire(agent, run["token"]) == ""
        if by == "run.close":
            answered = agent.call("run.close", run=run["token"])
        elif by == "lease.revoke":
            answered = responder.call("lease.revoke", {"of_run": run["run"]})
        elif by == "tenant":
            answered = responder.call("lease.revoke", {"tenant": "acme"})
        else:
            answered = responder.call("seal", {"tenant": "acme"} if by == "seal-tenant" else {})
        assert answered.code == ""
        assert answered.header["recorded"] is True
        since = len(bodies(shared)) if by != "seal" else None
        restart(shared, number)
        if by == "seal-tenant":
            keys = {"tenant": "acme", "kind": "passphrase", "bind": "self"}
            shared.admin.call("unseal", keys, PASSPHRASE)
        assert acquire(agent, run["token"]) == "denied"
        assert not list(shared.admin.pages("run.list"))
        assert since is None or not ends(shared, since)  # it was recorded then, not now
        assert acquire(agent, agent.call("run.open", OPEN).header["token"]) == ""


@ENDINGS
def test_uses_are_not_given_back(shared: World, number: int) -> None:
    """What was acquired under a grant with `max-uses` counts after the restart as well."""
    shared.tenant("initech", key=ACME)
    shared.service("counted", uid=NOBODY)
    shared.grant("initech", "counted", "**", max_uses=3)
    try:
        with Peer(shared.socket, uid=NOBODY) as agent:
            token = agent.call("run.open", {"tenant": "initech", "scope": ["**"]}).header["token"]
            used = [acquire(agent, token, {"secret": "key"}) for _ in range(2)]
            restart(shared, number)
            used += [acquire(agent, token, {"secret": "key"}) for _ in range(2)]
            restart(shared, number)
            used.append(acquire(agent, token, {"secret": "key"}))
            assert used == ["", "", "", "denied", "denied"]
            # What was held goes on: each lease once, by its version; and that gives nobody another.
            named = {"secret": "key", "version": 1}
            assert [acquire(agent, token, named) for _ in range(4)] == ["", "", "", "denied"]
            assert acquire(agent, token, {"secret": "key"}) == "denied"
            restart(shared, number)
            assert acquire(agent, token, {"secret": "key"}) == "denied"
            assert acquire(agent, token, named) == ""
            # Another secret of the name is another secret.
            shared.admin.call("secret.delete", {"tenant": "initech", "secret": "key"})
            shared.admin.put("initech", "key", ACME)
            assert acquire(agent, token, named) == "denied"
    finally:
        shared.admin.call("tenant.delete", {"tenant": "initech", "confirm": "initech"})
        shared.admin.call("service.remove", {"service": "counted"})


@ENDINGS
def test_the_confined_stay_confined(shared: World, number: int) -> None:
    """A process in a run gets nothing beside it after a restart either, nor after its run's end, nor whom it left."""
    with Peer(shared.socket, uid=AGENT) as inside, Peer(shared.socket, uid=AGENT) as free:
        token = inside.call("run.open", {**OPEN, "confine": True}).header["token"]
        restart(shared, number)
        assert acquire(inside, token) == ""
        assert acquire(inside, None, ACME_PROD) == "denied"
        assert inside.call("run.close", run=token).code == ""
        for _ in range(2):
            assert acquire(inside, None, ACME_PROD) == "denied"
            assert acquire(free, None, ACME_PROD) == ""
            restart(shared, number)
        with inside.spawn() as left:  # in the session that the confined process leads
            inside.end()
            for _ in range(2):
                assert acquire(left, None, ACME_PROD) == "denied"
                restart(shared, number)
            assert acquire(left, None, ACME_PROD) == "denied"
            assert acquire(free, None, ACME_PROD) == ""
    restart(shared, number)
    with Peer(shared.socket, uid=AGENT) as later:
        assert acquire(later, None, ACME_PROD) == ""


def test_another_boot_and_another_world(shared: World) -> None:
    """Runs of another boot, of a service that is gone, of a sealed tenant and malformed ones end at unsealing."""
    with Peer(shared.socket, uid=AGENT) as agent:
        runs = [agent.call("run.open", OPEN).header for _ in range(3)]
        runs.insert(1, agent.call("run.open", {**OPEN, "confine": True}).header)
        since, since_system = len(bodies(shared)), len(bodies(shared, None))
        assert shared.stop() == 0
        _rewrite(shared, [run["run"] for run in runs])
        shared.start()
        shared.unseal()
        for run in runs[:3]:
            assert acquire(agent, run["token"]) == "denied"
        assert acquire(agent, runs[3]["token"]) == ""
        assert sorted(ends(shared, since)) == [("rebooted", [runs[0]["run"]]), ("service-removed", [runs[1]["run"]])]
        assert ends(shared, since_system, None) == [("malformed", [runs[2]["run"]])]
        assert acquire(agent, None, ACME_PROD) == "denied"  # it is still the process that the second one confined
    assert shared.stop() == 0
    shared.start()
    shared.unseal()


def _rewrite(world: World, runs: list[str]) -> None:
    """Make the first kept run one of another boot, the second one of a service that is gone, the third one nonsense."""
    store = DirectoryStore(world.dir)
    barrier = Barrier.open(store, SystemClock(), minimum=CHEAPEST)
    actor = Actor("embedded", uid=os.geteuid())
    with SecretBytes.copy_of(PASSPHRASE) as secret:
        slot, key = barrier.derive(secret, SlotKind.PASSPHRASE)
    with key:
        barrier.unseal(slot, key, actor=actor)
    one, two, three = (barrier.runs()[run] for run in runs[:3])
    changed = [
        {**one, "anchor": [*one["anchor"][:4], "of another boot"]},
        {**two, "service": "gone"},
        {"id": three["id"], "tenant": three["tenant"]},
    ]
    barrier.keep_runs(Event("run.kept", "ok", actor), keep=changed)
    barrier.close()
    store.close()


def test_a_kept_run_costs_no_flush_of_its_own(shared: World) -> None:
    """The run is in the line of its opening: the journal has one line for it, and that line vouches for the log."""
    with Peer(shared.socket, uid=AGENT) as agent:
        before = shared.journal().count(b"\n")
        run = agent.call("run.open", OPEN).header
        lines = shared.journal().splitlines()[before:]
        assert sum(b'"heads":' in line for line in lines) == 1
        assert agent.call("run.close", run=run["token"]).code == ""
        assert sum(b'"heads":' in line for line in shared.journal().splitlines()[before:]) == 2


def test_the_library_waits_and_goes_on(shared: World) -> None:
    """A client with `retry_for` asks during a restart, and has its answer when the vault is unsealed again."""
    shared.service("here")
    shared.grant("acme", "here", "openai/*")
    with Client(shared.socket, environ={}, retry_for=20) as client:
        run = client.run("acme", scope=["openai/*"])
        with run, run.lease("openai/prod") as lease:
            first = lease.id
            for number in (signal.SIGTERM, signal.SIGKILL):
                restart(shared, number)
                assert bytes(run.lease("openai/prod").acquire().value) == ACME
                end = time.monotonic() + 20
                while lease.id == first and time.monotonic() < end:
                    time.sleep(0.01)
                assert lease.id != first, "the lease that was held was not taken anew"
                assert lease.active
                assert bytes(lease.value) == ACME
                first = lease.id
    assert not list(shared.admin.pages("run.list"))


@ENDINGS
@pytest.mark.parametrize("by", ["run.close", "lease.revoke", "seal", "in-flight"])
def test_what_a_halted_daemon_stopped_stays_stopped(number: int, by: str) -> None:
    """I4: a run that was ended when nothing could be recorded any more does not come back, and is recorded then."""
    with World() as world, Peer(world.socket, uid=AGENT) as agent, Peer(world.socket, uid=RESPONDER) as responder:
        run, other = (agent.call("run.open", OPEN).header for _ in range(2))
        journal = os.path.join(world.dir, "audit", "000001.jsonl")
        os.link(journal, journal + ".second")  # somebody may be reading along: from here on nothing is recorded
        if by != "in-flight":
            assert acquire(agent, other["token"]) == "halted"
        if by == "run.close":
            answered = agent.call("run.close", run=run["token"])
        elif by in ("lease.revoke", "in-flight"):
            answered = responder.call("lease.revoke", {"of_run": run["run"]})
        else:
            answered = responder.call("seal")
        assert answered.code == ""
        assert answered.header["recorded"] is False
        world.stop(number)
        os.unlink(journal + ".second")
        since = 0
        world.start()
        world.unseal()
        assert acquire(agent, run["token"]) == "denied"
        ended = {run["run"], other["run"]} if by == "seal" else {run["run"]}
        assert acquire(agent, other["token"]) == ("denied" if by == "seal" else "")
        (found,) = [(reason, set(runs)) for reason, runs in ends(world, since)]
        assert found == ("ended-unrecorded", ended)
        assert not os.path.exists(os.path.join(world.dir, "living"))
        restart(world, number)
        assert len(ends(world, since)) == 1


@ENDINGS
def test_trees_go_on_and_end_whole(shared: World, number: int) -> None:
    """Child runs come back with their parents and what those have used; below a dead process nothing does."""
    with Peer(shared.socket, uid=AGENT) as agent:
        top = agent.call("run.open", {**OPEN, "uses": 4}).header
        child = {"scope": ["openai/*"]}
        with agent.spawn() as dying:
            middle = agent.call("run.open", {**child, "anchor": dying.pid}, run=top["token"]).header
            low = agent.call("run.open", child, run=middle["token"]).header
            beside = agent.call("run.open", {**child, "uses": 2}, run=top["token"]).header
            assert acquire(agent, low["token"]) == acquire(agent, beside["token"]) == ""
            since = len(bodies(shared))
            shared.stop(number)
        shared.start()
        shared.unseal()
        assert acquire(agent, low["token"]) == acquire(agent, middle["token"]) == "denied"
        assert [(reason, set(runs)) for reason, runs in ends(shared, since)] == [
            ("anchor-died", {middle["run"], low["run"]})
        ]
        assert acquire(agent, beside["token"]) == ""
        assert acquire(agent, beside["token"]) == "denied"  # two of its own
        assert acquire(agent, top["token"]) == ""
        assert acquire(agent, top["token"]) == "denied"  # four in all: what the dead branch used stays used
        assert agent.call("run.close", run=top["token"]).code == ""
        restart(shared, number)
        assert acquire(agent, beside["token"]) == acquire(agent, top["token"]) == "denied"
        assert not list(shared.admin.pages("run.list"))
