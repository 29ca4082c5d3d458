"""status, unseal, seal, login, logout: the state of the vault, and whether the caller is admin to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from vaultclient.cli.durations import duration, shown_duration
from vaultclient.cli.group import verb
from vaultclient.cli.inputs import slot_secret
from vaultclient.cli.options import slot_options
from vaultclient.cli.progress import working

if TYPE_CHECKING:
    from vaultclient.cli.app import App

__all__ = ["COMMANDS"]

_STATE_STYLES = {"unsealed": "green", "sealed": "yellow", "uninitialised": "yellow", "halted": "red"}
_NEXT = {
    "uninitialised": "vaultctl init",
    "sealed": "vaultctl unseal",
    "halted": "restart vaultd, then vaultctl unseal",
}


def _you(you: dict[str, Any]) -> str:
    words = [f"{key} {you[key]}" for key in ("uid", "gid", "pid") if you.get(key) is not None]
    if you.get("service"):
        words.append(f"service {you['service']}")
    if you.get("admin"):
        words.append("admin")
    return ", ".join(words)


@verb("status")
def status(app: App) -> None:
    """What state the vault is in, what vaultd uses of the kernel, and who it says you are. Anyone may ask."""
    found = app.call("status").keys
    state = str(found["state"])
    kernel: dict[str, list[str]] = {}
    for name, used in sorted(found["kernel"].items(), key=lambda item: (item[1] != "used", item[1], item[0])):
        kernel.setdefault(used, []).append(name)
    app.out.record(
        found,
        [
            ("state", state),
            ("vault", found.get("vault") or "none yet"),
            ("version", f"{found['version']}, protocol {found['protocol']}"),
            ("you", _you(found["you"])),
            ("kernel", [f"{used}: {', '.join(names)}" for used, names in kernel.items()]),
        ],
        styles={"state": _STATE_STYLES.get(state, "bold")},
    )
    for warning in found.get("warnings") or []:
        app.out.warn(warning)
    if state in _NEXT:
        app.out.next(_NEXT[state])


@verb("unseal")
@click.argument("tenant", metavar="[TENANT]", required=False)
@click.option("--ttl", metavar="SPAN", help="How long the admin ticket lasts; 15m when left out.")
@slot_options
def unseal(app: App, tenant: str | None, ttl: str | None, **sources: Any) -> None:
    """Load the vault's keys, or lift the seal of one TENANT. Makes the caller's shell admin, as login does."""
    keys: dict[str, Any] = {} if tenant is None else {"tenant": tenant}
    if ttl is not None:
        keys["ttl"] = duration(ttl, "TTL")
    with slot_secret(out=app.out, **sources) as (kind, secret), working(app.out, "trying the slots"):
        reply = app.call("unseal", {"kind": kind, **keys}, tail=secret).keys
    subject = "the vault" if tenant is None else f"tenant {tenant}"
    app.out.done(
        f"{subject} is unsealed; this shell is admin for {shown_duration(reply['expires_in'])}",
        {"state": "unsealed", **({} if tenant is None else {"tenant": tenant}), **reply},
    )
    found = {name: what for name, what in (reply.get("recovered") or {}).items() if what and what != "kept"}
    if found:
        app.out.note("recovered: " + ", ".join(f"{name.replace('_', ' ')}: {what}" for name, what in found.items()))
    app.out.next("vaultctl tenant list" if tenant is None else f"vaultctl secrets {tenant}")


@verb("seal")
@click.argument("tenant", metavar="[TENANT]", required=False)
def seal(app: App, tenant: str | None) -> None:
    """Drop the vault's keys and end every run and lease, or seal one TENANT (which outlives restarts)."""
    reply = app.call("seal", {} if tenant is None else {"tenant": tenant}).keys
    subject = "the vault" if tenant is None else f"tenant {tenant}"
    app.out.done(f"{subject} is sealed", {"state": "sealed", **({} if tenant is None else {"tenant": tenant}), **reply})
    app.out.unrecorded(reply)
    app.out.next("vaultctl unseal" if tenant is None else f"vaultctl unseal {tenant}")


@verb("login", context_settings={"allow_interspersed_args": False})
@click.option("--ttl", metavar="SPAN", help="How long the ticket lasts; 15m when left out.")
@slot_options
@click.argument("command", metavar="[-- CMD...]", nargs=-1, type=click.UNPROCESSED)
def login(app: App, ttl: str | None, command: tuple[str, ...], **sources: Any) -> None:
    """Become admin: for the process that called vaultctl (usually a shell), or for CMD alone.

    The ticket stays in the daemon and ends with that process. With CMD, vaultctl stays its parent and ends with its
    status.
    """
    keys: dict[str, Any] = {"bind": "self"} if command else {}
    if ttl is not None:
        keys["ttl"] = duration(ttl, "TTL")
    if command:
        from vaultclient.cli.children import must_be_found

        must_be_found(command[0])
    with slot_secret(out=app.out, **sources) as (kind, secret), working(app.out, "trying the slots"):
        reply = app.call("login", {"kind": kind, **keys}, tail=secret).keys
    if command:
        from vaultclient.cli.children import run_below

        run_below(command)
    app.out.done(f"this shell is admin for {shown_duration(reply['expires_in'])}", reply)
    app.out.next("vaultctl status")


@verb("logout")
def logout(app: App) -> None:
    """Stop being admin: ends the tickets of the process that called vaultctl."""
    reply = app.call("logout").keys
    app.out.done("no longer admin", reply)


COMMANDS = {one.name: one for one in (status, unseal, seal, login, logout)}
