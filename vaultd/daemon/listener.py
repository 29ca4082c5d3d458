"""The listening socket: a path that nobody else can have prepared, modes that are tight from the first instant.

Clients check the other side too: they believe a socket whose directory nobody but its owner may write. So the
directory, and what leads to it, is checked before the path is touched.
"""

from __future__ import annotations

import errno
import fcntl
import grp
import logging
import os
import socket
import stat
from typing import TYPE_CHECKING, Final

from vaultd.errors import ConfigError, Locked

if TYPE_CHECKING:
    from vaultd.daemon.kernel import Kernel

__all__ = ["MAX_PATH", "Listener", "check_directories", "group_id", "listen"]

_log = logging.getLogger(__name__)

MAX_PATH: Final = 107
"""Bytes of a socket's path: sun_path has 108, with the NUL that others expect."""

_BACKLOG: Final = 1_024
_OWNER_ONLY: Final = 0o600
_WITH_GROUP: Final = 0o660


class Listener:
    """A bound, listening socket and the lock that makes its path ours; None when the path is the service manager's."""

    def __init__(self, sock: socket.socket, path: str, lock: int | None) -> None:
        self.socket = sock
        self.path = path
        self._lock = lock
        status = os.lstat(path)
        self._inode = (status.st_dev, status.st_ino)

    def close(self) -> None:
        """Stop listening and remove the path, if it is still the one that we made."""
        self.socket.close()
        if self._lock is None:
            return
        try:
            status = os.lstat(self.path)
            if (status.st_dev, status.st_ino) == self._inode:
                os.unlink(self.path)
        except FileNotFoundError:
            pass  # somebody cleaned up before us: what we wanted
        except OSError as error:
            # No reason not to go on stopping: the next daemon takes a dead socket's place.
            _log.warning("the socket could not be removed: %s", error.strerror)
        os.close(self._lock)


def listen(path: str, kernel: Kernel, *, group: str | int | None = None) -> Listener:
    """Listen on `path`.

    Args:
        path: absolute.
        kernel: to switch off receiving descriptors.
        group: name or number of the group that may connect besides our uid.

    Raises:
        ConfigError: the path, its directory or the group is not acceptable.
        Locked: another daemon listens there.
    """
    if len(os.fsencode(path)) > MAX_PATH:
        raise ConfigError(f"the socket's path is longer than {MAX_PATH} bytes", "choose a shorter one with --socket")
    directory = os.path.dirname(path)
    _make_directory(directory)
    check_directories(directory)
    gid = None if group is None else group_id(group)
    lock = _take_lock(path)
    try:
        _remove_stale(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            _bind(sock, path, gid)
            # accepted sockets inherit it, so it holds before the first byte
            kernel.refuse_descriptors(sock)
            sock.listen(_BACKLOG)
            return Listener(sock, path, lock)
        except BaseException:
            sock.close()
            raise
    except BaseException:
        os.close(lock)
        raise


def _make_directory(directory: str) -> None:
    """Make the last part of the path when it is missing: /run and $XDG_RUNTIME_DIR are empty after each boot."""
    try:
        os.mkdir(directory, 0o755 if os.geteuid() == 0 else 0o700)
    except FileExistsError:
        return
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise ConfigError(f"{directory}: cannot be made: {reason}", "make it, owned by the daemon's uid") from error
    if os.geteuid() == 0:
        os.chmod(directory, 0o755)  # noqa: S103  others must reach the socket; its own mode says who may connect


def check_directories(directory: str) -> None:
    """Refuse a path that another uid could change under us: each directory ours or root's, and not writable by others.

    A sticky directory (/tmp) may be on the way, as nobody can rename our entries there; the last one may not be sticky
    either, because clients believe the socket for its directory's sake.
    """
    place = os.path.realpath(directory)
    if place != directory:
        raise ConfigError(f"{directory}: the path leads through a symbolic link", f"use {place}")
    last = True
    while True:
        status = os.lstat(place)
        if not stat.S_ISDIR(status.st_mode):
            raise ConfigError(f"{place}: not a directory", "choose another --socket")
        if status.st_uid not in (0, os.geteuid()):
            raise ConfigError(f"{place}: owned by uid {status.st_uid}", "choose a directory of root's or the daemon's")
        if status.st_mode & 0o022 and (last or not status.st_mode & stat.S_ISVTX):
            raise ConfigError(f"{place}: others may write there", f"chmod go-w {place}, or choose another --socket")
        if place == "/":
            return
        place, last = os.path.dirname(place), False


def group_id(group: str | int) -> int:
    """The number of a group. Raises `ConfigError` when there is none of that name."""
    if isinstance(group, int):
        return group
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise ConfigError(f"there is no group {ascii(group)[:80]}", "make it, or change socket_group") from None


def _take_lock(path: str) -> int:
    """Hold `PATH.lock` for as long as we live: only its holder may remove a stale socket, so no two can race for it."""
    name = path + ".lock"
    try:
        lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, _OWNER_ONLY)
    except OSError as error:
        raise ConfigError(f"{name}: {os.strerror(error.errno or 0).lower()}", "choose another --socket") from error
    try:
        _check_lock(name, os.fstat(lock))
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise Locked("another daemon listens on this socket", "stop it, or choose another --socket") from None
    except BaseException:
        os.close(lock)
        raise
    return lock


def _check_lock(name: str, status: os.stat_result) -> None:
    if status.st_uid != os.geteuid() or not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{name}: owned by uid {status.st_uid}", "stop its owner's daemon and remove it")


def _remove_stale(path: str) -> None:
    """Remove what a killed daemon left at `path`, and nothing else."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise ConfigError(f"{path}: exists and is not a socket", "move it away, or choose another --socket")
    if status.st_uid != os.geteuid():
        raise ConfigError(f"{path}: owned by uid {status.st_uid}", "stop that daemon and remove it")
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    with probe:
        code = probe.connect_ex(path)
    if code != errno.ECONNREFUSED:  # EAGAIN: a full backlog, so somebody listens
        raise Locked("something listens on this socket without holding its lock", "stop it, or choose another --socket")
    os.unlink(path)


def _bind(sock: socket.socket, path: str, gid: int | None) -> None:
    """Bind with mode 0600 whatever the umask, then open up to the group where one is named.

    bind(2) makes the file with the mode of the socket's own inode, so there is no instant with a looser one; a chmod
    afterwards would leave a gap.
    """
    os.fchmod(sock.fileno(), _OWNER_ONLY)
    try:
        sock.bind(path)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot listen: {os.strerror(error.errno or 0).lower()}", "check --socket"
        ) from error
    if gid is None:
        return
    try:
        os.chown(path, -1, gid, follow_symlinks=False)
        os.chmod(path, _WITH_GROUP)  # after the chown: the group that may connect is never another one
    except OSError as error:
        os.unlink(path)
        raise ConfigError(
            f"{path}: cannot be given to group {gid}: {os.strerror(error.errno or 0).lower()}",
            "the daemon's uid must be a member of socket_group",
        ) from error
