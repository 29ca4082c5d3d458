"""Listings that fit into frames: a page of items, and where the next one begins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["page"]

T = TypeVar("T")

_ROOM: Final = 32_768
"""Bytes that a page's items may take, as far as `_weight` can tell: half of a frame."""


def _weight(value: Any) -> int:
    """At most the bytes that the value takes on the wire."""
    if isinstance(value, str):
        return 5 + 4 * len(value)
    if isinstance(value, dict):
        return 5 + sum(_weight(key) + _weight(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return 5 + sum(map(_weight, value))
    return 10


def page(
    items: Iterable[tuple[str, T]], keys: Mapping[str, Any], tell: Callable[[T], dict[str, Any]]
) -> dict[str, Any]:
    """The reply's keys: as many items after `keys["after"]` as fit, and `next` when there are more.

    Args:
        items: each with its cursor, in ascending order of cursors, no two the same: so a page neither repeats nor loses
            what did not change meanwhile.
        keys: the request's: `after` (a `next` of before) and `limit`.
        tell: what is said of an item; asked for those on the page alone, since a listing may have thousands.
    """
    after, limit = keys.get("after", ""), keys.get("limit", 1_024)
    listed: list[dict[str, Any]] = []
    last, room = "", _ROOM
    for cursor, item in items:
        if cursor <= after:
            continue
        told = tell(item)
        room -= _weight(told)
        if listed and (room < 0 or len(listed) >= limit):
            return {"items": listed, "next": last}
        listed.append(told)
        last = cursor
    return {"items": listed}
