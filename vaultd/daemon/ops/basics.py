"""hello, status, subscribe, ack: what anyone may ask, and being told."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from vaultd import __version__
from vaultd.access.denials import denied
from vaultd.crypto.memory import arena_status
from vaultd.daemon.managers import still_manages
from vaultd.daemon.namespaces import warnings_for
from vaultd.daemon.ops.table import Done, operation
from vaultd.daemon.pushes import Topic
from vaultd.errors import AmbiguousService, Denied, QuotaExceeded
from vaultd.protocol.framing import MAX_FRAME
from vaultd.protocol.messages import VERSION
from vaultd.protocol.operations import MAX_VALUE

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaultd.daemon.call import Call
    from vaultd.daemon.handling import Pending

_FEATURES: Final = ["blobs", "memfd", "pipelining", "subscribe", "upload"]
_MOST_TOPICS: Final = 1_024


@operation("hello")
def hello(call: Call) -> Pending:
    """Versions and limits; the same for everybody, so it is counted and not recorded one by one."""
    call.counted()
    return Done(
        {
            "version": __version__,
            "protocol": VERSION,
            "features": _FEATURES,
            "max_frame": MAX_FRAME,
            "max_value": MAX_VALUE,
        }
    )


@operation("status")
def status(call: Call) -> Pending:
    """The vault's state, and who the caller is to us."""
    engine = call.engine
    engine.vaults.look()
    call.counted()
    ledger = engine.vaults.ledger
    keys: dict[str, Any] = {
        "state": engine.vaults.state,
        "version": __version__,
        "protocol": VERSION,
        "kernel": dict(engine.kernel.features.table()),
        "you": _you(call),
    }
    if ledger is not None:
        keys["vault"] = ledger.vault_id.hex()
        keys["checkpoint_key"] = ledger.keyring.checkpoint_public.hex()
    keys["warnings"] = _warnings(call)
    if call.is_admin:
        keys["counts"] = {
            "connections": len(engine.server.connections),
            "runs": len(engine.book.runs),
            "leases": len(engine.book.leases),
            "tickets": len(engine.tickets),
            "uploads": len(engine.blob_uploads),
            "pipes": len(engine.streams),
        }
        memory = arena_status()
        reserve = engine.vaults.reserve
        keys["more"] = {
            "key_memory": {"mapped": memory.mapped, "locked": memory.locked},
            "reserve": {"bytes": reserve.size, "held": reserve.held},
        }
    return Done(keys)


def _you(call: Call) -> dict[str, Any]:
    facts = call.facts
    service: str | None = None
    try:
        service = str(call.service().name)
    except Denied:
        service = None
    except AmbiguousService:
        service = "ambiguous"
    return {
        "uid": facts.uid,
        "gid": facts.gid,
        "pid": facts.pid,
        "service": service,
        "admin": call.is_admin,
        "responder": call.is_responder,
    }


def _warnings(call: Call) -> list[str]:
    engine = call.engine
    warnings = []
    if engine.live.error is not None:
        warnings.append(
            "the configuration as it is now does not hold, the one before is in force: " + engine.live.error
        )
    reserve = engine.vaults.reserve
    if engine.vaults.barrier is not None and not reserve.held:
        warnings.append(f"the {reserve.size} bytes kept in reserve for a full disk are not there: make room")
    warnings += [*engine.surroundings, *engine.notices.values()]
    try:
        warnings += warnings_for(call.connection.peer_process())
    except (Denied, ProcessLookupError):
        pass  # who has ended reads no warning
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        warnings.append(f"whether you are in a container could not be told: {reason}")
    if call.is_admin:
        ledger = engine.vaults.ledger
        if ledger is not None and not ledger.sealed_forward:
            warnings.append(
                "the audit journal is not sealed forward: stop vaultd and run 'vaultctl audit seal-key' to begin that"
            )
        shared = engine.shared_uids()
        if shared:
            warnings.append(
                "one uid is a service of several tenants, so their agents can read each other's memory: "
                + ", ".join(map(str, shared[:8]))
            )
    return [warning[:512] for warning in warnings]


@operation("subscribe")
def subscribe(call: Call) -> Pending:
    """Be told: of the run whose token comes along, of the caller's runs, or (who manages it) of a tenant's."""
    engine = call.engine
    engine.unsealed()
    if engine.pushes.count(call.connection) >= _MOST_TOPICS:
        raise QuotaExceeded("this connection listens to too much already", "open another, or subscribe once per uid")
    connection = call.connection
    if "tenant" in call.keys:
        uid = call.allowed("manage", call.keys["tenant"])
        call.record(uid, call.event())
        # One hears of a tenant for as long as the ticket or the grant lasts, and no longer.
        if call.is_admin:
            right: Callable[[], bool] = lambda: engine.ticket_on(connection, engine.now()) is not None  # noqa: E731
        else:
            right = still_manages(engine, call.service().name, uid)
        engine.pushes.subscribe(connection, Topic("tenant", uid), right)
        return Done()
    if call.run is not None:
        uid = call.run.tenant
        topic = Topic("run", call.run.id)
    else:
        if not call.is_admin and engine.is_inside_run(call.connection):
            raise denied()
        topic = Topic("uid", call.facts.uid)
    call.counted()
    engine.pushes.subscribe(connection, topic)
    return Done()


@operation("ack")
def ack(call: Call) -> Pending:
    """A descriptor arrived: the connection takes note of that itself, before anything reaches this table."""
    call.recorded = True
    return Done()
