"""Secret patterns: `*` is any run of characters within a segment, a segment `**` any number of segments, none included.

No regular expressions: a pattern with many stars would make them try exponentially many splits (I12). A pattern is a
row of blocks between stars, and the leftmost place for a block is never worse than a later one, so matching goes back
to the last star only: at most (length of pattern times length of name) steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vaultd.names import Pattern, pattern

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["ANYTHING", "Matcher", "covers"]

ANYTHING: Final = "**"

_Parts = str | tuple[str, ...]
"""A compiled segment other than `**`: literal text, or the parts between its stars."""


def _compile(segment: str) -> _Parts | None:
    if segment == ANYTHING:
        return None
    return tuple(segment.split("*")) if "*" in segment else segment


def _segment_matches(parts: _Parts, text: str) -> bool:
    if isinstance(parts, str):
        return parts == text
    first, last = parts[0], parts[-1]
    # Both ends must fit side by side: `a*a` does not match `a`.
    if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
        return False
    at, end = len(first), len(text) - len(last)
    for part in parts[1:-1]:
        found = text.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


def _row_matches(row: Sequence[_Parts | None], items: Sequence[str], one: Callable[[_Parts, str], bool]) -> bool:
    """Match a row of segments (None: any number of items) against `items`, all of them."""
    at = item = 0
    star, resume = -1, 0  # the last `**` seen, and the item at which its block is tried next
    while item < len(items):
        here = row[at] if at < len(row) else ""
        if at < len(row) and here is None:
            star, resume = at, item
            at += 1
        elif at < len(row) and here is not None and one(here, items[item]):
            at += 1
            item += 1
        elif star >= 0:
            resume += 1
            at, item = star + 1, resume
        else:
            return False
    return all(rest is None for rest in row[at:])


class Matcher:
    """One compiled pattern.

    Args:
        text: the pattern; validated here again, because stored grants come back through this constructor.

    Raises:
        Invalid: not a pattern.
    """

    __slots__ = ("_deep", "_gaps", "_prefix", "_row", "_stretch", "literal", "text")

    def __init__(self, text: str) -> None:
        self.text: Pattern = pattern(text)
        self.literal = "*" not in text
        self._row = tuple(_compile(segment) for segment in text.split("/"))
        # Most patterns are a literal folder and one star at its end; these need no walk over segments.
        folder, slash, last = text.rpartition("/")
        self._prefix = folder + slash if slash and "*" not in folder and last in {"*", ANYTHING} else None
        self._deep = last == ANYTHING
        self._gaps: tuple[_Parts | int, ...] | None = None
        self._stretch: tuple[tuple[str, ...], tuple[int, ...]] | None = None

    def matches(self, name: str) -> bool:
        """Whether the secret called `name` (a `SecretName`) is meant."""
        if self.literal:
            return name == self.text
        if self.text == ANYTHING:
            return True
        if self._prefix is not None:
            if not name.startswith(self._prefix):
                return self._deep and name == self._prefix[:-1]  # `**` stands for no segment too
            return self._deep or name.find("/", len(self._prefix)) < 0
        return _row_matches(self._row, name.split("/"), _segment_matches)

    @property
    def head(self) -> str | None:
        """The first segment when every matching name must start with it, else None: what indexes go by."""
        first = self._row[0]
        return first if isinstance(first, str) else None

    def covers(self, inner: Matcher) -> bool:
        """Whether every name that `inner` matches is matched by this one.

        Never wrongly true. It may be false for pairs that are equal only by the limits on a name's length or letters,
        or when a `**` of `inner` would have to be shared between two parts of this one: write a child's scope more like
        its parent's then.
        """
        if inner.literal or inner.text == self.text:
            return inner.text == self.text or self.matches(inner.text)
        if self._gaps is None:
            self._gaps = _gaps(self.text)
        if inner._stretch is None:
            inner._stretch = _stretch(inner.text)
        row, least = inner._stretch
        reached: Sequence[int] = (0,)  # how far into `row` the parts so far may have come, ascending
        for part in self._gaps:
            if not reached:
                return False
            if isinstance(part, int):
                # A gap takes in any stretch that always stands for enough segments; from the earliest start, most do.
                wanted = least[reached[0]] + part
                reached = [end for end in range(reached[0], len(row) + 1) if least[end] >= wanted]
            else:
                reached = [at + 1 for at in reached if at < len(row) and _segment_covers(part, row[at])]
        return bool(reached) and reached[-1] == len(row)

    def __repr__(self) -> str:
        return f"Matcher({self.text!r})"


def _without_order(text: str) -> list[str]:
    """Segments with each neighbourhood of `*` and `**` in one order, for `*/**` and `**/*` mean the same."""
    row = text.split("/")
    if all(segment == ANYTHING for segment in row):
        return ["*", ANYTHING]  # a name has at least one segment
    out: list[str] = []
    across = False
    for segment in [*row, ""]:
        if segment == ANYTHING:
            across = True
            continue
        if across and segment != "*":
            out.append(ANYTHING)
            across = False
        if segment:
            out.append(segment)
    return out


def _gaps(text: str) -> tuple[_Parts | int, ...]:
    """Segments, and for each neighbourhood with a `**` the least number of segments that it takes."""
    out: list[_Parts | int] = []
    stars = 0
    for segment in [*_without_order(text), ""]:
        if segment == "*":
            stars += 1
        elif segment == ANYTHING:
            out.append(stars)
            stars = 0
        else:
            out += [("", "")] * stars
            stars = 0
            if segment:
                out.append(_compile(segment) or segment)
    return tuple(out)


def _stretch(text: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Segments, and how many of them at least the names that are meant have before each place."""
    row = tuple(_without_order(text))
    least = [0]
    for segment in row:
        least.append(least[-1] + (segment != ANYTHING))
    return row, tuple(least)


def _segment_covers(outer: _Parts, inner: str) -> bool:
    # A star of `inner` is a character that no literal part of `outer` contains, so only a star of `outer` takes it in,
    # and with it whatever that star stands for. `**` may stand for no segment at all: no single segment covers it.
    return inner != ANYTHING and _segment_matches(outer, inner)


def covers(outer: str, inner: str) -> bool:
    """Whether every name that `inner` matches is matched by `outer`: `Matcher.covers` of their texts.

    Raises:
        Invalid: either is not a pattern.
    """
    return Matcher(outer).covers(Matcher(inner))
