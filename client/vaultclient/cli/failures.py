"""How vaultctl fails: one voice on standard error, one exit code for each error code, nothing of a secret in either.

Loads neither click nor the client, so that a failure costs no more than a success.
"""

from __future__ import annotations

import os
import sys
from typing import TextIO

from vaultd.protocol.codes import exit_code

__all__ = ["CliError", "Stopped", "describe", "plain", "prose", "report"]

_HINTS = {
    "invalid": "see 'vaultctl --help'",
    "io": "look at the path, its permissions and the space that is left",
    "unavailable": "is vaultd running, and is this its socket?",
    "integrity": "restore the files named from a copy, or ask whoever may have changed them",
    "internal": "this is a bug: please report it with the command",
    "denied": "an admin can see why: vaultctl explain TENANT SECRET --service SERVICE",
    "wrong_secret": "try again; a slot's kind (passphrase or key file) counts too",
    "throttled": "try again in a moment",
    "busy": "try again in a moment",
}
"""What to do next where whoever failed did not say: every error has a hint."""

INTERRUPTED = 130
BROKEN_PIPE = 141
"""128 + SIGPIPE: what a shell reports for any other program whose reader went away."""


class CliError(Exception):
    """vaultctl itself found something wrong.

    Args:
        code: one of `vaultd.protocol.codes`.
        message: lower case, no period, no secret.
        hint: what to do next; may be empty.
        status: the exit code, where it is not the code's own (`run` keeps 125 to 127 for itself).
    """

    def __init__(self, code: str, message: str, hint: str = "", *, status: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.status = status


class Stopped(Exception):
    """Ends the command with an exit status and no further words, such as a child's."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def plain(text: object) -> str:
    """Text as it may reach a terminal: control characters (escape sequences among them) spelt out, not obeyed."""
    text = str(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def prose(text: str, stream: TextIO) -> str:
    """Words as they fit a terminal, going on below indented; elsewhere, where programs read too, one line as ever."""
    try:
        width = os.get_terminal_size(stream.fileno()).columns if stream.isatty() else 0
    except (OSError, ValueError, AttributeError):
        width = 0
    if width < 40 or len(text) <= width:
        return text
    lines = [""]
    for word in text.split(" "):
        if lines[-1].strip() and len(lines[-1]) + 1 + len(word) > width:
            lines.append("  " + word)
        else:
            lines[-1] += (" " if lines[-1].strip() else "") + word
    return "\n".join(lines)


def _errno_words(error: OSError) -> str:
    words = (error.strerror or type(error).__name__).lower()
    return f"{error.filename}: {words}" if error.filename is not None else words


def describe(error: Exception) -> tuple[str, str, str]:
    """An exception as (code, message, hint).

    Errors of the client and of the offline verbs carry the three themselves. What nobody foresaw is told by its type
    and place alone: the text of an exception may quote the bytes it stumbled over.
    """
    code = getattr(error, "code", None)
    if isinstance(code, str):
        message = getattr(error, "message", None)
        hint = getattr(error, "hint", None)
        return code, message if isinstance(message, str) else str(error), hint if isinstance(hint, str) else ""
    if isinstance(error, OSError):
        return "io", _errno_words(error), ""
    if isinstance(error, MemoryError):
        return "io", "not enough memory", ""
    place = ""
    trace = error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename.rpartition("/")[2]
        place = f" at {file}:{trace.tb_lineno}"
        trace = trace.tb_next
    return "internal", f"unexpected {type(error).__name__}{place}", ""


def report(error: Exception, *, as_json: bool, stream: TextIO | None = None, colour: bool = False) -> int:
    """Say what went wrong on standard error; returns the exit code."""
    stream = stream if stream is not None else sys.stderr
    code, message, hint = describe(error)
    hint = hint or _HINTS.get(code, "see 'vaultctl --help'")
    if as_json:
        import json

        text = json.dumps({"error": {"code": code, "message": message, "hint": hint}}) + "\n"
    else:
        error_lines, hint_lines = (
            prose(f"{head} {plain(words)}", stream) for head, words in (("vaultctl: error:", message), ("hint:", hint))
        )
        if colour:
            error_lines = error_lines.replace("error:", "\x1b[31merror:\x1b[0m", 1)
            hint_lines = hint_lines.replace("hint:", "\x1b[2mhint:\x1b[0m", 1)
        text = f"{error_lines}\n{hint_lines}\n"
    try:
        stream.write(text)
        stream.flush()
    except OSError:
        pass  # nobody listens on standard error; the exit code still says it
    status = getattr(error, "status", None)
    return status if isinstance(status, int) else exit_code(code)
