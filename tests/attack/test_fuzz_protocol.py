"""Damaged frames in number: scripts/fuzz_protocol.py in small."""

from __future__ import annotations

import importlib.util
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "fuzz_protocol.py"


def test_damaged_frames_never_surprise() -> None:
    """40,000 damaged frames, from a fixed seed, are each refused or read in one way, and all kinds of end occur."""
    found = importlib.util.spec_from_file_location("fuzz_protocol", SCRIPT)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    seen = module.fuzz(40_000, 20_261_124)
    assert set(seen) == {"Request", "Malformed", "Reply", "Push", "end"}
    assert min(seen.values()) > 500
