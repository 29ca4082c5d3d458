"""Secrets through the barrier: stored, revealed only against a durable receipt, and what sealing takes away."""

from __future__ import annotations

import errno
import json

import pytest

from tests.support.barrier_world import ADMIN, BarrierWorld, passphrase
from vaultd.audit.body import Event
from vaultd.crypto.memory import SecretBytes
from vaultd.crypto.slots import SlotKind
from vaultd.errors import (
    Closed,
    Conflict,
    Halted,
    Internal,
    Invalid,
    NotFound,
    Sealed,
    StoreError,
    VaultdError,
    WrongSecret,
)
from vaultd.names import secret_name
from vaultd.store import Fault, MemoryStore

KEY = secret_name("openai/prod")
GET = Event("secret.get", "ok", ADMIN)


@pytest.fixture
def world() -> BarrierWorld:
    world = BarrierWorld()
    world.tenant("acme")
    return world


def disk(world: BarrierWorld) -> MemoryStore:
    assert isinstance(world.store, MemoryStore)
    return world.store


@pytest.mark.parametrize("value", [b"x", b"sk-live-0", b"\0", bytes(range(256)), b"\xff" * 65, b"v" * (1 << 20)])
def test_a_value_comes_back_as_it_was_put(world: BarrierWorld, value: bytes) -> None:
    """Any bytes from one to a mebibyte come back, at once and after a restart; their owner's buffer is left alone."""
    with SecretBytes.copy_of(value) as mine:
        world.barrier.put("acme", KEY, mine, actor=ADMIN)
        assert mine == value
    world.flush()
    assert world.get("acme", KEY) == value
    assert world.reopen().get("acme", KEY) == value


@pytest.mark.parametrize("size", [0])
def test_a_value_out_of_bounds_changes_nothing(world: BarrierWorld, size: int) -> None:
    """Nothing is refused before anything is staged."""
    before = world.barrier.tenant("acme").log.head
    with pytest.raises(Invalid), SecretBytes.take(bytearray(size)) as value:
        world.barrier.put("acme", KEY, value, actor=ADMIN)
    assert world.barrier.tenant("acme").log.head == before
    with pytest.raises(NotFound):
        world.history("acme", KEY)


def test_earlier_versions_are_revealed_by_number(world: BarrierWorld) -> None:
    """A version that is not destroyed gives its value by number; the current one also without."""
    for value in (b"one", b"two", b"three"):
        world.put("acme", KEY, value)
    assert [world.get("acme", KEY, number) for number in (1, 2, 3, None)] == [b"one", b"two", b"three", b"three"]
    for number in (0, 4, -1):
        with pytest.raises(NotFound):
            world.get("acme", KEY, number)


def test_rollback_makes_a_new_version_of_the_old_value(world: BarrierWorld) -> None:
    """Rolling back gives version N+1 with the earlier value and its source, under a data key of its own."""
    world.put("acme", KEY, b"good")
    world.put("acme", KEY, b"bad")
    stored = world.barrier.rollback("acme", KEY, 1, actor=ADMIN)
    world.flush()
    assert (stored.version, world.get("acme", KEY), world.history("acme", KEY).version(3).source) == (3, b"good", 1)
    world.barrier.destroy("acme", KEY, 1, actor=ADMIN)
    world.flush()
    world = world.reopen()
    assert world.get("acme", KEY) == b"good"
    with pytest.raises(NotFound):
        world.get("acme", KEY, 1)


def test_pending_versions_are_promoted(world: BarrierWorld) -> None:
    """A pending version is revealed by its number for its verification, and is current once promoted."""
    world.put("acme", KEY, b"old")
    number = world.put("acme", KEY, b"new", pending=True)
    assert (world.get("acme", KEY), world.get("acme", KEY, number)) == (b"old", b"new")
    world.barrier.promote("acme", KEY, number, actor=ADMIN)
    world.flush()
    assert world.get("acme", KEY) == b"new"
    assert world.reopen().states("acme", KEY) == {1: "previous", 2: "current"}


def test_delete_and_begin_again(world: BarrierWorld) -> None:
    """A deleted secret is gone after a restart too, and its name begins again at version 1."""
    world.put("acme", KEY, b"one")
    world.barrier.delete("acme", KEY, actor=ADMIN)
    world.flush()
    world = world.reopen()
    with pytest.raises(NotFound):
        world.get("acme", KEY)
    assert world.put("acme", KEY, b"two") == 1
    assert world.get("acme", KEY) == b"two"


def test_metadata_survives(world: BarrierWorld) -> None:
    """Description and due time survive a restart; changing them makes no version."""
    world.put("acme", KEY, b"1", description="the one", rotate_after=3600)
    world.barrier.set_metadata("acme", KEY, actor=ADMIN, description="the other")
    world.flush()
    secret = world.reopen().history("acme", KEY)
    assert (secret.description, secret.rotate_after, secret.last) == ("the other", 3600, 1)


def test_nothing_is_revealed_before_its_record_is_durable(world: BarrierWorld) -> None:
    """A receipt opens nothing until the flush, then opens its value once, and no other."""
    world.put("acme", KEY, b"value")
    world.put("acme", "other", b"else")
    ref = world.barrier.prepare_reveal("acme", KEY)
    receipt = world.barrier.record_reveal(ref, GET)
    with pytest.raises(Internal, match="before its audit record was durable"):
        world.barrier.reveal(receipt, ref, ADMIN)
    world.flush()
    for other in (
        world.barrier.prepare_reveal("acme", secret_name("other")),
        ref._replace(version=2),
        ref._replace(tenant=bytes(16)),
        ref._replace(secret_id=bytes(16)),
    ):
        with pytest.raises(Internal, match="audit record of another"):
            world.barrier.reveal(receipt, other, ADMIN)
    assert world.barrier.reveal(receipt, ref, ADMIN) == b"value"
    with pytest.raises(Internal, match="second value"):
        world.barrier.reveal(receipt, ref, ADMIN)


def test_a_receipt_of_something_else_reveals_nothing(world: BarrierWorld) -> None:
    """The durable receipt of a put, of a denial, or of another tenant's reveal opens nothing."""
    world.put("acme", KEY, b"value")
    world.tenant("beta")
    world.put("beta", KEY, b"theirs")
    ref = world.barrier.prepare_reveal("acme", KEY)
    theirs = world.barrier.prepare_reveal("beta", KEY)
    receipts = [
        world.barrier.record(Event("secret.get", "ok", ADMIN, secret=KEY, version=1), "acme"),
        world.barrier.record_reveal(ref, GET._replace(outcome="denied")),
        world.barrier.record_reveal(theirs, GET),
    ]
    world.flush()
    for receipt in receipts:
        with pytest.raises(Internal):
            world.barrier.reveal(receipt, ref, ADMIN)


def test_if_the_record_cannot_be_written_nothing_is_revealed(world: BarrierWorld) -> None:
    """A failed flush leaves the receipt useless and the vault halted: no value leaves, nothing changes, seal works."""
    world.put("acme", KEY, b"value")
    ref = world.barrier.prepare_reveal("acme", KEY)
    receipt = world.barrier.record_reveal(ref, GET)
    disk(world).arm(Fault(1, errno.ENOSPC, repeat=True))
    with pytest.raises(StoreError, match="no space left"):
        world.flush()
    disk(world).disk.arm(None)
    with pytest.raises(Internal):
        world.barrier.reveal(receipt, ref, ADMIN)
    with pytest.raises(Halted):
        world.barrier.record_reveal(ref, GET)
    head = world.barrier.tenant("acme").log.head
    with pytest.raises(Halted):
        world.put("acme", KEY, b"new")
    assert world.barrier.tenant("acme").log.head == head
    assert world.history("acme", KEY).last == 1
    assert world.barrier.seal(actor=ADMIN) is False
    with pytest.raises(Sealed):
        world.barrier.tenant("acme")
    assert world.reopen().get("acme", KEY) == b"value"


def test_a_value_that_does_not_verify_is_recorded_and_closes_the_tenant(world: BarrierWorld) -> None:
    """A value changed on the disk after it was read at opening is a second record, and the tenant stays closed."""
    world.put("acme", KEY, b"value" * 100)
    world.tenant("beta")
    world.put("beta", KEY, b"theirs")
    uid = world.barrier.uid("acme")
    path = f"tenants/{uid.hex()}/log.1"
    damaged = bytearray(disk(world).disk.peek(path))
    damaged[-1] ^= 1
    disk(world).disk.poke(path, bytes(damaged))
    with pytest.raises(Closed):
        world.get("acme", KEY)
    world.flush()
    kinds = [(json.loads(body)["kind"], json.loads(body)["outcome"]) for body in world.bodies(uid)]
    assert kinds[-3:] == [("secret.get", "ok"), ("secret.open", "failed"), ("tenant.closed", "failed")]
    with pytest.raises(Closed):
        world.history("acme", KEY)
    assert world.get("beta", KEY) == b"theirs"
    assert {facts.name: facts.state for facts in world.barrier.tenants()} == {"acme": "closed", "beta": "open"}


def test_a_changed_log_closes_its_tenant_only(world: BarrierWorld) -> None:
    """A tenant whose file was changed while the vault was closed stays closed, recorded; the others serve on."""
    world.put("acme", KEY, b"mine")
    world.tenant("beta")
    world.put("beta", KEY, b"theirs")
    uid = world.barrier.uid("acme")
    world.barrier.close()
    path = f"tenants/{uid.hex()}/log.1"
    damaged = bytearray(disk(world).disk.peek(path))
    damaged[100] ^= 0x10
    disk(world).disk.poke(path, bytes(damaged))
    world = BarrierWorld(world.store, seed=5, clock=world.clock)
    for _ in range(2):
        with pytest.raises(Closed):
            world.get("acme", KEY)
    assert world.get("beta", KEY) == b"theirs"
    assert sum("tenant.closed" in body for body in world.bodies(uid)) == 1, "recorded once, not at every try"


def test_sealed_there_is_nothing(world: BarrierWorld) -> None:
    """After `seal` every verb that needs a key is `Sealed`, a prepared reveal too; unsealing brings all of it back."""
    world.put("acme", KEY, b"value")
    ref = world.barrier.prepare_reveal("acme", KEY)
    receipt = world.barrier.record_reveal(ref, GET)
    world.flush()
    assert world.barrier.seal(actor=ADMIN) is True
    assert world.barrier.sealed
    barrier = world.barrier
    for call in (
        lambda: barrier.reveal(receipt, ref, ADMIN),
        lambda: barrier.tenant("acme"),
        barrier.tenants,
        lambda: barrier.prepare_reveal("acme", KEY),
        lambda: barrier.create_tenant("beta", actor=ADMIN),
        lambda: barrier.delete_tenant("acme", actor=ADMIN),
        lambda: next(barrier.rotate_root(actor=ADMIN)),
        lambda: barrier.rotate_tenant("acme", actor=ADMIN),
        barrier.checkpoint,
    ):
        with pytest.raises(Sealed):
            call()
    assert not barrier.linked("agent", ref.tenant)
    world.unseal()
    assert world.get("acme", KEY) == b"value"


def test_a_wrong_secret_opens_nothing(world: BarrierWorld) -> None:
    """Another passphrase, and the right one as a key file, are `WrongSecret`; unsealing twice is a conflict."""
    world.barrier.seal(actor=ADMIN)
    for text, kind in ((b"wrong", SlotKind.PASSPHRASE), (b"k" * 32, SlotKind.KEY_FILE)):
        with pytest.raises(WrongSecret), passphrase(text) as given:
            world.barrier.derive(given, kind)
    world.unseal()
    with pytest.raises(Conflict):
        world.unseal()


def test_every_change_has_its_record(world: BarrierWorld) -> None:
    """Each change to a secret is in the tenant's trail by its kind, name and version, and in nobody else's."""
    world.tenant("beta")
    before = world.bodies("beta")
    world.put("acme", KEY, b"1")
    world.put("acme", KEY, b"2", kind="rotate.secret", run="run_x")
    world.barrier.rollback("acme", KEY, 1, actor=ADMIN)
    world.barrier.set_metadata("acme", KEY, actor=ADMIN, description="d")
    world.barrier.destroy("acme", KEY, 2, actor=ADMIN)
    world.barrier.delete("acme", KEY, actor=ADMIN)
    world.flush()
    said = [json.loads(body) for body in world.bodies("acme")][1:]
    assert [(body["kind"], body["secret"], body["version"]) for body in said] == [
        ("secret.put", KEY, 1),
        ("rotate.secret", KEY, 2),
        ("secret.rollback", KEY, 3),
        ("secret.set", KEY, 3),
        ("secret.destroy", KEY, 2),
        ("secret.delete", KEY, 3),
    ]
    assert said[1]["run"] == "run_x"
    assert world.bodies("beta") == before


def test_no_name_and_no_value_is_on_the_disk(world: BarrierWorld) -> None:
    """Neither tenants' nor secrets' names, values, descriptions nor grants appear in any file, in several encodings."""
    words = [b"acme", b"openai/prod", b"sk-canary-4711", b"a telling description", b"billing-agent"]
    world.barrier.add_service({"name": "billing-agent", "uid": 1}, actor=ADMIN)
    world.barrier.add_grant("acme", {"id": "grant_1", "service": "billing-agent", "secrets": ["**"]}, actor=ADMIN)
    world.put("acme", KEY, b"sk-canary-4711", description="a telling description")
    world.get("acme", KEY)
    with pytest.raises(VaultdError):
        world.get("acme", "no/such/canary")
    world.rotate_tenant("acme")
    world.barrier.delete_tenant("acme", actor=ADMIN)
    world.barrier.close()
    for path, data in disk(world).disk.files().items():
        for word in words:
            for form in (word, word.hex().encode(), word.decode().encode("utf-16-le")):
                assert form not in data, (path, word)
                assert word.decode() not in path


def test_time_does_not_run_back(world: BarrierWorld) -> None:
    """A wall clock an hour back neither ends a grace early nor lengthens it: time stands still until it caught up."""
    world.put("acme", KEY, b"1")
    world.put("acme", KEY, b"2", grace=60)
    now = world.clock.wall()
    world.clock.set_wall(now - 3600 * 10**9)
    assert world.states("acme", KEY)[1] == "previous"
    world.put("acme", KEY, b"3", grace=60)
    assert world.history("acme", KEY).version(3).created >= now
    world = world.reopen()
    assert world.barrier.now() >= now
    world.clock.set_wall(now + 61 * 10**9)
    assert world.states("acme", KEY) == {1: "retired", 2: "retired", 3: "current"}
