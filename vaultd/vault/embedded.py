"""The vault in one's own process, without a daemon: the same directory, one process at a time.

    from vaultd import Vault
    with Vault.open(path, passphrase=ask) as vault:
        acme = vault.tenant("acme")
        acme.put("openai/prod", value)
        acme.get("openai/prod")

Everything is audited as actor `embedded` with this uid and pid, durably, before a call returns. Grants do not apply:
whoever holds a slot's secret and may read the directory is the vault's owner.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, Self

from vaultd.audit.body import Actor, Event
from vaultd.audit.segments import DEFAULT
from vaultd.clock import SystemClock
from vaultd.crypto.kdf import FLOOR, RFC_9106_LOW, Profile
from vaultd.errors import VaultdError
from vaultd.names import secret_name, tenant_name
from vaultd.store import DirectoryStore, Store
from vaultd.vault.barrier import Barrier
from vaultd.vault.create import InitReport, create
from vaultd.vault.filing import FileVerbs
from vaultd.vault.given import Passphrase, Source, Value, as_secret, slot_secret
from vaultd.vault.rotation import finish
from vaultd.vault.sealing import too_large

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from vaultd.clock import Clock
    from vaultd.crypto.memory import SecretBytes
    from vaultd.crypto.slots import SlotKind
    from vaultd.vault.tenants import DeletionReceipt

__all__ = ["Passphrase", "SecretInfo", "Tenant", "Vault", "VersionInfo"]


class VersionInfo(NamedTuple):
    """One version of a secret: its number, its state, when it was made (seconds since 1970).

    Attributes:
        size: bytes of a version above 1 MiB, which `open` reads; None for one that `get` gives.
    """

    number: int
    state: str
    created: float
    size: int | None = None


class SecretInfo(NamedTuple):
    """What is known of a secret without its value. Times in seconds; 0 stands for none."""

    name: str
    description: str
    current: int
    rotate_after: int
    created: float
    updated: float
    versions: tuple[VersionInfo, ...]


class Vault:
    """An unsealed vault, held by this process until `close`. Not for several threads at once.

    Make one with `open` or `create`.
    """

    def __init__(self, store: Store, barrier: Barrier, actor: Actor) -> None:
        self._store = store
        self._barrier = barrier
        self._actor = actor

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        passphrase: Passphrase | None = None,
        key_file: str | os.PathLike[str] | None = None,
        credential: str | None = None,
        clock: Clock | None = None,
        minimum: Profile = FLOOR,
    ) -> Self:
        """Open the vault in a directory.

        Args:
            path: the vault directory.
            passphrase: a slot's passphrase, or a function that asks for it; it is called once the directory is open.
            key_file: or the path of a slot's key file.
            credential: or the name of a systemd credential of this process's unit.
            clock: for tests.
            minimum: the least Argon2id cost of a slot that is accepted.

        Raises:
            Locked: a daemon, or another process, has the directory: talk to it with `vaultclient` instead.
            WrongSecret: no slot opens with this.
            Uninitialised, ConfigError, IntegrityError, FormatVersion, StoreError: what is wrong with the directory, or
                with what gives the secret.
        """
        source = Source(passphrase, key_file, credential)
        kind = source.kind()
        store = DirectoryStore(path)
        try:
            return cls.over(
                store,
                clock or SystemClock(),
                secret=lambda: slot_secret(source),
                kind=kind,
                minimum=minimum,
            )
        except BaseException:
            store.close()
            raise

    @classmethod
    def over(
        cls, store: Store, clock: Clock, *, secret: Callable[[], SecretBytes], kind: SlotKind, minimum: Profile = FLOOR
    ) -> Self:
        """Open the vault in any store, which becomes this object's to close.

        Args:
            secret: gives the slot's secret; it is wiped here.
        """
        barrier = Barrier.open(store, clock, minimum=minimum)
        try:
            actor = _actor()
            with secret() as given:
                try:
                    slot, slot_key = barrier.derive(given, kind)
                except VaultdError as error:
                    barrier.record(Event("vault.unseal", "failed", actor, reason=error.code))
                    raise
            with slot_key:
                barrier.unseal(slot, slot_key, actor=actor)
            barrier.ledger.journal.limits = DEFAULT
            barrier.ledger.flush()
        except BaseException:
            barrier.close()
            raise
        return cls(store, barrier, actor)

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        passphrase: Passphrase | None = None,
        key_file: str | os.PathLike[str] | None = None,
        credential: str | None = None,
        label: str = "",
        clock: Clock | None = None,
        profile: Profile = RFC_9106_LOW,
    ) -> InitReport:
        """Make a new vault, with one slot and this uid as its admin. `open` then opens it.

        Args:
            path: a directory that is empty or not there yet.
            passphrase, key_file, credential: as in `open`.
            label: what people call the slot.
            profile: Argon2id's cost.

        Returns:
            What to keep: the vault's id, its checkpoint public key, and (secret, to be wiped) its first seal key.

        Raises:
            Exists: there is a vault, or something else, already.
            Invalid: the secret or the label is out of bounds.
        """
        source = Source(passphrase, key_file, credential)
        kind = source.kind()
        with DirectoryStore(path, create=True) as store, slot_secret(source) as secret:
            return create(
                store,
                clock or SystemClock(),
                secret=secret,
                kind=kind,
                label=label,
                admin_uids=[os.geteuid()],
                actor=_actor(),
                profile=profile,
            )

    @property
    def id(self) -> str:
        """The vault's id, in hex."""
        return self._barrier.ledger.vault_id.hex()

    def tenant(self, name: str) -> Tenant:
        """A tenant by name. Raises `NotFound`, `Sealed`, and `Closed` when its files do not verify."""
        self._barrier.tenant(tenant_name(name))
        return Tenant(self, tenant_name(name))

    def create_tenant(self, name: str) -> Tenant:
        """Make a tenant. Raises `Exists`, and `Invalid` for what cannot be a name."""
        with self._flushed():
            self._barrier.create_tenant(tenant_name(name), actor=self._actor)
        return Tenant(self, tenant_name(name))

    def tenants(self) -> list[str]:
        """Every tenant's name."""
        return [facts.name for facts in self._barrier.tenants()]

    def delete_tenant(self, name: str, *, with_audit: bool = False) -> DeletionReceipt:
        """Shred a tenant; the receipt says what is gone and what remains. Raises `NotFound`."""
        with self._flushed():
            return self._barrier.delete_tenant(tenant_name(name), actor=self._actor, with_audit=with_audit).shredding

    def rotate_root(self) -> None:
        """Replace the root key."""
        with self._flushed():
            finish(self._barrier.rotate_root(actor=self._actor))

    def prune(self, checkpoint: str) -> int:
        """Remove the segments of the audit journal that lie wholly before a checkpoint of this vault.

        Returns:
            How many lines went.

        Raises:
            IntegrityError: it is none, of another vault, or the journal does not lead to it.
        """
        with self._flushed():
            plan = finish(self._barrier.plan_pruning(checkpoint))
            self._barrier.prune(plan, actor=self._actor)
        return plan.lines

    def checkpoint(self) -> str:
        """A signed statement of the audit journal's size and head, to be kept elsewhere."""
        with self._flushed():
            self._barrier.record(Event("audit.checkpoint", "ok", self._actor))
        return self._barrier.checkpoint()

    def close(self) -> None:
        """Drop the keys and let the directory go."""
        try:
            if not self._barrier.sealed:
                self._barrier.seal(actor=self._actor)
        finally:
            try:
                self._barrier.close()
            finally:
                self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _flushed(self) -> Iterator[None]:
        """What was done in here is durable before anybody hears of it."""
        yield
        self._barrier.ledger.flush()

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """The same for what changes a tenant; what is worth compacting by now is compacted."""
        with self._flushed():
            yield
        slices = self._barrier.compaction()
        if slices is not None:
            with self._flushed():
                finish(slices)


class Tenant(FileVerbs):
    """One tenant of an open vault."""

    def __init__(self, vault: Vault, name: str) -> None:
        self._vault = vault
        self._name = tenant_name(name)

    @property
    def name(self) -> str:
        return self._name

    def put(
        self,
        name: str,
        value: Value,
        *,
        cas: int | None = None,
        description: str | None = None,
        rotate_after: int | None = None,
    ) -> int:
        """Store a value as the secret's new current version; returns its number.

        Args:
            value: at least 1 byte; text is stored as UTF-8. Only a `bytearray` can be wiped by its owner afterwards.
                What should not be in memory whole is for `put_file`.
            cas: the number that the current version must have, 0 for none.
            description, rotate_after: what people read, and seconds after which it is due; None keeps them.

        Raises:
            Conflict: `cas` names another version.
            Invalid: the name, the value's size or a fact is out of bounds.
        """
        with as_secret(value) as secret, self._vault._changing():
            stored = self._barrier.put(
                self._name,
                secret_name(name),
                secret,
                actor=self._actor,
                cas=cas,
                description=description,
                rotate_after=rotate_after,
            )
        return stored.version

    def get(self, name: str, version: int | None = None) -> bytearray:
        """A secret's value in a buffer that is the caller's to wipe; `reveal` gives one that wipes itself.

        Raises:
            NotFound: there is no such secret or version, or it is destroyed.
            Invalid: it is above 1 MiB: `open` reads those.
        """
        with self.reveal(name, version) as secret:
            return bytearray(secret.view())

    def reveal(self, name: str, version: int | None = None) -> SecretBytes:
        """A secret's value in wipeable memory: use it in a `with` block, through `view()`. Raises as `get`."""
        barrier = self._barrier
        ref = barrier.prepare_reveal(self._name, secret_name(name), version)
        if ref.blob:
            raise too_large(ref.version, ref.blob)
        with self._vault._flushed():
            receipt = barrier.record_reveal(ref, Event("secret.get", "ok", self._actor))
        try:
            return barrier.reveal(receipt, ref, self._actor)
        except VaultdError:
            barrier.ledger.flush()
            raise

    def secrets(self) -> list[SecretInfo]:
        """Every secret, by name."""
        return [self._info(secret.name) for secret in self._barrier.list(self._name)]

    def history(self, name: str) -> SecretInfo:
        """One secret with its versions. Raises `NotFound`."""
        return self._info(secret_name(name))

    def rollback(self, name: str, to: int) -> int:
        """Make the value of an earlier version current again, as a new version; returns its number.

        Raises:
            NotFound: there is no such secret or version.
            Conflict: the version is current, pending or destroyed.
        """
        with self._vault._changing():
            return self._barrier.rollback(self._name, secret_name(name), to, actor=self._actor).version

    def destroy(self, name: str, version: int) -> None:
        """End one version's value. Raises `NotFound`, and `Conflict` for the current one."""
        with self._vault._changing():
            self._barrier.destroy(self._name, secret_name(name), version, actor=self._actor)

    def delete(self, name: str) -> None:
        """End a secret and all its versions. Raises `NotFound`."""
        with self._vault._changing():
            self._barrier.delete(self._name, secret_name(name), actor=self._actor)

    def set_metadata(self, name: str, *, description: str | None = None, rotate_after: int | None = None) -> None:
        """Change what people read of a secret. Raises `NotFound` and `Invalid`."""
        with self._vault._changing():
            self._barrier.set_metadata(
                self._name, secret_name(name), actor=self._actor, description=description, rotate_after=rotate_after
            )

    def rotate(self) -> None:
        """Replace the tenant's key; no value changes."""
        with self._vault._flushed():
            finish(self._barrier.rotate_tenant(self._name, actor=self._actor))

    def _info(self, name: str) -> SecretInfo:
        secret = self._barrier.history(self._name, secret_name(name))
        now = self._barrier.now()
        versions = tuple(
            VersionInfo(
                version.number,
                str(version.state(now)),
                version.created / 1e9,
                None if version.blob is None else version.blob.size,
            )
            for version in secret.versions.values()
        )
        return SecretInfo(
            secret.name,
            secret.description,
            secret.current,
            secret.rotate_after,
            secret.created / 1e9,
            secret.updated / 1e9,
            versions,
        )

    @property
    def _barrier(self) -> Barrier:
        return self._vault._barrier

    @property
    def _actor(self) -> Actor:
        return self._vault._actor


def _actor() -> Actor:
    return Actor("embedded", uid=os.getuid(), gid=os.getgid(), pid=os.getpid())
