"""The quickstart does what it says, from the first step to the last."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


def test_the_story_is_true() -> None:
    """Every step of the main job holds, with real processes, and the folder is thrown away afterwards."""
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "story" / "tell.py"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=180, check=False,
        env={**os.environ, "NO_COLOR": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2_000:] + done.stderr[-2_000:]
    assert "All of it did what it says" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_a_story_that_is_not_true_fails(tmp_path: Path) -> None:
    """With a provider that names another owner, the step says what is wrong, and the status is 1."""
    story = tmp_path / "story"
    shutil.copytree(ROOT / "scripts" / "story", story)
    provider = story / "provider.py"
    true = '{"owner": owner}'
    assert true in provider.read_text()
    provider.write_text(provider.read_text().replace(true, '{"owner": "globex"}'))
    done = subprocess.run(
        [sys.executable, story / "tell.py"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=180, check=False,
        env={**os.environ, "NO_COLOR": "1"},
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "globex" in done.stderr
    assert "All of it did what it says" not in done.stdout


@pytest.mark.parametrize(
    ("python", "words"),
    [
        (None, "no python3 on PATH"),
        (
            'case "$*" in *version_info*) exit 1;; *--version*) echo Python 3.9.2; exit;; esac',
            "Python 3.9.2 is too old",
        ),
        ('case "$*" in *ensurepip*) exit 1;; esac', "lacks venv"),
    ],
)
def test_what_the_machine_lacks_is_named(tmp_path: Path, python: str | None, words: str) -> None:
    """Without Python, an old one, or one without venv: status 69, and which package to install; nothing is made."""
    tree = tmp_path / "tree"
    shutil.copytree(ROOT / "scripts", tree / "scripts")
    for name in ("requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tree / name)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "cat", "cut", "dirname", "env", "sha256sum"):
        (programs / name).symlink_to(shutil.which(name) or "/nowhere")
    if python is not None:
        (programs / "python3").write_text(f'#!/usr/bin/env bash\n{python}\nexec {sys.executable} "$@"\n')
        (programs / "python3").chmod(0o755)
    done = subprocess.run(
        ["bash", tree / "scripts" / "quickstart"],
        capture_output=True, text=True, timeout=60, check=False, env={"PATH": str(programs)},
    )  # fmt: skip
    assert done.returncode == 69
    assert words in done.stderr
    assert "hint: " in done.stderr
    assert not (tree / ".venv").exists()
