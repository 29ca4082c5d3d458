"""Checking a vault offline: what is wrong is named, what is right is said, and nothing is touched."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest

from tests.support.barrier_world import ADMIN, PASSPHRASE, BarrierWorld, passphrase
from vaultd.clock import ManualClock
from vaultd.crypto.kdf import CHEAPEST
from vaultd.crypto.slots import SlotKind
from vaultd.errors import IntegrityError, Invalid, Locked, Uninitialised, WrongSecret
from vaultd.names import secret_name
from vaultd.store import DirectoryStore, MemoryStore
from vaultd.vault import offline
from vaultd.vault.check import CheckReport, check

if TYPE_CHECKING:
    from pathlib import Path

KEY = secret_name("openai/prod")


def checked(store: MemoryStore | DirectoryStore, text: bytes | None = PASSPHRASE) -> CheckReport:
    clock = ManualClock()
    if text is None:
        return check(store, clock, minimum=CHEAPEST)
    with passphrase(text) as given:
        return check(store, clock, secret=given, kind=SlotKind.PASSPHRASE, minimum=CHEAPEST)


@pytest.fixture
def store() -> MemoryStore:
    """A closed vault with some history."""
    world = BarrierWorld()
    world.barrier.add_service({"name": "agent", "uid": 1000}, actor=ADMIN)
    for name in ("acme", "beta", "gone"):
        world.tenant(name)
        world.put(name, KEY, name.encode() * 50)
        world.put(name, KEY, b"second")
        world.get(name, KEY)
    world.barrier.add_grant("acme", {"id": "grant_1", "service": "agent", "secrets": ["**"]}, actor=ADMIN)
    world.rotate_tenant("acme")
    world.rotate_root()
    world.barrier.delete_tenant("gone", actor=ADMIN)
    world.barrier.close()
    assert isinstance(world.store, MemoryStore)
    return world.store


def test_a_whole_vault_checks_out(store: MemoryStore) -> None:
    """Without a secret every file is looked at; with one every value and every record is opened as well."""
    structure = checked(store, None)
    assert (structure.ok, structure.seals, structure.files, structure.notes) == (True, False, 9, [])
    seals = checked(store)
    assert (seals.ok, seals.seals, seals.values, seals.notes) == (True, True, 4, [])
    lines = store.disk.peek("audit/000001.jsonl").splitlines()
    assert seals.records == sum(b'"sub":' in line for line in lines) < len(lines)


@pytest.mark.parametrize("secret", [None, PASSPHRASE], ids=["structure", "seals"])
def test_checking_changes_nothing(store: MemoryStore, secret: bytes | None) -> None:
    """Not a byte of any file changes, also where opening would repair something."""
    journal = store.disk.peek("audit/000001.jsonl")
    store.disk.poke("audit/000001.jsonl", journal + b'{"v":1,"seq')
    before = store.disk.files()
    checked(store, secret)
    assert store.disk.files() == before


def test_a_torn_journal_end_is_an_interrupted_flush(store: MemoryStore) -> None:
    """With a secret a half line behind the anchor is what a crash leaves; without, it is named as it stands."""
    store.disk.poke("audit/000001.jsonl", store.disk.peek("audit/000001.jsonl") + b'{"v":1,"seq')
    assert not checked(store, None).ok


def test_every_damaged_file_is_named(store: MemoryStore) -> None:
    """A changed byte in any file, and a cut file, are problems that say where; one torn slot of two is a note."""
    for path, data in store.disk.files().items():
        for at in {0, len(data) // 2, len(data) - 1}:
            damaged = bytearray(data)
            damaged[at] ^= 0x40
            store.disk.poke(path, bytes(damaged))
            report = checked(store)
            said = " ".join(report.notes if path in ("state", "seal") else report.problems)
            where = {
                "audit/000001.jsonl": "audit journal",
                "system/log.1": "system",
                "heads.0": "heads",
                "heads.1": "heads",
            }
            assert where.get(path, path) in said or (path.startswith("heads") and report.ok), (path, at, said)
        store.disk.poke(path, data[:-1])
        assert not checked(store).ok or path.startswith("heads"), path
        store.disk.poke(path, data)
    # Of the two heads files only the one in force counts.
    damaged_heads = 0
    for path in ("heads.0", "heads.1"):
        data = store.disk.peek(path)
        store.disk.poke(path, bytes(len(data)))
        damaged_heads += not checked(store).ok
        store.disk.poke(path, data)
    assert damaged_heads == 1
    assert checked(store).ok


def test_an_old_file_is_found(store: MemoryStore) -> None:
    """One tenant's log put back from an older copy is named; so is a file that no vault has."""
    world = BarrierWorld(store, seed=3)
    uid = world.barrier.uid("beta")
    old = store.disk.peek(f"tenants/{uid.hex()}/log.1")
    world.put("beta", KEY, b"third")
    world.barrier.close()
    store.disk.poke(f"tenants/{uid.hex()}/log.1", old)
    report = checked(store)
    assert [problem for problem in report.problems if uid.hex() in problem]
    store.disk.put("unexpected.txt", b"hello")
    assert any("unexpected.txt" in problem for problem in checked(store, None).problems)


def test_what_a_crash_left_is_a_note(store: MemoryStore) -> None:
    """Files that no keyring names are noted, not taken for damage."""
    store.disk.put("system/log.9", b"left over")
    report = checked(store)
    assert report.ok
    assert report.notes == ["system/log.9: nothing names this file"]


def test_a_wrong_secret_is_no_damage(store: MemoryStore) -> None:
    """It is said as such, and the structure's problems come before it."""
    with pytest.raises(WrongSecret):
        checked(store, b"wrong")
    store.disk.put("unexpected.txt", b"hello")
    report = checked(store, b"wrong")
    assert report.notes == ["the seals were not checked: the structure has to be repaired first"]


def test_offline_init_check_verify(tmp_path: Path) -> None:
    """The three helpers behind vaultctl work on a real directory, and say what they found."""
    path = str(tmp_path / "vault")
    secret = bytearray(b"pass words")
    made = offline.init(path, secret=secret, label="first", admin_uids=[7, 7, 8], profile=CHEAPEST)
    assert secret == b"pass words"
    assert (len(made.vault_id), len(made.checkpoint_public), made.slot_id) == (16, 32, 1)
    report = offline.check(path, secret=secret, minimum=CHEAPEST)
    assert (report.ok, report.seals, report.files, report.records) == (True, True, 6, 1)
    verdict = offline.verify(path)
    assert verdict.ok
    assert verdict.vault_id == made.vault_id
    with DirectoryStore(path), pytest.raises(Locked):
        offline.check(path)


def test_offline_verify_with_a_checkpoint(tmp_path: Path) -> None:
    """A checkpoint kept elsewhere verifies with the key that init printed; another key, or rubbish, is refused."""
    path = tmp_path / "vault"
    made = offline.init(str(path), secret=bytearray(b"pass words"), profile=CHEAPEST)
    with DirectoryStore(path) as store:
        world = BarrierWorld(store, secret=b"pass words")
        text = world.barrier.checkpoint().encode()
        world.barrier.close()
    for key in (None, made.checkpoint_public):
        assert offline.verify(str(path), checkpoint=text, checkpoint_key=key).ok
    for checkpoint, key in ((text, os.urandom(32)), (b"\xff", None), (b"hello", None)):
        with pytest.raises(IntegrityError):
            offline.verify(str(path), checkpoint=checkpoint, checkpoint_key=key)
    journal = path / "audit" / "000001.jsonl"
    journal.write_bytes(re.sub(rb'"seq":1,', b'"seq":2,', journal.read_bytes(), count=1))
    assert not offline.verify(str(path)).ok


def test_offline_refuses_bad_arguments(tmp_path: Path) -> None:
    """An unknown kind, impossible admin uids, an absent vault."""
    with pytest.raises(Invalid):
        offline.init(str(tmp_path / "v"), secret=bytearray(b"x"), kind="retina", profile=CHEAPEST)
    for uids in ([-1], [2**32], list(range(65))):
        with pytest.raises(Invalid):
            offline.init(str(tmp_path / "v"), secret=bytearray(b"x"), admin_uids=uids, profile=CHEAPEST)
    for call in (offline.check, offline.verify):
        with pytest.raises(Uninitialised):
            call(str(tmp_path / "absent"))
