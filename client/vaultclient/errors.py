"""What callers catch: one class per code that a program can act on, all built from the wire's codes.

`VaultError` is the base and also stands for every code without a class of its own, so that a code that a later daemon
answers is still an error with its code, message and hint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from vaultd.protocol.codes import exit_code

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "Conflict",
    "Denied",
    "Halted",
    "Invalid",
    "LeaseEnded",
    "NotFound",
    "ProtocolError",
    "Sealed",
    "Throttled",
    "TimedOut",
    "Unavailable",
    "UntrustedServer",
    "VaultError",
    "WrongSecret",
    "from_code",
]


class VaultError(Exception):
    """A request was refused, or could not be made.

    Attributes:
        code: the stable code (`vaultd/protocol/codes.py` lists them).
        message: what happened, lower case, no period, no secret.
        hint: what to do next; may be empty.
    """

    default_code: ClassVar[str] = "internal"

    def __init__(self, message: str, hint: str = "", *, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code if code is not None else self.default_code
        self.message = message
        self.hint = hint

    @property
    def exit_code(self) -> int:
        """The exit code that `vaultctl` ends with for this."""
        return exit_code(self.code)


class Invalid(VaultError):
    """The request itself is malformed: a name, a duration, a socket path."""

    default_code = "invalid"


class NotFound(VaultError):
    """The named thing does not exist (told to admins only)."""

    default_code = "not_found"


class Denied(VaultError):
    """Not allowed, or not there: one answer."""

    default_code = "denied"


class WrongSecret(VaultError):
    """No key slot opens with this passphrase or key file."""

    default_code = "wrong_secret"


class Conflict(VaultError):
    """Another version is current, or another change of this kind is under way."""

    default_code = "conflict"


class Unavailable(VaultError):
    """No daemon answers."""

    default_code = "unavailable"


class TimedOut(Unavailable):
    """The daemon did not answer in time. Whether it did what was asked is not known."""


class UntrustedServer(VaultError):
    """What listens on the socket runs under a uid that has no business there; nothing was sent to it."""

    default_code = "denied"


class Sealed(VaultError):
    """The vault's or the tenant's keys are not loaded."""

    default_code = "sealed"


class Halted(VaultError):
    """A durable write failed in the daemon; nothing is released until it is reopened."""

    default_code = "halted"


class Throttled(VaultError):
    """Too many requests, or a cap on live things is reached; try again later (codes throttled, quota and busy)."""

    default_code = "throttled"


class ProtocolError(VaultError):
    """One side does not follow `PROTOCOL.md`."""

    default_code = "protocol"


class LeaseEnded(VaultError):
    """The lease was released, revoked or expired; its value is gone from this process's buffer."""

    default_code = "denied"


_BY_CODE: Final[Mapping[str, type[VaultError]]] = {
    "invalid": Invalid,
    "not_found": NotFound,
    "denied": Denied,
    "wrong_secret": WrongSecret,
    "conflict": Conflict,
    "unavailable": Unavailable,
    "sealed": Sealed,
    "halted": Halted,
    "throttled": Throttled,
    "quota": Throttled,
    "busy": Throttled,
    "protocol": ProtocolError,
}


def from_code(code: str, message: str, hint: str = "") -> VaultError:
    """The error for a reply's code; unknown codes become a plain `VaultError` that carries them."""
    return _BY_CODE.get(code, VaultError)(message, hint, code=code)
