"""The daemon under a service manager: credentials at start, a socket passed, notifications, and how it is ended."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.daemon import PASSPHRASE, Daemon
from tests.support.notified import Manager
from vaultclient import Client
from vaultd.protocol.connection import Connection, Role

if TYPE_CHECKING:
    from collections.abc import Iterator

CREDENTIAL = bytes(range(64))
CONFIG = 'unseal_credential = "vaultd-unseal"\n'


# -- unsealing at start


@pytest.fixture
def credentials() -> Iterator[Path]:
    """A credentials directory as systemd makes one."""
    with tempfile.TemporaryDirectory(prefix="vaultd-test-") as folder:
        (Path(folder) / "vaultd-unseal").write_bytes(CREDENTIAL)
        yield Path(folder)


@contextlib.contextmanager
def restarted(credentials: Path) -> Iterator[Daemon]:
    """A vault with a slot for the credential, its daemon stopped: `start` starts it."""
    environment = {"CREDENTIALS_DIRECTORY": str(credentials)}
    with Daemon(config=CONFIG, environment=environment) as daemon:
        daemon.admin.call("slot.add", {"kind": "credential", "label": "host"}, CREDENTIAL)
        daemon.tenant("acme", k=b"1")
        assert daemon.stop() == 0
        yield daemon


def settled(daemon: Daemon, *, within: float = 10) -> dict[str, Any]:
    """`status`, once the try at start has ended."""
    until = time.monotonic() + within
    with daemon.client() as client:
        while True:
            keys = client.call("status").keys
            if keys["state"] == "unsealed" or any("not unsealed" in line for line in keys["warnings"]):
                return keys
            assert time.monotonic() < until, keys
            time.sleep(0.01)


def renewed(daemon: Daemon) -> None:
    """Another client in the place of the one that the daemon before served."""
    daemon.admin.close()
    daemon.admin = daemon.client()


def records(daemon: Daemon) -> list[dict[str, Any]]:
    """The system's trail."""
    return [json.loads(line)["body"] for line in daemon.admin.audit_lines("audit.show", {})]


def test_a_credential_unseals_at_start(credentials: Path) -> None:
    """The vault serves without anybody; the record says that it was the system, and with which slot."""
    with restarted(credentials) as daemon:
        daemon.start()
        assert settled(daemon)["state"] == "unsealed"
        renewed(daemon)
        answer = daemon.admin.call("login", {"kind": "passphrase", "bind": "self"}, PASSPHRASE)
        assert answer.keys["slot"] == 1
        assert bytes(daemon.admin.get("acme", "k").tail) == b"1"
        opened = [body for body in records(daemon) if body["kind"] == "vault.unseal"][-1]
        assert (opened["actor"], opened["public"]) == ({"kind": "system", "slot": 2}, {"slot": 2})
        assert daemon.stop() == 0
        assert b"unsealed with slot 2" in daemon.log


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.unlink(), "no such file"),
        (lambda path: path.write_bytes(b"x" * 31), "not 32 to 4096 bytes"),
        (lambda path: path.write_bytes(b"x" * 4097), "not 32 to 4096 bytes"),
        (lambda path: path.write_bytes(b"x" * 64), "no key slot opens"),
        (lambda path: (path.unlink(), path.symlink_to("/etc/passwd")), "too many levels"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "not a regular file"),
        (lambda path: shutil.rmtree(path.parent), "no such file"),
    ],
)
def test_without_the_credential_it_stays_sealed(credentials: Path, spoil: Any, words: str) -> None:
    """It listens all the same, and says why in the log, in `status` and on record; a passphrase then opens it."""
    with restarted(credentials) as daemon:
        spoil(credentials / "vaultd-unseal")
        daemon.start()
        keys = settled(daemon)
        assert keys["state"] == "sealed"
        assert any("not unsealed at start" in line and words in line for line in keys["warnings"]), keys["warnings"]
        renewed(daemon)
        daemon.unseal()
        assert not any("not unsealed" in line for line in daemon.admin.call("status").keys["warnings"])
        tries = [body for body in records(daemon) if (body["kind"], body["outcome"]) == ("unseal", "failed")]
        assert [body["actor"] for body in tries] == [{"kind": "system"}] * 2  # before there was a slot for it, and now
        assert daemon.stop() == 0
        assert words.encode() in daemon.log
        credentials.mkdir(exist_ok=True)


def test_without_a_vault_there_is_nothing_to_unseal(credentials: Path) -> None:
    """`uninitialised` is no failure of the credential."""
    with restarted(credentials) as daemon:
        shutil.rmtree(daemon.dir)
        os.mkdir(daemon.dir, 0o700)
        daemon.start()
        with daemon.client() as client:
            keys = client.call("status").keys
        assert (keys["state"], [line for line in keys["warnings"] if "unsealed" in line]) == ("uninitialised", [])


@pytest.mark.skipif(shutil.which("systemd-creds") is None, reason="needs systemd-creds")
def test_what_systemd_creds_made_opens(credentials: Path) -> None:
    """Encrypted and decrypted by systemd's own tool, the credential opens the slot that was made from its file."""
    sealed = credentials / "sealed"
    plain = credentials / "vaultd-unseal"
    made = subprocess.run(
        ["systemd-creds", "encrypt", "--with-key=null", "--name=vaultd-unseal", str(plain), str(sealed)],
        capture_output=True, check=False,
    )  # fmt: skip
    if made.returncode:
        made = subprocess.run(
            ["systemd-creds", "encrypt", "--with-key=host", "--name=vaultd-unseal", str(plain), str(sealed)],
            capture_output=True, check=False,
        )  # fmt: skip
    if made.returncode:
        pytest.skip(f"systemd-creds cannot encrypt here: {made.stderr.decode()[:200]}")
    with restarted(credentials) as daemon:
        plain.unlink()
        line = ["systemd-creds", "decrypt", "--name=vaultd-unseal", str(sealed), str(plain)]
        done = subprocess.run(line, capture_output=True, check=False)
        if done.returncode:
            line.insert(2, "--allow-null")
            done = subprocess.run(line, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        assert plain.read_bytes() == CREDENTIAL
        daemon.start()
        assert settled(daemon)["state"] == "unsealed"


def test_the_command_line_takes_a_credential(daemon: Daemon, credentials: Path) -> None:
    """By name from the directory that systemd names, or from a file, wherever a slot's secret is wanted."""
    environment = {**os.environ, "VAULTD_SOCKET": daemon.socket, "CREDENTIALS_DIRECTORY": str(credentials)}
    (credentials / "vaultd-unseal").chmod(0o600)
    file = str(credentials / "vaultd-unseal")

    def ctl(*words: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        line = [sys.executable, "-m", "vaultclient.cli", *words]
        return subprocess.run(line, env=environment, input=data, capture_output=True, timeout=60, check=False)

    assert ctl("login", "--passphrase-file", "-", data=PASSPHRASE).returncode == 0
    added = ctl("--json", "slot", "add", "--credential", "vaultd-unseal")
    assert json.loads(added.stdout)["kind"] == "credential", added.stderr
    assert ctl("slot", "add", "--credential", "absent").returncode == 74
    assert ctl("login", "--credential", "../vaultd-unseal").returncode == 2
    assert ctl("logout").returncode == 0
    proved = ctl("--json", "login", "--credential", "vaultd-unseal")
    assert json.loads(proved.stdout)["slot"] == 2, proved.stderr
    assert ctl("seal").returncode == 0
    opened = ctl("--json", "unseal", "--credential-file", file)
    assert json.loads(opened.stdout)["slot"] == 2, opened.stderr
    assert ctl("unseal", "--key-file", file).returncode == 77
    shown = ctl("audit", "show").stdout.decode()
    for kind, words in (
        ("slot.add", "slot 2"),
        ("login", "by slot 1"),
        ("login", "by slot 2"),
        ("vault.unseal", "by slot 2"),
    ):
        assert re.search(rf"{kind} +ok +admin uid \d+  {words}", " ".join(shown.split("\n    "))), shown
    assert daemon.stop() == 0
    checked = ctl("--json", "check", "--dir", daemon.dir, "--credential", "vaultd-unseal")
    assert json.loads(checked.stdout)["seals"] is True, checked.stderr
    with tempfile.TemporaryDirectory(prefix="vaultd-test-") as folder:
        made = ctl("init", "--dir", os.path.join(folder, "vault"), "--credential", "vaultd-unseal")
        assert (made.returncode, b"add a passphrase as well" in made.stderr) == (0, True), made.stderr
        assert ctl("check", "--dir", os.path.join(folder, "vault"), "--credential-file", file).returncode == 0


# -- a socket passed


@contextlib.contextmanager
def activated(mode: int) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """`systemd-socket-activate` with a socket of that mode, over a daemon that starts at the first connection."""
    with tempfile.TemporaryDirectory(prefix="vaultd-test-") as folder:
        path, config = os.path.join(folder, "vaultd.sock"), os.path.join(folder, "vaultd.toml")
        Path(config).write_text("")
        os.chmod(config, 0o600)
        daemon = [sys.executable, "-m", "vaultd", "--dir", os.path.join(folder, "vault"), "--config", config]
        line = ["systemd-socket-activate", "--fdname=vaultd.socket", "--listen", path, *daemon, "--socket", path]
        with subprocess.Popen(line, stderr=subprocess.PIPE, bufsize=0) as running:
            assert running.stderr is not None
            try:
                assert running.stderr.readline().startswith(b"Listening on")
                os.chmod(path, mode)
                yield path, running
            finally:
                running.kill()


NEEDS_ACTIVATE = pytest.mark.skipif(
    shutil.which("systemd-socket-activate") is None, reason="needs systemd-socket-activate"
)


@NEEDS_ACTIVATE
def test_the_managers_socket_is_taken_over() -> None:
    """Whoever connects before the daemon runs is answered by it; its end leaves the path to the manager."""
    with activated(0o660) as (path, running):
        with Client(path, environ={}) as client:
            assert client.call("status").keys["state"] == "uninitialised"
        assert not os.path.exists(path + ".lock")
        running.send_signal(signal.SIGTERM)
        assert running.wait(20) == 0
        assert os.path.exists(path)


@NEEDS_ACTIVATE
def test_the_managers_socket_must_be_tight() -> None:
    """One that everybody may connect to is refused before anything is answered."""
    with activated(0o666) as (path, running):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)
            assert running.wait(20) == 78
        assert running.stderr is not None
        assert b"everybody may connect" in running.stderr.read()


# -- notifications


def test_the_manager_is_told() -> None:
    """Ready when it listens though sealed; then how it stands, reloading and ready again, stopping."""
    with Manager() as manager, Daemon(unseal=False, environment=manager.environment) as daemon:
        ready = manager.wait(lambda said: "READY" in said)
        assert ready == {"READY": "1", "STATUS": "sealed"}
        daemon.unseal()
        manager.wait(lambda said: said.get("STATUS") == "unsealed: 0 runs, 0 leases")
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1_000
        daemon.process.send_signal(signal.SIGHUP)
        reloading = manager.wait(lambda said: "RELOADING" in said)
        assert before <= int(reloading["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1_000
        assert manager.wait(lambda said: True)["READY"] == "1"
        assert daemon.stop() == 0
        assert manager.wait(lambda said: "STOPPING" in said)["STATUS"] == "stopping"
        assert not any("WATCHDOG" in said for said in manager.heard)


def test_signs_of_life_stop_when_the_loop_does() -> None:
    """Twice per interval while it runs; none from a process that is stopped, and again when it goes on."""
    with Manager(abstract=True) as manager:
        environment = {**manager.environment, "WATCHDOG_USEC": "300000"}
        with Daemon(environment=environment) as daemon:
            for _ in range(3):
                manager.wait(lambda said: said == {"WATCHDOG": "1"}, 2)
            daemon.process.send_signal(signal.SIGSTOP)
            before = len(manager.heard)
            with contextlib.suppress(TimeoutError):
                while len(manager.heard) < before + 8:  # what was sent before it stopped, at most
                    manager.wait(lambda said: True, 0.5)
            assert len(manager.heard) < before + 8
            daemon.process.send_signal(signal.SIGCONT)
            manager.wait(lambda said: "WATCHDOG" in said, 2)


# -- ending


def test_a_second_sigterm_ends_at_once() -> None:
    """Where the first waits for somebody who does not read, the second does not; what was acknowledged is there."""
    with Daemon(config="[limits]\ndrain_seconds = 600\nwrite_seconds = 3600\n") as daemon:
        daemon.tenant("acme", k=b"kept")
        daemon.admin.put("acme", "large", bytes(48_000))
        wire = Connection(Role.CLIENT)
        with socket.socket(socket.AF_UNIX) as idle:
            idle.connect(daemon.socket)
            for _ in range(30):
                idle.sendall(wire.request("secret.get", {"tenant": "acme", "secret": "large"})[1])
            idle.recv(1, socket.MSG_PEEK)  # the answers are on their way, and more of them than a socket holds
            daemon.process.send_signal(signal.SIGTERM)
            with pytest.raises(subprocess.TimeoutExpired):
                daemon.process.wait(1)
            daemon.process.send_signal(signal.SIGTERM)
            daemon.process.communicate(timeout=5)
            assert daemon.process.returncode == -signal.SIGTERM
        daemon.start()
        renewed(daemon)
        daemon.unseal()
        assert bytes(daemon.admin.get("acme", "k").tail) == b"kept"


# -- changed behind our back


def reported(daemon: Daemon) -> list[str]:
    """What `status` says of changed files."""
    return [line for line in daemon.admin.call("status").keys["warnings"] if "changed by somebody else" in line]


def eventually(daemon: Daemon, words: str) -> None:
    until = time.monotonic() + 10
    while not any(words in line for line in reported(daemon)):
        assert time.monotonic() < until, reported(daemon)
        time.sleep(0.02)


def test_changed_files_are_reported_and_our_own_are_not(daemon: Daemon) -> None:
    """Whatever the daemon itself does is no news; a file that another process writes is: said, logged, on record."""
    for name in ("acme", "globex"):
        daemon.tenant(name, k=b"1", l=b"2")
        daemon.admin.call("rotate.tenant", {"tenant": name})
    daemon.admin.call("rotate.root")
    daemon.admin.call("slot.add", {"kind": "key-file"}, bytes(32))
    daemon.admin.call("tenant.delete", {"tenant": "globex", "confirm": "globex", "with_audit": True})
    daemon.admin.call("seal")
    daemon.unseal()
    sign = os.path.join(daemon.dir, "sign")
    Path(sign).write_text("")  # what came before it in the directory has been looked at when this is reported
    eventually(daemon, ": sign")
    assert reported(daemon) == ["files of the vault were changed by somebody else: sign"]
    log = next(Path(daemon.dir, "tenants").glob("*/log.*"))
    with log.open("ab") as file:
        file.write(b"x")
    eventually(daemon, log.name)
    for name in ("heads.0", "heads.1"):
        Path(daemon.dir, name).unlink(missing_ok=True)
    eventually(daemon, "heads.")
    os.mkdir(os.path.join(daemon.dir, "tenants", "new"))
    eventually(daemon, "tenants/new")
    changes = [body for body in records(daemon) if body["kind"] == "vault.changed"]
    assert changes[0]["actor"] == {"kind": "system"}
    assert changes[0]["public"] == {"count": 1, "files": ["sign"]}
    assert daemon.stop() == 0
    assert b"changed by somebody else" in daemon.log


def test_the_watch_can_be_left_off() -> None:
    """With `watch.vault = false` nothing is looked at."""
    with Daemon(config="[watch]\nvault = false\n") as daemon:
        threads = os.listdir(f"/proc/{daemon.process.pid}/fd")
        targets = [os.readlink(f"/proc/{daemon.process.pid}/fd/{number}") for number in threads]
        assert sum("inotify" in target for target in targets) == 1  # the configuration's
