"""Blobs behind a `BarrierWorld`: put in, read back, counted, and damaged."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from tests.support.barrier_world import ADMIN, BarrierWorld
from vaultd.audit.body import Event
from vaultd.names import secret_name
from vaultd.store import MemoryStore

if TYPE_CHECKING:
    from vaultd.vault.streams import BlobReader

__all__ = ["MIB", "BlobWorld", "content"]

MIB = 1 << 20


def content(size: int, seed: int = 1) -> bytes:
    """`size` bytes that no compression and no repetition makes alike."""
    return random.Random(seed).randbytes(size)


class BlobWorld(BarrierWorld):
    """See the module; the tenant is `acme` unless said otherwise, the secret `files/model`."""

    KEY = secret_name("files/model")

    def stream(
        self, value: bytes, *, tenant: str = "acme", name: str = KEY, piece: int = 300_000, **options: Any
    ) -> int:
        """Put a value in pieces; returns its version, which is durable."""
        with self.barrier.put_stream(tenant, secret_name(name), actor=ADMIN, **options) as writer:
            for at in range(0, len(value), piece):
                assert writer.write(value[at : at + piece]) == len(value[at : at + piece])
            version = writer.finish().version
        self.flush()
        return version

    def opened(self, version: int | None = None, *, tenant: str | bytes = "acme", name: str = KEY) -> BlobReader:
        """Open a version, recorded."""
        ref = self.barrier.prepare_reveal(tenant, secret_name(name), version)
        receipt = self.barrier.record_reveal(ref, Event("secret.get", "ok", ADMIN))
        self.flush()
        return self.barrier.open_blob(receipt, ref, ADMIN)

    def read(self, version: int | None = None, *, tenant: str | bytes = "acme", name: str = KEY) -> bytes:
        """A version's whole value."""
        with self.opened(version, tenant=tenant, name=name) as reader:
            buffer = bytearray(reader.size)
            assert reader.read_into(0, buffer) == reader.size
            return bytes(buffer)

    def folder(self, tenant: str = "acme") -> str:
        return f"tenants/{self.barrier.uid(tenant).hex()}/blobs"

    def blobs(self, tenant: str = "acme") -> list[str]:
        """Paths of a tenant's blobs."""
        path = self.folder(tenant)
        return [f"{path}/{name}" for name in self.store.list(path)] if self.store.exists(path) else []

    def unfinished(self, tenant: str = "acme") -> list[str]:
        """Names of the files without a name of their own, past the store."""
        assert isinstance(self.store, MemoryStore)
        folder = self.folder(tenant) + "/"
        return [path for path in self.store.disk.files() if path.startswith(f"{folder}.")]

    def again(self) -> BlobWorld:
        """The same vault after an orderly restart."""
        self.barrier.close()
        return BlobWorld(self.store, seed=self.rng.randrange(1 << 30), clock=self.clock)
