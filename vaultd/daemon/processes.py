"""Processes by descriptor: who is whose parent, and which process a number really names.

A pid is a hint: it can be reused between two reads. Everything here opens a pidfd first, reads /proc, and asks the
pidfd again afterwards; only then does what was read belong to the process that the descriptor holds. (The order is
SPIRE's peertracker's and pidfd_open(2)'s.)
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from vaultd.access.facts import Process, same_process
from vaultd.daemon.kernel import is_alive
from vaultd.errors import Denied

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vaultd.daemon.kernel import Kernel

__all__ = [
    "HeldProcess",
    "Lineage",
    "Stat",
    "ancestors",
    "boot_id",
    "lineage",
    "number_is_anothers",
    "open_process",
    "parent_of",
    "read_stat",
    "reidentify",
    "sessions",
]

MAX_ANCESTORS: Final = 64
"""How far up `ancestors` looks; deeper trees than this are not built by hand, and the walk costs system calls."""

_WALKS: Final = 3
"""Tries of `lineage` to walk up while ancestors end on the way."""

_PROC_FILE_LIMIT: Final = 65_536


class Stat(NamedTuple):
    """What /proc/PID/stat says, as far as it matters here."""

    pid: int
    comm: str
    parent: int
    session: int
    start_time: int
    """Clock ticks (10 ms) after boot."""


def read_proc(pid: int, name: str) -> bytes:
    """All of /proc/`pid`/`name`, up to 64 KiB. Raises ProcessLookupError when there is no such process."""
    try:
        descriptor = os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise ProcessLookupError(error.errno, "no such process") from error
    try:
        parts = []
        left = _PROC_FILE_LIMIT
        while left > 0 and (part := os.read(descriptor, min(left, 4096))):
            parts.append(part)
            left -= len(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)


def read_stat(pid: int) -> Stat:
    """Parse /proc/`pid`/stat. Raises ProcessLookupError when there is no such process."""
    return parse_stat(read_proc(pid, "stat"))


def parse_stat(text: bytes) -> Stat:
    """Parse one line of proc_pid_stat(5).

    The command's name is in parentheses and may itself hold spaces, parentheses and newlines, so the line is cut at the
    last closing one.
    """
    head, _, rest = text.rpartition(b")")
    pid, _, comm = head.partition(b"(")
    fields = rest.split()  # fields[0] is field 3 of the manual page
    return Stat(int(pid), comm.decode("ascii", "replace"), int(fields[1]), int(fields[3]), int(fields[19]))


def boot_id() -> str:
    """This boot's random id: pids, inodes and start times mean nothing across two of them."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


@dataclass(frozen=True, slots=True, eq=False)
class HeldProcess:
    """One process, held by a pidfd so that its number cannot come to mean another. Close it, or use it in `with`."""

    pidfd: int
    identity: Process
    comm: str
    uid: int
    """Effective uid when it was looked at."""

    @property
    def pid(self) -> int:
        """Its number."""
        return self.identity.pid

    def is_alive(self) -> bool:
        """Whether it still runs."""
        return is_alive(self.pidfd)

    def is_same(self, other: Process) -> bool:
        """Whether both name one process."""
        return same_process(self.identity, other)

    def record(self) -> Process:
        """Its identity with this boot's id: what `reidentify` needs after a restart of the daemon."""
        return self.identity._replace(boot_id=boot_id())

    def dup(self) -> HeldProcess:
        """The same process held a second time, to be closed on its own."""
        return replace(self, pidfd=os.dup(self.pidfd))  # close-on-exec, as os.dup makes it

    def close(self) -> None:
        """Give the descriptor back; nothing else may be asked afterwards."""
        os.close(self.pidfd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def effective_uid(pid: int) -> int:
    """The effective uid in /proc/`pid`/status; the directory itself would be root's for one that is not dumpable."""
    for line in read_proc(pid, "status").splitlines():
        if line.startswith(b"Uid:"):
            return int(line.split()[2])
    raise ProcessLookupError(f"no uid in the status of process {pid}")


def open_process(pid: int, kernel: Kernel) -> HeldProcess:
    """Hold the process that `pid` names now.

    Raises:
        ProcessLookupError: there is none, or it ended while it was looked at.
    """
    pidfd = kernel.open_pid(pid)
    try:
        return describe(pidfd, pid, kernel)
    except BaseException:
        os.close(pidfd)
        raise


def describe(pidfd: int, pid: int, kernel: Kernel) -> HeldProcess:
    """Read what /proc says of the process behind `pidfd`, and check that the answer was about that one.

    Args:
        pidfd: becomes the result's own; stays the caller's when this raises.
        pid: its number.

    Raises:
        ProcessLookupError: it has ended.
    """
    stat = read_stat(pid)
    uid = effective_uid(pid)
    if not is_alive(pidfd):
        raise ProcessLookupError("the process ended while it was looked at")
    return HeldProcess(pidfd, Process(pid, stat.start_time, kernel.pidfd_inode(pidfd), stat.session), stat.comm, uid)


def parent_of(child: HeldProcess, kernel: Kernel) -> HeldProcess | None:
    """Hold the parent of `child`; None when it has none that we can see (PID 1's, or outside our pid namespace).

    Raises:
        ProcessLookupError: `child` has ended.
    """
    while True:
        number = read_stat(child.pid).parent
        if number == 0:
            return None
        try:
            parent = open_process(number, kernel)
        except ProcessLookupError:
            if not child.is_alive():
                raise
            continue  # the parent ended in between, so the child has a new one by now
        # The descriptor was opened by number. It is the parent's only if the child, still alive, still names that
        # number: a parent that had ended would have handed the child on before its number could be given to somebody
        # else.
        if child.is_alive() and read_stat(child.pid).parent == number:
            if child.is_alive():
                return parent
        elif child.is_alive():
            parent.close()
            continue
        parent.close()
        raise ProcessLookupError("the process ended while its parent was looked for")


def ancestors(process: HeldProcess, kernel: Kernel, *, same_session: bool = False) -> Iterator[HeldProcess]:
    """Walk up from the parent of `process`, yielding each ancestor held; the one before is closed when the next is
    asked for.

    Args:
        same_session: stop before the first ancestor that is in another session than `process`.

    Raises:
        ProcessLookupError: one of the chain ended during the walk; what was yielded before it is still right.
    """
    current = process
    try:
        for _ in range(MAX_ANCESTORS):
            parent = parent_of(current, kernel)
            if parent is None:
                return
            if current is not process:
                current.close()
            current = parent
            if same_session and parent.identity.session != process.identity.session:
                return
            yield parent
    finally:
        if current is not process:
            current.close()


class Lineage(NamedTuple):
    """A process and its ancestors.

    Attributes:
        processes: the process first.
        whole: whether these are all, up to the last one that can be seen.
        settled: whether looking again would find the same.
    """

    processes: tuple[Process, ...]
    whole: bool
    settled: bool


def lineage(peer: Callable[[], HeldProcess], kernel: Kernel) -> Lineage:
    """The process that `peer` holds, and its ancestors.

    Not whole when there are more than `MAX_ANCESTORS`, when one of them ended during each of a few walks, or when the
    process has ended: who wants to hide an ancestor can bring about each of these.
    """
    found: list[Process] = []
    for _ in range(_WALKS):
        try:
            held = peer()
            found = [held.identity]
            found += [ancestor.identity for ancestor in ancestors(held, kernel)]
        except (Denied, ProcessLookupError):
            continue
        return Lineage(tuple(found), len(found) <= MAX_ANCESTORS, True)
    return Lineage(tuple(found), False, False)


def number_is_anothers(process: Process) -> bool:
    """Whether the number of this ended process has come to another one since; then nobody is left in its session."""
    try:
        return read_stat(process.pid).start_time != process.start_time
    except ProcessLookupError:
        return False


def sessions() -> set[int]:
    """Every session that has a process in it now."""
    found: set[int] = set()
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                found.add(read_stat(int(name)).session)
            except ProcessLookupError:
                continue
    return found


def is_ancestor(candidate: HeldProcess, process: HeldProcess, kernel: Kernel) -> bool:
    """Whether `candidate` is the parent of `process`, or its parent's, and so on. False when the chain breaks
    meanwhile."""
    try:
        return any(candidate.is_same(ancestor.identity) for ancestor in ancestors(process, kernel))
    except ProcessLookupError:
        return False


def reidentify(record: Process, kernel: Kernel) -> HeldProcess | None:
    """Hold the very process that `record` was made of, or None: it has ended, or the machine was booted since.

    A later process with the same pid differs in its inode (or, where those are not unique, in its start time).
    """
    if record.boot_id != boot_id():
        return None
    try:
        process = open_process(record.pid, kernel)
    except ProcessLookupError:
        return None
    if process.is_same(record):
        return process
    process.close()
    return None
