"""What can go wrong on the wire, by whose fault: nothing else leaves this package on purpose.

The package imports nothing else of vaultd, so the tree is its own; the daemon and the client map it to theirs, both to
the code `protocol`. After either of these a `Connection` that lost its framing stays unusable.
"""

from __future__ import annotations

__all__ = ["LocalProtocolError", "ProtocolError", "RemoteProtocolError"]


class ProtocolError(Exception):
    """Base of the two; never raised itself."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class LocalProtocolError(ProtocolError):
    """Our own side asked for something that the protocol does not allow; nothing was sent."""


class RemoteProtocolError(ProtocolError):
    """The peer's bytes do not follow `PROTOCOL.md` and cannot be answered: the connection is over."""
