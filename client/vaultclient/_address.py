"""Which socket to speak to, whether what listens there may be trusted, and which run this process is in."""

from __future__ import annotations

import base64
import binascii
import os
import socket
import stat
import struct
from typing import TYPE_CHECKING, Final

from vaultclient.errors import Invalid, Unavailable, UntrustedServer

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["check_server", "decode_token", "encode_token", "find_socket", "find_token"]

SYSTEM_SOCKET: Final = "/run/vaultd/vaultd.sock"
MAX_PATH: Final = 107
"""Bytes of a socket path: `sun_path` has 108 and ends with a NUL."""

TOKEN_SIZE: Final = 32
_ALL_UIDS: Final = 2**32 - 1
_UCRED: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid


def find_socket(path: str | os.PathLike[str] | None = None, environ: Mapping[str, str] = os.environ) -> str:
    """The socket's path: the given one, `VAULTD_SOCKET`, the user's daemon if its socket is there, or the system's.

    Raises:
        Invalid: the path cannot be a socket's.
    """
    if path is not None:
        chosen = os.fspath(path)
    elif environ.get("VAULTD_SOCKET"):
        chosen = environ["VAULTD_SOCKET"]
    else:
        runtime = environ.get("XDG_RUNTIME_DIR")
        users = os.path.join(runtime, "vaultd", "vaultd.sock") if runtime else ""
        chosen = users if users and os.path.exists(users) else SYSTEM_SOCKET
    length = len(os.fsencode(chosen))
    if length > MAX_PATH:
        raise Invalid(
            f"the socket path is {length} bytes long, and a Unix socket's is at most {MAX_PATH}",
            "choose a shorter path with --socket or VAULTD_SOCKET",
        )
    if not chosen or "\0" in chosen:
        raise Invalid("the socket path is empty or holds a NUL", "set --socket or VAULTD_SOCKET to a file's path")
    return chosen


def check_server(connected: socket.socket, path: str) -> int:
    """Refuse a server that merely sits at the right path; returns its uid.

    A server's uid as the kernel took it at listen() is trusted when it is 0 or ours, or when it owns the directory of
    the socket and nobody else may write there: then whoever could have put another socket there could be it anyway.

    Raises:
        UntrustedServer: none of these holds.
    """
    _, uid, _ = _UCRED.unpack(connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    if uid == 0 or (uid == os.geteuid() and not _is_many(uid)) or _owns_directory(uid, path):
        return int(uid)
    raise UntrustedServer(
        f"the server on this socket runs as uid {uid}, which is not trusted",
        "it must run as root, as you, or as the only one who may write to the socket's directory",
    )


def _is_many(uid: int) -> bool:
    """Whether `uid` is what all uids without a number in our user namespace look like: then to be alike is nothing."""
    try:
        with open("/proc/sys/kernel/overflowuid", "rb") as file:
            if int(file.read()) != uid:
                return False
        with open("/proc/self/uid_map", "rb") as file:
            return sum(int(line.split()[2]) for line in file) < _ALL_UIDS
    except OSError:
        return False  # no /proc: then there is nothing to tell it by


def _owns_directory(uid: int, path: str) -> bool:
    directory = os.path.dirname(os.path.realpath(path))
    try:
        found = os.stat(directory)
        if found.st_uid != uid or found.st_mode & 0o022:
            return False
        while directory != "/":  # who may rename a directory above may put another in its place, unless it is sticky
            directory = os.path.dirname(directory)
            above = os.stat(directory)
            if above.st_uid not in (0, uid, os.geteuid()):
                return False
            if above.st_mode & 0o022 and not above.st_mode & stat.S_ISVTX:
                return False
    except OSError:
        return False
    return True


def encode_token(token: bytes) -> str:
    """A run token as it stands in `VAULTD_RUN`: base64url without padding."""
    return base64.urlsafe_b64encode(token).rstrip(b"=").decode("ascii")


def decode_token(text: str) -> bytes:
    """The 32 bytes of a token's text.

    Raises:
        Invalid: it is not a token. The message does not repeat it.
    """
    try:
        token = base64.b64decode(text.strip() + "=", altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        token = b""
    if len(token) != TOKEN_SIZE or encode_token(token) != text.strip():  # only the canonical text: unused bits are zero
        raise Invalid("the run token is not 32 bytes in base64url", "pass it on as it was given")
    return token


def find_token(environ: Mapping[str, str] = os.environ) -> bytes | None:
    """The run token that this process was started with, from `VAULTD_RUN_FD` or `VAULTD_RUN`, or None.

    The descriptor is read at offset 0 and its position is left alone, so that children can read it again.

    Raises:
        Invalid: what is there is not a token.
        Unavailable: the descriptor cannot be read.
    """
    number = environ.get("VAULTD_RUN_FD")
    if number:
        if not number.isascii() or not number.isdigit():
            raise Invalid("VAULTD_RUN_FD is not a descriptor's number", "vaultctl run sets it; pass it on unchanged")
        try:
            found = os.pread(int(number), 64, 0)
        except (OSError, OverflowError):
            raise Unavailable(
                "the run token's descriptor (VAULTD_RUN_FD) cannot be read",
                "start the child with that descriptor open (pass_fds in subprocess)",
            ) from None
        if len(found) == TOKEN_SIZE:
            return found
        return decode_token(found.decode("ascii", "replace"))
    text = environ.get("VAULTD_RUN")
    return decode_token(text) if text else None
