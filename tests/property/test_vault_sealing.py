"""I4 for sealing: after a seal no request succeeds, however it was prepared, until somebody with a secret unseals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.support.barrier_world import ADMIN, BarrierWorld
from vaultd.audit.body import Event
from vaultd.crypto.memory import SecretBytes
from vaultd.errors import NotFound, Sealed
from vaultd.names import secret_name

if TYPE_CHECKING:
    from vaultd.audit.receipt import Receipt
    from vaultd.vault.barrier import SecretRef

TENANTS = st.sampled_from(["acme", "beta", "gamma"])
KEY = secret_name("openai/prod")


class Sealing(RuleBasedStateMachine):
    """Tenants are sealed, unsealed, deleted, the vault is sealed and reopened; reveals are prepared and cashed in."""

    @initialize()
    def start(self) -> None:
        self.world = BarrierWorld()
        self.values: dict[str, bytes] = {}
        self.sealed: set[str] = set()
        self.vault_sealed = False
        self.prepared: list[tuple[str, SecretRef, Receipt, bool]] = []
        for name in ("acme", "beta", "gamma"):
            self.world.tenant(name)
            self.world.put(name, KEY, name.encode())
            self.values[name] = name.encode()

    def open(self, name: str) -> bool:
        return not self.vault_sealed and name not in self.sealed and name in self.values

    @rule(name=TENANTS)
    def prepare(self, name: str) -> None:
        try:
            ref = self.world.barrier.prepare_reveal(name, KEY)
        except (Sealed, NotFound):
            assert not self.open(name)
            return
        assert self.open(name)
        receipt = self.world.barrier.record_reveal(ref, Event("secret.get", "ok", ADMIN))
        self.world.flush()
        self.prepared.append((name, ref, receipt, False))

    @precondition(lambda self: self.prepared)
    @rule(data=st.data())
    def cash_in(self, data: st.DataObject) -> None:
        name, ref, receipt, _ = self.prepared.pop(data.draw(st.integers(0, len(self.prepared) - 1)))
        try:
            with self.world.barrier.reveal(receipt, ref, ADMIN) as value:
                assert self.open(name)
                assert value == self.values[name]
        except (Sealed, NotFound):
            assert not self.open(name)

    @rule(name=TENANTS, value=st.binary(min_size=1, max_size=30))
    def put(self, name: str, value: bytes) -> None:
        try:
            with SecretBytes.copy_of(value) as secret:
                self.world.barrier.delete(name, KEY, actor=ADMIN)
                self.world.barrier.put(name, KEY, secret, actor=ADMIN)
            self.world.flush()
        except (Sealed, NotFound):
            assert not self.open(name)
            return
        assert self.open(name)
        self.values[name] = value
        self.prepared = [item for item in self.prepared if item[0] != name]

    @precondition(lambda self: not self.vault_sealed)
    @rule(name=TENANTS)
    def seal_tenant(self, name: str) -> None:
        if name in self.values:
            self.world.barrier.seal_tenant(name, actor=ADMIN)
            self.world.flush()
            self.sealed.add(name)

    @precondition(lambda self: not self.vault_sealed)
    @rule(name=TENANTS)
    def unseal_tenant(self, name: str) -> None:
        if name in self.values:
            self.world.barrier.unseal_tenant(name, actor=ADMIN)
            self.world.flush()
            self.sealed.discard(name)

    @precondition(lambda self: not self.vault_sealed and len(self.values) > 1)
    @rule(name=TENANTS)
    def delete(self, name: str) -> None:
        if name in self.values:
            self.world.barrier.delete_tenant(name, actor=ADMIN)
            self.world.flush()
            del self.values[name]
            self.sealed.discard(name)

    @rule()
    def seal(self) -> None:
        if not self.vault_sealed:
            self.world.barrier.seal(actor=ADMIN)
            self.vault_sealed = True

    @precondition(lambda self: self.vault_sealed)
    @rule()
    def unseal(self) -> None:
        self.world.unseal()
        self.vault_sealed = False

    @rule()
    def restart(self) -> None:
        self.world = self.world.reopen()
        self.vault_sealed = False
        self.prepared.clear()

    @precondition(lambda self: not self.vault_sealed)
    @rule(name=TENANTS)
    def rotate(self, name: str) -> None:
        if self.open(name):
            self.world.rotate_tenant(name)
        self.world.rotate_root()

    @invariant()
    def no_key_is_left(self) -> None:
        """Sealed, neither the vault nor a tenant has an open log."""
        if hasattr(self, "world"):
            names = {self.world.barrier.name(uid) for uid in self.world.barrier._tenants}
            assert all(self.open(name) for name in names)


Sealing.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestSealing = Sealing.TestCase
