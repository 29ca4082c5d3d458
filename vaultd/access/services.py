"""Services: named workload identities, as selectors over what the kernel says of a peer.

A service always has a uid or a unit, so none matches everybody, and every selector that is given must match.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from vaultd.access.denials import denied
from vaultd.errors import AmbiguousService, Exists, Invalid, NotFound
from vaultd.names import ServiceName, service_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from vaultd.access.facts import PeerFacts

__all__ = ["Executable", "Service", "ServiceTable", "checked_unit"]

_SLICE: Final = "/system.slice/"
_HIGHEST_ID: Final = 2**32 - 2  # 2**32 - 1 is the kernel's "no id"
_component = re.compile(r"[A-Za-z0-9:_.\\@-]{1,255}")  # what systemd puts into a unit's cgroup name
_KEYS: Final = frozenset({"name", "uid", "gid", "unit", "exe"})


class Executable(NamedTuple):
    """A program file by path, and by the device and inode that the path led to when the caller last looked."""

    path: str
    dev: int
    ino: int


def _components_are_plain(path: str) -> bool:
    parts = path.split("/")
    return all(_component.fullmatch(part) is not None and part not in {".", ".."} for part in parts)


def checked_unit(value: object) -> str:
    """The canonical form of a unit selector: a full cgroup path under /system.slice/, or such a prefix ending in `/`.

    Raises:
        Invalid: outside the system slice (users name their own cgroups elsewhere), the slice as a whole, or not a plain
            path.
    """
    if isinstance(value, str) and len(value) <= 1024:
        path = value if value.startswith("/") else "/" + value
        rest = path.removeprefix(_SLICE)
        if rest != path and _components_are_plain(rest.removesuffix("/")):
            return path
    raise Invalid(
        f"not a unit's cgroup path: {ascii(value)[:80]}",
        "give the full path, /system.slice/NAME.service, or a prefix of it that ends in '/'",
    )


def _checked_id(value: object, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _HIGHEST_ID:
        raise Invalid(f"not a {what}: {ascii(value)[:40]}", "give a number from 0 to 4294967294")
    return value


def _checked_executable(value: object) -> Executable:
    if isinstance(value, (tuple, list)) and len(value) == 3:
        path, dev, ino = value
        plain = isinstance(path, str) and path.startswith("/") and len(path) <= 4096 and "\0" not in path
        numbers = all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**64 for n in (dev, ino))
        if plain and numbers:
            return Executable(path, dev, ino)
    raise Invalid("not an executable", "give the program's absolute path")


@dataclass(frozen=True, slots=True)
class Service:
    """One workload identity; every selector that is not None must match.

    Attributes:
        name: what grants refer to.
        uid: effective user id.
        gid: effective or supplementary group id.
        unit: cgroup path of a system unit, or a prefix ending in `/`; see `checked_unit`.
        exe: the program file; only narrows, and counts in the daemon's own mount namespace only.

    Raises:
        Invalid: a malformed selector, or neither uid nor unit.
    """

    name: ServiceName
    uid: int | None = None
    gid: int | None = None
    unit: str | None = None
    exe: Executable | None = None

    def __post_init__(self) -> None:
        service_name(self.name)
        if self.uid is None and self.unit is None:
            raise Invalid(
                "a service needs a uid or a unit",
                "add --uid U or --unit /system.slice/NAME.service; others only narrow",
            )
        if self.uid is not None:
            _checked_id(self.uid, "uid")
        if self.gid is not None:
            _checked_id(self.gid, "gid")
        if self.unit is not None:
            object.__setattr__(self, "unit", checked_unit(self.unit))
        if self.exe is not None:
            object.__setattr__(self, "exe", _checked_executable(self.exe))

    def matches(self, facts: PeerFacts) -> bool:
        """Whether the peer is this service."""
        if self.uid is not None and facts.uid != self.uid:
            return False
        if self.gid is not None and facts.gid != self.gid and self.gid not in facts.groups:
            return False
        if self.unit is not None and not self._unit_matches(facts.cgroup):
            return False
        # In another mount namespace the peer chooses what its path leads to, so there the inode says nothing.
        return self.exe is None or (
            facts.same_mount_ns and facts.exe is not None and facts.exe == (self.exe.dev, self.exe.ino)
        )

    def _unit_matches(self, cgroup: str | None) -> bool:
        if cgroup is None or self.unit is None:
            return False
        if not self.unit.endswith("/"):
            return cgroup == self.unit
        # The rest must be a plain path too: a removed cgroup is shown as "... (deleted)", one outside as "/../...".
        return cgroup.startswith(self.unit) and _components_are_plain(cgroup[len(self.unit) :])

    def with_executable(self, dev: int, ino: int) -> Service:
        """The same service after its program file was replaced (an upgrade); needs an `exe`."""
        if self.exe is None:
            raise Invalid("the service names no executable", "")
        return replace(self, exe=Executable(self.exe.path, dev, ino))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for storing; `from_dict` gives the same service back."""
        return {
            "name": self.name,
            "uid": self.uid,
            "gid": self.gid,
            "unit": self.unit,
            "exe": list(self.exe) if self.exe is not None else None,
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Service:
        """A service from plain data (from the store, or from a request); keys left out are None.

        Raises:
            Invalid: unknown keys, malformed selectors, neither uid nor unit.
        """
        unknown = set(raw) - _KEYS
        if unknown:
            raise Invalid(f"unknown selectors: {ascii(sorted(map(str, unknown)))[:80]}", "uid, gid, unit and exe exist")
        exe = raw.get("exe")
        return cls(
            name=service_name(raw.get("name")),
            uid=raw.get("uid"),
            gid=raw.get("gid"),
            unit=raw.get("unit"),
            exe=_checked_executable(exe) if exe is not None else None,
        )


def _selectors_of(cgroup: str | None) -> Iterator[str]:
    """Every unit selector that could match: the path itself, and each prefix of it that ends in `/`."""
    if cgroup is None or not cgroup.startswith(_SLICE):
        return
    yield cgroup
    at = cgroup.find("/", len(_SLICE))
    while at >= 0:
        yield cgroup[: at + 1]
        at = cgroup.find("/", at + 1)


class ServiceTable:
    """All services, found by a peer's facts without looking at those of other uids or units."""

    __slots__ = ("_by_name", "_by_uid", "_by_unit")

    def __init__(self, services: Iterable[Service] = ()) -> None:
        self._by_name: dict[str, Service] = {}
        self._by_uid: dict[int, dict[str, Service]] = {}
        self._by_unit: dict[str, dict[str, Service]] = {}  # services without a uid
        for service in services:
            self.add(service)

    def __len__(self) -> int:
        return len(self._by_name)

    def _bucket(self, service: Service) -> dict[str, Service]:
        if service.uid is not None:
            return self._by_uid.setdefault(service.uid, {})
        return self._by_unit.setdefault(str(service.unit), {})  # without a uid there is a unit

    def add(self, service: Service) -> None:
        """Take a service in; raises `Exists` when the name is taken."""
        if service.name in self._by_name:
            raise Exists(f"a service called {service.name} exists", "remove it first, or choose another name")
        self._by_name[service.name] = service
        self._bucket(service)[service.name] = service

    def remove(self, name: str) -> Service:
        """Take a service out; raises `NotFound`."""
        service = self._by_name.pop(name, None)
        if service is None:
            raise NotFound("no such service", "see: vaultctl service list")
        bucket = self._bucket(service)
        del bucket[name]
        if not bucket and service.uid is not None:
            del self._by_uid[service.uid]
        elif not bucket:
            del self._by_unit[str(service.unit)]
        return service

    def get(self, name: str) -> Service | None:
        """The service called `name`."""
        return self._by_name.get(name)

    def all(self) -> list[Service]:
        """Every service, by name."""
        return [self._by_name[name] for name in sorted(self._by_name)]

    def matching(self, facts: PeerFacts) -> list[Service]:
        """Every service that the peer is, by name."""
        found = [service for service in self._by_uid.get(facts.uid, {}).values() if service.matches(facts)]
        for unit in _selectors_of(facts.cgroup):
            found += [service for service in self._by_unit.get(unit, {}).values() if service.matches(facts)]
        return sorted(found, key=lambda service: service.name)

    def find(self, facts: PeerFacts, named: str | None = None) -> Service | None:
        """Which service the peer acts as.

        Args:
            facts: the peer.
            named: the service that the request names, if it does.

        Returns:
            The service, or None when the peer is none and named none.

        Raises:
            Denied: the named service is absent or does not match: one answer for both.
            AmbiguousService: several match and none was named.
        """
        if named is not None:
            service = self._by_name.get(named)
            if service is None or not service.matches(facts):
                raise denied()
            return service
        found = self.matching(facts)
        if len(found) > 1:
            raise AmbiguousService(
                "more than one service matches this process",
                "name one with --service: " + ", ".join(service.name for service in found[:4]),
            )
        return found[0] if found else None
