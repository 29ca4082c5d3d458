"""Events become records: sealed to their trail, numbered in it, with sessions that end."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from tests.support.audit_world import ACTOR, ADMIN, VAULT, World
from vaultd.audit.body import Event
from vaultd.audit.chain import Vouch, decode
from vaultd.audit.domain import SYSTEM_UID, Domain
from vaultd.audit.journal import Journal
from vaultd.audit.sealing import Session
from vaultd.audit.trail import Trail
from vaultd.errors import Internal
from vaultd.store import MemoryStore


def test_a_tenant_s_record_says_nothing_in_the_clear() -> None:
    """On the disk stand the tenant's uid, numbers and a time; no name, no kind, no outcome, no actor."""
    world = World()
    world.start()
    world.lease(0, "openai/prod")
    world.flush()
    raw = world.lines()[1]
    assert set(json.loads(raw)) == {"v", "seq", "time", "tenant", "sub", "key", "session", "sealed", "hash"}
    for word in (b"openai", b"lease", b"agents", b"1001", b"python", b"chat", b"ok"):
        assert word not in raw.split(b'"key"')[0]


def test_a_record_reads_back_as_it_was_written() -> None:
    """The audit pair opens the body; it says the event's facts, the time, and the record's number in its trail."""
    world = World()
    world.start()
    world.lease(1, "openai/prod")
    world.flush()
    (record,) = world.records(world.tenants[1])
    body = json.loads(record.body)
    assert body["secret"] == "openai/prod"
    assert body["kind"] == "lease.acquire"
    assert body["service"] == "agents"
    assert body["actor"]["uid"] == 1001
    assert body["tseq"] == record.seq == 1
    assert body["time"] == decode(world.lines()[1]).time
    assert record.hash == world.tenants[1].sub_head


def test_system_names_are_sealed_and_the_rest_is_clear() -> None:
    """A denial that names a tenant shows in the clear that there was one, to nobody but the key whom it named."""
    world = World()
    world.start()
    world.denial("acme-corp")
    world.flush()
    raw = world.lines()[1]
    assert b"acme" not in raw
    assert b'"service"' not in raw
    clear = json.loads(raw)["body"]
    assert clear["outcome"] == "denied"
    assert clear["actor"]["uid"] == 1001
    opened = json.loads(world.records(world.system)[1].body)
    assert opened["tenant"] == "acme-corp"
    assert opened["service"] == "agents"
    assert {key: value for key, value in opened.items() if key not in ("tenant", "service", "salt")} == clear


def test_a_system_record_without_names_needs_no_key() -> None:
    """Before there is an audit pair, plain system events can be recorded; ones with names are refused, unstaged."""
    store = MemoryStore()
    journal = Journal.create(store)
    world = World()
    trail = Trail(VAULT, journal, world.clock, world.random.randbytes, Domain(SYSTEM_UID, None))
    trail.record(Event("vault.create", "ok", ADMIN))
    with pytest.raises(Internal):
        trail.record(Event("tenant.create", "ok", ADMIN, tenant="acme"))
    assert trail.record(Event("vault.seal", "ok", ADMIN)).seq == 2


def test_one_box_a_tenant_and_minute() -> None:
    """Within a minute of boot time one line starts the session; the next minute's starts another."""
    world = World()
    world.start()
    for _ in range(150):
        world.lease(0)
    world.flush()
    sessions = [decode(raw) for raw in world.lines() if b'"session"' in raw]
    assert [line.sub_seq for line in sessions] == [1, 61, 121]
    keys = Counter(decode(raw).key for raw in world.lines()[1:])
    assert keys == {line.seq: count for line, count in zip(sessions, (60, 60, 30), strict=True)}


def test_the_wall_clock_does_not_lengthen_a_session() -> None:
    """Sessions end by boot time: a wall clock put back an hour changes the records' times and nothing else."""
    world = World()
    world.start()
    world.lease(0)
    world.clock.set_wall(world.clock.wall() - 3600 * 10**9)
    for _ in range(61):
        world.lease(0)
    world.flush()
    assert [decode(raw).sub_seq for raw in world.lines() if b'"session"' in raw] == [1, 61]
    assert len(world.records(world.tenants[0])) == 62


def test_expired_sessions_are_wiped_without_another_record() -> None:
    """A quiet trail's key goes when the tick comes, and a loud one's stays until its minute is over."""
    world = World()
    world.start()
    world.lease(0)
    world.clock.advance(30)
    world.lease(1)
    sessions = dict(world.trail._sessions)
    first, second = (sessions[domain.uid] for domain in world.tenants)
    world.clock.advance(30)
    world.trail.expire_sessions()
    with pytest.raises(Internal):
        first.seal(99, b"body")
    assert second.seal(99, b"body")
    world.trail.forget_sessions()
    with pytest.raises(Internal):
        second.seal(100, b"body")


def test_no_number_is_sealed_twice_under_one_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """When making a line fails after its body was sealed, the number comes again, but under a fresh key."""
    world = World()
    world.start()
    world.lease(0)
    used: list[tuple[bytes, int]] = []
    plain = Session.seal

    def watched(self: Session, seq: int, body: bytes) -> bytes:
        used.append((bytes(self._key.view()), seq))
        return plain(self, seq, body)

    monkeypatch.setattr(Session, "seal", watched)
    with pytest.raises(AttributeError):
        world.trail.record(Event("x", "ok", ACTOR), world.tenants[0], [Vouch("no bytes", 1, 1, b"t")])  # type: ignore[arg-type]
    world.lease(0)
    world.lease(0)
    world.flush()
    assert len(used) == len(set(used))
    assert len({key for key, _ in used}) == 2
    assert [record.seq for record in world.records(world.tenants[0])] == [1, 2, 3]


def test_an_event_that_cannot_be_said_stages_nothing() -> None:
    """A bad fact raises, and the trail goes on as if it had not been asked."""
    world = World()
    world.start()
    with pytest.raises(Internal):
        world.lease(0, extra={"size": 1.5})
    world.lease(0)
    world.flush()
    assert [record.seq for record in world.records(world.tenants[0])] == [1]


def test_a_receipt_of_a_denial_opens_nothing() -> None:
    """Only `ok` names a secret in its receipt, whatever the event was about."""
    world = World()
    facts = {"secret": "a", "secret_id": b"s" * 16, "version": 1}
    for outcome, named in (("ok", b"s" * 16), ("denied", None), ("failed", None), ("counted", None)):
        receipt = world.trail.record(Event("lease.acquire", outcome, ACTOR, **facts), world.tenants[0])  # type: ignore[arg-type]
        assert receipt.secret_id == named
        assert receipt.tenant == world.tenants[0].uid


def test_a_restart_goes_on_in_every_trail_with_fresh_sessions() -> None:
    """With the domains as they stood, a new trail's records follow, in sessions of their own."""
    store = MemoryStore()
    world = World(store=store)
    world.mixed(2)
    journal = Journal(store)
    journal.resume(world.journal.durable)
    world.reopen(journal)
    world.lease(0)
    world.lease(1)
    world.denial()
    world.flush()
    assert [record.seq for record in world.records(world.tenants[0])] == [1, 2, 3]
    assert [record.seq for record in world.records(world.tenants[1])] == [1, 2, 3]
    assert all(b'"session"' in raw for raw in world.lines()[-3:])


def test_heads_stand_in_the_line_that_vouches_for_them() -> None:
    """The logs' heads are in the clear, in the order given."""
    world = World()
    heads = [Vouch(b"u" * 16, 3, 17, b"t" * 16), Vouch(SYSTEM_UID, 1, 0, b"s" * 16)]
    world.trail.record(Event("secret.put", "ok", ADMIN, secret="a"), world.tenants[0], heads)
    world.flush()
    assert decode(world.lines()[0]).heads == tuple(heads)


def test_equal_bodies_have_unequal_heads_and_seals() -> None:
    """Salt makes the head in the clear useless for trying guesses: two worlds with other chance share none."""
    one, other = World(seed=1), World(seed=2)
    for world in (one, other):
        world.start()
        world.lease(0)
        world.flush()
    mine, theirs = decode(one.lines()[1]), decode(other.lines()[1])
    assert mine.time == theirs.time
    assert mine.sub_head != theirs.sub_head
    assert mine.sealed != theirs.sealed


@pytest.mark.parametrize(
    ("uid", "public", "seq", "head"),
    [
        (b"u" * 15, bytes(32), 0, bytes(32)),
        (b"u" * 16, None, 0, bytes(32)),
        (b"u" * 16, bytes(32), 1, bytes(32)),
        (b"u" * 16, bytes(32), 0, b"h" * 32),
        (b"u" * 16, bytes(32), 1, b"h" * 31),
        (b"u" * 16, bytes(32), -1, b"h" * 32),
    ],
)
def test_an_impossible_trail_is_a_bug(uid: bytes, public: bytes | None, seq: int, head: bytes) -> None:
    """A domain's state must be one that a trail can be in."""
    with pytest.raises(Internal):
        Domain(uid, public, seq, head)
