"""Processes in namespaces of their own, as a container's are: made by unshare(2), without a container's runtime."""

from __future__ import annotations

import ctypes
import os
import pickle
from typing import TYPE_CHECKING, Any, Final

from tests.support.raw import GROUP
from tests.support.serving import Child, fork
from vaultd.daemon.kernel import libc

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["IPC", "MOUNT", "PID", "USER", "UTS", "bind", "contained", "forked", "private_mounts"]

MOUNT: Final = 0x00020000
CGROUP: Final = 0x02000000
UTS: Final = 0x04000000
IPC: Final = 0x08000000
USER: Final = 0x10000000
PID: Final = 0x20000000

_DUMPABLE: Final = 4
_BIND, _REC, _PRIVATE, _REMOUNT, _READ_ONLY = 4096, 16384, 1 << 18, 32, 1


def _checked(result: int) -> None:
    assert result == 0, f"errno {ctypes.get_errno()}"


def _map_to_root(uid: int) -> None:
    """Make this process root of its new user namespace, and nothing else outside of it."""
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {uid} 1")):
        with open(f"/proc/self/{name}", "wb") as file:
            file.write(text.encode())


def forked(function: Callable[[], Any]) -> Any:
    """What `function` returns in a child of this process."""
    read, write = os.pipe()
    if fork() == 0:
        try:
            told = (True, function())
        except BaseException as error:  # noqa: BLE001  shown to the test
            told = (False, f"{type(error).__name__}: {error}")
        os.write(write, pickle.dumps(told))
        os._exit(0)
    os.close(write)
    with open(read, "rb") as file:
        data = file.read()
    os.wait()
    fine, value = pickle.loads(data)  # noqa: S301  our own child wrote it
    assert fine, value
    return value


def contained(
    function: Callable[[], Any], *, uid: int, flags: int, mapped: bool = True, keep: tuple[int, ...] = ()
) -> Any:
    """What `function` returns in a process that `uid` put into the namespaces of `flags`; with PID it is number 1.

    Args:
        mapped: with USER, whether it is root inside; else it has no uid there at all.
    """

    def there() -> Any:
        os.setsid()
        libc.prctl(_DUMPABLE, 1, 0, 0, 0)  # changing uids took it, and with it the right to write our own maps
        _checked(libc.unshare(flags))
        if flags & USER and mapped:
            _map_to_root(uid)
        return forked(function)

    return Child(there, uid=uid, groups=(GROUP,), keep=keep).result()


def private_mounts() -> None:
    """Keep what is mounted from here on in this mount namespace."""
    _checked(libc.mount(b"none", b"/", None, _REC | _PRIVATE, None))


def bind(what: str, where: str, *, read_only: bool = False) -> None:
    """Mount a folder or a file in another place, as `volumes:` of a compose file does."""
    source, target = os.fsencode(what), os.fsencode(where)
    _checked(libc.mount(source, target, None, _BIND, None))
    if read_only:
        _checked(libc.mount(b"none", target, None, _BIND | _REMOUNT | _READ_ONLY, None))
