"""Answers that carry a value: opened at the last moment, against the durable record, for a socket that has room."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from vaultd.access.denials import denied
from vaultd.daemon.handling import Answer
from vaultd.daemon.memfd import sealed_memfd
from vaultd.errors import StoreError, VaultdError
from vaultd.protocol.operations import MAX_TAIL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vaultd.audit.receipt import Receipt
    from vaultd.daemon.call import Call
    from vaultd.vault.secrets import SecretRef

__all__ = ["Release", "Revealed", "by_descriptor"]


class Release:
    """The right to hand one value out, looked at once more when the answer is made.

    Args:
        call: the request.
        receipt: of its record; durable when `hold` is called without an error.
        ref: which value.
        still: whether the right to it still holds when the answer leaves: a revocation may have come in between.
        undo: called when it is not released, for whatever reason.
    """

    __slots__ = ("_still", "_undo", "call", "receipt", "ref")

    def __init__(
        self,
        call: Call,
        receipt: Receipt,
        ref: SecretRef,
        *,
        still: Callable[[], bool] | None = None,
        undo: Callable[[], None] | None = None,
    ) -> None:
        self.call = call
        self.receipt = receipt
        self.ref = ref
        self._still = still
        self._undo = undo

    @contextmanager
    def hold(self, error: VaultdError | None) -> Iterator[None]:
        """A block that releases the value; undone when that, or this, raises.

        Raises:
            VaultdError: `error`, why the record is not durable.
            Denied: the right has ended meanwhile.
        """
        try:
            self._check(error)
            yield
        except BaseException:
            if self._undo is not None:
                self._undo()
            raise

    def _check(self, error: VaultdError | None) -> None:
        if error is not None:
            raise error
        if self._still is not None and not self._still():
            # Between the decision and this instant it was revoked: the record of the decision stands, and this one too.
            engine, ref = self.call.engine, self.ref
            event = self.call.event("denied", reason="ended before it was released", secret=ref.name)
            engine.try_record(event, ref.tenant)
            engine.commit_soon()
            raise denied()


class Revealed:
    """A decided request for a value that is kept with its record, all of it.

    Args:
        release: the right to it.
        keys: of the reply, beside `memfd`.
        descriptor: the value goes as a sealed memory file.
    """

    __slots__ = ("_keys", "_release", "descriptor")

    def __init__(self, release: Release, keys: dict[str, Any], *, descriptor: bool) -> None:
        self._release = release
        self._keys = keys
        self.descriptor = descriptor

    def complete(self, error: VaultdError | None) -> Answer:
        """Open the value and hand it out, or say why not."""
        with self._release.hold(error):
            return self._open()

    def _open(self) -> Answer:
        call = self._release.call
        engine = call.engine
        value = engine.unsealed().reveal(self._release.receipt, self._release.ref, call.actor)
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
