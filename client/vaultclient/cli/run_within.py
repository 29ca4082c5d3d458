"""`vaultctl run` within a run: the command gets a child run, and nothing of the run around it.

A run's token works in its anchor's session. The command leads none of those: so the child run is opened here, by the
front, which stays in the caller's session, and the command's process claims it. Until then it is tied to the front.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from vaultclient.cli.app import App
from vaultclient.cli.failures import CliError
from vaultclient.cli.run_child import ask
from vaultclient.errors import VaultError

if TYPE_CHECKING:
    from vaultclient.cli.run_plan import Plan

__all__ = ["open_within"]


def open_within(plan: Plan, token: bytes) -> Plan:
    """Open the child run that the plan's command is to claim; returns the plan with it, and its tenant filled in.

    Args:
        plan: what to do.
        token: of the run that vaultctl was called in.

    Raises:
        CliError: it was refused, or there is no daemon.
    """
    try:
        with App(plan.socket) as app:
            opened = ask(app, plan, "run.open", plan.request(), run=token)
    except VaultError as error:
        raise CliError(error.code, error.message, error.hint, status=125) from None
    descriptor = os.environ.get("VAULTD_RUN_FD")
    if descriptor:  # the token came from it, so it is a number: what it holds is not for the command
        os.set_inheritable(int(descriptor), False)
    return plan._replace(tenant=opened.get("tenant", plan.tenant), handed=opened["token"])
