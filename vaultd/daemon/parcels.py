"""Values and ranges that were opened for one answer: in a buffer, or in a sealed memory file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from vaultd.crypto.memory import SecretBytes, wipe
from vaultd.daemon.memfd import filled_memfd
from vaultd.errors import IntegrityError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaultd.daemon.kernel import Features
    from vaultd.daemon.streams import Reader

__all__ = ["Parcel"]

_PIECE: Final = 1 << 18


class Parcel:
    """A value on its way into an answer; whoever takes it out, or `close`, ends it.

    Args:
        secret: the value in a buffer; or
        descriptor: of a memory file that holds it.
    """

    __slots__ = ("descriptor", "secret")

    def __init__(self, secret: SecretBytes | None, descriptor: int | None) -> None:
        self.secret = secret
        self.descriptor = descriptor

    @classmethod
    def open(cls, reader: Reader, offset: int, length: int, features: Features | None) -> Parcel:
        """Read a range, all of which is there. For a worker thread.

        Args:
            features: the kernel's, for a memory file; None: a buffer will do.

        Raises:
            IntegrityError: it does not verify.
            StoreError: it cannot be read, or no memory file can be made.
            VaultdError: as `Reader.read_into`.
        """
        if features is None:
            buffer = bytearray(length)
            _read(reader, offset, memoryview(buffer))
            return cls(SecretBytes.take(buffer), None)

        def fill(put: Callable[[memoryview], None]) -> None:
            buffer = bytearray(min(_PIECE, length))
            try:
                at = offset
                while at < offset + length:
                    # Up to a chunk's end: each chunk is opened once.
                    piece = memoryview(buffer)[: min(_PIECE - at % _PIECE, offset + length - at)]
                    _read(reader, at, piece)
                    put(piece)
                    at += len(piece)
            finally:
                wipe(buffer)

        try:
            return cls(None, filled_memfd(fill, features))
        except OSError as problem:
            raise StoreError(
                "no memory file can be made for the value", "look at the daemon's descriptor limit"
            ) from problem

    def close(self) -> None:
        """Wipe the buffer, close the file."""
        secret, self.secret = self.secret, None
        descriptor, self.descriptor = self.descriptor, None
        if secret is not None:
            secret.wipe()
        if descriptor is not None:
            os.close(descriptor)


def _read(reader: Reader, offset: int, view: memoryview) -> None:
    if reader.read_into(offset, view) != len(view):
        raise IntegrityError("the value is shorter than its record says")
