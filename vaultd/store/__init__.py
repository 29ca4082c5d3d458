"""Opaque bytes kept durably in named places: a directory on disk, and its twin in memory that can lose power."""

from __future__ import annotations

from vaultd.store.directory import DirectoryStore
from vaultd.store.interface import AppendFile, NewFile, RangeFile, SlotFile, Store
from vaultd.store.memory import Fault, MemoryStore, PowerCut
from vaultd.store.noted import NotedStore
from vaultd.store.overlay import OverlayStore
from vaultd.store.reserve import RESERVE, Reserve, out_of_space

__all__ = [
    "RESERVE",
    "AppendFile",
    "DirectoryStore",
    "Fault",
    "MemoryStore",
    "NewFile",
    "NotedStore",
    "OverlayStore",
    "PowerCut",
    "RangeFile",
    "Reserve",
    "SlotFile",
    "Store",
    "out_of_space",
]
