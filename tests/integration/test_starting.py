"""What a starting daemon says of a directory that it cannot or must not use: an exit code, a message, a hint."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import tempfile
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import PASSPHRASE, Daemon
from vaultd.crypto.kdf import CHEAPEST, Profile
from vaultd.crypto.slots import SLOT_SIZE, Slot
from vaultd.vault import offline
from vaultd.vault.keyring import KeyringFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

IN_MOUNT_NAMESPACE = ("unshare", "--mount", "--propagation", "private", "sh", "-ec")


@pytest.fixture(scope="module")
def made() -> Iterator[str]:
    """A vault, to be copied."""
    with tempfile.TemporaryDirectory(prefix="vaultd-test-") as folder:
        directory = os.path.join(folder, "vault")
        offline.init(directory, secret=bytearray(PASSPHRASE), profile=CHEAPEST)
        yield directory


@pytest.fixture
def folder(made: str) -> Iterator[str]:
    """A folder with a copy of the vault in `vault`."""
    with tempfile.TemporaryDirectory(prefix="vaultd-test-") as name:
        shutil.copytree(made, os.path.join(name, "vault"), symlinks=True)
        yield name


def _start(
    folder: str, *, before: str = "", directory: str = "vault", socket: str = "vaultd.sock"
) -> tuple[int, str, str]:
    """Start `vaultd` in the state that the shell command `before` makes, in a mount namespace of its own if there is
    one; its exit code, message and hint."""
    config = os.path.join(folder, "vaultd.toml")
    with open(config, "w", encoding="utf-8"):
        pass
    os.chmod(config, 0o600)
    vault, socket = os.path.join(folder, directory), os.path.join(folder, socket)
    command = [sys.executable, "-m", "vaultd", "--dir", vault, "--socket", socket, "--config", config]
    if before:
        command = [*IN_MOUNT_NAMESPACE, f'{before}; shift; exec "$@"', "sh", folder, *command]
    environment = {"PATH": os.environ["PATH"], "HOME": folder}
    done = subprocess.run(command, capture_output=True, timeout=30, check=False, env=environment)
    lines = done.stderr.decode().splitlines()
    errors = [line for line in lines if line.startswith("vaultd: error: ")]
    hints = [line for line in lines if line.startswith("hint: ")]
    assert len(errors) == len(hints) == 1, lines
    assert not [line for line in lines if "Traceback" in line], lines
    assert not os.path.lexists(socket)
    return done.returncode, errors[0], hints[0]


def _files(vault: str) -> dict[str, bytes]:
    found = {}
    for place, _, names in os.walk(vault):
        for name in names:
            if name != "lock":  # it says whose the lock was last
                with open(os.path.join(place, name), "rb") as file:
                    found[os.path.join(place, name)] = file.read()
    return found


def _open_to_others(vault: str) -> None:
    os.chmod(vault, 0o755)  # noqa: S103


def _listable(vault: str) -> None:
    os.chmod(vault, 0o710)  # noqa: S103


def _readable_file(vault: str) -> None:
    os.chmod(os.path.join(vault, "keyring"), 0o644)


def _linked_away(vault: str) -> None:
    os.rename(vault, vault + ".elsewhere")
    os.symlink(vault + ".elsewhere", vault)


def _keyring_is_a_link(vault: str) -> None:
    path = os.path.join(vault, "keyring")
    os.rename(path, path + ".elsewhere")
    os.symlink("keyring.elsewhere", path)


def _keyring_has_two_names(vault: str) -> None:
    os.link(os.path.join(vault, "keyring"), os.path.join(vault, "..", "second-name"))


def _keyring_is_a_directory(vault: str) -> None:
    os.remove(os.path.join(vault, "keyring"))
    os.mkdir(os.path.join(vault, "keyring"), 0o700)


def _keyring_is_a_pipe(vault: str) -> None:
    os.remove(os.path.join(vault, "keyring"))
    os.mkfifo(os.path.join(vault, "keyring"), 0o600)


@pytest.mark.parametrize(
    "spoil",
    [
        _open_to_others,
        _listable,
        _readable_file,
        _linked_away,
        _keyring_is_a_link,
        _keyring_has_two_names,
        _keyring_is_a_directory,
        _keyring_is_a_pipe,
    ],
    ids=lambda spoil: spoil.__name__[1:],
)
def test_directories_that_others_reach(folder: str, spoil: Callable[[str], None]) -> None:
    """A directory or file that others may read, or that is not what it seems, is not opened."""
    spoil(os.path.join(folder, "vault"))
    assert _start(folder)[0] == 78


@pytest.mark.needs_root
def test_directory_of_somebody_else(folder: str) -> None:
    """A vault that belongs to another uid is not opened, not even by root: what it would write would be root's."""
    os.chown(os.path.join(folder, "vault"), 4207, 4207)
    code, message, _ = _start(folder)
    assert code == 78
    assert "4207" in message


def test_locked_by_another_process(folder: str) -> None:
    """A vault that is open elsewhere is refused, and the message says by whom."""
    with Daemon(unseal=False) as daemon:
        os.rename(daemon.dir, os.path.join(folder, "taken"))
        code, message, _ = _start(folder, directory="taken")
        os.rename(os.path.join(folder, "taken"), daemon.dir)
        assert code == 69
        assert str(daemon.process.pid) in message
        assert daemon.admin.status()["state"] == "sealed"


@pytest.mark.needs_root
def test_read_only_file_system(folder: str) -> None:
    """On a read-only file system nothing could be recorded, so nothing is served."""
    code, message, _ = _start(folder, before='mount --bind "$1/vault" "$1/vault"; mount -o remount,bind,ro "$1/vault"')
    assert code == 74
    assert "read-only" in message


@pytest.mark.needs_root
def test_full_disk(folder: str) -> None:
    """On a disk without room for even the lock's pid, the daemon says so and does not start."""
    vault = os.path.join(folder, "vault")
    os.remove(os.path.join(vault, "lock"))
    fill = 'mkdir "$1/full"; mount -t tmpfs -o size=256k,mode=700 none "$1/full"; cp -a "$1/vault/." "$1/full/"; '
    fill += 'dd if=/dev/zero of="$1/full/filler" bs=4k 2>/dev/null || true'
    code, message, _ = _start(folder, before=fill, directory="full")
    assert code == 74
    assert "no space" in message


def _keyring(vault: str) -> tuple[str, bytearray]:
    path = os.path.join(vault, "keyring")
    with open(path, "rb") as file:
        return path, bytearray(file.read())


def _write(path: str, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.write(data)
        file.truncate()


@pytest.mark.parametrize("version", [2, 7, 65535])
def test_newer_format(folder: str, version: int) -> None:
    """A vault that a later version wrote is left alone; the message says which version it is of."""
    path, data = _keyring(os.path.join(folder, "vault"))
    data[8:10] = struct.pack(">H", version)
    _write(path, data)
    before = _files(os.path.join(folder, "vault"))
    code, message, hint = _start(folder)
    assert code == 78
    assert f"format {version}" in message
    assert "version" in hint
    assert _files(os.path.join(folder, "vault")) == before


def test_newer_slot_format(folder: str) -> None:
    """So is one with a key slot of a later version."""
    path, data = _keyring(os.path.join(folder, "vault"))
    start = _slot_offset(data)
    data[start + 4] = 2
    _write(path, data)
    assert _start(folder)[0] == 78


def _slot_offset(data: bytes) -> int:
    at = data.index(b"VDSL")
    assert data.count(b"VDSL") == 1
    return at


@pytest.mark.parametrize(
    "cost",
    [
        Profile(3, 2**31, 4),
        Profile(3, 2**32 - 1, 4),
        Profile(3, 1024 * 1024 + 1, 4),
        Profile(2**32 - 1, 65_536, 4),
        Profile(17, 65_536, 4),
        Profile(3, 65_536, 255),
        Profile(0, 65_536, 4),
        Profile(3, 0, 1),
        Profile(3, 65_536, 0),
    ],
    ids=str,
)
def test_absurd_argon2id_cost(folder: str, cost: Profile) -> None:
    """A slot that asks for an absurd cost, its checksum made right, is refused before anything is derived."""
    path, data = _keyring(os.path.join(folder, "vault"))
    start = _slot_offset(data)
    vault_id = KeyringFile.decode(bytes(data)).keyring.vault_id
    slot = Slot.parse(data[start : start + SLOT_SIZE], vault_id)
    data[start : start + SLOT_SIZE] = replace(slot, profile=cost).serialise()
    _write(path, data)
    code, message, _ = _start(folder)
    assert code == 65
    assert "argon2id cost" in message


@pytest.mark.parametrize("name", ["state", "audit/000001.jsonl"])
def test_files_that_are_gone(folder: str, name: str) -> None:
    """A file that has to be there and is not, is said."""
    os.remove(os.path.join(folder, "vault", name))
    code, _message, hint = _start(folder)
    assert code == 65
    assert "backup" in hint


@pytest.mark.parametrize("name", ["keyring", "state", "audit/000001.jsonl"])
def test_files_that_are_empty(folder: str, name: str) -> None:
    """So is one that was emptied."""
    os.truncate(os.path.join(folder, "vault", name), 0)
    assert _start(folder)[0] == 65


def test_paths_that_are_too_long(folder: str) -> None:
    """A socket path that no address can hold is refused, with the limit."""
    deep = os.path.join("d" * 60, "e" * 60)
    os.makedirs(os.path.join(folder, deep), 0o700)
    code, message, _ = _start(folder, socket=os.path.join(deep, "s"))
    assert code == 78
    assert "107" in message


def test_no_vault_yet(folder: str) -> None:
    """Without a vault the daemon serves, and says so; once one is made it is there."""
    with Daemon(unseal=False) as daemon:
        assert daemon.stop() == 0
        os.rename(daemon.dir, daemon.dir + ".aside")
        daemon.start()
        with daemon.client() as client:
            assert client.status()["state"] == "uninitialised"
            for op in ("tenant.list", "lease.list", "seal"):
                with pytest.raises(Exception, match="there is no vault yet"):
                    client.call(op)
            os.chmod(daemon.dir + ".aside", 0o755)  # noqa: S103
            os.rename(daemon.dir + ".aside", daemon.dir)
            for _ in range(3):
                assert client.status()["state"] == "uninitialised"  # not one that others may read
            os.chmod(daemon.dir, 0o700)
            assert client.status()["state"] == "sealed"
            daemon.unseal(client)
            assert client.status()["state"] == "unsealed"
        daemon.stop()
        assert daemon.log.count(b"cannot be opened") == 1  # whoever asks for the status cannot fill the log
