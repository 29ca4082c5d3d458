"""What somebody with the disk, with a quota of refusals, or with the running daemon's keys can do to the audit."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.support.audit_world import ACTOR, VAULT, World, raw_lines
from vaultd.audit.body import Actor, Event
from vaultd.audit.chain import GENESIS, decode, encode, link, verify
from vaultd.audit.reader import TrailReader
from vaultd.audit.throttled import RefusalCounter
from vaultd.errors import IntegrityError, Internal

if TYPE_CHECKING:
    from vaultd.audit.chain import Line

SECOND = 1_000_000_000


def rechained(lines: list[Line]) -> bytes:
    """The lines chained anew: anybody can, hashes need no key."""
    head, data = GENESIS, b""
    for line in lines:
        core = encode(line)
        raw, head = link(head, core[: core.rindex(b',"hash":"')])
        data += raw
    return data


def changed(line: Line, **parts: object) -> Line:
    """A line with some parts exchanged."""
    facts = {name: getattr(line, name) for name in line.__slots__}
    return type(line)(**(facts | parts))


@pytest.fixture
def world() -> World:
    made = World(tenants=2)
    made.mixed(8)
    return made


def test_a_disk_writer_cannot_move_a_sealed_body_to_another_number(world: World) -> None:
    """Two bodies of one session swapped, hashes recomputed: the reader refuses, because the number is bound."""
    lines = [decode(raw) for raw in world.lines()]
    first, second = [number for number, line in enumerate(lines) if line.tenant == world.tenants[0].uid][1:3]
    lines[first], lines[second] = (
        changed(lines[first], sealed=lines[second].sealed, sub_head=lines[second].sub_head),
        changed(lines[second], sealed=lines[first].sealed, sub_head=lines[first].sub_head),
    )
    data = rechained(lines)
    assert verify(data.splitlines(keepends=True)).ok
    world.poke(data)
    with pytest.raises(IntegrityError, match="record 2 of the audit trail"):
        world.records(world.tenants[0])


def test_a_disk_writer_cannot_pass_one_tenant_s_record_off_as_another_s(world: World) -> None:
    """A whole session of tenant A relabelled as tenant B's: B's reader refuses its box, whoever it was boxed to."""
    lines = [decode(raw) for raw in world.lines()]
    ours, theirs = world.tenants[0].uid, world.tenants[1].uid
    swapped = {ours: theirs, theirs: ours}
    data = rechained([changed(line, tenant=swapped.get(line.tenant or b"", line.tenant)) for line in lines])
    assert verify(data.splitlines(keepends=True)).ok
    world.poke(data)
    for domain in world.tenants:
        with pytest.raises(IntegrityError, match="record 1 of the audit trail"):
            world.records(domain)


def test_one_audit_pair_for_two_tenants_would_still_not_mix_them(world: World) -> None:
    """Even when both trails had the same pair, the uid in the associated data keeps their boxes apart."""
    lines = [decode(raw) for raw in world.lines()]
    ours, theirs = world.tenants[0].uid, world.tenants[1].uid
    private, public = world.pairs[ours]
    world.poke(rechained([changed(line, tenant=theirs) if line.tenant == ours else line for line in lines[:4]]))
    reader = TrailReader(VAULT, theirs, public, private)
    with pytest.raises(IntegrityError):
        list(reader.records(raw_lines(world.data())))


def test_a_journal_of_another_vault_does_not_open(world: World) -> None:
    """The vault's id is bound: a copy of the trail under another vault's id is refused."""
    uid = world.tenants[0].uid
    private, public = world.pairs[uid]
    with pytest.raises(IntegrityError):
        list(TrailReader(bytes(16), uid, public, private).records(raw_lines(world.data())))


def test_a_spliced_tail_of_an_older_copy_is_found(world: World) -> None:
    """An older journal's lines put behind newer ones do not follow, at the first of them."""
    old = world.lines()
    world.lease(0)
    world.flush()
    new = world.lines()
    assert verify([*new, *old[10:]]).bad_line == len(new) + 1
    assert verify([*old[:12], *new[20:]]).bad_line == 13


def test_a_thief_of_the_running_daemon_cannot_open_earlier_minutes(world: World) -> None:
    """In memory is the current minute's key only; earlier ones are wiped, and the private half never was there."""
    sessions = dict(world.trail._sessions)
    world.clock.advance(61)
    for tenant in range(2):
        world.lease(tenant)
    world.denial()
    for uid, session in sessions.items():
        assert world.trail._sessions[uid] is not session
        with pytest.raises(Internal):
            session.seal(1, b"")
    assert min(session.seq for session in world.trail._sessions.values()) > 20


def test_sizes_tell_256_byte_steps_only(world: World) -> None:
    """Names from one character to as many as fit in the step give lines of one length, as far as the body goes."""
    sizes = set()
    for length in range(1, 40):
        world.lease(0, "n" * length)
        world.flush()
        sizes.add(len(decode(world.lines()[-1]).sealed or b""))
    assert len(sizes) <= 2
    assert all((size - 16) % 256 == 0 for size in sizes)


def test_names_cannot_break_out_of_their_line() -> None:
    """Text with newlines, quotes, JSON and control bytes in every field makes one line that reads back unchanged."""
    world = World()
    world.start()
    hostile = '"},"hash":"' + "0" * 64 + '"}\n{"v":1,"seq":2\x00\x1b[31m\u2028\udcff'
    actor = Actor("peer", hostile, 1, 1, 1, 1, hostile, hostile)
    event = Event(
        "lease.acquire", "denied", actor, hostile, hostile, hostile, hostile, hostile, extra={hostile: hostile}
    )
    world.trail.record(event, world.tenants[0])
    world.trail.record(event._replace(public={hostile: [hostile]}))
    world.flush()
    assert len(world.data().split(b"\n")) == 4
    assert verify(world.lines()).ok
    for domain in (world.tenants[0], world.system):
        body = json.loads(world.records(domain)[-1].body)
        assert body["actor"]["exe"] == body["secret"] == body["reason"] == body["extra"][hostile] == hostile


def test_a_storm_of_refusals_writes_a_handful_of_records() -> None:
    """A million refusals in ten minutes by one uid: at most one record a minute and one at the start, all counted."""
    world = World()
    counter = RefusalCounter()
    written, now = 0, world.clock.boot()

    def write(key: object, total: int) -> None:
        nonlocal written
        written += total
        world.trail.record(Event("refused", "counted", Actor("peer", uid=1001), "too many requests", total=total))

    for number in range(1_000_000):
        now += 600 * SECOND // 1_000_000
        if number % 10_000 == 0:
            for count in counter.due(now):
                write(*count)
        counted = counter.refuse(1001, now).counted
        if counted is not None:
            write(*counted)
    for count in counter.drain():
        write(*count)
    world.flush()
    assert written == 1_000_000
    assert len(world.lines()) <= 12


def test_a_storm_of_made_up_uids_is_bounded_too() -> None:
    """A user namespace's 65,536 uids refused within a minute: as many records as the cap, and one for the rest."""
    counter = RefusalCounter(max_keys=256)
    records = sum(counter.refuse(uid, 0).counted is not None for uid in range(65_536))
    assert records == 257
    assert sum(count.total for count in counter.drain()) == 65_536 - 257


def test_a_denial_s_receipt_reveals_nothing(world: World) -> None:
    """A durable record of a denial is no key to the value that was denied."""
    event = Event("lease.acquire", "denied", ACTOR, secret="a", secret_id=b"s" * 16, version=1)
    receipt = world.trail.record(event, world.tenants[0])
    world.flush()
    assert receipt.durable
    with pytest.raises(Internal):
        receipt.spend(world.tenants[0].uid, b"s" * 16, 1)


def test_what_a_tenant_reads_is_the_same_whatever_others_did() -> None:
    """I1 for the audit view: with chance pinned per trail, bodies differ in nothing that others could have caused."""
    views = []
    for noise in (0, 9):
        world = World(tenants=2)
        world.start()
        for number in range(5):
            for _ in range(noise):
                world.trail.record(Event("lease.acquire", "ok", ACTOR, secret="n"), world.tenants[1])
            world.lease(0, f"s-{number}")
            world.flush()
        bodies = [json.loads(record.body) for record in world.records(world.tenants[0])]
        for body in bodies:
            assert len(body.pop("salt")) == 32
        views.append(bodies)
    assert views[0] == views[1]
