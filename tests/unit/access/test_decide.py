"""Decisions, rule by rule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from vaultd.access.decide import NO_USAGE, Request, Rule, Usage, decide, decide_open, explain, listing
from vaultd.access.denials import DENIED_HINT, DENIED_MESSAGE
from vaultd.access.grants import Grant, GrantTable
from vaultd.access.instants import SECOND, Now
from vaultd.access.scope import Scope
from vaultd.access.throttle import Buckets
from vaultd.errors import Denied, Internal, Invalid, Throttled

if TYPE_CHECKING:
    from tests.support.access_world import World

NOW = Now(1_000 * SECOND, 1_767_225_600 * SECOND)  # midnight UTC


def grant(number: int = 1, **options: Any) -> Grant:
    """A grant to `agent` over `openai/*`."""
    return Grant.parse({"id": f"grant_{number}", "service": "agent", "secrets": ["openai/*"], **options})


def lease(**options: Any) -> Request:
    """A lease of `openai/prod` by `agent`."""
    return Request(**{"action": "lease", "service": "agent", "secret": "openai/prod", **options})


def rule(request: Request, *grants: Grant, scope: Scope | None = None, usage: Usage = NO_USAGE, now: Now = NOW) -> Rule:
    """The rule that decides."""
    decision = decide(request, grants, scope, usage, now)
    assert decision.allowed is (decision.rule is Rule.GRANT)
    return decision.rule


def test_nothing_is_allowed_without_a_grant() -> None:
    """The default is to refuse."""
    assert rule(lease()) is Rule.SECRET


@pytest.mark.parametrize(
    ("options", "request_", "expected"),
    [
        ({"service": "other"}, {}, Rule.SECRET),
        ({"secrets": ["db/*"]}, {}, Rule.SECRET),
        ({"can": ["put"]}, {}, Rule.CAN),
        ({"purposes": ["chat"]}, {}, Rule.PURPOSE),
        ({"purposes": ["chat"]}, {"purpose": "batch"}, Rule.PURPOSE),
        ({"purposes": ["chat"]}, {"purpose": "chat"}, Rule.GRANT),
        ({}, {"purpose": "anything"}, Rule.GRANT),
        ({}, {"delivery": "print"}, Rule.DELIVERY),
        ({"deliver": ["print"]}, {"delivery": "print"}, Rule.GRANT),
        ({"deliver": ["print"]}, {}, Rule.DELIVERY),
        ({"expires": NOW.wall}, {}, Rule.EXPIRED),
        ({"expires": NOW.wall + 1}, {}, Rule.GRANT),
        ({"hours": "00:00-01:00"}, {}, Rule.GRANT),
        ({"hours": "01:00-02:00"}, {}, Rule.HOURS),
        ({"max_ttl": 60}, {"ttl": 60}, Rule.GRANT),
        ({"max_ttl": 60}, {"ttl": 61}, Rule.TTL),
        ({"max_ttl": 60}, {"ttl": 10**30}, Rule.TTL),
    ],
)
def test_each_rule_of_a_grant(options: dict[str, Any], request_: dict[str, Any], expected: Rule) -> None:
    """Each bound of a grant refuses what is beyond it, and is the rule that is named."""
    assert rule(lease(**request_), grant(**options)) is expected


@pytest.mark.parametrize("ttl", [0, -1])
def test_a_ttl_is_above_zero(ttl: int) -> None:
    """Zero and negative spans are malformed, grant or no grant."""
    for grants in ([], [grant()]):
        with pytest.raises(Invalid):
            decide(lease(ttl=ttl), grants, None, NO_USAGE, NOW)


def test_a_ttl_left_out_is_five_minutes_or_the_maximum() -> None:
    """The default is the smaller of five minutes and the grant's maximum."""
    assert decide(lease(), [grant()], None, NO_USAGE, NOW).ttl == 300
    assert decide(lease(), [grant(max_ttl=60)], None, NO_USAGE, NOW).ttl == 60


def test_a_lease_ends_with_its_grant() -> None:
    """A ttl beyond the grant's expiry is cut to it."""
    ends_soon = grant(expires=NOW.wall + 42 * SECOND)
    assert decide(lease(ttl=300), [ends_soon], None, NO_USAGE, NOW).ttl == 42


def test_a_clock_set_back_revives_no_grant() -> None:
    """Expiry is held against the highest wall time ever vouched for."""
    expired = grant(expires=NOW.wall)
    earlier = Now(NOW.boot, NOW.wall - 3600 * SECOND, NOW.wall)
    assert rule(lease(), expired, now=earlier) is Rule.EXPIRED
    assert rule(lease(), expired, now=earlier._replace(highest=0)) is Rule.GRANT


def test_hours_without_a_zone_never_hold() -> None:
    """A grant whose zone is lost refuses at every hour."""
    stored = {**grant(hours="00:00-24:00").to_dict(), "tz": "Europe/Berlin"}
    assert rule(lease(), Grant.from_dict(stored)) is Rule.HOURS


def test_uses_count_acquisitions_and_not_renewals() -> None:
    """A used-up grant refuses another acquisition and allows a renewal."""
    used = Usage({"grant_1": 3}, 3)
    assert rule(lease(), grant(max_uses=3), usage=used) is Rule.USES
    assert rule(lease(), grant(max_uses=4), usage=used) is Rule.GRANT
    assert rule(lease(renewal=True), grant(max_uses=3), usage=used) is Rule.GRANT


def test_a_rate_says_when_to_come_back() -> None:
    """A used-up rate is Throttled with the wait in its hint, passes when the wait is over, and never holds renewals."""
    limited, rates = grant(rate=[1, 60]), Buckets[str]()
    usage = Usage({}, 0, rates)
    assert limited.rate is not None
    rates.take(limited.id, limited.rate, NOW.boot)
    decision = decide(lease(), [limited], None, usage, NOW)
    assert (decision.rule, decision.wait) == (Rule.RATE, 60 * SECOND)
    error = decision.error()
    assert isinstance(error, Throttled)
    assert error.hint == "try again in 60 s"
    assert rule(lease(renewal=True), limited, usage=usage) is Rule.GRANT
    assert rule(lease(), limited, usage=usage, now=Now(NOW.boot + decision.wait - 1, NOW.wall)) is Rule.RATE
    assert rule(lease(), limited, usage=usage, now=Now(NOW.boot + decision.wait, NOW.wall)) is Rule.GRANT


def test_a_refusal_has_one_text() -> None:
    """Whatever refused, the one refused reads the same, but for the maximum of a ttl."""
    texts = set()
    for options, asked in [
        ({"service": "other"}, {}),
        ({"can": ["put"]}, {}),
        ({"purposes": ["chat"]}, {}),
        ({}, {"delivery": "print"}),
        ({"expires": 1}, {}),
        ({"hours": "01:00-02:00"}, {}),
    ]:
        error = decide(lease(**asked), [grant(**options)], None, NO_USAGE, NOW).error()
        assert isinstance(error, Denied)
        texts.add((error.message, error.hint))
    assert texts == {(DENIED_MESSAGE, DENIED_HINT)}
    too_long = decide(lease(ttl=3600), [grant(max_ttl=300)], None, NO_USAGE, NOW).error()
    assert isinstance(too_long, Denied)
    assert too_long.message == DENIED_MESSAGE
    assert "5m" in too_long.hint


def test_the_maximum_is_told_only_to_whom_all_else_is_allowed() -> None:
    """A ttl that is too long under a grant that refuses anyway gets the constant text."""
    decision = decide(lease(ttl=3600, delivery="print"), [grant(max_ttl=300)], None, NO_USAGE, NOW)
    assert decision.error().hint == DENIED_HINT


def test_an_allowed_decision_is_no_error() -> None:
    """Asking an allowed decision for its error is a bug, and says so."""
    with pytest.raises(Internal):
        decide(lease(), [grant()], None, NO_USAGE, NOW).error()


def test_grants_add_up_but_do_not_mix() -> None:
    """Two grants that each refuse a part do not together allow the whole."""
    by_print = grant(1, deliver=["print"], max_ttl=60)
    long = grant(2, max_ttl=600)
    assert rule(lease(delivery="print", ttl=60), by_print, long) is Rule.GRANT
    assert rule(lease(ttl=600), by_print, long) is Rule.GRANT
    assert rule(lease(delivery="print", ttl=600), by_print, long) is Rule.TTL


def test_the_most_permissive_grant_is_used() -> None:
    """Among several that allow, the longest ttl wins, and a free one before one that would be charged."""
    used = decide(lease(), [grant(1, max_ttl=60), grant(2, max_uses=5), grant(3)], None, NO_USAGE, NOW).grant
    assert used is not None
    assert used.id == "grant_3"


def test_a_run_narrows_what_grants_allow() -> None:
    """Inside a run only its secrets, its purpose, its deliveries and its number of uses are allowed."""
    scope = Scope.parse(["openai/prod"], "chat")
    assert rule(lease(), grant(), scope=scope) is Rule.GRANT
    assert rule(lease(secret="openai/test"), grant(), scope=scope) is Rule.SCOPE_SECRET
    assert rule(lease(purpose="batch"), grant(), scope=scope) is Rule.SCOPE_PURPOSE
    assert rule(lease(action="put"), grant(can=["put"]), scope=scope) is Rule.SCOPE_SECRET
    narrow = Scope(scope.patterns, scope.purpose, frozenset({"env"}), 2)
    assert rule(lease(), grant(), scope=narrow) is Rule.SCOPE_DELIVERY
    assert rule(lease(delivery="env"), grant(), scope=narrow, usage=Usage({}, 2)) is Rule.SCOPE_USES
    assert rule(lease(delivery="env", renewal=True), grant(), scope=narrow, usage=Usage({}, 2)) is Rule.GRANT


def test_a_lease_without_a_purpose_has_its_runs() -> None:
    """A grant for one purpose allows a lease that leaves it to the run."""
    assert rule(lease(), grant(purposes=["chat"]), scope=Scope.parse(["**"], "chat")) is Rule.GRANT
    assert rule(lease(), grant(purposes=["chat"]), scope=Scope.parse(["**"], "batch")) is Rule.PURPOSE


@pytest.mark.parametrize("action", ["put", "rotate", "list", "manage", "audit"])
def test_other_actions_are_granted_by_name(action: str) -> None:
    """What a grant does not name it does not allow; ttl, delivery, uses and purposes bound leases only."""
    request = lease(action=action, delivery="print")
    assert rule(request, grant()) is Rule.CAN
    allowed = grant(can=[action], purposes=["chat"], max_uses=1, rate=[1, 60])
    assert rule(request, allowed, usage=Usage({"grant_1": 5})) is Rule.GRANT
    assert decide(request, [allowed], None, NO_USAGE, NOW).ttl == 0
    assert rule(lease(action=action, secret="db/main"), allowed) is Rule.SECRET


def test_managing_the_tenant_takes_a_grant_over_all_of_it() -> None:
    """A grant over some secrets manages those, and not the tenant as a whole."""
    whole = lease(action="manage", secret=None)
    assert rule(whole, grant(can=["manage"])) is Rule.SECRET
    assert rule(whole, grant(can=["manage"], secrets=["a", "**"])) is Rule.GRANT
    assert rule(lease(action="audit", secret=None), grant(can=["audit"])) is Rule.GRANT


def test_an_unknown_action_is_a_bug() -> None:
    """The edge validates actions, so another one here is Internal, never allowed."""
    with pytest.raises(Internal):
        rule(lease(action="sudo"), grant())


def test_a_run_needs_a_grant_for_each_secret_it_names() -> None:
    """Opening is refused when one named secret is beyond the grants; patterns only need a grant that can lease."""
    grants = [grant(1), grant(2, secrets=["db/*"], can=["put"])]

    def opened(*patterns: str, purpose: str | None = None, now: Now = NOW) -> Rule:
        return decide_open("agent", Scope.parse(patterns, purpose), GrantTable(grants), now).rule

    assert opened("openai/prod", "openai/*", "**") is Rule.GRANT
    assert opened("openai/prod", "x/y") is Rule.SECRET
    assert opened("db/main") is Rule.CAN
    assert decide_open("other", Scope.parse(["**"]), GrantTable(grants), NOW).rule is Rule.SECRET
    assert decide_open("agent", Scope.parse(["**"]), GrantTable([grants[1]]), NOW).rule is Rule.CAN


def test_a_run_with_a_purpose_needs_a_grant_for_it() -> None:
    """A stated purpose is held against the grants at opening, an unstated one at each lease."""
    grants = GrantTable([grant(purposes=["chat"])])
    assert decide_open("agent", Scope.parse(["openai/prod"], "chat"), grants, NOW).allowed
    assert decide_open("agent", Scope.parse(["openai/prod"], "batch"), grants, NOW).rule is Rule.PURPOSE
    assert decide_open("agent", Scope.parse(["openai/prod"]), grants, NOW).allowed
    assert not decide_open("agent", Scope.parse(["openai/prod"]), GrantTable([grant(expires=1)]), NOW).allowed


def test_explain_gives_a_reason_for_each_grant() -> None:
    """Every grant of the service is there with its rule, the nearest first, and other services' grants are not."""
    grants = [
        grant(1, secrets=["db/*"]),
        grant(2, max_ttl=60),
        grant(3, deliver=["print"]),
        grant(4, service="other"),
    ]
    explanation = explain(lease(ttl=600), grants, None, NO_USAGE, NOW)
    assert [(f.grant, f.rule) for f in explanation.findings] == [
        ("grant_2", Rule.TTL),
        ("grant_3", Rule.DELIVERY),
        ("grant_1", Rule.SECRET),
    ]
    told = explanation.to_dict()
    assert (told["allowed"], told["rule"], told["grant"], told["max_ttl"]) == (False, "ttl", "grant_2", 60)
    assert all(finding["reason"] for finding in told["grants"])


def test_explain_is_bounded() -> None:
    """However many grants there are, the answer holds a bounded number of findings."""
    grants = [grant(n) for n in range(300)]
    assert len(explain(lease(), grants, None, NO_USAGE, NOW).findings) == 100


def test_listing_is_by_grants_that_can_list() -> None:
    """Names are shown by the patterns of grants that can list, at their hours, and by no others."""
    grants = [grant(1, can=["list"]), grant(2), grant(3, can=["list"], expires=1), grant(4, can=["list"], service="x")]
    assert [g.id for g in listing("agent", grants, NOW)] == ["grant_1"]


def test_a_world_decides_by_its_grants(world: World) -> None:
    """The index gives the decision the grants that matter."""
    world.grant("openai/*")
    run = world.open("**").run
    assert world.ask(run, "openai/prod").allowed
    assert not world.ask(run, "db/main").allowed
