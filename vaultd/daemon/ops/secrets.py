"""value.* and secret.*, but for what reveals: putting, listing, rolling back, destroying."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from vaultd.access.decide import listing
from vaultd.access.denials import denied
from vaultd.daemon.handling import Deferred
from vaultd.daemon.ops.blobs import announced, begin_blob, keep_blob, storable, take_chunk
from vaultd.daemon.ops.later import answering, begin_task
from vaultd.daemon.ops.pages import page
from vaultd.daemon.ops.table import Done, operation
from vaultd.daemon.ops.values import Upload, value_of
from vaultd.daemon.uploads import BlobUpload
from vaultd.errors import Invalid, NotFound
from vaultd.names import SecretName, secret_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaultd.access.grants import Grant
    from vaultd.daemon.call import Call
    from vaultd.daemon.handling import Pending
    from vaultd.daemon.readers import Reading
    from vaultd.vault.secrets import Stored
    from vaultd.vault.state import Secret, Version

_SECOND = 10**9

_AT_ONCE: Final = 4_096
"""Comparisons of a name with a pattern that one listing may take at once: about a millisecond."""


@operation("value.begin")
def begin(call: Call) -> Pending:
    """Start an upload, which is this connection's alone. What may be long is decided upon now, and when it is used; a
    value that is kept in memory until then, when it is used."""
    call.engine.unsealed()
    if not call.is_admin and "tenant" not in call.keys:
        call.service()
    context = call.connection.context
    if context.upload is not None:  # first: what it takes is the new one's to use
        context.upload.wipe()
        context.upload = None
    if "tenant" in call.keys:
        context.upload = begin_blob(call)
    else:
        context.upload = Upload(call.keys["size"], call.engine.uploads, call.facts.uid)
    call.counted()  # its use is recorded
    return Done()


@operation("value.chunk")
def chunk(call: Call) -> Pending | Deferred:
    """Bytes of the upload. Counted, not recorded one by one: its use is."""
    upload = call.connection.context.upload
    if upload is None:
        raise Invalid("nothing is being uploaded on this connection", "send value.begin first")
    if isinstance(upload, BlobUpload):
        return take_chunk(call, upload)
    upload.take(call.keys["offset"], call.tail)
    call.counted()
    return Done({"received": upload.received})


@operation("secret.put")
def put(call: Call) -> Pending | Deferred:
    """A new version, of a new secret or of one that exists."""
    keys = call.keys
    with announced(call) as upload:
        uid, secret = storable(call, rotate=False)
        if upload is not None:
            return keep_blob(call, upload, uid, rotate=False, told=lambda stored: Done({"version": stored.version}))
    with value_of(call) as value:
        stored = call.barrier.put(
            uid,
            secret,
            value,
            actor=call.actor,
            cas=keys.get("cas"),
            description=keys.get("description"),
            rotate_after=keys.get("rotate_after"),
        )
    return _stored(call, stored)


def _stored(call: Call, stored: Stored) -> Pending:
    call.staged(stored.receipt)
    return Done({"version": stored.version})


def _named(call: Call, action: str) -> tuple[bytes, SecretName]:
    """Tenant and secret of a request about a secret that exists.

    Raises:
        NotFound: it does not, told to admins.
        Denied: not allowed, or (for whoever is no admin) not there.
    """
    secret = secret_name(call.keys["secret"])
    uid = call.allowed(action, call.keys["tenant"], secret)
    try:
        call.barrier.history(uid, secret)
    except NotFound:
        if call.is_admin:
            raise
        call.deny("no such secret", uid, secret=secret)
        raise denied() from None
    return uid, secret


@operation("secret.list")
def list_all(call: Call) -> Pending | Deferred:
    """A tenant's secrets: all for admins, for others those that a grant lets them list."""
    uid = call.allowed("list", call.keys["tenant"])
    barrier = call.barrier
    secrets = barrier.list(uid)
    now = barrier.now()
    call.record(uid, call.event())

    def told(shown: list[Secret]) -> Pending:
        return Done(page(((one.name, one) for one in shown), call.keys, lambda one: _secret(one, now)))

    if call.is_admin:
        return told(secrets)
    service = call.service()
    grants = listing(service.name, call.engine.grants(uid).of_service(service.name), call.now)
    if len(secrets) * sum(len(grant.patterns) for grant in grants) <= _AT_ONCE:
        return told([secret for secret in secrets if any(grant.names(secret.name) for grant in grants)])
    return _narrowed(call, secrets, grants, told)


def _narrowed(
    call: Call, secrets: list[Secret], grants: list[Grant], told: Callable[[list[Secret]], Pending]
) -> Deferred:
    """A long listing under many patterns is narrowed in slices, others served in between."""
    reading = call.engine.readers.ask(call.facts.uid)
    deferred = Deferred()
    begin_task(call, _narrow(call, reading, secrets, grants, told, deferred))
    return deferred


async def _narrow(
    call: Call,
    reading: Reading,
    secrets: list[Secret],
    grants: list[Grant],
    told: Callable[[list[Secret]], Pending],
    deferred: Deferred,
) -> None:
    try:
        with answering(call, deferred):
            shown = []
            async with reading:
                for secret in secrets:
                    if any(grant.names(secret.name) for grant in grants):
                        shown.append(secret)
                    if await reading.pause():
                        call.engine.unsealed()  # it may have been sealed meanwhile
            deferred.settle(told(shown))
    finally:
        reading.done()


def _secret(secret: Secret, now: int) -> dict[str, Any]:
    due = None
    if secret.rotate_after and secret.current:
        due = secret.versions[secret.current].created // _SECOND + secret.rotate_after
    return {
        "secret": secret.name,
        "version": secret.current,
        "versions": len(secret.versions),
        "size": _size(secret.versions.get(secret.current)),
        "description": secret.description,
        "created": secret.created // _SECOND,
        "updated": secret.updated // _SECOND,
        "rotate_after": secret.rotate_after or None,
        "due": due,
        "overdue": due is not None and due * _SECOND <= now,
    }


def _size(version: Version | None) -> int | None:
    """Bytes of a value that is a file. How long another is, its padding hides from all but its reader."""
    return version.blob.size if version is not None and version.blob is not None else None


@operation("secret.history")
def history(call: Call) -> Pending:
    """A secret's versions, oldest first, with their states as of now."""
    uid, name = _named(call, "list")
    secret, now = call.barrier.history(uid, name), call.barrier.now()
    call.record(uid, call.event(secret=name))
    items = ((f"{version.number:010d}", version) for version in secret.versions.values())
    return Done(page(items, call.keys, lambda version: _version(version, now)))


def _version(version: Version, now: int) -> dict[str, Any]:
    state = version.state(now)
    return {
        "version": version.number,
        "state": str(state),
        "created": version.created // _SECOND,
        "until": version.until // _SECOND if str(state) == "previous" else None,
        "source": version.source or None,
        "size": _size(version),
    }


@operation("secret.rollback")
def rollback(call: Call) -> Pending:
    """A new version with an earlier one's value, which does not leave the vault for it."""
    uid, secret = _named(call, "rotate")
    return _stored(call, call.barrier.rollback(uid, secret, call.keys["to"], actor=call.actor))


@operation("secret.destroy")
def destroy(call: Call) -> Pending:
    """End one version's value, and the leases on it."""
    uid, secret = _named(call, "manage")
    stored = call.barrier.destroy(uid, secret, call.keys["version"], actor=call.actor)
    call.staged(stored.receipt)
    book = call.engine.book
    for lease in book.leases.of_secret(uid, secret, call.now):
        if lease.version == call.keys["version"]:
            call.engine.ended(book.release(lease), "version-destroyed")
    return Done()


@operation("secret.set")
def set_metadata(call: Call) -> Pending:
    """Change what people read about a secret."""
    uid, secret = _named(call, "manage")
    stored = call.barrier.set_metadata(
        uid,
        secret,
        actor=call.actor,
        description=call.keys.get("description"),
        rotate_after=call.keys.get("rotate_after"),
    )
    call.staged(stored.receipt)
    return Done()


@operation("secret.delete")
def delete(call: Call) -> Pending:
    """End a secret with all its versions, and every lease on it."""
    uid, secret = _named(call, "manage")
    stored = call.barrier.delete(uid, secret, actor=call.actor)
    call.staged(stored.receipt)
    call.engine.ended(call.engine.book.revoke_secret(uid, secret), "secret-deleted")
    return Done()
