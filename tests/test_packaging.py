"""What is installed is what is meant: two packages, typed, and a client that needs nothing of the daemon."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this tree with the locked build backend."""
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", out],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return next(out.glob("*.whl"))


def test_the_wheel_holds_the_two_packages_and_nothing_else(wheel: Path) -> None:
    """No test, script, benchmark or second copy of the client is shipped; both packages are marked as typed."""
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"vaultd", "vaultclient"}
    assert {"vaultd/py.typed", "vaultclient/py.typed", "vaultd/crypto/FORMAT.md"} <= set(names)


def test_what_is_installed_to_run_is_locked_apart() -> None:
    """The lock for running is of the whole lock what running takes (scripts/run_lock.py --write), and no test tool."""
    made = subprocess.run(
        [sys.executable, ROOT / "scripts" / "run_lock.py"], capture_output=True, text=True, check=True
    )
    kept = (ROOT / "requirements-run.lock").read_text()
    assert kept == made.stdout
    names = {line.partition("==")[0] for line in kept.splitlines() if "==" in line}
    assert {"msgpack", "pynacl", "argon2-cffi", "cffi", "click", "watchdog", "hatchling"} <= names
    assert not names & {"pytest", "hypothesis", "mypy", "ruff", "import-linter", "cryptography"}


def test_nothing_installs_us_by_name(wheel: Path) -> None:
    """The name on the public index is somebody else's: no file has pip fetch it, and no index would take ours."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    files = [ROOT / name for name in tracked] or [one for one in ROOT.rglob("*") if ".venv" not in one.parts]
    # Whatever options and paths come before it: a word that is just the name, or the name with extras or a version.
    fetched = re.compile(
        r"\b(pip3?|pipx|uv( tool| pip)?|poetry|conda)\s+(install|add)\b[^\n`#]*\s[\"']?vaultd\b(?![/.])"
    )
    for file in files:
        if file.is_file() and file.stat().st_size < 1 << 20:
            for line in file.read_text(errors="replace").splitlines():
                assert fetched.search(line) is None or "gets a package of that name" in line, f"{file}: {line}"
    with zipfile.ZipFile(wheel) as opened:
        (metadata,) = [name for name in opened.namelist() if name.endswith("/METADATA")]
        assert b"Classifier: Private :: Do Not Upload" in opened.read(metadata)


def test_the_installed_client_needs_msgpack_only(wheel: Path, tmp_path: Path) -> None:
    """Installed elsewhere, both packages import, `client` does not, and the client loads no daemon library."""
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", tmp_path, wheel]
    subprocess.run(command, check=True, capture_output=True)
    program = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import vaultclient, vaultd, vaultd.protocol
assert vaultclient.__file__.startswith({str(tmp_path)!r}), vaultclient.__file__
loaded = {{"nacl", "argon2", "click", "watchdog", "cffi", "asyncio"}} & set(sys.modules)
assert not loaded, loaded
try:
    import client
except ImportError:
    pass
else:
    raise SystemExit("`client` can be imported")
"""
    subprocess.run([sys.executable, "-I", "-c", program], cwd="/", check=True)
