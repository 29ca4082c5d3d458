"""Grants: what one service may do for one tenant, with every bound of the contract.

What a grant leaves out is a stated default, never "anything goes" by accident: no `can` means lease, no `deliver` means
fd and env, no `max_ttl` means one hour. A value on standard output (`print`) must be granted by name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from vaultd.access.durations import checked_seconds
from vaultd.access.hours import Hours, LoadZone, load_zone, parse_hours, utc_only
from vaultd.access.patterns import Matcher
from vaultd.access.throttle import Rate
from vaultd.errors import Exists, Invalid, NotFound
from vaultd.names import ServiceName, purpose, service_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import tzinfo

__all__ = ["ACTIONS", "DEFAULT_MAX_TTL", "DEFAULT_TTL", "DELIVERIES", "Grant", "GrantTable"]

ACTIONS: Final = ("lease", "put", "rotate", "list", "manage", "audit")
DELIVERIES: Final = ("fd", "env", "print")
DEFAULT_TTL: Final = 300
"""Seconds of a lease that asks for none, unless the grant's maximum is shorter."""
DEFAULT_MAX_TTL: Final = 3600
"""Longest span between renewals, in seconds, of a grant that names none."""
MAX_TTL_LIMIT: Final = 30 * 86_400
_MOST_ENTRIES: Final = 64  # of patterns or purposes in one grant: each costs time in every decision
_MOST_USES: Final = 10**9
_KEYS: Final = frozenset(
    ["id", "service", "secrets", "can", "purposes", "deliver", "max_ttl", "max_uses", "rate", "hours", "tz", "expires"]
)


def _words(value: object, what: str, allowed: tuple[str, ...]) -> frozenset[str]:
    if not isinstance(value, (list, tuple)) or not value or not all(isinstance(word, str) for word in value):
        raise Invalid(f"{what} is not a list of words", f"choose from {', '.join(allowed)}")
    strange = sorted(set(value) - set(allowed))
    if strange:
        raise Invalid(f"{what} does not know {ascii(strange[0])[:40]}", f"choose from {', '.join(allowed)}")
    return frozenset(value)


def _texts(value: object, what: str) -> list[str]:
    if not isinstance(value, (list, tuple)) or len(value) > _MOST_ENTRIES:
        raise Invalid(f"{what} is not a list of at most {_MOST_ENTRIES}", "use patterns, or several grants")
    if not all(isinstance(text, str) for text in value):
        raise Invalid(f"{what} is not a list of texts", "")
    return list(value)


def _whole(value: object, what: str, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise Invalid(f"{what} is not a whole number from 1 to {most}", "leave it out where nothing is to be bounded")
    return value


def _rate(value: object) -> Rate:
    if isinstance(value, (list, tuple)) and len(value) == 2:
        return Rate(_whole(value[0], "the rate's count", 10**6), checked_seconds(value[1], "rate's span"))
    raise Invalid("not a rate", "give a count and a span: 30/1m")


@dataclass(frozen=True, slots=True)
class Grant:
    """One grant; build it with `parse` (from a request) or `from_dict` (from the store).

    Attributes:
        id: `grant_...`.
        service: whom it is for.
        patterns: which secrets, at least one.
        can: which actions, of `ACTIONS`.
        purposes: which purposes a lease may state; empty means any, and none.
        deliver: how a value may reach the process, of `DELIVERIES`.
        max_ttl: longest span between renewals of a lease, seconds.
        max_uses: acquisitions in one run; None means any number.
        rate: acquisitions over all runs; None means any rate.
        hours: hours of the day; None means all.
        tz: name of the zone in which `hours` are meant.
        zone: that zone's rules; None when the edge could not load them any more, and then the hours never hold.
        expires: wall time, ns since 1970, from which it no longer works; None means never.
        preference: sorts the most permissive first; see `decisions.md`.
    """

    id: str
    service: ServiceName
    patterns: tuple[Matcher, ...]
    can: frozenset[str]
    purposes: frozenset[str]
    deliver: frozenset[str]
    max_ttl: int
    max_uses: int | None
    rate: Rate | None
    hours: Hours | None
    tz: str
    zone: tzinfo | None
    expires: int | None
    preference: tuple[int, bool, bool, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "preference", (-self.max_ttl, self.max_uses is not None, self.rate is not None, self.id)
        )

    def names(self, secret: str) -> bool:
        """Whether one of its patterns matches the secret."""
        for matcher in self.patterns:  # noqa: SIM110  (a loop costs half of a generator, in every decision)
            if matcher.matches(secret):
                return True
        return False

    def names_all(self) -> bool:
        """Whether it is about every secret of the tenant (a pattern `**`)."""
        return any(matcher.text == "**" for matcher in self.patterns)

    @classmethod
    def parse(cls, raw: Mapping[str, Any], *, load: LoadZone = utc_only, wall: int | None = None) -> Grant:
        """A new grant from a request's data.

        Args:
            raw: keys `id service secrets can purposes deliver max_ttl max_uses rate hours tz expires`, all but the
                first three optional; `expires` in ns since 1970.
            load: loads the zone's rules, at the edge.
            wall: when given, an expiry at or before it is refused.

        Raises:
            Invalid: anything malformed, unknown or past.
        """
        grant = cls._build(raw, load, strict=True)
        if wall is not None and grant.expires is not None and grant.expires <= wall:
            raise Invalid("the grant would have expired already", "give an expiry in the future")
        return grant

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], *, load: LoadZone = utc_only) -> Grant:
        """A grant back from the store. A zone that can no longer be loaded is no error: its hours just never hold."""
        return cls._build(raw, load, strict=False)

    @classmethod
    def _build(cls, raw: Mapping[str, Any], load: LoadZone, *, strict: bool) -> Grant:
        unknown = set(raw) - _KEYS
        if unknown:
            raise Invalid(f"unknown keys in a grant: {ascii(sorted(map(str, unknown)))[:80]}", "")
        grant_id = raw.get("id")
        if not isinstance(grant_id, str) or not grant_id.startswith("grant_"):
            raise Invalid("a grant needs its id", "")
        patterns = tuple(Matcher(text) for text in dict.fromkeys(_texts(raw.get("secrets"), "secrets")))
        if not patterns:
            raise Invalid("a grant needs at least one secret pattern", "add --secret PATTERN")
        given = {key: value for key, value in raw.items() if value is not None}
        hours, zone = None, None
        tz = given.get("tz", "UTC")
        if "hours" in given:
            hours = parse_hours(given["hours"])
            try:
                zone = load_zone(tz, load)
            except Invalid:
                if strict:
                    raise
        elif "tz" in given and strict and tz != "UTC":
            raise Invalid("a time zone without hours means nothing", "add --hours 08:00-18:00")
        expires = given.get("expires")
        if expires is not None:
            expires = _whole(expires, "expires", 2**63 - 1)
        return cls(
            id=grant_id,
            service=service_name(raw.get("service")),
            patterns=patterns,
            can=_words(given.get("can") or ["lease"], "can", ACTIONS),
            purposes=frozenset(purpose(word) for word in _texts(given.get("purposes", []), "purposes")),
            deliver=_words(given.get("deliver") or ["fd", "env"], "deliver", DELIVERIES),
            max_ttl=_max_ttl(given.get("max_ttl", DEFAULT_MAX_TTL)),
            max_uses=_whole(given["max_uses"], "max-uses", _MOST_USES) if "max_uses" in given else None,
            rate=_rate(given["rate"]) if "rate" in given else None,
            hours=hours,
            tz=tz,
            zone=zone,
            expires=expires,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for storing and for listing, every default spelled out."""
        return {
            "id": self.id,
            "service": str(self.service),
            "secrets": [str(matcher.text) for matcher in self.patterns],
            "can": [action for action in ACTIONS if action in self.can],
            "purposes": sorted(self.purposes),
            "deliver": [kind for kind in DELIVERIES if kind in self.deliver],
            "max_ttl": self.max_ttl,
            "max_uses": self.max_uses,
            "rate": list(self.rate) if self.rate is not None else None,
            "hours": str(self.hours) if self.hours is not None else None,
            "tz": self.tz,
            "expires": self.expires,
        }


def _max_ttl(value: object) -> int:
    seconds = checked_seconds(value, "max-ttl")
    if seconds > MAX_TTL_LIMIT:
        raise Invalid("the max-ttl is over 30 days", "leases are renewed; give the longest span between renewals")
    return seconds


class GrantTable:
    """One tenant's grants, found by service and secret without trying every pattern.

    Literal patterns are found by name, others by their first segment where that is literal; what is left are patterns
    that start with a star.
    """

    __slots__ = ("_by_id", "_by_service")

    def __init__(self, grants: Iterable[Grant] = ()) -> None:
        self._by_id: dict[str, Grant] = {}
        self._by_service: dict[str, _ServiceGrants] = {}
        for grant in grants:
            self.add(grant)

    @classmethod
    def from_dicts(cls, raws: Iterable[Mapping[str, Any]], *, load: LoadZone = utc_only) -> GrantTable:
        """The table over stored grants."""
        return cls(Grant.from_dict(raw, load=load) for raw in raws)

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, grant: Grant) -> None:
        """Take a grant in; raises `Exists` when the id is taken."""
        if grant.id in self._by_id:
            raise Exists("a grant with this id exists", "")
        self._by_id[grant.id] = grant
        self._by_service.setdefault(grant.service, _ServiceGrants()).add(grant)

    def remove(self, grant_id: str) -> Grant:
        """Take a grant out; raises `NotFound`."""
        grant = self._by_id.pop(grant_id, None)
        if grant is None:
            raise NotFound("no such grant", "see: vaultctl grant list TENANT")
        mine = self._by_service[grant.service]
        mine.remove(grant)
        if not mine.grants:
            del self._by_service[grant.service]
        return grant

    def get(self, grant_id: str) -> Grant | None:
        """The grant with this id."""
        return self._by_id.get(grant_id)

    def all(self) -> list[Grant]:
        """Every grant, in the order in which they were added."""
        return list(self._by_id.values())

    def services(self) -> frozenset[str]:
        """Names of the services that have any grant here: what the vault's index must say."""
        return frozenset(self._by_service)

    def of_service(self, service: str) -> list[Grant]:
        """Every grant of one service."""
        mine = self._by_service.get(service)
        return list(mine.grants.values()) if mine is not None else []

    def candidates(self, service: str, secret: str) -> list[Grant]:
        """The service's grants that may name the secret: all that do, and few that do not."""
        mine = self._by_service.get(service)
        return mine.candidates(secret) if mine is not None else []


class _ServiceGrants:
    __slots__ = ("_elsewhere", "_heads", "_literals", "grants")

    def __init__(self) -> None:
        self.grants: dict[str, Grant] = {}
        self._literals: dict[str, dict[str, Grant]] = {}
        self._heads: dict[str, dict[str, Grant]] = {}
        self._elsewhere: dict[str, Grant] = {}

    def _place(self, matcher: Matcher) -> tuple[dict[str, dict[str, Grant]], str] | None:
        if matcher.literal:
            return self._literals, matcher.text
        head = matcher.head
        return (self._heads, head) if head is not None else None

    def add(self, grant: Grant) -> None:
        self.grants[grant.id] = grant
        for matcher in grant.patterns:
            place = self._place(matcher)
            if place is None:
                self._elsewhere[grant.id] = grant
            else:
                index, key = place
                index.setdefault(key, {})[grant.id] = grant

    def remove(self, grant: Grant) -> None:
        del self.grants[grant.id]
        for matcher in grant.patterns:
            place = self._place(matcher)
            if place is None:
                self._elsewhere.pop(grant.id, None)
            else:
                index, key = place
                bucket = index.get(key)
                if bucket is not None:
                    bucket.pop(grant.id, None)
                    if not bucket:
                        del index[key]

    def candidates(self, secret: str) -> list[Grant]:
        literal = self._literals.get(secret)
        head = self._heads.get(secret.partition("/")[0])
        # A grant may be in several buckets (two of its patterns); the union by id keeps it once.
        found: dict[str, Grant] = {}
        for bucket in (literal, head, self._elsewhere):
            if bucket:
                found.update(bucket)
        return list(found.values())
