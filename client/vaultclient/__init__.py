"""Client of vaultd: lease a tenant's secret for as long as it is needed, from programs and orchestrators.

    from vaultclient import Client

    with Client() as vault, vault.lease("acme", "openai/prod", ttl=300, purpose="chat") as lease:
        call(lease.value)  # a buffer, wiped on exit; lease.fd() for a sealed memory file

`AsyncClient` is the same for asyncio; `RedactingFilter` keeps live values out of logs. The names below are loaded on
first use, so that `vaultctl` starts without what it does not need, and asyncio costs only those who use it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from vaultclient import errors
    from vaultclient._async import AsyncClient
    from vaultclient._async_files import AsyncValueFile
    from vaultclient._async_leases import AsyncLease, AsyncRun
    from vaultclient._calls import Answer
    from vaultclient._client import Client
    from vaultclient._files import ValueFile, ValueStream
    from vaultclient._leases import Lease
    from vaultclient._runs import Run
    from vaultclient.errors import VaultError
    from vaultclient.redaction import RedactingFilter, RedactingFormatter, RedactingStream

__all__ = [
    "Answer",
    "AsyncClient",
    "AsyncLease",
    "AsyncRun",
    "AsyncValueFile",
    "Client",
    "Lease",
    "RedactingFilter",
    "RedactingFormatter",
    "RedactingStream",
    "Run",
    "ValueFile",
    "ValueStream",
    "VaultError",
    "errors",
]

_HOMES: Final = {
    "Answer": "vaultclient._calls",
    "AsyncClient": "vaultclient._async",
    "AsyncLease": "vaultclient._async_leases",
    "AsyncRun": "vaultclient._async_leases",
    "AsyncValueFile": "vaultclient._async_files",
    "Client": "vaultclient._client",
    "Lease": "vaultclient._leases",
    "RedactingFilter": "vaultclient.redaction",
    "RedactingFormatter": "vaultclient.redaction",
    "RedactingStream": "vaultclient.redaction",
    "Run": "vaultclient._runs",
    "ValueFile": "vaultclient._files",
    "ValueStream": "vaultclient._files",
    "VaultError": "vaultclient.errors",
}


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module("vaultclient.errors")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)
