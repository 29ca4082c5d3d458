"""The quickstart does what it says, from the first step to the last."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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
