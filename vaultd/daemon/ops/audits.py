"""audit.*: a trail's records page by page, its export, and checkpoints."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from vaultd.access.instants import SECOND
from vaultd.audit.domain import SYSTEM_UID
from vaultd.audit.reader import Filter, export_header
from vaultd.daemon.handling import Deferred
from vaultd.daemon.ops.later import answering, begin_task
from vaultd.daemon.ops.table import Done, operation
from vaultd.daemon.readers import Place
from vaultd.errors import Invalid
from vaultd.protocol.operations import MAX_TAIL

if TYPE_CHECKING:
    from vaultd.audit.reader import Record, TrailReader
    from vaultd.daemon.call import Call
    from vaultd.daemon.handling import Pending
    from vaultd.daemon.readers import Reading

_REST: Final = 0.02
"""Seconds that a follower lets pass before it looks again when what became durable was not for it."""


class _Page:
    """One page being read.

    Args:
        reading: its turns.
        place: where it begins; this page's to keep or to close.
        after: number of the last record before it.
    """

    def __init__(
        self, call: Call, reading: Reading, uid: bytes, wanted: Filter, limit: int, place: Place, after: int
    ) -> None:
        self.call = call
        self._turns = reading
        self.uid = uid
        self.lines = bytearray()
        self.count = 0
        self.more = False
        self.next = after
        self._wanted = wanted
        self._limit = limit
        self._reader, self._waiting = place

    async def read(self) -> None:
        """Read until the page is full or the trail's durable end; keep the place for the next page."""
        try:
            if self._waiting is None or self._take(self._waiting):
                self._waiting = None
                await self._read_on()
        except BaseException:
            self._reader.close()
            raise
        self.call.engine.readers.keep(self.uid, self.next, Place(self._reader, self._waiting))

    async def _read_on(self) -> None:
        for record in self.call.barrier.trail_more(self._reader):
            if await self._turns.pause():
                self.call.engine.unsealed()  # it may have been sealed meanwhile: then nothing more is opened
            if record is not None and not self._take(record):
                self._waiting = record
                return
            if self.count >= self._limit:
                self.more = True
                return

    def _take(self, record: Record) -> bool:
        """Put a record onto the page, or pass over it; False when it is for the next page."""
        if self._wanted.takes(record):
            line = record.line()
            if self.lines and len(self.lines) + len(line) > MAX_TAIL:
                self.more = True
                return False
            self.lines += line
            self.count += 1
        self.next = record.seq
        return True

    def done(self) -> Done:
        """The reply."""
        return Done({"next": str(self.next), "count": self.count, "more": self.more}, tail=bytes(self.lines))


def _after(call: Call) -> int:
    text = call.keys.get("after", "0")
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise Invalid("not a cursor of this trail", "leave it out to begin at the beginning")
    return int(text)


async def _start(call: Call, reading: Reading, uid: bytes, after: int, *, gapless: bool) -> Place:
    """The place behind record `after`: kept from the page before, else looked for from the trail's beginning.

    Raises:
        Invalid: what comes next was pruned, and the caller must have it.
    """
    kept = call.engine.readers.take(uid, after)
    if kept is not None:
        return kept
    pruned = call.barrier.beginning(uid).seq
    if gapless and 0 < after < pruned:
        raise Invalid(f"records up to {pruned} of this trail were pruned", "begin the export anew")
    reader = call.barrier.trail_reader(uid)
    try:
        if after > pruned:
            await _skip(call, reading, reader, after)
    except BaseException:
        reader.close()
        raise
    return Place(reader, None)


async def _skip(call: Call, reading: Reading, reader: TrailReader, after: int) -> None:
    for record in call.barrier.trail_more(reader):
        if record is not None and record.seq >= after:
            return
        if await reading.pause():
            call.engine.unsealed()


def _read(call: Call, uid: bytes, wanted: Filter, *, header: bool = False) -> Deferred:
    """Answer with one page, read in slices; with `wait`, not before there is a record or the time is up."""
    reading = call.engine.readers.ask(call.facts.uid)
    try:
        _recorded(call, uid)
    except BaseException:
        reading.done()
        raise
    deferred = Deferred()
    begin_task(call, _answer(call, reading, uid, wanted, deferred, header=header))
    return deferred


async def _answer(
    call: Call, reading: Reading, uid: bytes, wanted: Filter, deferred: Deferred, *, header: bool
) -> None:
    try:
        with answering(call, deferred):
            after = _after(call)
            until = call.engine.loop.time() + call.keys.get("wait", 0)
            await _landed(call, None)
            while True:
                async with reading:
                    call.engine.unsealed()
                    place = await _start(call, reading, uid, after, gapless=header)
                    page = _Page(call, reading, uid, wanted, call.keys.get("limit", 1_000), place, after)
                    if header and not after:
                        _, seq, head = call.barrier.beginning(uid)
                        page.lines += export_header(call.barrier.ledger.vault_id, uid, seq, head)
                    await page.read()
                left = until - call.engine.loop.time()
                if page.count or page.more or left <= 0 or call.connection.closed:
                    break
                after = page.next
                await _landed(call, left)
                await asyncio.sleep(min(_REST, max(0, until - call.engine.loop.time())))
            deferred.settle(page.done())
    finally:
        reading.done()


async def _landed(call: Call, seconds: float | None) -> None:
    """Wait for the next flush; at once, when nothing is staged and no limit in time is given."""
    vaults = call.engine.vaults
    if seconds is None and not vaults.unflushed:
        return
    landed = asyncio.Event()
    vaults.followers.add(landed.set)
    call.engine.commit_soon()
    try:
        async with asyncio.timeout(seconds):
            await landed.wait()
    except TimeoutError:
        return
    finally:
        vaults.followers.discard(landed.set)


def _trail_of(call: Call) -> bytes:
    """The uid of the trail that is asked for: the system's takes an admin."""
    if "tenant" not in call.keys:
        call.require_admin()
        return SYSTEM_UID
    return call.allowed("audit", call.keys["tenant"])


def _recorded(call: Call, uid: bytes, **facts: Any) -> None:
    """Reading a trail is recorded in it, once; further pages and a follower's questions are counted."""
    if "after" in call.keys:
        call.counted()
    else:
        call.record(None if uid == SYSTEM_UID else uid, call.event(**facts))


@operation("audit.show")
def show(call: Call) -> Pending | Deferred:
    """A page of a trail's records."""
    keys = call.keys
    uid = _trail_of(call)
    wanted = Filter(
        since=int(keys["since"] * SECOND) if "since" in keys else None,
        run=keys.get("of_run"),
        secret=keys.get("secret"),
    )
    _after(call)
    return _read(call, uid, wanted)


@operation("audit.export")
def export(call: Call) -> Pending | Deferred:
    """A page of a trail's export; the first begins with the export's header."""
    uid = call.allowed("audit", call.keys["tenant"])
    _after(call)
    return _read(call, uid, Filter(), header=True)


@operation("audit.checkpoint")
def checkpoint(call: Call) -> Pending:
    """Sign what is durable now; that it was signed is recorded behind it."""
    call.require_admin()
    statement = call.barrier.checkpoint()
    call.record(None, call.event())
    return Done(tail=statement.encode("utf-8"))
