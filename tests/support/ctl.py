"""`vaultctl` under another uid: as a program where that uid can execute the interpreter, else its code in a fork."""

from __future__ import annotations

import importlib
import io
import os
import pkgutil
import subprocess
import sys
from typing import NamedTuple

import vaultclient.cli
from tests.support.raw import GROUP
from tests.support.serving import Child

__all__ = ["Ended", "ctl_as"]


class Ended(NamedTuple):
    """One call of vaultctl: its exit status and what it wrote."""

    status: int
    out: str
    err: str


def ctl_as(uid: int, socket: str, *arguments: str, data: bytes = b"") -> Ended:
    """What `vaultctl ARGUMENTS` does for `uid`, in a session of its own."""
    # Where the interpreter lies below somebody's home, a fork has to bring all that it may need.
    for module in pkgutil.iter_modules(vaultclient.cli.__path__, "vaultclient.cli."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    environment = {"PATH": os.environ["PATH"], "VAULTD_SOCKET": socket, "NO_COLOR": "1", "HOME": "/nonexistent"}

    def there() -> Ended:
        os.setsid()
        os.environ.clear()
        os.environ.update(environment)
        if os.access(os.path.realpath(sys.executable), os.X_OK) and os.access(sys.executable, os.X_OK):
            command = [sys.executable, "-m", "vaultclient.cli", *arguments]
            done = subprocess.run(command, input=data, capture_output=True, timeout=60, check=False)
            return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())
        return _in_process(arguments, data)

    return Ended(*Child(there, uid=uid, groups=(GROUP,)).result())


def _in_process(arguments: tuple[str, ...], data: bytes) -> Ended:
    files = [os.memfd_create(name) for name in ("in", "out", "err")]
    os.write(files[0], data)
    os.lseek(files[0], 0, os.SEEK_SET)
    for number, file in enumerate(files):
        os.dup2(file, number)
    sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False))
    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False))
    sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False))
    status = vaultclient.cli.run(list(arguments))
    sys.stdout.flush()
    sys.stderr.flush()
    out, err = (os.pread(file, 1 << 20, 0).decode() for file in files[1:])
    return Ended(status, out, err)
