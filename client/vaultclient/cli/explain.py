"""explain: whether a service may have a secret, decided by the code that decides for real."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from vaultclient.cli.durations import duration, instant, shown_duration
from vaultclient.cli.group import verb
from vaultclient.cli.options import secret_argument, tenant_argument

if TYPE_CHECKING:
    from vaultclient.cli.app import App

__all__ = ["COMMANDS"]


@verb("explain")
@tenant_argument
@secret_argument
@click.option("--service", metavar="S", required=True, help="Who would ask.")
@click.option("--purpose", metavar="P", help="What for.")
@click.option("--deliver", "delivery", type=click.Choice(["fd", "env", "print"]), help="How it would be delivered.")
@click.option("--ttl", metavar="SPAN", help="How long a lease would be asked for.")
@click.option("--at", metavar="TIME", help="When: RFC 3339, or a span from now; now when left out.")
def explain(
    app: App,
    tenant: str,
    secret: str,
    service: str,
    purpose: str | None,
    delivery: str | None,
    ttl: str | None,
    at: str | None,
) -> None:
    """Whether a service may lease a secret, and which rule decides. Ends with 0 either way."""
    keys: dict[str, Any] = {"tenant": tenant, "secret": secret, "service": service}
    given = {"purpose": purpose, "delivery": delivery}
    keys.update({name: what for name, what in given.items() if what is not None})
    if ttl is not None:
        keys["ttl"] = duration(ttl, "TTL")
    if at is not None:
        keys["at"] = instant(at, "--at", now=time.time())
    found = app.call("explain", keys).keys
    allowed = bool(found["allowed"])
    pairs: list[tuple[str, object]] = [("allowed", "yes" if allowed else "no"), ("reason", found["reason"])]
    pairs += [(name, found[name]) for name in ("rule", "grant") if found.get(name)]
    if found.get("ttl") and allowed:
        pairs.append(("ttl", shown_duration(found["ttl"])))
    tried = [f"{one.get('grant')}: {one.get('reason')}" for one in found.get("details") or []]
    if len(tried) > 1 or (tried and not allowed):
        pairs.append(("grants", tried))
    app.out.record(found, pairs, styles={"allowed": "green" if allowed else "red"})
    app.out.next(f"vaultctl grant list {tenant}" if not allowed else f"vaultctl leases {tenant}")


COMMANDS = {"explain": explain}
