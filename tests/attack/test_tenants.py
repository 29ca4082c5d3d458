"""Other uids, agents that were taken over, and tenants' own admins, against the real daemon: what they tried."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.support.peers import Peer
from tests.support.tenants import ACME, AGENT, GLOBEX, STRANGER, World

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.needs_root

OPEN = {"tenant": "acme", "scope": ["openai/*"]}
PROD = {"secret": "openai/prod"}
ACME_PROD = {"tenant": "acme", **PROD}
GLOBEX_PROD = {"tenant": "globex", **PROD}


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """Two tenants and their agents."""
    with World() as running:
        yield running


def test_nobody_confines_whom_he_did_not_start(world: World) -> None:
    """A service cannot confine its ancestors of other uids, and with them everybody else whom they started."""
    with Peer(world.socket, uid=AGENT) as agent, Peer(world.socket, uid=STRANGER) as bystander:
        for uid in ({}, {"uid": os.geteuid()}, {"uid": STRANGER}):
            opened = agent.call("run.open", {**OPEN, "anchor": os.getpid(), "confine": True, **uid})
            assert opened.code == "denied"
        assert bystander.call("lease.acquire", GLOBEX_PROD).tail == GLOBEX
        assert agent.call("lease.acquire", ACME_PROD).tail == ACME
        assert world.admin.call("tenant.list").keys["items"]
