"""Values on their way out, of any length: to a file that is whole or not there, or to standard output."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from vaultclient.cli.failures import CliError
from vaultclient.cli.inputs import wipe
from vaultclient.cli.output import shown_size
from vaultclient.cli.progress import working

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaultclient._calls import Answer
    from vaultclient.cli.app import App

__all__ = ["WHOLE", "Range", "copy", "in_memory", "parse_range"]

_PIECE: Final = 1 << 18
_RANGE: Final = re.compile(r"([0-9]{1,18})-([0-9]{1,18})?")


class Range(NamedTuple):
    """Bytes `start` to `end`, that one not included; None: to the value's end."""

    start: int
    end: int | None

    def keys(self) -> dict[str, int]:
        """As a request asks for it."""
        return {"offset": self.start, **({"length": self.end - self.start} if self.end is not None else {})}

    def length(self, size: int) -> int:
        """Bytes of it in a value of `size` bytes. Raises `CliError` (`invalid`) when it begins behind the end."""
        if self.start >= size:
            raise CliError("invalid", f"--range begins at {self.start}, and the value has {size} bytes")
        return min(size, self.end if self.end is not None else size) - self.start


WHOLE: Final = Range(0, None)


def parse_range(text: str) -> Range:
    """Read `A-B` or `A-`. Raises `CliError` (`invalid`)."""
    found = _RANGE.fullmatch(text)
    if found is None:
        raise CliError("invalid", "--range needs A-B or A-", "bytes from A up to but without B, counted from 0")
    start, end = int(found[1]), int(found[2]) if found[2] is not None else None
    if end is not None and end <= start:
        raise CliError("invalid", "--range holds nothing", "bytes from A up to but without B, counted from 0")
    return Range(start, end)


def copy(
    app: App,
    answer: Answer,
    wanted: Range,
    put: Callable[[memoryview], object],
    why: Callable[[int], Answer],
    what: str,
) -> int:
    """Hand what an answer brings to `put`, piece by piece; returns how many bytes it was.

    Args:
        app: for the line that says how far it is.
        answer: what brings it; closed here.
        wanted: what of the value was asked for.
        put: takes bytes, in order.
        why: asks for the byte at a place of the value: what the daemon says when the stream has ended early.
        what: such as "getting acme model".

    Raises:
        VaultError: the stream ended early: what was handed out is not the value.
    """
    from vaultclient._files import ValueStream

    length = wanted.length(answer.length)
    done = 0
    buffer = bytearray(min(_PIECE, length))
    with (
        ValueStream(answer, length, lambda at: why(wanted.start + at).close()) as stream,
        working(app.out, what, detail=lambda: f"{shown_size(done)} of {shown_size(length)}"),
    ):
        try:
            while count := stream.readinto(buffer):
                put(memoryview(buffer)[:count])
                done += count
        finally:
            wipe(buffer)
    return length


def in_memory(answer: Answer, hint: str) -> bytearray:
    """What an answer brings, in a buffer to wipe, where it must be whole: for JSON, a variable.

    Raises:
        CliError: `invalid`: it is a file too long for that.
    """
    from vaultclient._memory import read_descriptor

    if answer.pipe or (answer.fd is None and not answer.tail):
        raise CliError("invalid", f"the value has {answer.length} bytes, too many to be held at once", hint)
    if answer.fd is None:
        return answer.tail
    return read_descriptor(answer.fd, answer.get("size"))
