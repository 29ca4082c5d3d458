"""What every store promises, held for the directory and for its twin in memory alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from vaultd.errors import Exists, IntegrityError, Internal, Locked, NotFound

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vaultd.store import Store

    from .conftest import World


@pytest.fixture
def store(world: World) -> Iterator[Store]:
    with world.open() as store:
        yield store


def test_a_created_file_reads_back_whole(store: Store) -> None:
    """What is created reads back byte for byte, the empty file and every byte value included."""
    for name, data in (("empty", b""), ("bytes", bytes(range(256)) * 5000)):
        store.create(name, data)
        assert store.read(name, len(data)) == data


def test_create_refuses_a_taken_name(store: Store) -> None:
    """A taken name is `Exists` and keeps its bytes."""
    store.create("keyring", b"first")
    with pytest.raises(Exists):
        store.create("keyring", b"second")
    assert store.read("keyring", 10) == b"first"


def test_replace_makes_and_replaces(store: Store) -> None:
    """`replace` makes a missing file and replaces a present one, shorter or longer."""
    for data in (b"one", b"a longer second", b"3"):
        store.replace("heads", data)
        assert store.read("heads", 100) == data
    assert store.list() == ["heads"]


def test_read_has_a_limit(store: Store) -> None:
    """A file over its limit is refused before it fills memory; at the limit it reads."""
    store.create("state", bytes(512))
    assert len(store.read("state", 512)) == 512
    with pytest.raises(IntegrityError, match="longer than any"):
        store.read("state", 511)


def test_missing_things_are_not_found(store: Store) -> None:
    """Every verb that needs a file or directory says `NotFound` for an absent one, at the end or on the way."""
    for path in ("absent", "absent/inner"):
        assert not store.exists(path)
        for verb in (
            lambda path: store.read(path, 1),
            store.list,
            store.append,
            lambda path: store.slots(path, 1, 1),
            store.remove,
            store.remove_tree,
        ):
            with pytest.raises(NotFound):
                verb(path)
    with pytest.raises(NotFound):
        store.create("absent/inner", b"")
    with pytest.raises(NotFound):
        store.rename("absent", "present")


def test_missing_is_fine_where_said_so(store: Store) -> None:
    """`missing_ok` makes removal idempotent, as recovery needs it."""
    store.remove("absent", missing_ok=True)
    store.remove_tree("absent", missing_ok=True)


def test_directories_nest_and_list_sorted(store: Store) -> None:
    """Directories nest; a listing is sorted and holds one level; files of one do not show in another."""
    store.mkdir("tenants")
    for uid in ("bb", "aa"):
        store.mkdir(f"tenants/{uid}")
        store.create(f"tenants/{uid}/log.1", uid.encode())
    assert store.list() == ["tenants"]
    assert store.list("tenants") == ["aa", "bb"]
    assert store.list("tenants/aa") == ["log.1"]
    assert store.read("tenants/bb/log.1", 9) == b"bb"


def test_mkdir_refuses_a_taken_name(store: Store) -> None:
    """`mkdir` says `Exists`, unless told that a directory may be there; a file never passes for one."""
    store.mkdir("audit")
    with pytest.raises(Exists):
        store.mkdir("audit")
    store.mkdir("audit", exist_ok=True)


def test_tidy_takes_what_was_on_its_way(world: World) -> None:
    """A file that an earlier holder left on the way to its name goes, in the one directory asked; others stay."""
    with world.open() as store:
        store.mkdir("system")
        for path in ("keyring", "system/log.1"):
            store.create(path, b"kept")
    world.put_aside("keyring", b"half")
    world.put_aside("system/log.2", b"")
    with world.open() as store:
        assert store.list() == ["keyring", "system"]
        assert [store.tidy(), store.tidy()] == [1, 0]
        store.create("system/log.2", b"whole")  # what was aside does not stand in the way
        world.put_aside("system/log.3", b"half")
        assert [store.tidy("system"), store.tidy("system")] == [1, 0]
        assert store.list("system") == ["log.1", "log.2"]
        assert store.read("keyring", 9) == store.read("system/log.1", 9) == b"kept"
        with pytest.raises(NotFound):
            store.tidy("absent")


def test_remove_tree_takes_everything(store: Store) -> None:
    """A tree goes with all that is in it, and its neighbours stay."""
    store.mkdir("tenants")
    for uid in ("aa", "bb"):
        store.mkdir(f"tenants/{uid}")
        store.mkdir(f"tenants/{uid}/blobs")
        store.create(f"tenants/{uid}/blobs/x", b"1")
        store.create(f"tenants/{uid}/log.1", b"1")
    store.remove_tree("tenants/aa")
    assert store.list("tenants") == ["bb"]
    assert store.exists("tenants/bb/blobs/x")


def test_rename_replaces_within_a_directory(store: Store) -> None:
    """`rename` takes the place of what had the name, and stays within one directory."""
    store.mkdir("audit")
    store.create("keyring", b"old")
    store.create("keyring.next", b"new")
    store.rename("keyring.next", "keyring")
    assert store.list() == ["audit", "keyring"]
    assert store.read("keyring", 9) == b"new"
    with pytest.raises(Internal):
        store.rename("keyring", "audit/keyring")


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/etc/passwd",
        "..",
        "a/../b",
        "a//b",
        "a/",
        ".hidden",
        "a\n",
        "a\0b",
        "A",
        "é",
        "a" * 65,
        "a/b/c/d/e",
        "a b",
    ],
)
def test_unsafe_paths_are_bugs(store: Store, path: str) -> None:
    """A path that this code cannot have made raises `Internal` before anything is touched."""
    for verb in (lambda path: store.read(path, 1), lambda path: store.replace(path, b""), store.mkdir, store.remove):
        with pytest.raises(Internal):
            verb(path)


def test_appends_are_contiguous(store: Store) -> None:
    """Appends follow each other, say where they start, and survive reopening."""
    store.create("log", b"head")
    log = store.append("log")
    assert (log.size, log.append(b"one"), log.append(b""), log.append(b"two"), log.size) == (4, 4, 7, 7, 10)
    log.flush()
    assert log.pread(0, 100) == b"headonetwo"
    assert log.pread(4, 3) == b"one"
    assert log.pread(10, 5) == b""
    log.close()
    assert store.append("log").size == 10


def test_truncate_cuts_and_never_stretches(store: Store) -> None:
    """`truncate` cuts to any earlier size, the next append follows there, and a longer size is a bug."""
    store.create("log", b"0123456789")
    log = store.append("log")
    log.truncate(4)
    with pytest.raises(Internal):
        log.truncate(5)
    assert log.append(b"x") == 4
    assert log.pread(0, 10) == b"0123x"
    log.check()
    log.close()


def test_check_passes_what_we_wrote(store: Store) -> None:
    """An untouched file checks out after every kind of change of our own."""
    store.create("log", b"")
    log = store.append("log")
    log.check()
    log.append(b"abc")
    log.check()
    log.truncate(1)
    log.check()
    log.close()


@pytest.mark.parametrize("deed", ["cut", "grown", "removed", "replaced", "directory removed"])
def test_check_finds_what_others_did(world: World, deed: str) -> None:
    """A file that was cut, grown, removed or replaced under us is found, the copy with equal bytes included."""
    with world.open() as store:
        store.mkdir("audit")
        store.create("audit/1", b"abc")
        log = store.append("audit/1")
        match deed:
            case "cut":
                world.overwrite("audit/1", b"ab")
            case "grown":
                world.overwrite("audit/1", b"abcd")
            case "removed":
                world.drop("audit/1")
            case "replaced":
                world.swap("audit/1", b"abc")
            case "directory removed":
                world.drop("audit")
        with pytest.raises(IntegrityError):
            log.check()
        log.close()


def test_slots_are_independent(store: Store) -> None:
    """Each slot keeps its bytes when another is written, and survives reopening."""
    store.create("state", bytes(1024))
    slots = store.slots("state", 512, 2)
    slots.write(1, b"b" * 512)
    slots.write(0, b"a" * 512)
    slots.write(1, b"c" * 512)
    slots.close()
    slots = store.slots("state", 512, 2)
    assert (slots.read(0), slots.read(1)) == (b"a" * 512, b"c" * 512)
    slots.close()


def test_slots_refuse_other_shapes(store: Store) -> None:
    """A file of another length is `IntegrityError`; another slot size, or a slot that is not there, a bug."""
    store.create("state", bytes(1024))
    for size, count in ((512, 1), (512, 3), (1024, 2)):
        with pytest.raises(IntegrityError):
            store.slots("state", size, count)
    slots = store.slots("state", 512, 2)
    for call in (
        lambda: slots.write(0, bytes(511)),
        lambda: slots.write(2, bytes(512)),
        lambda: slots.write(-1, bytes(512)),
        lambda: slots.read(2),
    ):
        with pytest.raises(Internal):
            call()
    slots.close()


def test_one_holder_at_a_time(world: World) -> None:
    """A second store over the same medium is `Locked`, and opens once the first is closed."""
    first = world.open()
    with pytest.raises(Locked, match=r"process \d+ has the vault"):
        world.open()
    first.create("kept", b"1")
    first.close()
    first.close()
    with world.open() as second:
        assert second.read("kept", 1) == b"1"


def test_a_closed_store_does_nothing(world: World) -> None:
    """Using a store after `close` is a bug, whoever has the medium then."""
    store = world.open()
    store.close()
    with pytest.raises(Internal):
        store.replace("late", b"")
    with pytest.raises(Internal):
        store.list()
