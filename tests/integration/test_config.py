"""The configuration file: what it may say, who may have written it, and what a running daemon does with a bad one."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaultd.daemon.config import Config, LiveConfig, default_path, defaults, load, parse
from vaultd.daemon.watch import FileWatch
from vaultd.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

BASE = Config(dir="/var/lib/vaultd", socket="/run/vaultd/vaultd.sock")

WHOLE = """
dir = "/srv/vault"
socket = "/run/v/v.sock"
socket_group = "agents"
admin_uids = [1000, 0]
responder_uids = [1001]

[limits]
connections_per_uid = 8
frame_seconds = 5

[audit]
throttle_window_seconds = 30

[watch]
config = false
"""


def test_every_kind_of_key() -> None:
    """Each kind of key is read, and what is left out keeps its default."""
    config = parse(WHOLE, "vaultd.toml", BASE)
    assert (config.dir, config.socket, config.socket_group) == ("/srv/vault", "/run/v/v.sock", "agents")
    assert (config.admin_uids, config.responder_uids) == ((0, 1000), (1001,))
    assert (config.limits.connections_per_uid, config.limits.frame_seconds) == (8, 5)
    assert config.limits.leases_per_uid == BASE.limits.leases_per_uid
    assert config.audit.throttle_window_seconds == 30
    assert config.watch.config is False
    assert parse("", "vaultd.toml", BASE) == BASE


@pytest.mark.parametrize(
    ("text", "place", "problem"),
    [
        ("\nsokcet = '/x'", "f:2: sokcet", "no such key"),
        ("[limits]\nframe_secs = 3", "f:2: limits.frame_secs", "no such key"),
        ("[limts]\nx = 3", "f:1: limts", "no such key"),
        ("[limits]\n# comment\nframe_seconds = 0", "f:3: limits.frame_seconds", "not a whole number from 1 to 3600"),
        ("limits.frame_seconds = true", "f:1: limits.frame_seconds", "not a whole number"),
        ("[limits]\nframe_seconds = 1.0", "f:2: limits.frame_seconds", "not a whole number"),
        ("limits = 3", "f:1: limits", "not a table"),
        ("[watch]\nconfig = 1", "f:2: watch.config", "not true or false"),
        ("dir = 'relative'", "f:1: dir", "not an absolute path"),
        ("socket = 3", "f:1: socket", "not an absolute path"),
        ('socket = "/a\\u0000b"', "f:1: socket", "not an absolute path"),
        ("admin_uids = 0", "f:1: admin_uids", "not a list of uids"),
        ("admin_uids = ['root']", "f:1: admin_uids", "not a list of uids"),
        ("admin_uids = [-1]", "f:1: admin_uids", "not a list of uids"),
        ("admin_uids = [4294967295]", "f:1: admin_uids", "not a list of uids"),
        ("responder_uids = [true]", "f:1: responder_uids", "not a list of uids"),
        ("socket_group = ''", "f:1: socket_group", "not a group"),
        ("socket_group = -1", "f:1: socket_group", "not a group"),
        ("a = 1\na = 2\nb = 3", "f", "line 2"),
        ("a = \nb = 3", "f", "line 1"),
        ("x = " + "[" * 5000, "f", ""),
    ],
)
def test_bad_documents(text: str, place: str, problem: str) -> None:
    """Each is refused, and the message names the file, the line where it can be found, and the key."""
    with pytest.raises(ConfigError) as caught:
        parse(text, "f", BASE)
    assert caught.value.message.startswith(place)
    assert problem in caught.value.message
    assert caught.value.hint


@given(st.text(max_size=200))
def test_any_text_is_a_config_or_an_error(text: str) -> None:
    """No text raises anything but ConfigError, and no message is long or holds a control character."""
    message = ""
    try:
        parse(text, "f", BASE)
    except ConfigError as error:
        message = error.message
    assert len(message) < 400
    assert message.isprintable()


@given(st.recursive(st.integers() | st.booleans() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3)))
def test_any_value_of_a_key_is_taken_or_refused(value: object) -> None:
    """Each key takes values of its own kind only."""
    import json

    literal = json.dumps(value)
    for key in ("dir", "socket", "socket_group", "admin_uids", "responder_uids", "limits", "watch.config"):
        try:
            config = parse(f"{key} = {literal}", "f", BASE)
        except ConfigError:
            continue
        assert isinstance(config.dir, str)
        assert os.path.isabs(config.socket)
        assert all(type(uid) is int for uid in config.responder_uids)
        assert type(config.watch.config) is bool


def _write(path: Path, text: str, mode: int = 0o600) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


class TestFile:
    """Who may have written it."""

    def test_command_line_wins(self, tmp_path: Path) -> None:
        """--dir and --socket replace what the file says."""
        path = _write(tmp_path / "c.toml", WHOLE)
        config = load(path, {}, os.geteuid(), dir="/a", socket="/b")
        assert (config.dir, config.socket, config.socket_group) == ("/a", "/b", "agents")

    @pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
    def test_writable_by_others(self, tmp_path: Path, mode: int) -> None:
        """A file that others may write is refused."""
        with pytest.raises(ConfigError, match="others may write it"):
            load(_write(tmp_path / "c.toml", "", mode), {}, os.geteuid(), dir="/a", socket="/b")

    @pytest.mark.needs_root
    def test_of_another_owner(self, tmp_path: Path) -> None:
        """A file that neither root nor the daemon's uid owns is refused; root's is good for every daemon."""
        path = _write(tmp_path / "c.toml", "")
        assert load(path, {}, 54_321, dir="/a", socket="/b").dir == "/a"
        os.chown(path, 54_321, 0)
        with pytest.raises(ConfigError, match="owned by uid 54321"):
            load(path, {}, 0, dir="/a", socket="/b")

    def test_not_a_file(self, tmp_path: Path) -> None:
        """A directory, a FIFO and a missing file are refused, and nothing waits for a FIFO's writer."""
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo, 0o600)
        for path, problem in ((tmp_path, "not a regular file"), (fifo, "not a regular"), (tmp_path / "x", "no such")):
            with pytest.raises(ConfigError, match=problem):
                load(str(path), {}, os.geteuid(), dir="/a", socket="/b")

    def test_too_large_or_not_text(self, tmp_path: Path) -> None:
        """A file over 64 KiB, or that is not UTF-8, is refused."""
        with pytest.raises(ConfigError, match="larger than"):
            load(_write(tmp_path / "c.toml", "#" * 70_000), {}, os.geteuid(), dir="/a", socket="/b")
        (tmp_path / "c.toml").write_bytes(b"dir = '\xff'")
        with pytest.raises(ConfigError, match="not UTF-8 at byte 7"):
            load(str(tmp_path / "c.toml"), {}, os.geteuid(), dir="/a", socket="/b")


class TestDefaults:
    """Where things are when nobody says."""

    def test_root(self) -> None:
        """Root's are the system's places, whatever the environment says."""
        assert (defaults({"HOME": "/x"}, 0).dir, default_path({}, 0)) == ("/var/lib/vaultd", "/etc/vaultd/vaultd.toml")

    def test_user(self) -> None:
        """A user's follow XDG, whose relative values do not count."""
        environment = {"HOME": "/home/u", "XDG_RUNTIME_DIR": "/run/user/7", "XDG_CONFIG_HOME": "relative"}
        config = defaults(environment, 7)
        assert (config.dir, config.socket) == ("/home/u/.local/state/vaultd", "/run/user/7/vaultd/vaultd.sock")
        assert default_path(environment, 7) == "/home/u/.config/vaultd/vaultd.toml"

    def test_user_without_places(self) -> None:
        """A user without HOME or XDG_RUNTIME_DIR must say where, and may."""
        with pytest.raises(ConfigError, match="XDG_RUNTIME_DIR"):
            load(None, {"HOME": "/home/u"}, 7)
        with pytest.raises(ConfigError, match="HOME"):
            load(None, {"XDG_RUNTIME_DIR": "/run/user/7"}, 7)
        assert load(None, {}, 7, dir="/a", socket="/b") == Config("/a", "/b")


class TestReload:
    """A running daemon and a file that changes."""

    def test_good_and_bad(self, tmp_path: Path) -> None:
        """A good file replaces the whole; a bad one changes nothing, and says why until it is good again."""
        path = _write(tmp_path / "c.toml", "[limits]\nframe_seconds = 3")
        live = LiveConfig(path, {}, os.geteuid(), dir="/a", socket="/b")
        _write(tmp_path / "c.toml", "[limits]\nframe_seconds = 4\nconnections = 9")
        assert live.reload()
        assert (live.current.limits.frame_seconds, live.current.limits.connections, live.error) == (4, 9, None)
        _write(tmp_path / "c.toml", "[limits]\nframe_seconds = 'x'")
        assert not live.reload()
        assert live.current.limits.frame_seconds == 4
        assert live.error is not None
        assert "limits.frame_seconds" in live.error
        (tmp_path / "c.toml").unlink()
        assert not live.reload()
        assert live.current.limits.connections == 9
        _write(tmp_path / "c.toml", "")
        assert live.reload()
        assert (live.current, live.error) == (Config("/a", "/b"), None)

    def test_what_is_fixed(self, tmp_path: Path) -> None:
        """The directory and the socket change only with a restart."""
        path = _write(tmp_path / "c.toml", "dir = '/a'\nsocket = '/b'")
        live = LiveConfig(path, {"HOME": "/h", "XDG_RUNTIME_DIR": "/r"}, os.geteuid())
        _write(tmp_path / "c.toml", "dir = '/other'\nsocket = '/b'\nresponder_uids = [5]")
        assert not live.reload()
        assert live.error == "dir: changes only with a restart"
        assert live.current.responder_uids == ()

    @pytest.mark.parametrize("how", ["in place", "renamed over", "removed"])
    def test_changes_are_noticed(self, tmp_path: Path, how: str) -> None:
        """A change of the file is reported to the event loop, however it was made; other files are not."""
        path = tmp_path / "c.toml"
        _write(path, "")

        async def change() -> int:
            changed = asyncio.Event()
            calls = 0

            def note() -> None:
                nonlocal calls
                calls += 1
                changed.set()

            watch = FileWatch(str(path), note, asyncio.get_running_loop())
            assert watch.start()
            try:
                _write(tmp_path / "other.toml", "x")
                if how == "in place":
                    path.write_text("# new")
                elif how == "renamed over":
                    os.replace(_write(tmp_path / "new", "# new"), path)
                else:
                    path.unlink()
                await asyncio.wait_for(changed.wait(), 10)
            finally:
                watch.close()
            return calls

        assert asyncio.run(change()) == 1

    def test_unwatchable_directory(self, tmp_path: Path) -> None:
        """Where the directory does not exist, SIGHUP remains."""

        async def start() -> bool:
            watch = FileWatch(str(tmp_path / "none" / "c.toml"), lambda: None, asyncio.get_running_loop())
            try:
                return watch.start()
            finally:
                watch.close()

        assert not asyncio.run(start())
