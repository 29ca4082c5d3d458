"""Every personalisation of keyed BLAKE2b in this room, in one place, so that no two uses of a key can meet.

BLAKE2b takes 16 bytes (RFC 7693, section 2.5); shorter labels are padded with zeros. A test holds that all differ.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "ANCHOR",
    "BOX",
    "COMMIT",
    "DATA_KEY",
    "INDEX",
    "KEY_FILE",
    "NAME",
    "RECORD",
    "SEAL_ID",
    "SEAL_IDLE",
    "SEAL_NEXT",
    "SEAL_SUM",
    "SEAL_TAG",
    "SEAL_TYPED",
    "SLOT_CHECKSUM",
    "SLOT_MARK",
    "SLOT_PAIR",
    "STREAM",
    "WRAP",
]

COMMIT: Final = b"vaultd.commit"
"""The commitment that every wrap carries to its key, nonce and associated data."""
BOX: Final = b"vaultd.box"
"""From an X25519 shared point to the key of one box."""
WRAP: Final = b"vaultd.wrap"
"""Root key to wrap key: it wraps tenant keys, key pairs and slots' public keys."""
ANCHOR: Final = b"vaultd.anchor"
"""Root key to anchor key: it authenticates the anchor, the keyring and the heads."""
RECORD: Final = b"vaultd.record"
"""Tenant key to record key: it seals log records."""
DATA_KEY: Final = b"vaultd.datakey"
"""Tenant key to data-key wrap key: it wraps the data key of every version."""
INDEX: Final = b"vaultd.index"
"""System key to index key."""
NAME: Final = b"vaultd.name"
"""A tenant's name under the index key: what the keyring is searched by."""
SLOT_PAIR: Final = b"vaultd.slot.pair"
"""Slot key to the slot's X25519 private key."""
SLOT_MARK: Final = b"vaultd.slot.mark"
"""Slot key to the mark that tells the right secret from a wrong one."""
SLOT_CHECKSUM: Final = b"vaultd.slot.sum"
"""The unkeyed checksum that tells a damaged slot from a wrong secret."""
KEY_FILE: Final = b"vaultd.keyfile"
"""A key file's content to its slot key."""
STREAM: Final = b"vaultd.stream"
"""A blob's data key to the key of its stream."""
SEAL_NEXT: Final = b"vaultd.seal.next"
"""An epoch's key of the audit's forward seal to the next epoch's."""
SEAL_IDLE: Final = b"vaultd.seal.idle"
"""The proof that an epoch was idle, under that epoch's key."""
SEAL_TAG: Final = b"vaultd.seal.tag"
"""The tag that ends an epoch, under that epoch's key."""
SEAL_ID: Final = b"vaultd.seal.id"
"""What names a first seal key without telling it."""
SEAL_SUM: Final = b"vaultd.seal.sum"
"""The unkeyed checksum that tells a torn slot of the seal's state from a whole one."""
SEAL_TYPED: Final = b"vaultd.seal.key"
"""The unkeyed checksum at the end of a first seal key's text."""
