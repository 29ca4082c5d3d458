"""lease.*: the way that a value takes to an agent, and the ways to take it back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vaultd.access.decide import Decision, Request, decide
from vaultd.access.denials import denied
from vaultd.access.leases import Leased
from vaultd.access.scope import Scope
from vaultd.crypto.memory import wipe
from vaultd.daemon.managers import managed_tenant, manages
from vaultd.daemon.namespaces import parent_inside
from vaultd.daemon.ops.inside import run_below, tenant_of_run
from vaultd.daemon.ops.pages import page
from vaultd.daemon.ops.ranges import Wanted
from vaultd.daemon.ops.reveals import Release, Revealed, by_descriptor
from vaultd.daemon.ops.table import Done, Stopped, operation
from vaultd.errors import Denied, NotFound
from vaultd.names import purpose, secret_name, service_name, tenant_name

if TYPE_CHECKING:
    from vaultd.access.book import Ended
    from vaultd.access.leases import Lease
    from vaultd.access.run import Run
    from vaultd.daemon.call import Call
    from vaultd.daemon.handling import Deferred, Pending
    from vaultd.daemon.processes import HeldProcess
    from vaultd.names import SecretName
    from vaultd.vault.secrets import SecretRef

_LEASABLE = ("current", "previous")


@operation("lease.acquire")
def acquire(call: Call) -> Pending | Deferred:
    """Decide, enter the lease, record it; the value is opened when the record is durable."""
    keys, engine = call.keys, call.engine
    secret = secret_name(keys["secret"])
    purpose_name = purpose(keys["purpose"]) if "purpose" in keys else None
    delivery = keys.get("delivery", "fd")
    if call.run is not None:
        uid, service = tenant_of_run(call, call.run, secret=secret), call.run.service
        scope: Scope | None = call.run.scope
    else:
        uid, found = call.reach(
            tenant_name(keys.get("tenant")), secret, service_name(keys["service"]) if "service" in keys else None
        )
        service, scope = found.name, None
    candidates = engine.grants(uid).candidates(service, secret)
    again = call.run is not None and _takes_anew(call, call.run, secret)
    request = Request("lease", service, secret, purpose_name, delivery, keys.get("ttl"), renewal=again)
    run, anchor = (call.run, None) if call.run is not None else _implicit(call, uid, service)
    try:
        decision = decide(request, candidates, scope, engine.book.usage(run), call.now)
        if not decision.allowed:
            call.refused(decision, uid, secret=secret, purpose=purpose_name, delivery=delivery)
        ref = _found(call, uid, secret, decision)
        if run is None:
            if anchor is None:
                raise denied()
            held, anchor = anchor, None
            run = _open_implicit(call, uid, service, held)
    finally:
        if anchor is not None:
            anchor.close()
    return _entered(call, run, uid, request, decision, ref)


def _takes_anew(call: Call, run: Run, secret: SecretName) -> bool:
    """Whether this goes on with a lease that the run held when the daemon before this one ended: like a renewal."""
    version = call.keys.get("version")
    if version is None or not run.anew:
        return False
    try:
        return (call.barrier.history(run.tenant, secret).id, version) in run.anew
    except NotFound:
        return False


def _implicit(call: Call, uid: bytes, service: str) -> tuple[Run | None, HeldProcess | None]:
    """The implicit run of this peer at this tenant, or the process that a new one is to be tied to."""
    process = call.connection.peer_process()
    if call.keys.get("anchor", "self") == "parent":
        try:
            parent = parent_inside(process, call.engine.kernel, "use: vaultctl run")
        except ProcessLookupError:
            raise Denied("the process that connected has ended", "connect from a process that stays") from None
        if parent is None or parent.pid <= 1:
            raise Denied("the caller's parent is no process that a lease could be tied to", "use: vaultctl run")
        anchor = parent
    else:
        anchor = process.dup()
    run = call.engine.book.runs.implicit(uid, service, call.facts, anchor.identity, call.now)
    if run is not None:
        anchor.close()
        return run, None
    return None, anchor


def _open_implicit(call: Call, uid: bytes, service: Any, anchor: HeldProcess) -> Run:
    engine = call.engine
    try:
        opened = engine.book.open_run(
            tenant=uid,
            service=service,
            scope=Scope.parse(["**"]),
            opener=call.facts,
            anchor=anchor.identity,
            now=call.now,
            implicit=True,
        )
    except BaseException:
        anchor.close()
        raise
    wipe(opened.token)  # an implicit run works from its anchor's session alone
    engine.watch_anchor(opened.run, anchor)
    return opened.run


def _found(call: Call, uid: bytes, secret: SecretName, decision: Decision) -> SecretRef:
    """The version that is meant. One that is not there, or not leasable any more, gets the constant answer."""
    try:
        ref = call.barrier.prepare_reveal(uid, secret, call.keys.get("version"))
    except NotFound:
        reason = "no such secret or version"
    else:
        if str(ref.state) in _LEASABLE:
            return ref
        reason = f"the version is {ref.state}"
    call.engine.book.charge_refused(decision, call.now)
    call.deny(reason, uid, secret=secret)
    raise denied()


def _entered(
    call: Call, run: Run, uid: bytes, request: Request, decision: Decision, ref: SecretRef
) -> Pending | Deferred:
    engine = call.engine
    wanted = Wanted.of(call, ref)
    leased = Leased(ref.name, ref.secret_id, ref.version)
    lease = engine.book.acquire(run, request, decision, leased, call.now)
    engine.schedule()
    event = call.event(
        run=run.id,
        purpose=lease.purpose,
        secret=ref.name,
        version=ref.version,
        lease=lease.id,
        delivery=lease.delivery,
        extra={"grant": lease.grant, "ttl": decision.ttl, **({"anew": True} if request.renewal else {})},
        secret_id=ref.secret_id,
    )
    receipt = call.record(uid, event, charged=engine.kept.charged(run, decision.grant))
    keys: dict[str, Any] = {
        "lease": lease.id,
        "run": run.id,
        "secret": ref.name,
        "version": ref.version,
        "expires_in": lease.expires_in(call.now),
        "max_ttl": lease.max_ttl,
        "delivery": lease.delivery,
    }
    release = Release(call, receipt, ref, still=lambda: engine.is_live(lease), undo=lambda: engine.let_go(lease))
    if wanted is not None:
        return wanted.deliver(release, keys, owner=lease, right=lambda: engine.is_live(lease))
    return Revealed(release, keys, descriptor=by_descriptor(call, call.barrier.sealed_size(ref)))


def _lease(call: Call) -> Lease:
    """The lease that the request names, when the caller holds it; raises the constant denial."""
    if call.run is None and call.engine.is_inside_run(call.connection):
        raise denied()  # of an implicit run, taken outside by somebody of the same session
    lease = call.engine.book.lease_in(call.keys["lease"], call.run, call.facts, call.now)
    if not call.engine.anchor_lives(lease.run):
        raise denied()
    return lease


@operation("lease.read")
def read(call: Call) -> Pending | Deferred:
    """A range of what is leased, under the right that the lease is; on record as its acquisition was."""
    engine, lease = call.engine, _lease(call)
    uid = lease.run.tenant
    ref = call.barrier.prepare_reveal(uid, secret_name(lease.secret), lease.version)
    wanted = Wanted.range_of(call, ref)
    event = call.event(
        run=lease.run.id,
        purpose=lease.purpose,
        secret=ref.name,
        version=ref.version,
        lease=lease.id,
        delivery=lease.delivery,
        extra=wanted.facts(),
        secret_id=ref.secret_id,
    )
    release = Release(call, call.record(uid, event), ref, still=lambda: engine.is_live(lease))
    return wanted.deliver(release, {}, owner=lease, right=lambda: engine.is_live(lease))


@operation("lease.renew")
def renew(call: Call) -> Pending:
    """Let a lease go on, if its grants still say so. Rights are checked anew: against them, and the peer."""
    engine, book = call.engine, call.engine.book
    engine.unsealed()
    lease = _lease(call)
    uid, run = lease.run.tenant, lease.run
    service = engine.services.get(run.service)
    if service is None or not call.barrier.linked(run.service, uid):
        call.deny("the service has no grant at this tenant any more", uid, secret=lease.secret)
        raise denied()
    request = book.renewal(lease, call.keys.get("ttl"))
    candidates = engine.grants(uid).candidates(run.service, lease.secret)
    decision = decide(request, candidates, run.scope, book.usage(run), call.now)
    if not decision.allowed:
        call.refused(decision, uid, secret=lease.secret, lease=lease.id)
    book.renew(lease, decision, call.now)
    engine.schedule()
    event = call.event(
        run=run.id, secret=lease.secret, version=lease.version, lease=lease.id, extra={"ttl": decision.ttl}
    )
    call.record(uid, event)
    return Done({"expires_in": lease.expires_in(call.now)})


@operation("lease.release")
def release(call: Call) -> Pending:
    """Give a lease back before its time."""
    engine = call.engine
    engine.unsealed(stopping=True)
    lease = _lease(call)
    engine.ended(engine.book.release(lease), "released")
    event = call.event(run=lease.run.id, secret=lease.secret, version=lease.version, lease=lease.id)
    recorded = engine.try_record(event, lease.run.tenant, let_go=(lease,))
    call.recorded = True
    return Stopped(recorded=recorded, owed=engine.owed)


@operation("lease.list")
def list_all(call: Call) -> Pending:
    """Live leases: all for admins, a tenant's for who manages it, their own for others; within a run, also those of the
    runs below."""
    engine, barrier = call.engine, call.barrier
    leases = engine.book.leases
    uid: bytes | None = None
    if call.is_admin:
        uid = barrier.uid(tenant_name(call.keys["tenant"])) if "tenant" in call.keys else None
        found = leases.of_tenant(uid, call.now) if uid is not None else leases.all(call.now)
    elif call.run is not None:
        found = [lease for run in call.run.subtree() for lease in leases.of_run(run, call.now)]
    else:
        if engine.is_inside_run(call.connection):
            raise denied()
        uid = managed_tenant(call)
        if uid is not None:
            found = leases.of_tenant(uid, call.now)
        else:
            found = engine.book.leases_of_uid(call.facts.uid, call.now)
            if "tenant" in call.keys:
                name = tenant_name(call.keys["tenant"])
                found = [lease for lease in found if barrier.name(lease.run.tenant) == name]
    lives = {run: engine.anchor_lives(run) for run in {lease.run for lease in found}}
    found = sorted((lease for lease in found if lives[lease.run]), key=lambda one: (one.issued, one.id))
    if call.is_admin or uid is not None:
        call.record(uid, call.event())
    else:
        call.counted()
    items = ((f"{lease.issued:020d}.{lease.id}", lease) for lease in found)
    return Done(
        page(items, call.keys, lambda lease: {**lease.to_dict(call.now), "tenant": barrier.name(lease.run.tenant)})
    )


@operation("lease.revoke")
def revoke(call: Call) -> Pending:
    """Take back: one lease, a run with its leases, all leases of a secret, everything of a tenant."""
    keys, engine, book = call.keys, call.engine, call.engine.book
    if not (call.is_responder or call.is_admin):
        return _revoke_managed(call) or _revoke_own(call)
    barrier = call.engine.vaults.require()
    if barrier.sealed:
        engine.unsealed()
    if "lease" in keys:
        found = book.leases.get(keys["lease"], call.now)
        if found is None:
            raise NotFound("there is no such live lease", "see: vaultctl leases")
        return _revoked(call, book.release(found), found.run.tenant, lease=found.id, secret=found.secret)
    if "of_run" in keys:
        run = book.runs.get(keys["of_run"], call.now)
        if run is None:
            raise NotFound("there is no such live run", "see: vaultctl runs")
        return _revoked(call, book.end_run(run), run.tenant, run=run.id)
    uid = barrier.uid(tenant_name(keys["tenant"]))
    if "secret" in keys:
        secret = secret_name(keys["secret"])
        return _revoked(call, book.revoke_secret(uid, secret), uid, secret=secret)
    return _revoked(call, book.revoke_tenant(uid, call.now), uid)


def _revoke_managed(call: Call) -> Pending | None:
    """What a manager takes back at its tenant: anything, or with a grant over some secrets the leases on those.

    None when the request is for nothing that the caller manages; what is foreign and what is absent go on alike.
    """
    keys, engine, book = call.keys, call.engine, call.engine.book
    engine.unsealed(stopping=True)
    if "lease" in keys:
        lease = book.leases.get(keys["lease"], call.now)
        if lease is not None and manages(call, lease.run.tenant, lease.secret):
            return _revoked(call, book.release(lease), lease.run.tenant, lease=lease.id, secret=lease.secret)
        return None
    if "of_run" in keys:
        run = book.runs.get(keys["of_run"], call.now)
        if run is not None and manages(call, run.tenant):
            return _revoked(call, book.end_run(run), run.tenant, run=run.id)
        return None
    uid = engine.find_tenant(tenant_name(keys["tenant"]))
    secret = secret_name(keys["secret"]) if "secret" in keys else None
    if uid is None or not manages(call, uid, secret):
        return None
    if secret is not None:
        return _revoked(call, book.revoke_secret(uid, secret), uid, secret=secret)
    return _revoked(call, book.revoke_tenant(uid, call.now), uid)


def _revoke_own(call: Call) -> Pending:
    """Who holds a lease or opened a run may end it, and a run what is below it; all else is the constant denial."""
    keys, engine, book = call.keys, call.engine, call.engine.book
    engine.unsealed(stopping=True)
    if "lease" in keys:
        lease = _below(call, keys["lease"]) or _lease(call)
        return _revoked(call, book.release(lease), lease.run.tenant, lease=lease.id, secret=lease.secret)
    if "of_run" in keys and call.run is not None:
        run = run_below(call, call.run, keys["of_run"])
        return _revoked(call, book.end_run(run), run.tenant, run=run.id)
    if "of_run" in keys and not engine.is_inside_run(call.connection):
        run = book.runs.owned(keys["of_run"], call.facts.uid, call.now)
        return _revoked(call, book.end_run(run), run.tenant, run=run.id)
    raise denied()


def _below(call: Call, lease_id: str) -> Lease | None:
    """The live lease of that id in a run below the caller's."""
    lease = call.engine.book.leases.get(lease_id, call.now)
    return lease if lease is not None and call.run is not None and call.run in lease.run.lineage() else None


def _revoked(call: Call, ended: Ended, uid: bytes, **facts: Any) -> Pending:
    """One record with the count and the runs' ids, whatever was revoked; then the holders hear of it."""
    engine = call.engine
    runs = sorted({lease.run.id for lease in ended.leases} | {run.id for run in ended.runs})
    facts["extra"] = {"runs": runs[:256], "run_count": len(runs)}
    event = call.event(total=len(ended.leases), **facts)
    recorded = engine.try_record(event, uid, ended=ended.runs, let_go=ended.leases)
    call.recorded = True
    engine.ended(ended, "revoked", quiet=True)
    return Stopped({"revoked": len(ended.leases)}, recorded=recorded, owed=engine.owed)
