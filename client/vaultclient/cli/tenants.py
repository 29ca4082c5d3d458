"""tenant: create, list, show, delete."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from vaultclient.cli.durations import shown_instant
from vaultclient.cli.failures import CliError
from vaultclient.cli.group import family, verb
from vaultclient.cli.options import tenant_argument
from vaultclient.cli.output import fields
from vaultclient.cli.progress import working

if TYPE_CHECKING:
    from vaultclient.cli.app import App

__all__ = ["COMMANDS"]

_STATES = {"sealed": "yellow", "closed": "red", "contained": "red"}


@verb("create")
@tenant_argument
def create(app: App, tenant: str) -> None:
    """Make a tenant with keys of its own."""
    reply = app.call("tenant.create", {"tenant": tenant}).keys
    app.out.done(f"tenant {tenant} is created", {"tenant": tenant, **reply})
    app.out.next(f"vaultctl put {tenant} SECRET")


@verb("list")
def list_tenants(app: App) -> None:
    """The tenants."""
    app.out.table(
        app.items("tenant.list"),
        [
            ("TENANT", lambda t: t.get("tenant")),
            ("STATE", lambda t: t.get("state")),
            ("CREATED (UTC)", lambda t: shown_instant(t.get("created"))),
        ],
        empty="no tenants",
        wrap=["TENANT"],
        style=lambda t: _STATES.get(t.get("state")),
    )


@verb("show")
@tenant_argument
def show(app: App, tenant: str) -> None:
    """One tenant: its state, and how much of everything it has."""
    about = {"tenant": tenant, **app.call("tenant.show", {"tenant": tenant}).keys["about"]}
    app.out.record(about, fields(about))


@verb("delete")
@tenant_argument
@click.option("--yes", metavar="TENANT", help="The tenant's name once more: this cannot be undone.")
@click.option("--with-audit", is_flag=True, help="Delete the tenant's audit trail as well.")
@click.option("--rotate-root", is_flag=True, help="Rotate the root key afterwards, which finishes the shredding.")
def delete(app: App, tenant: str, yes: str | None, with_audit: bool, rotate_root: bool) -> None:
    """Shred a tenant: its keys are destroyed, so that what is left of its files opens no more. Prints a receipt."""
    if yes != tenant:
        wrong = "--yes is missing" if yes is None else "--yes names another tenant"
        raise CliError("invalid", f"{wrong}, so nothing was deleted", f"vaultctl tenant delete {tenant} --yes {tenant}")
    keys: dict[str, Any] = {"tenant": tenant, "confirm": yes}
    if with_audit:
        keys["with_audit"] = True
    if rotate_root:
        keys["rotate_root"] = True
    with working(app.out, f"shredding {tenant}"):
        receipt = app.call("tenant.delete", keys, slow=rotate_root).keys["receipt"]
    app.out.record({"tenant": tenant, "receipt": receipt}, [("tenant", tenant), *fields(receipt, without=["tenant"])])
    if not rotate_root:
        app.out.next("vaultctl rotate root")


COMMANDS = {
    "tenant": family(
        "tenant",
        "Tenants: customers, each with keys, grants and a trail of its own.",
        create,
        list_tenants,
        show,
        delete,
    )
}
