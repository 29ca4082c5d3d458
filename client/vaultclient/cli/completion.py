"""completion: what a shell needs to complete vaultctl's verbs, options and names; and the answers that it asks for."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

import click
from click.shell_completion import CompletionItem, ShellComplete, get_completion_class

from vaultclient.cli.app import App
from vaultclient.cli.failures import CliError
from vaultclient.cli.group import ROOT, verb
from vaultclient.errors import VaultError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["COMMANDS", "answer", "secrets", "tenants"]

VARIABLE: Final = "_VAULTCTL_COMPLETE"

SHELLS: Final = ("bash", "zsh", "fish")

_PATIENCE: Final = 1.0
"""Seconds that a person who pressed TAB waits for the daemon, at most."""

_MOST: Final = 1_000
"""Names that are offered, at most."""


def _completer(shell: str, app: App | None = None) -> ShellComplete:
    found = get_completion_class(shell)
    if found is None:
        raise CliError("invalid", f"no completion for {ascii(shell)[:40]}", "bash, zsh or fish")
    return found(ROOT, {"obj": app}, "vaultctl", VARIABLE)


@verb("completion")
@click.argument("shell", metavar="bash|zsh|fish", type=click.Choice(SHELLS))
def completion(app: App, shell: str) -> None:
    """Print the script that makes a shell complete vaultctl's verbs and options.

    bash: eval "$(vaultctl completion bash)" in ~/.bashrc. zsh: the same with zsh in ~/.zshrc, after compinit. fish:
    vaultctl completion fish > ~/.config/fish/completions/vaultctl.fish

    Names of tenants and secrets are completed too while an admin is logged in; that listing is on record like any
    other.
    """
    # Past BashComplete's own: it starts a bash to look at its version, which may be another than the one that asks.
    script = ShellComplete.source(_completer(shell)).strip("\n")
    if app.as_json:
        app.out.json_line({"shell": shell, "script": script})
    else:
        app.out.stdout.write(script + "\n")


def answer(instruction: str) -> int:
    """What the script asks for at each TAB, on standard output; whatever goes wrong is silence: a line is being typed.

    Args:
        instruction: what the script put into `_VAULTCTL_COMPLETE`: `bash_complete` and its like.
    """
    shell, _, wanted = instruction.partition("_")
    if shell not in SHELLS or wanted != "complete":
        return 1
    try:
        with App() as app:
            text = _completer(shell, app).complete()
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except Exception:  # noqa: BLE001  any word of ours would land in the middle of the line that is being typed
        return 1
    return 0


def _names(context: click.Context, op: str, keys: dict[str, str], key: str, incomplete: str) -> list[CompletionItem]:
    """Names that the daemon lists, for admins: to others a question would be one more denial on record."""
    app = context.find_object(App)
    if app is None or not os.path.exists(app.socket_path()):
        return []
    try:
        if not app.call("status", timeout=_PATIENCE).keys["you"].get("admin"):
            return []
        found: list[CompletionItem] = []
        asked = dict(keys)
        while len(found) < _MOST:
            reply = app.call(op, asked, timeout=_PATIENCE).keys
            names = (str(item[key]) for item in reply["items"])
            found += [CompletionItem(name) for name in names if name.startswith(incomplete)]
            if not reply.get("next"):
                break
            asked["after"] = reply["next"]
    except (VaultError, CliError):
        return []
    return found


def tenants(context: click.Context, _parameter: click.Parameter, incomplete: str) -> Sequence[CompletionItem]:
    """Tenants whose names begin so."""
    return _names(context, "tenant.list", {}, "tenant", incomplete)


def secrets(context: click.Context, _parameter: click.Parameter, incomplete: str) -> Sequence[CompletionItem]:
    """Secrets, whose names begin so, of the tenant that stands before them."""
    tenant = context.params.get("tenant")
    if not tenant:
        return []
    return _names(context, "secret.list", {"tenant": str(tenant)}, "secret", incomplete)


COMMANDS = {"completion": completion}
