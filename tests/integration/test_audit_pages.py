"""Reading a trail page by page, through the real daemon."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.support.daemon import Daemon


def _pages(daemon: Daemon, **keys: Any) -> list[list[dict[str, Any]]]:
    pages = []
    after: dict[str, str] = {}
    while True:
        answer = daemon.admin.call("audit.show", {"tenant": "acme", **keys, **after})
        pages.append([json.loads(line) for line in bytes(answer.tail).splitlines()])
        assert answer.keys["count"] == len(pages[-1])
        if not answer.keys["more"]:
            return pages
        after = {"after": answer.keys["next"]}


def test_pages_hold_every_record_once_and_in_order(daemon: Daemon) -> None:
    """However the pages are cut, by size or by number, they add up to the trail."""
    daemon.tenant("acme")
    for number in range(150):
        daemon.admin.put("acme", "a/key", b"value %d" % number)
    for limit in ({}, {"limit": 1}, {"limit": 37}):
        pages = _pages(daemon, **limit)
        numbers = [record["body"]["tseq"] for page in pages for record in page]
        assert numbers == list(range(1, len(numbers) + 1))
        assert len(numbers) > 150
        assert len(pages) > 1
    # A reader of one page and one of another do not disturb each other, and a place that is not kept is found again.
    again = daemon.admin.call("audit.show", {"tenant": "acme", "after": "100", "limit": 2})
    assert [json.loads(line)["body"]["tseq"] for line in bytes(again.tail).splitlines()] == [101, 102]


def test_a_follower_is_told_when_something_happens(daemon: Daemon) -> None:
    """A question that waits is answered with the next record, not before and not never."""
    daemon.tenant("acme")
    last = _pages(daemon)[-1][-1]["body"]["tseq"]
    with daemon.client() as other:
        daemon.unseal(other)
        other.put("acme", "a/key", b"value")
        answer = daemon.admin.call("audit.show", {"tenant": "acme", "after": str(last), "wait": 20})
    assert [json.loads(line)["body"]["kind"] for line in bytes(answer.tail).splitlines()] == ["secret.put"]
    quiet = daemon.admin.call("audit.show", {"tenant": "acme", "after": answer.keys["next"], "wait": 1})
    assert quiet.keys["count"] == 0


def test_reading_is_recorded_once(daemon: Daemon) -> None:
    """The trail says that it was read, once for all of its pages."""
    daemon.tenant("acme")
    for number in range(100):
        daemon.admin.put("acme", "a/key", b"value %d" % number)
    _pages(daemon)
    kinds = [record["body"]["kind"] for page in _pages(daemon) for record in page]
    assert kinds.count("audit.show") == 2
