"""Values as sealed memory files: what a receiver maps or reads cannot change under it, and cannot be executed."""

from __future__ import annotations

import errno
import fcntl
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaultd.daemon.kernel import Features

__all__ = ["READABLE", "SEALS", "filled_memfd", "sealed_memfd"]

MFD_NOEXEC_SEAL: Final = 0x8  # Linux 6.3; not named by Python 3.11
_BASE_FLAGS: Final = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
READABLE: Final = 0o444
"""Mode of what is handed over: `/dev/fd/N` opens the file anew, under the receiver's own uid."""

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
    return filled_memfd(lambda put: put(memoryview(value)), features, create=create)


def filled_memfd(
    fill: Callable[[Callable[[memoryview], None]], None],
    features: Features,
    *,
    create: Callable[[str, int], int] = os.memfd_create,
) -> int:
    """As `sealed_memfd`, of what `fill` puts in piece by piece, in order; nothing is left of it when that raises."""
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
        end = 0

        def put(piece: memoryview) -> None:
            nonlocal end
            while piece:
                # pwrite leaves the offset at 0: it is shared with whoever receives the descriptor
                written = os.pwrite(descriptor, piece, end)
                end += written
                piece = piece[written:]

        fill(put)
        os.fchmod(descriptor, READABLE)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
