"""What the sync and the async client share: answers, errors, and the keys of requests. No I/O."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from vaultclient.errors import VaultError, from_code
from vaultd.protocol import MAX_TAIL, MAX_VALUE, Reply, wipe

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType

__all__ = ["REPEATABLE", "RETRIED_CODES", "Answer", "error_of", "keys_of", "upload_steps"]

REPEATABLE: Final = frozenset(
    {
        "hello",
        "status",
        "slot.list",
        "tenant.list",
        "tenant.show",
        "secret.get",
        "secret.list",
        "secret.history",
        "service.list",
        "grant.list",
        "run.claim",
        "run.list",
        "lease.acquire",
        "lease.read",
        "lease.renew",
        "lease.release",
        "lease.list",
        "explain",
        "audit.show",
        "audit.export",
        "audit.checkpoint",
        "subscribe",
    }
)
"""Operations that may be sent again when the connection broke before the answer: doing them twice harms nothing."""

RETRIED_CODES: Final = frozenset({"unavailable", "sealed"})
"""Codes that a daemon answers while it restarts: it is draining, or nobody has unsealed it yet."""


class Answer:
    """A request's answer: its keys, and what came with it. A context manager that wipes and closes what came.

    Attributes:
        keys: the reply's keys, as `PROTOCOL.md` lists them for the operation.
        tail: the value or text that followed, in a buffer to wipe.
        fd: a received descriptor, or None; the answer's until `take_fd`.
        pipe: whether the descriptor is a pipe's; else it is a sealed memory file's.
    """

    __slots__ = ("fd", "keys", "pipe", "tail")

    def __init__(self, keys: dict[str, Any], tail: bytearray, fd: int | None = None, *, pipe: bool = False) -> None:
        self.keys = keys
        self.tail = tail
        self.fd = fd
        self.pipe = pipe

    @property
    def length(self) -> int:
        """Bytes of the whole value."""
        return int(self.keys.get("size", len(self.tail) if self.fd is None else os.fstat(self.fd).st_size))

    def __getitem__(self, key: str) -> Any:
        return self.keys[key]

    def get(self, key: str, default: Any = None) -> Any:
        """The value of an optional key, or `default`."""
        return self.keys.get(key, default)

    def take_fd(self) -> int | None:
        """Hand the descriptor over: whoever takes it closes it."""
        descriptor, self.fd = self.fd, None
        return descriptor

    def close(self) -> None:
        """Wipe the tail and close the descriptor."""
        wipe(self.tail)
        descriptor = self.take_fd()
        if descriptor is not None:
            os.close(descriptor)

    def __enter__(self) -> Answer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Answer keys={sorted(self.keys)} tail={len(self.tail)} bytes fd={self.fd}>"


def error_of(reply: Reply) -> VaultError:
    """The error that a refused request becomes."""
    return from_code(reply.code or "internal", reply.message, reply.hint)


def keys_of(**keys: Any) -> dict[str, Any]:
    """A request's keys: those that were given. None stands for an optional key left out; sequences become lists."""
    return {
        key: list(value) if isinstance(value, (tuple, set, frozenset)) else value
        for key, value in keys.items()
        if value is not None
    }


def run_keys(
    tenant: str | None,
    scope: Sequence[str],
    *,
    purpose: str | None,
    ttl: int | None,
    service: str | None,
    anchor: int | None,
    uid: int | None,
    uses: int | None,
) -> dict[str, Any]:
    """The keys of `run.open`."""
    keys = keys_of(tenant=tenant, purpose=purpose, ttl=ttl, service=service, anchor=anchor, uid=uid, uses=uses)
    return {**keys, "scope": list(scope)}


def upload_steps(
    value: bytes | bytearray | memoryview, op: str, keys: Mapping[str, Any]
) -> Iterator[tuple[str, dict[str, Any], memoryview]]:
    """The requests, in order, that bring a value too long for one tail to the daemon; `op` with `keys` then uses it."""
    view = memoryview(value)
    target: dict[str, Any] = {}
    if len(view) > MAX_VALUE:
        target = {**keys, "rotate": True} if op == "rotate.secret" else {**keys}
    yield "value.begin", {"size": len(view), **target}, view[:0]
    for offset in range(0, len(view), MAX_TAIL):
        yield "value.chunk", {"offset": offset}, view[offset : offset + MAX_TAIL]
