"""Frames: where one message ends and the next begins. Knows nothing of what a header says.

    offset 0   u32 big-endian   length of what follows (2 to 65,536)
    offset 4   u16 big-endian   header length
    offset 6   header           one msgpack map (`codec`)
    then       tail             raw bytes to the end of the frame: a secret value, a chunk, or text

The tail is apart from the header because a value must be wipeable: msgpack would leave copies in immutable objects.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from vaultd.protocol.errors import LocalProtocolError, RemoteProtocolError

__all__ = ["LENGTH_SIZE", "MAX_FRAME", "MAX_HEADER", "Frame", "FrameDecoder", "encode_frame", "wipe"]

MAX_FRAME: Final = 65_536
"""Most bytes that may follow the length field. A page-sized small request costs little, a whole chunk fits, and 10,000
connections that all hold one unfinished frame stay under 700 MB; what waits for bytes to arrive costs nothing yet."""

LENGTH_SIZE: Final = 4
HEADER_LENGTH_SIZE: Final = 2
MAX_HEADER: Final = MAX_FRAME - HEADER_LENGTH_SIZE
SMALL_BUFFER: Final = 4_096
"""Bytes that an idle connection keeps for receiving; most requests are under 300."""

_length = Struct(">I")
_prefix = Struct(">IH")


class Frame(NamedTuple):
    """One whole frame: the header's bytes, and the tail in a buffer that its receiver wipes."""

    header: bytes
    tail: bytearray


def wipe(buffer: bytearray | memoryview) -> None:
    """Overwrite `buffer` with zeros, in place (a resize would leave the old bytes in freed memory)."""
    buffer[:] = bytes(len(buffer))


def encode_frame(header: bytes, tail: bytes | bytearray | memoryview = b"") -> bytearray:
    """One frame's bytes, in a buffer that the sender wipes when `tail` was secret.

    Raises:
        LocalProtocolError: header and tail do not fit a frame.
    """
    length = HEADER_LENGTH_SIZE + len(header) + len(tail)
    if length > MAX_FRAME:
        raise LocalProtocolError(f"a frame of {length} bytes does not fit the limit of {MAX_FRAME}")
    frame = bytearray(LENGTH_SIZE + length)  # allocated once: growing it would leave copies of the tail behind
    _prefix.pack_into(frame, 0, length, len(header))
    start = LENGTH_SIZE + HEADER_LENGTH_SIZE
    frame[start : start + len(header)] = header
    if tail:
        frame[start + len(header) :] = tail
    return frame


class FrameDecoder:
    """Cuts a stream of bytes into frames, one at a time and only when asked, out of one small reused buffer.

    Bytes come in by `feed`, or without a copy by `get_buffer` and `buffer_updated` (the shape that
    `asyncio.BufferedProtocol` calls). The buffer doubles only as bytes really arrive, so announcing a long frame costs
    the receiver nothing, and shrinks back once a long frame has been taken. Whatever held a tail is zeroed when the
    frame leaves or the bytes move.

    A reader that does not take frames as fast as they come stops reading while `full` is true; then what is kept never
    exceeds one frame of the largest size.
    """

    __slots__ = ("_broken", "_buffer", "_end", "_start", "_view")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._view = memoryview(self._buffer)
        self._start = 0
        self._end = 0
        self._broken = ""

    @property
    def buffered(self) -> int:
        """How many received bytes wait here."""
        return self._end - self._start

    @property
    def has_frame(self) -> bool:
        """Whether a whole frame waits, so that `next_frame` would return one."""
        return not self._broken and self.buffered >= LENGTH_SIZE and self.buffered >= LENGTH_SIZE + self._announced()

    @property
    def full(self) -> bool:
        """Whether a whole frame waits and there is no room beside it: take a frame before reading on."""
        return self._end == len(self._buffer) and self.has_frame

    def get_buffer(self, sizehint: int = -1) -> memoryview:  # noqa: ARG002  asyncio passes -1: no hint
        """Room for received bytes, never empty; call `buffer_updated` with how many came.

        Raises:
            LocalProtocolError: the caller read on although the decoder was `full`.
            RemoteProtocolError: the stream was already found broken.
        """
        if self._broken:
            raise RemoteProtocolError(self._broken)
        if self._end == len(self._buffer):
            self._make_room()
        return self._view[self._end :]

    def buffer_updated(self, count: int) -> None:
        """Account for `count` bytes that were written at the front of what `get_buffer` returned.

        Raises:
            RemoteProtocolError: the length that they announce is impossible; the stream cannot be read on.
        """
        if not 0 <= count <= len(self._buffer) - self._end:
            raise LocalProtocolError("more bytes were reported than there was room for")
        self._end += count
        if self._end - self._start >= LENGTH_SIZE:
            self._judge()  # refuse an absurd length now, not when the frame is due
            if self._broken:
                raise RemoteProtocolError(self._broken)

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take received bytes by copy. Raises as `get_buffer` and `buffer_updated` do."""
        rest = memoryview(data)
        while rest:
            room = self.get_buffer()
            count = min(len(room), len(rest))
            room[:count] = rest[:count]
            self.buffer_updated(count)
            rest = rest[count:]

    def next_frame(self) -> Frame | None:
        """The next whole frame, or None while it is incomplete.

        Raises:
            RemoteProtocolError: the stream is not a sequence of frames; it stays broken.
        """
        if self._broken:
            raise RemoteProtocolError(self._broken)
        start, waiting = self._start, self._end - self._start
        if waiting < LENGTH_SIZE + HEADER_LENGTH_SIZE:
            return None  # the shortest frame is that long; its length was judged when it came
        length, header_length = _prefix.unpack_from(self._buffer, start)
        if waiting < LENGTH_SIZE + length:
            return None
        end = start + LENGTH_SIZE + length
        header_start = start + LENGTH_SIZE + HEADER_LENGTH_SIZE
        header_end = header_start + header_length
        if header_end > end:
            raise self._break("the header is longer than its frame")
        header = bytes(self._view[header_start:header_end])
        tail = bytearray()
        if header_end < end:
            tail = bytearray(self._view[header_end:end])
            self._view[header_end:end] = bytes(len(tail))
        if end == self._end:
            self._start = self._end = 0
            if len(self._buffer) > SMALL_BUFFER:
                self._replace(SMALL_BUFFER)
        else:
            self._start = end
            if self._end - end >= LENGTH_SIZE:
                self._judge()  # before anybody asks for it; this frame is whole all the same
        return Frame(header, tail)

    def close(self) -> None:
        """Zero what is left and give the buffer back; nothing can be fed afterwards."""
        self._break("the stream is closed")
        self._start = self._end = 0
        self._replace(0)

    def _announced(self) -> int:
        length: int = _length.unpack_from(self._buffer, self._start)[0]
        return length

    def _judge(self) -> None:
        """Find the stream broken when the next frame's length, which has come, is impossible."""
        length = self._announced()
        if not HEADER_LENGTH_SIZE <= length <= MAX_FRAME:
            self._break(f"a frame cannot be {length} bytes long")

    def _break(self, reason: str) -> RemoteProtocolError:
        self._broken = self._broken or reason
        return RemoteProtocolError(self._broken)

    def _make_room(self) -> None:
        """Move what waits to the front, or, where that gains little, into a buffer of twice the size."""
        waiting, largest = self._end - self._start, LENGTH_SIZE + MAX_FRAME
        if self._start >= len(self._buffer) // 4 > 0 or (self._start and len(self._buffer) == largest):
            self._view[:waiting] = self._view[self._start : self._end]  # memmove: the two may overlap
            self._view[waiting : self._end] = bytes(self._end - waiting)
            self._start, self._end = 0, waiting
            return
        if waiting >= largest:
            raise LocalProtocolError("reading goes on although a whole frame waits: take it first")
        self._replace(min(max(SMALL_BUFFER, 2 * len(self._buffer)), largest))

    def _replace(self, size: int) -> None:
        """Carry what waits into a new buffer of `size` bytes and zero the old one."""
        waiting = self._end - self._start
        buffer = bytearray(size)
        view = memoryview(buffer)
        view[:waiting] = self._view[self._start : self._end]
        wipe(self._view)
        self._buffer, self._view = buffer, view
        self._start, self._end = 0, waiting
