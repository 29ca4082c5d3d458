"""What a journal that was pruned begins after: the place in the chain, the checkpoint it was pruned by, every trail's.

A file of lines, each ended by a newline: a header in canonical JSON, then `["<uid>",<records>,"<head>"]` for each trail
that has records before the first line that is left, in ascending order of uid. `FORMAT.md` has the rules.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from vaultd.audit.canonical import MAX_INT, canonical, parse_canonical
from vaultd.audit.chain import GENESIS
from vaultd.audit.journal import Position
from vaultd.errors import FormatVersion, IntegrityError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MAX_SIZE", "NEVER_PRUNED", "Base", "TrailBase", "hash_of"]

FORMAT: Final = "vaultd audit base"
VERSION: Final = 1
_LABEL: Final = b"vaultd.base"
_ROW: Final = re.compile(rb'\["([0-9a-f]{32})",([1-9][0-9]{0,18}),"([0-9a-f]{64})"\]')

MAX_SIZE: Final = 256 << 20
"""Bytes of the largest base: two million trails."""


class TrailBase(NamedTuple):
    """What of a trail was pruned: how many records, and the sub-chain's head after them."""

    seq: int
    head: bytes


@dataclass(frozen=True, slots=True)
class Base:
    """See the module.

    Attributes:
        vault_id: 16 bytes.
        segment: the first that is left.
        seq, head: number and hash of the last line that was pruned.
        checkpoint: the signed text that it was pruned by; of a line at or behind that one.
        trails: by uid, the system's under zeros.
    """

    vault_id: bytes
    segment: int
    seq: int
    head: bytes
    checkpoint: str
    trails: Mapping[bytes, TrailBase] = field(default_factory=dict)

    @property
    def begin(self) -> Position:
        """Where the journal begins."""
        return Position(self.segment, 0, self.seq, self.head)

    def trail(self, uid: bytes) -> TrailBase:
        """What of that trail was pruned; nothing, if it is not known."""
        return self.trails.get(uid, TrailBase(0, GENESIS))

    def counts(self) -> dict[bytes | None, int]:
        """Records pruned by trail, as `chain.Walk` takes them."""
        zeros = bytes(16)
        return {None if uid == zeros else uid.hex().encode(): row.seq for uid, row in self.trails.items()}

    def encode(self) -> bytes:
        """The file."""
        header = {
            "checkpoint": self.checkpoint,
            "format": FORMAT,
            "head": self.head.hex(),
            "segment": self.segment,
            "seq": self.seq,
            "v": VERSION,
            "vault": self.vault_id.hex(),
        }
        rows = (f'["{uid.hex()}",{row.seq},"{row.head.hex()}"]\n' for uid, row in sorted(self.trails.items()))
        return (canonical(header) + "\n" + "".join(rows)).encode("ascii")

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read the file.

        Raises:
            IntegrityError: not in the one form.
            FormatVersion: a later version wrote it.
        """
        first, *rest = data.split(b"\n")
        try:
            header: dict[str, Any] = parse_canonical(first.decode("ascii"))
        except (UnicodeDecodeError, IntegrityError) as error:
            raise _misformed() from error
        if header.get("format") == FORMAT and type(header.get("v")) is int and header["v"] > VERSION:
            raise FormatVersion(
                f"what the journal begins after is of version {header['v']}, this program reads version {VERSION}",
                "use the version of vaultd that wrote it, or a later one",
            )
        trails = {}
        for raw in rest[:-1]:
            row = _ROW.fullmatch(raw)
            if row is None or int(row[2]) > MAX_INT:
                raise _misformed()
            trails[bytes.fromhex(row[1].decode())] = TrailBase(int(row[2]), bytes.fromhex(row[3].decode()))
        try:
            found = cls(
                bytes.fromhex(header["vault"]),
                header["segment"],
                header["seq"],
                bytes.fromhex(header["head"]),
                header["checkpoint"],
                trails,
            )
            sane = len(found.vault_id) == 16 and len(found.head) == 32 and found.segment > 1 and found.seq > 0
            if sane and type(found.checkpoint) is str and found.encode() == data:
                return found
        except (KeyError, TypeError, ValueError) as error:
            raise _misformed() from error
        raise _misformed()


NEVER_PRUNED: Final = Base(bytes(16), 1, 0, GENESIS, "")
"""What a journal begins after of which everything is left."""


def hash_of(data: bytes) -> bytes:
    """What the anchor knows a base by."""
    return hashlib.blake2b(data, digest_size=32, person=_LABEL).digest()


def _misformed() -> IntegrityError:
    return IntegrityError("what the journal begins after is not in the form this program writes")
