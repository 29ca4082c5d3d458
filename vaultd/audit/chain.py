"""The journal's lines and the hash chain through them: pure functions from bytes to facts and back.

A line is one JSON object in ASCII, its keys in one fixed order, without spaces, ended by a newline. Its last key is
`hash`: SHA-256(previous hash || SHA-256(the line without that key)). `FORMAT.md` has every rule and a worked example.
Decoding is strict: a line that is accepted is the only spelling of what it says. Between the records stand the forward
seal's tag lines (`tags`).
"""

from __future__ import annotations

import json
import re
from binascii import a2b_base64 as _unbase64
from binascii import b2a_base64 as _base64
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Final, NamedTuple

from vaultd.audit import tags
from vaultd.audit.canonical import MAX_INT, parse_canonical, parse_second
from vaultd.audit.tags import TAG_FORM, Tag
from vaultd.errors import FormatVersion, IntegrityError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = [
    "GENESIS",
    "MAX_LINE",
    "Line",
    "Link",
    "Verdict",
    "Vouch",
    "Walk",
    "decode",
    "encode",
    "follow",
    "link",
    "parse",
    "render",
    "verify",
]

GENESIS: Final = bytes(32)
"""The hash before the first line, and the sub-chain head before a tenant's first record."""

MAX_LINE: Final = 1 << 20
"""Bytes of the longest line, newline included; longer ones are refused before they are parsed."""

VERSION: Final = 2
"""The newest that is read: records are of version 1, tag lines of version 2."""
_HASH_KEY: Final = b',"hash":"'
_TAIL: Final = len(_HASH_KEY) + 64 + len(b'"}\n')

_UINT: Final = rb"(?:0|[1-9][0-9]{0,18})"
_HEX32: Final = rb"[0-9a-f]{32}"
_HEX64: Final = rb"[0-9a-f]{64}"
_BASE64: Final = rb"[A-Za-z0-9+/]*+={0,2}"
# How base64 may end in its one spelling: the bits that padding leaves over are zero.
_BASE64_END: Final = re.compile(rb"[A-Za-z0-9+/]{4}|[A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=")
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
    """A line up to its hash, without a closing brace: what `link` closes. Ids and heads are given in hex."""
    # Formatted by hand because this is on the way of every answer; tests hold it equal to the JSON library's spelling.
    owner = "null" if tenant is None else f'"{tenant}"'
    start = middle = end = ""
    if vault is not None:
        start = f',"vault":"{vault}"'
    if heads:
        vouches = [f'["{uid.hex()}",{generation},{record},"{tag.hex()}"]' for uid, generation, record, tag in heads]
        middle = f',"heads":[{",".join(vouches)}]'
    if body is not None:
        end = f',"body":{body}'
    if sealed is not None:
        opening = "" if session is None else f',"session":"{_base64(session, newline=False).decode()}"'
        end = f'{end},"key":{key}{opening},"sealed":"{_base64(sealed, newline=False).decode()}"'
    return (
        f'{{"v":1,"seq":{seq},"time":"{time}"{start},"tenant":{owner}{middle}'
        f',"sub":{{"seq":{sub_seq},"head":"{sub_head}"}}{end}'
    ).encode("ascii")


def link(previous: bytes, rendered: bytes) -> tuple[bytes, bytes]:
    """Close a rendered line: the whole line with its newline, and its hash."""
    head = sha256(previous + sha256(rendered + b"}").digest()).digest()
    return b"".join((rendered, _HASH_KEY, head.hex().encode(), b'"}\n')), head


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
    return rendered + _HASH_KEY + line.hash.hex().encode() + b'"}\n'


def parse(raw: bytes) -> Line | Tag:
    """Take one line apart, its newline included: a record's, or a tag line.

    Raises:
        FormatVersion: the line says that it is of a version this code does not read.
        IntegrityError: it is not a line in its one spelling.
    """
    found = _match(raw)
    return tags.read(found) if found.re is TAG_FORM else _line(found)


def decode(raw: bytes) -> Line:
    """Take a record's line apart, its newline included.

    Raises:
        FormatVersion, IntegrityError: as `parse`; or it is a tag line.
    """
    found = _match(raw)
    if found.re is TAG_FORM:
        raise IntegrityError("a tag line stands where a record should")
    return _line(found)


def _line(found: re.Match[bytes]) -> Line:
    tenant, vault, heads, body = found["tenant"], found["vault"], found["heads"], found["body"]
    key, session, sealed = found["key"], found["session"], found["sealed"]
    return Line(
        seq=int(found["seq"]),
        time=found["time"].decode(),
        tenant=None if tenant is None else bytes.fromhex(tenant.decode()),
        sub_seq=int(found["sub_seq"]),
        sub_head=bytes.fromhex(found["sub_head"].decode()),
        hash=bytes.fromhex(found["hash"].decode()),
        vault=None if vault is None else bytes.fromhex(vault.decode()),
        heads=() if heads is None else _vouches(heads),
        body=None if body is None else body.decode(),
        key=None if key is None else int(key),
        session=None if session is None else _unbase64(session),
        sealed=None if sealed is None else _unbase64(sealed),
    )


def _match(raw: bytes) -> re.Match[bytes]:
    """Hold `raw` against the grammar and against the rules of which keys go together."""
    if len(raw) > MAX_LINE:
        raise IntegrityError("the line is longer than any line of a journal")
    found = _LINE.fullmatch(raw) or TAG_FORM.fullmatch(raw)
    if found is None:
        said = _ANY_VERSION.match(raw)
        if said is not None and int(said["v"]) > VERSION:
            raise FormatVersion(
                f"the line is of journal version {int(said['v'])}, this program reads version {VERSION}",
                "use the version of vaultd that wrote it, or a later one",
            )
        raise IntegrityError("not a line as a journal writes it" if raw.endswith(b"\n") else "the line is cut short")
    seq, time, vault = found.group("seq", "time", "vault")
    try:
        parse_second(time[:19].decode())
    except ValueError as error:
        raise IntegrityError("not a time as the journal writes it") from error
    number = int(seq)
    if not 1 <= number <= MAX_INT:
        raise IntegrityError("a number in the line is out of range")
    if vault is None and number == 1:
        raise IntegrityError("the vault's id must stand in the first line")
    if found.re is not TAG_FORM:
        _check_record(found, number)
    return found


def _check_record(found: re.Match[bytes], number: int) -> None:
    """The rules of which keys go together in a record's line."""
    tenant, sub_seq, body, key, session, sealed = found.group("tenant", "sub_seq", "body", "key", "session", "sealed")
    if not 1 <= int(sub_seq) <= MAX_INT:
        raise IntegrityError("a number in the line is out of range")
    if tenant is None:
        # The system always says something in the clear; what it keeps sealed stands beside it.
        if body is None:
            raise IntegrityError("a system line has no clear body")
        parse_canonical(_ascii(body))
    elif body is not None or sealed is None:
        raise IntegrityError("a tenant's line must have a sealed body and no clear one")
    if sealed is not None:
        key_seq = int(key)
        if not 1 <= key_seq <= number or (session is not None) != (key_seq == number):
            raise IntegrityError("a session key must stand in exactly the line that its records name")
        _check_base64(sealed)
        if session is not None:
            _check_base64(session)


def _check_base64(text: bytes) -> None:
    if len(text) % 4 or _BASE64_END.fullmatch(text, len(text) - 4) is None:
        raise IntegrityError("not base64 in its one spelling")


def _ascii(text: bytes) -> str:
    try:
        return text.decode("ascii")
    except UnicodeDecodeError as error:
        raise IntegrityError("an audit body is not ascii") from error


def _vouches(text: bytes) -> tuple[Vouch, ...]:
    return tuple(
        Vouch(bytes.fromhex(uid), generation, record, bytes.fromhex(tag))
        for uid, generation, record, tag in json.loads(b"[" + text + b"]")
    )


def follow(raw: bytes, at: Link, *, first: bool | None = None) -> tuple[Line | Tag, Link]:
    """The line that comes after `at`, checked against it.

    Args:
        first: whether it is the first of a segment; when left out, the first of all is the only one.

    Raises:
        FormatVersion, IntegrityError: see `parse`; or its number or its hash is not the one that follows.
    """
    line = parse(raw)
    _hold_vault(line.vault, at.seq == 0 if first is None else first)
    return line, _follows(raw, line.seq, line.hash, at)


def _hold_vault(vault: bytes | None, first: bool) -> None:
    # So every segment says whose it is, and no line can be taken for the first of one.
    if (vault is not None) != first:
        raise IntegrityError("the vault's id must stand in the first line and nowhere else")


def _follows(raw: bytes, seq: int, said: bytes, at: Link) -> Link:
    if seq != at.seq + 1:
        raise IntegrityError(f"line {seq} stands where line {at.seq + 1} should")
    head = sha256(at.head + sha256(raw[:-_TAIL] + b"}").digest()).digest()
    # Public values on both sides: anybody can compute them, so an ordinary comparison tells nothing.
    if head != said:
        raise IntegrityError("the hash does not follow from the line and the one before it")
    return Link(seq, head)


class Walk:
    """A walk along the chain, line by line, holding what can be held without keys.

    Beside the chain: each trail's own count has no gap, each sealed body names the session that its trail's newest
    session line of this segment started, and the forward seal's epochs are counted without a gap. A walk that starts
    midway takes the first line of each trail, and the first tag line, on trust.

    Args:
        trails: at the start of a segment, how many records each trail has before it, by its uid in hex (None: the
            system's); then no trail is taken on trust.

    Attributes:
        tag: the newest tag line.
    """

    def __init__(
        self,
        at: Link = Link(0, GENESIS),  # noqa: B008 (immutable)
        trails: Mapping[bytes | None, int] | None = None,
    ) -> None:
        self.at = at
        self.lines = 0
        self.vault: bytes | None = None
        self.tag: Tag | None = None
        self._whole = at.seq == 0 or trails is not None
        self._from_start = at.seq == 0
        # Records so far, the session's line (0: none known). A session does not go on in the next segment.
        self._trails: dict[bytes | None, tuple[int, int]] = {uid: (n, 0) for uid, n in (trails or {}).items()}
        self._segment = at.seq if self._whole else 0  # the line before the segment's first

    @property
    def trails(self) -> int:
        """How many trails were met."""
        return len(self._trails)

    def step(self, raw: bytes, *, first: bool | None = None) -> None:
        """Take one line.

        Args:
            first: see `follow`.

        Raises:
            FormatVersion, IntegrityError: it is bad; the walk stays where it was.
        """
        found = _match(raw)
        first = self.at.seq == 0 if first is None else first
        vault = found["vault"]
        _hold_vault(vault, first)
        if vault is not None and self.vault not in (None, bytes.fromhex(vault.decode())):
            raise IntegrityError("the line is of another vault")
        if found.re is TAG_FORM:
            self._step_tag(raw, tags.read(found))
        else:
            self._step_record(raw, found, first=first)
        if first:
            self._segment = self.at.seq - 1
        self.lines += 1
        if vault is not None:
            self.vault = bytes.fromhex(vault.decode())

    def _step_record(self, raw: bytes, found: re.Match[bytes], *, first: bool) -> None:
        seq, tenant, sub_seq, key, said = found.group("seq", "tenant", "sub_seq", "key", "hash")
        after = _follows(raw, int(seq), bytes.fromhex(said.decode()), self.at)
        record, session = int(sub_seq), 0 if key is None else int(key)
        known = self._trails.get(tenant)
        if known is None:
            if self._whole and record != 1:
                raise IntegrityError(f"a trail begins with its record {record}")
            if self._whole and session not in (0, after.seq):
                raise IntegrityError("the line names a session key that its trail does not have")
        else:
            if record != known[0] + 1:
                raise IntegrityError(f"record {record} of its trail stands where record {known[0] + 1} should")
            if session == 0:
                session = known[1]
            elif session not in (known[1], after.seq) and (self._whole or known[1]):
                raise IntegrityError("the line names a session key that its trail does not have")
            elif session != after.seq and (first or session <= self._segment):
                raise IntegrityError("the line names a session key of the segment before")
        self._trails[tenant] = (record, session)
        self.at = after

    def _step_tag(self, raw: bytes, tag: Tag) -> None:
        after = _follows(raw, tag.seq, tag.hash, self.at)
        tags.continues(tag, self.tag, whole=self._from_start)
        self.tag = tag
        self.at = after


def verify(lines: Iterable[bytes], at: Link = Link(0, GENESIS)) -> Verdict:  # noqa: B008 (immutable)
    """Walk `lines` (each with its newline) on from `at` and stop at the first bad one."""
    walk = Walk(at)
    for raw in lines:
        try:
            walk.step(raw)
        except (IntegrityError, FormatVersion) as error:
            return Verdict(walk.at.seq, walk.at.head, walk.lines, walk.lines + 1, error.message)
    return Verdict(walk.at.seq, walk.at.head, walk.lines)
