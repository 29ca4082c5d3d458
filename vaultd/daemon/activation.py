"""A listening socket that the service manager made: sd_listen_fds(3), and what such a socket must be."""

from __future__ import annotations

import os
import socket
import stat
from typing import TYPE_CHECKING, Final

from vaultd.daemon.listener import Listener, check_directories, group_id
from vaultd.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vaultd.daemon.kernel import Kernel

__all__ = ["adopt", "passed"]

_FIRST: Final = 3
_MOST: Final = 64
_NAMES: Final = ("vaultd", "vaultd.socket")
_HINT: Final = "one ListenStream=PATH in the socket's unit"


def passed(environment: Mapping[str, str], pid: int, *, first: int = _FIRST) -> socket.socket | None:
    """The socket that was passed to process `pid`; of several the one named `vaultd` or `vaultd.socket`, others closed.

    Args:
        environment: `LISTEN_PID`, `LISTEN_FDS`, `LISTEN_FDNAMES`.
        pid: ours; what was meant for another process is none of our business.
        first: the first descriptor passed.

    Returns:
        None when none was passed.

    Raises:
        ConfigError: the variables make no sense, or of several sockets not exactly one has such a name.
    """
    if environment.get("LISTEN_PID") != str(pid):
        return None
    count = environment.get("LISTEN_FDS", "")
    if not (count.isascii() and count.isdigit() and 1 <= int(count) <= _MOST):
        raise ConfigError(f"LISTEN_FDS is not a number from 1 to {_MOST}", _HINT)
    numbers = range(first, first + int(count))
    names = environment.get("LISTEN_FDNAMES", "").split(":") if environment.get("LISTEN_FDNAMES") else []
    if names and len(names) != len(numbers):
        raise ConfigError("LISTEN_FDNAMES and LISTEN_FDS do not agree", _HINT)
    wanted = list(numbers)
    if len(wanted) > 1:
        wanted = [number for number, name in zip(numbers, names, strict=False) if name in _NAMES]
    if len(wanted) != 1:
        raise ConfigError(f"{len(numbers)} descriptors were passed and one is wanted, named vaultd", _HINT)
    for number in numbers:
        if number != wanted[0]:
            os.close(number)
    try:
        os.set_inheritable(wanted[0], False)
        return socket.socket(fileno=wanted[0])
    except OSError as error:
        raise ConfigError(f"descriptor {wanted[0]} is not a socket", _HINT) from error


def adopt(sock: socket.socket, path: str, kernel: Kernel, *, group: str | int | None = None) -> Listener:
    """Listen on a socket that was passed, once it is what we would have made; its path stays the manager's.

    Args:
        sock: from `passed`; closed when it is refused.
        path: where the configuration says that the daemon listens.
        kernel: to switch off receiving descriptors.
        group: who may connect besides our uid, as the configuration says.

    Raises:
        ConfigError: another kind of socket, another path, open to others, or in a directory that others may write.
    """
    try:
        _check_socket(sock, path)
        check_directories(os.path.dirname(path))
        _check_file(path, None if group is None else group_id(group))
        sock.setblocking(False)
        kernel.refuse_descriptors(sock)
        return Listener(sock, path, None)
    except BaseException:
        sock.close()
        raise


def _check_socket(sock: socket.socket, path: str) -> None:
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
        raise ConfigError("the socket passed is not a Unix stream socket", _HINT)
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise ConfigError("the socket passed does not listen", "Accept=no in the socket's unit")
    name = sock.getsockname()
    if not isinstance(name, str) or not os.path.isabs(name):
        raise ConfigError("the socket passed has no path", "an abstract name says nothing of who made it: " + _HINT)
    if os.path.normpath(name) != path:
        raise ConfigError(f"the socket passed is {name}, and the configuration says {path}", "make the two the same")


def _check_file(path: str, gid: int | None) -> None:
    try:
        status = os.lstat(path)
    except OSError as error:
        raise ConfigError(f"{path}: {os.strerror(error.errno or 0).lower()}", "restart the socket's unit") from error
    if not stat.S_ISSOCK(status.st_mode) or status.st_uid not in (0, os.geteuid()):
        raise ConfigError(f"{path}: not the socket that was passed", "restart the socket's unit")
    if status.st_mode & 0o007:
        raise ConfigError(f"{path}: everybody may connect", "SocketMode=0660 in the socket's unit")
    if gid is not None and status.st_gid != gid:
        raise ConfigError(f"{path}: not of the group that socket_group names", "SocketGroup= in the socket's unit")
