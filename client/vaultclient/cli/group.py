"""The command line as a whole: which verbs there are, the options they all take, and how a wrong line is told.

Only a verb that is called, or asked for its help, is loaded. Everything here needs click; nothing else at start does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, ClassVar, Final

import click

from vaultclient.cli.app import App
from vaultclient.cli.failures import CliError, Stopped

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Family", "Verb", "family", "main", "verb"]

_SECTIONS: Final[tuple[tuple[str, tuple[tuple[str, str, str], ...]], ...]] = (
    (
        "The vault",
        (
            ("init", "init", "Make a new vault (offline)"),
            ("status", "session", "What state the vault is in, and who you are to it"),
            ("unseal", "session", "Load the keys: of the vault, or of one tenant"),
            ("seal", "session", "Drop the keys: of the vault, or of one tenant"),
            ("login", "session", "Become admin, for this shell or for one command"),
            ("logout", "session", "Stop being admin"),
            ("slot", "slots", "Key slots: add, list, passwd, remove"),
            ("rotate", "rotate", "New root key, new tenant key, or a secret's new value"),
            ("check", "offline", "Check every file of a vault (offline)"),
        ),
    ),
    (
        "Tenants and secrets",
        (
            ("tenant", "tenants", "Tenants: create, list, show, delete"),
            ("put", "secrets", "Store a secret's value, from a file, standard input or a prompt"),
            ("get", "secrets", "Reveal a secret's value"),
            ("secrets", "secrets", "A tenant's secrets"),
            ("history", "secrets", "A secret's versions"),
            ("rollback", "secrets", "Make an earlier version's value current again"),
            ("destroy", "secrets", "Shred one version of a secret"),
            ("secret", "secrets", "Secrets: set what is said of one, delete one"),
        ),
    ),
    (
        "Who may do what",
        (
            ("service", "services", "Services: workloads the kernel recognises"),
            ("grant", "grants", "Grants: what a service may do for a tenant"),
            ("explain", "explain", "Whether a service may have a secret, and why"),
        ),
    ),
    (
        "Runs and leases",
        (
            ("run", "run_command", "Run a command with a tenant's secrets"),
            ("run-open", "runs", "Open a run for another process"),
            ("run-close", "runs", "End a run"),
            ("runs", "runs", "Live runs"),
            ("lease", "leases", "Lease one secret"),
            ("renew", "leases", "Make a lease last longer"),
            ("release", "leases", "Give a lease back"),
            ("leases", "leases", "Live leases"),
            ("revoke", "leases", "Take leases back: one, a run's, a secret's, a tenant's"),
        ),
    ),
    ("The record", (("audit", "audit", "The audit trail: show, verify, export, checkpoint, prune"),)),
    ("For your shell", (("completion", "completion", "What makes a shell complete vaultctl's verbs and options"),)),
)


class _Named(click.Path):
    """A path for a shell to complete. Whoever opens it says what is wrong with it: `io`, not a wrong command line."""

    def convert(self, value: Any, _param: click.Parameter | None, _ctx: click.Context | None) -> Any:
        """As it was given."""
        return value


_PATHS: Final = {"F": _Named(), "FILE": _Named(), "DIR": _Named(file_okay=False)}
"""What a metavar says of an option's value."""

_WHOLE: Final = 200
"""Letters of a verb's first sentence that its family's help shows: all, on several lines where it takes them."""

_GLOBAL: Final = ("socket", "as_json", "quiet")
_SETTINGS: Final = {"help_option_names": ["-h", "--help"], "max_content_width": 80}


def _remember(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    """A global option counts wherever it stands; one that is not given changes nothing."""
    if value and parameter.name is not None:
        setattr(context.find_object(App), parameter.name, value)


def _global_options() -> list[click.Parameter]:
    common: dict[str, Any] = {"expose_value": False, "callback": _remember}
    return [
        click.Option(["--socket"], metavar="PATH", help="The daemon's socket.", **common),
        click.Option(
            ["--json", "as_json"], is_flag=True, help="One JSON object a line; errors too, on standard error.", **common
        ),
        click.Option(["--quiet", "-q"], is_flag=True, help="No confirmations, no hints.", **common),
    ]


class _Common(click.Command):
    """What a verb and a family of verbs share."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["context_settings"] = {**_SETTINGS, **(kwargs.get("context_settings") or {})}
        super().__init__(*args, **kwargs)
        self.params = [*self.params, *_global_options()]
        for parameter in self.params:
            kind = _PATHS.get(parameter.metavar or "")
            if kind is not None and isinstance(parameter, click.Option):
                parameter.type = kind  # so that a shell completes it; nothing is looked at here

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The verb's own options first, then those that every verb takes."""
        own: list[tuple[str, str]] = []
        shared: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            if isinstance(parameter, click.Argument):
                continue  # the usage line has it
            line = parameter.get_help_record(ctx)
            if line is not None:
                (shared if parameter.name in _GLOBAL or parameter.name == "help" else own).append(line)
        for heading, lines in (("Options", own), ("Options of every verb", shared)):
            if lines:
                with formatter.section(heading):
                    formatter.write_dl(lines)


class Verb(_Common):
    """One command. An argument too many is refused without being quoted: it may be a secret in the wrong place.

    Args:
        extra_hint: what to do instead of a further argument.
    """

    def __init__(self, *args: Any, extra_hint: str = "", **kwargs: Any) -> None:
        kwargs["context_settings"] = {**(kwargs.get("context_settings") or {}), "allow_extra_args": True}
        super().__init__(*args, **kwargs)
        self._extra_hint = extra_hint

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        super().parse_args(ctx, args)
        if ctx.args and not ctx.resilient_parsing:
            count = len(ctx.args)
            ctx.args = []
            hint = self._extra_hint or f"see 'vaultctl {_path(ctx)} --help'"
            raise CliError("invalid", f"{count} argument{'s' * (count > 1)} too many for '{_path(ctx)}'", hint)
        return ctx.args


class Family(_Common, click.Group):
    """A verb with verbs of its own, such as `tenant create`."""

    command_class = Verb

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Verbs"):
            formatter.write_dl([(name, self.commands[name].get_short_help_str(_WHOLE)) for name in self.commands])

    format_options = _Common.format_options

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        self.format_commands(ctx, formatter)
        self.format_options(ctx, formatter)
        self.format_epilog(ctx, formatter)


class _Root(Family):
    """All verbs, each loaded when it is needed."""

    homes: ClassVar[dict[str, str]] = {name: module for _, verbs in _SECTIONS for name, module, _ in verbs}

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(self.homes)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        module = self.homes.get(cmd_name)
        if module is None:
            return None
        found = importlib.import_module(f"vaultclient.cli.{module}").COMMANDS[cmd_name]
        assert isinstance(found, click.Command)  # noqa: S101 - narrows the type; a test loads every verb
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in self.homes and not ctx.resilient_parsing:
            import difflib

            near = difflib.get_close_matches(args[0], self.homes, n=1, cutoff=0.7)
            hint = f"did you mean 'vaultctl {near[0]}'?" if near else "see 'vaultctl --help'"
            raise CliError("invalid", f"no such verb: {ascii(args[0])[:60]}", hint)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        for heading, verbs in _SECTIONS:
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(9), what) for name, _, what in verbs])


def verb(name: str, *, cls: type[Verb] = Verb, **options: Any) -> Callable[[Callable[..., Any]], Verb]:
    """Make a function a verb; its docstring is the help."""

    def wrap(function: Callable[..., Any]) -> Verb:
        return click.command(name, cls=cls, **options)(click.pass_obj(function))

    return wrap


def family(name: str, summary: str, *verbs: Verb) -> Family:
    """Put verbs below one word."""
    made = Family(name, help=summary, short_help=summary, subcommand_metavar="VERB ...")
    for one in verbs:
        made.add_command(one)
    return made


def _path(ctx: click.Context) -> str:
    return ctx.command_path.partition(" ")[2]


_HELP: Final = """Credentials for many tenants' AI agents, leased to processes that the kernel has identified.

Talks to vaultd over its Unix socket. Data goes to standard output; hints and errors to standard error. The exit code
says what went wrong: see the table in the README."""

_EPILOG: Final = (
    "Environment: VAULTD_SOCKET (the daemon's socket), VAULTD_RUN or VAULTD_RUN_FD (a run's token), NO_COLOR. "
    "'vaultctl VERB --help' tells more."
)


def _version(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"vaultctl {version('vaultd')}")
        context.exit()


ROOT: Final = _Root(
    "vaultctl",
    help=_HELP,
    epilog=_EPILOG,
    subcommand_metavar="VERB ...",
    params=[
        click.Option(["--version"], is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Version.")
    ],
)


def main(arguments: Sequence[str], app: App) -> int:
    """Run one command line; returns its exit status.

    Raises:
        CliError: the line is wrong, or the verb failed.
        Exception: whatever else a verb raises.
    """
    try:
        # Not Command.main: it has words and exit codes of its own for Ctrl-C and for a reader that went away.
        with app, ROOT.make_context("vaultctl", list(arguments), obj=app) as context:
            ROOT.invoke(context)
    except click.exceptions.Exit as done:  # --help and --version
        return done.exit_code
    except Stopped as stopped:
        return stopped.status
    except click.exceptions.NoArgsIsHelpError as error:
        if app.as_json:
            raise CliError("invalid", "a verb is missing", "see 'vaultctl --help'") from None
        app.out.stderr.write(error.format_message() + "\n")
        return 2
    except click.UsageError as error:
        where = _path(error.ctx) if error.ctx is not None else ""
        words = " ".join(error.format_message().split()).rstrip(".")
        hint = f"see 'vaultctl {where} --help'".replace("  ", " ")
        raise CliError("invalid", words[:1].lower() + words[1:], hint) from None
    except click.ClickException as error:
        raise CliError("invalid", error.format_message()) from None
    return 0
