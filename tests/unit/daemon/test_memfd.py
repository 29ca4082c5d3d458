"""Sealed memory files: what a receiver can and cannot do with one."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from typing import TYPE_CHECKING

import pytest

from vaultd.daemon.kernel import Features
from vaultd.daemon.memfd import MFD_NOEXEC_SEAL, SEALS, sealed_memfd

if TYPE_CHECKING:
    from collections.abc import Callable


def old_kernel(name: str, flags: int) -> int:
    """memfd_create(2) of a kernel that does not know MFD_NOEXEC_SEAL."""
    if flags & MFD_NOEXEC_SEAL:
        raise OSError(errno.EINVAL, "Invalid argument")
    return os.memfd_create(name, flags)


@pytest.mark.parametrize("create", [os.memfd_create, old_kernel], ids=["newer", "older"])
def test_sealed(create: Callable[[str, int], int]) -> None:
    """It holds exactly the value, at offset 0, and can be neither written, resized nor unsealed."""
    features = Features()
    descriptor = sealed_memfd(bytearray(b"value"), features, create=create)
    try:
        assert os.read(descriptor, 100) == b"value"
        assert os.fstat(descriptor).st_size == 5
        assert os.fstat(descriptor).st_mode & 0o777 == 0o444
        assert not os.get_inheritable(descriptor)
        assert fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & SEALS == SEALS
        for change in (
            lambda: os.pwrite(descriptor, b"V", 0),
            lambda: os.ftruncate(descriptor, 4),
            lambda: os.ftruncate(descriptor, 6),
            lambda: fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE),
            lambda: mmap.mmap(descriptor, 5, mmap.MAP_SHARED, mmap.PROT_WRITE),
        ):
            with pytest.raises(PermissionError):
                change()
    finally:
        os.close(descriptor)
    assert features.table()["memfd_noexec"] == ("used" if create is os.memfd_create else "fallback")


def test_cannot_be_made_executable() -> None:
    """Where the kernel can forbid it, not even the owner makes it executable."""
    features = Features()
    descriptor = sealed_memfd(b"#!/bin/sh\n", features)
    try:
        if features.table()["memfd_noexec"] != "used":
            pytest.skip("this kernel is older than MFD_NOEXEC_SEAL")
        with pytest.raises(PermissionError):
            os.fchmod(descriptor, 0o755)
    finally:
        os.close(descriptor)


def test_large_value() -> None:
    """A value of 1 MiB is whole."""
    value = os.urandom(1 << 20)
    descriptor = sealed_memfd(value, Features())
    try:
        assert os.pread(descriptor, 2 << 20, 0) == value
    finally:
        os.close(descriptor)


def test_failure_leaves_no_descriptor() -> None:
    """When the file cannot be filled, its descriptor is closed."""
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(PermissionError):  # made without MFD_ALLOW_SEALING, it refuses seals
        sealed_memfd(b"x", Features(), create=lambda name, flags: os.memfd_create(name, os.MFD_CLOEXEC))
    assert set(os.listdir("/proc/self/fd")) == before
