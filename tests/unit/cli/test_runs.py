"""Runs in runs, as people and programs see them; and that only a run makes the tenant dispensable."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

OUTSIDE = pytest.mark.parametrize("verb", [["run", "--env", "K=a", "--", "true"], ["run-open", "--allow", "a"]])


@pytest.fixture
def listed(vault: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has the daemon list runs, each given as its number and its parent's, in the order of their opening."""

    def name(number: int) -> str:
        return f"run_{number:020}"

    def tell(*runs: tuple[int, int | None], **about: Any) -> None:
        items = [
            {"run": name(run), "parent": None if parent is None else name(parent), "tenant": "acme",
             "service": "agents", "anchor": {"pid": 4_194_304}, "expires_in": 3_000, **about}
            for run, parent in runs
        ]  # fmt: skip
        monkeypatch.setattr(vault, "op_run_list", lambda *_: {"items": items})

    return tell


def test_child_runs_stand_below_their_parent(ctl: Any, listed: Callable[..., None]) -> None:
    """Each run is followed by those in it, further in; one whose parent is not shown begins a tree of its own."""
    listed((1, None), (2, 1), (3, None), (4, 2), (5, 1), (6, 3), (7, 99))
    lines = ctl("runs").text.splitlines()[1:]
    shown = [(len(line) - len(line.lstrip()), int(line.split()[0][4:])) for line in lines]
    assert shown == [(0, 1), (1, 2), (2, 4), (1, 5), (0, 3), (1, 6), (0, 7)]


def test_programs_get_the_parent_and_the_order_of_opening(ctl: Any, listed: Callable[..., None]) -> None:
    """JSON has one run a line, as listed, each with its parent's id or null."""
    listed((1, None), (3, None), (2, 1))
    rows = ctl("runs", "--json").rows
    assert [row["run"][-1] for row in rows] == ["1", "3", "2"]
    assert [row["parent"] and row["parent"][-1] for row in rows] == [None, None, "1"]
    assert "depth" not in rows[0]


def test_the_deepest_tree_fits(ctl: Any, listed: Callable[..., None]) -> None:
    """Eight deep, ids stay whole in 80 columns, since they are there to be copied."""
    listed(*((n, n - 1 if n else None) for n in range(9)), service="s" * 30, purpose="p" * 30)
    text = ctl("runs", "acme").text
    assert max(map(len, text.splitlines())) <= 80
    assert all(f"run_{n:020}" in text for n in range(9))


@OUTSIDE
def test_outside_a_run_the_tenant_is_named(ctl: Any, vault: Any, verb: list[str]) -> None:
    """Without a run to be in, there is none whose tenant it could be: nothing is asked."""
    done = ctl(*verb)
    assert done.status == (125 if verb[0] == "run" else 2)
    assert "the tenant is missing" in done.err
    assert vault.asked == []
