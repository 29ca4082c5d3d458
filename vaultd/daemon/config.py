"""`vaultd.toml`: what the process needs before there is a vault. Everything else lives sealed in the vault.

A file that anybody but root or the daemon's own uid could have written is refused, and so is any key that is not known:
a misspelt limit would silently be no limit.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Final

from vaultd.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["AuditConfig", "Config", "Limits", "LiveConfig", "WatchConfig", "default_path", "load", "parse"]

MAX_SIZE: Final = 65_536
_CREDENTIAL: Final = re.compile(r"[A-Za-z0-9_.@:=+-]{1,255}")
_MAX_UID: Final = 2**32 - 2  # 2**32 - 1 is "no uid" to the kernel


def _limit(default: int, least: int, most: int) -> Any:
    """A whole number from `least` to `most`."""
    return field(default=default, metadata={"least": least, "most": most})


@dataclass(frozen=True, slots=True)
class Limits:
    """Caps that keep one uid or one tenant from using up what all share."""

    connections: int = _limit(4_096, 1, 100_000)
    """Connections in all; lowered to what the descriptor limit leaves."""
    connections_per_uid: int = _limit(256, 1, 100_000)
    connects_per_second: int = _limit(500, 1, 1_000_000)
    """New connections of one uid, on average; twice as many at once."""
    requests_in_flight: int = _limit(32, 1, 256)
    """Requests of one connection that may be waiting for their answer; the protocol allows 256."""
    frame_seconds: int = _limit(10, 1, 3_600)
    """How long one frame may take from its first byte to its last."""
    write_seconds: int = _limit(30, 1, 3_600)
    """How long a peer may leave its answers unread."""
    drain_seconds: int = _limit(5, 0, 600)
    """How long a stopping daemon waits for answers to be read."""
    runs_per_uid: int = _limit(256, 1, 1_000_000)
    leases_per_uid: int = _limit(4_096, 1, 10_000_000)
    requests_per_second: int = _limit(20_000, 1, 10_000_000)
    """Of one uid, on average; what a tenant's requests are held to as well."""
    requests_burst: int = _limit(40_000, 1, 10_000_000)
    unseal_queue: int = _limit(4, 1, 64)
    """Slot secrets that may wait for the one Argon2id worker."""
    secrets_per_tenant: int = _limit(16_384, 1, 10_000_000)
    bytes_per_tenant: int = _limit(1 << 30, 1, 1 << 50)
    """Of sealed values, over all versions that are kept."""
    memfd_bytes: int = _limit(4 << 20, 1 << 20, 1 << 30)
    """The longest value or range that goes as a memory file. Its pages are the daemon's until its receiver lets go."""
    uploads_per_uid: int = _limit(8, 1, 10_000)
    """Unfinished uploads of blobs."""
    uploads: int = _limit(64, 1, 100_000)
    """The same, in all."""
    upload_seconds: int = _limit(600, 1, 86_400)
    """How long an upload of a blob may stand still."""
    streams_per_uid: int = _limit(32, 1, 10_000)
    """Pipes under way."""
    streams: int = _limit(128, 1, 100_000)
    """The same, in all."""
    stream_seconds: int = _limit(300, 1, 86_400)
    """How long a pipe may be left unread."""


@dataclass(frozen=True, slots=True)
class AuditConfig:
    """How the journal is kept."""

    throttle_window_seconds: int = _limit(60, 1, 3_600)
    """Refusals by throttle are counted in one record per uid and window."""
    anchor_seconds: int = _limit(1, 1, 60)
    """After reads alone, the anchor follows the journal within this time."""
    segment_bytes: int = _limit(64 << 20, 4_096, 1 << 40)
    """A segment of the journal that has grown to this is followed by another."""
    segment_age: int = _limit(30 * 86_400, 1, 100 * 365 * 86_400)
    """So is one whose first line is as many seconds old."""
    reserve_bytes: int = _limit(4 << 20, 0, 1 << 40)
    """Kept free on the vault's disk, for what is to be recorded when it is full; 0 keeps none."""


@dataclass(frozen=True, slots=True)
class WatchConfig:
    """What the daemon watches besides its sockets."""

    config: bool = True
    """Whether a changed file is read again by itself; SIGHUP always does."""
    vault: bool = True
    """Whether changes of the vault's files by somebody else are noticed and reported; from the next start on."""


@dataclass(frozen=True, slots=True)
class Config:
    """Everything `vaultd.toml` may say, with its defaults."""

    dir: str
    """The vault's directory, absolute."""
    socket: str
    """The path that the daemon listens on, absolute."""
    socket_group: str | int | None = None
    """Name or number of the group that may connect; without it only the daemon's own uid (and root) may."""
    admin_uids: tuple[int, ...] | None = None
    """None: as the vault was initialised."""
    responder_uids: tuple[int, ...] = ()
    unseal_credential: str | None = None
    """Name of the systemd credential that unseals the vault at start; None: people do."""
    limits: Limits = field(default_factory=Limits)
    audit: AuditConfig = field(default_factory=AuditConfig)
    watch: WatchConfig = field(default_factory=WatchConfig)


_SECTIONS: Final[Mapping[str, type]] = {"limits": Limits, "audit": AuditConfig, "watch": WatchConfig}
_FIXED: Final = ("dir", "socket", "socket_group")
"""What cannot change while the daemon runs."""


def _xdg(environment: Mapping[str, str], name: str, fallback: str) -> str:
    value = environment.get(name, "")
    if os.path.isabs(value):  # the specification says to ignore a relative one
        return value
    home = environment.get("HOME", "")
    if not os.path.isabs(home):
        raise ConfigError(f"neither {name} nor HOME is set", "give --dir and --socket")
    return os.path.join(home, fallback)


def defaults(environment: Mapping[str, str], uid: int) -> Config:
    """The configuration without a file: the system's places for root, the user's own for anybody else.

    Raises:
        ConfigError: a user without HOME, or without XDG_RUNTIME_DIR.
    """
    if uid == 0:
        return Config(dir="/var/lib/vaultd", socket="/run/vaultd/vaultd.sock")
    runtime = environment.get("XDG_RUNTIME_DIR", "")
    if not os.path.isabs(runtime):
        raise ConfigError("XDG_RUNTIME_DIR is not set, so there is no place for a socket", "give --socket PATH")
    state = _xdg(environment, "XDG_STATE_HOME", ".local/state")
    return Config(dir=os.path.join(state, "vaultd"), socket=os.path.join(runtime, "vaultd", "vaultd.sock"))


def default_path(environment: Mapping[str, str], uid: int) -> str:
    """Where the file is looked for when `--config` does not say."""
    if uid == 0:
        return "/etc/vaultd/vaultd.toml"
    return os.path.join(_xdg(environment, "XDG_CONFIG_HOME", ".config"), "vaultd", "vaultd.toml")


def read(path: str, uid: int) -> str:
    """The text of the file at `path`, once it is certain that only root or `uid` can have written it.

    Raises:
        ConfigError: missing, not a regular file, of another owner, writable by others, too large, or not UTF-8.
    """
    try:
        # Not blocking: a FIFO in the file's place would otherwise stop the daemon here.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        raise ConfigError(f"{path}: {os.strerror(error.errno or 0).lower()}", "check --config") from error
    try:
        _check_owner(path, os.fstat(descriptor), uid)  # of what was opened, not of what the path means by now
        data = os.read(descriptor, MAX_SIZE + 1)  # whole: a regular file of this size is not read in parts
    finally:
        os.close(descriptor)
    if len(data) > MAX_SIZE:
        raise ConfigError(f"{path}: larger than {MAX_SIZE} bytes", "keep only what the README lists")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}", "save it as UTF-8") from None


def _check_owner(path: str, status: os.stat_result, uid: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{path}: not a regular file", "check --config")
    if status.st_uid not in (0, uid):
        raise ConfigError(f"{path}: owned by uid {status.st_uid}", f"chown it to root or to uid {uid}")
    if status.st_mode & 0o022:
        raise ConfigError(f"{path}: others may write it", f"chmod go-w {path}")


class _Parser:
    """Checks one document key by key, and knows on which line each stands."""

    def __init__(self, text: str, path: str) -> None:
        self._text = text
        self._path = path

    def error(self, key: str, problem: str, hint: str) -> ConfigError:
        """The error for `key` (dotted), with its line where it can be found."""
        line = _line_of(self._text, key)
        place = f"{self._path}:{line}" if line else self._path
        return ConfigError(f"{place}: {ascii(key)[1:-1]}: {problem}", hint)

    def unknown(self, key: str, known: Iterable[str]) -> ConfigError:
        """The error for a key that nothing reads."""
        return self.error(key, "no such key", f"known here: {', '.join(sorted(known))}")

    def path(self, key: str, value: Any) -> str:
        """An absolute path."""
        if not isinstance(value, str) or not os.path.isabs(value) or "\0" in value:
            raise self.error(key, "not an absolute path", f'write {key} = "/..."')
        return os.path.normpath(value)

    def uids(self, key: str, value: Any) -> tuple[int, ...]:
        """A list of uids."""
        if not isinstance(value, list) or not all(type(uid) is int and 0 <= uid <= _MAX_UID for uid in value):
            raise self.error(key, "not a list of uids", f"write {key} = [1000, 1001]: numbers, no names")
        return tuple(sorted(set(value)))

    def group(self, key: str, value: Any) -> str | int:
        """A group's name or number; whether it exists is looked up when the socket is made."""
        if type(value) is int and 0 <= value <= _MAX_UID:
            return value
        if isinstance(value, str) and value and value.isprintable():
            return value
        raise self.error(key, "not a group", f'write {key} = "name" or {key} = 1000')

    def credential(self, key: str, value: Any) -> str:
        """A credential's name, as systemd allows it: one component of a path."""
        if not isinstance(value, str) or not _CREDENTIAL.fullmatch(value) or value in (".", ".."):
            raise self.error(key, "not a credential's name", f'write {key} = "name", as in LoadCredentialEncrypted=')
        return value

    def section(self, name: str, value: Any, kind: type) -> Any:
        """One table of numbers and switches, after the fields of the dataclass `kind`."""
        if not isinstance(value, dict):
            raise self.error(name, "not a table", f"write [{name}] and its keys below it")
        known = {entry.name: entry for entry in fields(kind)}
        for key, item in value.items():
            dotted = f"{name}.{key}"
            entry = known.get(key)
            if entry is None:
                raise self.unknown(dotted, known)
            if not entry.metadata:
                if type(item) is not bool:
                    raise self.error(dotted, "not true or false", f"write {key} = true or {key} = false")
                continue
            least, most = entry.metadata["least"], entry.metadata["most"]
            if type(item) is not int or not least <= item <= most:
                raise self.error(
                    dotted, f"not a whole number from {least} to {most}", f"the default is {entry.default}"
                )
        return kind(**value)


def parse(text: str, path: str, base: Config) -> Config:
    """`base`, changed as the TOML in `text` says.

    Args:
        text: the document.
        path: where it came from, for messages.
        base: the defaults.

    Raises:
        ConfigError: not TOML, an unknown key, a value out of place; names the key, and the line where it can be found.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {_bounded(str(error))}", "see the example in the README") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deep", "see the example in the README") from None
    parser = _Parser(text, path)
    known = {entry.name for entry in fields(Config)}
    changes: dict[str, Any] = {}
    for key, value in document.items():
        if key not in known:
            raise parser.unknown(key, known)
        if key in _SECTIONS:
            changes[key] = parser.section(key, value, _SECTIONS[key])
        elif key in ("admin_uids", "responder_uids"):
            changes[key] = parser.uids(key, value)
        elif key == "unseal_credential":
            changes[key] = parser.credential(key, value)
        elif key == "socket_group":
            changes[key] = parser.group(key, value)
        else:
            changes[key] = parser.path(key, value)
    return replace(base, **changes)


def load(
    path: str | None,
    environment: Mapping[str, str],
    uid: int,
    *,
    dir: str | None = None,  # noqa: A002  the option's and the key's name
    socket: str | None = None,
) -> Config:
    """The configuration that holds: defaults, then the file, then what the command line says.

    Args:
        path: `--config`, which must then exist; None looks in the default place, where it may be missing.
        environment: for HOME and XDG_*.
        uid: the daemon's own.
        dir: `--dir`; None leaves the file's.
        socket: `--socket`; None leaves the file's.

    Raises:
        ConfigError: as `read` and `parse`.
    """
    dir = None if dir is None else os.path.abspath(dir)  # noqa: A001
    socket = None if socket is None else os.path.abspath(socket)
    # With both given, a user without HOME or XDG_RUNTIME_DIR needs neither.
    base = defaults(environment, uid) if dir is None or socket is None else Config(dir, socket)
    if path is None:
        path = _existing_default(environment, uid)
    config = base if path is None else parse(read(path, uid), path, base)
    return replace(config, dir=dir or config.dir, socket=socket or config.socket)


def _existing_default(environment: Mapping[str, str], uid: int) -> str | None:
    """The default file, if there is one; without HOME there is no place for it."""
    try:
        path = default_path(environment, uid)
    except ConfigError:
        return None
    return path if os.path.lexists(path) else None


class LiveConfig:
    """The configuration of a running daemon: replaced whole by a good file, kept when the new one is bad.

    Args:
        path: the file, or None for the default place.
        environment: as `load`.
        uid: the daemon's own.
        dir: as `load`.
        socket: as `load`.
    """

    def __init__(
        self,
        path: str | None,
        environment: Mapping[str, str],
        uid: int,
        *,
        dir: str | None = None,  # noqa: A002  the option's and the key's name
        socket: str | None = None,
    ) -> None:
        self._arguments: tuple[str | None, Mapping[str, str], int] = (path, dict(environment), uid)
        self._dir = dir
        self._socket = socket
        self.current = self._load()
        self.error: str | None = None
        """Why the file as it is now does not hold, for `status`; None when it does."""

    @property
    def path(self) -> str | None:
        """The file that is read, whether it exists or not; None when there is no place for one."""
        path, environment, uid = self._arguments
        if path is not None:
            return os.path.abspath(path)
        try:
            return default_path(environment, uid)
        except ConfigError:
            return None

    def _load(self) -> Config:
        path, environment, uid = self._arguments
        return load(path, environment, uid, dir=self._dir, socket=self._socket)

    def reload(self) -> bool:
        """Read the file again; False, with `error` set and nothing changed, when it is bad or moves what is fixed."""
        try:
            fresh = self._load()
        except ConfigError as error:
            self.error = error.message
            return False
        moved = [name for name in _FIXED if getattr(fresh, name) != getattr(self.current, name)]
        if moved:
            self.error = f"{', '.join(moved)}: changes only with a restart"
            return False
        self.current = fresh
        self.error = None
        return True


def _line_of(text: str, key: str) -> int:
    """The line (from 1) on which the dotted `key` is assigned or its table opened; 0 when it is written otherwise."""
    section, _, name = key.rpartition(".")
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if line.startswith("["):
            table = line.strip("[] \t").split("#")[0].rstrip("] \t")
            if table == key:
                return number
        left = line.split("=", 1)[0].strip().strip("\"'")
        if "=" in line and ((table == section and left == name) or (not table and left == key)):
            return number
    return 0


def _bounded(message: str) -> str:
    """A parser's message in our style: lower case, ASCII, bounded."""
    text = ascii(message)[1:-1]
    text = text[:1].lower() + text[1:]
    return text if len(text) <= 200 else text[:197] + "..."
