"""Who is at the other end of a connection, in the kernel's words: asked once, at accept, and frozen.

uid, gid and groups are those at connect(2) (SO_PEERCRED, SO_PEERGROUPS). The rest is read from /proc under a pidfd that
the socket itself gave us (SO_PEERPIDFD), which is asked again afterwards: had the process ended in between, its pid
could by then name another, and the connection is refused. What /proc cannot tell is None, never a guess.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from vaultd.access.facts import PeerFacts
from vaultd.daemon.kernel import is_alive
from vaultd.daemon.processes import HeldProcess, effective_uid, read_proc, read_stat
from vaultd.errors import Denied

if TYPE_CHECKING:
    import socket

    from vaultd.daemon.kernel import Credentials, Kernel

__all__ = ["Peer", "attest"]


class Peer(NamedTuple):
    """An attested peer: frozen facts, and the process, held."""

    facts: PeerFacts
    process: HeldProcess


def attest(sock: socket.socket, kernel: Kernel) -> Peer:
    """Ask the kernel who connected.

    Raises:
        Denied: it cannot be told: the process has ended, or lives outside this pid namespace.
    """
    credentials = kernel.peer_credentials(sock)
    if credentials.pid <= 0:
        raise Denied("the peer's process is not visible from here", "connect from the daemon's own pid namespace")
    if credentials.uid == kernel.unmapped_uid or credentials.gid == kernel.unmapped_gid:
        # All of them share this one number: whoever was let in by it would let in every other.
        raise Denied(
            "the peer's uid or gid has no number in the daemon's user namespace",
            "run vaultd outside the container, or map the peer's ids into it",
        )
    try:
        pidfd = kernel.peer_pidfd(sock)
        fallback = pidfd is None
        if pidfd is None:
            pidfd = kernel.open_pid(credentials.pid)
        try:
            return _read(sock, kernel, credentials, pidfd, by_number=fallback)
        except BaseException:
            os.close(pidfd)
            raise
    except ProcessLookupError as error:
        raise Denied("the process that connected has ended", "connect from a process that stays") from error


def _read(sock: socket.socket, kernel: Kernel, credentials: Credentials, pidfd: int, *, by_number: bool) -> Peer:
    """Collect the facts; `by_number` says that `pidfd` was opened by pid and may be a later process's."""
    pid = credentials.pid
    stat = read_stat(pid)
    if by_number and effective_uid(pid) != credentials.uid:
        # Linux before 6.5. What is left open is stated in decisions.md: a later process of the same uid, in the same
        # pid, between connect() and here. It has the same uid, and uid is what rights hang on.
        raise ProcessLookupError("the pid names a process of another uid by now")
    groups = kernel.peer_groups(sock)
    if groups is None:
        groups = _groups(pid)
    if kernel.unmapped_gid is not None:
        groups -= {kernel.unmapped_gid}
    cgroup = parse_cgroup(read_proc(pid, "cgroup"))
    exe, exe_path = _executable(pid)
    same_mount_namespace = _mount_namespace(pid) == kernel.mount_namespace
    again = read_stat(pid)
    if again.start_time != stat.start_time or not is_alive(pidfd):
        raise ProcessLookupError("the process ended while it was looked at")
    facts = PeerFacts(
        uid=credentials.uid,
        gid=credentials.gid,
        groups=groups,
        pid=pid,
        pidfd_inode=kernel.pidfd_inode(pidfd),
        start_time=stat.start_time,
        session=stat.session,
        cgroup=cgroup,
        exe=exe,
        exe_path=exe_path,
        same_mount_ns=same_mount_namespace,
    )
    return Peer(facts, HeldProcess(pidfd, facts.process, stat.comm, credentials.uid))


def parse_cgroup(text: bytes) -> str | None:
    """The path in the unified hierarchy ("0::/system.slice/x.service"), or None.

    A path that leads out of our cgroup namespace ("/..") or that names a removed cgroup is not a full path of a living
    unit, so it is none. Version 1 hierarchies are not looked at: some let their members move themselves.
    """
    for line in text.split(b"\n"):
        if line.startswith(b"0::/"):
            path = line[3:].decode("utf-8", "replace")
            outside = path == "/.." or path.startswith("/../")
            return None if outside or path.endswith(" (deleted)") else path
    return None


def _groups(pid: int) -> frozenset[int]:
    """Supplementary groups by /proc, where SO_PEERGROUPS is missing (before Linux 4.13): those of now, not of
    connect()."""
    for line in read_proc(pid, "status").splitlines():
        if line.startswith(b"Groups:"):
            return frozenset(int(group) for group in line.split()[1:])
    return frozenset()


def _executable(pid: int) -> tuple[tuple[int, int] | None, str | None]:
    """Device and inode of the peer's executable, and its path for people; None where we may not look.

    Another uid's needs CAP_SYS_PTRACE. A replaced file shows as "... (deleted)": device and inode are still the ones
    that run.
    """
    try:
        status = os.stat(f"/proc/{pid}/exe")
        path = os.readlink(f"/proc/{pid}/exe")
    except (PermissionError, FileNotFoundError):  # no right to look; a kernel thread or a zombie has none
        return None, None
    return (status.st_dev, status.st_ino), path


def _mount_namespace(pid: int) -> int | None:
    """The inode of the peer's mount namespace; a bind mount in another one can put any file under any path."""
    try:
        return os.stat(f"/proc/{pid}/ns/mnt").st_ino
    except (PermissionError, FileNotFoundError):
        return None
