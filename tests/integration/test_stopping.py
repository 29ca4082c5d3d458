"""Stopping harm at the real daemon: seal, revoke, contain what leaks; at once, told, recorded, and by responders."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import PASSPHRASE
from tests.support.peers import Peer
from tests.support.tenants import ACME, AGENT, GLOBEX, NOBODY, RESPONDER, STRANGER, World

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.raw import Answered

pytestmark = pytest.mark.needs_root

OPEN = {"tenant": "acme", "scope": ["openai/*"]}
PROD = {"secret": "openai/prod"}


class Holder:
    """An agent in a run, with a lease, listening."""

    def __init__(self, world: World, uid: int = AGENT, tenant: str = "acme") -> None:
        self.peer = Peer(world.socket, uid=uid)
        opened = self.peer.call("run.open", {"tenant": tenant, "scope": ["openai/*"]}).header
        self.run, self.token = opened["run"], opened["token"]
        leased = self.peer.call("lease.acquire", PROD, run=self.token)
        assert leased.code == ""
        self.lease = leased.header["lease"]
        assert self.peer.call("subscribe", run=self.token).code == ""

    def renew(self) -> Answered:
        return self.peer.call("lease.renew", {"lease": self.lease}, run=self.token)

    def acquire(self) -> Answered:
        return self.peer.call("lease.acquire", PROD, run=self.token)


@pytest.fixture
def holder(world: World) -> Iterator[Holder]:
    """Somebody to be stopped."""
    held = Holder(world)
    yield held
    held.peer.end()


@pytest.fixture
def bystander(world: World) -> Iterator[Holder]:
    """Somebody at the other tenant, who must not notice."""
    held = Holder(world, STRANGER, "globex")
    yield held
    assert held.renew().code == ""
    assert held.acquire().tail == GLOBEX
    held.peer.end()


@pytest.fixture
def responder(world: World) -> Iterator[Peer]:
    """Somebody who may stop harm, without a ticket."""
    with Peer(world.socket, uid=RESPONDER) as peer:
        yield peer


def _last(world: World, tenant: str, kind: str) -> dict[str, object]:
    bodies = [json.loads(line)["body"] for line in world.trail(tenant)]
    found: dict[str, object] = [body for body in bodies if body["kind"] == kind][-1]
    return found


def _revoked(answered: Answered, count: int = 1) -> None:
    assert answered.code == "", answered
    assert answered.header["revoked"] == count
    assert answered.header["recorded"] is True


def test_revoke_a_lease(world: World, holder: Holder, bystander: Holder, responder: Peer) -> None:
    """A revoked lease is dead and its holder told; the run goes on."""
    _revoked(responder.call("lease.revoke", {"lease": holder.lease}))
    pushed = holder.peer.push()
    assert pushed == {"event": "lease.revoked", "lease": holder.lease, "run": holder.run, "reason": "revoked"}
    assert holder.renew().code == "denied"
    assert holder.acquire().tail == ACME
    record = _last(world, "acme", "lease.revoke")
    assert record["lease"] == holder.lease
    assert record["actor"]["uid"] == RESPONDER  # type: ignore[index]  # it is JSON
    again = responder.call("lease.revoke", {"lease": holder.lease})
    assert again.code == "not_found"


def test_revoke_a_run(world: World, holder: Holder, bystander: Holder, responder: Peer) -> None:
    """A revoked run ends with its leases, and its token is nothing any more."""
    _revoked(responder.call("lease.revoke", {"of_run": holder.run}))
    assert [holder.peer.push()["event"] for _ in range(2)] == ["lease.revoked", "run.ended"]
    assert holder.renew().code == "denied"
    assert holder.acquire().code == "denied"
    assert _last(world, "acme", "lease.revoke")["run"] == holder.run


def test_revoke_a_secret(world: World, holder: Holder, bystander: Holder, responder: Peer) -> None:
    """Every lease of one secret ends, whoever holds it; the other tenant's secret of the same name does not."""
    other = Holder(world)
    spare = holder.peer.call("lease.acquire", {"secret": "openai/spare"}, run=holder.token).header["lease"]
    _revoked(responder.call("lease.revoke", {"tenant": "acme", "secret": "openai/prod"}), 2)
    assert holder.peer.push()["event"] == other.peer.push()["event"] == "lease.revoked"
    assert holder.renew().code == other.renew().code == "denied"
    assert holder.peer.call("lease.renew", {"lease": spare}, run=holder.token).code == ""
    record = _last(world, "acme", "lease.revoke")
    assert record["count"] == 2
    assert sorted(record["extra"]["runs"]) == sorted([holder.run, other.run])  # type: ignore[index]  # it is JSON
    other.peer.end()


def test_revoke_a_tenant(world: World, holder: Holder, bystander: Holder) -> None:
    """Everything of a tenant ends: leases and runs, in one record."""
    answered = world.admin.call("lease.revoke", {"tenant": "acme"})
    assert answered["revoked"] == 1
    assert holder.renew().code == holder.acquire().code == "denied"
    assert [holder.peer.push()["event"] for _ in range(2)] == ["lease.revoked", "run.ended"]
    # A tenant whose leases were revoked is open: who may, opens a new run.
    assert holder.peer.call("run.open", OPEN).code == ""


def test_seal_a_tenant(world: World, holder: Holder, bystander: Holder, responder: Peer) -> None:
    """A sealed tenant gives nothing to anybody, says so only to who may know, and stays so until it is unsealed."""
    sealed = responder.call("seal", {"tenant": "acme"})
    assert (sealed.code, sealed.header["recorded"]) == ("", True)
    assert [holder.peer.push()["event"] for _ in range(2)] == ["lease.revoked", "run.ended"]
    assert holder.renew().code == holder.acquire().code == "denied"
    acquire = {"tenant": "acme", **PROD}
    assert holder.peer.call("lease.acquire", acquire).code == "sealed"
    with Peer(world.socket, uid=NOBODY) as nobody, Peer(world.socket, uid=STRANGER) as stranger:
        for peer in (nobody, stranger):
            absent = peer.call("lease.acquire", {"tenant": "nowhere", **PROD})
            assert peer.call("lease.acquire", acquire).frame == absent.frame
    with pytest.raises(Exception, match="sealed"):
        world.admin.get("acme", "openai/prod")
    assert {one["tenant"]: one["state"] for one in world.admin.pages("tenant.list")}["acme"] == "sealed"
    _last(world, "acme", "tenant.seal")  # readable all the same: it is recorded in the tenant's own trail
    assert responder.call("unseal", {"kind": "passphrase", "tenant": "acme"}, PASSPHRASE).code == "denied"
    world.admin.call("unseal", {"kind": "passphrase", "bind": "self", "tenant": "acme"}, PASSPHRASE)
    assert holder.peer.call("lease.acquire", acquire).tail == ACME


def test_responders_stop_and_nothing_else(world: World, holder: Holder, responder: Peer) -> None:
    """Without a ticket a responder stops harm; it reads, lists and changes nothing, and unseals nothing."""
    for op, keys, tail in (
        ("secret.get", {"tenant": "acme", **PROD}, b""),
        ("secret.list", {"tenant": "acme"}, b""),
        ("secret.put", {"tenant": "acme", **PROD}, b"value"),
        ("rotate.secret", {"tenant": "acme", **PROD}, b"value"),
        ("rotate.root", {}, b""),
        ("tenant.list", {}, b""),
        ("tenant.delete", {"tenant": "acme", "confirm": "acme"}, b""),
        ("audit.show", {"tenant": "acme"}, b""),
        ("audit.show", {}, b""),
        ("lease.acquire", {"tenant": "acme", **PROD}, b""),
        ("run.open", OPEN, b""),
        ("login", {"kind": "passphrase"}, PASSPHRASE),
        ("unseal", {"kind": "passphrase"}, PASSPHRASE),
        ("grant.remove", {"tenant": "acme", "grant": world.acme_grant}, b""),
        ("service.remove", {"service": "acme-agent"}, b""),
    ):
        assert responder.call(op, keys, tail).code == "denied", op
    assert responder.call("lease.list").header["items"] == []
    assert responder.call("run.close", {"of_run": holder.run}).header["revoked"] == 1
    assert holder.acquire().code == "denied"


def test_others_stop_nothing(world: World, holder: Holder) -> None:
    """Who is no responder, no admin, and not the holder or its opener, ends nothing."""
    for uid in (NOBODY, STRANGER):
        with Peer(world.socket, uid=uid) as peer:
            for op, keys in (
                ("lease.revoke", {"lease": holder.lease}),
                ("lease.revoke", {"of_run": holder.run}),
                ("lease.revoke", {"tenant": "acme"}),
                ("lease.revoke", {"tenant": "acme", **PROD}),
                ("lease.release", {"lease": holder.lease}),
                ("run.close", {"of_run": holder.run}),
                ("seal", {}),
                ("seal", {"tenant": "acme"}),
            ):
                assert peer.call(op, keys).code == "denied", op
    assert holder.renew().code == ""


def test_rotation_is_told(world: World, holder: Holder) -> None:
    """Who holds a secret hears of its new version; the old lease runs on, the next one has the new value."""
    rotated = world.admin.call("rotate.secret", {"tenant": "acme", **PROD}, b"sk-acme-new")
    assert rotated["holders"] == 1
    pushed = holder.peer.push()
    assert (pushed["event"], pushed["version"]) == ("secret.rotated", rotated["version"])
    assert holder.renew().code == ""
    assert holder.acquire().tail == b"sk-acme-new"
    old = holder.peer.call("lease.acquire", {**PROD, "version": rotated["version"] - 1}, run=holder.token)
    assert old.tail == ACME
    world.admin.call("rotate.secret", {"tenant": "acme", **PROD}, ACME)


def test_destroyed_and_deleted(world: World, holder: Holder) -> None:
    """Leases on a version that is destroyed end, and all of a secret's when it is deleted; later asks are denied."""
    world.admin.put("acme", "openai/doomed", b"one")
    doomed = {"secret": "openai/doomed"}
    first = holder.peer.call("lease.acquire", doomed, run=holder.token).header
    world.admin.put("acme", "openai/doomed", b"two")
    second = holder.peer.call("lease.acquire", doomed, run=holder.token).header
    world.admin.call("secret.destroy", {"tenant": "acme", **doomed, "version": 1})
    assert holder.peer.push()["lease"] == first["lease"]
    assert holder.peer.call("lease.acquire", {**doomed, "version": 1}, run=holder.token).code == "denied"
    assert holder.peer.call("lease.renew", {"lease": second["lease"]}, run=holder.token).code == ""
    with pytest.raises(Exception, match="current"):
        world.admin.call("secret.destroy", {"tenant": "acme", **doomed, "version": 2})
    world.admin.call("secret.delete", {"tenant": "acme", **doomed})
    assert holder.peer.push()["lease"] == second["lease"]
    assert holder.peer.call("lease.acquire", doomed, run=holder.token).code == "denied"
    # A new secret of the name is another one.
    world.admin.put("acme", "openai/doomed", b"three")
    assert holder.peer.call("lease.renew", {"lease": second["lease"]}, run=holder.token).code == "denied"


def test_delete_a_tenant(world: World, bystander: Holder) -> None:
    """A deleted tenant's leases end; a new one of the same name has none of its secrets, grants or trail."""
    world.tenant("brief", openai__prod=b"brief-secret")
    world.grant("brief", "acme-agent", "openai/*")
    held = Holder(world, AGENT, "brief")
    receipt = world.admin.call("tenant.delete", {"tenant": "brief", "confirm": "brief"})["receipt"]
    assert receipt["secrets"] == 1
    assert receipt["remains"]
    assert [held.peer.push()["event"] for _ in range(2)] == ["lease.revoked", "run.ended"]
    assert held.renew().code == held.acquire().code == "denied"
    world.tenant("brief")
    assert held.peer.call("lease.acquire", {"tenant": "brief", **PROD}).code == "denied"
    assert list(world.admin.pages("secret.list", {"tenant": "brief"})) == []
    assert not [line for line in world.trail("brief") if "openai" in line]
    world.admin.call("tenant.delete", {"tenant": "brief", "confirm": "brief", "rotate_root": True, "with_audit": True})
    held.peer.end()


def test_seal_the_vault() -> None:
    """Sealing ends every run, lease and ticket, tells everybody, and is recorded; unsealed, nothing of it is back."""
    with World() as world:
        holder, other = Holder(world), Holder(world, STRANGER, "globex")
        with Peer(world.socket, uid=RESPONDER) as responder:
            sealed = responder.call("seal")
            assert (sealed.code, sealed.header["recorded"]) == ("", True)
        for held in (holder, other):
            events = [held.peer.push()["event"] for _ in range(3)]
            assert events == ["lease.revoked", "run.ended", "vault.sealed"]
            assert held.acquire().code == "sealed"
            assert held.renew().code == "sealed"
        assert world.admin.status()["state"] == "sealed"
        with pytest.raises(Exception, match="sealed"):
            world.admin.call("tenant.list")
        world.unseal()
        for held in (holder, other):
            assert held.acquire().code == "denied"
            assert held.renew().code == "denied"
        assert holder.peer.call("lease.acquire", {"tenant": "acme", **PROD}).tail == ACME
        kinds = [json.loads(line)["body"]["kind"] for line in world.trail()]
        assert kinds.index("vault.seal") > kinds.index("run.ended")
        holder.peer.end()
        other.peer.end()
