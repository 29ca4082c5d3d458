"""Writers and readers that end early: by a full disk, a cap, a sealed tenant, another thread."""

from __future__ import annotations

import errno
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.barrier_world import ADMIN
from tests.support.blob_world import MIB, BlobWorld, content
from vaultd.audit.body import Event
from vaultd.errors import (
    Conflict,
    Halted,
    IntegrityError,
    Internal,
    Invalid,
    NotFound,
    QuotaExceeded,
    Sealed,
    StoreError,
    VaultdError,
)
from vaultd.names import secret_name
from vaultd.store import Fault, MemoryStore
from vaultd.vault.allowance import Allowance

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaultd.vault.streams import BlobWriter

KEY = BlobWorld.KEY


@pytest.fixture
def world() -> BlobWorld:
    world = BlobWorld()
    world.tenant("acme")
    return world


def begun(world: BlobWorld, size: int = 2 * MIB, **options: Any) -> BlobWriter:
    writer = world.barrier.put_stream("acme", KEY, actor=ADMIN, **options)
    if size:
        writer.write(content(size))
    return writer


def upload(writer: BlobWriter, value: bytes) -> None:
    """All that a worker thread does."""
    for at in range(0, len(value), 99_999):
        writer.write(value[at : at + 99_999])
    writer.seal()


@pytest.mark.parametrize("kind", ["mkdir", "create", "write", "flush", "rename", "sync"])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_refuses_ends_the_upload_alone(world: BlobWorld, kind: str, error: int) -> None:
    """Whatever step of a blob's file fails: a clear error, nothing left, the vault not halted, the next one works."""
    store = world.store
    assert isinstance(store, MemoryStore)
    store.arm(Fault(1, error, kinds=frozenset({kind})))
    writer = begun(world, 0)
    with pytest.raises(StoreError) as refused:
        upload(writer, content(2 * MIB))
    assert refused.value.hint
    with pytest.raises(StoreError):
        writer.write(b"more")
    store.disk.arm(None)
    assert (world.blobs(), world.unfinished()) == ([], [])
    assert world.barrier.list("acme") == []
    assert not world.barrier.ledger.halted
    assert world.stream(content(MIB + 1)) == 1


def test_a_cap_holds_for_blobs(world: BlobWorld) -> None:
    """Blobs count padded, once for all versions that share them, and what a change destroys makes room."""
    world.barrier.allowance = Allowance(value_bytes=4 * MIB)
    world.stream(content(2 * MIB), grace=0)
    world.put("acme", KEY, b"small", grace=0)
    world.barrier.rollback("acme", KEY, 1, actor=ADMIN)
    world.flush()
    writer = begun(world, 0)
    with pytest.raises(QuotaExceeded, match="more than 4194304 bytes"):
        upload(writer, content(8 * MIB))
    assert writer.size < 5 * MIB
    assert (len(world.blobs()), world.unfinished()) == (1, [])
    with pytest.raises(QuotaExceeded), begun(world) as writer:  # as the state is at the end
        writer.finish()
    assert len(world.blobs()) == 1
    world.barrier.destroy("acme", KEY, 1, actor=ADMIN)
    world.flush()
    with pytest.raises(QuotaExceeded):  # still named by version 3
        world.stream(content(2 * MIB))
    world.stream(content(MIB + MIB // 2))


def test_unfinished_uploads_count_together(world: BlobWorld) -> None:
    """Several uploads at once take no more of the disk than the tenant may have; one given up makes room again."""
    world.barrier.allowance = Allowance(value_bytes=5 * MIB)
    first, second = begun(world, 0), begun(world, 0)
    first.write(content(3 * MIB))
    with pytest.raises(QuotaExceeded):
        second.write(content(3 * MIB))
    third = begun(world, 0)
    third.write(content(MIB))
    first.abort()
    third.write(content(3 * MIB))
    assert third.finish().version == 1
    world.flush()
    world.barrier.allowance = Allowance(secrets=1)
    with pytest.raises(QuotaExceeded, match="more than 1 secrets"):
        world.barrier.put_stream("acme", secret_name("another"), actor=ADMIN)


@pytest.mark.parametrize(
    ("deed", "error"),
    [
        (lambda world: world.barrier.seal_tenant("acme", actor=ADMIN), Sealed),
        (lambda world: world.barrier.seal(actor=ADMIN), Sealed),
        (lambda world: world.barrier.delete_tenant("acme", actor=ADMIN), NotFound),
    ],
    ids=["tenant sealed", "vault sealed", "tenant deleted"],
)
def test_keys_that_go_end_writers_and_readers(
    world: BlobWorld, deed: Callable[[BlobWorld], object], error: type[Exception]
) -> None:
    """When a tenant's keys go, nothing more is read or written under them, and what was unfinished is gone."""
    world.stream(content(MIB + 1))
    writer, sealed, reader = begun(world), begun(world), world.opened()
    sealed.seal()
    reader.read_into(0, bytearray(10))
    folder = world.folder()
    deed(world)
    for call in (
        lambda: writer.write(b"x"),
        writer.finish,
        sealed.finish,
        lambda: reader.read_into(0, bytearray(10)),
    ):
        with pytest.raises(error):
            call()
    for used in (writer, sealed):
        with pytest.raises(Internal, match="after it was wiped"):
            used.data_key.view()
    assert isinstance(world.store, MemoryStore)
    left = [path for path in world.store.disk.files() if path.startswith(folder)]
    if error is Sealed:
        assert len(left) == 1
        world.flush() if not world.barrier.sealed else None


def test_rotations_end_nothing(world: BlobWorld) -> None:
    """A writer and a reader that are under way when keys are rotated go on, and what is written opens afterwards."""
    world.stream(content(MIB + 1))
    reader, writer = world.opened(), begun(world, 0)
    writer.write(content(MIB + 7)[:1000])
    world.rotate_tenant()
    world.rotate_root()
    writer.write(content(MIB + 7)[1000:])
    assert writer.finish().version == 2
    buffer = bytearray(reader.size)
    assert reader.read_into(0, buffer) == MIB + 1
    assert buffer == content(MIB + 1)
    world.flush()
    assert world.read(2) == content(MIB + 7)
    again = world.again()
    assert (again.read(1), again.read(2)) == (content(MIB + 1), content(MIB + 7))


def test_a_halted_vault_begins_and_finishes_nothing(world: BlobWorld) -> None:
    """After a failed flush no upload begins, and one that was under way leaves nothing."""
    writer = begun(world)
    assert isinstance(world.store, MemoryStore)
    world.barrier.record(Event("secret.get", "denied", ADMIN))
    world.store.arm(Fault(1, errno.EIO))
    with pytest.raises(StoreError):
        world.flush()
    world.store.disk.arm(None)
    with pytest.raises(Halted):
        begun(world, 0)
    with pytest.raises(Halted):
        writer.finish()
    assert (world.blobs(), world.unfinished()) == ([], [])


class Gate:
    """Holds a store's writes or reads in a worker thread until it is let through."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, target: object, name: str) -> None:
        self.reached, self.through = threading.Event(), threading.Event()
        plain = getattr(target, name)

        def held(*arguments: Any) -> Any:
            self.reached.set()
            assert self.through.wait(20)
            return plain(*arguments)

        monkeypatch.setattr(target, name, held)


def in_thread(call: Callable[[], object]) -> tuple[threading.Thread, list[VaultdError]]:
    errors: list[VaultdError] = []

    def run() -> None:
        try:
            call()
        except VaultdError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, errors


def test_sealing_does_not_wait_for_a_worker(world: BlobWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sealed while a worker is in `write`: the tenant is sealed at once, the worker's call fails, nothing is left."""
    writer = begun(world)
    gate = Gate(monkeypatch, writer._file, "append")
    thread, errors = in_thread(lambda: writer.write(content(MIB)))
    assert gate.reached.wait(20)
    world.barrier.seal_tenant("acme", actor=ADMIN)
    assert len(writer.data_key.view()) == 32  # still whole: a worker is sealing with what derives from it
    gate.through.set()
    thread.join()
    assert [type(error) for error in errors] == [Sealed]
    with pytest.raises(Internal, match="after it was wiped"):
        writer.data_key.view()
    world.barrier.unseal_tenant("acme", actor=ADMIN)
    assert (world.blobs(), world.unfinished()) == ([], [])


def test_a_read_that_is_under_way_gives_nothing_any_more(world: BlobWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Destroyed while a worker reads: its call fails, and what it had read is wiped."""
    world.stream(content(2 * MIB), grace=0)
    world.put("acme", KEY, b"next", grace=0)
    reader = world.opened(1)
    assert reader._blob is not None
    gate = Gate(monkeypatch, reader._blob[0], "read_into")
    buffer = bytearray(b"\xff" * 100)
    thread, errors = in_thread(lambda: reader.read_into(0, buffer))
    assert gate.reached.wait(20)
    world.barrier.destroy("acme", KEY, 1, actor=ADMIN)
    gate.through.set()
    thread.join()
    assert [type(error) for error in errors] == [NotFound]
    assert not any(buffer)
    world.flush()
    assert world.blobs() == []


def test_two_threads_at_once_are_a_bug(world: BlobWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second call while one is under way is refused, and does not disturb the first."""
    writer = begun(world)
    gate = Gate(monkeypatch, writer._file, "append")
    thread, errors = in_thread(lambda: writer.write(content(MIB)))
    assert gate.reached.wait(20)
    with pytest.raises(Internal, match="two threads"):
        writer.write(b"x")
    gate.through.set()
    thread.join()
    assert errors == []
    assert writer.finish().version == 1
    world.flush()
    assert world.read() == content(2 * MIB) + content(MIB)


def test_uploads_in_workers_beside_the_deciding_thread(world: BlobWorld) -> None:
    """Several uploads in threads of their own, while others put, destroy and rotate: every one comes back whole."""
    names = [secret_name(f"files/{number}") for number in range(4)]
    values = [content(MIB + 1000 * number + 1, number) for number in range(4)]
    writers = [world.barrier.put_stream("acme", name, actor=ADMIN) for name in names]

    started = [in_thread(lambda w=w, v=v: upload(w, v)) for w, v in zip(writers, values, strict=True)]
    for number in range(20):
        world.put("acme", "k", b"%d" % number, grace=0)
    world.rotate_tenant()
    for thread, errors in started:
        thread.join()
        assert errors == []
    for writer in writers:
        writer.finish()
    world.flush()
    assert [world.read(name=name) for name in names] == values


def test_misuse_is_told(world: BlobWorld) -> None:
    """An empty value, a write after the end, a negative offset, a receipt used twice: each is refused."""
    with begun(world, 0) as writer, pytest.raises(Invalid, match="empty"):
        writer.finish()
    writer = begun(world)
    writer.seal()
    with pytest.raises(Internal):
        writer.write(b"x")
    assert (world.blobs(), world.unfinished()) == ([], [])
    world.stream(content(MIB + 1))
    with world.opened() as reader, pytest.raises(Invalid):
        reader.read_into(-1, bytearray(1))
    with pytest.raises(Conflict):
        reader.read_into(0, bytearray(1))
    ref = world.barrier.prepare_reveal("acme", KEY)
    receipt = world.barrier.record_reveal(ref, Event("secret.get", "ok", ADMIN))
    with pytest.raises(Internal):
        world.barrier.open_blob(receipt, ref, ADMIN)  # not durable
    world.flush()
    world.barrier.open_blob(receipt, ref, ADMIN).close()
    with pytest.raises(Internal):
        world.barrier.open_blob(receipt, ref, ADMIN)


def test_a_rollback_holds_the_file(world: BlobWorld) -> None:
    """A version whose file is gone or another is not rolled back to: nothing changes."""
    world.stream(content(MIB + 1), grace=0)
    world.put("acme", KEY, b"next", grace=0)
    assert isinstance(world.store, MemoryStore)
    (path,) = world.blobs()
    for wrong in (world.store.disk.peek(path)[:-1], None):
        world.store.disk.put(path, wrong)
        with pytest.raises(IntegrityError):
            world.barrier.rollback("acme", KEY, 1, actor=ADMIN)
    assert world.history("acme", KEY).current == 2


def test_what_is_swept_is_recorded(world: BlobWorld) -> None:
    """What a crash left is removed when the tenant is opened, told in the system's trail, and only once."""
    world.stream(content(MIB + 1))
    begun(world)
    whole = begun(world)
    whole.seal()
    assert isinstance(world.store, MemoryStore)
    again = BlobWorld(MemoryStore(world.store.disk.copy()), clock=world.clock)
    assert (len(again.blobs()), len(again.unfinished())) == (2, 1)
    assert again.read() == content(MIB + 1)
    again.flush()
    assert (len(again.blobs()), again.unfinished()) == (1, [])
    swept = [body for body in again.bodies() if "blobs.swept" in body]
    assert len(swept) == 1
    assert '"unfinished":1' in swept[0]
    assert '"unnamed":1' in swept[0]
    third = again.again()
    assert third.read() == content(MIB + 1)
    assert sum("blobs.swept" in body for body in third.bodies()) == 1
