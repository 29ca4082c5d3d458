"""What the records of tenants' logs and of the system's log say: each operation's keys and their types.

A record is a fact that replaying adds to the state. `secrets` records restate secrets whole, many at once; compaction
writes them, and they take the place of all that was said of these secrets before. Exact keys only: what this version
does not know it refuses, because skipping it could bring a deleted secret back. See RECORDS.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from vaultd.errors import FormatVersion, IntegrityError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["SYSTEM", "TENANT", "Shape", "check_restated", "checked"]

Shape = dict[str, tuple[dict[str, type], dict[str, type]]]
"""By operation: the keys that must be there with their types, and those that may."""

TENANT: Final[Shape] = {
    # A new version; with `name` it begins a new secret. Its value is the record's attachment; or, with `file` and
    # `size`, that blob is its value, and the attachment is the blob's wrapped data key.
    "put": (
        {"id": bytes, "version": int, "at": int},
        {
            "name": str,
            "description": str,
            "rotate_after": int,
            "pending": bool,
            "source": int,
            "grace": int,
            "retire": list,
            "destroy": list,
            "file": bytes,
            "size": int,
        },
    ),
    # A pending version becomes the current one.
    "promote": ({"id": bytes, "version": int, "at": int}, {"grace": int, "retire": list, "destroy": list}),
    "set": ({"id": bytes, "at": int}, {"description": str, "rotate_after": int}),
    "destroy": ({"id": bytes, "at": int, "versions": list}, {}),
    "delete": ({"id": bytes}, {}),
    # Secrets restated, in the shape of `RESTATED`; their values one behind the other are the attachment.
    "secrets": ({"list": list}, {}),
    # A value that had no room in the `secrets` record.
    "value": ({"id": bytes, "version": int}, {}),
    "grant": ({"grant": dict}, {}),
    "ungrant": ({"id": str}, {}),
}

RESTATED: Final[Shape] = {
    "secret": (
        {"id": bytes, "name": str, "created": int, "updated": int, "last": int, "versions": list},
        {"description": str, "rotate_after": int},
    ),
}
"""One secret within a `secrets` record; `op` is left out there."""

SYSTEM: Final[Shape] = {
    "service": ({"service": dict}, {}),
    "unservice": ({"name": str}, {}),
    # A service has a grant (or no longer any) at a tenant: what is asked before any file of that tenant is touched.
    "link": ({"service": str, "tenant": bytes}, {}),
    "unlink": ({"service": str, "tenant": bytes}, {}),
    # The flag that keeps a tenant sealed across restarts.
    "seal": ({"tenant": bytes}, {}),
    "unseal": ({"tenant": bytes}, {}),
    # A deleted tenant: its links and its flag.
    "forget": ({"tenant": bytes}, {}),
    # A run that outlives a restart of the daemon.
    "run": ({"run": dict}, {}),
    "unrun": ({"id": str}, {}),
}


def checked(header: Mapping[str, Any], shapes: Shape) -> str:
    """The operation of a record whose keys and types are exactly those of its kind.

    Raises:
        FormatVersion: an operation or a key that this version does not know.
        IntegrityError: a key is missing or has another type.
    """
    operation: str = header.get("op", "")
    if operation not in shapes:
        raise FormatVersion("a log holds a kind of record that this version does not know", "use a newer vaultd")
    _check(header, operation, *shapes[operation], found=1)
    return operation


def check_restated(item: Any) -> None:
    """As `checked`, for one secret of a `secrets` record."""
    if type(item) is not dict:
        raise IntegrityError("a secrets record lists something else", "restore the tenant from a backup")
    _check(item, "secrets", *RESTATED["secret"], found=0)


def _check(
    header: Mapping[str, Any], operation: str, required: dict[str, type], optional: dict[str, type], found: int
) -> None:
    for key, kind in required.items():
        # `is`, not isinstance: a bool must not pass for a number.
        if type(header.get(key)) is not kind:
            raise IntegrityError(f"a {operation} record lacks its {key}", "restore the tenant from a backup")
        found += 1
    for key, kind in optional.items():
        if key in header:
            if type(header[key]) is not kind:
                raise IntegrityError(f"a {operation} record's {key} is of another type")
            found += 1
    if found != len(header):
        raise FormatVersion(f"a {operation} record says more than this version knows", "use a newer vaultd")
