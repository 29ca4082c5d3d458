"""Lines and the chain through them: one spelling, every link checked."""

from __future__ import annotations

import json
from base64 import b64encode
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.audit_world import VAULT, World
from vaultd.audit.chain import (
    GENESIS,
    MAX_LINE,
    Line,
    Link,
    Vouch,
    Walk,
    decode,
    encode,
    follow,
    link,
    render,
    verify,
)
from vaultd.errors import FormatVersion, IntegrityError

TIME = "2026-11-24T10:00:00.123456Z"
UID = "ab" * 16
HEAD = "cd" * 32

vouches = st.builds(
    Vouch,
    st.binary(min_size=16, max_size=16),
    st.integers(0, 2**32),
    st.integers(0, 2**62),
    st.binary(min_size=16, max_size=16),
)


@st.composite
def lines(draw: st.DrawFn) -> Line:
    """Any line that the rules allow."""
    seq = draw(st.integers(1, 2**63 - 1))
    tenant = draw(st.none() | st.binary(min_size=16, max_size=16))
    sealed: bytes | None = draw(st.binary(min_size=1, max_size=80))
    key = draw(st.integers(1, seq))
    if tenant is None and draw(st.booleans()):
        sealed = None
    return Line(
        seq=seq,
        time=TIME,
        tenant=tenant,
        sub_seq=draw(st.integers(1, 2**63 - 1)),
        sub_head=draw(st.binary(min_size=32, max_size=32)),
        hash=draw(st.binary(min_size=32, max_size=32)),
        vault=VAULT if seq == 1 else None,
        heads=tuple(draw(st.lists(vouches, max_size=3))),
        body='{"kind":"x","nested":{"key":5,"n":[{}]}}' if tenant is None else None,
        key=None if sealed is None else key,
        session=draw(st.binary(min_size=1, max_size=80)) if sealed is not None and key == seq else None,
        sealed=sealed,
    )


def spelled(line: Line) -> dict[str, Any]:
    """The line as a dict in the order of its keys, put together the plain way."""
    found: dict[str, Any] = {"v": 1, "seq": line.seq, "time": line.time}
    if line.vault is not None:
        found["vault"] = line.vault.hex()
    found["tenant"] = None if line.tenant is None else line.tenant.hex()
    if line.heads:
        found["heads"] = [[v.uid.hex(), v.generation, v.record, v.tag.hex()] for v in line.heads]
    found["sub"] = {"seq": line.sub_seq, "head": line.sub_head.hex()}
    if line.body is not None:
        found["body"] = json.loads(line.body)
    if line.sealed is not None:
        found["key"] = line.key
        if line.session is not None:
            found["session"] = b64encode(line.session).decode()
        found["sealed"] = b64encode(line.sealed).decode()
    found["hash"] = line.hash.hex()
    return found


@given(lines())
def test_a_line_is_json_in_a_fixed_order_and_parses_back(line: Line) -> None:
    """The encoded line is the JSON library's spelling of its keys in order, and decodes to the same line."""
    raw = encode(line)
    assert raw == json.dumps(spelled(line), separators=(",", ":")).encode() + b"\n"
    assert decode(raw) == line


@given(lines(), st.data())
def test_a_changed_line_is_refused_or_is_another_line(line: Line, data: st.DataObject) -> None:
    """Parse then serialise is the identity or a refusal, for lines with bytes changed, inserted or removed."""
    raw = bytearray(encode(line))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2) | st.sampled_from([b" ", b"0", b"="]))
    changed = bytes(raw)
    try:
        parsed = decode(changed)
    except (IntegrityError, FormatVersion):
        return
    assert encode(parsed) == changed


def good(**changes: Any) -> bytes:
    """A line of the second kind (a tenant's), with keys of `render` changed."""
    facts: dict[str, Any] = {
        "seq": 5,
        "time": TIME,
        "tenant": UID,
        "sub_seq": 2,
        "sub_head": HEAD,
        "key": 4,
        "sealed": b"s",
    }
    return link(GENESIS, render(**(facts | changes)))[0]


def test_the_plain_line_is_accepted() -> None:
    """The line that the refusals below are made from is itself good."""
    assert decode(good()).sealed == b"s"


@pytest.mark.parametrize(
    "raw",
    [
        good(body="{}"),
        good(sealed=None),
        good(tenant=None),
        good(tenant=None, body="{}", sealed=None, session=b"x").replace(b'"body":{}', b'"body":{},"key":5'),
        good(key=5),
        good(key=6),
        good(key=0),
        good(key=4, session=b"s"),
        good(key=5, session=b"s").replace(b'"session":"cw=="', b'"session":"cx=="'),
        good(seq=1, key=1, session=b"s"),
        good(seq=0),
        good(sub_seq=0),
        good(seq=2**63),
        good(sub_seq=2**63),
        good(time="2026-13-24T10:00:00.123456Z"),
        good(time="2026-11-24T10:00:00Z"),
        good(tenant=UID.upper()),
        good(tenant=UID[:-2]),
        good(sub_head=HEAD.upper()),
        good(tenant=None, body='{"b":1,"a":2}'),
        good(tenant=None, body='{"a":1,"a":1}'),
        good(tenant=None, body="[]"),
        good(tenant=None, body="{}}"),
        good(tenant=None, body='{"a":"' + "x" * MAX_LINE + '"}'),
        good().replace(b'"sealed":"cw=="', b'"sealed":"cx=="'),
        good().replace(b'"sealed":"cw=="', b'"sealed":"cw="'),
        good().replace(b'"sealed":"cw=="', b'"sealed":"cw"'),
        good().replace(b'"sealed":"cw=="', b'"sealed":""'),
        good().replace(b'"sealed":"cw=="', b'"sealed":"===="'),
        good().replace(b'"sealed":"cw=="', b'"sealed":"c-__"'),
        good().replace(b'"seq":5', b'"seq":05', 1),
        good().replace(b'"seq":5', b'"seq":5.0', 1),
        good().replace(b'"seq":5', b'"seq":-5', 1),
        good().replace(b'"v":1,', b'"v":1,"new":0,'),
        good().replace(b'"v":1,', b""),
        good().replace(b",", b", ", 1),
        good()[:-1],
        good() + b"\n",
        good()[:-1] + b"\r\n",
        b"\n",
        b"",
        b"\0" * 512,
    ],
)
def test_a_line_that_breaks_a_rule_is_refused(raw: bytes) -> None:
    """Keys that do not go together, ranges, spellings, lengths: each rule refuses its line."""
    with pytest.raises(IntegrityError):
        decode(raw)


def test_the_vaults_id_stands_in_the_first_line_of_a_segment_alone() -> None:
    """In any other line, or missing in such a one, it is refused; so is another vault's."""
    named, plain = good(vault=UID), good()
    at = Link(4, GENESIS)
    assert follow(named, at, first=True)[0].vault == bytes.fromhex(UID)
    assert follow(plain, at, first=False)[0].vault is None
    for raw, first in ((named, False), (named, None), (plain, True)):
        with pytest.raises(IntegrityError):
            follow(raw, at, first=first)
        with pytest.raises(IntegrityError):
            Walk(at).step(raw, first=first)
    walk = Walk(at)
    walk.vault = bytes(16)
    with pytest.raises(IntegrityError, match="another vault"):
        walk.step(named, first=True)


@pytest.mark.parametrize("version", [3, 17])
def test_a_line_of_a_later_version_says_so(version: int) -> None:
    """A later version is told apart from damage, so that nobody takes it for an attack, nor cuts it."""
    with pytest.raises(FormatVersion):
        decode(good().replace(b'"v":1', b'"v":%d' % version, 1))


def test_heads_of_another_shape_are_refused() -> None:
    """An empty list of heads, or an entry of another shape, is not a line."""
    vouch = Vouch(b"u" * 16, 1, 2, b"t" * 16)
    raw = good(heads=[vouch])
    assert decode(raw).heads == (vouch,)
    start = raw.index(b'"heads":[') + len(b'"heads":[')
    end = raw.index(b"]]", start) + 1
    for other in (b"", b"[]", raw[start:end] + b",", raw[start:end].replace(b",1,", b',"1",')):
        with pytest.raises(IntegrityError):
            decode(raw[:start] + other + raw[end:])


def test_the_hash_covers_the_line_before_and_the_line_without_its_hash() -> None:
    """The hash is SHA-256(previous || SHA-256(the object without its last key)), computed here from the JSON alone."""
    world = World()
    world.mixed(2)
    previous = bytes(32)
    for raw in world.lines():
        parsed = json.loads(raw)
        said = parsed.pop("hash")
        core = json.dumps(parsed, separators=(",", ":")).encode()
        previous = sha256(previous + sha256(core).digest()).digest()
        assert previous.hex() == said


def test_following_needs_the_right_place() -> None:
    """A line follows only after the line that it was chained to."""
    world = World()
    world.mixed(1)
    first, second, *_ = world.lines()
    _, at = follow(first, Link(0, GENESIS))
    assert follow(second, at)[0].seq == 2
    for wrong in (Link(0, GENESIS), Link(1, GENESIS), Link(2, at.head)):
        with pytest.raises(IntegrityError):
            follow(second, wrong)


def rechained(raw_lines: list[bytes]) -> list[bytes]:
    """The lines, numbered and chained anew, as somebody without any key could do it."""
    head, result = GENESIS, []
    for raw in raw_lines:
        line, head = link(head, raw[: raw.rindex(b',"hash":"')])
        result.append(line)
    return result


def test_a_gap_in_a_trail_is_found_even_when_the_chain_was_recomputed() -> None:
    """A tenant's count and its sessions are held across the whole journal, not only the hashes."""
    world = World()
    world.mixed(3)
    lines_ = world.lines()
    assert verify(rechained(lines_)).ok
    for tamper in (b'"sub":{"seq":2', b'"sub":{"seq":1'):
        at = next(number for number, raw in enumerate(lines_) if tamper in raw and b'"tenant":"' in raw)
        changed = list(lines_)
        changed[at] = changed[at].replace(tamper, b'"sub":{"seq":7', 1)
        verdict = verify(rechained(changed))
        assert verdict.bad_line == at + 1
        assert "of its trail stands where" in verdict.reason or "begins with" in verdict.reason


def test_a_session_of_another_trail_cannot_be_named() -> None:
    """A record that names a session line of another trail is found without keys."""
    world = World()
    world.mixed(3)
    lines_ = world.lines()
    sessions = [number for number, raw in enumerate(lines_) if b'"session"' in raw]
    victim = max(number for number, raw in enumerate(lines_) if b'"tenant":"' in raw)
    own = decode(lines_[victim]).key
    other = next(number + 1 for number in sessions if number + 1 != own)
    lines_[victim] = lines_[victim].replace(b'"key":%d,' % (own or 0), b'"key":%d,' % other)
    verdict = verify(rechained(lines_))
    assert verdict.bad_line == victim + 1
    assert "session" in verdict.reason


def test_a_trail_s_first_record_cannot_name_a_session_of_nowhere() -> None:
    """The first sealed record of a trail starts its session; one that names an earlier line is found."""
    world = World()
    world.mixed(1)
    lines_ = world.lines()
    victim = next(number for number, raw in enumerate(lines_) if b'"session"' in raw)
    raw = lines_[victim]
    start, end = raw.index(b',"session"'), raw.index(b',"sealed"')
    changed = raw[:start].replace(b'"key":%d' % (victim + 1), b'"key":%d' % victim) + raw[end:]
    lines_[victim] = changed
    verdict = verify(rechained(lines_))
    assert verdict.bad_line == victim + 1
    assert "session" in verdict.reason


def test_a_walk_may_start_midway() -> None:
    """From a known link on, the rest verifies by itself, and its trails are taken up where they stand."""
    world = World()
    world.mixed(3)
    lines_ = world.lines()
    for start in range(len(lines_)):
        before = verify(lines_[:start])
        assert verify(lines_[start:], Link(before.seq, before.head)).ok


def test_a_walk_says_whose_journal_it_is() -> None:
    """The first line names the vault, and the walk keeps it."""
    world = World()
    world.mixed(1)
    walk = Walk()
    for raw in world.lines():
        walk.step(raw)
    assert walk.vault == VAULT
    assert walk.trails == 3
