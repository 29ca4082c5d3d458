"""Man pages: one for each verb, made from the verb, that a man program shows without complaint."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from vaultclient.cli.group import ROOT

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "man_pages.py"


def make(directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, directory], capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Every page by its name, made into a directory that was not there."""
    directory = tmp_path_factory.mktemp("man") / "new" / "man1"
    done = make(directory)
    assert (done.returncode, done.stderr) == (0, "")
    return {path.name: path.read_text() for path in directory.iterdir()}


def verbs(command: click.Command = ROOT, name: str = "vaultctl") -> dict[str, click.Command]:
    found = {name: command}
    if isinstance(command, click.Group):
        context = click.Context(command)
        for word in command.list_commands(context):
            below = command.get_command(context, word)
            assert below is not None
            found |= verbs(below, f"{name}-{word}")
    return found


def test_every_verb_has_its_page_and_every_option_its_line(pages: dict[str, str]) -> None:
    """No verb without a page, no page without a verb; options are on the verb's page, or on the program's."""
    assert set(pages) == {f"{name}.1" for name in verbs()} | {"vaultd.1"}
    for name, command in verbs().items():
        for option in command.params:
            for word in option.opts if isinstance(option, click.Option) else ():
                shown = word.replace("-", "\\-")
                assert shown in pages[f"{name}.1"] or shown in pages["vaultctl.1"], f"{name} {word}"


def test_the_daemon_has_its_page(pages: dict[str, str]) -> None:
    """Each of its options, the signals that it minds, and where its files are."""
    page = pages["vaultd.1"].replace("\\-", "-")
    for word in ("--dir DIR", "--socket PATH", "--config FILE", "SIGHUP", "SIGTERM", "/etc/vaultd/vaultd.toml"):
        assert word in page
    assert "$XDG_RUNTIME_DIR/vaultd/vaultd.sock" in page
    assert "~/.local/state/vaultd" in page


def test_pages_are_the_same_each_time(pages: dict[str, str], tmp_path: Path) -> None:
    """No date and no path of the machine is in them; a second run changes nothing."""
    assert make(tmp_path).returncode == 0
    assert make(tmp_path).returncode == 0
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == pages


def test_no_line_is_taken_for_a_request_by_accident(pages: dict[str, str]) -> None:
    """Text that begins with a point or an apostrophe is escaped; every request is one that man(7) has."""
    known = {'.\\"', ".TH", ".SH", ".PP", ".TP"}
    for name, page in pages.items():
        for line in page.splitlines():
            assert line, f"{name} has an empty line"
            if line[0] in ".'":
                assert line.split(" ")[0] in known, f"{name}: {line}"


@pytest.mark.parametrize("name", ["vaultd", "vaultctl", "vaultctl-run", "vaultctl-tenant-create"])
def test_a_man_program_shows_them(pages: dict[str, str], tmp_path: Path, name: str) -> None:
    """`man -l` or mandoc renders the page: its sections, options and text, and no warning."""
    page = tmp_path / f"{name}.1"
    page.write_text(pages[f"{name}.1"])
    groff, mandoc, man = shutil.which("groff"), shutil.which("mandoc"), shutil.which("man")
    if mandoc:
        subprocess.run([mandoc, "-T", "lint", "-W", "error", page], check=True, timeout=30)
        command = [mandoc, "-T", "ascii", str(page)]
    elif man and groff:
        warnings = subprocess.run(
            [groff, "-man", "-ww", "-z", page], capture_output=True, text=True, check=True, timeout=30
        )
        assert warnings.stderr == ""
        command = [man, "-l", str(page)]
    else:
        pytest.skip("neither mandoc nor man with groff is installed")
    environment = {**os.environ, "MANPAGER": "cat", "PAGER": "cat", "LC_ALL": "C", "MANWIDTH": "80", "TERM": "dumb"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, timeout=30)
    shown = done.stdout
    while "\b" in shown:  # overstruck letters of a terminal without attributes
        at = shown.index("\b")
        shown = shown[: at - 1] + shown[at + 1 :]
    for section in ("NAME", "SYNOPSIS", "DESCRIPTION"):
        assert section in shown
    assert name.replace("-", " ", 1) in shown or name in shown
    assert {"vaultd": "--config", "vaultctl": "VAULTD_SOCKET", "vaultctl-run": "--redact"}.get(name, "TENANT") in shown


def test_a_directory_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    """A file in its place, or none named: a clear error and nothing written."""
    (tmp_path / "file").write_text("mine")
    done = make(tmp_path / "file")
    assert done.returncode == 74
    assert done.stderr.startswith("man_pages.py: error: ")
    assert "hint: " in done.stderr
    assert (tmp_path / "file").read_text() == "mine"
    bare = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=False, timeout=60)
    assert bare.returncode == 2
