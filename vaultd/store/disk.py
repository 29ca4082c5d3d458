"""A simulated disk: what is on the medium, what is only in the page cache, and how either can go wrong."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from vaultd.errors import Internal

if TYPE_CHECKING:
    import random

__all__ = ["SECTOR", "Directory", "Disk", "Fault", "File", "PowerCut"]

SECTOR: Final = 512
"""Bytes that a device writes as a whole; a longer write may be torn between them."""


class PowerCut(BaseException):
    """The simulated machine stopped. Not an `Exception`: no handler on the way may take it for its own."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong, and when.

    Args:
        at: the step that fails, counted from 1 at the moment of arming.
        error: an errno, or None for a power cut.
        repeat: every later step of these kinds fails too (a full disk), not only this one.
        kinds: the steps counted: any of create, write, flush, rename, unlink, mkdir, sync, truncate, read.
    """

    at: int
    error: int | None = None
    repeat: bool = False
    kinds: frozenset[str] = frozenset({"create", "write", "flush", "rename", "unlink", "mkdir", "sync", "truncate"})


@dataclass(slots=True)
class _Write:
    offset: int
    data: bytes
    doomed: bool = False  # its flush failed: it may be lost although a later flush says all is well


@dataclass(slots=True)
class _Cut:
    size: int
    doomed: bool = False


@dataclass(slots=True, eq=False)
class File:
    """Bytes as readers see them (`live`), as they surely are on the medium, and the writes between the two."""

    live: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    pending: list[_Write | _Cut] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Directory:
    """Names as readers see them, as they surely are on the medium, and the changes between the two, in order."""

    live: dict[str, File | Directory] = field(default_factory=dict)
    durable: dict[str, File | Directory] = field(default_factory=dict)
    pending: list[dict[str, File | Directory | None]] = field(default_factory=list)


class Disk:
    """The medium under a `MemoryStore`, which survives it."""

    def __init__(self) -> None:
        self.root = Directory()
        self.holder: object | None = None
        self.off = False
        self.steps = 0
        self.fired = 0
        self._fault: Fault | None = None

    def arm(self, fault: Fault | None) -> None:
        """Set (or with None clear) what goes wrong; starts counting steps anew."""
        self._fault = fault
        self.steps = 0
        self.fired = 0

    def step(self, kind: str, path: str) -> None:
        """Count one operation of the file system; raises what is armed for it."""
        error = self._due(kind)
        if error:
            raise OSError(error, os.strerror(error), path)

    def _due(self, kind: str) -> int:
        """The errno this step is to fail with, 0 for none; cuts the power if that is what is due."""
        if self.off:
            raise PowerCut
        fault = self._fault
        if fault is None:
            self.steps += kind != "read"
            return 0
        if kind not in fault.kinds:
            return 0
        self.steps += 1
        if self.steps != fault.at and not (fault.repeat and self.steps > fault.at):
            return 0
        self.fired += 1
        if fault.error is None:
            self.off = True
            raise PowerCut
        return fault.error

    def write(self, file: File, offset: int, data: bytes, path: str) -> None:
        """Write into the page cache. A failing one leaves its first half behind, as a short write does."""
        try:
            error = self._due("write")
        except PowerCut:
            _apply(file, _Write(offset, bytes(data)))
            raise
        if error:
            _apply(file, _Write(offset, bytes(data[: len(data) // 2])))
            raise OSError(error, os.strerror(error), path)
        _apply(file, _Write(offset, bytes(data)))

    def truncate(self, file: File, size: int, path: str) -> None:
        self.step("truncate", path)
        _apply(file, _Cut(size))

    def flush(self, file: File, path: str) -> None:
        """fsync or fdatasync of a file. Once it failed, what it should have flushed may be lost for good."""
        error = self._due("flush")
        if error:
            for change in file.pending:
                change.doomed = True
            raise OSError(error, os.strerror(error), path)
        left = []
        for change in file.pending:
            if change.doomed:
                left.append(change)
            else:
                _change(file.durable, change)
        file.pending = left

    def set_name(self, directory: Directory, name: str, node: File | Directory | None, kind: str, path: str) -> None:
        """Give a node a name, or with None take the name away."""
        self._name(directory, {name: node}, kind, path)

    def rename(self, directory: Directory, source: str, target: str, path: str) -> None:
        """Both names change as one."""
        self._name(directory, {source: None, target: directory.live[source]}, "rename", path)

    def _name(self, directory: Directory, change: dict[str, File | Directory | None], kind: str, path: str) -> None:
        try:
            self.step(kind, path)
        except PowerCut:
            directory.pending.append(change)
            raise
        _rename(directory.live, change)
        directory.pending.append(change)

    def sync(self, directory: Directory, path: str) -> None:
        """fsync of a directory: its names are durable."""
        self.step("sync", path)
        for change in directory.pending:
            _rename(directory.durable, change)
        directory.pending.clear()

    def crash(self, rng: random.Random) -> Disk:
        """Cut the power. Returns what a machine started afterwards may find: one image of many, as `rng` picks."""
        self.off = True
        found = Disk()
        survivors: dict[int, File] = {}
        found.root = _survive(self.root, rng, survivors)
        return found

    def files(self) -> dict[str, bytes]:
        """Every file's path and bytes as readers see them."""
        return dict(_walk(self.root, ""))

    def peek(self, path: str) -> bytes:
        """A file's bytes, past any store: what somebody with the medium in hand sees."""
        return bytes(self._find(path).live)

    def poke(self, path: str, data: bytes) -> None:
        """Change a file in place, past any store, as somebody with the medium in hand would."""
        file = self._find(path)
        file.live = bytearray(data)
        file.durable = bytearray(data)
        file.pending.clear()

    def put(self, path: str, data: bytes | None) -> None:
        """Put another file in a name's place, or with None remove it, past any store."""
        parts = path.split("/")
        directory = self.root
        for part in parts[:-1]:
            inner = directory.live.get(part)
            if not isinstance(inner, Directory):
                raise Internal(f"no directory on the way to {path}")
            directory = inner
        for names in (directory.live, directory.durable):
            names.pop(parts[-1], None)
            if data is not None:
                names[parts[-1]] = File(bytearray(data), bytearray(data))

    def copy(self) -> Disk:
        """An image of everything as readers see it: a backup, taken with nothing under way."""
        copied = Disk()
        copied.root = _copy(self.root)
        return copied

    def _find(self, path: str) -> File:
        node: File | Directory = self.root
        for part in path.split("/"):
            if not isinstance(node, Directory) or part not in node.live:
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            node = node.live[part]
        if isinstance(node, Directory):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        return node


def _change(content: bytearray, change: _Write | _Cut) -> None:
    if isinstance(change, _Cut):
        del content[change.size :]
        return
    if len(content) < change.offset:  # a hole reads as zeros
        content.extend(bytes(change.offset - len(content)))
    content[change.offset : change.offset + len(change.data)] = change.data


def _apply(file: File, change: _Write | _Cut) -> None:
    _change(file.live, change)
    file.pending.append(change)


def _rename(names: dict[str, File | Directory], change: dict[str, File | Directory | None]) -> None:
    for name, node in change.items():
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


def _walk(directory: Directory, prefix: str) -> list[tuple[str, bytes]]:
    found = []
    for name, node in sorted(directory.live.items()):
        if isinstance(node, Directory):
            found += _walk(node, f"{prefix}{name}/")
        else:
            found.append((prefix + name, bytes(node.live)))
    return found


def _copy(directory: Directory) -> Directory:
    names: dict[str, File | Directory] = {
        name: _copy(node) if isinstance(node, Directory) else File(bytearray(node.live), bytearray(node.live))
        for name, node in directory.live.items()
    }
    return Directory(dict(names), dict(names))


def _survive(directory: Directory, rng: random.Random, survivors: dict[int, File]) -> Directory:
    names = dict(directory.durable)
    for change in directory.pending[: rng.randint(0, len(directory.pending))]:
        _rename(names, change)
    kept: dict[str, File | Directory] = {}
    for name, node in names.items():
        if isinstance(node, Directory):
            kept[name] = _survive(node, rng, survivors)
        else:
            # One file under two names (never durable together here) must survive as one.
            kept[name] = survivors.setdefault(id(node), _torn(node, rng))
    return Directory(dict(kept), dict(kept))


def _torn(file: File, rng: random.Random) -> File:
    content = bytearray(file.durable)
    for change in file.pending:
        fate = rng.randrange(4)
        if fate == 0:
            continue
        if fate == 1 or isinstance(change, _Cut):
            _change(content, change)
            continue
        for offset, sector in _sectors(change):
            outcome = rng.randrange(3)
            if outcome == 0:
                continue
            data = sector if outcome == 1 else rng.randbytes(len(sector))
            _change(content, _Write(offset, data))
    return File(content, bytearray(content))


def _sectors(write: _Write) -> list[tuple[int, bytes]]:
    pieces = []
    start, end = write.offset, write.offset + len(write.data)
    while start < end:
        stop = min((start // SECTOR + 1) * SECTOR, end)
        pieces.append((start, write.data[start - write.offset : stop - write.offset]))
        start = stop
    return pieces
