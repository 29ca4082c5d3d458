"""I9: any change to any audit byte, any removal, reordering or insertion is found, and the first bad line is named."""

from __future__ import annotations

from itertools import zip_longest

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.audit_world import ADMIN, VAULT, World
from vaultd.audit.body import Event
from vaultd.audit.chain import GENESIS, Vouch, decode, encode, link, verify
from vaultd.audit.reader import export_header
from vaultd.audit.verify import verify_export
from vaultd.errors import FormatVersion, IntegrityError

MORE = settings(max_examples=max(400, settings().max_examples))


def _world() -> World:
    world = World(tenants=2)
    world.mixed(6)
    vouch = Vouch(world.tenants[0].uid, 1, 7, b"t" * 16)
    world.trail.record(Event("secret.put", "ok", ADMIN, secret="a"), world.tenants[0], [vouch])
    world.clock.advance(61)
    world.lease(0)
    world.flush()
    return world


WORLD = _world()
LINES = WORLD.lines()
DATA = b"".join(LINES)
TRAIL = WORLD.tenants[0]
EXPORT = [export_header(VAULT, TRAIL.uid), *(record.line() for record in WORLD.records(TRAIL))]


def split(data: bytes) -> list[bytes]:
    """Lines as a reader takes them: ended by newlines and nothing else, the last one possibly cut short."""
    *whole, rest = data.split(b"\n")
    return [part + b"\n" for part in whole] + ([rest] if rest else [])


def first_difference(one: list[bytes], other: list[bytes]) -> int:
    """The first line, counted from 1, at which two lists of lines differ."""
    return next(number for number, (a, b) in enumerate(zip_longest(one, other), 1) if a != b)


def found_in_journal(changed: list[bytes]) -> int | None:
    """The first bad line of a journal whose size and head are known from a checkpoint (or the anchor)."""
    verdict = verify(changed)
    if verdict.bad_line is None and (verdict.seq, verdict.head) != (len(LINES), WORLD.journal.head):
        return verdict.lines + 1
    return verdict.bad_line


def found_in_export(changed: list[bytes]) -> int | None:
    """The first bad line of an export whose number of records and head the tenant knows."""
    verdict = verify_export(changed)
    if verdict.bad_line is None and (verdict.seq, verdict.head) != (TRAIL.sub_seq, TRAIL.sub_head):
        return verdict.lines + 1
    return verdict.bad_line


def test_unchanged_is_good() -> None:
    """The journal and the export that the rest of this file tampers with verify."""
    assert found_in_journal(LINES) is None
    assert found_in_export(EXPORT) is None


def test_every_bit_of_every_byte_of_a_line_counts() -> None:
    """Each bit of three lines (a session's first, a later one, one with heads) flipped: that line is named."""
    chosen = [1, 8, next(number for number, raw in enumerate(LINES) if b'"heads"' in raw)]
    for number in chosen:
        for at in range(len(LINES[number])):
            for bit in range(8):
                raw = bytearray(LINES[number])
                raw[at] ^= 1 << bit
                assert verify([*LINES[:number], *split(bytes(raw)), *LINES[number + 1 :]]).bad_line == number + 1


@MORE
@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_any_byte_changed_anywhere_names_its_line(at: int, mask: int) -> None:
    """Any byte of the journal changed in any way: the line it lies in is the first bad one."""
    raw = bytearray(DATA)
    raw[at] ^= mask
    assert found_in_journal(split(bytes(raw))) == DATA[:at].count(b"\n") + 1


edits = st.lists(
    st.tuples(
        st.sampled_from(["remove", "move", "copy", "swap", "cut", "foreign", "blank"]),
        st.integers(0, 40),
        st.integers(0, 40),
    ),
    min_size=1,
    max_size=4,
)


def edited(lines: list[bytes], steps: list[tuple[str, int, int]], foreign: list[bytes]) -> list[bytes]:
    """`lines` after somebody removed, moved, copied, swapped, cut and inserted some."""
    changed = list(lines)
    for step, one, other in steps:
        if not changed:
            break
        at, to = one % len(changed), other % len(changed)
        if step == "remove":
            del changed[at]
        elif step == "move":
            changed.insert(to, changed.pop(at))
        elif step == "copy":
            changed.insert(to, changed[at])
        elif step == "swap":
            changed[at], changed[to] = changed[to], changed[at]
        elif step == "cut":
            del changed[max(at, 1) :]
        elif step == "foreign":
            changed.insert(to, foreign[one % len(foreign)])
        else:
            changed.insert(to, b"\n")
    return changed


OTHER = World(tenants=2, seed=2)
OTHER.clock.advance(1)  # another beginning, or it would be a fork of the same journal
OTHER.mixed(6)
# Without their first ones: those follow from nothing, so they stand anywhere at the start, as a forged line would. The
# last test of this file is about forged lines: the fault then shows one line later.
FOREIGN = OTHER.lines()[1:]
FOREIGN_RECORDS = [record.line() for record in OTHER.records(OTHER.tenants[0])][1:]


@MORE
@given(edits)
def test_lines_removed_moved_copied_or_put_in_are_found(steps: list[tuple[str, int, int]]) -> None:
    """However lines are shuffled, dropped, doubled or brought from another journal, the first difference is named."""
    changed = edited(LINES, steps, FOREIGN)
    if changed == LINES:
        assert found_in_journal(changed) is None
    else:
        assert found_in_journal(changed) == first_difference(LINES, changed)


@MORE
@given(edits)
def test_records_of_an_export_removed_moved_or_put_in_are_found(steps: list[tuple[str, int, int]]) -> None:
    """The same for a tenant's export, by itself, with the trail's length and head known."""
    changed = edited(EXPORT, steps, FOREIGN_RECORDS)
    if changed == EXPORT:
        assert found_in_export(changed) is None
    else:
        assert found_in_export(changed) == first_difference(EXPORT, changed)


@MORE
@given(st.integers(0, len(b"".join(EXPORT)) - 1), st.integers(1, 255))
def test_any_byte_of_an_export_changed_is_found(at: int, mask: int) -> None:
    """Any byte of an export changed: the line it lies in is named, but for the header's words about whose it is.

    Those (vault and tenant) are not hashed; a reader compares them with what it asked for.
    """
    data = bytearray(b"".join(EXPORT))
    data[at] ^= mask
    changed = split(bytes(data))
    line = b"".join(EXPORT)[:at].count(b"\n") + 1
    found = found_in_export(changed)
    if line > 1:
        assert found == line
    elif found is None:
        assert changed[1:] == EXPORT[1:]


@MORE
@given(st.sampled_from(LINES), st.data())
def test_a_line_has_one_spelling(raw: bytes, data: st.DataObject) -> None:
    """Parse then serialise is the identity, or the line is refused: there is no second way to say the same."""
    assert encode(decode(raw)) == raw
    changed = bytearray(raw)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(changed)))
        changed[at : at + data.draw(st.integers(0, 2))] = data.draw(
            st.sampled_from([b"", b" ", b"0", b"00", b"A", b"=", b'"', b",", b"\\u0061", b"{}", b"null", b"1.0", b"-0"])
        )
    try:
        line = decode(bytes(changed))
    except (IntegrityError, FormatVersion):
        return
    assert encode(line) == bytes(changed)


@given(st.integers(0, len(LINES)))
def test_every_prefix_of_lines_is_a_good_chain(count: int) -> None:
    """Every earlier state of the journal verifies: that is why a cut at the end needs a checkpoint to be seen."""
    verdict = verify(LINES[:count])
    assert verdict.ok
    assert verdict.seq == count
    assert found_in_journal(LINES[:count]) == (None if count == len(LINES) else count + 1)


@given(st.integers(0, len(DATA)))
def test_every_prefix_of_bytes_keeps_its_whole_lines(size: int) -> None:
    """A file cut anywhere: the whole lines are good, and the torn one is the first bad."""
    whole = DATA[:size].count(b"\n")
    verdict = verify(split(DATA[:size]))
    assert verdict.lines == whole
    assert verdict.bad_line == (None if DATA[:size] == b"".join(LINES[:whole]) else whole + 1)


def test_a_later_hash_cannot_be_kept_after_a_change() -> None:
    """Recomputing the changed line's own hash moves the fault to the next line: the chain has no slack."""
    number = 5
    core = LINES[number][: LINES[number].rindex(b',"hash":"')]
    core = core.replace(b'"time":"2', b'"time":"3', 1)
    previous = decode(LINES[number - 1]).hash if number else GENESIS
    forged, _ = link(previous, core)
    changed = [*LINES[:number], forged, *LINES[number + 1 :]]
    assert verify(changed).bad_line == number + 2
