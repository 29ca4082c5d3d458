"""Reading one trail back: open its bodies, hold its sub-chain, and tell nothing of any other trail.

A record is known by its number in its own trail. Numbers, hashes and offsets of the journal count everybody's records,
so they appear in nothing that a record, an export or an error of this module says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from vaultd.audit.body import public_part, sub_link
from vaultd.audit.canonical import canonical, parse_canonical, parse_timestamp
from vaultd.audit.chain import GENESIS, Line, decode
from vaultd.audit.domain import SYSTEM_UID
from vaultd.audit.sealing import Opener
from vaultd.audit.segments import Place
from vaultd.errors import IntegrityError, VaultdError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vaultd.crypto.memory import SecretBytes

__all__ = ["EXPORT_FORMAT", "PAUSE", "Bookmark", "Filter", "Record", "TrailReader", "export_header"]

EXPORT_FORMAT: Final = "vaultd audit export"

PAUSE: Final = 512
"""After so many lines of others in a row a reader yields None, so that its caller can let others have the processor."""

_OWNER_WITHIN: Final = 157
"""Bytes from a line's start within which its owner has been named, at the longest; no line's body begins as early."""


class Bookmark(NamedTuple):
    """A place to start reading a trail: before a line that starts a session. For this process, never for a tenant."""

    place: Place
    """Before that line."""
    seq: int
    """Records of the trail before it."""
    head: bytes
    """The sub-chain's head there."""


BEGINNING: Final = Bookmark(Place(1, 0), 0, GENESIS)


class Record(NamedTuple):
    """One record of a trail, opened and held against the record before it."""

    seq: int
    """Number in its trail, from 1."""
    body: str
    """Canonical JSON."""
    hash: bytes
    """The sub-chain's head after it."""

    def line(self) -> bytes:
        """The record as a line of an export."""
        return f'{{"body":{self.body},"hash":"{self.hash.hex()}"}}\n'.encode("ascii")


@dataclass(frozen=True, slots=True)
class Filter:
    """Which records to show. All that are given must hold.

    Attributes:
        since: not before this time, UTC nanoseconds since 1970.
        run: of that run.
        secret: about the secret of that name.
    """

    since: int | None = None
    run: str | None = None
    secret: str | None = None

    def takes(self, record: Record) -> bool:
        """Whether the record passes."""
        if self.since is None and self.run is None and self.secret is None:
            return True
        body: dict[str, Any] = parse_canonical(record.body)
        return (
            (self.since is None or parse_timestamp(body["time"]) >= self.since)
            and (self.run is None or body.get("run") == self.run)
            and (self.secret is None or body.get("secret") == self.secret)
        )


def export_header(vault_id: bytes, uid: bytes, after: int = 0, head: bytes = GENESIS) -> bytes:
    """The first line of an export: whose trail it is, and which record and head it goes on from."""
    header = {
        "after": after,
        "format": EXPORT_FORMAT,
        "prev": head.hex(),
        "tenant": uid.hex(),
        "v": 1,
        "vault": vault_id.hex(),
    }
    return canonical(header).encode("ascii") + b"\n"


class TrailReader:
    """Walks the journal's lines and yields one trail's records.

    It may be fed more lines later (`records` goes on where the last call ended), which is how a trail is followed.

    Args:
        vault_id, uid: whose trail; the system's for `SYSTEM_UID`.
        audit_public, audit_private: the trail's audit pair; the private half stays the caller's to wipe.
        start: where to begin; lines fed must begin there.
    """

    def __init__(
        self,
        vault_id: bytes,
        uid: bytes,
        audit_public: bytes,
        audit_private: SecretBytes,
        start: Bookmark = BEGINNING,
    ) -> None:
        self._marker = b'"tenant":null' if uid == SYSTEM_UID else b'"tenant":"%b"' % uid.hex().encode()
        self._opener = Opener(vault_id, uid, audit_public, audit_private)
        self._foreign = 0
        self.place = start.place
        """Before the next line to be fed."""
        self.seq = start.seq
        """Of the trail's last record seen."""
        self.head = start.head
        """The sub-chain's head after it."""
        self.bookmark = start
        """The newest place to start another reader at."""

    def records(self, lines: Iterable[tuple[bytes, Place]]) -> Iterator[Record | None]:
        """The trail's records among `lines` (from `Journal.raw_from` at `place`); None where the caller may pause.

        Raises:
            IntegrityError: a record does not open, does not say what its line says, or does not follow from the one
                before it; says the record's number in its trail.
        """
        for raw, end in lines:
            if raw.find(self._marker, 0, _OWNER_WITHIN) < 0:
                self.place = end
                self._foreign += 1
                if self._foreign >= PAUSE:
                    self._foreign = 0
                    yield None
                continue
            try:
                record = self._take(raw, self.place)
            except VaultdError as error:
                raise type(error)(
                    f"record {self.seq + 1} of the audit trail: {error.message}", "run 'vaultctl audit verify'"
                ) from error
            self.place = end
            self._foreign = 0
            yield record

    def _take(self, raw: bytes, place: Place) -> Record:
        line = decode(raw)
        if line.sub_seq != self.seq + 1:
            raise IntegrityError("a record is missing or stands in another's place")
        bookmark = None
        if line.session is not None:
            bookmark = Bookmark(place, self.seq, self.head)
            self._opener.start(line.seq, line.session)
        body = self._body(line)
        head = sub_link(self.head, body.encode("ascii"))
        if head != line.sub_head:
            raise IntegrityError("it does not follow from the record before it")
        said = parse_canonical(body)
        if said.get("tseq") != line.sub_seq or said.get("time") != line.time:
            raise IntegrityError("it says another number or time than its line")
        self.seq, self.head = line.sub_seq, head
        if bookmark is not None:
            self.bookmark = bookmark
        return Record(line.sub_seq, body, head)

    def _body(self, line: Line) -> str:
        if line.sealed is None:
            if line.body is None:
                raise IntegrityError("it has no body")
            return line.body
        if line.key != self._opener.session:
            raise IntegrityError("its session key is not the trail's newest")
        try:
            body = self._opener.open(line.seq, line.sealed).decode("ascii")
        except UnicodeDecodeError as error:
            raise IntegrityError("its body is not ascii") from error
        if line.body is not None and public_part(body) != line.body:
            raise IntegrityError("it says something else in the clear than under its seal")
        return body

    def close(self) -> None:
        """Forget the session key at hand."""
        self._opener.wipe()
