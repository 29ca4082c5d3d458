"""Every error that vaultd raises on purpose: one tree, a stable code each, what happened and what to do next.

Codes are part of the outside (`vaultd/protocol/codes.py` lists them with their exit codes; a test keeps both equal).
A message never holds a secret's bytes, and what it quotes of the caller's input is bounded. Whatever else escapes a
room is a bug, and becomes `internal` at the daemon's edge.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "AmbiguousService",
    "Busy",
    "Closed",
    "ConfigError",
    "Conflict",
    "Denied",
    "Exists",
    "FormatVersion",
    "Halted",
    "IntegrityError",
    "Internal",
    "Invalid",
    "Locked",
    "NotFound",
    "ProtocolError",
    "QuotaExceeded",
    "Sealed",
    "StoreError",
    "Throttled",
    "Unavailable",
    "Uninitialised",
    "Unsupported",
    "VaultdError",
    "WrongSecret",
]


class VaultdError(Exception):
    """Base of the tree; never raised itself.

    Args:
        message: what happened: lower case, no period, no secret, no unbounded input.
        hint: what the reader can do next; may be empty.
    """

    code: ClassVar[str] = "internal"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Invalid(VaultdError):
    """The request itself is malformed: a name, a duration, a selector, a combination of options."""

    code = "invalid"


class AmbiguousService(VaultdError):
    """More than one service matches the peer, and the request names none of them."""

    code = "ambiguous_service"


class IntegrityError(VaultdError):
    """Sealed bytes do not verify: changed, moved, cut or replayed."""

    code = "integrity"


class FormatVersion(VaultdError):
    """The file was written by a newer format than this version reads."""

    code = "format_version"


class NotFound(VaultdError):
    """The named thing does not exist. Only ever shown to admins; everybody else gets `Denied`."""

    code = "not_found"


class Unavailable(VaultdError):
    """The daemon, or a part of the system it needs, cannot be reached."""

    code = "unavailable"


class Sealed(VaultdError):
    """The vault's or the tenant's keys are not loaded."""

    code = "sealed"


class Uninitialised(VaultdError):
    """There is no vault in the directory yet."""

    code = "uninitialised"


class Locked(VaultdError):
    """Another process holds the vault directory's lock."""

    code = "locked"


class Unsupported(VaultdError):
    """The kernel or the system lacks something that cannot be replaced safely."""

    code = "unsupported"


class Closed(VaultdError):
    """One tenant's files do not verify, so that tenant stays closed; the others serve on."""

    code = "closed"


class Internal(VaultdError):
    """A bug: an invariant of this code does not hold."""

    code = "internal"


class Exists(VaultdError):
    """The name is taken."""

    code = "exists"


class Conflict(VaultdError):
    """Compare-and-set found another version, or another change of the same kind is under way."""

    code = "conflict"


class StoreError(VaultdError):
    """The file system refused: permissions, a full disk, an input/output error."""

    code = "io"


class Halted(VaultdError):
    """A durable write failed, so nothing is released or changed until the vault is reopened."""

    code = "halted"


class Throttled(VaultdError):
    """Too many requests for now; the hint says when to come back."""

    code = "throttled"


class QuotaExceeded(VaultdError):
    """A cap on live things (runs, leases, connections) is reached; it frees as they end."""

    code = "quota"


class Busy(VaultdError):
    """The one worker for this kind of work (deriving a slot key) has its queue full."""

    code = "busy"


class ProtocolError(VaultdError):
    """The peer's bytes do not follow `PROTOCOL.md`."""

    code = "protocol"


class Denied(VaultdError):
    """Not allowed, or not there: for whoever is not allowed the two are one answer."""

    code = "denied"


class WrongSecret(VaultdError):
    """No key slot opens with this passphrase or key file."""

    code = "wrong_secret"


class ConfigError(VaultdError):
    """The configuration file or the daemon's surroundings are not acceptable."""

    code = "config"
