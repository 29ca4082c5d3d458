"""Hardening shown by trying: what a process of the same uid, and of another, can do to one that is hardened or not."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Self

import pytest

from tests.support.serving import Child
from vaultd.daemon.kernel import libc

if TYPE_CHECKING:
    from collections.abc import Callable

VICTIM_UID = 54_321 if os.geteuid() == 0 else None
"""Root could do anything to anybody, so the victim is another uid where we can make it one."""

OTHER_UID = 54_322

SECRET = b"sk-live-never-to-be-seen"

_PROGRAM = """
import ctypes, os, resource, sys
from vaultd.daemon.hardening import harden
from vaultd.daemon.kernel import Features
uid = int(sys.argv[1])
if uid >= 0:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
if sys.argv[2] == "harden":
    features = Features()
    harden(features)
    assert set(features.table().values()) == {"used"}, features.table()
else:
    assert ctypes.CDLL(None).prctl(4, 1, 0, 0, 0) == 0  # what exec gave it, and setuid took away
value = bytearray(sys.stdin.buffer.readline().strip())
address = ctypes.addressof(ctypes.c_char.from_buffer(value))
print(address, resource.getrlimit(resource.RLIMIT_CORE), sorted(os.environ), oct(os.umask(0)), flush=True)
sys.stdin.buffer.read()
"""


class Victim:
    """A real program, started by exec, with a secret in its memory and one in its environment."""

    def __init__(self, how: str) -> None:
        uid = -1 if VICTIM_UID is None else VICTIM_UID
        environment = {**os.environ, "VAULTD_RUN": "a token", "LD_DEBUG_OUTPUT": "/tmp/x", "LANG": "C"}  # noqa: S108
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(uid), how],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(SECRET + b"\n")
        self.process.stdin.flush()
        address, _, self.rest = self.process.stdout.readline().decode().partition(" ")
        self.pid = self.process.pid
        self.address = int(address)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()


def read_memory(victim: Victim) -> bytes:
    """/proc/PID/mem at the secret's address."""
    descriptor = os.open(f"/proc/{victim.pid}/mem", os.O_RDONLY)
    return os.pread(descriptor, len(SECRET), victim.address)


def process_vm_readv(victim: Victim) -> bytes:
    """The system call that reads another process's memory."""

    class Vector(ctypes.Structure):
        _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))

    buffer = ctypes.create_string_buffer(len(SECRET))
    here = Vector(ctypes.addressof(buffer), len(SECRET))
    there = Vector(victim.address, len(SECRET))
    count = libc.process_vm_readv(victim.pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0)
    if count < 0:
        raise OSError(ctypes.get_errno(), "process_vm_readv")
    return buffer.raw


def read_environment(victim: Victim) -> bytes:
    """/proc/PID/environ."""
    with open(f"/proc/{victim.pid}/environ", "rb") as file:
        return file.read()


def read_maps(victim: Victim) -> bytes:
    """/proc/PID/maps: where to look."""
    with open(f"/proc/{victim.pid}/maps", "rb") as file:
        return file.read()


def list_descriptors(victim: Victim) -> bytes:
    """/proc/PID/fd: its open files, which could be opened again."""
    return repr(os.listdir(f"/proc/{victim.pid}/fd")).encode()


def attach(victim: Victim) -> bytes:
    """PTRACE_SEIZE: control over the process."""
    if libc.ptrace(0x4206, victim.pid, ctypes.c_void_p(0), ctypes.c_void_p(0)) != 0:
        raise OSError(ctypes.get_errno(), "ptrace")
    return b"attached"


def steal_descriptor(victim: Victim) -> bytes:
    """pidfd_getfd(2) of its standard input: a daemon's would be its sockets."""
    stolen = libc.syscall(438, os.pidfd_open(victim.pid), 0, 0)
    if stolen < 0:
        raise OSError(ctypes.get_errno(), "pidfd_getfd")
    return b"stolen"


ATTACKS = [read_memory, process_vm_readv, read_environment, read_maps, list_descriptors, attach, steal_descriptor]


def _attempt(attack: Callable[[Victim], bytes], victim: Victim, uid: int | None) -> Any:
    """What the attack got, or the errno that stopped it."""

    def run() -> bytes | int:
        try:
            return attack(victim)
        except OSError as error:
            return error.errno or 0

    return Child(run, uid=uid).result()


@pytest.fixture(scope="module")
def open_victim() -> Any:
    with Victim("open") as victim:
        yield victim


@pytest.fixture(scope="module")
def hardened() -> Any:
    with Victim("harden") as victim:
        yield victim


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_same_uid_is_kept_out(attack: Callable[[Victim], bytes], open_victim: Victim, hardened: Victim) -> None:
    """What succeeds against an ordinary process of the same uid fails against a hardened one."""
    got = _attempt(attack, open_victim, VICTIM_UID)
    assert isinstance(got, bytes), f"the attack itself does not work here: {got}"
    if attack in (read_memory, process_vm_readv):
        assert got == SECRET
    assert _attempt(attack, hardened, VICTIM_UID) in (errno.EACCES, errno.EPERM)


@pytest.mark.needs_root
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_other_uid_is_kept_out(attack: Callable[[Victim], bytes], hardened: Victim) -> None:
    """Another uid gets nothing either."""
    assert _attempt(attack, hardened, OTHER_UID) in (errno.EACCES, errno.EPERM)


def test_limits_environment_and_umask(hardened: Victim, open_victim: Victim) -> None:
    """No core file, only the variables that the daemon reads, files for the owner alone."""
    assert hardened.rest.startswith("(0, 0) ")
    assert "LANG" in hardened.rest
    assert hardened.rest.strip().endswith(" 0o77")
    for name in ("VAULTD_RUN", "LD_DEBUG_OUTPUT", "PATH"):
        assert name in open_victim.rest
        assert name not in hardened.rest.replace("RUNTIME", "")
