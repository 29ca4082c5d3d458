"""rotate: new root key, new tenant key, a secret's new value."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaultclient.cli.group import family, verb
from vaultclient.cli.options import secret_argument, tenant_argument, value_options
from vaultclient.cli.output import counted, fields
from vaultclient.cli.progress import working
from vaultclient.cli.secrets import NEVER_ARGV, stored_newline
from vaultclient.cli.uploads import store

if TYPE_CHECKING:
    from vaultclient.cli.app import App

__all__ = ["COMMANDS"]


@verb("root")
def root(app: App) -> None:
    """A new root key: every tenant's keys are wrapped anew, and every slot still opens. Values stay as they are."""
    with working(app.out, "rotating the root key"):
        receipt = app.call("rotate.root", slow=True).keys["receipt"]
    app.out.record(
        {"rotated": "root", "receipt": receipt}, [("rotated", "root key"), *fields(receipt, without=["rotated"])]
    )
    app.out.next("vaultctl audit checkpoint --out FILE")


@verb("tenant")
@tenant_argument
def tenant(app: App, tenant: str) -> None:
    """A new key for a tenant: its data keys are wrapped anew. Values, runs and leases stay as they are."""
    with working(app.out, f"rotating the key of {tenant}"):
        receipt = app.call("rotate.tenant", {"tenant": tenant}, slow=True).keys["receipt"]
    app.out.record(
        {"rotated": "tenant", "tenant": tenant, "receipt": receipt},
        [("rotated", f"key of {tenant}"), *fields(receipt, without=["rotated"])],
    )
    app.out.next(f"vaultctl tenant show {tenant}")


@verb("secret", extra_hint=NEVER_ARGV)
@tenant_argument
@secret_argument
@value_options
def secret(app: App, tenant: str, secret: str, file: str | None, strip_newline: bool, sparse: bool) -> None:
    """A new value for a secret that is there, read as put reads it. Holders are told; their leases run on."""
    keys, question = {"tenant": tenant, "secret": secret}, f"new value of {tenant} {secret}"
    reply, newline = store(app, "rotate.secret", keys, file, question, strip_newline=strip_newline, sparse=sparse)
    holders = reply.get("holders")
    told = "" if holders is None else f"; {counted(holders, 'holder')} told"
    app.out.done(
        f"{tenant} {secret}: version {reply['version']} is current{told}",
        {"rotated": "secret", "tenant": tenant, "secret": secret, **reply},
    )
    stored_newline(app, newline)
    app.out.next(f"vaultctl leases {tenant}")


COMMANDS = {
    "rotate": family("rotate", "New keys for the vault or a tenant, or a new value for a secret.", root, tenant, secret)
}
