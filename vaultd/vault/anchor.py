"""The anchor: what of the vault's files is known to be durable, in one of two slots that are overwritten in turn.

    offset  bytes
         0      8  magic "vaultdST"
         8      2  format version: 1, or 2 if the journal is sealed forward
        10      2  flags: bit 0, a change of the keyring may have left files behind
        12      4  zeros
        16     16  vault id
        32      8  sequence: this slot is number (sequence mod 2)
        40      8  highest wall time seen, nanoseconds since 1970
        48      4  journal: segment
        52      4  number of the heads file
        56      8  journal: offset behind the last anchored line
        64      8  journal: sequence number of that line
        72     32  journal: hash of that line
       104     32  keyring hash
       136     32  heads hash
       168      4  number of the forward seal's chain; zeros in version 1
       172      4  zeros
       176      8  sequence number of the newest tag line; zeros in version 1
       184    228  zeros
       412      4  journal: the first segment that is left; 0 when none was pruned
       416     32  hash of what that segment follows; zeros when none was pruned
       448     32  MAC over bytes 0 to 447: keyed BLAKE2b-256 under the anchor key
       480     32  checksum over bytes 0 to 479: BLAKE2b-256, personalised

Big-endian. The checksum tells a torn slot from a whole one before any key is there; the MAC, once the root key is,
tells a whole one from a forged one. A torn slot is what a power cut leaves, and the other slot takes over; a slot whose
checksum holds and whose MAC does not was made by somebody, and nothing takes over from it.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from vaultd.audit.journal import Position
from vaultd.crypto.primitives import constant_time_equal, keyed_hash
from vaultd.errors import FormatVersion, IntegrityError

if TYPE_CHECKING:
    from vaultd.crypto.memory import Key

__all__ = ["NO_BASE", "SLOTS", "SLOT_SIZE", "Anchor", "Found", "choose"]

SLOT_SIZE: Final = 512
"""One sector: most devices write it whole, and the format does not rely on it."""

SLOTS: Final = 2

_MAGIC: Final = b"vaultdST"
_VERSION: Final = 2
_MAC_AT: Final = 448
_SUM_AT: Final = 480
_FIELDS: Final = struct.Struct(">8sHHI16sQQIIQQ32s32s32sIIQ")
_PRUNED: Final = struct.Struct(">I32s")
_PRUNED_AT: Final = _MAC_AT - _PRUNED.size
NO_BASE: Final = bytes(32)
_PENDING: Final = 1
_MAC_LABEL: Final = b"vaultd.state.mac"
_SUM_LABEL: Final = b"vaultd.state.sum"
_DAMAGED: Final = "restore the whole vault directory from one backup"


@dataclass(frozen=True, slots=True)
class Anchor:
    """One state of the whole vault.

    Attributes:
        pending: the keyring was just changed, and files that it no longer names may still be there.
        sequence: one more than the anchor before.
        wall: the highest wall time that any anchor of this vault has seen, nanoseconds since 1970.
        position: everything before it in the journal is durable, and so is all that it vouches for.
        keyring: hash of the keyring in force, which lies in `keyring` or, right after its change, in `keyring.next`.
        heads_file, heads: number and hash of the heads snapshot that replaying starts from.
        first, base: the journal's first segment and the hash of what it follows; 1 and zeros until it is pruned.
        seal: number of the chain that the journal is sealed forward with, 0 for none.
        tag: sequence number of that chain's newest tag line.
    """

    vault_id: bytes
    sequence: int
    wall: int
    position: Position
    keyring: bytes
    heads_file: int
    heads: bytes
    pending: bool = False
    first: int = 1
    base: bytes = NO_BASE
    seal: int = 0
    tag: int = 0

    @property
    def slot(self) -> int:
        """Which of the two slots it is written to: never the one of the anchor before it."""
        return self.sequence % SLOTS

    def encode(self, key: Key) -> bytes:
        """The slot's 512 bytes, authenticated under the anchor key."""
        body = self._body()
        body += keyed_hash(key, body, person=_MAC_LABEL)
        return body + _checksum(body)

    def _body(self) -> bytes:
        fields = _FIELDS.pack(
            _MAGIC,
            2 if self.seal else 1,
            _PENDING if self.pending else 0,
            0,
            self.vault_id,
            self.sequence,
            self.wall,
            self.position.segment,
            self.heads_file,
            self.position.offset,
            self.position.seq,
            self.position.head,
            self.keyring,
            self.heads,
            self.seal,
            0,
            self.tag,
        )
        pruned = _PRUNED.pack(0 if self.base == NO_BASE else self.first, self.base)
        return fields.ljust(_PRUNED_AT, b"\0") + pruned


class Found(NamedTuple):
    """The anchor that is in force, as read from its slot.

    Attributes:
        torn: the other slot is not whole, as after a power cut while it was written.
    """

    anchor: Anchor
    mac: bytes
    torn: bool

    def verify(self, key: Key) -> None:
        """Hold the slot against the anchor key.

        Raises:
            IntegrityError: somebody without the key wrote it.
        """
        if not constant_time_equal(keyed_hash(key, self.anchor._body(), person=_MAC_LABEL), self.mac):
            raise IntegrityError("the anchor in the state file was not written by this vault", _DAMAGED)


def choose(slots: tuple[bytes, bytes], vault_id: bytes | None = None) -> Found:
    """The newest whole slot, not yet authenticated.

    Args:
        slots: the state file's two slots.
        vault_id: when given, the vault that the anchor must be of.

    Raises:
        IntegrityError: no slot is whole, or what is whole cannot have been written by this program.
        FormatVersion: a whole slot is of a newer format.
    """
    whole = [found for index, raw in enumerate(slots) if (found := _parse(index, raw)) is not None]
    if not whole:
        raise IntegrityError("neither slot of the state file is whole", _DAMAGED)
    anchors = sorted((anchor for anchor, _ in whole), key=lambda anchor: anchor.sequence)
    # Two whole slots are always neighbours: a third sequence number means that one was put back from a copy.
    if len(anchors) == SLOTS and anchors[1].sequence != anchors[0].sequence + 1:
        raise IntegrityError("the state file's slots do not follow each other", _DAMAGED)
    newest = anchors[-1]
    if any(anchor.vault_id != (vault_id or newest.vault_id) for anchor in anchors):
        raise IntegrityError("the state file is of another vault", _DAMAGED)
    mac = next(mac for anchor, mac in whole if anchor is newest)
    return Found(newest, mac, torn=len(whole) < SLOTS)


def _parse(index: int, raw: bytes) -> tuple[Anchor, bytes] | None:
    """The anchor of one slot; None when the slot is torn."""
    if len(raw) != SLOT_SIZE:
        raise IntegrityError("the state file does not have the length of its kind", _DAMAGED)
    # Before anything else: nothing of a torn slot may be believed, its version number least of all.
    if _checksum(raw[:_SUM_AT]) != raw[_SUM_AT:]:
        return None
    (
        magic,
        version,
        flags,
        _,
        vault,
        sequence,
        wall,
        segment,
        number,
        offset,
        seq,
        head,
        keyring,
        heads,
        seal,
        _,
        tag,
    ) = _FIELDS.unpack_from(raw)
    if magic != _MAGIC:
        raise IntegrityError("the state file is not one of ours", _DAMAGED)
    if version > _VERSION:
        raise FormatVersion(
            f"the state file is of format {version}, this program reads format {_VERSION}",
            "use the version of vaultd that wrote it, or a later one",
        )
    first, base = _PRUNED.unpack_from(raw, _PRUNED_AT)
    position = Position(segment, offset, seq, head)
    anchor = Anchor(
        vault,
        sequence,
        wall,
        position,
        keyring,
        number,
        heads,
        bool(flags & _PENDING),
        first=first or 1,
        base=base,
        seal=seal,
        tag=tag,
    )
    # One spelling only: version 0, unknown flags and bytes where zeros belong fail here, as does a slot moved.
    if anchor._body() != raw[:_MAC_AT] or anchor.slot != index or not 1 <= anchor.first <= segment:
        raise IntegrityError("the state file's slot is not in the form this program writes", _DAMAGED)
    return anchor, raw[_MAC_AT:_SUM_AT]


def _checksum(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=32, person=_SUM_LABEL).digest()
