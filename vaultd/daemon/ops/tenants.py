"""tenant.*: create, list, show, delete."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vaultd.daemon.ops.pages import page
from vaultd.daemon.ops.rotation import begun, drive
from vaultd.daemon.ops.table import Done, operation
from vaultd.errors import Closed, ConfigError, Invalid, Sealed, StoreError
from vaultd.names import tenant_name

if TYPE_CHECKING:
    from vaultd.daemon.call import Call
    from vaultd.daemon.handling import Deferred, Pending
    from vaultd.vault.tenants import TenantFacts


def _told(facts: TenantFacts) -> dict[str, Any]:
    return {
        "tenant": facts.name,
        "uid": facts.uid.hex(),
        "state": facts.state,
        "created": facts.created,
        "generation": facts.generation,
    }


@operation("tenant.create")
def create(call: Call) -> Pending:
    """A new tenant with keys of its own."""
    call.require_admin()
    created = call.barrier.create_tenant(tenant_name(call.keys["tenant"]), actor=call.actor)
    call.staged(created.receipt)
    return Done({"uid": created.uid.hex()})


@operation("tenant.list")
def list_all(call: Call) -> Pending:
    """Every tenant, by name."""
    call.require_admin()
    barrier = call.barrier
    call.record(None, call.event())
    return Done(page(barrier.tenant_names(), call.keys, lambda uid: _told(barrier.tenant_facts(uid))))


@operation("tenant.show")
def show(call: Call) -> Pending:
    """One tenant: its state, and how much it has. A sealed or closed one tells what can be told without its files."""
    uid = call.allowed("manage", call.keys["tenant"])
    engine, barrier = call.engine, call.barrier
    about = _told(barrier.tenant_facts(uid))
    runs, leases = engine.book.runs.of_tenant(uid, call.now), engine.book.leases.of_tenant(uid, call.now)
    about["live"] = {"runs": len(runs), "leases": len(leases)}
    try:
        secrets = barrier.list(uid)
        about["secrets"] = len(secrets)
        about["versions"] = sum(len(secret.versions) for secret in secrets)
        about["grants"] = len(barrier.grants(uid))
    except (Sealed, Closed, StoreError, ConfigError):
        about["secrets"] = None
    call.record(uid, call.event())
    about["audit"] = {"records": barrier.ledger.domain(uid).sub_seq}
    return Done({"about": about})


@operation("tenant.delete")
def delete(call: Call) -> Pending | Deferred:
    """Crypto-shred a tenant; with `rotate_root` the receipt comes when that has finished the job."""
    call.require_admin()
    engine, barrier = call.engine, call.barrier
    name = tenant_name(call.keys["tenant"])
    if call.keys["confirm"] != name:
        raise Invalid("the confirmation is not the tenant's name", f"repeat it: --yes {name}")
    uid = barrier.uid(name)
    # Taken before anything is deleted: a rotation under way is a conflict, and then nothing has happened yet.
    slices = begun(barrier.rotate_root(actor=call.actor)) if call.keys.get("rotate_root", False) else None
    engine.ended(engine.book.revoke_tenant(uid, call.now), "tenant-deleted")
    try:
        deleted = barrier.delete_tenant(uid, actor=call.actor, with_audit=call.keys.get("with_audit", False))
    except BaseException:
        if slices is not None:
            slices.close()
        raise
    call.staged(deleted.receipt)
    engine.forget_grants(uid)
    if slices is None:
        return Done({"receipt": deleted.shredding.to_dict()})
    return drive(
        call,
        slices,
        lambda _rotated: Done({"receipt": deleted.shredding.after_root_rotation().to_dict()}),
    )
