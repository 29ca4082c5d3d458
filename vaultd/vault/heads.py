"""Heads: for every domain, the last record of its log and of its audit trail that a journal line vouches for.

    offset  bytes
         0      8  magic "vaultdHD"
         8      2  format version (1)
        10      2  zeros
        12      4  number of rows
        16     16  vault id
        32      4  journal: segment
        36      4  zeros
        40      8  journal: offset behind the last line that the rows know of
        48      8  journal: sequence number of that line
        56     32  journal: hash of that line
        88     84  rows: uid (16), generation (4), record index (8), record tag (16), trail's count (8), its head (32)

Big-endian. Rows are in no particular order, one per uid. The file needs no key of its own: the anchor holds its hash.
It only spares replaying the whole journal at each opening; the journal says the same.

In memory the rows are one buffer in the file's own form, so that taking a snapshot is one copy however many there are.
"""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from vaultd.audit.journal import Position
from vaultd.errors import FormatVersion, IntegrityError, Internal

if TYPE_CHECKING:
    from collections.abc import KeysView

__all__ = ["MAX_SIZE", "NO_RECORD", "NO_TRAIL", "Head", "Heads", "Trail", "hash_of"]

_MAGIC: Final = b"vaultdHD"
_VERSION: Final = 1
_HEADER: Final = struct.Struct(">8sHHI16sIIQQ32s")
_ROW: Final = struct.Struct(">16sIQ16sQ32s")
_HEAD: Final = struct.Struct(">IQ16s")
_TRAIL: Final = struct.Struct(">Q32s")
_HEAD_AT: Final = 16
_TRAIL_AT: Final = _HEAD_AT + _HEAD.size
_LABEL: Final = b"vaultd.heads"

MAX_SIZE: Final = _HEADER.size + 1_000_000 * _ROW.size
"""Bytes of the largest heads file: a million domains."""


class Head(NamedTuple):
    """The last record of a log."""

    generation: int
    record: int
    """Its index: records are counted from 1; 0 is a log without any."""
    tag: bytes
    """The last record's authentication tag, 16 bytes; zeros for a log without records."""


class Trail(NamedTuple):
    """The last record of a domain's audit trail."""

    seq: int
    head: bytes


NO_RECORD: Final = bytes(16)
NO_TRAIL: Final = Trail(0, bytes(32))


class Heads:
    """The rows of all domains; belongs to the decision thread."""

    def __init__(self, vault_id: bytes) -> None:
        self.vault_id = vault_id
        self._rows = bytearray()
        self._at: dict[bytes, int] = {}

    @classmethod
    def decode(cls, data: bytes, vault_id: bytes) -> tuple[Self, Position]:
        """The rows of a heads file, and the place in the journal up to which they are true.

        Raises:
            IntegrityError: the file is not in the form that this program writes, or is of another vault.
            FormatVersion: it is of a newer format.
        """
        if len(data) < _HEADER.size or not data.startswith(_MAGIC):
            raise IntegrityError("the heads file is not one of ours")
        _, version, _, count, vault, segment, _, offset, seq, head = _HEADER.unpack_from(data)
        if version > _VERSION:
            raise FormatVersion(f"the heads file is of format {version}, this program reads format {_VERSION}")
        position = Position(segment, offset, seq, head)
        heads = cls(vault_id)
        if vault != vault_id:
            raise IntegrityError("the heads file is of another vault")
        if len(data) != _HEADER.size + count * _ROW.size:
            raise IntegrityError("the heads file does not have the length that it states")
        heads._rows += data[_HEADER.size :]
        heads._at = {
            data[_HEADER.size + at : _HEADER.size + at + 16]: at for at in range(0, len(heads._rows), _ROW.size)
        }
        if len(heads._at) != count or heads.encode(position) != data:
            raise IntegrityError("the heads file is not in the form this program writes")
        return heads, position

    def encode(self, position: Position) -> bytes:
        """The file that says where every domain stands at `position`."""
        header = _HEADER.pack(
            _MAGIC,
            _VERSION,
            0,
            len(self._at),
            self.vault_id,
            position.segment,
            0,
            position.offset,
            position.seq,
            position.head,
        )
        return header + self._rows

    def __len__(self) -> int:
        return len(self._at)

    def __contains__(self, uid: bytes) -> bool:
        return uid in self._at

    def uids(self) -> KeysView[bytes]:
        """Every domain that has a row."""
        return self._at.keys()

    def add(self, uid: bytes, generation: int) -> None:
        """Begin a domain: no record, no trail."""
        if len(uid) != 16 or uid in self._at:
            raise Internal("a domain begins once, under an id of 16 bytes")
        self._at[uid] = len(self._rows)
        self._rows += _ROW.pack(uid, generation, 0, NO_RECORD, *NO_TRAIL)

    def remove(self, uid: bytes) -> None:
        """Forget a domain; the last row takes its place."""
        at = self._at.pop(uid)
        last = bytes(self._rows[-_ROW.size :])
        del self._rows[-_ROW.size :]
        if at < len(self._rows):
            self._rows[at : at + _ROW.size] = last
            self._at[last[:16]] = at

    def head(self, uid: bytes) -> Head:
        return Head(*_HEAD.unpack_from(self._rows, self._at[uid] + _HEAD_AT))

    def trail(self, uid: bytes) -> Trail:
        return Trail(*_TRAIL.unpack_from(self._rows, self._at[uid] + _TRAIL_AT))

    def set_head(self, uid: bytes, head: Head) -> None:
        _HEAD.pack_into(self._rows, self._at[uid] + _HEAD_AT, *head)

    def set_trail(self, uid: bytes, seq: int, head: bytes) -> None:
        _TRAIL.pack_into(self._rows, self._at[uid] + _TRAIL_AT, seq, head)


def hash_of(encoded: bytes) -> bytes:
    """What the anchor holds of a heads file."""
    return hashlib.blake2b(encoded, digest_size=32, person=_LABEL).digest()
