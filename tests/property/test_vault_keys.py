"""I8 and I11: which keys open which copies of which files, over the whole history of a vault.

The thief of these tests keeps a copy of every file after every change. What opens what is tried with the formats' own
functions, not through the vault.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.barrier_world import ADMIN, BarrierWorld, passphrase
from vaultd.crypto.hierarchy import RootKeys, TenantKeys
from vaultd.crypto.kdf import CHEAPEST
from vaultd.crypto.slots import open_slot
from vaultd.errors import IntegrityError, VaultdError
from vaultd.store import MemoryStore
from vaultd.vault import entries
from vaultd.vault.keyring import Keyring, KeyringFile
from vaultd.vault.log import MAGIC, RecordCipher

if TYPE_CHECKING:
    from vaultd.crypto.memory import Key


@dataclass
class Theft:
    """All files at one moment, and the root key of that moment."""

    files: dict[str, bytes]
    keyring: Keyring
    root: Key

    def logs(self, uid: bytes) -> list[tuple[int, bytes]]:
        """The tenant's logs in this copy, with their generations."""
        prefix = f"tenants/{uid.hex()}/log."
        return [(int(path[len(prefix) :]), data) for path, data in self.files.items() if path.startswith(prefix)]


def steal(world: BarrierWorld) -> Theft:
    assert isinstance(world.store, MemoryStore)
    files = world.store.disk.files()
    keyring = KeyringFile.decode(files["keyring"]).keyring
    with passphrase() as given_secret:
        root = open_slot(keyring.slots[0], given_secret, minimum=CHEAPEST)
    return Theft(files, keyring, root)


def first_record(log: bytes) -> bytes:
    return log[len(MAGIC) : len(MAGIC) + int.from_bytes(log[len(MAGIC) : len(MAGIC) + 4], "big")]


def opens(root: Key, keyring: Keyring, uid: bytes, generation: int, log: bytes) -> bool:
    """Whether a root key and a keyring together open a copy of a tenant's log: its first record is enough."""
    entry = keyring.entry(uid)
    if entry is None or entry.deleted:
        return False
    try:
        with (
            RootKeys(root) as keys,
            entries.tenant_key(keyring.vault_id, entry, keys) as key,
            TenantKeys(key) as tenant,
        ):
            RecordCipher(tenant.record, keyring.vault_id, uid, generation).open(1, bytes(16), first_record(log))
    except (IntegrityError, VaultdError):
        return False
    return True


ACTIONS = st.lists(st.sampled_from(["put", "rotate tenant", "rotate root", "other put"]), max_size=8)


@settings(deadline=None, max_examples=40)
@given(ACTIONS, st.integers(0, 1 << 30))
def test_what_opens_what(actions: list[str], seed: int) -> None:
    """I8: a stolen pair of root key and keyring opens a log exactly if both are of the log's own generation.

    So nothing written after a tenant's rotation opens with what was stolen before it, and a root key alone opens only
    keyrings of its own time.
    """
    world = BarrierWorld(seed=seed)
    uid = world.tenant("acme")
    other = world.tenant("beta")
    world.put("acme", "k", b"v")
    world.put("beta", "k", b"w")
    thefts = [steal(world)]
    for action in actions:
        match action:
            case "put":
                world.put("acme", "k", random.Random(seed).randbytes(20))
            case "other put":
                world.put("beta", "k", b"x")
            case "rotate tenant":
                world.rotate_tenant("acme")
            case _:
                world.rotate_root()
        thefts.append(steal(world))
    for keys in thefts:
        for roots in thefts:
            for copies in thefts:
                for generation, log in copies.logs(uid):
                    wanted = keys.root == roots.root and keys.keyring.generation(uid) == generation
                    assert opens(roots.root, keys.keyring, uid, generation, log) is wanted
                for generation, log in copies.logs(other):
                    assert not opens(roots.root, keys.keyring, uid, generation, log), "another tenant's log"


@settings(deadline=None, max_examples=40)
@given(ACTIONS, ACTIONS, st.booleans(), st.integers(0, 1 << 30))
def test_shredding(before: list[str], after: list[str], with_audit: bool, seed: int) -> None:
    """I11: once a tenant is deleted and the root rotated, nothing in the directory opens any copy of its files.

    Before the rotation the present root key with an old keyring's blocks still does; an old keyring together with a
    slot's secret always does. Both are what the receipt says.
    """
    world = BarrierWorld(seed=seed)
    uid = world.tenant("acme")
    world.tenant("beta")
    world.put("acme", "k", b"doomed")
    world.put("beta", "k", b"v")

    def act(actions: list[str]) -> None:
        for action in actions:
            match action:
                case "put" if "acme" in {facts.name for facts in world.barrier.tenants()}:
                    world.put("acme", "k", b"more")
                case "rotate tenant" if "acme" in {facts.name for facts in world.barrier.tenants()}:
                    world.rotate_tenant("acme")
                case "rotate root":
                    world.rotate_root()
                case _:
                    world.put("beta", "k", b"x")

    act(before)
    old = steal(world)
    ((generation, log),) = old.logs(uid)
    receipt = world.barrier.delete_tenant("acme", actor=ADMIN, with_audit=with_audit).shredding
    world.flush()
    deleted = steal(world)
    assert deleted.logs(uid) == []
    assert not opens(deleted.root, deleted.keyring, uid, generation, log), "the keyring in force"
    assert opens(deleted.root, old.keyring, uid, generation, log), "old blocks, the present root"
    assert any("until the root is rotated" in text for text in receipt.remains)
    world.rotate_root()
    act(after)
    final = steal(world)
    for keyring in (final.keyring, deleted.keyring, old.keyring):
        assert not opens(final.root, keyring, uid, generation, log), "nothing that the directory gives opens a copy"
    # Every key that the present directory and a slot's secret give, tried one by one on the copy.
    with RootKeys(final.root) as keys:
        for entry in final.keyring:
            if not entry.deleted:
                with entries.tenant_key(final.keyring.vault_id, entry, keys) as key, TenantKeys(key) as tenant:
                    cipher = RecordCipher(tenant.record, final.keyring.vault_id, uid, generation)
                    try:
                        cipher.open(1, bytes(16), first_record(log))
                    except IntegrityError:
                        continue
                    raise AssertionError("a key of somebody else opens the copy")
    assert opens(old.root, old.keyring, uid, generation, log), "an older keyring with a slot's secret: said, not hidden"
    assert any("copy of the keyring" in text for text in receipt.after_root_rotation().remains)
