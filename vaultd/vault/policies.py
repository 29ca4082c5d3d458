"""The verbs on what `access` decides by: services, grants, the index between them, and runs that outlive a restart.

To this room they are plain maps that `access` made and will read again; only the keys `id`, `name` and `service` mean
anything here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vaultd.audit.body import Event
from vaultd.errors import Conflict, Exists, NotFound
from vaultd.vault import changes
from vaultd.vault.core import Core
from vaultd.vault.tenant import Wanted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vaultd.audit.body import Actor
    from vaultd.audit.receipt import Receipt

__all__ = ["PolicyVerbs"]


class PolicyVerbs(Core):
    """See the module. All but `linked` raise `Sealed` while the vault is."""

    def services(self) -> dict[str, dict[str, Any]]:
        """Every service by name. To be read only."""
        return self.system.services

    def add_service(self, service: Mapping[str, Any], *, actor: Actor) -> Receipt:
        """Add a service, as `access` wrote it. Raises `Exists` for a taken name."""
        name = service["name"]
        if name in self.system.services:
            raise Exists("a service of this name exists", "remove it first, or choose another name")
        event = Event("service.add", "ok", actor, extra={"service": dict(service)})
        return self._change(event, system=[{"op": "service", "service": dict(service)}])

    def remove_service(self, name: str, *, actor: Actor) -> Receipt:
        """Remove a service. Raises `NotFound`, and `Conflict` while any tenant has a grant for it."""
        if name not in self.system.services:
            raise NotFound("there is no such service", "see: vaultctl service list")
        # Without this a service that is added again under the name would find the old one's grants waiting.
        if self.system.links.get(name):
            tenants = len(self.system.links[name])
            raise Conflict(
                f"the service still has grants at {tenants} tenant{'s' if tenants > 1 else ''}",
                "remove its grants first: vaultctl grant list TENANT",
            )
        event = Event("service.remove", "ok", actor, extra={"service": name})
        return self._change(event, system=[{"op": "unservice", "name": name}])

    def linked(self, service: str, uid: bytes) -> bool:
        """Whether the service has any grant at the tenant; touches no file of the tenant."""
        return self.system.linked(service, uid)

    def grants(self, tenant: str | bytes) -> dict[str, dict[str, Any]]:
        """A tenant's grants by id. To be read only."""
        return self.tenant(tenant).state.grants

    def add_grant(self, tenant: str | bytes, grant: Mapping[str, Any], *, actor: Actor) -> Receipt:
        """Add a grant, as `access` wrote it, and the link that lets its service reach the tenant: both or neither.

        Raises:
            NotFound: there is no such service.
            Exists: the id is taken.
        """
        opened = self.tenant(tenant)
        service = grant["service"]
        if service not in self.system.services:
            raise NotFound("there is no such service", "add it first: vaultctl service add")
        header = changes.grant(opened.state, grant)
        link = [] if self.linked(service, opened.uid) else [{"op": "link", "service": service, "tenant": opened.uid}]
        event = Event("grant.add", "ok", actor, extra={"grant": dict(grant)})
        return self._change(event, opened, [Wanted(header)], link)

    def remove_grant(self, tenant: str | bytes, grant_id: str, *, actor: Actor) -> Receipt:
        """Remove a grant, and the link if it was its service's last. Raises `NotFound`."""
        opened = self.tenant(tenant)
        header = changes.ungrant(opened.state, grant_id)
        service = opened.state.grants[grant_id]["service"]
        others = any(grant["service"] == service for known, grant in opened.state.grants.items() if known != grant_id)
        unlink = [] if others else [{"op": "unlink", "service": service, "tenant": opened.uid}]
        event = Event("grant.remove", "ok", actor, extra={"grant": grant_id})
        return self._change(event, opened, [Wanted(header)], unlink)

    def runs(self) -> dict[str, dict[str, Any]]:
        """Every kept run by id. To be read only."""
        return self.system.runs

    def keep_runs(
        self,
        event: Event,
        *,
        tenant: str | bytes | None = None,
        keep: Sequence[Mapping[str, Any]] = (),
        drop: Sequence[str] = (),
    ) -> Receipt:
        """Record an event in the tenant's trail, and with it keep runs (new or changed) and drop others.

        Args:
            event: such as `run.open`; also when there is nothing to keep or drop.
            keep: runs as `access` wrote them, each with its `id`.
            drop: ids; those that are not kept are left out.
        """
        records: list[dict[str, Any]] = [{"op": "run", "run": dict(run)} for run in keep]
        records += [{"op": "unrun", "id": run_id} for run_id in dict.fromkeys(drop) if run_id in self.system.runs]
        if isinstance(tenant, str):
            tenant = self.uid(tenant)
        elif tenant is not None:
            self._entry(tenant)  # a deleted tenant's trail goes on while it is kept
        return self._change(event, system=records, trail=tenant)
