"""Rotations: a new root key, a new tenant key, a compacted log; in slices that let other requests through.

A rotation is a generator. Each step does about a millisecond's work and yields; whoever runs it serves others in
between. Nothing of it is visible, on the disk or in memory, until its last step stages one change of the keyring, the
commit point; a rotation that is given up or fails before leaves no trace. What others changed meanwhile is carried over
in that last step.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from vaultd.audit.body import Event
from vaultd.crypto.hierarchy import RootKeys
from vaultd.crypto.memory import Key
from vaultd.crypto.slots import rebox, slot_public
from vaultd.errors import Conflict, Internal, NotFound
from vaultd.vault import entries
from vaultd.vault.commit import Drop
from vaultd.vault.core import OURSELVES, Core
from vaultd.vault.keyring import SYSTEM
from vaultd.vault.tenant import OpenTenant, Touched

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from vaultd.audit.body import Actor
    from vaultd.audit.receipt import Receipt
    from vaultd.vault.keyring import Entry
    from vaultd.vault.log import SealedLog

__all__ = ["Rotated", "RotationVerbs", "Slices", "finish"]

_ENTRIES: Final = 24
"""Keyring entries wrapped anew in a slice: two wraps each, about 20 microseconds."""
_WEIGHT: Final = 32
"""Records written anew in a slice, at about 20 microseconds each."""
_BYTES_PER_RECORD: Final = 32 << 10
"""So many bytes of attachments cost about as much as a record."""
_HEADER_BYTES: Final = 40_000
_RECORD_BYTES: Final = 256 << 10
"""Secrets are restated many to a record, as far as header and values have room."""
_SYSTEM_BYTES: Final = 1 << 20
_SYSTEM_RECORD: Final = 512
"""About what a record of the system's log takes: a run's is the longest."""
_PASSES: Final = 8
"""How often what changed meanwhile is gone through in slices before the rest is done in one go."""

_ResultT = TypeVar("_ResultT")


class Rotated(NamedTuple):
    """What a rotation did.

    Attributes:
        generation: of the tenant's key and log; 0 for the root.
        rewrapped: keys that were wrapped anew.
        before, after: bytes of the log.
    """

    receipt: Receipt
    generation: int
    rewrapped: int
    before: int = 0
    after: int = 0


if TYPE_CHECKING:
    Slices = Generator[None, None, Rotated]


def finish(slices: Generator[None, None, _ResultT]) -> _ResultT:
    """Run a rotation to its end, with nobody in between."""
    while True:
        try:
            next(slices)
        except StopIteration as end:
            result: _ResultT = end.value
            return result


class RotationVerbs(Core):
    """See the module."""

    def rotate_root(self, *, actor: Actor) -> Slices:
        """A new root key: every wrap of the keyring made anew, every slot boxed anew without its secret.

        Tenant keys stay as they are: whoever knew the old root key still knows the tenant keys it wrapped. `rotate
        tenant` ends that.

        Raises:
            Conflict: another rotation of the root is under way, or this one's vault was sealed meanwhile.
        """
        with _Turn(self._under_way, b"root"):
            ledger = self.ledger
            old, vault_id = ledger.root_keys, ledger.vault_id
            root = Key.random()
            new = RootKeys(root)
            try:
                done: dict[bytes, tuple[bytes, Entry]] = {}
                for count, (uid, row) in enumerate(list(ledger.keyring.rows.items())):
                    if count % _ENTRIES == 0:
                        yield
                        self._same_root(old)
                    if uid in ledger.keyring.rows:  # else it was deleted meanwhile, trail and all
                        done[uid] = (row, self._rewrapped(uid, old, new))
                # From here on in one go. What was created, deleted or rotated meanwhile has another row now.
                rows = ledger.keyring.rows
                fresh = [
                    done[uid][1] if uid in done and done[uid][0] == row else self._rewrapped(uid, old, new)
                    for uid, row in rows.items()
                ]
                slots = [rebox(slot, slot_public(slot, old.wrap), root, new.wrap) for slot in ledger.slots]
                with entries.open_checkpoint_seed(vault_id, old, ledger.keyring.wrapped_checkpoint) as seed:
                    checkpoint = entries.seal_checkpoint_seed(vault_id, new, seed)
                receipt = ledger.stage_keyring(
                    lambda keyring: keyring.with_entries(fresh, wrapped_checkpoint=checkpoint, slots=slots),
                    Event("rotate.root", "ok", actor, public={"domains": len(fresh), "slots": len(slots)}),
                    root=root,
                )
            except BaseException:
                root.wipe()
                raise
            finally:
                new.wipe()
        return Rotated(receipt, 0, len(fresh))

    def _same_root(self, old: RootKeys) -> None:
        if self.sealed or self.ledger.root_keys is not old:
            raise Conflict("the vault was sealed while its root was being rotated", "rotate it again")

    def _rewrapped(self, uid: bytes, old: RootKeys, new: RootKeys) -> Entry:
        entry = self.ledger.keyring.entry(uid)
        if entry is None:
            raise NotFound("there is no such tenant")
        return entries.rewrapped(self.ledger.vault_id, entry, old, new)

    def rotate_tenant(self, tenant: str | bytes, *, actor: Actor) -> Slices:
        """A new tenant key: the log written anew and compacted, every data key wrapped anew, no value touched.

        Whoever knew the old tenant key can open nothing written from now on. Values that stay as they are stay under
        their data keys, which the old key did open: `rotate secret` replaces those.

        Raises:
            NotFound, Sealed, Closed: as `tenant`.
            Conflict: another rotation of this tenant is under way, or the tenant was sealed or deleted meanwhile.
        """
        opened = self.tenant(tenant)
        return self._rewrite(opened, Event("rotate.tenant", "ok", actor))

    def compact_tenant(self, tenant: str | bytes) -> Slices:
        """As `rotate_tenant`, for the sake of the space that destroyed and replaced values take up."""
        return self._rewrite(self.tenant(tenant), Event("tenant.compact", "ok", OURSELVES))

    def wasteful(self) -> list[bytes]:
        """The uids of open tenants for which `compact_tenant` is worth it and not under way."""
        return [uid for uid, opened in self._tenants.items() if opened.touched is None and opened.wasteful]

    def compaction(self) -> Slices | None:
        """The next rewriting of a log that is worth it, to be run now or soon; None when there is none."""
        if self.sealed or self.ledger.halted:
            return None
        size = self.ledger.system_log.size
        floor = max(_SYSTEM_BYTES, 2 * self._compacted, 2 * _SYSTEM_RECORD * self.system.facts)
        if size > floor and self._carried is None:
            return self.compact_system()
        return next((self.compact_tenant(uid) for uid in self.wasteful()), None)

    def compact_system(self) -> Slices:
        """Write the system's log anew, without what was undone since: runs come and go, and each leaves two records.

        Its key stays: names and their index hang on it, and the vouching key too.

        Raises:
            Conflict: it is under way already, or the vault was sealed meanwhile.
        """
        with _Turn(self._under_way, SYSTEM):
            ledger = self.ledger
            entry = ledger.keyring.entry(SYSTEM)
            if entry is None:
                raise Internal("the keyring has no system entry")
            old = ledger.system_log
            with entries.tenant_key(ledger.vault_id, entry, ledger.root_keys) as key:
                log = ledger.new_log(SYSTEM, entry.generation + 1, key)
                # A moment's state, and behind it, in order, whatever comes after that moment.
                records = list(self.system.restate())
                self._carried = []
                try:
                    for count, record in enumerate(records):
                        if count % _WEIGHT == 0:
                            yield
                            self._same_system(old)
                        log.stage(record)
                    self._same_system(old)
                    for record in self._carried:
                        log.stage(record)
                    # The root may have been rotated meanwhile; the entry is wrapped under the present one.
                    present = ledger.keyring.entry(SYSTEM) or entry
                    renewed = entries.with_tenant_key(ledger.vault_id, present, ledger.root_keys, key)
                    event = Event("system.compact", "ok", OURSELVES, public={"after": log.size, "before": old.size})
                    receipt = ledger.stage_keyring(
                        lambda keyring: keyring.with_entry(renewed),
                        event,
                        new_logs=[log],
                        drop=[Drop(SYSTEM, entry.generation)],
                    )
                except BaseException:
                    log.close()
                    raise
                finally:
                    self._carried = None
                # Runs with long scopes take more than is reckoned: what is left now is what a compaction leaves.
                self._compacted = log.size
        return Rotated(receipt, log.generation, 0, old.size, log.size)

    def _same_system(self, old: SealedLog) -> None:
        if self.sealed or self.ledger.system_log is not old:
            raise Conflict("the vault was sealed while its system log was compacted", "nothing is lost: do it again")

    def _rewrite(self, opened: OpenTenant, event: Event) -> Slices:
        with _Turn(self._under_way, opened.uid), Key.random() as key:
            copy = _Copy(self, opened, key)
            opened.touched = copy.touched
            try:
                yield from self._copy(copy, opened)
                receipt = self._commit(copy, opened, event)
            except BaseException:
                copy.log.close()
                raise
            finally:
                opened.touched = None
        return Rotated(receipt, copy.log.generation, copy.rewrapped, opened.log.size, copy.log.size)

    def _copy(self, copy: _Copy, opened: OpenTenant) -> Generator[None, None, None]:
        yield  # so that whoever asked gets the generator's errors at once
        self._still(opened)
        wanted: list[bytes | str] = [*opened.state.by_id, *opened.state.grants]
        weight = 0
        for _ in range(_PASSES):
            for item in wanted:
                copy.touched.discard(item)
                for cost in copy.take(item):
                    weight += cost
                    if weight >= _WEIGHT:
                        weight = 0
                        yield
                        self._still(opened)
            copy.flush()
            wanted = list(copy.touched)
            if len(wanted) <= 1:
                return

    def _still(self, opened: OpenTenant) -> None:
        if self._tenants.get(opened.uid) is not opened:
            raise Conflict(
                "the tenant was sealed, closed or deleted while its key was being rotated", "rotate it again"
            )

    def _commit(self, copy: _Copy, opened: OpenTenant, event: Event) -> Receipt:
        for item in list(copy.touched):
            deque(copy.take(item), maxlen=0)
        copy.flush()
        ledger, entry = self.ledger, self._entry(opened.uid)
        renewed = entries.with_tenant_key(ledger.vault_id, entry, ledger.root_keys, copy.key)
        receipt = ledger.stage_keyring(
            lambda keyring: keyring.with_entry(renewed),
            event._replace(extra={"generation": renewed.generation, "before": opened.log.size, "after": copy.log.size}),
            new_logs=[copy.log],
            drop=[Drop(opened.uid, entry.generation)],
            tenant=opened.uid,
        )
        self._tenants[opened.uid] = copy.target
        return receipt


class _Copy:
    """A tenant's log on its way into the next generation."""

    def __init__(self, core: Core, opened: OpenTenant, key: Key) -> None:
        self.key = key
        self.source = opened
        self.log = core.ledger.new_log(opened.uid, opened.log.generation + 1, key)
        self.target = OpenTenant(core.ledger.vault_id, opened.uid, opened.name, self.log)
        self.touched: Touched = set()
        self.rewrapped = 0
        self._items: list[dict[str, Any]] = []
        self._values: list[bytes] = []
        self._header_bytes = 0
        self._value_bytes = 0

    def take(self, item: bytes | str) -> Iterator[int]:
        """Write one secret or grant as it is now, over what was written of it before.

        Yields what the work so far costs; the caller may let others change things there, who then leave the item in
        `touched`, to be taken again. What is taken is in the log after `flush` at the latest.
        """
        yield 1
        if isinstance(item, str):
            self._take_grant(item)
            return
        secret = self.source.state.by_id.get(item)
        if secret is None:
            if item in self.target.state.by_id:
                self._stage({"op": "delete", "id": item})
            return
        # Its name may have been another secret's when that one was copied.
        before = self.target.state.secrets.get(secret.name)
        if before is not None and before.id != secret.id:
            self._stage({"op": "delete", "id": before.id})
        size = sum(version.ref.length for version in secret.versions.values() if version.ref is not None)
        inline = size <= _RECORD_BYTES
        # Taken as a whole, before anybody else's turn; where its values lie does not change.
        restated, refs = self.source.state.restate(secret, inline=inline)
        # With what was restated, not as it is when its turn comes: a version may be destroyed meanwhile.
        blobs = {number for number, version in secret.versions.items() if version.blob is not None}
        values = []
        for number, ref in refs:
            yield 1 + ref.length // _BYTES_PER_RECORD
            sealed = self.source.log.read_attachment(ref)
            if number in blobs:
                keys = self.source.blob_keys, self.target.blob_keys
                values.append(keys[0].rewrap(keys[1], secret.id, number, sealed))
            else:
                values.append(self.source.envelope.rewrap(self.target.envelope, secret.id, number, sealed))
            self.rewrapped += 1
            if not inline:
                if len(values) == 1:
                    self._add(restated, [])
                    self.flush()
                self._stage({"op": "value", "id": secret.id, "version": number}, values[-1])
        if inline or not refs:
            self._add(restated, values)

    def _add(self, item: dict[str, Any], values: list[bytes]) -> None:
        # More than its packed form takes: a name is ASCII, a description at most four bytes a character, and a
        # version six integers.
        header = 200 + len(item["name"]) + 4 * len(item.get("description", "")) + 50 * len(item["versions"])
        size = sum(map(len, values))
        if self._header_bytes + header > _HEADER_BYTES or self._value_bytes + size > _RECORD_BYTES:
            self.flush()
        self._items.append(item)
        self._values += values
        self._header_bytes += header
        self._value_bytes += size

    def flush(self) -> None:
        """Stage what was taken and is not in the log yet."""
        if self._items:
            self._stage({"op": "secrets", "list": self._items}, b"".join(self._values))
        self._items, self._values, self._header_bytes, self._value_bytes = [], [], 0, 0

    def _take_grant(self, grant_id: str) -> None:
        grant = self.source.state.grants.get(grant_id)
        if grant_id in self.target.state.grants:
            self._stage({"op": "ungrant", "id": grant_id})
        if grant is not None:
            self._stage({"op": "grant", "grant": grant})

    def _stage(self, header: dict[str, Any], attachment: bytes = b"") -> None:
        self.target.state.apply(header, self.log.stage(header, attachment))


class _Turn:
    """One rotation of a kind at a time."""

    def __init__(self, under_way: set[bytes], key: bytes) -> None:
        self._under_way = under_way
        self._key = key

    def __enter__(self) -> None:
        if self._key in self._under_way:
            raise Conflict("a rotation of this key is under way already", "wait for it to end, then look at the result")
        self._under_way.add(self._key)

    def __exit__(self, *_: object) -> None:
        self._under_way.discard(self._key)
