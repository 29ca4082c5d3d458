"""Tenants' own admins: services whose grants let them manage, without any ticket.

`Call.allowed` decides where a refusal is an answer, and records it. Here is the quiet question, for operations that
give a manager more of what everybody has of their own: its tenant's runs and leases, and the end of them. Who is no
manager there gets what everybody gets, and no record of a right that it never asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaultd.access.decide import NO_USAGE, Request, decide
from vaultd.errors import AmbiguousService, Closed, Denied, Sealed
from vaultd.names import tenant_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaultd.access.instants import Now
    from vaultd.daemon.call import Call
    from vaultd.daemon.engine import Engine

__all__ = ["managed_tenant", "manages", "still_manages"]


def _may_manage(engine: Engine, service: str, uid: bytes, secret: str | None, now: Now) -> bool:
    """Whether the service may manage the tenant, or one secret of it. Touches no file of a tenant without a link.

    Also in a halted vault: to manage is to stop harm, among others. Raises `Sealed` and `Closed` as the tenant is.
    """
    if not engine.unsealed(stopping=True).linked(service, uid):
        return False
    grants = engine.grants(uid, stopping=True)
    candidates = grants.of_service(service) if secret is None else grants.candidates(service, secret)
    return decide(Request("manage", service, secret), candidates, None, NO_USAGE, now).allowed


def manages(call: Call, uid: bytes, secret: str | None = None) -> bool:
    """Whether the caller is a service that may manage the tenant as a whole, or with `secret` that one secret of it.

    Never inside a run. A sealed or closed tenant is managed by nobody: what lives there was ended with it.
    """
    try:
        return _may_manage(call.engine, call.service().name, uid, secret, call.now)
    except (Denied, AmbiguousService, Sealed, Closed):
        return False


def managed_tenant(call: Call) -> bytes | None:
    """The uid of the tenant that the request names, when the caller manages it as a whole.

    None for everybody else and for every other tenant, there or not, by the same way.
    """
    if "tenant" not in call.keys:
        return None
    uid = call.engine.find_tenant(tenant_name(call.keys["tenant"]))
    return uid if uid is not None and manages(call, uid) else None


def still_manages(engine: Engine, service: str, uid: bytes) -> Callable[[], bool]:
    """A question for later, before each thing that is told: whether the service may still hear of this tenant."""

    def still() -> bool:
        try:
            return _may_manage(engine, service, uid, None, engine.now())
        except (Sealed, Closed):
            return True  # it has a grant there, so it may hear that the tenant is

    return still
