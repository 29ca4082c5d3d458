"""The three prctl(2) calls that `vaultctl run` needs; Python has none of its own."""

from __future__ import annotations

import ctypes
import os
from typing import Final

__all__ = ["adopt_orphans", "die_with_parent", "set_dumpable"]

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_CHILD_SUBREAPER: Final = 36

_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends, so that none of them is lost from sight."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(number: int, parent: int) -> None:
    """Be sent a signal when the parent ends; sends it now when that has happened already."""
    _prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def set_dumpable(dumpable: bool) -> None:
    """Whether other processes of this uid may attach to this one, and a crash may write its memory to a file."""
    _prctl(_PR_SET_DUMPABLE, int(dumpable))
