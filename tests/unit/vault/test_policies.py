"""Services, grants, links and kept runs: what access decides by, sealed and changed as one."""

from __future__ import annotations

import json

import pytest

from tests.support.barrier_world import ADMIN, BarrierWorld
from vaultd.audit.body import Event
from vaultd.errors import Conflict, Exists, Internal, NotFound

AGENT = {"name": "agent", "uid": 1000, "unit": None}


def grant(number: int, service: str = "agent") -> dict[str, object]:
    return {"id": f"grant_{number}", "service": service, "secrets": ["openai/*"], "max_ttl": 300, "rate": [5, 60]}


@pytest.fixture
def world() -> BarrierWorld:
    world = BarrierWorld()
    world.tenant("acme")
    world.barrier.add_service(AGENT, actor=ADMIN)
    return world


def test_services_are_kept(world: BarrierWorld) -> None:
    """A service is there after a restart exactly as it was given; its name is taken once; removed it is gone."""
    with pytest.raises(Exists):
        world.barrier.add_service({"name": "agent", "uid": 2}, actor=ADMIN)
    world = world.reopen()
    assert world.barrier.services() == {"agent": AGENT}
    world.barrier.remove_service("agent", actor=ADMIN)
    with pytest.raises(NotFound):
        world.barrier.remove_service("agent", actor=ADMIN)
    assert world.reopen().barrier.services() == {}


def test_a_grant_links_its_service(world: BarrierWorld) -> None:
    """The first grant links service and tenant, the last one's removal unlinks them, at once and after a restart."""
    uid = world.barrier.uid("acme")
    assert not world.barrier.linked("agent", uid)
    for number in (1, 2):
        world.barrier.add_grant("acme", grant(number), actor=ADMIN)
    world = world.reopen()
    assert world.barrier.linked("agent", uid)
    assert list(world.barrier.grants("acme").values()) == [grant(1), grant(2)]
    world.barrier.remove_grant("acme", "grant_1", actor=ADMIN)
    assert world.barrier.linked("agent", uid)
    world.barrier.remove_grant("acme", "grant_2", actor=ADMIN)
    assert not world.barrier.linked("agent", uid)
    assert not world.reopen().barrier.linked("agent", uid)


def test_a_link_is_of_one_service_at_one_tenant(world: BarrierWorld) -> None:
    """Nobody else is linked by it: not another service here, not this one elsewhere."""
    other = world.tenant("beta")
    world.barrier.add_service({"name": "batch", "uid": 2}, actor=ADMIN)
    world.barrier.add_grant("acme", grant(1), actor=ADMIN)
    assert world.barrier.linked("agent", world.barrier.uid("acme"))
    assert not world.barrier.linked("batch", world.barrier.uid("acme"))
    assert not world.barrier.linked("agent", other)


def test_asking_for_a_link_reads_no_file(world: BarrierWorld) -> None:
    """The index answers from memory: the tenant is not opened for it, sealed or gone it may be."""
    uid = world.barrier.uid("acme")
    world.barrier.add_grant("acme", grant(1), actor=ADMIN)
    world = world.reopen()
    assert world.barrier.linked("agent", uid)
    assert world.barrier._tenants == {}


def test_impossible_grants_change_nothing(world: BarrierWorld) -> None:
    """A grant for no service, a taken id and an unknown id are refused; neither log gets a record."""
    world.barrier.add_grant("acme", grant(1), actor=ADMIN)
    heads = (world.barrier.tenant("acme").log.head, world.barrier.ledger.system_log.head)
    for call, error in (
        (lambda: world.barrier.add_grant("acme", grant(2, "nobody"), actor=ADMIN), NotFound),
        (lambda: world.barrier.add_grant("acme", grant(1), actor=ADMIN), Exists),
        (lambda: world.barrier.remove_grant("acme", "grant_9", actor=ADMIN), NotFound),
    ):
        with pytest.raises(error):
            call()
    assert heads == (world.barrier.tenant("acme").log.head, world.barrier.ledger.system_log.head)


def test_a_service_with_grants_is_not_removed(world: BarrierWorld) -> None:
    """Else a service that is added again under the name would find grants that nobody gave it."""
    world.barrier.add_grant("acme", grant(1), actor=ADMIN)
    with pytest.raises(Conflict, match="1 tenant"):
        world.barrier.remove_service("agent", actor=ADMIN)
    world.barrier.remove_grant("acme", "grant_1", actor=ADMIN)
    world.barrier.remove_service("agent", actor=ADMIN)


def test_both_logs_have_one_line(world: BarrierWorld) -> None:
    """Grant and link are vouched for by a single line of the journal, so that neither is ever there alone."""
    world.flush()
    before = world.barrier.ledger.journal.durable.seq
    world.barrier.add_grant("acme", grant(1), actor=ADMIN)
    world.flush()
    journal = world.barrier.ledger.journal
    assert journal.durable.seq == before + 1
    raw = list(journal.raw_from(journal.begin.place))[-1][0]
    assert {head[0] for head in json.loads(raw)["heads"]} >= {world.barrier.uid("acme").hex(), bytes(16).hex()}


def test_runs_are_kept_with_their_record(world: BarrierWorld) -> None:
    """A run is there after a restart until it is dropped; unknown ones are no error; the record is the tenant's."""
    run = {"id": "run_a", "tenant": world.barrier.uid("acme"), "token": b"h" * 32, "uses": {"x": 1}}
    world.barrier.keep_runs(Event("run.open", "ok", ADMIN, run="run_a"), tenant="acme", keep=[run])
    world = world.reopen()
    assert world.barrier.runs() == {"run_a": run}
    world.barrier.keep_runs(
        Event("run.close", "ok", ADMIN, run="run_a"), tenant="acme", drop=["run_a", "run_b", "run_a"]
    )
    world.barrier.keep_runs(Event("run.close", "ok", ADMIN, run="run_b"), tenant="acme", drop=["run_b"])
    world = world.reopen()
    assert world.barrier.runs() == {}
    assert [json.loads(body)["kind"] for body in world.bodies("acme")][-3:] == ["run.open", "run.close", "run.close"]


def test_a_change_that_cannot_be_said_leaves_nothing_behind(world: BarrierWorld) -> None:
    """When the second of two records cannot be packed, the first one is not vouched for by whatever comes next."""
    head = world.barrier.ledger.system_log.head
    with pytest.raises(Internal):
        world.barrier.keep_runs(Event("run.open", "ok", ADMIN), keep=[{"id": "run_a"}, {"id": "run_b", "share": 0.5}])
    assert world.barrier.ledger.system_log.head == head
    assert world.barrier.runs() == {}
    world.barrier.add_service({"name": "batch", "uid": 2}, actor=ADMIN)
    world = world.reopen()
    assert world.barrier.runs() == {}
    assert set(world.barrier.services()) == {"agent", "batch"}
