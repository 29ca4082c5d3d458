"""The verbs on key slots: list, add, remove."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vaultd.audit.body import Event
from vaultd.crypto.hierarchy import RootKeys
from vaultd.crypto.kdf import RFC_9106_LOW, Profile
from vaultd.crypto.memory import Key
from vaultd.crypto.slots import Slot, SlotKind, new_slot, slot_public
from vaultd.errors import Conflict, IntegrityError, NotFound, QuotaExceeded
from vaultd.vault.core import Core

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaultd.audit.body import Actor
    from vaultd.audit.receipt import Receipt
    from vaultd.crypto.memory import SecretBytes

__all__ = ["SlotVerbs"]

_MOST: Final = 32
"""Slots that a keyring holds."""


class SlotVerbs(Core):
    """See the module."""

    def slots(self) -> tuple[Slot, ...]:
        """Every slot; nothing in one is secret. Works while sealed."""
        return self.ledger.slots

    def slot_maker(
        self, secret: SecretBytes, kind: SlotKind, label: str, *, profile: Profile = RFC_9106_LOW
    ) -> Callable[[], Slot]:
        """Prepare a new slot: what is returned does the slow part, for a worker thread, and touches nothing shared.

        Args:
            secret: the passphrase or the key file's content; stays the caller's, and must outlive the call.

        Raises:
            Sealed: the vault is.
            QuotaExceeded: there are as many slots as a keyring holds.
            Invalid (from what is returned): a secret, a label or a cost outside its bounds.
        """
        # A copy: the thread must not see the vault's own key wiped or replaced under it.
        root = Key.copy_of(self.ledger.root)
        keyring = self.ledger.keyring
        if len(keyring.slots) >= _MOST:
            root.wipe()
            raise QuotaExceeded(f"there are {_MOST} slots already", "remove one first: vaultctl slot remove")
        created = self.now() // 1_000_000_000

        def make() -> Slot:
            with root, RootKeys(root) as keys:
                return new_slot(
                    vault_id=keyring.vault_id,
                    slot_id=keyring.next_slot,
                    kind=kind,
                    label=label,
                    created=created,
                    secret=secret,
                    root=root,
                    wrap_key=keys.wrap,
                    profile=profile,
                )

        return make

    def add_slot(self, slot: Slot, *, actor: Actor) -> Receipt:
        """Put a slot from `slot_maker` in force.

        Raises:
            Conflict: the root was rotated, or another slot was added, since it was prepared.
        """
        keyring = self.ledger.keyring
        try:
            slot_public(slot, self.ledger.root_keys.wrap)
        except IntegrityError:
            raise Conflict("the root key was rotated meanwhile", "add the slot again") from None
        if slot.id != keyring.next_slot or len(keyring.slots) >= _MOST:
            raise Conflict("another slot was added meanwhile", "add the slot again")
        event = Event("slot.add", "ok", actor, public={"kind": slot.kind.name.lower(), "slot": slot.id})
        return self.ledger.stage_keyring(
            lambda keyring: keyring.with_slots([*keyring.slots, slot], next_slot=slot.id + 1), event
        )

    def remove_slot(self, slot_id: int, *, actor: Actor) -> Receipt:
        """Take a slot out of force; its secret opens only older copies of the keyring from then on.

        Raises:
            NotFound: there is no such slot.
            Conflict: it is the last one: without any the vault could never be opened again.
        """
        slots = self.ledger.slots
        kept = [slot for slot in slots if slot.id != slot_id]
        if len(kept) == len(slots):
            raise NotFound("there is no such slot", "see: vaultctl slot list")
        if not kept:
            raise Conflict("this is the last key slot", "add another one first: vaultctl slot add")
        event = Event("slot.remove", "ok", actor, public={"slot": slot_id})
        return self.ledger.stage_keyring(lambda keyring: keyring.with_slots(kept), event)
