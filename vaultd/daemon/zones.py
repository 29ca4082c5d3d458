"""Time zones from the system's files: the edge's part of grants with hours, so that `access` reads no files."""

from __future__ import annotations

import zoneinfo
from datetime import UTC, tzinfo

from vaultd.errors import Invalid

__all__ = ["load"]


def load(name: str) -> tzinfo:
    """The rules of the zone `name`, such as `Europe/Berlin`.

    Raises:
        Invalid: the system has no such zone.
    """
    if name == "UTC":
        return UTC
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise Invalid(
            f"no such time zone: {ascii(name)[:60]}", "use a name such as Europe/Berlin; see timedatectl list-timezones"
        ) from error
