"""The keyring: who may open the vault, and every domain's keys, wrapped.

    offset   bytes
         0       8  magic "vaultdKR"
         8       2  format version (1)
        10       2  number of slots, 1 to 32
        12       2  number of admin uids, 1 to 64
        14       2  zeros
        16      16  vault id
        32       8  created, seconds since 1970
        40       4  number of entries, the system's included
        44       4  id that the next slot gets
        48       4  revision: one more with each change
        52      32  checkpoint public key (Ed25519)
        84     104  checkpoint seed, wrapped under the wrap key
       188     4 n  admin uids
             412 n  slots (vaultd/crypto/FORMAT.md)
             456 n  entries, the system's first, then by uid
                32  MAC: keyed BLAKE2b-256 of the hash, under the anchor key

    entry    bytes
         0      16  uid
        16      16  name index; zeros for the system and for a deleted tenant
        32       4  generation of the tenant key and of the log
        36       4  flags: bit 0, deleted (only its audit trail is left)
        40       8  created, seconds since 1970
        48     104  name: 64 bytes (zeros behind it), sealed under the system's record key; zeros for the system
       152     104  tenant key, wrapped under the wrap key; zeros for a deleted tenant
       256     136  deposit private key ‖ audit private key, wrapped under the wrap key; deleted: zeros first
       392      32  deposit public key; zeros for a deleted tenant
       424      32  audit public key

Big-endian. The hash is BLAKE2b-256, personalised, over everything before the MAC; the anchor holds it, so exactly one
keyring is ever accepted. Entries are of one size and are taken apart only when asked for: opening a vault of a hundred
thousand tenants costs slices, not parsing.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from vaultd.crypto.primitives import constant_time_equal, keyed_hash
from vaultd.crypto.slots import SLOT_SIZE, Slot
from vaultd.errors import FormatVersion, IntegrityError, Internal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vaultd.crypto.memory import Key

__all__ = ["DELETED", "MAX_SIZE", "SYSTEM", "Entry", "Keyring", "KeyringFile", "hash_of"]

SYSTEM: Final = bytes(16)
"""The system domain's uid."""

_MAGIC: Final = b"vaultdKR"
_VERSION: Final = 1
_HEADER: Final = struct.Struct(">8sHHHH16sQIII32s104s")
_ENTRY: Final = struct.Struct(">16s16sIIQ104s104s136s32s32s")
_GENERATION: Final = slice(32, 36)
_MAC: Final = 32
_NO_INDEX: Final = bytes(16)
DELETED: Final = 1
_MAX_SLOTS: Final = 32
_MAX_ADMINS: Final = 64
_HASH_LABEL: Final = b"vaultd.keyring"
_MAC_LABEL: Final = b"vaultd.kr.mac"
_DAMAGED: Final = "restore the whole vault directory from one backup"

MAX_SIZE: Final = _HEADER.size + 4 * _MAX_ADMINS + SLOT_SIZE * _MAX_SLOTS + 1_000_000 * _ENTRY.size + _MAC
"""Bytes of the largest keyring: a million domains."""


class Entry(NamedTuple):
    """One domain's place in the keyring. Nothing in it is secret."""

    uid: bytes
    name_index: bytes
    generation: int
    flags: int
    created: int
    sealed_name: bytes
    wrapped_key: bytes
    wrapped_pairs: bytes
    deposit_public: bytes
    audit_public: bytes

    @property
    def deleted(self) -> bool:
        """Whether only the audit trail is left."""
        return bool(self.flags & DELETED)

    def encode(self) -> bytes:
        return _ENTRY.pack(*self)

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        return cls(*_ENTRY.unpack(raw))


@dataclass(frozen=True, slots=True)
class Keyring:
    """One state of the keyring. A change makes another one; the flush thread may encode this one meanwhile.

    Attributes:
        created: seconds since 1970.
        admin_uids: who may be an admin where the configuration names nobody.
        next_slot: the id that the next slot gets; ids never come again.
        revision: one more with each change, so that a journal line can say as of which keyring it speaks.
        rows: every entry's bytes by uid, the system's first. Not to be changed.
        by_index: uid by name index, of the tenants that are not deleted. Not to be changed.
    """

    vault_id: bytes
    created: int
    admin_uids: tuple[int, ...]
    checkpoint_public: bytes
    wrapped_checkpoint: bytes
    slots: tuple[Slot, ...]
    next_slot: int
    revision: int
    rows: dict[bytes, bytes]
    by_index: dict[bytes, bytes] = field(repr=False)

    @classmethod
    def build(
        cls,
        *,
        vault_id: bytes,
        created: int,
        admin_uids: Iterable[int],
        checkpoint_public: bytes,
        wrapped_checkpoint: bytes,
        slots: Iterable[Slot],
        next_slot: int,
        entries: Iterable[Entry],
        revision: int = 1,
    ) -> Keyring:
        """A keyring of these parts, the system's entry first."""
        rows = {entry.uid: entry.encode() for entry in entries}
        return cls(
            vault_id,
            created,
            tuple(admin_uids),
            checkpoint_public,
            wrapped_checkpoint,
            tuple(slots),
            next_slot,
            revision,
            rows,
            _index(rows.values()),
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __contains__(self, uid: object) -> bool:
        return uid in self.rows

    def __iter__(self) -> Iterator[Entry]:
        return map(Entry.decode, self.rows.values())

    def entry(self, uid: bytes) -> Entry | None:
        """The entry of `uid`, if there is one."""
        raw = self.rows.get(uid)
        return None if raw is None else Entry.decode(raw)

    def generation(self, uid: bytes) -> int | None:
        """The generation of `uid`'s log and key, None for an unknown one."""
        raw = self.rows.get(uid)
        return None if raw is None else int.from_bytes(raw[_GENERATION], "big")

    def with_entry(self, entry: Entry) -> Keyring:
        """This keyring with one entry new or replaced."""
        rows = self.rows | {entry.uid: entry.encode()}
        by_index = dict(self.by_index)
        before = self.entry(entry.uid)
        if before is not None:
            by_index.pop(before.name_index, None)
        if entry.name_index != _NO_INDEX:
            if by_index.get(entry.name_index, entry.uid) != entry.uid:
                raise Internal("two tenants cannot have one name")
            by_index[entry.name_index] = entry.uid
        return replace(self, rows=rows, by_index=by_index)

    def without(self, uid: bytes) -> Keyring:
        """This keyring without one tenant's entry."""
        entry = self.entry(uid)
        if entry is None or uid == SYSTEM:
            raise Internal("there is no such tenant in the keyring")
        rows = {known: row for known, row in self.rows.items() if known != uid}
        by_index = {index: known for index, known in self.by_index.items() if known != uid}
        return replace(self, rows=rows, by_index=by_index)

    def with_entries(self, entries: Iterable[Entry], *, wrapped_checkpoint: bytes, slots: Iterable[Slot]) -> Keyring:
        """This keyring under another root key: every wrap anew."""
        return Keyring.build(
            vault_id=self.vault_id,
            created=self.created,
            admin_uids=self.admin_uids,
            checkpoint_public=self.checkpoint_public,
            wrapped_checkpoint=wrapped_checkpoint,
            slots=slots,
            next_slot=self.next_slot,
            entries=entries,
            revision=self.revision,
        )

    def with_slots(self, slots: Iterable[Slot], next_slot: int | None = None) -> Keyring:
        """This keyring with other slots."""
        return replace(self, slots=tuple(slots), next_slot=self.next_slot if next_slot is None else next_slot)

    def encode(self, key: Key) -> tuple[bytes, bytes]:
        """The file, authenticated under the anchor key, and the hash that the anchor holds of it."""
        body = self._body()
        digest = hash_of(body)
        return body + keyed_hash(key, digest, person=_MAC_LABEL), digest

    def _body(self) -> bytes:
        if not (1 <= len(self.slots) <= _MAX_SLOTS and 1 <= len(self.admin_uids) <= _MAX_ADMINS and self.rows):
            raise Internal("a keyring has 1 to 32 slots, 1 to 64 admin uids and the system's entry")
        header = _HEADER.pack(
            _MAGIC,
            _VERSION,
            len(self.slots),
            len(self.admin_uids),
            0,
            self.vault_id,
            self.created,
            len(self.rows),
            self.next_slot,
            self.revision,
            self.checkpoint_public,
            self.wrapped_checkpoint,
        )
        admins = b"".join(uid.to_bytes(4, "big") for uid in self.admin_uids)
        slots = b"".join(slot.serialise() for slot in self.slots)
        # Sorted, so that one keyring has one file; sixteen zero bytes put the system first by themselves.
        return b"".join([header, admins, slots, *(row for _, row in sorted(self.rows.items()))])


@dataclass(frozen=True, slots=True)
class KeyringFile:
    """A keyring as read, not yet authenticated.

    Attributes:
        hash: what the anchor must hold for this to be the keyring in force.
    """

    keyring: Keyring
    hash: bytes
    mac: bytes

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Take a keyring file apart.

        Raises:
            FormatVersion: it, or a slot in it, is of a newer format.
            IntegrityError: it is not in the form that this program writes, or a slot names an impossible cost.
        """
        if not data.startswith(_MAGIC) or len(data) < _HEADER.size + _MAC:
            raise IntegrityError("the keyring is not one of ours", _DAMAGED)
        (_, version, slot_count, admin_count, zero, vault, created, count, next_slot, revision, public, wrapped) = (
            _HEADER.unpack_from(data)
        )
        if version > _VERSION:
            raise FormatVersion(
                f"the keyring is of format {version}, this program reads format {_VERSION}",
                "use the version of vaultd that wrote it, or a later one",
            )
        slots_at = _HEADER.size + 4 * admin_count
        entries_at = slots_at + SLOT_SIZE * slot_count
        end = entries_at + _ENTRY.size * count
        if (
            version != _VERSION
            or zero
            or not 1 <= slot_count <= _MAX_SLOTS
            or not 1 <= admin_count <= _MAX_ADMINS
            or not count
            or len(data) != end + _MAC
        ):
            raise IntegrityError("the keyring's sizes do not fit its content", _DAMAGED)
        rows = {data[at : at + 16]: data[at : at + _ENTRY.size] for at in range(entries_at, end, _ENTRY.size)}
        uids = list(rows)
        # One entry a uid, in order, the system's first: one spelling.
        if len(rows) != count or uids[0] != SYSTEM or uids != sorted(uids):
            raise IntegrityError("the keyring's entries are not in the form this program writes", _DAMAGED)
        keyring = Keyring(
            vault,
            created,
            struct.unpack_from(f">{admin_count}I", data, _HEADER.size),
            public,
            wrapped,
            tuple(Slot.parse(data[at : at + SLOT_SIZE], vault) for at in range(slots_at, entries_at, SLOT_SIZE)),
            next_slot,
            revision,
            rows,
            _index(rows.values()),
        )
        return cls(keyring, hash_of(data[:end]), data[end:])

    def verify(self, key: Key) -> None:
        """Hold the file against the anchor key.

        Raises:
            IntegrityError: somebody without the key wrote it.
        """
        if not constant_time_equal(keyed_hash(key, self.hash, person=_MAC_LABEL), self.mac):
            raise IntegrityError("the keyring was not written by this vault", _DAMAGED)


def hash_of(body: bytes) -> bytes:
    """What the anchor holds of a keyring; `body` is the file without its MAC."""
    return hashlib.blake2b(body, digest_size=32, person=_HASH_LABEL).digest()


def _index(rows: Iterable[bytes]) -> dict[bytes, bytes]:
    # The system and the deleted have zeros there.
    by_index = {row[16:32]: row[:16] for row in rows}
    by_index.pop(_NO_INDEX, None)
    return by_index
