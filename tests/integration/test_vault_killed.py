"""R1: a process that changes a vault on the real disk is killed again and again, and nothing acknowledged is lost."""

from __future__ import annotations

import os
import random
import signal
import struct
from typing import TYPE_CHECKING

from tests.support.vault_world import ADMIN, State, create_vault, open_vault, read_state
from vaultd.audit.body import Event
from vaultd.clock import ManualClock
from vaultd.crypto.memory import Key
from vaultd.store import DirectoryStore
from vaultd.vault import entries
from vaultd.vault.commit import Drop

if TYPE_CHECKING:
    from pathlib import Path

    from vaultd.vault.ledger import Ledger

KILLS = 300
_ACK = struct.Struct(">Q")


def _live(path: str, done: int, out: int) -> None:
    """Change the vault until killed; say after each change that it is durable."""
    ledger, _ = open_vault(DirectoryStore(path), ManualClock(), random.Random(done), snapshot_lines=20)
    uid = ledger.find("acme")
    assert uid is not None
    ledger.open_log(uid)
    number = done
    while True:
        number += 1
        log = ledger.opened(uid)
        assert log is not None
        log.stage({"n": number}, b"x" * (number % 700))
        ledger.system_log.stage({"n": number})
        ledger.stage(Event("secret.put", "ok", ADMIN), logs=[log, ledger.system_log], tenant=uid)
        if number % 7 == 0:
            _rotate(ledger, uid)
        ledger.flush()
        os.write(out, _ACK.pack(number))


def _rotate(ledger: Ledger, uid: bytes) -> None:
    """A new key and log for the tenant that keep its last record only."""
    old, entry = ledger.opened(uid), ledger.keyring.entry(uid)
    assert old is not None
    assert entry is not None
    header, ref = old.scan()[0][-1]
    with Key.random() as key:
        entry = entries.with_tenant_key(ledger.vault_id, entry, ledger.root_keys, key)
        log = ledger.new_log(uid, entry.generation, key)
    log.stage(header, old.read_attachment(ref))
    ledger.stage_keyring(
        lambda ring: ring.with_entry(entry),
        Event("rotate.tenant", "ok", ADMIN),
        new_logs=[log],
        drop=[Drop(uid, old.generation)],
    )


def _reopened(path: str) -> tuple[State, list[str]]:
    with DirectoryStore(path) as store:
        ledger, _ = open_vault(store, ManualClock(), random.Random(0), snapshot_lines=20)
        state = read_state(ledger)
        tenant = ledger.find("acme")
        assert tenant is not None
        files = store.list(f"tenants/{tenant.hex()}")
        ledger.close()
    return state, files


def test_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    """After each kill the vault opens by itself and holds every acknowledged change, and the next one wholly or not."""
    path, rng = str(tmp_path / "vault"), random.Random(1)
    with DirectoryStore(path, create=True) as store:
        create_vault(store, ManualClock(), rng)
        ledger, _ = open_vault(store, ManualClock(), rng)
        with Key.random() as key:
            entry, log = ledger.new_entry(b"a" * 16, "acme", key), ledger.new_log(b"a" * 16, 1, key)
        ledger.stage_keyring(lambda ring: ring.with_entry(entry), Event("tenant.create", "ok", ADMIN), new_logs=[log])
        ledger.close()
    done = 0
    for _ in range(KILLS):
        ours, theirs = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.close(ours)
                _live(path, done, theirs)
            finally:
                os._exit(1)
        os.close(theirs)
        acknowledged = done
        for _ in range(rng.randrange(12)):
            raw = os.read(ours, _ACK.size)
            assert raw, "the child ended by itself"
            (acknowledged,) = _ACK.unpack(raw)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        while raw := os.read(ours, _ACK.size):
            (acknowledged,) = _ACK.unpack(raw)
        os.close(ours)
        state, files = _reopened(path)
        found = len(state.system)
        assert acknowledged <= found <= acknowledged + 1
        assert [header["n"] for header, _ in state.system] == list(range(1, found + 1))
        kept = [header["n"] for header, _ in state.tenants["acme"]]
        assert kept == list(range(kept[0], found + 1)) if kept else not found
        for header, attachment in state.tenants["acme"]:
            assert attachment == b"x" * (header["n"] % 700)
        assert len(files) == 1
        done = found
    assert done > KILLS
