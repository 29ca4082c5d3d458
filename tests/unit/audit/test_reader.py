"""A trail read back: only one's own, held against its sub-chain, resumable, exportable."""

from __future__ import annotations

import json
from hashlib import sha256

import pytest

from tests.support.audit_world import ACTOR, VAULT, World, raw_lines
from vaultd.audit.body import Event, body_json, sub_link
from vaultd.audit.canonical import timestamp
from vaultd.audit.chain import GENESIS, link, render, verify
from vaultd.audit.journal import START
from vaultd.audit.reader import _OWNER_WITHIN, PAUSE, Filter, export_header
from vaultd.audit.sealing import Session
from vaultd.audit.verify import verify_export
from vaultd.crypto.primitives import x25519_pair
from vaultd.errors import IntegrityError


def test_each_trail_has_its_own_records_and_numbers() -> None:
    """Every trail reads back whole, numbered from one without gaps, ending at its domain's head."""
    world = World(tenants=3)
    world.mixed(70)
    for domain in (*world.tenants, world.system):
        records = world.records(domain)
        assert [record.seq for record in records] == list(range(1, domain.sub_seq + 1))
        assert records[-1].hash == domain.sub_head


def test_a_reader_can_start_at_any_bookmark() -> None:
    """From the newest bookmark of a reading, the rest reads the same, sessions included."""
    world = World()
    world.mixed(100)
    whole = world.records(world.tenants[0])
    reader = world.reader(world.tenants[0])
    for limit in range(10, 90, 20):
        records = reader.records(raw_lines(world.data(), reader.place.offset))
        while reader.seq < limit:
            next(records)
        mark = reader.bookmark
        again = world.reader(world.tenants[0], mark)
        found = [record for record in again.records(raw_lines(world.data(), mark.place.offset)) if record is not None]
        assert found == whole[mark.seq :]
        assert mark.seq < limit


def test_a_reader_follows_what_is_written_later() -> None:
    """Fed from where it stopped, it goes on, within the session and across it."""
    world = World()
    world.mixed(1)
    reader = world.reader(world.tenants[1])
    seen = [record.seq for record in reader.records(world.journal.raw_from(START.place)) if record]
    for _ in range(3):
        world.clock.advance(40)
        world.lease(0)
        world.lease(1)
        world.flush()
        lines = world.journal.raw_from(reader.place)
        seen += [record.seq for record in reader.records(lines) if record is not None]
    assert seen == [1, 2, 3, 4]


def test_a_long_stretch_of_others_lets_the_caller_pause() -> None:
    """Among many foreign lines None comes now and then, and no record is lost."""
    world = World()
    world.start()
    world.lease(0)
    for _ in range(3 * PAUSE):
        world.lease(1)
    world.lease(0)
    world.flush()
    items = list(world.reader(world.tenants[0]).records(raw_lines(world.data())))
    assert [item.seq for item in items if item is not None] == [1, 2]
    assert items.count(None) >= 3


def test_filters_take_what_they_name() -> None:
    """Since, run and secret each narrow, and together all must hold."""
    world = World()
    world.start()
    world.lease(0, "a", run="run_1")
    middle = world.clock.wall() + 500_000_000
    world.lease(0, "b", run="run_1")
    world.lease(0, "a", run="run_2")
    world.flush()
    records = world.records(world.tenants[0])

    def shown(wanted: Filter) -> list[int]:
        return [record.seq for record in records if wanted.takes(record)]

    assert shown(Filter()) == [1, 2, 3]
    assert shown(Filter(since=middle)) == [2, 3]
    assert shown(Filter(run="run_1")) == [1, 2]
    assert shown(Filter(secret="a")) == [1, 3]
    assert shown(Filter(since=middle, secret="a")) == [3]


def test_an_export_verifies_with_sha_256_alone_and_tells_nothing_of_others() -> None:
    """Header and records form a chain of their own, and the bytes are the same whatever others did."""
    quiet, busy = World(tenants=2), World(tenants=2)
    for world, noise in ((quiet, 0), (busy, 7)):
        world.start()
        for number in range(5):
            for _ in range(noise):
                world.trail.record(Event("lease.acquire", "ok", ACTOR, secret="noise"), world.tenants[1])
            world.lease(0, f"secret-{number}")
        world.flush()
    exports = []
    for world in (quiet, busy):
        domain = world.tenants[0]
        lines = [export_header(VAULT, domain.uid), *(record.line() for record in world.records(domain))]
        assert verify_export(lines).head == domain.sub_head
        head = GENESIS
        for raw in lines[1:]:
            body, _, said = raw.removeprefix(b'{"body":').removesuffix(b'"}\n').rpartition(b',"hash":"')
            head = sha256(head + sha256(body).digest()).digest()
            assert head.hex().encode() == said
        exports.append([unsalted(raw) for raw in lines])
    assert exports[0] == exports[1]


def unsalted(raw: bytes) -> dict[str, object]:
    """A line of an export without what chance decides: the salt, and the hash over it."""
    line: dict[str, object] = json.loads(raw)
    line.pop("hash", None)
    body = line.get("body")
    if isinstance(body, dict):
        del body["salt"]
    return line


def test_an_export_may_go_on_after_a_record() -> None:
    """A partial export's header names the record and head it follows, and it verifies from there."""
    world = World()
    world.mixed(4)
    domain = world.tenants[0]
    records = world.records(domain)
    lines = [export_header(VAULT, domain.uid, 2, records[1].hash), *(record.line() for record in records[2:])]
    verdict = verify_export(lines)
    assert verdict.ok
    assert (verdict.seq, verdict.head) == (4, domain.sub_head)


def test_an_error_names_the_trail_s_record_and_no_line_of_the_journal() -> None:
    """A tampered record is named by its number in its own trail; nothing of the whole journal's numbers shows."""
    world = World()
    world.mixed(5)
    lines = world.lines()
    victims = [number for number, raw in enumerate(lines) if world.tenants[0].uid.hex().encode() in raw]
    victim = victims[3]
    at = lines[victim].index(b'"sealed":"') + 40
    lines[victim] = (
        lines[victim][:at] + (b"A" if lines[victim][at : at + 1] != b"A" else b"B") + lines[victim][at + 1 :]
    )
    world.poke(b"".join(lines))
    with pytest.raises(IntegrityError, match="record 4 of the audit trail") as caught:
        world.records(world.tenants[0])
    assert str(victim + 1) not in str(caught.value).replace("record 4", "")
    assert len(world.records(world.tenants[1])) == 5


def test_a_missing_record_is_found() -> None:
    """A line taken out of one's own trail leaves a gap that the reader names."""
    world = World()
    world.mixed(5)
    lines = world.lines()
    victims = [number for number, raw in enumerate(lines) if world.tenants[0].uid.hex().encode() in raw]
    del lines[victims[2]]
    world.poke(b"".join(lines))
    with pytest.raises(IntegrityError, match="record 3 of the audit trail: a record is missing"):
        world.records(world.tenants[0])


@pytest.mark.parametrize("part", ["sub_seq", "sub_head", "time"])
def test_a_line_that_says_other_than_its_body_is_found(part: str) -> None:
    """What the clear part of a line claims of its record must be what the sealed body says."""
    world = World()
    world.mixed(3)
    lines = world.lines()
    victim = [number for number, raw in enumerate(lines) if world.tenants[0].uid.hex().encode() in raw][1]
    raw = lines[victim]
    if part == "sub_seq":
        raw = raw.replace(b'"sub":{"seq":2', b'"sub":{"seq":3')
    elif part == "sub_head":
        at = raw.index(b'"head":"') + 8
        raw = raw[:at] + (b"0" if raw[at : at + 1] != b"0" else b"1") + raw[at + 1 :]
    else:
        raw = raw.replace(b":00.0", b":01.0", 1) if b":00.0" in raw else raw.replace(b'.000000Z"', b'.000001Z"', 1)
    assert raw != lines[victim]
    lines[victim] = raw
    world.poke(b"".join(lines))
    with pytest.raises(IntegrityError, match="record 2 of the audit trail"):
        world.records(world.tenants[0])


def test_a_clear_body_that_differs_from_the_sealed_one_is_found() -> None:
    """A system record's clear part cannot say something else than its seal, even with the chain recomputed."""
    world = World()
    world.mixed(2)
    lines = world.lines()
    victim = next(number for number, raw in enumerate(lines) if b'"denied"' in raw)
    lines[victim] = lines[victim].replace(b'"denied"', b'"failed"')
    head, chained = GENESIS, []
    for raw in lines:
        line, head = link(head, raw[: raw.rindex(b',"hash":"')])
        chained.append(line)
    world.poke(b"".join(chained))
    with pytest.raises(IntegrityError, match="in the clear"):
        world.records(world.system)


@pytest.mark.parametrize(("number", "later"), [(2, 0), (1, 1)])
def test_a_forged_record_must_still_say_its_number_and_time(number: int, later: int) -> None:
    """Whoever has the public half can seal and chain a record; one that lies about its place is refused."""
    world = World()
    world.start()
    world.flush()
    domain = world.tenants[0]
    event = Event("lease.acquire", "ok", ACTOR, secret="x")
    body = body_json(event, timestamp(world.clock.wall() + later * 10**9), number, "0" * 32).encode()
    session = Session(VAULT, domain.uid, world.pairs[domain.uid][1], 2, 0)
    forged = render(
        2,
        timestamp(world.clock.wall()),
        domain.uid.hex(),
        1,
        sub_link(GENESIS, body).hex(),
        key=2,
        session=session.boxed,
        sealed=session.seal(2, body),
    )
    world.poke(world.data() + link(world.journal.head, forged)[0])
    assert verify(world.lines()).ok
    with pytest.raises(IntegrityError, match="another number or time"):
        world.records(domain)


@pytest.mark.parametrize("seq", [1, 2, 10**18])
def test_the_owner_is_named_within_the_bytes_that_are_searched(seq: int) -> None:
    """The longest beginning of a line still names its owner there, and the shortest one's body begins behind it."""
    time = timestamp(0)
    longest = render(seq, time, "f" * 32, 1, "0" * 64, vault="f" * 32)
    assert longest.find(b'"tenant":"' + b"f" * 32 + b'"', 0, _OWNER_WITHIN) >= 0
    shortest = render(1, time, None, 1, "0" * 64, body="{}")
    assert shortest.index(b"{}") > _OWNER_WITHIN


def test_another_pair_opens_nothing() -> None:
    """With the keys of another trail the first record already does not open."""
    world = World()
    world.mixed(1)
    world.pairs[world.tenants[0].uid] = x25519_pair()
    with pytest.raises(IntegrityError, match="record 1"):
        world.records(world.tenants[0])


def test_closing_forgets_the_session_key() -> None:
    """After `close`, the next record of the same session cannot be opened."""
    world = World()
    world.mixed(3)
    reader = world.reader(world.tenants[0])
    records = reader.records(raw_lines(world.data()))
    assert next(record for record in records if record is not None).seq == 1
    reader.close()
    with pytest.raises(IntegrityError):
        list(records)
