"""Values on their way in, of any length: from a file or standard input, in constant memory; or from a prompt."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, Final

from vaultclient._sources import Source
from vaultclient._uploads import send_source
from vaultclient.cli import inputs
from vaultclient.cli.output import shown_size
from vaultclient.cli.progress import working
from vaultd.protocol import wipe

if TYPE_CHECKING:
    from vaultclient.cli.app import App

__all__ = ["Watched", "store"]

_LINE_ENDING: Final = 2
"""Bytes of the longest one, which are held back until it is known whether anything follows."""


class Watched:
    """A source as `put` reads it: a line ending at its very end is noticed, and left out if asked.

    Args:
        source: what is read.
        strip: whether to leave one trailing line ending out. Then nobody knows beforehand how long the value is.

    Attributes:
        size: bytes that will come; None: not known.
        newline: whether what has come so far ends with a newline.
    """

    def __init__(self, source: Source, *, strip: bool) -> None:
        self.size = None if strip else source.size
        self.newline = False
        self._source = source
        self._strip = strip
        self._ahead = bytearray(_LINE_ENDING)
        self._held = 0

    def read_into(self, view: memoryview) -> int:
        """As `Source.read_into`."""
        count = self._fill(view)
        if count:
            self.newline = view[count - 1] == 0x0A
        return count

    def _fill(self, view: memoryview) -> int:
        count = self._held
        view[:count] = self._ahead[:count]
        self._held = 0
        count += self._source.read_into(view[count:])
        if not self._strip:
            return count
        if count == len(view):
            self._held = self._source.read_into(memoryview(self._ahead))
        return count if self._held == _LINE_ENDING else self._stripped(view, count)

    def _stripped(self, view: memoryview, count: int) -> int:
        """Everything is here, in `view` and the byte that may be held: without the line ending."""
        if self._held:
            if self._ahead[0] != 0x0A:
                return count
            self._held = 0
        elif count and view[count - 1] == 0x0A:
            count -= 1
        else:
            return count
        return count - 1 if count and view[count - 1] == 0x0D else count

    def check(self) -> None:
        """As `Source.check`."""
        self._source.check()

    def wipe(self) -> None:
        """Zero what was held back."""
        wipe(self._ahead)


def store(
    app: App, op: str, keys: dict[str, Any], file: str | None, question: str, *, strip_newline: bool, sparse: bool
) -> tuple[dict[str, Any], bool]:
    """Ask with a value, from `file` (`-`: standard input); without one from standard input, or a prompt at a terminal.

    Returns:
        The answer's keys, and whether the value ends with a newline.

    Raises:
        CliError: `invalid`: nothing was typed. `io`: standard input is closed, or the file a directory.
        VaultError: refused; or the file is empty, not readable, or changed meanwhile. Nothing was stored.
    """
    if file is None and (sys.stdin is None or sys.stdin.closed or os.isatty(inputs.stdin())):
        value = inputs.value(question)
        try:
            return app.send_value(op, keys, value), value.endswith(b"\n")
        finally:
            inputs.wipe(value)
    name = "standard input" if file in (None, "-") else str(file)
    with Source(inputs.stdin() if file in (None, "-") else str(file), name, sparse=sparse) as source:
        watched = Watched(source, strip=strip_newline)
        done = 0

        def progress(count: int, _: int | None) -> None:
            nonlocal done
            done = count

        def detail() -> str:
            return shown_size(done) + ("" if source.size is None else f" of {shown_size(source.size)}")

        try:
            with working(app.out, f"storing {name}", detail=detail):
                answer = send_source(app.channel(), watched, op, keys, progress, app.token)
        finally:
            watched.wipe()
    return answer.keys, watched.newline
