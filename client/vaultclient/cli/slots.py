"""slot: the key slots, each a secret that opens the vault."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from vaultclient.cli.durations import shown_instant
from vaultclient.cli.failures import CliError
from vaultclient.cli.group import family, verb
from vaultclient.cli.inputs import slot_secret, wipe
from vaultclient.cli.options import Whole, slot_options
from vaultclient.cli.progress import working

if TYPE_CHECKING:
    from vaultclient.cli.app import App

__all__ = ["COMMANDS"]


@verb("add")
@click.option("--label", metavar="WORDS", help="What the slot is for, such as a person's name; at most 64 bytes.")
@slot_options
def add(app: App, label: str | None, **sources: Any) -> None:
    """Add a key slot: a further passphrase, key file or systemd credential that opens the vault."""
    keys: dict[str, Any] = {} if label is None else {"label": label}
    question = "new slot's passphrase"
    with (
        slot_secret(out=app.out, question=question, confirm=True, **sources) as (kind, secret),
        working(app.out, "making the slot"),
    ):
        reply = app.call("slot.add", {"kind": kind, **keys}, tail=secret).keys
    app.out.done(f"slot {reply['slot']} opens the vault now", {**reply, "kind": kind, **keys})
    app.out.next("vaultctl slot list")


@verb("list")
def list_slots(app: App) -> None:
    """The key slots, without their secrets."""
    app.out.table(
        app.items("slot.list"),
        [
            ("SLOT", lambda s: s.get("slot")),
            ("KIND", lambda s: s.get("kind")),
            ("LABEL", lambda s: s.get("label")),
            ("CREATED (UTC)", lambda s: shown_instant(s.get("created"))),
        ],
        empty="no slots",
        wrap=["LABEL"],
    )


@verb("passwd")
@click.argument("slot", metavar="SLOT", type=Whole(0))
@click.option(
    "--new-passphrase-file",
    metavar="F",
    help="A file with the new passphrase (one trailing newline not counted); - is standard input.",
)
@slot_options
def passwd(app: App, slot: int, new_passphrase_file: str | None, **sources: Any) -> None:
    """Change a slot's passphrase, against the secret of any slot that there is; its number and label stay.

    The other options name that secret, which is asked for when none does. Whoever else logged in with the slot is no
    admin any more.
    """
    if [new_passphrase_file, *sources.values()].count("-") > 1:
        raise CliError("invalid", "both secrets cannot come from standard input", "put one of them into a file")
    with (
        slot_secret(out=app.out, question="passphrase as it is now", **sources) as (kind, old),
        slot_secret(new_passphrase_file, None, app.out, question="new passphrase", confirm=True) as (_, new),
    ):
        both = bytearray(len(old) + len(new))  # in one piece: a buffer that grows leaves copies behind
        try:
            both[: len(old)], both[len(old) :] = old, new
            with working(app.out, "changing the slot"):
                app.call("slot.passwd", {"slot": slot, "kind": kind, "old": len(old)}, tail=both)
        finally:
            wipe(both)
    app.out.done(f"slot {slot} opens with the new passphrase", {"slot": slot})
    app.out.note("a copy of the vault from before still opens with the old one, until the root key is rotated")
    app.out.next("vaultctl rotate root")


@verb("remove")
@click.argument("slot", metavar="SLOT", type=Whole(0))
@click.option("--rotate-root", is_flag=True, help="Then a new root key, so that a kept copy of the slot opens no more.")
def remove(app: App, slot: int, rotate_root: bool) -> None:
    """Take a key slot away: its secret opens nothing written from now on. The last one is refused."""
    keys: dict[str, Any] = {"rotate_root": True} if rotate_root else {}
    with working(app.out, "rotating the root key" if rotate_root else "removing the slot"):
        reply = app.call("slot.remove", {"slot": slot, **keys}, slow=rotate_root).keys
    app.out.done(f"slot {slot} is gone", {"slot": slot, **reply})
    if rotate_root:
        app.out.note("the root key is new: what a copy of the slot opens is the vault as it was, and nothing since")
        app.out.next("vaultctl audit checkpoint --out FILE")
    else:
        app.out.note("a copy of the vault from before still opens with it, until the root key is rotated")
        app.out.next("vaultctl rotate root")


COMMANDS = {"slot": family("slot", "Key slots: the secrets that open the vault.", add, list_slots, passwd, remove)}
