"""The real daemon while system calls fail under it, or it is killed in the middle of one: injected by strace.

Each round starts a daemon over a copy of one vault, arms one fault, does one thing, and then holds the directory
against what was acknowledged.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from tests.support.daemon import PASSPHRASE, Daemon
from vaultclient.errors import VaultError
from vaultd.crypto.kdf import CHEAPEST
from vaultd.vault import offline
from vaultd.vault.embedded import Vault

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CALLS", "ERRORS", "OPERATIONS", "Fault", "Hurt", "Outcome", "injected", "round_of", "template"]

CALLS: Final = (
    *("fdatasync", "fsync", "pwrite64", "pwritev2", "renameat", "unlinkat", "mkdirat", "ftruncate"),
    *("openat", "fchmod", "fchmodat", "newfstatat", "pread64"),
)
"""What changes the disk, and what is asked of it on the way."""

ERRORS: Final = ("EIO", "ENOSPC", "EDQUOT", "EROFS")

OLD: Final = b"sk-the-value-before"
NEW: Final = b"sk-the-value-after-it"
TOKEN: Final = {"kind": "passphrase", "bind": "self"}

_CONFIG: Final = "[audit]\nsegment_bytes = 4096\n"
"""So that segments of the journal end while calls fail."""

State = dict[str, dict[str, list[bytes]]]


@dataclass(frozen=True)
class Fault:
    """One system call that goes wrong.

    Args:
        call: its name.
        action: an errno's name, `KILL`, or `SLOW`: it takes 20 ms.
        at: which call of each thread, from 1 at the moment of arming.
        lasting: whether every later one fails as well.
    """

    call: str
    action: str
    at: int
    lasting: bool = False

    @property
    def expression(self) -> str:
        what = {"KILL": "signal=KILL", "SLOW": "delay_exit=20000"}.get(self.action, f"error={self.action}")
        return f"inject={self.call}:{what}:when={self.at}{'+' if self.lasting else ''}"


class injected:  # noqa: N801  it is used as a statement
    """Attach strace to a process, with one fault armed, until the end of the block."""

    def __init__(self, pid: int, fault: Fault) -> None:
        self._pid = pid
        self._fault = fault

    def __enter__(self) -> Self:
        descriptor, self._log = tempfile.mkstemp(prefix="vaultd-strace-")
        os.close(descriptor)
        command = ["strace", "-f", "-o", self._log, "-e", f"trace={self._fault.call}", "-e", self._fault.expression]
        self._strace = subprocess.Popen([*command, "-p", str(self._pid)], stderr=subprocess.PIPE)
        assert self._strace.stderr is not None
        said = self._strace.stderr.readline()
        assert b"attached" in said, said
        return self

    @property
    def hit(self) -> bool:
        """Whether the fault has happened."""
        with open(self._log, "rb") as file:
            text = file.read()
        return b"(INJECTED)" in text or b"killed by SIGKILL" in text

    def __exit__(self, *_: object) -> None:
        # Of a process that was killed strace ends by itself, and asked to let go of it meanwhile it would wait forever.
        if not (self._fault.action == "KILL" and self.hit):
            self._strace.send_signal(signal.SIGTERM)
        try:
            self._strace.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self._strace.kill()
            self._strace.communicate()
        os.remove(self._log)


class Hurt(Daemon):
    """A daemon over a copy of the vault in `template`, with a client that is an admin."""

    def __init__(self, template: str, *, unseal: bool = True) -> None:
        self.folder = tempfile.mkdtemp(prefix="vaultd-faults-")
        self._longest = 1
        self._prefix = lambda folder: ()
        self.dir = os.path.join(self.folder, "vault")
        self.socket = os.path.join(self.folder, "run", "vaultd.sock")
        os.mkdir(os.path.dirname(self.socket), 0o755)
        self.config = os.path.join(self.folder, "vaultd.toml")
        with open(self.config, "w", encoding="utf-8") as file:
            file.write(_CONFIG)
        os.chmod(self.config, 0o644)
        shutil.copytree(template, self.dir)
        self.start()
        self.admin = self.client(timeout=20)
        if unseal:
            self.unseal()


def template(folder: str) -> str:
    """Make the vault that every round begins with; its directory."""
    with Daemon(config=_CONFIG) as daemon:
        for name in ("acme", "globex"):
            daemon.tenant(name, openai__prod=OLD, openai__spare=OLD)
        daemon.service("agent")
        for name in ("acme", "globex"):
            daemon.grant(name, "agent", "openai/*")
        daemon.admin.call("slot.add", {"kind": "passphrase", "label": "second"}, b"another passphrase")
        daemon.admin.put("acme", "openai/prod", OLD)
        assert daemon.stop() == 0
        return shutil.copytree(daemon.dir, os.path.join(folder, "template"))


def read(directory: str, passphrase: bytes = PASSPHRASE) -> State:
    """Every value of every version of every secret of every tenant, read by opening the vault."""
    found: State = {}
    with Vault.open(directory, passphrase=passphrase, minimum=CHEAPEST) as vault:
        for tenant in vault.tenants():
            opened = vault.tenant(tenant)
            found[tenant] = {
                facts.name: [bytes(opened.get(facts.name, number)) for number in range(1, facts.current + 1)]
                for facts in opened.secrets()
            }
        found["-slots"] = {str(slot.id): [] for slot in vault._barrier.slots()}
    return found


def checked(directory: str) -> offline.CheckReport:
    """The vault's every seal and the journal's every line; asserts that they hold."""
    report = offline.check(directory, secret=bytearray(PASSPHRASE), minimum=CHEAPEST)
    assert report.ok, report.problems
    verdict = offline.verify(directory)
    assert verdict.ok, verdict
    return report


class Operation(NamedTuple):
    """One thing that is done while a call fails.

    Attributes:
        do: does it, through a client; raises what the client raises.
        effect: what it changes.
        sealed: it is done on a sealed vault.
        ends: the daemon ends by it.
    """

    do: Callable[[Hurt], Any]
    effect: Callable[[State], object] = lambda state: None
    sealed: bool = False
    ends: bool = False


def _lease(hurt: Hurt) -> None:
    answer = hurt.admin.call("lease.acquire", {"tenant": "acme", "secret": "openai/prod"})
    assert bytes(answer.tail) == OLD


def _prune(hurt: Hurt) -> None:
    told = hurt.admin.call("audit.prune", {}, bytes(hurt.admin.call("audit.checkpoint").tail)).keys
    assert told["lines"]


def _terminate(hurt: Hurt) -> None:
    hurt.process.send_signal(signal.SIGTERM)
    hurt.process.wait(30)


OPERATIONS: Final[dict[str, Operation]] = {
    "put": Operation(
        lambda hurt: hurt.admin.put("acme", "openai/prod", NEW),
        lambda state: state["acme"]["openai/prod"].append(NEW),
    ),
    "put-large": Operation(
        lambda hurt: hurt.admin.put("acme", "openai/large", NEW * 3000),
        lambda state: state["acme"].update({"openai/large": [NEW * 3000]}),
    ),
    "lease": Operation(_lease),
    "tenant.create": Operation(
        lambda hurt: hurt.admin.call("tenant.create", {"tenant": "initech"}),
        lambda state: state.update({"initech": {}}),
    ),
    "tenant.delete": Operation(
        lambda hurt: hurt.admin.call("tenant.delete", {"tenant": "globex", "confirm": "globex"}),
        lambda state: state.pop("globex"),
    ),
    "tenant.delete-rotate": Operation(
        lambda hurt: hurt.admin.call(
            "tenant.delete", {"tenant": "globex", "confirm": "globex", "with_audit": True, "rotate_root": True}
        ),
        lambda state: state.pop("globex"),
    ),
    "rotate.root": Operation(lambda hurt: hurt.admin.call("rotate.root")),
    "rotate.tenant": Operation(lambda hurt: hurt.admin.call("rotate.tenant", {"tenant": "acme"})),
    "seal": Operation(lambda hurt: hurt.admin.call("seal")),
    "unseal": Operation(lambda hurt: hurt.unseal(), sealed=True),
    "slot.add": Operation(
        lambda hurt: hurt.admin.call("slot.add", {"kind": "passphrase", "label": "third"}, b"a third passphrase"),
        lambda state: state["-slots"].update({"3": []}),
    ),
    "slot.remove": Operation(
        lambda hurt: hurt.admin.call("slot.remove", {"slot": 2}), lambda state: state["-slots"].pop("2")
    ),
    "audit.prune": Operation(_prune),
    "sigterm": Operation(_terminate, ends=True),
}


class Outcome(NamedTuple):
    """How a round went.

    Attributes:
        hit: whether the fault happened at all.
        answer: `done`, a code, or `gone` when the daemon ended.
        after: the daemon's state afterwards, or `gone`.
    """

    hit: bool
    answer: str
    after: str


def _answer(action: Callable[[], Any]) -> str:
    try:
        action()
    except VaultError as error:
        return error.code
    return "done"


def _with(state: State, effect: Callable[[State], object]) -> State:
    changed = {name: {key: list(values) for key, values in inner.items()} for name, inner in state.items()}
    effect(changed)
    return changed


def round_of(made: str, name: str, fault: Fault, before: State) -> Outcome:
    """One round: asserts that nothing acknowledged is missing, nothing is there by halves, and the vault opens clean.

    Args:
        made: the template's directory.
        name: of the operation.
        before: what `read` says of the template.
    """
    operation = OPERATIONS[name]
    with Hurt(made, unseal=not operation.sealed) as hurt:
        with injected(hurt.process.pid, fault) as strace:
            answer = _answer(lambda: operation.do(hurt))
            after, probe = "gone", "gone"
            if hurt.process.poll() is None and not operation.ends:
                with suppress(VaultError):
                    after = str(hurt.admin.status()["state"])
                probe = _answer(lambda: hurt.admin.put("acme", "probe", NEW))
            hit = strace.hit
        if hit and fault.action == "KILL":
            hurt.process.wait(20)
        if hurt.process.poll() is None:
            code = hurt.stop(signal.SIGTERM if fault.at % 2 else signal.SIGKILL)
            assert fault.action == "KILL" or code in (0, -signal.SIGKILL, 74), (code, hurt.log.decode())
        if after == "halted":  # if not by the operation, then by what came after it, and nothing is acknowledged now
            assert probe == "halted", probe
        assert b"Traceback" not in hurt.log, hurt.log.decode()
        assert b"a bug" not in hurt.log, hurt.log.decode()
        checked(hurt.dir)
        wanted = [_with(before, operation.effect)] + ([before] if answer != "done" else [])
        if probe == "done":
            wanted = [_with(state, lambda state: state["acme"].update({"probe": [NEW]})) for state in wanted]
        elif probe != "gone" or after != "gone":
            wanted += [_with(state, lambda state: state["acme"].update({"probe": [NEW]})) for state in wanted]
        found = read(hurt.dir)
        assert found in wanted, (answer, probe, {key: sorted(value) for key, value in found.items()})
        report = checked(hurt.dir)
        assert not report.notes, report.notes
    return Outcome(hit, answer, after)
