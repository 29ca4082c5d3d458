"""Which record a wanted change to a tenant is: checks it against the state and words it. Pure; nothing is changed here.

Whatever these functions return, `TenantState.apply` accepts: a refusal happens here, before anything is sealed, staged
or recorded.
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Any, Final

from vaultd.errors import Conflict, Exists, Invalid, NotFound
from vaultd.vault.state import Secret, TenantState, Version, VersionState

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from vaultd.names import SecretName
    from vaultd.vault.state import Blob

__all__ = [
    "GRACE",
    "KEPT_PREVIOUS",
    "KEPT_RETIRED",
    "delete",
    "destroy",
    "grant",
    "promote",
    "put",
    "restore",
    "set_metadata",
    "ungrant",
]

GRACE: Final = 24 * 3600
"""Seconds that a superseded version stays leasable by its number, unless the change says otherwise."""

KEPT_RETIRED: Final = 10
"""Retired versions that are kept for rollback; the oldest beyond them are destroyed by the next change."""

KEPT_PREVIOUS: Final = 10
"""Versions in their grace at once: a secret rotated every minute must not keep a day's worth of old values alive."""

_MAX_DESCRIPTION: Final = 1024
_MAX_SECONDS: Final = 100 * 365 * 86_400


def put(
    state: TenantState,
    name: SecretName,
    *,
    now: int,
    new_id: bytes,
    cas: int | None = None,
    description: str | None = None,
    rotate_after: int | None = None,
    pending: bool = False,
    grace: int = GRACE,
    source: int = 0,
    blob: Blob | None = None,
) -> dict[str, Any]:
    """A new version of a secret, which becomes current at once unless `pending`.

    Args:
        state: the tenant's.
        name: of the secret; a new one begins a secret.
        now: wall time, nanoseconds since 1970.
        new_id: what a new secret is to be known by: 16 random bytes.
        cas: the number that the current version must have, 0 for "there must be no current version".
        description: replaces the text that people see; None keeps it.
        rotate_after: seconds, 0 for none; None keeps it.
        grace: seconds that the version before stays leasable by number.
        source: the version a rollback takes its value from.
        blob: the file that is its value; None for a value in the log.

    Raises:
        Conflict: `cas` names another version.
        Invalid: a text or a duration is out of bounds.
    """
    secret = state.secrets.get(name)
    current = secret.current if secret is not None else 0
    if cas is not None and cas != current:
        raise Conflict(
            f"the current version is {current}, not {cas}" if current else "there is no current version",
            "somebody else changed it: look again, then decide",
        )
    header: dict[str, Any] = {"op": "put", "id": new_id, "version": 1, "at": now}
    if secret is None:
        header["name"] = name
    else:
        header["id"] = secret.id
        header["version"] = secret.last + 1
    header |= _facts(description, rotate_after)
    if source:
        header["source"] = source
    if blob is not None:
        header |= {"file": blob.file, "size": blob.size}
    if pending:
        header["pending"] = True
        # A newer upload takes the place of one that nobody verified.
        versions = secret.versions.values() if secret is not None else ()
        older = [version.number for version in versions if _is(version, now, VersionState.PENDING)]
        if older:
            header["destroy"] = older
    elif secret is not None:
        header |= _supersede(secret, now, grace)
    return header


def promote(state: TenantState, name: SecretName, number: int, *, now: int, grace: int = GRACE) -> dict[str, Any]:
    """A pending version, once verified, becomes the current one.

    Raises:
        NotFound: there is no such secret or version.
        Conflict: the version is not pending.
    """
    secret = state.secret(name)
    if not _is(secret.version(number), now, VersionState.PENDING):
        raise Conflict(f"version {number} is not pending", "only a version that waits for verification can be promoted")
    return {"op": "promote", "id": secret.id, "version": number, "at": now} | _supersede(secret, now, grace)


def restore(state: TenantState, name: SecretName, number: int, *, now: int) -> Version:
    """The version whose value a rollback is to take.

    Raises:
        NotFound: there is no such secret or version.
        Conflict: the version is current already, pending, or destroyed.
    """
    version = state.secret(name).version(number)
    found = version.state(now)
    if found not in (VersionState.PREVIOUS, VersionState.RETIRED):
        raise Conflict(f"version {number} is {found}", "roll back to a version that is previous or retired")
    return version


def destroy(state: TenantState, name: SecretName, number: int, *, now: int) -> dict[str, Any]:
    """One version's value is to be gone.

    Raises:
        NotFound: there is no such secret or version.
        Conflict: it is the current one, or destroyed already.
    """
    secret = state.secret(name)
    found = secret.version(number).state(now)
    if found is VersionState.CURRENT:
        raise Conflict(f"version {number} is current", "put a new version first, or delete the secret")
    if found is VersionState.DESTROYED:
        raise Conflict(f"version {number} is destroyed already")
    return {"op": "destroy", "id": secret.id, "at": now, "versions": [number]}


def delete(state: TenantState, name: SecretName) -> dict[str, Any]:
    """The secret and all its versions are to be gone; raises `NotFound`."""
    return {"op": "delete", "id": state.secret(name).id}


def set_metadata(
    state: TenantState, name: SecretName, *, now: int, description: str | None, rotate_after: int | None
) -> dict[str, Any]:
    """What people read about a secret changes; its versions do not.

    Raises:
        NotFound: there is no such secret.
        Invalid: nothing to change, or a text or duration out of bounds.
    """
    secret = state.secret(name)
    facts = _facts(description, rotate_after)
    if not facts:
        raise Invalid("nothing to change was given", "give a description or a time after which it is due")
    return {"op": "set", "id": secret.id, "at": now} | facts


def grant(state: TenantState, raw: Mapping[str, Any]) -> dict[str, Any]:
    """A grant, as `access` made it, is added; raises `Exists` for a taken id."""
    if raw["id"] in state.grants:
        raise Exists("a grant with this id exists")
    return {"op": "grant", "grant": dict(raw)}


def ungrant(state: TenantState, grant_id: str) -> dict[str, Any]:
    """A grant is removed; raises `NotFound`."""
    if grant_id not in state.grants:
        raise NotFound("there is no such grant", "see: vaultctl grant list TENANT")
    return {"op": "ungrant", "id": grant_id}


def _is(version: Version, now: int, wanted: VersionState) -> bool:
    return version.state(now) is wanted


def _facts(description: str | None, rotate_after: int | None) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if description is not None:
        # It is shown in terminals: control characters could rewrite what stands around it.
        if len(description) > _MAX_DESCRIPTION or any(unicodedata.category(c).startswith("C") for c in description):
            raise Invalid(
                "the description is too long or holds control characters",
                f"use at most {_MAX_DESCRIPTION} printable characters on one line",
            )
        facts["description"] = description
    if rotate_after is not None:
        facts["rotate_after"] = _seconds("rotate-after", rotate_after)
    return facts


def _seconds(what: str, value: int) -> int:
    if not 0 <= value <= _MAX_SECONDS:
        raise Invalid(f"the {what} is out of bounds", "use between nothing and a hundred years")
    return value


def _supersede(secret: Secret, now: int, grace: int) -> dict[str, Any]:
    """How the versions behind the one that becomes current move on."""
    header: dict[str, Any] = {"grace": _seconds("grace", grace)}
    numbers = [v.number for v in secret.versions.values() if _is(v, now, VersionState.PREVIOUS)]
    retired = [v.number for v in secret.versions.values() if _is(v, now, VersionState.RETIRED)]
    if secret.current:
        (numbers if grace else retired).append(secret.current)
    retire = _oldest(numbers, KEPT_PREVIOUS)
    destroy = _oldest([*retired, *retire], KEPT_RETIRED)
    if retire:
        header["retire"] = retire
    if destroy:
        header["destroy"] = destroy
    return header


def _oldest(numbers: Iterable[int], kept: int) -> list[int]:
    """All but the `kept` highest numbers."""
    return sorted(numbers)[:-kept]
