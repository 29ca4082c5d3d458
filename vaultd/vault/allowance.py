"""What one tenant may keep, so that its uploads cannot fill the disk or the memory of all: pure checks.

A cap is held when something is added, before anything of it is staged. One that was lowered below what is there takes
nothing away: it lets through what makes no more of it, and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from vaultd.errors import QuotaExceeded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vaultd.vault.state import TenantState

__all__ = ["UNLIMITED", "Allowance", "check_value", "spare_bytes", "too_many_bytes"]


class Allowance(NamedTuple):
    """Caps of each tenant; None is none.

    Attributes:
        secrets: how many secrets.
        value_bytes: how many bytes its kept values take, sealed and padded, over all versions that are not destroyed;
            blobs count padded, and one that versions share counts once.
    """

    secrets: int | None = None
    value_bytes: int | None = None


UNLIMITED: Final = Allowance()


def check_value(allowance: Allowance, state: TenantState, header: Mapping[str, Any], size: int) -> None:
    """Let a new version be kept, or not. The error names the cap alone: who may put need not be told what is there.

    Args:
        allowance: the caps.
        state: the tenant's, before the change.
        header: the record that `changes.put` made.
        size: bytes of the sealed value, or what a blob and its wrapped key add.

    Raises:
        QuotaExceeded: with it the tenant would be over a cap.
    """
    cap = allowance.secrets
    if cap is not None and "name" in header and len(state.secrets) >= cap:
        raise QuotaExceeded(
            f"the tenant would have more than {cap} secrets",
            "delete some: vaultctl secret delete; or an admin raises limits.secrets_per_tenant",
        )
    if allowance.value_bytes is None:
        return
    # What the same change destroys makes room for it; both are counted as they lie in the file.
    more = size - _freed(state, header)
    if more > 0 and state.live + state.stored + more > allowance.value_bytes:
        raise too_many_bytes(allowance.value_bytes)


def too_many_bytes(cap: int) -> QuotaExceeded:
    """The error for a tenant whose values would take more than `cap` bytes."""
    return QuotaExceeded(
        f"the tenant's values would take more than {cap} bytes",
        "destroy old versions or delete secrets; or an admin raises limits.bytes_per_tenant",
    )


def spare_bytes(allowance: Allowance, state: TenantState, name: str) -> int | None:
    """How many bytes a new version of this secret may bring at most, all that the secret has now let go; None is any.

    For those that come in pieces: what cannot be kept need not be taken in first. `check_value` then decides.
    """
    if allowance.value_bytes is None:
        return None
    secret = state.secrets.get(name)
    held = 0
    if secret is not None:
        held = sum(version.ref.length for version in secret.versions.values() if version.ref is not None)
        held += sum(blob.stored for blob in secret.blobs().values())
    return max(0, allowance.value_bytes - state.live - state.stored + held)


def _freed(state: TenantState, header: Mapping[str, Any]) -> int:
    secret = state.by_id.get(header["id"])
    if secret is None:
        return 0
    gone = set(header.get("destroy", ()))
    refs = (version.ref for version in secret.versions.values() if version.number in gone)
    freed = sum(ref.length for ref in refs if ref is not None)
    kept = {v.blob.file for v in secret.versions.values() if v.blob is not None and v.number not in gone}
    return freed + sum(blob.stored for blob in secret.blobs().values() if blob.file not in kept)
