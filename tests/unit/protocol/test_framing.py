"""Frames: whole, byte by byte, with bytes to spare, and broken."""

from __future__ import annotations

import pytest

from vaultd.protocol import MAX_FRAME, FrameDecoder, LocalProtocolError, RemoteProtocolError, encode_frame, wipe
from vaultd.protocol.framing import SMALL_BUFFER

SHAPES = [
    (b"", b""),
    (b"h", b""),
    (b"", b"t"),
    (b"header", b"tail"),
    (b"h" * 300, b"t" * (SMALL_BUFFER - 300 - 6)),  # exactly the small buffer
    (b"h" * 300, b"t" * (SMALL_BUFFER - 300 - 5)),  # one byte more
    (b"h" * (MAX_FRAME - 2), b""),
    (b"h", b"t" * (MAX_FRAME - 3)),
]


def drain(decoder: FrameDecoder) -> list[tuple[bytes, bytes]]:
    """Every whole frame that waits."""
    frames = []
    while (frame := decoder.next_frame()) is not None:
        frames.append((frame.header, bytes(frame.tail)))
    return frames


@pytest.mark.parametrize(("header", "tail"), SHAPES)
def test_frame_comes_back_whole(header: bytes, tail: bytes) -> None:
    """A frame fed in one piece is the frame that was encoded."""
    decoder = FrameDecoder()
    frame = encode_frame(header, tail)
    for _ in range(3):
        decoder.feed(frame)
        assert drain(decoder) == [(header, tail)]
        assert decoder.buffered == 0


@pytest.mark.parametrize(("header", "tail"), SHAPES)
def test_frame_comes_back_byte_by_byte(header: bytes, tail: bytes) -> None:
    """A frame that arrives one byte at a time is complete with its last byte and not before."""
    decoder = FrameDecoder()
    frame = bytes(encode_frame(header, tail))
    step = max(1, len(frame) // 5_000)
    for start in range(0, len(frame), step):
        assert not decoder.has_frame
        assert decoder.next_frame() is None
        decoder.feed(frame[start : start + step])
    assert decoder.has_frame
    assert drain(decoder) == [(header, tail)]


def test_bytes_after_a_frame_wait_for_the_next() -> None:
    """What follows a frame belongs to the next one, wherever the pieces are cut."""
    stream = b"".join(bytes(encode_frame(header, tail)) for header, tail in SHAPES) * 2
    for size in (1, 1_000, 4_095, 4_096, 4_097, 65_537):
        decoder = FrameDecoder()
        frames = []
        for start in range(0, len(stream), size):
            rest = memoryview(stream)[start : start + size]
            while rest:
                room = decoder.get_buffer()
                count = min(len(room), len(rest))
                room[:count] = rest[:count]
                decoder.buffer_updated(count)
                rest = rest[count:]
                frames += drain(decoder)
        assert frames == SHAPES * 2


def test_frames_are_parsed_only_when_asked() -> None:
    """Taking one frame leaves the next where it is."""
    decoder = FrameDecoder()
    decoder.feed(bytes(encode_frame(b"one")) + bytes(encode_frame(b"two")))
    first = decoder.next_frame()
    assert first is not None
    assert first.header == b"one"
    assert decoder.has_frame
    assert decoder.buffered == len(encode_frame(b"two"))


@pytest.mark.parametrize("length", [0, 1, MAX_FRAME + 1, 2**31, 2**32 - 1])
def test_impossible_length_is_refused_as_soon_as_it_is_known(length: int) -> None:
    """A length outside the bounds breaks the stream with its fourth byte, and for good."""
    decoder = FrameDecoder()
    announced = length.to_bytes(4, "big")
    decoder.feed(announced[:3])
    with pytest.raises(RemoteProtocolError, match="cannot be"):
        decoder.feed(announced[3:])
    for use in (decoder.next_frame, decoder.get_buffer, lambda: decoder.feed(b"x")):
        with pytest.raises(RemoteProtocolError):
            use()
    assert not decoder.has_frame


def test_frames_before_an_impossible_length_are_whole() -> None:
    """What came before the break is still taken; the break is found right behind it, and for good."""
    good = bytes(encode_frame(b"good", b"tail"))
    decoder = FrameDecoder()
    decoder.feed(good + good + b"\xff\xff\xff\xff")
    for _ in range(2):
        frame = decoder.next_frame()
        assert frame is not None
        assert (frame.header, frame.tail) == (b"good", b"tail")
    assert not decoder.has_frame
    for _ in range(2):
        with pytest.raises(RemoteProtocolError, match="cannot be"):
            decoder.next_frame()


def test_header_longer_than_its_frame_breaks_the_stream() -> None:
    """A header that would reach into the next frame is never read."""
    decoder = FrameDecoder()
    decoder.feed(b"\x00\x00\x00\x05\x00\x04abc")
    with pytest.raises(RemoteProtocolError, match="longer than its frame"):
        decoder.next_frame()
    with pytest.raises(RemoteProtocolError):
        decoder.next_frame()


def test_announced_bytes_cost_nothing_until_they_come() -> None:
    """Who announces the longest frame and sends little makes the receiver keep little."""
    decoder = FrameDecoder()
    decoder.feed((MAX_FRAME).to_bytes(4, "big") + b"\x00\x01")
    assert len(decoder._buffer) == SMALL_BUFFER
    decoder.feed(bytes(SMALL_BUFFER))
    assert len(decoder._buffer) == 2 * SMALL_BUFFER


def test_buffer_shrinks_after_a_long_frame() -> None:
    """The room that a long frame took is given back when it has been taken."""
    decoder = FrameDecoder()
    decoder.feed(encode_frame(b"h", b"t" * 60_000))
    assert len(decoder._buffer) > 60_000
    drain(decoder)
    assert len(decoder._buffer) == SMALL_BUFFER


def test_what_is_kept_never_exceeds_one_frame_of_the_largest_size() -> None:
    """A reader that goes on although a whole frame waits is stopped, not served with more memory."""
    decoder = FrameDecoder()
    frame = bytes(encode_frame(b"h", bytes(MAX_FRAME - 3)))
    decoder.feed(frame)
    assert decoder.full
    with pytest.raises(LocalProtocolError, match="take it first"):
        decoder.feed(b"x")
    assert drain(decoder) == [(b"h", bytes(MAX_FRAME - 3))]
    decoder.feed(frame)
    assert decoder.has_frame


def test_full_says_when_to_stop_reading() -> None:
    """Small frames that fill the buffer make it full; taking one makes it not."""
    decoder = FrameDecoder()
    frame = bytes(encode_frame(b"h" * (1_024 - 6)))
    for _ in range(SMALL_BUFFER // 1_024):
        assert not decoder.full
        decoder.feed(frame)
    assert decoder.full
    decoder.next_frame()
    assert decoder.has_frame
    room = decoder.get_buffer()
    assert len(room) >= 1_024
    assert len(decoder._buffer) == SMALL_BUFFER


def test_tails_leave_no_copy_in_the_buffer() -> None:
    """Once a frame is taken, moved or outgrown, the bytes of its tail are nowhere in the decoder's memory."""
    secret = b"sk-canary-0123456789"
    decoder = FrameDecoder()
    frame = bytes(encode_frame(b"h", secret))
    buffers = []
    for piece in (frame + frame[:20], frame[20:], frame + bytes(encode_frame(b"h" * 5_000, secret * 200))):
        decoder.feed(piece)
        buffers.append(decoder._buffer)
        taken = drain(decoder)
        assert taken
        assert b"canary" not in bytes(decoder._buffer)[: decoder._start] + bytes(decoder._buffer)[decoder._end :]
    assert decoder.buffered == 0
    assert all(b"canary" not in buffer for buffer in buffers)


def test_close_wipes_what_was_not_taken() -> None:
    """A connection that ends in the middle of a frame leaves nothing of it."""
    decoder = FrameDecoder()
    decoder.feed(bytes(encode_frame(b"h", b"sk-canary"))[:-1])
    buffer = decoder._buffer
    decoder.close()
    assert b"canary" not in buffer
    with pytest.raises(RemoteProtocolError, match="closed"):
        decoder.feed(b"x")


def test_tail_is_the_receivers_own_buffer() -> None:
    """The tail is a buffer of its own: wiping it changes nothing else, and it can be wiped in place."""
    decoder = FrameDecoder()
    decoder.feed(bytes(encode_frame(b"a", b"secret")) * 2)
    first, second = decoder.next_frame(), decoder.next_frame()
    assert first is not None
    assert second is not None
    wipe(first.tail)
    assert first.tail == bytes(6)
    assert second.tail == b"secret"


def test_frame_over_the_limit_is_not_encoded() -> None:
    """The sender's own mistake is its own error."""
    with pytest.raises(LocalProtocolError, match="does not fit"):
        encode_frame(b"h", bytes(MAX_FRAME - 2))


def test_reporting_more_bytes_than_there_was_room_for_is_refused() -> None:
    """`buffer_updated` cannot be made to read beyond what was received."""
    decoder = FrameDecoder()
    room = len(decoder.get_buffer())
    for count in (room + 1, -1):
        with pytest.raises(LocalProtocolError):
            decoder.buffer_updated(count)
