"""The table of operations, and the kinds of answer that a decided one can have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

from vaultd.daemon.handling import Answer, Deferred, Pending
from vaultd.errors import Internal, Unavailable, VaultdError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaultd.daemon.call import Call
    from vaultd.daemon.owed import Owed

__all__ = ["TABLE", "Done", "Operation", "Refused", "Stopped", "operation", "stopping"]

Operation: TypeAlias = "Callable[[Call], Pending | Deferred]"

TABLE: Final[dict[str, Operation]] = {}


def operation(name: str) -> Callable[[Operation], Operation]:
    """Enter a function as what the protocol's operation `name` does."""

    def enter(function: Operation) -> Operation:
        if name in TABLE:
            raise Internal(f"{name} is done in two places")
        TABLE[name] = function
        return function

    return enter


class Done:
    """Decided and staged; the answer is known and leaves when the record is durable."""

    __slots__ = ("_keys", "_tail")
    descriptor: Final = False

    def __init__(self, keys: dict[str, Any] | None = None, tail: bytes = b"") -> None:
        self._keys = keys if keys is not None else {}
        self._tail = tail

    def complete(self, error: VaultdError | None) -> Answer:
        """The answer, unless the flush failed."""
        if error is not None:
            raise error
        return Answer(self._keys, tail=self._tail)


class Stopped:
    """Harm was stopped, in memory, at once: that is answered even when it could not be recorded."""

    __slots__ = ("_kept", "_keys", "_owed", "_recorded")
    descriptor: Final = False

    def __init__(self, keys: dict[str, Any] | None = None, *, recorded: bool, owed: Owed) -> None:
        self._owed = owed
        self._kept = recorded or owed.last
        self._keys = keys if keys is not None else {}
        self._recorded = recorded

    def complete(self, error: VaultdError | None) -> Answer:
        """The answer, and whether the record of it is durable; if not, whether it is kept for the next opening."""
        if self._recorded and error is None:
            return Answer({**self._keys, "recorded": True})
        return Answer({**self._keys, "recorded": False, "owed": self._kept and (self._owed.kept or not self._recorded)})


class Refused:
    """A refusal that was decided later than `handle`; its record is staged."""

    __slots__ = ("_error",)
    descriptor: Final = False

    def __init__(self, error: VaultdError) -> None:
        self._error = error

    def complete(self, error: VaultdError | None) -> Answer:
        """Raise the refusal; a failed flush speaks first."""
        raise error or self._error


def stopping() -> Refused:
    """What a request that still waited for something hears when the daemon stops."""
    return Refused(Unavailable("the daemon is stopping", "try again when it is back"))
