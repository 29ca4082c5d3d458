"""put, get, secrets, history, rollback, destroy, secret set, secret delete."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from vaultclient.cli.downloads import WHOLE, copy, parse_range
from vaultclient.cli.durations import duration, shown_duration, shown_instant
from vaultclient.cli.failures import CliError
from vaultclient.cli.group import family, verb
from vaultclient.cli.options import Whole, secret_argument, tenant_argument, value_options
from vaultclient.cli.output import shown_size
from vaultclient.cli.uploads import store
from vaultclient.cli.values import as_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaultclient._calls import Answer
    from vaultclient.cli.app import App

__all__ = ["COMMANDS", "NEVER_ARGV", "stored_newline"]

NEVER_ARGV = "a value is never taken from the command line, where others can read it: use --file F, or pipe it in"

_STATES = {"current": "green", "destroyed": "dim", "retired": "dim"}


def stored_newline(app: App, ends_with_newline: bool) -> None:
    """Say that a trailing newline is part of the value: `echo` adds one that few people mean."""
    if ends_with_newline:
        app.out.note("the value ends with a newline, which is part of it; --strip-newline leaves it out")


@verb("put", extra_hint=NEVER_ARGV)
@tenant_argument
@secret_argument
@value_options
@click.option("--cas", metavar="N", type=Whole(0), help="Only if version N is current; 0: only if new.")
@click.option("--description", metavar="WORDS", help="What the secret is for.")
@click.option("--rotate-after", metavar="SPAN", help="When a version counts as old, such as 60d.")
def put(
    app: App,
    tenant: str,
    secret: str,
    file: str | None,
    strip_newline: bool,
    sparse: bool,
    cas: int | None,
    description: str | None,
    rotate_after: str | None,
) -> None:
    """Store a new version of a secret, byte for byte, from a file, standard input or a hidden prompt.

    The value is never an argument. It may have any size, and goes to vaultd in pieces; a file that changes while it is
    read, or has holes, is not stored. A trailing newline counts unless --strip-newline is given.
    """
    keys: dict[str, Any] = {"tenant": tenant, "secret": secret}
    if cas is not None:
        keys["cas"] = cas
    if description is not None:
        keys["description"] = description
    if rotate_after is not None:
        keys["rotate_after"] = duration(rotate_after, "span")
    question = f"value of {tenant} {secret}"
    reply, newline = store(app, "secret.put", keys, file, question, strip_newline=strip_newline, sparse=sparse)
    version = reply["version"]
    app.out.done(
        f"{tenant} {secret}: version {version} is current", {"tenant": tenant, "secret": secret, "version": version}
    )
    stored_newline(app, newline)
    app.out.next(f"vaultctl history {tenant} {secret}" if version > 1 else f"vaultctl secrets {tenant}")


@verb("get")
@tenant_argument
@secret_argument
@click.option("--version", metavar="N", type=Whole(1), help="Another version than the current one.")
@click.option("--out", metavar="FILE", help="Write to FILE, made with mode 0600, whole or not at all.")
@click.option("--range", "part", metavar="A-B", help="Only the bytes from A up to, but without, B; from A on: A-.")
@click.option("--reveal", is_flag=True, help="Print to a terminal all the same.")
def get(
    app: App, tenant: str, secret: str, version: int | None, out: str | None, part: str | None, reveal: bool
) -> None:
    """Reveal a value, byte for byte, to standard output or a file. Admins only; recorded in the tenant's trail.

    A value of any size: it is written as it comes. What goes to standard output and breaks off ends with an error.
    """
    if out is None and not reveal and app.out.stdout.isatty():
        raise CliError(
            "invalid",
            "a value is not printed to a terminal unasked",
            f"vaultctl get {tenant} {secret} --out FILE, or --reveal to see it here",
        )
    keys: dict[str, Any] = {"tenant": tenant, "secret": secret}
    if version is not None:
        keys["version"] = version
    wanted = parse_range(part) if part is not None else WHOLE
    keys.update(wanted.keys() if part is not None else {})
    if out is None and app.as_json:
        with app.receive_value("secret.get", keys) as found:
            app.out.json_line({"tenant": tenant, "secret": secret, **found.keys, **as_text(found.value)})
        return

    def copied(put: Callable[[memoryview], object]) -> dict[str, Any]:
        answer = app.call("secret.get", {**keys, "pipe": True})

        def why(at: int) -> Answer:
            return app.call("secret.get", {**keys, "version": answer["version"], "offset": at, "length": 1})

        copy(app, answer, wanted, put, why, f"getting {tenant} {secret}")
        return answer.keys

    if out is None:
        copied(app.out.write_bytes)
        if app.out.stdout.isatty():
            app.out.stdout.write("\n")  # so that the prompt does not stand behind the value
        return
    from vaultclient.cli.files import private_file

    with private_file(out) as target:
        about = copied(target.write)
    app.out.done(
        f"version {about['version']} is in {out} ({target.size} bytes, mode 0600)",
        {"tenant": tenant, "secret": secret, **about, "out": out, "size": target.size},
    )
    app.out.next(f"shred -u {out}, when it is no longer needed")


def _sizes(found: list[dict[str, Any]]) -> list[tuple[str, Callable[[dict[str, Any]], object]]]:
    """A column with sizes, where there are any."""
    if all(one.get("size") is None for one in found):
        return []
    return [("SIZE", lambda one: shown_size(one["size"]) if one.get("size") is not None else "-")]


@verb("secrets")
@tenant_argument
def secrets(app: App, tenant: str) -> None:
    """A tenant's secrets, without their values. How long one is, is known of files over 1 MiB."""
    found = list(app.items("secret.list", {"tenant": tenant}))
    app.out.table(
        found,
        [
            ("SECRET", lambda s: s.get("secret")),
            ("VERSION", lambda s: s.get("version")),
            *_sizes(found),
            ("UPDATED (UTC)", lambda s: shown_instant(s.get("updated"))),
            ("ROTATE AFTER", lambda s: shown_duration(s["rotate_after"]) if s.get("rotate_after") else "-"),
            ("DESCRIPTION", lambda s: s.get("description")),
        ],
        empty=f"{tenant} has no secrets",
        wrap=["SECRET", "DESCRIPTION"],
    )


@verb("history")
@tenant_argument
@secret_argument
def history(app: App, tenant: str, secret: str) -> None:
    """A secret's versions and their states, without values. How long one is, is known of files over 1 MiB."""
    found = list(app.items("secret.history", {"tenant": tenant, "secret": secret}))
    app.out.table(
        found,
        [
            ("VERSION", lambda v: v.get("version")),
            ("STATE", lambda v: v.get("state")),
            *_sizes(found),
            ("CREATED (UTC)", lambda v: shown_instant(v.get("created"))),
            ("LEASABLE UNTIL (UTC)", lambda v: shown_instant(v.get("until"))),
        ],
        empty="no versions",
        style=lambda v: _STATES.get(v.get("state")),
    )


@verb("rollback")
@tenant_argument
@secret_argument
@click.option("--to", metavar="N", type=Whole(1), required=True, help="The version to go back to.")
def rollback(app: App, tenant: str, secret: str, to: int) -> None:
    """Make a new version with the value of version N, which must not be destroyed."""
    version = app.call("secret.rollback", {"tenant": tenant, "secret": secret, "to": to}).keys["version"]
    app.out.done(
        f"{tenant} {secret}: version {version} is current, with the value of version {to}",
        {"tenant": tenant, "secret": secret, "version": version, "to": to},
    )
    app.out.next(f"vaultctl history {tenant} {secret}")


@verb("destroy")
@tenant_argument
@secret_argument
@click.option("--version", metavar="N", type=Whole(1), required=True, help="The version to shred.")
def destroy(app: App, tenant: str, secret: str, version: int) -> None:
    """Shred one version: its data key is destroyed. The current version is refused."""
    reply = app.call("secret.destroy", {"tenant": tenant, "secret": secret, "version": version}).keys
    app.out.done(
        f"{tenant} {secret}: version {version} is destroyed",
        {"tenant": tenant, "secret": secret, "version": version, **reply},
    )
    app.out.next(f"vaultctl history {tenant} {secret}")


@verb("set")
@tenant_argument
@secret_argument
@click.option("--description", metavar="WORDS", help="What the secret is for; '' for nothing.")
@click.option("--rotate-after", metavar="SPAN", help="When a version counts as old, such as 60d; 'never' for no limit.")
def set_metadata(app: App, tenant: str, secret: str, description: str | None, rotate_after: str | None) -> None:
    """Change what is said of a secret; its value stays."""
    keys: dict[str, Any] = {"tenant": tenant, "secret": secret}
    if description is not None:
        keys["description"] = description
    if rotate_after is not None:
        keys["rotate_after"] = 0 if rotate_after == "never" else duration(rotate_after, "span")
    if len(keys) == 2:
        raise CliError("invalid", "nothing to set", "--description WORDS or --rotate-after SPAN")
    reply = app.call("secret.set", keys).keys
    app.out.done(f"{tenant} {secret} is changed", {"tenant": tenant, "secret": secret, **reply})
    app.out.next(f"vaultctl secrets {tenant}")


@verb("delete")
@tenant_argument
@secret_argument
def delete(app: App, tenant: str, secret: str) -> None:
    """Shred a secret with all its versions, and end its leases."""
    reply = app.call("secret.delete", {"tenant": tenant, "secret": secret}).keys
    app.out.done(f"{tenant} {secret} is deleted", {"tenant": tenant, "secret": secret, **reply})
    app.out.next(f"vaultctl secrets {tenant}")


COMMANDS = {one.name: one for one in (put, get, secrets, history, rollback, destroy)} | {
    "secret": family("secret", "Secrets: set what is said of one, delete one.", set_metadata, delete)
}
