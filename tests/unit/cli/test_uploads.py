"""Values of any length on the command line: line endings across chunks, ranges, and how sizes are said."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaultclient._sources import Source
from vaultclient.cli.downloads import Range, parse_range
from vaultclient.cli.failures import CliError
from vaultclient.cli.output import shown_size
from vaultclient.cli.uploads import Watched

if TYPE_CHECKING:
    from pathlib import Path


def through(data: bytes, room: int, *, strip: bool) -> tuple[bytes, bool]:
    """What comes through in pieces of `room` bytes, and whether it is said to end with a newline."""
    watched, whole, buffer = Watched(Source(io.BytesIO(data)), strip=strip), b"", bytearray(room)
    while True:
        count = watched.read_into(memoryview(buffer))
        whole += buffer[:count]
        if count < room:
            return whole, watched.newline


ENDINGS = st.lists(st.sampled_from([b"a", b"\n", b"\r", b"\r\n"]), max_size=12).map(b"".join)


@given(ENDINGS, st.integers(2, 7))
def test_one_line_ending_is_left_out(data: bytes, room: int) -> None:
    """Wherever the pieces are cut, exactly one trailing LF or CRLF is left out, and the rest comes as it is."""
    expected = data.removesuffix(b"\r\n") if data.endswith(b"\r\n") else data.removesuffix(b"\n")
    whole, newline = through(data, room, strip=True)
    assert whole == expected
    assert newline == whole.endswith(b"\n")


@given(ENDINGS, st.integers(2, 7))
def test_nothing_is_left_out_unasked(data: bytes, room: int) -> None:
    """Without being asked every byte comes, and a trailing newline is noticed."""
    assert through(data, room, strip=False) == (data, data.endswith(b"\n"))


def test_what_is_stripped_has_no_size(tmp_path: Path) -> None:
    """How long a value will be is known before it was read only if nothing is left out of it."""
    (tmp_path / "f").write_bytes(b"x\n")
    with Source(tmp_path / "f") as source:
        assert Watched(source, strip=False).size == 2
        assert Watched(source, strip=True).size is None


@pytest.mark.parametrize(
    ("text", "size", "expected"),
    [("0-1", 10, 1), ("3-7", 10, 4), ("3-", 10, 7), ("9-99", 10, 1), ("0-", 1, 1)],
)
def test_ranges(text: str, size: int, expected: int) -> None:
    """The first number counts, the second does not; what is beyond the value's end is cut off."""
    wanted = parse_range(text)
    assert wanted.length(size) == expected
    assert wanted.keys()["offset"] == wanted.start


@pytest.mark.parametrize(
    "text", ["", "-", "-5", "5", "5-5", "5-4", "a-b", "1-2-3", " 1-2", "٣-٤", f"{10**18}-", "0x1-2"]
)
def test_what_is_no_range(text: str) -> None:
    """Each is `invalid`, with the form in the hint."""
    with pytest.raises(CliError) as caught:
        parse_range(text)
    assert caught.value.code == "invalid"
    assert "counted from 0" in caught.value.hint


def test_a_range_behind_the_end() -> None:
    """There is nothing to print there, and that is said rather than printed."""
    with pytest.raises(CliError, match="the value has 5 bytes"):
        Range(5, None).length(5)


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (10 << 30, "10.0 GiB"), (1 << 50, "1024.0 TiB")],
)
def test_sizes(count: int, words: str) -> None:
    """In the unit that gives a short number."""
    assert shown_size(count) == words


def test_long_values_of_a_lease_are_printed(ctl: Any, vault: Any) -> None:
    """`lease` prints what comes in a memory file as it prints what comes behind the answer."""
    value = bytes(range(256)) * 1_024
    ctl("put", "acme", "big", data=value)
    assert ctl("lease", "acme", "big").out == value
