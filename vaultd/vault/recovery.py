"""What is in force after a crash: read from the files alone, before and after there is a key.

Nothing here guesses. The newest whole anchor names one keyring, one heads snapshot and one place in the journal; what
is missing of those is tampering. What stands behind that place counts as far as it verifies; what comes after is the
torn end of a flush that nobody was told of. `FORMAT.md` has the rules and, crash point by crash point, what they give.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from vaultd.audit import base as base_file
from vaultd.audit.base import NEVER_PRUNED, Base
from vaultd.audit.chain import Link, follow, parse
from vaultd.audit.segments import DIRECTORY, base_numbers, base_path, numbers, segment_path
from vaultd.audit.tags import Tag
from vaultd.errors import IntegrityError, NotFound, Uninitialised
from vaultd.vault import heads as heads_file
from vaultd.vault import keyring as keyring_file
from vaultd.vault.anchor import NO_BASE, SLOT_SIZE, SLOTS, Found, choose
from vaultd.vault.commit import KEYRING, KEYRING_NEXT, STATE, heads_path
from vaultd.vault.heads import Head, Heads
from vaultd.vault.keyring import SYSTEM, KeyringFile
from vaultd.vault.vouching import Claim, split

if TYPE_CHECKING:
    from vaultd.audit.chain import Line
    from vaultd.audit.journal import Journal, Position
    from vaultd.store import SlotFile, Store
    from vaultd.vault.keyring import Keyring

__all__ = ["RecoveryReport", "Survey", "align", "read_base", "replay", "survey", "sweep", "sweep_audit"]

_RESTORE: Final = "restore the whole vault directory from one backup"
_LOG_NAME: Final = re.compile(r"log\.[0-9]+")
_TENANT_NAME: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(slots=True)
class RecoveryReport:
    """What opening found and did. All zero after an orderly end."""

    replayed: int = 0
    """Journal lines read behind the heads snapshot."""
    unanchored: int = 0
    """Of these, lines behind the anchor: written, and durable, but not yet anchored."""
    journal_cut: int = 0
    """Bytes of the journal's torn end that were cut."""
    torn_anchor: bool = False
    """One of the anchor's two slots was not whole."""
    torn_seal: bool = False
    """One of the two slots of the forward seal's state was not whole."""
    keyring: str = "kept"
    """`finished`: a change that was committed was completed; `abandoned`: one that was not was removed."""
    removed: int = 0
    """Files and directories that no keyring names, removed."""
    log_cut: int = 0
    """Bytes cut from the system's log behind the last record that is vouched for."""

    @property
    def repaired(self) -> bool:
        """Whether there is anything to tell people of."""
        return bool(
            self.journal_cut
            or self.torn_anchor
            or self.torn_seal
            or self.removed
            or self.log_cut
            or self.keyring != "kept"
        )

    def public(self) -> dict[str, int | bool | str]:
        """The report as an audit record says it."""
        return {
            "journal_cut": self.journal_cut,
            "keyring": self.keyring,
            "log_cut": self.log_cut,
            "removed": self.removed,
            "torn_anchor": self.torn_anchor,
            "torn_seal": self.torn_seal,
            "unanchored": self.unanchored,
        }


@dataclass(frozen=True, slots=True)
class Survey:
    """The files that are in force, not yet authenticated.

    Attributes:
        file: the keyring that the anchor names.
        found: the anchor.
        state: the open state file.
        heads: where every domain stood at `since`.
        base: what the journal begins after.
        in_next: the keyring in force still lies in `keyring.next`.
        abandoned: `keyring.next` holds one that never came into force.
    """

    file: KeyringFile
    found: Found
    state: SlotFile
    heads: Heads
    since: Position
    base: Base
    in_next: bool
    abandoned: bool
    claims: list[Claim]
    """What lines behind the anchor vouch for, once `replay` has read them: to be verified when there is a key."""
    tags: list[tuple[Link, Tag]] = field(default_factory=list)
    """The forward seal's tag lines behind the heads snapshot, each with the place before it, once `replay` has read."""

    @property
    def must_sweep(self) -> bool:
        """Whether files that no keyring names may be there."""
        return self.abandoned or self.in_next or self.found.anchor.pending


def survey(store: Store) -> Survey:
    """Find what is in force. Changes nothing.

    Raises:
        Uninitialised: there is no vault, or its creation was never finished.
        FormatVersion: a file is of a newer format.
        IntegrityError: the files do not belong together.
    """
    current = _keyring(store, KEYRING)
    if current is None:
        if store.exists(STATE) and not store.exists(KEYRING_NEXT):
            raise IntegrityError("the keyring is gone", _RESTORE)
        raise Uninitialised("there is no vault here yet", "make one with: vaultctl init")
    state = _state(store)
    try:
        found = choose((state.read(0), state.read(1)), current.keyring.vault_id)
        file = _in_force(store, current, found)
        heads, since = _heads(store, found)
        base = read_base(store, found)
    except BaseException:
        state.close()
        raise
    in_next = file is not current
    abandoned = not in_next and store.exists(KEYRING_NEXT)
    return Survey(file, found, state, heads, since, base, in_next, abandoned, [])


def replay(survey: Survey, journal: Journal, report: RecoveryReport) -> Position:
    """Bring the heads up to date with the journal, and cut the journal's torn end.

    Returns:
        Where the journal goes on.

    Raises:
        IntegrityError: the journal is not the one that the anchor speaks of, or its end contradicts it.
        FormatVersion: a line is of a newer format.
    """
    keyring, heads, anchored = survey.file.keyring, survey.heads, survey.found.anchor.position
    align(heads, keyring)
    at = journal.settled(survey.since)
    _hold(journal, at)
    lines = journal.read_from(at)
    while True:
        behind = at.place >= anchored.place
        # The anchor is a place between two lines: reading must come by it exactly.
        if behind and not report.unanchored and at != anchored:
            raise IntegrityError("the journal is not the one that the anchor speaks of", _RESTORE)
        try:
            entry = next(lines, None)
        except IntegrityError:
            if not behind:
                raise
            # Behind the anchor a line that does not verify is the end of a flush that was cut short, whatever follows
            # it: sectors of one flush reach the disk in any order.
            break
        if entry is None:
            break
        if isinstance(entry.line, Tag):
            survey.tags.append((Link(at.seq, at.head), entry.line))
        elif entry.line.heads:
            claim = split(entry.line.seq, at.head, entry.line.heads)
            if behind:
                _hold_claim(survey, claim)
            _take_in(heads, keyring, claim)
        _continue_trail(heads, entry.line)
        at = entry.after
        report.replayed += 1
        report.unanchored += behind
    if not behind:
        raise IntegrityError("the journal ends before the place that the anchor speaks of", _RESTORE)
    report.journal_cut = len(journal.resume(at))
    report.torn_anchor = survey.found.torn
    return at


def _hold(journal: Journal, at: Position) -> None:
    """Hold that the journal's line before `at` is the one that the heads snapshot ends with.

    Without this a journal that was put to rest, where nothing is left to replay, could be exchanged for any other of
    its length. What stands further back is `audit verify`'s matter, however long the journal.
    """
    found = journal.last_before(at, 2)
    before = Link(journal.begin.seq, journal.begin.head)
    if len(found) == 2:
        before = Link(at.seq - 1, parse(found[0]).hash)
    # Whether it may be the first of its segment is for those who read the segment.
    after = follow(found[-1], before, first=parse(found[-1]).vault is not None)[1] if found else before
    if after != (at.seq, at.head):
        raise IntegrityError("the journal is not the one that the anchor speaks of", _RESTORE)


def align(heads: Heads, keyring: Keyring) -> None:
    """Give every domain of the keyring a row, and no other."""
    # Set differences: at a hundred thousand domains a loop in Python would show.
    for uid in heads.uids() - keyring.rows.keys():
        heads.remove(uid)
    for uid in keyring.rows.keys() - heads.uids():
        heads.add(uid, keyring.generation(uid) or 0)


def _hold_claim(survey: Survey, claim: Claim) -> None:
    """Hold a claim from behind the anchor against what is in force; its seal is held later, when there is a key."""
    in_force = survey.file.keyring.revision
    newest = survey.claims[-1].revision if survey.claims else in_force
    # A change of the keyring ends its batch, and the next batch is not begun before it is committed, which the anchor
    # then says. So a change that is not in force was the last that happened, or somebody put back an older anchor.
    if claim.revision < newest or (newest > in_force and claim.revision == newest):
        raise IntegrityError(f"journal line {claim.seq} speaks of a keyring that is not in force", _RESTORE)
    if claim.revision > in_force and not survey.abandoned:
        raise IntegrityError(f"journal line {claim.seq} speaks of a keyring that is gone", _RESTORE)
    survey.claims.append(claim)


def _take_in(heads: Heads, keyring: Keyring, claim: Claim) -> None:
    """Move the heads of the logs that a line vouches for."""
    for uid, generation, record, tag in claim.heads:
        # Another generation, or nobody: a keyring change that was never committed, or one long replaced.
        if keyring.generation(uid) == generation:
            heads.set_head(uid, Head(generation, record, tag))


def _continue_trail(heads: Heads, line: Line | Tag) -> None:
    if isinstance(line, Tag):
        return
    trail = line.tenant or SYSTEM
    if trail in heads:
        if line.sub_seq != heads.trail(trail).seq + 1:
            raise IntegrityError(f"journal line {line.seq} does not continue its trail", _RESTORE)
        heads.set_trail(trail, line.sub_seq, line.sub_head)


def sweep_audit(store: Store, base: Base) -> int:
    """Remove what pruning left when it was interrupted: segments and bases that the anchor does not speak of.

    Returns how many went.
    """
    names = store.list(DIRECTORY)
    strays = [segment_path(number) for number in numbers(names) if number < base.segment]
    strays += [base_path(number) for number in base_numbers(names) if number != base.segment]
    for path in strays:
        store.remove(path)
    return len(strays) + store.tidy(DIRECTORY)  # what was on its way to a name


def sweep(store: Store, keyring: Keyring) -> int:
    """Remove what no keyring names: new files of an abandoned change, old files of a committed one.

    Only names that this program gives are touched. Returns how many went.
    """
    removed = 0
    for name in store.list("tenants"):
        if _TENANT_NAME.fullmatch(name) is None:
            continue
        uid = bytes.fromhex(name)
        entry = keyring.entry(uid)
        if entry is None or entry.deleted:
            store.remove_tree(f"tenants/{name}")
            removed += 1
        else:
            removed += sweep_logs(store, f"tenants/{name}", entry.generation)
    # A process that was killed may have removed some and not flushed that: the next anchor says that nothing is left.
    removed += store.tidy("tenants")
    return removed + sweep_logs(store, "system", keyring.generation(SYSTEM) or 0)


def sweep_logs(store: Store, directory: str, generation: int) -> int:
    """Remove the logs in `directory` that are not of `generation`, finished or not. Returns how many went."""
    strays = [name for name in store.list(directory) if _LOG_NAME.fullmatch(name) and name != f"log.{generation}"]
    for name in strays:
        store.remove(f"{directory}/{name}")
    return len(strays) + store.tidy(directory)


def _keyring(store: Store, path: str) -> KeyringFile | None:
    try:
        return KeyringFile.decode(store.read(path, keyring_file.MAX_SIZE))
    except NotFound:
        return None


def _in_force(store: Store, current: KeyringFile, found: Found) -> KeyringFile:
    """The keyring whose hash the anchor holds: the present one, or the next, which has not got its final name yet."""
    anchor = found.anchor
    if current.hash == anchor.keyring:
        return current
    after = _keyring(store, KEYRING_NEXT)
    if after is None or after.hash != anchor.keyring or after.keyring.vault_id != anchor.vault_id:
        raise IntegrityError("the keyring is not the one that the anchor names", _RESTORE)
    return after


def _state(store: Store) -> SlotFile:
    try:
        return store.slots(STATE, SLOT_SIZE, SLOTS)
    except NotFound:
        raise IntegrityError("the state file is gone", _RESTORE) from None


def _heads(store: Store, found: Found) -> tuple[Heads, Position]:
    anchor = found.anchor
    path = heads_path(anchor.heads_file)
    try:
        data = store.read(path, heads_file.MAX_SIZE)
    except NotFound:
        raise IntegrityError(f"{path} is gone", _RESTORE) from None
    # The version first: a newer format may be hashed in another way.
    if heads_file.hash_of(data) != anchor.heads:
        raise IntegrityError(f"{path} is not the one that the anchor names", _RESTORE)
    heads, since = Heads.decode(data, anchor.vault_id)
    if since.place > anchor.position.place or since.seq > anchor.position.seq:
        raise IntegrityError(f"{path} is newer than the anchor", _RESTORE)
    return heads, since


def read_base(store: Store, found: Found) -> Base:
    """What the journal begins after, by the word of the anchor.

    Raises:
        IntegrityError: it is gone, or not the one that the anchor names.
    """
    anchor = found.anchor
    if anchor.base == NO_BASE:
        return NEVER_PRUNED
    path = base_path(anchor.first)
    try:
        data = store.read(path, base_file.MAX_SIZE)
    except NotFound:
        raise IntegrityError(f"{path} is gone", _RESTORE) from None
    if base_file.hash_of(data) != anchor.base:
        raise IntegrityError(f"{path} is not the one that the anchor names", _RESTORE)
    base = Base.decode(data)
    if base.vault_id != anchor.vault_id or base.segment != anchor.first:
        raise IntegrityError(f"{path} is not of this place", _RESTORE)
    return base
