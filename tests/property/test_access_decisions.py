"""Decisions over random grants, scopes and requests: monotone, narrowed only, explained as they are made (I6)."""

from __future__ import annotations

from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vaultd.access.decide import Decision, Request, Rule, Usage, decide, decide_open, explain, judge
from vaultd.access.grants import ACTIONS, DELIVERIES, Grant, GrantTable
from vaultd.access.instants import SECOND, Now
from vaultd.access.patterns import Matcher
from vaultd.access.scope import Scope
from vaultd.access.throttle import Buckets

SERVICES = ["agent", "other"]
SECRETS = ["a", "a/x", "a/y", "b/x", "b/x/k", "c"]
PATTERNS = ["**", "*", "a", "a/*", "a/**", "*/x", "**/k", "b/x", "b/**", "a/x", "c"]
PURPOSES = ["chat", "batch"]
WALL = 1_767_225_600 * SECOND
HOUR = 3600 * SECOND


def raw_grants() -> st.SearchStrategy[dict[str, Any]]:
    """Stored grants, each bound there or not, many of them near what requests ask."""
    return st.fixed_dictionaries(
        {
            "service": st.sampled_from([*SERVICES, "agent"]),
            "secrets": st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=3),
        },
        optional={
            "can": st.lists(st.sampled_from([*ACTIONS, "lease", "lease"]), min_size=1),
            "purposes": st.lists(st.sampled_from(PURPOSES)),
            "deliver": st.lists(st.sampled_from(DELIVERIES), min_size=1),
            "max_ttl": st.sampled_from([1, 60, 300, 301, 7200]),
            "max_uses": st.integers(1, 3),
            "rate": st.tuples(st.integers(1, 3), st.integers(1, 120)),
            "hours": st.sampled_from(["00:00-12:00", "22:00-06:00", "08:00-18:00"]),
            "expires": st.integers(WALL - HOUR, WALL + 2 * HOUR),
        },
    )


def grants_of(raws: list[dict[str, Any]]) -> list[Grant]:
    """The grants, numbered."""
    return [Grant.parse({**raw, "id": f"grant_{n}"}) for n, raw in enumerate(raws)]


grant_lists = st.lists(raw_grants(), max_size=6).map(grants_of)
requests = st.builds(
    Request,
    action=st.sampled_from([*ACTIONS, "lease", "lease", "lease", "lease", "open"]),
    service=st.sampled_from(SERVICES),
    secret=st.sampled_from([*SECRETS, None]),
    purpose=st.sampled_from([None, *PURPOSES]),
    delivery=st.sampled_from([*DELIVERIES, "fd", "fd"]),
    ttl=st.sampled_from([None, 1, 60, 61, 300, 3600, 10**9]),
    renewal=st.booleans(),
)
scopes = st.builds(
    Scope,
    patterns=st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=3).map(lambda ps: tuple(map(Matcher, ps))),
    purpose=st.sampled_from([None, None, *PURPOSES]),
    deliver=st.sets(st.sampled_from(DELIVERIES), min_size=1).map(frozenset),
    max_uses=st.sampled_from([None, 0, 1, 3]),
)
nows = st.builds(
    lambda step, back: Now(1_000 * SECOND + step, WALL + step - back, WALL),
    st.integers(0, 24 * HOUR),
    st.sampled_from([0, 0, HOUR]),
)


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    """Uses and rates as some run may have left them."""
    uses = draw(st.dictionaries(st.sampled_from([f"grant_{n}" for n in range(6)]), st.integers(0, 4)))
    rates: Buckets[str] = Buckets()
    return Usage(uses, sum(uses.values()), draw(st.sampled_from([None, rates])))


def spent(usage: Usage, grants: list[Grant], now: Now) -> Usage:
    """The same usage with the buckets of the even grants emptied."""
    if usage.rates is not None:
        for grant in grants[::2]:
            while grant.rate is not None and usage.rates.take(grant.id, grant.rate, now.boot) == 0:
                pass
    return usage


@settings(max_examples=250)
@given(grant_lists, requests, st.none() | scopes, usages(), nows, st.randoms())
def test_the_order_and_the_index_change_nothing(
    grants: list[Grant], request: Request, scope: Scope | None, usage: Usage, now: Now, rng: Any
) -> None:
    """Any order of the grants, and the index's candidates alone, give the same decision."""
    usage = spent(usage, grants, now)
    decision = decide(request, grants, scope, usage, now)
    shuffled = list(grants)
    rng.shuffle(shuffled)
    assert decide(request, shuffled, scope, usage, now) == decision
    if request.secret is not None:
        table = GrantTable(grants)
        assert decide(request, table.candidates(request.service, request.secret), scope, usage, now) == decision
        dropped = shuffled[: len(shuffled) // 2]
        for grant in dropped:
            table.remove(grant.id)
        kept = [grant for grant in grants if grant not in dropped]
        found = table.candidates(request.service, request.secret)
        assert {grant.id for grant in found} <= {grant.id for grant in kept}
        assert decide(request, found, scope, usage, now) == decide(request, kept, scope, usage, now)


@settings(max_examples=250)
@given(grant_lists, requests, st.none() | scopes, usages(), nows)
def test_explain_agrees_with_decide(
    grants: list[Grant], request: Request, scope: Scope | None, usage: Usage, now: Now
) -> None:
    """An explanation carries the very decision, and its findings are each grant's own judgement."""
    usage = spent(usage, grants, now)
    explanation = explain(request, grants, scope, usage, now)
    decision = decide(request, grants, scope, usage, now)
    assert explanation.decision == decision
    assert len(explanation.findings) == len([g for g in grants if g.service == request.service])
    allowing = {finding.grant for finding in explanation.findings if finding.rule is Rule.GRANT}
    if decision.rule.startswith("scope-"):
        assert not decision.allowed
    else:
        assert decision.allowed is bool(allowing)
        assert decision.allowed is (decision.grant is not None and decision.grant.id in allowing)


def tightenings(grant: Grant, now: Now) -> list[dict[str, Any]]:
    """Every way to take something away from a grant."""
    raw = grant.to_dict()
    fewer: list[dict[str, Any]] = [
        {**raw, "max_ttl": max(1, grant.max_ttl // 2)},
        {**raw, "max_uses": 1},
        {**raw, "expires": now.settled()},
        {**raw, "service": "nobody"},
    ]
    if grant.rate is None:
        fewer.append({**raw, "rate": [1, 60]})
    if grant.hours is None:
        fewer.append({**raw, "hours": "08:00-09:00"})
    if not grant.purposes:
        fewer.append({**raw, "purposes": ["chat"]})
    for key in ("secrets", "can", "deliver", "purposes"):
        if len(raw[key]) > 1:
            fewer += [{**raw, key: [word for word in raw[key] if word != gone]} for gone in raw[key]]
    return fewer


@settings(max_examples=200)
@given(grant_lists, requests, st.none() | scopes, usages(), nows)
def test_taking_away_never_allows(
    grants: list[Grant], request: Request, scope: Scope | None, usage: Usage, now: Now
) -> None:
    """No tightening of a grant, and no removal, turns a refusal into a yes or makes a lease longer."""
    usage = spent(usage, grants, now)
    decision = decide(request, grants, scope, usage, now)
    for n, grant in enumerate(grants):
        others = grants[:n] + grants[n + 1 :]
        for less in [others] + [[*others, Grant.from_dict(raw)] for raw in tightenings(grant, now)]:
            tighter = decide(request, less, scope, usage, now)
            assert decision.allowed or not tighter.allowed
            if tighter.allowed:
                assert tighter.max_ttl <= decision.max_ttl


@settings(max_examples=200)
@given(grant_lists, requests, scopes, usages(), nows)
def test_a_run_never_adds_to_the_grants(
    grants: list[Grant], request: Request, scope: Scope, usage: Usage, now: Now
) -> None:
    """What is allowed inside a run is allowed, as long, by the grants alone for the run's purpose."""
    inside = decide(request, grants, scope, usage, now)
    if inside.allowed:
        stated = request._replace(purpose=request.purpose or scope.purpose)
        assert request.secret is not None
        assert scope.names(request.secret)
        assert decide(stated, grants, None, usage, now) == inside


permissive = st.just({"service": "agent", "secrets": ["**"], "deliver": list(DELIVERIES), "max_ttl": 7200})
widenings = st.sampled_from(["none", "none", "patterns", "purpose", "deliver", "max_uses"])


def narrowed(child: Scope, parent: Scope, widened: str) -> Scope:
    """The child cut down to its parent's bounds in everything but what is named."""
    patterns = tuple(m for m in child.patterns if Scope((m,)).within(Scope(parent.patterns))) or parent.patterns
    fewest = min((n for n in (child.max_uses, parent.max_uses) if n is not None), default=None)
    return Scope(
        child.patterns if widened == "patterns" else patterns,
        child.purpose if widened == "purpose" else parent.purpose or child.purpose,
        child.deliver if widened == "deliver" else child.deliver & parent.deliver or parent.deliver,
        child.max_uses if widened == "max_uses" else fewest,
    )


@settings(max_examples=300)
@given(st.tuples(raw_grants(), permissive).map(list).map(grants_of), scopes, scopes, widenings, usages(), nows)
def test_a_child_has_no_right_that_its_parent_lacks(
    grants: list[Grant], child: Scope, parent: Scope, widened: str, usage: Usage, now: Now
) -> None:
    """For any scopes of which one is within the other, whatever the child may, the parent may too (I6)."""
    child = narrowed(child, parent, widened)
    if not child.within(parent):
        assert widened != "none"
        return
    for secret in SECRETS:
        for delivery in DELIVERIES:
            for purpose in (None, *PURPOSES):
                request = Request("lease", "agent", secret, purpose, delivery)
                # A child that states a purpose of its own states it to its parent too.
                stated = request._replace(purpose=purpose or child.purpose)
                if decide(request, grants, child, usage, now).allowed:
                    assert decide(stated, grants, parent, usage, now).allowed


@settings(max_examples=200)
@given(scopes, scopes, scopes)
def test_being_within_is_an_order(one: Scope, two: Scope, three: Scope) -> None:
    """A scope is within itself and within what contains its container, judged by what it lets through."""
    assert one.within(one)
    if one.within(two) and two.within(three):
        for secret in SECRETS:
            assert three.names(secret) or not one.names(secret)


@settings(max_examples=200)
@given(grant_lists, scopes, nows)
def test_a_run_that_opens_may_lease_what_it_names(grants: list[Grant], scope: Scope, now: Now) -> None:
    """Each secret named in an opened run's scope has a grant that can lease it by some delivery and purpose, now."""
    opened: Decision = decide_open("agent", scope, GrantTable(grants), now)
    assume(opened.allowed)
    for matcher in scope.patterns:
        if matcher.literal:
            attempts = [
                Request("lease", "agent", matcher.text, purpose, delivery, 1)
                for purpose in ([scope.purpose] if scope.purpose else [None, *PURPOSES])
                for delivery in DELIVERIES
            ]
            assert any(judge(g, r, Usage({}), now) is Rule.GRANT for g in grants for r in attempts)
