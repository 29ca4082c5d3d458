"""run: a command with a tenant's secrets, in a run that lives and dies with it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import click

from vaultclient.cli.children import must_be_found
from vaultclient.cli.durations import duration
from vaultclient.cli.failures import CliError, Stopped
from vaultclient.cli.group import Verb, verb
from vaultclient.cli.options import Whole, complete_tenant
from vaultclient.cli.output import counted
from vaultclient.cli.run_plan import MOST_NAMED, Plan, environment, placements
from vaultclient.errors import VaultError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vaultclient.cli.app import App
    from vaultclient.cli.run_plan import Placed

__all__ = ["COMMANDS"]

FAILED: Final = 125
"""The status when vaultctl itself failed, whatever the reason: all others are the command's."""


class _RunVerb(Verb):
    """A wrong command line ends with 125 here: 2 could be the command's own status."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except CliError as error:
            error.status = FAILED
            raise
        except click.exceptions.NoArgsIsHelpError:
            raise
        except click.UsageError as error:
            words = " ".join(error.format_message().split()).rstrip(".")
            text = words[:1].lower() + words[1:]
            raise CliError("invalid", text, "see 'vaultctl run --help'", status=FAILED) from None


@verb("run", cls=_RunVerb, context_settings={"allow_interspersed_args": False})
@click.option(
    "--tenant", metavar="T", help="For which tenant; within a run it is the run's.", shell_complete=complete_tenant
)
@click.option("--service", metavar="S", help="As which service, where several match the caller.")
@click.option("--purpose", metavar="P", help="What for.")
@click.option("--ttl", metavar="SPAN", help="Hard end of the run; 1h when left out.")
@click.option("--uses", metavar="N", type=Whole(1, 10**9), help="Acquisitions at most, its child runs' included.")
@click.option(
    "--env", "by_env", metavar="NAME=SECRET", multiple=True, help="Put a secret's value into a variable. Repeatable."
)
@click.option(
    "--fd",
    "by_fd",
    metavar="NAME=SECRET",
    multiple=True,
    help="Put the path of a sealed memory file with a secret's value into a variable. A long file is a pipe instead, "
    "to be read once: NAME_SIZE says how many bytes make it whole. Repeatable.",
)
@click.option(
    "--allow",
    metavar="PATTERN",
    multiple=True,
    help="Let the command lease these by itself, within the grant. Repeatable.",
)
@click.option(
    "--wait",
    metavar="SPAN",
    help="Wait so long for a vaultd that is away or sealed when this begins; not at all when left out.",
)
@click.option("--pass", "passed", metavar="VAR", multiple=True, help="Pass a variable of the caller's on. Repeatable.")
@click.option(
    "--redact",
    is_flag=True,
    help="Put [redacted] in place of the values of --env and --fd in the command's output, in six encodings.",
)
@click.argument("command", metavar="-- CMD...", nargs=-1, type=click.UNPROCESSED)
def run(
    app: App,
    tenant: str | None,
    service: str | None,
    purpose: str | None,
    ttl: str | None,
    uses: int | None,
    by_env: tuple[str, ...],
    by_fd: tuple[str, ...],
    allow: tuple[str, ...],
    passed: tuple[str, ...],
    redact: bool,
    wait: str | None,
    command: tuple[str, ...],
) -> None:
    """Run CMD with a tenant's secrets, in a run that lives and dies with it.

    CMD gets a clean environment (PATH HOME USER LOGNAME SHELL LANG LC_* TERM TZ TMPDIR, and what --pass names), the
    secrets named, and the run's token (VAULTD_RUN_FD). Its leases are renewed while it runs, over restarts of vaultd
    of up to a minute. When the run or a lease of it is revoked, CMD's session gets SIGTERM and, 5 seconds later,
    SIGKILL.

    Within a run (VAULTD_RUN_FD or VAULTD_RUN) it is a child run: narrower, drawn from that one, and over with it.

    Ends with CMD's status; 125 when vaultctl failed before CMD started, 126 or 127 when CMD could not be executed or
    found, 143 when the run was ended.
    """
    try:
        variables, placed = _checked(app, tenant, by_env, by_fd, passed, command)
        seconds = duration(ttl, "TTL") if ttl is not None else None
        patience = duration(wait, "time to wait") if wait is not None else 0
        token = app.token
    except CliError as error:
        error.status = error.status or FAILED
        raise
    except VaultError as error:  # the client's own: the token or the socket's path is none
        raise CliError(error.code, error.message, error.hint, status=FAILED) from None
    socket = variables["VAULTD_SOCKET"]
    plan = Plan(
        tenant, service, purpose, seconds, placed, allow, command, variables, socket, token, redact, patience, uses
    )
    if (named := len(plan.scope())) > MOST_NAMED:
        words = f"{named} secrets are more than the {MOST_NAMED} of one run"
        raise CliError("invalid", words, "--allow takes patterns", status=FAILED)
    from vaultclient.cli.run_front import carry_out

    status, left = carry_out(plan)
    if left:
        app.out.note(f"{counted(left, 'process')} that the command started still run; the run itself is over")
    raise Stopped(status)


def _checked(
    app: App,
    tenant: str | None,
    by_env: Sequence[str],
    by_fd: Sequence[str],
    passed: Sequence[str],
    command: Sequence[str],
) -> tuple[dict[str, str], tuple[Placed, ...]]:
    """All that can be wrong before a process is made: the child's environment, and where its secrets go."""
    if not command:
        raise CliError("invalid", "the command is missing", "vaultctl run --tenant T ... -- CMD")
    if tenant is None and app.token is None:
        raise CliError("invalid", "the tenant is missing", "vaultctl run --tenant T ... -- CMD")
    placed = placements(by_env, by_fd)
    variables = environment(os.environ, passed, placed, app.socket_path())
    must_be_found(command[0], variables.get("PATH", os.defpath))
    return variables, placed


COMMANDS = {"run": run}
