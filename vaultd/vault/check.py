"""Checks a vault that nobody has open: every file's structure without a secret, every seal with one. Changes nothing.

What needs a key is done by the very code that serves, opened over an overlay that keeps its changes to itself; so
"checks out" means that a daemon would open it, and open every tenant, version, audit record and key pair in it.
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from vaultd.audit.chain import Link, parse
from vaultd.audit.domain import SYSTEM_UID
from vaultd.audit.journal import START, Journal
from vaultd.audit.reader import Bookmark, TrailReader
from vaultd.audit.sealslots import SLOT_SIZE, SLOTS
from vaultd.audit.segments import DIRECTORY, base_path, numbers, segment_path
from vaultd.audit.tags import Tag
from vaultd.crypto.primitives import ed25519_public
from vaultd.crypto.slots import slot_public
from vaultd.errors import IntegrityError, NotFound, Uninitialised, VaultdError
from vaultd.store.overlay import OverlayStore
from vaultd.store.reserve import RESERVE
from vaultd.vault import entries, forward
from vaultd.vault.check_blobs import blob_structures, open_blob, unnamed_blobs
from vaultd.vault.commit import KEYRING, KEYRING_NEXT, STATE, heads_path, log_path
from vaultd.vault.forward import SEAL, SEAL_NEXT
from vaultd.vault.keyring import MAX_SIZE, SYSTEM, KeyringFile
from vaultd.vault.ledger import Ledger
from vaultd.vault.log import MAGIC, MAX_ATTACHMENT
from vaultd.vault.recovery import survey
from vaultd.vault.system import SystemState
from vaultd.vault.tenant import OpenTenant

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaultd.audit.journal import Position
    from vaultd.clock import Clock
    from vaultd.crypto.hierarchy import RootKeys
    from vaultd.crypto.kdf import Profile
    from vaultd.crypto.memory import SecretBytes
    from vaultd.crypto.slots import SlotKind
    from vaultd.store import Store
    from vaultd.vault.keyring import Entry, Keyring

__all__ = ["CheckReport", "check"]

_LENGTHS: Final = struct.Struct(">II")
_ROOT_NAMES: Final = frozenset(
    {
        KEYRING,
        KEYRING_NEXT,
        STATE,
        heads_path(0),
        heads_path(1),
        "audit",
        "system",
        "tenants",
        "living",
        "living.new",
        "owed",
        RESERVE,
        SEAL,
        SEAL_NEXT,
    }
)


@dataclass(slots=True)
class CheckReport:
    """What was found.

    Attributes:
        files: how many were looked at.
        seals: whether a secret was given, and so every seal was opened.
        values, records: how many values and audit records were opened.
        problems: what is wrong, a line each, the file first.
        notes: what is odd but no fault: what an interrupted flush left, which the next opening removes.
    """

    files: int = 0
    seals: bool = False
    values: int = 0
    records: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    def attempt(self, what: str, step: Callable[..., object], *arguments: object) -> bool:
        """Run one check; what it raises becomes a problem."""
        try:
            step(*arguments)
        except VaultdError as error:
            self.problems.append(f"{what}: {error.message}")
            return False
        return True


def check(
    store: Store, clock: Clock, *, secret: SecretBytes | None = None, kind: SlotKind | None = None, minimum: Profile
) -> CheckReport:
    """Check every file of the vault in `store`, and with a slot's secret every seal.

    Args:
        secret, kind: of a slot; the secret stays the caller's to wipe.
        minimum: the least Argon2id cost that is accepted.

    Raises:
        Uninitialised: there is no vault.
        WrongSecret: no slot opens with the secret.
    """
    report = CheckReport()
    keyring = _keyring(store, report)
    _structure(store, keyring, report)
    if secret is not None and kind is not None:
        report.seals = True
        if not report.problems:
            _seals(store, clock, secret, kind, minimum, report)
        else:
            report.notes.append("the seals were not checked: the structure has to be repaired first")
    return report


def _keyring(store: Store, report: CheckReport) -> Keyring | None:
    found: list[Keyring] = []
    try:
        report.attempt(KEYRING, lambda: found.append(KeyringFile.decode(store.read(KEYRING, MAX_SIZE)).keyring))
    except NotFound:
        raise Uninitialised("there is no vault here yet", "make one with: vaultctl init") from None
    return found[0] if found else None


def _structure(store: Store, keyring: Keyring | None, report: CheckReport) -> None:
    for name in store.list():
        if name not in _ROOT_NAMES:
            report.problems.append(f"{name}: no file of a vault has this name")
    report.files += sum(store.exists(name) for name in (KEYRING, STATE, heads_path(0), heads_path(1)))
    if store.exists(KEYRING_NEXT):
        report.files += 1
        report.notes.append(f"{KEYRING_NEXT}: a change of the keyring was interrupted; the next opening settles it")
    if keyring is not None:
        # Anchor, keyring and heads against each other: nothing here needs a key.
        report.attempt("the files of the vault", _survey, store, report)
    report.attempt("audit journal", _journal, store, keyring, report)
    if keyring is None:
        return
    for entry in keyring:
        if not entry.deleted:
            path = log_path(entry.uid, entry.generation)
            report.attempt(path, _log, store, path, report)
    _strays(store, keyring, report)


def _survey(store: Store, report: CheckReport) -> None:
    found = survey(store)
    found.state.close()
    if found.found.torn:
        report.notes.append(f"{STATE}: one of its two slots is not whole, as a crash leaves it; the other counts")


def _journal(store: Store, keyring: Keyring | None, report: CheckReport) -> None:
    names = store.list(DIRECTORY)
    begin, current = START, None
    try:
        found = survey(store)
    except VaultdError:
        pass  # said already; then the segments that are there must be all
    else:
        found.state.close()
        begin, current = found.base.begin, found.found.anchor.position.segment
    journal = Journal(store, begin=begin, current=current)
    tags: deque[tuple[Link, Tag]] = deque(maxlen=2)
    at = begin
    try:
        for entry in journal.read_from(begin):
            if isinstance(entry.line, Tag):
                tags.append((Link(at.seq, at.head), entry.line))
            at = entry.after
    finally:
        journal.close()
    known = [n for n in numbers(names) if n >= begin.segment]
    report.files += len(known) + (begin != START)
    named = {segment_path(n) for n in known} | ({base_path(begin.segment)} if begin != START else set())
    for path in (f"{DIRECTORY}/{name}" for name in names):
        if path not in named:
            report.notes.append(f"{path}: nothing names this file")
    if keyring is not None and report.attempt(SEAL, _seal_slots, store, report):
        report.attempt(SEAL, _seal, OverlayStore(store), keyring.vault_id, list(tags), at)


def _seal_slots(store: Store, report: CheckReport) -> None:
    """The slots by themselves: a torn one is no fault."""
    if not store.exists(SEAL):
        return
    report.files += 1
    file = store.slots(SEAL, SLOT_SIZE, SLOTS)
    try:
        kept = forward.read(file)
    finally:
        file.close()
    kept.chain.wipe()
    if kept.torn:
        report.notes.append(f"{SEAL}: one of its two slots is not whole, as a crash leaves it; the other counts")


def _seal(store: Store, vault_id: bytes, tags: list[tuple[Link, Tag]], end: Position) -> None:
    """The state of the forward seal against the newest tag lines: it shows whether the journal was cut."""
    found = forward.find(store, vault_id, tags, end)
    if found is not None:
        found.file.close()
        found.chain.wipe()


def _log(store: Store, path: str, report: CheckReport) -> None:
    """Walk a log's lengths; which of its records count, and whether they open, takes a key."""
    report.files += 1
    file = store.append(path)
    try:
        if file.pread(0, len(MAGIC)) != MAGIC:
            raise IntegrityError("it does not begin as a log does")
        offset = len(MAGIC)
        while offset < file.size:
            lengths = file.pread(offset, _LENGTHS.size)
            if len(lengths) < _LENGTHS.size:
                report.notes.append(f"{path}: its last record is cut short, as a crash leaves it")
                return
            total, attached = _LENGTHS.unpack(lengths)
            if attached > MAX_ATTACHMENT or total < _LENGTHS.size + attached:
                raise IntegrityError(f"a record at byte {offset} has an impossible length")
            offset += total
        if offset > file.size:
            report.notes.append(f"{path}: its last record is cut short, as a crash leaves it")
    finally:
        file.close()


def _strays(store: Store, keyring: Keyring, report: CheckReport) -> None:
    known = {entry.uid.hex(): entry for entry in keyring if entry.uid != SYSTEM and not entry.deleted}
    directories = [("system", keyring.generation(SYSTEM))]
    for name in store.list("tenants"):
        if name in known:
            directories.append((f"tenants/{name}", known[name].generation))
        else:
            report.notes.append(f"tenants/{name}: the keyring names no such tenant; the next opening may remove it")
    for directory, generation in directories:
        for name in store.list(directory):
            if name == "blobs" and directory != "system":
                path = f"{directory}/{name}"
                report.attempt(path, blob_structures, store, path, report)
            elif name != f"log.{generation}":
                report.notes.append(f"{directory}/{name}: nothing names this file")


def _seals(
    store: Store, clock: Clock, secret: SecretBytes, kind: SlotKind, minimum: Profile, report: CheckReport
) -> None:
    opened: list[Ledger] = []
    if not report.attempt("vault", lambda: opened.append(Ledger.open(OverlayStore(store), clock, minimum=minimum))):
        return
    ledger = opened[0]
    try:
        slot, slot_key = ledger.derive(secret, kind)
        with slot_key:
            if not report.attempt("vault", lambda: ledger.unseal(slot, slot_key)):
                return
        _keys(ledger, report)
        for entry in ledger.keyring:
            path = log_path(entry.uid, entry.generation)
            if entry.uid == SYSTEM:
                report.attempt(path, _system, ledger)
            elif not entry.deleted:
                report.attempt(path, _tenant, ledger, entry, report)
        report.attempt("audit journal", _trails, ledger, report)
    finally:
        ledger.close()


def _keys(ledger: Ledger, report: CheckReport) -> None:
    root, vault_id = ledger.root_keys, ledger.vault_id
    for slot in ledger.slots:
        report.attempt(f"keyring: slot {slot.id}", slot_public, slot, root.wrap)
    report.attempt("keyring: checkpoint key", _checkpoint_key, ledger)
    for entry in ledger.keyring:
        report.attempt(f"keyring: entry {entry.uid.hex()}", _pairs, entry, vault_id, root)


def _pairs(entry: Entry, vault_id: bytes, root: RootKeys) -> None:
    entries.audit_private(vault_id, entry, root).wipe()
    if not entry.deleted:
        entries.deposit_private(vault_id, entry, root).wipe()


def _checkpoint_key(ledger: Ledger) -> None:
    with entries.open_checkpoint_seed(ledger.vault_id, ledger.root_keys, ledger.keyring.wrapped_checkpoint) as seed:
        if ed25519_public(seed) != ledger.keyring.checkpoint_public:
            raise IntegrityError("the private and the public half do not belong together")


def _system(ledger: Ledger) -> None:
    state = SystemState()
    for header, _ in ledger.system_log.scan()[0]:
        state.apply(header)


def _tenant(ledger: Ledger, entry: Entry, report: CheckReport) -> None:
    store, log_name = ledger.store, log_path(entry.uid, entry.generation)
    name = ledger.name(entry.uid)
    if ledger.find(name) != entry.uid:
        raise IntegrityError("the keyring finds another tenant, or none, under this tenant's name")
    log, records = ledger.open_log(entry.uid)
    try:
        opened = OpenTenant(ledger.vault_id, entry.uid, name, log)
        opened.replay(records)
        for secret in opened.state.secrets.values():
            for version in secret.versions.values():
                if version.blob is not None:
                    # Each by itself: one damaged file says nothing of the others, as it does when they are served.
                    where = store, ledger.vault_id, opened, secret, version, version.blob
                    report.values += report.attempt(log_name, open_blob, *where)
                elif version.ref is not None:
                    opened.envelope.open(secret.id, version.number, log.read_attachment(version.ref)).wipe()
                    report.values += 1
        report.notes += [f"{path}: no version names this file" for path in unnamed_blobs(store, opened)]
    finally:
        ledger.close_log(entry.uid)


def _trails(ledger: Ledger, report: CheckReport) -> None:
    """Open every audit record with its trail's key, in one walk."""
    readers: dict[bytes, TrailReader] = {}
    root, vault_id = ledger.root_keys, ledger.vault_id
    try:
        for raw, place in ledger.journal.raw_from(ledger.base.begin.place):
            line = parse(raw)
            if isinstance(line, Tag):
                continue
            uid = line.tenant or SYSTEM_UID
            owner = ledger.keyring.entry(uid)
            if owner is None:  # deleted together with its trail's key
                continue
            reader = readers.get(uid)
            if reader is None:
                private = entries.audit_private(vault_id, owner, root)
                start = Bookmark(place, *ledger.base.trail(uid))
                reader = readers[uid] = TrailReader(vault_id, uid, owner.audit_public, private, start)
            report.records += sum(record is not None for record in reader.records([(raw, place)]))
    finally:
        for reader in readers.values():
            reader.close()
