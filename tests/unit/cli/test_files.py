"""Files for secrets appear whole, private, or not at all."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from vaultclient.cli.failures import CliError
from vaultclient.cli.files import private_file

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("nameless", [True, False])
def test_a_file_is_private_whatever_the_umask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nameless: bool) -> None:
    """0600 with umask 0 and 0777, and it replaces an older one that others could read; with and without O_TMPFILE."""
    if not nameless:
        real = os.open

        def no_tmpfile(path: str, flags: int, mode: int = 0o777, **more: int) -> int:
            if flags & os.O_TMPFILE == os.O_TMPFILE:
                raise OSError(errno.EOPNOTSUPP, "not here")
            return real(path, flags, mode, **more)

        monkeypatch.setattr(os, "open", no_tmpfile)
    target = tmp_path / "key"
    target.write_bytes(b"old")
    target.chmod(0o644)
    for mask in (0, 0o777):
        before = os.umask(mask)
        try:
            with private_file(str(target)) as file:
                file.write(b"new")
                assert target.read_bytes()  # the old one is there until the new one is whole
        finally:
            os.umask(before)
        assert target.read_bytes() == b"new"
        assert target.stat().st_mode & 0o7777 == 0o600
    assert os.listdir(tmp_path) == ["key"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    """An exception in the middle changes nothing."""
    target = tmp_path / "key"
    target.write_bytes(b"old")
    with pytest.raises(TypeError), private_file(str(target)) as file:
        file.write("no bytes")  # type: ignore[arg-type]
    assert os.listdir(tmp_path) == ["key"]
    assert target.read_bytes() == b"old"


def test_being_killed_leaves_nothing(tmp_path: Path) -> None:
    """Not even SIGKILL in the middle of writing leaves a file, where the file system has nameless ones."""
    code = (
        "import os, sys; from vaultclient.cli.files import private_file\n"
        "with private_file(sys.argv[1]) as file: file.write(b'half'); print(1, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "key")], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    assert done.stdout == b"1\n"
    assert os.listdir(tmp_path) == []


def test_links_devices_and_directories_are_left_alone(tmp_path: Path) -> None:
    """A rename would replace what they are: /dev/null must stay what it is."""
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere")
    os.mkfifo(tmp_path / "fifo")
    for path in (link, tmp_path / "fifo", tmp_path, f"{tmp_path}/", "/dev/null"):
        with pytest.raises(CliError) as caught, private_file(str(path)):
            pass
        assert caught.value.code == "io"
    assert sorted(os.listdir(tmp_path)) == ["fifo", "link"]
    assert link.is_symlink()


def test_a_missing_directory_is_an_os_error(tmp_path: Path) -> None:
    """Nothing is made on the way."""
    with pytest.raises(FileNotFoundError), private_file(str(tmp_path / "no" / "key")):
        pass
    assert os.listdir(tmp_path) == []
