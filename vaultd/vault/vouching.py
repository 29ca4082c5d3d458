"""The seal on a journal line that vouches for logs: it could only be written by us, and only right there.

Every line that vouches carries one more entry behind those of the logs, under a uid that no domain has:

    uid         sixteen bytes of 0xff
    generation  revision of the keyring as of this line
    record      0
    tag         keyed BLAKE2b-128 under the vouching key, over context("vouch", vault id, the line's sequence number,
                hash of the line before it, revision, the other entries: uid (16) ‖ generation (4) ‖ record (8) ‖ tag
                (16) each)

The journal's chain needs no key, so behind the anchor anybody can write lines that follow. The seal takes in the hash
of the line before: a change that is believed brings the whole genuine journal up to it along. So of changes that the
anchor does not know of yet nobody can pick the ones that suit, and an older anchor with an older keyring beside it is
found out by the first change that came after. The vouching key derives from the system key, which outlives the root
key.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from vaultd.audit.chain import Vouch
from vaultd.crypto.context import context
from vaultd.crypto.primitives import constant_time_equal, derive, keyed_hash
from vaultd.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vaultd.crypto.memory import Key

__all__ = ["Claim", "split", "vouch", "vouching_key"]

_UID: Final = b"\xff" * 16
_ENTRY: Final = struct.Struct(">16sIQ16s")
_KEY_LABEL: Final = b"vaultd.vouchkey"
_MAC_LABEL: Final = b"vaultd.vouch"
_RESTORE: Final = "restore the whole vault directory from one backup"


class Claim(NamedTuple):
    """What a line says of logs and of the keyring, and where in the journal it says so."""

    seq: int
    before: bytes
    """Hash of the line before."""
    revision: int
    heads: tuple[Vouch, ...]
    """Of the logs alone."""
    seal: bytes

    def verify(self, key: Key, vault_id: bytes) -> None:
        """Hold the seal against the vouching key.

        Raises:
            IntegrityError: somebody without the key wrote the line, or wrote it elsewhere.
        """
        expected = _seal(key, vault_id, self.seq, self.before, self.revision, self.heads)
        if not constant_time_equal(expected, self.seal):
            raise IntegrityError(
                f"journal line {self.seq} vouches for logs and was not written by this vault", _RESTORE
            )


def vouching_key(system_key: Key) -> Key:
    """The key of all seals of this vault."""
    return derive(system_key, _KEY_LABEL)


def vouch(
    key: Key, vault_id: bytes, seq: int, before: bytes, revision: int, heads: Sequence[Vouch]
) -> tuple[Vouch, ...]:
    """The entries of a line that vouches for `heads`, its seal included."""
    return (*heads, Vouch(_UID, revision, 0, _seal(key, vault_id, seq, before, revision, heads)))


def split(seq: int, before: bytes, entries: tuple[Vouch, ...]) -> Claim:
    """The claim of a line with these entries.

    Raises:
        IntegrityError: it does not end in one seal.
    """
    *heads, last = entries
    if last.uid != _UID or last.record or any(entry.uid == _UID for entry in heads):
        raise IntegrityError(f"journal line {seq} vouches for logs without a seal", _RESTORE)
    return Claim(seq, before, last.generation, tuple(heads), last.tag)


def _seal(key: Key, vault_id: bytes, seq: int, before: bytes, revision: int, heads: Sequence[Vouch]) -> bytes:
    packed = b"".join(_ENTRY.pack(*entry) for entry in heads)
    return keyed_hash(key, context("vouch", vault_id, seq, before, revision, packed), person=_MAC_LABEL, size=16)
