"""What is installed is what is meant: two packages, typed, and a client that needs nothing of the daemon."""

from __future__ import annotations

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
