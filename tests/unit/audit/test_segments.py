"""A journal of several segments: written, read across their borders, and held to be whole, in order and ours."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.audit_world import VAULT, World
from vaultd.audit.base import NEVER_PRUNED, Base, TrailBase, hash_of
from vaultd.audit.chain import Link, Walk, decode
from vaultd.audit.checkpoint import Checkpoint, issue
from vaultd.audit.journal import START, Journal, Position
from vaultd.audit.segments import Place, SegmentLimits, base_numbers, base_path, numbers, segment_path
from vaultd.audit.verify import verify_directory
from vaultd.crypto.primitives import ed25519_pair
from vaultd.errors import Exists, FormatVersion, Halted, IntegrityError, Internal, NotFound, Unavailable
from vaultd.store import DirectoryStore, MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaultd.audit.verify import Report

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "verify_audit.py"
SEED, PUBLIC = ed25519_pair()


def grown(store: Any = None, *, segments: int = 3, rounds: int = 3) -> World:
    """A world whose journal has `segments` segments, the last one with some lines as well."""
    world = World(store=store)
    world.start()
    for number in range(segments):
        for one in range(rounds):
            world.lease(0, f"secret-{number}-{one}")
            world.lease(1)
            world.denial()
        world.flush(closing=number < segments - 1)
    return world


def signed(world: World) -> str:
    durable = world.journal.durable
    return issue(Checkpoint(VAULT, durable.seq, durable.head, 1_790_000_000 * 10**9), SEED, PUBLIC)


def base_at(world: World, segment: int, checkpoint: str) -> Base:
    """What the journal would begin after if it began with that segment."""
    at, trails = Link(0, bytes(32)), dict[bytes, TrailBase]()
    for raw, place in world.journal.raw_from(START.place):
        line = decode(raw)
        at = Link(line.seq, line.hash)
        trails[line.tenant or bytes(16)] = TrailBase(line.sub_seq, line.sub_head)
        if place >= (segment, 0):
            break
    return Base(VAULT, segment, at.seq, at.head, checkpoint, trails)


# -- names


def test_names_have_one_spelling() -> None:
    """Six digits, more only when needed, never all zeros; whatever else lies there is no segment."""
    names = ["000001.jsonl", "000010.jsonl", "1234567.jsonl", "0000002.jsonl", "000000.jsonl", "000003.base", "3.jsonl"]
    assert numbers([*names, "000001.jsonl\n", "x000001.jsonl", "000001.jsonl.second"]) == [1, 10, 1_234_567]
    assert base_numbers(names) == [3]
    assert (segment_path(1), base_path(12)) == ("audit/000001.jsonl", "audit/000012.base")


# -- writing


def test_a_segment_ends_with_a_batch_and_the_next_goes_on() -> None:
    """Numbers and hashes run through; each segment's first line names the vault; sessions begin anew in each."""
    world = grown(MemoryStore())
    lines = [decode(raw) for raw, _ in world.journal.raw_from(START.place)]
    assert [line.seq for line in lines] == list(range(1, len(lines) + 1))
    assert world.journal.durable.segment == 3
    firsts = [line.seq for line in lines if line.vault is not None]
    assert len(firsts) == 3
    for line in lines:
        if line.key is not None:
            assert max(first for first in firsts if first <= line.seq) <= line.key
    walk, first = Walk(), True
    for raw, place in world.journal.raw_from(START.place):
        walk.step(raw, first=first)
        first = place.offset == 0
    assert walk.at.seq == len(lines)
    for domain in (*world.tenants, world.system):
        reader = world.reader(domain)
        found = [record.seq for record in reader.records(world.journal.raw_from(START.place)) if record is not None]
        assert found == list(range(1, domain.sub_seq + 1))


def test_an_empty_last_segment_is_gone_on_with() -> None:
    """Ended with the last batch before a restart, the journal goes on in the segment that is there for it."""
    store = MemoryStore()
    world = grown(store, segments=1)
    world.flush(closing=True)
    at = world.journal.durable
    assert (at.segment, at.offset) == (2, 0)
    journal = Journal(store)
    assert list(journal.read_from(START))[-1].after == at
    journal.resume(at)
    world.reopen(journal)
    world.lease(0)
    world.flush()
    assert world.store.list("audit") == ["000001.jsonl", "000002.jsonl"]
    assert next(iter(journal.read_from(at))).line.vault == VAULT


def test_when_a_segment_is_full() -> None:
    """By its size, or by the age of its first line; an empty one never is, and without limits none is."""
    world = World()
    journal = world.journal
    assert not journal.full(10**19)
    journal.limits = SegmentLimits(size=1, age=1)
    assert not journal.full(10**19)
    world.start()
    assert journal.full(0)
    journal.limits = SegmentLimits(size=10**6)
    assert not journal.full(10**19)
    journal.limits = SegmentLimits(age=5 * 10**9)
    now = world.clock.wall()
    assert not journal.full(now + 4 * 10**9)
    assert journal.full(now + 5 * 10**9)
    world.flush()
    again = Journal(world.store)
    again.limits = journal.limits
    again.resume(journal.durable)
    assert not again.full(now + 4 * 10**9)  # a restart does not make it young
    assert again.full(now + 5 * 10**9)


def test_a_name_that_is_taken_halts() -> None:
    """Who puts a file where the next segment belongs stops the journal, and is not written over."""
    store = MemoryStore()
    world = grown(store, segments=1)
    store.create(segment_path(2), b"mine\n")
    world.lease(0)
    with pytest.raises(Exists):
        world.flush(closing=True)
    with pytest.raises(Halted):
        world.lease(0)
    assert store.read(segment_path(2), 100) == b"mine\n"


def test_a_batch_of_an_ended_segment_is_refused() -> None:
    """A batch that starts where the disk does not is a bug, across segments as within one."""
    world = grown(MemoryStore(), segments=1)
    world.lease(0)
    first = world.journal.take(closing=True)
    world.lease(0)
    second = world.journal.take()
    assert first is not None
    assert second is not None
    assert (first.start.segment, first.end.segment, second.start.segment) == (1, 2, 2)
    with pytest.raises(Internal):
        world.journal.write(second)


# -- reading


def test_reading_from_any_position_crosses_segments() -> None:
    """From each position the entries after it come, whichever segment they lie in."""
    world = grown(MemoryStore(), segments=4)
    entries = list(world.journal.read_from(START))
    assert entries[-1].after == world.journal.durable
    for number, entry in enumerate(entries):
        assert [e.line.seq for e in world.journal.read_from(entry.after)] == [e.line.seq for e in entries[number + 1 :]]


def test_the_end_of_a_segment_is_the_beginning_of_the_next() -> None:
    """Both are one point, and reading gives the latter; the last lines before a point are found across borders."""
    world = grown(MemoryStore(), segments=3, rounds=1)
    journal = world.journal
    (border,) = [e.after for e in journal.read_from(START) if e.after.place == Place(2, 0)]
    size = len(world.data())
    assert journal.settled(Position(1, size, border.seq, border.head)) == border
    assert journal.settled(border) == border
    seen: list[bytes] = []
    for raw, place in journal.raw_from(START.place):
        seen.append(raw)
        at = Position(*place, 0, b"")
        assert journal.last_before(at, 2) == seen[-2:]
        assert journal.last_before(at, 5) == seen[-5:]


def test_readers_go_on_while_a_segment_ends() -> None:
    """One that is in the middle of the current segment reads it to its end, and then the next."""
    store = MemoryStore()
    world = grown(store, segments=1)
    lines = world.journal.raw_from(START.place)
    first = next(lines)
    world.lease(0)
    world.flush(closing=True)
    world.lease(0)
    world.flush()
    rest = [decode(raw).seq for raw, _ in lines]
    assert rest == list(range(2, decode(first[0]).seq + 1 + len(rest)))
    reader = world.reader(world.tenants[0])
    count = sum(record is not None for record in reader.records(world.journal.raw_from(reader.place)))
    world.flush(closing=True)
    world.lease(0)
    world.flush()
    more = [record.seq for record in reader.records(world.journal.raw_from(reader.place)) if record is not None]
    assert more == [count + 1]


def test_a_reader_in_what_was_pruned_is_told(tmp_path: Path) -> None:
    """It does not go on with a gap: begin anew."""
    world = grown(DirectoryStore(tmp_path / "vault", create=True))
    world.journal.begin = base_at(world, 2, "").begin
    with pytest.raises(Unavailable):
        list(world.journal.raw_from(START.place))
    assert list(world.journal.raw_from(Place(2, 0)))


# -- opening


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda disk: disk.put(segment_path(2), None), "000002.jsonl is gone"),
        (lambda disk: disk.put(segment_path(1), None), "000001.jsonl is gone"),
        (lambda disk: disk.put(segment_path(4), b"{}\n"), "000004.jsonl lies behind"),
        (lambda disk: disk.put(segment_path(5), b""), "000005.jsonl lies behind"),
    ],
)
def test_opening_finds_that_a_segment_is_missing_or_too_many(spoil: Callable[[Any], None], said: str) -> None:
    """By the number that the anchor names; an empty one right behind it is what a crash leaves, and nothing else is."""
    store = MemoryStore()
    grown(store)
    spoil(store.disk)
    with pytest.raises(IntegrityError, match=said):
        Journal(store, current=3)


def test_an_unused_segment_goes_with_resuming() -> None:
    """The one that a crash left behind the anchor's is removed before a line is written."""
    store = MemoryStore()
    world = grown(store)
    store.create(segment_path(4), b"")
    journal = Journal(store, current=3)
    journal.resume(world.journal.durable)
    assert "000004.jsonl" not in store.list("audit")
    with pytest.raises(IntegrityError):
        Journal(store, current=3).resume(world.journal.durable._replace(segment=2))


def test_no_segment_at_all() -> None:
    """An empty directory is no journal."""
    store = MemoryStore()
    store.mkdir("audit")
    with pytest.raises(NotFound):
        Journal(store)


# -- verifying offline


@pytest.fixture
def vault(tmp_path: Path) -> tuple[World, Path]:
    """Four segments on a real disk."""
    world = grown(DirectoryStore(tmp_path / "vault", create=True), segments=4)
    return world, tmp_path / "vault"


def pruned(world: World, path: Path, segment: int, checkpoint: str | None = None) -> Base:
    """Prune by hand; returns the base."""
    base = base_at(world, segment, signed(world) if checkpoint is None else checkpoint)
    (path / base_path(segment)).write_bytes(base.encode())
    for number in range(1, segment):
        (path / segment_path(number)).unlink()
    return base


def checked(path: Path, *, ok: bool, **how: Any) -> Report:
    """What verifying says; the script says the same."""
    report = verify_directory(str(path), pause=lambda _: None, **how)
    assert report.ok is ok, report
    done = subprocess.run([sys.executable, SCRIPT, path], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode == 0) is ok, (done.stdout, done.stderr)
    if ok:
        assert report.verdict.head.hex() in done.stdout
    else:
        assert os.path.basename(report.file) in done.stderr
    return report


def test_a_journal_of_several_segments_verifies(vault: tuple[World, Path]) -> None:
    """All lines of all of them, with an empty last one as well."""
    world, path = vault
    assert checked(path, ok=True).verdict.lines == world.journal.durable.seq
    world.flush(closing=True)
    report = checked(path, ok=True)
    assert report.verdict.seq == world.journal.durable.seq
    assert report.file.endswith(segment_path(5)) or report.file.endswith(segment_path(4))


def _swap(path: Path) -> None:
    (path / segment_path(2)).rename(path / "audit" / "other")
    (path / segment_path(3)).rename(path / segment_path(2))
    (path / "audit" / "other").rename(path / segment_path(3))


def _insert(path: Path) -> None:
    (path / segment_path(4)).rename(path / segment_path(5))
    shutil.copy(path / segment_path(2), path / segment_path(4))


def _close_up(path: Path) -> None:
    (path / segment_path(2)).unlink()
    for number in (3, 4):
        (path / segment_path(number)).rename(path / segment_path(number - 1))


def _cut(path: Path) -> None:
    data = (path / segment_path(2)).read_bytes()
    (path / segment_path(2)).write_bytes(data[: data.rindex(b"\n", 0, -1) + 1])


def _merge(path: Path) -> None:
    data = (path / segment_path(3)).read_bytes()
    (path / segment_path(3)).write_bytes(b"")
    (path / segment_path(2)).write_bytes((path / segment_path(2)).read_bytes() + data)


@pytest.mark.parametrize(
    ("spoil", "segment", "line"),
    [
        (lambda path: (path / segment_path(2)).unlink(), 2, 1),
        (lambda path: (path / segment_path(1)).unlink(), 1, 1),
        (_swap, 2, 1),
        (_insert, 4, 1),
        (_close_up, 2, 1),
        (_cut, 3, 1),
    ],
    ids=["missing", "first missing", "swapped", "extra", "closed up", "cut"],
)
def test_a_spoilt_segment_is_named(
    vault: tuple[World, Path], spoil: Callable[[Path], None], segment: int, line: int
) -> None:
    """Missing, swapped, put in, left out or cut at its end: the file and the first line that does not follow."""
    _, path = vault
    spoil(path)
    report = checked(path, ok=False)
    assert (report.file, report.verdict.bad_line) == (str(path / segment_path(segment)), line)


def test_lines_are_not_moved_across_a_border(vault: tuple[World, Path]) -> None:
    """Each segment's first line, and no other, names the vault: so borders stand where they were."""
    _, path = vault
    lines = len((path / segment_path(2)).read_bytes().splitlines())
    _merge(path)
    report = verify_directory(str(path), pause=lambda _: None)
    assert (report.file, report.verdict.bad_line) == (str(path / segment_path(2)), lines + 1)


def test_a_session_does_not_go_on_in_the_next_segment() -> None:
    """A line that names a session of the segment before is bad: pruning would take its key away."""
    world = World()
    world.start()
    world.lease(0)
    world.flush()
    batch = world.journal.take(closing=True)  # as a bug would, without ending the sessions
    assert batch is not None
    world.journal.write(batch)
    world.lease(0)
    world.flush()
    walk, first, said = Walk(), True, ""
    for raw, place in world.journal.raw_from(START.place):
        try:
            walk.step(raw, first=first)
        except IntegrityError as error:
            said = error.message
        first = place.offset == 0
    assert "session key of the segment before" in said


def test_a_pruned_journal_verifies_from_its_beginning(vault: tuple[World, Path]) -> None:
    """It says where it begins and by which checkpoint, what it rules out and what not; trails go on after what went."""
    world, path = vault
    text = signed(world)
    base = pruned(world, path, 3, text)
    report = checked(path, ok=True, key=lambda: PUBLIC)
    assert report.begins == base.seq + 1
    assert report.verdict.lines == world.journal.durable.seq - base.seq
    assert f"begins at line {base.seq + 1} by checkpoint" in report.notes[0]
    assert any("pruned by an admin" in said for said in report.not_ruled_out)
    assert "not checked" in checked(path, ok=True).notes[0]
    early = Checkpoint(VAULT, 3, bytes(32), 10**18)
    report = checked(path, ok=True, checkpoint=early, key=lambda: PUBLIC)
    assert "which were pruned" in report.not_ruled_out[0]


def test_no_other_file_is_walked_in_a_changed_ones_place(vault: tuple[World, Path]) -> None:
    """A copy under another spelling of a segment's number does not hide that the segment was changed."""
    _, path = vault
    segment = path / segment_path(2)
    for width in (7, 8, 9):  # listed in any order
        shutil.copy(segment, path / "audit" / f"{2:0{width}d}.jsonl")
    checked(path, ok=True)
    segment.write_bytes(segment.read_bytes().replace(b'"seq":', b'"sEq":', 1))
    assert checked(path, ok=False).file == str(segment)


def test_a_pruning_that_was_not_finished_is_walked_from_the_earlier_beginning(vault: tuple[World, Path]) -> None:
    """With the next base there, and the segments before it too; a base of another segment says nothing."""
    world, path = vault
    later = base_at(world, 4, signed(world)).encode()
    base = pruned(world, path, 2)
    (path / base_path(4)).write_bytes(later)
    (path / base_path(3)).write_bytes(base.encode())
    assert checked(path, ok=True).begins == base.seq + 1
    segment = path / segment_path(2)
    segment.write_bytes(segment.read_bytes().replace(b'"seq":', b'"sEq":', 1))
    assert checked(path, ok=False).file == str(segment)
    segment.unlink()
    (path / segment_path(3)).unlink()
    assert checked(path, ok=True).begins == Base.decode(later).seq + 1


def test_a_number_that_no_journal_comes_to(vault: tuple[World, Path]) -> None:
    """A file that says it is the last of a thousand million segments costs no memory: the next one is missing."""
    _, path = vault
    (path / "audit" / "999999999.jsonl").touch()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    most = 4 << 30 if limits[1] == resource.RLIM_INFINITY else min(4 << 30, limits[1])
    resource.setrlimit(resource.RLIMIT_AS, (most, limits[1]))
    try:
        assert checked(path, ok=False).file == str(path / segment_path(5))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.parametrize("how", ["signature", "vault", "head", "seq", "trails", "missing", "garbage", "checkpoint"])
def test_a_forged_beginning_is_found(vault: tuple[World, Path], how: str) -> None:
    """What a base says is held against the key, the checkpoint and the lines that are left."""
    world, path = vault
    base = pruned(world, path, 3)
    file = path / base_path(3)
    if how == "signature":
        base = Base(base.vault_id, 3, base.seq, base.head, base.checkpoint.replace("time 2", "time 1"), base.trails)
    elif how == "vault":
        base = Base(bytes(16), 3, base.seq, base.head, base.checkpoint, base.trails)
    elif how == "head":
        base = Base(VAULT, 3, base.seq, bytes(32), base.checkpoint, base.trails)
    elif how == "seq":
        base = Base(VAULT, 3, base.seq - 1, base.head, base.checkpoint, base.trails)
    elif how == "trails":
        base = Base(VAULT, 3, base.seq, base.head, base.checkpoint, {})
    elif how == "checkpoint":  # one that this vault signed, of lines that went
        text = issue(Checkpoint(VAULT, base.seq - 1, bytes(32), 10**18), SEED, PUBLIC)
        base = Base(VAULT, 3, base.seq, base.head, text, base.trails)
    file.write_bytes(base.encode())
    if how == "missing":
        file.unlink()
    elif how == "garbage":
        file.write_bytes(b"garbage\n")
    report = verify_directory(str(path), pause=lambda _: None, key=lambda: PUBLIC)
    assert not report.ok
    assert report.file in {str(path / segment_path(1)), str(file), str(path / segment_path(3))}


def test_a_rewritten_rest_does_not_reach_the_signed_line(vault: tuple[World, Path]) -> None:
    """Lines that were made anew on a base of ours do not lead to the line that was signed when it was pruned."""
    world, path = vault
    durable = world.journal.durable
    text = issue(Checkpoint(VAULT, durable.seq, bytes(31) + b"x", 10**18), SEED, PUBLIC)
    pruned(world, path, 3, text)
    report = verify_directory(str(path), pause=lambda _: None, key=lambda: PUBLIC)
    assert "signed when the journal was pruned" in report.verdict.reason
    text = issue(Checkpoint(VAULT, durable.seq + 5, bytes(32), 10**18), SEED, PUBLIC)
    base = Base.decode((path / base_path(3)).read_bytes())
    (path / base_path(3)).write_bytes(Base(VAULT, 3, base.seq, base.head, text, base.trails).encode())
    report = verify_directory(str(path), pause=lambda _: None, key=lambda: PUBLIC)
    assert "ends after line" in report.verdict.reason


def test_what_an_interrupted_pruning_left_is_a_note(vault: tuple[World, Path]) -> None:
    """Before its commit the whole journal counts, behind it what is left; the rest is named, and no fault."""
    world, path = vault
    base = base_at(world, 3, signed(world))
    (path / base_path(3)).write_bytes(base.encode())
    report = checked(path, ok=True, key=lambda: PUBLIC)
    assert report.begins == 1
    assert any("000003.base" in note for note in report.notes)
    (path / segment_path(1)).unlink()
    report = checked(path, ok=True, key=lambda: PUBLIC)
    assert report.begins == base.seq + 1
    assert any(note.startswith("000002.jsonl lies before") for note in report.notes)


def test_pruned_while_it_is_read(vault: tuple[World, Path]) -> None:
    """A segment that goes under the reader makes it begin anew, from where the journal begins then."""
    world, path = vault
    text = signed(world)
    pruned(world, path, 2, text)
    later = base_at(grown(segments=4), 3, text)
    asked: list[int] = []

    def key() -> bytes:
        if not asked:
            (path / base_path(3)).write_bytes(Base(VAULT, 3, seq, head, text, rows).encode())
            (path / segment_path(2)).unlink()
            (path / base_path(2)).unlink()
        asked.append(1)
        return PUBLIC

    whole = Base.decode((path / base_path(2)).read_bytes())
    rows = dict(whole.trails)
    seq, head = whole.seq, whole.head
    for raw in (path / segment_path(2)).read_bytes().splitlines(keepends=True):
        line = decode(raw)
        seq, head = line.seq, line.hash
        rows[line.tenant or bytes(16)] = TrailBase(line.sub_seq, line.sub_head)
    assert later.seq == seq
    assert verify_directory(str(path), pause=lambda _: None, key=key).begins == seq + 1
    assert len(asked) == 2


# -- bases


def a_base() -> Base:
    trails = {bytes([n]) * 16: TrailBase(n + 1, bytes([n]) * 32) for n in range(3)}
    return Base(VAULT, 3, 41, b"h" * 32, "vaultd/…\n", trails)


def test_a_base_comes_back() -> None:
    """What is written is what is read, and its hash is of every byte."""
    base = a_base()
    assert Base.decode(base.encode()) == base
    assert base.trail(b"x" * 16) == TrailBase(0, bytes(32))
    assert base.begin == Position(3, 0, 41, b"h" * 32)
    assert base.counts() == {None: 1, (b"\x01" * 16).hex().encode(): 2, (b"\x02" * 16).hex().encode(): 3}
    assert hash_of(base.encode()) != hash_of(base.encode() + b"\n")
    assert NEVER_PRUNED.begin == START


def test_a_base_cut_or_grown_is_refused() -> None:
    """All but those that end with a row, and every longer one: those few the anchor's hash tells apart."""
    data = a_base().encode()
    ends = {index + 1 for index, byte in enumerate(data) if byte == 10}
    for cut in range(len(data)):
        if cut in ends:
            continue
        with pytest.raises(IntegrityError):
            Base.decode(data[:cut])
    for more in (b"\n", b"x", b'["00",1,"00"]\n', data.splitlines(keepends=True)[-1]):
        with pytest.raises(IntegrityError):
            Base.decode(data + more)


@given(st.integers(0, 10**6), st.integers(0, 7))
def test_a_changed_base_is_another_or_none(at: int, bit: int) -> None:
    """One spelling only: whatever reads back says what its bytes say."""
    data = bytearray(a_base().encode())
    data[at % len(data)] ^= 1 << bit
    try:
        found = Base.decode(bytes(data))
    except (IntegrityError, FormatVersion):
        return
    assert found.encode() == bytes(data)
    assert found != a_base()


def test_a_later_base_is_told_from_damage() -> None:
    """A higher version is a later program's."""
    header, rest = a_base().encode().split(b"\n", 1)
    facts = json.loads(header) | {"v": 2}
    with pytest.raises(FormatVersion):
        Base.decode(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode() + b"\n" + rest)
