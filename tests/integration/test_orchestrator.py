"""The orchestrator example: a short run of either kind, and that it would say so if a key went astray."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "examples" / "orchestrator.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False, timeout=120
    )


@pytest.fixture(scope="module")
def example() -> Any:
    """The script, as a module."""
    spec = importlib.util.spec_from_file_location("orchestrator_example", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("options", "workers"),
    [(("--seconds", "3"), 50), (("--seconds", "2", "--processes", "--workers", "20", "--tenants", "10"), 20)],
)
def test_no_worker_sees_another_tenant_s_key(options: tuple[str, ...], workers: int) -> None:
    """Tasks and processes: every worker sees its own tenant's key, is refused others', and the table says so."""
    done = run(*options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("tenant-")]
    assert sum(int(row[1]) for row in rows) == workers
    assert all(int(row[2]) > 0 and row[3] == "0" and row[5] == "0" for row in rows)
    assert sum(int(row[4]) for row in rows) > 0
    made = next(int(line.split()[0]) for line in done.stdout.splitlines() if "were made and deleted" in line)
    assert made > 0


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"others": ["globex"]}, "a worker of acme saw a key of globex"),
        ({"failed": ["unavailable: gone"]}, "a worker of acme failed: unavailable: gone"),
        ({"own": 0}, "a worker of acme saw nothing"),
    ],
)
def test_a_key_that_went_astray_is_a_failure(
    example: Any, capsys: pytest.CaptureFixture[str], wrong: dict[str, Any], words: str
) -> None:
    """One foreign key, one failed call or one worker without any key among good ones: exit 1, and who it was."""
    good = [example.Seen("globex", own=3), example.Seen("acme", own=2)]
    assert example.judged(good, example.Seen("guests", own=1)) == 0
    assert example.judged([*good, example.Seen(**{"tenant": "acme", "own": 1, **wrong})], good[0]) == 1
    assert words in capsys.readouterr().err


def test_each_worker_can_have_its_line(example: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """With --each nothing is added up: what each worker saw stands by itself."""
    every = [example.Seen("globex", own=3), example.Seen("acme", own=2), example.Seen("acme", own=4, refused=1)]
    assert example.judged(every, example.Seen("guests", own=1), each=True) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[1:4] == [
        ["acme", "1", "2", "0", "0", "0"],
        ["acme", "2", "4", "0", "1", "0"],
        ["globex", "3", "3", "0", "0", "0"],
    ]


def test_a_key_is_known_by_its_owner(example: Any) -> None:
    """What a worker notes down is what came, not what was asked for."""
    seen = example.Seen("acme")
    example.note_key(seen, memoryview(example.new_key("acme")))
    example.note_key(seen, memoryview(example.new_key("globex")))
    assert (seen.own, seen.others) == (1, ["globex"])


@pytest.mark.parametrize("arguments", [("--seconds", "0"), ("--workers", "x"), ("--tenants", "1")])
def test_a_wrong_line_is_refused(arguments: tuple[str, ...]) -> None:
    """Before anything is made."""
    done = run(*arguments)
    assert done.returncode == 2
    assert "orchestrator.py: error: argument" in done.stderr
