"""Values of any size for asyncio programs: stored from files, read by ranges."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from vaultclient._files import Place
from vaultclient._sources import Source, upload_source
from vaultclient._uploads import LAST_STEP, cut_off
from vaultclient.errors import Invalid

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from types import TracebackType

    from vaultclient._async_transport import AsyncChannel
    from vaultclient._calls import Answer
    from vaultclient._sources import Step

__all__ = ["AsyncValueFile", "send_file"]


class AsyncValueFile:
    """A value as a read-only file: each read asks the daemon for a range of it. For one task at a time.

    Args:
        ask: gives the answer to a request for (offset, length).
        size: bytes of the value.
    """

    def __init__(self, ask: Callable[[int, int], Awaitable[Answer]], size: int) -> None:
        self.size = size
        self._ask = ask
        self._place = Place(size)

    def tell(self) -> int:
        """Where the next read begins."""
        return self._place.at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to another place; returns where that is from the beginning."""
        return self._place.seek(offset, whence)

    async def readinto(self, buffer: bytearray | memoryview) -> int:
        """Fill a buffer, which the caller wipes, as far as one range goes; 0 at the end."""
        with memoryview(buffer) as given, given.cast("B") as view:
            if not len(view) or self._place.at >= self.size:
                return 0
            here = self._place.take_ahead(view)
            return here or self._place.take(await self._ask(*self._place.wanted(len(view))), view)

    def close(self) -> None:
        """Wipe what was read ahead."""
        self._place.forget()

    async def __aenter__(self) -> AsyncValueFile:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


async def send_file(
    channel: AsyncChannel,
    file: Any,
    op: str,
    keys: dict[str, Any],
    progress: Callable[[int, int | None], object] | None,
    run: bytes | None,
    *,
    sparse: bool,
) -> Answer:
    """As `send_source`; the file is read in threads, `progress` is called in them."""
    source = await asyncio.to_thread(Source, file, sparse=sparse)
    steps = upload_source(source, op, keys, progress)
    begun: int | None = None
    reading: asyncio.Future[Step | None] | None = None
    answer: Answer | None = None
    try:
        while True:
            reading = asyncio.ensure_future(asyncio.to_thread(_next, steps))
            # Cancelled meanwhile, the thread reads on: nothing it uses may be closed under it.
            step = await asyncio.shield(reading)
            if step is None:
                break
            name, step_keys, tail = step
            try:
                answer = await channel.call(
                    name, step_keys, run=run, tail=tail, timeout=LAST_STEP if name == op else None
                )
            except Invalid:
                if begun is not None and channel.generation != begun:
                    raise cut_off() from None
                raise
            if name == "value.begin":
                begun = channel.generation
    finally:
        if reading is not None and not reading.done():
            await asyncio.wait([reading])
        steps.close()
        source.close()
    if answer is None:
        raise cut_off()
    return answer


def _next(steps: Iterator[Step]) -> Step | None:
    return next(steps, None)
