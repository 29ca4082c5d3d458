"""A table of runs that was written down and read again is the one that it was before."""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.access_world import ACME, GLOBEX, World
from vaultd.access.book import Book
from vaultd.access.facts import Process
from vaultd.access.kept import Confined, Used, kept_run, parents_first, restored_run
from vaultd.access.quotas import Limits
from vaultd.access.run import Run
from vaultd.errors import Invalid, VaultdError
from vaultd.vault.codec import pack, unpack

UIDS = [1000, 2000]
PIDS = [50, 60, 70]
BOOT = "2f1c3d"
LIMITS = Limits(runs_per_uid=12)


def everything(world: World) -> dict[str, Any]:
    """All that the table answers by, in its own words."""
    runs, now = world.book.runs, world.now
    return {
        "runs": {run.id: run.to_dict() for run in runs.all(now)},
        "trees": {run.id: ([one.id for one in run.lineage()], set(run.below)) for run in runs.all(now)},
        "tenants": {tenant: {run.id for run in runs.of_tenant(tenant, now)} for tenant in (ACME, GLOBEX)},
        "uids": {uid: {run.id for run in runs.of_uid(uid, now)} for uid in UIDS},
        "anchors": {
            pid: {run.id for uid in UIDS for run in runs.anchored(world.peer(uid, pid).process)} for pid in PIDS
        },
        "confined": {pid for pid in PIDS if runs.confines(world.peer(1000, pid).process)},
        "sessions": {pid for pid in PIDS if runs.confines_session(pid)},
        "left": runs.left,
        "deadline": runs.next_deadline(),
    }


def restored(world: World) -> World:
    """Another table, from what is kept of this one."""
    after = World()
    after.book = Book(LIMITS, random.Random(8).randbytes)  # other ids than before
    after.now, after.grants = world.now, world.grants
    kept: dict[str, dict[str, Any]] = {}
    for run in world.book.runs.all(world.now):
        held = [(lease.secret_id, lease.version) for lease in world.book.leases.of_run(run, world.now)]
        kept[run.id] = unpack(pack(kept_run(run, BOOT, held)))
        assert restored_run(kept[run.id]).anew == Counter(held)
        # What it has used may be all that was kept since it was opened.
        early = restored_run({**kept[run.id], "uses": {}, "total": 0, "held": []})
        Used.from_dict(unpack(pack(Used.kept(run, held)))).give_to(early)
        assert early.to_dict() == restored_run(kept[run.id]).to_dict()
        assert early.anew == Counter(held)
    mixed = dict(random.Random(len(kept)).sample(sorted(kept.items()), len(kept)))
    for _, raw in parents_first(mixed):
        run = restored_run(raw)
        assert run.anchor.boot_id == BOOT
        run.anchor = run.anchor._replace(boot_id="")
        after.book.runs.restore(run)
    return after


@settings(max_examples=150)
@example(seed=18941, steps=[0, 0, 2, 0, 0, 5])  # claimed with another run below it
@given(seed=st.integers(0, 2**32), steps=st.lists(st.integers(0, 5), max_size=25))
def test_a_restored_table_is_the_one_before(seed: int, steps: list[int]) -> None:
    """Every question to a restored table is answered as before, tokens, budgets and caps included."""
    rng = random.Random(seed)
    world = World(LIMITS)
    world.grant(max_uses=3)
    tokens: dict[str, bytes] = {}
    for step in steps:
        live = world.book.runs.all(world.now)
        peer = world.peer(rng.choice(UIDS), rng.choice(PIDS))
        try:
            if step <= 1 or not live:
                options = {"confined": rng.random() < 0.3, "claimable": rng.random() < 0.5}
                above = rng.choice([one for one in live if one.depth < 3]) if live and rng.random() < 0.4 else None
                if above is not None:
                    options |= {"parent": above, "scope": above.scope}
                opened = world.open(
                    rng.choice(["a", "a/*", "**"]), peer=peer,
                    tenant=above.tenant if above is not None else rng.choice([ACME, GLOBEX]),
                    uid=rng.choice([None, 1000, 2000]), ttl=rng.randint(1, 900), **options,
                )  # fmt: skip
                tokens[opened.run.id] = bytes(opened.token)
            elif step == 2:
                world.book.claim(tokens[rng.choice(live).id], peer, world.now)
            elif step == 3:
                world.lease(rng.choice(live), rng.choice(["a", "a/b"]))
            elif step == 4:
                world.book.end_run(rng.choice(live))
            else:
                world.advance(rng.randint(0, 300))
        except VaultdError:
            continue  # another's token, or a budget that is used up
    world.book.expire(world.now)
    after = restored(world)
    before = everything(world)
    # Who is confined by a run that has ended is kept apart from the runs.
    for pid in before["confined"] - everything(after)["confined"]:
        kept = Confined(world.peer(1000, pid).process._replace(boot_id=BOOT), 1000)
        again = Confined.from_dict(unpack(pack(kept.to_dict())))
        assert again == kept
        after.book.runs.confine(again.process._replace(boot_id=""), again.opener_uid)
    assert everything(after) == before
    for run_id, token in tokens.items():
        for uid in UIDS:
            for pid in PIDS:
                peer = world.peer(uid, pid)
                for look in ("find", "claimant"):
                    assert _outcome(after, look, token, peer) == _outcome(world, look, token, peer)
        run, again = world.book.runs.get(run_id, world.now), after.book.runs.get(run_id, after.now)
        if run is not None and again is not None:
            assert world.ask(run, "a").allowed is after.ask(again, "a").allowed
    while True:  # until the cap: as many are admitted by both
        outcomes = [_opens(one) for one in (world, after)]
        assert outcomes[0] == outcomes[1]
        if not outcomes[0]:
            return


def _outcome(world: World, look: str, token: bytes, peer: Any) -> str:
    try:
        run: Run = getattr(world.book.runs, look)(token, peer, world.now)
    except VaultdError as error:
        return error.code
    return run.id


def _opens(world: World) -> bool:
    try:
        world.open(peer=world.peer(1000, 90))
    except VaultdError:
        return False
    return True


@given(raw=st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from(
        ["id", "process", "opener_uid", "anchor", "tenant", "scope", "uses", "patterns", "run", "total",
         "held"]), inner, max_size=8),
    max_leaves=20,
))  # fmt: skip
def test_nonsense_is_refused_as_such(raw: Any) -> None:
    """Whatever is read instead of a run or a confinement: one error that says so, and nothing else."""
    if type(raw) is not dict:
        raw = {"id": "process_1", "process": raw, "opener_uid": 0}
    for made in (Run.from_dict, restored_run, Confined.from_dict, Used.from_dict):
        with contextlib.suppress(Invalid):
            made(raw)


def test_a_process_is_read_as_it_was_written() -> None:
    """With an inode or without, and never from anything but its five parts."""
    for inode in (None, 77):
        process = Process(1, 2, inode, 3, BOOT)
        assert Process.of(list(process)) == process
