"""audit: show and export a trail, sign a checkpoint; verify needs no daemon and no key."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any, Final

import click

from vaultclient.cli.durations import instant
from vaultclient.cli.failures import CliError
from vaultclient.cli.group import family, verb
from vaultclient.cli.inputs import read_file
from vaultclient.cli.offline import seal_key, verify
from vaultclient.cli.options import tenant_argument
from vaultclient.cli.output import counted
from vaultclient.cli.progress import working

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vaultclient.cli.app import App

__all__ = ["COMMANDS"]

_PROVING: Final = frozenset({"vault.unseal", "tenant.unseal", "unseal", "login"})
_CHANGING: Final = frozenset({"slot.add", "slot.passwd", "slot.remove"})
_MAX_CHECKPOINT: Final = 49_152

_WAIT: Final = 30
"""Seconds that one question of --follow stays open in the daemon."""


def _records(app: App, keys: dict[str, Any], *, follow: bool) -> Iterator[dict[str, Any]]:
    """The trail's records in order; with `follow` it goes on until interrupted."""
    after: str | None = None
    while True:
        asked = {**keys, **({} if after is None else {"after": after}), **({"wait": _WAIT} if follow else {})}
        reply = app.call("audit.show", asked, timeout=_WAIT + 30)
        for line in bytes(reply.tail).splitlines():
            record = json.loads(line)
            # The trail keeps a record's words in `body`, beside its place in the chain; readers want the words.
            body = record.pop("body", None)
            yield {**(body if isinstance(body, dict) else {}), **record}
        advanced = reply.keys["next"] != after
        after = reply.keys["next"]
        if not follow and (not advanced or not reply.keys["count"] or reply.keys.get("more") is False):
            return


def _actor(record: dict[str, Any]) -> str:
    actor = record.get("actor")
    if not isinstance(actor, dict):
        return str(actor or "-")
    name = record.get("service") or actor.get("service") or actor.get("kind") or "?"
    return f"{name} uid {actor['uid']}" if actor.get("uid") is not None else str(name)


def _clear(record: dict[str, Any]) -> Iterator[str]:
    """Of what the vault's own records say in the clear: which key slot was opened or changed, which files and keys."""
    kind, actor, public = record.get("kind"), record.get("actor"), record.get("public")
    if kind in _PROVING and isinstance(actor, dict) and actor.get("slot"):
        yield f"by slot {actor['slot']}"
    if not isinstance(public, dict):
        return
    if kind in _CHANGING and public.get("slot"):
        yield f"slot {public['slot']}"
    for key in ("files", "changed"):
        if isinstance(public.get(key), list):
            yield from map(str, public[key])


def _what(record: dict[str, Any]) -> str:
    words = []
    if record.get("secret"):
        version = f" v{record['version']}" if record.get("version") else ""
        words.append(f"{record['secret']}{version}")
    words += _clear(record)
    if record.get("count"):
        words.append(f"{record['count']} of them")
    words.extend(str(record[key]) for key in ("delivery", "purpose", "reason") if record.get(key))
    return ", ".join(words)


def _line(app: App, record: dict[str, Any]) -> None:
    """One record for people, in columns that a stream of records keeps; what is too long goes on below."""
    moment = str(record.get("time", "-"))[:19].replace("T", " ")
    outcome = str(record.get("outcome", "-"))
    head = f"{moment}  {record.get('kind', '-')!s:<14} {outcome:<7}"
    style = {"denied": "red", "failed": "red", "counted": "yellow"}.get(outcome)
    app.out.columns(head, f"{_actor(record)}  {_what(record)}".rstrip(), style=style)


@verb("show")
@click.argument("tenant", metavar="[TENANT]", required=False)
@click.option("--follow", "-f", is_flag=True, help="Wait for further records, until interrupted.")
@click.option("--since", metavar="TIME", help="From then on: RFC 3339, or a span back from now such as 1h.")
@click.option("--run", metavar="R", help="Only of this run.")
@click.option("--secret", metavar="S", help="Only of this secret.")
def show(app: App, tenant: str | None, follow: bool, since: str | None, run: str | None, secret: str | None) -> None:
    """A TENANT's audit trail, or the vault's own. Times are UTC. Reading a tenant's trail is recorded in it."""
    keys: dict[str, Any] = {"tenant": tenant, "of_run": run, "secret": secret}
    keys = {name: what for name, what in keys.items() if what is not None}
    if since is not None:
        keys["since"] = instant(since, "--since", now=time.time(), backward=True)
    empty = True
    for record in _records(app, keys, follow=follow):
        empty = False
        if app.as_json:
            app.out.json_line(record)
        else:
            _line(app, record)
        if follow:
            app.out.stdout.flush()
    if empty:
        app.out.note("no records")


@verb("export")
@tenant_argument
@click.option("--out", metavar="F", required=True, help="The file to write, mode 0600; - is standard output.")
def export(app: App, tenant: str, out: str) -> None:
    """A tenant's own chain, as JSON lines that can be checked on their own and tell nothing of other tenants."""
    count = 0

    def pages() -> Iterator[bytearray]:
        nonlocal count
        after: str | None = None
        while True:
            reply = app.call("audit.export", {"tenant": tenant, **({} if after is None else {"after": after})})
            count += reply.keys["count"]
            yield reply.tail
            advanced = reply.keys["next"] != after
            after = reply.keys["next"]
            if not advanced or not reply.tail or reply.keys.get("more") is False:
                return

    if out == "-":
        for page in pages():
            app.out.write_bytes(page)
        return
    from vaultclient.cli.files import private_file

    with private_file(out) as target, working(app.out, f"exporting the trail of {tenant}"):
        for page in pages():
            target.write(page)
    app.out.done(
        f"{counted(count, 'record')} of {tenant} are in {out}",
        {"tenant": tenant, "out": out, "records": count, "size": target.size},
    )


@verb("checkpoint")
@click.option("--out", metavar="F", help="The file to write, mode 0600; standard output when left out.")
def checkpoint(app: App, out: str | None) -> None:
    """A signed statement of the log's size and head. Kept elsewhere, it shows later if the log was cut or rewritten."""
    statement = app.call("audit.checkpoint").tail
    if not statement:
        raise CliError("protocol", "the daemon sent no checkpoint")
    if out is None or out == "-":
        if app.as_json:
            app.out.json_line({"checkpoint": bytes(statement).decode("utf-8")})
        else:
            app.out.write_bytes(statement)
        return
    from vaultclient.cli.files import private_file

    with private_file(out) as target:
        target.write(statement)
    app.out.done(f"the checkpoint is in {out}: keep it on another machine", {"out": out, "size": target.size})
    app.out.next(f"vaultctl audit verify --checkpoint {out}")


@verb("prune")
@click.option("--before", metavar="CHECKPOINT", required=True, help="A file that 'audit checkpoint' wrote.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("--yes", is_flag=True, help="Do not ask, as it does at a terminal.")
def prune(app: App, before: str, dry_run: bool, yes: bool) -> None:
    """Remove the part of the log that lies before a checkpoint, in whole segments; what is left goes on to verify.

    What goes is gone, for every tenant's trail as well: export what is to be kept first.
    """
    if before == "-" and os.isatty(2) and not (dry_run or yes or app.as_json):
        raise CliError("invalid", "standard input is the checkpoint: nobody can be asked", "--dry-run, then --yes")
    statement = read_file(before, _MAX_CHECKPOINT, "the checkpoint")
    if not statement:
        raise CliError("integrity", "the checkpoint is empty", "give the file that 'audit checkpoint' wrote")
    told = app.call("audit.prune", {"dry_run": True}, tail=statement, slow=True).keys
    if told["lines"] and not dry_run:
        asks = not yes and not app.as_json and os.isatty(0)
        if asks or not app.as_json:
            _would(app, told, "go")
        if asks and not _agreed():
            raise CliError("invalid", "nothing was removed", "--dry-run says what would go")
        told = app.call("audit.prune", tail=statement, slow=True).keys
    if app.as_json:
        app.out.json_line(told)
    elif told["pruned"]:
        app.out.say(f"removed; the log begins at line {told['begins']}")
        app.out.next("vaultctl audit verify")
    elif told["lines"]:
        _would(app, told, "would go")
    else:
        app.out.say("nothing to remove: no whole segment lies before this checkpoint")


def _agreed() -> bool:
    try:
        return click.confirm("remove them", err=True)
    except click.Abort:  # interrupted, or the terminal's end
        raise KeyboardInterrupt from None


def _would(app: App, told: dict[str, Any], what: str) -> None:
    first, last = (told[key][:19].replace("T", " ") for key in ("first", "last"))
    segments = f"{counted(told['segments'], 'segment')}, {told['bytes']} bytes"
    app.out.say(f"{counted(told['lines'], 'line')} from {first} to {last} ({segments}) {what}")
    if told["stays"]:
        app.out.say(f"{counted(told['stays'], 'line')} before the checkpoint stay, with later ones in their segment")


COMMANDS = {
    "audit": family(
        "audit",
        "The audit trail: show, verify, export, checkpoint, prune.",
        show,
        verify,
        export,
        checkpoint,
        prune,
        seal_key,
    )
}
