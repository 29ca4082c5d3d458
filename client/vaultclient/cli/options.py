"""Options that several verbs share, and the values they take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from vaultclient.cli.failures import CliError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "Whole",
    "complete_tenant",
    "group_number",
    "secret_argument",
    "slot_options",
    "tenant_argument",
    "user_number",
    "value_options",
]

Decorator = "Callable[[Callable[..., Any]], Callable[..., Any]]"


def complete_tenant(context: click.Context, parameter: click.Parameter, incomplete: str) -> Any:
    """Names for a shell that completes; loaded only then."""
    from vaultclient.cli.completion import tenants

    return tenants(context, parameter, incomplete)


def _complete_secret(context: click.Context, parameter: click.Parameter, incomplete: str) -> Any:
    from vaultclient.cli.completion import secrets

    return secrets(context, parameter, incomplete)


tenant_argument = click.argument("tenant", metavar="TENANT", shell_complete=complete_tenant)
secret_argument = click.argument("secret", metavar="SECRET", shell_complete=_complete_secret)


class Whole(click.ParamType[int]):
    """A whole number within bounds, which the help does not repeat and an error does."""

    name = "number"

    def __init__(self, least: int, most: int = 2**32 - 1) -> None:
        self._least = least
        self._most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value)
        if not text.isascii() or not text.isdigit() or not self._least <= int(text) <= self._most:
            self.fail(f"not a whole number from {self._least} to {self._most}", param, ctx)
        return int(text)


def slot_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Where a key slot's secret comes from, as `inputs.slot_secret` takes it; without any of them, a prompt."""
    function = click.option(
        "--credential-file", metavar="F", help="A file with a systemd credential's content: 32 to 4096 bytes."
    )(function)
    function = click.option(
        "--credential",
        metavar="NAME",
        help="The systemd credential NAME, as a unit gets it: $CREDENTIALS_DIRECTORY/NAME.",
    )(function)
    function = click.option(
        "--key-file", metavar="F", help="The slot's key file: 32 to 4096 bytes, all of which count."
    )(function)
    return click.option(
        "--passphrase-file",
        metavar="F",
        help="A file with the slot's passphrase (one trailing newline not counted); - is standard input.",
    )(function)


def value_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Where a secret's value comes from; without a file, standard input or a prompt."""
    function = click.option("--sparse", is_flag=True, help="Take a file's holes for the zeros that they read as.")(
        function
    )
    function = click.option("--strip-newline", is_flag=True, help="Leave one trailing newline out, as `echo` adds it.")(
        function
    )
    return click.option(
        "--file",
        metavar="F",
        help="Read the value from F; - is standard input, which is also read when it is not a terminal.",
    )(function)


def user_number(text: str) -> int:
    """A uid, or the uid of a user's name.

    Raises:
        CliError: `invalid`: no such user.
    """
    if text.isascii() and text.isdigit():
        return int(text)
    import pwd

    try:
        return pwd.getpwnam(text).pw_uid
    except KeyError:
        raise CliError(
            "invalid", f"no such user: {ascii(text)[:60]}", "a uid, or a name that the system knows"
        ) from None


def group_number(text: str) -> int:
    """A gid, or the gid of a group's name.

    Raises:
        CliError: `invalid`: no such group.
    """
    if text.isascii() and text.isdigit():
        return int(text)
    import grp

    try:
        return grp.getgrnam(text).gr_gid
    except KeyError:
        raise CliError(
            "invalid", f"no such group: {ascii(text)[:60]}", "a gid, or a name that the system knows"
        ) from None
