"""The verbs on whole tenants: create, list, seal, unseal, delete; and the receipt that a deletion gives."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from vaultd.audit.body import Event
from vaultd.crypto.memory import Key
from vaultd.errors import Closed, ConfigError, Exists, Halted, NotFound, Sealed, StoreError
from vaultd.vault import entries
from vaultd.vault.commit import Drop
from vaultd.vault.core import OURSELVES, Core
from vaultd.vault.tenant import OpenTenant

if TYPE_CHECKING:
    from vaultd.audit.body import Actor
    from vaultd.audit.receipt import Receipt
    from vaultd.names import TenantName
    from vaultd.vault.keyring import Entry

__all__ = ["Created", "Deleted", "DeletionReceipt", "TenantFacts", "TenantVerbs"]

_SECOND: Final = 1_000_000_000
_OLD_KEYRING: Final = (
    "a copy of the keyring from before the deletion, together with a secret that opened a slot in it, still opens a "
    "copy of the tenant's files: destroy old backups"
)
_OLD_BLOCKS: Final = (
    "blocks of the old keyring may still be on the device; with them the present root key would open a copy of the "
    "tenant's files until the root is rotated: vaultctl rotate root"
)
_LEASED: Final = "values that were leased before are known to whoever leased them"
_AUDIT_KEPT: Final = "the tenant's audit trail, readable by the vault's admins"
_AUDIT_GONE: Final = "the audit journal's lines about the tenant, whose bodies nothing opens any more, and their times"


class TenantFacts(NamedTuple):
    """What a listing says of a tenant.

    Attributes:
        created: seconds since 1970.
        state: `open`, `sealed`, `closed` (its files did not verify) or `deleted`.
        generation: of its key and log, from 1.
    """

    name: str
    uid: bytes
    created: int
    state: str
    generation: int


class Created(NamedTuple):
    uid: bytes
    receipt: Receipt


@dataclass(frozen=True, slots=True)
class DeletionReceipt:
    """What a deletion did, and what it could not do.

    Attributes:
        tenant, uid: which tenant; the uid in hex.
        deleted: wall time, seconds since 1970.
        secrets, versions: how many were there; None when its files could not be read.
        audit: `kept` or `unreadable`.
        root_rotated: whether the root was rotated after the deletion.
        gone: what nothing brings back.
        remains: what is still there, and what still opens it.
    """

    tenant: str
    uid: str
    deleted: int
    secrets: int | None
    versions: int | None
    audit: str
    root_rotated: bool
    gone: tuple[str, ...]
    remains: tuple[str, ...]

    def after_root_rotation(self) -> DeletionReceipt:
        """The receipt once `rotate root` has finished the shredding."""
        return replace(
            self,
            root_rotated=True,
            gone=(
                *self.gone,
                "the root key under which its key was wrapped: what is left of that on the device is dead",
            ),
            remains=tuple(text for text in self.remains if text != _OLD_BLOCKS),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self) | {"gone": list(self.gone), "remains": list(self.remains)}


class Deleted(NamedTuple):
    shredding: DeletionReceipt
    receipt: Receipt


class TenantVerbs(Core):
    """See the module. All raise `Sealed` while the vault is."""

    def tenants(self, *, deleted: bool = False) -> list[TenantFacts]:
        """Every tenant by name; deleted ones, whose trail is kept, only when asked for."""
        found = [self._facts(name, entry) for name, entry in self.ledger.names() if deleted or not entry.deleted]
        return sorted(found, key=lambda facts: (facts.name, facts.created))

    def tenant_names(self) -> list[tuple[str, bytes]]:
        """Name and uid of every tenant, by name: for listing thousands in pieces, with `tenant_facts` for each."""
        return self.ledger.by_name()

    def tenant_facts(self, tenant: str | bytes) -> TenantFacts:
        """What a listing says of one tenant; touches none of its files. Raises `NotFound`."""
        uid = self.uid(tenant)
        return self._facts(self.name(uid), self._entry(uid))

    def _facts(self, name: str, entry: Entry) -> TenantFacts:
        state = "open"
        if entry.deleted:
            state = "deleted"
        elif entry.uid in self.system.sealed:
            state = "sealed"
        elif entry.uid in self._closed:
            state = "closed"
        return TenantFacts(name, entry.uid, entry.created, state, entry.generation)

    def create_tenant(self, name: TenantName, *, actor: Actor) -> Created:
        """Make a tenant: its own key, log and audit trail.

        Raises:
            Exists: the name is taken.
        """
        if self.ledger.find(name) is not None:
            raise Exists("a tenant of this name exists", "see: vaultctl tenant list")
        uid = self._random(16)
        with Key.random() as key:
            entry = self.ledger.new_entry(uid, name, key)
            log = self.ledger.new_log(uid, entry.generation, key)
        try:
            event = Event("tenant.create", "ok", actor)
            self.ledger.stage_keyring(lambda keyring: keyring.with_entry(entry), event, new_logs=[log], tenant=uid)
        except BaseException:
            log.close()
            raise
        self._tenants[uid] = OpenTenant(self.ledger.vault_id, uid, name, log)
        # The tenant's trail begins with its creation; the system's says it too, to those who may not read the former.
        receipt = self.ledger.stage(event._replace(tenant=name, public={"uid": uid.hex()}))
        return Created(uid, receipt)

    def seal_tenant(self, tenant: str | bytes, *, actor: Actor, event: Event | None = None) -> Receipt | None:
        """Drop a tenant's keys, and refuse it until it is unsealed, across restarts.

        Args:
            event: what to record, when it is to say more.

        Returns:
            None when the vault is halted: done in memory, recorded nowhere.
        """
        uid = self.uid(tenant)
        receipt = None
        try:
            event = event or Event("tenant.seal", "ok", actor)
            receipt = self._change(event, system=[{"op": "seal", "tenant": uid}], trail=uid)
        except Halted:
            # Stopping harm does not wait for a disk.
            self.system.sealed.add(uid)
        self._forget(uid)
        return receipt

    def unseal_tenant(self, tenant: str | bytes, *, actor: Actor) -> Receipt:
        """Let a tenant's keys be loaded again; also gives one that was closed another try. Raises `Halted`."""
        uid = self.uid(tenant)
        receipt = self._change(Event("tenant.unseal", "ok", actor), system=[{"op": "unseal", "tenant": uid}], trail=uid)
        self._closed.pop(uid, None)
        return receipt

    def delete_tenant(self, tenant: str | bytes, *, actor: Actor, with_audit: bool = False) -> Deleted:
        """Shred a tenant: its key leaves the keyring, its files are removed. Works on a sealed or closed one too.

        Args:
            with_audit: drop the key to its audit trail as well; the journal's lines stay, and nothing opens them.
        """
        uid = self.uid(tenant)
        name, entry = self.name(uid), self._entry(uid)
        secrets, versions = self._count(uid)
        vault_id, root = self.ledger.vault_id, self.ledger.root_keys
        event = Event("tenant.delete", "ok", actor, extra={"audit_kept": not with_audit})
        self.ledger.stage_keyring(
            (lambda keyring: keyring.without(uid))
            if with_audit
            else (lambda keyring: keyring.with_entry(entries.tombstone(vault_id, entry, root))),
            event._replace(tenant=name if with_audit else None),
            drop=[Drop(uid)],
            tenant=None if with_audit else uid,
        )
        self._end_streams(uid, NotFound("the tenant was deleted meanwhile"))
        self._tenants.pop(uid, None)
        self._closed.pop(uid, None)
        # After the commit, not with it: a crash between the two leaves links to a tenant that no longer is, which
        # unsealing removes; the other way round would leave a tenant whose grants nobody can use.
        forgotten = event._replace(tenant=name, public={"uid": uid.hex()})
        receipt = self._change(forgotten, system=[{"op": "forget", "tenant": uid}])
        shredding = DeletionReceipt(
            tenant=name,
            uid=uid.hex(),
            deleted=self.now() // _SECOND,
            secrets=secrets,
            versions=versions,
            audit="unreadable" if with_audit else "kept",
            root_rotated=False,
            gone=(
                "the tenant's key, in the keyring and in memory",
                "its log and files with every secret, version and grant: removed, and sealed under that key elsewhere",
            ),
            remains=(_OLD_KEYRING, _OLD_BLOCKS, _LEASED, _AUDIT_GONE if with_audit else _AUDIT_KEPT),
        )
        return Deleted(shredding, receipt)

    def _count(self, uid: bytes) -> tuple[int | None, int | None]:
        try:
            secrets = self.tenant(uid).state.secrets.values()
        except (Sealed, Closed, StoreError, ConfigError):
            return None, None
        return len(secrets), sum(version.ref is not None for secret in secrets for version in secret.versions.values())

    def _tidy(self) -> None:
        """Remove what the system's state says of tenants that are gone: what a crash in `delete_tenant` leaves."""
        known = self.ledger.keyring
        linked = set().union(*self.system.links.values()) | self.system.sealed
        stale = [uid for uid in sorted(linked) if (entry := known.entry(uid)) is None or entry.deleted]
        if stale:
            event = Event("vault.tidied", "ok", OURSELVES, public={"tenants": len(stale)})
            self._change(event, system=[{"op": "forget", "tenant": uid} for uid in stale])
