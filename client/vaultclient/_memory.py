"""Where values are while this process holds them: buffers that are wiped, and sealed memory files."""

from __future__ import annotations

import fcntl
import os
from typing import Final

from vaultclient.errors import ProtocolError, Unavailable
from vaultd.protocol import MAX_VALUE

__all__ = ["check_sealed", "read_descriptor", "read_into", "sealed_memfd"]

MFD_NOEXEC_SEAL: Final = 0x0008  # Linux 6.3; without it a memfd may be made executable
_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_NEEDED: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_WRITE


def sealed_memfd(name: str, value: bytes | bytearray | memoryview) -> int:
    """A new memory file that holds `value` and that nobody, not even its owner, can change; close-on-exec."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        descriptor = os.memfd_create(name, flags | MFD_NOEXEC_SEAL)
    except OSError:  # EINVAL before Linux 6.3
        descriptor = os.memfd_create(name, flags)
    try:
        view, done = memoryview(value), 0
        while done < len(view):
            done += os.pwrite(descriptor, view[done:], done)  # the offset, shared with whoever gets it, stays at 0
        os.fchmod(
            descriptor, 0o444
        )  # opening /dev/fd/N asks for this under the opener's uid; reaching it is guarded apart
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_descriptor(descriptor: int, announced: int | None = None) -> bytearray:
    """The value in a received memory file, in a buffer to wipe; the descriptor's position stays.

    Args:
        descriptor: the memory file.
        announced: bytes that it must have; None: as many as a value that is kept with its record may.

    Raises:
        ProtocolError: it is not a sealed memory file of a value's size.
    """
    size = os.fstat(descriptor).st_size
    if size != announced if announced is not None else not 1 <= size <= MAX_VALUE:
        raise _unsealed()
    value = bytearray(size)
    read_into(descriptor, memoryview(value))
    return value


def read_into(descriptor: int, view: memoryview) -> int:
    """Fill `view` from the beginning of a received memory file; how many bytes there were. Raises `ProtocolError`."""
    size = check_sealed(descriptor)
    if size > len(view):
        raise _unsealed()
    done = 0
    while done < size:
        count = os.preadv(descriptor, [view[done:size]], done)
        if count == 0:
            raise Unavailable("the descriptor that came ends early")
        done += count
    return size


def check_sealed(descriptor: int) -> int:
    """The size of a received memory file that nobody can change any more. Raises `ProtocolError` when it is none."""
    try:
        seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    except OSError:
        seals = 0
    if seals & _NEEDED != _NEEDED:
        raise _unsealed()
    return os.fstat(descriptor).st_size


def _unsealed() -> ProtocolError:
    return ProtocolError("the descriptor that came is not a sealed value", "is this daemon of the same version?")
