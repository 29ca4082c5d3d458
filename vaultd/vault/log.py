"""A tenant's sealed log: records that authenticate what they say, where they stand, and the record before them.

    file    magic "vaultdLG" (8), then records
    record  u32 length of the whole record
            u32 length of the attachment
            nonce (24)
            ciphertext ‖ tag (16)
            attachment: bytes sealed already (a wrapped data key and a sealed value)

The ciphertext is XChaCha20-Poly1305 under the domain's record key. Its plaintext: u16 length of the header ‖ header
(one msgpack map) ‖ zeros up to the padded size. Its associated data: context("log", vault id, uid, generation, index,
tag of the record before (zeros for the first), record length, attachment). So a record opens only in its own vault,
log, generation and place, after the very record that it was written after, and with its own attachment.

Staging decides everything, offsets included, and seals at once; what is left to a flush is to write bytes that no
longer change. Until a flush has succeeded, reads are served from the bytes that were staged.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from vaultd.crypto.context import context
from vaultd.crypto.primitives import OVERHEAD, open_sealed, seal
from vaultd.crypto.values import pad
from vaultd.errors import IntegrityError, Internal
from vaultd.vault.codec import pack, unpack
from vaultd.vault.heads import NO_RECORD, Head

if TYPE_CHECKING:
    from vaultd.crypto.hierarchy import TenantKeys
    from vaultd.crypto.memory import Key
    from vaultd.store import AppendFile, Store

__all__ = ["MAGIC", "MAX_ATTACHMENT", "Handles", "LogFile", "RecordCipher", "Ref", "SealedLog", "scan", "tag_of"]

MAGIC: Final = b"vaultdLG"

MAX_ATTACHMENT: Final = 2 << 20
"""Bytes of the longest attachment: a value of 1 MiB, its padding, seal and wrapped key stay below."""

_LENGTHS: Final = struct.Struct(">II")
_PLACE: Final = struct.Struct(">IQI16sIQI")
"""The last four fields of a record's associated data at once, each behind its length, the attachment's bytes apart."""
_HEADER_LENGTH: Final = struct.Struct(">H")
_MIN_RECORD: Final = _LENGTHS.size + OVERHEAD + pad(_HEADER_LENGTH.size)
_MAX_RECORD: Final = MAX_ATTACHMENT + (1 << 17)
_TAG: Final = 16
_READ: Final = 1 << 20
_CHANGED: Final = "somebody changed the vault's files while it was open: find out who first"


class Ref(NamedTuple):
    """Where an attachment lies in the log it was staged in."""

    generation: int
    offset: int
    length: int


class RecordCipher:
    """Seals and opens the records of one log, one after another.

    Args:
        key: the domain's record key.
        vault_id, uid, generation: which log.
    """

    def __init__(self, key: Key, vault_id: bytes, uid: bytes, generation: int) -> None:
        self._key = key
        self._place = context("log", vault_id, uid, generation)

    def seal(self, index: int, previous: bytes, header: bytes, attachment: bytes) -> bytes:
        """The bytes of record `index`, which follows the one with tag `previous`. Its own tag: see `tag_of`."""
        if len(attachment) > MAX_ATTACHMENT:
            raise Internal("an attachment is longer than any value")
        plain = _HEADER_LENGTH.pack(len(header)) + header
        plain = plain.ljust(pad(len(plain)), b"\0")
        total = _LENGTHS.size + OVERHEAD + len(plain) + len(attachment)
        # A random nonce of 24 bytes: no counter to keep across crashes, restored backups and forked processes.
        sealed = seal(self._key, self._aad(index, previous, total, attachment), plain)
        return _LENGTHS.pack(total, len(attachment)) + sealed + attachment

    def open(self, index: int, previous: bytes, record: bytes) -> dict[str, Any]:
        """The header of record `index`.

        Raises:
            IntegrityError: the record does not verify in this place.
        """
        total, attached = _LENGTHS.unpack_from(record)
        end = total - attached
        plain = open_sealed(
            self._key, self._aad(index, previous, total, record[end:]), memoryview(record)[_LENGTHS.size : end]
        )
        (length,) = _HEADER_LENGTH.unpack_from(plain)
        end = _HEADER_LENGTH.size + length
        # The padding is authenticated; this holds that whoever had the key also wrote the one spelling.
        if len(plain) != pad(end) or any(plain[end:]):
            raise IntegrityError("a log record is not padded as it must be")
        return unpack(memoryview(plain)[_HEADER_LENGTH.size : end])

    def _aad(self, index: int, previous: bytes, total: int, attachment: bytes) -> bytes:
        # The attachment's length is in its field, the header's in the plaintext.
        place = _PLACE.pack(8, index, _TAG, previous, 8, total, len(attachment))
        return b"".join((self._place, place, attachment))


def tag_of(record: bytes) -> bytes:
    """The authentication tag of a record, which the next one is chained to."""
    total, attached = _LENGTHS.unpack_from(record)
    end = total - attached
    return record[end - _TAG : end]


def scan(file: LogFile, cipher: RecordCipher, head: Head) -> tuple[list[tuple[dict[str, Any], Ref]], int]:
    """Read a log up to the record that the journal vouches for.

    Returns:
        Every record's header and where its attachment lies, and the offset at which the vouched part ends.

    Raises:
        IntegrityError: a record at or before `head` is missing or does not verify, or the last one is another.
    """
    records = []
    tag, offset = NO_RECORD, len(MAGIC)
    reader = _Reader(file)
    if reader.take(0, len(MAGIC)) != MAGIC:
        raise IntegrityError("a log does not begin as one of ours")
    for index in range(1, head.record + 1):
        lengths = reader.take(offset, _LENGTHS.size)
        if len(lengths) < _LENGTHS.size:
            raise IntegrityError(f"a log ends at record {index} of {head.record}")
        total, attached = _LENGTHS.unpack(lengths)
        # Before a byte more is read or taken apart: the lengths are the disk's word only.
        if not _MIN_RECORD <= total - attached <= _MAX_RECORD - MAX_ATTACHMENT or attached > MAX_ATTACHMENT:
            raise IntegrityError(f"record {index} of a log has an impossible length")
        record = reader.take(offset, total)
        if len(record) < total:
            raise IntegrityError(f"a log ends within record {index} of {head.record}")
        header = cipher.open(index, tag, record)
        tag = tag_of(record)
        offset += total
        records.append((header, Ref(head.generation, offset - attached, attached)))
    if tag != head.tag:
        raise IntegrityError("a log's last record is not the one that the journal vouches for")
    return records, offset


class _Reader:
    """Bytes of a log in order, fetched a megabyte at a time."""

    def __init__(self, file: LogFile) -> None:
        self._file = file
        self._start = 0
        self._window = b""

    def take(self, offset: int, length: int) -> bytes:
        begin = offset - self._start
        if begin + length > len(self._window):
            self._start, begin = offset, 0
            self._window = self._file.read(offset, max(length, _READ))
        return self._window[begin : begin + length]


class LogFile:
    """One generation's file, and what is staged for it but not known to be durable.

    Args:
        handles: opens it when it is needed.
        path: its name in the store.
        size: its bytes so far, all durable; None for one that a flush has yet to create.
    """

    def __init__(self, handles: Handles, path: str, size: int | None = None) -> None:
        self.path = path
        self.size = size or 0
        """Where the next record goes, counting everything staged."""
        self._handles = handles
        self._durable = size
        self._file: AppendFile | None = None
        self._pending: dict[int, bytes] = {}

    @property
    def born(self) -> bool:
        """Whether the file is there: a flush has created it, or it was found."""
        return self._durable is not None

    @property
    def is_open(self) -> bool:
        """Whether its descriptor is held."""
        return self._file is not None

    @property
    def clean(self) -> bool:
        """Whether nothing waits for a flush."""
        return not self._pending

    def open(self) -> AppendFile:
        """The open file.

        Raises:
            NotFound: it is gone.
            IntegrityError: it has not the size that this process left it with.
        """
        if self._file is None:
            file = self._handles.open(self)
            if file.size != self._durable:
                file.close()
                self._handles.closed(self)
                raise IntegrityError(f"{self.path} was changed while it was open", _CHANGED)
            self._file = file
        return self._file

    def stage(self, data: bytes) -> int:
        """Take in the bytes that go behind everything so far; returns their offset."""
        offset = self.size
        self._pending[offset] = data
        self.size += len(data)
        return offset

    def unstage(self, offset: int) -> None:
        """Forget what was staged from `offset` on."""
        for start in [start for start in self._pending if start >= offset]:
            del self._pending[start]
        self.size = offset

    def settle(self, end: int) -> None:
        """Everything before `end` is durable now and is read from the file."""
        for start in [start for start in self._pending if start < end]:
            del self._pending[start]
        self._durable = max(end, self._durable or 0)

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`, staged ones included."""
        # What is staged may be half in the file already: while a flush writes it, only the staged bytes count.
        first = self._durable or 0
        found = b""
        if offset < first:
            found = self.open().pread(offset, min(length, first - offset))
        for start, data in self._pending.items():
            if len(found) == length:
                break
            begin = offset + len(found) - start
            if 0 <= begin < len(data):
                found += data[begin : begin + length - len(found)]
        return found

    def cut(self, size: int) -> int:
        """Cut a clean file to `size` bytes, durably; returns how many bytes went."""
        if self._pending:
            raise Internal("a log with staged records was to be cut")
        gone = self.size - size
        if gone:
            self.open().truncate(size)
            self.size = self._durable = size
        return gone

    def close(self) -> None:
        """Let go of the descriptor; the next use opens the file again."""
        if self._file is not None:
            self._file.close()
            self._file = None
            self._handles.closed(self)


class Handles:
    """Opens log files, and keeps no more than `cap` open: there may be far more tenants than descriptors.

    Only the thread that decides opens and closes. A file with staged records stays open, so that the thread that
    writes them finds it so.
    """

    def __init__(self, store: Store, cap: int = 256) -> None:
        self._store = store
        self._cap = cap
        self._open: dict[LogFile, None] = {}

    def __len__(self) -> int:
        return len(self._open)

    def found(self, path: str) -> LogFile:
        """The log that is at `path`. Raises `NotFound`."""
        file = self._store.append(path)
        size = file.size
        file.close()
        return LogFile(self, path, size)

    def open(self, log: LogFile) -> AppendFile:
        """Open a log's file, and close the ones opened longest ago."""
        for old in [old for old in self._open if old.clean][: max(0, len(self._open) + 1 - self._cap)]:
            old.close()
        file = self._store.append(log.path)
        self._open[log] = None
        return file

    def closed(self, log: LogFile) -> None:
        """A log let go of its file."""
        self._open.pop(log, None)


class SealedLog:
    """A domain's log, open for reading and staging. Belongs to the decision thread.

    Args:
        vault_id: which vault.
        uid: which domain.
        keys: the domain's keys; this object becomes their owner.
        file: where the records are.
        head: the last record staged so far.
    """

    def __init__(self, vault_id: bytes, uid: bytes, keys: TenantKeys, file: LogFile, head: Head) -> None:
        self._unvouched: list[bytes] = []
        self._rollback = (head, file.size)
        if not file.born and not file.size:
            file.stage(MAGIC)
            self._unvouched.append(MAGIC)
        self.uid = uid
        self.keys = keys
        self.file = file
        self.head = head
        self._cipher = RecordCipher(keys.record, vault_id, uid, head.generation)
        self._closed = False

    @property
    def generation(self) -> int:
        return self.head.generation

    @property
    def size(self) -> int:
        """Bytes of the log, staged ones included."""
        return self.file.size

    def stage(self, header: dict[str, Any], attachment: bytes = b"") -> Ref:
        """Seal one record behind the others, in memory. `Ledger.stage` then vouches for it, and a flush writes it.

        Args:
            header: what the record says; no secret, ever.
            attachment: what is sealed already.

        Raises:
            Internal: the log is closed, or the record cannot be packed.
        """
        if self._closed:
            raise Internal("a record was staged in a log that is closed")
        packed = pack(header)
        head = self.head
        record = self._cipher.seal(head.record + 1, head.tag, packed, attachment)
        offset = self.file.stage(record)
        self._unvouched.append(record)
        self.head = Head(head.generation, head.record + 1, tag_of(record))
        return Ref(head.generation, offset + len(record) - len(attachment), len(attachment))

    def read_attachment(self, ref: Ref) -> bytes:
        """The attachment at `ref`, whether it is on the disk yet or not.

        Raises:
            IntegrityError: the file has become shorter.
        """
        if ref.generation != self.generation:
            raise Internal("an attachment of another generation was asked for")
        attachment = self.file.read(ref.offset, ref.length)
        if len(attachment) != ref.length:
            raise IntegrityError("a log was cut while it was open", "restore the tenant from a backup")
        return attachment

    @property
    def unvouched(self) -> bool:
        """Whether records were staged that no journal line speaks for yet."""
        return bool(self._unvouched)

    def vouch(self) -> tuple[int, list[bytes]]:
        """Hand over what a journal line now speaks for: the bytes to write, and the offset they belong at."""
        records, self._unvouched = self._unvouched, []
        start = self._rollback[1]
        self._rollback = (self.head, self.file.size)
        return start, records

    @property
    def closed(self) -> bool:
        return self._closed

    def cut(self, end: int) -> int:
        """Cut what stands behind the last vouched record, before anything is staged; returns how many bytes went."""
        if self._unvouched:
            raise Internal("a log with staged records was to be cut")
        gone = self.file.cut(end)
        self._rollback = (self.head, self.file.size)
        return gone

    def unstage(self) -> None:
        """Forget the records that no journal line speaks for: the change they belong to is not to happen."""
        self._unvouched.clear()
        self.head, size = self._rollback
        self.file.unstage(size)

    def scan(self) -> tuple[list[tuple[dict[str, Any], Ref]], int]:
        """Every record from the first, verified, and where they end; see `scan`."""
        return scan(self.file, self._cipher, self.head)

    def close(self) -> None:
        """Wipe the keys. What is vouched for stays with its file, sealed, until it is flushed; the rest is dropped."""
        self.unstage()
        self._closed = True
        self.keys.wipe()
