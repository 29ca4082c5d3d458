"""Finding live values in what is about to be shown, whole or in a stream of chunks, and putting a mark instead."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Final

from vaultclient._forms import forms
from vaultd.protocol import wipe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vaultclient._leases import HeldValue

__all__ = ["MARK", "Redactor", "Stream"]

MARK: Final = b"[redacted]"
"""What stands in a value's place; says nothing of its name or length."""


class _Known:
    """The forms of one value; wiped when it is forgotten, or at the latest when nobody knows it any more."""

    def __init__(self, value: bytearray) -> None:
        self.forms: list[bytearray] = []  # for __del__, should what follows fail
        self.forms = forms(value)

    def wipe(self) -> None:
        for form in self.forms:
            wipe(form)
        self.forms.clear()

    def __del__(self) -> None:
        self.wipe()

    def __repr__(self) -> str:
        return "<redacted>"


class Redactor:
    """Values that are not to be shown. Usable from several threads.

    Matches overlap freely: what any form of any value covers is hidden, and what touches is hidden by one mark.
    """

    def __init__(self) -> None:
        self._by_lease: weakref.WeakKeyDictionary[HeldValue, _Known] = weakref.WeakKeyDictionary()
        self._others: list[_Known] = []
        self.lock = threading.RLock()  # a log call may come from a finaliser that runs inside of another

    def add(self, value: bytearray) -> None:
        """Hide this value from now on, until `forget_all`; the caller's buffer is not kept."""
        known = _Known(value)
        with self.lock:
            self._others.append(known)

    def add_lease(self, lease: HeldValue) -> None:
        """Hide the lease's value for as long as it is held."""
        value = lease._copy()
        if value is None:
            return
        try:
            known = _Known(value)
        finally:
            wipe(value)
        with self.lock:
            if lease.active:  # it may have ended meanwhile, and then nobody would forget it
                self._by_lease[lease] = known

    def forget_lease(self, lease: HeldValue) -> None:
        """Wipe what is known of an ended lease."""
        with self.lock:
            known = self._by_lease.pop(lease, None)
            if known is not None:
                known.wipe()

    def forget_all(self) -> None:
        """Wipe everything."""
        with self.lock:
            for known in (*self._by_lease.values(), *self._others):
                known.wipe()
            self._by_lease.clear()
            self._others.clear()

    def redact(self, data: bytes | bytearray) -> bytes:
        """The data, all that there is, with a mark in place of every value."""
        return Stream(self).end(data)

    def redact_text(self, text: str) -> str:
        """The same for text; unchanged text is the same object."""
        try:
            data = text.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:  # surrogates of another origin: they come back as they went
            return self.redact(text.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogatepass")
        shown = self.redact(data)
        return text if shown == data else shown.decode("utf-8", "surrogateescape")

    def _forms(self) -> Iterator[bytearray]:
        for known in (*self._by_lease.values(), *self._others):
            yield from known.forms

    def look(self, buffer: bytearray, *, last: bool) -> tuple[list[tuple[int, int]], int]:
        """Where values are in the buffer, merged and in order; and from where on it could be the beginning of one.

        Must be called with the lock held.

        Args:
            buffer: the text.
            last: nothing follows it, so it is the beginning of nothing.
        """
        found: list[tuple[int, int]] = []
        held = len(buffer)
        for form in self._forms():
            at = buffer.find(form)
            while at >= 0:
                found.append((at, at + len(form)))
                at = buffer.find(form, at + 1)
            if not last:
                held = _beginning(buffer, form, held)
        found.sort()
        merged: list[tuple[int, int]] = []
        for start, end in found:
            if merged and start <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
            else:
                merged.append((start, end))
        return merged, held


def _beginning(buffer: bytearray, form: bytearray, before: int) -> int:
    """Where the longest suffix begins that is the form's beginning and not all of it; `before` if none is longer."""
    size = len(buffer)
    at = least = max(0, size - len(form) + 1)
    with memoryview(form) as whole:  # parts of it without copies, which nobody would wipe
        while 0 <= (found := buffer.find(whole[:2], at)) < before:
            if buffer.startswith(whole[: size - found], found):
                return found
            at = found + 1
    last = size - 1
    return last if least <= last < before and buffer[last] == form[0] else before


class Stream:
    """One stream of chunks: what goes out at once, and the few bytes at its end that may be the beginning of a value.

    Of what came, all is given back at once but the longest suffix that could begin a value.
    """

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._kept = bytearray()
        self._told = 0
        """Of what is kept, how many bytes were shown, or are covered by a mark that was: kept to be compared only."""
        self._marked = False
        """Whether a mark is the last thing that went out for them."""

    @property
    def waiting(self) -> int:
        """How many bytes came and are not accounted for yet."""
        return len(self._kept) - self._told

    def feed(self, data: bytes | bytearray | memoryview) -> bytes:
        """More came; returns what can be shown."""
        self._kept += data
        with self._redactor.lock:
            found, held = self._redactor.look(self._kept, last=False)
        return self._give(found, held)

    def end(self, data: bytes | bytearray | memoryview = b"") -> bytes:
        """Nothing more comes, but this; returns the rest."""
        self._kept += data
        with self._redactor.lock:
            found, held = self._redactor.look(self._kept, last=True)
        return self._give(found, held)

    def glance(self, most: int) -> bytes:
        """Show what waits although it may begin a value, if it is short; what comes after it is still compared whole.

        Args:
            most: bytes that may ever be shown so of one value; less than any value has.
        """
        # Of all that is kept, not of what waits: else a value would come out letter by letter, a glance for each.
        if not self.waiting or len(self._kept) > most:
            return b""
        shown = bytes(self._kept[self._told :])
        self._told, self._marked = len(self._kept), False
        return shown

    def _give(self, found: list[tuple[int, int]], held: int) -> bytes:
        out = bytearray()
        at, marked = self._told, self._marked
        for start, end in found:
            if start >= held:
                break
            if end <= at:
                continue
            if start > at:
                out += self._kept[at:start]
                marked = False
            if not marked or start > at:
                out += MARK
            at, marked = end, True
        if at < held:
            out += self._kept[at:held]
            at, marked = held, False
        self._told, self._marked = at - held, marked
        del self._kept[:held]
        return bytes(out)
