"""Root from some moment on, with every file and the seal's present state: what was sealed before cannot be changed.

The checks are those of `audit verify --seal-key-file`; the attacker may recompute every hash, which needs no key, make
any tag with the present key, and write any state. Among the attacks are those that got past systemd's seal
(CVE-2023-31437, -31438, -31439, and its issue 11524).
"""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.seal_world import Attacker, lines_of, lived, rechained, shown, tags_of, verified
from tests.support.vault_world import World, open_vault
from vaultd.audit.chain import Link, parse
from vaultd.audit.seal import FirstKey
from vaultd.audit.sealslots import SLOT_SIZE
from vaultd.audit.tags import Tag
from vaultd.crypto.memory import Key
from vaultd.errors import IntegrityError
from vaultd.store import MemoryStore
from vaultd.vault import forward

if TYPE_CHECKING:
    from pathlib import Path

EDITS = 1_000


@pytest.fixture(scope="module")
def world() -> World:
    return lived(7, 16)


@pytest.fixture
def root(world: World) -> Attacker:
    return Attacker(world)


def refused(path: Path, lines: list[bytes], state: bytes | None, key: bytes, *, without_state: bool = False) -> str:
    """Hold that the check refuses these files; returns why."""
    try:
        report = verified(path, lines, state, key, without_state=without_state)
    except IntegrityError as error:
        return error.message
    assert not report.ok
    return report.verdict.reason


def record_at(root: Attacker, wanted: int = 0) -> int:
    """Index of a record that is sealed for good."""
    found = [n for n, raw in enumerate(root.lines[: root.safe]) if n > 2 and not isinstance(parse(raw), Tag)]
    return found[wanted]


def test_the_journal_as_it_was_verifies(world: World, root: Attacker, tmp_path: Path) -> None:
    """Without an attack everything verifies, to the last line, and what is told is how far the seal reaches."""
    report = verified(tmp_path, root.lines, root.raw, world.seal_key)
    assert report.ok
    assert report.seal is not None
    assert (report.seal.sealed + report.seal.unsealed, report.seal.held) == (len(root.lines), True)
    assert report.seal.tags == len(tags_of(root.lines))
    assert report.seal.epochs == tags_of(root.lines)[-1].last + 1
    assert any(tag.first < tag.last for tag in tags_of(root.lines)), "no idle epoch in the example"


def test_a_line_rewritten_and_every_hash_recomputed(world: World, root: Attacker, tmp_path: Path) -> None:
    """The chain alone would pass; the next tag does not, and it is named."""
    at = record_at(root)
    said: dict[str, Any] = json.loads(root.lines[at])
    said["time"] = "2020-01-01T00:00:00.000000Z"
    lines = rechained(
        [*root.lines[:at], json.dumps(said, separators=(",", ":")).encode() + b"\n", *root.lines[at + 1 :]], at
    )
    report = verified(tmp_path, lines, root.stating(lines), world.seal_key)
    following = next(tag.seq for tag in tags_of(lines) if tag.seq > at)
    assert (report.ok, report.verdict.bad_line) == (False, following)
    assert f"a line from {max(t.seq for t in tags_of(lines) if t.seq <= at) + 1} on" in report.verdict.reason


def test_resealed_with_the_present_key(world: World, root: Attacker, tmp_path: Path) -> None:
    """CVE-2023-31438: tags of earlier epochs made anew with the present key are refused: each has its own."""
    at = record_at(root)
    for key in (root.state, root.older):
        for lines in (root.resealed(root.lines, at, key=key), root.resealed(root.lines[:at], 2, key=key)):
            assert "does not verify" in refused(tmp_path, lines, root.stating(lines), world.seal_key)


def test_epochs_renumbered_to_the_present_one(world: World, root: Attacker, tmp_path: Path) -> None:
    """One tag by the present key for everything since the first, as if all had been idle or one long epoch."""
    lines = list(root.lines[:2]) + [raw for raw in root.lines[2:] if not isinstance(parse(raw), Tag)]
    lines = rechained(lines, 2)
    lines, state = root.continued(lines, random.Random(1))
    assert "does not verify" in refused(tmp_path, lines, state, world.seal_key)


def test_cut_and_continued(world: World, root: Attacker, tmp_path: Path) -> None:
    """CVE-2023-31439: the journal is cut behind any earlier tag, and goes on with the present key."""
    for tag in tags_of(root.lines):
        if tag.seq <= root.safe and tag.seq < len(root.lines):
            for seed in range(4):
                lines, state = root.continued(root.lines[: tag.seq], random.Random(seed))
                assert refused(tmp_path, lines, state, world.seal_key)


def test_cut_and_left(world: World, root: Attacker, tmp_path: Path) -> None:
    """The end is cut and nothing is written instead: the state, which only its own time could have made, shows it."""
    for tag in tags_of(root.lines):
        if tag.seq < root.safe:
            for state in (root.raw, root.stating(root.lines[: tag.seq]), None):
                assert refused(tmp_path, root.lines[: tag.seq], state, world.seal_key)


def test_an_idle_run_is_dropped(world: World, root: Attacker, tmp_path: Path) -> None:
    """An idle run's epochs are taken out of its tag, with the numbers behind it as they were, and closed up."""
    for tag in tags_of(root.lines):
        if tag.first == tag.last or tag.seq > root.safe:
            continue
        parts: dict[str, Any] = json.loads(root.lines[tag.seq - 1])
        parts["seal"]["from"] = tag.last
        changed = json.dumps(parts, separators=(",", ":")).encode() + b"\n"
        lines = rechained([*root.lines[: tag.seq - 1], changed, *root.lines[tag.seq :]], tag.seq - 1)
        assert "should follow" in refused(tmp_path, lines, root.stating(lines), world.seal_key)
        parts["seal"] |= {"from": tag.first, "to": tag.last - 1}
        changed = json.dumps(parts, separators=(",", ":")).encode() + b"\n"
        lines = root.resealed([*root.lines[: tag.seq - 1], changed, *root.lines[tag.seq :]], tag.seq - 1)
        assert refused(tmp_path, lines, root.stating(lines), world.seal_key)


def test_an_idle_tag_is_dropped(tmp_path: Path) -> None:
    """CVE-2023-31437: a tag that stands for nothing but idle epochs cannot be left out either."""
    world = World(3)
    for _ in range(2 * 900 + 40):
        world.clock.advance(1)
        world.ledger.evolve()
        world.flush()
    world.read()
    world.ledger.close()
    lines, state = lines_of(world), world.store.disk.peek("seal")
    report = verified(tmp_path, lines, state, world.seal_key)
    assert report.ok
    idle = [tag for tag in tags_of(lines) if tag.last - tag.first > 100]
    assert [tag.last - tag.first + 1 for tag in idle][-1] == 900
    for tag in idle[:-1]:
        cut = rechained([*lines[: tag.seq - 1], *lines[tag.seq :]], tag.seq - 1)
        assert "should follow" in refused(tmp_path, cut, state, world.seal_key)
    root = Attacker(world)
    for tag in idle:
        cut, made = root.continued(lines[: tag.seq - 1], random.Random(2))
        assert refused(tmp_path, cut, made, world.seal_key)


def _wrong_keys(world: World) -> dict[str, bytes]:
    """First keys that are not this chain's."""
    key = bytearray(world.seal_key)
    typed = bytearray(key)
    typed[9] = ord("0") if typed[9] != ord("0") else ord("1")
    with FirstKey.parse(key) as first:
        bit = bytearray(first._key.view())
        bit[31] ^= 1
        later = FirstKey(2, Key.copy_of(first._key))
    with later, FirstKey(1, Key.take(bit)) as near:
        return {
            "of another vault": World(99).seal_key,
            "mistyped": bytes(typed),
            "one bit off": shown(near.text()),
            "of a chain that is not there": shown(later.text()),
            "none at all": b"",
            "cut short": bytes(key[:-9]),
        }


def test_a_wrong_first_key(world: World, root: Attacker, tmp_path: Path) -> None:
    """systemd's issue 11524: a wrong first key is refused, always: also on a journal of one tag, or of none."""
    untagged = rechained([raw for raw in root.lines if not isinstance(parse(raw), Tag)], 0)
    for name, key in _wrong_keys(world).items():
        for lines in (root.lines, root.lines[:2], root.lines[:1], untagged):
            assert refused(tmp_path, lines, root.raw, key), name
            assert refused(tmp_path, lines, None, key), name
            assert refused(tmp_path, lines, None, key, without_state=True), name


def test_every_tag_is_taken_away(world: World, root: Attacker, tmp_path: Path) -> None:
    """A journal without tags, chained anew, cannot be checked with the right key, and that is no success."""
    lines = rechained([raw for raw in root.lines if not isinstance(parse(raw), Tag)], 0)
    assert "has no tag line" in refused(tmp_path, lines, root.raw, world.seal_key)


def test_an_older_state_is_put_back(tmp_path: Path) -> None:
    """A copy of an older state, in either or both slots, does not fit the journal, for `verify` and at opening."""
    states: list[bytes] = []
    world = lived(7, 16, states)
    now, lines = world.store.disk.peek("seal"), lines_of(world)
    assert verified(tmp_path, lines, now, world.seal_key).ok
    for old in states[:-4]:
        for state in (old, old[:SLOT_SIZE] + now[SLOT_SIZE:], now[:SLOT_SIZE] + old[SLOT_SIZE:]):
            assert state == now or refused(tmp_path, lines, state, world.seal_key)
            world.store.disk.poke("seal", state)
            with pytest.raises(IntegrityError, match="seal"):
                open_vault(MemoryStore(world.store.disk.copy()), world.clock, random.Random(0))
    world.store.disk.poke("seal", now)
    world.kill()
    world.reopen()


def test_the_state_of_the_running_vault_is_removed(world: World) -> None:
    """Without its state the vault does not open, and says what to do after restoring a backup."""
    disk = world.store.disk.copy()
    disk.put("seal", None)
    with pytest.raises(IntegrityError, match="forward seal is gone") as caught:
        open_vault(MemoryStore(disk), world.clock, random.Random(0))
    assert "audit seal-key" in caught.value.hint


def test_the_clock_goes_back_and_forward(tmp_path: Path) -> None:
    """Epochs are counted: whatever the wall clock says, everything verifies, and no edit passes that did not before."""
    world = World(5)
    rng = random.Random(5)
    for _ in range(30):
        world.clock.advance(1)
        world.clock.set_wall(rng.choice((0, 10**9, 1_767_225_600_000_000_000, 4_000_000_000_000_000_000)))
        if rng.random() < 0.6:
            world.read()
        world.ledger.evolve()
        world.flush()
    root = Attacker(world)
    assert verified(tmp_path, root.lines, root.raw, world.seal_key).ok
    tag = tags_of(root.lines)[5]
    changed = root.lines[tag.seq - 1].replace(tag.time.encode(), b"2026-01-01T00:00:00.000001Z")
    lines = rechained([*root.lines[: tag.seq - 1], changed, *root.lines[tag.seq :]], tag.seq - 1)
    assert refused(tmp_path, lines, root.stating(lines), world.seal_key)


def test_a_new_chain_cannot_hide_a_cut(world: World, root: Attacker, tmp_path: Path) -> None:
    """Cut, then a seal chain of the attacker's own: the old one did not hand over, so its first key refuses it."""
    for tag in tags_of(root.lines):
        if tag.seq > root.safe:
            break
        first, chain = forward.begin(root.state.vault_id, 2)
        with first, chain:
            link = Link(tag.seq, tag.hash)
            rendered = chain.tag(link, tag.time)
            lines = [*root.lines[: tag.seq], rendered + b',"hash":"' + b"0" * 64 + b'"}\n']
            lines = rechained(lines, tag.seq)
            chain.tagged(tag.seq + 1, parse(lines[-1]).hash)
            assert "did not hand over" in refused(tmp_path, lines, root.stating(lines, chain), world.seal_key)
            # Nor by naming the new key in the old chain's last tag, with the key at hand.
            parts: dict[str, Any] = json.loads(root.lines[tag.seq - 1])
            seal = parts["seal"]
            parts["seal"] = {key: seal[key] for key in ("chain", "from", "to")} | {
                "next": first.identity().hex(),
                "tag": seal["tag"],
            }
            forged = json.dumps(parts, separators=(",", ":")).encode() + b"\n"
            lines = root.resealed([*root.lines[: tag.seq - 1], forged], tag.seq - 1)
            assert refused(tmp_path, lines, root.stating(lines, chain), world.seal_key)


def _edit(root: Attacker, rng: random.Random) -> tuple[str, list[bytes], int]:
    """One random change to what is sealed for good: its name, the lines, and the index it begins at."""
    lines, safe = list(root.lines), root.safe
    at, other = rng.randrange(2, safe), rng.randrange(2, safe)
    match rng.randrange(8):
        case 0:
            return "removed", lines[:at] + lines[at + 1 :], at
        case 1:
            end = min(safe, at + rng.randint(2, 9))
            return "a stretch removed", lines[:at] + lines[end:], at
        case 2:
            if at == other:
                other = 2 if at > 2 else safe - 1
            lines[at], lines[other] = lines[other], lines[at]
            return "two exchanged", lines, min(at, other)
        case 3:
            return "doubled", [*lines[:at], lines[other], *lines[at:]], at
        case 4:
            return "cut", lines[:at], at - 1
        case 5:
            said: dict[str, Any] = json.loads(lines[at])
            if "seal" in said:
                said["seal"]["tag"] = rng.randbytes(32).hex()
            elif "body" in said:
                said["body"]["outcome"] = "ok" if said["body"]["outcome"] != "ok" else "denied"
            else:
                said["sub"]["head"] = rng.randbytes(32).hex()
            lines[at] = json.dumps(said, separators=(",", ":")).encode() + b"\n"
            return "rewritten", lines, at
        case 6:
            other = other if other != at else at + 1
            return "another stretch put behind", lines[:at] + lines[other:], at
        case _:
            time = b"2026-01-01T00:00:%02d.%06dZ" % (rng.randrange(60), rng.randrange(10**6))
            start = lines[at].index(b'"time":"') + 8
            lines[at] = lines[at][:start] + time + lines[at][start + 27 :]
            return "dated anew", lines, at


def test_a_thousand_random_edits(tmp_path: Path) -> None:
    """R8: each random change to what was sealed is found, whether hashes, tags and state are made anew or not."""
    worlds = [lived(seed, 14) for seed in range(4)]
    roots = [(world, Attacker(world)) for world in worlds]
    for seed in range(EDITS):
        rng = random.Random(seed)
        world, root = rng.choice(roots)
        name, lines, start = _edit(root, rng)
        match rng.randrange(4):
            case 0:
                pass  # as it is
            case 1:
                lines = rechained(lines, start)
            case 2:
                lines = root.resealed(lines, start, key=rng.choice((root.state, root.older)))
            case _:
                lines = rechained(lines, start)
                lines = lines if not tags_of(lines) else root.continued(lines, rng)[0]
        if lines == root.lines[: len(lines)]:
            # Nothing but a cut: the state tells.
            assert refused(tmp_path, lines, root.raw, world.seal_key), (seed, name)
            continue
        assert refused(tmp_path, lines, root.raw, world.seal_key), (seed, name)
        if tags_of(lines):
            assert refused(tmp_path, lines, root.stating(lines), world.seal_key), (seed, name)
