"""Checkpoints: the journal's size, head and time in a few signed lines of text, to be kept elsewhere.

The text follows C2SP's tlog-checkpoint and signed-note, so that existing tools can carry it. What it commits to is a
hash chain, not a Merkle tree: it is checked by walking the journal, and proves nothing about a part of it.
"""

from __future__ import annotations

import re
from binascii import Error as Base64Error
from binascii import a2b_base64 as _unbase64
from binascii import b2a_base64 as _base64
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from vaultd.audit.canonical import parse_timestamp, timestamp
from vaultd.crypto import primitives
from vaultd.errors import IntegrityError

if TYPE_CHECKING:
    from vaultd.crypto.memory import SecretBytes

__all__ = ["Checkpoint", "issue", "key_id", "parse"]

_ED25519: Final = b"\x01"
_FORM: Final = re.compile(
    r"(?P<text>vaultd/(?P<vault>[0-9a-f]{32})\n"
    r"(?P<size>0|[1-9][0-9]{0,18})\n"
    r"(?P<head>[A-Za-z0-9+/]{43}=)\n"
    r"time (?P<time>[0-9T:.Z-]{27})\n)"
    r"\n"
    r"— vaultd/(?P=vault) (?P<signature>[A-Za-z0-9+/]{91}=)\n"
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint says.

    Attributes:
        vault_id: 16 bytes.
        size: lines in the journal, which is the last line's sequence number.
        head: the last line's hash.
        wall: when it was signed, by the signer's clock; UTC nanoseconds since 1970.
    """

    vault_id: bytes
    size: int
    head: bytes
    wall: int

    def text(self) -> str:
        """What is signed."""
        head = _base64(self.head, newline=False).decode()
        return f"vaultd/{self.vault_id.hex()}\n{self.size}\n{head}\ntime {timestamp(self.wall)}\n"


def key_id(vault_id: bytes, public: bytes) -> bytes:
    """Four bytes that tell signers apart: SHA-256(name || newline || 0x01 || public key)[:4] (C2SP signed-note)."""
    return sha256(b"vaultd/" + vault_id.hex().encode() + b"\n" + _ED25519 + public).digest()[:4]


def issue(checkpoint: Checkpoint, seed: SecretBytes, public: bytes) -> str:
    """Sign `checkpoint` with the vault's checkpoint key.

    Returns:
        The signed text, newline included.
    """
    text = checkpoint.text()
    signature = key_id(checkpoint.vault_id, public) + primitives.sign(seed, text.encode())
    return f"{text}\n— vaultd/{checkpoint.vault_id.hex()} {_base64(signature, newline=False).decode()}\n"


def parse(signed: str, public: bytes) -> Checkpoint:
    """Read a signed checkpoint.

    Raises:
        IntegrityError: not a checkpoint in its one form, or `public` did not sign it.
    """
    found = _FORM.fullmatch(signed)
    if found is None:
        raise IntegrityError("not a checkpoint as vaultd writes it", "give the file that 'audit checkpoint' wrote")
    try:
        head, signature = _unbase64(found["head"]), _unbase64(found["signature"])
    except Base64Error as error:
        raise IntegrityError("not a checkpoint as vaultd writes it") from error
    vault_id = bytes.fromhex(found["vault"])
    checkpoint = Checkpoint(vault_id, int(found["size"]), head, parse_timestamp(found["time"]))
    expected = key_id(vault_id, public)
    if signature[:4] != expected:  # both public
        raise IntegrityError(
            f"the checkpoint is signed by key {signature[:4].hex()}, not by {expected.hex()}",
            "give the checkpoint public key that 'init' printed",
        )
    primitives.verify(public, found["text"].encode(), signature[4:])
    # The text is signed as it is, so spelling cannot vary there; the signature's own base64 must have one spelling too.
    if _base64(signature, newline=False).decode() != found["signature"]:
        raise IntegrityError("not a checkpoint as vaultd writes it")
    return checkpoint
