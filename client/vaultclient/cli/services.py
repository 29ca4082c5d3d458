"""service: workloads that the kernel can recognise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from vaultclient.cli.group import family, verb
from vaultclient.cli.options import group_number, user_number

if TYPE_CHECKING:
    from vaultclient.cli.app import App

__all__ = ["COMMANDS"]

_name = click.argument("service", metavar="NAME")


@verb("add")
@_name
@click.option("--uid", metavar="U", help="The uid it runs as, or a user's name.")
@click.option("--gid", metavar="U", help="The gid it runs as, or a group's name.")
@click.option("--unit", metavar="PATH", help="Its cgroup: a full path under /system.slice, or a prefix ending in '/'.")
@click.option("--exe", metavar="PATH", help="Its executable; only narrows, and only where the daemon may read it.")
def add(app: App, service: str, uid: str | None, gid: str | None, unit: str | None, exe: str | None) -> None:
    """Name a workload by what the kernel says of it. All given selectors must match; a uid or a unit is needed."""
    keys: dict[str, Any] = {"service": service}
    if uid is not None:
        keys["uid"] = user_number(uid)
    if gid is not None:
        keys["gid"] = group_number(gid)
    if unit is not None:
        keys["unit"] = unit
    if exe is not None:
        keys["exe"] = exe
    reply = app.call("service.add", keys).keys
    app.out.done(f"service {service} is known", {**keys, **reply})
    app.out.next(f"vaultctl grant add TENANT --service {service} --secret PATTERN")


@verb("list")
def list_services(app: App) -> None:
    """The services and their selectors."""
    app.out.table(
        app.items("service.list"),
        [
            ("SERVICE", lambda s: s.get("service")),
            ("UID", lambda s: s.get("uid")),
            ("GID", lambda s: s.get("gid")),
            ("UNIT", lambda s: s.get("unit")),
            ("EXE", lambda s: s.get("exe")),
        ],
        empty="no services",
        wrap=["SERVICE", "UNIT", "EXE"],
    )


@verb("remove")
@_name
def remove(app: App, service: str) -> None:
    """Forget a service that no grant names any more; its runs end."""
    reply = app.call("service.remove", {"service": service}).keys
    app.out.done(f"service {service} is gone", {"service": service, **reply})
    app.out.next("vaultctl service list")


COMMANDS = {
    "service": family("service", "Services: workloads that the kernel can recognise.", add, list_services, remove)
}
