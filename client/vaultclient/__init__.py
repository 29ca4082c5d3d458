"""Client of vaultd: lease a tenant's secret for as long as it is needed, from programs and orchestrators.

    from vaultclient import Client

    with Client() as vault, vault.lease("acme", "openai/prod", ttl=300, purpose="chat") as lease:
        call(lease.value)  # a buffer, wiped on exit; lease.fd() for a sealed memory file

`AsyncClient` is the same for asyncio. Importing this package loads msgpack and the standard library only; asyncio comes
with `AsyncClient`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vaultclient import errors
from vaultclient._calls import Answer
from vaultclient._client import Client
from vaultclient._leases import Lease
from vaultclient._runs import Run
from vaultclient.errors import VaultError

if TYPE_CHECKING:
    from vaultclient._async import AsyncClient

__all__ = ["Answer", "AsyncClient", "Client", "Lease", "Run", "VaultError", "errors"]


def __getattr__(name: str) -> Any:
    if name == "AsyncClient":  # importing asyncio takes longer than a whole sync request
        from vaultclient._async import AsyncClient

        return AsyncClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
