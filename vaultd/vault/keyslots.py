"""The verbs on key slots: list, add, give another secret, remove."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vaultd.audit.body import Event
from vaultd.crypto.hierarchy import RootKeys
from vaultd.crypto.kdf import RFC_9106_LOW, Profile
from vaultd.crypto.memory import Key
from vaultd.crypto.slots import Slot, SlotKind, new_slot, slot_public
from vaultd.errors import Conflict, IntegrityError, Invalid, NotFound, QuotaExceeded
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
        keyring = self.ledger.keyring
        if len(keyring.slots) >= _MOST:
            raise QuotaExceeded(f"there are {_MOST} slots already", "remove one first: vaultctl slot remove")
        return self._maker(secret, kind, keyring.next_slot, label, self.now() // 1_000_000_000, profile)

    def _maker(
        self, secret: SecretBytes, kind: SlotKind, slot_id: int, label: str, created: int, profile: Profile
    ) -> Callable[[], Slot]:
        # A copy: the thread must not see the vault's own key wiped or replaced under it.
        root = Key.copy_of(self.ledger.root)
        vault_id = self.ledger.vault_id

        def make() -> Slot:
            with root, RootKeys(root) as keys:
                return new_slot(
                    vault_id=vault_id,
                    slot_id=slot_id,
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

    def passwd_maker(
        self, slot_id: int, secret: SecretBytes, *, profile: Profile = RFC_9106_LOW
    ) -> tuple[Slot, Callable[[], Slot]]:
        """Prepare a passphrase slot's new secret; as `slot_maker`.

        Returns:
            The slot as it is, for `change_slot`, and what makes the new one: same id, label and time of creation.

        Raises:
            Sealed: the vault is.
            NotFound: there is no such slot.
            Invalid: its secret is no passphrase: it is replaced by adding another slot and removing this one.
        """
        before = self._slot(slot_id)
        if before.kind is not SlotKind.PASSPHRASE:
            raise Invalid("this slot has no passphrase", "add a slot with the new secret, then remove this one")
        return before, self._maker(secret, before.kind, before.id, before.label, before.created, profile)

    def change_slot(self, before: Slot, after: Slot, *, proved: int, actor: Actor) -> Receipt:
        """Put a slot from `passwd_maker` in the place of the one that it was made for, in one change of the keyring.

        After a crash either the old secret opens the slot or the new one does; there is always one.

        Args:
            before, after: as `passwd_maker` and what it returned gave them.
            proved: the slot whose secret was shown.

        Raises:
            NotFound: the slot was removed meanwhile.
            Conflict: it was changed, or the root was rotated, meanwhile.
        """
        # Rotating the root boxes a slot anew but leaves its salt and mark, which stand for its secret.
        now = self._slot(before.id)
        if now.header() != before.header() or now.mark != before.mark:
            raise Conflict("the slot was changed meanwhile", "look at it first: vaultctl slot list")
        try:
            slot_public(after, self.ledger.root_keys.wrap)
        except IntegrityError:
            raise Conflict("the root key was rotated meanwhile", "change it again") from None
        event = Event("slot.passwd", "ok", actor, public={"slot": before.id, "proved": proved})
        return self.ledger.stage_keyring(
            lambda keyring: keyring.with_slots([after if slot.id == before.id else slot for slot in keyring.slots]),
            event,
        )

    def _slot(self, slot_id: int) -> Slot:
        for slot in self.ledger.slots:
            if slot.id == slot_id:
                return slot
        raise NotFound("there is no such slot", "see: vaultctl slot list")

    def remove_slot(self, slot_id: int, *, actor: Actor) -> Receipt:
        """Take a slot out of force; its secret opens only older copies of the keyring from then on.

        Raises:
            NotFound: there is no such slot.
            Conflict: it is the last one: without any the vault could never be opened again.
        """
        gone = self._slot(slot_id)
        kept = [slot for slot in self.ledger.slots if slot is not gone]
        if not kept:
            raise Conflict("this is the last key slot", "add another one first: vaultctl slot add")
        event = Event("slot.remove", "ok", actor, public={"slot": slot_id})
        return self.ledger.stage_keyring(lambda keyring: keyring.with_slots(kept), event)
