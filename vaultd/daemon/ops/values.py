"""Values on their way in: as a request's tail, or uploaded in chunks before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaultd.crypto.memory import SecretBytes
from vaultd.errors import Invalid, QuotaExceeded
from vaultd.protocol.framing import wipe
from vaultd.protocol.operations import MAX_VALUE

if TYPE_CHECKING:
    from vaultd.access.quotas import Tally
    from vaultd.daemon.call import Call

__all__ = ["Upload", "value_of"]


class Upload:
    """One unfinished upload of a connection: its buffer has its final size from the start, so nothing is ever moved
    and left behind."""

    __slots__ = ("_buffer", "_held", "_uid", "received")

    def __init__(self, size: int, held: Tally[int], uid: int) -> None:
        """Make room.

        Args:
            size: bytes.
            held: by uid, bytes of its unfinished uploads.
            uid: whose this one is.

        Raises:
            Invalid: no bytes, or more than a value may have.
            QuotaExceeded: the uid has as much under way as it may.
        """
        if size == 0:
            raise Invalid(
                "the value is empty", "a secret has at least one byte; to end one use: vaultctl secret delete"
            )
        if size > MAX_VALUE:
            raise Invalid(
                f"the value has {size} bytes, more than {MAX_VALUE}",
                "over 1 MiB, name its tenant and secret in value.begin",
            )
        if held.count(uid) + size > held.cap:
            raise QuotaExceeded("this uid has too much under way in unfinished uploads", "finish or drop some first")
        held.add(uid, size)
        self._held: Tally[int] | None = held
        self._uid = uid
        self._buffer = bytearray(size)
        self.received = 0

    def _let_go(self) -> None:
        if self._held is not None:
            self._held.remove(self._uid, len(self._buffer))
            self._held = None

    def take(self, offset: int, chunk: bytearray) -> None:
        """The next chunk. Raises `Invalid` when it is not the next one, or too long."""
        if offset != self.received or offset + len(chunk) > len(self._buffer):
            raise Invalid(
                f"{len(chunk)} bytes at {offset} where {self.received} of {len(self._buffer)} bytes have come",
                "send the chunks in order, without gaps, up to the size that was announced",
            )
        self._buffer[offset : offset + len(chunk)] = chunk
        self.received += len(chunk)

    def finish(self) -> SecretBytes:
        """The whole value, taken over. Raises `Invalid` when it has not come whole."""
        if self.received != len(self._buffer):
            raise Invalid(
                f"{self.received} of {len(self._buffer)} bytes have come", "send every chunk before using the upload"
            )
        self._let_go()
        return SecretBytes.take(self._buffer)

    def wipe(self) -> None:
        """Zero what has come; it is an upload no more."""
        self._let_go()
        wipe(self._buffer)


def value_of(call: Call) -> SecretBytes:
    """The value that a request brings, to be wiped by the caller.

    Raises:
        Invalid: it is empty, its upload is missing or not whole.
    """
    context = call.connection.context
    if call.keys.get("upload", False):
        upload: Upload | None = context.upload
        if upload is None:
            raise Invalid("nothing was uploaded on this connection", "send value.begin and value.chunk first")
        value = upload.finish()
        context.upload = None
        return value
    if not call.tail:
        raise Invalid("the value is empty", "a secret has at least one byte; to end one use: vaultctl secret delete")
    return SecretBytes.copy_of(call.tail)
