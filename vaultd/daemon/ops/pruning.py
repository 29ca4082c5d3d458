"""audit.prune: whole segments off the journal's front, by a checkpoint; others are served while it is looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from vaultd.daemon.ops.rotation import begun, drive
from vaultd.daemon.ops.table import Done, operation
from vaultd.errors import Denied, IntegrityError

if TYPE_CHECKING:
    from collections.abc import Generator

    from vaultd.audit.receipt import Receipt
    from vaultd.daemon.call import Call
    from vaultd.daemon.handling import Deferred, Pending
    from vaultd.vault.pruning import Pruning


class _Pruned(NamedTuple):
    receipt: Receipt
    plan: Pruning
    gone: bool


@operation("audit.prune")
def prune(call: Call) -> Deferred:
    """Remove what lies wholly before a checkpoint, or say what would go."""
    call.require_admin()
    return drive(call, begun(_prune(call)), _told)


def _prune(call: Call) -> Generator[None, None, _Pruned]:
    engine, barrier, trial = call.engine, call.barrier, call.keys.get("dry_run", False)
    try:
        signed = bytes(call.tail).decode()
    except UnicodeDecodeError:
        raise IntegrityError("not a checkpoint as vaultd writes it", "give the file it was written to") from None
    yield
    plan = yield from barrier.plan_pruning(signed)
    if engine.ticket_on(call.connection, engine.now()) is None:
        raise Denied("the admin ticket ended meanwhile", "vaultctl login, then prune again")
    engine.unsealed()
    receipt = None if trial else barrier.prune(plan, actor=call.actor)
    if receipt is not None:
        engine.readers.clear()  # one may stand in what goes
        return _Pruned(receipt, plan, gone=True)
    facts = {"dry_run": trial, "lines": 0, "size": plan.checkpoint.size}
    return _Pruned(engine.record(call.event(public=facts)), plan, gone=False)


def _told(pruned: _Pruned) -> Pending:
    plan = pruned.plan
    keys: dict[str, Any] = {
        "pruned": pruned.gone,
        "lines": plan.lines,
        "bytes": plan.size,
        "segments": plan.segments,
        "begins": plan.base.seq + 1,
        "stays": plan.stays,
    }
    if plan.lines:
        keys |= {"first": plan.first, "last": plan.last}
    return Done(keys)
