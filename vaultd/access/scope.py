"""What a run may at most: asked for when it is opened, and only ever narrowed by the grants and by child runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from vaultd.access.grants import DELIVERIES
from vaultd.access.patterns import Matcher
from vaultd.errors import Invalid
from vaultd.names import Purpose, purpose

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["MOST_PATTERNS", "Scope"]

MOST_PATTERNS: Final = 256
_ALL_DELIVERIES: Final = frozenset(DELIVERIES)


@dataclass(frozen=True, slots=True)
class Scope:
    """Bounds of a run; what is None or left out is bounded by the grants alone.

    Attributes:
        patterns: secrets that may be leased.
        purpose: the one purpose of its leases; None: each lease states its own.
        deliver: kinds of delivery that may be asked for.
        max_uses: acquisitions in all; None means any number.
    """

    patterns: tuple[Matcher, ...]
    purpose: Purpose | None = None
    deliver: frozenset[str] = _ALL_DELIVERIES
    max_uses: int | None = None

    @classmethod
    def parse(cls, patterns: Iterable[str], purpose_name: str | None = None, max_uses: int | None = None) -> Scope:
        """The scope that a request asks for.

        Raises:
            Invalid: no pattern, too many, or something malformed.
        """
        given = list(patterns)
        if not all(isinstance(text, str) for text in given):
            raise Invalid("a run's scope is a list of texts", "")
        distinct = list(dict.fromkeys(given))
        if not 1 <= len(distinct) <= MOST_PATTERNS:
            raise Invalid(
                f"a run's scope has 1 to {MOST_PATTERNS} secrets or patterns", "add --env NAME=SECRET or --allow P"
            )
        if max_uses is not None and max_uses < 1:
            raise Invalid("a run's uses are not a whole number above zero", "leave them out for any number")
        return cls(
            patterns=tuple(Matcher(text) for text in distinct),
            purpose=purpose(purpose_name) if purpose_name is not None else None,
            max_uses=max_uses,
        )

    def completed(self, wider: Scope) -> Scope:
        """This scope with what it leaves open as in `wider`: what a child run gets that asks for this one."""
        return replace(
            self,
            purpose=self.purpose if self.purpose is not None else wider.purpose,
            deliver=self.deliver & wider.deliver,
            max_uses=self.max_uses if self.max_uses is not None else wider.max_uses,
        )

    def names(self, secret: str) -> bool:
        """Whether the secret is inside."""
        for matcher in self.patterns:  # noqa: SIM110  (a loop costs half of a generator, in every decision)
            if matcher.matches(secret):
                return True
        return False

    def within(self, wider: Scope) -> bool:
        """Whether everything that this scope lets through, `wider` lets through too (I6); never wrongly true."""
        return (
            all(any(wide.covers(narrow) for wide in wider.patterns) for narrow in self.patterns)
            and (wider.purpose is None or self.purpose == wider.purpose)
            and self.deliver <= wider.deliver
            and (wider.max_uses is None or (self.max_uses is not None and self.max_uses <= wider.max_uses))
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for storing."""
        return {
            "patterns": [str(matcher.text) for matcher in self.patterns],
            "purpose": self.purpose,
            "deliver": [kind for kind in DELIVERIES if kind in self.deliver],
            "max_uses": self.max_uses,
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Scope:
        """A scope back from the store; raises `Invalid` on anything malformed."""
        deliver = raw.get("deliver", list(DELIVERIES))
        max_uses = raw.get("max_uses")
        if not isinstance(deliver, (list, tuple)) or not all(kind in DELIVERIES for kind in deliver):
            raise Invalid("a stored scope has unknown deliveries", "")
        if max_uses is not None and (not isinstance(max_uses, int) or isinstance(max_uses, bool) or max_uses < 0):
            raise Invalid("a stored scope has a malformed number of uses", "")
        patterns = raw.get("patterns")
        if not isinstance(patterns, (list, tuple)):
            raise Invalid("a stored scope has no patterns", "")
        base = cls.parse(patterns, raw.get("purpose"))
        return cls(base.patterns, base.purpose, frozenset(deliver), max_uses)
