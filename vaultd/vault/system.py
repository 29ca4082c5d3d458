"""What the whole vault keeps beside its tenants: services, which of them has grants where, sealed flags, live runs.

Pure, as `state` is. The index of links answers "has this service any grant at this tenant?" from memory, so that a
request without one is refused before any file of that tenant is touched.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vaultd.errors import IntegrityError
from vaultd.vault.records import SYSTEM, checked

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["SystemState"]


@dataclass(slots=True)
class SystemState:
    """What the system log's records so far add up to.

    Attributes:
        services: by name, as `access` wrote them.
        links: the uids of the tenants at which a service has grants, by its name.
        sealed: uids of tenants that are to stay sealed.
        runs: live runs by id, as `access` wrote them.
    """

    services: dict[str, dict[str, Any]] = field(default_factory=dict)
    links: dict[str, set[bytes]] = field(default_factory=dict)
    sealed: set[bytes] = field(default_factory=set)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def facts(self) -> int:
        """How many records it takes to say all this."""
        links = sum(len(uids) for uids in self.links.values())
        return len(self.services) + links + len(self.sealed) + len(self.runs)

    def linked(self, service: str, uid: bytes) -> bool:
        """Whether the service has any grant at the tenant."""
        return uid in self.links.get(service, ())

    def apply(self, header: Mapping[str, Any]) -> None:
        """Add one record.

        Raises:
            IntegrityError: the record does not follow from those before it: our own code wrote a wrong log.
            FormatVersion: a newer version wrote it.
        """
        match checked(header, SYSTEM):
            case "service":
                name = header["service"].get("name")
                if type(name) is not str:
                    raise _misfit("adds a service without a name")
                self.services[name] = header["service"]
            case "unservice":
                if self.services.pop(header["name"], None) is None:
                    raise _misfit("removes a service that is not there")
                self.links.pop(header["name"], None)
            case "link":
                self.links.setdefault(header["service"], set()).add(header["tenant"])
            case "unlink":
                self._unlink(header["service"], header["tenant"])
            case "seal":
                self.sealed.add(header["tenant"])
            case "unseal":
                self.sealed.discard(header["tenant"])
            case "forget":
                self.sealed.discard(header["tenant"])
                for service in [name for name, uids in self.links.items() if header["tenant"] in uids]:
                    self._unlink(service, header["tenant"])
            case "run":
                run_id = header["run"].get("id")
                if type(run_id) is not str:
                    raise _misfit("keeps a run without an id")
                self.runs[run_id] = header["run"]
            case "unrun":
                if self.runs.pop(header["id"], None) is None:
                    raise _misfit("ends a run that is not there")

    def restate(self) -> Iterator[dict[str, Any]]:
        """The records that say everything anew: what compaction writes."""
        for service in self.services.values():
            yield {"op": "service", "service": service}
        for name, uids in self.links.items():
            for uid in sorted(uids):
                yield {"op": "link", "service": name, "tenant": uid}
        for uid in sorted(self.sealed):
            yield {"op": "seal", "tenant": uid}
        for run in self.runs.values():
            yield {"op": "run", "run": run}

    def _unlink(self, service: str, uid: bytes) -> None:
        uids = self.links.get(service, set())
        if uid not in uids:
            raise _misfit("unlinks a service that was not linked")
        uids.discard(uid)
        if not uids:
            del self.links[service]


def _misfit(what: str) -> IntegrityError:
    return IntegrityError(f"a system record {what}", "restore the vault from a backup, and report this as a bug")
