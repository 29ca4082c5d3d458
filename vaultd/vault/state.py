"""A tenant's secrets and grants, as the records of its log add up: pure, no keys, no files, no clock.

The same `apply` replays a log and follows live changes, so what is in memory is by construction what a restart would
read. What a version's state is depends on the time asked for: a superseded version is `previous` until its grace ends,
then `retired`; no record marks the hour.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from vaultd.crypto.stream import MAX_SIZE
from vaultd.crypto.values import pad
from vaultd.errors import IntegrityError, NotFound
from vaultd.vault.log import Ref
from vaultd.vault.records import TENANT, check_restated, checked

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["KEPT_DESTROYED", "Blob", "Secret", "TenantState", "Version", "VersionState"]

_ID: Final = 16
_ENTRIES: Final = ([int] * 6, [*[int] * 6, bytes, int])
"""What a restated version is: six integers, and for one whose value is a blob its file's id and its size."""

KEPT_DESTROYED: Final = 100
"""How many destroyed versions of a secret its history still names; the oldest are forgotten first."""


class VersionState(StrEnum):
    """Where a version stands in its life."""

    PENDING = "pending"
    CURRENT = "current"
    PREVIOUS = "previous"
    RETIRED = "retired"
    DESTROYED = "destroyed"


class _Phase:
    """A version's state without the clock; the numbers stand in `secrets` records."""

    PENDING: Final = 1
    CURRENT: Final = 2
    SUPERSEDED: Final = 3
    DESTROYED: Final = 4


class Blob(NamedTuple):
    """The file that is a version's value. Versions of one secret may share one: a rollback does.

    Attributes:
        file: its random id, 16 bytes; in hex, its name.
        size: bytes of the content.
    """

    file: bytes
    size: int

    @property
    def stored(self) -> int:
        """Bytes that count: the content, padded."""
        return pad(self.size)


@dataclass(slots=True)
class Version:
    """One version of a secret.

    Attributes:
        number: counts up from 1, never reused.
        created: wall time, nanoseconds since 1970.
        source: the version that a rollback took its value from.
        until: end of the grace, wall time in nanoseconds; 0 while not superseded.
        ref: where its sealed value lies, or its blob's wrapped data key; None once destroyed.
        blob: the file that is its value; None for a value in the log, and once destroyed.
    """

    number: int
    created: int
    phase: int
    until: int = 0
    source: int = 0
    ref: Ref | None = None
    blob: Blob | None = None

    def state(self, now: int) -> VersionState:
        """The state at wall time `now`, nanoseconds since 1970."""
        match self.phase:
            case _Phase.PENDING:
                return VersionState.PENDING
            case _Phase.CURRENT:
                return VersionState.CURRENT
            case _Phase.SUPERSEDED:
                return VersionState.PREVIOUS if now < self.until else VersionState.RETIRED
            case _:
                return VersionState.DESTROYED


@dataclass(slots=True)
class Secret:
    """One secret of a tenant.

    Attributes:
        id: 16 random bytes, new for each creation: a name that is used again is another secret.
        rotate_after: seconds after which its current version counts as old; 0 when nothing was said.
        created, updated: wall time, nanoseconds since 1970.
        last: the highest version number ever given.
        current: number of the current version; 0 while there is only a pending one.
        versions: by number, in order; destroyed ones stay as tombstones, up to `KEPT_DESTROYED`.
    """

    id: bytes
    name: str
    created: int
    updated: int
    description: str = ""
    rotate_after: int = 0
    last: int = 0
    current: int = 0
    versions: dict[int, Version] = field(default_factory=dict)

    def version(self, number: int | None) -> Version:
        """The version with this number, or with None the current one.

        Raises:
            NotFound: there is none, or none any more.
        """
        found = self.versions.get(self.current if number is None else number)
        if found is None:
            raise NotFound("there is no such version", "see: vaultctl history TENANT SECRET")
        return found

    def blobs(self) -> dict[bytes, Blob]:
        """The files of its versions, by id."""
        return {version.blob.file: version.blob for version in self.versions.values() if version.blob is not None}


@dataclass(slots=True)
class TenantState:
    """What the records so far add up to.

    Attributes:
        secrets: by name.
        by_id: the same secrets by id.
        grants: by grant id, as `access` wrote them.
        live: bytes of the attachments that are still of use.
        stored: bytes of the blobs that are still of use, each counted once.
    """

    secrets: dict[str, Secret] = field(default_factory=dict)
    by_id: dict[bytes, Secret] = field(default_factory=dict)
    grants: dict[str, dict[str, Any]] = field(default_factory=dict)
    live: int = 0
    stored: int = 0

    def secret(self, name: str) -> Secret:
        """The secret of that name; raises `NotFound`."""
        found = self.secrets.get(name)
        if found is None:
            raise NotFound("there is no such secret", "see: vaultctl secrets TENANT")
        return found

    def files(self, ids: Iterable[bytes]) -> set[bytes]:
        """The blobs that the versions of these secrets name."""
        known = (self.by_id[item] for item in ids if item in self.by_id)
        return {file for secret in known for file in secret.blobs()}

    def apply(self, header: Mapping[str, Any], ref: Ref) -> None:
        """Add one record.

        Args:
            header: what the record says.
            ref: where its attachment lies; of use for `put`, `value` and `secrets`.

        Raises:
            IntegrityError: the record does not follow from those before it: our own code wrote a wrong log.
            FormatVersion: a newer version wrote it.
        """
        getattr(self, f"_{checked(header, TENANT)}")(header, ref)

    def _known(self, header: Mapping[str, Any]) -> Secret:
        secret = self.by_id.get(header["id"])
        if secret is None:
            raise _misfit("speaks of a secret that is not there")
        return secret

    def _put(self, header: Mapping[str, Any], ref: Ref) -> None:
        at, number = header["at"], header["version"]
        secret = self._begin(header["id"], header["name"], at) if "name" in header else self._known(header)
        if number != secret.last + 1 or not ref.length:
            raise _misfit("adds a version out of order, or one without a value")
        secret.last = number
        blob = _blob(header["file"], header["size"]) if "file" in header and "size" in header else None
        if (blob is None) != ("file" not in header and "size" not in header):
            raise _misfit("says half of what a blob is")
        self._count(secret, blob)
        version = Version(number, at, _Phase.PENDING, source=header.get("source", 0), ref=ref, blob=blob)
        secret.versions[number] = version
        self.live += ref.length
        self._describe(secret, header)
        if not header.get("pending", False):
            self._supersede(secret, version, header)
        self._tidy(secret, header)

    def _promote(self, header: Mapping[str, Any], _ref: Ref) -> None:
        secret = self._known(header)
        version = secret.versions.get(header["version"])
        if version is None or version.phase != _Phase.PENDING:
            raise _misfit("promotes a version that is not pending")
        self._supersede(secret, version, header)
        self._describe(secret, header)
        self._tidy(secret, header)

    def _set(self, header: Mapping[str, Any], _ref: Ref) -> None:
        self._describe(self._known(header), header)

    def _destroy(self, header: Mapping[str, Any], _ref: Ref) -> None:
        secret = self._known(header)
        self._describe(secret, header)
        self._tidy(secret, {"destroy": header["versions"]})

    def _delete(self, header: Mapping[str, Any], _ref: Ref) -> None:
        self._drop(self._known(header))

    def _secrets(self, header: Mapping[str, Any], ref: Ref) -> None:
        offset, end = ref.offset, ref.offset + ref.length
        for item in header["list"]:
            check_restated(item)
            offset = self._restated(item, ref.generation, offset)
        if offset != end:
            raise _misfit("does not say whose all of its values are")

    def _restated(self, item: Mapping[str, Any], generation: int, offset: int) -> int:
        """Take in one secret whose values begin at `offset`; returns where the next one's do."""
        earlier = self.by_id.get(item["id"])
        if earlier is not None:
            self._drop(earlier)
        secret = self._begin(item["id"], item["name"], item["created"])
        secret.description = item.get("description", "")
        secret.rotate_after = item.get("rotate_after", 0)
        secret.updated = item["updated"]
        secret.last = item["last"]
        before = 0
        for entry in item["versions"]:
            if type(entry) is not list or [type(part) for part in entry] not in _ENTRIES:
                raise _misfit("restates a version in another shape")
            number, created, phase, until, source, size = entry[:6]
            blob = _blob(*entry[6:]) if len(entry) > 6 else None
            if not before < number <= secret.last or size < 0:
                raise _misfit("restates versions out of order")
            if not _Phase.PENDING <= phase <= _Phase.DESTROYED or (phase == _Phase.CURRENT and secret.current):
                raise _misfit("restates versions that cannot be together")
            if blob is not None and phase == _Phase.DESTROYED:
                raise _misfit("brings a value where none belongs")
            self._count(secret, blob)
            version = secret.versions[number] = Version(number, created, phase, until, source, blob=blob)
            before = number
            if phase == _Phase.CURRENT:
                secret.current = number
            if size:
                if phase == _Phase.DESTROYED:
                    raise _misfit("brings a value where none belongs")
                version.ref = Ref(generation, offset, size)
                self.live += size
                offset += size
        return offset

    def _value(self, header: Mapping[str, Any], ref: Ref) -> None:
        version = self._known(header).versions.get(header["version"])
        if version is None or version.phase == _Phase.DESTROYED or version.ref is not None or not ref.length:
            raise _misfit("brings a value where none belongs")
        version.ref = ref
        self.live += ref.length

    def _grant(self, header: Mapping[str, Any], _ref: Ref) -> None:
        grant = header["grant"]
        if type(grant.get("id")) is not str:
            raise _misfit("grants without an id")
        self.grants[grant["id"]] = grant

    def _ungrant(self, header: Mapping[str, Any], _ref: Ref) -> None:
        if self.grants.pop(header["id"], None) is None:
            raise _misfit("takes back a grant that is not there")

    def _begin(self, secret_id: bytes, name: str, at: int) -> Secret:
        if name in self.secrets or secret_id in self.by_id or len(secret_id) != 16:
            raise _misfit("begins a secret whose name or id is taken")
        secret = Secret(secret_id, name, created=at, updated=at)
        self.secrets[name] = self.by_id[secret_id] = secret
        return secret

    def _drop(self, secret: Secret) -> None:
        self.live -= sum(version.ref.length for version in secret.versions.values() if version.ref is not None)
        self.stored -= sum(blob.stored for blob in secret.blobs().values())
        del self.secrets[secret.name], self.by_id[secret.id]

    def _count(self, secret: Secret, blob: Blob | None) -> None:
        """Count a blob that a version of `secret` is about to get."""
        known = None if blob is None else secret.blobs().get(blob.file)
        if known is not None and known != blob:
            raise _misfit("gives one file two sizes")
        if blob is not None and known is None:
            self.stored += blob.stored

    def _describe(self, secret: Secret, header: Mapping[str, Any]) -> None:
        secret.updated = max(secret.updated, header["at"])
        secret.description = header.get("description", secret.description)
        secret.rotate_after = header.get("rotate_after", secret.rotate_after)

    def _supersede(self, secret: Secret, version: Version, header: Mapping[str, Any]) -> None:
        if secret.current:
            before = secret.versions[secret.current]
            before.phase = _Phase.SUPERSEDED
            before.until = header["at"] + header.get("grace", 0) * 1_000_000_000
        version.phase = _Phase.CURRENT
        secret.current = version.number

    def _tidy(self, secret: Secret, header: Mapping[str, Any]) -> None:
        for number in header.get("retire", ()):
            version = secret.versions.get(number)
            if version is None or version.phase != _Phase.SUPERSEDED:
                raise _misfit("retires a version that is not superseded")
            version.until = 0
        for number in header.get("destroy", ()):
            version = secret.versions.get(number)
            if version is None or version.phase not in (_Phase.SUPERSEDED, _Phase.PENDING) or version.ref is None:
                raise _misfit("destroys a version that cannot be")
            version.phase = _Phase.DESTROYED
            self.live -= version.ref.length
            blob, version.ref, version.blob = version.blob, None, None
            if blob is not None and blob.file not in secret.blobs():
                self.stored -= blob.stored
        destroyed = [version.number for version in secret.versions.values() if version.phase == _Phase.DESTROYED]
        for number in destroyed[:-KEPT_DESTROYED]:
            del secret.versions[number]

    def restate(self, secret: Secret, *, inline: bool = True) -> tuple[dict[str, Any], list[tuple[int, Ref]]]:
        """What a `secrets` record says of one secret: what compaction writes.

        Args:
            inline: its values go into the same record; else each follows in a `value` record.

        Returns:
            The item, and each value's version number and where it lies now, in the order in which they belong.
        """
        item: dict[str, Any] = {
            "id": secret.id,
            "name": secret.name,
            "created": secret.created,
            "updated": secret.updated,
            "last": secret.last,
            "versions": [
                [
                    version.number,
                    version.created,
                    version.phase,
                    version.until,
                    version.source,
                    version.ref.length if version.ref is not None and inline else 0,
                    *(version.blob or ()),
                ]
                for version in secret.versions.values()
            ],
        }
        if secret.description:
            item["description"] = secret.description
        if secret.rotate_after:
            item["rotate_after"] = secret.rotate_after
        return item, [(version.number, version.ref) for version in secret.versions.values() if version.ref is not None]


def _blob(file: bytes, size: int) -> Blob:
    if len(file) != _ID or not 1 <= size <= MAX_SIZE:
        raise _misfit("names a blob that cannot be")
    return Blob(file, size)


def _misfit(what: str) -> IntegrityError:
    return IntegrityError(f"a log record {what}", "restore the tenant from a backup, and report this as a bug")
