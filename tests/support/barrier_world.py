"""A whole vault in memory behind its barrier, with pinned clock and ids: for the tests of the vault's domain."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from vaultd.audit.body import Actor, Event
from vaultd.clock import ManualClock
from vaultd.crypto.kdf import CHEAPEST
from vaultd.crypto.memory import SecretBytes
from vaultd.crypto.slots import SlotKind
from vaultd.names import secret_name, tenant_name
from vaultd.store import MemoryStore
from vaultd.vault.barrier import Barrier
from vaultd.vault.create import create
from vaultd.vault.rotation import finish

if TYPE_CHECKING:
    from typing import Any

    from vaultd.store import Store
    from vaultd.vault.state import Secret

__all__ = ["ADMIN", "PASSPHRASE", "BarrierWorld", "passphrase"]

ADMIN = Actor("admin", uid=1000, gid=1000, pid=4711)
PASSPHRASE = b"correct horse battery staple"


def passphrase(text: bytes = PASSPHRASE) -> SecretBytes:
    return SecretBytes.copy_of(text)


class BarrierWorld:
    """An unsealed vault; `store` may be one that holds a vault already."""

    def __init__(
        self,
        store: Store | None = None,
        *,
        seed: int = 0,
        clock: ManualClock | None = None,
        secret: bytes = PASSPHRASE,
    ) -> None:
        self.rng = random.Random(seed)
        self.clock = clock or ManualClock()
        self.store: Store = MemoryStore() if store is None else store
        if store is None:
            create(
                self.store,
                self.clock,
                secret=passphrase(),
                kind=SlotKind.PASSPHRASE,
                label="first",
                admin_uids=[1000],
                actor=ADMIN,
                profile=CHEAPEST,
                random=self.rng.randbytes,
            )
        self.barrier = Barrier.open(self.store, self.clock, minimum=CHEAPEST, random=self.rng.randbytes)
        self.unseal(secret)

    def unseal(self, text: bytes = PASSPHRASE) -> None:
        with passphrase(text) as given:
            slot, key = self.barrier.derive(given, SlotKind.PASSPHRASE)
        with key:
            self.barrier.unseal(slot, key, actor=ADMIN)
        self.flush()

    def flush(self) -> None:
        self.barrier.ledger.flush()

    def reopen(self) -> BarrierWorld:
        """The same vault after an orderly restart."""
        self.barrier.close()
        self.rng = random.Random(self.rng.random())
        return BarrierWorld(self.store, seed=self.rng.randrange(1 << 30), clock=self.clock)

    def tenant(self, name: str = "acme") -> bytes:
        created = self.barrier.create_tenant(tenant_name(name), actor=ADMIN)
        self.flush()
        return created.uid

    def put(self, tenant: str, name: str, value: bytes, **options: Any) -> int:
        with SecretBytes.copy_of(value) as secret:
            version = self.barrier.put(tenant, secret_name(name), secret, actor=ADMIN, **options).version
        self.flush()
        return version

    def get(self, tenant: str | bytes, name: str, version: int | None = None) -> bytes:
        ref = self.barrier.prepare_reveal(tenant, secret_name(name), version)
        receipt = self.barrier.record_reveal(ref, Event("secret.get", "ok", ADMIN))
        self.flush()
        with self.barrier.reveal(receipt, ref, ADMIN) as value:
            return bytes(value.view())

    def history(self, tenant: str, name: str) -> Secret:
        return self.barrier.history(tenant, secret_name(name))

    def states(self, tenant: str, name: str) -> dict[int, str]:
        now = self.barrier.now()
        return {version.number: str(version.state(now)) for version in self.history(tenant, name).versions.values()}

    def values(self) -> dict[str, dict[str, dict[int, bytes]]]:
        """Every value of every version of every secret, read through the barrier."""
        found: dict[str, dict[str, dict[int, bytes]]] = {}
        for facts in self.barrier.tenants():
            secrets = found[facts.name] = {}
            for secret in self.barrier.list(facts.uid):
                secrets[secret.name] = {
                    number: self.get(facts.uid, secret.name, number)
                    for number, version in secret.versions.items()
                    if version.ref is not None
                }
        return found

    def rotate_root(self) -> None:
        finish(self.barrier.rotate_root(actor=ADMIN))
        self.flush()

    def rotate_tenant(self, name: str = "acme") -> None:
        finish(self.barrier.rotate_tenant(name, actor=ADMIN))
        self.flush()

    def bodies(self, tenant: str | bytes | None = None) -> list[str]:
        """The durable audit bodies of one trail."""
        uid = self.barrier.trail_uid(tenant)
        return [record.body for record in self.barrier.trail(uid) if record is not None]
