"""One open tenant: its log, what the log adds up to, and the two seals of its values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from vaultd.crypto.blobkeys import BlobKeys
from vaultd.crypto.values import Envelope
from vaultd.vault.state import TenantState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vaultd.vault.log import Ref, SealedLog

__all__ = ["OpenTenant", "Touched", "Wanted"]

_WORTHWHILE: Final = 1 << 20
_RECORD: Final = 256
"""About what a version costs beside its attachment: header, padding and seal of its record."""

Touched = set[bytes | str]
"""Ids of the secrets and grants that changed while a rotation was under way."""


class Wanted(NamedTuple):
    """A record that is to be written: its header, and what is attached, sealed already."""

    header: dict[str, Any]
    attachment: bytes = b""


class OpenTenant:
    """A tenant whose log was read and verified.

    Args:
        vault_id: 16 bytes.
        uid: 16 bytes.
        name: as people call it.
        log: becomes this object's; closing it wipes the tenant's keys.
    """

    def __init__(self, vault_id: bytes, uid: bytes, name: str, log: SealedLog) -> None:
        self.uid = uid
        self.name = name
        self.log = log
        self.state = TenantState()
        self.envelope = Envelope(vault_id, uid, log.generation, log.keys.data_key)
        self.blob_keys = BlobKeys(vault_id, uid, log.generation, log.keys.data_key)
        self.touched: Touched | None = None
        """While a rotation is under way: what changed meanwhile, for it to carry over."""

    def replay(self, records: Iterable[tuple[dict[str, Any], Ref]]) -> None:
        """Add what the log says.

        Raises:
            IntegrityError: a record does not follow from those before it.
            FormatVersion: a newer version wrote it.
        """
        for header, ref in records:
            self.state.apply(header, ref)

    def apply(self, header: dict[str, Any], ref: Ref) -> None:
        """Add a record that was just staged."""
        self.state.apply(header, ref)
        if self.touched is not None:
            self.touched.add(touched_by(header))

    @property
    def wasteful(self) -> bool:
        """Whether compaction is worth it: more than half of the log, and more than 1 MiB, is of no use any more."""
        if self.log.size <= 2 * self.state.live + _WORTHWHILE:  # the usual answer, without counting
            return False
        versions = sum(len(secret.versions) for secret in self.state.secrets.values())
        dead = self.log.size - self.state.live - _RECORD * (versions + len(self.state.grants))
        return dead > max(self.log.size // 2, _WORTHWHILE)


def touched_by(header: dict[str, Any]) -> bytes | str:
    """The id of the secret (bytes) or grant (str) that a record is about."""
    found: bytes | str = header["grant"]["id"] if header["op"] == "grant" else header["id"]
    return found
