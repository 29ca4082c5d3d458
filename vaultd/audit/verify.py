"""Checking a journal or an export off line, without keys: what is wrong first, and what such a check cannot see."""

from __future__ import annotations

import os
import re
import stat
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from vaultd.audit.body import sub_link
from vaultd.audit.canonical import parse_canonical, timestamp
from vaultd.audit.chain import MAX_LINE, Verdict, Walk
from vaultd.audit.journal import DIRECTORY
from vaultd.audit.reader import EXPORT_FORMAT
from vaultd.errors import ConfigError, FormatVersion, IntegrityError, StoreError, Uninitialised

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from vaultd.audit.checkpoint import Checkpoint

__all__ = ["Report", "verify_directory", "verify_export"]

_SEGMENT: Final = re.compile(r"[0-9]{6}\.jsonl")
_CHUNK: Final = 1 << 20
_PATIENCE: Final = 5
_PAUSE_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found, and what it could not have found.

    Attributes:
        verdict: the walk; `bad_line` is a line of `file`.
        file: where the bad line is, or the last file walked.
        vault_id: as the journal's first line says; None if it was not reached.
        trails: how many trails (tenants', and the system's) have records.
        ruled_out: what did not happen, if all is well.
        not_ruled_out: what may have happened all the same.
        notes: odd things that are no fault of the journal.
    """

    verdict: Verdict
    file: str
    vault_id: bytes | None
    trails: int
    ruled_out: tuple[str, ...]
    not_ruled_out: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return self.verdict.ok


def verify_directory(
    directory: str, checkpoint: Checkpoint | None = None, *, pause: Callable[[float], None] = time.sleep
) -> Report:
    """Walk the journal of the vault in `directory`; a daemon may be writing to it meanwhile.

    Args:
        directory: the vault's.
        checkpoint: one whose signature was checked already (`checkpoint.parse`).
        pause: how to wait for the rest of a line that is being written, seconds.

    Raises:
        Uninitialised: there is no journal.
        ConfigError: a link or another kind of file stands where the journal should.
        StoreError: it cannot be read.
        FormatVersion: it has several segments, so a later version wrote it.
    """
    folder = os.path.join(directory, DIRECTORY)
    segments, notes = _segments(folder)
    path = os.path.join(folder, segments[0])
    walk = Walk()
    reason = ""
    for raw in _lines(path, pause):
        try:
            walk.step(raw)
        except (IntegrityError, FormatVersion) as error:
            reason = error.message
            break
        if checkpoint is not None:
            reason = _against(checkpoint, walk)
            if reason:
                return _report(walk, path, notes, checkpoint, walk.lines, reason)
    if not reason and checkpoint is not None and walk.at.seq < checkpoint.size:
        reason = f"the journal ends after line {walk.at.seq}; when the checkpoint was signed it had {checkpoint.size}"
    return _report(walk, path, notes, checkpoint, walk.lines + 1 if reason else None, reason)


def _against(checkpoint: Checkpoint, walk: Walk) -> str:
    """What the line just walked says against the checkpoint, if anything."""
    if walk.at.seq == 1 and walk.vault != checkpoint.vault_id:
        return "the checkpoint is of another vault"
    if walk.at.seq == checkpoint.size and walk.at.head != checkpoint.head:
        return "this line is not the one that was signed: it, or lines before it, were rewritten"
    return ""


def _report(
    walk: Walk, path: str, notes: tuple[str, ...], checkpoint: Checkpoint | None, bad_line: int | None, reason: str
) -> Report:
    verdict = Verdict(walk.at.seq, walk.at.head, walk.lines, bad_line, reason)
    if not verdict.ok:
        return Report(verdict, path, walk.vault, walk.trails, (), (), notes)
    ruled_out = ["lines changed, removed, added or reordered by anyone who did not recompute every hash after them"]
    not_ruled_out = [
        "actions that were never recorded",
        "what sealed bodies say: each tenant's own 'audit show' and 'audit export' check that with its key",
    ]
    if checkpoint is None or checkpoint.size == 0:
        not_ruled_out.insert(
            0,
            "a journal rewritten whole, or cut at its end, by someone who can write it: hashes need no key; "
            "a checkpoint kept elsewhere rules that out",
        )
    else:
        ruled_out.append(
            f"any change to lines 1 to {checkpoint.size} since {timestamp(checkpoint.wall)}, "
            "by anyone without the checkpoint key"
        )
        not_ruled_out.insert(
            0, f"lines after {checkpoint.size} rewritten or cut by someone who can write the journal: sign again"
        )
    return Report(verdict, path, walk.vault, walk.trails, tuple(ruled_out), tuple(not_ruled_out), notes)


def _segments(folder: str) -> tuple[list[str], tuple[str, ...]]:
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        raise Uninitialised(f"there is no audit journal in {folder}", "name the vault's directory with --dir") from None
    except OSError as error:
        raise _unreadable(folder, error) from error
    segments = [name for name in names if _SEGMENT.fullmatch(name)]
    if not segments:
        raise Uninitialised(f"there is no audit journal in {folder}", "name the vault's directory with --dir")
    if segments != ["000001.jsonl"]:
        raise FormatVersion(
            "the journal does not consist of its one first segment",
            "if a later version of vaultd wrote it, verify it with that version; else a file was added or taken away",
        )
    strays = tuple(f"{name!a} is not part of a journal" for name in names if name not in segments)
    return segments, strays


def _unreadable(path: str, error: OSError) -> StoreError:
    return StoreError(f"cannot read {path}: {(error.strerror or 'unknown error').lower()}", "run as the vault's owner")


def _lines(path: str, pause: Callable[[float], None]) -> Iterator[bytes]:
    """The file's lines, each with its newline but possibly the last."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ConfigError(f"{path} is not a regular file", "a journal is a regular file")
        rest = b""
        patience = _PATIENCE
        while True:
            chunk = os.read(fd, _CHUNK)
            if chunk:
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield line + b"\n"
                if len(rest) > MAX_LINE:
                    break
            elif rest and patience:
                # A daemon may be in the middle of writing this line; one that stays cut short is bad.
                patience -= 1
                pause(_PAUSE_S)
            else:
                break
        if rest:
            yield rest
    except OSError as error:
        raise _unreadable(path, error) from error
    finally:
        os.close(fd)


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
