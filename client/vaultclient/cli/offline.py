"""init, check and audit verify work on a vault's directory, without a daemon.

The only module of the client that imports the vault, and only when one of these verbs is called: agents install the
client without it.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, Final

import click

from vaultclient.cli.failures import CliError, describe
from vaultclient.cli.group import verb
from vaultclient.cli.inputs import read_file, slot_secret, warn_if_open, wipe
from vaultclient.cli.options import slot_options
from vaultclient.cli.output import counted
from vaultclient.cli.progress import working

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vaultclient.cli.app import App
    from vaultclient.cli.files import PrivateFile

__all__ = [
    "COMMANDS",
    "DIRECTORY_HELP",
    "create",
    "default_directory",
    "give_seal_key",
    "keep_seal_key",
    "not_handed_over",
    "seal_key",
    "seal_key_file",
    "verify",
]

_MAX_CHECKPOINT: Final = 65_536
_MAX_SEAL_KEY: Final = 4_096

DIRECTORY_HELP: Final = "The vault's directory; root: /var/lib/vaultd, a user: $XDG_STATE_HOME/vaultd."


def _vault() -> Any:
    try:
        from vaultd.vault import offline
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "vaultd":
            raise
        raise CliError(
            "unavailable",
            f"this verb needs the daemon's libraries, and {error.name} is missing",
            "install vaultd whole, from its own tree: pip install '.[all]' (the name on the public index is not ours)",
        ) from None
    return offline


def default_directory() -> str:
    """Where vaultd keeps its vault when nobody says otherwise."""
    if os.geteuid() == 0:
        return "/var/lib/vaultd"
    state = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    return os.path.join(state, "vaultd")


def create(
    directory: str, kind: str, secret: bytearray, label: str, admins: Sequence[int]
) -> tuple[dict[str, Any], Any]:
    """Make a vault; returns what its owner must keep, and apart from it the first seal key, which is secret."""
    made = _vault().init(directory, secret=secret, kind=kind, label=label, admin_uids=list(admins))
    kept = {
        "vault": made.vault_id.hex(),
        "dir": os.path.abspath(directory),
        "checkpoint_key": made.checkpoint_public.hex(),
        "slot": made.slot_id,
    }
    return kept, made.seal_key


@contextlib.contextmanager
def seal_key_file(path: str | None) -> Iterator[PrivateFile | None]:
    """The file that a seal key goes to instead of standard output, tried before there is a key.

    Raises:
        CliError: `exists`: what stands there may be an earlier chain's key, which is needed for what it sealed.
    """
    if path is None:
        yield None
        return
    if os.path.lexists(path):
        raise CliError("exists", f"{path} is there already, and is left alone", "name a file that is not there yet")
    from vaultclient.cli.files import private_file

    with private_file(path) as target:
        yield target


def give_seal_key(app: App, target: PrivateFile | None, path: str | None, key: Any, about: dict[str, Any]) -> None:
    """Hand the first seal key over, once: into its file, or in the clear on standard output.

    Args:
        key: `SecretBytes`; wiped here.
        about: gets `seal_key`, or with a file `seal_key_file`, for --json.
    """
    with key:
        if target is not None:
            target.write(key.view())
            target.write(b"\n")
            about["seal_key_file"] = path
        elif app.as_json:
            about["seal_key"] = bytes(key.view()).decode("ascii")
        else:
            app.out.say("first seal key, secret, shown this once:")
            app.out.write_bytes(key.view())
            app.out.write_bytes(b"\n")


def not_handed_over(directory: str, error: Exception) -> CliError:
    """What to say when a first seal key was made and did not reach its owner: it is gone, and the vault is there."""
    return CliError(
        "io",
        f"the first seal key was made, and lost on its way out: {describe(error)[1]}",
        f"the vault stands, only that key is gone; make another: vaultctl audit seal-key --dir {directory}",
    )


def keep_seal_key(app: App) -> None:
    """What the operator has to know of the key that was just handed over."""
    app.out.note(
        "keep the first seal key on another machine, and secret: it shows later whether the record was changed after "
        "the fact, and with it one could be forged"
    )


def _lines(app: App, heading: str, texts: Sequence[str]) -> None:
    if texts:
        app.out.say(heading)
        for text in texts:
            app.out.columns("  - ", text, column=4)


@verb("verify")
@click.option("--dir", "directory", metavar="DIR", help=DIRECTORY_HELP)
@click.option(
    "--checkpoint", metavar="F", help="A checkpoint kept elsewhere: rules out that the log was cut or rewritten."
)
@click.option(
    "--checkpoint-key", metavar="HEX", help="The checkpoint key that init printed; the vault's own when left out."
)
@click.option(
    "--seal-key-file", metavar="F", help="The first seal key: rules out changes by who took the machine over later."
)
@click.option("--without-state", is_flag=True, help="With a seal key: DIR is a copy without the seal's state.")
def verify(
    app: App,
    directory: str | None,
    checkpoint: str | None,
    checkpoint_key: str | None,
    seal_key_file: str | None,
    without_state: bool,
) -> None:
    """Check the audit chain, without a daemon and without keys; names the first bad line. Ends with 65 if there is one.

    Says what it could rule out and what not: a chain without a key can be rewritten whole, unless a checkpoint or the
    first seal key is kept elsewhere.
    """
    if without_state and seal_key_file is None:
        raise CliError("invalid", "--without-state says something about --seal-key-file only", "give both, or neither")
    place = directory if directory is not None else default_directory()
    statement = bytes(read_file(checkpoint, _MAX_CHECKPOINT, "the checkpoint")) if checkpoint is not None else None
    key = _hex(checkpoint_key) if checkpoint_key is not None else None
    sealed = None
    if seal_key_file is not None:
        if seal_key_file != "-":
            warn_if_open(seal_key_file, app.out)
        sealed = read_file(seal_key_file, _MAX_SEAL_KEY, "the seal key")
    try:
        with working(app.out, "verifying the audit chain"):
            found = _vault().verify(
                place, checkpoint=statement, checkpoint_key=key, seal_key=sealed, without_state=without_state
            )
    finally:
        if sealed is not None:
            wipe(sealed)
    verdict = found.verdict
    about: dict[str, Any] = {
        "verified": found.ok,
        "file": found.file,
        "lines": verdict.lines,
        "vault": found.vault_id.hex() if found.vault_id is not None else None,
        "trails": found.trails,
        "seq": verdict.seq,
        "head": verdict.head.hex(),
        "ruled_out": list(found.ruled_out),
        "not_ruled_out": list(found.not_ruled_out),
        "notes": list(found.notes),
    }
    if found.seal is not None:
        about["seal"] = found.seal._asdict()
    if not found.ok:
        about.update(line=verdict.bad_line, reason=verdict.reason)
        if app.as_json:
            app.out.json_line(about)
        where = os.path.join(os.path.basename(os.path.dirname(found.file)), os.path.basename(found.file))
        hint = f"the {verdict.bad_line - 1} lines before it verify; nothing from it on can be relied upon"
        if found.seal is not None:
            hint = "nothing verifies under this seal key: first make sure that it is the right one"
            if found.seal.sealed:
                hint = f"lines 1 to {found.seal.sealed} verify under the seal key; nothing behind can be relied upon"
        raise CliError("integrity", f"{where}: line {verdict.bad_line}: {verdict.reason}", hint)
    if app.as_json:
        app.out.json_line(about)
        return
    seal = found.seal
    walked = f"{counted(verdict.lines, 'line')} of {counted(found.trails, 'trail')}"
    app.out.say(f"{walked} verify; head {verdict.head.hex()[:16]}...")
    if seal is not None:
        app.out.say(f"{counted(seal.tags, 'tag')} over {seal.epochs:,} epochs verify under the seal key")
        behind = f"; {counted(seal.unsealed, 'line')} behind it" if seal.unsealed else ""
        app.out.say(f"sealed up to line {seal.sealed}, {seal.time}{behind}")
    _lines(app, "ruled out:", found.ruled_out)
    _lines(app, "not ruled out:", found.not_ruled_out)
    _lines(app, "notes:", found.notes)
    if checkpoint is None and seal is None:
        app.out.next("vaultctl audit checkpoint --out FILE, and keep FILE on another machine")


@verb("seal-key")
@click.option("--dir", "directory", metavar="DIR", help=DIRECTORY_HELP)
@click.option("--out", metavar="FILE", help="Write the key there, mode 0600, instead of showing it.")
def seal_key(app: App, directory: str | None, out: str | None) -> None:
    """Begin a new forward seal of the audit journal and print its first key, once. The vault must not be open.

    For a vault that has no forward seal yet, for a first key that was lost, and after restoring a backup. The old chain
    hands over to the new one if its state is there, and the new key covers every line before.
    """
    place = directory if directory is not None else default_directory()
    started = None
    try:
        with seal_key_file(out) as target:
            started = _vault().start_seal(place)
            about = {"vault": started.vault_id.hex(), "chain": started.chain, "line": started.line}
            give_seal_key(app, target, out, started.seal_key, about)
        app.out.done(f"line {started.line} begins seal chain {started.chain}", about)
        app.out.stdout.flush()
    except OSError as error:
        if started is None:
            raise
        raise not_handed_over(place, error) from None
    keep_seal_key(app)
    app.out.next("vaultctl audit verify --seal-key-file FILE")


def _hex(text: str) -> bytes:
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise CliError("invalid", "--checkpoint-key is not 64 hex digits", "init printed it")
    return key


@verb("check")
@click.option("--dir", "directory", metavar="DIR", help=DIRECTORY_HELP)
@click.option("--ask", is_flag=True, help="Ask for the passphrase, to check every seal as well.")
@slot_options
def check(app: App, directory: str | None, ask: bool, **sources: Any) -> None:
    """Check every file of a vault that no daemon has open: its structure and, with a slot's secret, every seal."""
    place = directory if directory is not None else default_directory()
    if ask or any(given is not None for given in sources.values()):
        with slot_secret(out=app.out, **sources) as (kind, secret), working(app.out, "opening every seal"):
            found = _vault().check(place, kind=kind, secret=secret)
    else:
        with working(app.out, "checking every file"):
            found = _vault().check(place)
    _report_check(app, found)


def _report_check(app: App, found: Any) -> None:
    """What `vaultd.vault.offline.check` found, as data; ends with 65 when something is wrong."""
    problems = list(found.problems)
    about = {
        "ok": not problems,
        "seals": found.seals,
        "files": found.files,
        "values": found.values,
        "records": found.records,
        "problems": problems,
        "notes": list(found.notes),
    }
    if app.as_json:
        app.out.json_line(about)
    else:
        opened = "structure alone"
        if found.seals:
            opened = f"{counted(found.values, 'value')} and {counted(found.records, 'audit record')} opened"
        app.out.say(f"{counted(found.files, 'file')} checked, {opened}")
        _lines(app, "problems:", problems)
        _lines(app, "notes:", found.notes)
        if not found.seals and not problems:
            app.out.next("vaultctl check --ask, which opens every seal as well")
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise CliError("integrity", problems[0] + more, "the files named do not verify; restore them from a copy")


COMMANDS = {"check": check}
