"""Checking off line: the first bad line, and what such a check can and cannot say."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.audit_world import VAULT, World
from vaultd.audit.chain import GENESIS, link
from vaultd.audit.checkpoint import Checkpoint
from vaultd.audit.journal import segment_path
from vaultd.audit.reader import export_header
from vaultd.audit.verify import verify_directory, verify_export
from vaultd.errors import ConfigError, StoreError, Uninitialised

SCRIPT = Path(__file__).parents[3] / "scripts" / "verify_audit.py"


def never(_seconds: float) -> None:
    """Nobody is writing, so there is nothing to wait for."""


@pytest.fixture(scope="module")
def world() -> World:
    made = World()
    made.mixed(10)
    return made


@pytest.fixture
def vault(world: World, tmp_path: Path) -> Path:
    """The directory of a vault that has nothing but its journal."""
    path = tmp_path / "vault" / segment_path(1)
    path.parent.mkdir(parents=True)
    path.write_bytes(world.data())
    return tmp_path / "vault"


def journal(vault: Path) -> Path:
    return vault / segment_path(1)


def run_script(target: Path) -> subprocess.CompletedProcess[str]:
    """The script as anybody would run it: isolated from site packages, so standard library only."""
    return subprocess.run([sys.executable, "-I", "-S", SCRIPT, target], capture_output=True, text=True, check=False)


def test_a_good_journal_verifies_and_says_what_that_means(world: World, vault: Path) -> None:
    """Lines, head, vault and trails are told; a rewrite of the whole is not ruled out, and the report says so."""
    report = verify_directory(str(vault), pause=never)
    assert report.ok
    assert report.verdict.lines == report.verdict.seq == 31
    assert report.verdict.head == world.journal.head
    assert report.vault_id == VAULT
    assert report.trails == 3
    assert any("recompute every hash" in text for text in report.ruled_out)
    assert any("rewritten whole" in text for text in report.not_ruled_out)


def test_the_script_agrees(world: World, vault: Path) -> None:
    """The plain script walks the same journal to the same head."""
    done = run_script(vault)
    assert done.returncode == 0, done.stderr
    assert "all records to 31 follow" in done.stdout
    assert world.journal.head.hex() in done.stdout
    assert len(SCRIPT.read_text().splitlines()) < 85


@pytest.mark.parametrize("line", [1, 2, 17, 31])
def test_both_name_the_first_bad_line(vault: Path, line: int) -> None:
    """A byte changed in a line: the report and the script name that line, and the script's status is not zero."""
    lines = journal(vault).read_bytes().splitlines(keepends=True)
    raw = bytearray(lines[line - 1])
    raw[60] ^= 1
    lines[line - 1] = bytes(raw)
    journal(vault).write_bytes(b"".join(lines))
    report = verify_directory(str(vault), pause=never)
    assert report.verdict.bad_line == line
    assert report.file.endswith(segment_path(1))
    assert not report.ruled_out
    done = run_script(vault)
    assert done.returncode == 1
    assert f"line {line} is bad" in done.stderr


def at(world: World, size: int) -> Checkpoint:
    """A checkpoint taken when the journal had that many lines."""
    heads = [json.loads(raw)["hash"] for raw in world.lines()]
    return Checkpoint(VAULT, size, bytes.fromhex(heads[size - 1]), world.clock.wall())


def test_a_checkpoint_rules_out_what_lies_before_it(world: World, vault: Path) -> None:
    """The report rules out rewriting up to the checkpoint, and says that what came after rests on hashes."""
    report = verify_directory(str(vault), at(world, 20), pause=never)
    assert report.ok
    assert any("lines 1 to 20" in text for text in report.ruled_out)
    assert any("lines after 20" in text for text in report.not_ruled_out)


def test_a_journal_cut_before_the_checkpoint_is_found(world: World, vault: Path) -> None:
    """What is left is chained well; the checkpoint says that there was more, and the first missing line is named."""
    lines = journal(vault).read_bytes().splitlines(keepends=True)
    journal(vault).write_bytes(b"".join(lines[:19]))
    assert verify_directory(str(vault), pause=never).ok
    report = verify_directory(str(vault), at(world, 20), pause=never)
    assert report.verdict.bad_line == 20
    assert "ends after line 19" in report.verdict.reason


def test_a_journal_rewritten_before_the_checkpoint_is_found(world: World, vault: Path) -> None:
    """Somebody changes a clear record and chains everything anew: without keys only the checkpoint shows it."""
    head, rewritten = GENESIS, []
    for raw in world.lines():
        line, head = link(head, raw[: raw.rindex(b',"hash":"')].replace(b'"outcome":"denied"', b'"outcome":"failed"'))
        rewritten.append(line)
    journal(vault).write_bytes(b"".join(rewritten))
    assert verify_directory(str(vault), pause=never).ok
    report = verify_directory(str(vault), at(world, 20), pause=never)
    assert report.verdict.bad_line == 20
    assert "not the one that was signed" in report.verdict.reason


def test_a_checkpoint_of_another_vault_says_so(world: World, vault: Path) -> None:
    """Mixing up two vaults' checkpoints is told as that, at the first line."""
    other = Checkpoint(b"o" * 16, 20, b"h" * 32, 0)
    report = verify_directory(str(vault), other, pause=never)
    assert report.verdict.bad_line == 1
    assert "another vault" in report.verdict.reason


def test_a_torn_end_is_bad_unless_somebody_is_writing_it(world: World, vault: Path) -> None:
    """A line cut short is waited for, and then named."""
    whole = world.data()
    journal(vault).write_bytes(whole[:-40])
    waits: list[float] = []
    report = verify_directory(str(vault), pause=waits.append)
    assert report.verdict.bad_line == 31
    assert "cut short" in report.verdict.reason
    assert waits

    def finish(_seconds: float) -> None:
        journal(vault).write_bytes(whole)

    journal(vault).write_bytes(whole[:-40])
    assert verify_directory(str(vault), pause=finish).ok


def test_an_empty_journal_is_good_and_empty(vault: Path) -> None:
    """No line is no fault; a checkpoint says whether there should be some."""
    journal(vault).write_bytes(b"")
    report = verify_directory(str(vault), pause=never)
    assert report.ok
    assert report.verdict.lines == 0
    assert report.vault_id is None
    assert verify_directory(str(vault), Checkpoint(VAULT, 1, b"h" * 32, 0), pause=never).verdict.bad_line == 1


def test_strays_beside_the_journal_are_told(vault: Path) -> None:
    """A file that is no segment is a note, with its name escaped; the journal itself is still good."""
    (journal(vault).parent / "000001.jsonl\n~").touch()
    report = verify_directory(str(vault), pause=never)
    assert report.ok
    assert report.notes == ("'000001.jsonl\\n~' is not part of a journal",)


def test_another_segment_is_not_passed_over(vault: Path) -> None:
    """A second segment is never ignored: its first line must follow the last of the first."""
    shutil.copy(journal(vault), journal(vault).with_name("000002.jsonl"))
    report = verify_directory(str(vault), pause=never)
    assert (report.verdict.bad_line, report.file) == (1, str(vault / segment_path(2)))


def test_what_is_no_journal_is_told_apart(vault: Path, tmp_path: Path) -> None:
    """No vault, no segment, a link, a fifo: each has its own error, and none hangs."""
    with pytest.raises(Uninitialised):
        verify_directory(str(tmp_path / "nowhere"), pause=never)
    path = journal(vault)
    path.rename(path.with_name("real"))
    with pytest.raises(Uninitialised):
        verify_directory(str(vault), pause=never)
    path.symlink_to("real")
    with pytest.raises(StoreError):
        verify_directory(str(vault), pause=never)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ConfigError):
        verify_directory(str(vault), pause=never)


@pytest.fixture
def export(world: World) -> list[bytes]:
    domain = world.tenants[0]
    return [export_header(VAULT, domain.uid), *(record.line() for record in world.records(domain))]


def test_an_export_verifies_and_the_script_agrees(world: World, export: list[bytes], tmp_path: Path) -> None:
    """The export's head is the trail's, by our check and by the script's."""
    verdict = verify_export(export)
    assert verdict.ok
    assert (verdict.seq, verdict.head) == (10, world.tenants[0].sub_head)
    path = tmp_path / "acme.jsonl"
    path.write_bytes(b"".join(export))
    done = run_script(path)
    assert done.returncode == 0, done.stderr
    assert verdict.head.hex() in done.stdout


@pytest.mark.parametrize("line", [1, 2, 6, 11])
def test_a_changed_export_is_found_by_both(export: list[bytes], tmp_path: Path, line: int) -> None:
    """A changed line of an export is named: the header is line 1."""
    raw = export[line - 1]
    export[line - 1] = raw.replace(b"0", b"1", 1) if line == 1 else raw.replace(b'"pid":4242', b'"pid":4243')
    assert export[line - 1] != raw
    verdict = verify_export(export)
    path = tmp_path / "acme.jsonl"
    path.write_bytes(b"".join(export))
    done = run_script(path)
    assert verdict.bad_line is not None
    assert done.returncode != 0
    if line > 1:
        assert verdict.bad_line == line
        assert f"line {line} is bad" in done.stderr


@pytest.mark.parametrize("change", ["drop", "swap", "double", "cut"])
def test_an_export_in_pieces_is_found(export: list[bytes], change: str) -> None:
    """Records dropped, swapped, doubled or cut short are named at the first that does not follow."""
    if change == "drop":
        del export[4]
    elif change == "swap":
        export[4], export[5] = export[5], export[4]
    elif change == "double":
        export.insert(4, export[3])
    else:
        export[-1] = export[-1][:-1]
    assert verify_export(export).bad_line == (11 if change == "cut" else 5)


@pytest.mark.parametrize("header", [b"", b"{}\n", b"[]\n", b"x\n", b'{"after":1.5}\n', b"[" * 100_000 + b"\n"])
def test_what_is_no_export_is_refused(header: bytes) -> None:
    """Without its header an export has no beginning to follow from."""
    assert verify_export([header]).bad_line == 1
    assert verify_export([]).bad_line == 1


def test_the_script_needs_its_argument() -> None:
    """Called with none, it says how, and fails."""
    done = subprocess.run([sys.executable, "-I", "-S", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "usage:" in done.stderr
