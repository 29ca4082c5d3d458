"""R17 for durability: each flush and each place in the order is taken away in turn, and the crash property notices."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.vault_crashes import live_and_crash
from vaultd.errors import IntegrityError, VaultdError
from vaultd.store.descriptors import system_errors
from vaultd.store.disk import File
from vaultd.store.interface import split
from vaultd.store.memory import MemoryAppendFile, MemorySlotFile, MemoryStore
from vaultd.vault import heads, recovery
from vaultd.vault.anchor import Found
from vaultd.vault.commit import KEYRING, KEYRING_NEXT, Committer, heads_path, log_path, tenant_path
from vaultd.vault.log import LogFile, SealedLog
from vaultd.vault.pipeline import Pipeline

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaultd.crypto.memory import Key
    from vaultd.vault.commit import Batch

_ENOUGH = 400
"""Lives within which a bug must show; each is found within thirty."""

_flush = MemoryAppendFile.flush


def _no_log_flush(file: MemoryAppendFile) -> None:
    if "/log." not in file._path:
        _flush(file)


def _no_journal_flush(file: MemoryAppendFile) -> None:
    if not file._path.endswith(".jsonl"):
        _flush(file)


def _replace_unflushed(store: MemoryStore, path: str, data: bytes) -> None:
    with store._mutex, system_errors("write", path):
        parent, name = store._parent(path)
        file = File()
        store.disk.set_name(parent, f".new.{name}", file, "create", path)
        store.disk.write(file, 0, data, path)
        store.disk.rename(parent, f".new.{name}", name, path)
        store.disk.sync(parent, path)


def _rename_unsynced(store: MemoryStore, source: str, target: str) -> None:
    with store._mutex, system_errors("rename", source):
        parent, name = store._parent(source)
        store.disk.rename(parent, name, split(target)[-1], source)


def _rename_unsynced_and_untidied(store: MemoryStore, source: str, target: str) -> None:
    """Alone it is no bug that a crash could show: either name of the new keyring opens, and opening flushes both."""
    _rename_unsynced(store, source, target)
    store.disk.sync = lambda *_: None  # type: ignore[method-assign]


def _slot_unflushed(file: MemorySlotFile, index: int, data: bytes) -> None:
    with file._store._mutex, system_errors("write", file._path):
        file._store.disk.write(file._file, file._offset(index), data, file._path)


def _order(*steps: str) -> Callable[[Committer, Batch], None]:
    """`Committer.write` with its steps in another order, or without one of them."""

    def write(self: Committer, batch: Batch) -> None:
        keyring = self._prepare(batch)
        for step in steps:
            if step == "logs":
                self._append(batch.writes.values())
            elif step == "journal" and batch.lines is not None:
                self._journal.write(batch.lines)
            elif step == "keyring" and keyring is not None:
                self._switch(batch, keyring)
            elif step == "heads" and batch.heads is not None:
                self._snapshot(batch)
            elif step == "anchor":
                for _ in range(batch.anchors):
                    self._put(batch, self.anchor)

    return write


def _drop(self: Committer, batch: Batch) -> None:
    for gone in batch.drop:
        if gone.generation is None:
            self._store.remove_tree(tenant_path(gone.uid), missing_ok=True)
        else:
            self._store.remove(log_path(gone.uid, gone.generation), missing_ok=True)


def _rename_before_commit(self: Committer, batch: Batch, keyring: bytes) -> None:
    self._store.rename(KEYRING_NEXT, KEYRING)
    self._put(batch, replace(self.anchor, keyring=keyring, pending=True))
    _drop(self, batch)
    self._put(batch, replace(self.anchor, pending=False))


def _drop_before_commit(self: Committer, batch: Batch, keyring: bytes) -> None:
    _drop(self, batch)
    self._put(batch, replace(self.anchor, keyring=keyring, pending=True))
    self._store.rename(KEYRING_NEXT, KEYRING)
    self._put(batch, replace(self.anchor, pending=False))


def _never_pending(self: Committer, batch: Batch, keyring: bytes) -> None:
    self._put(batch, replace(self.anchor, keyring=keyring))
    self._store.rename(KEYRING_NEXT, KEYRING)
    _drop(self, batch)
    self._put(batch, self.anchor)


def _one_heads_file(self: Committer, batch: Batch) -> None:
    encoded = batch.heads or b""
    self._store.replace(heads_path(self.anchor.heads_file), encoded)
    self.anchor = replace(self.anchor, heads=heads.hash_of(encoded))


def _one_slot(self: Committer, batch: Batch, anchor: Any) -> None:
    # Two numbers on: always the same slot.
    assert batch.root is not None
    self.anchor = replace(anchor, sequence=self.anchor.sequence + 2, position=batch.end)
    self._state.write(self.anchor.slot, self.anchor.encode(batch.root.anchor))


def _unforgiving(self: Found, key: Key) -> None:
    if self.torn:
        raise IntegrityError("a slot is torn")


_BUGS: dict[str, tuple[Any, str, Any]] = {
    "a log is not flushed": (MemoryAppendFile, "flush", _no_log_flush),
    "the journal is not flushed": (MemoryAppendFile, "flush", _no_journal_flush),
    "a replaced file is not flushed": (MemoryStore, "replace", _replace_unflushed),
    "no directory is flushed from a rename on": (MemoryStore, "rename", _rename_unsynced_and_untidied),
    "a slot is not flushed": (MemorySlotFile, "write", _slot_unflushed),
    "the journal before the logs": (Committer, "write", _order("journal", "logs", "keyring", "heads", "anchor")),
    "the keyring before the journal": (Committer, "write", _order("logs", "keyring", "journal", "heads", "anchor")),
    "the anchor before the journal": (Committer, "write", _order("logs", "anchor", "journal", "keyring", "heads")),
    "no journal line": (Committer, "write", _order("logs", "keyring", "heads", "anchor")),
    "the rename before the commit": (Committer, "_switch", _rename_before_commit),
    "old files removed before the commit": (Committer, "_switch", _drop_before_commit),
    "the commit does not say what it leaves": (Committer, "_switch", _never_pending),
    "one heads file": (Committer, "_snapshot", _one_heads_file),
    "one slot": (Committer, "_put", _one_slot),
    "a log's change joins a keyring's": (Pipeline, "before_log_change", lambda _: None),
    "no halt": (Pipeline, "require_running", lambda _: None),
    "no sweep": (recovery, "sweep", lambda *_: 0),
    "a log's torn end stays": (LogFile, "cut", lambda *_: 0),
    "a log is cut but not its end": (SealedLog, "cut", lambda self, end: self.file.cut(end)),
    "a torn slot is not forgiven": (Found, "verify", _unforgiving),
}


@pytest.mark.parametrize("bug", _BUGS)
def test_the_crash_property_finds(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With this one thing wrong, some crash loses or halves a change, leaves files behind, or needs help to open."""
    target, name, wrong = _BUGS[bug]
    monkeypatch.setattr(target, name, wrong)
    for seed in range(_ENOUGH):
        try:
            live_and_crash(seed)
        except (AssertionError, VaultdError, pytest.fail.Exception):
            return
    pytest.fail(f"{_ENOUGH} lives without a trace of it")
