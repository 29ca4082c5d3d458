"""A server with the real engine, a vault in memory whose blobs a test can hold up, and a clock that it moves."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING, Any

from tests.support.serving import Running
from vaultclient import Client
from vaultd.audit.body import Actor
from vaultd.clock import ManualClock
from vaultd.crypto.kdf import CHEAPEST
from vaultd.crypto.memory import SecretBytes
from vaultd.crypto.primitives import random_bytes
from vaultd.crypto.slots import SlotKind
from vaultd.daemon.config import LiveConfig
from vaultd.daemon.engine import Engine
from vaultd.daemon.kernel import Kernel
from vaultd.daemon.vaults import VaultHolder
from vaultd.store import MemoryStore
from vaultd.vault.barrier import Barrier
from vaultd.vault.create import create

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vaultd.store import NewFile, RangeFile

__all__ = ["SlowWorld"]

PASSPHRASE = b"correct horse battery staple"
_SLOT = {"kind": "passphrase", "bind": "self"}


class Gate:
    """What a held-up call waits at."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.reached = threading.Event()

    def pass_through(self) -> None:
        """Wait while it is closed."""
        if not self.open.is_set():
            self.reached.set()
            assert self.open.wait(30)

    def close(self) -> None:
        """Hold up whoever comes from now on."""
        self.reached.clear()
        self.open.clear()


class _HeldNewFile:
    def __init__(self, inner: NewFile, gate: Gate) -> None:
        self._inner = inner
        self._gate = gate

    def append(self, data: bytes | bytearray | memoryview) -> None:
        self._gate.pass_through()
        self._inner.append(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _HeldRangeFile:
    def __init__(self, inner: RangeFile, gate: Gate) -> None:
        self._inner = inner
        self._gate = gate

    def read_into(self, offset: int, buffer: bytearray | memoryview) -> int:
        if offset:  # the header is read where decisions are made
            self._gate.pass_through()
        return self._inner.read_into(offset, buffer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class SlowStore(MemoryStore):
    """A store whose blobs wait at a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = Gate()

    def begin(self, path: str) -> Any:
        return _HeldNewFile(super().begin(path), self.gate)

    def ranges(self, path: str) -> Any:
        return _HeldRangeFile(super().ranges(path), self.gate)


class SlowWorld(Running):
    """See the module. The tenant `acme` is there, and a service of this process's uid that may do anything at it.

    Attributes:
        admin: a client of this process, with a ticket.
        gate: closed, it holds up writing and reading blobs.
        clock: the server's.
    """

    def __init__(self, **limits: int) -> None:
        self.clock = ManualClock()
        self.store = SlowStore()
        self.gate = self.store.gate
        with SecretBytes.copy_of(PASSPHRASE) as secret:
            create(
                self.store,
                self.clock,
                secret=secret,
                kind=SlotKind.PASSPHRASE,
                label="",
                admin_uids=[os.geteuid()],
                actor=Actor("embedded"),
                profile=CHEAPEST,
                random=random_bytes,
            )
        vaults = VaultHolder("/nonexistent", self.clock, random_bytes, minimum=CHEAPEST)
        vaults.barrier = Barrier.open(self.store, self.clock, minimum=CHEAPEST, random=random_bytes)
        self.vaults = vaults
        live = LiveConfig(None, {}, os.geteuid(), dir="/nonexistent", socket="/nonexistent/socket")
        for name, value in limits.items():
            object.__setattr__(live.current.limits, name, value)
        kernel = Kernel()
        kernel.probe()
        self.engine = Engine(live, vaults, kernel=kernel, clock=self.clock, random=random_bytes, profile=CHEAPEST)

        def handler(*_: object) -> Engine:
            self.ledger: Any = vaults
            return self.engine

        super().__init__(clock=self.clock, kernel=kernel, handler=handler)  # type: ignore[arg-type]  # the real ones
        self.run(lambda: self.engine.start(self.server))
        self.admin = self.client()
        self.admin.call("unseal", _SLOT, PASSPHRASE)
        self.admin.call("tenant.create", {"tenant": "acme"})
        self.admin.call("service.add", {"service": "me", "uid": os.geteuid()})
        can = ["lease", "put", "rotate", "list"]
        keys = {"tenant": "acme", "service": "me", "secrets": ["**"], "can": can, "max_ttl": 86_400}
        self.grant = str(self.admin.call("grant.add", keys)["grant"])

    def client(self) -> Client:
        """Another connection of this process."""
        return Client(self.path, environ={})

    @contextlib.contextmanager
    def as_admin(self) -> Iterator[Client]:
        """The ticket of this process, for a block: without one it is the service, on every connection."""
        self.admin.call("login", _SLOT, PASSPHRASE)
        yield self.admin
        self.admin.call("logout")

    def pass_time(self, seconds: float) -> None:
        """Move the clock, and let the engine look at it as it does every second."""

        def tick() -> None:
            self.clock.advance(seconds)
            limits = self.engine.config.limits
            self.engine.blob_uploads.sweep(self.clock.boot(), limits)
            self.engine.streams.sweep(limits)

        self.run(tick)

    def files(self) -> list[str]:
        """Names of the blobs that are there, unfinished ones among them."""

        def look() -> list[str]:
            uid = self.engine.find_tenant("acme")
            assert uid is not None
            try:
                return self.store.list(f"tenants/{uid.hex()}/blobs")
            except Exception:  # noqa: BLE001  no blob was ever written
                return []

        return self.run(look)

    def stop(self) -> None:
        """End everything."""
        if not self._thread.is_alive():
            return
        self.gate.open.set()
        self.admin.close()
        self.run(self.engine.stop)
        super().stop()
        self.engine.close()

    def __exit__(self, *_: object) -> None:
        self.stop()
