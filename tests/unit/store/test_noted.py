"""The store that remembers how it left its files: what it calls changed, and what not."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from vaultd.store import DirectoryStore, NotedStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> Iterator[NotedStore]:
    with NotedStore(DirectoryStore(tmp_path / "vault", create=True)) as store:
        yield store


def test_nothing_of_our_own_is_called_changed(store: NotedStore) -> None:
    """Every verb, on files and folders, removed ones and what was in them too."""
    store.mkdir("tenants")
    store.mkdir("tenants/a")
    store.create("tenants/a/log.1", b"x" * 100)
    log = store.append("tenants/a/log.1")
    log.append(b"more")
    log.flush()
    log.truncate(50)
    log.close()
    store.replace("keyring", b"1")
    store.replace("keyring", b"2")
    store.create("state", bytes(1024))
    slots = store.slots("state", 512, 2)
    slots.write(1, b"s" * 512)
    slots.close()
    store.create("keyring.next", b"3")
    store.rename("keyring.next", "keyring")
    store.create("gone", b"")
    store.remove("gone")
    paths = [
        "tenants",
        "tenants/a",
        "tenants/a/log.1",
        "keyring",
        "keyring.next",
        "state",
        "gone",
        "lock",
        ".new.keyring",
    ]
    assert [path for path in paths if store.changed(path)] == []
    store.remove_tree("tenants/a")
    assert [path for path in paths if store.changed(path)] == []


@pytest.mark.parametrize("deed", ["written", "grown", "replaced", "removed", "linked", "made", "folder made"])
def test_what_somebody_else_does_is(store: NotedStore, deed: str) -> None:
    """It is said once, and again at the next change."""
    store.create("file", b"12345")
    path = os.path.join(store.location, "file")
    name = "file"
    os.utime(path, ns=(0, 0))  # not as old as the change: a clock's tick may be longer than this test
    store.note("file")
    match deed:
        case "written":
            with open(path, "r+b") as file:
                file.write(b"54321")
        case "grown":
            with open(path, "ab") as file:
                file.write(b"6")
        case "replaced":
            shutil.copy(path, path + ".copy")
            os.rename(path + ".copy", path)
        case "removed":
            os.unlink(path)
        case "linked":
            os.link(path, path + ".other")
        case "made":
            name = "other"
            shutil.copy(path, os.path.join(store.location, name))
        case _:
            name = "folder"
            os.mkdir(os.path.join(store.location, name))
    assert store.changed(name)
    assert not store.changed(name)


def test_a_file_never_touched_here_counts_as_changed(tmp_path: Path) -> None:
    """It is asked about only where something happened to it, and that was not us; so does one that is gone."""
    with DirectoryStore(tmp_path / "vault", create=True) as before:
        before.create("keyring", b"1")
    with NotedStore(DirectoryStore(tmp_path / "vault")) as store:
        assert store.changed("keyring")
        assert store.changed("absent")


def test_not_every_removed_name_is_remembered(store: NotedStore) -> None:
    """Memory stays bounded however many files come and go."""
    for number in range(4_200):
        store.note(f"gone.{number}")
    assert not store.changed("gone.4199")
    assert len(store._left) < 4_200
