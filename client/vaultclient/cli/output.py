"""What vaultctl prints: tables and short sentences for people, one JSON object a line for programs.

Data goes to standard output only; hints, warnings and errors (JSON ones too) go to standard error. Nothing that came
from elsewhere reaches a terminal uncleaned, and nothing is cut short to fit: what is too wide goes on in the next line.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, TextIO

from vaultclient.cli.durations import shown_instant
from vaultclient.cli.failures import CliError, plain, prose

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = ["Output", "counted", "fields", "shown_size", "wants_colour"]

_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}
_GAP = 2
_INSTANTS = {"created", "deleted", "updated", "expires"}


def wants_colour(stream: TextIO) -> bool:
    """Whether a stream is a terminal that may be coloured (https://no-color.org, and no dumb terminal)."""
    try:
        return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    except ValueError:  # closed
        return False


class Output:
    """One command's way to the outside.

    Args:
        as_json: print JSON, and nothing for people.
        quiet: leave out confirmations and hints; data stays.
        stdout: for data.
        stderr: for everything else.
    """

    def __init__(
        self, *, as_json: bool, quiet: bool, stdout: TextIO | None = None, stderr: TextIO | None = None
    ) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self.stdout = stdout if stdout is not None else sys.stdout
        self.stderr = stderr if stderr is not None else sys.stderr
        self._colour = wants_colour(self.stdout)

    # -- for programs ----------------------------------------------------------------------------------------------

    def json_line(self, data: Mapping[str, Any]) -> None:
        """One JSON object on a line of its own: ASCII, no spaces, in the order given."""
        import json

        self.stdout.write(json.dumps(data, ensure_ascii=True, separators=(",", ":"), default=_jsonable) + "\n")

    def write_bytes(self, data: bytes | bytearray | memoryview) -> None:
        """Bytes as they are: a value that was asked for."""
        self.stdout.flush()
        raw = getattr(self.stdout, "buffer", None)
        if raw is None:
            raise CliError("io", "standard output takes no bytes")
        # Not through the text layer or the stream's own buffer, where copies would stay.
        raw.flush()
        view = memoryview(data)
        while view:
            view = view[os.write(self.stdout.fileno(), view) :]

    # -- for people ------------------------------------------------------------------------------------------------

    def styled(self, style: str, text: str) -> str:
        """Text in a colour, where there may be one."""
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if self._colour else text

    def width(self) -> int:
        """Columns to fit: the terminal's, 80 where there is none; never so few that nothing fits."""
        try:
            return max(40, os.get_terminal_size(self.stdout.fileno()).columns)
        except (OSError, ValueError, AttributeError):
            return 80

    def say(self, text: str) -> None:
        """A line of data for people; nothing with --json."""
        if not self.as_json:
            self.stdout.write(plain(text) + "\n")

    def done(self, text: str, data: Mapping[str, Any]) -> None:
        """A change was made: a sentence for people (not with --quiet), the object for programs."""
        if self.as_json:
            self.json_line(data)
        elif not self.quiet:
            self.say(text)

    def record(
        self,
        data: Mapping[str, Any],
        pairs: Sequence[tuple[str, object]],
        *,
        styles: Mapping[str, str] | None = None,
    ) -> None:
        """One thing: an object, or its fields one below the other, values aligned and continued below themselves.

        Args:
            data: the object.
            pairs: field names and what stands beside them; the items of a list one below the other.
            styles: the colour of a field's value, by its name.
        """
        if self.as_json:
            self.json_line(data)
            return
        column = max((len(name) for name, _ in pairs), default=0) + _GAP
        for name, value in pairs:
            head = self.styled("dim", plain(name)) + " " * (column - len(name))
            for text in map(_shown, value) if isinstance(value, list) and value else [_shown(value)]:
                self.columns(head, text, style=(styles or {}).get(name), column=column)
                head = " " * column

    def columns(self, head: str, text: str, *, style: str | None = None, column: int | None = None) -> None:
        """A fixed head, and text beside it that goes on below itself.

        Args:
            head: printed as it is.
            text: what may be long.
            style: the text's colour; the head's as well where the head has no width of its own.
            column: the head's width, where it holds colour; else a gap is put behind it.
        """
        if column is None:
            head = self.styled(style, plain(head)) if style else plain(head)
            column, head = len(plain(head)) + _GAP, head + " " * _GAP
        lines = _wrapped(plain(text), max(20, self.width() - column))
        for n, line in enumerate(lines):
            start = head if n == 0 else " " * column
            self.stdout.write((start + (self.styled(style, line) if style else line)).rstrip(" ") + "\n")

    def table(
        self,
        rows: Iterable[Mapping[str, Any]],
        columns: Sequence[tuple[str, Callable[[Any], object]]],
        *,
        empty: str,
        wrap: Sequence[str] = (),
        style: Callable[[Any], str | None] | None = None,
    ) -> None:
        """Many things: an object a line, or a table.

        Args:
            rows: the objects.
            columns: each a heading and what a row has below it.
            empty: said, on standard error, when there is no row.
            wrap: headings of the columns that give way where the terminal is too narrow; ids and times do not.
            style: the colour of a row's line, if any.
        """
        if self.as_json:
            for row in rows:
                self.json_line(row)
            return
        rows = list(rows)
        if not rows:
            self.note(empty)
            return
        cells = [[plain(_shown(cell(row))) for _, cell in columns] for row in rows]
        # A column without anything in it says nothing, and costs width that names need.
        kept = [i for i in range(len(columns)) if i == 0 or any(line[i] not in {"", "-"} for line in cells)]
        heads = [columns[i][0] for i in kept]
        cells = [[line[i] for i in kept] for line in cells]
        widths = _fitted(heads, cells, self.width(), {i for i, head in enumerate(heads) if head in wrap})
        self.stdout.write(self.styled("bold", _line(heads, widths)) + "\n")
        for row, line in zip(rows, cells, strict=True):
            colour = style(row) if style is not None else None
            wrapped = [_wrapped(cell, width) for cell, width in zip(line, widths, strict=True)]
            for n in range(max(map(len, wrapped))):
                text = _line([cell[n] if n < len(cell) else "" for cell in wrapped], widths)
                self.stdout.write((self.styled(colour, text) if colour else text) + "\n")

    # -- beside the data -------------------------------------------------------------------------------------------

    def _aside(self, text: str) -> None:
        self.stdout.flush()  # so that what belongs after the data comes after it
        self.stderr.write(text + "\n")
        self.stderr.flush()

    def note(self, text: str) -> None:
        """Something a person may want to know; not with --json or --quiet."""
        if not self.as_json and not self.quiet:
            self._aside(prose(plain(text), self.stderr))

    def next(self, command: str) -> None:
        """The next useful command; not with --json or --quiet."""
        if not self.as_json and not self.quiet:
            self._aside(plain(f"next: {command}"))  # not broken into lines: it is there to be copied

    def warn(self, text: str) -> None:
        """Something a person should know even with --quiet; not with --json, whose standard error is for errors."""
        if not self.as_json:
            self._aside(prose(f"vaultctl: warning: {plain(text)}", self.stderr))

    def unrecorded(self, reply: Mapping[str, Any]) -> None:
        """Say so when harm was stopped that could not be recorded, and whether it will be."""
        if reply.get("recorded") is not False:
            return
        if reply.get("owed") is False:
            self.warn("the journal could not be written, nor was there another place for it: note what you have done")
        else:
            self.warn("the journal could not be written; this is recorded when the vault is reopened")


def fields(data: Mapping[str, Any], *, without: Sequence[str] = (), prefix: str = "") -> list[tuple[str, object]]:
    """What a reply says, as pairs for `record`: names with spaces, maps within as `outer inner`, instants as such."""
    pairs: list[tuple[str, object]] = []
    for key, value in data.items():
        name = f"{prefix}{key.replace('_', ' ')}"
        if key in without:
            continue
        if isinstance(value, dict):
            pairs.extend(fields(value, prefix=name + " "))
        elif key in _INSTANTS and isinstance(value, int | float) and not isinstance(value, bool):
            pairs.append((name, shown_instant(value)))
        else:
            pairs.append((name, value))
    return pairs


def shown_size(count: int) -> str:
    """Bytes as people read them: `812 B`, `4.0 KiB`, `10.0 GiB`."""
    size, units = float(count), iter(("KiB", "MiB", "GiB", "TiB"))
    unit = "B"
    while size >= 1_024 and (larger := next(units, None)) is not None:
        size, unit = size / 1_024, larger
    return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"


def counted(count: int, noun: str) -> str:
    """`1 line`, `2,000 lines`; nouns in s, x, ch take es."""
    plural = noun + ("es" if noun.endswith(("s", "x", "ch")) else "s")
    return f"{count:,} {noun if count == 1 else plural}"


def _jsonable(value: object) -> object:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()  # ids; a secret's value never takes this way
    raise TypeError(f"not for JSON: {type(value).__name__}")


def _shown(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "-"
    return str(value)


def _fitted(heads: Sequence[str], cells: Sequence[Sequence[str]], width: int, wrapping: set[int]) -> list[int]:
    """Column widths: natural where they fit; else the widest that may wrap give way first, and all others last.

    An id that is broken in two cannot be copied: before that, names become narrow.
    """
    widths = [max(len(head), *(len(line[i]) for line in cells)) for i, head in enumerate(heads)]
    room = width - _GAP * (len(heads) - 1)
    for candidates, least in ((wrapping, 12), (wrapping, 6), (set(range(len(heads))), 8)):
        floors = [min(w, max(len(head), least)) for w, head in zip(widths, heads, strict=True)]
        while sum(widths) > room:
            shrinkable = [i for i in candidates if widths[i] > floors[i]]
            if not shrinkable:
                break
            widths[max(shrinkable, key=lambda i: (widths[i], i))] -= 1
    return widths


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return (" " * _GAP).join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _wrapped(text: str, width: int) -> list[str]:
    """Text in lines of at most `width`: broken at a space in the latter half, else after a mark, else anywhere."""
    lines = []
    while len(text) > width:
        cut = text.rfind(" ", width // 2, width + 1)
        if cut <= 0:
            cut = max(text.rfind(mark, width // 2, width) for mark in ",/-") + 1
        if cut <= 0:
            cut = width
        lines.append(text[:cut].rstrip())
        text = text[cut:].lstrip()
    return [*lines, text]
