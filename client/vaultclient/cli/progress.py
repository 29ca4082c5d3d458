"""A line that says what takes longer than a second and for how long, for a person who waits at a terminal."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import TYPE_CHECKING, Final

from vaultclient.cli.durations import shown_duration
from vaultclient.cli.failures import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vaultclient.cli.output import Output

__all__ = ["working"]

PATIENCE: Final = 1.0
"""Seconds before the line is shown, and between its changes."""

_ERASE: Final = "\r\x1b[K"


def _shows(out: Output) -> bool:
    """Only on a terminal that can take a line back, and not where people are left out."""
    try:
        return not out.as_json and not out.quiet and out.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    except ValueError:  # closed
        return False


@contextlib.contextmanager
def working(
    out: Output,
    what: str,
    *,
    detail: Callable[[], str] | None = None,
    patience: float = PATIENCE,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[None]:
    """Show `what` and the time that it takes, on standard error, until the block ends; then nothing of it is left.

    Args:
        out: where it is shown, if it is.
        what: such as "rotating the root key".
        detail: how far it is, asked each time; called in another thread.
        patience: seconds.
        clock: seconds that only grow.
    """
    if not _shows(out):
        yield
        return
    over = threading.Event()
    began = clock()
    room = out.width() - 1  # the last column of a terminal may wrap

    def told() -> str:
        return f"{detail()}, " if detail is not None else ""

    def show() -> None:
        shown = False
        try:
            while not over.wait(patience):
                seconds = int(clock() - began)
                out.stderr.write(_ERASE + plain(f"{what}: {told()}{shown_duration(seconds)}")[:room])
                out.stderr.flush()
                shown = True
        finally:
            if shown:
                out.stderr.write(_ERASE)
                out.stderr.flush()

    def quietly() -> None:
        with contextlib.suppress(OSError, ValueError):  # the terminal hung up: the work goes on
            show()

    thread = threading.Thread(target=quietly, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
