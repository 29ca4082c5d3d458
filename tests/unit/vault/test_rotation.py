"""Rotations: of the root, of a tenant, for space; in slices, with others at work in between."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.barrier_world import ADMIN, PASSPHRASE, BarrierWorld, passphrase
from vaultd.audit.body import Event
from vaultd.crypto.hierarchy import RootKeys, TenantKeys
from vaultd.crypto.kdf import CHEAPEST
from vaultd.crypto.slots import SlotKind, open_slot
from vaultd.crypto.values import Envelope
from vaultd.errors import Conflict, IntegrityError, NotFound, Sealed
from vaultd.names import secret_name, tenant_name
from vaultd.store import MemoryStore
from vaultd.vault import entries
from vaultd.vault.keyring import SYSTEM, KeyringFile
from vaultd.vault.rotation import finish

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from vaultd.crypto.memory import Key

KEY = secret_name("openai/prod")


@pytest.fixture
def world() -> BarrierWorld:
    world = BarrierWorld()
    world.barrier.add_service({"name": "agent", "uid": 1000}, actor=ADMIN)
    for name in ("acme", "beta"):
        world.tenant(name)
        for number in range(40):
            world.put(name, f"k/{number}", f"{name} {number}".encode() * (number + 1))
        world.put(name, "k/1", b"second")
        world.barrier.add_grant(name, {"id": f"grant_{name}", "service": "agent", "secrets": ["**"]}, actor=ADMIN)
    world.flush()
    return world


def files(world: BarrierWorld) -> dict[str, bytes]:
    assert isinstance(world.store, MemoryStore)
    return world.store.disk.files()


def root_of(keyring: bytes, text: bytes = PASSPHRASE) -> Key:
    """The root key that a copy of a keyring gives to who knows a slot's secret."""
    (slot,) = KeyringFile.decode(keyring).keyring.slots
    with passphrase(text) as given:
        return open_slot(slot, given, minimum=CHEAPEST)


def interleaved(slices: Generator[None, None, Any], others: Callable[[int], object]) -> Any:
    """Run a rotation with somebody else's work between any two slices."""
    step = 0
    while True:
        try:
            next(slices)
        except StopIteration as end:
            return end.value
        others(step)
        step += 1


def test_rotating_a_tenant_changes_no_value(world: BarrierWorld) -> None:
    """Every version of every secret reads as before, at once and after a restart; states and facts stay."""
    values, states = world.values(), world.states("acme", "k/1")
    world.rotate_tenant("acme")
    for _ in range(2):
        assert world.values() == values
        assert world.states("acme", "k/1") == states
        assert world.barrier.tenant_facts("acme").generation == 2
        assert "grant_acme" in world.barrier.grants("acme")
        world = world.reopen()


def test_rotating_a_tenant_replaces_its_file(world: BarrierWorld) -> None:
    """The old generation's log is gone from the disk, the new one there; other tenants' files are untouched."""
    acme, beta = world.barrier.uid("acme").hex(), world.barrier.uid("beta").hex()
    before = files(world)[f"tenants/{beta}/log.1"]
    world.rotate_tenant("acme")
    names = files(world)
    assert f"tenants/{acme}/log.2" in names
    assert f"tenants/{acme}/log.1" not in names
    assert names[f"tenants/{beta}/log.1"] == before


def test_the_old_tenant_key_opens_nothing_written_since(world: BarrierWorld) -> None:
    """I8: no wrap, no record and no new value of the new generation opens under the rotated key."""
    ledger, uid = world.barrier.ledger, world.barrier.uid("acme")
    entry = ledger.keyring.entry(uid)
    assert entry is not None
    with entries.tenant_key(ledger.vault_id, entry, ledger.root_keys) as key:
        old = TenantKeys(key)
    world.rotate_tenant("acme")
    world.put("acme", KEY, b"later")
    opened = world.barrier.tenant("acme")
    for generation in (1, 2):
        envelope = Envelope(ledger.vault_id, uid, generation, old.data_key)
        for secret in opened.state.secrets.values():
            for version in secret.versions.values():
                if version.ref is not None:
                    with pytest.raises(IntegrityError):
                        envelope.open(secret.id, version.number, opened.log.read_attachment(version.ref))


def test_the_old_root_key_opens_nothing_written_since(world: BarrierWorld) -> None:
    """I8: under the rotated root no entry, slot's public key, checkpoint key, keyring or anchor of now verifies."""
    old_root = root_of(files(world)["keyring"])
    world.rotate_root()
    new_root = root_of(files(world)["keyring"])
    assert old_root != new_root
    file = KeyringFile.decode(files(world)["keyring"])
    with RootKeys(old_root) as keys:
        with pytest.raises(IntegrityError):
            file.verify(keys.anchor)
        for entry in file.keyring:
            with pytest.raises(IntegrityError):
                entries.tenant_key(file.keyring.vault_id, entry, keys)
            with pytest.raises(IntegrityError):
                entries.audit_private(file.keyring.vault_id, entry, keys)
        with pytest.raises(IntegrityError):
            entries.open_checkpoint_seed(file.keyring.vault_id, keys, file.keyring.wrapped_checkpoint)


def test_rotating_the_root_changes_no_value(world: BarrierWorld) -> None:
    """Every slot still opens with its secret, every value reads as before, and no tenant's file is written."""
    values, before = world.values(), files(world)
    world.rotate_root()
    for _ in range(2):
        assert world.values() == values
        world = world.reopen()
    logs = {path: data for path, data in files(world).items() if path.startswith("tenants/")}
    assert logs == {path: data for path, data in before.items() if path.startswith("tenants/")}
    assert json.loads(world.barrier.checkpoint().splitlines()[1]) > 0


def test_rotations_repeat(world: BarrierWorld) -> None:
    """Any mix of rotations, one after another and over restarts, keeps every value."""
    values = world.values()
    rng = random.Random(1)
    for _ in range(12):
        which = rng.choice(["root", "acme", "beta"])
        world.rotate_root() if which == "root" else world.rotate_tenant(which)
        if rng.random() < 0.3:
            world = world.reopen()
    assert world.values() == values


def test_changes_meanwhile_are_carried_over(world: BarrierWorld) -> None:
    """Puts, deletes, a name used again, destroyed versions and grants between any two slices are in the result."""
    model = world.values()["acme"]

    def others(step: int) -> None:
        name = f"k/{step % 7}"
        match step % 5:
            case 0:
                number = world.put("acme", name, b"put %d" % step)
                model.setdefault(name, {})[number] = b"put %d" % step
            case 1:
                world.barrier.delete("acme", secret_name("k/39"), actor=ADMIN) if "k/39" in model else None
                model["k/39"] = {world.put("acme", "k/39", b"again"): b"again"} if "k/39" in model else {}
            case 2:
                number = world.put("acme", "k/30", b"x")
                world.barrier.destroy("acme", secret_name("k/30"), number - 1, actor=ADMIN)
                model["k/30"].pop(number - 1)
                model["k/30"][number] = b"x"
            case 3:
                grant = {"id": f"grant_{step}", "service": "agent", "secrets": ["a"]}
                world.barrier.add_grant("acme", grant, actor=ADMIN)
                world.barrier.remove_grant("acme", f"grant_{step}", actor=ADMIN)
            case 4:
                world.get("acme", name)
        world.flush()

    steps = []
    result = interleaved(
        world.barrier.rotate_tenant("acme", actor=ADMIN), lambda step: (steps.append(step), others(step))
    )
    world.flush()
    assert len(steps) >= 3, "it did let others through"
    assert result.generation == 2
    for _ in range(2):
        assert world.values()["acme"] == model
        assert list(world.barrier.grants("acme")) == ["grant_acme"]
        world = world.reopen()


def test_a_secret_changed_all_the_time_does_not_keep_a_rotation_from_ending(world: BarrierWorld) -> None:
    """Somebody who changes many secrets in every pause delays a rotation by a bounded number of passes."""
    count = [0]

    def others(step: int) -> None:
        count[0] += 1
        for number in range(0, 40, 4):
            world.put("acme", f"k/{number}", b"%d" % step)

    interleaved(world.barrier.rotate_tenant("acme", actor=ADMIN), others)
    world.flush()
    assert count[0] < 500
    assert world.reopen().get("acme", "k/8").isdigit()


def test_root_rotation_carries_over_tenants(world: BarrierWorld) -> None:
    """Tenants that are made, deleted or rotated while the root is being rotated come out under the new root."""
    for number in range(60):
        world.tenant(f"t{number}")

    def others(step: int) -> None:
        world.tenant(f"new{step}")
        world.put(f"new{step}", KEY, b"n")
        world.barrier.delete_tenant(f"t{step}", actor=ADMIN, with_audit=step % 2 == 0)
        world.barrier.delete_tenant(f"t{30 + step}", actor=ADMIN, with_audit=step % 2 == 0)
        world.rotate_tenant(f"t{59 - step}")
        world.rotate_tenant("acme")

    interleaved(world.barrier.rotate_root(actor=ADMIN), others)
    world.flush()
    names = {facts.name for facts in world.barrier.tenants()}
    world = world.reopen()
    assert {facts.name for facts in world.barrier.tenants()} == names
    assert all(world.get(name, KEY) == b"n" for name in names if name.startswith("new"))
    assert world.get("acme", "k/3") == b"acme 3" * 4


def test_two_at_once_are_a_conflict(world: BarrierWorld) -> None:
    """A second rotation of the same key is refused while one is under way, and runs once that ended or was given up."""
    first = world.barrier.rotate_root(actor=ADMIN)
    next(first)
    with pytest.raises(Conflict, match="under way"):
        finish(world.barrier.rotate_root(actor=ADMIN))
    tenant = world.barrier.rotate_tenant("acme", actor=ADMIN)
    next(tenant)
    with pytest.raises(Conflict, match="under way"):
        finish(world.barrier.rotate_tenant("acme", actor=ADMIN))
    finish(world.barrier.rotate_tenant("beta", actor=ADMIN))
    finish(first)
    tenant.close()
    world.rotate_root()
    world.rotate_tenant("acme")
    assert world.reopen().get("acme", "k/3") == b"acme 3" * 4


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_rotation_given_up_leaves_no_trace(world: BarrierWorld, steps: int) -> None:
    """One that is dropped between two slices changes neither the disk nor what is served."""
    for number in range(60):
        world.tenant(f"t{number}")
    before = files(world)
    for slices in (world.barrier.rotate_tenant("acme", actor=ADMIN), world.barrier.rotate_root(actor=ADMIN)):
        for _ in range(steps):
            next(slices)
        slices.close()
    world.flush()
    assert files(world) == before
    assert world.put("acme", "k/3", b"new") == 2
    assert world.barrier.tenant_facts("acme").generation == 1


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("deed", ["seal tenant", "delete", "seal vault"])
def test_a_rotation_ends_with_its_tenant(world: BarrierWorld, deed: str, steps: int) -> None:
    """A tenant that is sealed or deleted, or a vault that is sealed, ends a rotation under way with a conflict."""
    slices = [world.barrier.rotate_tenant("acme", actor=ADMIN)]
    if deed == "seal vault":
        for number in range(40):
            world.tenant(f"t{number}")
        slices.append(world.barrier.rotate_root(actor=ADMIN))
    for generator in slices:
        for _ in range(steps):
            next(generator, None)
    match deed:
        case "seal tenant":
            world.barrier.seal_tenant("acme", actor=ADMIN)
        case "delete":
            world.barrier.delete_tenant("acme", actor=ADMIN)
        case "seal vault":
            world.barrier.seal(actor=ADMIN)
    for generator in slices:
        with pytest.raises((Conflict, Sealed, NotFound)):
            finish(generator)
    world = world.reopen()
    if deed == "delete":
        with pytest.raises(NotFound):
            world.barrier.uid("acme")
        return
    world.barrier.unseal_tenant("acme", actor=ADMIN)
    assert world.get("acme", "k/3") == b"acme 3" * 4
    assert world.barrier.tenant_facts("acme").generation == 1


def test_compaction_frees_what_is_dead(world: BarrierWorld) -> None:
    """Replaced values beyond the kept ones make a tenant wasteful; compacting shrinks the file and keeps the rest."""
    assert world.barrier.wasteful() == []
    for number in range(60):
        world.put("acme", "big", b"%d" % number * 40_000, grace=0)
    uid = world.barrier.uid("acme")
    assert world.barrier.wasteful() == [uid]
    slices = world.barrier.compact_tenant("acme")
    next(slices)
    assert world.barrier.wasteful() == [], "it is under way already"
    result = finish(slices)
    world.flush()
    assert result.after < result.before / 3
    assert world.barrier.wasteful() == []
    world = world.reopen()
    assert world.get("acme", "big") == b"59" * 40_000
    assert world.get("acme", "big", 50) == b"49" * 40_000
    with pytest.raises(NotFound):
        world.get("acme", "big", 49)


def test_a_destroyed_value_is_gone_from_the_file_after_rotation(world: BarrierWorld) -> None:
    """The bytes of a destroyed version are in the log until the tenant is rotated, and in no file afterwards."""
    world.put("acme", KEY, b"doomed" * 30)
    opened = world.barrier.tenant("acme")
    ref = opened.state.secret(KEY).version(1).ref
    assert ref is not None
    sealed = opened.log.read_attachment(ref)
    world.put("acme", KEY, b"next")
    world.barrier.destroy("acme", KEY, 1, actor=ADMIN)
    world.flush()
    assert any(sealed in data for data in files(world).values())
    world.rotate_tenant("acme")
    # Rotation leaves a value's own seal as it is, so its absence means that it is gone, not that it has other bytes.
    assert not any(sealed[104:] in data for data in files(world).values())


def test_the_system_keeps_its_entry(world: BarrierWorld) -> None:
    """Services, links and names survive every rotation of the root."""
    world.rotate_root()
    world = world.reopen()
    assert world.barrier.services() == {"agent": {"name": "agent", "uid": 1000}}
    assert world.barrier.linked("agent", world.barrier.uid("beta"))
    assert world.barrier.ledger.keyring.entry(SYSTEM) is not None


def test_a_secret_larger_than_a_record_rotates(world: BarrierWorld) -> None:
    """A secret whose values do not fit one record comes out whole, also when it changes while it is copied."""
    for number in range(4):
        world.put("acme", "huge", bytes([number + 1]) * 300_000)
    world.put("acme", "huge", b"small")
    changed = []

    def others(step: int) -> None:
        changed.append(world.put("acme", "huge", b"changed %d" % step))

    interleaved(world.barrier.rotate_tenant("acme", actor=ADMIN), others)
    world.flush()
    assert len(changed) >= 3
    for _ in range(2):
        assert world.get("acme", "huge") == b"changed %d" % (len(changed) - 1)
        assert world.get("acme", "huge", 5) == b"small"
        for number in range(4):
            assert world.get("acme", "huge", number + 1) == bytes([number + 1]) * 300_000
        world = world.reopen()


def test_the_system_s_log_is_compacted(world: BarrierWorld) -> None:
    """Runs that came and went leave the file, what there is stays, and what comes meanwhile is carried over."""
    barrier = world.barrier
    assert barrier.compaction() is None
    for number in range(3000):
        run = {"id": f"run_{number}", "scope": ["openai/*"] * 20}
        barrier.keep_runs(Event("run.open", "ok", ADMIN), keep=[run])
        barrier.keep_runs(Event("run.close", "ok", ADMIN), drop=[f"run_{number}"] if number % 100 else [])
    world.flush()
    slices = barrier.compaction()
    assert slices is not None

    def others(step: int) -> None:
        barrier.keep_runs(Event("run.open", "ok", ADMIN), keep=[{"id": f"run_new{step}"}], drop=[f"run_{step * 100}"])
        barrier.add_service({"name": f"s{step}", "uid": step}, actor=ADMIN)
        if step == 1:
            world.tenant("gamma")
            world.rotate_root()
            assert barrier.compaction() is None, "it is under way"

    result = interleaved(slices, others)
    world.flush()
    assert result.after < result.before / 10
    assert barrier.compaction() is None
    runs, services = dict(barrier.runs()), dict(barrier.services())
    assert {"run_new0", "run_new1", "run_2900"} <= set(runs)
    assert "run_0" not in runs
    for _ in range(2):
        world = world.reopen()
        assert (world.barrier.runs(), world.barrier.services()) == (runs, services)
        assert {facts.name for facts in world.barrier.tenants()} == {"acme", "beta", "gamma"}
        assert world.get("acme", "k/3") == b"acme 3" * 4
        assert [path for path in files(world) if path.startswith("system/")] == ["system/log.2"]
        world.put("acme", "k/3", b"acme 3" * 4)


def test_a_long_system_log_of_live_runs_is_compacted_once(world: BarrierWorld) -> None:
    """Where all of a log is needed, however long its records are, compacting it again and again gains nothing."""
    barrier = world.barrier
    for number in range(100):
        run = {"id": f"run_{number}", "scope": ["openai/" + "x" * 500] * 60}
        barrier.keep_runs(Event("run.open", "ok", ADMIN), keep=[run])
    world.flush()
    slices = barrier.compaction()
    assert slices is not None
    finish(slices)
    world.flush()
    assert len(barrier.runs()) == 100
    assert barrier.compaction() is None


def test_an_empty_tenant_rotates(world: BarrierWorld) -> None:
    """A tenant without any secret or grant gets its new key as well."""
    world.tenant("empty")
    world.rotate_tenant("empty")
    world = world.reopen()
    assert world.barrier.tenant_facts("empty").generation == 2
    assert world.put("empty", KEY, b"1") == 1
    world.barrier.create_tenant(tenant_name("other"), actor=ADMIN)


def test_slots_open_the_new_root(world: BarrierWorld) -> None:
    """A slot that was added is boxed anew by a rotation without its secret, and opens the vault afterwards."""
    with passphrase(b"another one") as given:
        slot = world.barrier.slot_maker(given, SlotKind.PASSPHRASE, "second", profile=CHEAPEST)()
    world.barrier.add_slot(slot, actor=ADMIN)
    world.flush()
    world.rotate_root()
    world.barrier.seal(actor=ADMIN)
    world.unseal(b"another one")
    assert world.get("acme", "k/3") == b"acme 3" * 4
