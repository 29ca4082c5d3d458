"""Keeping the values of live leases out of logs.

    handler = logging.StreamHandler()
    handler.addFilter(RedactingFilter())  # or: handler.setFormatter(RedactingFormatter(handler.formatter))

While a lease of this process is held, its value is replaced by `[redacted]`: raw, and as hex, base64, base64url,
URL-encoded, JSON-escaped or as Python shows bytes. When the lease ends, its value is wiped here as well, and a line
that is logged later is no longer looked at for it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from vaultclient import _live

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["RedactingFilter", "RedactingFormatter"]

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
