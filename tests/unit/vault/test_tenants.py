"""Whole tenants: made, listed, sealed, deleted; and what the deletion's receipt says."""

from __future__ import annotations

import errno
import json

import pytest

from tests.support.barrier_world import ADMIN, BarrierWorld
from vaultd.errors import Exists, NotFound, Sealed, StoreError
from vaultd.names import secret_name, tenant_name
from vaultd.store import Fault, MemoryStore
from vaultd.vault import entries

KEY = secret_name("openai/prod")
GRANT = {"id": "grant_1", "service": "agent", "secrets": ["**"]}


@pytest.fixture
def world() -> BarrierWorld:
    world = BarrierWorld()
    world.tenant("acme")
    world.put("acme", KEY, b"mine")
    return world


def disk(world: BarrierWorld) -> MemoryStore:
    assert isinstance(world.store, MemoryStore)
    return world.store


def test_a_name_is_taken_once(world: BarrierWorld) -> None:
    """A second tenant of a name is refused, the first one unharmed."""
    with pytest.raises(Exists):
        world.barrier.create_tenant(tenant_name("acme"), actor=ADMIN)
    assert world.get("acme", KEY) == b"mine"


def test_tenants_are_listed_by_name(world: BarrierWorld) -> None:
    """A listing gives name, uid, time and state, sorted, the same after a restart."""
    for name in ("zeta", "beta"):
        world.tenant(name)
    listed = world.barrier.tenants()
    assert [facts.name for facts in listed] == ["acme", "beta", "zeta"]
    assert {facts.state for facts in listed} == {"open"}
    assert world.barrier.tenant_facts("acme") == listed[0]
    assert world.reopen().barrier.tenants() == listed


def test_many_tenants_in_one_flush(world: BarrierWorld) -> None:
    """Tenants made and filled before a single flush are all there afterwards."""
    for number in range(20):
        name = tenant_name(f"t{number}")
        world.barrier.create_tenant(name, actor=ADMIN)
        world.put(name, KEY, name.encode())
    world = world.reopen()
    assert all(world.get(f"t{number}", KEY) == f"t{number}".encode() for number in range(20))


def test_a_sealed_tenant_stays_sealed(world: BarrierWorld) -> None:
    """A sealed tenant is refused until it is unsealed, across restarts; its neighbours are not."""
    world.tenant("beta")
    world.put("beta", KEY, b"theirs")
    assert world.barrier.seal_tenant("acme", actor=ADMIN) is not None
    world.flush()
    for _ in range(2):
        with pytest.raises(Sealed):
            world.get("acme", KEY)
        assert world.get("beta", KEY) == b"theirs"
        assert world.barrier.tenant_facts("acme").state == "sealed"
        world = world.reopen()
    world.barrier.unseal_tenant("acme", actor=ADMIN)
    assert world.get("acme", KEY) == b"mine"
    assert world.reopen().get("acme", KEY) == b"mine"


def test_a_sealed_tenant_s_trail_goes_on(world: BarrierWorld) -> None:
    """Denials about a sealed tenant are recorded in its trail, readable by the admins."""
    world.barrier.seal_tenant("acme", actor=ADMIN)
    world.flush()
    kinds = [json.loads(body)["kind"] for body in world.bodies("acme")]
    assert kinds == ["tenant.create", "secret.put", "tenant.seal"]


def test_sealing_a_tenant_works_when_halted(world: BarrierWorld) -> None:
    """With no disk to write to, a tenant is sealed in memory all the same, and the answer says it is not recorded."""
    disk(world).arm(Fault(1, errno.EIO, repeat=True))
    with pytest.raises(StoreError):
        world.put("acme", KEY, b"more")
    assert world.barrier.seal_tenant("acme", actor=ADMIN) is None
    with pytest.raises(Sealed):
        world.barrier.tenant("acme")


def test_a_deleted_tenant_is_gone(world: BarrierWorld) -> None:
    """After a delete the name is free, the files gone, the uid unknown; a new tenant of the name starts empty."""
    uid = world.barrier.uid("acme")
    deleted = world.barrier.delete_tenant("acme", actor=ADMIN)
    world.flush()
    assert not any(uid.hex() in path for path in disk(world).disk.files())
    for _ in range(2):
        for known in ("acme", uid):
            with pytest.raises(NotFound):
                world.barrier.tenant(known)
        world = world.reopen()
    assert world.tenant("acme") != uid
    with pytest.raises(NotFound):
        world.get("acme", KEY)
    shredding = deleted.shredding
    assert (shredding.tenant, shredding.uid, shredding.secrets, shredding.versions) == ("acme", uid.hex(), 1, 1)


def test_the_receipt_says_what_remains(world: BarrierWorld) -> None:
    """It names old keyring copies with a slot's secret, old blocks until the root is rotated, and the kept trail."""
    shredding = world.barrier.delete_tenant("acme", actor=ADMIN).shredding
    world.flush()
    remains = " ".join(shredding.remains)
    for said in ("copy of the keyring", "until the root is rotated", "audit trail, readable", "leased before"):
        assert said in remains
    world.rotate_root()
    after = shredding.after_root_rotation()
    assert after.root_rotated
    assert "until the root is rotated" not in " ".join(after.remains)
    assert "copy of the keyring" in " ".join(after.remains)
    assert json.loads(json.dumps(after.to_dict()))["root_rotated"] is True


def test_the_trail_outlives_the_tenant(world: BarrierWorld) -> None:
    """A deleted tenant's trail can be read by its uid, its deletion included, also after the root is rotated."""
    uid = world.barrier.uid("acme")
    world.barrier.delete_tenant("acme", actor=ADMIN)
    world.flush()
    for _ in range(2):
        kinds = [json.loads(body)["kind"] for body in world.bodies(uid)]
        assert kinds == ["tenant.create", "secret.put", "tenant.delete"]
        world.rotate_root()
        world = world.reopen()
    assert [facts.name for facts in world.barrier.tenants(deleted=True)] == ["acme"]


def test_with_audit_the_trail_is_unreadable_too(world: BarrierWorld) -> None:
    """Deleting the audit key as well leaves lines that nothing opens; the chain and the system's trail are unharmed."""
    uid = world.barrier.uid("acme")
    shredding = world.barrier.delete_tenant("acme", actor=ADMIN, with_audit=True).shredding
    world.flush()
    assert shredding.audit == "unreadable"
    world = world.reopen()
    with pytest.raises(NotFound):
        world.bodies(uid)
    assert world.barrier.tenants(deleted=True) == []
    said = [json.loads(body) for body in world.bodies()]
    assert any(body["kind"] == "tenant.delete" and body.get("tenant") == "acme" for body in said)


def test_sealed_and_closed_tenants_can_be_deleted(world: BarrierWorld) -> None:
    """What cannot be opened can be shredded; the receipt then does not pretend to know what was in it."""
    world.barrier.seal_tenant("acme", actor=ADMIN)
    assert world.barrier.delete_tenant("acme", actor=ADMIN).shredding.secrets is None
    world.flush()
    uid = world.tenant("beta")
    world.barrier.close()
    disk(world).disk.poke(f"tenants/{uid.hex()}/log.1", b"rubbish")
    world = BarrierWorld(world.store, seed=9, clock=world.clock)
    assert world.barrier.delete_tenant("beta", actor=ADMIN).shredding.secrets is None
    world.flush()
    assert world.reopen().barrier.tenants() == []


def test_a_deleted_tenant_s_links_are_gone(world: BarrierWorld) -> None:
    """No service is linked to a tenant that is gone, and the service can then be removed."""
    uid = world.barrier.uid("acme")
    world.barrier.add_service({"name": "agent", "uid": 1000}, actor=ADMIN)
    world.barrier.add_grant("acme", GRANT, actor=ADMIN)
    world.barrier.delete_tenant("acme", actor=ADMIN)
    world.flush()
    world = world.reopen()
    assert not world.barrier.linked("agent", uid)
    world.barrier.remove_service("agent", actor=ADMIN)


def test_links_that_a_crash_left_are_tidied(world: BarrierWorld) -> None:
    """Links to a tenant whose deletion was committed but not forgotten are removed at the next unsealing."""
    uid = world.barrier.uid("acme")
    world.barrier.add_service({"name": "agent", "uid": 1000}, actor=ADMIN)
    world.barrier.add_grant("acme", GRANT, actor=ADMIN)
    world.flush()
    barrier = world.barrier
    original = barrier._change
    barrier._change = lambda *_args, **_options: None  # type: ignore[method-assign, assignment, return-value]
    barrier.delete_tenant("acme", actor=ADMIN)
    barrier._change = original  # type: ignore[method-assign]
    world = world.reopen()
    assert world.barrier.system.links == {}
    assert any("vault.tidied" in body for body in world.bodies())
    assert not world.barrier.linked("agent", uid)


def test_names_are_opened_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Listing thousands of tenants page by page opens each name once, until the vault is sealed."""
    world = BarrierWorld()
    for name in ("beta", "acme", "gamma"):
        world.tenant(name)
    opened = []
    inner = entries.open_name
    monkeypatch.setattr(entries, "open_name", lambda *arguments: opened.append(arguments) or inner(*arguments))
    world.barrier.delete_tenant("gamma", actor=ADMIN)
    opened.clear()
    for _ in range(3):
        assert [name for name, _ in world.barrier.tenant_names()] == ["acme", "beta"]
    assert len(opened) == 2
    world.barrier.seal(actor=ADMIN)
    with pytest.raises(Sealed):
        world.barrier.tenant_names()
    world.unseal()
    assert dict(world.barrier.tenant_names()) == {name: world.barrier.uid(name) for name in ("acme", "beta")}
    assert len(opened) == 4
