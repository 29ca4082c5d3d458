"""init: a new vault, made without a daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from vaultclient.cli import offline
from vaultclient.cli.group import verb
from vaultclient.cli.inputs import slot_secret
from vaultclient.cli.options import slot_options, user_number
from vaultclient.cli.progress import working

if TYPE_CHECKING:
    from vaultclient.cli.app import App

__all__ = ["COMMANDS"]

_KEEP = {
    "passphrase": "the passphrase is kept by you alone: without it nothing opens the vault, ever",
    "key-file": "the key file is kept by you alone: without it nothing opens the vault, ever",
    "credential": "if this machine is lost, so is the credential: add a passphrase as well, with vaultctl slot add",
}


@verb("init")
@click.option("--dir", "directory", metavar="DIR", help=offline.DIRECTORY_HELP)
@click.option("--admin-uid", "admins", metavar="U", multiple=True, help="Who may be admin: uid or user. Repeatable.")
@click.option("--label", metavar="WORDS", help="What the first key slot is for.")
@click.option("--seal-key-out", metavar="FILE", help="Write the first seal key there, mode 0600; not shown then.")
@slot_options
def init(
    app: App,
    directory: str | None,
    admins: tuple[str, ...],
    label: str | None,
    seal_key_out: str | None,
    **sources: Any,
) -> None:
    """Make a new vault and its first key slot. Prints what to keep elsewhere, once. Needs no daemon.

    Without --admin-uid, the vault's owner is its admin.
    """
    uids = [user_number(admin) for admin in admins]
    place = directory if directory is not None else offline.default_directory()
    question = "passphrase of the new vault"
    made = None
    try:
        with (
            slot_secret(out=app.out, question=question, confirm=True, **sources) as (kind, secret),
            offline.seal_key_file(seal_key_out) as target,
        ):
            with working(app.out, "making the vault"):
                made, seal_key = offline.create(place, kind, secret, label or "", uids)
            offline.give_seal_key(app, target, seal_key_out, seal_key, made)
        app.out.record(
            made,
            [("vault", made["vault"]), ("directory", made["dir"]), ("checkpoint key", made["checkpoint_key"])],
        )
        app.out.stdout.flush()
    except OSError as error:
        if made is None:
            raise
        raise offline.not_handed_over(place, error) from None
    offline.keep_seal_key(app)
    app.out.note(
        "keep the vault's id and the checkpoint key on another machine: they tell later whether the record is whole"
    )
    app.out.note(_KEEP[kind])
    app.out.next(
        "vaultd, then vaultctl unseal" if directory is None else f"vaultd --dir {directory}, then vaultctl unseal"
    )


COMMANDS = {"init": init}
