"""Storing a file over a connection of its own: step by step, and given up as a whole when any step fails."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from vaultclient._sources import upload_source
from vaultclient.errors import Invalid, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaultclient._calls import Answer
    from vaultclient._sources import Incoming
    from vaultclient._transport import Channel

__all__ = ["LAST_STEP", "cut_off", "send_source"]

LAST_STEP: Final = 3_600.0
"""Seconds for the last step, in which the daemon makes the whole file durable."""


def cut_off() -> Unavailable:
    """The error for an upload whose connection was lost between two steps."""
    return Unavailable("the connection was lost in the middle of the upload", "nothing was stored; send the file again")


def send_source(
    channel: Channel,
    source: Incoming,
    op: str,
    keys: dict[str, Any],
    progress: Callable[[int, int | None], object] | None = None,
    run: bytes | None = None,
) -> Answer:
    """Store what `source` gives; the answer of `op`.

    Args:
        channel: used for nothing else; closed by its owner, which gives up what is unfinished.
        source: see `Source`.
        op, keys, progress: see `upload_source`.
        run: the token of a run, if one is to speak.

    Raises:
        Invalid: the file changed, or is empty; nothing was stored.
        VaultError: refused; nothing was stored. `Unavailable` after the last step: not known.
    """
    steps = upload_source(source, op, keys, progress)
    begun: int | None = None
    try:
        for step, step_keys, tail in steps:
            timeout = LAST_STEP if step == op else None
            try:
                answer = channel.call(step, step_keys, run=run, tail=tail, timeout=timeout)
            except Invalid:
                # An upload belongs to its connection: one that was made anew in between knows of none.
                if begun is not None and channel.generation != begun:
                    raise cut_off() from None
                raise
            if step == "value.begin":
                begun = channel.generation
    finally:
        steps.close()
    return answer
