"""Values as sealed memory files: what a receiver maps or reads cannot change under it, and cannot be executed."""

from __future__ import annotations

import errno
import fcntl
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaultd.daemon.kernel import Features

__all__ = ["SEALS", "sealed_memfd"]

MFD_NOEXEC_SEAL: Final = 0x8  # Linux 6.3; not named by Python 3.11
_BASE_FLAGS: Final = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
_READABLE: Final = 0o444  # `/dev/fd/N` opens the file anew, under the receiver's own uid

SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def sealed_memfd(
    value: bytes | bytearray | memoryview,
    features: Features,
    *,
    create: Callable[[str, int], int] = os.memfd_create,
) -> int:
    """A read-only memory file that holds exactly `value`; the descriptor is the caller's, at offset 0, close-on-exec.

    Its pages are freed when the last descriptor of it is closed. They can be swapped, as any tmpfs page; that is
    stated.

    Args:
        value: the bytes; the caller wipes its own copy.
        features: where it is noted whether the kernel knows MFD_NOEXEC_SEAL.
        create: memfd_create(2).

    Raises:
        OSError: no descriptor or no memory is left.
    """
    try:
        # The name shows in /proc/PID/fd of every holder, so it is the same for every secret.
        descriptor = create("vaultd", _BASE_FLAGS | MFD_NOEXEC_SEAL)
        features.note("memfd_noexec", "used")
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        descriptor = create("vaultd", _BASE_FLAGS)  # executable bits can be set again, but only by the daemon's own uid
        features.note("memfd_noexec", "fallback")
    try:
        view = memoryview(value)
        written = 0
        while written < len(view):
            # pwrite leaves the offset at 0: it is shared with whoever receives the descriptor
            written += os.pwrite(descriptor, view[written:], written)
        os.fchmod(descriptor, _READABLE)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
