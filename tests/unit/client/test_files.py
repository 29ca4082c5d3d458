"""Values of any size on their way out: a file of ranges reads as the value does, and a broken stream is told."""

from __future__ import annotations

import asyncio
import io
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaultclient._async_files import AsyncValueFile
from vaultclient._calls import Answer
from vaultclient._files import AT_ONCE, ValueFile, ValueStream
from vaultclient._memory import sealed_memfd
from vaultclient.errors import Denied, Invalid, ProtocolError, Unavailable
from vaultd.protocol import MAX_TAIL

if TYPE_CHECKING:
    from collections.abc import Callable

VALUE = os.urandom(3 * MAX_TAIL + 5)


def asker(value: bytes, asked: list[tuple[int, int]] | None = None) -> Callable[[int, int], Answer]:
    """Answers ranges as a daemon does: short ones in tails, longer ones in memory files."""

    def ask(offset: int, length: int) -> Answer:
        if asked is not None:
            asked.append((offset, length))
        part = value[offset : offset + length]
        if len(part) <= MAX_TAIL:
            return Answer({"size": len(value)}, bytearray(part))
        return Answer({"size": len(value)}, bytearray(), sealed_memfd("value", part))

    return ask


MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.integers(0, 2 * MAX_TAIL)),
        st.tuples(st.just("seek"), st.integers(0, len(VALUE) + 9)),
        st.tuples(st.just("back"), st.integers(0, len(VALUE))),
    ),
    max_size=12,
)


@given(MOVES)
def test_reads_as_a_file_does(moves: list[tuple[str, int]]) -> None:
    """Any reads and seeks give what they give on a file in memory, to the last byte and beyond."""
    ours, theirs = ValueFile(asker(VALUE), len(VALUE)), io.BytesIO(VALUE)
    for move, number in moves:
        if move == "read":
            buffer = bytearray(number)
            count = ours.readinto(buffer)
            assert count > 0 or not number or theirs.tell() >= len(VALUE)
            assert bytes(buffer[:count]) == theirs.read(count)
        elif move == "seek":
            assert ours.seek(number) == theirs.seek(number)
        else:
            assert ours.seek(-number, os.SEEK_END) == theirs.seek(-number, os.SEEK_END)
        assert ours.tell() == theirs.tell()
    ours.close()


def test_small_reads_share_a_range() -> None:
    """Reading byte by byte asks once for each tail, and never for more at once than every daemon gives."""
    asked: list[tuple[int, int]] = []
    with ValueFile(asker(VALUE, asked), len(VALUE)) as file:
        while file.read(1_000):
            pass
        assert len(asked) == 4
        file.seek(0)
        assert file.readinto(bytearray(4 * AT_ONCE)) == len(VALUE)
    assert max(length for _, length in asked) == AT_ONCE


def test_it_is_a_raw_file() -> None:
    """It says what it can, wraps as any raw file, refuses places before its beginning, and ends with `close`."""
    file = ValueFile(asker(VALUE), len(VALUE))
    assert (file.readable(), file.seekable(), file.writable()) == (True, True, False)
    with pytest.raises(Invalid):
        file.seek(-1)
    assert io.BufferedReader(file).read() == VALUE
    file.close()
    with pytest.raises(ValueError, match="closed"):
        file.read(1)


def test_asynchronous() -> None:
    """The same for asyncio."""

    async def scenario() -> None:
        ask = asker(VALUE)

        async def later(offset: int, length: int) -> Answer:
            return ask(offset, length)

        async with AsyncValueFile(later, len(VALUE)) as file:
            whole, buffer = b"", bytearray(5_000)
            while count := await file.readinto(buffer):
                whole += buffer[:count]
            assert whole == VALUE
            assert file.seek(-3, os.SEEK_END) == file.tell() == len(VALUE) - 3
            assert await file.readinto(buffer) == 3

    asyncio.run(scenario())


def piped(data: bytes) -> Answer:
    """An answer with a pipe that holds `data` and ends."""
    read, write = os.pipe()
    os.write(write, data)
    os.close(write)
    return Answer({"size": len(VALUE)}, bytearray(), read, pipe=True)


def nothing_to_say(_at: int) -> None:
    """The daemon would go on."""


@pytest.mark.parametrize("way", ["tail", "memory file", "pipe"])
def test_a_stream_gives_what_comes(way: str) -> None:
    """Whichever way a value comes, it is read whole, and its end is an end."""
    data = VALUE[:40_000]
    answer = {
        "tail": lambda: Answer({}, bytearray(data)),
        "memory file": lambda: Answer({}, bytearray(), sealed_memfd("value", data)),
        "pipe": lambda: piped(data),
    }[way]()
    with ValueStream(answer, len(data), nothing_to_say) as stream:
        assert b"".join(iter(lambda: stream.read(999), b"")) == data
        assert stream.read(1) == b""


def test_a_stream_that_breaks_off_raises() -> None:
    """An early end is never the end of the value: what the daemon says about it, or that it says nothing."""
    asked: list[int] = []

    def refused(at: int) -> None:
        asked.append(at)
        raise Denied("no")

    for why, error in ((refused, Denied), (nothing_to_say, Unavailable)):
        with ValueStream(piped(VALUE[:100]), 101, why) as stream:
            assert stream.read(200) == VALUE[:100]
            with pytest.raises(error):
                stream.read(1)
    assert asked == [100]


def test_a_memory_file_that_can_change_is_refused() -> None:
    """A descriptor without seals is no value, and is closed."""
    descriptor = os.memfd_create("value")
    os.write(descriptor, b"x")
    with pytest.raises(ProtocolError):
        ValueStream(Answer({}, bytearray(), descriptor), 1, nothing_to_say)
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(descriptor)
