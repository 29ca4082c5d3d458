"""Which peer is which service."""

from __future__ import annotations

from typing import Any

import pytest

from vaultd.access.denials import DENIED_HINT, DENIED_MESSAGE
from vaultd.access.facts import PeerFacts
from vaultd.access.services import Executable, Service, ServiceTable, checked_unit
from vaultd.errors import AmbiguousService, Denied, Exists, Invalid, NotFound

UNIT = "/system.slice/agent.service"


def peer(**options: Any) -> PeerFacts:
    """A peer with uid and gid 1000 unless told otherwise."""
    return PeerFacts(**{"uid": 1000, "gid": 1000, "pid": 5, "start_time": 9, "session": 5, **options})


def service(**options: Any) -> Service:
    """A service called agent."""
    return Service.from_dict({"name": "agent", **options})


@pytest.mark.parametrize("selectors", [{}, {"gid": 5}, {"exe": ("/bin/x", 1, 2)}, {"gid": 5, "exe": ("/bin/x", 1, 2)}])
def test_a_service_needs_a_uid_or_a_unit(selectors: dict[str, Any]) -> None:
    """A service whose selectors could match any uid is Invalid."""
    with pytest.raises(Invalid, match="uid or a unit"):
        service(**selectors)


@pytest.mark.parametrize(
    "unit",
    ["/", "", "agent.service", "/user.slice/user-1000.slice/x", "/system.slice", "/system.slice/", "/system.slice//",
     "/system.slice/../user.slice/x", "/system.slice/a/../b", "/system.slice/a//b", "/system.slice/a b",
     "/system.slice/a\n", "/system.slice/*", "//system.slice/a", "/system.slice/./a", 5],
)  # fmt: skip
def test_a_unit_is_a_plain_path_under_the_system_slice(unit: object) -> None:
    """Other slices, the whole slice, dots, doubled slashes and odd characters are Invalid."""
    with pytest.raises(Invalid):
        checked_unit(unit)


def test_a_unit_has_one_canonical_form() -> None:
    """The leading slash may be left out, and stands in what is kept."""
    assert checked_unit("system.slice/agent.service") == UNIT
    assert checked_unit(UNIT + "/") == UNIT + "/"
    assert service(unit="system.slice/agent.service").unit == UNIT


@pytest.mark.parametrize(
    "wrong", [{"uid": -1}, {"uid": True}, {"uid": 2**32 - 1}, {"uid": "0"}, {"uid": 0, "gid": 1.0}]
)
def test_ids_are_ids(wrong: dict[str, Any]) -> None:
    """Negative, boolean, textual ids and the kernel's "no id" are Invalid."""
    with pytest.raises(Invalid):
        service(**wrong)


def test_every_selector_must_match() -> None:
    """One selector that does not match is enough to refuse, whichever it is."""
    full = service(uid=1000, gid=7, unit=UNIT, exe=("/usr/bin/agent", 1, 2))
    right = {"gid": 7, "cgroup": UNIT, "exe": (1, 2), "same_mount_ns": True}
    assert full.matches(peer(**right))
    wrongs: list[dict[str, Any]] = [
        {"uid": 1001},
        {"gid": 8},
        {"cgroup": "/system.slice/other.service"},
        {"cgroup": None},
        {"exe": (1, 3)},
        {"exe": (2, 2)},
        {"exe": None},
        {"same_mount_ns": False},
    ]
    for wrong in wrongs:
        assert not full.matches(peer(**{**right, **wrong})), wrong


def test_a_supplementary_group_counts() -> None:
    """The gid selector matches the primary and each supplementary group."""
    assert service(uid=1000, gid=7).matches(peer(groups=frozenset({7, 9})))
    assert not service(uid=1000, gid=7).matches(peer(groups=frozenset({9})))


@pytest.mark.parametrize(
    ("unit", "cgroup", "matches"),
    [
        (UNIT, UNIT, True),
        (UNIT, UNIT + "/child", False),
        (UNIT, UNIT + "x", False),
        (UNIT + "/", UNIT, False),
        (UNIT + "/", UNIT + "/child", True),
        (UNIT + "/", UNIT + "/child/deeper", True),
        (UNIT + "/", UNIT + "/../other.service", False),
        (UNIT + "/", UNIT + "/child (deleted)", False),
        (UNIT + "/", UNIT + "/", False),
        (UNIT, UNIT + " (deleted)", False),
        (UNIT, "/.." + UNIT, False),
        (UNIT, "/user.slice/user-1000.slice" + UNIT, False),
    ],
)
def test_units_match_whole_or_by_prefix(unit: str, cgroup: str, matches: bool) -> None:
    """A full path matches itself only; a prefix matches plain paths below it and nothing else."""
    assert service(unit=unit).matches(peer(cgroup=cgroup)) is matches
    found = ServiceTable([service(unit=unit)]).matching(peer(cgroup=cgroup))
    assert bool(found) is matches


def test_two_matches_must_be_told_apart_by_name() -> None:
    """Two matching services raise AmbiguousService, and naming one settles it."""
    table = ServiceTable(
        [Service.from_dict({"name": "one", "uid": 1000}), Service.from_dict({"name": "two", "unit": UNIT})]
    )
    both = peer(cgroup=UNIT)
    with pytest.raises(AmbiguousService):
        table.find(both)
    assert table.find(both, "two") is table.get("two")
    assert table.find(peer()) is table.get("one")
    assert table.find(peer(uid=5)) is None


def test_an_absent_service_and_one_that_is_somebody_else_are_one_answer() -> None:
    """Naming a service that does not exist, or is not the peer's, is refused with the same words."""
    table = ServiceTable([service(uid=1)])
    for name in ("agent", "absent"):
        with pytest.raises(Denied) as refused:
            table.find(peer(), name)
        assert (refused.value.message, refused.value.hint) == (DENIED_MESSAGE, DENIED_HINT)


def test_services_come_and_go() -> None:
    """A taken name is refused, a removed service matches nobody, and removing it twice is NotFound."""
    table = ServiceTable([service(uid=1000), Service.from_dict({"name": "unit", "unit": UNIT})])
    with pytest.raises(Exists):
        table.add(service(uid=1000))
    assert [s.name for s in table.all()] == ["agent", "unit"]
    table.remove("agent")
    table.remove("unit")
    assert table.matching(peer(cgroup=UNIT)) == []
    assert len(table) == 0
    with pytest.raises(NotFound):
        table.remove("agent")


def test_stored_services_come_back_equal() -> None:
    """A service survives its way through plain data, and unknown keys are refused."""
    full = service(uid=1, gid=2, unit=UNIT + "/", exe=["/usr/bin/x", 3, 4])
    assert Service.from_dict(full.to_dict()) == full
    assert full.exe == Executable("/usr/bin/x", 3, 4)
    assert full.with_executable(3, 5).exe == Executable("/usr/bin/x", 3, 5)
    with pytest.raises(Invalid):
        Service.from_dict({"name": "agent", "uid": 1, "pid": 3})
    with pytest.raises(Invalid):
        service(uid=1).with_executable(1, 2)


@pytest.mark.parametrize(
    "exe", [("x", 1, 2), ("/x", 1), ("/x", -1, 2), ("/x\0", 1, 2), ("/x", True, 2), "/x", (5, 1, 2)]
)
def test_an_executable_is_an_absolute_path_with_its_inode(exe: object) -> None:
    """Relative paths, NUL and malformed inodes are Invalid."""
    with pytest.raises(Invalid):
        service(uid=1, exe=exe)
