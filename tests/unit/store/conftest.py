"""The two stores behind one face, so that one suite holds both to the same promises."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Protocol

import pytest

from vaultd.store import DirectoryStore, MemoryStore, NotedStore, Store
from vaultd.store.disk import Disk
from vaultd.store.interface import TEMPORARY

if TYPE_CHECKING:
    from pathlib import Path


class World(Protocol):
    """A medium, the stores opened over it, and what somebody can do to it past them."""

    def open(self) -> Store: ...
    def overwrite(self, path: str, data: bytes) -> None: ...
    def swap(self, path: str, data: bytes) -> None: ...
    def drop(self, path: str) -> None: ...
    def put_aside(self, path: str, data: bytes) -> None: ...


class OnDisk:
    def __init__(self, base: Path) -> None:
        self.path = base / "vault"

    def open(self) -> Store:
        return DirectoryStore(self.path, create=True)

    def overwrite(self, path: str, data: bytes) -> None:
        (self.path / path).write_bytes(data)

    def swap(self, path: str, data: bytes) -> None:
        other = self.path / "other"
        other.write_bytes(data)
        other.chmod(0o600)
        other.rename(self.path / path)

    def drop(self, path: str) -> None:
        target = self.path / path
        shutil.rmtree(target) if target.is_dir() else os.unlink(target)

    def put_aside(self, path: str, data: bytes) -> None:
        target = self.path / path
        (target.parent / (TEMPORARY + target.name)).write_bytes(data)


class Noted(OnDisk):
    def open(self) -> Store:
        return NotedStore(DirectoryStore(self.path, create=True))


class InMemory:
    def __init__(self) -> None:
        self.disk = Disk()

    def open(self) -> Store:
        return MemoryStore(self.disk)

    def overwrite(self, path: str, data: bytes) -> None:
        self.disk.poke(path, data)

    def swap(self, path: str, data: bytes) -> None:
        self.disk.put(path, data)

    def drop(self, path: str) -> None:
        self.disk.put(path, None)

    def put_aside(self, path: str, data: bytes) -> None:
        folder, slash, name = path.rpartition("/")
        self.disk.put(folder + slash + TEMPORARY + name, data)


@pytest.fixture(params=["directory", "noted", "memory"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    if request.param == "noted":
        return Noted(tmp_path)
    return OnDisk(tmp_path) if request.param == "directory" else InMemory()
