"""Values and ranges that were opened for one answer: in a buffer, or in a sealed memory file."""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from vaultd.crypto.memory import SecretBytes, wipe
from vaultd.daemon.memfd import filled_memfd
from vaultd.errors import IntegrityError, StoreError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from vaultd.daemon.kernel import Features
    from vaultd.daemon.streams import Reader

__all__ = ["Parcel", "Rooms"]

_PIECE: Final = 1 << 18


class Parcel:
    """A value on its way into an answer; whoever takes it out, or `close`, ends it.

    Args:
        secret: the value in a buffer; or
        descriptor: of a memory file that holds it.
    """

    __slots__ = ("descriptor", "on_end", "secret")

    def __init__(self, secret: SecretBytes | None, descriptor: int | None) -> None:
        self.secret = secret
        self.descriptor = descriptor
        self.on_end: Callable[[], object] | None = None
        """Called once it is no parcel any more."""

    def take(self) -> tuple[SecretBytes | None, int | None]:
        """Hand over what is in it."""
        found, self.secret, self.descriptor = (self.secret, self.descriptor), None, None
        self.close()
        return found

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
        ended, self.on_end = self.on_end, None
        if ended is not None:
            ended()


class Rooms:
    """How many parcels there may be: one of a connection, a few of a uid. They wait for peers, and take memory."""

    def __init__(self, of_uid: int = 16) -> None:
        self._of_uid = of_uid
        self._uids: dict[int, tuple[asyncio.Semaphore, list[None]]] = {}

    @asynccontextmanager
    async def one(self, uid: int, turn: asyncio.Lock) -> AsyncIterator[Callable[[Parcel], None]]:
        """Wait for room for a parcel; in the block make it, and say so, or there is none.

        Args:
            uid: whose it is.
            turn: the connection's own.
        """
        room, waiting = self._uids.setdefault(uid, (asyncio.Semaphore(self._of_uid), []))
        waiting.append(None)
        kept = False

        def leave() -> None:
            turn.release()
            room.release()
            waiting.pop()
            if not waiting:
                del self._uids[uid]

        def keep(parcel: Parcel) -> None:
            nonlocal kept
            kept = True
            parcel.on_end = leave

        try:
            await turn.acquire()  # first: a connection that takes nothing holds one place of its uid's
            try:
                await room.acquire()
            except BaseException:
                turn.release()
                raise
        except BaseException:
            waiting.pop()
            raise
        try:
            yield keep
        finally:
            if not kept:
                leave()


def _read(reader: Reader, offset: int, view: memoryview) -> None:
    if reader.read_into(offset, view) != len(view):
        raise IntegrityError("the value is shorter than its record says")
