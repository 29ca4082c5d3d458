"""The keys that derive from one another: root key and tenant key to the keys that do the work.

    root key   -> wrap key      wraps tenant keys, tenants' key pairs, the checkpoint key, slots' public keys
               -> anchor key    authenticates the anchor, the keyring and the heads
    tenant key -> record key    seals the records of the tenant's log
               -> data-key key  wraps the data key of every version
    system key -> as a tenant key, and the index key, under which the keyring finds a tenant's name

Each arrow is BLAKE2b-256, keyed with the upper key, personalised with the label in `labels`, over nothing. A derived
key is never stored: rotating the upper key replaces it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

from vaultd.crypto import labels
from vaultd.crypto.primitives import derive, keyed_hash

if TYPE_CHECKING:
    from vaultd.crypto.memory import Key

__all__ = ["NAME_INDEX", "RootKeys", "TenantKeys", "index_key", "name_index"]

NAME_INDEX: Final = 16
"""Bytes of a name's index entry."""


class RootKeys:
    """What derives from a root key; `wipe` ends both, the root key stays its owner's.

    Attributes:
        wrap: the wrap key.
        anchor: the anchor key.
    """

    __slots__ = ("anchor", "wrap")

    def __init__(self, root: Key) -> None:
        self.wrap = derive(root, labels.WRAP)
        self.anchor = derive(root, labels.ANCHOR)

    def wipe(self) -> None:
        """Zero the derived keys."""
        self.wrap.wipe()
        self.anchor.wipe()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wipe()


class TenantKeys:
    """What derives from a tenant key; `wipe` ends both, the tenant key stays its owner's.

    Attributes:
        record: the record key.
        data_key: the key that wraps data keys.
    """

    __slots__ = ("data_key", "record")

    def __init__(self, tenant_key: Key) -> None:
        self.record = derive(tenant_key, labels.RECORD)
        self.data_key = derive(tenant_key, labels.DATA_KEY)

    def wipe(self) -> None:
        """Zero the derived keys."""
        self.record.wipe()
        self.data_key.wipe()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wipe()


def index_key(system_key: Key) -> Key:
    """The key that hides tenants' names in the keyring's index."""
    return derive(system_key, labels.INDEX)


def name_index(key: Key, name: str) -> bytes:
    """A tenant's name as the keyring's index holds it: 16 bytes of keyed BLAKE2b over its ASCII form.

    Without the key nothing about the name can be tried out; 128 bits keep 100,000 names apart.
    """
    return keyed_hash(key, name.encode("ascii"), person=labels.NAME, size=NAME_INDEX)
