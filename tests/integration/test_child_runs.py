"""Child runs at the real daemon: narrower than their parent, drawn from it, over with it."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.support.peers import Peer
from tests.support.tenants import ACME, AGENT, NOBODY, STRANGER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.raw import Answered
    from tests.support.tenants import World

pytestmark = pytest.mark.needs_root

OPEN = {"tenant": "acme", "scope": ["openai/*"]}
PROD = {"secret": "openai/prod"}
SPARE = {"secret": "openai/spare"}


@pytest.fixture
def agent(world: World) -> Iterator[Peer]:
    """A process of acme's agents, in a session of its own."""
    with Peer(world.socket, uid=AGENT) as peer:
        yield peer


def _denied(answered: Answered) -> str:
    assert answered.code == "denied", answered
    assert answered.header["message"] == "not allowed, or not there"
    return str(answered.header["hint"])


def test_a_child_run_is_narrower(world: World, agent: Peer) -> None:
    """A child run leases within its scope, has its parent's tenant, and is listed below it."""
    parent = agent.call("run.open", OPEN).header
    child = agent.call("run.open", {"scope": ["openai/prod"]}, run=parent["token"]).header
    assert child["tenant"] == "acme"
    assert child["expires_in"] <= parent["expires_in"]
    assert agent.call("lease.acquire", PROD, run=child["token"]).tail == ACME
    _denied(agent.call("lease.acquire", SPARE, run=child["token"]))
    listed = {run["run"]: run for run in agent.call("run.list", run=parent["token"]).header["items"]}
    assert listed.keys() == {parent["run"], child["run"]}
    assert listed[child["run"]]["parent"] == parent["run"]
    assert listed[parent["run"]]["parent"] is None


def test_what_reaches_beyond_the_parent_is_refused(world: World, agent: Peer) -> None:
    """More secrets, another purpose, more uses, another tenant, service or depth: refused, and nothing is opened."""
    top = agent.call("run.open", {**OPEN, "scope": ["openai/prod"], "purpose": "chat", "uses": 2}).header
    token, prod = top["token"], ["openai/prod"]
    assert "lies within" in _denied(agent.call("run.open", {"scope": ["openai/*"]}, run=token))
    assert "purpose" in _denied(agent.call("run.open", {"scope": prod, "purpose": "billing"}, run=token))
    assert "2 uses" in _denied(agent.call("run.open", {"scope": prod, "uses": 3}, run=token))
    elsewhere = {
        agent.call("run.open", {"tenant": name, "scope": prod}, run=token).frame for name in ("globex", "nobody")
    }
    assert len(elsewhere) == 1
    _denied(agent.call("run.open", {"scope": prod, "service": "globex-agent"}, run=token))
    for keys in ({"scope": []}, {"scope": ["../x"]}, {"scope": prod, "ttl": 0}, {"scope": prod, "uses": 0}):
        assert agent.call("run.open", keys, run=token).code == "invalid", keys
    assert agent.call("run.open", {"scope": prod}).code == "invalid"  # outside a run a tenant has to be named
    for depth in range(9):
        opened = agent.call("run.open", {"tenant": "acme", "scope": prod}, run=token)
        if depth == 8:
            assert "8 deep" in _denied(opened)
        else:
            token = opened.header["token"]
    assert len(agent.call("run.list", run=top["token"]).header["items"]) == 9
    reasons = [line for line in world.trail("acme", of_run=top["run"]) if "beyond the secrets of the run above" in line]
    assert reasons


def test_time_and_uses_are_the_parents(agent: Peer) -> None:
    """A child's time is cut to its parent's, and what it takes is taken from its parent and from its siblings."""
    top = agent.call("run.open", {**OPEN, "ttl": 60, "uses": 3}).header
    assert "longest run" in _hint(agent.call("run.open", {"scope": ["openai/*"], "ttl": 30 * 86_400}, run=top["token"]))
    one, two = (
        agent.call("run.open", {"scope": ["openai/*"], "uses": 2, "ttl": 3_600}, run=top["token"]).header for _ in "12"
    )
    assert one["expires_in"] <= 60
    for token, fine in ((one, True), (one, True), (one, False), (two, True), (two, False), (top, False)):
        answered = agent.call("lease.acquire", PROD, run=token["token"])
        assert answered.tail == (ACME if fine else b"")
    listed = {run["run"]: run for run in agent.call("run.list", run=top["token"]).header["items"]}
    assert (listed[top["run"]]["uses"], listed[one["run"]]["uses"], listed[two["run"]]["uses"]) == (3, 2, 1)
    assert listed[two["run"]]["max_uses"] == 2


def _hint(answered: Answered) -> str:
    assert answered.code == "denied", answered
    return str(answered.header["hint"])


def test_the_token_of_a_sibling(agent: Peer) -> None:
    """One child's token reaches neither its sibling nor its parent; the parent's reaches both."""
    top = agent.call("run.open", OPEN).header
    one, two = (agent.call("run.open", {"scope": ["openai/*"]}, run=top["token"]).header for _ in "12")
    lease = {"lease": agent.call("lease.acquire", PROD, run=two["token"]).header["lease"]}
    for op, keys in (
        ("lease.renew", lease),
        ("lease.release", lease),
        ("lease.revoke", lease),
        ("lease.revoke", {"of_run": two["run"]}),
        ("run.close", {"of_run": two["run"]}),
        ("run.close", {"of_run": top["run"]}),
    ):
        _denied(agent.call(op, keys, run=one["token"]))
    assert [run["run"] for run in agent.call("run.list", run=one["token"]).header["items"]] == [one["run"]]
    assert agent.call("lease.list", run=one["token"]).header["items"] == []
    assert [held["lease"] for held in agent.call("lease.list", run=top["token"]).header["items"]] == [lease["lease"]]
    _denied(agent.call("lease.renew", lease, run=top["token"]))  # to hold it is the child's
    assert agent.call("lease.revoke", lease, run=top["token"]).header["revoked"] == 1
    assert agent.call("run.close", {"of_run": two["run"]}, run=top["token"]).code == ""
    assert agent.call("lease.revoke", {"of_run": one["run"]}, run=top["token"]).code == ""
    for child in (one, two):
        _denied(agent.call("lease.acquire", PROD, run=child["token"]))
    assert agent.call("lease.acquire", PROD, run=top["token"]).tail == ACME


def test_one_record_for_all_that_ends(world: World, agent: Peer) -> None:
    """Revoking a run ends what was opened in it, told to who listens to it, on one record that names them all."""
    top = agent.call("run.open", OPEN).header
    middle = agent.call("run.open", {"scope": ["openai/*"]}, run=top["token"]).header
    low = agent.call("run.open", {"scope": ["openai/prod"]}, run=middle["token"]).header
    agent.call("subscribe", run=top["token"])
    lease = agent.call("lease.acquire", PROD, run=low["token"]).header["lease"]
    assert world.admin.call("lease.revoke", {"of_run": middle["run"]})["revoked"] == 1
    told = [agent.push() for _ in range(3)]
    assert [(one["event"], one["run"]) for one in told] == [
        ("lease.revoked", low["run"]),
        ("run.ended", low["run"]),
        ("run.ended", middle["run"]),
    ]
    assert told[0]["lease"] == lease
    lines = world.trail("acme", of_run=low["run"])
    (record,) = [line for line in lines if '"kind":"lease.revoke"' in line]
    assert record in world.trail("acme", of_run=middle["run"])
    (opened,) = [line for line in lines if '"kind":"run.open"' in line]
    assert f'"parent":"{middle["run"]}"' in opened
    for run in (middle, low):
        _denied(agent.call("lease.acquire", PROD, run=run["token"]))
    assert agent.call("run.close", run=top["token"]).code == ""


def test_its_process_dies(world: World, agent: Peer) -> None:
    """A child run ends with its anchor and takes what is below along; its parent goes on. The other way round, all."""
    top = agent.call("run.open", OPEN).header
    with agent.spawn() as worker:
        middle = agent.call("run.open", {"scope": ["openai/*"], "anchor": worker.pid}, run=top["token"]).header
        low = worker.call("run.open", {"scope": ["openai/prod"], "anchor": agent.pid}, run=middle["token"]).header
        assert agent.call("lease.acquire", PROD, run=low["token"]).tail == ACME
    for token in (middle["token"], low["token"]):
        _denied(agent.call("lease.acquire", PROD, run=token))
    assert [run["run"] for run in agent.call("run.list", run=top["token"]).header["items"]] == [top["run"]]


def test_handed_to_another_uid(world: World, agent: Peer) -> None:
    """The uid that opened the first run may open a child for another; who was handed one may not hand it on."""
    top = agent.call("run.open", OPEN).header
    handed = agent.call("run.open", {"scope": ["openai/*"], "uid": STRANGER}, run=top["token"]).header
    with Peer(world.socket, uid=STRANGER) as worker, Peer(world.socket, uid=STRANGER) as late:
        _denied(worker.call("lease.acquire", PROD, run=handed["token"]))
        assert worker.call("run.claim", run=handed["token"]).header["claimed"] is True
        _denied(late.call("run.claim", run=handed["token"]))
        assert worker.call("lease.acquire", PROD, run=handed["token"]).tail == ACME
        _denied(worker.call("lease.acquire", PROD, run=top["token"]))
        own = worker.call("run.open", {"scope": ["openai/prod"]}, run=handed["token"]).header
        for uid in (AGENT, NOBODY):
            hint = _denied(worker.call("run.open", {"scope": ["openai/prod"], "uid": uid}, run=handed["token"]))
            assert "another uid" in hint
        # It is confined to what it was handed, and its child runs are the tree's owner's to see and end.
        assert worker.call("run.open", {"tenant": "globex", "scope": ["openai/*"]}).code == "denied"
        seen = {run["run"]: run for run in agent.call("run.list").header["items"]}
        assert seen[own["run"]]["parent"] == handed["run"]
        assert agent.call("run.close", {"of_run": handed["run"]}).code == ""
        _denied(worker.call("lease.acquire", PROD, run=own["token"]))


def test_a_dead_parent_hands_nothing_on(world: World, agent: Peer) -> None:
    """A child that waits to be claimed when the parent's process dies is nobody's."""
    with agent.spawn() as opener:
        top = opener.call("run.open", OPEN).header
        child = opener.call("run.open", {"scope": ["openai/*"]}, run=top["token"]).header
    _denied(agent.call("run.claim", run=child["token"]))
    _denied(agent.call("lease.acquire", PROD, run=child["token"]))


def test_tied_to_a_process_inside_only(world: World, agent: Peer) -> None:
    """A child run's anchor is in its parent's session or below its anchor; a supervisor outside is none."""
    with agent.spawn(session=True) as inside:
        top = inside.call("run.open", {**OPEN, "confine": True}).header
        frames = {
            inside.call("run.open", {"scope": ["openai/*"], "anchor": pid}, run=top["token"]).frame
            for pid in (agent.pid, os.getpid())
        }
        assert len(frames) == 1
        assert b"denied" in frames.pop()
        with inside.spawn(session=True) as below:
            _denied(below.call("run.open", {"scope": ["openai/*"]}, run=top["token"]))  # not its session
            keys = {"scope": ["openai/*"], "anchor": below.pid, "confine": True}
            child = inside.call("run.open", keys, run=top["token"]).header
            assert below.call("lease.acquire", PROD, run=child["token"]).tail == ACME
            _denied(inside.call("lease.acquire", PROD, run=child["token"]))
            _denied(below.call("lease.acquire", PROD, run=top["token"]))
            _denied(below.call("lease.acquire", {"tenant": "acme", **PROD}))


def test_they_count_for_who_opens_them(world: World, agent: Peer) -> None:
    """Child runs count against the cap of live runs, which ends no other uid's."""
    top = agent.call("run.open", OPEN).header
    opened = 1
    while (answered := agent.call("run.open", {"scope": ["openai/*"]}, run=top["token"])).code == "":
        opened += 1
    assert answered.code == "quota"
    assert opened <= 256
    assert agent.call("run.open", OPEN).code == "quota"
    with Peer(world.socket, uid=STRANGER) as other:
        assert other.call("run.open", {"tenant": "globex", "scope": ["openai/*"]}).code == ""
    closed = agent.call("run.close", run=top["token"])
    assert closed.code == ""
    assert agent.call("run.open", OPEN).code == ""


def test_a_grant_that_is_gone_is_gone_below(world: World, agent: Peer) -> None:
    """Without its grant a run opens nothing any more, and what was opened in it leases nothing."""
    world.service("temporary", uid=4298)
    grant = world.grant("acme", "temporary", "openai/*", max_uses=2)
    with Peer(world.socket, uid=4298) as peer:
        top = peer.call("run.open", OPEN).header
        children = [peer.call("run.open", {"scope": ["openai/*"]}, run=top["token"]).header for _ in range(3)]
        answers = [peer.call("lease.acquire", PROD, run=child["token"]) for child in children]
        assert [one.code for one in answers] == ["", "", "denied"]  # the grant's uses are the tree's
        world.admin.call("grant.remove", {"tenant": "acme", "grant": grant})
        _denied(peer.call("run.open", {"scope": ["openai/*"]}, run=top["token"]))
        _denied(peer.call("lease.acquire", PROD, run=children[0]["token"]))
        world.admin.call("service.remove", {"service": "temporary"})
        assert not {run["service"] for run in world.admin.pages("run.list")} & {"temporary"}


@pytest.mark.parametrize("by", ["release", "revoke"])
def test_what_was_let_go_is_not_taken_anew(world: World, agent: Peer, by: str) -> None:
    """A lease that was released or revoked is no longer its run's: a restart gives no use of it back."""
    top = agent.call("run.open", {**OPEN, "uses": 2}).header
    child = agent.call("run.open", {"scope": ["openai/*"], "uses": 2}, run=top["token"]).header
    held = agent.call("lease.acquire", SPARE, run=child["token"]).header
    lease = {"lease": agent.call("lease.acquire", PROD, run=child["token"]).header["lease"]}
    if by == "release":
        assert agent.call("lease.release", lease, run=child["token"]).header["recorded"]
    else:
        assert world.admin.call("lease.revoke", lease)["revoked"] == 1
    world.stop(signal.SIGKILL)
    world.start()
    world.unseal()
    agent.connect()
    _denied(agent.call("lease.acquire", {**PROD, "version": 1}, run=child["token"]))
    assert agent.call("lease.acquire", {**SPARE, "version": held["version"]}, run=child["token"]).tail == ACME
    assert agent.call("run.close", {}, run=top["token"]).header["recorded"]
