"""Files and ranges on their way out: as a tail, a memory file, a pipe, or, too long for what was asked, not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from vaultd.daemon.handling import Answer
from vaultd.daemon.ops.later import durable, later
from vaultd.daemon.ops.reveals import Release, Revealed, by_descriptor
from vaultd.daemon.ops.table import Done, operation
from vaultd.daemon.parcels import Parcel
from vaultd.daemon.streams import Stream
from vaultd.errors import IntegrityError, Invalid, StoreError, VaultdError
from vaultd.names import secret_name
from vaultd.protocol.operations import MAX_TAIL

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaultd.daemon.call import Call
    from vaultd.daemon.handling import Deferred, Pending
    from vaultd.vault.secrets import SecretRef
    from vaultd.vault.streams import BlobReader

__all__ = ["Wanted"]


class Wanted(NamedTuple):
    """What of a value is asked for, when that is a range, or the value a file.

    Attributes:
        offset: where it begins.
        length: bytes at most; None: all that follow.
        memfd: whether it is to be a memory file at any length.
        way: `opened` in full before it is answered, `piped`, or `announced` only: its size.
    """

    offset: int
    length: int | None
    memfd: bool
    way: str

    @classmethod
    def of(cls, call: Call, ref: SecretRef) -> Wanted | None:
        """What the request asks for; None for the whole of a value that is kept with its record.

        Raises:
            Invalid: the range is too long for a memory file, and a pipe will not do.
            QuotaExceeded: too many pipes are under way.
        """
        if not ref.blob and call.keys.keys().isdisjoint({"offset", "length"}):
            return None
        return cls.range_of(call, ref)

    @classmethod
    def range_of(cls, call: Call, ref: SecretRef) -> Wanted:
        """As `of`, for a request that asks for a range in any case."""
        keys, limits = call.keys, call.engine.config.limits
        wanted = cls(keys.get("offset", 0), keys.get("length"), keys.get("memfd", False), "opened")
        count = wanted.count(ref.blob)  # 0 for a value in the log, which no memory file is too short for
        if count <= limits.memfd_bytes:
            return wanted
        if keys.get("pipe", False):
            call.engine.streams.check(call.facts.uid, limits)
            return wanted._replace(way="piped")
        if not keys.keys().isdisjoint({"offset", "length"}):
            raise Invalid(
                f"{count} bytes are more than a memory file may bring",
                f"ask for at most {limits.memfd_bytes} bytes, or with pipe",
            )
        return wanted._replace(way="announced")

    def count(self, size: int) -> int:
        """Bytes of it in a value of `size` bytes."""
        rest = max(0, size - self.offset)
        return rest if self.length is None else min(self.length, rest)

    def facts(self) -> dict[str, Any] | None:
        """What the record says of it; None when it is all of the value."""
        if not self.offset and self.length is None:
            return None
        return {"offset": self.offset, **({"length": self.length} if self.length is not None else {})}

    def deliver(
        self, release: Release, keys: dict[str, Any], *, owner: object, right: Callable[[], bool]
    ) -> Pending | Deferred:
        """Answer with it.

        Args:
            release: the right to it, and its record.
            keys: of the reply, beside `size`, `memfd` and `pipe`.
            owner: whose end ends a pipe.
            right: whether a pipe may go on.
        """
        if self.way == "announced":
            return _Announced(release, keys)
        if self.way == "piped":
            return _Piped(self, release, keys, owner, right)
        return later(release.call, lambda: self._open(release, keys))

    async def _open(self, release: Release, keys: dict[str, Any]) -> Pending:
        call, engine, context = release.call, release.call.engine, release.call.connection.context
        await durable_or_undone(release)
        async with engine.rooms.one(call.facts.uid, context.parcel_turn) as keep:
            if call.connection.closed:
                return Done()  # to nobody
            with release.hold(None):
                reader = engine.unsealed().open_blob(release.receipt, release.ref, call.actor)
                try:
                    count = self.count(reader.size)
                    memfd = count > 0 and (self.memfd or count > MAX_TAIL)
                    features = engine.kernel.features if memfd else None
                    parcel = await engine.workers.run(Parcel.open, reader, self.offset, count, features)
                except IntegrityError:
                    damaged(release, reader)
                    raise
                finally:
                    reader.close()
            keep(parcel)
        if call.connection.closed:
            parcel.close()
            return Done()
        context.parcels.add(parcel)
        return _Handed(release, {**keys, "size": reader.size}, parcel)


async def durable_or_undone(release: Release) -> None:
    """Wait for the record. Raises as `durable`, with what was decided undone."""
    try:
        await durable(release.call.engine, release.receipt)
    except VaultdError as error:
        with release.hold(error):
            pass
        raise


def damaged(release: Release, reader: BlobReader) -> None:
    """Record that a file was found changed: what was asked for is on record, and what came of it."""
    engine = release.call.engine
    engine.unsealed().record_damage(reader, release.call.actor)
    engine.commit_soon()


class _Announced:
    """The size of a file that is too long to come with the answer: it is read by ranges, or asked for by pipe."""

    __slots__ = ("_keys", "_release")
    descriptor: Final = False

    def __init__(self, release: Release, keys: dict[str, Any]) -> None:
        self._release = release
        self._keys = keys

    def complete(self, error: VaultdError | None) -> Answer:
        with self._release.hold(error):
            return Answer({**self._keys, "size": self._release.ref.blob})


class _Handed:
    """What was opened, in a worker thread, after its record was durable."""

    __slots__ = ("_keys", "_parcel", "_release", "descriptor")

    def __init__(self, release: Release, keys: dict[str, Any], parcel: Parcel) -> None:
        self._release = release
        self._keys = keys
        self._parcel = parcel
        self.descriptor = parcel.descriptor is not None

    def complete(self, error: VaultdError | None) -> Answer:
        parcel = self._parcel
        self._release.call.connection.context.parcels.discard(parcel)
        try:
            with self._release.hold(error):
                secret, descriptor = parcel.take()
        finally:
            parcel.close()
        if descriptor is None:
            return Answer(self._keys, secret=secret)
        return Answer({**self._keys, "memfd": True}, descriptor=descriptor)


class _Piped:
    """A file or range that begins to go through a pipe when the answer leaves."""

    __slots__ = ("_keys", "_owner", "_release", "_right", "_wanted")
    descriptor: Final = True

    def __init__(
        self, wanted: Wanted, release: Release, keys: dict[str, Any], owner: object, right: Callable[[], bool]
    ) -> None:
        self._wanted = wanted
        self._release = release
        self._keys = keys
        self._owner = owner
        self._right = right

    def complete(self, error: VaultdError | None) -> Answer:
        release, engine = self._release, self._release.call.engine
        with release.hold(error):
            uid = release.call.facts.uid
            engine.streams.check(uid, engine.config.limits)  # others may have begun since
            reader = engine.unsealed().open_blob(release.receipt, release.ref, release.call.actor)
            stream = Stream(
                reader,
                uid=uid,
                owner=self._owner,
                offset=self._wanted.offset,
                length=self._wanted.count(reader.size),
                right=self._right,
                damaged=lambda: damaged(release, reader),
            )
            try:
                descriptor = engine.streams.start(stream)
            except OSError as problem:
                raise StoreError("no pipe can be made", "look at the daemon's descriptor limit") from problem
        return Answer({**self._keys, "size": reader.size, "pipe": True}, descriptor=descriptor)


@operation("secret.get")
def get(call: Call) -> Pending | Deferred:
    """An admin reads a value, or a range of it: recorded in the tenant's own trail."""
    call.require_admin()
    secret = secret_name(call.keys["secret"])
    uid = call.allowed("get", call.keys["tenant"], secret)
    barrier = call.barrier
    ref = barrier.prepare_reveal(uid, secret, call.keys.get("version"))
    wanted = Wanted.of(call, ref)
    event = call.event(
        secret=secret,
        version=ref.version,
        secret_id=ref.secret_id,
        delivery="fd" if call.keys.get("memfd", False) else "print",
        extra=wanted.facts() if wanted is not None else None,
    )
    receipt = call.record(uid, event)
    keys = {"version": ref.version, "state": str(ref.state)}
    if wanted is None:
        release = Release(call, receipt, ref)
        return Revealed(release, keys, descriptor=by_descriptor(call, barrier.sealed_size(ref)))
    engine, connection = call.engine, call.connection

    def still() -> bool:
        return not connection.closed and engine.ticket_on(connection, engine.now()) is not None

    return wanted.deliver(Release(call, receipt, ref, still=still), keys, owner=connection, right=still)
