"""A trail's state: whose it is, the key its bodies are sealed to, and where its sub-chain stands."""

from __future__ import annotations

from typing import Final

from vaultd.audit.chain import GENESIS
from vaultd.errors import Internal

__all__ = ["SYSTEM_UID", "Domain"]

SYSTEM_UID: Final = bytes(16)
"""The uid of the system's own trail."""


class Domain:
    """One trail: a tenant's, or the system's.

    Sealing needs only the public half of the audit pair, so records are written while the tenant is sealed, and a
    thief of the running daemon cannot open what was sealed before.

    Args:
        uid: 16 bytes; zeros are the system's.
        audit_public: the X25519 public key that session keys are boxed to. Only the system's may be missing, before
            there is one; then its records have nothing to keep sealed.
        sub_seq: records in the trail so far.
        sub_head: the sub-chain's head after them.
    """

    __slots__ = ("audit_public", "sub_head", "sub_seq", "tenant_hex", "uid")

    def __init__(self, uid: bytes, audit_public: bytes | None, sub_seq: int = 0, sub_head: bytes = GENESIS) -> None:
        if len(uid) != 16 or len(sub_head) != 32 or sub_seq < 0 or (sub_seq == 0) != (sub_head == GENESIS):
            raise Internal("a trail was given an impossible state")
        if audit_public is None and uid != SYSTEM_UID:
            raise Internal("a tenant's trail needs its audit key")
        self.uid = uid
        self.audit_public = audit_public
        self.sub_seq = sub_seq
        self.sub_head = sub_head
        self.tenant_hex = None if uid == SYSTEM_UID else uid.hex()

    def advance(self, sub_head: bytes) -> None:
        """One more record stands in the trail."""
        self.sub_seq += 1
        self.sub_head = sub_head

    def __repr__(self) -> str:
        return f"Domain(uid={self.uid.hex()}, sub_seq={self.sub_seq})"
