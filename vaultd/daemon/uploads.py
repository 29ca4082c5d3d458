"""Unfinished uploads of blobs: how many there may be, how much they may bring, and that none is left behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from vaultd.crypto.memory import wipe
from vaultd.errors import Invalid, QuotaExceeded
from vaultd.protocol.operations import MAX_TAIL

if TYPE_CHECKING:
    from vaultd.audit.body import Actor
    from vaultd.daemon.config import Limits
    from vaultd.daemon.workers import Workers
    from vaultd.vault.secrets import Stored

__all__ = ["BlobUpload", "Uploads", "Writer"]

GATHERED: Final = 4 * MAX_TAIL
"""Bytes that are gathered before a thread is troubled: the handover costs more than sealing one chunk."""


class Writer(Protocol):
    """What seals the bytes as they come, as `vaultd.vault` makes it. Any thread may call it, one at a time."""

    actor: Actor | None

    @property
    def ended(self) -> bool: ...

    def write(self, data: memoryview) -> int: ...

    def seal(self) -> None: ...

    def finish(self) -> Stored: ...

    def abort(self) -> None: ...


class Uploads:
    """All that are under way.

    Args:
        workers: where they are written, and removed when nothing comes of them.
    """

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._all: set[BlobUpload] = set()
        self._going: set[BlobUpload] = set()

    def __len__(self) -> int:
        return len(self._all)

    def check(self, uid: int, limits: Limits) -> None:
        """Raise `QuotaExceeded` when one more of this uid, or of anybody, would be too many."""
        going = list(self._going)  # in one go: threads take from it
        mine, mine_going = (sum(upload.uid == uid for upload in some) for some in (self._all, going))
        # Dropped ones have their memory until a thread comes to them, which a disk that hangs puts off.
        if mine >= limits.uploads_per_uid or mine + mine_going >= 2 * limits.uploads_per_uid:
            raise QuotaExceeded("this uid has too many unfinished uploads", "finish or drop some first")
        if len(self._all) >= limits.uploads or len(self._all) + len(going) >= 2 * limits.uploads:
            raise QuotaExceeded("too many uploads are under way", "try again when some have ended")

    def add(self, upload: BlobUpload) -> None:
        """Count one in, until it is over."""
        self._all.add(upload)

    def dropped(self, upload: BlobUpload) -> None:
        """It is over, but for what `remove` does."""
        self._all.discard(upload)
        self._going.add(upload)

    def remove(self, upload: BlobUpload) -> None:
        """Have nothing left of it, in a worker thread."""

        def abort() -> None:
            upload.forget()
            self._going.discard(upload)

        self._workers.later(abort)

    def drop_all(self) -> None:
        """Drop every one: the keys are about to go."""
        for upload in list(self._all):
            upload.drop()

    def sweep(self, now: int, limits: Limits) -> None:
        """Drop those that stand still for too long, or whose tenant's keys went. `now` is a boot instant, ns."""
        for upload in list(self._all):
            stands_still = not upload.busy and now - upload.since > limits.upload_seconds * 10**9
            if stands_still or upload.writer.ended:
                upload.drop()


class BlobUpload:
    """One upload whose bytes are sealed and written as they come, and of which nothing stays unless it is used.

    Args:
        uploads: where it counts.
        writer: of the blob; becomes this object's.
        uid: whose upload it is.
        tenant: for which tenant.
        target: what the request that uses it must say.
        size: bytes that were announced; None: not known.
        now: boot instant (ns).

    Attributes:
        received: bytes that have come.
        since: boot instant (ns) since which nothing more came.
        busy: whether a chunk, or the end, is being written.
        dropped: whether nothing will come of it any more.
    """

    def __init__(
        self,
        uploads: Uploads,
        writer: Writer,
        *,
        uid: int,
        tenant: bytes,
        target: dict[str, Any],
        size: int | None,
        now: int,
    ) -> None:
        self.uid = uid
        self.tenant = tenant
        self.target = target
        self.size = size
        self.received = 0
        self.since = now
        self.busy = False
        self.dropped = False
        self.writer = writer
        self._uploads = uploads
        self._gathered = bytearray(GATHERED + MAX_TAIL)
        self._count = 0
        uploads.add(self)

    def take(self, offset: int, length: int) -> None:
        """Note the next chunk, which is about to be written.

        Raises:
            Invalid: it is not the next one, or more than was announced.
        """
        self._check_kept()
        if offset != self.received or (self.size is not None and offset + length > self.size):
            expected = "" if self.size is None else f" of {self.size}"
            raise Invalid(
                f"{length} bytes at {offset} where {self.received}{expected} bytes have come",
                "send the chunks in order, without gaps, up to the size that was announced",
            )
        self.received += length

    def is_full(self, more: int) -> bool:
        """Whether with `more` bytes there is enough for `write`."""
        return self._count + more >= GATHERED

    def gather(self, chunk: bytearray) -> bool:
        """Keep a chunk; whether there is enough now for `write`, and `busy` until `rest`."""
        end = self._count + len(chunk)
        self.busy = self.is_full(len(chunk))
        self._gathered[self._count : end] = chunk
        self._count = end
        return self.busy

    def write(self) -> None:
        """Seal and write what was gathered. In a worker thread. Raises as `Writer.write`."""
        count, self._count = self._count, 0
        with memoryview(self._gathered) as view:
            try:
                self.writer.write(view[:count])
            finally:
                wipe(view[:count])

    def seal(self) -> None:
        """Write the rest, and make the file durable. In a worker thread. Raises as `Writer.write` and `Writer.seal`."""
        if self._count:
            self.write()
        self.writer.seal()

    def forget(self) -> None:
        """Wipe what was gathered, and leave nothing of what was written unless it was used. Raises nothing."""
        wipe(self._gathered)
        self.writer.abort()

    def end(self, tenant: bytes, target: dict[str, Any]) -> None:
        """Note that this was all, and that it is about to be made a version.

        Raises:
            Invalid: it was announced for something else, or has not come whole.
        """
        self._check_kept()
        if (tenant, target) != (self.tenant, self.target):  # a name may have come to mean another tenant
            raise Invalid(
                "the upload was announced for something else",
                "tenant, secret, cas, description and rotate_after are those of value.begin",
            )
        if self.size is not None and self.received != self.size:
            raise Invalid(f"{self.received} of {self.size} bytes have come", "send every chunk before using the upload")
        if not self.received:
            raise Invalid(
                "the value is empty", "a secret has at least one byte; to end one use: vaultctl secret delete"
            )
        self.busy = True

    def rest(self, now: int) -> None:
        """What was being written is; `now` is a boot instant (ns). A drop that came meanwhile is done now."""
        self.busy = False
        self.since = now
        if self.dropped:
            self._uploads.remove(self)

    def drop(self) -> None:
        """Leave nothing of it, unless it was used; may be called again, and while a chunk is being written."""
        if self.dropped:
            return
        self.dropped = True
        self._uploads.dropped(self)
        if not self.busy:
            self._uploads.remove(self)

    wipe = drop
    """As an upload that is kept in memory has it."""

    def _check_kept(self) -> None:
        if self.dropped:
            raise Invalid("the upload was dropped", "begin it anew: value.begin")
