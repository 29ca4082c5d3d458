"""What is owed to the audit trail: events of a halted vault, sealed so that nobody else can have written them. Pure.

    header    "vaultdOW" (8) ‖ format version (2) ‖ zeros (6) ‖ vault id (16) ‖ random id of this halt (16) ‖
              sequence of the newest anchor when it halted (8)
    entry     u32 length of what follows ‖ sealed:
              seal(owed key, context("owed", header, index from 1, tag of the entry before), padded)

    padded    u32 length ‖ entry as canonical JSON ‖ zeros to the next multiple of 256 bytes
    owed key  B(system key, "vaultd.owedkey", "")

The tag before the first entry is 16 zero bytes. Entries are appended one by one; what follows the first that does not
open is unreadable. `RECORDS.md` says what becomes of it.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from vaultd.audit.body import Actor, Event, pad, unpad
from vaultd.audit.canonical import canonical, parse_canonical, timestamp
from vaultd.crypto.context import context
from vaultd.crypto.primitives import derive, open_sealed, seal
from vaultd.errors import IntegrityError

if TYPE_CHECKING:
    from vaultd.crypto.memory import Key

__all__ = ["MAX_SIZE", "Debt", "Header", "Writer", "owed_key", "read"]

_HEADER: Final = struct.Struct(">8sH6s16s16sQ")
_MAGIC: Final = b"vaultdOW"
_VERSION: Final = 1
_LENGTH: Final = struct.Struct(">I")
_LABEL: Final = b"vaultd.owedkey"
_NO_TAG: Final = bytes(16)

MAX_SIZE: Final = 64 << 20
"""Bytes that are read of a file at most."""

_TEXTS: Final = ("reason", "run", "purpose", "tenant", "secret", "lease", "delivery")
_NUMBERS: Final = ("version", "total")
_MAPS: Final = ("extra", "public")


class Debt(NamedTuple):
    """One event that is owed.

    Attributes:
        event: as it would have been recorded.
        wall: when it happened, UTC nanoseconds since 1970.
        trail: uid of the tenant in whose trail it belongs; None is the system's.
        ended: ids of the runs that it ended.
        seals: whether it sealed that tenant.
    """

    event: Event
    wall: int
    trail: bytes | None = None
    ended: tuple[str, ...] = ()
    seals: bool = False

    def late(self, *, verified: bool) -> Event:
        """The event as it is recorded in the end: it says when it was, that it was owed, whether that is certain."""
        said: dict[str, Any] = {"at": timestamp(self.wall), "owed": True}
        if not verified:
            said["verified"] = False
        return self.event._replace(extra={**(self.event.extra or {}), **said})

    def encode(self) -> bytes:
        """Canonical JSON."""
        event, actor = self.event, self.event.actor
        facts: dict[str, Any] = {"kind": event.kind, "outcome": event.outcome, "actor": parse_canonical(actor.json)}
        if actor.service is not None:
            facts["service"] = actor.service
        for name in (*_TEXTS, *_NUMBERS, *_MAPS):
            value = getattr(event, name)
            if value is not None:
                facts[name] = value
        entry: dict[str, Any] = {"event": facts, "wall": self.wall, "ended": list(self.ended), "seals": self.seals}
        if self.trail is not None:
            entry["trail"] = self.trail.hex()
        return canonical(entry).encode("ascii")

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read what `encode` wrote.

        Raises:
            IntegrityError: it is something else.
        """
        try:
            entry = parse_canonical(data.decode("ascii"))
            facts = entry["event"]
            known = facts["actor"]
            actor = Actor(
                known["kind"],
                facts.get("service"),
                known.get("uid"),
                known.get("gid"),
                known.get("pid"),
                known.get("pidfd"),
                known.get("exe"),
                known.get("cgroup"),
                known.get("slot"),
            )
            more = {name: facts.get(name) for name in (*_TEXTS, *_NUMBERS, *_MAPS)}
            event = Event(facts["kind"], facts["outcome"], actor, **more)
            trail = bytes.fromhex(entry["trail"]) if "trail" in entry else None
            return cls(event, entry["wall"], trail, tuple(entry["ended"]), entry["seals"])
        except (KeyError, TypeError, ValueError) as error:
            raise IntegrityError("not an entry of what is owed") from error


class Header(NamedTuple):
    """Whose debts they are, and of which halt."""

    vault_id: bytes
    halt: bytes
    """16 random bytes."""
    anchor: int
    """Sequence of the newest anchor then."""

    def encode(self) -> bytes:
        """The file's first bytes."""
        return _HEADER.pack(_MAGIC, _VERSION, bytes(6), *self)


def owed_key(system_key: Key) -> Key:
    """What seals and opens debts; derives from the system key, which outlives the root key."""
    return derive(system_key, _LABEL)


class Writer:
    """Seals debts, one after the other, for one file.

    Args:
        key: stays the caller's to wipe.
    """

    def __init__(self, key: Key, header: Header) -> None:
        self.header = header.encode()
        self._key = key
        self._count = 0
        self._tag = _NO_TAG

    def entry(self, debt: Debt) -> bytes:
        """The bytes to append."""
        # A random nonce each, under a key that seals some thousand entries in a vault's life.
        sealed = seal(self._key, context("owed", self.header, self._count + 1, self._tag), pad(debt.encode()))
        self._count += 1
        self._tag = sealed[-16:]
        return _LENGTH.pack(len(sealed)) + sealed


def read(data: bytes, vault_id: bytes, key: Key) -> tuple[Header | None, list[Debt], bool]:
    """Every debt that opens, up to the first that does not.

    Returns:
        The header, authentic because every entry is sealed with it; None when no entry opens. The debts. Whether that
        is all there is.
    """
    debts: list[Debt] = []
    offset, tag = _HEADER.size, _NO_TAG
    if len(data) < offset:
        return None, debts, False
    magic, version, zeros, *rest = _HEADER.unpack_from(data)
    header = Header(*rest)
    known = (magic, version, zeros, header.vault_id) == (_MAGIC, _VERSION, bytes(6), vault_id)
    while known and offset < len(data):
        length = int.from_bytes(data[offset : offset + _LENGTH.size], "big")
        end = offset + _LENGTH.size + length
        sealed = data[offset + _LENGTH.size : end]
        try:
            # A length that does not fit leaves other bytes than were sealed, so it needs no check of its own.
            opened = open_sealed(key, context("owed", data[: _HEADER.size], len(debts) + 1, tag), sealed)
            debts.append(Debt.decode(unpad(opened)))
        except IntegrityError:
            break
        offset, tag = end, sealed[-16:]
    return header if debts else None, debts, known and offset == len(data)
