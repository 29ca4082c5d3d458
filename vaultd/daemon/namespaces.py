"""Peers in containers: what of their namespaces every process may see, and what follows for numbers and parents.

A container is a set of namespaces; nothing in the kernel is called one. The daemon sees a peer's uid and pid translated
into its own namespaces (SO_PEERCRED), so identity needs nothing from here. What does is whatever a peer says in numbers
of its own, and whoever stands above it on the other side of the border. /proc/PID/status and uid_map are readable for
all, unlike the links in /proc/PID/ns, which take the right to trace.
"""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from vaultd.daemon.processes import ancestors, parent_of, read_proc
from vaultd.errors import Denied

if TYPE_CHECKING:
    from vaultd.daemon.kernel import Kernel
    from vaultd.daemon.processes import HeldProcess

__all__ = ["Numbers", "held_by_number", "numbers_of", "own_depth", "parent_inside", "warnings_for"]


class Numbers(NamedTuple):
    """A process's pids.

    Attributes:
        depth: how many pid namespaces it is in, from the daemon's inwards: 1 is the daemon's own.
        innermost: its number in the last of them, which is the one that it knows itself by.
    """

    depth: int
    innermost: int


def numbers_of(pid: int) -> Numbers:
    """The pids of the process that `pid` names here; the caller checks by its pidfd that it still does.

    Raises:
        ProcessLookupError: there is none.
    """
    for line in read_proc(pid, "status").splitlines():
        if line.startswith(b"NSpid:"):
            fields = line.split()[1:]
            return Numbers(len(fields), int(fields[-1]))
    return Numbers(1, pid)  # a kernel without pid namespaces


def parent_inside(child: HeldProcess, kernel: Kernel, hint: str) -> HeldProcess | None:
    """Hold the parent of `child`, if it is in the same container; None when there is none that we can see.

    Across the border stands a container's runtime, say, which starts much else and outlives the container: nothing of
    the child's may hang on it. A child's pid namespace is its parent's or one inside that, so unequal depths are
    unequal namespaces.

    Raises:
        Denied: the parent is outside, with `hint`.
        ProcessLookupError: one of them has ended.
    """
    parent = parent_of(child, kernel)
    if parent is None:
        return None
    try:
        inside = numbers_of(child.pid).depth == numbers_of(parent.pid).depth
    except ProcessLookupError:
        parent.close()
        raise
    if inside and child.is_alive():
        return parent
    parent.close()
    if inside:
        raise ProcessLookupError("the process ended while its parent was looked at")
    raise Denied("the caller's parent is outside its container", hint)


def held_by_number(peer: HeldProcess, number: int, kernel: Kernel) -> HeldProcess | None:
    """The peer itself or its ancestor that `number` names in the peer's own pid namespace, held for the caller.

    Only these are looked for: to find a child by its number there, every process of the machine would have to be read.
    Nobody outside that namespace is ever found.

    Raises:
        ProcessLookupError: one of the chain ended during the walk.
    """
    wanted = Numbers(numbers_of(peer.pid).depth, number)
    if numbers_of(peer.pid) == wanted and peer.is_alive():
        return peer.dup()
    for ancestor in ancestors(peer, kernel):
        found = numbers_of(ancestor.pid)
        if found.depth != wanted.depth:
            return None
        if found == wanted and ancestor.is_alive():
            return ancestor.dup()
    return None


def warnings_for(peer: HeldProcess) -> list[str]:
    """What a peer in a container should know, in words; nothing for one in the daemon's own namespaces.

    Raises:
        ProcessLookupError: it has ended.
    """
    told = []
    if numbers_of(peer.pid).depth != own_depth():
        told.append(
            f"you are in another pid namespace: process numbers in records are the daemon's, where you are {peer.pid}"
        )
    # The kernel writes a map for its reader: where nothing is translated on the way, both read alike.
    if read_proc(peer.pid, "uid_map") != _own_uid_map():
        told.append(
            f"you are in another user namespace: to the daemon you are uid {peer.uid}, whatever you are to yourself"
        )
    if not peer.is_alive():
        raise ProcessLookupError("the process ended while it was looked at")
    return told


@cache
def own_depth() -> int:
    """The depth of the daemon itself, which never changes: 1 where /proc is of its own namespace, as it should be."""
    return numbers_of(os.getpid()).depth


@cache
def _own_uid_map() -> bytes:
    return read_proc(os.getpid(), "uid_map")
