"""slot: the key slots, each a secret that opens the vault."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from vaultclient.cli.durations import shown_instant
from vaultclient.cli.group import family, verb
from vaultclient.cli.inputs import slot_secret
from vaultclient.cli.options import Whole, slot_options

if TYPE_CHECKING:
    from vaultclient.cli.app import App

__all__ = ["COMMANDS"]


@verb("add")
@click.option("--label", metavar="WORDS", help="What the slot is for, such as a person's name; at most 64 bytes.")
@slot_options
def add(app: App, label: str | None, passphrase_file: str | None, key_file: str | None) -> None:
    """Add a key slot: a further passphrase or key file that opens the vault."""
    keys: dict[str, Any] = {} if label is None else {"label": label}
    question = "new slot's passphrase"
    with slot_secret(passphrase_file, key_file, app.out, question=question, confirm=True) as (kind, secret):
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


@verb("remove")
@click.argument("slot", metavar="SLOT", type=Whole(0))
def remove(app: App, slot: int) -> None:
    """Take a key slot away: its secret opens nothing written from now on. The last one is refused."""
    reply = app.call("slot.remove", {"slot": slot}).keys
    app.out.done(f"slot {slot} is gone", {"slot": slot, **reply})
    app.out.note("a copy of the vault from before still opens with it, until the root key is rotated")
    app.out.next("vaultctl rotate root")


COMMANDS = {"slot": family("slot", "Key slots: the secrets that open the vault.", add, list_slots, remove)}
