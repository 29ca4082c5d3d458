"""run-open, run-close, runs: runs for orchestrators, which hand them to other processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from vaultclient.cli.durations import duration, shown_duration
from vaultclient.cli.failures import CliError
from vaultclient.cli.group import verb
from vaultclient.cli.options import Whole, complete_tenant, user_number

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vaultclient.cli.app import App

__all__ = ["COMMANDS"]


@verb("run-open")
@click.option(
    "--tenant", metavar="T", help="For which tenant; within a run it is the run's.", shell_complete=complete_tenant
)
@click.option("--service", metavar="S", help="As which service, where several match the caller.")
@click.option("--purpose", metavar="P", help="What for.")
@click.option("--ttl", metavar="SPAN", help="Hard end of the run; 1h when left out.")
@click.option("--uses", metavar="N", type=Whole(1, 10**9), help="Acquisitions at most, its child runs' included.")
@click.option(
    "--allow", "scope", metavar="PATTERN", multiple=True, required=True, help="What the run may lease. Repeatable."
)
@click.option(
    "--anchor",
    metavar="PID",
    type=Whole(1, 2**31 - 1),
    help="The process it lives with: a child or ancestor of the caller.",
)
@click.option("--uid", metavar="U", help="The uid (or user) of the process that will claim it with the token.")
def run_open(
    app: App,
    tenant: str | None,
    service: str | None,
    purpose: str | None,
    ttl: str | None,
    uses: int | None,
    scope: tuple[str, ...],
    anchor: int | None,
    uid: str | None,
) -> None:
    """Open a run and print its token, once. Hand it on as VAULTD_RUN, or better as a descriptor (VAULTD_RUN_FD).

    It lives with the process --anchor names (when left out: the process that called vaultctl, until one of --uid claims
    it), and ends with run-close. Within a run (VAULTD_RUN_FD or VAULTD_RUN) it is a child run: narrower, drawn from
    that one, and over with it.
    """
    import os

    from vaultclient.cli.app import encode_token

    if tenant is None and app.token is None:
        raise CliError("invalid", "the tenant is missing", "vaultctl run-open --tenant T --allow PATTERN")
    keys: dict[str, Any] = {"scope": list(scope), "anchor": anchor or os.getppid()}
    given = {"tenant": tenant, "service": service, "purpose": purpose, "uses": uses}
    keys.update({name: what for name, what in given.items() if what is not None})
    if ttl is not None:
        keys["ttl"] = duration(ttl, "TTL")
    if uid is not None:
        keys["uid"] = user_number(uid)
    reply = app.call("run.open", keys).keys
    opened = {"run": reply["run"], "token": encode_token(reply["token"]), "expires_in": reply["expires_in"]}
    app.out.record(
        opened,
        [("run", opened["run"]), ("token", opened["token"]), ("ends in", shown_duration(opened["expires_in"]))],
    )
    app.out.next(f"VAULTD_RUN=TOKEN COMMAND, and vaultctl run-close {opened['run']}")


@verb("run-close")
@click.argument("run", metavar="RUN")
def run_close(app: App, run: str) -> None:
    """End a run, its child runs and its leases."""
    reply = app.call("run.close", {"of_run": run}).keys
    app.out.done(f"{run} is over", {"run": run, **reply})
    app.out.unrecorded(reply)
    app.out.next("vaultctl runs")


@verb("runs")
@click.argument("tenant", metavar="[TENANT]", required=False)
def runs(app: App, tenant: str | None) -> None:
    """Live runs: those that the caller opened, or as admin all, or a TENANT's. Child runs stand below their parent."""
    found = app.items("run.list", {} if tenant is None else {"tenant": tenant})
    app.out.table(
        found if app.out.as_json else _in_trees(found),
        [
            ("RUN", lambda r: " " * r.get("depth", 0) + r["run"]),
            *([("TENANT", lambda r: r.get("tenant"))] if tenant is None else []),
            ("SERVICE", lambda r: r.get("service")),
            ("PID", _anchor),
            ("PURPOSE", lambda r: r.get("purpose")),
            ("ENDS IN", lambda r: shown_duration(r["expires_in"]) if "expires_in" in r else "-"),
        ],
        empty="no live runs",
        wrap=["TENANT", "SERVICE", "PURPOSE"],
    )


def _in_trees(runs: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The runs, each followed by its child runs, with their depth in what is shown."""
    known = {run["run"]: run for run in runs}
    below: dict[str | None, list[dict[str, Any]]] = {}
    for run in known.values():
        parent = run.get("parent")
        below.setdefault(parent if parent in known else None, []).append(run)
    ordered: list[dict[str, Any]] = []
    waiting = [{**run, "depth": 0} for run in reversed(below.get(None, []))]
    while waiting:
        run = waiting.pop()
        ordered.append(run)
        waiting += [{**child, "depth": run["depth"] + 1} for child in reversed(below.get(run["run"], []))]
    return ordered


def _anchor(run: dict[str, Any]) -> object:
    anchor = run.get("anchor")
    return anchor.get("pid") if isinstance(anchor, dict) else anchor


COMMANDS = {one.name: one for one in (run_open, run_close, runs)}
