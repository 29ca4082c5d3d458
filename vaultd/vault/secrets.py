"""The verbs on secrets: the one place where values are sealed and opened.

A value goes in as `SecretBytes` and stays its caller's to wipe; it comes out as `SecretBytes` for the caller to wipe,
and only against a durable receipt of an audit record that names this tenant, secret and version.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vaultd.audit.body import Event
from vaultd.crypto.values import VALUE_MAX
from vaultd.errors import NotFound
from vaultd.vault import changes
from vaultd.vault.blobs import BlobVerbs
from vaultd.vault.sealing import SecretRef, Stored
from vaultd.vault.state import VersionState
from vaultd.vault.tenant import Wanted

if TYPE_CHECKING:
    from vaultd.audit.body import Actor
    from vaultd.audit.receipt import Receipt
    from vaultd.crypto.memory import SecretBytes
    from vaultd.names import SecretName
    from vaultd.vault.state import Secret
    from vaultd.vault.tenant import OpenTenant

__all__ = ["SecretRef", "SecretVerbs", "Stored"]

_ID = 16


class SecretVerbs(BlobVerbs):
    """See the module. `tenant` is a name or a uid; every method raises what `Core.tenant` does."""

    def put(
        self,
        tenant: str | bytes,
        name: SecretName,
        value: SecretBytes,
        *,
        actor: Actor,
        cas: int | None = None,
        description: str | None = None,
        rotate_after: int | None = None,
        pending: bool = False,
        grace: int = changes.GRACE,
        kind: str = "secret.put",
        run: str | None = None,
    ) -> Stored:
        """Store a value as a new version, which becomes current at once unless `pending`.

        Args:
            value: at least 1 byte; stays the caller's. Above 1 MiB it becomes a blob, whose file is written here and
                now: `put_stream` is for those that others must not wait for.
            cas: the number that the current version must have, 0 for none.
            grace: seconds that the version before stays leasable by its number.
            kind: what the audit record calls it: a rotation puts as well.

        Raises:
            Conflict: `cas` names another version.
            Invalid: the value's size, a text or a duration is out of bounds.
            QuotaExceeded: the tenant may not keep any more.
        """
        if len(value) > VALUE_MAX:
            with self.put_stream(
                tenant,
                name,
                actor=actor,
                cas=cas,
                description=description,
                rotate_after=rotate_after,
                pending=pending,
                grace=grace,
                kind=kind,
                run=run,
            ) as writer:
                writer.write(value.view())
                return writer.finish()
        opened = self.tenant(tenant)
        header = changes.put(
            opened.state,
            name,
            now=self.now(),
            new_id=self._random(_ID),
            cas=cas,
            description=description,
            rotate_after=rotate_after,
            pending=pending,
            grace=grace,
        )
        event = Event(kind, "ok", actor, secret=name, version=header["version"], run=run)
        return self._store(opened, header, value, event)

    def rollback(self, tenant: str | bytes, name: SecretName, to: int, *, actor: Actor) -> Stored:
        """Store the value of an earlier version as a new one. The value does not leave the barrier.

        Raises:
            NotFound: there is no such secret or version.
            Conflict: the version is current, pending or destroyed.
            IntegrityError: the version's blob does not verify.
            QuotaExceeded: the tenant may not keep any more.
        """
        opened = self.tenant(tenant)
        now = self.now()
        secret = opened.state.secret(name)
        source = changes.restore(opened.state, name, to, now=now)
        header = changes.put(opened.state, name, now=now, new_id=secret.id, source=to, blob=source.blob)
        event = Event("secret.rollback", "ok", actor, secret=name, version=header["version"], extra={"from": to})
        if source.blob is not None:
            shared = self._share(opened, secret, source, source.blob, header["version"])
            return self._keep(opened, header, shared, event)
        with self._open_value(opened, secret, to) as value:
            return self._store(opened, header, value, event)

    def promote(
        self, tenant: str | bytes, name: SecretName, version: int, *, actor: Actor, grace: int = changes.GRACE
    ) -> Stored:
        """Make a pending version the current one. Raises `NotFound`, and `Conflict` if it is not pending."""
        opened = self.tenant(tenant)
        header = changes.promote(opened.state, name, version, now=self.now(), grace=grace)
        return self._alter(opened, header, Event("secret.promote", "ok", actor, secret=name, version=version))

    def destroy(self, tenant: str | bytes, name: SecretName, version: int, *, actor: Actor) -> Stored:
        """End one version's value. Raises `NotFound`, and `Conflict` for the current version or one that is gone.

        Nothing gives the value out any more; its sealed bytes leave the file with the next compaction or rotation of
        the tenant.
        """
        opened = self.tenant(tenant)
        header = changes.destroy(opened.state, name, version, now=self.now())
        return self._alter(opened, header, Event("secret.destroy", "ok", actor, secret=name, version=version))

    def delete(self, tenant: str | bytes, name: SecretName, *, actor: Actor) -> Stored:
        """End a secret with all of its versions. Raises `NotFound`. What `destroy` says of sealed bytes holds here."""
        opened = self.tenant(tenant)
        header = changes.delete(opened.state, name)
        last = opened.state.secret(name).last
        return self._alter(opened, header, Event("secret.delete", "ok", actor, secret=name, version=last))

    def set_metadata(
        self,
        tenant: str | bytes,
        name: SecretName,
        *,
        actor: Actor,
        description: str | None = None,
        rotate_after: int | None = None,
    ) -> Stored:
        """Change what people read about a secret: None keeps, an empty text or 0 clears.

        Raises:
            NotFound: there is no such secret.
            Invalid: nothing to change, or out of bounds.
        """
        opened = self.tenant(tenant)
        header = changes.set_metadata(
            opened.state, name, now=self.now(), description=description, rotate_after=rotate_after
        )
        current = opened.state.secret(name).current
        return self._alter(opened, header, Event("secret.set", "ok", actor, secret=name, version=current))

    def list(self, tenant: str | bytes) -> list[Secret]:
        """Every secret, by name. To be read only."""
        return sorted(self.tenant(tenant).state.secrets.values(), key=lambda secret: secret.name)

    def history(self, tenant: str | bytes, name: SecretName) -> Secret:
        """One secret with its versions, whose states are as of `now()`. To be read only. Raises `NotFound`."""
        return self.tenant(tenant).state.secret(name)

    def prepare_reveal(self, tenant: str | bytes, name: SecretName, version: int | None = None) -> SecretRef:
        """Find what is to be revealed, so that it can be decided upon and recorded; no plaintext is made.

        Args:
            version: a number, or None for the current one.

        Raises:
            NotFound: there is no such secret or version, or its value is destroyed.
        """
        opened = self.tenant(tenant)
        secret = opened.state.secret(name)
        found = secret.version(version)
        state = found.state(self.now())
        if state is VersionState.DESTROYED:
            raise NotFound(f"version {found.number} is destroyed", "see: vaultctl history TENANT SECRET")
        blob = 0 if found.blob is None else found.blob.size
        return SecretRef(opened.uid, secret.id, secret.name, found.number, state, blob)

    def sealed_size(self, ref: SecretRef) -> int:
        """Bytes of the sealed value, padding included: at least those of the value. Raises as `prepare_reveal`."""
        secret = self.tenant(ref.tenant).state.by_id.get(ref.secret_id)
        found = secret.version(ref.version) if secret is not None else None
        if found is None or found.ref is None:
            raise NotFound(f"version {ref.version} is destroyed", "see: vaultctl history TENANT SECRET")
        return found.ref.length if found.blob is None else found.blob.stored

    def reveal(self, receipt: Receipt, ref: SecretRef, actor: Actor) -> SecretBytes:
        """Open a value. This is the only way in which one leaves the vault.

        Args:
            receipt: of the durable audit record that says so; used up by this.
            ref: from `prepare_reveal`.
            actor: who gets it, for the second record if it does not open.

        Raises:
            Internal: the receipt is not durable, was used, or names something else.
            NotFound: the version was destroyed meanwhile.
            Invalid: it is a blob: `open_blob` opens those.
            Closed: the value does not verify; recorded, and the tenant stays closed.
        """
        opened, secret, _ = self._spent(receipt, ref)
        return self._reveal(opened, secret, ref, actor)

    def _alter(self, opened: OpenTenant, header: dict[str, Any], event: Event) -> Stored:
        return Stored(event.version or 0, self._change(event, opened, [Wanted(header)]))
