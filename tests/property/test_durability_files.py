"""What somebody who writes the disk may do to the durability core's files, and what is found of it."""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.vault_world import State, World, open_vault, read_state
from vaultd.audit.chain import decode, link, render
from vaultd.clock import ManualClock
from vaultd.errors import Closed, FormatVersion, IntegrityError, VaultdError
from vaultd.store import MemoryStore
from vaultd.vault.anchor import SLOT_SIZE

if TYPE_CHECKING:
    from vaultd.store.disk import Disk
    from vaultd.vault.recovery import RecoveryReport


def _outcome(disk: Disk) -> tuple[State, RecoveryReport] | type[VaultdError]:
    """What opening a copy of `disk` gives: the whole state, or the class of the refusal."""
    store = MemoryStore(disk.copy())
    rng = random.Random(1)
    try:
        ledger, report = open_vault(store, ManualClock(), rng)
        found = read_state(ledger)
        ledger.flush()
        assert read_state(ledger) == found
    except VaultdError as error:
        return type(error)
    return found, report


def _vault(seed: int = 0) -> World:
    """Two tenants with a few records each, one of them rotated; everything flushed."""
    world = World(seed, snapshot_lines=6)
    for name in ("acme", "globex"):
        world.create_tenant(name)
        world.put(name, 30, system=True)
        world.flush()
        world.put(name, 700)
        world.flush()
    world.rotate_tenant("acme")
    world.flush()
    world.put("acme")
    world.put("globex", system=True)
    world.flush()
    return world


def _at_rest(seed: int = 0) -> World:
    world = _vault(seed)
    world.ledger.close()
    return world


def _path(world: World, name: str) -> str:
    log = world.log(name)
    return log.file.path


def _flipped(disk: Disk, path: str, bit: int) -> Disk:
    changed = disk.copy()
    data = bytearray(changed.peek(path))
    data[bit // 8] ^= 1 << bit % 8
    changed.poke(path, bytes(data))
    return changed


def _bits(data: bytes, rng: random.Random, most: int) -> list[int]:
    """Bits to flip: all of a small file, else a random one of as many bytes."""
    if len(data) * 8 <= most:
        return list(range(len(data) * 8))
    return [8 * at + rng.randrange(8) for at in sorted(rng.sample(range(len(data)), min(most, len(data))))]


@pytest.mark.parametrize("orderly", [True, False])
def test_a_flipped_bit_is_found(orderly: bool) -> None:
    """R4: a bit flipped anywhere is refused with the class of its file, or found, told, and without effect."""
    world = _at_rest() if orderly else _vault()
    disk, rng = world.store.disk, random.Random(2)
    whole, _ = _outcome(disk)
    anchor = world.ledger.anchor
    for path, data in disk.files().items():
        for bit in _bits(data, rng, 300):
            outcome = _outcome(_flipped(disk, path, bit))
            where = f"{path}, byte {bit // 8}, bit {bit % 8}"
            if path == "keyring":
                assert outcome in (IntegrityError, FormatVersion), where
            elif path == "state":
                # What a torn write looks like, too: the other slot takes over, and an audit record tells.
                if isinstance(outcome, tuple):
                    assert outcome[0] == whole, where
                    assert outcome[1].torn_anchor, where
                else:
                    # The older slot may name a heads file that has been replaced since.
                    assert outcome is IntegrityError, where
                    assert bit // 8 // SLOT_SIZE == anchor.slot, where
            elif path == "seal":
                assert isinstance(outcome, tuple), where
                assert outcome[0] == whole, where
                assert outcome[1].torn_seal, where
            elif path.startswith("heads."):
                expected = IntegrityError if path == f"heads.{anchor.heads_file % 2}" else tuple
                assert outcome is expected or isinstance(outcome, expected), where
            elif path.startswith("audit/"):
                # Lines from before the heads snapshot are not read at opening: `audit verify` finds those.
                assert outcome is IntegrityError or (isinstance(outcome, tuple) and outcome[0] == whole), where
                if not orderly and bit // 8 >= world.ledger.snapshot_position.offset:
                    assert outcome is IntegrityError, where
            elif path.startswith("system/"):
                assert outcome is IntegrityError, where
            else:
                assert outcome is Closed, where


def test_a_tampered_tenant_leaves_the_others_open() -> None:
    """A tenant whose log does not verify is closed; every other one opens as before."""
    world = _vault()
    path = _path(world, "acme")
    store = MemoryStore(_flipped(world.store.disk, path, 8 * 200))
    ledger, _ = open_vault(store, ManualClock(), random.Random(0))
    acme, globex = ledger.find("acme"), ledger.find("globex")
    assert acme is not None
    assert globex is not None
    with pytest.raises(Closed):
        ledger.open_log(acme)
    _, records = ledger.open_log(globex)
    assert len(records) == len(world.state.tenants["globex"])


def test_every_prefix_of_a_log_opens_as_specified() -> None:
    """R3: cut within what is vouched for, the tenant is closed; behind it, the unacknowledged rest is cut and told."""
    world = _vault()
    world.put("acme", 20)
    world.put("acme", 20)
    # The records reach the disk, the line that vouches for them does not.
    log = world.log("acme")
    vouched = len(world.store.disk.peek(log.file.path))
    batch = world.ledger.take()
    assert batch is not None
    rest = b"".join(batch.writes[log.file].data)
    disk = world.store.disk.copy()
    whole = disk.peek(log.file.path) + rest
    state, _ = _outcome(world.store.disk)
    for size in range(len(whole) + 1):
        disk.poke(log.file.path, whole[:size])
        outcome = _outcome(disk)
        if size < vouched:
            assert outcome is Closed
        else:
            assert isinstance(outcome, tuple)
            assert outcome[0] == state


def test_every_prefix_of_the_journal_opens_as_specified() -> None:
    """R3: cut before the anchor, opening is refused; behind it, the whole lines that are left count."""
    world = _vault()
    world.reseal()
    anchored = world.ledger.anchor.position.offset
    world.put("acme", 20)
    world.read("globex")
    batch = world.ledger.take()
    assert batch is not None
    assert batch.lines is not None
    before, _ = _outcome(world.store.disk)
    disk = world.store.disk.copy()
    log = world.log("acme")
    disk.poke(log.file.path, disk.peek(log.file.path) + b"".join(batch.writes[log.file].data))
    path = "audit/000001.jsonl"
    whole = disk.peek(path) + batch.lines.data
    first = whole.index(b"\n", anchored) + 1
    for size in range(anchored - 200, len(whole) + 1):
        disk.poke(path, whole[:size])
        outcome = _outcome(disk)
        if size < anchored:
            assert outcome is IntegrityError
        else:
            assert isinstance(outcome, tuple)
            assert outcome[0] == (before if size < first else world.state)
            assert outcome[1].journal_cut == (
                size - anchored if size < first else (size - first) % (len(whole) - first)
            )


def _records(data: bytes) -> list[bytes]:
    """The records of a log file."""
    found, at = [], 8
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        found.append(data[at : at + size])
        at += size
    return found


def test_a_record_opens_in_its_own_place_only() -> None:
    """I3: a record left out, doubled, reordered, or taken from another log or generation closes the tenant."""
    world = _vault()
    for _ in range(2):
        world.put("acme", 40)
    old = _records(world.store.disk.peek(_path(world, "acme")))
    world.rotate_tenant("acme")
    world.flush()
    disk = world.store.disk
    path = _path(world, "acme")
    mine, theirs = _records(disk.peek(path)), _records(disk.peek(_path(world, "globex")))
    system = _records(disk.peek("system/log.1"))
    arrangements = [mine[:i] + mine[i + 1 :] for i in range(len(mine))]
    arrangements += [mine[: i + 1] + mine[i:] for i in range(len(mine) - 1)]
    arrangements += [list(order) for order in itertools.permutations(mine) if list(order) != mine]
    arrangements += [
        [*mine[:i], foreign, *mine[i + 1 :]] for i in range(len(mine)) for foreign in (*old, *theirs, *system)
    ]
    changed = disk.copy()
    for arrangement in arrangements:
        changed.poke(path, b"vaultdLG" + b"".join(arrangement))
        assert _outcome(changed) is Closed


def test_a_file_opens_in_its_own_place_only() -> None:
    """I3: logs swapped between tenants, or with the system's, and files of another vault are refused."""
    world, other = _at_rest(0), _at_rest(1)
    disk, foreign = world.store.disk, other.store.disk
    logs = [path for path in disk.files() if "/log." in path]
    for one, another in itertools.permutations(logs, 2):
        changed = disk.copy()
        changed.poke(one, disk.peek(another))
        assert _outcome(changed) in (Closed, IntegrityError)
    # Whole files of another vault, in every combination that is not all of them.
    shared = ["keyring", "state", "heads.0", "heads.1", "audit/000001.jsonl"]
    for count in range(1, len(shared) + 1):
        for chosen in itertools.combinations(shared, count):
            changed = disk.copy()
            for path in chosen:
                changed.poke(path, foreign.peek(path))
            outcome = _outcome(changed)
            harmless = set(chosen) <= {"heads.0", "heads.1"} - {f"heads.{world.ledger.anchor.heads_file % 2}"}
            assert outcome is IntegrityError or harmless, chosen


_GROUPS = {
    "keyring": lambda path: path == "keyring",
    "state": lambda path: path == "state",
    "heads": lambda path: path.startswith("heads."),
    "journal": lambda path: path.startswith("audit/"),
    "system log": lambda path: path.startswith("system/"),
    "tenant logs": lambda path: path.startswith("tenants/"),
}


@pytest.mark.parametrize("change", ["put", "create", "rotate tenant", "rotate root", "delete", "read"])
@pytest.mark.parametrize("orderly", [True, False])
def test_an_older_copy_of_some_files(change: str, orderly: bool) -> None:
    """Every subset of the files put back from a copy is refused, or gives one whole state, the older or the present."""
    world = _vault()
    if orderly:
        world.reseal()
    old_disk, old = world.store.disk.copy(), world.state
    if change == "put":
        world.put("acme", system=True)
    elif change == "create":
        world.create_tenant("initech")
    elif change == "rotate tenant":
        world.rotate_tenant("acme")
    elif change == "rotate root":
        world.rotate_root()
    elif change == "delete":
        world.delete_tenant("acme")
    else:
        world.read("acme")
    world.flush()
    world.put("globex", system=True)
    world.flush()
    world.read("globex")
    world.flush()
    if orderly:
        world.reseal()
    new = world.state
    paths = sorted(set(old_disk.files()) | set(world.store.disk.files()))
    for count in range(len(_GROUPS) + 1):
        for chosen in itertools.combinations(_GROUPS, count):
            disk = world.store.disk.copy()
            for path in paths:
                if any(_GROUPS[group](path) for group in chosen):
                    _put_back(disk, old_disk, path)
            outcome = _outcome(disk)
            if isinstance(outcome, tuple):
                assert outcome[0] in (old, new), chosen
                if not count:
                    assert outcome[0] == new
                # The older state comes back only with all that speaks of the newer gone: what a checkpoint is for.
                if outcome[0] != new:
                    assert {"state", "journal"} <= set(chosen), chosen
            else:
                assert outcome in (IntegrityError, Closed), chosen
    disk = old_disk.copy()
    outcome = _outcome(disk)
    assert isinstance(outcome, tuple)
    assert outcome[0] == old


def _put_back(disk: Disk, old: Disk, path: str) -> None:
    files = old.files()
    directory = path.rpartition("/")[0]
    present = disk.files()
    if path not in files:
        if path in present:
            disk.put(path, None)
    elif path in present:
        disk.poke(path, files[path])
    elif any(other.startswith(f"{directory}/") for other in present):
        disk.put(path, files[path])


def test_an_acknowledged_change_cannot_be_taken_back() -> None:
    """Cutting the journal and the logs to before a change that was acknowledged is refused, at any moment after."""
    world = _vault()
    before = world.store.disk.copy()
    world.put("acme", system=True)
    world.flush()
    # Nothing else happens: no seal, no tick, no end in order.
    disk = world.store.disk.copy()
    for path, data in before.files().items():
        if path.startswith(("audit/", "tenants/", "system/")):
            disk.poke(path, data)
    assert _outcome(disk) is IntegrityError


def test_nobody_picks_among_the_changes_behind_the_anchor() -> None:
    """With an older anchor put back, a journal rewritten to hold only some of the later changes is refused."""
    world = _vault()
    old = world.store.disk.copy()
    start = world.ledger.anchor.position
    world.put("acme", system=True)
    world.flush()
    world.put("globex", system=False)
    world.flush()
    path = "audit/000001.jsonl"
    kept, chosen = world.store.disk.peek(path)[: start.offset], world.store.disk.peek(path)[start.offset :]
    first, second = chosen.splitlines(keepends=True)
    line = decode(second)
    # The second change alone, numbered and chained anew, as anybody can.
    trail = decode(second).sub_seq
    rendered = render(
        start.seq + 1,
        line.time,
        line.tenant.hex() if line.tenant else None,
        trail,
        line.sub_head.hex(),
        heads=line.heads,
        key=line.key,
        session=line.session,
        sealed=line.sealed,
    )
    forged, _ = link(start.head, rendered)
    disk = world.store.disk.copy()
    for name in ("state", "heads.0", "heads.1"):
        disk.poke(name, old.peek(name))
    disk.poke(path, kept + first + second)
    assert isinstance(_outcome(disk), tuple)  # all of them, as they were: the present state
    disk.poke(path, kept + forged)
    assert _outcome(disk) is IntegrityError


@settings(max_examples=60)
@given(st.binary(max_size=300))
def test_a_forged_end_of_the_journal_is_cut(junk: bytes) -> None:
    """Whatever stands behind the anchor and does not continue the chain is cut, and the state is unchanged."""
    world = _at_rest()
    disk = world.store.disk
    path = "audit/000001.jsonl"
    whole = disk.peek(path)
    disk.poke(path, whole + junk)
    outcome = _outcome(disk)
    assert isinstance(outcome, tuple)
    assert outcome[0] == world.state
    assert outcome[1].journal_cut == len(junk)
