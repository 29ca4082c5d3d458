"""vaultd: per-tenant sealed secrets, leased to processes that the kernel has identified.

Importing this package loads nothing heavy: the names below are resolved on first use, so that `vaultclient` may
import `vaultd.protocol` without paying for (or installing) the daemon's libraries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vaultd.errors import VaultdError
    from vaultd.vault.embedded import Vault

__all__ = ["Vault", "VaultdError", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "Vault":
        from vaultd.vault.embedded import Vault

        return Vault
    if name == "VaultdError":
        from vaultd.errors import VaultdError

        return VaultdError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
