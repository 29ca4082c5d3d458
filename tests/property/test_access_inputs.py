"""Whatever plain data comes in, from a request or from the store, is taken or refused as Invalid (I12)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.access_world import World
from vaultd.access.durations import format_duration, parse_duration
from vaultd.access.grants import Grant
from vaultd.access.hours import parse_hours
from vaultd.access.run import Run
from vaultd.access.scope import Scope
from vaultd.access.services import Service
from vaultd.errors import Invalid

if TYPE_CHECKING:
    from collections.abc import Callable

scalars = st.none() | st.booleans() | st.integers(-(2**64), 2**65) | st.floats() | st.text(max_size=20) | st.binary()
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=6,
)


def taken(read: Callable[[Any], object], raw: Any) -> bool:
    """Whether `raw` was taken; any error but Invalid comes through."""
    try:
        read(raw)
    except Invalid:
        return False
    return True


def changed(good: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Good data with some of its values replaced by anything, some left out, and perhaps a key too many."""
    return st.tuples(
        st.dictionaries(st.sampled_from(sorted(good)), anything, max_size=3),
        st.sets(st.sampled_from(sorted(good)), max_size=2),
        st.dictionaries(st.text(max_size=5), anything, max_size=1),
    ).map(lambda parts: {k: v for k, v in {**good, **parts[0], **parts[2]}.items() if k not in parts[1]})


GRANT = Grant.parse(
    {
        "id": "grant_a",
        "service": "agent",
        "secrets": ["a/*", "b"],
        "purposes": ["chat"],
        "max_uses": 3,
        "rate": [1, 60],
        "hours": "08:00-18:00",
        "expires": 10**18,
    }
).to_dict()
SERVICE = Service.from_dict(
    {"name": "agent", "uid": 1, "gid": 2, "unit": "/system.slice/x.service", "exe": ["/x", 1, 2]}
).to_dict()
RUN = World().open("a/*", purpose="chat").run.to_dict()


@settings(max_examples=150)
@given(changed(GRANT) | st.dictionaries(st.text(max_size=8), anything))
def test_grants(raw: dict[str, Any]) -> None:
    """A grant is taken, and then comes back equal, or is Invalid."""
    if taken(Grant.parse, raw):
        stored = Grant.parse(raw).to_dict()
        assert Grant.from_dict(stored).to_dict() == stored
    taken(Grant.from_dict, raw)


@settings(max_examples=150)
@given(changed(SERVICE) | st.dictionaries(st.text(max_size=8), anything))
def test_services(raw: dict[str, Any]) -> None:
    """A service is taken, and then has a uid or a unit and comes back equal, or is Invalid."""
    if taken(Service.from_dict, raw):
        service = Service.from_dict(raw)
        assert service.uid is not None or service.unit is not None
        assert Service.from_dict(service.to_dict()) == service


@settings(max_examples=150)
@given(changed(RUN) | changed({"scope": RUN["scope"]}) | st.dictionaries(st.text(max_size=8), anything))
def test_runs(raw: dict[str, Any]) -> None:
    """A stored run is taken, and then comes back equal, or is Invalid."""
    if taken(Run.from_dict, raw):
        stored = Run.from_dict(raw).to_dict()
        assert Run.from_dict(stored).to_dict() == stored


@settings(max_examples=100)
@given(changed(RUN["scope"]), st.lists(anything, max_size=4))
def test_scopes(raw: dict[str, Any], patterns: list[Any]) -> None:
    """A scope is taken or Invalid, stored or asked for."""
    taken(Scope.from_dict, raw)
    taken(Scope.parse, patterns)


@settings(max_examples=150)
@given(anything | st.from_regex(r"([0-9]{1,4}[wdhms]){1,3}", fullmatch=True), st.integers(1, 10**8))
def test_spans_and_hours(raw: Any, seconds: int) -> None:
    """A duration or hours are taken or Invalid, and every span that is shown reads back."""
    if taken(parse_duration, raw):
        assert parse_duration(format_duration(parse_duration(raw))) == parse_duration(raw)
    if taken(parse_hours, raw):
        assert str(parse_hours(raw)) == raw
    assert parse_duration(format_duration(seconds)) == seconds
