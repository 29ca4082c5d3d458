"""Commands below vaultctl: finding them before anything is done for them, and waiting for them."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Final, NoReturn

from vaultclient.cli.failures import CliError, Stopped

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["NOT_EXECUTABLE", "NOT_FOUND", "exit_status", "must_be_found", "run_below", "to_default_signals"]

NOT_EXECUTABLE: Final = 126
NOT_FOUND: Final = 127


def must_be_found(command: str, path: str | None = None) -> None:
    """Refuse a command that is not there or not executable, before a secret is touched for it.

    Args:
        command: a path, or a name to look for along `path`.
        path: directories, as in PATH; the caller's when left out.

    Raises:
        CliError: with status 127 (not found) or 126 (found, and not executable).
    """
    if os.sep in command:
        candidates = [command]
    else:
        folders = os.get_exec_path() if path is None else path.split(os.pathsep)
        candidates = [os.path.join(folder, command) for folder in folders]
    found = [candidate for candidate in candidates if os.path.exists(candidate)]
    if any(os.access(candidate, os.X_OK) and not os.path.isdir(candidate) for candidate in found):
        return
    shown = ascii(command)[1:-1][:120]
    if found:
        hint = f"chmod +x {ascii(found[0])[1:-1][:120]}" if not os.path.isdir(found[0]) else "it is a directory"
        raise CliError("invalid", f"{shown}: cannot be executed", hint, status=NOT_EXECUTABLE)
    raise CliError("invalid", f"{shown}: command not found", "nothing was leased for it", status=NOT_FOUND)


def exec_failure(command: str, error: OSError) -> CliError:
    """The error for an execve that failed although the command was found."""
    shown = ascii(command)[1:-1][:120]
    # A script whose interpreter is missing gives ENOENT too; the script itself is there, so 126 is the truth.
    status = NOT_FOUND if isinstance(error, FileNotFoundError) and os.sep not in command else NOT_EXECUTABLE
    return CliError("invalid", f"{shown}: {(error.strerror or 'cannot be executed').lower()}", status=status)


def exit_status(status: int) -> int:
    """A wait status as a shell reports it: the exit code, or 128 + the signal."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def to_default_signals() -> None:
    """Before exec: undo what Python ignores, and block nothing. What the caller ignored stays ignored (nohup)."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


_PASSED_ON: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def run_below(command: Sequence[str]) -> NoReturn:
    """Run a command as a plain child in the caller's session, and end with its status.

    A terminal's signals reach the child by themselves; those sent to vaultctl alone are passed on.

    Raises:
        Stopped: always, once the child has ended.
        CliError: it could not be executed.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        try:
            to_default_signals()
            os.execvp(command[0], list(command))  # noqa: S606 - no shell is wanted
        except OSError as error:
            os.write(writer, str(error.errno or 0).encode())
        finally:
            os._exit(NOT_EXECUTABLE)
    os.close(writer)
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)  # the child has them from the terminal, and decides
    for number in _PASSED_ON:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda received, _frame: os.kill(child, received))
    failed = os.read(reader, 16)
    os.close(reader)
    _, status = os.waitpid(child, 0)
    if failed:
        raise exec_failure(command[0], OSError(int(failed), os.strerror(int(failed))))
    raise Stopped(exit_status(status))
