"""Which runs are kept, what is dropped with which record, and for what reasons a kept run does not come back."""

from __future__ import annotations

import errno
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.barrier_world import ADMIN, PASSPHRASE
from tests.support.kept_world import KeptWorld
from vaultd.audit.body import Event
from vaultd.errors import Halted, StoreError
from vaultd.store import Fault, MemoryStore

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def world() -> KeptWorld:
    """A fresh vault and nothing in it."""
    return KeptWorld()


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that leads its own session and lives until it is told to end."""
    process = subprocess.Popen(["sleep", "100"], start_new_session=True)
    yield process
    end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def kept(world: KeptWorld) -> set[str]:
    return set(world.vault.barrier.runs())


def test_opened_is_kept_and_ended_is_dropped_with_one_line_each(world: KeptWorld) -> None:
    """Opening and ending are a line each, which vouches for the log; other records cost the log nothing."""
    world.vault.flush()
    size, lines = world.vault.barrier.ledger.system_log.size, len(world.vault.bodies("acme"))
    run = world.open()
    assert kept(world) == {run.id}
    world.charge(run, world.grant())
    opened = world.vault.barrier.ledger.system_log.size
    world.close(run)
    world.vault.flush()
    assert not kept(world)
    assert len(world.vault.bodies("acme")) == lines + 3
    assert size < opened < world.vault.barrier.ledger.system_log.size


def test_implicit_runs_are_not_kept(world: KeptWorld) -> None:
    """What is opened for one lease outside a run ends with the daemon: it has no token to come back with."""
    run = world.open()
    world.close(run)
    run.implicit = run.live = True
    world.record(Event("run.open", "ok", ADMIN), world.acme, keep=[run])
    assert world.kept.charged(run, world.grant(max_uses=1)) == ()
    assert not kept(world)


def test_seal_and_unseal_bring_nothing_back(world: KeptWorld) -> None:
    """Sealing drops the kept runs with its own record; a record of a sealed vault is the journal's alone."""
    world.open()
    world.close(*world.book.runs.all(world.now()))
    world.vault.barrier.seal(actor=ADMIN)
    assert world.kept.record(Event("run.ended", "ok", ADMIN), None, (), ()) is None
    world.vault.unseal(PASSPHRASE)
    assert world.kept.restore() == (0, 0)


@pytest.mark.parametrize("reason", ["expired", "tenant-sealed", "tenant-deleted", "anchor-died", "service-removed"])
def test_why_a_kept_run_is_over(world: KeptWorld, child: subprocess.Popen[bytes], reason: str) -> None:
    """Each reason is recorded, in the tenant's trail where there is one, and the run is kept no longer."""
    run = world.open(child.pid)
    barrier = world.vault.barrier
    match reason:
        case "tenant-sealed":
            barrier.seal_tenant("acme", actor=ADMIN)
        case "tenant-deleted":
            barrier.delete_tenant("acme", actor=ADMIN)
        case "service-removed":
            barrier.remove_service("agent", actor=ADMIN)
        case "anchor-died":
            end(child)
    after = world.after(world.vault.reopen(), ahead=run.expires if reason == "expired" else 0)
    assert after.restored == (0, 1)
    assert after.ends() == [(reason, 1)]
    assert not kept(after)
    assert not after.book.runs.all(after.now())


def test_what_cannot_be_watched_does_not_go_on(world: KeptWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of descriptors, a run whose anchor may live is ended: nobody would hear of its anchor's end."""
    run = world.open()
    world.close(world.open(confined=True))

    def full(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("vaultd.daemon.kept.reidentify", full)
    after = world.after(world.vault.reopen())
    assert after.ends() == [("not-identified", 1)]
    assert after.book.runs.confines(run.anchor)  # to be freed wrongly would be worse than to stay confined too long


def test_a_confined_process_is_kept_for_its_life(world: KeptWorld, child: subprocess.Popen[bytes]) -> None:
    """Under its number, once, however many runs it had; over restarts; and dropped with the next record after it."""
    for _ in range(3):
        world.close(world.open(child.pid, confined=True))
    name = f"process_{child.pid}"
    assert kept(world) == {name}
    world = world.after(world.vault.reopen())
    assert kept(world) == {name}
    (process,) = world.watched
    assert world.book.runs.confines(process)
    run = world.open(confined=False)
    assert kept(world) == {name, run.id}
    end(child)
    world.book.runs.process_died(process)
    world.close(run)
    assert kept(world) == {name}  # it led its session, and may have left others in it
    world.book.runs.forget_session(child.pid)
    run = world.open()
    assert kept(world) == {run.id}


def test_nobody_left_nobody_confined(world: KeptWorld, child: subprocess.Popen[bytes]) -> None:
    """A confined process that ended while the daemon was away, alone in its session, is forgotten at unsealing."""
    world.close(world.open(child.pid, confined=True))
    end(child)
    after = world.after(world.vault.reopen())
    assert not kept(after)
    assert not after.book.runs.confining
    assert after.restored == (0, 0)


def test_a_halted_vault_keeps_nothing(world: KeptWorld) -> None:
    """After a failed flush an end cannot be recorded, and says so; in memory it has ended."""
    run = world.open()
    world.vault.flush()
    assert isinstance(world.vault.store, MemoryStore)
    world.vault.store.arm(Fault(1, errno.EIO, repeat=True))
    world.open()
    with pytest.raises(StoreError):
        world.vault.flush()
    with pytest.raises(Halted):
        world.close(run)
    assert not run.live
    world.kept.keep_counts()  # says nothing: there is nothing left to do


def test_a_use_is_kept_apart_from_the_run(world: KeptWorld) -> None:
    """A bounded acquisition keeps what was used and not the run again, until that is kept or dropped itself."""
    run = world.open()
    size = world.vault.barrier.ledger.system_log.size
    world.charge(run, world.grant(max_uses=9))
    assert kept(world) == {run.id, f"uses_{run.id}"}
    assert world.vault.barrier.runs()[run.id]["total"] == 0
    assert world.vault.barrier.ledger.system_log.size - size < 300
    world.record(Event("run.claim", "ok", ADMIN), world.acme, keep=[run])
    assert kept(world) == {run.id}
    assert world.vault.barrier.runs()[run.id]["total"] == 1
    world.charge(run, world.grant(max_uses=9))
    world.close(run)
    assert not kept(world)


@pytest.mark.parametrize("change", [{"uses": []}, {"total": None}, {"run": "run_other"}, {"held": 7}])
def test_a_run_whose_uses_cannot_be_read_is_over(world: KeptWorld, change: dict[str, object]) -> None:
    """Going on without them would give uses back; nor is anything of it left to stumble over."""
    run = world.open()
    world.charge(run, world.grant(max_uses=9))
    spoilt = {**world.vault.barrier.runs()[f"uses_{run.id}"], **change}
    world.vault.barrier.keep_runs(Event("lease.acquire", "ok", ADMIN), tenant=world.acme, keep=[spoilt])
    after = world.after(world.vault.reopen())
    assert {reason for reason, _ in after.ends()} == {"malformed"}
    assert not kept(after)
    assert after.restored.runs == 0


class TestChildRuns:
    """Runs in runs over a restart."""

    def test_a_tree_goes_on_or_ends_from_where_it_broke(self, world: KeptWorld, child: subprocess.Popen[bytes]) -> None:
        """The middle's process ended meanwhile: it and what is below are over on one record, the rest goes on."""
        top = world.open()
        middle = world.open(child.pid, parent=top)
        low, beside = world.open(parent=middle), world.open(parent=top)
        end(child)
        after = world.after(world.vault.reopen())
        assert after.restored == (2, 2)
        assert after.ends() == [("anchor-died", 2)]
        assert kept(after) == {top.id, beside.id}
        back = after.book.runs.get(beside.id, after.now())
        assert back is not None
        assert back.above is after.book.runs.get(top.id, after.now())
        assert after.book.runs.get(low.id, after.now()) is None

    def test_an_orphan_never_comes_back(self, world: KeptWorld) -> None:
        """A kept child whose parent is not kept any more is over, though its process lives."""
        top = world.open()
        world.open(parent=top)
        world.vault.barrier.keep_runs(Event("run.close", "ok", ADMIN), tenant=world.acme, drop=[top.id])
        after = world.after(world.vault.reopen())
        assert after.ends() == [("parent-ended", 1)]
        assert not kept(after)

    def test_a_child_beyond_its_parent_does_not_come_back(self, world: KeptWorld) -> None:
        """What is read is held against the parent again, whoever wrote it."""
        low = world.open(parent=world.open(ttl=100), ttl=100)
        wider = {**world.vault.barrier.runs()[low.id], "expires": low.expires + 1}
        world.vault.barrier.keep_runs(Event("run.open", "ok", ADMIN), tenant=world.acme, keep=[wider])
        after = world.after(world.vault.reopen())
        assert after.ends() == [("malformed", 1)]
        assert after.restored == (1, 1)

    def test_what_is_bounded_is_counted_in_every_run_above(self, world: KeptWorld) -> None:
        """An acquisition under a bounded grant, or below a run with a budget, is kept of the whole lineage at once."""
        top = world.open(uses=5)
        low = world.open(parent=world.open(parent=top))
        for grant in (world.grant(max_uses=3), world.grant()):
            world.charge(low, grant)
        after = world.after(world.vault.reopen())
        assert [run.total for run in after.book.runs.all(after.now())] == [2, 2, 2]
        assert {run.uses_left for run in after.book.runs.all(after.now())} == {3}

    def test_all_below_is_dropped_with_one_line(self, world: KeptWorld) -> None:
        """Ending the first run drops the whole tree with the record of it."""
        top = world.open()
        for _ in range(3):
            world.open(parent=world.open(parent=top))
        world.vault.flush()
        lines = len(world.vault.bodies("acme"))
        world.close(top)
        world.vault.flush()
        assert not kept(world)
        assert len(world.vault.bodies("acme")) == lines + 1
