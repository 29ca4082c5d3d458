"""Checking a journal or an export off line, without keys: what is wrong first, and what such a check cannot see."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from vaultd.audit.base import NEVER_PRUNED
from vaultd.audit.body import sub_link
from vaultd.audit.canonical import parse_canonical, timestamp
from vaultd.audit.chain import Link, Verdict, Walk
from vaultd.audit.checkpoint import parse
from vaultd.audit.files import Gone, base_file, look, segment_file, segment_lines
from vaultd.audit.reader import EXPORT_FORMAT
from vaultd.audit.segments import DIRECTORY
from vaultd.errors import FormatVersion, IntegrityError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vaultd.audit.checkpoint import Checkpoint
    from vaultd.audit.files import Layout
    from vaultd.audit.seal import SealChain
    from vaultd.audit.sealcheck import Finding, SealCheck

__all__ = ["Report", "verify_directory", "verify_export"]

_TRIES: Final = 5


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found, and what it could not have found.

    Attributes:
        verdict: the walk; `bad_line` is a line of `file`.
        file: where the bad line is, or the last file walked.
        vault_id: as the journal's first line, or what it begins after, says; None if it was not reached.
        trails: how many trails (tenants', and the system's) have records.
        ruled_out: what did not happen, if all is well.
        not_ruled_out: what may have happened all the same.
        notes: odd things that are no fault of the journal; first of all, where it begins when it was pruned.
        begins: number of the first line that is left.
        seal: what the seal key found, up to the bad line if there is one; None without a key.
    """

    verdict: Verdict
    file: str
    vault_id: bytes | None
    trails: int
    ruled_out: tuple[str, ...]
    not_ruled_out: tuple[str, ...]
    notes: tuple[str, ...] = ()
    begins: int = 1
    seal: Finding | None = None

    @property
    def ok(self) -> bool:
        return self.verdict.ok


def verify_directory(
    directory: str,
    checkpoint: Checkpoint | None = None,
    *,
    key: Callable[[], bytes | None] | None = None,
    seal: Callable[[], SealCheck] | None = None,
    newer: Callable[[], SealChain | None] = lambda: None,
    pause: Callable[[float], None] = time.sleep,
) -> Report:
    """Walk the journal of the vault in `directory`; a daemon may be writing to it meanwhile.

    Args:
        directory: the vault's.
        checkpoint: one whose signature was checked already (`checkpoint.parse`).
        key: gives the vault's checkpoint public key, if there is one, for the checkpoint that the journal was pruned
            by; without it that one's signature is taken on trust, and the report says so.
        seal: makes the check of every tag against a first seal key, anew for each walk.
        newer: reads the seal's state, when the walk is over.
        pause: how to wait for the rest of a line that is being written, seconds.

    Raises:
        Uninitialised: there is no journal.
        ConfigError: a link or another kind of file stands where the journal should.
        StoreError: it cannot be read.
        FormatVersion: a later version wrote what it begins after.
    """
    folder = os.path.join(directory, DIRECTORY)
    for _ in range(_TRIES):
        try:
            check = seal() if seal is not None else None
            return _Check(folder, look(folder), checkpoint, key, check, newer, pause).run()
        except Gone:
            continue  # pruned while we read: begin anew
    raise StoreError(f"the journal in {folder} changes faster than it can be read", "try again")


class _Check:
    """One walk over the segments that were found."""

    def __init__(
        self,
        folder: str,
        layout: Layout,
        checkpoint: Checkpoint | None,
        key: Callable[[], bytes | None] | None,
        seal: SealCheck | None,
        newer: Callable[[], SealChain | None],
        pause: Callable[[float], None],
    ) -> None:
        self._folder = folder
        self._layout = layout
        self._base = layout.base
        self._checkpoint = checkpoint
        self._key = key
        self._seal = seal
        self._newer = newer
        self._pause = pause
        self._pruned_by: Checkpoint | None = None
        self._pruned = self._base is not NEVER_PRUNED
        trails = self._base.counts() if self._pruned else None
        self._walk = Walk(Link(self._base.seq, self._base.head), trails)

    def run(self) -> Report:
        segment, line = self._base.segment, 0
        if self._pruned:
            self._walk.vault = self._base.vault_id
            reason = self._hold_base()
            if reason:
                return self._report(base_file(self._folder, segment), 1, reason)
        while True:
            path = segment_file(self._folder, segment)
            if segment == self._layout.missing:
                return self._report(path, 1, "the segment is missing")
            line = 0
            for raw in segment_lines(self._folder, segment, self._pause):
                line += 1
                before = self._walk.at
                try:
                    self._walk.step(raw, first=line == 1)
                except (IntegrityError, FormatVersion) as error:
                    return self._report(path, line, error.message)
                reason = self._against(line == 1) or self._sealed(before)
                if reason:
                    return self._report(path, line, reason)
            segment += 1
            if segment > self._layout.last and not os.path.lexists(segment_file(self._folder, segment)):
                break
        reason = self._cut() or self._end_of_seal()
        return self._report(path, line + 1 if reason else None, reason)

    def _hold_base(self) -> str:
        """What is wrong with the checkpoint that the journal was pruned by, if anything."""
        key = self._key() if self._key is not None else None
        if key is None:
            return ""
        try:
            found = parse(self._base.checkpoint, key)
        except IntegrityError as error:
            return f"the checkpoint that the journal was pruned by: {error.message}"
        if found.vault_id != self._base.vault_id or found.size < self._base.seq:
            return "the checkpoint that the journal was pruned by does not cover what was pruned"
        if found.size == self._base.seq and found.head != self._base.head:
            return "the last pruned line is not the one that was signed"
        self._pruned_by = found
        return ""

    def _against(self, first: bool) -> str:
        """What the line just walked says against the checkpoints, if anything."""
        at, checkpoint = self._walk.at, self._checkpoint
        if checkpoint is not None:
            if first and self._walk.vault != checkpoint.vault_id:
                return "the checkpoint is of another vault"
            if at.seq == checkpoint.size and at.head != checkpoint.head:
                return "this line is not the one that was signed: it, or lines before it, were rewritten"
        by = self._pruned_by
        if by is not None and at.seq == by.size and at.head != by.head:
            return "this line is not the one that was signed when the journal was pruned"
        return ""

    def _sealed(self, before: Link) -> str:
        """What the seal key says against the line just walked, if anything."""
        tag = self._walk.tag
        if self._seal is None or tag is None or tag.seq != self._walk.at.seq:
            return ""
        try:
            self._seal.take(tag, before, self._walk.vault or b"")
        except IntegrityError as error:
            return error.message
        return ""

    def _end_of_seal(self) -> str:
        if self._seal is None:
            return ""
        try:
            self._seal.finish(self._newer())
        except IntegrityError as error:
            return error.message
        return ""

    def _cut(self) -> str:
        seq = self._walk.at.seq
        for checkpoint in (self._checkpoint, self._pruned_by):
            if checkpoint is not None and seq < checkpoint.size:
                return f"the journal ends after line {seq}; when the checkpoint was signed it had {checkpoint.size}"
        return ""

    def _report(self, path: str, bad_line: int | None, reason: str) -> Report:
        walk, notes = self._walk, list(self._layout.notes)
        verdict = Verdict(walk.at.seq, walk.at.head, walk.lines, bad_line, reason)
        if self._pruned:
            notes.insert(0, self._beginning())
        begins = self._base.seq + 1
        found = self._seal.finding(walk.at.seq) if self._seal is not None else None
        if not verdict.ok:
            return Report(verdict, path, walk.vault, walk.trails, (), (), tuple(notes), begins, found)
        tagged = walk.tag is not None
        ruled_out, not_ruled_out = _meaning(self._base.seq, self._checkpoint, found, pruned=self._pruned, tagged=tagged)
        return Report(verdict, path, walk.vault, walk.trails, ruled_out, not_ruled_out, tuple(notes), begins, found)

    def _beginning(self) -> str:
        said = f"the journal begins at line {self._base.seq + 1} by checkpoint"
        by = self._pruned_by
        if by is None:
            return f"{said}; whose signature was not checked"
        return f"{said} of {by.size} lines, signed {timestamp(by.wall)}; what was pruned is not here to be checked"


def _meaning(
    before: int, checkpoint: Checkpoint | None, found: Finding | None, *, pruned: bool, tagged: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What did not happen, and what may have, when all is well."""
    ruled_out = ["lines changed, removed, added or reordered by anyone who did not recompute every hash after them"]
    not_ruled_out = [
        "actions that were never recorded",
        "what sealed bodies say: each tenant's own 'audit show' and 'audit export' check that with its key",
    ]
    if pruned:
        not_ruled_out.insert(
            0,
            f"lines 1 to {before} cut off by someone who can write the journal, and not pruned by an admin: "
            "the vault holds that against its anchor when it is opened",
        )
    if found is not None:
        not_ruled_out[:0] = _beyond(found)
        ruled_out.append(_sealed(found, before))
    if checkpoint is None or checkpoint.size == 0:
        if found is None:
            not_ruled_out.insert(
                0,
                "a journal rewritten whole, or cut at its end, by someone who can write it: hashes need no key; "
                "a checkpoint kept elsewhere rules that out"
                + (
                    ", and so does the first seal key"
                    if tagged
                    else "; it is not sealed forward, which 'vaultctl audit seal-key' begins"
                ),
            )
    elif checkpoint.size < before:
        not_ruled_out.insert(
            0, f"any change to what is left: the checkpoint is of lines 1 to {checkpoint.size}, which were pruned"
        )
    else:
        ruled_out.append(
            f"any change to lines {before + 1} to {checkpoint.size} since {timestamp(checkpoint.wall)}, "
            "by anyone without the checkpoint key"
        )
        not_ruled_out.insert(
            0, f"lines after {checkpoint.size} rewritten or cut by someone who can write the journal: sign again"
        )
    return tuple(ruled_out), tuple(not_ruled_out)


def _sealed(found: Finding, before: int) -> str:
    text = (
        f"any change to lines {before + 1} to {found.sealed} since each was sealed, the last at {found.time}, by "
        "anyone who took the machine over later: without the first key no earlier epoch's tag can be made"
    )
    if found.begins > max(2, before + 1):
        text += f"; for lines before {found.begins}, since that line was written"
    return text


def _beyond(found: Finding) -> list[str]:
    """What a check with a seal key leaves open."""
    left = ["what somebody with the first seal key itself, or with an old copy of the seal's state, could have made"]
    if found.over:
        left.insert(0, f"changes to lines after {found.sealed}: they are under the next seal chain's first key")
    elif found.unsealed:
        left.insert(0, f"changes to the last {found.unsealed} lines, which no tag stands for yet")
    if not found.held and not found.over:
        left.insert(0, "a journal cut at its end: this copy is without the seal's state")
    return left


def verify_export(lines: Iterable[bytes]) -> Verdict:
    """Check a trail's export by itself: its header, then each record's hash from the one before it.

    Returns:
        Counted in lines of the file, header included; `seq` and `head` are of the last good record.
    """
    seq, head, count = 0, b"", 0
    for raw in lines:
        try:
            if count == 0:
                seq, head = _export_header(raw)
            else:
                seq, head = _export_record(raw, seq, head)
        except IntegrityError as error:
            return Verdict(seq, head, count, count + 1, error.message)
        count += 1
    if count == 0:
        return Verdict(0, head, 0, 1, "the export is empty")
    return Verdict(seq, head, count)


def _export_header(raw: bytes) -> tuple[int, bytes]:
    try:
        header = parse_canonical(raw.decode("ascii").removesuffix("\n"))
        after, head = header["after"], bytes.fromhex(header["prev"])
        known = header["format"] == EXPORT_FORMAT and header["v"] == 1
        if known and type(after) is int and after >= 0 and len(head) == 32:
            return after, head
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError("not the header of an audit export") from error
    raise IntegrityError("not the header of an audit export")


def _export_record(raw: bytes, seq: int, head: bytes) -> tuple[int, bytes]:
    found = re.fullmatch(rb'\{"body":(\{.*\}),"hash":"([0-9a-f]{64})"\}\n', raw)
    if found is None:
        raise IntegrityError("not a record as an export writes it")
    body, said = found.groups()
    try:
        number = parse_canonical(body.decode("ascii")).get("tseq")
    except UnicodeDecodeError as error:
        raise IntegrityError("an audit body is not ascii") from error
    if number != seq + 1:
        raise IntegrityError(f"record {seq + 1} is missing or stands in another's place")
    after = sub_link(head, body)
    if after.hex().encode() != said:
        raise IntegrityError("the hash does not follow from the record and the one before it")
    return seq + 1, after
