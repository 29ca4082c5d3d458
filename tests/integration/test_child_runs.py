"""Child runs at the real daemon: narrower than their parent, drawn from it, over with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.peers import Peer
from tests.support.tenants import ACME, AGENT

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
