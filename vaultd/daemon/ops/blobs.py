"""Values of any size on their way in: sealed and written chunk by chunk, in worker threads, then made a version."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from vaultd.access.denials import denied
from vaultd.crypto.stream import check_size
from vaultd.daemon.ops.later import later
from vaultd.daemon.ops.table import Done
from vaultd.daemon.uploads import BlobUpload
from vaultd.errors import Invalid, NotFound, QuotaExceeded
from vaultd.names import secret_name
from vaultd.vault.allowance import spare_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vaultd.daemon.call import Call
    from vaultd.daemon.handling import Deferred, Pending
    from vaultd.names import SecretName
    from vaultd.vault.secrets import Stored

__all__ = ["announced", "begin_blob", "keep_blob", "storable", "take_chunk"]

_SAID = ("tenant", "secret", "cas", "description", "rotate_after")


def storable(call: Call, *, rotate: bool, said: dict[str, Any] | None = None) -> tuple[bytes, SecretName]:
    """The tenant's uid and the secret that the request is to store a version of.

    Args:
        said: names both, for a request that does not itself: what its upload was begun with.

    Raises:
        NotFound: there is no tenant, or no secret to rotate; told to admins.
        Denied: not allowed, or (for who is no admin) not there.
    """
    keys = call.keys if said is None else said
    secret = secret_name(keys["secret"])
    uid = call.allowed("rotate" if rotate else "put", keys["tenant"], secret)
    if rotate and secret not in call.barrier.tenant(uid).state.secrets:
        if call.is_admin:
            raise NotFound("there is no such secret to rotate", "vaultctl put makes a new one")
        call.deny("no such secret", uid, secret=secret)
        raise denied()
    return uid, secret


@contextmanager
def announced(call: Call) -> Iterator[BlobUpload | None]:
    """The blob that the request says is its value, if it does; dropped when something is raised."""
    found = call.connection.context.upload
    upload = found if call.keys.get("upload", False) and isinstance(found, BlobUpload) else None
    try:
        yield upload
    except BaseException:
        if upload is not None:
            _drop(call, upload)
        raise


def _target(call: Call, *, rotate: bool) -> dict[str, Any]:
    return {"rotate": rotate, **{key: call.keys[key] for key in _SAID if key in call.keys}}


def begin_blob(call: Call) -> BlobUpload:
    """The upload that the request announces, once everything that can be refused now has not been."""
    keys, engine = call.keys, call.engine
    rotate, size = keys.get("rotate", False), keys.get("size")
    if rotate and not keys.keys().isdisjoint(_SAID[2:]):
        raise Invalid("a rotation changes the value alone", "leave cas, description and rotate_after away")
    uid, secret = storable(call, rotate=rotate)
    if size is not None:
        check_size(size)
        _check_room(call, uid, secret, size)
    engine.blob_uploads.check(call.facts.uid, engine.config.limits)
    writer = call.barrier.put_stream(
        uid,
        secret,
        actor=call.actor,
        cas=keys.get("cas"),
        description=keys.get("description"),
        rotate_after=keys.get("rotate_after"),
        kind="rotate.secret" if rotate else "secret.put",
    )
    return BlobUpload(
        engine.blob_uploads,
        writer,
        uid=call.facts.uid,
        tenant=uid,
        target=_target(call, rotate=rotate),
        size=size,
        now=call.now.boot,
    )


def _check_room(call: Call, uid: bytes, secret: str, size: int) -> None:
    """Hold what is announced against what the tenant may keep; what comes is held against it as it comes."""
    spare = spare_bytes(call.barrier.allowance, call.barrier.tenant(uid).state, secret)
    if spare is not None and size > spare:
        raise QuotaExceeded(
            "the tenant may not keep a file of this size",
            "destroy old versions or delete secrets; or an admin raises limits.bytes_per_tenant",
        )


def _check_right(call: Call, upload: BlobUpload) -> None:
    # What is written takes room on the disk and of the tenant's: no longer than the right to it lasts.
    if storable(call, rotate=upload.target["rotate"], said=upload.target)[0] != upload.tenant:
        raise NotFound("the tenant was deleted meanwhile")


def take_chunk(call: Call, upload: BlobUpload) -> Pending | Deferred:
    """Gather chunks; seal and write them, and until that is done take nothing further from this connection."""
    connection, engine = call.connection, call.engine
    try:
        call.barrier.tenant(upload.tenant)
        upload.take(call.keys["offset"], len(call.tail))
        if upload.is_full(len(call.tail)):
            _check_right(call, upload)
    except BaseException:
        _drop(call, upload)
        raise
    call.counted()
    if not upload.gather(call.tail):
        return Done({"received": upload.received})
    connection.hold()

    async def write() -> Pending:
        try:
            await engine.workers.run(upload.write)
        except BaseException:
            _drop(call, upload)
            call.barrier.tenant(upload.tenant)  # a tenant that went took its files with it: that is what went wrong
            raise
        finally:
            upload.rest(engine.clock.boot())
            connection.go_on()
        return Done({"received": upload.received})

    return later(call, write)


def keep_blob(
    call: Call, upload: BlobUpload, uid: bytes, *, rotate: bool, told: Callable[[Stored], Pending]
) -> Deferred:
    """Make what was uploaded a version: its last bytes, its file's durability, and then the record.

    Who may do it was decided when the upload began and again just now; and it is once more when the file is durable,
    which takes as long as the disk does.
    """
    connection, engine = call.connection, call.engine
    connection.context.upload = None
    try:
        upload.end(uid, _target(call, rotate=rotate))
    except BaseException:
        upload.drop()
        raise
    connection.hold()

    def still() -> None:
        call.look_again()
        if storable(call, rotate=rotate)[0] != uid:
            raise NotFound("the tenant was deleted meanwhile")

    async def keep() -> Pending:
        try:
            try:
                await engine.workers.run(upload.seal)
            finally:
                still()  # also when that failed: a tenant that went took its files with it
            upload.writer.actor = call.actor  # a ticket may have ended since it was begun
            stored = upload.writer.finish()
        finally:
            upload.drop()  # of what was used, nothing is left to drop
            upload.rest(engine.clock.boot())
            connection.go_on()
        call.staged(stored.receipt)
        return told(stored)

    return later(call, keep)


def _drop(call: Call, upload: BlobUpload) -> None:
    upload.drop()
    if call.connection.context.upload is upload:
        call.connection.context.upload = None
