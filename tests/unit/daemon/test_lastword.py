"""What a halted daemon leaves for the next one: whole or worth nothing, and never a reason to let more go on."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from vaultd.daemon.lastword import LastWord

if TYPE_CHECKING:
    from pathlib import Path


def test_it_says_who_lives(tmp_path: Path) -> None:
    """The newest word counts, also one that nobody lives; cleared, there is none."""
    word = LastWord([str(tmp_path / "living")])
    assert word.read() is None
    for living in (["run_b", "run_a"], ["run_a"], []):
        assert word.leave(living)
        assert word.read() == frozenset(living)
    assert os.stat(tmp_path / "living").st_mode & 0o777 == 0o600
    word.clear()
    assert word.read() is None
    assert not os.listdir(tmp_path)
    word.clear()


@pytest.mark.parametrize("torn", [b"", b"run_a\n", b"run_a\nrun_b\nen", b"run_a\nend", b"\xff\xfe"])
def test_half_a_word_lets_nobody_live(tmp_path: Path, torn: bytes) -> None:
    """What is not whole names no run: they end, rather than one that was stopped going on."""
    (tmp_path / "living").write_bytes(torn)
    assert LastWord([str(tmp_path / "living")]).read() == frozenset()


def test_a_link_or_another_kind_of_file_lets_nobody_live(tmp_path: Path) -> None:
    """Nothing is read through a link, and nothing is waited for."""
    os.symlink("/dev/zero", tmp_path / "living")
    assert LastWord([str(tmp_path / "living")]).read() == frozenset()
    os.mkfifo(tmp_path / "pipe")
    assert LastWord([str(tmp_path / "pipe")]).read() == frozenset()
    with open(os.open(tmp_path / "pipe", os.O_RDWR), "wb"):  # with somebody at its other end
        assert LastWord([str(tmp_path / "pipe")]).read() == frozenset()
    (tmp_path / "folder").mkdir()
    assert LastWord([str(tmp_path / "folder")]).read() == frozenset()


def test_no_pipe_holds_up_the_last_word(tmp_path: Path) -> None:
    """Where somebody put one that nobody reads, the next place takes the word."""
    os.mkfifo(tmp_path / "living.new")
    word = LastWord([str(tmp_path / "living"), str(tmp_path / "second")])
    assert word.leave(["run_a"])
    assert word.read() == {"run_a"}


def test_the_first_place_that_takes_it(tmp_path: Path) -> None:
    """Where the vault's directory takes nothing it goes to the next place; both count when both are there."""
    first, second = tmp_path / "gone" / "living", tmp_path / "living"
    word = LastWord([str(first), str(second)])
    assert word.leave(["run_a", "run_b"])
    assert word.read() == {"run_a", "run_b"}
    first.parent.mkdir()
    assert word.leave(["run_b", "run_c"])
    assert word.read() == {"run_b"}
    assert not LastWord([str(tmp_path / "no" / "where")]).leave([])
