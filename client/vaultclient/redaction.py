"""Keeping the values of live leases out of logs.

    handler = logging.StreamHandler()
    handler.addFilter(RedactingFilter())  # or: handler.setFormatter(RedactingFormatter(handler.formatter))
    sys.stdout = RedactingStream(sys.stdout)  # and what is printed, in whatever pieces

While a lease of this process is held, its value is replaced by `[redacted]`: raw, and as hex, base64, base64url,
URL-encoded, JSON-escaped or as Python shows bytes. When the lease ends, its value is wiped here as well, and a line
that is logged later is no longer looked at for it.
"""

from __future__ import annotations

import atexit
import codecs
import io
import logging
import os
import threading
import weakref
from typing import TYPE_CHECKING, Any, Final

from vaultclient import _live
from vaultclient._redactor import Stream

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TextIO

__all__ = ["RedactingFilter", "RedactingFormatter", "RedactingStream"]

_DEPTH: Final = 8
"""Levels of containers that are looked into; what lies deeper is shown as `...`."""

_EXCEPTION: Final = logging.Formatter()


class RedactingFilter(logging.Filter):
    """Redacts each record that passes: message, traceback, stack, and what `extra` put into it. Drops none.

    Add it to handlers: a logger's filters do not see what its child loggers log. Records are changed in place, so
    handlers that come later see them redacted too. Leased files (over 1 MiB) are not looked for.
    """

    def __init__(self) -> None:
        super().__init__()
        self._redactor = _live.redactor()

    def filter(self, record: logging.LogRecord) -> bool:
        """Redact the record; always True."""
        text = self._redactor.redact_text
        try:
            message = record.getMessage()
        except (TypeError, ValueError, KeyError):
            # Its arguments do not fit. The handler's own complaint would print them, so they go here.
            message = f"{record.msg} (its arguments do not fit and are left out)"
        record.msg, record.args = text(message), None
        if record.exc_info and record.exc_info[0] is not None and not record.exc_text:
            record.exc_text = _EXCEPTION.formatException(record.exc_info)
        if record.exc_info or record.exc_text:
            record.exc_text = text(record.exc_text) if record.exc_text else None
            record.exc_info = None  # a formatter would print the exception from it once more, unredacted
        if record.stack_info:
            record.stack_info = text(record.stack_info)
        for name, value in list(record.__dict__.items()):
            if name not in _OWN:
                record.__dict__[name] = _redacted(value, text, self._redactor.redact, _DEPTH)
        return True


class RedactingFormatter(logging.Formatter):
    """Another formatter whose lines are redacted, whatever it made them of.

    Args:
        inner: the formatter that makes the line; `logging`'s own when left out.
    """

    def __init__(self, inner: logging.Formatter | None = None) -> None:
        super().__init__()
        self._inner = inner if inner is not None else logging.Formatter()
        self._redactor = _live.redactor()

    def format(self, record: logging.LogRecord) -> str:
        """The inner formatter's line, redacted."""
        return self._redactor.redact_text(self._inner.format(record))


class RedactingStream(io.TextIOBase):
    """A text stream whose values are redacted however they are cut: what is written to it is looked at as one text.

        sys.stdout = RedactingStream(sys.stdout)

    Only the few letters that could begin a value wait for what follows, until `close` or the program's end. Usable
    from several threads.

    Args:
        stream: where the text goes; it is not closed by this one.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._parts = Stream(_live.redactor())
        # A character may be cut by a value that begins inside of it; then what is left of it is shown as U+FFFD.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._lock = threading.RLock()
        _streams.add(self)
        atexit.register(self.close)

    def write(self, text: str, /) -> int:
        """Pass on what can be shown."""
        with self._lock:
            if self.closed:
                raise ValueError("write to a closed stream")
            self._stream.write(self._decoder.decode(self._parts.feed(_bytes(text))))
        return len(text)

    def flush(self) -> None:
        """Flush what was passed on."""
        with self._lock:
            if not self.closed and not self._stream.closed:
                self._stream.flush()

    def writable(self) -> bool:
        """It is."""
        return True

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """The stream's descriptor; what is written to that directly is not redacted."""
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The stream's."""
        return self._stream.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        """The stream's."""
        return self._stream.errors

    def close(self) -> None:
        """Pass on what still waits. The stream below stays open."""
        with self._lock:
            if self.closed:
                return
            atexit.unregister(self.close)
            if not self._stream.closed:
                self._stream.write(self._decoder.decode(self._parts.end(), True))
            super().close()


_streams: weakref.WeakSet[RedactingStream] = weakref.WeakSet()


def _forked() -> None:
    """In a forked child: a thread that was writing is not here, and would never give its lock back."""
    for stream in _streams:
        stream._lock = threading.RLock()


os.register_at_fork(after_in_child=_forked)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")  # lone surrogates, which no stream would take either


_OWN: Final = frozenset(logging.makeLogRecord({}).__dict__)
"""What every record has; all else came by `extra`."""


def _redacted(value: Any, text: Callable[[str], str], data: Callable[[bytes], bytes], depth: int) -> Any:
    """A value of `extra`, with containers rebuilt where they hold text; objects of other types stay as they are."""
    if isinstance(value, str):
        return text(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return data(bytes(value))
    if not isinstance(value, dict | list | tuple | set | frozenset):
        return value
    if depth == 0:
        return "..."
    if isinstance(value, dict):
        return {
            _redacted(key, text, data, depth - 1): _redacted(of, text, data, depth - 1) for key, of in value.items()
        }
    items = [_redacted(one, text, data, depth - 1) for one in value]
    if isinstance(value, tuple):
        return tuple(items)
    return type(value)(items) if type(value) in {set, frozenset} else items
