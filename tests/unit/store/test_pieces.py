"""Files that are written in pieces and read here and there: held for every store, and for a disk that fails."""

from __future__ import annotations

import errno
import os
import random
from typing import TYPE_CHECKING

import pytest

from vaultd.errors import ConfigError, Exists, Internal, NotFound, StoreError
from vaultd.store import DirectoryStore, Fault, MemoryStore, OverlayStore, PowerCut

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vaultd.store import Store

    from .conftest import World

WRITES = frozenset({"create", "write", "flush", "rename", "unlink", "sync"})


@pytest.fixture(params=["base", "overlay"])
def store(world: World, request: pytest.FixtureRequest) -> Iterator[Store]:
    """Every store, and each under an overlay."""
    with world.open() as store:
        store.mkdir("blobs")
        yield OverlayStore(store) if request.param == "overlay" else store


def test_pieces_make_one_file(store: Store) -> None:
    """What was appended, from any kind of buffer, is the file; it has no name before `commit`."""
    file = store.begin("blobs/one")
    for piece in (b"abc", b"", bytearray(b"defg"), memoryview(b"xhix")[1:3]):
        file.append(piece)
    assert file.size == 9
    assert store.list("blobs") == []
    assert not store.exists("blobs/one")
    file.commit()
    assert store.list("blobs") == ["one"]
    assert store.read("blobs/one", 9) == b"abcdefghi"
    file.abort()  # does nothing any more
    assert store.exists("blobs/one")


def test_what_is_finished_takes_nothing_more(store: Store) -> None:
    """After `commit` or `abort` a write is a bug; `abort` leaves nothing and may be repeated."""
    for end in ("commit", "abort"):
        file = store.begin(f"blobs/{end}")
        file.append(b"x")
        getattr(file, end)()
        for call in (lambda file=file: file.append(b"y"), file.commit):
            with pytest.raises(Internal):
                call()
        file.abort()
    assert store.list("blobs") == ["commit"]
    assert store.tidy("blobs") == 0


def test_a_taken_name_is_kept(store: Store) -> None:
    """`commit` under a name that is taken is `Exists` and leaves that file as it was."""
    store.create("blobs/one", b"first")
    file = store.begin("blobs/one")
    file.append(b"second")
    with pytest.raises(Exists):
        file.commit()
    file.abort()
    assert store.read("blobs/one", 9) == b"first"
    assert store.tidy("blobs") == 0


def test_begin_needs_the_directory(store: Store) -> None:
    """Without its directory there is no file to begin, and none to tidy."""
    for verb in (store.begin, store.ranges):
        with pytest.raises(NotFound):
            verb("absent/one")
    with pytest.raises(NotFound):
        store.tidy("absent")


def test_ranges_equal_slices(store: Store) -> None:
    """Any range is the slice, shorter only at the end, and as large a file as was found."""
    data = random.Random(1).randbytes(100_000)
    store.create("blobs/one", data)
    file = store.ranges("blobs/one")
    assert file.size == len(data)
    for offset, length in ((0, 10), (99_990, 10), (99_990, 20), (100_000, 5), (200_000, 5), (5, 0), (0, 100_000)):
        buffer = bytearray(length)
        count = file.read_into(offset, memoryview(buffer))
        assert bytes(buffer[:count]) == data[offset : offset + length]
        assert not any(buffer[count:])
    file.close()
    file.close()
    with pytest.raises(Internal):
        file.read_into(0, bytearray(1))


def test_tidy_removes_what_was_never_finished(world: World) -> None:
    """What a holder left unfinished is never listed, and goes with the next `tidy`; finished files stay."""
    with world.open() as first:
        first.mkdir("blobs")
        first.create("blobs/kept", b"1")
        for name in ("a", "b"):
            first.begin(f"blobs/{name}").append(b"half")
    with world.open() as second:
        assert second.list("blobs") == ["kept"]
        assert second.tidy("blobs") == 2
        assert second.tidy("blobs") == 0
        assert second.list("blobs") == ["kept"]


def test_a_name_that_was_begun_and_left_may_be_begun_anew(world: World) -> None:
    """A file begun over an unfinished one is the new one alone."""
    with world.open() as first:
        first.mkdir("blobs")
        first.begin("blobs/one").append(b"what was here before")
    with world.open() as second:
        file = second.begin("blobs/one")
        file.append(b"new")
        file.commit()
        assert second.read("blobs/one", 100) == b"new"


def test_a_closed_store_is_not_written_to(world: World) -> None:
    """Whoever still writes when the store is closed, and somebody else may hold it, is refused."""
    store = world.open()
    store.mkdir("blobs")
    file = store.begin("blobs/one")
    store.close()
    with pytest.raises(Internal):
        file.append(b"x")
    with pytest.raises(Internal):
        file.commit()
    file.abort()


def test_a_directory_that_goes_takes_what_is_being_written(world: World) -> None:
    """`remove_tree` takes unfinished files along; whoever still writes one learns it at the end."""
    with world.open() as store:
        store.mkdir("tenant")
        store.mkdir("tenant/blobs")
        file = store.begin("tenant/blobs/one")
        file.append(b"x")
        store.remove_tree("tenant")
        file.append(b"y")
        with pytest.raises(StoreError, match="removed while it was written"):
            file.commit()
        file.abort()
        assert store.list() == []


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_disk_that_refuses_leaves_nothing(error: int) -> None:
    """Whichever step fails, the error is the system's and `abort` leaves no file, or one that the next `tidy` takes."""
    for at in range(1, 20):
        store = MemoryStore()
        store.mkdir("blobs")
        store.arm(Fault(at, error, kinds=WRITES))
        try:
            file = store.begin("blobs/one")
        except StoreError:
            continue
        try:
            for _ in range(3):
                file.append(bytes(1000))
            file.commit()
        except StoreError:
            file.abort()
            # The last step is the flush of the directory: the name is there, and not known to stay.
            assert store.list("blobs") == [] or at == 7
            assert store.tidy("blobs") == 0
        else:
            assert at > 7
            return
    pytest.fail("no step was reached without a fault")


def test_after_a_failed_write_nothing_follows() -> None:
    """A file whose write failed takes no other, so that no gap can get a name."""
    store = MemoryStore()
    store.mkdir("blobs")
    file = store.begin("blobs/one")
    store.arm(Fault(1, errno.EIO, kinds=frozenset({"write"})))
    with pytest.raises(StoreError):
        file.append(b"x")
    store.disk.arm(None)
    for call in (lambda: file.append(b"y"), file.commit):
        with pytest.raises(StoreError, match="earlier write"):
            call()


@pytest.mark.parametrize("seed", range(40))
def test_a_crash_leaves_the_whole_file_or_none(seed: int) -> None:
    """Power cut at any step: the name leads to every byte, or to nothing; what is unfinished is tidied away."""
    rng = random.Random(seed)
    data = rng.randbytes(5_000)
    store = MemoryStore()
    store.mkdir("blobs")
    store.arm(Fault(rng.randrange(1, 9)))
    done = False
    try:
        file = store.begin("blobs/one")
        for at in range(0, len(data), 1_250):
            file.append(data[at : at + 1_250])
        file.commit()
        done = True
    except PowerCut:
        pass
    found = store.crash(rng)
    assert found.list("blobs") in ([], ["one"]) if not done else found.list("blobs") == ["one"]
    if found.exists("blobs/one"):
        assert found.read("blobs/one", 10_000) == data
    found.tidy("blobs")
    assert found.tidy("blobs") == 0


def test_on_disk_links_and_modes(tmp_path: Path) -> None:
    """A new file is 0600 whatever the umask; a link in a blob's place is refused, not followed."""
    before = os.umask(0)
    try:
        with DirectoryStore(tmp_path / "vault", create=True) as store:
            file = store.begin("one")
            file.append(b"x")
            assert (tmp_path / "vault" / ".new.one").stat().st_mode & 0o777 == 0o600
            file.commit()
            (tmp_path / "secret").write_bytes(b"elsewhere")
            (tmp_path / "vault" / "two").symlink_to(tmp_path / "secret")
            with pytest.raises(ConfigError, match="link"):
                store.ranges("two")
            (tmp_path / "vault" / "one").chmod(0o644)
            with pytest.raises(ConfigError, match="open to other users"):
                store.ranges("one")
    finally:
        os.umask(before)
