"""How a keyring entry's parts are sealed: tenant key, key pairs, name; and how they are opened and wrapped anew.

    what            key              associated data
    tenant key      wrap key         context("tenantkey", vault id, uid, generation)
    key pairs       wrap key         context("pairs", vault id, uid)
    checkpoint seed wrap key         context("checkpoint", vault id)
    name            system record    context("name", vault id, uid)

The pairs outlive every generation of the tenant key, so theirs names none. Names and their index hang on the system's
key, so rotating the root leaves them as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vaultd.crypto.context import context
from vaultd.crypto.memory import Key, SecretBytes
from vaultd.crypto.primitives import open_sealed, seal, x25519_pair, x25519_public
from vaultd.crypto.wrap import unwrap, unwrap_key, wrap
from vaultd.errors import IntegrityError, Internal
from vaultd.vault.keyring import DELETED, SYSTEM, Entry

if TYPE_CHECKING:
    from vaultd.crypto.hierarchy import RootKeys

__all__ = [
    "audit_private",
    "deposit_private",
    "new_entry",
    "open_checkpoint_seed",
    "open_name",
    "rewrapped",
    "seal_checkpoint_seed",
    "tenant_key",
    "tombstone",
    "with_tenant_key",
]

_NAME: Final = 64
_KEY: Final = 32
_NO_NAME: Final = bytes(104)
_NO_KEY: Final = bytes(104)
_NO_INDEX: Final = bytes(16)


def new_entry(
    vault_id: bytes,
    uid: bytes,
    created: int,
    root: RootKeys,
    key: Key,
    name: tuple[str, bytes, Key] | None,
) -> Entry:
    """A domain's first entry: generation 1, fresh key pairs.

    Args:
        uid: 16 bytes that no domain had before.
        created: seconds since 1970.
        root: what wraps.
        key: the fresh tenant key.
        name: the tenant's name, its index and the key that seals it; None for the system.
    """
    deposit, deposit_public = x25519_pair()
    audit, audit_public = x25519_pair()
    with deposit, audit:
        pairs = _seal_pairs(root.wrap, vault_id, uid, deposit, audit)
    index, sealed = _NO_INDEX, _NO_NAME
    if name is not None:
        text, index, name_key = name
        padded = text.encode("ascii").ljust(_NAME, b"\0")
        if len(padded) != _NAME:
            raise Internal("a tenant's name has at most 64 characters")
        sealed = seal(name_key, context("name", vault_id, uid), padded)
    elif uid != SYSTEM:
        raise Internal("only the system has no name")
    wrapped = wrap(root.wrap, _key_context(vault_id, uid, 1), key)
    return Entry(uid, index, 1, 0, created, sealed, wrapped, pairs, deposit_public, audit_public)


def tenant_key(vault_id: bytes, entry: Entry, root: RootKeys) -> Key:
    """The domain's key; the caller wipes it.

    Raises:
        IntegrityError: it does not open in this place.
    """
    if entry.deleted:
        raise Internal("a deleted tenant has no key")
    return unwrap_key(root.wrap, _key_context(vault_id, entry.uid, entry.generation), entry.wrapped_key)


def with_tenant_key(vault_id: bytes, entry: Entry, root: RootKeys, key: Key) -> Entry:
    """The entry with the key of the next generation."""
    generation = entry.generation + 1
    return entry._replace(
        generation=generation, wrapped_key=wrap(root.wrap, _key_context(vault_id, entry.uid, generation), key)
    )


def tombstone(vault_id: bytes, entry: Entry, root: RootKeys) -> Entry:
    """What is left of a deleted tenant: its name, and the key to its audit trail."""
    with audit_private(vault_id, entry, root) as audit:
        pairs = _seal_pairs(root.wrap, vault_id, entry.uid, SecretBytes.take(bytearray(_KEY)), audit)
    return entry._replace(
        name_index=_NO_INDEX,
        flags=entry.flags | DELETED,
        wrapped_key=_NO_KEY,
        wrapped_pairs=pairs,
        deposit_public=bytes(_KEY),
    )


def rewrapped(vault_id: bytes, entry: Entry, old: RootKeys, new: RootKeys) -> Entry:
    """The entry under another root key.

    Raises:
        IntegrityError: something in it does not open.
    """
    place = _pairs_context(vault_id, entry.uid)
    with unwrap(old.wrap, place, entry.wrapped_pairs) as pairs:
        entry = entry._replace(wrapped_pairs=wrap(new.wrap, place, pairs))
    if entry.deleted:
        return entry
    with tenant_key(vault_id, entry, old) as key:
        return entry._replace(wrapped_key=wrap(new.wrap, _key_context(vault_id, entry.uid, entry.generation), key))


def deposit_private(vault_id: bytes, entry: Entry, root: RootKeys) -> Key:
    """The private key that deposits are sealed to; the caller wipes it. Raises `IntegrityError`."""
    if entry.deleted:
        raise Internal("a deleted tenant takes no deposits")
    return _private(vault_id, entry, root, 0, entry.deposit_public)


def audit_private(vault_id: bytes, entry: Entry, root: RootKeys) -> Key:
    """The private key that opens the domain's audit sessions; the caller wipes it. Raises `IntegrityError`."""
    return _private(vault_id, entry, root, _KEY, entry.audit_public)


def open_name(vault_id: bytes, entry: Entry, key: Key) -> str:
    """The tenant's name. Raises `IntegrityError`."""
    padded = bytes(open_sealed(key, context("name", vault_id, entry.uid), entry.sealed_name))
    # A name has no zero byte, so what stands before them is the name.
    return padded.rstrip(b"\0").decode("ascii")


def seal_checkpoint_seed(vault_id: bytes, root: RootKeys, seed: Key) -> bytes:
    """The checkpoint signature's private key as the keyring keeps it."""
    return wrap(root.wrap, context("checkpoint", vault_id), seed)


def open_checkpoint_seed(vault_id: bytes, root: RootKeys, wrapped: bytes) -> Key:
    """The inverse of `seal_checkpoint_seed`; the caller wipes the key. Raises `IntegrityError`."""
    return unwrap_key(root.wrap, context("checkpoint", vault_id), wrapped)


def _private(vault_id: bytes, entry: Entry, root: RootKeys, at: int, public: bytes) -> Key:
    with unwrap(root.wrap, _pairs_context(vault_id, entry.uid), entry.wrapped_pairs) as pairs:
        private = Key.copy_of(pairs.view()[at : at + _KEY])
    # Everything sealed to the public key would be lost without a word if the two did not belong together.
    if x25519_public(private) != public:
        private.wipe()
        raise IntegrityError("a key pair in the keyring does not belong together")
    return private


def _seal_pairs(key: Key, vault_id: bytes, uid: bytes, deposit: SecretBytes, audit: SecretBytes) -> bytes:
    both = bytearray(2 * _KEY)
    both[:_KEY] = deposit.view()
    both[_KEY:] = audit.view()
    with SecretBytes.take(both) as pairs:
        return wrap(key, _pairs_context(vault_id, uid), pairs)


def _key_context(vault_id: bytes, uid: bytes, generation: int) -> bytes:
    return context("tenantkey", vault_id, uid, generation)


def _pairs_context(vault_id: bytes, uid: bytes) -> bytes:
    return context("pairs", vault_id, uid)
