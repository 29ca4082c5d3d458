"""The simulated disk itself: it forgets what was not flushed, keeps what was, and fails when told to."""

from __future__ import annotations

import errno
import random

import pytest

from vaultd.errors import StoreError
from vaultd.store import Fault, MemoryStore, PowerCut

SEEDS = range(200)


def images(store: MemoryStore, path: str) -> set[bytes | None]:
    """What `path` may hold after a power cut, over many seeds."""
    found: set[bytes | None] = set()
    for seed in SEEDS:
        survivor = store.disk.crash(random.Random(seed))
        found.add(dict(survivor.files()).get(path))
    return found


def test_flushed_bytes_survive() -> None:
    """Once flushed, an append is in every image."""
    store = MemoryStore()
    store.create("log", b"head")
    log = store.append("log")
    log.append(b"tail")
    log.flush()
    assert images(store, "log") == {b"headtail"}


def test_unflushed_bytes_may_be_there_missing_or_torn() -> None:
    """Without a flush there are images with the append, without it, and with rubbish or a hole in it."""
    store = MemoryStore()
    store.create("log", b"head")
    log = store.append("log")
    log.append(b"x" * 600)
    log.append(b"y" * 600)
    found = images(store, "log")
    assert {b"head", b"head" + b"x" * 600, b"head" + b"x" * 600 + b"y" * 600} <= found
    assert b"head" + bytes(600) + b"y" * 600 in found, "the later write without the earlier one"
    assert all(image is not None and image.startswith(b"head") for image in found), "flushed bytes never change"
    assert len(found) > 20


def test_replacing_is_atomic_at_every_step() -> None:
    """Power cut at any step of `replace` leaves the old bytes or the new, and some step leaves each."""
    seen = set()
    for at in range(1, 20):
        store = MemoryStore()
        store.create("keyring", b"old")
        store.arm(Fault(at))
        try:
            store.replace("keyring", b"new")
        except PowerCut:
            seen |= images(store, "keyring")
        else:
            assert store.disk.fired == 0
            assert images(store, "keyring") == {b"new"}
            break
    assert seen == {b"old", b"new"}


def test_creating_is_all_or_nothing() -> None:
    """Power cut at any step of `create` leaves the whole file or none."""
    seen = set()
    for at in range(1, 20):
        store = MemoryStore()
        store.arm(Fault(at))
        try:
            store.create("log.1", b"whole")
        except PowerCut:
            seen |= images(store, "log.1")
        else:
            break
    assert seen == {None, b"whole"}


def test_every_error_at_every_step_leaves_old_or_new() -> None:
    """An error at any step of `replace` is a `StoreError`, and readers see the old bytes or the new."""
    for error in (errno.EIO, errno.ENOSPC, errno.EROFS):
        for at in range(1, 20):
            store = MemoryStore()
            store.create("keyring", b"old")
            store.arm(Fault(at, error))
            try:
                store.replace("keyring", b"new")
            except StoreError:
                assert store.read("keyring", 9) in (b"old", b"new")
                assert images(store, "keyring") <= {b"old", b"new"}
            else:
                assert store.disk.fired == 0
                break
        else:
            pytest.fail("replace has no end")


def test_a_failed_append_leaves_a_part_and_closes_the_file() -> None:
    """A full disk leaves half an append behind, the size as it was, and a file that takes no more."""
    store = MemoryStore()
    store.create("log", b"")
    log = store.append("log")
    store.arm(Fault(1, errno.ENOSPC))
    with pytest.raises(StoreError, match="no space left"):
        log.append(b"0123456789")
    assert (log.size, log.pread(0, 99)) == (0, b"01234")
    with pytest.raises(StoreError, match="earlier write"):
        log.append(b"x")
    with pytest.raises(StoreError, match="earlier write"):
        log.flush()


def test_what_a_failed_flush_lost_stays_lost() -> None:
    """Bytes whose flush failed may be missing although a later flush of the same file succeeds."""
    store = MemoryStore()
    store.create("log", b"")
    log = store.append("log")
    log.append(b"lost")
    store.arm(Fault(1, errno.EIO))
    with pytest.raises(StoreError):
        log.flush()
    again = store.append("log")
    again.append(b"kept")
    again.flush()
    found = images(store, "log")
    assert bytes(4) + b"kept" in found
    assert b"lostkept" in found


def test_after_a_power_cut_nothing_works() -> None:
    """The machine is off: no read, no write, no handler for ordinary errors catches it."""
    store = MemoryStore()
    store.create("log", b"1")
    store.arm(Fault(1))
    with pytest.raises(PowerCut):
        store.replace("log", b"2")
    for call in (lambda: store.read("log", 1), lambda: store.replace("log", b"3"), lambda: store.append("log")):
        with pytest.raises(PowerCut):
            call()
    assert not issubclass(PowerCut, Exception)


def test_a_repeating_fault_goes_on() -> None:
    """A disk that is full stays full; a passing error passes."""
    for repeat, expected in ((True, 3), (False, 1)):
        store = MemoryStore()
        store.arm(Fault(1, errno.ENOSPC, repeat=repeat, kinds=frozenset({"write"})))
        failed = 0
        for name in ("a", "b", "c"):
            try:
                store.create(name, b"1")
            except StoreError:
                failed += 1
        assert failed == expected


def test_names_survive_in_order() -> None:
    """An unflushed removal may be undone by a power cut, and a flushed one is not."""
    store = MemoryStore()
    store.create("old", b"1")
    store.arm(Fault(1, kinds=frozenset({"sync"})))
    with pytest.raises(PowerCut):
        store.remove("old")
    assert images(store, "old") == {b"1", None}


def test_a_slot_tears_within_itself_only() -> None:
    """Power cut while a slot is written leaves the other slot as it was, whatever becomes of this one."""
    store = MemoryStore()
    store.create("state", b"a" * 1024)
    slots = store.slots("state", 512, 2)
    store.arm(Fault(2))
    with pytest.raises(PowerCut):
        slots.write(1, b"b" * 512)
    found = images(store, "state")
    assert {image[:512] for image in found if image} == {b"a" * 512}
    assert {b"a" * 512, b"b" * 512} <= {image[512:] for image in found if image}


def test_a_copy_is_independent() -> None:
    """A backup of the disk does not change with it."""
    store = MemoryStore()
    store.mkdir("audit")
    store.create("audit/1", b"1")
    backup = store.disk.copy()
    store.replace("audit/1", b"2")
    assert backup.files() == {"audit/1": b"1"}
    assert MemoryStore(backup).read("audit/1", 1) == b"1"
