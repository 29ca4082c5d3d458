"""The forward seal's files: found at opening and held against the journal, begun by an admin.

`seal` holds the state, two slots that are overwritten in place. A new chain's state is laid out as `seal.next` before
its first lines are written, and takes the name `seal` when they are durable: so whatever a crash leaves, either the old
chain's state or the new one's is there, and the journal says which of them counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from vaultd.audit.canonical import timestamp
from vaultd.audit.chain import Link, link
from vaultd.audit.seal import FirstKey, SealChain
from vaultd.audit.sealslots import SLOT_SIZE, SLOTS, Kept, choose, encode
from vaultd.audit.tags import TAG_FORM
from vaultd.crypto.epochs import EpochKey
from vaultd.crypto.memory import Key, wipe
from vaultd.errors import IntegrityError, NotFound

if TYPE_CHECKING:
    from vaultd.audit.journal import Journal, Position
    from vaultd.audit.tags import Tag
    from vaultd.clock import Clock
    from vaultd.store import SlotFile, Store

__all__ = ["SEAL", "SEAL_NEXT", "Found", "begin", "find", "lay_out", "put_in_force", "read", "stage_first"]

SEAL: Final = "seal"
SEAL_NEXT: Final = "seal.next"

_AGAIN: Final = (
    "find out who changed the vault's files; after restoring a backup, "
    "'vaultctl audit seal-key' begins a new seal chain"
)


class Found(NamedTuple):
    """The state that is in force, and fits the journal.

    Attributes:
        chain: where the journal's newest tag line leaves it; the caller's to wipe.
        file: the state's, open; the caller's to close.
        sequence: of the newest slot.
        torn: one of the two slots was not whole.
    """

    chain: SealChain
    file: SlotFile
    sequence: int
    torn: bool


def read(file: SlotFile, vault_id: bytes | None = None) -> Kept:
    """The state in a file's slots.

    Raises:
        IntegrityError, FormatVersion: as `sealslots.choose`.
    """
    slots = [bytearray(SLOT_SIZE) for _ in range(SLOTS)]
    try:
        for index, slot in enumerate(slots):
            file.read_into(index, slot)
        return choose(slots, vault_id)
    except IntegrityError as error:
        raise IntegrityError(error.message, _AGAIN) from error
    finally:
        for slot in slots:
            wipe(slot)


def find(
    store: Store, vault_id: bytes, tags: list[tuple[Link, Tag]], end: Position, anchored: tuple[int, int] = (0, 0)
) -> Found | None:
    """The state of the seal, held against the journal. Finishes, or removes, what a crash left of a new chain.

    Args:
        tags: the tag lines that were read behind the heads snapshot, each with the place before it.
        end: where the journal ends.
        anchored: the chain, and the newest tag line's number, that the anchor knows of.

    Returns:
        None for a journal that is not sealed forward.

    Raises:
        IntegrityError: the state is gone, or it is not the one that belongs to this journal.
        FormatVersion: it is of a newer format.
    """
    _settle_next(store, vault_id, tags)
    newest = max(anchored[0], tags[-1][1].chain if tags else 0)
    try:
        file = store.slots(SEAL, SLOT_SIZE, SLOTS)
    except NotFound:
        if newest:
            raise IntegrityError("the state of the audit's forward seal is gone", _AGAIN) from None
        return None
    try:
        kept = read(file, vault_id)
        try:
            _hold(kept.chain, tags, end, newest, anchored[1])
            # Before the next batch, with which there would be two tag lines that the slots do not know of. Also where
            # they seem to fit: a process that was killed may have left what is read here in memory alone.
            sequence = overwrite(file, kept.chain, kept.sequence)
        except BaseException:
            kept.chain.wipe()
            raise
    except BaseException:
        file.close()
        raise
    return Found(kept.chain, file, sequence, kept.torn)


def _settle_next(store: Store, vault_id: bytes, tags: list[tuple[Link, Tag]]) -> None:
    if not store.exists(SEAL_NEXT):
        return
    file = store.slots(SEAL_NEXT, SLOT_SIZE, SLOTS)
    try:
        with read(file, vault_id).chain as chain:
            counts = any((tag.seq, tag.hash) == (chain.tag_seq, chain.tag_hash) for _, tag in tags)
    except IntegrityError:
        counts = False  # not laid out to its end, so none of its lines was written
    finally:
        file.close()
    if counts:
        put_in_force(store)
    else:
        _erase(store, SEAL_NEXT)
        store.remove(SEAL_NEXT)


def _hold(chain: SealChain, tags: list[tuple[Link, Tag]], end: Position, newest: int, anchored: int) -> None:
    """Hold the state against the journal's tag lines; if the journal is one ahead, take that in."""
    if chain.tag_seq > end.seq:
        raise IntegrityError(
            f"the journal ends with line {end.seq}, and the seal's state knows of line {chain.tag_seq}: it was cut",
            _AGAIN,
        )
    if chain.tag_seq < anchored:  # the anchor is written behind the state
        raise IntegrityError("the seal's state is older than the anchor: it was put back", _AGAIN)
    if chain.chain < newest:
        raise IntegrityError(f"the seal's state is of chain {chain.chain}, the journal of chain {newest}", _AGAIN)
    known = [tag for _, tag in tags if tag.seq <= chain.tag_seq]
    ahead = [(before, tag) for before, tag in tags if tag.seq > chain.tag_seq]
    if known and (known[-1].seq, known[-1].hash, known[-1].last + 1) != (chain.tag_seq, chain.tag_hash, chain.first):
        raise IntegrityError(f"the seal's state does not belong to the journal's tag line {known[-1].seq}", _AGAIN)
    if len(ahead) > 1:  # a batch has one tag at most, and the state follows each batch
        raise IntegrityError("the seal's state is older than the journal: it was put back", _AGAIN)
    for before, tag in ahead:
        try:
            chain.accept(tag, before)
        except IntegrityError as error:
            raise IntegrityError(
                f"journal line {tag.seq} is ahead of the seal's state: {error.message}", _AGAIN
            ) from error


def begin(vault_id: bytes, number: int) -> tuple[FirstKey, SealChain]:
    """A new chain with a random first key; both are the caller's to wipe."""
    key = Key.random()
    return FirstKey(number, key), SealChain(vault_id, number, EpochKey(Key.copy_of(key), 0))


def newest_chain(journal: Journal) -> int:
    """The number of the newest seal chain in what is left of the journal, 0 if it has none; reads all of it."""
    newest = 0
    for raw, _ in journal.raw_from(journal.begin.place):
        found = TAG_FORM.fullmatch(raw)
        if found is not None:
            newest = int(found["chain"])
    return newest


def stage_first(chain: SealChain, journal: Journal, clock: Clock) -> None:
    """Stage a chain's first tag line: it stands for epoch 0, and so for every line before it."""
    before = Link(journal.seq, journal.head)
    line, line_hash = link(before.head, chain.tag(before, timestamp(clock.wall())))
    journal.stage(line, line_hash)
    chain.tagged(journal.seq, line_hash)


def lay_out(store: Store, path: str, chain: SealChain) -> None:
    """Write a chain's state into a new file, both slots alike. In place from the start, so that no copy is left."""
    store.remove(path, missing_ok=True)
    store.create(path, bytes(SLOT_SIZE * SLOTS))
    file = store.slots(path, SLOT_SIZE, SLOTS)
    try:
        overwrite(file, chain, 0)
    finally:
        file.close()


def overwrite(file: SlotFile, chain: SealChain, sequence: int) -> int:
    """Write a chain's state into both slots, the older one first. Returns the newest slot's sequence.

    Args:
        sequence: of the newest slot until now.
    """
    for number in range(sequence + 1, sequence + 1 + SLOTS):
        with encode(chain, number) as slot:
            file.write(number % SLOTS, slot.view())
    return sequence + SLOTS


def put_in_force(store: Store) -> None:
    """Give a new chain's state its name, once its first lines are durable; the old chain's key is overwritten first."""
    if store.exists(SEAL):
        _erase(store, SEAL)
    store.rename(SEAL_NEXT, SEAL)


def _erase(store: Store, path: str) -> None:
    try:
        file = store.slots(path, SLOT_SIZE, SLOTS)
    except IntegrityError:  # of another length: not a state, and about to go
        return
    try:
        for index in range(SLOTS):
            file.write(index, bytes(SLOT_SIZE))
    finally:
        file.close()
