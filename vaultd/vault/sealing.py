"""Values in a tenant's log: what the verbs on secrets and on blobs both rest on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from vaultd.audit.body import Event
from vaultd.errors import IntegrityError, Invalid, NotFound
from vaultd.vault.allowance import check_value
from vaultd.vault.core import Core
from vaultd.vault.tenant import Wanted

if TYPE_CHECKING:
    from vaultd.audit.body import Actor
    from vaultd.audit.receipt import Receipt
    from vaultd.crypto.memory import SecretBytes
    from vaultd.vault.state import Secret, Version, VersionState
    from vaultd.vault.tenant import OpenTenant

__all__ = ["Sealing", "SecretRef", "Stored", "too_large"]


class SecretRef(NamedTuple):
    """Which version of which secret of which tenant is meant; says nothing of its value.

    Attributes:
        blob: bytes of the file that is its value, which only `open_blob` opens; 0 for a value in the log.
    """

    tenant: bytes
    secret_id: bytes
    name: str
    version: int
    state: VersionState
    blob: int = 0


class Stored(NamedTuple):
    """A change to a secret: what the caller may say once the receipt is durable."""

    version: int
    receipt: Receipt


class Sealing(Core):
    """See the module."""

    def _spent(self, receipt: Receipt, ref: SecretRef) -> tuple[OpenTenant, Secret, Version]:
        """Use up a receipt; gives what it is for."""
        receipt.spend(ref.tenant, ref.secret_id, ref.version)
        opened = self.tenant(ref.tenant)
        secret = opened.state.by_id.get(ref.secret_id)
        if secret is None:
            raise NotFound("the secret was deleted meanwhile")
        return opened, secret, self._there(secret, ref.version)

    def _there(self, secret: Secret, number: int) -> Version:
        found = secret.version(number)
        if found.ref is None:
            raise NotFound(f"version {number} is destroyed", "see: vaultctl history TENANT SECRET")
        return found

    def _reveal(self, opened: OpenTenant, secret: Secret, ref: SecretRef, actor: Actor) -> SecretBytes:
        try:
            return self._open_value(opened, secret, ref.version)
        except IntegrityError as error:
            self._record_failure(ref, actor)
            raise self._shut(ref.tenant, error.message) from error

    def _record_failure(self, ref: SecretRef, actor: Actor) -> None:
        event = Event(
            "secret.open", "failed", actor, secret=ref.name, version=ref.version, reason="the value does not verify"
        )
        self.ledger.stage(event, tenant=ref.tenant)

    def _open_value(self, opened: OpenTenant, secret: Secret, number: int) -> SecretBytes:
        found = self._there(secret, number)
        if found.blob is not None:
            raise too_large(number, found.blob.size)
        return opened.envelope.open(secret.id, number, self._attachment(opened, found))

    def _attachment(self, opened: OpenTenant, version: Version) -> bytes:
        if version.ref is None:
            raise NotFound(f"version {version.number} is destroyed", "see: vaultctl history TENANT SECRET")
        return opened.log.read_attachment(version.ref)

    def _store(self, opened: OpenTenant, header: dict[str, Any], value: SecretBytes, event: Event) -> Stored:
        attachment = opened.envelope.seal(header["id"], header["version"], value)
        return self._keep(opened, header, attachment, event)

    def _keep(
        self, opened: OpenTenant, header: dict[str, Any], attachment: bytes, event: Event, *, added: int = 0
    ) -> Stored:
        """Stage a new version. `added`: bytes that its blob takes, if it brings one."""
        check_value(self.allowance, opened.state, header, len(attachment) + added)
        receipt = self._change(event, opened, [Wanted(header, attachment)])
        return Stored(header["version"], receipt)


def too_large(number: int, size: int) -> Invalid:
    """The error for a file that was asked for as a value in memory."""
    return Invalid(
        f"version {number} is a file of {size} bytes, which is not given out as a whole",
        "write it to a file: vaultctl get TENANT SECRET --out FILE; in Python read it through open()",
    )
