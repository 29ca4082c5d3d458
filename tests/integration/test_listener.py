"""The socket's path: modes, owners, stale and living neighbours."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from typing import TYPE_CHECKING

import pytest

from tests.support.serving import Child
from vaultd.daemon.kernel import Kernel
from vaultd.daemon.listener import MAX_PATH, listen
from vaultd.errors import ConfigError, Locked

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OTHER = 54_321


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    before = os.umask(0)  # the loosest there is: nothing here may rely on it
    yield
    os.umask(before)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    place = tmp_path / "run"
    place.mkdir(mode=0o755)
    return place


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_mode_is_tight_whatever_the_umask(place: Path) -> None:
    """The socket is made 0600; its lock too; and closing removes the socket."""
    listener = listen(str(place / "s"), Kernel())
    assert (mode(place / "s"), mode(place / "s.lock")) == (0o600, 0o600)
    listener.close()
    assert not (place / "s").exists()


def test_mode_is_tight_from_the_first_instant(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the moment that bind has made the file, before anything else is done to it, it is for its owner alone."""
    seen = []
    chown = os.chown

    def look(path: str, uid: int, gid: int, *, follow_symlinks: bool = True) -> None:
        seen.append(mode(place / "s"))
        chown(path, uid, gid, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(os, "chown", look)
    listen(str(place / "s"), Kernel(), group=os.getegid()).close()
    assert seen == [0o600]


def test_group(place: Path) -> None:
    """With a group the socket is that group's, 0660."""
    listener = listen(str(place / "s"), Kernel(), group=os.getegid())
    assert (mode(place / "s"), (place / "s").stat().st_gid) == (0o660, os.getegid())
    listener.close()


def test_unknown_group(place: Path) -> None:
    """A group that does not exist is a configuration error, and nothing is left behind."""
    with pytest.raises(ConfigError, match="there is no group"):
        listen(str(place / "s"), Kernel(), group="no such group")
    assert list(place.iterdir()) == []


@pytest.mark.needs_root
def test_group_that_is_not_ours() -> None:
    """A daemon that is not in the group says so, and does not leave a socket with other rights."""
    with tempfile.TemporaryDirectory(dir="/tmp") as reachable:
        os.chown(reachable, OTHER, OTHER)

        def try_it() -> str:
            try:
                listen(f"{reachable}/s", Kernel(), group=12_345)
            except ConfigError as error:
                return error.message
            return "it listens"

        assert Child(try_it, uid=OTHER).result().endswith("operation not permitted")
        assert os.listdir(reachable) == ["s.lock"]
        with pytest.raises(ConfigError, match="owned by uid 54321"):
            listen(f"{reachable}/s", Kernel())


def test_length_of_the_path(place: Path) -> None:
    """A path of 107 bytes works, one of 108 is refused with the limit; bytes count, not characters."""
    room = MAX_PATH - len(os.fsencode(place)) - 1
    listen(str(place / ("x" * room)), Kernel()).close()
    for name in ("x" * (room + 1), "é" * (room // 2 + 1)):
        with pytest.raises(ConfigError, match="longer than 107 bytes"):
            listen(str(place / name), Kernel())


def test_stale_socket_is_replaced(place: Path) -> None:
    """What a killed daemon left is removed."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(place / "s"))
    (place / "s.lock").touch(0o600)
    listen(str(place / "s"), Kernel()).close()


def test_second_daemon(place: Path) -> None:
    """Of two daemons the second is told that the first is there, and the first serves on."""
    listener = listen(str(place / "s"), Kernel())
    with pytest.raises(Locked, match="another daemon"):
        listen(str(place / "s"), Kernel())
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(place / "s"))
    listener.close()


def test_living_stranger(place: Path) -> None:
    """Something that listens without our lock is not pushed aside."""
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.bind(str(place / "s"))
        stranger.listen()
        with pytest.raises(Locked, match="without holding its lock"):
            listen(str(place / "s"), Kernel())
        assert (place / "s").exists()


def test_not_a_socket(place: Path) -> None:
    """A file, a directory or a link in the way is not removed."""
    (place / "target").write_text("precious")
    (place / "file").write_text("precious")
    (place / "dir").mkdir()
    (place / "link").symlink_to(place / "target")
    for name in ("file", "dir", "link"):
        with pytest.raises(ConfigError, match="is not a socket"):
            listen(str(place / name), Kernel())
        assert (place / name).exists()


def test_lock_is_not_followed(place: Path) -> None:
    """A link in the lock's place is not opened, so it cannot make us create or lock another file."""
    (place / "s.lock").symlink_to(place / "elsewhere")
    with pytest.raises(ConfigError, match=r"s\.lock"):
        listen(str(place / "s"), Kernel())
    assert not (place / "elsewhere").exists()


@pytest.mark.needs_root
def test_socket_of_somebody_else(place: Path) -> None:
    """A socket that another uid owns is left alone."""
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(place / "s"))
    os.chown(place / "s", OTHER, OTHER)
    with pytest.raises(ConfigError, match="owned by uid 54321"):
        listen(str(place / "s"), Kernel())
    assert (place / "s").exists()


@pytest.mark.parametrize("loose", [0o775, 0o757, 0o1777])
def test_directory_that_others_may_write(place: Path, loose: int) -> None:
    """A directory in which others could replace the socket is refused, sticky or not."""
    place.chmod(loose)
    with pytest.raises(ConfigError, match="others may write there"):
        listen(str(place / "s"), Kernel())


def test_loose_directory_on_the_way(place: Path) -> None:
    """A directory further up that others may write is refused, unless it is sticky."""
    inner = place / "inner"
    inner.mkdir(mode=0o755)
    place.chmod(0o777)
    with pytest.raises(ConfigError, match="others may write there"):
        listen(str(inner / "s"), Kernel())
    place.chmod(0o1777)
    listen(str(inner / "s"), Kernel()).close()


def test_directory_by_a_link(place: Path) -> None:
    """A path through a symbolic link is refused: whoever owns the link would own the path."""
    (place / "real").mkdir(mode=0o755)
    (place / "link").symlink_to("real")
    with pytest.raises(ConfigError, match="symbolic link"):
        listen(str(place / "link" / "s"), Kernel())


def test_missing_directory(place: Path) -> None:
    """The last directory is made, with its mode whatever the umask; those above it must exist."""
    os.umask(0o077)
    listen(str(place / "new" / "s"), Kernel()).close()
    assert mode(place / "new") == (0o755 if os.geteuid() == 0 else 0o700)
    with pytest.raises(ConfigError, match="cannot be made"):
        listen(str(place / "a" / "b" / "s"), Kernel())


def test_path_that_is_another_by_now(place: Path) -> None:
    """Closing removes only the socket that we made."""
    listener = listen(str(place / "s"), Kernel())
    (place / "s").unlink()
    (place / "s").write_text("somebody else's")
    listener.close()
    assert (place / "s").read_text() == "somebody else's"
