"""rotate.*: new root key, new tenant key, new value; and running what takes many slices."""

from __future__ import annotations

import asyncio
from contextlib import closing
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from vaultd.daemon.handling import Deferred
from vaultd.daemon.ops.blobs import announced, keep_blob, storable
from vaultd.daemon.ops.later import answering, begin_task
from vaultd.daemon.ops.table import Done, operation
from vaultd.daemon.ops.values import value_of
from vaultd.names import tenant_name

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from vaultd.audit.receipt import Receipt
    from vaultd.daemon.call import Call
    from vaultd.daemon.handling import Pending
    from vaultd.vault.rotation import Rotated
    from vaultd.vault.secrets import Stored


class Recorded(Protocol):
    """What slices give in the end: the receipt of their record is part of it."""

    @property
    def receipt(self) -> Receipt: ...


T = TypeVar("T", bound=Recorded)


def begun(slices: Generator[None, None, T]) -> Generator[None, None, T]:
    """The slices, the first one done. Raises what that refuses: another rotation is under way."""
    next(slices)
    return slices


def drive(call: Call, slices: Generator[None, None, T], done: Callable[[T], Pending]) -> Deferred:
    """Do what has begun slice by slice, others served in between; then answer with `done`."""
    deferred = Deferred()
    begin_task(call, _drive(call, slices, done, deferred))
    return deferred


async def _drive(
    call: Call, slices: Generator[None, None, T], done: Callable[[T], Pending], deferred: Deferred
) -> None:
    with answering(call, deferred), closing(slices):
        while True:
            await asyncio.sleep(0)
            try:
                next(slices)
            except StopIteration as end:
                recorded: T = end.value
                break
        call.staged(recorded.receipt)
        deferred.settle(done(recorded))


def _receipt(rotated: Rotated) -> dict[str, Any]:
    return {
        "generation": rotated.generation,
        "rewrapped": rotated.rewrapped,
        "bytes_before": rotated.before,
        "bytes_after": rotated.after,
    }


def root_receipt(rotated: Rotated) -> dict[str, Any]:
    """What a new root key ends, and what it does not."""
    return {
        "rotated": "root",
        "ends": "what the old root key, or a slot removed before, could open of the keyring written from now on",
        "does_not_end": "tenant keys that somebody already unwrapped with the old root key: rotate those tenants too",
        "rewrapped": rotated.rewrapped,
    }


@operation("rotate.root")
def rotate_root(call: Call) -> Deferred:
    """A new root key under every slot's secret; the tenants' keys are wrapped anew."""
    call.require_admin()
    return drive(
        call,
        begun(call.barrier.rotate_root(actor=call.actor)),
        lambda rotated: Done({"receipt": root_receipt(rotated)}),
    )


@operation("rotate.tenant")
def rotate_tenant(call: Call) -> Deferred:
    """A new key for one tenant; no value is touched."""
    call.require_admin()
    uid = call.barrier.uid(tenant_name(call.keys["tenant"]))
    receipt = {
        "rotated": "tenant",
        "ends": "what the old tenant key could open of the records written from now on",
        "does_not_end": "values whose data keys somebody already unwrapped: rotate those secrets",
    }
    return drive(
        call,
        begun(call.barrier.rotate_tenant(uid, actor=call.actor)),
        lambda rotated: Done({"receipt": receipt | _receipt(rotated)}),
    )


@operation("rotate.secret")
def rotate_secret(call: Call) -> Pending | Deferred:
    """A new value for a secret that exists. Who holds the old one is told; old leases run on."""
    with announced(call) as upload:
        uid, secret = storable(call, rotate=True)

    def told(stored: Stored) -> Pending:
        holders = call.engine.book.leases.of_secret(uid, secret, call.now)
        call.engine.pushes.secret_rotated(call.keys["tenant"], secret, stored.version, holders)
        return Done({"version": stored.version, "holders": len({lease.run.id for lease in holders})})

    if upload is not None:
        return keep_blob(call, upload, uid, rotate=True, told=told)
    with value_of(call) as value:
        stored = call.barrier.put(uid, secret, value, actor=call.actor, kind="rotate.secret")
    call.staged(stored.receipt)
    return told(stored)
