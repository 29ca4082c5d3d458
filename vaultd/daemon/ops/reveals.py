"""Answers that carry a value: opened at the last moment, against the durable record, for a socket that has room."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vaultd.access.denials import denied
from vaultd.daemon.handling import Answer
from vaultd.daemon.memfd import sealed_memfd
from vaultd.daemon.ops.table import operation
from vaultd.errors import StoreError, VaultdError
from vaultd.names import secret_name
from vaultd.protocol.operations import MAX_TAIL

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaultd.audit.receipt import Receipt
    from vaultd.daemon.call import Call
    from vaultd.daemon.handling import Pending
    from vaultd.vault.secrets import SecretRef

__all__ = ["Revealed"]


class Revealed:
    """A decided request for a value.

    Args:
        call: the request.
        receipt: of its record; durable when `complete` is called without an error.
        ref: which value.
        keys: of the reply, beside `memfd`.
        descriptor: the value goes as a sealed memory file.
        still: whether the right to it still holds when the answer leaves: a revocation may have come in between.
        undo: called when it is not released, for whatever reason.
    """

    __slots__ = ("_call", "_keys", "_receipt", "_ref", "_still", "_undo", "descriptor")

    def __init__(
        self,
        call: Call,
        receipt: Receipt,
        ref: SecretRef,
        keys: dict[str, Any],
        *,
        descriptor: bool,
        still: Callable[[], bool] | None = None,
        undo: Callable[[], None] | None = None,
    ) -> None:
        self._call = call
        self._receipt = receipt
        self._ref = ref
        self._keys = keys
        self.descriptor = descriptor
        self._still = still
        self._undo = undo

    def complete(self, error: VaultdError | None) -> Answer:
        """Open the value and hand it out, or say why not."""
        try:
            return self._open(error)
        except BaseException:
            if self._undo is not None:
                self._undo()
            raise

    def _open(self, error: VaultdError | None) -> Answer:
        if error is not None:
            raise error
        call = self._call
        engine = call.engine
        if self._still is not None and not self._still():
            # Between the decision and this instant it was revoked: the record of the decision stands, and this one too.
            engine.try_record(
                call.event("denied", reason="ended before it was released", secret=self._ref.name), self._ref.tenant
            )
            engine.commit_soon()
            raise denied()
        value = engine.unsealed().reveal(self._receipt, self._ref, call.actor)
        if not self.descriptor:
            return Answer(self._keys, secret=value)
        with value, value.view() as view:
            try:
                descriptor = sealed_memfd(view, engine.kernel.features)
            except OSError as problem:
                raise StoreError(
                    "no memory file can be made for the value", "look at the daemon's descriptor limit"
                ) from problem
        return Answer({**self._keys, "memfd": True}, descriptor=descriptor)


def by_descriptor(call: Call, size: int) -> bool:
    """Whether a value of about `size` bytes goes as a memory file: when asked for, or when no tail holds it."""
    return bool(call.keys.get("memfd", False)) or size > MAX_TAIL


@operation("secret.get")
def get(call: Call) -> Pending:
    """An admin reads a value: recorded in the tenant's own trail."""
    call.require_admin()
    secret = secret_name(call.keys["secret"])
    uid = call.allowed("get", call.keys["tenant"], secret)
    barrier = call.barrier
    ref = barrier.prepare_reveal(uid, secret, call.keys.get("version"))
    delivery = "fd" if call.keys.get("memfd", False) else "print"
    event = call.event(secret=secret, version=ref.version, secret_id=ref.secret_id, delivery=delivery)
    receipt = call.record(uid, event)
    keys = {"version": ref.version, "state": str(ref.state)}
    return Revealed(call, receipt, ref, keys, descriptor=by_descriptor(call, barrier.sealed_size(ref)))
