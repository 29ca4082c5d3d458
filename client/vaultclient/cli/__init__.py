"""vaultctl: the command line of vaultd, for people and scripts.

This file is what every call pays for, so it loads neither click nor the client: one verb goes a short way
(`acquire.parse`), all others through `group`.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from vaultclient.cli.failures import BROKEN_PIPE, INTERRUPTED, report

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main", "run"]


def _asked_for_json(arguments: Sequence[str]) -> bool:
    """Whether errors shall be JSON although the line itself may be wrong."""
    before = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in before


def run(arguments: Sequence[str]) -> int:
    """Run one command line, and tell its failure if it fails; returns the exit status."""
    from vaultclient.cli.app import App

    app = App()
    try:
        if "lease" in arguments:
            from vaultclient.cli import acquire

            short = acquire.parse(arguments)
            if short is not None:
                wanted, shared = short
                with App(**shared) as app:
                    acquire.acquire(app, wanted)
                    app.out.stdout.flush()
                return 0
        from vaultclient.cli.group import main as by_click

        status = by_click(arguments, app)
        sys.stdout.flush()
    except BrokenPipeError:
        return _give_up_stdout(BROKEN_PIPE)
    except KeyboardInterrupt:
        return _give_up_stdout(INTERRUPTED)
    except Exception as error:  # noqa: BLE001 - the outermost edge: everything is told in one voice, bugs too
        from vaultclient.cli.output import wants_colour

        as_json = app.as_json or _asked_for_json(arguments)
        return report(error, as_json=as_json, colour=not as_json and wants_colour(sys.stderr))
    return status


def _give_up_stdout(status: int) -> int:
    """Nothing more is written: the interpreter's flush at exit must not complain about a reader that went away."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    except (OSError, ValueError, AttributeError):
        pass
    return status


def _stand_on_three_streams() -> None:
    """A standard descriptor that the caller closed must not be what the next file or socket gets."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number: this one


def main() -> int:
    """The entry point of `vaultctl`."""
    _stand_on_three_streams()
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - lives as long as the process
    if sys.stdout is None:
        from vaultclient.cli.failures import CliError

        return report(CliError("io", "standard output is closed"), as_json=_asked_for_json(sys.argv[1:]))
    asked = os.environ.get("_VAULTCTL_COMPLETE")
    if asked is not None:  # by the script that `vaultctl completion` prints
        from vaultclient.cli.completion import answer

        return answer(asked)
    return run(sys.argv[1:])
