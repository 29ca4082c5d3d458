"""What `vaultctl run` is to do, checked before anything is done."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from vaultclient.cli.failures import CliError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["MOST_NAMED", "Placed", "Plan", "environment", "placements"]

KEPT: Final = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TERM", "TZ", "TMPDIR")
"""What a child's environment has of the caller's, with every LC_*; all else must be named by --pass."""

MOST_NAMED: Final = 64
"""Texts in the scope of one run, as the protocol has it."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")


class Placed(NamedTuple):
    """One secret and where the child finds it: `name` is an environment variable, `delivery` is `env` or `fd`."""

    name: str
    secret: str
    delivery: str


class Plan(NamedTuple):
    """One `vaultctl run`; `wait`: seconds to wait at the start for a daemon that is away or sealed.

    `tenant` is None only within a run, until the child run is open (`run_within`); `token` is the run's that vaultctl
    was called in, `handed` the child run's that the command is to claim.
    """

    tenant: str | None
    service: str | None
    purpose: str | None
    ttl: int | None
    placed: tuple[Placed, ...]
    allowed: tuple[str, ...]
    command: tuple[str, ...]
    environment: Mapping[str, str]
    socket: str
    token: bytes | None
    redact: bool = False
    wait: int = 0
    uses: int | None = None
    handed: bytes | None = None

    def scope(self) -> list[str]:
        """What the run is opened for: the secrets named, and the patterns of --allow, each once."""
        return list(dict.fromkeys([*(one.secret for one in self.placed), *self.allowed]))

    def request(self) -> dict[str, Any]:
        """The keys of `run.open`."""
        given = {
            "tenant": self.tenant,
            "service": self.service,
            "purpose": self.purpose,
            "ttl": self.ttl,
            "uses": self.uses,
        }
        return {"scope": self.scope(), **{name: what for name, what in given.items() if what is not None}}


def _variable(name: str, option: str) -> str:
    if _NAME.fullmatch(name) is None:
        raise CliError("invalid", f"{option}: not a variable's name: {ascii(name)[:60]}", "letters, digits and '_'")
    if name.startswith("VAULTD_"):
        raise CliError("invalid", f"{option}: {name[:60]} is vaultctl's own", "choose another name")
    return name


def placements(by_env: Sequence[str], by_fd: Sequence[str]) -> tuple[Placed, ...]:
    """Read the NAME=SECRET of --env and --fd.

    Raises:
        CliError: `invalid`: another form, or a name twice. A value in place of a secret's name is not repeated.
    """
    placed = []
    for option, delivery, texts in (("--env", "env", by_env), ("--fd", "fd", by_fd)):
        for text in texts:
            name, equals, secret = text.partition("=")
            if not equals or not secret:
                raise CliError("invalid", f"{option} needs NAME=SECRET", f"such as {option} OPENAI_API_KEY=openai/prod")
            placed.append(Placed(_variable(name, option), secret, delivery))
    names = [one.name for one in placed]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise CliError("invalid", f"{twice} is given twice", "a variable has one value")
    return tuple(placed)


def environment(
    caller: Mapping[str, str], passed: Sequence[str], placed: Sequence[Placed], socket: str
) -> dict[str, str]:
    """The child's environment, but for the secrets and the run's token.

    Raises:
        CliError: `invalid`: a name of --pass is no variable's, is not set, or is a secret's as well.
    """
    kept = {name: caller[name] for name in KEPT if name in caller}
    kept.update({name: value for name, value in caller.items() if name.startswith("LC_")})
    taken = {one.name for one in placed}
    for name in passed:
        _variable(name, "--pass")
        if name in taken:
            raise CliError("invalid", f"{name} is given twice", "a variable has one value")
        if name not in caller:
            raise CliError("invalid", f"--pass: {name} is not set", f"set {name}, or leave --pass {name} away")
        kept[name] = caller[name]
    kept["VAULTD_SOCKET"] = os.path.abspath(socket)
    return kept
