"""Runs and leases as the daemon lives with them: tokens, anchors, ends, caps."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from tests.support.access_world import ACME, GLOBEX, World
from vaultclient.cli.run_plan import MOST_NAMED
from vaultd.access.book import MOST_GRANTS_USED, Book
from vaultd.access.denials import DENIED_HINT, DENIED_MESSAGE
from vaultd.access.facts import Process, same_process
from vaultd.access.ids import new_id
from vaultd.access.instants import SECOND
from vaultd.access.kept import kept_run
from vaultd.access.leases import Leased
from vaultd.access.quotas import Limits, Tally
from vaultd.access.run import Run, hash_token
from vaultd.access.scope import Scope
from vaultd.errors import ConfigError, Denied, Internal, Invalid, QuotaExceeded
from vaultd.vault.codec import MAX_MAP, pack


def refused(error: pytest.ExceptionInfo[Denied]) -> bool:
    """Whether this is the one constant refusal."""
    return (error.value.message, error.value.hint) == (DENIED_MESSAGE, DENIED_HINT)


def test_a_token_works_for_its_uid_from_the_anchor_or_its_session(world: World) -> None:
    """The anchor and its session may use the token; another uid, another session and another token may not."""
    anchor = world.peer(1000, 50)
    run, token = world.open(peer=anchor)
    assert world.book.find_run(token, anchor, world.now) is run
    assert world.book.find_run(memoryview(token), world.peer(1000, 51, session=50), world.now) is run
    wrong_token = bytes(token[:-1]) + bytes([token[-1] ^ 1])
    for sent, peer in [
        (bytes(token), world.peer(1001, 50)),
        (bytes(token), world.peer(1000, 60)),
        (bytes(token), world.peer(1000, 50, session=60, start_time=1)),
        (wrong_token, anchor),
        (b"", anchor),
        (hash_token(token), anchor),
    ]:
        with pytest.raises(Denied) as error:
            world.book.find_run(sent, peer, world.now)
        assert refused(error)


def test_only_the_hash_of_a_token_is_kept(world: World) -> None:
    """Neither the run nor what is stored of it holds the token."""
    run, token = world.open()
    assert len(token) == 32
    assert run.token_hash == hash_token(token) != bytes(token)
    assert bytes(token) not in repr(run.to_dict()).encode()
    assert bytes(token).hex() not in repr(run.describe(world.now))


def test_sessions_out_of_sight_are_never_equal(world: World) -> None:
    """A session id of 0 (the kernel's word for one outside the pid namespace) admits nobody."""
    run, token = world.open(peer=world.peer(1000, 50, session=0))
    with pytest.raises(Denied):
        world.book.find_run(token, world.peer(1000, 51, session=0), world.now)
    assert world.book.find_run(token, world.peer(1000, 50, session=0), world.now) is run


def test_processes_are_told_apart_beyond_their_pid() -> None:
    """Start time, pidfd inode and boot each tell a reused pid apart, where both sides know them."""
    one = Process(5, 100, 7, 5, "boot")
    assert same_process(one, one._replace(session=9))
    assert same_process(one, one._replace(pidfd_inode=None))
    assert same_process(one, one._replace(boot_id=""))
    for other in (
        one._replace(pid=6),
        one._replace(start_time=101),
        one._replace(pidfd_inode=8),
        one._replace(boot_id="x"),
    ):
        assert not same_process(one, other)


def test_the_end_of_the_anchor_ends_run_and_leases(world: World) -> None:
    """When the anchor dies, its runs and their leases end at once, and another process with its pid ends nothing."""
    world.grant()
    anchor = world.peer(1000, 50)
    run, token = world.open(peer=anchor)
    other = world.open(peer=world.peer(1000, 51)).run
    lease = world.lease(run, "a")
    kept = world.lease(other, "a")
    assert not world.book.anchor_died(anchor.process._replace(start_time=1))
    ended = world.book.anchor_died(anchor.process)
    assert (ended.runs, ended.leases) == ([run], [lease])
    assert not lease.live
    assert kept.live
    with pytest.raises(Denied):
        world.book.find_run(token, anchor, world.now)
    assert not world.book.anchor_died(anchor.process)


def test_a_run_ends_with_its_time(world: World) -> None:
    """A run is dead at its last instant, swept or not, and the sweep reports it with its leases, once."""
    world.grant(max_ttl=7200)
    run, token = world.open(ttl=60)
    lease = world.lease(run, "a", ttl=3600)
    assert lease.expires == run.expires
    world.advance(60)
    with pytest.raises(Denied):
        world.book.find_run(token, world.peer(), world.now)
    assert world.book.runs.get(run.id, world.now) is None
    assert world.book.leases.get(lease.id, world.now) is None
    assert world.book.next_deadline() == world.now.boot
    ended = world.book.expire(world.now)
    assert (ended.runs, ended.leases) == ([run], [lease])
    assert not world.book.expire(world.now)
    assert world.book.next_deadline() is None


@pytest.mark.parametrize(("ttl", "error"), [(0, Invalid), (-5, Invalid), (8 * 86_400, Denied)])
def test_a_runs_ttl_is_bounded(world: World, ttl: int, error: type[Exception]) -> None:
    """Zero and negative are Invalid; above the limit is Denied with the maximum in the hint."""
    with pytest.raises(error) as raised:
        world.open(ttl=ttl)
    if error is Denied:
        assert "7d" in raised.value.hint  # type: ignore[attr-defined]


def test_a_run_for_another_uid_works_only_once_claimed(world: World) -> None:
    """Until it is claimed it admits nobody, not even its uid in the opener's session; afterwards only its claimer."""
    opener = world.peer(1000, 50)
    run, token = world.open(peer=opener, uid=2000)
    worker = world.peer(2000, 60)
    for peer in (opener, world.peer(2000, 61, session=50), worker):
        with pytest.raises(Denied):
            world.book.find_run(token, peer, world.now)
    with pytest.raises(Denied):
        world.book.claim(token, world.peer(2001, 70), world.now)
    assert world.book.claim(token, worker, world.now) is run
    assert world.book.find_run(token, worker, world.now) is run
    with pytest.raises(Denied) as error:
        world.book.claim(token, world.peer(2000, 61), world.now)
    assert refused(error)
    assert not world.book.anchor_died(opener.process)
    assert world.book.anchor_died(worker.process).runs == [run]


def test_an_unclaimed_run_dies_with_its_opener(world: World) -> None:
    """Before the claim the opener is the anchor."""
    opener = world.peer(1000, 50)
    run, token = world.open(peer=opener, uid=2000)
    assert world.book.anchor_died(opener.process).runs == [run]
    with pytest.raises(Denied):
        world.book.claim(token, world.peer(2000, 60), world.now)


def test_a_run_tied_to_a_process_cannot_be_claimed(world: World) -> None:
    """Who steals a token cannot move its run to another process."""
    _, token = world.open()
    with pytest.raises(Denied):
        world.book.claim(token, world.peer(1000, 60), world.now)


def test_a_lease_is_renewed_from_now_and_never_beyond_its_run(world: World) -> None:
    """Renewal counts from now, may shorten, and stops at the run's end."""
    grant = world.grant(max_ttl=300)
    run = world.open(ttl=600).run
    lease = world.lease(run, "a", ttl=100)
    world.advance(50)
    assert world.renew(lease, 300).allowed
    assert lease.expires_in(world.now) == 300
    assert world.renew(lease, 10).allowed
    assert lease.expires_in(world.now) == 10
    assert not world.renew(lease, 301).allowed
    assert world.renew(lease, 300).allowed
    world.advance(299)
    assert world.renew(lease, 300).allowed
    assert lease.expires == run.expires
    world.advance(1)
    world.grants.remove(grant.id)
    assert not world.renew(lease).allowed
    world.advance(250)
    with pytest.raises(Internal):
        world.book.leases.renew(lease, 10, 10, world.now)


def test_a_shortened_lease_is_swept_in_time(world: World) -> None:
    """A renewal to an earlier end is what the sweep goes by, and a longer one is not swept early."""
    world.grant()
    run = world.open(ttl=7200).run
    short, long = world.lease(run, "a", ttl=3000), world.lease(run, "a", ttl=20)
    world.renew(short, 10)
    world.renew(long, 3600)
    assert world.book.next_deadline() == world.now.boot + 10 * SECOND
    world.advance(20)
    assert world.book.expire(world.now).leases == [short]
    assert long.live


def test_uses_are_counted_per_run_and_grant(world: World) -> None:
    """The cap holds within a run; renewals and releases give nothing back and take nothing."""
    world.grant(max_uses=2)
    run = world.open().run
    lease = world.lease(run, "a")
    assert world.renew(lease).allowed
    world.book.release(lease)
    world.lease(run, "b")
    with pytest.raises(Denied):
        world.lease(run, "a")
    world.lease(world.open(peer=world.peer(1000, 60)).run, "a")
    assert run.total == 2


def test_a_rate_holds_over_all_runs(world: World) -> None:
    """Opening another run does not refill a grant's bucket, and a refused name costs a token too."""
    world.grant(rate=[2, 60])
    first, second = world.open().run, world.open(peer=world.peer(1000, 60)).run
    world.lease(first, "a")
    world.book.charge_refused(world.ask(second, "absent"), world.now)
    assert world.ask(second, "a").wait == 30 * SECOND
    world.advance(30)
    world.lease(second, "a")
    world.book.forget_grant("grant_0")
    assert world.ask(second, "a").allowed


def test_a_decision_is_carried_out_once_and_only_when_allowed(world: World) -> None:
    """Refused decisions, another service's, and one that a spent token no longer backs are bugs, and change nothing."""
    grant = world.grant("a", rate=[1, 60])
    run = world.open().run
    leased = Leased("a", b"s" * 16, 1)
    request = world.book.renewal(world.lease(run, "a"), None)._replace(renewal=False)
    world.advance(60)
    decision = world.ask(run, "a")
    world.lease(run, "a")
    for wrong in (decision, decision._replace(allowed=False), decision._replace(grant=None)):
        with pytest.raises(Internal):
            world.book.acquire(run, request, wrong, leased, world.now)
    world.grants.remove(grant.id)
    foreign = world.grant("a", service="other")
    with pytest.raises(Internal):
        world.book.acquire(run, request, decision._replace(grant=foreign), leased, world.now)
    world.advance(3600)
    with pytest.raises(Internal):
        world.book.acquire(run, request, decision, leased, world.now)
    assert (run.total, len(world.book.leases)) == (2, 2)


def test_ids_of_others_are_answered_as_if_absent(world: World) -> None:
    """Foreign, absent, ended and malformed ids of leases and runs get one answer."""
    world.grant()
    mine, theirs = world.open(), world.open(peer=world.peer(2000, 60), tenant=GLOBEX)
    foreign = world.lease(theirs.run, "a")
    ended = world.lease(mine.run, "a")
    world.book.release(ended)
    for lease_id in (foreign.id, ended.id, "lease_" + "a" * 20, "", "lease_\0"):
        for run in (mine.run, None):
            with pytest.raises(Denied) as error:
                world.book.lease_in(lease_id, run, world.peer(), world.now)
            assert refused(error)
    for run_id in (theirs.run.id, "run_" + "a" * 20, ""):
        with pytest.raises(Denied) as error:
            world.book.close_run(run_id, 1000, world.now)
        assert refused(error)
    assert foreign.live
    assert theirs.run.live


def test_opener_and_worker_may_close_a_run(world: World) -> None:
    """Both the uid that opened it and the uid that runs in it end a run; its leases end with it."""
    world.grant()
    for closer in (1000, 2000):
        opened = world.open(peer=world.peer(1000, 50), uid=2000)
        world.book.claim(opened.token, world.peer(2000, 60), world.now)
        lease = world.lease(opened.run, "a")
        ended = world.book.close_run(opened.run.id, closer, world.now)
        assert (ended.runs, ended.leases) == ([opened.run], [lease])
        assert not world.book.end_run(opened.run)


def test_revoking_ends_just_what_is_named(world: World) -> None:
    """By lease, run, secret, tenant, service and everything: what is named ends, the rest lives."""
    world.grant()

    def setting() -> tuple[Run, Run, Run]:
        return (
            world.open(peer=world.peer(1000, 50)).run,
            world.open(peer=world.peer(1000, 51)).run,
            world.open(peer=world.peer(1000, 52), tenant=GLOBEX).run,
        )

    one, two, far = setting()
    leases = [world.lease(run, name) for run in (one, two, far) for name in ("a", "b")]
    assert world.book.revoke_lease(leases[0].id, world.now).leases == [leases[0]]
    assert not world.book.revoke_lease(leases[0].id, world.now)
    assert world.book.revoke_secret(ACME, "b").leases == [leases[1], leases[3]]
    assert not world.book.revoke_secret(ACME, "b")
    assert not world.book.revoke_secret(b"x" * 16, "b")
    assert world.book.revoke_run(one.id, world.now).runs == [one]
    assert not world.book.revoke_run(one.id, world.now)
    ended = world.book.revoke_tenant(ACME, world.now)
    assert (ended.runs, ended.leases) == ([two], [leases[2]])
    assert not world.book.revoke_tenant(ACME, world.now)
    assert [lease.live for lease in leases] == [False] * 4 + [True] * 2
    assert not world.book.revoke_service("other", world.now)
    assert world.book.revoke_service("agent", world.now).runs == [far]
    one, two, far = setting()
    world.lease(far, "a")
    everything = world.book.revoke_all(world.now)
    assert (len(everything.runs), len(everything.leases)) == (3, 1)
    assert (len(world.book.runs), len(world.book.leases)) == (0, 0)


def test_live_runs_of_a_uid_are_capped() -> None:
    """One more than the cap is QuotaExceeded for the opener; an end or an expiry frees a place; others are not held."""
    world = World(Limits(runs_per_uid=3))
    runs = [world.open(uid=uid, ttl=60).run for uid in (1000, 2000, 3000)]
    with pytest.raises(QuotaExceeded):
        world.open()
    world.open(peer=world.peer(2000, 60))
    world.book.end_run(runs[0])
    world.open(ttl=600)
    with pytest.raises(QuotaExceeded):
        world.open()
    world.advance(60)
    world.open()
    assert {run.id for run in world.book.expire(world.now).runs} == {runs[1].id, runs[2].id}


def test_live_leases_of_a_uid_and_a_tenant_are_capped() -> None:
    """The caps hold per uid and per tenant, and leases past their time do not count."""
    world = World(Limits(leases_per_uid=2, leases_per_tenant=3))
    world.grant()
    mine, theirs = world.open().run, world.open(peer=world.peer(2000, 60)).run
    first = world.lease(mine, "a", ttl=10)
    world.lease(mine, "a", ttl=100)
    with pytest.raises(QuotaExceeded):
        world.lease(mine, "a")
    world.lease(theirs, "a")
    with pytest.raises(QuotaExceeded):
        world.lease(theirs, "a")
    assert mine.total == 2
    world.advance(10)
    world.lease(mine, "a")
    assert world.book.next_deadline() == 0
    assert world.book.expire(world.now).leases == [first]


def test_grants_used_by_a_run_are_capped_and_what_is_kept_fits(world: World) -> None:
    """With everything at its most a kept run fits into a record; one grant more is refused, a known one is not."""
    patterns = [f"{n:02d}/" + "/".join(["x" * 63] * 3) + "/" + "y" * 58 for n in range(MOST_NAMED)]
    assert {len(pattern) for pattern in patterns} == {253}
    run = world.open(*patterns, "a*", purpose="p" * 64).run
    for n in range(MOST_GRANTS_USED + 1):
        world.grant(f"a{n}", id=new_id("grant_", random.Random(n).randbytes))
    first = world.lease(run, "a0")
    run.uses.update({new_id("grant_", random.Random(n).randbytes): 2**40 for n in range(MOST_GRANTS_USED)})
    assert first.grant in run.uses
    with pytest.raises(QuotaExceeded, match="512 grants"):
        world.lease(run, f"a{MOST_GRANTS_USED}")
    world.lease(run, "a1")
    held = [(bytes([n]) * 16, 2**31) for n in range(200)]
    assert len(pack(kept_run(run, "b" * 36, held))) < MAX_MAP


def test_live_runs_of_a_tenant_are_capped() -> None:
    """One tenant's runs, over all uids, are capped; another tenant's are not held by it."""
    world = World(Limits(runs_per_tenant=2))
    world.open(peer=world.peer(1000, 50))
    world.open(peer=world.peer(2000, 60))
    with pytest.raises(QuotaExceeded):
        world.open(peer=world.peer(3000, 70))
    world.open(peer=world.peer(3000, 70), tenant=GLOBEX)


def test_an_implicit_run_has_no_token_and_serves_its_session(world: World) -> None:
    """A lease outside a run lives in one that its shell's session may use again, and nobody else."""
    world.grant()
    shell = world.peer(1000, 40)
    peer = world.peer(1000, 50, session=40)
    run, token = world.open(peer=peer, anchor=shell.process, implicit=True)
    with pytest.raises(Denied):
        world.book.find_run(token, peer, world.now)
    assert world.book.runs.implicit(ACME, "agent", peer, shell.process, world.now) is run
    for tenant, service, who, anchor in [
        (GLOBEX, "agent", peer, shell.process),
        (ACME, "other", peer, shell.process),
        (ACME, "agent", world.peer(2000, 50, session=40), shell.process),
        (ACME, "agent", peer, shell.process._replace(start_time=1)),
    ]:
        assert world.book.runs.implicit(tenant, service, who, anchor, world.now) is None
    lease = world.lease(run, "a")
    assert world.book.lease_in(lease.id, None, world.peer(1000, 51, session=40), world.now) is lease
    with pytest.raises(Denied):
        world.book.lease_in(lease.id, None, world.peer(1000, 60), world.now)
    world.advance(3600)
    assert world.book.runs.implicit(ACME, "agent", peer, shell.process, world.now) is None


def test_runs_and_leases_are_listed_while_they_live(world: World) -> None:
    """Lists hold what lives now, by tenant, run and secret, and drop what is past its time before any sweep."""
    world.grant()
    run = world.open("a/*", "b", purpose="chat", ttl=3600).run
    lease = world.lease(run, "b", ttl=60)
    assert world.book.runs.of_tenant(ACME, world.now) == world.book.runs.all(world.now) == [run]
    assert world.book.runs.of_tenant(GLOBEX, world.now) == []
    leases = world.book.leases
    for listed in (
        leases.of_tenant(ACME, world.now),
        leases.of_run(run, world.now),
        leases.of_secret(ACME, "b", world.now),
        leases.all(world.now),
    ):
        assert listed == [lease]
    assert lease.to_dict(world.now)["expires_in"] == 60
    assert lease.to_dict(world.now)["purpose"] == "chat"
    assert run.describe(world.now)["scope"] == ["a/*", "b"]
    world.advance(60)
    assert leases.of_tenant(ACME, world.now) == leases.of_run(run, world.now) == leases.all(world.now) == []
    assert leases.of_tenant(GLOBEX, world.now) == leases.of_secret(GLOBEX, "b", world.now) == []
    world.book.expire(world.now)
    assert leases.of_run(run, world.now) == []
    assert leases.of_secret(ACME, "b", world.now) == []
    world.advance(3540)
    assert world.book.runs.all(world.now) == world.book.runs.of_tenant(ACME, world.now) == []


def test_a_run_outlives_the_daemon(world: World) -> None:
    """A run kept over a restart works with its token, with its uses and its end as they were."""
    world.grant(max_uses=2)
    run, token = world.open(purpose="chat", ttl=600)
    world.lease(run, "a")
    after = World()
    after.grants = world.grants
    after.now = world.now
    again = Run.from_dict(run.to_dict())
    after.book.runs.restore(again)
    assert after.book.find_run(token, world.peer(), world.now) is again
    assert again.to_dict() == run.to_dict()
    after.lease(again, "a")
    with pytest.raises(Denied):
        after.lease(again, "a")
    with pytest.raises(Internal):
        after.book.runs.restore(again)
    after.advance(600)
    assert after.book.expire(after.now).runs == [again]


@pytest.mark.parametrize(
    "change",
    [{"id": "x"}, {"tenant": b""}, {"token_hash": b"1"}, {"anchor": [1]}, {"scope": {}}, {"uses": 5}, {"uid": None}],
)
def test_a_malformed_stored_run_is_refused(world: World, change: dict[str, object]) -> None:
    """Each wrong part of a stored run raises Invalid."""
    with pytest.raises(Invalid):
        Run.from_dict({**world.open().run.to_dict(), **change})
    with pytest.raises(Invalid):
        Run.from_dict({})


@pytest.mark.parametrize("change", [{"deliver": "print"}, {"deliver": ["x"]}, {"max_uses": -1}, {"max_uses": True}])
def test_a_malformed_stored_scope_is_refused(change: dict[str, object]) -> None:
    """Unknown deliveries and malformed uses raise Invalid."""
    with pytest.raises(Invalid):
        Scope.from_dict({**Scope.parse(["a"]).to_dict(), **change})


def test_a_child_is_allowed_within_its_parent_only(world: World) -> None:
    """Bounds that are not a subset, a later end, and an ended parent are refused."""
    parent = world.open("a/*", purpose="chat", ttl=600).run
    assert parent.allows_child(Scope.parse(["a/x"], "chat"), parent.expires)
    assert not parent.allows_child(Scope.parse(["a/x"], "chat"), parent.expires + 1)
    assert not parent.allows_child(Scope.parse(["**"], "chat"), parent.expires)
    assert not parent.allows_child(Scope.parse(["a/x"]), parent.expires)
    world.book.end_run(parent)
    assert not parent.allows_child(Scope.parse(["a/x"], "chat"), parent.expires)


def test_each_bound_of_a_scope_has_to_be_within() -> None:
    """One bound that is wider, whichever it is, puts a scope outside another."""
    parent = Scope(Scope.parse(["a/*"]).patterns, None, frozenset({"fd", "env"}), 3)
    inside = Scope(Scope.parse(["a/x"]).patterns, None, frozenset({"fd"}), 3)
    assert inside.within(parent)
    for wider in (
        Scope(Scope.parse(["a/x", "b"]).patterns, None, frozenset({"fd"}), 3),
        Scope(inside.patterns, None, frozenset({"fd", "print"}), 3),
        Scope(inside.patterns, None, frozenset({"fd"}), 4),
        Scope(inside.patterns, None, frozenset({"fd"}), None),
    ):
        assert not wider.within(parent)


@pytest.mark.parametrize("patterns", [[], [f"s{n}" for n in range(257)], ["A"]])
def test_a_scope_is_bounded(patterns: list[str]) -> None:
    """No pattern, too many, and malformed ones are Invalid."""
    with pytest.raises(Invalid):
        Scope.parse(patterns)


def test_loops_do_not_grow_the_tables(world: World) -> None:
    """Acquiring and releasing, renewing, opening and closing in a loop leave bounded heaps behind (I12)."""
    world.grant()
    run = world.open(ttl=7200).run
    held = world.lease(run, "a", ttl=3600)
    for _ in range(5_000):
        world.book.release(world.lease(run, "a", ttl=3600))
        world.renew(held, 3600)
        world.book.end_run(world.open(peer=world.peer(1000, 60)).run)
    assert len(world.book.leases._heap) < 3_000
    assert len(world.book.runs._heap) < 3_000
    assert world.book.next_deadline() == held.expires
    world.book.revoke_all(world.now)
    assert not world.book.leases._tenants
    assert not world.book.runs._by_tenant
    assert not world.book.runs._by_anchor
    assert not world.book.runs._by_hash


def test_everything_of_a_tenant_is_revoked_together() -> None:
    """Ten thousand leases of a tenant over many uids end in one call, and every count is back at zero."""
    world = World()
    world.grant()
    for uid in range(1000, 1010):
        run = world.open(peer=world.peer(uid, uid)).run
        for n in range(1_000):
            world.lease(run, f"s{n % 7}")
    assert len(world.book.revoke_tenant(ACME, world.now).leases) == 10_000
    assert world.book.leases._per_uid._counts == {}
    assert world.book.leases._per_tenant._counts == {}
    assert world.book.runs._per_uid._counts == {}
    assert len(world.book.leases._heap) < 3_000


def test_randomness_is_taken_whole() -> None:
    """A source that gives fewer bytes than asked, or the same twice, is a bug that is seen."""
    with pytest.raises(Internal):
        new_id("run_", lambda _: b"short")
    world = World()
    world.book = Book(Limits(), lambda n: b"\0" * n)
    world.grant()
    run = world.open().run
    with pytest.raises(Internal):
        world.open()
    world.lease(run, "a")
    with pytest.raises(Internal):
        world.lease(run, "a")
    world.book = Book(Limits(), lambda n: b"\0" * min(n, 13))
    with pytest.raises(Internal):
        world.open()


def test_ids_say_what_they_are() -> None:
    """An id is its prefix and 20 characters of base32 in lower case, and all of 100 bits matter."""
    source = random.Random(1).randbytes
    ids = {new_id("lease_", source) for _ in range(1_000)}
    assert len(ids) == 1_000
    assert all(len(i) == 26 and set(i[6:]) <= set("abcdefghijklmnopqrstuvwxyz234567") for i in ids)


def test_limits_are_above_zero() -> None:
    """A limit of zero, a boolean or a text is a ConfigError."""
    for wrong in (0, -1, True, "5"):
        with pytest.raises(ConfigError):
            Limits(runs_per_uid=wrong)  # type: ignore[arg-type]


def test_counts_never_go_below_zero() -> None:
    """Ending more than lives is a bug that is seen."""
    tally = Tally[int](5, "runs")
    tally.add(1)
    assert tally.count(1) == 1
    tally.remove(1)
    assert tally.count(1) == 0
    with pytest.raises(Internal):
        tally.remove(1)


def test_confinement_outlives_the_run(world: World) -> None:
    """A confined process stays so after its run was closed, revoked or ran out, until it has ended itself."""
    anchor = world.peer(1000, 50)
    runs = world.book.runs
    assert not runs.confining
    world.book.end_run(world.open(peer=anchor).run)
    assert not runs.confines(anchor.process)
    world.book.close_run(world.open(peer=anchor, confined=True).run.id, 1000, world.now)
    world.book.end_run(world.open(peer=anchor, confined=True).run)
    assert runs.confines(anchor.process)
    assert runs.confines_session(50)
    assert not runs.confines(anchor.process._replace(start_time=1))
    assert not runs.confines_session(60)
    world.book.anchor_died(anchor.process._replace(start_time=1))
    assert runs.confines(anchor.process)
    world.book.anchor_died(anchor.process)
    assert not runs.confines(anchor.process)
    assert runs.confining  # it led a session, and may have left others in it
    assert runs.leader_of(50) == anchor.process
    assert runs.left == {50: anchor.process}
    runs.forget_session(50)
    assert not runs.confining


def test_sessions_left_behind(world: World) -> None:
    """A session is remembered when its confined leader ends, and forgotten when its number is another process's."""
    runs = world.book.runs
    member = world.peer(1000, 51, session=50)
    world.open(peer=member, confined=True)
    world.book.anchor_died(member.process)
    assert not runs.left  # it led no session
    leader = world.peer(1000, 50)
    world.open(peer=leader, confined=True)
    assert not runs.left
    world.book.anchor_died(leader.process)
    assert runs.leader_of(50) == leader.process
    later = replace(leader, start_time=leader.start_time + 1)
    world.open(peer=later, confined=True)
    assert runs.leader_of(50) is None
    assert runs.confines_session(50)


def test_who_claims_a_run_is_confined_to_it(world: World) -> None:
    """The claiming process is confined, its opener is not; and a run kept over a restart confines as before."""
    opened = world.open(peer=world.peer(1000, 50), uid=2000)
    worker = world.peer(2000, 60)
    world.book.claim(opened.token, worker, world.now)
    assert world.book.runs.confines(worker.process)
    assert not world.book.runs.confines(world.peer(1000, 50).process)
    after = World()
    after.book.runs.restore(Run.from_dict(opened.run.to_dict()))
    assert after.book.runs.confines(worker.process)


def test_confined_processes_are_capped_and_counted_once() -> None:
    """Opening and closing confined runs in one process takes one place; a reused pid gives the place back."""
    world = World(Limits(runs_per_uid=2))
    for pid in (50, 50, 50, 51):
        world.book.end_run(world.open(peer=world.peer(1000, pid), confined=True).run)
    with pytest.raises(QuotaExceeded):
        world.open(peer=world.peer(1000, 52), confined=True)
    opened = world.open(peer=world.peer(1000, 52), uid=2000)
    with pytest.raises(QuotaExceeded):
        world.book.claim(opened.token, world.peer(2000, 60), world.now)
    assert opened.run.claimable
    world.book.end_run(opened.run)
    world.open(peer=world.peer(2000, 51, start_time=1), confined=True)
    assert world.book.runs.confines(world.peer(2000, 51, start_time=1).process)
    assert not world.book.runs.confines(world.peer(1000, 51).process)
    world.open(peer=world.peer(1000, 52), confined=True)


def test_other_limits_hold_from_now_on(world: World) -> None:
    """After a change of limits, what is over them lives on and what comes is held to them."""
    world.grant()
    run = world.open().run
    world.lease(run, "a")
    world.lease(run, "a")
    world.book.limits = Limits(runs_per_uid=1, leases_per_uid=2, run_ttl=60)
    assert world.book.limits.runs_per_uid == 1
    assert len(world.book.leases) == 2
    with pytest.raises(QuotaExceeded):
        world.lease(run, "a")
    with pytest.raises(QuotaExceeded):
        world.open()
    with pytest.raises(Denied):
        world.open(peer=world.peer(2000, 60), ttl=61)
    world.book.limits = Limits()
    world.lease(run, "a")


def test_what_a_uid_has_is_found_without_looking_at_others(world: World) -> None:
    """Runs that a uid opened or runs in, and the leases in them, are its own list."""
    world.grant()
    mine = world.open(peer=world.peer(1000, 50)).run
    handed = world.open(peer=world.peer(1000, 50), uid=2000)
    world.book.claim(handed.token, world.peer(2000, 60), world.now)
    leases = [world.lease(run, "a") for run in (mine, handed.run)]
    assert world.book.runs.of_uid(1000, world.now) == [mine, handed.run]
    assert world.book.runs.of_uid(2000, world.now) == [handed.run]
    assert world.book.leases_of_uid(1000, world.now) == leases
    assert world.book.leases_of_uid(2000, world.now) == leases[1:]
    assert world.book.leases_of_uid(3000, world.now) == []
    world.book.end_run(mine)
    world.book.end_run(handed.run)
    assert world.book.runs._by_uid == {}
    assert world.book.runs._by_anchor == {}
