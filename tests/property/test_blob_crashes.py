"""I7 for blobs: after a crash or an error of the disk a version has every byte, or is not there, file and all."""

from __future__ import annotations

import errno
import hashlib
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.barrier_world import ADMIN
from tests.support.blob_world import MIB, BlobWorld, content
from vaultd.crypto.memory import SecretBytes
from vaultd.errors import Conflict, Halted, NotFound, Sealed, StoreError
from vaultd.names import secret_name, tenant_name
from vaultd.store import Fault, MemoryStore, PowerCut
from vaultd.vault.blob_place import BlobPlace
from vaultd.vault.rotation import finish

Picture = dict[str, Any]

SIZES = (1, MIB + 1, MIB + (1 << 18), MIB + 300_000)


def picture(world: BlobWorld) -> Picture:
    """Every version's state and the hash of its value, each chunk of each blob verified."""
    barrier, found = world.barrier, {}
    for facts in barrier.tenants():
        if facts.uid in barrier.system.sealed:
            found[facts.name] = "sealed"
            continue
        opened = barrier.tenant(facts.uid)
        versions: Picture = {}
        for secret in opened.state.secrets.values():
            for number, version in secret.versions.items():
                value = hashlib.sha256()
                if version.blob is not None and version.ref is not None:
                    wrapped = opened.log.read_attachment(version.ref)
                    place = BlobPlace(world.store, barrier.ledger.vault_id, facts.uid, version.blob.file)
                    with opened.blob_keys.unwrap(secret.id, number, wrapped) as key:
                        file, opener = place.open(key, version.blob.size)
                    layout = opener.layout
                    for index in range(layout.chunks):
                        sealed = bytearray(layout.plain(index) + layout.algorithm.tag)
                        plain = bytearray(layout.chunk)
                        assert file.read_into(layout.offset(index), sealed) == len(sealed)
                        value.update(plain[: opener.open(index, sealed, plain)])
                elif version.ref is not None:
                    with opened.envelope.open(
                        secret.id, number, opened.log.read_attachment(version.ref)
                    ) as plain_value:
                        value.update(plain_value.view())
                versions[f"{secret.name} {number}"] = (secret.id, version.phase, value.hexdigest())
        found[facts.name] = versions
    return found


class Run:
    """A vault under changes, and the pictures of it."""

    def __init__(self, seed: int) -> None:
        self.world = BlobWorld(seed=seed)
        self.rng = random.Random(seed)
        for name in ("acme", "beta"):
            self.world.tenant(name)
            self.world.stream(content(MIB + 10, seed), tenant=name)
        self.pictures = [picture(self.world)]
        self.acknowledged = 0

    @property
    def store(self) -> MemoryStore:
        assert isinstance(self.world.store, MemoryStore)
        return self.world.store

    def change(self, which: int) -> None:
        barrier, rng = self.world.barrier, self.rng
        tenant = tenant_name(rng.choice(["acme", "beta"]))
        name = secret_name(rng.choice([self.world.KEY, "other"]))
        try:
            match which:
                case 0 | 1 | 2:
                    with barrier.put_stream(tenant, name, actor=ADMIN, grace=0) as writer:
                        writer.write(content(rng.choice(SIZES), rng.randrange(1 << 30)))
                        writer.finish()
                case 3:
                    with barrier.put_stream(tenant, name, actor=ADMIN) as writer:
                        writer.write(content(MIB + 5, 3))
                        writer.seal()
                    return  # given up when it was whole: nothing has changed
                case 4:
                    barrier.rollback(tenant, name, 1, actor=ADMIN)
                case 5:
                    barrier.destroy(tenant, name, 1, actor=ADMIN)
                case 6:
                    barrier.delete(tenant, name, actor=ADMIN)
                case 7:
                    finish(barrier.rotate_tenant(tenant, actor=ADMIN))
                case 8:
                    barrier.delete_tenant(tenant, actor=ADMIN)
                case 9:
                    barrier.seal_tenant(tenant, actor=ADMIN)
                case _:
                    barrier.unseal_tenant(tenant, actor=ADMIN)
        except (Conflict, NotFound, Sealed):
            return
        self.pictures.append(picture(self.world))

    def flush(self) -> None:
        self.world.flush()
        self.acknowledged = len(self.pictures) - 1

    def holds(self, store: MemoryStore) -> None:
        """Open what was found, hold it against the pictures, and hold that no file is there that nothing names."""
        world = BlobWorld(store, seed=1, clock=self.world.clock)
        assert picture(world) in self.pictures[self.acknowledged :], "neither an acknowledged state nor a later one"
        world.flush()
        for facts in world.barrier.tenants():
            if facts.uid not in world.barrier.system.sealed:
                secrets = world.barrier.tenant(facts.uid).state.secrets.values()
                named = {file.hex() for secret in secrets for file in secret.blobs()}
                assert {path.rpartition("/")[2] for path in world.blobs(facts.name)} == named
                assert world.unfinished(facts.name) == []


CHANGES = st.lists(st.tuples(st.integers(0, 10), st.booleans()), min_size=1, max_size=6)


@settings(deadline=None, max_examples=60)
@given(CHANGES, st.integers(0, 1 << 30), st.integers(1, 90))
def test_power_cut_anywhere(changes: list[tuple[int, bool]], seed: int, at: int) -> None:
    """Power is cut at any step: every version that is named has all of its bytes, and every file is named."""
    run = Run(seed)
    run.store.arm(Fault(at))
    try:
        for which, flush in changes:
            run.change(which)
            if flush:
                run.flush()
        run.flush()
    except PowerCut:
        pass
    run.holds(run.store.crash(random.Random(seed)))


@settings(deadline=None, max_examples=40)
@given(
    CHANGES,
    st.integers(0, 1 << 30),
    st.integers(1, 60),
    st.sampled_from([errno.EIO, errno.ENOSPC, errno.EROFS]),
    st.booleans(),
)
def test_an_error_anywhere(changes: list[tuple[int, bool]], seed: int, at: int, error: int, repeat: bool) -> None:
    """Any step fails, once or for good: nothing half is acknowledged, and what is reopened is a state."""
    run = Run(seed)
    run.store.arm(Fault(at, error, repeat=repeat))
    for which, flush in changes:
        try:
            run.change(which)
            if flush:
                run.flush()
        except (StoreError, Halted):
            pass
    run.store.disk.arm(None)
    run.holds(run.store.crash(random.Random(seed)))


def test_a_crash_at_every_step_of_a_put() -> None:
    """Wherever power is cut between the first piece and the acknowledgement, the version is whole or absent."""
    seen = set()
    for at in range(1, 60):
        run = Run(seed=7)
        run.store.arm(Fault(at))
        try:
            run.change(0)
            run.flush()
        except PowerCut:
            pass
        else:
            break
        for image in range(2):
            run.holds(run.store.crash(random.Random(at * 10 + image)))
        seen.add(len(run.pictures))
    else:
        raise AssertionError("the put has no end")
    assert seen == {1, 2}


@pytest.mark.parametrize("deed", ["destroy", "delete", "supersede", "reopen"])
def test_a_crash_at_every_step_of_a_destruction(deed: str) -> None:
    """A file goes only when what lets go of it is durable, however the tenant is opened in between."""
    seen = set()
    for at in range(1, 60):
        run = Run(seed=7)
        barrier, name = run.world.barrier, run.world.KEY
        run.world.put("acme", name, b"next", grace=0)
        run.pictures.append(picture(run.world))
        run.flush()
        run.store.arm(Fault(at))
        try:
            match deed:
                case "destroy" | "reopen":
                    barrier.destroy("acme", name, 1, actor=ADMIN)
                case "delete":
                    barrier.delete("acme", name, actor=ADMIN)
                case _:
                    for number in range(10):  # ten retired versions are kept, and the oldest goes with the next
                        run.world.barrier.put("acme", name, SecretBytes.copy_of(b"%d" % number), actor=ADMIN, grace=0)
                        run.pictures.append(picture(run.world))
            run.pictures.append(picture(run.world))
            if deed == "reopen":
                barrier.seal_tenant("acme", actor=ADMIN)
                run.pictures.append(picture(run.world))
                barrier.unseal_tenant("acme", actor=ADMIN)
                run.pictures.append(picture(run.world))
            # The power may also go before anything was flushed.
            if at == 1:
                run.store.disk.arm(None)
                run.holds(run.store.crash(random.Random(at)))
                continue
            run.flush()
        except PowerCut:
            pass
        else:
            assert run.world.blobs() == []
            break
        for image in range(2):
            run.holds(run.store.crash(random.Random(at * 10 + image)))
        seen.add(at)
    else:
        raise AssertionError("the destruction has no end")
    assert len(seen) > 3
