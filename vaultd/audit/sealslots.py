"""The forward seal's state, in one of two slots that are overwritten in turn.

    offset  bytes
         0      8  magic "vaultdSL"
         8      2  format version (1)
        10      2  zeros
        12      4  number of the seal chain, from 1
        16     16  vault id
        32      8  sequence: this slot is number (sequence mod 2)
        40      8  the first epoch that no tag stands for
        48      8  the present epoch
        56      8  sequence number of the newest tag line
        64     32  hash of that line
        96     32  proof of the idle epochs
       128     32  key of the present epoch: secret
       160    320  zeros
       480     32  checksum over bytes 0 to 479: BLAKE2b-256, personalised

Big-endian. The checksum tells a torn slot from a whole one. There is no MAC: the key in the slot is what one would be
made with, and who holds the first key can tell a made-up state, because nobody else can make an earlier epoch's key.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from vaultd.audit.seal import SealChain
from vaultd.audit.tags import MAX_EPOCHS
from vaultd.crypto import labels
from vaultd.crypto.epochs import NO_PROOF, EpochKey
from vaultd.crypto.memory import Key, SecretBytes, wipe
from vaultd.crypto.primitives import keyed_hash
from vaultd.errors import FormatVersion, IntegrityError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["SLOTS", "SLOT_SIZE", "Kept", "choose", "encode"]

SLOT_SIZE: Final = 512
SLOTS: Final = 2

_MAGIC: Final = b"vaultdSL"
_VERSION: Final = 1
_FIELDS: Final = struct.Struct(">8sHHI16sQQQQ32s32s")
_KEY_AT: Final = 128
_KEY_END: Final = 160
_SUM_AT: Final = 480


class Kept(NamedTuple):
    """A state as its slot has it."""

    chain: SealChain
    """The caller's to wipe."""
    sequence: int
    torn: bool
    """The other slot is not whole, as after a power cut while it was written."""


def encode(chain: SealChain, sequence: int) -> SecretBytes:
    """The slot's 512 bytes, secret because of the key in them; the caller's to wipe."""
    slot = bytearray(SLOT_SIZE)
    _FIELDS.pack_into(
        slot,
        0,
        _MAGIC,
        _VERSION,
        0,
        chain.chain,
        chain.vault_id,
        sequence,
        chain.first,
        chain.key.epoch,
        chain.tag_seq,
        chain.tag_hash,
        chain.proof,
    )
    with memoryview(slot) as view:
        with view[_KEY_AT:_KEY_END] as place:
            chain.key.write_to(place)
        with view[:_SUM_AT] as summed:
            checksum = keyed_hash(None, summed, person=labels.SEAL_SUM)
    slot[_SUM_AT:] = checksum
    return SecretBytes.take(slot)


def choose(slots: Sequence[bytearray], vault_id: bytes | None = None) -> Kept:
    """The newest whole slot.

    Args:
        slots: the file's two, as read; they stay the caller's to wipe.
        vault_id: when given, whose state it must be.

    Raises:
        IntegrityError: no slot is whole, or what is whole cannot have been written by this program.
        FormatVersion: a whole slot is of a newer format.
    """
    found = [kept for index, raw in enumerate(slots) if (kept := _parse(index, raw)) is not None]
    fault = _fault(found, vault_id)
    if fault:
        for kept in found:
            kept.chain.wipe()
        raise IntegrityError(fault)
    newest = max(found, key=lambda kept: kept.sequence)
    for kept in found:
        if kept is not newest:
            kept.chain.wipe()
    return newest._replace(torn=len(found) < SLOTS)


def _fault(found: Sequence[Kept], vault_id: bytes | None) -> str:
    if not found:
        return "neither slot of the seal's state is whole"
    sequences = sorted(kept.sequence for kept in found)
    # Two whole slots are neighbours: another distance means that one was put back from a copy.
    if len(found) == SLOTS and sequences[1] != sequences[0] + 1:
        return "the slots of the seal's state do not follow each other"
    if any(kept.chain.vault_id != (vault_id or found[0].chain.vault_id) for kept in found):
        return "the seal's state is of another vault"
    return ""


def _parse(index: int, raw: bytearray) -> Kept | None:
    """The state in one slot; None when the slot is torn."""
    with memoryview(raw) as view, view[:_SUM_AT] as summed:
        if len(raw) != SLOT_SIZE or keyed_hash(None, summed, person=labels.SEAL_SUM) != raw[_SUM_AT:]:
            return None
    magic, version, zeros, chain, vault_id, sequence, first, epoch, tag_seq, tag_hash, proof = _FIELDS.unpack_from(raw)
    if magic != _MAGIC:
        raise IntegrityError("the seal's state is not one of ours")
    if version > _VERSION:
        raise FormatVersion(
            f"the seal's state is of format {version}, this program reads format {_VERSION}",
            "use the version of vaultd that wrote it, or a later one",
        )
    # One spelling only, and only what a seal chain can come to.
    if (
        (version, zeros) != (_VERSION, 0)
        or any(raw[_KEY_END:_SUM_AT])
        or sequence % SLOTS != index
        or not chain
        or not tag_seq
        or not first <= epoch < first + MAX_EPOCHS
        or (epoch == first and proof != NO_PROOF)
    ):
        raise IntegrityError("the seal's state is not in the form this program writes")
    binary = raw[_KEY_AT:_KEY_END]
    try:
        key = EpochKey(Key.copy_of(binary), epoch)
    finally:
        wipe(binary)
    state = SealChain(vault_id, chain, key, first=first, proof=proof, tag_seq=tag_seq, tag_hash=tag_hash)
    return Kept(state, sequence, torn=False)
