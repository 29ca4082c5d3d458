"""Makes a new vault: every file of it, the keyring last."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vaultd.audit.body import Event
from vaultd.audit.domain import Domain
from vaultd.audit.journal import DIRECTORY, Journal
from vaultd.audit.trail import Trail
from vaultd.crypto.hierarchy import RootKeys
from vaultd.crypto.kdf import RFC_9106_LOW, Profile
from vaultd.crypto.memory import Key, SecretBytes
from vaultd.crypto.primitives import ed25519_pair, random_bytes
from vaultd.crypto.slots import SlotKind, new_slot
from vaultd.errors import Exists
from vaultd.vault import entries, forward
from vaultd.vault import heads as heads_file
from vaultd.vault.anchor import Anchor
from vaultd.vault.commit import KEYRING, KEYRING_NEXT, STATE, heads_path, log_path
from vaultd.vault.heads import Heads
from vaultd.vault.keyring import SYSTEM, Keyring
from vaultd.vault.log import MAGIC

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vaultd.audit.body import Actor
    from vaultd.clock import Clock
    from vaultd.store import Store

__all__ = ["InitReport", "create"]

_DIRECTORIES = (DIRECTORY, "system", "tenants")


class InitReport(NamedTuple):
    """What `init` prints, to be kept."""

    vault_id: bytes
    checkpoint_public: bytes
    slot_id: int
    created: int
    """Seconds since 1970."""
    seal_key: SecretBytes
    """The text of the journal's first seal key, which is nowhere else; the caller's to wipe."""


def create(
    store: Store,
    clock: Clock,
    *,
    secret: SecretBytes,
    kind: SlotKind,
    label: str,
    admin_uids: Sequence[int],
    actor: Actor,
    profile: Profile = RFC_9106_LOW,
    random: Callable[[int], bytes] = random_bytes,
) -> InitReport:
    """Make a vault with one slot; it is left closed.

    Args:
        store: an empty directory, or one where an earlier creation was interrupted; stays the caller's to close.
        secret: what the slot opens with; stays the caller's to wipe.
        admin_uids: who may be an admin where the configuration names nobody; at least one.
        actor: who asked for it, for the audit trail.
        profile: Argon2id's cost for a passphrase.
        random: where ids and salts come from.

    Raises:
        Exists: there is a vault, or something else, already.
        Invalid: the secret, the label or the cost is outside its bounds.
    """
    _clear(store)
    vault_id, created = random(16), clock.wall() // 1_000_000_000
    with Key.random() as root, RootKeys(root) as keys, Key.random() as system_key:
        # Slow for a passphrase, and refuses bad input: before anything is written.
        slot = new_slot(
            vault_id=vault_id,
            slot_id=1,
            kind=kind,
            label=label,
            created=created,
            secret=secret,
            root=root,
            wrap_key=keys.wrap,
            profile=profile,
        )
        seed, checkpoint_public = ed25519_pair()
        with seed:
            wrapped_seed = entries.seal_checkpoint_seed(vault_id, keys, seed)
        system = entries.new_entry(vault_id, SYSTEM, created, keys, system_key, None)
        keyring = Keyring.build(
            vault_id=vault_id,
            created=created,
            admin_uids=admin_uids,
            checkpoint_public=checkpoint_public,
            wrapped_checkpoint=wrapped_seed,
            slots=[slot],
            next_slot=2,
            entries=[system],
        )
        data, keyring_hash = keyring.encode(keys.anchor)
        # Under its final name last: a vault is there from that moment on, and whole.
        store.replace(KEYRING_NEXT, data)
        for directory in _DIRECTORIES:
            store.mkdir(directory)
        store.create(log_path(SYSTEM, 1), MAGIC)
        heads = Heads(vault_id)
        heads.add(SYSTEM, 1)
        journal = Journal.create(store)
        try:
            domain = Domain(SYSTEM, system.audit_public)
            trail = Trail(vault_id, journal, clock, random, domain)
            trail.record(Event("vault.create", "ok", actor))
            first_key, chain = forward.begin(vault_id, 1)
            with first_key, chain:
                forward.stage_first(chain, journal, clock)
                forward.lay_out(store, forward.SEAL, chain)
                seal_key = first_key.text()
            lines = journal.take()
            if lines is not None:
                journal.write(lines)
            trail.forget_sessions()
            heads.set_trail(SYSTEM, domain.sub_seq, domain.sub_head)
            position = journal.durable
        finally:
            journal.close()
        encoded = heads.encode(position)
        store.create(heads_path(0), encoded)
        hash_ = heads_file.hash_of(encoded)
        slots = [
            Anchor(vault_id, seq, clock.wall(), position, keyring_hash, 0, hash_, seal=1, tag=position.seq)
            for seq in (2, 1)
        ]
        store.create(STATE, b"".join(anchor.encode(keys.anchor) for anchor in slots))
        store.rename(KEYRING_NEXT, KEYRING)
    return InitReport(vault_id, checkpoint_public, slot.id, created, seal_key)


def _clear(store: Store) -> None:
    """Remove what an interrupted creation left; refuse anything else."""
    if store.exists(KEYRING):
        raise Exists(f"there is a vault at {store.location} already", "choose another directory")
    names = store.list()
    if not names:
        return
    if KEYRING_NEXT not in names:
        raise Exists(
            f"{store.location} is not empty, and holds no keyring", "choose an empty directory, or restore the backup"
        )
    # An interrupted creation always left this name, and a finished one never does without the other.
    for directory in _DIRECTORIES:
        store.remove_tree(directory, missing_ok=True)
    for name in (STATE, heads_path(0), forward.SEAL):
        store.remove(name, missing_ok=True)
    store.remove(KEYRING_NEXT)
