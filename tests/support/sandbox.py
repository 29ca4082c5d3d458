"""A unit's seccomp filter, put around any command without a service manager.

    python tests/support/sandbox.py UNIT -- COMMAND...

reads the unit's SystemCallFilter=, RestrictAddressFamilies=, MemoryDenyWriteExecute= and RestrictNamespaces= as
systemd.exec(5) describes them, loads what they come to by libseccomp, and becomes COMMAND. Where the unit would have a
call fail with EPERM, the process is killed: a call that is refused must not go unnoticed where somebody copes with it.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Final

__all__ = ["LIBRARY", "allowed", "settings"]

LIBRARY: Final = "libseccomp.so.2"

_ALLOW: Final = 0x7FFF0000
_KILL_PROCESS: Final = 0x80000000
_EQUAL, _NOT_EQUAL, _MASKED = 4, 1, 7
_AF_UNIX: Final = 1
_PROT_EXEC: Final = 4
_PROT_WRITE_EXEC: Final = 6
_CLONE_NEW: Final = (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)


class _Comparison(ctypes.Structure):
    """scmp_arg_cmp of seccomp_rule_add(3)."""

    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


def settings(unit: Path) -> list[tuple[str, str]]:
    """The unit's settings in order."""
    lines = unit.read_text().splitlines()
    return [
        (name, value)
        for name, equals, value in (line.partition("=") for line in lines if line[:1] not in "#[")
        if equals
    ]


@cache
def _sets() -> dict[str, list[str]]:
    """The sets of calls that this machine's systemd knows, by name."""
    line = ["systemd-analyze", "--no-pager", "syscall-filter"]
    text = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    found: dict[str, list[str]] = {}
    name = ""
    for word in (line.strip() for line in text.splitlines()):
        if word.startswith("@") and word not in found and not name:
            name = word
            found[name] = []
        elif not word:
            name = ""
        elif not word.startswith("#"):
            found[name].append(word)
    return found


def _calls(word: str) -> set[str]:
    if not word.startswith("@"):
        return {word}
    return {call for inner in _sets()[word] for call in _calls(inner)}


def allowed(unit: Path) -> set[str]:
    """The names of the calls that the unit's lines let through; the first of them must be a list of what is allowed."""
    lines = [value for name, value in settings(unit) if name == "SystemCallFilter"]
    assert lines, "the unit has no filter"
    assert not lines[0].startswith("~")
    found = _calls("@default")  # without asking: what every program needs
    for line in lines:
        named = {call for word in line.removeprefix("~").split() for call in _calls(word)}
        found = found - named if line.startswith("~") else found | named
    return found


def _load(unit: Path) -> None:
    library = ctypes.CDLL(LIBRARY, use_errno=True)
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    library.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
    library.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(_Comparison)
    ]  # fmt: skip
    library.seccomp_load.argtypes = [ctypes.c_void_p]
    given = dict(settings(unit))
    assert (given["RestrictAddressFamilies"], given["MemoryDenyWriteExecute"]) == ("AF_UNIX", "yes")
    assert given["RestrictNamespaces"] == given["NoNewPrivileges"] == "yes"

    # Filters add up, and the strictest answer counts: one that lets named calls through, one that refuses by arguments.
    calls = library.seccomp_init(_KILL_PROCESS)
    for name in sorted(allowed(unit)):
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:  # else no call of this machine's
            assert library.seccomp_rule_add_array(calls, _ALLOW, number, 0, None) == 0, name
    arguments = library.seccomp_init(_ALLOW)

    def refuse(name: str, argument: int, op: int, a: int, b: int = 0) -> None:
        number = library.seccomp_syscall_resolve_name(name.encode())
        one = (_Comparison * 1)(_Comparison(argument, op, a, b))
        assert library.seccomp_rule_add_array(arguments, _KILL_PROCESS, number, 1, one) == 0, name

    refuse("socket", 0, _NOT_EQUAL, _AF_UNIX)
    refuse("mmap", 2, _MASKED, _PROT_WRITE_EXEC, _PROT_WRITE_EXEC)
    for name in ("mprotect", "pkey_mprotect"):
        refuse(name, 2, _MASKED, _PROT_EXEC, _PROT_EXEC)
    for flag in _CLONE_NEW:
        for name in ("unshare", "clone"):
            refuse(name, 0, _MASKED, flag, flag)
    for loaded in (arguments, calls):  # in this order: the second lets no further one be loaded
        assert library.seccomp_load(loaded) == 0, os.strerror(ctypes.get_errno())


def _main() -> None:
    unit, dashes, *command = sys.argv[1:]
    assert dashes == "--"
    _load(Path(unit))
    os.execvp(command[0], command)  # noqa: S606


if __name__ == "__main__":
    _main()
