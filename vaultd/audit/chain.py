"""The journal's lines and the hash chain through them: pure functions from bytes to facts and back.

A line is one JSON object in ASCII, its keys in one fixed order, without spaces, ended by a newline. Its last key is
`hash`: SHA-256(previous hash || SHA-256(the line without that key)). `FORMAT.md` has every rule and a worked example.
Decoding is strict: a line that is accepted is the only spelling of what it says.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from vaultd.errors import FormatVersion, IntegrityError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "GENESIS",
    "MAX_LINE",
    "Line",
    "Link",
    "Verdict",
    "Vouch",
    "canonical",
    "decode",
    "encode",
    "follow",
    "link",
    "parse_canonical",
    "parse_timestamp",
    "render",
    "timestamp",
    "verify",
]

GENESIS: Final = bytes(32)
"""The hash before the first line, and the sub-chain head before a tenant's first record."""

MAX_LINE: Final = 1 << 20
"""Bytes of the longest line, newline included; longer ones are refused before they are parsed."""

VERSION: Final = 1
_TAIL: Final = len(',"hash":"') + 64 + len('"}\n')
_MAX_INT: Final = (1 << 63) - 1
_MAX_DEPTH: Final = 16

_UINT: Final = rb"(?:0|[1-9][0-9]{0,18})"
_HEX32: Final = rb"[0-9a-f]{32}"
_HEX64: Final = rb"[0-9a-f]{64}"
# Standard base64 in its one spelling: the bits that padding leaves over are zero.
_BASE64: Final = rb"(?:[A-Za-z0-9+/]{4})*+(?:[A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?"
_VOUCH: Final = rb'\["' + _HEX32 + rb'",' + _UINT + rb"," + _UINT + rb',"' + _HEX32 + rb'"\]'
# No key after the body holds a brace, so the body is what lies up to the last brace but one: one reading only.
_LINE: Final = re.compile(
    rb'\{"v":1,"seq":(?P<seq>' + _UINT + rb")"
    rb',"time":"(?P<time>[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z)"'
    rb'(?:,"vault":"(?P<vault>' + _HEX32 + rb')")?'
    rb',"tenant":(?:"(?P<tenant>' + _HEX32 + rb')"|null)'
    rb'(?:,"heads":\[(?P<heads>' + _VOUCH + rb"(?:," + _VOUCH + rb")*+)\])?"
    rb',"sub":\{"seq":(?P<sub_seq>' + _UINT + rb'),"head":"(?P<sub_head>' + _HEX64 + rb')"\}'
    rb'(?:,"body":(?P<body>\{.*\}))?'
    rb'(?:,"key":(?P<key>' + _UINT + rb")"
    rb'(?:,"session":"(?P<session>' + _BASE64 + rb')")?'
    rb',"sealed":"(?P<sealed>' + _BASE64 + rb')")?'
    rb',"hash":"(?P<hash>' + _HEX64 + rb')"\}\n'
)
_ANY_VERSION: Final = re.compile(rb'\{"v":(?P<v>[1-9][0-9]{0,8}),')


class Vouch(NamedTuple):
    """One entry of a line's `heads`: the last record of a sealed log that the line speaks for."""

    uid: bytes
    """The log's domain, 16 bytes."""
    generation: int
    record: int
    """The record's index in that log."""
    tag: bytes
    """The record's authentication tag, 16 bytes."""


class Link(NamedTuple):
    """Where the chain stands after a line."""

    seq: int
    head: bytes


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the journal, taken apart. `None` stands for a key that is absent."""

    seq: int
    time: str
    tenant: bytes | None
    """The tenant's uid; `None` is the system's trail."""
    sub_seq: int
    sub_head: bytes
    hash: bytes
    vault: bytes | None = None
    heads: tuple[Vouch, ...] = ()
    body: str | None = None
    """The clear body as canonical JSON: system lines only."""
    key: int | None = None
    """The sequence number of the line that carries the session key this line's `sealed` is under."""
    session: bytes | None = None
    sealed: bytes | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a walk along the chain found."""

    seq: int
    """Sequence number of the last good line."""
    head: bytes
    """Hash of the last good line."""
    lines: int
    """How many good lines were seen."""
    bad_line: int | None = None
    """The first bad line, counted from 1 in what was walked; `None` when all are good."""
    reason: str = ""

    @property
    def ok(self) -> bool:
        return self.bad_line is None


@lru_cache(maxsize=8)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def timestamp(wall: int) -> str:
    """`wall` (UTC nanoseconds since 1970) as the journal writes it: RFC 3339 with microseconds, cut, not rounded."""
    return f"{_second(wall // 1_000_000_000)}.{wall // 1_000 % 1_000_000:06d}Z"


def parse_timestamp(text: str) -> int:
    """The inverse of `timestamp`: UTC nanoseconds since 1970.

    Raises:
        IntegrityError: not a time in the journal's one spelling.
    """
    try:
        moment = datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
    except ValueError as error:
        raise IntegrityError("not a time as the journal writes it") from error
    wall = (int(moment.replace(microsecond=0).timestamp()) * 1_000_000 + moment.microsecond) * 1_000
    if timestamp(wall) != text:
        raise IntegrityError("not a time as the journal writes it")
    return wall


_encoder = json.JSONEncoder(ensure_ascii=True, allow_nan=False, sort_keys=True, separators=(",", ":"))


def canonical(value: object) -> str:
    """`value` as canonical JSON: ASCII, keys sorted, no spaces.

    It may hold objects, lists, strings, booleans, null and 64-bit integers. Fractions are left out because they have
    many spellings.

    Raises:
        IntegrityError: something else is in it, or it is nested more than 16 deep.
    """
    _check(value, 0)
    return _encoder.encode(value)


def _check(value: object, depth: int) -> None:
    if value is None or isinstance(value, (str, bool)):
        return
    if isinstance(value, int):
        if not -_MAX_INT <= value <= _MAX_INT:
            raise IntegrityError("a number in an audit body does not fit 64 bits")
        return
    if depth >= _MAX_DEPTH:
        raise IntegrityError("an audit body is nested too deep")
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise IntegrityError("a key in an audit body is not a string")
            _check(item, depth + 1)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check(item, depth + 1)
    else:
        raise IntegrityError("an audit body holds what canonical JSON cannot say")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _refuse(_text: str) -> Any:
    raise ValueError("not an integer")


_decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_refuse, parse_constant=_refuse)


def parse_canonical(text: str) -> dict[str, Any]:
    """The object that `text` spells.

    Raises:
        IntegrityError: it is not one JSON object in canonical form.
    """
    try:
        value = _decoder.decode(text)
    except (ValueError, RecursionError) as error:
        raise IntegrityError("an audit body is not canonical json") from error
    if not isinstance(value, dict) or canonical(value) != text:
        raise IntegrityError("an audit body is not canonical json")
    return value


def render(
    seq: int,
    time: str,
    tenant: str | None,
    sub_seq: int,
    sub_head: str,
    *,
    vault: str | None = None,
    heads: Sequence[Vouch] = (),
    body: str | None = None,
    key: int | None = None,
    session: bytes | None = None,
    sealed: bytes | None = None,
) -> bytes:
    """A line without its hash: what `link` closes. `tenant`, `sub_head` and `vault` are in hex already."""
    # Formatted by hand because this is on the way of every answer; tests hold it equal to the JSON library's spelling.
    parts = [f'{{"v":1,"seq":{seq},"time":"{time}"']
    if vault is not None:
        parts.append(f',"vault":"{vault}"')
    parts.append(',"tenant":null' if tenant is None else f',"tenant":"{tenant}"')
    if heads:
        parts.append(
            ',"heads":['
            + ",".join(
                [f'["{uid.hex()}",{generation},{record},"{tag.hex()}"]' for uid, generation, record, tag in heads]
            )
            + "]"
        )
    parts.append(f',"sub":{{"seq":{sub_seq},"head":"{sub_head}"}}')
    if body is not None:
        parts.append(f',"body":{body}')
    if sealed is not None:
        parts.append(f',"key":{key}')
        if session is not None:
            parts.append(f',"session":"{b64encode(session).decode()}"')
        parts.append(f',"sealed":"{b64encode(sealed).decode()}"')
    parts.append("}")
    return "".join(parts).encode("ascii")


def link(previous: bytes, rendered: bytes) -> tuple[bytes, bytes]:
    """Close a rendered line: the whole line with its newline, and its hash."""
    head = sha256(previous + sha256(rendered).digest()).digest()
    return b'%b,"hash":"%b"}\n' % (rendered[:-1], head.hex().encode()), head


def encode(line: Line) -> bytes:
    """The one spelling of `line`, its own `hash` included as it is (the chain is `link`'s and `follow`'s matter)."""
    rendered = render(
        line.seq,
        line.time,
        None if line.tenant is None else line.tenant.hex(),
        line.sub_seq,
        line.sub_head.hex(),
        vault=None if line.vault is None else line.vault.hex(),
        heads=line.heads,
        body=line.body,
        key=line.key,
        session=line.session,
        sealed=line.sealed,
    )
    return b'%b,"hash":"%b"}\n' % (rendered[:-1], line.hash.hex().encode())


def decode(raw: bytes) -> Line:
    """Take one line apart, its newline included.

    Raises:
        FormatVersion: the line says that it is of a version this code does not read.
        IntegrityError: it is not a line in its one spelling.
    """
    if len(raw) > MAX_LINE:
        raise IntegrityError("the line is longer than any line of a journal")
    found = _LINE.fullmatch(raw)
    if found is None:
        said = _ANY_VERSION.match(raw)
        if said is not None and int(said["v"]) > VERSION:
            raise FormatVersion(
                f"the line is of journal version {int(said['v'])}, this program reads version {VERSION}",
                "use the version of vaultd that wrote it, or a later one",
            )
        raise IntegrityError("not a line as a journal writes it" if raw.endswith(b"\n") else "the line is cut short")
    time = found["time"].decode()
    parse_timestamp(time)
    tenant, body, sealed = found["tenant"], found["body"], found["sealed"]
    seq, key, session = int(found["seq"]), found["key"], found["session"]
    _check_shape(seq, found["vault"], tenant, body, sealed, key, session)
    return Line(
        seq=seq,
        time=time,
        tenant=None if tenant is None else bytes.fromhex(tenant.decode()),
        sub_seq=_number(found["sub_seq"]),
        sub_head=bytes.fromhex(found["sub_head"].decode()),
        hash=bytes.fromhex(found["hash"].decode()),
        vault=None if found["vault"] is None else bytes.fromhex(found["vault"].decode()),
        heads=() if found["heads"] is None else _vouches(found["heads"]),
        body=None if body is None else _clear_body(body),
        key=None if key is None else _number(key),
        session=None if session is None else b64decode(session),
        sealed=None if sealed is None else b64decode(sealed),
    )


def _check_shape(
    seq: int,
    vault: bytes | None,
    tenant: bytes | None,
    body: bytes | None,
    sealed: bytes | None,
    key: bytes | None,
    session: bytes | None,
) -> None:
    """Which keys go together. A tenant's line says nothing in the clear; a system line always says something."""
    if not 1 <= seq <= _MAX_INT:
        raise IntegrityError("the line's sequence number is out of range")
    if tenant is None:
        if body is None:
            raise IntegrityError("a system line has no clear body")
    elif body is not None or sealed is None:
        raise IntegrityError("a tenant's line must have a sealed body and no clear one")
    if (session is not None) != (key is not None and int(key) == seq):
        raise IntegrityError("a session key must stand in exactly the line that its records name")
    if key is not None and int(key) > seq:
        raise IntegrityError("the line names a session key of a later line")
    if (vault is not None) != (seq == 1):
        raise IntegrityError("the vault's id must stand in the first line and nowhere else")


def _number(text: bytes) -> int:
    value = int(text)
    if value > _MAX_INT:
        raise IntegrityError("a number in the line does not fit 63 bits")
    return value


def _vouches(text: bytes) -> tuple[Vouch, ...]:
    return tuple(
        Vouch(bytes.fromhex(uid), generation, record, bytes.fromhex(tag))
        for uid, generation, record, tag in json.loads(b"[" + text + b"]")
    )


def _clear_body(text: bytes) -> str:
    try:
        body = text.decode("ascii")
    except UnicodeDecodeError as error:
        raise IntegrityError("an audit body is not ascii") from error
    parse_canonical(body)
    return body


def follow(raw: bytes, at: Link) -> tuple[Line, Link]:
    """The line that comes after `at`, checked against it.

    Raises:
        FormatVersion, IntegrityError: see `decode`; or its number or its hash is not the one that follows.
    """
    line = decode(raw)
    if line.seq != at.seq + 1:
        raise IntegrityError(f"line {line.seq} stands where line {at.seq + 1} should")
    head = sha256(at.head + sha256(raw[:-_TAIL] + b"}").digest()).digest()
    # Public values on both sides: anybody can compute them, so an ordinary comparison tells nothing.
    if head != line.hash:
        raise IntegrityError("the hash does not follow from the line and the one before it")
    return line, Link(line.seq, head)


def verify(lines: Iterable[bytes], at: Link = Link(0, GENESIS)) -> Verdict:  # noqa: B008 (immutable)
    """Walk `lines` (each with its newline) on from `at` and stop at the first bad one.

    Beside the chain it holds what can be held without keys: each trail's own count has no gap, and each sealed body
    names the session that its trail's newest session line started.
    """
    count = 0
    trails: dict[bytes | None, tuple[int, int | None]] = {}
    for raw in lines:
        try:
            line, after = follow(raw, at)
            _check_trail(line, trails, whole=at.seq - count == 0)
        except (IntegrityError, FormatVersion) as error:
            return Verdict(at.seq, at.head, count, count + 1, error.message)
        at = after
        count += 1
    return Verdict(at.seq, at.head, count)


def _check_trail(line: Line, trails: dict[bytes | None, tuple[int, int | None]], *, whole: bool) -> None:
    """Hold a line against what came before in its own trail; a walk that starts midway takes the first on trust."""
    known = trails.get(line.tenant, (0, None) if whole else None)
    session = line.key
    if known is not None:
        seen, latest = known
        if line.sub_seq != seen + 1:
            raise IntegrityError(f"record {line.sub_seq} of its trail stands where record {seen + 1} should")
        if line.key is None:
            session = latest
        elif line.key not in (latest, line.seq) and (whole or latest is not None):
            raise IntegrityError("the line names a session key that its trail does not have")
    trails[line.tenant] = (line.sub_seq, session)
