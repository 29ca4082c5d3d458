"""Closing the doors that Linux leaves open between processes of one uid: memory, core files, environment.

Each step is checked by asking the kernel afterwards; tests try the doors for real.
"""

from __future__ import annotations

import ctypes
import os
import resource
from typing import TYPE_CHECKING, Final

from vaultd.daemon.kernel import libc
from vaultd.errors import Unsupported

if TYPE_CHECKING:
    from vaultd.daemon.kernel import Features

__all__ = ["KEPT_VARIABLES", "harden"]

_PR_GET_DUMPABLE: Final = 3
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_GET_NO_NEW_PRIVS: Final = 39

KEPT_VARIABLES: Final = frozenset(
    {
        "CREDENTIALS_DIRECTORY",
        "HOME",
        "LANG",
        "LISTEN_FDNAMES",
        "LISTEN_FDS",
        "LISTEN_PID",
        "NOTIFY_SOCKET",
        "TZ",
        "WATCHDOG_PID",
        "WATCHDOG_USEC",
        "XDG_CONFIG_HOME",
        "XDG_RUNTIME_DIR",
        "XDG_STATE_HOME",
    }
)
"""What of the environment the daemon itself reads; everything else is none of its business (LD_*, PYTHON*, tokens)."""


def _prctl(option: int, argument: int = 0) -> int:
    """prctl(2); every argument is an unsigned long, and unused ones must be zero for some options."""
    zero = ctypes.c_ulong(0)
    result: int = libc.prctl(option, ctypes.c_ulong(argument), zero, zero, zero)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def harden(features: Features) -> None:
    """Make this process as opaque to its neighbours as the kernel allows; call it before any key is loaded.

    Not dumpable: no ptrace, no reading of memory or environment, no pidfd_getfd by processes of the same uid, no core
    file; `cmdline` and `status` stay readable, so nothing secret may ever stand there. No core by limit as well (a core
    pattern that pipes to a program ignores one of the two). No new privileges: an executed set-uid program would gain
    nothing. The environment keeps `KEPT_VARIABLES` only. Files are made for the owner alone.

    Root, and holders of CAP_SYS_PTRACE, are not kept out by any of this.

    Raises:
        Unsupported: the kernel did not do one of them.
    """
    try:
        _prctl(_PR_SET_DUMPABLE, 0)
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (OSError, ValueError) as error:
        raise Unsupported(
            f"this process cannot be hardened: {error}", "see the hardening section of the README"
        ) from error
    if (
        _prctl(_PR_GET_DUMPABLE) != 0
        or _prctl(_PR_GET_NO_NEW_PRIVS) != 1
        or resource.getrlimit(resource.RLIMIT_CORE) != (0, 0)
    ):
        raise Unsupported("the kernel did not keep a hardening setting", "see the hardening section of the README")
    for name in list(os.environ):
        if name not in KEPT_VARIABLES:
            del os.environ[name]
    os.umask(0o077)
    features.note("not_dumpable", "used")
    features.note("no_core_file", "used")
    features.note("no_new_privileges", "used")
