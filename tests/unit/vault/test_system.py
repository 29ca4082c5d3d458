"""The pure state of the whole vault: services, links, sealed flags, runs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaultd.errors import FormatVersion, IntegrityError
from vaultd.vault.codec import pack, unpack
from vaultd.vault.system import SystemState

A, B = b"a" * 16, b"b" * 16


def replay(*headers: dict[str, Any]) -> SystemState:
    state = SystemState()
    for header in headers:
        state.apply(unpack(pack(header)))
    return state


def test_links_say_where_a_service_has_grants() -> None:
    """A service is linked where a record says so, and nowhere else; unlinking ends it."""
    state = replay(
        {"op": "service", "service": {"name": "agent", "uid": 1000}},
        {"op": "link", "service": "agent", "tenant": A},
    )
    assert state.linked("agent", A)
    assert not state.linked("agent", B)
    assert not state.linked("other", A)
    state.apply({"op": "unlink", "service": "agent", "tenant": A})
    assert not state.linked("agent", A)
    assert state.links == {}


def test_forgetting_a_tenant_takes_its_links_and_its_flag() -> None:
    """A deleted tenant leaves nothing in the index, and others' links stay."""
    state = replay(
        {"op": "link", "service": "agent", "tenant": A},
        {"op": "link", "service": "agent", "tenant": B},
        {"op": "link", "service": "batch", "tenant": A},
        {"op": "seal", "tenant": A},
        {"op": "forget", "tenant": A},
    )
    assert state.links == {"agent": {B}}
    assert state.sealed == set()


def test_flags_and_runs_come_and_go() -> None:
    """Sealing twice is one flag; a run is kept by its id until it ends."""
    state = replay(
        {"op": "seal", "tenant": A},
        {"op": "seal", "tenant": A},
        {"op": "run", "run": {"id": "run_1", "uses": 1}},
        {"op": "run", "run": {"id": "run_1", "uses": 2}},
    )
    assert state.sealed == {A}
    assert state.runs == {"run_1": {"id": "run_1", "uses": 2}}
    state.apply({"op": "unseal", "tenant": A})
    state.apply({"op": "unrun", "id": "run_1"})
    assert state == SystemState()


@pytest.mark.parametrize(
    "header",
    [
        {"op": "unservice", "name": "absent"},
        {"op": "unlink", "service": "absent", "tenant": A},
        {"op": "unrun", "id": "absent"},
        {"op": "service", "service": {}},
        {"op": "run", "run": {}},
        {"op": "link", "service": b"agent", "tenant": A},
        {"op": "seal"},
    ],
)
def test_records_that_do_not_follow_are_refused(header: dict[str, Any]) -> None:
    """A record that no change of ours could have made here is `IntegrityError`."""
    with pytest.raises(IntegrityError):
        replay(header)


def test_unknown_records_are_of_a_newer_version() -> None:
    """What this version does not know it does not skip."""
    with pytest.raises(FormatVersion):
        replay({"op": "quorum"})


@given(
    st.lists(
        st.one_of(
            st.builds(lambda n: {"op": "service", "service": {"name": n}}, st.sampled_from("xyz")),
            st.builds(lambda n: {"op": "unservice", "name": n}, st.sampled_from("xyz")),
            st.builds(
                lambda o, n, t: {"op": o, "service": n, "tenant": t},
                st.sampled_from(["link", "unlink"]),
                st.sampled_from("xyz"),
                st.sampled_from([A, B]),
            ),
            st.builds(
                lambda o, t: {"op": o, "tenant": t},
                st.sampled_from(["seal", "unseal", "forget"]),
                st.sampled_from([A, B]),
            ),
            st.builds(lambda n: {"op": "run", "run": {"id": n}}, st.sampled_from("xyz")),
            st.builds(lambda n: {"op": "unrun", "id": n}, st.sampled_from("xyz")),
        )
    )
)
def test_restating_gives_the_same_state(headers: list[dict[str, Any]]) -> None:
    """Whatever was said, restating it says the same."""
    state = SystemState()
    for header in headers:
        try:
            state.apply(header)
        except IntegrityError:
            continue
    assert replay(*state.restate()) == state
