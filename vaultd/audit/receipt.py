"""The receipt for an audit record: what the barrier demands before it opens a value."""

from __future__ import annotations

from vaultd.errors import Internal

__all__ = ["Receipt"]


class Receipt:
    """Says which record was staged and, once the flush that covers it succeeded, that it is durable.

    A receipt opens one value, once: a second reading would be one that no record speaks of. One that stands for a
    denial or a failure names no secret, so it opens nothing.
    """

    __slots__ = ("_durable", "_spent", "kind", "secret_id", "seq", "tenant", "version")

    def __init__(
        self, seq: int, tenant: bytes, kind: str, *, secret_id: bytes | None = None, version: int | None = None
    ) -> None:
        self.seq = seq
        """The journal line's sequence number: not for tenants, it counts everybody's."""
        self.tenant = tenant
        """The uid of the trail's domain, 16 bytes; zeros are the system's."""
        self.kind = kind
        self.secret_id = secret_id
        """What may be opened; None: nothing."""
        self.version = version
        self._durable = False
        self._spent = False

    @property
    def durable(self) -> bool:
        """Whether the record is on the disk."""
        return self._durable

    def mark_durable(self) -> None:
        """For the ledger alone, after the flush."""
        self._durable = True

    def spend(self, tenant: bytes, secret_id: bytes, version: int) -> None:
        """Use the receipt for opening that version; the barrier calls this before it touches a key.

        Raises:
            Internal: it is not durable yet, was used before, or speaks of something else.
        """
        if not self._durable:
            raise Internal("a value was asked for before its audit record was durable")
        if self._spent:
            raise Internal("an audit record was used for a second value")
        if (self.tenant, self.secret_id, self.version) != (tenant, secret_id, version):
            raise Internal("a value was asked for with the audit record of another")
        self._spent = True

    def __repr__(self) -> str:
        return f"Receipt(seq={self.seq}, kind={self.kind!r}, durable={self._durable})"
