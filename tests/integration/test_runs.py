"""Runs and leases at the real daemon: a token in wrong hands, at the wrong time, or after its process is nothing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.support.peers import Peer
from tests.support.raw import Raw, as_uid
from tests.support.tenants import ACME, AGENT, STRANGER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.raw import Answered
    from tests.support.tenants import World

pytestmark = pytest.mark.needs_root

OPEN = {"tenant": "acme", "scope": ["openai/*"]}
PROD = {"secret": "openai/prod"}
ACME_PROD = {"tenant": "acme", **PROD}


@pytest.fixture
def agent(world: World) -> Iterator[Peer]:
    """A process of acme's agents, in a session of its own."""
    with Peer(world.socket, uid=AGENT) as peer:
        yield peer


def _denied(answered: Answered) -> None:
    assert answered.code == "denied", answered
    assert answered.header["message"] == "not allowed, or not there"


def _live(world: World) -> tuple[set[str], set[str]]:
    runs = {run["run"] for run in world.admin.pages("run.list")}
    return runs, {lease["lease"] for lease in world.admin.pages("lease.list")}


def test_run_leases_within_its_scope(agent: Peer) -> None:
    """A run leases what it was opened for, by its token, from its anchor and from its anchor's session."""
    opened = agent.call("run.open", {"tenant": "acme", "scope": ["openai/prod"], "purpose": "chat"}).header
    leased = agent.call("lease.acquire", PROD, run=opened["token"])
    assert leased.tail == ACME
    _denied(agent.call("lease.acquire", {"secret": "openai/spare"}, run=opened["token"]))
    _denied(agent.call("lease.acquire", {**PROD, "purpose": "billing"}, run=opened["token"]))
    with agent.spawn() as child:
        assert child.call("lease.acquire", PROD, run=opened["token"]).tail == ACME
    with agent.spawn(session=True) as elsewhere:
        _denied(elsewhere.call("lease.acquire", PROD, run=opened["token"]))


def test_lease_of_another_run(agent: Peer) -> None:
    """One run's token does nothing to another run's lease, though both are one uid's and one process's."""
    first = agent.call("run.open", OPEN).header["token"]
    second = agent.call("run.open", OPEN).header["token"]
    lease = {"lease": agent.call("lease.acquire", PROD, run=first).header["lease"]}
    for op in ("lease.renew", "lease.release", "lease.revoke"):
        _denied(agent.call(op, lease, run=second))
        _denied(agent.call(op, lease))
    assert agent.call("lease.renew", lease, run=first).code == ""
    assert agent.call("lease.release", lease, run=first).code == ""
    _denied(agent.call("lease.renew", lease, run=first))


def test_token_under_another_uid(world: World, agent: Peer) -> None:
    """A token that got out works for no other uid, not even for the daemon's own."""
    token = agent.call("run.open", OPEN).header["token"]
    for uid in (STRANGER, None):
        with Peer(world.socket, uid=uid) as thief:
            _denied(thief.call("lease.acquire", PROD, run=token))
            _denied(thief.call("run.claim", run=token))
            _denied(thief.call("run.close", run=token))
    assert agent.call("lease.acquire", PROD, run=token).tail == ACME


def test_expired_run_and_lease(world: World, agent: Peer) -> None:
    """At its time a lease ends, and a run with its leases: they are told, and nothing under them succeeds."""
    opened = agent.call("run.open", {**OPEN, "ttl": 2}).header
    token = opened["token"]
    agent.call("subscribe", run=token)
    longer = agent.call("lease.acquire", PROD, run=token).header
    shorter = agent.call("lease.acquire", {**PROD, "ttl": 1}, run=token).header
    assert longer["expires_in"] <= 2  # no lease outlives its run
    assert agent.push() == {
        "event": "lease.revoked",
        "lease": shorter["lease"],
        "run": opened["run"],
        "reason": "expired",
    }
    _denied(agent.call("lease.renew", {"lease": shorter["lease"]}, run=token))
    assert agent.call("lease.renew", {"lease": longer["lease"]}, run=token).code == ""
    events = [agent.push()["event"], agent.push()["event"]]
    assert events == ["lease.revoked", "run.ended"]
    for op, keys in (("lease.acquire", PROD), ("lease.renew", {"lease": longer["lease"]}), ("run.claim", {})):
        _denied(agent.call(op, keys, run=token))
    runs, leases = _live(world)
    assert opened["run"] not in runs
    assert not leases & {longer["lease"], shorter["lease"]}


def test_anchor_dies(world: World, agent: Peer) -> None:
    """When the anchor's process ends, its run and leases are gone at once, with nobody's help, and recorded."""
    with agent.spawn() as anchor:
        opened = anchor.call("run.open", OPEN).header
        token = opened["token"]
        lease = agent.call("lease.acquire", PROD, run=token).header["lease"]
        assert opened["run"] in _live(world)[0]
        assert lease in _live(world)[1]
    _denied(agent.call("lease.acquire", PROD, run=token))
    _denied(agent.call("lease.renew", {"lease": lease}, run=token))
    assert opened["run"] not in _live(world)[0]
    assert lease not in _live(world)[1]
    (record,) = [line for line in world.trail("acme") if "anchor-died" in line and opened["run"] in line]
    assert '"kind":"run.ended"' in record


def test_implicit_run_dies_with_its_process(world: World) -> None:
    """A lease outside a run is tied to the process that took it."""
    with Peer(world.socket, uid=AGENT) as peer:
        lease = peer.call("lease.acquire", ACME_PROD).header["lease"]
        assert lease in _live(world)[1]
        with peer.spawn() as child:
            assert child.call("lease.renew", {"lease": lease}).code == ""
        with peer.spawn(session=True) as elsewhere:
            _denied(elsewhere.call("lease.renew", {"lease": lease}))
    assert lease not in _live(world)[1]


def test_claimed_once(world: World, agent: Peer) -> None:
    """A run that was opened for a worker is that worker's from its claim on, and nobody else's."""
    opened = agent.call("run.open", {**OPEN, "uid": STRANGER}).header
    token = opened["token"]
    _denied(agent.call("lease.acquire", PROD, run=token))  # it is another uid's, and not yet claimed
    with Peer(world.socket, uid=STRANGER) as worker, Peer(world.socket, uid=STRANGER) as late:
        _denied(late.call("lease.acquire", PROD, run=token))
        claimed = worker.call("run.claim", run=token)
        assert claimed.header["claimed"] is True
        assert claimed.header["tenant"] == "acme"
        _denied(late.call("run.claim", run=token))
        _denied(agent.call("run.claim", run=token))
        assert worker.call("run.claim", run=token).header["claimed"] is False
        assert worker.call("lease.acquire", PROD, run=token).tail == ACME
        _denied(late.call("lease.acquire", PROD, run=token))
    # The worker was the anchor.
    assert opened["run"] not in _live(world)[0]


def test_claim_within_one_uid(world: World, agent: Peer) -> None:
    """Claimed by a process in another session, the run follows it: its opener's session is out."""
    token = agent.call("run.open", OPEN).header["token"]
    assert agent.call("lease.acquire", PROD, run=token).tail == ACME
    with agent.spawn(session=True) as worker:
        assert worker.call("run.claim", run=token).header["claimed"] is True
        assert worker.call("lease.acquire", PROD, run=token).tail == ACME
        _denied(agent.call("lease.acquire", PROD, run=token))


def test_anchors_are_relatives(world: World, agent: Peer) -> None:
    """A run can be tied to a child or an ancestor, and to no process else; which pids exist is not told."""
    with agent.spawn() as child, Peer(world.socket, uid=AGENT) as other:
        assert agent.call("run.open", {**OPEN, "anchor": child.pid}).code == ""
        assert child.call("run.open", {**OPEN, "anchor": agent.pid}).code == ""
        frames = {
            agent.call("run.open", {**OPEN, "anchor": pid}).frame for pid in (other.pid, 1, 0, 2**31 - 1, 2**32 - 1)
        }
        assert len(frames) == 1
        assert b"denied" in frames.pop()
        before = {run["run"] for run in world.admin.pages("run.list") if run["anchor"]["pid"] == child.pid}
        assert before
    assert not before & _live(world)[0]


def test_closed_by_its_opener(world: World, agent: Peer) -> None:
    """Who opened a run may end it by id or token, and its leases with it; then it is as if it had never been."""
    first, second = agent.call("run.open", OPEN).header, agent.call("run.open", OPEN).header
    for run in (first, second):
        agent.call("lease.acquire", PROD, run=run["token"])
    closed = agent.call("run.close", {"of_run": first["run"]})
    assert (closed.code, closed.header["revoked"], closed.header["recorded"]) == ("", 1, True)
    assert agent.call("run.close", run=second["token"]).header["revoked"] == 1
    for run in (first, second):
        _denied(agent.call("lease.acquire", PROD, run=run["token"]))
        _denied(agent.call("run.close", {"of_run": run["run"]}))


def test_bad_scopes(world: World, agent: Peer) -> None:
    """A run's scope has patterns, all well formed, and reaches no further than the grant."""
    for scope in ([], ["../x"], ["a**"], ["Openai/*"], ["a\0"], ["openai/*"] * 64 + ["x"]):
        assert agent.call("run.open", {"tenant": "acme", "scope": scope}).code in ("invalid", "protocol"), scope
    for scope in (["internal/signing"], ["openai/*", "internal/*"], ["**"], ["*/prod"]):
        answered = agent.call("run.open", {"tenant": "acme", "scope": scope})
        if answered.code == "":
            token = answered.header["token"]
            _denied(agent.call("lease.acquire", {"secret": "internal/signing"}, run=token))
        else:
            _denied(answered)


def test_confined(world: World, agent: Peer) -> None:
    """A process in a run that drops its token gets nothing as a service; nor do its children, in any session."""
    with agent.spawn(session=True) as inside:
        opened = inside.call("run.open", {**OPEN, "confine": True}).header
        assert inside.call("lease.acquire", PROD, run=opened["token"]).tail == ACME
        with inside.spawn() as child, inside.spawn(session=True) as daemonised:
            for peer in (inside, child, daemonised):
                for op, keys in (
                    ("lease.acquire", ACME_PROD),
                    ("run.open", OPEN),
                    ("lease.list", {}),
                    ("run.list", {}),
                    ("run.close", {"of_run": opened["run"]}),
                    ("subscribe", {}),
                ):
                    assert peer.call(op, keys).code == "denied", op
            assert inside.call("status").header["you"]["service"] is None
        # Nor does ending the run set it free.
        assert inside.call("run.close", run=opened["token"]).code == ""
        assert inside.call("lease.acquire", ACME_PROD).code == "denied"
    assert agent.call("lease.acquire", ACME_PROD).tail == ACME  # who started it is not in it


def test_no_admin_inside_a_run(world: World) -> None:
    """An admin's uid inside a run is no admin: no ticket by its slot's secret, and none of those that there are."""
    world.service("root-agent", uid=os.geteuid())
    grant = world.grant("acme", "root-agent", "openai/*")
    try:
        with Peer(world.socket) as shell:
            secret = b"correct horse battery staple"
            assert shell.call("login", {"kind": "passphrase", "bind": "self"}, secret).code == ""
            assert shell.call("tenant.list").code == ""
            with shell.spawn() as inside:
                assert inside.call("tenant.list").code == ""  # a narrow ticket is its holder's children's too
                opened = inside.call("run.open", {**OPEN, "confine": True})
                token = opened.header["token"]
                for run in (token, None):
                    assert inside.call("tenant.list", run=run).code == "denied"
                    assert (
                        inside.call("login", {"kind": "passphrase", "bind": "self"}, secret, run=run).code == "denied"
                    )
                    assert inside.call("unseal", {"kind": "passphrase"}, secret, run=run).code == "denied"
                    assert inside.call("seal", run=run).code == "denied"
            assert shell.call("tenant.list").code == ""
    finally:
        world.admin.call("grant.remove", {"tenant": "acme", "grant": grant})
        world.admin.call("service.remove", {"service": "root-agent"})


def test_service_removed(world: World) -> None:
    """When a service is removed its runs end; its uid is nobody from then on."""
    world.service("temporary", uid=4299)
    grant = world.grant("acme", "temporary", "openai/*")
    with Peer(world.socket, uid=4299) as peer:
        token = peer.call("run.open", OPEN).header["token"]
        lease = peer.call("lease.acquire", PROD, run=token).header["lease"]
        world.admin.call("grant.remove", {"tenant": "acme", "grant": grant})
        _denied(peer.call("lease.renew", {"lease": lease}, run=token))
        _denied(peer.call("lease.acquire", PROD, run=token))
        world.admin.call("service.remove", {"service": "temporary"})
        _denied(peer.call("lease.acquire", PROD, run=token))
        _denied(peer.call("lease.acquire", ACME_PROD))


def test_ended_while_it_waited(world: World) -> None:
    """A value that was allowed, but whose run was closed before its turn to leave had come, is not released."""

    def there(raw: Raw) -> list[tuple[int, str, bool]]:
        token = raw.call("run.open", OPEN).header["token"]
        for number in (2, 3):  # the second descriptor waits until the first is acknowledged
            raw.send("lease.acquire", {**PROD, "memfd": True}, run=token, number=number)
        first = raw.receive()
        closed = raw.call("run.close", run=token, number=4)
        raw.send("ack", {"of": 2}, number=5)
        last = [raw.receive(), raw.receive()]
        return [(one.header["id"], one.code, bool(one.header.get("memfd"))) for one in (first, closed, *last)]

    found = as_uid(AGENT, world.socket, there)
    assert found[:2] == [(2, "", True), (4, "", False)]
    assert sorted(found[2:]) == [(3, "denied", False), (5, "", False)]
    assert any("ended before it was released" in line for line in world.trail("acme"))
