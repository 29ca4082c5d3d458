"""Grants: parsing, defaults, storing, and the index over them."""

from __future__ import annotations

from datetime import timedelta, timezone, tzinfo
from typing import Any

import pytest

from vaultd.access.grants import Grant, GrantTable
from vaultd.access.throttle import Rate
from vaultd.errors import Exists, Invalid, NotFound


def raw(**options: Any) -> dict[str, Any]:
    """A request's data for a grant to `agent` over `openai/*`."""
    return {"id": "grant_a", "service": "agent", "secrets": ["openai/*"], **options}


def load(name: str) -> tzinfo:
    """A loader that knows one zone."""
    if name == "Europe/Berlin":
        return timezone(timedelta(hours=1))
    raise KeyError(name)


def no_zones(name: str) -> tzinfo:
    """A loader on a machine whose zone files are gone."""
    raise KeyError(name)


def test_what_is_left_out_is_a_stated_default() -> None:
    """A grant that says only whom and what allows leases by fd and env, for an hour, and nothing else."""
    assert Grant.parse(raw()).to_dict() == {
        "id": "grant_a",
        "service": "agent",
        "secrets": ["openai/*"],
        "can": ["lease"],
        "purposes": [],
        "deliver": ["fd", "env"],
        "max_ttl": 3600,
        "max_uses": None,
        "rate": None,
        "hours": None,
        "tz": "UTC",
        "expires": None,
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"secrets": []},
        {"secrets": None},
        {"secrets": "openai/*"},
        {"secrets": ["a"] * 65},
        {"secrets": ["A"]},
        {"service": "root"},
        {"service": None},
        {"id": 5},
        {"id": "lease_a"},
        {"can": ["lease", "sudo"]},
        {"can": "lease"},
        {"can": [["lease"]]},
        {"deliver": ["stdout"]},
        {"purposes": ["Chat"]},
        {"purposes": "chat"},
        {"max_ttl": 0},
        {"max_ttl": -1},
        {"max_ttl": True},
        {"max_ttl": 31 * 86_400},
        {"max_uses": 0},
        {"max_uses": 1.5},
        {"rate": [0, 60]},
        {"rate": [1, 0]},
        {"rate": [1]},
        {"rate": "1/60"},
        {"hours": "08:00"},
        {"hours": "08:00-18:00", "tz": "Europe/Nowhere"},
        {"hours": "08:00-18:00", "tz": "../UTC"},
        {"tz": "Europe/Berlin"},
        {"expires": 0},
        {"expires": "tomorrow"},
        {"expires": 2**63},
        {"ttl": 5},
    ],
)
def test_malformed_grants_are_refused(wrong: dict[str, Any]) -> None:
    """Each wrong key, type, word or bound raises Invalid."""
    with pytest.raises(Invalid):
        Grant.parse(raw(**wrong), load=load)


def test_a_grant_that_is_over_before_it_starts_is_refused() -> None:
    """An expiry at or before now is Invalid for a new grant."""
    with pytest.raises(Invalid):
        Grant.parse(raw(expires=100), wall=100)
    assert Grant.parse(raw(expires=101), wall=100).expires == 101


def test_stored_grants_come_back_equal() -> None:
    """A grant with everything survives its way through plain data."""
    full = raw(
        secrets=["openai/*", "db/**", "x"],
        can=["audit", "lease", "put", "rotate", "list", "manage"],
        purposes=["chat", "batch"],
        deliver=["print"],
        max_ttl=60,
        max_uses=3,
        rate=[30, 60],
        hours="22:00-06:00",
        tz="Europe/Berlin",
        expires=10**18,
    )
    grant = Grant.parse(full, load=load)
    again = Grant.from_dict(grant.to_dict(), load=load)
    assert again.to_dict() == grant.to_dict()
    assert (again.zone, again.rate, again.hours) == (load("Europe/Berlin"), Rate(30, 60), grant.hours)


def test_a_lost_zone_closes_the_hours_instead_of_the_tenant() -> None:
    """A stored grant whose zone cannot be loaded any more comes back, without a zone."""
    stored = Grant.parse(raw(hours="00:00-24:00", tz="Europe/Berlin"), load=load).to_dict()
    assert Grant.from_dict(stored, load=no_zones).zone is None


def test_preference_puts_the_most_permissive_first() -> None:
    """Longer ttl first, then without a cap on uses, then without a rate, then by id."""
    grants = [
        Grant.parse(raw(id="grant_d", max_ttl=60)),
        Grant.parse(raw(id="grant_c", rate=[1, 1])),
        Grant.parse(raw(id="grant_b", max_uses=1)),
        Grant.parse(raw(id="grant_f")),
        Grant.parse(raw(id="grant_e")),
        Grant.parse(raw(id="grant_z", max_ttl=7200)),
    ]
    order = [grant.id for grant in sorted(grants, key=lambda grant: grant.preference)]
    assert order == ["grant_z", "grant_e", "grant_f", "grant_c", "grant_b", "grant_d"]


def test_the_index_finds_by_service_and_secret() -> None:
    """Literal, folder and starred patterns are found; a removed grant is found no more, under any of its patterns."""
    table = GrantTable.from_dicts(
        [
            raw(id="grant_1", secrets=["openai/prod", "openai/*"]),
            raw(id="grant_2", secrets=["*/prod"]),
            raw(id="grant_3", secrets=["db/**"]),
            raw(id="grant_4", secrets=["openai/prod"], service="other"),
        ]
    )
    assert {g.id for g in table.candidates("agent", "openai/prod")} == {"grant_1", "grant_2"}
    assert {g.id for g in table.candidates("agent", "db")} == {"grant_2", "grant_3"}
    assert table.candidates("nobody", "openai/prod") == []
    assert table.services() == {"agent", "other"}
    table.remove("grant_1")
    assert {g.id for g in table.candidates("agent", "openai/prod")} == {"grant_2"}
    table.remove("grant_4")
    assert table.services() == {"agent"}
    table.remove("grant_2")
    assert table.candidates("agent", "openai/prod") == []
    assert [g.id for g in table.candidates("agent", "db")] == ["grant_3"]
    table.remove("grant_3")
    assert table.services() == frozenset()
    assert len(table) == 0


def test_ids_are_taken_once_and_removed_once() -> None:
    """A second grant with the same id is Exists, and removing an absent one is NotFound."""
    table = GrantTable([Grant.parse(raw())])
    with pytest.raises(Exists):
        table.add(Grant.parse(raw()))
    assert table.get("grant_a") is table.all()[0]
    assert table.of_service("agent") == table.all()
    assert table.of_service("other") == []
    table.remove("grant_a")
    with pytest.raises(NotFound):
        table.remove("grant_a")
