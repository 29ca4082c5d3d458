"""The directory store's surroundings: who may see it, what stands in its way, and what the system refuses."""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
import subprocess
import sys
import textwrap
import threading
from typing import TYPE_CHECKING

import pytest

from vaultd.errors import ConfigError, Exists, IntegrityError, Internal, Locked, NotFound, StoreError, Uninitialised
from vaultd.store import DirectoryStore
from vaultd.store import files as files_module

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts in a private namespace, other uids")


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[DirectoryStore]:
    with DirectoryStore(tmp_path / "vault", create=True) as store:
        yield store


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_modes_do_not_depend_on_the_umask(tmp_path: Path, umask: int) -> None:
    """Directories are 0700 and files 0600 under any umask, those made on the way and by replacement included."""
    before = os.umask(umask)
    try:
        with DirectoryStore(tmp_path / "parent" / "vault", create=True) as store:
            store.mkdir("audit")
            store.create("audit/1", b"")
            store.replace("keyring", b"1")
            store.replace("keyring", b"2")
    finally:
        os.umask(before)
    for path in (tmp_path / "parent", *(tmp_path / "parent").rglob("*")):
        assert mode(path) == (0o700 if path.is_dir() else 0o600), path


def test_an_absent_directory_is_uninitialised(tmp_path: Path) -> None:
    """No directory is `Uninitialised`, with the way to make one, and nothing is made on the way."""
    with pytest.raises(Uninitialised) as caught:
        DirectoryStore(tmp_path / "absent")
    assert "vaultctl init" in caught.value.hint
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("bits", [0o755, 0o710, 0o701, 0o770, 0o704])
def test_a_directory_open_to_others_is_refused(tmp_path: Path, bits: int) -> None:
    """Any bit for group or others is refused with the command that helps."""
    (tmp_path / "vault").mkdir()
    (tmp_path / "vault").chmod(bits)
    with pytest.raises(ConfigError, match="open to other users") as caught:
        DirectoryStore(tmp_path / "vault")
    assert caught.value.hint.startswith("chmod 0700")
    assert os.listdir(tmp_path / "vault") == []


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_link_to_a_directory_is_refused(tmp_path: Path, slash: str) -> None:
    """A link is not followed, also not when a trailing slash asks for it."""
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "vault").symlink_to("real")
    with pytest.raises(ConfigError, match="link"):
        DirectoryStore(f"{tmp_path}/vault{slash}")
    assert os.listdir(tmp_path / "real") == []


def test_a_file_is_not_a_directory(tmp_path: Path) -> None:
    """A file where the directory should be is refused."""
    (tmp_path / "vault").write_bytes(b"")
    with pytest.raises(ConfigError):
        DirectoryStore(tmp_path / "vault")


def test_another_process_is_named(tmp_path: Path) -> None:
    """The holder's pid is in the error, and its death frees the lock with no help."""
    DirectoryStore(tmp_path / "vault", create=True).close()
    script = "import sys; from vaultd.store import DirectoryStore as D; s = D(sys.argv[1]); print(flush=True); input()"
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "vault")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    try:
        holder.stdout.readline()
        with pytest.raises(Locked, match=f"process {holder.pid} "):
            DirectoryStore(tmp_path / "vault")
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
        holder.stdin.close()
    DirectoryStore(tmp_path / "vault").close()


def test_the_lock_file_may_not_be_a_link(tmp_path: Path) -> None:
    """A link in the lock's place is refused, and what it leads to stays as it was."""
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / "vault").mkdir(mode=0o700)
    (tmp_path / "vault" / "lock").symlink_to(tmp_path / "victim")
    with pytest.raises(ConfigError):
        DirectoryStore(tmp_path / "vault")
    assert (tmp_path / "victim").read_bytes() == b"precious"


@pytest.mark.parametrize("kind", ["link", "dangling link", "hard link", "directory", "fifo", "socket", "group bits"])
def test_a_strange_file_is_refused_by_every_reader(vault: DirectoryStore, tmp_path: Path, kind: str) -> None:
    """What is not a regular file of ours with one name is refused, and opening it does not hang."""
    path = tmp_path / "vault" / "state"
    victim = tmp_path / "victim"
    victim.write_bytes(bytes(8))
    victim.chmod(0o600)
    match kind:
        case "link":
            path.symlink_to(victim)
        case "dangling link":
            path.symlink_to("nowhere")
        case "hard link":
            path.hardlink_to(victim)
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path, 0o600)
        case "socket":
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(str(path))
        case "group bits":
            path.write_bytes(bytes(8))
            path.chmod(0o640)
    for call in (lambda: vault.read("state", 100), lambda: vault.append("state"), lambda: vault.slots("state", 4, 2)):
        with pytest.raises((ConfigError, StoreError)):
            call()


def test_a_link_on_the_way_is_refused(vault: DirectoryStore, tmp_path: Path) -> None:
    """A directory of ours that became a link is refused for reading, writing and removing; its target is untouched."""
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o700)
    (outside / "log").write_bytes(b"precious")
    (outside / "log").chmod(0o600)
    (tmp_path / "vault" / "audit").symlink_to(outside)
    for call in (
        lambda: vault.read("audit/log", 100),
        lambda: vault.replace("audit/log", b"x"),
        lambda: vault.remove("audit/log"),
        lambda: vault.mkdir("audit/inner"),
        lambda: vault.list("audit"),
        lambda: vault.remove_tree("audit"),
    ):
        with pytest.raises(ConfigError):
            call()
    assert os.listdir(outside) == ["log"]
    assert (outside / "log").read_bytes() == b"precious"


def test_replacing_a_link_replaces_the_link(vault: DirectoryStore, tmp_path: Path) -> None:
    """`replace` takes a link's place and leaves the link's target alone; `create` says the name is taken."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "vault" / "keyring").symlink_to(victim)
    with pytest.raises(Exists):
        vault.create("keyring", b"x")
    vault.replace("keyring", b"ours")
    assert vault.read("keyring", 9) == b"ours"
    assert victim.read_bytes() == b"precious"


def test_a_left_over_temporary_is_no_obstacle(vault: DirectoryStore, tmp_path: Path) -> None:
    """What a killed holder left on its way to a name is unlisted and replaced, even where it is a link."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "vault" / ".new.keyring").symlink_to(victim)
    assert vault.list() == []
    vault.replace("keyring", b"ours")
    assert victim.read_bytes() == b"precious"
    assert sorted(os.listdir(tmp_path / "vault")) == ["keyring", "lock"]


def test_remove_tree_does_not_follow_links(vault: DirectoryStore, tmp_path: Path) -> None:
    """Links inside a tree are removed, not followed."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"1")
    vault.mkdir("tenant")
    (tmp_path / "vault" / "tenant" / "way-out").symlink_to(outside)
    vault.remove_tree("tenant")
    assert os.listdir(outside) == ["precious"]


def test_check_finds_a_second_name_and_an_open_mode(vault: DirectoryStore, tmp_path: Path) -> None:
    """A hard link to an open file, a changed mode, and a moved directory are found before the next write."""
    vault.mkdir("audit")
    vault.create("audit/1", b"abc")
    log = vault.append("audit/1")
    path = tmp_path / "vault" / "audit" / "1"
    path.chmod(0o644)
    with pytest.raises(IntegrityError):
        log.check()
    path.chmod(0o600)
    log.check()
    (tmp_path / "kept").hardlink_to(path)
    with pytest.raises(IntegrityError):
        log.check()
    os.unlink(tmp_path / "kept")
    log.check()
    (tmp_path / "vault" / "audit").rename(tmp_path / "moved")
    (tmp_path / "vault" / "audit").symlink_to(tmp_path / "moved")
    with pytest.raises((IntegrityError, ConfigError)):
        log.check()
    log.close()


def test_no_descriptor_is_inherited(vault: DirectoryStore) -> None:
    """Every descriptor the store holds closes at exec."""
    vault.create("log", b"")
    vault.create("state", bytes(8))
    log, slots = vault.append("log"), vault.slots("state", 4, 2)
    lock_fd = vault._lock_fd
    assert lock_fd is not None
    assert not any(os.get_inheritable(fd) for fd in (vault._root_fd, lock_fd, log._fd, slots._fd))
    log.close()
    slots.close()


def test_no_descriptor_is_lost(vault: DirectoryStore) -> None:
    """Errors on any path leave as many descriptors open as there were."""
    vault.mkdir("audit")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        for call in (
            lambda: vault.read("audit", 1),
            lambda: vault.read("audit/absent/x", 1),
            lambda: vault.append("audit"),
            lambda: vault.create("audit", b""),
            lambda: vault.slots("audit", 1, 1),
        ):
            with pytest.raises((NotFound, ConfigError, Exists, StoreError)):
                call()
    assert len(os.listdir("/proc/self/fd")) == before


def test_reading_beside_a_holder(vault: DirectoryStore, tmp_path: Path) -> None:
    """A read-only store needs no lock, reads everything and changes nothing."""
    vault.create("log", b"abc")
    vault.create("state", bytes(8))
    with DirectoryStore(tmp_path / "vault", read_only=True) as reader:
        assert reader.list() == ["log", "state"]
        log, slots = reader.append("log"), reader.slots("state", 4, 2)
        assert log.pread(0, 9) == b"abc"
        assert slots.read(1) == bytes(4)
        for call in (
            lambda: reader.replace("log", b""),
            lambda: reader.create("new", b""),
            lambda: reader.remove("log"),
            lambda: reader.remove_tree("log"),
            lambda: reader.mkdir("new"),
            lambda: reader.rename("log", "new"),
            lambda: log.append(b"x"),
            lambda: log.truncate(0),
        ):
            with pytest.raises(Internal):
                call()
        log.close()
        slots.close()


def test_a_short_write_goes_on(vault: DirectoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that the kernel cuts short is finished; the file holds every byte once."""
    real = os.pwrite
    monkeypatch.setattr("os.pwrite", lambda fd, data, offset: real(fd, data[: max(1, len(data) // 2)], offset))
    vault.create("log", b"0123456789")
    log = vault.append("log")
    log.append(b"abcdefg")
    assert log.pread(0, 99) == b"0123456789abcdefg"
    log.close()


def test_a_failed_flush_is_final(vault: DirectoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """After one failed fdatasync the file takes no more appends, flushes or cuts, although the device recovered."""

    def broken(_fd: int) -> None:
        raise OSError(errno.EIO, "broken")

    vault.create("log", b"")
    log = vault.append("log")
    log.append(b"abc")
    with monkeypatch.context() as patch:
        patch.setattr("os.fdatasync", broken)
        with pytest.raises(StoreError, match="input/output error") as caught:
            log.flush()
    assert "device" in caught.value.hint
    for call in (log.flush, lambda: log.append(b"d"), lambda: log.truncate(0)):
        with pytest.raises(StoreError, match="earlier write"):
            call()
    log.close()


@pytest.mark.parametrize("refusal", [errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS])
def test_slots_work_without_rwf_dsync(vault: DirectoryStore, monkeypatch: pytest.MonkeyPatch, refusal: int) -> None:
    """Where the file system has no RWF_DSYNC, a slot is written plainly and flushed before the call returns."""
    flushed = []
    real = os.fdatasync

    def unsupported(*_args: object) -> int:
        raise OSError(refusal, "no")

    monkeypatch.setattr("os.pwritev", unsupported)
    monkeypatch.setattr(files_module.os, "fdatasync", lambda fd: (flushed.append(fd), real(fd)))
    vault.create("state", bytes(8))
    slots = vault.slots("state", 4, 2)
    assert flushed == [slots._fd]  # what a process that was killed may have left
    slots.write(1, b"abcd")
    assert slots.read(1) == b"abcd"
    assert flushed == [slots._fd] * 2
    slots.close()


@pytest.mark.parametrize("call", ["fsync", "rename", "pwrite", "fchmod"])
def test_a_failed_replacement_leaves_the_old(vault: DirectoryStore, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """Whatever step of `replace` fails first, the old file stays whole and nothing is left beside it."""

    def broken(*_args: object, **_kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    vault.create("keyring", b"old")
    with monkeypatch.context() as patch:
        patch.setattr(f"os.{call}", broken)
        with pytest.raises(StoreError, match="no space left on device") as caught:
            vault.replace("keyring", b"new")
    assert "free space" in caught.value.hint
    assert vault.read("keyring", 9) == b"old"
    vault.replace("keyring", b"newer")
    assert vault.read("keyring", 9) == b"newer"


@pytest.mark.parametrize(
    ("verb", "expected"),
    [
        # The file before its name leads to it, the directory after: the order that a crash cannot undo.
        ("replace", ["pwrite", "fsync", "rename", "fsync-dir"]),
        ("create", ["pwrite", "fsync", "rename", "fsync-dir"]),
        ("rename", ["rename", "fsync-dir"]),
        ("remove", ["unlink", "fsync-dir"]),
        ("mkdir", ["mkdir", "fsync-dir"]),
        ("remove_tree", ["unlink", "rmdir", "fsync-dir"]),
        ("append", ["pwrite", "fdatasync"]),
        ("truncate", ["ftruncate", "fsync"]),
        ("slot", ["pwritev-dsync"]),
        ("pieces", ["pwrite", "pwrite", "fsync", "rename", "fsync-dir"]),
        ("tidy", ["unlink", "fsync-dir", "fsync-dir"]),
    ],
)
def test_flushes_come_in_the_order_that_makes_them_safe(
    vault: DirectoryStore, monkeypatch: pytest.MonkeyPatch, verb: str, expected: list[str]
) -> None:
    """Every change is followed by the flush that makes it durable, before the call returns."""
    vault.create("old", b"12345678")
    vault.mkdir("tree")
    vault.create("tree/leaf", b"1")
    log, slots = vault.append("old"), vault.slots("old", 4, 2)
    steps: list[str] = []
    for name in ("fsync", "fdatasync", "rename", "pwrite", "unlink", "rmdir", "mkdir", "ftruncate", "pwritev"):
        real = getattr(os, name)

        def noted(*args: object, _name: str = name, _real: object = real, **kwargs: object) -> object:
            kind = "-dir" if _name == "fsync" and stat.S_ISDIR(os.fstat(args[0]).st_mode) else ""
            kind = "-dsync" if _name == "pwritev" and args[3] == os.RWF_DSYNC else kind
            steps.append(_name + kind)
            return _real(*args, **kwargs)

        monkeypatch.setattr(f"os.{name}", noted)
    match verb:
        case "replace":
            vault.replace("old", b"new")
        case "create":
            vault.create("new", b"new")
        case "rename":
            vault.rename("old", "new")
        case "remove":
            vault.remove("old")
        case "mkdir":
            vault.mkdir("new")
        case "remove_tree":
            vault.remove_tree("tree")
        case "append":
            log.append(b"x")
            log.flush()
        case "truncate":
            log.truncate(1)
        case "slot":
            slots.write(1, b"abcd")
        case "pieces":
            pieces = vault.begin("new")
            pieces.append(b"x")
            pieces.append(b"y")
            pieces.commit()
        case "tidy":
            vault.begin("tree/new")
            vault.tidy("tree")
            vault.tidy("tree")  # nothing is left in there, which is made durable
    assert steps == expected
    log.close()
    slots.close()


def test_readers_run_beside_a_writer(vault: DirectoryStore) -> None:
    """Reads of finished appends and of replaced files are whole while another thread writes on."""
    vault.create("log", b"")
    vault.create("heads", b"0" * 4096)
    log = vault.append("log")
    done = threading.Event()

    def write() -> None:
        for n in range(200):
            log.append(bytes([n]) * 100)
            vault.replace("heads", b"%d" % (n % 10) * 4096)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        size = log.size
        data = log.pread(0, size)
        assert data == b"".join(bytes([n]) * 100 for n in range(size // 100))
        assert len(set(vault.read("heads", 9999))) == 1
    writer.join()
    log.close()


def in_namespace(tmp_path: Path, mount: str, body: str) -> dict[str, str]:
    """Run `body` in a process of its own, with a file system mounted at `tmp_path`/mnt that only it sees."""
    (tmp_path / "mnt").mkdir()
    (tmp_path / "body.py").write_text(textwrap.dedent(body))
    command = f"mount {mount} {tmp_path}/mnt && exec {sys.executable} {tmp_path}/body.py {tmp_path}/mnt"
    done = subprocess.run(["unshare", "--mount", "sh", "-c", command], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


@needs_root
@pytest.mark.needs_root
def test_a_full_disk_says_so(tmp_path: Path) -> None:
    """On a really full file system each write says so and what helps, the old file stays whole, and space heals it."""
    found = in_namespace(
        tmp_path,
        "-t tmpfs -o size=256k,mode=0700 tmpfs",
        """
        import json, os, sys
        from vaultd.errors import StoreError
        from vaultd.store import DirectoryStore
        store = DirectoryStore(sys.argv[1] + "/vault", create=True)
        store.create("keyring", b"old")
        store.create("log", b"")
        log = store.append("log")
        found = {}
        def attempt(name, call):
            try:
                call()
                found[name] = "done"
            except StoreError as error:
                found[name] = f"{error.message} | {error.hint}"
        store.create("filler", bytes(180 * 1024))
        attempt("replace", lambda: store.replace("keyring", bytes(100 * 1024)))
        attempt("append", lambda: log.append(bytes(100 * 1024)))
        found["old"] = store.read("keyring", 100).decode()
        found["names"] = " ".join(os.listdir(sys.argv[1] + "/vault"))
        attempt("again", lambda: log.append(b"1"))
        store.remove("filler")
        attempt("healed", lambda: store.replace("keyring", bytes(100 * 1024)))
        print(json.dumps(found))
        """,
    )
    assert "no space left on device | free space" in found["replace"]
    assert "no space left on device | free space" in found["append"]
    assert found["old"] == "old"
    assert sorted(found["names"].split()) == ["filler", "keyring", "lock", "log"]
    assert "earlier write" in found["again"]
    assert found["healed"] == "done"


@needs_root
@pytest.mark.needs_root
def test_a_read_only_file_system_says_so(tmp_path: Path) -> None:
    """A directory on a read-only file system is refused for writing with a hint, and opens for reading."""
    found = in_namespace(
        tmp_path,
        "-t tmpfs -o size=256k,mode=0700 tmpfs",
        """
        import json, subprocess, sys
        from vaultd.errors import StoreError
        from vaultd.store import DirectoryStore
        with DirectoryStore(sys.argv[1] + "/vault", create=True) as store:
            store.create("keyring", b"kept")
        subprocess.run(["mount", "-o", "remount,ro", sys.argv[1]], check=True)
        found = {}
        for name in ("vault", "new"):
            try:
                DirectoryStore(f"{sys.argv[1]}/{name}", create=True)
            except StoreError as error:
                found[name] = f"{error.message} | {error.hint}"
        with DirectoryStore(sys.argv[1] + "/vault", read_only=True) as store:
            found["read"] = store.read("keyring", 9).decode()
        print(json.dumps(found))
        """,
    )
    assert "read-only file system | mount the file system read-write" in found["vault"]
    assert "read-only file system | mount the file system read-write" in found["new"]
    assert found["read"] == "kept"


@needs_root
@pytest.mark.needs_root
def test_somebody_elses_directory_is_refused(tmp_path: Path) -> None:
    """Root does not write in another user's directory, and reads there only what is that user's."""
    with DirectoryStore(tmp_path / "vault", create=True) as store:
        store.create("mine", b"1")
        store.create("theirs", b"1")
    os.chown(tmp_path / "vault", 4321, 4321)
    os.chown(tmp_path / "vault" / "theirs", 4321, 4321)
    with pytest.raises(ConfigError, match="belongs to uid 4321"):
        DirectoryStore(tmp_path / "vault")
    with DirectoryStore(tmp_path / "vault", read_only=True) as reader:
        assert reader.read("theirs", 1) == b"1"
        with pytest.raises(ConfigError, match="belongs to uid 0"):
            reader.read("mine", 1)


def test_whatever_the_system_refuses_is_a_store_error(vault: DirectoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking at an open file can fail as well; and a write that takes nothing is an error, not an endless loop."""
    vault.create("file", b"x")
    file = vault.append("file")

    def refuse(*arguments: object, **options: object) -> os.stat_result:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", refuse)
        with pytest.raises(StoreError, match=r"cannot look at .*input/output error"):
            vault.read("file", 1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", refuse)
        with pytest.raises(StoreError, match=r"cannot look at .*input/output error"):
            file.check()
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda *arguments: 0)
        with pytest.raises(StoreError, match="input/output error"):
            file.append(b"y")
    file.close()


def test_tidy_is_not_stopped_by_what_is_not_ours(tmp_path: Path) -> None:
    """A directory that somebody named like a file on its way stays; a link goes, and what it leads to stays."""
    (tmp_path / "kept").write_text("kept")
    with DirectoryStore(tmp_path / "vault", create=True) as store:
        (tmp_path / "vault" / ".new.folder").mkdir()
        (tmp_path / "vault" / ".new.link").symlink_to(tmp_path / "kept")
        (tmp_path / "vault" / ".new.dangling").symlink_to("nowhere")
        assert store.tidy() == 2
    assert os.listdir(tmp_path / "vault" / ".new.folder") == []
    assert (tmp_path / "kept").read_text() == "kept"
