"""The forward seal under a real daemon: seconds that pass, checking beside it, kills, and the verbs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.daemon import PASSPHRASE, Daemon
from tests.support.seal_world import shown
from vaultd.audit.sealslots import SLOT_SIZE, choose
from vaultd.crypto.kdf import CHEAPEST
from vaultd.vault import offline
from vaultd.vault.embedded import Vault

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vaultd.audit.verify import Report

PATIENCE = 20.0


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with Daemon() as daemon:
        yield daemon


def verify(daemon: Daemon) -> Report:
    return offline.verify(daemon.dir, seal_key=bytearray(daemon.seal_key))


def epoch(daemon: Daemon) -> int:
    """The present epoch, as the state on the disk has it."""
    while True:
        with open(os.path.join(daemon.dir, "seal"), "rb") as file:
            raw = file.read()
        with choose([bytearray(raw[:SLOT_SIZE]), bytearray(raw[SLOT_SIZE:])]).chain as chain:
            return chain.key.epoch


def eventually(condition: Any) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.05)


def test_seconds_pass_by_themselves(daemon: Daemon) -> None:
    """Nobody asks anything, and what was recorded last is sealed, epochs go on, and no line is written for them."""
    daemon.tenant("acme")
    eventually(lambda: (found := verify(daemon).seal) is not None and found.unsealed == 0)
    lines = verify(daemon).verdict.lines
    then = epoch(daemon)
    eventually(lambda: epoch(daemon) >= then + 3)
    report = verify(daemon)
    assert report.ok
    assert report.verdict.lines == lines
    assert daemon.admin.call("status").keys["warnings"] == []


def test_sealed_and_stopped(daemon: Daemon) -> None:
    """A sealed vault's epochs go on; a stop in order leaves no line without a tag; a start goes on where it was."""
    daemon.admin.call("seal")
    then = epoch(daemon)
    eventually(lambda: epoch(daemon) > then + 1)
    daemon.stop()
    report = verify(daemon)
    assert report.seal is not None
    assert (report.ok, report.seal.unsealed, report.seal.held) == (True, 0, True)
    then = epoch(daemon)
    daemon.start()
    daemon.unseal()
    eventually(lambda: epoch(daemon) > then + 1)
    assert verify(daemon).ok


def test_checking_beside_a_busy_daemon(daemon: Daemon) -> None:
    """Walk after walk while records, tags and states are being written: each verifies."""
    daemon.tenant("acme", key=b"v")
    over = threading.Event()

    def busy() -> None:
        with daemon.client() as client:
            while not over.is_set():
                client.call("status")
                daemon.admin.call("secret.get", {"tenant": "acme", "secret": "key"})

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        end = time.monotonic() + 4
        walks = 0
        while time.monotonic() < end:
            report = verify(daemon)
            assert report.ok, report.verdict.reason
            walks += 1
    finally:
        over.set()
        thread.join()
    assert walks > 2


def test_killed_and_opened_again(daemon: Daemon) -> None:
    """kill -9 at any moment: what is found verifies before and after the next start."""
    for number in range(4):
        daemon.tenant(f"t{number}")
        daemon.stop(signal.SIGKILL)
        assert verify(daemon).ok
        daemon.start()
        daemon.unseal()
        assert verify(daemon).ok


def test_the_verbs(daemon: Daemon, tmp_path: Path) -> None:
    """`init`, `verify` and `seal-key`, for people in 80 columns and for programs; the key is in no argument or log."""
    place = str(tmp_path / "v")
    given = {"data": b"a passphrase\n"}
    made = daemon.ctl("init", "--dir", place, "--passphrase-file", "-", **given)
    assert made.returncode == 0, made.stderr
    key = next(line for line in made.stdout.decode().splitlines() if line.startswith("seal1:"))
    assert all(len(line) <= 80 for line in made.stdout.decode().splitlines())
    (tmp_path / "key").write_text(key + "\n")
    (tmp_path / "key").chmod(0o600)
    checked = daemon.ctl("audit", "verify", "--dir", place, "--seal-key-file", str(tmp_path / "key"))
    assert checked.returncode == 0, checked.stderr
    assert b"sealed up to line 2" in checked.stdout
    assert key.encode()[6:70] not in checked.stdout + checked.stderr
    assert all(len(line) <= 80 for line in checked.stdout.decode().splitlines())
    # From standard input, for programs.
    done = daemon.ctl("--json", "audit", "verify", "--dir", place, "--seal-key-file", "-", data=key.encode())
    found = json.loads(done.stdout)
    assert (found["seal"]["chain"], found["seal"]["sealed"], found["seal"]["held"]) == (1, 2, True)
    # Into a file that only its owner reads, and not shown then.
    done = daemon.ctl("--json", "audit", "seal-key", "--dir", place, "--out", str(tmp_path / "second"))
    about = json.loads(done.stdout)
    assert (about["chain"], about["seal_key_file"]) == (2, str(tmp_path / "second"))
    assert "seal_key" not in about
    assert os.stat(tmp_path / "second").st_mode & 0o777 == 0o600
    second = (tmp_path / "second").read_text()
    for name, status in (("second", 0), ("key", 0)):
        done = daemon.ctl("audit", "verify", "--dir", place, "--seal-key-file", str(tmp_path / name))
        assert done.returncode == status, done.stderr
    assert second.startswith("seal2:")
    assert key[6:70] not in second


def test_what_the_verbs_refuse(daemon: Daemon, tmp_path: Path) -> None:
    """A wrong, cut or missing key, a vault that is open, a state that is gone: each has its code; nothing changes."""
    other = shown(offline.init(str(tmp_path / "other"), secret=bytearray(b"pw"), profile=CHEAPEST).seal_key)
    for data, words in ((other, b"seal key"), (other[:-3], b"not a seal key"), (b"", b"not a seal key")):
        done = daemon.ctl("audit", "verify", "--dir", daemon.dir, "--seal-key-file", "-", data=data)
        assert done.returncode == 65
        assert words in done.stderr
    assert b"hint: nothing verifies under this seal key" in b" ".join(
        daemon.ctl("audit", "verify", "--dir", daemon.dir, "--seal-key-file", "-", data=other).stderr.split()
    )
    missing = daemon.ctl("audit", "verify", "--dir", daemon.dir, "--seal-key-file", str(tmp_path / "nowhere"))
    assert missing.returncode == 74
    assert daemon.ctl("audit", "verify", "--dir", daemon.dir, "--without-state").returncode == 2
    opened = daemon.ctl("audit", "seal-key", "--dir", daemon.dir, "--out", str(tmp_path / "k"))
    assert opened.returncode == 69
    assert not (tmp_path / "k").exists()
    unwritable = daemon.ctl("audit", "seal-key", "--dir", str(tmp_path / "other"), "--out", str(tmp_path / "no" / "k"))
    assert unwritable.returncode == 74
    assert offline.verify(str(tmp_path / "other"), seal_key=bytearray(other)).ok
    daemon.stop()
    os.rename(os.path.join(daemon.dir, "seal"), os.path.join(daemon.folder, "seal"))
    gone = daemon.ctl("audit", "verify", "--dir", daemon.dir, "--seal-key-file", "-", data=daemon.seal_key)
    assert gone.returncode == 65
    assert b"--without-state" in gone.stderr
    (tmp_path / "there").write_text("an earlier key")
    for verb in (["init", "--passphrase-file", "-", "--seal-key-out"], ["audit", "seal-key", "--out"]):
        kept = daemon.ctl(*verb, str(tmp_path / "there"), "--dir", str(tmp_path / "more"), data=b"pw")
        assert kept.returncode == 73
        assert (tmp_path / "there").read_text() == "an earlier key"
        assert not (tmp_path / "more").exists()
    copy = daemon.ctl(
        "audit", "verify", "--dir", daemon.dir, "--seal-key-file", "-", "--without-state", data=daemon.seal_key
    )
    assert copy.returncode == 0
    assert b"a journal cut at its end" in copy.stdout
    os.rename(os.path.join(daemon.folder, "seal"), os.path.join(daemon.dir, "seal"))


def test_the_embedded_vault_is_sealed_too(tmp_path: Path) -> None:
    """Each call that is a second behind the newest tag seals itself, and closing seals the rest."""
    made = Vault.create(tmp_path / "v", passphrase="pw", profile=CHEAPEST)
    key = bytearray(made.seal_key.view())
    with Vault.open(tmp_path / "v", passphrase="pw", minimum=CHEAPEST) as vault:
        acme = vault.create_tenant("acme")
        for number in range(20):
            acme.put("k", b"%d" % number)
        report = offline.verify(str(tmp_path / "v"), seal_key=bytearray(key))
        assert report.ok
    report = offline.verify(str(tmp_path / "v"), seal_key=key)
    assert report.ok
    assert report.seal is not None
    assert (report.seal.unsealed, report.seal.held) == (0, True)
    assert PASSPHRASE not in key


@pytest.mark.parametrize("options", [[], ["--json"], ["--quiet"]])
def test_a_key_that_is_lost_on_its_way_is_said_to_be(daemon: Daemon, tmp_path: Path, options: list[str]) -> None:
    """Standard output on a full disk: the vault stands, its key went nowhere, and the hint makes another."""
    place = str(tmp_path / "vault")
    command = [sys.executable, "-m", "vaultclient.cli", *options]
    for verb in (["init", "--passphrase-file", "-"], ["audit", "seal-key"]):
        with open("/dev/full", "wb") as full:
            line = [*command, *verb, "--dir", place]
            lost = subprocess.run(line, input=b"pw", stdout=full, stderr=subprocess.PIPE, check=False, timeout=60)
        assert lost.returncode == 74
        assert b"lost on its way out" in lost.stderr
        assert f"vaultctl audit seal-key --dir {place}".encode() in lost.stderr
    made = daemon.ctl("audit", "seal-key", "--dir", place, "--out", str(tmp_path / "key"))
    assert made.returncode == 0
    checked = daemon.ctl("audit", "verify", "--dir", place, "--seal-key-file", str(tmp_path / "key"))
    assert checked.returncode == 0
