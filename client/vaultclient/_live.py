"""Which leases this process holds right now, for whoever must not show their values. Costs nothing more until asked."""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vaultclient._leases import HeldValue
    from vaultclient._redactor import Redactor

__all__ = ["began", "ended", "redactor"]

_live: weakref.WeakSet[HeldValue] = weakref.WeakSet()
_guard = threading.RLock()  # a lease may be collected, and a log line be written, while another is entered
_redactor: Redactor | None = None


def began(lease: HeldValue) -> None:
    """A lease was acquired."""
    with _guard:
        _live.add(lease)
        known = _redactor
    if known is not None:
        known.add_lease(lease)


def ended(lease: HeldValue) -> None:
    """A lease is over."""
    with _guard:
        _live.discard(lease)
        known = _redactor
    if known is not None:
        known.forget_lease(lease)


def redactor() -> Redactor:
    """The process's one redactor, which knows the value of every live lease from here on; made when first asked for."""
    global _redactor  # noqa: PLW0603  the process has one set of live leases
    with _guard:
        if _redactor is not None:
            return _redactor
        from vaultclient._redactor import Redactor  # who shows nothing does not pay for its tables

        made = _redactor = Redactor()
        held = list(_live)
    for lease in held:
        made.add_lease(lease)
    return made


def _forked() -> None:
    """In a forked child: a thread that held a lock is not here, and would never give it back."""
    global _guard  # noqa: PLW0603
    _guard = threading.RLock()
    if _redactor is not None:
        _redactor.lock = threading.RLock()


os.register_at_fork(after_in_child=_forked)
