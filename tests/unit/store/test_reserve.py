"""Space in reserve: there in blocks, not only in name; given back, and never taken where it would fill the disk."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from vaultd.errors import StoreError
from vaultd.store import Reserve, out_of_space

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 64 << 10


def test_it_is_held_and_given_back(tmp_path: Path) -> None:
    """The file has its blocks and nobody else's mode; released it is gone, held again it is there again."""
    told: list[int] = []
    reserve = Reserve(str(tmp_path), SIZE, lambda: told.append(1))
    for _ in range(2):
        assert reserve.hold()
        facts = os.stat(tmp_path / "reserve")
        assert (facts.st_size, facts.st_mode & 0o777) == (SIZE, 0o600)
        assert facts.st_blocks * 512 >= SIZE
        assert reserve.hold()
        reserve.release()
        assert not reserve.held
        assert not os.listdir(tmp_path)
    assert len(told) == 4
    reserve.release()


def test_one_that_is_there_counts_only_whole(tmp_path: Path) -> None:
    """Another size, a hole, a link or a second name in its place is replaced."""
    path = tmp_path / "reserve"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"x" * SIZE)
    for spoil in (
        lambda: path.write_bytes(b"x" * 10),
        lambda: (path.touch(), os.truncate(path, SIZE)),
        lambda: path.symlink_to(elsewhere),
        lambda: path.hardlink_to(elsewhere),
    ):
        spoil()
        reserve = Reserve(str(tmp_path), SIZE)
        assert reserve.hold()
        facts = os.lstat(path)
        assert (facts.st_size, facts.st_nlink) == (SIZE, 1)
        assert facts.st_blocks * 512 >= SIZE
        reserve.release()
    assert elsewhere.read_bytes() == b"x" * SIZE


def test_another_size_and_none(tmp_path: Path) -> None:
    """A changed size is taken up; none at all is held without a file."""
    reserve = Reserve(str(tmp_path), SIZE)
    assert reserve.hold()
    reserve.size = 2 * SIZE
    assert reserve.hold()
    assert os.path.getsize(tmp_path / "reserve") == 2 * SIZE
    reserve.size = 0
    assert reserve.hold()
    assert not os.listdir(tmp_path)


def test_it_does_not_fill_the_disk_itself(tmp_path: Path) -> None:
    """Where as much again would not stay free, nothing is taken."""
    free = os.statvfs(tmp_path)
    reserve = Reserve(str(tmp_path), free.f_bavail * free.f_frsize)
    assert not reserve.hold()
    assert not os.listdir(tmp_path)
    assert not Reserve(str(tmp_path / "nowhere"), SIZE).hold()


@pytest.mark.parametrize(("number", "full"), [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EIO, False)])
def test_what_a_full_disk_says(number: int, full: bool) -> None:
    """It is found under the error that it became, and nothing else is taken for it."""
    error = StoreError("cannot append")
    error.__cause__ = OSError(number, "x")
    assert out_of_space(error) is full
    assert not out_of_space(StoreError("cannot append"))
    assert not out_of_space(None)
