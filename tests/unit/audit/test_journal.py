"""The journal's file: staged, taken, written, resumed, and checked before every write."""

from __future__ import annotations

import errno
import random
from typing import TYPE_CHECKING

import pytest

from tests.support.audit_world import World
from vaultd.audit.chain import verify
from vaultd.audit.journal import START, Journal, Position, segment_path
from vaultd.errors import Exists, Halted, IntegrityError, Internal, NotFound, StoreError
from vaultd.store import DirectoryStore, Fault, MemoryStore, PowerCut

if TYPE_CHECKING:
    from pathlib import Path

PATH = segment_path(1)


def test_staged_lines_reach_the_disk_in_their_order_and_only_by_write() -> None:
    """Nothing is on the disk before `write`; then the lines are there, chained, and receipts tell their numbers."""
    world = World()
    receipts = [world.start(), world.lease(0), world.lease(1)]
    assert world.data() == b""
    batch = world.journal.take()
    assert batch is not None
    assert batch.receipts == tuple(receipts)
    assert [receipt.seq for receipt in receipts] == [1, 2, 3]
    world.journal.write(batch)
    assert world.data() == batch.data
    assert verify(world.lines()).seq == 3
    assert world.journal.durable == batch.end == Position(1, len(batch.data), 3, world.journal.head)
    assert world.journal.take() is None


def test_lines_are_staged_while_a_batch_is_on_its_way() -> None:
    """A taken batch does not change; what is staged meanwhile is the next one, and both follow on the disk."""
    world = World()
    world.start()
    first = world.journal.take()
    world.lease(0)
    world.lease(1)
    assert first is not None
    data = first.data
    world.journal.write(first)
    assert first.data == data
    assert world.journal.pending
    world.flush()
    assert verify(world.lines()).seq == 3


def test_batches_out_of_order_halt() -> None:
    """A batch that does not start where the disk ends is a bug, and nothing is acknowledged after it."""
    world = World()
    world.start()
    first = world.journal.take()
    world.lease(0)
    second = world.journal.take()
    assert first is not None
    assert second is not None
    with pytest.raises(Internal):
        world.journal.write(second)
    with pytest.raises(Halted):
        world.journal.write(first)
    with pytest.raises(Halted):
        world.lease(0)


@pytest.mark.parametrize("kind", ["write", "flush"])
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_a_failed_write_halts_for_good(kind: str, error: int) -> None:
    """After an error from the disk nothing more is staged or written, also when the disk would work again."""
    store = MemoryStore()
    world = World(store=store)
    world.mixed(1)
    durable = world.journal.durable
    receipt = world.lease(0)
    batch = world.journal.take()
    assert batch is not None
    store.arm(Fault(1, error, kinds=frozenset({kind})))
    with pytest.raises(StoreError):
        world.journal.write(batch)
    assert world.journal.failed
    assert world.journal.durable == durable
    assert not receipt.durable
    with pytest.raises(Halted):
        world.journal.write(batch)
    with pytest.raises(Halted):
        world.lease(0)


def test_reading_gives_the_durable_lines_from_any_position() -> None:
    """From each position the entries after it come, and staged ones do not."""
    world = World()
    world.mixed(3)
    entries = list(world.journal.read_from(START))
    assert [entry.line.seq for entry in entries] == list(range(1, 11))
    assert entries[-1].after == world.journal.durable
    world.lease(0)
    for number, entry in enumerate(entries):
        assert list(world.journal.read_from(entry.after)) == entries[number + 1 :]


def test_lines_whose_flush_failed_are_not_read_back() -> None:
    """Written is not durable: what an error kept from being flushed is nobody's to see."""
    store = MemoryStore()
    world = World(store=store)
    world.mixed(1)
    count = world.journal.durable.seq
    world.lease(0)
    batch = world.journal.take()
    assert batch is not None
    store.arm(Fault(1, errno.EIO, kinds=frozenset({"flush"})))
    with pytest.raises(StoreError):
        world.journal.write(batch)
    assert world.journal.size > world.journal.durable.offset
    assert [entry.line.seq for entry in world.journal.read_from(START)] == list(range(1, count + 1))


def test_reading_names_the_bad_line() -> None:
    """A changed line raises with its number and the file; the lines before it come first."""
    world = World()
    world.mixed(2)
    data = bytearray(world.data())
    data[data.index(b"\n", 2000) + 30] ^= 1
    bad = bytes(data[:2000]).count(b"\n") + 2
    world.poke(bytes(data))
    entries = world.journal.read_from(START)
    assert [next(entries).line.seq for _ in range(1, bad)] == list(range(1, bad))
    with pytest.raises(IntegrityError, match=rf"line {bad} of .*{PATH}"):
        next(entries)


def test_reading_a_file_that_shrank_is_an_error() -> None:
    """A file cut under a running daemon is noticed by readers too."""
    world = World()
    world.mixed(2)
    world.poke(world.data()[:-500])
    with pytest.raises(IntegrityError):
        list(world.journal.read_from(START))


def test_a_line_longer_than_any_is_not_collected_without_end() -> None:
    """A file without newlines is refused after the longest line's length, not read whole."""
    store = MemoryStore()
    Journal.create(store).close()
    store.disk.poke(PATH, b"x" * (5 << 20))
    raw = list(Journal(store).raw_from(START.place))
    assert len(raw) == 1
    assert len(raw[0][0]) < 2 << 20
    with pytest.raises(IntegrityError):
        list(Journal(store).read_from(START))


def test_chunks_do_not_change_what_is_read() -> None:
    """Lines that lie across the reader's chunks come out whole, with the right offsets."""
    world = World()
    world.start()
    for _ in range(600):
        world.lease(0)
    world.flush()
    data = world.data()
    assert len(data) > 2 * (256 << 10)
    for raw, (_, end) in world.journal.raw_from(START.place):
        assert data[end - len(raw) : end] == raw


@pytest.mark.parametrize("rest", [b"", b'{"v":1', b"\0" * 700, b"garbage\n"])
def test_resuming_cuts_what_stands_behind_the_position(rest: bytes) -> None:
    """A torn end is cut and handed back, and new lines follow on the last that counts."""
    store = MemoryStore()
    world = World(store=store)
    world.mixed(2)
    at = world.journal.durable
    world.poke(world.data() + rest)
    world.reopen(Journal(store))
    assert world.journal.resume(at) == rest
    assert world.journal.size == at.offset
    world.lease(1)
    world.flush()
    assert verify(world.lines()).ok


def test_resuming_beyond_the_end_is_refused() -> None:
    """A journal shorter than what was known of it is not gone on with."""
    store = MemoryStore()
    world = World(store=store)
    world.mixed(1)
    at = world.journal.durable
    with pytest.raises(IntegrityError):
        Journal(store).resume(at._replace(offset=at.offset + 1))
    with pytest.raises(IntegrityError):
        list(Journal(store).read_from(at._replace(offset=at.offset + 1)))


def test_staging_before_resuming_is_a_bug() -> None:
    """A journal that nobody placed takes no lines."""
    store = MemoryStore()
    world = World(store=store)
    world.reopen(Journal(store))
    with pytest.raises(Internal):
        world.start()


def test_a_position_in_a_segment_that_is_not_there() -> None:
    """It is not read as if it were in the first."""
    world = World()
    with pytest.raises(IntegrityError):
        list(world.journal.read_from(START._replace(segment=2)))


def test_a_journal_is_made_once_and_opened_only_if_there() -> None:
    """Creating over an existing one, or opening a missing one, is refused."""
    store = MemoryStore()
    with pytest.raises(NotFound):
        Journal(store)
    Journal.create(store)
    with pytest.raises(Exists):
        Journal.create(store)


@pytest.mark.parametrize("seed", range(30))
def test_a_crash_leaves_every_acknowledged_line(seed: int) -> None:
    """Power cut in the middle of a batch: the flushed lines are there, and the walk stops at or after their end."""
    rng = random.Random(seed)
    store = MemoryStore()
    world = World(store=store)
    world.mixed(2)
    durable = world.journal.durable
    for _ in range(5):
        world.lease(rng.randrange(2))
    batch = world.journal.take()
    assert batch is not None
    store.arm(Fault(1, kinds=frozenset({"flush"})))
    before = world.data()
    with pytest.raises(PowerCut):
        world.journal.write(batch)
    after = store.crash(rng)
    data = after.read(PATH, 1 << 20)
    assert data.startswith(before)
    verdict = verify(data.splitlines(keepends=True))
    assert verdict.seq >= durable.seq
    journal = Journal(after)
    journal.resume(durable)
    assert [entry.line.seq for entry in journal.read_from(START)][-1] == durable.seq


@pytest.fixture
def on_disk(tmp_path: Path) -> tuple[World, Path]:
    """A world on a real directory, with something in its journal."""
    world = World(store=DirectoryStore(tmp_path / "vault", create=True))
    world.mixed(1)
    return world, tmp_path / "vault" / PATH


def _delete(path: Path) -> None:
    path.unlink()


def _replace(path: Path) -> None:
    copy = path.with_suffix(".copy")
    copy.write_bytes(path.read_bytes())
    copy.chmod(0o600)
    copy.rename(path)


def _link(path: Path) -> None:
    path.with_suffix(".link").hardlink_to(path)


def _cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(100)


def _grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"{}\n")


def _open_up(path: Path) -> None:
    path.chmod(0o644)


def _move_away(path: Path) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))


@pytest.mark.parametrize("harm", [_delete, _replace, _link, _cut, _grow, _open_up, _move_away])
def test_a_journal_that_somebody_touched_takes_nothing(on_disk: tuple[World, Path], harm: object) -> None:
    """Deleted, replaced, linked, cut, grown, opened to others or moved: the write is refused, nothing is durable."""
    world, path = on_disk
    receipt = world.lease(0)
    harm(path)  # type: ignore[operator]
    batch = world.journal.take()
    assert batch is not None
    with pytest.raises(IntegrityError):
        world.journal.write(batch)
    assert world.journal.failed
    assert not receipt.durable
    with pytest.raises(Halted):
        world.journal.write(batch)
