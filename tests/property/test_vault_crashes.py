"""I7 and I8 for the whole vault: after any crash, and any error of the disk, each change is wholly there or not at all.

A run is a list of changes made through the barrier, with a flush after some. The model is the list of pictures of the
vault after each change; what a crashed disk opens as must be one of those from the last acknowledged one on.
"""

from __future__ import annotations

import errno
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.barrier_world import ADMIN, BarrierWorld, passphrase
from vaultd.audit.body import Event
from vaultd.crypto.memory import SecretBytes
from vaultd.errors import Conflict, Exists, Halted, NotFound, Sealed, StoreError
from vaultd.names import secret_name, tenant_name
from vaultd.store import Fault, MemoryStore, PowerCut
from vaultd.vault.barrier import Barrier
from vaultd.vault.rotation import finish

Picture = dict[str, Any]

REFUSALS = (Conflict, Exists, NotFound, Sealed)


def picture(barrier: Barrier) -> Picture:
    """Everything that the vault holds, values included, read past the receipts."""
    names = {facts.uid: facts.name for facts in barrier.tenants()}
    tenants = {}
    for uid, name in names.items():
        if uid in barrier.system.sealed:
            tenants[name] = "sealed"
            continue
        opened = barrier.tenant(uid)
        secrets = {}
        for secret in opened.state.secrets.values():
            versions = {}
            for number, version in secret.versions.items():
                value = b""
                if version.ref is not None:
                    attachment = opened.log.read_attachment(version.ref)
                    with opened.envelope.open(secret.id, number, attachment) as opened_value:
                        value = bytes(opened_value.view())
                versions[number] = (version.phase, version.until, value)
            secrets[secret.name] = (secret.id, secret.current, secret.description, versions)
        tenants[name] = (secrets, dict(opened.state.grants))
    links = {name: {names[uid] for uid in uids if uid in names} for name, uids in barrier.system.links.items()}
    return {
        "tenants": tenants,
        "services": dict(barrier.system.services),
        "links": {name: tenants for name, tenants in links.items() if tenants},
        "runs": dict(barrier.system.runs),
    }


class Run:
    """A vault under changes, and the pictures of it."""

    def __init__(self, seed: int) -> None:
        self.world = BarrierWorld(seed=seed)
        self.rng = random.Random(seed)
        self.world.barrier.add_service({"name": "agent", "uid": 1000}, actor=ADMIN)
        for name in ("acme", "beta"):
            self.world.tenant(name)
            for number in range(3):
                self.world.put(name, f"k/{number}", f"{name} {number}".encode())
        self.world.flush()
        self.pictures = [picture(self.world.barrier)]
        self.acknowledged = 0

    @property
    def store(self) -> MemoryStore:
        assert isinstance(self.world.store, MemoryStore)
        return self.world.store

    def change(self, which: int) -> None:
        """Stage one change of some kind; refusals are fine."""
        barrier, rng = self.world.barrier, self.rng
        tenant = tenant_name(rng.choice(["acme", "beta", "new"]))
        name = secret_name(f"k/{rng.randrange(4)}")
        try:
            match which:
                case 0 | 1 | 2:
                    with SecretBytes.copy_of(rng.randbytes(rng.choice([1, 60, 3000]))) as value:
                        barrier.put(tenant, name, value, actor=ADMIN, grace=rng.choice([0, 60]), description=str(which))
                case 3:
                    barrier.delete(tenant, name, actor=ADMIN)
                case 4:
                    barrier.rollback(tenant, name, 1, actor=ADMIN)
                case 5:
                    barrier.destroy(tenant, name, 1, actor=ADMIN)
                case 6:
                    grant = {"id": f"grant_{rng.randrange(3)}", "service": "agent", "secrets": ["**"]}
                    barrier.add_grant(tenant, grant, actor=ADMIN)
                case 7:
                    barrier.remove_grant(tenant, f"grant_{rng.randrange(3)}", actor=ADMIN)
                case 8:
                    barrier.create_tenant(tenant, actor=ADMIN)
                case 9:
                    barrier.delete_tenant(tenant, actor=ADMIN, with_audit=rng.random() < 0.5)
                case 10:
                    finish(barrier.rotate_tenant(tenant, actor=ADMIN))
                case 11:
                    finish(barrier.rotate_root(actor=ADMIN))
                case 12:
                    barrier.seal_tenant(tenant, actor=ADMIN)
                case 13:
                    barrier.unseal_tenant(tenant, actor=ADMIN)
                case 14:
                    finish(barrier.compact_system())
                case _:
                    run = {"id": f"run_{rng.randrange(2)}", "n": rng.randrange(9)}
                    event = Event("run.open", "ok", ADMIN)
                    barrier.keep_runs(event, keep=[run], drop=[f"run_{rng.randrange(2)}"])
        except REFUSALS:
            return
        self.pictures.append(picture(barrier))

    def flush(self) -> None:
        self.world.flush()
        self.acknowledged = len(self.pictures) - 1

    def holds(self, store: MemoryStore) -> BarrierWorld:
        """Open what was found, and hold it against the pictures."""
        reopened = BarrierWorld(store, seed=1, clock=self.world.clock)
        found = picture(reopened.barrier)
        assert found in self.pictures[self.acknowledged :], "neither an acknowledged state nor a later one"
        return reopened


CHANGES = st.lists(st.tuples(st.integers(0, 15), st.booleans()), min_size=1, max_size=12)


@settings(deadline=None, max_examples=120)
@given(CHANGES, st.integers(0, 1 << 30), st.integers(1, 120))
def test_power_cut_anywhere(changes: list[tuple[int, bool]], seed: int, at: int) -> None:
    """I7: power is cut at any step of any flush; what is found is the acknowledged state or a later one, and works."""
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
    for image in range(2):
        reopened = run.holds(run.store.crash(random.Random(seed + image)))
        if "after" not in {facts.name for facts in reopened.barrier.tenants()}:
            reopened.tenant("after")
        reopened.put("after", "k", b"works on")
        assert reopened.reopen().get("after", "k") == b"works on"


@settings(deadline=None, max_examples=60)
@given(
    CHANGES,
    st.integers(0, 1 << 30),
    st.integers(1, 60),
    st.sampled_from([errno.EIO, errno.ENOSPC, errno.EROFS]),
    st.booleans(),
)
def test_an_error_anywhere(changes: list[tuple[int, bool]], seed: int, at: int, error: int, repeat: bool) -> None:
    """I7: any step fails, once or for good: nothing is acknowledged from then on, and what is reopened is a state."""
    run = Run(seed)
    run.store.arm(Fault(at, error, repeat=repeat))
    failed = False
    for which, flush in changes:
        try:
            run.change(which)
            if flush:
                run.flush()
                assert not failed, "acknowledged after an error"
        except (StoreError, Halted):
            failed = True
    run.store.disk.arm(None)
    if failed:
        with pytest.raises(Halted):
            run.world.barrier.record(Event("secret.get", "denied", ADMIN))
    run.holds(run.store.crash(random.Random(seed)))


@pytest.mark.parametrize("kind", ["tenant", "root"])
def test_a_crash_at_every_step_of_a_rotation(kind: str) -> None:
    """I8: wherever power is cut, the vault opens with every value unchanged, wholly old or wholly new."""
    generations = set()
    for at in range(1, 60):
        run = Run(seed=at)
        before = run.world.barrier.ledger.keyring
        run.store.arm(Fault(at))
        try:
            if kind == "tenant":
                run.world.rotate_tenant("acme")
            else:
                run.world.rotate_root()
        except PowerCut:
            pass
        else:
            assert run.store.disk.fired == 0
            break
        for image in range(3):
            reopened = run.holds(run.store.crash(random.Random(at * 10 + image)))
            entry = reopened.barrier.ledger.keyring.entry(reopened.barrier.uid("acme"))
            old = before.entry(reopened.barrier.uid("acme"))
            assert entry is not None
            generations.add(entry == old)
            if kind == "root" and entry == old:
                assert reopened.barrier.ledger.keyring == before
    else:
        pytest.fail("the rotation has no end")
    assert generations == {True, False}, "some cuts leave the old, some the new"


def test_a_crash_at_every_step_of_a_deletion() -> None:
    """Wherever power is cut, a tenant is wholly there or wholly gone, links included."""
    seen = set()
    for at in range(1, 60):
        run = Run(seed=at)
        grant = {"id": "grant_1", "service": "agent", "secrets": ["**"]}
        run.world.barrier.add_grant("acme", grant, actor=ADMIN)
        run.pictures.append(picture(run.world.barrier))
        run.flush()
        run.store.arm(Fault(at))
        run.world.barrier.delete_tenant("acme", actor=ADMIN)
        run.pictures.append(picture(run.world.barrier))
        try:
            run.flush()
        except PowerCut:
            pass
        else:
            break
        for image in range(3):
            reopened = run.holds(run.store.crash(random.Random(at * 10 + image)))
            there = {facts.name for facts in reopened.barrier.tenants()}
            seen.add("acme" in there)
            if "acme" not in there:
                assert reopened.barrier.system.links == {}
    else:
        pytest.fail("the deletion has no end")
    assert seen == {True, False}


def test_unacknowledged_changes_do_not_come_back_with_a_wrong_secret() -> None:
    """A crash followed by a failed try to unseal repairs nothing wrongly: the next right one finds a state."""
    run = Run(seed=4)
    run.store.arm(Fault(7))
    try:
        for which in (0, 10, 0, 11):
            run.change(which)
            run.flush()
    except PowerCut:
        pass
    store = run.store.crash(random.Random(3))
    barrier = Barrier.open(store, run.world.clock)
    with passphrase(b"wrong") as given, pytest.raises(Exception, match=r"no key slot|below the accepted"):
        barrier.derive(given, barrier.slots()[0].kind)
    barrier.close()
    run.holds(store)
