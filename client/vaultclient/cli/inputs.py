"""Secrets on their way in: from a file, from standard input, or from a prompt that shows nothing. Never from argv.

Bytes are read straight into buffers that the caller wipes. A value is taken exactly as it is, a trailing newline
included; a passphrase loses one trailing newline, so that `echo` and an editor write the same passphrase.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import stat
import sys
from typing import TYPE_CHECKING, Final

from vaultclient.cli.failures import CliError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vaultclient.cli.output import Output

__all__ = ["MAX_VALUE", "prompt", "read_file", "slot_secret", "stdin", "value", "warn_if_open", "wipe"]

MAX_VALUE: Final = 1 << 20
"""The longest value that is typed, in bytes."""

_MAX_PASSPHRASE: Final = 4096
_KEY_FILE: Final = (32, 4096)
"""Sizes of a key file in bytes: at least a key's worth, at most what nobody uses by accident."""


def wipe(*buffers: bytearray) -> None:
    """Overwrite buffers with zeros, in place."""
    for buffer in buffers:
        buffer[:] = bytes(len(buffer))


def _read_all(descriptor: int, limit: int, what: str) -> bytearray:
    """Everything up to end of file, at most `limit` bytes; the scratch buffer does not outlive the call."""
    scratch = bytearray(limit + 1)
    filled = 0
    try:
        while filled <= limit:
            count = os.readv(descriptor, [memoryview(scratch)[filled:]])
            if count == 0:
                return scratch[:filled]
            filled += count
    finally:
        wipe(scratch)
    raise CliError("invalid", f"{what} is over {limit} bytes", f"at most {limit} bytes are taken")


def read_file(path: str, limit: int, what: str) -> bytearray:
    """The whole of a file, or of standard input for `-`.

    Raises:
        CliError: `invalid`: over `limit` bytes. `io`: not readable.
    """
    if path == "-":
        return _read_all(stdin(), limit, what)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        raise CliError("io", f"{what}: {path}: {(error.strerror or 'cannot be read').lower()}") from None
    try:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise CliError("io", f"{what}: {path}: is a directory")
        return _read_all(descriptor, limit, what)
    finally:
        os.close(descriptor)


def stdin() -> int:
    """Standard input's descriptor. Raises `CliError` (`io`) when it is closed."""
    try:
        return sys.stdin.fileno()
    except (AttributeError, OSError, ValueError):
        raise CliError("io", "standard input is closed") from None


def value(question: str) -> bytearray:
    """A secret's value, typed at a prompt. Raises `CliError` (`invalid`) when it is empty, or over 1 MiB."""
    data = prompt(question, MAX_VALUE, instead="--file")
    if not data:
        raise CliError("invalid", "the value is empty", "a value has at least 1 byte")
    return data


def _strip_newline(data: bytearray) -> None:
    """Take one trailing line ending away; shrinking by a byte or two never moves the buffer."""
    if data.endswith(b"\n"):
        del data[-2 if data.endswith(b"\r\n") else -1 :]


@contextlib.contextmanager
def slot_secret(
    passphrase_file: str | None,
    key_file: str | None,
    out: Output,
    *,
    credential: str | None = None,
    credential_file: str | None = None,
    question: str = "passphrase",
    confirm: bool = False,
) -> Iterator[tuple[str, bytearray]]:
    """A key slot's secret as (kind, bytes), wiped afterwards; a prompt when nothing is named.

    Args:
        passphrase_file: file with a passphrase, one trailing newline not counted; `-` is standard input.
        key_file: file with 32 to 4096 bytes, all of which count.
        out: where a warning about a file's mode goes.
        credential: name of a systemd credential.
        credential_file: file with one's content.
        question: what the prompt asks for.
        confirm: ask twice: the secret is about to be set.

    Raises:
        CliError: `invalid`: several named, empty, or of a wrong size. `io`: not readable.
    """
    sources = {
        "--passphrase-file": passphrase_file,
        "--key-file": key_file,
        "--credential": credential,
        "--credential-file": credential_file,
    }
    named = [option for option, given in sources.items() if given is not None]
    if len(named) > 1:
        raise CliError("invalid", f"{' and '.join(named)} exclude each other", "a slot has one secret")
    if credential is not None:
        credential_file = _credential_path(credential)
    for path in (passphrase_file, key_file, credential_file):
        if path is not None and path != "-":
            warn_if_open(path, out)
    if key_file is not None:
        kind, secret = "key-file", _key_bytes(key_file, "the key file")
    elif credential_file is not None:
        kind, secret = "credential", _key_bytes(credential_file, "the credential")
    elif passphrase_file is not None:
        kind, secret = "passphrase", read_file(passphrase_file, _MAX_PASSPHRASE, "the passphrase")
        _strip_newline(secret)
    else:
        kind, secret = "passphrase", prompt(question, _MAX_PASSPHRASE, instead="--passphrase-file")
        if confirm:
            again = prompt(f"{question}, again", _MAX_PASSPHRASE, instead="--passphrase-file")
            same = again == secret
            wipe(again)
            if not same:
                wipe(secret)
                raise CliError("invalid", "the two are not the same", "nothing was changed; try again")
    try:
        if not secret:
            raise CliError("invalid", "the passphrase is empty")
        yield kind, secret
    finally:
        wipe(secret)


def _key_bytes(path: str, what: str) -> bytearray:
    secret = read_file(path, _KEY_FILE[1], what)
    if len(secret) < _KEY_FILE[0]:
        wipe(secret)
        raise CliError("invalid", f"{what} is under {_KEY_FILE[0]} bytes", "head -c 32 /dev/urandom makes one")
    return secret


def _credential_path(name: str) -> str:
    """Where systemd put the credential of that name for this process."""
    if not name or "/" in name or name in (".", "..") or "\0" in name:
        raise CliError("invalid", f"not a credential's name: {ascii(name)[:60]}", "the ID of LoadCredentialEncrypted=")
    directory = os.environ.get("CREDENTIALS_DIRECTORY", "")
    if not os.path.isabs(directory):
        raise CliError(
            "invalid", "this process was given no credentials by systemd", "--credential-file F reads one from a file"
        )
    return os.path.join(directory, name)


def warn_if_open(path: str, out: Output) -> None:
    """Say so when a file that holds a secret can be read by others."""
    try:
        found = os.stat(path)
    except OSError:
        return  # reading it says what is wrong
    if stat.S_ISREG(found.st_mode) and found.st_mode & 0o077:
        out.warn(f"{path} can be read by others than its owner: chmod 600 it")


def _terminal() -> int:
    """A descriptor of the person's terminal: the session's own, or else standard input where that is one.

    A session begun by `su -c` has no terminal of its own, though a person sits there.
    """
    try:
        return os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        if not os.isatty(0) or fcntl.fcntl(0, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDWR:
            raise
        return os.dup(0)


def prompt(question: str, limit: int, *, instead: str) -> bytearray:
    """One line from the terminal, not shown.

    The terminal's line mode is off meanwhile: it would cut a line at 4,095 bytes without a word.

    Raises:
        CliError: `invalid`: no terminal, several lines were pasted, end of input, or over `limit` bytes.
    """
    import termios

    try:
        terminal = _terminal()
    except OSError:
        raise CliError(
            "invalid",
            f"there is no terminal to ask for the {question}",
            f"{instead} F reads it from a file; - is standard input",
        ) from None
    try:
        before = termios.tcgetattr(terminal)
        hidden = termios.tcgetattr(terminal)
        hidden[3] &= ~(termios.ECHO | termios.ICANON)
        try:
            termios.tcsetattr(terminal, termios.TCSAFLUSH, hidden)
            os.write(terminal, f"{question}: ".encode())  # not before: who answers at once must not see it echoed
            return _hidden_line(terminal, limit)
        finally:
            # Flushing drops the rest of a paste: it must not end up as commands in the shell.
            termios.tcsetattr(terminal, termios.TCSAFLUSH, before)
            os.write(terminal, b"\n")
    finally:
        os.close(terminal)


def _hidden_line(terminal: int, limit: int) -> bytearray:
    typed = bytearray(limit + 1)  # filled in place: a buffer that grows leaves copies behind
    used = 0
    key = bytearray(1)
    try:
        while True:
            if os.readv(terminal, [key]) == 0 or (key[0] == 4 and used == 0):
                raise CliError("invalid", "nothing was typed")
            if key[0] in b"\r\n":
                if select.select([terminal], [], [], 0.05)[0]:
                    raise CliError(
                        "invalid", "more than one line was pasted", "put it into a file, and name that with --file"
                    )
                return typed[:used]
            if key[0] in b"\x7f\x08":  # one character back: its UTF-8 continuation bytes, then its first
                while used and typed[used - 1] & 0xC0 == 0x80:
                    used -= 1
                used = max(0, used - 1)
            elif key[0] == 0x15:  # ^U
                used = 0
            elif used == limit:
                raise CliError("invalid", f"over {limit} bytes")
            else:
                typed[used] = key[0]
                used += 1
    finally:
        wipe(typed, key)
