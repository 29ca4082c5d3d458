"""Values of any size: blobs behind the barrier, which are versions like any other."""

from __future__ import annotations

import pytest

from tests.support.barrier_world import ADMIN
from tests.support.blob_world import MIB, BlobWorld, content
from vaultd.crypto.values import pad
from vaultd.errors import Conflict, Invalid, NotFound
from vaultd.store import MemoryStore
from vaultd.vault.allowance import Allowance

KEY = BlobWorld.KEY


@pytest.fixture
def world() -> BlobWorld:
    world = BlobWorld()
    world.tenant("acme")
    return world


@pytest.mark.parametrize("size", [1, MIB - 1, MIB, MIB + 1, MIB + (1 << 18), 3 * MIB, 3 * MIB + 12345])
def test_a_value_of_any_size_comes_back(world: BlobWorld, size: int) -> None:
    """What goes in in pieces comes back whole; up to 1 MiB it is a value in the log, beyond that one file."""
    value = content(size)
    assert world.stream(value) == 1
    assert world.read() == value
    assert len(world.blobs()) == (size > MIB)
    if size <= MIB:
        assert world.get("acme", KEY) == value
    assert world.again().read() == value


def test_a_large_put_becomes_a_blob(world: BlobWorld) -> None:
    """`put` above 1 MiB stores a blob, which `reveal` refuses with a hint and `open_blob` reads."""
    value = content(MIB + 1)
    world.put("acme", KEY, value)
    assert len(world.blobs()) == 1
    with pytest.raises(Invalid, match="is a file of 1048577 bytes") as refused:
        world.get("acme", KEY)
    assert "--out" in refused.value.hint
    assert "open" in refused.value.hint
    assert world.read() == value


def test_rollback_shares_the_file_and_destroy_ends_it(world: BlobWorld) -> None:
    """A rolled-back version opens through the same file, which goes with the last version that names it."""
    value = content(2 * MIB)
    world.stream(value)
    world.put("acme", KEY, b"small")
    assert world.barrier.rollback("acme", KEY, 1, actor=ADMIN).version == 3
    world.flush()
    assert len(world.blobs()) == 1
    world.barrier.destroy("acme", KEY, 1, actor=ADMIN)
    world.flush()
    assert world.read(3) == value
    with pytest.raises(NotFound):
        world.read(1)
    world.rotate_tenant()
    assert world.read(3) == value
    world.barrier.delete("acme", KEY, actor=ADMIN)
    world.flush()
    assert world.blobs() == []


def test_what_is_given_up_leaves_nothing(world: BlobWorld) -> None:
    """Without `finish` there is no version and no file, whoever gives it up."""
    with world.barrier.put_stream("acme", KEY, actor=ADMIN) as writer:
        writer.write(content(2 * MIB))
    writer.abort()
    with pytest.raises(Conflict):
        writer.write(b"more")
    assert world.blobs() == []
    assert world.barrier.list("acme") == []


def test_the_number_is_given_at_the_end(world: BlobWorld) -> None:
    """Of two that are written at once the one that finishes first is version 1; `cas` is held at the end too."""
    first = world.barrier.put_stream("acme", KEY, actor=ADMIN)
    second = world.barrier.put_stream("acme", KEY, actor=ADMIN)
    third = world.barrier.put_stream("acme", KEY, actor=ADMIN, cas=0)
    for number, writer in enumerate((first, second, third)):
        writer.write(content(MIB + 1 + number, number))
    assert second.finish().version == 1
    assert first.finish().version == 2
    with pytest.raises(Conflict, match="the current version is 2, not 0"):
        third.finish()
    world.flush()
    assert world.read(1) == content(MIB + 2, 1)
    assert world.read(2) == content(MIB + 1, 0)
    assert len(world.blobs()) == 2


def test_a_rollback_to_what_it_pushes_out_keeps_the_file(world: BlobWorld) -> None:
    """Where the change that takes a value anew also destroys the version it comes from, the file stays."""
    value = content(2 * MIB)
    world.stream(value, grace=0)
    for number in range(2, 22):  # ten retired with the first among them, ten previous
        world.put("acme", KEY, b"%d" % number, grace=0 if number < 12 else 3600)
    state = world.barrier.tenant("acme").state
    world.barrier.allowance = Allowance(value_bytes=state.live + state.stored)
    assert world.barrier.rollback("acme", KEY, 1, actor=ADMIN).version == 22
    world.flush()
    assert world.states("acme", KEY)[1] == "destroyed"
    assert state.stored == pad(2 * MIB)
    assert len(world.blobs()) == 1
    assert world.read(22) == value
    assert world.again().read(22) == value


def test_no_content_and_no_name_is_on_the_disk(world: BlobWorld) -> None:
    """Neither a part of the content nor the secret's name is in any file, unfinished ones included."""
    world.stream(b"a secret sentence of some length. " * 70_000)
    writer = world.barrier.put_stream("acme", KEY, actor=ADMIN)
    writer.write(b"a secret sentence of some length. " * 70_000)
    assert isinstance(world.store, MemoryStore)
    files = world.store.disk.files()
    assert len([path for path in files if "/blobs/" in path]) == 2
    for path, data in files.items():
        for secret in (b"secret sentence", b"of some length", KEY.encode(), b"model"):
            assert secret not in data, path
    writer.abort()
