"""What the kernel said of a peer, frozen when it connected; decisions see a peer only as this."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["PeerFacts", "Process", "same_process", "same_session"]


class Process(NamedTuple):
    """One process, told apart from a later one with the same pid.

    Attributes:
        pid: process id in the daemon's pid namespace.
        start_time: field 22 of /proc/<pid>/stat, clock ticks since boot.
        pidfd_inode: inode of its pidfd where the kernel gives each process its own (6.9 and newer), else None.
        session: its session id.
        boot_id: the boot it lives in; empty when it cannot matter (never kept beyond the daemon).
    """

    pid: int
    start_time: int
    pidfd_inode: int | None
    session: int
    boot_id: str = ""

    @classmethod
    def of(cls, raw: Iterable[Any]) -> Process:
        """Back from the list that was stored. Raises TypeError or ValueError for anything else."""
        pid, start_time, inode, session, boot_id = raw
        if inode is not None:
            inode = int(inode)
        return cls(int(pid), int(start_time), inode, int(session), str(boot_id))


def same_process(one: Process, other: Process) -> bool:
    """Whether both name one process: pid and start time, and the pidfd's inode and the boot where both know them."""
    return (
        one.pid == other.pid
        and one.start_time == other.start_time
        and (not one.boot_id or not other.boot_id or one.boot_id == other.boot_id)
        and (one.pidfd_inode is None or other.pidfd_inode is None or one.pidfd_inode == other.pidfd_inode)
    )


def same_session(one: int, other: int) -> bool:
    """Whether both are one session; 0 is what the kernel says of a session outside the daemon's sight: never equal."""
    return one == other and one > 0


@dataclass(frozen=True, slots=True)
class PeerFacts:
    """Identity and hints of one connected peer.

    Attributes:
        uid: effective user id at connect.
        gid: effective group id at connect.
        groups: supplementary groups at connect (SO_PEERGROUPS).
        pid: a hint, never identity by itself.
        pidfd_inode: see `Process`.
        start_time: see `Process`.
        session: session id.
        cgroup: full path in the unified hierarchy as the daemon sees it, None where it could not be read.
        exe: device and inode of its executable, None where the daemon may not read it.
        exe_path: the executable's path, for records only.
        same_mount_ns: whether it shares the daemon's mount namespace: in another, a bind mount forges `exe`.
    """

    uid: int
    gid: int
    pid: int
    start_time: int
    session: int
    groups: frozenset[int] = field(default_factory=frozenset)
    pidfd_inode: int | None = None
    cgroup: str | None = None
    exe: tuple[int, int] | None = None
    exe_path: str | None = None
    same_mount_ns: bool = False

    @property
    def process(self) -> Process:
        """The peer as a `Process`."""
        return Process(self.pid, self.start_time, self.pidfd_inode, self.session)
