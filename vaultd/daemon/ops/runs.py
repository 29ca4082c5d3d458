"""run.*: opening, claiming, closing and listing runs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from vaultd.access.decide import decide_open
from vaultd.access.denials import denied
from vaultd.access.facts import same_process
from vaultd.access.instants import SECOND
from vaultd.access.scope import Scope
from vaultd.crypto.memory import wipe
from vaultd.daemon.handling import Answer
from vaultd.daemon.managers import managed_tenant, manages
from vaultd.daemon.namespaces import held_by_number, numbers_of, own_depth
from vaultd.daemon.ops.pages import page
from vaultd.daemon.ops.table import Done, Stopped, operation
from vaultd.daemon.processes import is_ancestor, open_process
from vaultd.errors import Denied, Invalid, NotFound, Unsupported, VaultdError
from vaultd.names import purpose, service_name, tenant_name

if TYPE_CHECKING:
    from vaultd.access.run import Run
    from vaultd.access.runs import OpenedRun
    from vaultd.daemon.call import Call
    from vaultd.daemon.handling import Pending
    from vaultd.daemon.kernel import Kernel
    from vaultd.daemon.processes import HeldProcess

__all__ = ["Opened"]


class Opened:
    """A run that was opened: its token leaves once, when the record is durable, and not at all otherwise."""

    __slots__ = ("_call", "_keys", "_opened")
    descriptor = False

    def __init__(self, call: Call, opened: OpenedRun, keys: dict[str, Any]) -> None:
        self._call = call
        self._opened = opened
        self._keys = keys

    def complete(self, error: VaultdError | None) -> Answer:
        """The run's id and token."""
        run, token = self._opened
        try:
            if error is not None:
                self._call.engine.ended(self._call.engine.book.end_run(run), "not-recorded", quiet=True)
                raise error
            if not run.live:
                raise denied()  # revoked, or its anchor died, while the record was being written
            return Answer({**self._keys, "token": bytes(token)})
        finally:
            wipe(token)


@operation("run.open")
def open_run(call: Call) -> Pending:
    """Open a run for one tenant, tied to a process."""
    keys, engine = call.keys, call.engine
    if call.run is not None:
        raise Unsupported("child runs are not there yet", "open the run from outside, or lease within this one")
    name = tenant_name(keys["tenant"])
    named = service_name(keys["service"]) if "service" in keys else None
    purpose_name = purpose(keys["purpose"]) if "purpose" in keys else None
    scope = Scope.parse(keys["scope"], purpose_name)
    uid, service = call.reach(name, None, named)
    decision = decide_open(service.name, scope, engine.grants(uid), call.now)
    if not decision.allowed:
        call.refused(decision, uid, purpose=purpose_name)
    anchor = _anchor(call)
    try:
        opened = engine.book.open_run(
            tenant=uid,
            service=service.name,
            scope=scope,
            opener=call.facts,
            anchor=anchor.identity,
            now=call.now,
            ttl=keys.get("ttl"),
            uid=keys.get("uid"),
            claimable="uid" in keys or not ("anchor" in keys or keys.get("confine", False)),
            confined=keys.get("confine", False),
        )
    except BaseException:
        anchor.close()
        raise
    run = opened.run
    engine.watch_anchor(run, anchor)
    seconds = (run.expires - call.now.boot) // SECOND
    extra = {"anchor": run.anchor.pid, "scope": [str(m.text) for m in scope.patterns], "ttl": seconds, "uid": run.uid}
    call.record(uid, call.event(run=run.id, purpose=purpose_name, extra=extra), keep=(run,))
    return Opened(call, opened, {"run": run.id, "expires_in": seconds})


def _anchor(call: Call) -> HeldProcess:
    """The process that the run is to be tied to, held: the peer, its child, or its ancestor.

    To be confined is to lose rights, for the process and for whatever it starts. So it takes the process itself or one
    that it descends from, and its own uid or the run's: else a service could confine the supervisor that started it,
    and with that everybody else's agents and every admin's shell.

    Raises:
        Denied: another process, or none: one answer for both, so that nobody can ask us which pids exist.
    """
    peer = call.connection.peer_process()
    if "anchor" not in call.keys:
        return peer.dup()
    pid = call.keys["anchor"]
    confine = call.keys.get("confine", False)
    hint = "an anchor is a child, a descendant or an ancestor of the caller"
    if confine:
        hint = "who can be confined is the caller, its child or its descendant, of the caller's uid or the run's"
    try:
        anchor = _process(peer, pid, call.engine.kernel)
    except (ProcessLookupError, OverflowError):
        raise Denied("not a process that a run can be tied to", hint) from None
    related = anchor.is_same(peer.identity) or is_ancestor(peer, anchor, call.engine.kernel)
    if confine:
        related = related and anchor.uid in (call.facts.uid, call.keys.get("uid", call.facts.uid))
    else:
        related = related or is_ancestor(anchor, peer, call.engine.kernel)
    if not related:
        anchor.close()
        raise Denied("not a process that a run can be tied to", hint)
    return anchor


def _process(peer: HeldProcess, pid: int, kernel: Kernel) -> HeldProcess:
    """The process that `pid` names to the peer, held.

    In a container a number means another process than here, and taken for ours it could name one outside. So there only
    the caller and its ancestors inside can be named; children are handed a run by claiming it.

    Raises:
        ProcessLookupError: there is none, or none that may be named; number 1 is nobody's to name but in a container.
    """
    if numbers_of(peer.pid).depth == own_depth():
        if pid <= 1:
            raise ProcessLookupError("no process that a run can be tied to")
        return open_process(pid, kernel)
    found = held_by_number(peer, pid, kernel)
    if found is None:
        raise ProcessLookupError("no such process in the caller's container")
    return found


@operation("run.claim")
def claim(call: Call) -> Pending:
    """Take the anchor's place in a run that was handed over; for who is in the run already, nothing changes."""
    engine = call.engine
    engine.unsealed()
    token = call.token
    if token is None:
        raise Invalid("run.claim needs the run's token", "send it as the request's run")
    try:
        run = engine.book.runs.claimant(token, call.facts, call.now)
    except Denied:
        run = engine.book.find_run(token, call.facts, call.now)
        call.run = run
        call.record(run.tenant, call.event(extra={"claimed": False}))
        return Done(_about(call, run, claimed=False))
    if same_process(run.anchor, call.facts.process):
        # The opener itself looks at its run: it stays claimable for the worker that it is for.
        call.run = run
        call.record(run.tenant, call.event(extra={"claimed": False}))
        return Done(_about(call, run, claimed=False))
    call.run = run
    _rights_of(call, run)
    process = call.connection.peer_process().dup()
    engine.book.claim(token, call.facts, call.now)
    engine.watch_anchor(run, process)
    call.record(run.tenant, call.event(extra={"claimed": True, "anchor": run.anchor.pid}), keep=(run,))
    return Done(_about(call, run, claimed=True))


def _rights_of(call: Call, run: Run) -> None:
    """What was allowed when the run was opened must still be, now that another process takes it."""
    barrier = call.barrier
    if not barrier.linked(run.service, run.tenant):
        call.deny("the service has no grant at this tenant any more", run.tenant)
        raise denied()
    decision = decide_open(run.service, run.scope, call.engine.grants(run.tenant), call.now)
    if not decision.allowed:
        call.refused(decision, run.tenant)


def _about(call: Call, run: Run, *, claimed: bool) -> dict[str, Any]:
    keys: dict[str, Any] = {
        "run": run.id,
        "tenant": call.barrier.name(run.tenant),
        "expires_in": max(0, run.expires - call.now.boot) // SECOND,
        "claimed": claimed,
    }
    if run.scope.purpose is not None:
        keys["purpose"] = str(run.scope.purpose)
    patterns = [str(matcher.text) for matcher in run.scope.patterns]
    if len(patterns) <= 64:
        keys["scope"] = patterns
    return keys


@operation("run.close")
def close(call: Call) -> Pending:
    """End a run and its leases: one's own, one that one opened, a managed tenant's; admins and responders, any."""
    engine = call.engine
    named = call.keys.get("of_run")
    if call.run is not None:
        if named is not None and named != call.run.id:
            raise denied()
        run: Run | None = call.run
    elif named is None:
        raise Invalid("no run is named", "send the run's token, or its id as of_run")
    elif call.is_responder or call.is_admin:
        run = engine.book.runs.get(named, call.now)
        if run is None:
            raise NotFound("there is no such live run", "see: vaultctl runs")
    else:
        if engine.is_inside_run(call.connection):
            raise denied()
        run = engine.book.runs.get(named, call.now)
        if run is None or not manages(call, run.tenant):
            run = engine.book.runs.owned(named, call.facts.uid, call.now)
    if run is None:
        raise denied()
    ended = engine.book.end_run(run)
    engine.ended(ended, "closed", quiet=True)
    event = call.event(run=run.id, total=len(ended.leases))
    recorded = engine.try_record(event, run.tenant, ended=ended.runs)
    call.recorded = True
    return Stopped({"revoked": len(ended.leases)}, recorded=recorded, owed=engine.owed)


@operation("run.list")
def list_all(call: Call) -> Pending:
    """Live runs: all for admins, a tenant's for who manages it, for others those that they opened or run in."""
    engine, barrier = call.engine, call.barrier
    uid: bytes | None = None
    if call.is_admin:
        uid = barrier.uid(tenant_name(call.keys["tenant"])) if "tenant" in call.keys else None
        runs = engine.book.runs.of_tenant(uid, call.now) if uid is not None else engine.book.runs.all(call.now)
    elif call.run is not None:
        runs = [call.run]
    else:
        if engine.is_inside_run(call.connection):
            raise denied()
        uid = managed_tenant(call)
        if uid is not None:
            runs = engine.book.runs.of_tenant(uid, call.now)
        else:
            runs = engine.book.runs.of_uid(call.facts.uid, call.now)
            if "tenant" in call.keys:
                name = tenant_name(call.keys["tenant"])
                runs = [run for run in runs if barrier.name(run.tenant) == name]
    runs.sort(key=lambda run: (run.opened, run.id))
    if call.is_admin or uid is not None:
        call.record(uid, call.event())
    else:
        call.counted()
    return Done(page(((f"{run.opened:020d}.{run.id}", run) for run in runs), call.keys, partial(_listed, call)))


def _listed(call: Call, run: Run) -> dict[str, Any]:
    return {
        "run": run.id,
        "tenant": call.barrier.name(run.tenant),
        "service": str(run.service),
        "purpose": str(run.scope.purpose) if run.scope.purpose is not None else None,
        "uid": run.uid,
        "anchor": {"pid": run.anchor.pid},
        "scope": [str(matcher.text) for matcher in run.scope.patterns][:16],
        "leases": len(call.engine.book.leases.of_run(run, call.now)),
        "opened": run.opened_wall // SECOND,
        "expires_in": max(0, run.expires - call.now.boot) // SECOND,
        "implicit": run.implicit,
        "claimable": run.claimable,
    }
