"""lease, renew, release, leases, revoke."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from vaultclient.cli.acquire import Wanted, acquire
from vaultclient.cli.durations import duration, shown_duration
from vaultclient.cli.failures import CliError
from vaultclient.cli.group import verb
from vaultclient.cli.options import Whole, secret_argument, tenant_argument
from vaultclient.cli.output import counted

if TYPE_CHECKING:
    from vaultclient.cli.app import App

__all__ = ["COMMANDS"]


@verb("lease")
@tenant_argument
@secret_argument
@click.option("--ttl", metavar="SPAN", help="How long; at most the grant's --max-ttl. 5m or less when left out.")
@click.option("--purpose", metavar="P", help="What for.")
@click.option("--version", type=Whole(1), metavar="N", help="Another version than the current one.")
@click.option("--service", metavar="S", help="As which service, where several match the caller.")
@click.option(
    "--out",
    type=click.Choice(["value", "json"]),
    help="value (the default): the value itself, which the grant must let be printed. json: what is known of the "
    "lease, without the value; the default with --json.",
)
@click.option("--range", "part", metavar="A-B", help="Only the bytes from A up to, but without, B; from A on: A-.")
def lease(
    app: App,
    tenant: str,
    secret: str,
    ttl: str | None,
    purpose: str | None,
    version: int | None,
    service: str | None,
    out: str | None,
    part: str | None,
) -> None:
    """Lease one secret and print its value, byte for byte.

    A value of any size: it is written as it comes. What breaks off ends with an error.

    Inside a run, within the run's scope. Outside, the lease lives as long as the caller of vaultctl.
    """
    acquire(app, Wanted(tenant, secret, ttl, purpose, version, service, out, part))


@verb("renew")
@click.argument("lease", metavar="LEASE")
@click.option("--ttl", metavar="SPAN", help="From now; what the lease was taken for when left out.")
def renew(app: App, lease: str, ttl: str | None) -> None:
    """Make a lease last longer, from now on, but never beyond its run."""
    keys: dict[str, Any] = {"lease": lease}
    if ttl is not None:
        keys["ttl"] = duration(ttl, "TTL")
    reply = app.call("lease.renew", keys).keys
    app.out.done(f"{lease} ends in {shown_duration(reply['expires_in'])}", {"lease": lease, **reply})
    app.out.next(f"vaultctl release {lease}")


@verb("release")
@click.argument("lease", metavar="LEASE")
def release(app: App, lease: str) -> None:
    """Give a lease back before its time."""
    reply = app.call("lease.release", {"lease": lease}).keys
    app.out.done(f"{lease} is over", {"lease": lease, **reply})
    app.out.unrecorded(reply)
    app.out.next("vaultctl leases")


@verb("leases")
@click.argument("tenant", metavar="[TENANT]", required=False)
def leases(app: App, tenant: str | None) -> None:
    """Live leases: the caller's, or as admin all, or a TENANT's."""
    app.out.table(
        app.items("lease.list", {} if tenant is None else {"tenant": tenant}),
        [
            ("LEASE", lambda x: x.get("lease")),
            *([("TENANT", lambda x: x.get("tenant"))] if tenant is None else []),
            ("SECRET", lambda x: x.get("secret")),
            ("VERSION", lambda x: x.get("version")),
            ("BY", lambda x: x.get("delivery")),
            ("SERVICE", lambda x: x.get("service")),
            ("ENDS IN", lambda x: shown_duration(x["expires_in"]) if "expires_in" in x else "-"),
        ],
        empty="no live leases",
        wrap=["TENANT", "SECRET", "SERVICE"],
    )


@verb("revoke")
@click.argument("lease", metavar="[LEASE]", required=False)
@click.option("--run", metavar="R", help="All leases of a run.")
@click.option("--secret", metavar="T/S", help="All leases of a secret: TENANT/SECRET.")
@click.option("--tenant", metavar="T", help="All leases of a tenant.")
def revoke(app: App, lease: str | None, run: str | None, secret: str | None, tenant: str | None) -> None:
    """Take leases back before their time: one, a run's, a secret's or a tenant's. What was read is not un-read."""
    targets = {"LEASE": lease, "--run": run, "--secret": secret, "--tenant": tenant}
    named = [name for name, what in targets.items() if what is not None]
    if len(named) != 1:
        what = "nothing is named" if not named else f"{' and '.join(named)} exclude each other"
        raise CliError("invalid", what, "name one of LEASE, --run R, --secret TENANT/SECRET, --tenant T")
    keys: dict[str, Any] = {"lease": lease, "of_run": run, "tenant": tenant}
    if secret is not None:
        owner, slash, name = secret.partition("/")
        if not slash or not owner or not name:
            raise CliError("invalid", "--secret needs TENANT/SECRET", "such as acme/openai/prod")
        keys.update(tenant=owner, secret=name)
    reply = app.call("lease.revoke", {key: value for key, value in keys.items() if value is not None}).keys
    count = reply["revoked"]
    app.out.done(f"{counted(count, 'lease')} revoked", reply)
    app.out.unrecorded(reply)
    if count:
        app.out.note("what its holders have read they still know")
        app.out.next(f"vaultctl rotate secret {keys['tenant'] or 'TENANT'} {keys.get('secret', 'SECRET')}")


COMMANDS = {one.name: one for one in (lease, renew, release, leases, revoke)}
