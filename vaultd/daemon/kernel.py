"""What the daemon asks of Linux beyond Python's standard library, and what this kernel had to offer.

Every call here is one system call with a plain result. A feature that is missing gets its stated fallback or is
refused, and `Features` keeps which of the three it was, for `status`. The functions that reach the kernel are
attributes of `Kernel`, so that a test can take one away and see the fallback work.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import socket
import struct
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from vaultd.errors import Unsupported

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Credentials", "Feature", "Features", "Kernel", "is_alive", "libc"]

Feature = Literal["used", "fallback", "refused"]

# Values of include/uapi/asm-generic/socket.h that Python 3.11 does not name.
SO_PEERGROUPS: Final = 59
SO_PEERPIDFD: Final = 77  # Linux 6.5
SO_PASSRIGHTS: Final = 83  # Linux 6.16

CAP_SYS_PTRACE: Final = 19
_ABSENT: Final = frozenset({errno.ENOPROTOOPT, errno.EOPNOTSUPP})
_INT: Final = struct.Struct("=i")
_UCRED: Final = struct.Struct("=iII")
_ALL_IDS: Final = 2**32 - 1  # less the kernel's "no id"
_PYTHON_OPTION_LIMIT: Final = 1024  # socket.getsockopt() refuses a longer answer

libc: Final = ctypes.CDLL(None, use_errno=True)


class Credentials(NamedTuple):
    """SO_PEERCRED: who connected, as of connect(); later setuid or passing the socket on does not change it."""

    pid: int
    uid: int
    gid: int


class Features:
    """Which kernel features are in use, replaced by a fallback, or refused; what `status` shows under `kernel`."""

    def __init__(self) -> None:
        self._table: dict[str, Feature] = {}

    def note(self, name: str, state: Feature) -> None:
        """Record how `name` is met; the last word counts, as a fallback may turn up only with the first peer."""
        self._table[name] = state

    def table(self) -> dict[str, Feature]:
        """A copy, in order of name."""
        return dict(sorted(self._table.items()))


def _getsockopt(sock: socket.socket, level: int, option: int, length: int) -> bytes:
    """getsockopt(2) for answers of any length: Python stops at 1 KiB, and a peer may be in more than 256 groups."""
    if length <= _PYTHON_OPTION_LIMIT:
        return sock.getsockopt(level, option, length)
    answer = ctypes.create_string_buffer(length)
    size = ctypes.c_uint32(length)
    if libc.getsockopt(sock.fileno(), level, option, answer, ctypes.byref(size)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return answer.raw[: size.value]


class Kernel:
    """The kernel of this machine, with a table of what it offers.

    Args:
        getsockopt: reads a socket option as bytes.
        setsockopt: sets an integer socket option.
        pidfd_open: opens a process descriptor by pid.
    """

    def __init__(
        self,
        *,
        getsockopt: Callable[[socket.socket, int, int, int], bytes] = _getsockopt,
        setsockopt: Callable[[socket.socket, int, int, int], None] = socket.socket.setsockopt,
        pidfd_open: Callable[[int], int] = os.pidfd_open,
    ) -> None:
        self._getsockopt = getsockopt
        self._setsockopt = setsockopt
        self._pidfd_open = pidfd_open
        self.features = Features()
        self.pidfd_inodes_are_unique = False
        self.mount_namespace = 0
        self.unmapped_uid: int | None = None
        """What every uid without a number in our user namespace is shown as; None where each has one."""
        self.unmapped_gid: int | None = None

    def probe(self) -> None:
        """Find out, on ourselves, what this kernel offers.

        Raises:
            Unsupported: pidfd_open(2) is missing: without it no process can be told from a later one of the same pid.
        """
        try:
            ours = self._pidfd_open(os.getpid())
        except OSError as error:
            raise Unsupported(
                f"this kernel has no pidfd_open: {os.strerror(error.errno or 0).lower()}",
                "Linux 5.3 or newer is needed",
            ) from error
        anonymous = os.eventfd(0, os.EFD_CLOEXEC)
        try:
            # Before pidfs (Linux 6.9) every pidfd shared the anonymous inode, which identifies nothing.
            self.pidfd_inodes_are_unique = os.fstat(ours).st_dev != os.fstat(anonymous).st_dev
        finally:
            os.close(ours)
            os.close(anonymous)
        self.features.note("pidfd_inode", "used" if self.pidfd_inodes_are_unique else "fallback")
        self.mount_namespace = os.stat("/proc/self/ns/mnt").st_ino
        self.unmapped_uid, self.unmapped_gid = _unmapped("uid"), _unmapped("gid")
        self.features.note("peer_exe", "used" if self._may_read_foreign_executables() else "refused")
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with here, there:
            pidfd = self.peer_pidfd(here)
            if pidfd is not None:
                os.close(pidfd)
            self.peer_groups(here)
            self.refuse_descriptors(here)

    @staticmethod
    def _may_read_foreign_executables() -> bool:
        """Whether this process holds CAP_SYS_PTRACE, which readlink of another uid's /proc/PID/exe needs."""
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            effective = next(line for line in status if line.startswith("CapEff:"))
        return bool(int(effective.split()[1], 16) >> CAP_SYS_PTRACE & 1)

    def peer_credentials(self, sock: socket.socket) -> Credentials:
        """SO_PEERCRED."""
        return Credentials._make(
            _UCRED.unpack(self._getsockopt(sock, socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        )

    def peer_pidfd(self, sock: socket.socket) -> int | None:
        """SO_PEERPIDFD: a new descriptor for the process that connected, or None where the kernel has no such option.

        Raises:
            ProcessLookupError: the process is gone (kernels before 6.16 give no descriptor for a reaped one).
        """
        try:
            (pidfd,) = _INT.unpack(self._getsockopt(sock, socket.SOL_SOCKET, SO_PEERPIDFD, _INT.size))
        except OSError as error:
            if error.errno in _ABSENT:
                self.features.note("peer_pidfd", "fallback")
                return None
            if error.errno in (errno.ESRCH, errno.EINVAL, errno.ENODATA):
                raise ProcessLookupError(error.errno, "the peer is gone") from error
            raise
        os.set_inheritable(pidfd, False)
        self.features.note("peer_pidfd", "used")
        return int(pidfd)

    def peer_groups(self, sock: socket.socket) -> frozenset[int] | None:
        """SO_PEERGROUPS: the supplementary groups at connect(), or None where the kernel has no such option."""
        length = _PYTHON_OPTION_LIMIT
        while True:
            try:
                answer = self._getsockopt(sock, socket.SOL_SOCKET, SO_PEERGROUPS, length)
            except OSError as error:
                if error.errno == errno.ERANGE and length < 1 << 18:  # NGROUPS_MAX is 65536
                    length = 1 << 18
                    continue
                if error.errno in _ABSENT:
                    self.features.note("peer_groups", "fallback")
                    return None
                raise
            self.features.note("peer_groups", "used")
            return frozenset(struct.unpack(f"={len(answer) // 4}I", answer))

    def refuse_descriptors(self, sock: socket.socket) -> None:
        """SO_PASSRIGHTS off: a sender of descriptors gets EPERM, so nobody can fill our table with theirs.

        Where the option is missing, the kernel still drops what a plain recv() does not take: nothing leaks in, and the
        descriptors only cost the sender until we read.
        """
        try:
            self._setsockopt(sock, socket.SOL_SOCKET, SO_PASSRIGHTS, 0)
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
            self.features.note("pass_rights_off", "fallback")
        else:
            self.features.note("pass_rights_off", "used")

    def open_pid(self, pid: int) -> int:
        """pidfd_open(2); close-on-exec. Raises ProcessLookupError when there is no such process."""
        if pid <= 0:
            raise ProcessLookupError(errno.ESRCH, "no such process")
        try:
            return self._pidfd_open(pid)
        except OSError as error:
            if error.errno in (errno.ESRCH, errno.EINVAL):  # EINVAL: the pid of a thread, not of a process
                raise ProcessLookupError(error.errno, "no such process") from error
            raise

    def pidfd_inode(self, pidfd: int) -> int | None:
        """The inode of a pidfd, which no other process of this boot shares; None where all pidfds share one."""
        return os.fstat(pidfd).st_ino if self.pidfd_inodes_are_unique else None


def _unmapped(kind: str) -> int | None:
    """What ids that our user namespace has no number for are shown as to us; None when it has one for each."""
    with open(f"/proc/self/{kind}_map", encoding="ascii") as file:
        mapped = sum(int(line.split()[2]) for line in file)
    if mapped >= _ALL_IDS:
        return None
    with open(f"/proc/sys/kernel/overflow{kind}", encoding="ascii") as file:
        return int(file.read())


def is_alive(pidfd: int) -> bool:
    """Whether the process still runs: a pidfd turns readable when its last thread has exited, reaped or not."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return not poll.poll(0)
