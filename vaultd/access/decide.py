"""The decision: allowed under this grant with these bounds, or refused, and by which rule. Default: refused.

`judge` holds one request against one grant and names the first rule that fails, or `GRANT`. `decide` and `explain` both
ask `judge`, so an explanation cannot disagree with the decision that it explains.
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from vaultd.access.denials import denied
from vaultd.access.durations import format_duration
from vaultd.access.grants import ACTIONS, DEFAULT_TTL, Grant
from vaultd.access.instants import SECOND
from vaultd.access.throttle import Buckets, throttled
from vaultd.errors import Denied, Internal, Invalid, VaultdError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from vaultd.access.grants import GrantTable
    from vaultd.access.instants import Now
    from vaultd.access.scope import Scope

__all__ = [
    "NO_USAGE",
    "Decision",
    "Explanation",
    "Finding",
    "Request",
    "Rule",
    "Usage",
    "decide",
    "decide_open",
    "explain",
    "judge",
    "listing",
]


class Rule(StrEnum):
    """What decided. Those about a grant stand in the order in which they are asked; `GRANT` is the only yes."""

    SCOPE_SECRET = "scope-secret"  # noqa: S105
    SCOPE_PURPOSE = "scope-purpose"
    SCOPE_DELIVERY = "scope-delivery"
    SCOPE_USES = "scope-uses"
    SERVICE = "service"
    SECRET = "secret"  # noqa: S105
    CAN = "can"
    PURPOSE = "purpose"
    DELIVERY = "delivery"
    EXPIRED = "expired"
    HOURS = "hours"
    TTL = "ttl"
    USES = "uses"
    RATE = "rate"
    GRANT = "grant"


_MEANING: Final = {
    Rule.SCOPE_SECRET: "the run's scope does not name this secret",
    Rule.SCOPE_PURPOSE: "the run was opened for another purpose",
    Rule.SCOPE_DELIVERY: "the run may not receive a value this way",
    Rule.SCOPE_USES: "the run, or one that it was opened in, has used up its acquisitions",
    Rule.SERVICE: "the grant is for another service",
    Rule.SECRET: "no grant of the service names this secret",
    Rule.CAN: "the grant does not allow this action",
    Rule.PURPOSE: "the grant is for other purposes",
    Rule.DELIVERY: "the grant does not allow this delivery",
    Rule.EXPIRED: "the grant has expired",
    Rule.HOURS: "the grant does not work at this hour",
    Rule.TTL: "the ttl asked for is above the grant's maximum",
    Rule.USES: "the run has used up the grant's acquisitions",
    Rule.RATE: "the grant's rate is used up for now",
    Rule.GRANT: "a grant allows it",
}
_STAGE: Final = {rule: stage for stage, rule in enumerate(Rule)}
_OPEN: Final = "open"


class Request(NamedTuple):
    """What is asked, after the edge has validated every name.

    Attributes:
        action: one of `grants.ACTIONS`, or "open" (what opening a run needs: to be able to lease at all).
        service: who asks, as a service.
        secret: the secret's name; None for the tenant as a whole.
        purpose: what a lease is for, if stated.
        delivery: how its value would reach the process.
        ttl: seconds asked for; None: the default.
        renewal: a lease's renewal, which costs neither uses nor rate.
    """

    action: str
    service: str
    secret: str | None
    purpose: str | None = None
    delivery: str = "fd"
    ttl: int | None = None
    renewal: bool = False


class Usage(NamedTuple):
    """What was used already.

    Attributes:
        uses: acquisitions in this run's whole tree, by grant id: a grant's cap is on that, however it is divided.
        total: acquisitions in this run and below.
        rates: buckets over all runs, by grant id; None when there are none to hold against (a hypothetical).
        above: scope and total of each run above, nearest first.
    """

    uses: Mapping[str, int]
    total: int = 0
    rates: Buckets[str] | None = None
    above: tuple[tuple[Scope, int], ...] = ()


NO_USAGE: Final = Usage(MappingProxyType({}))


class Decision(NamedTuple):
    """The answer, and everything that a record or an explanation needs of it.

    Attributes:
        allowed: the answer.
        rule: what decided; `Rule.GRANT` exactly when allowed.
        grant: the grant that allows; the one that came nearest when refused; None when none comes near.
        ttl: seconds of the lease when allowed; 0 for actions without one.
        max_ttl: longest span between renewals, seconds: of the grant when allowed, of the best refused one for `TTL`.
        wait: for `RATE`, nanoseconds until a token is there.
    """

    allowed: bool
    rule: Rule
    grant: Grant | None
    ttl: int = 0
    max_ttl: int = 0
    wait: int = 0

    @property
    def reason(self) -> str:
        """The rule in words, for records and for admins; never for the one refused."""
        return _MEANING[self.rule]

    def error(self) -> VaultdError:
        """What the one refused is told: one constant text, but for a rate (when to come back) and a ttl (the maximum).

        Both are told only when everything else about the grant would have allowed it.
        """
        if self.allowed:
            raise Internal("an allowed decision is no error")
        if self.rule is Rule.RATE:
            return throttled(self.wait)
        if self.rule is Rule.TTL:
            return Denied(denied().message, f"the longest ttl here is {format_duration(self.max_ttl)}; renew within it")
        return denied()


def judge(grant: Grant, request: Request, usage: Usage, now: Now) -> Rule:
    """The first rule of `grant` that refuses `request`, or `Rule.GRANT`."""
    if grant.service != request.service:
        return Rule.SERVICE
    action, secret = request.action, request.secret
    # Listing is narrowed name by name by the caller (`Grant.names`), and a trail can only be read whole; anything else
    # that is about the tenant as a whole takes a grant that is about all its secrets.
    if secret is None:
        if action in {"manage", "put", "rotate", "lease"} and not grant.names_all():
            return Rule.SECRET
    elif not grant.names(secret):
        return Rule.SECRET
    if ("lease" if action == _OPEN else action) not in grant.can:
        return Rule.CAN
    leasing = action == "lease"
    if grant.purposes and request.purpose not in grant.purposes and (leasing or request.purpose is not None):
        return Rule.PURPOSE
    if leasing and request.delivery not in grant.deliver:
        return Rule.DELIVERY
    if grant.expires is not None and now.settled() >= grant.expires:
        return Rule.EXPIRED
    if grant.hours is not None and (grant.zone is None or not grant.hours.hold(now.wall, grant.zone)):
        return Rule.HOURS
    if not leasing:
        return Rule.GRANT
    if request.ttl is not None and request.ttl > grant.max_ttl:
        return Rule.TTL
    if request.renewal:
        return Rule.GRANT
    if grant.max_uses is not None and usage.uses.get(grant.id, 0) >= grant.max_uses:
        return Rule.USES
    if grant.rate is not None and usage.rates is not None and usage.rates.wait(grant.id, grant.rate, now.boot):
        return Rule.RATE
    return Rule.GRANT


def _checked(request: Request) -> None:
    if request.action not in ACTIONS and request.action != _OPEN:
        raise Internal(f"no action is called {request.action}")
    if request.ttl is not None and request.ttl <= 0:
        raise Invalid("the ttl is not above zero", "leave it out for the default, or give a span such as 5m")


def _with_purpose(request: Request, scope: Scope) -> Request:
    """A lease that states no purpose has its run's."""
    if request.purpose is not None or scope.purpose is None:
        return request
    action, service, secret, _, delivery, ttl, renewal = request
    return Request(action, service, secret, scope.purpose, delivery, ttl, renewal)


def _outside(request: Request, scope: Scope, usage: Usage) -> Rule | None:
    """The rule of a run's scope that refuses, if one does; scopes are about leases, and a run may do nothing else.

    The scopes of the runs above are asked as well, each time: so a child run has no right that its parent lacks (I6),
    whatever it was opened with.
    """
    for one, total in ((scope, usage.total), *usage.above):
        refused = _beyond(request, one, total)
        if refused is not None:
            return refused
    return None


def _beyond(request: Request, scope: Scope, total: int) -> Rule | None:
    if request.action != "lease" or request.secret is None or not scope.names(request.secret):
        return Rule.SCOPE_SECRET
    if scope.purpose is not None and request.purpose != scope.purpose:
        return Rule.SCOPE_PURPOSE
    if request.delivery not in scope.deliver:
        return Rule.SCOPE_DELIVERY
    if scope.max_uses is not None and not request.renewal and total >= scope.max_uses:
        return Rule.SCOPE_USES
    return None


def decide(request: Request, grants: Iterable[Grant], scope: Scope | None, usage: Usage, now: Now) -> Decision:
    """Whether `request` is allowed, and by what.

    The union of the grants decides: it is allowed when a single grant allows all of it. Where several do, the most
    permissive one is used and charged (`Grant.preference`). The order of `grants` does not matter.

    Args:
        request: what is asked; inside a run with a purpose, `purpose` None means the run's.
        grants: the tenant's grants that may matter: `GrantTable.candidates`, or all of them.
        scope: the run's; None outside a run.
        usage: what was used already.
        now: the instant.

    Raises:
        Invalid: a ttl of zero or below.
    """
    _checked(request)
    if scope is not None:
        request = _with_purpose(request, scope)
        refused = _outside(request, scope, usage)
        if refused is not None:
            return Decision(False, refused, None)
    best: Grant | None = None
    nearest: Grant | None = None
    furthest = Rule.SERVICE
    for grant in grants:
        rule = judge(grant, request, usage, now)
        if rule is Rule.GRANT:
            if best is None or grant.preference < best.preference:
                best = grant
        elif best is None and (
            nearest is None
            or _STAGE[rule] > _STAGE[furthest]
            or (rule is furthest and grant.preference < nearest.preference)
        ):
            nearest, furthest = grant, rule
    if best is not None:
        if request.action != "lease":
            return Decision(True, Rule.GRANT, best)
        ttl = request.ttl if request.ttl is not None else min(DEFAULT_TTL, best.max_ttl)
        if best.expires is not None:
            # A lease does not outlive its grant by more than the second that whole numbers cost.
            ttl = min(ttl, max(1, (best.expires - now.settled()) // SECOND))
        return Decision(True, Rule.GRANT, best, ttl, best.max_ttl)
    if _STAGE[furthest] <= _STAGE[Rule.SECRET] or nearest is None:
        # Candidates come from an index and leave out grants that name other secrets: both look the same from here.
        return Decision(False, Rule.SECRET, None)
    wait = 0
    if furthest is Rule.RATE and nearest.rate is not None and usage.rates is not None:
        wait = usage.rates.wait(nearest.id, nearest.rate, now.boot)
    return Decision(False, furthest, nearest, max_ttl=nearest.max_ttl, wait=wait)


def decide_open(service: str, scope: Scope, grants: GrantTable, now: Now) -> Decision:
    """Whether `service` may open a run with this scope.

    Each secret that the scope names outright must be leasable at this instant, and each pattern needs a grant that can
    lease at all: patterns are an upper bound, held against the grants again at every lease.
    """
    # All patterns ask the same, once; each name asks the index: a long scope over many grants must stay cheap.
    decision = Decision(False, Rule.SECRET, None)
    for name in dict.fromkeys(matcher.text if matcher.literal else None for matcher in scope.patterns):
        candidates = grants.candidates(service, name) if name is not None else grants.of_service(service)
        decision = decide(Request(_OPEN, service, name, scope.purpose), candidates, None, NO_USAGE, now)
        if not decision.allowed:
            return decision
    return decision


def listing(service: str, grants: Iterable[Grant], now: Now) -> list[Grant]:
    """The grants by which `service` may list secrets now: it sees the names that one of them names (`Grant.names`)."""
    request = Request("list", service, None)
    return [grant for grant in grants if judge(grant, request, NO_USAGE, now) is Rule.GRANT]


class Finding(NamedTuple):
    """One grant held against one request."""

    grant: str
    rule: Rule

    @property
    def text(self) -> str:
        """The rule in words."""
        return _MEANING[self.rule]


class Explanation(NamedTuple):
    """A decision, and why each grant of the service did or did not allow it."""

    decision: Decision
    findings: tuple[Finding, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the wire."""
        decision = self.decision
        return {
            "allowed": decision.allowed,
            "rule": str(decision.rule),
            "reason": decision.reason,
            "grant": decision.grant.id if decision.grant is not None else None,
            "ttl": decision.ttl,
            "max_ttl": decision.max_ttl,
            "grants": [{"grant": f.grant, "rule": str(f.rule), "reason": f.text} for f in self.findings],
        }


def explain(
    request: Request, grants: Iterable[Grant], scope: Scope | None, usage: Usage, now: Now, *, most: int = 100
) -> Explanation:
    """The decision of `decide` on the same arguments, with a finding for each grant of the service, nearest first.

    At most `most` findings are kept, so that the answer stays bounded however many grants there are.

    Raises:
        Invalid: a ttl of zero or below.
    """
    mine = [grant for grant in grants if grant.service == request.service]
    decision = decide(request, mine, scope, usage, now)
    if scope is not None:
        request = _with_purpose(request, scope)
    judged = [(judge(grant, request, usage, now), grant) for grant in mine]
    judged.sort(key=lambda pair: (-_STAGE[pair[0]], pair[1].preference))
    return Explanation(decision, tuple(Finding(grant.id, rule) for rule, grant in judged[:most]))
