"""What a request inside a run may be about: the run's tenant, narrower runs, and what was opened in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaultd.access.children import refusal
from vaultd.access.denials import denied
from vaultd.access.facts import same_session
from vaultd.daemon.processes import is_ancestor
from vaultd.errors import Denied
from vaultd.names import tenant_name

if TYPE_CHECKING:
    from typing import Any

    from vaultd.access.run import Run
    from vaultd.access.scope import Scope
    from vaultd.daemon.call import Call
    from vaultd.daemon.processes import HeldProcess

__all__ = ["child_scope", "held_inside", "run_below", "tenant_of_run"]


def tenant_of_run(call: Call, run: Run, **facts: Any) -> bytes:
    """The run's tenant, when the request names it or none; another one, there or not, gets the constant answer."""
    asked = call.keys.get("tenant")
    if asked is not None and call.engine.find_tenant(tenant_name(asked)) != run.tenant:
        call.deny("outside the run's tenant", run.tenant, tenant=asked, **facts)
        raise denied()
    return run.tenant


def child_scope(call: Call, parent: Run, asked: Scope) -> Scope:
    """The scope of the child run that the request asks for, when it lies within its parent.

    The parent's own rights are asked anew, as at a claim: without a link to the tenant nothing is left to hand down.

    Raises:
        Denied: it reaches beyond the parent; the hint, to one who is in the run, says in what.
    """
    tenant_of_run(call, parent)
    if call.keys.get("service", parent.service) != parent.service:
        call.deny("another service than the run's", parent.tenant)
        raise denied()
    if not call.barrier.linked(parent.service, parent.tenant):
        call.deny("the service has no grant at this tenant any more", parent.tenant)
        raise denied()
    refused = refusal(parent, asked, call.facts.uid, call.keys.get("uid", call.facts.uid))
    if refused is not None:
        call.deny(refused.reason, parent.tenant, extra={"scope": [str(m.text) for m in asked.patterns]})
        raise refused.error()
    return asked.completed(parent.scope)


def held_inside(call: Call, parent: Run, anchor: HeldProcess) -> HeldProcess:
    """The process that a child run is to be tied to, when it is inside the parent: in its anchor's session, or started
    by it, however far down; or the one that asks, which is.

    Tied to a process outside, its token would work in a session that its parent's does not.

    Raises:
        Denied: it is outside; it was closed.
    """
    peer = call.connection.peer_process()
    within = anchor.is_same(peer.identity) or same_session(anchor.identity.session, parent.anchor.session)
    if not within:
        above = call.engine.anchor_of(parent)
        within = above is not None and (
            anchor.is_same(above.identity) or is_ancestor(above, anchor, call.engine.kernel)
        )
    if within:
        return anchor
    anchor.close()
    raise Denied("not a process that a run can be tied to", "a child run's anchor is a process inside the run above it")


def run_below(call: Call, run: Run, run_id: str) -> Run:
    """The live run of that id that was opened in `run`, or in one below it, or is it.

    Raises:
        Denied: every other, there or not.
    """
    found = call.engine.book.runs.get(run_id, call.now)
    if found is None or run not in found.lineage():
        raise denied()
    return found
