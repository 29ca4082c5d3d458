"""Blobs, whatever the pieces they come in and the ranges they are read in; moved and damaged ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.barrier_world import ADMIN
from tests.support.blob_world import MIB, BlobWorld, content
from vaultd.errors import FormatVersion, IntegrityError
from vaultd.names import secret_name
from vaultd.store import MemoryStore

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

CHUNK = 1 << 18
EDGES = st.sampled_from([edge + off for edge in (MIB, MIB + CHUNK, MIB + 2 * CHUNK) for off in (-1, 0, 1)])
SIZES = st.one_of(EDGES, st.integers(1, MIB + 3 * CHUNK))


def damaged(world: BlobWorld, path: str, change: Callable[[bytearray], None]) -> None:
    """Change a blob past the store, as somebody with the disk would."""
    assert isinstance(world.store, MemoryStore)
    data = bytearray(world.store.disk.peek(path))
    change(data)
    world.store.disk.poke(path, bytes(data))


@settings(deadline=None, max_examples=60)
@given(SIZES, st.lists(st.integers(0, 700_000), max_size=12), st.randoms(use_true_random=False))
def test_any_pieces_give_the_same_content(size: int, cuts: list[int], rng: random.Random) -> None:
    """However a value is cut into pieces, empty ones included, the same comes back; and any range is the slice."""
    world = BlobWorld()
    world.tenant()
    value = content(size, size)
    with world.barrier.put_stream("acme", world.KEY, actor=ADMIN) as writer:
        at = 0
        for cut in cuts:
            at += writer.write(value[at : at + cut])
        writer.write(memoryview(value)[at:])
        assert writer.size == size
        writer.finish()
    world.flush()
    with world.opened() as reader:
        assert reader.size == size
        for _ in range(6):
            begin, length = rng.randrange(size + 10), rng.randrange(size + 10)
            if rng.random() < 0.5:
                length %= 1000
            buffer = bytearray(length)
            count = reader.read_into(begin, buffer)
            assert bytes(buffer[:count]) == value[begin : begin + length]
    assert world.read() == value


@settings(deadline=None, max_examples=120)
@given(st.data())
def test_a_flipped_bit_anywhere_is_found(data: st.DataObject) -> None:
    """A flipped bit of a blob never gives other bytes: the read that meets it fails, one that does not is right."""
    world = _kept()
    path, value = world.blobs()[0], content(MIB + CHUNK + 77)
    assert isinstance(world.store, MemoryStore)
    before = world.store.disk.peek(path)
    bit = data.draw(st.integers(0, 8 * len(before) - 1) | st.integers(0, 8 * 64 - 1))

    def flip(blob: bytearray) -> None:
        blob[bit // 8] ^= 1 << bit % 8

    damaged(world, path, flip)
    try:
        with pytest.raises((IntegrityError, FormatVersion)):
            world.read()
        at = data.draw(st.integers(0, len(value) - 1))
        buffer = bytearray(100)
        try:
            with world.opened() as reader:
                count = reader.read_into(at, buffer)
        except (IntegrityError, FormatVersion):
            assert not any(buffer)
        else:
            assert bytes(buffer[:count]) == value[at : at + 100]
    finally:
        world.store.disk.poke(path, before)
    world.flush()


_WORLDS: list[BlobWorld] = []


def _kept() -> BlobWorld:
    """One world for many examples, each of which leaves it as it was."""
    if not _WORLDS:
        world = BlobWorld()
        world.tenant()
        world.stream(content(MIB + CHUNK + 77))
        _WORLDS.append(world)
    return _WORLDS[0]


def test_no_blob_opens_in_another_place() -> None:
    """I3: each blob put in the place of each other, of another version, secret, tenant and vault, is refused."""
    worlds = [BlobWorld(seed=1), BlobWorld(seed=2)]
    places: list[tuple[BlobWorld, str, str, int, str]] = []
    for world in worlds:
        for tenant in ("acme", "beta"):
            world.tenant(tenant)
            known: set[str] = set()
            for name in ("one", "two"):
                for number in (1, 2):
                    world.stream(content(MIB + 1, len(places)), tenant=tenant, name=secret_name(name))
                    (path,) = set(world.blobs(tenant)) - known
                    known.add(path)
                    places.append((world, tenant, name, number, path))
    files = []
    for world, _, _, _, path in places:
        assert isinstance(world.store, MemoryStore)
        files.append(world.store.disk.peek(path))
    tried = 0
    for own, (world, tenant, name, number, path) in zip(files, places, strict=True):
        assert isinstance(world.store, MemoryStore)
        for foreign in files:
            if foreign == own:
                continue
            # As it is, and with the header of what was here: neither name nor id may be what holds it off.
            for moved in (foreign, own[:64] + foreign[64:], foreign[:16] + own[16:32] + foreign[32:]):
                world.store.disk.poke(path, moved)
                with pytest.raises(IntegrityError):
                    world.read(number, tenant=tenant, name=secret_name(name))
                tried += 1
        world.store.disk.poke(path, own)
        assert len(world.read(number, tenant=tenant, name=secret_name(name))) == MIB + 1
    assert tried == 16 * 15 * 3
