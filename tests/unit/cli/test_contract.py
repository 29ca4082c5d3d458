"""The command line that was agreed: each verb and option is there and explains itself, and README uses no other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest

from vaultclient.cli.group import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT_FOLDER = Path(__file__).resolve().parents[3]

EVERYWHERE = "--socket --json --quiet"

SLOT = "--passphrase-file --key-file"
CREDENTIAL = "--credential --credential-file"

# A missing CMD of `run` is refused by `run` itself, with the exit code that it keeps for its own failures.
AGREED = f"""
    init                  --dir --admin-uid {SLOT}
    status
    unseal [TENANT]       {SLOT} {CREDENTIAL}
    seal [TENANT]
    login [CMD]           --ttl {SLOT}
    logout
    slot add              {SLOT} {CREDENTIAL}
    slot list
    slot passwd SLOT      --new-passphrase-file {SLOT} {CREDENTIAL}
    slot remove SLOT      --rotate-root
    tenant create TENANT
    tenant list
    tenant show TENANT
    tenant delete TENANT  --yes --with-audit --rotate-root
    put TENANT SECRET     --file --cas --description --rotate-after
    get TENANT SECRET     --version --out --reveal
    secrets TENANT
    history TENANT SECRET
    rollback TENANT SECRET  --to
    destroy TENANT SECRET   --version
    secret set TENANT SECRET  --description --rotate-after
    secret delete TENANT SECRET
    service add NAME      --uid --gid --unit --exe
    service list
    service remove NAME
    grant add TENANT  --service --secret --can --purpose --deliver --max-ttl --max-uses --rate --hours --tz --expires
    grant list TENANT
    grant remove TENANT GRANT
    run [CMD]             --tenant --service --purpose --ttl --env --fd --allow --pass --redact
    run-open              --tenant --service --purpose --ttl --allow --anchor --uid
    run-close RUN
    runs [TENANT]
    lease TENANT SECRET   --ttl --purpose --version --out
    renew LEASE           --ttl
    release LEASE
    leases [TENANT]
    revoke [LEASE]        --run --secret --tenant
    rotate root
    rotate tenant TENANT
    rotate secret TENANT SECRET  --file
    explain TENANT SECRET --service --purpose --at
    audit show [TENANT]   --follow --since --run --secret
    audit verify          --dir --checkpoint
    audit export TENANT   --out
    audit checkpoint      --out
    audit prune           --before --dry-run --yes
    check                 --dir {SLOT}
    completion SHELL
"""

SEVERAL = [
    ("init", "--admin-uid"),
    ("grant add", "--secret"), ("grant add", "--can"), ("grant add", "--purpose"), ("grant add", "--deliver"),
    ("run", "--env"), ("run", "--fd"), ("run", "--allow"), ("run", "--pass"),
]  # fmt: skip
"""Options that are repeated for several values."""


def agreed() -> dict[str, tuple[list[str], set[str]]]:
    """Each verb, its arguments in order, and its options."""
    found = {}
    for line in filter(None, map(str.strip, AGREED.splitlines())):
        words = line.split()
        verb = " ".join(word for word in words if word.islower() and not word.startswith("-"))
        arguments = [word for word in words if word.strip("[]").isupper()]
        found[verb] = (arguments, {word for word in words if word.startswith("--")})
    return found


def commands(command: click.Command = ROOT, name: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every verb with its name, families before their members."""
    if name:
        yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for word in command.list_commands(context):
            below = command.get_command(context, word)
            assert below is not None
            yield from commands(below, f"{name} {word}".strip())


COMMANDS = dict(commands())


def options(command: click.Command) -> dict[str, click.Parameter]:
    return {word: parameter for parameter in command.params for word in parameter.opts if word.startswith("-")}


@pytest.mark.parametrize("verb", agreed())
def test_every_agreed_verb_takes_what_was_agreed(verb: str) -> None:
    """The verb is there, with its arguments in order, its options, and those that every verb takes."""
    arguments, wanted = agreed()[verb]
    command = COMMANDS[verb]
    taken = [parameter for parameter in command.params if isinstance(parameter, click.Argument)]
    assert [not parameter.required for parameter in taken] == [word.startswith("[") for word in arguments]
    assert wanted | set(EVERYWHERE.split()) <= set(options(command))


@pytest.mark.parametrize(("verb", "option"), SEVERAL)
def test_an_option_that_takes_several_is_repeated(verb: str, option: str) -> None:
    """Nothing is split at commas: a second value is a second option."""
    assert options(COMMANDS[verb])[option].multiple


@pytest.mark.parametrize("verb", ["", *COMMANDS])
def test_help_fits_a_terminal(verb: str, ctl: Any) -> None:
    """Every verb says what it does and what its options mean, in lines of at most 80 columns, on standard output."""
    done = ctl(*verb.split(), "--help")
    assert done.status == 0
    assert done.text.startswith(f"Usage: vaultctl {verb}".rstrip())
    assert max(map(len, done.text.splitlines())) <= 80
    for word, parameter in options(COMMANDS[verb] if verb else ROOT).items():
        assert isinstance(parameter, click.Option)
        assert parameter.help, f"{verb} {word} says nothing"
        assert word in done.text


def written() -> Iterator[tuple[str, list[str]]]:
    """Every vaultctl line that README.md shows or names: its text and its words."""
    text = (ROOT_FOLDER / "README.md").read_text()
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    shown = [line.split("  #")[0] for block in blocks for line in block.splitlines() if "vaultctl " in line]
    prose = re.findall(r"`([^`\n]*\bvaultctl [^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    for line in shown + prose:
        yield line, line.partition("vaultctl ")[2].split(" -- ")[0].split()


def test_the_readme_uses_verbs_and_options_that_exist() -> None:
    """No line of README.md is refused for a verb or an option that is not there."""
    lines = [(line, words) for line, words in written() if "/usr/local/bin" not in line]
    assert len(lines) > 15
    for line, words in lines:
        verb = " ".join(words[:2]) if " ".join(words[:2]) in COMMANDS else words[0]
        assert verb in COMMANDS, line
        assert not isinstance(COMMANDS[verb], click.Group), line
        for word in words:
            if word.startswith("--"):
                assert word in options(COMMANDS[verb]), line
