"""service.*, grant.* and explain: who may what, and why."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any, Final

from vaultd.access.decide import NO_USAGE, Request, explain
from vaultd.access.denials import denied
from vaultd.access.grants import Grant
from vaultd.access.ids import GRANT, new_id
from vaultd.access.instants import SECOND, Now
from vaultd.access.services import Executable, Service
from vaultd.daemon import zones
from vaultd.daemon.ops.pages import page
from vaultd.daemon.ops.table import Done, operation
from vaultd.errors import ConfigError, Conflict, Invalid, NotFound, QuotaExceeded
from vaultd.names import purpose, secret_name, service_name

if TYPE_CHECKING:
    from vaultd.daemon.call import Call
    from vaultd.daemon.handling import Pending

_MOST_GRANTS: Final = 4_096
_MOST_OF_SERVICE: Final = 256
"""Grants of a tenant, and of one service there, that the tenant's own services may add; admins may add more."""


@operation("service.add")
def service_add(call: Call) -> Pending:
    """A workload by what the kernel will say of it."""
    call.require_admin()
    keys = call.keys
    exe = keys.get("exe")
    service = Service(
        name=service_name(keys["service"]),
        uid=keys.get("uid"),
        gid=keys.get("gid"),
        unit=keys.get("unit"),
        exe=_executable(call, exe) if exe is not None else None,
    )
    call.staged(call.barrier.add_service(service.to_dict(), actor=call.actor))
    call.engine.services.add(service)
    return Done()


def _executable(call: Call, path: str) -> Executable:
    """The program's device and inode as they are now.

    Raises:
        ConfigError: this daemon cannot read other processes' executables, so the selector would never match.
        Invalid: there is no such program.
    """
    if call.engine.kernel.features.table().get("peer_exe") != "used":
        raise ConfigError(
            "this daemon may not read other processes' executables, so --exe could not be held",
            "leave --exe out, or give vaultd CAP_SYS_PTRACE; see scripts/systemd/vaultd.service",
        )
    if not os.path.isabs(path):
        raise Invalid("the program's path is not absolute", "give the whole path")
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise Invalid(
            f"no program can be read at {ascii(path)[:80]}", "give the path of the executable itself"
        ) from error
    if not stat.S_ISREG(status.st_mode):
        raise Invalid(f"not a file: {ascii(path)[:80]}", "give the path of the executable itself")
    return Executable(path, status.st_dev, status.st_ino)


@operation("service.list")
def service_list(call: Call) -> Pending:
    """The services, by name."""
    call.require_admin()
    barrier = call.barrier

    def told(service: Service) -> dict[str, Any]:
        told = {key: value for key, value in service.to_dict().items() if value is not None}
        told["service"] = told.pop("name")
        if service.exe is not None:
            told["exe"] = service.exe.path
        return told | {"tenants": len(barrier.system.links.get(service.name, ()))}

    call.record(None, call.event())
    return Done(page(((str(service.name), service) for service in call.engine.services.all()), call.keys, told))


@operation("service.remove")
def service_remove(call: Call) -> Pending:
    """Forget a service; what runs as it ends."""
    call.require_admin()
    name = service_name(call.keys["service"])
    engine = call.engine
    call.staged(call.barrier.remove_service(name, actor=call.actor))
    engine.services.remove(name)
    engine.ended(engine.book.revoke_service(name, call.now), "service-removed")
    return Done()


@operation("grant.add")
def grant_add(call: Call) -> Pending:
    """Allow a service something at a tenant."""
    keys = call.keys
    uid = call.allowed("manage", keys["tenant"])
    engine = call.engine
    raw: dict[str, Any] = {
        "id": new_id(GRANT, engine.random),
        "service": keys["service"],
        "secrets": keys["secrets"],
    }
    for key in ("can", "purposes", "deliver", "max_ttl", "max_uses", "rate", "hours", "tz"):
        if key in keys:
            raw[key] = keys[key]
    if "expires" in keys:
        raw["expires"] = int(keys["expires"] * SECOND)
    grant = Grant.parse(raw, load=zones.load, wall=call.now.settled())
    if not call.is_admin:
        _within_the_tenant(call, uid, grant)
        _few_enough(call, uid, grant.service)
    engine.grants(uid)  # parsed before the change, so that the change can be made in both
    call.staged(call.barrier.add_grant(uid, grant.to_dict(), actor=call.actor))
    engine.grants(uid).add(grant)
    return Done({"grant": grant.id})


def _few_enough(call: Call, uid: bytes, service: str) -> None:
    """A tenant's own admin cannot make the daemon's memory, or the time of its decisions, grow without bound."""
    grants = call.engine.grants(uid)
    if len(grants.all()) >= _MOST_GRANTS or len(grants.of_service(service)) >= _MOST_OF_SERVICE:
        raise QuotaExceeded("the tenant has as many grants as it may give itself", "remove some, or name patterns")


def _within_the_tenant(call: Call, uid: bytes, grant: Grant) -> None:
    """A service that manages a tenant is that tenant's admin: it grants what it likes there, but not to itself, and to
    no service that has no grant there yet.

    Services are the whole vault's: with a grant to any name it could ask which there are, and let in somebody whom
    nobody meant to come to this tenant. An absent one and another tenant's are one answer.
    """
    if grant.service == call.service().name:
        call.deny("a service may not grant to itself", uid)
        raise Conflict("a service may not grant to itself", "an admin of the vault can")
    if not call.barrier.linked(grant.service, uid):
        call.deny("the service has no grant at this tenant, and its manager may not bring it in", uid)
        raise denied()


@operation("grant.list")
def grant_list(call: Call) -> Pending:
    """A tenant's grants."""
    uid = call.allowed("manage", call.keys["tenant"])
    grants = sorted(call.engine.grants(uid).all(), key=lambda one: one.id)
    call.record(uid, call.event())
    return Done(page(((grant.id, grant) for grant in grants), call.keys, _told))


def _told(grant: Grant) -> dict[str, Any]:
    told = {key: value for key, value in grant.to_dict().items() if value is not None and value != []}
    told["grant"] = told.pop("id")
    if grant.expires is not None:
        told["expires"] = grant.expires // SECOND
    return told


@operation("grant.remove")
def grant_remove(call: Call) -> Pending:
    """Take a grant back; leases under it are not renewed any more."""
    uid = call.allowed("manage", call.keys["tenant"])
    engine, grant_id = call.engine, call.keys["grant"]
    engine.grants(uid)
    call.staged(call.barrier.remove_grant(uid, grant_id, actor=call.actor))
    engine.grants(uid).remove(grant_id)
    engine.book.forget_grant(grant_id)
    return Done()


@operation("explain")
def explained(call: Call) -> Pending:
    """Whether a request would be allowed, and which rule decides: the very code that decides is asked."""
    keys = call.keys
    secret, name = secret_name(keys["secret"]), service_name(keys["service"])
    uid = call.allowed("manage", keys["tenant"])
    engine, barrier = call.engine, call.barrier
    if engine.services.get(name) is None and call.is_admin:  # others hear the same of every service without a grant
        raise NotFound("there is no such service", "see: vaultctl service list")
    purpose_name = purpose(keys["purpose"]) if "purpose" in keys else None
    request = Request(keys.get("can", "lease"), name, secret, purpose_name, keys.get("delivery", "fd"), keys.get("ttl"))
    now = call.now
    if "at" in keys:
        at = int(keys["at"] * SECOND)
        now = Now(now.boot, at, at)
    call.record(uid, call.event(secret=secret, extra={"service": str(name)}))
    if not barrier.linked(name, uid):
        reason = f"the service {name} has no grant at this tenant"
        return Done({"allowed": False, "reason": reason, "rule": "service", "details": []})
    found = explain(request, engine.grants(uid).of_service(name), None, NO_USAGE, now)
    told = found.to_dict()
    reply: dict[str, Any] = {
        "allowed": told["allowed"],
        "reason": told["reason"],
        "rule": told["rule"],
        "details": told["grants"],
    }
    if told["grant"] is not None:
        reply["grant"] = told["grant"]
    if told["allowed"] and told["ttl"]:
        reply["ttl"] = told["ttl"]
    try:
        barrier.history(uid, secret)
    except NotFound:
        if told["allowed"] and request.action in ("lease", "rotate"):
            reply |= {"allowed": False, "reason": "a grant allows it, but there is no such secret", "rule": "absent"}
    return Done(reply)
