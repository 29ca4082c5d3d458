"""grant: what a service may do for a tenant."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from vaultclient.cli.durations import duration, instant, rate, shown_duration, shown_instant
from vaultclient.cli.group import family, verb
from vaultclient.cli.options import tenant_argument

if TYPE_CHECKING:
    from vaultclient.cli.app import App

__all__ = ["COMMANDS"]


@verb("add")
@tenant_argument
@click.option("--service", metavar="S", required=True, help="Who.")
@click.option(
    "--secret",
    "secrets",
    metavar="PATTERN",
    multiple=True,
    required=True,
    help="What: * within a segment, ** across. Repeatable.",
)
@click.option(
    "--can", metavar="WORD", multiple=True, help="lease (the default), put, rotate, list, manage, audit. Repeatable."
)
@click.option("--purpose", "purposes", metavar="P", multiple=True, help="Only for this purpose. Repeatable.")
@click.option(
    "--deliver",
    metavar="KIND",
    multiple=True,
    help="fd and env when left out; print (to stdout) must be named. Repeatable.",
)
@click.option("--max-ttl", metavar="SPAN", help="Longest span between renewals of a lease, such as 5m.")
@click.option("--max-uses", metavar="N", type=int, help="Most leases in a run; renewals are free.")
@click.option("--rate", "limit", metavar="N/SPAN", help="Most leases in a span, such as 10/1m.")
@click.option("--hours", metavar="A-B", help="Hours of the day, such as 08:00-18:00; may cross midnight.")
@click.option("--tz", metavar="ZONE", help="The time zone of --hours, such as Europe/Berlin; UTC when left out.")
@click.option("--expires", metavar="TIME", help="When the grant ends: RFC 3339, or a span from now such as 30d.")
def add(
    app: App,
    tenant: str,
    service: str,
    secrets: tuple[str, ...],
    can: tuple[str, ...],
    purposes: tuple[str, ...],
    deliver: tuple[str, ...],
    max_ttl: str | None,
    max_uses: int | None,
    limit: str | None,
    hours: str | None,
    tz: str | None,
    expires: str | None,
) -> None:
    """Allow a service something at a tenant: by default, to lease, by fd and env."""
    keys: dict[str, Any] = {"tenant": tenant, "service": service, "secrets": list(secrets)}
    lists = {"can": can, "purposes": purposes, "deliver": deliver}
    keys.update({name: list(words) for name, words in lists.items() if words})
    given = {"max_uses": max_uses, "hours": hours, "tz": tz}
    keys.update({name: what for name, what in given.items() if what is not None})
    if max_ttl is not None:
        keys["max_ttl"] = duration(max_ttl, "TTL")
    if limit is not None:
        keys["rate"] = rate(limit)
    if expires is not None:
        keys["expires"] = instant(expires, "--expires", now=time.time())
    reply = app.call("grant.add", keys).keys
    what = f"{', '.join(can) or 'lease'} {', '.join(secrets)} of {tenant}"
    app.out.done(f"{reply['grant']}: {service} may {what}", {**keys, **reply})
    example = secrets[0] if "*" not in secrets[0] else "SECRET"
    app.out.next(f"vaultctl explain {tenant} {example} --service {service}")


def _bounds(grant: dict[str, Any]) -> str:
    words = []
    if grant.get("max_ttl"):
        words.append(f"ttl {shown_duration(grant['max_ttl'])}")
    if grant.get("max_uses"):
        words.append(f"{grant['max_uses']} uses")
    if grant.get("rate"):
        count, seconds = grant["rate"]
        words.append(f"{count}/{shown_duration(seconds)}")
    if grant.get("purposes"):
        words.append("for " + " or ".join(grant["purposes"]))
    if grant.get("hours"):
        words.append(f"{grant['hours']} {grant.get('tz') or 'UTC'}")
    if grant.get("expires"):
        words.append(f"until {shown_instant(grant['expires'])}")
    return ", ".join(words)


@verb("list")
@tenant_argument
def list_grants(app: App, tenant: str) -> None:
    """A tenant's grants."""
    app.out.table(
        app.items("grant.list", {"tenant": tenant}),
        [
            ("GRANT", lambda g: g.get("grant")),
            ("SERVICE", lambda g: g.get("service")),
            ("SECRETS", lambda g: g.get("secrets")),
            ("CAN", lambda g: g.get("can")),
            ("BY", lambda g: g.get("deliver")),
            ("BOUNDS", _bounds),
        ],
        empty=f"{tenant} has granted nothing",
        wrap=["SERVICE", "SECRETS", "CAN", "BY", "BOUNDS"],
    )


@verb("remove")
@tenant_argument
@click.argument("grant", metavar="GRANT")
def remove(app: App, tenant: str, grant: str) -> None:
    """Take a grant back; leases that it alone allowed end at their next renewal."""
    reply = app.call("grant.remove", {"tenant": tenant, "grant": grant}).keys
    app.out.done(f"{grant} is gone", {"tenant": tenant, "grant": grant, **reply})
    app.out.next(f"vaultctl grant list {tenant}")


COMMANDS = {"grant": family("grant", "Grants: what a service may do for a tenant.", add, list_grants, remove)}
