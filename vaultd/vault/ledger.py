"""The ledger: one vault directory, opened; where changes are staged, vouched for by audit lines, and made durable.

Early visibility, late release: staging changes memory at once, so that the next request sees it, and gives a receipt;
no reply may leave before the flush that covers everything staged before it. `take`, `write` and `finish` are one flush
in three parts, so that `write` may run in a thread of its own; `flush` is all three, inline.

After any error of a flush the ledger is halted for good: what reached the disk is unknown, what stands in memory may be
ahead of it, and only opening the directory anew can tell.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Self

from vaultd.audit.body import Actor, Event
from vaultd.audit.domain import Domain
from vaultd.audit.journal import Journal
from vaultd.audit.trail import Trail
from vaultd.crypto.kdf import FLOOR, Profile
from vaultd.crypto.primitives import random_bytes
from vaultd.crypto.slots import Slot, SlotKind, derive_slot_key, open_slot_with_key
from vaultd.errors import Conflict, IntegrityError, Internal, NotFound, Sealed, StoreError, WrongSecret
from vaultd.vault import entries, forward, recovery
from vaultd.vault.commit import KEYRING, KEYRING_NEXT, Batch, Committer, Drop
from vaultd.vault.create import create
from vaultd.vault.keyring import SYSTEM, Entry, Keyring
from vaultd.vault.logs import LogTable
from vaultd.vault.pipeline import SNAPSHOT_LINES, Pipeline
from vaultd.vault.recovery import RecoveryReport
from vaultd.vault.sealer import Sealer
from vaultd.vault.unsealed import UnsealedKeys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from vaultd.audit.base import Base
    from vaultd.audit.journal import Position
    from vaultd.audit.receipt import Receipt
    from vaultd.audit.seal import FirstKey
    from vaultd.clock import Clock
    from vaultd.crypto.hierarchy import RootKeys
    from vaultd.crypto.memory import Key, SecretBytes
    from vaultd.store import Store
    from vaultd.vault.anchor import Anchor
    from vaultd.vault.log import SealedLog
    from vaultd.vault.logs import Records

__all__ = ["Ledger"]

_VAULTD: Final = Actor("system")
_RESTORE: Final = "restore the whole vault directory from one backup"
_AT_REST: Final = 60_000_000_000
"""Nanoseconds after which the time is anchored although nothing happened: who crashes an idle daemon and sets the clock
back gives expired grants no more than this."""


class Ledger:
    """See the module. All but `derive` and `write` belong to one thread, the one that decides."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        survey: recovery.Survey,
        journal: Journal,
        position: Position,
        report: RecoveryReport,
        *,
        minimum: Profile,
        random: Callable[[int], bytes],
        snapshot_lines: int,
        seal: forward.Found | None,
    ) -> None:
        self.report = report
        """What opening found, completed by the first `unseal`."""
        self.keyring = survey.file.keyring
        """As staged: a change is here before it is durable."""
        self.base = survey.base
        """What the journal begins after, as staged."""
        self._store = store
        self._clock = clock
        self._survey = survey
        self._journal = journal
        self._heads = survey.heads
        self._minimum = minimum
        self._wall = 0
        self._keys: UnsealedKeys | None = None
        self._authentic = False
        self._closed = False
        self._abandoned = survey.abandoned
        self._domains: dict[bytes, Domain] = {}
        self._names: dict[bytes, str] = {}
        self._logs = LogTable(store, self.vault_id)
        self._dating = dating = _Dating(self, clock)
        self._trail = Trail(self.vault_id, journal, dating, random, self.domain(SYSTEM))
        sealer = None
        if seal is not None:
            sealer = Sealer(seal.chain, seal.file, seal.sequence, journal, dating)
        anchor = survey.found.anchor
        number = anchor.seal if seal is None else seal.chain.chain
        self._committer = Committer(store, journal, survey.state, anchor, survey.since, number)
        self._pipeline = Pipeline(
            journal, self._trail, self._committer, self._heads, position, self.now, report, snapshot_lines, sealer
        )
        self._pipeline.landed = self._logs.landed

    create = staticmethod(create)

    @classmethod
    def open(
        cls,
        store: Store,
        clock: Clock,
        *,
        minimum: Profile = FLOOR,
        random: Callable[[int], bytes] = random_bytes,
        snapshot_lines: int = SNAPSHOT_LINES,
        hold_seal: bool = True,
    ) -> Self:
        """Open a vault, sealed. What a crash left is sorted out; the system's own events can be recorded.

        Args:
            store: the vault directory; stays the caller's to close.
            minimum: the least Argon2id cost of a slot that `derive` accepts.
            random: where salts come from.
            snapshot_lines: journal lines between two heads snapshots, at least.
            hold_seal: refuse a vault whose forward seal's state does not fit its journal. Without, such a journal goes
                on unsealed: for `sealing.start`, which begins a new chain.

        Raises:
            Uninitialised: there is no vault.
            FormatVersion: it was written by a newer version.
            IntegrityError: its files do not belong together.
        """
        survey = recovery.survey(store)
        journal: Journal | None = None
        report = RecoveryReport()
        seal: forward.Found | None = None
        try:
            current = survey.found.anchor.position.segment
            journal = Journal(store, begin=survey.base.begin, current=current)
            position = recovery.replay(survey, journal, report)
            vault_id, anchor = survey.file.keyring.vault_id, survey.found.anchor
            try:
                seal = forward.find(store, vault_id, survey.tags, position, (anchor.seal, anchor.tag))
                report.torn_seal = seal is not None and seal.torn
            except IntegrityError:
                if hold_seal:
                    raise
        except BaseException as error:
            survey.state.close()
            if journal is not None:
                journal.close()
            elif isinstance(error, NotFound):
                raise IntegrityError("the audit journal is gone", _RESTORE) from None
            raise
        ledger = cls(
            store,
            clock,
            survey,
            journal,
            position,
            report,
            minimum=minimum,
            random=random,
            snapshot_lines=snapshot_lines,
            seal=seal,
        )
        if report.journal_cut:
            ledger.stage(Event("journal.cut", "ok", _VAULTD, public={"bytes": report.journal_cut}))
        return ledger

    @property
    def vault_id(self) -> bytes:
        return self.keyring.vault_id

    @property
    def created(self) -> int:
        """Seconds since 1970."""
        return self.keyring.created

    @property
    def admin_uids(self) -> tuple[int, ...]:
        return self.keyring.admin_uids

    @property
    def slots(self) -> tuple[Slot, ...]:
        return self.keyring.slots

    @property
    def state(self) -> str:
        """`sealed`, `unsealed` or `halted`."""
        if self.halted:
            return "halted"
        return "sealed" if self._keys is None else "unsealed"

    @property
    def journal(self) -> Journal:
        """The audit journal, for reading trails and signing checkpoints; only this object stages and writes."""
        return self._journal

    @property
    def store(self) -> Store:
        """The vault directory, for blobs: they are written before a record names them, and read past the ledger."""
        return self._store

    @property
    def sealed_forward(self) -> bool:
        """Whether the journal has a forward seal."""
        return self._pipeline.sealer is not None

    @property
    def halted(self) -> bool:
        """Whether a flush failed."""
        return self._pipeline.halted

    def now(self) -> int:
        """Wall time, nanoseconds since 1970; never less than it was, in any earlier run of this vault included."""
        self._wall = max(self._wall, self._clock.wall())
        return self._wall

    @property
    def anchor(self) -> Anchor:
        """The newest anchor on the disk."""
        return self._committer.anchor

    @property
    def snapshot_position(self) -> Position:
        """The place in the journal up to which the heads snapshot on the disk is true."""
        return self._committer.snapshot

    @property
    def wall(self) -> int:
        """The highest wall time seen, nanoseconds since 1970; 0 before the first `now` or `unseal`."""
        return self._wall

    # Unsealing and sealing

    def derive(self, secret: SecretBytes, kind: SlotKind) -> tuple[Slot, Key]:
        """The slot that `secret` opens, and its key: the slow part, for a worker thread.

        Raises:
            WrongSecret: no slot of this kind opens with it.
            IntegrityError: a slot was made cheaper than `minimum`.
        """
        for slot in self.keyring.slots:
            if slot.kind is kind:
                try:
                    return slot, derive_slot_key(slot, secret, minimum=self._minimum)
                except WrongSecret:
                    continue
        raise WrongSecret("no key slot opens with this secret", "check it, and which vault this is: 'vaultctl status'")

    def unseal(self, slot: Slot, slot_key: Key) -> RecoveryReport:
        """Load the keys, after holding the anchor, the keyring and the system's log against them.

        Args:
            slot, slot_key: from `derive`; the key stays the caller's to wipe.

        Returns:
            What was found and repaired since the vault was last closed.

        Raises:
            Conflict: the slot is gone, or the vault is open already.
            IntegrityError: the files were not all written by this vault, or the system's log does not verify.
        """
        self.require_running()
        self._pipeline.require_landed()
        if self._keys is not None or slot not in self.keyring.slots:
            raise Conflict("the vault is unsealed already, or this slot is gone", "look at: vaultctl status")
        keys = UnsealedKeys(open_slot_with_key(slot, slot_key))
        try:
            self._authenticate(keys)
            self._keys = self._pipeline.keys = keys
            self.open_log(SYSTEM)
            if self.report.repaired:
                self.stage(Event("vault.recovered", "ok", _VAULTD, public=self.report.public()))
            if self.report.repaired or self.report.unanchored or self.anchor.seal != self._committer.seal:
                self._pipeline.want_anchor()
                self.flush()
            self._drop_abandoned()
        except BaseException:
            self._forget(keys)
            raise
        told, self.report = self.report, RecoveryReport()  # told once: a seal and an unseal later, nothing was found
        return told

    def _authenticate(self, keys: UnsealedKeys) -> None:
        """Hold what `open` found against the root key, then finish what a crash interrupted."""
        if not self._authentic:
            survey = self._survey
            survey.found.verify(keys.root_keys.anchor)
            survey.file.verify(keys.root_keys.anchor)
            keys.load_system(self.keyring)
            for claim in survey.claims:
                claim.verify(keys.vouching, self.vault_id)
            self._wall = max(self._wall, survey.found.anchor.wall)
            self._settle_keyring()
            self._authentic = True
        else:
            keys.load_system(self.keyring)

    def _settle_keyring(self) -> None:
        survey = self._survey
        with self._repairing():
            if survey.in_next:
                self._store.rename(KEYRING_NEXT, KEYRING)
            if survey.must_sweep:
                self.report.keyring = "abandoned" if survey.abandoned else "finished"
                self.report.removed = recovery.sweep(self._store, self.keyring)
                self._committer.swept()
            self.report.removed += self._store.tidy()
            self.report.removed += recovery.sweep_audit(self._store, self.base)

    @contextmanager
    def _repairing(self) -> Iterator[None]:
        """Halt when a repair fails: what of it is on the disk, only opening the directory anew can tell."""
        try:
            yield
        except StoreError:
            self._pipeline.halted = True
            raise

    def _drop_abandoned(self) -> None:
        """Remove a keyring that never came into force.

        Last of all: as long as it is there the next opening sweeps again, and only an anchor behind the line that
        speaks of it makes that line a thing of the past.
        """
        if self._abandoned:
            with self._repairing():
                self._store.remove(KEYRING_NEXT)
            self._abandoned = False

    def seal(self) -> None:
        """Flush, put the vault to rest, wipe every key. Sealed, it still records the system's own events.

        Raises:
            Conflict: a flush is under way in another thread; wait for it.
            StoreError: the flush failed; the keys are gone all the same.
        """
        keys = self._keys
        if keys is None:
            return
        if not self.halted:
            self._pipeline.require_landed()
        try:
            if not self.halted:
                self._pipeline.rest()
        finally:
            self._trail.forget_sessions()
            self._forget(keys)

    def _forget(self, keys: UnsealedKeys) -> None:
        self._keys = self._pipeline.keys = None
        self._names = {}
        self._logs.close_all()
        keys.wipe()

    def close(self) -> None:
        """Seal if need be, flush, and let go of the files. The store stays the caller's to close.

        Raises:
            StoreError: the last flush failed; everything is let go all the same.
        """
        if self._closed:
            return
        try:
            if self._keys is not None:
                self.seal()
            elif not self.halted:
                self.require_running()
                self._pipeline.settle()
        finally:
            self._closed = True
            self._trail.forget_sessions()
            self._logs.close_files()
            self._journal.close()
            self._survey.state.close()
            if self._pipeline.sealer is not None:
                self._pipeline.sealer.close()

    # Domains

    def find(self, name: str) -> bytes | None:
        """The uid of the tenant of that name, if there is one and it is not deleted."""
        return self.keyring.by_index.get(self._unsealed().index_of(name))

    def names(self) -> Iterator[tuple[str, Entry]]:
        """Every tenant's name and entry, deleted ones included; opens each name."""
        key = self.system_log.keys.record
        for entry in self.keyring:
            if entry.uid != SYSTEM:
                yield entries.open_name(self.vault_id, entry, key), entry

    def name(self, uid: bytes) -> str:
        """The name of a tenant. Raises `NotFound`."""
        self._unsealed()
        entry = self.keyring.entry(uid)
        if entry is None or uid == SYSTEM:
            raise NotFound("there is no such tenant")
        return entries.open_name(self.vault_id, entry, self.system_log.keys.record)

    def by_name(self) -> list[tuple[str, bytes]]:
        """Name and uid of every tenant that is not deleted, by name. Each name is opened once while unsealed."""
        self._unsealed()
        known = {uid: self._names.get(uid) or self.name(uid) for uid in self.keyring.by_index.values()}
        self._names = known
        return sorted((name, uid) for uid, name in known.items())

    @property
    def root(self) -> Key:
        """The root key, for new slots; stays the ledger's. Raises `Sealed`."""
        return self._unsealed().root

    @property
    def owed_key(self) -> Key:
        """The key of what is owed to the trail, for `owed`; stays the ledger's. Raises `Sealed`."""
        return self._unsealed().owed

    @property
    def found_anchor(self) -> int:
        """Sequence of the anchor that opening found."""
        return self._survey.found.anchor.sequence

    @property
    def failure(self) -> BaseException | None:
        """What halted the ledger, if a flush did."""
        return self._pipeline.failure

    @property
    def root_keys(self) -> RootKeys:
        """What derives from the root key, for `entries`; stays the ledger's. Raises `Sealed`."""
        return self._unsealed().root_keys

    def new_entry(self, uid: bytes, name: str, key: Key) -> Entry:
        """The keyring entry of a new tenant.

        Args:
            uid: 16 random bytes.
            key: the fresh tenant key; stays the caller's to wipe.
        """
        keys = self._unsealed()
        created = self.now() // 1_000_000_000
        named = (name, keys.index_of(name), self.system_log.keys.record)
        return entries.new_entry(self.vault_id, uid, created, keys.root_keys, key, named)

    def domain(self, uid: bytes) -> Domain:
        """The audit trail of a domain. Raises `NotFound`."""
        domain = self._domains.get(uid)
        if domain is None:
            entry = self.keyring.entry(uid)
            if entry is None:
                raise NotFound("there is no such tenant")
            domain = self._domains[uid] = Domain(uid, entry.audit_public, *self._heads.trail(uid))
        return domain

    @property
    def system_log(self) -> SealedLog:
        """The system domain's log. Raises `Sealed`."""
        self._unsealed()
        log = self._logs.get(SYSTEM)
        if log is None:
            raise Internal("the system's log is not open")
        return log

    def opened(self, uid: bytes) -> SealedLog | None:
        """A domain's log, if it is open."""
        return self._logs.get(uid)

    def open_log(self, uid: bytes) -> tuple[SealedLog, Records]:
        """Open a domain's log, verified up to the record that the journal vouches for.

        Returns:
            The log, and every record's header with the place of its attachment.

        Raises:
            NotFound: there is no such domain, or it is deleted.
            Closed: the log does not verify; others are not concerned. `IntegrityError` for the system's.
        """
        keys = self._unsealed()
        entry = self.keyring.entry(uid)
        if entry is None or entry.deleted:
            raise NotFound("there is no such tenant")
        log, records, cut = self._logs.open(entry, keys.root_keys, self._heads.head(uid))
        if uid == SYSTEM:
            self.report.log_cut += cut
        elif cut:
            self.stage(Event("log.cut", "ok", _VAULTD, public={"bytes": cut, "uid": uid.hex()}))
        return log, records

    def close_log(self, uid: bytes) -> None:
        """Wipe a log's keys and close it. What is vouched for is flushed all the same: it is sealed already."""
        self._logs.close(uid)

    # Staging

    def stage(self, event: Event, *, logs: Sequence[SealedLog] = (), tenant: bytes | None = None) -> Receipt:
        """Record an event, and vouch in the same line for what was staged in `logs`: all of it happens, or nothing.

        Args:
            tenant: whose trail; the system's when left out.

        Raises:
            Halted: a flush failed before.
            Sealed: a tenant's trail or a log, while the vault is sealed.
        """
        try:
            self.require_running()
            if logs or tenant is not None:
                self._unsealed()
            if logs:
                self._require_changed(logs)
                self._pipeline.before_log_change()
            revision = self.keyring.revision if logs else None
            domain = self.domain(SYSTEM if tenant is None else tenant)
            return self._pipeline.record(event, domain, logs, revision=revision)
        except BaseException:
            for log in logs:
                log.unstage()
            raise

    def unlink_later(self, paths: Sequence[str]) -> None:
        """Have blobs removed once the change that was staged last is durable: that change lets go of them."""
        self._pipeline.open.unlink += paths

    def _require_changed(self, logs: Sequence[SealedLog]) -> None:
        if not all(self._logs.get(log.uid) is log and log.unvouched for log in logs):
            raise Internal("a change names a log that is not open or has nothing new")

    def new_log(self, uid: bytes, generation: int, tenant_key: Key) -> SealedLog:
        """A log that is not there yet, to be filled and then put in force by `stage_keyring`.

        Args:
            tenant_key: stays the caller's to wipe.
        """
        return self._logs.new(uid, generation, tenant_key)

    def stage_keyring(
        self,
        build: Callable[[Keyring], Keyring],
        event: Event,
        *,
        new_logs: Sequence[SealedLog] = (),
        drop: Sequence[Drop] = (),
        root: Key | None = None,
        tenant: bytes | None = None,
    ) -> Receipt:
        """Change the keyring, and with it the logs that it names, in one commit.

        Args:
            build: gives the new keyring from the one in force.
            new_logs: from `new_log`; opened in place of what their domains had.
            drop: files that nothing names any more.
            root: the new root key, when it changes; this object becomes its owner.
            tenant: whose trail the event belongs to.
        """
        self.require_running()
        keys = self._unsealed()
        keyring = replace(build(self.keyring), revision=self.keyring.revision + 1)
        for log in new_logs:
            if keyring.generation(log.uid) != log.generation:
                raise Internal("a new log does not fit the new keyring")
        born = [log for log in new_logs if log.uid not in self._heads]
        before, self.keyring = self.keyring, keyring
        try:
            for log in born:
                self._heads.add(log.uid, log.generation)
            domain = self.domain(SYSTEM if tenant is None else tenant)
            receipt = self._pipeline.record(event, domain, new_logs, revision=keyring.revision)
        except BaseException:
            self.keyring = before
            for log in born:
                self._heads.remove(log.uid)
                self._domains.pop(log.uid, None)
            raise
        batch = self._pipeline.open
        batch.keyring, batch.anchors = keyring, 1
        batch.drop += drop
        for log in new_logs:
            self._logs.put(log, batch)
        for uid in [gone.uid for gone in drop if gone.generation is None]:
            self._logs.drop(uid, batch)
            if uid not in keyring:
                self._heads.remove(uid)
                self._domains.pop(uid, None)
        if root is not None:
            batch.after += [old.wipe for old in keys.replace(root)]
        return receipt

    def stage_pruning(self, base: Base, event: Event) -> Receipt:
        """Record in the system's trail that segments go, and have them go in the same flush."""
        self.require_running()
        self._unsealed()
        receipt = self._pipeline.record(event, self.domain(SYSTEM))
        self._pipeline.prune(base)
        self.base = base
        self._journal.begin = base.begin
        return receipt

    # Flushing

    @property
    def dirty(self) -> bool:
        """Whether a flush would have something to do."""
        return self._pipeline.dirty

    def tick(self) -> None:
        """To be called about once a second: has reads anchored by the next flush, and ends audit sessions."""
        if self._keys is not None and not self.halted:
            self._trail.expire_sessions()
            self._pipeline.want_anchor(at_rest=self.now() - self.anchor.wall >= _AT_REST)

    def evolve(self) -> None:
        """To be called about once a second, sealed or not: ends an epoch of the journal's forward seal."""
        if self._pipeline.sealer is not None and not self.halted:
            self._pipeline.sealer.tick()

    def start_seal(self, actor: Actor) -> FirstKey:
        """Begin a new seal chain, durably. The old one, if its state fits, hands over in its last tag.

        Afterwards the ledger is only to be closed.

        Returns:
            The new chain's first key, which is nowhere else; the caller's to wipe.
        """
        self.require_running()
        sealer, journal = self._pipeline.sealer, self._journal
        number = max(forward.newest_chain(journal), self.anchor.seal) + 1
        before = "handed over" if sealer is not None else "lost" if number > 1 else "none"
        first_key, chain = forward.begin(self.vault_id, number)
        try:
            with chain:
                self.stage(Event("audit.seal_key", "ok", actor, public={"before": before, "chain": number}))
                if sealer is not None:
                    sealer.stage(first_key.identity())
                    self._pipeline.sealer = None
                    sealer.close()
                forward.stage_first(chain, journal, self._dating)
                forward.lay_out(self._store, forward.SEAL_NEXT, chain)
            self.flush()
            forward.put_in_force(self._store)
        except BaseException:
            # What is staged must not be written by closing: a tag line without its state could never be followed.
            self._pipeline.halted = True
            first_key.wipe()
            raise
        return first_key

    def take(self) -> Batch | None:
        """The next batch to write; None when there is none, or one is being written.

        Raises:
            Halted: a flush failed before.
        """
        self.require_running()
        return self._pipeline.take()

    def write(self, batch: Batch) -> None:
        """Make a batch durable; may run in another thread. Raises what went wrong, and halts the ledger."""
        self._pipeline.write(batch)

    def finish(self, batch: Batch, error: BaseException | None = None) -> None:
        """Take in how `write` ended: receipts become durable, or the ledger is halted."""
        self._pipeline.finish(batch, error)

    def flush(self) -> None:
        """`take`, `write` and `finish` until nothing is left, here and now.

        Raises:
            Conflict: a batch is being written in another thread.
            StoreError: the disk refused; the ledger is halted.
        """
        self.require_running()
        self._pipeline.flush()

    def require_running(self) -> None:
        """Raise `Halted` after a failed flush."""
        if self._closed:
            raise Internal("the ledger is closed")
        self._pipeline.require_running()

    def _unsealed(self) -> UnsealedKeys:
        if self._keys is None:
            raise Sealed("the vault is sealed", "unseal it with: vaultctl unseal")
        return self._keys


class _Dating:
    """The clock that dates records: the ledger's wall time, which never goes back."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock

    def wall(self) -> int:
        return self._ledger.now()

    def boot(self) -> int:
        return self._clock.boot()
