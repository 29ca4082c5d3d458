"""The barrier: the one place that plaintext passes. Sealed, it holds no key; unsealed, it serves every verb.

    barrier = Barrier.open(store, clock)
    slot, slot_key = barrier.derive(secret, kind)        # slow; in a worker thread
    barrier.unseal(slot, slot_key, actor=actor)
    stored = barrier.put("acme", secret_name("openai/prod"), value, actor=actor)
    barrier.ledger.flush()                               # nothing may be answered before
    ref = barrier.prepare_reveal("acme", secret_name("openai/prod"))
    receipt = barrier.record_reveal(ref, event)
    barrier.ledger.flush()
    with barrier.reveal(receipt, ref, actor) as value: ...

Every verb changes memory at once and stages its record; what it returns may be told to anybody only after a flush that
covers it. After a failed flush nothing is staged any more (`Halted`), but sealing still works.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from vaultd.audit.body import Event
from vaultd.crypto.kdf import FLOOR, Profile
from vaultd.crypto.primitives import random_bytes
from vaultd.errors import Halted
from vaultd.vault.keyslots import SlotVerbs
from vaultd.vault.ledger import Ledger
from vaultd.vault.policies import PolicyVerbs
from vaultd.vault.pruning import PruneVerbs
from vaultd.vault.rotation import RotationVerbs
from vaultd.vault.secrets import SecretRef, SecretVerbs, Stored
from vaultd.vault.system import SystemState
from vaultd.vault.tenants import TenantVerbs
from vaultd.vault.trails import TrailVerbs

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaultd.audit.body import Actor
    from vaultd.audit.receipt import Receipt
    from vaultd.clock import Clock
    from vaultd.crypto.memory import Key, SecretBytes
    from vaultd.crypto.slots import Slot, SlotKind
    from vaultd.store import Store
    from vaultd.vault.recovery import RecoveryReport

__all__ = ["Barrier", "SecretRef", "Stored"]


class Barrier(SecretVerbs, PolicyVerbs, TenantVerbs, RotationVerbs, SlotVerbs, TrailVerbs, PruneVerbs):
    """See the module. Belongs to one thread, but for `derive` and `Ledger.write`."""

    @classmethod
    def open(
        cls,
        store: Store,
        clock: Clock,
        *,
        minimum: Profile = FLOOR,
        random: Callable[[int], bytes] = random_bytes,
    ) -> Self:
        """Open a vault, sealed.

        Args:
            store: the vault directory; stays the caller's to close.
            minimum: the least Argon2id cost of a slot that `derive` accepts.
            random: the source of ids and salts.

        Raises:
            Uninitialised, FormatVersion, IntegrityError: as `Ledger.open`.
        """
        return cls(Ledger.open(store, clock, minimum=minimum, random=random), random)

    def derive(self, secret: SecretBytes, kind: SlotKind) -> tuple[Slot, Key]:
        """The slot that `secret` opens, and its key, which is the caller's to wipe: slow, for a worker thread.

        Raises:
            WrongSecret: no slot of this kind opens with it.
            IntegrityError: a slot was made cheaper than `minimum`.
        """
        return self.ledger.derive(secret, kind)

    def unseal(self, slot: Slot, slot_key: Key, *, actor: Actor) -> RecoveryReport:
        """Load the keys.

        Returns:
            What opening found and repaired.

        Raises:
            Conflict: it is unsealed already, or the slot is gone.
            IntegrityError: the files were not all written by this vault.
        """
        report = self.ledger.unseal(slot, slot_key)
        try:
            self.system = SystemState()
            for header, _ in self.ledger.system_log.scan()[0]:
                self.system.apply(header)
            self._tidy()
            self.ledger.stage(Event("vault.unseal", "ok", actor, public={"slot": slot.id}))
        except BaseException:
            self._drop_all()
            self.ledger.seal()
            raise
        return report

    def seal(self, *, actor: Actor) -> bool:
        """Drop every key.

        Returns:
            Whether it is recorded: not when the vault is halted; sealed it is in any case.

        Raises:
            Conflict: a flush is under way in another thread; wait for it.
            StoreError: the record could not be written; sealed it is all the same.
        """
        recorded = True
        try:
            self.ledger.stage(Event("vault.seal", "ok", actor))
        except Halted:
            recorded = False
        self._drop_all()
        self.ledger.seal()
        return recorded

    def record_reveal(self, ref: SecretRef, event: Event) -> Receipt:
        """Record, in the tenant's trail, that a version is about to be revealed.

        Args:
            event: what is asked and by whom; secret, version and id are filled in from `ref`.

        Returns:
            What `reveal` asks for, once a flush made it durable.
        """
        event = event._replace(secret=ref.name, version=ref.version, secret_id=ref.secret_id)
        return self.ledger.stage(event, tenant=ref.tenant)

    def close(self) -> None:
        """Flush, drop every key, let go of the files. The store stays the caller's to close."""
        self._drop_all()
        self.ledger.close()

    def _drop_all(self) -> None:
        for uid in list(self._tenants):
            self._forget(uid)
        self._closed.clear()
        self._under_way.clear()
        self._carried = None
        self.system = SystemState()
