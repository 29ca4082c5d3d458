"""Key slots: how a passphrase, a key file or a systemd credential opens the root key.

    secret --Argon2id or BLAKE2b--> slot key --derive--> X25519 pair; the root key is boxed to the pair's public key

Why a pair: rotating the root must box the new root key for every slot without anybody's secret at hand, and whoever
kept the old root key must not be able to open the new one. Why the public key is stored only wrapped, under the wrap
key: a box does not say who made it, so whoever knew the public key could put a root key of their own into the slot, and
the true passphrase would open their vault. With the disk alone there is nothing to do but to pay Argon2id per guess.

A slot has 412 bytes, integers big-endian:

    offset size
         0    4  magic "VDSL"
         4    1  format version, 1
         5    1  kind: 1 passphrase, 2 key file, 3 systemd credential (the bytes of one count as a key file's)
         6    1  length of the label, 0 to 64
         7    1  lanes        } Argon2id's cost; all zero in the other kinds
         8    4  time cost    }
        12    4  memory, KiB  }
        16    4  slot id
        20    8  created, seconds since 1970 UTC
        28   16  salt
        44   16  vault id
        60   64  label, UTF-8, zeros behind it
       124   32  mark: keyed BLAKE2b of bytes 0..123 under the slot key
       156  136  root key, boxed to the slot's public key; bytes 0..123 are associated data
       292  104  slot's public key, wrapped under the wrap key; bytes 0..123 are associated data
       396   16  checksum: unkeyed BLAKE2b of bytes 0..395

The checksum catches accidents, before any cost is paid, so that a wrong secret and a damaged slot are told apart; who
writes the disk can make a new one, and is stopped by the mark and the two seals. The mark is compared before the box is
opened: a slot key that the slot was not made with opens nothing.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from vaultd.crypto import kdf, labels, sodium
from vaultd.crypto.box import BOXED_KEY, box, open_box_key
from vaultd.crypto.context import context
from vaultd.crypto.primitives import (
    constant_time_equal,
    derive,
    does_not_open,
    keyed_hash,
    random_bytes,
    x25519_public,
)
from vaultd.crypto.wrap import WRAPPED_KEY, unwrap, wrap
from vaultd.errors import FormatVersion, IntegrityError, Internal, Invalid, WrongSecret

if TYPE_CHECKING:
    from vaultd.crypto.memory import Buffer, Key, SecretBytes

__all__ = [
    "LABEL_MAX",
    "SLOT_SIZE",
    "Slot",
    "SlotKind",
    "SlotRandomness",
    "derive_slot_key",
    "new_slot",
    "open_slot",
    "open_slot_with_key",
    "rebox",
    "slot_public",
]

SLOT_SIZE: Final = 412
LABEL_MAX: Final = 64
"""Bytes of UTF-8."""

_MAGIC: Final = b"VDSL"
_VERSION: Final = 1
_HEADER: Final = struct.Struct(">4sBBBBIIIQ16s16s64s")
_MARK: Final = 32
_CHECKSUM: Final = 16
_NO_COST: Final = kdf.Profile(0, 0, 0)


class SlotKind(IntEnum):
    """What opens a slot."""

    PASSPHRASE = 1
    KEY_FILE = 2
    CREDENTIAL = 3


@dataclass(frozen=True, slots=True)
class Slot:
    """One key slot as it is stored; nothing in it is secret.

    Attributes:
        vault_id: 16 bytes; a slot of another vault does not parse.
        id: the number that people name it by.
        kind: what opens it.
        label: what people call it; at most 64 bytes of UTF-8.
        created: seconds since 1970 UTC.
        profile: Argon2id's cost; all zero in a slot without a passphrase.
        salt: 16 bytes.
        mark: tells the right slot key from a wrong one.
        boxed_root: the root key, boxed to the slot's public key.
        wrapped_public: the slot's public key, wrapped under the wrap key.
    """

    vault_id: bytes
    id: int
    kind: SlotKind
    label: str
    created: int
    profile: kdf.Profile
    salt: bytes
    mark: bytes
    boxed_root: bytes
    wrapped_public: bytes

    def header(self) -> bytes:
        """Bytes 0 to 123: what the mark and both seals authenticate."""
        label = self.label.encode()
        return _HEADER.pack(
            _MAGIC,
            _VERSION,
            self.kind,
            len(label),
            self.profile.lanes,
            self.profile.time_cost,
            self.profile.memory_kib,
            self.id,
            self.created,
            self.salt,
            self.vault_id,
            label,
        )

    def serialise(self) -> bytes:
        """The slot's 412 bytes."""
        body = self.header() + self.mark + self.boxed_root + self.wrapped_public
        return body + _checksum(body)

    @classmethod
    def parse(cls, data: Buffer, vault_id: bytes) -> Slot:
        """Read 412 bytes; whatever parses serialises to the same bytes again.

        Raises:
            FormatVersion: a newer slot format, or a kind that this version does not know.
            IntegrityError: anything else than a slot of this vault.
        """
        raw = bytes(data)
        if len(raw) != SLOT_SIZE or raw[:4] != _MAGIC:
            raise _damaged()
        # The version before the checksum: a newer format may well keep its checksum elsewhere.
        if raw[4] > _VERSION:
            raise FormatVersion(f"key slot has format version {raw[4]}", "open the vault with a newer vaultd")
        body, checksum = raw[:-_CHECKSUM], raw[-_CHECKSUM:]
        if not constant_time_equal(_checksum(body), checksum):
            raise _damaged()
        fields = _HEADER.unpack_from(raw)
        _, _, kind, label_size, lanes, time_cost, memory_kib, slot_id, created, salt, vault, padded = fields
        if kind not in SlotKind.__members__.values():
            raise FormatVersion(f"key slot has the unknown kind {kind}", "open the vault with a newer vaultd")
        rest = raw[_HEADER.size : -_CHECKSUM]
        try:
            label = padded[:label_size].decode()
        except UnicodeDecodeError:
            raise _damaged() from None
        slot = cls(
            vault_id=vault,
            id=slot_id,
            kind=SlotKind(kind),
            label=label,
            created=created,
            profile=kdf.Profile(time_cost, memory_kib, lanes),
            salt=salt,
            mark=rest[:_MARK],
            boxed_root=rest[_MARK : _MARK + BOXED_KEY],
            wrapped_public=rest[_MARK + BOXED_KEY :],
        )
        # Version 0, a label length over 64, bytes behind the label: what the fields do not show, serialising does.
        if vault != vault_id or not _label_fits(label) or slot.serialise() != raw:
            raise _damaged()
        if slot.kind is SlotKind.PASSPHRASE:
            kdf.check_bounds(slot.profile, minimum=kdf.CHEAPEST)  # the caller's minimum comes before deriving
        elif slot.profile != _NO_COST:
            raise _damaged()
        return slot


@dataclass(frozen=True, slots=True)
class SlotRandomness:
    """All that a new slot draws: strictly for generators of golden files. Each is used for one slot only."""

    salt: bytes
    ephemeral: Key
    root_nonce: bytes
    public_nonce: bytes


def new_slot(
    *,
    vault_id: bytes,
    slot_id: int,
    kind: SlotKind,
    label: str,
    created: int,
    secret: SecretBytes,
    root: Key,
    wrap_key: Key,
    profile: kdf.Profile = kdf.RFC_9106_LOW,
    fixed: SlotRandomness | None = None,
) -> Slot:
    """Make a slot that opens `root` with `secret`; slow for a passphrase.

    Args:
        vault_id: 16 bytes.
        slot_id: the slot's number, 0 to 2^32 - 1.
        kind: what `secret` is.
        label: what people call it; at most 64 bytes of UTF-8.
        created: seconds since 1970 UTC.
        secret: the passphrase or the key file's content.
        root: the root key.
        wrap_key: `RootKeys(root).wrap`.
        profile: Argon2id's cost for a passphrase; not used for the other kinds.
        fixed: only for generators of golden files.

    Raises:
        Invalid: a secret, a label or a cost outside its bounds.
    """
    if not _label_fits(label):
        raise Invalid("slot label is longer than 64 bytes or not plain text", "choose one without control characters")
    if not 0 <= slot_id < 1 << 32 or not 0 <= created < 1 << 64:
        raise Internal("a slot's id has 32 bits, its time of creation 64")
    if kind is SlotKind.PASSPHRASE:
        try:
            kdf.check_bounds(profile, minimum=kdf.CHEAPEST)
        except IntegrityError:
            raise Invalid("argon2id cost is outside the bounds", "use at most 16 passes, 1 GiB, 16 lanes") from None
    draft = Slot(
        vault_id=vault_id,
        id=slot_id,
        kind=kind,
        label=label,
        created=created,
        profile=profile if kind is SlotKind.PASSPHRASE else _NO_COST,
        salt=random_bytes(sodium.SALT) if fixed is None else fixed.salt,
        mark=b"",
        boxed_root=b"",
        wrapped_public=b"",
    )
    with _slot_key(draft, secret) as slot_key, derive(slot_key, labels.SLOT_PAIR) as private:
        public = x25519_public(private)
        marked = replace(draft, mark=_mark(slot_key, draft.header()))
    return rebox(marked, public, root, wrap_key, fixed=fixed)


def derive_slot_key(slot: Slot, secret: SecretBytes, *, minimum: kdf.Profile = kdf.FLOOR) -> Key:
    """The slot key, when `secret` is the slot's: the slow part, without the GIL.

    Args:
        slot: a parsed slot.
        secret: the passphrase or the key file's content.
        minimum: the least Argon2id cost accepted; nothing is derived below it.

    Raises:
        WrongSecret: the slot was not made with this secret.
        IntegrityError: the slot names a cost outside the bounds or below `minimum`.
        Invalid: the secret is outside its bounds.
    """
    if slot.kind is SlotKind.PASSPHRASE:
        kdf.check_bounds(slot.profile, minimum)
    slot_key = _slot_key(slot, secret)
    if not constant_time_equal(_mark(slot_key, slot.header()), slot.mark):
        slot_key.wipe()
        raise WrongSecret("secret does not open this key slot", "check which slot it belongs to: 'vaultctl slot list'")
    return slot_key


def open_slot_with_key(slot: Slot, slot_key: Key) -> Key:
    """The root key, from a slot key that `derive_slot_key` returned.

    Raises:
        IntegrityError: the boxed root key does not verify.
    """
    with derive(slot_key, labels.SLOT_PAIR) as private:
        return open_box_key(private, x25519_public(private), context("slot.root", slot.header()), slot.boxed_root)


def open_slot(slot: Slot, secret: SecretBytes, *, minimum: kdf.Profile = kdf.FLOOR) -> Key:
    """The root key: `derive_slot_key`, then `open_slot_with_key`, with the errors of both."""
    with derive_slot_key(slot, secret, minimum=minimum) as slot_key:
        return open_slot_with_key(slot, slot_key)


def slot_public(slot: Slot, wrap_key: Key) -> bytes:
    """The slot's public key, for `rebox`.

    Args:
        slot: a parsed slot.
        wrap_key: the wrap key that the slot was last boxed with.

    Raises:
        IntegrityError: another wrap key, another slot, or changed bytes.
    """
    with unwrap(wrap_key, context("slot.public", slot.header()), slot.wrapped_public) as public:
        if len(public) != sodium.KEY:
            raise does_not_open()
        return bytes(public.view())


def rebox(slot: Slot, public: bytes, root: Key, wrap_key: Key, *, fixed: SlotRandomness | None = None) -> Slot:
    """The same slot for another root key, without its secret.

    Args:
        slot: the slot.
        public: from `slot_public`, under the old wrap key.
        root: the new root key.
        wrap_key: `RootKeys(root).wrap`.
        fixed: only for generators of golden files.
    """
    if len(slot.vault_id) != sodium.SALT or len(slot.salt) != sodium.SALT or len(slot.mark) != _MARK:
        raise Internal("a slot's vault id and salt have 16 bytes, its mark 32")
    header = slot.header()
    ephemeral, root_nonce, public_nonce = (
        (None, None, None) if fixed is None else (fixed.ephemeral, fixed.root_nonce, fixed.public_nonce)
    )
    return replace(
        slot,
        boxed_root=box(public, context("slot.root", header), root, ephemeral=ephemeral, nonce=root_nonce),
        wrapped_public=wrap(wrap_key, context("slot.public", header), public, nonce=public_nonce),
    )


def _slot_key(slot: Slot, secret: SecretBytes) -> Key:
    if slot.kind is SlotKind.PASSPHRASE:
        return kdf.argon2id(secret, slot.salt, slot.profile)
    return kdf.key_file_key(secret, slot.salt)


def _label_fits(label: str) -> bool:
    # Labels are listed while the vault is sealed and so nothing vouches for them yet: they must not steer a terminal.
    # Surrogates are what the command line makes of bytes that are not UTF-8.
    if any(char < " " or "\x7f" <= char <= "\x9f" or "\ud800" <= char <= "\udfff" for char in label):
        return False
    return len(label.encode()) <= LABEL_MAX


def _mark(slot_key: Key, header: bytes) -> bytes:
    return keyed_hash(slot_key, header, person=labels.SLOT_MARK, size=_MARK)


def _checksum(body: bytes) -> bytes:
    return keyed_hash(None, body, person=labels.SLOT_CHECKSUM, size=_CHECKSUM)


def _damaged() -> IntegrityError:
    return IntegrityError("key slot is damaged, or belongs to another vault", "restore the keyring from a backup")


if _HEADER.size + _MARK + BOXED_KEY + WRAPPED_KEY + _CHECKSUM != SLOT_SIZE:
    raise Internal("a key slot's layout does not add up")
