"""What an audit record says: who did what to which secret, how it ended, and which record of its trail it is.

Pure: facts in, canonical JSON out, and the padding around it. Never a value, never a value's hash.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from json.encoder import encode_basestring_ascii as _quote
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from vaultd.audit.canonical import canonical, parse_canonical
from vaultd.errors import IntegrityError, Internal

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "MAX_BODY",
    "PRIVATE",
    "Actor",
    "Event",
    "Outcome",
    "body_json",
    "pad",
    "public_part",
    "sub_link",
    "unpad",
]

Outcome = Literal["ok", "denied", "failed", "counted"]
"""`ok`: done, or about to be. `denied`: refused. `failed`: allowed, then went wrong. `counted`: many in one record."""

MAX_BODY: Final = 256 << 10
"""Bytes of the longest body. Lists of ids that might pass it must be cut by whoever makes the event, with a count."""

PAD_STEP: Final = 256

PRIVATE: Final = frozenset({"extra", "lease", "purpose", "run", "salt", "secret", "service", "tenant"})
"""Keys of a body that a system record keeps sealed: names live sealed everywhere else on the disk too."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acted, as the kernel said at connect; made once a connection.

    Attributes:
        kind: `service`, `run`, `admin`, `responder`, `embedded`, `system` (vaultd itself) or `peer` (nobody we know).
        service: the service that matched, if any.
        uid, gid, pid, pidfd_inode: of the peer; pid is a hint, the pidfd's inode is what cannot be reused.
        exe: path of the peer's executable, cgroup: its full path, where they could be read.
        slot: the key slot whose secret was shown, for verbs that take one.
    """

    kind: str
    service: str | None = None
    uid: int | None = None
    gid: int | None = None
    pid: int | None = None
    pidfd_inode: int | None = None
    exe: str | None = None
    cgroup: str | None = None
    slot: int | None = None
    json: str = field(init=False, repr=False, compare=False)
    """The facts as canonical JSON, without the service, which stands in the body itself. Not to be changed."""

    def __post_init__(self) -> None:
        facts = {
            "cgroup": self.cgroup,
            "exe": self.exe,
            "gid": self.gid,
            "kind": self.kind,
            "pid": self.pid,
            "pidfd": self.pidfd_inode,
            "slot": self.slot,
            "uid": self.uid,
        }
        object.__setattr__(self, "json", canonical({key: fact for key, fact in facts.items() if fact is not None}))


class Event(NamedTuple):
    """One thing to record. Keys that are `None` are left out of the body.

    In the system's trail the keys of `PRIVATE` are kept sealed and the others are clear, so that names of tenants,
    services and secrets stay off the disk: `reason` must be a constant text, `public` must hold none.
    """

    kind: str
    """What was asked: usually the operation's name, such as `lease.acquire`."""
    outcome: Outcome
    actor: Actor
    reason: str | None = None
    """A constant text: why it was denied or failed."""
    run: str | None = None
    purpose: str | None = None
    tenant: str | None = None
    """A tenant's name, where a system record speaks of one."""
    secret: str | None = None
    version: int | None = None
    lease: str | None = None
    delivery: str | None = None
    total: int | None = None
    """How many this record stands for, when `counted` or when many things ended at once."""
    extra: Mapping[str, Any] | None = None
    """Further facts that canonical JSON can say."""
    public: Mapping[str, Any] | None = None
    """As `extra`, but in the clear in the system's trail: counts, file positions, versions of programs."""
    secret_id: bytes | None = None
    """Not written: goes to the receipt, which names what a value may be opened for."""

    @property
    def needs_sealing(self) -> bool:
        """Whether a system record of this event has something to keep sealed."""
        return not (
            self.tenant is None
            and self.secret is None
            and self.purpose is None
            and self.run is None
            and self.lease is None
            and self.actor.service is None
            and not self.extra
        )


def body_json(event: Event, time: str, sub_seq: int, salt: str | None) -> str:
    """The body of `event` as record `sub_seq` of its trail, in canonical JSON.

    Args:
        event: what to say.
        time: the line's time, as `canonical.timestamp` writes it.
        sub_seq: the record's number in its trail, from 1.
        salt: 32 hex digits of fresh randomness for a body that is sealed, so that the head in the clear, a hash of
            it, cannot be used to try guesses of what it says; None for a body that goes into the clear: then the keys
            of `PRIVATE` are left out.

    Raises:
        Internal: `extra` or `public` holds what canonical JSON cannot say, or the body is longer than `MAX_BODY`.
    """
    # In the order of sorted keys, by hand: this is on the way of every answer. Tests compare with the JSON library.
    actor = event.actor
    parts = ['{"actor":', actor.json]
    if event.total is not None:
        parts.append(f',"count":{event.total}')
    if event.delivery is not None:
        parts.append(f',"delivery":{_quote(event.delivery)}')
    if event.extra and salt is not None:
        parts.append(f',"extra":{canonical(event.extra)}')
    parts.append(f',"kind":{_quote(event.kind)}')
    if event.lease is not None and salt is not None:
        parts.append(f',"lease":{_quote(event.lease)}')
    parts.append(f',"outcome":"{event.outcome}"')
    if event.public:
        parts.append(f',"public":{canonical(event.public)}')
    if event.purpose is not None and salt is not None:
        parts.append(f',"purpose":{_quote(event.purpose)}')
    if event.reason is not None:
        parts.append(f',"reason":{_quote(event.reason)}')
    if salt is not None:
        if event.run is not None:
            parts.append(f',"run":{_quote(event.run)}')
        parts.append(f',"salt":"{salt}"')
        if event.secret is not None:
            parts.append(f',"secret":{_quote(event.secret)}')
        if actor.service is not None:
            parts.append(f',"service":{_quote(actor.service)}')
        if event.tenant is not None:
            parts.append(f',"tenant":{_quote(event.tenant)}')
    parts.append(f',"time":"{time}","tseq":{sub_seq}')
    if event.version is not None:
        parts.append(f',"version":{event.version}')
    parts.append("}")
    body = "".join(parts)
    if len(body) > MAX_BODY:
        raise Internal("an audit record is too long; its maker must cut its lists")
    return body


def public_part(body: str) -> str:
    """What a system record shows in the clear of a body that is sealed beside it: all but the keys of `PRIVATE`."""
    return canonical({key: value for key, value in parse_canonical(body).items() if key not in PRIVATE})


def sub_link(sub_head: bytes, body: bytes) -> bytes:
    """The trail's head after `body` (canonical JSON): SHA-256(head before || SHA-256(body)).

    The head before is bound here and stands in the record before, so the body need not repeat it.
    """
    return sha256(sub_head + sha256(body).digest()).digest()


def pad(body: bytes) -> bytes:
    """u32 length, the body, and zeros up to a multiple of 256 bytes: the sealed size tells 256-byte steps only."""
    return len(body).to_bytes(4, "big") + body + bytes(-(len(body) + 4) % PAD_STEP)


def unpad(padded: bytes | bytearray) -> bytes:
    """The inverse of `pad`.

    Raises:
        IntegrityError: the bytes are not what `pad` makes.
    """
    length = int.from_bytes(padded[:4], "big")
    body = bytes(padded[4 : 4 + length])
    if len(body) != length or pad(body) != padded:
        raise IntegrityError("an audit body is not padded as it must be")
    return body
