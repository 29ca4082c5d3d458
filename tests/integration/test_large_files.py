"""Files of any size through the real daemon: whole, in constant memory, over crashes, full disks and other uids."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.ctl import ctl_as
from tests.support.daemon import PASSPHRASE, Daemon
from tests.support.peers import Peer
from tests.support.raw import GROUP
from tests.support.serving import Child
from tests.support.tenants import AGENT, STRANGER, World
from vaultclient import AsyncClient, Client
from vaultclient.errors import Conflict, Denied, Unavailable, VaultError
from vaultd.protocol import MAX_TAIL

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1 << 20
BIG = {"tenant": "acme", "secret": "openai/big"}


@pytest.fixture(scope="module")
def shared() -> Iterator[Daemon]:
    """A daemon with a tenant, whose agents are this process's uid."""
    with Daemon() as running:
        running.tenant("acme")
        running.service("agents")
        running.grant("acme", "agents", "**", deliver=["fd", "env", "print"])
        yield running


def pattern(size: int) -> bytes:
    """Bytes that are the same nowhere else in a file of this size."""
    return hashlib.shake_128(b"%d" % size).digest(size)


def blobs(daemon: Daemon) -> list[str]:
    """What lies in the tenants' folders of blobs, unfinished files among it."""
    root = os.path.join(daemon.dir, "tenants")
    found = []
    for tenant in os.listdir(root):
        with contextlib.suppress(FileNotFoundError):
            found += os.listdir(os.path.join(root, tenant, "blobs"))
    return found


def settled(daemon: Daemon, count: int) -> bool:
    """Whether, after some more requests at most, so many files are left."""
    for _ in range(2_000):
        if len(blobs(daemon)) == count:
            return True
        daemon.admin.status()
    return False


SIZES = [1, MAX_TAIL - 1, MAX_TAIL, MAX_TAIL + 1, MIB - 1, MIB, MIB + 1, 5 * 262_144, 4 * MIB, 4 * MIB + 1, 9 * MIB + 7]


@pytest.mark.parametrize("size", SIZES)
def test_any_size_comes_back(shared: Daemon, tmp_path: Path, size: int) -> None:
    """From a file of known size and from a stream of unknown: read whole, streamed and by ranges, it is the same."""
    value = pattern(size)
    (tmp_path / "file").write_bytes(value)
    shared.admin.put_file("acme", "sizes/file", tmp_path / "file")
    shared.admin.put_file("acme", "sizes/stream", io.BytesIO(value))
    with shared.client() as client:
        for name in ("sizes/file", "sizes/stream"):
            with client.lease("acme", name) as lease:
                assert lease.size == size
                with lease.open() as file:
                    assert file.read(size + 1)[: 3 * MAX_TAIL] == value[: min(size, MIB, 3 * MAX_TAIL)]
                    file.seek(size // 2)
                    assert file.read(100) == value[size // 2 : size // 2 + 100]
                with lease.stream() as stream:
                    assert stream.readall() == value
                if size <= 4 * MIB:
                    assert bytes(lease.value) == value
                    assert os.pread(lease.fd(), size + 1, 0) == value
    item = next(item for item in shared.admin.pages("secret.list", {"tenant": "acme"}) if item["secret"] == name)
    assert item["size"] == (size if size > MIB else None)


def test_asynchronous_clients(shared: Daemon, tmp_path: Path) -> None:
    """The same for asyncio, beside other requests; a cancelled upload leaves nothing."""
    value = pattern(3 * MIB + 1)
    (tmp_path / "file").write_bytes(value)
    before = len(blobs(shared))

    async def scenario() -> None:
        async with AsyncClient(shared.socket, environ={}) as client:
            told: list[int] = []
            stored = asyncio.create_task(
                client.put_file("acme", "async", tmp_path / "file", progress=lambda done, _: told.append(done))
            )
            await client.status()
            assert await stored == 1
            assert told[-1] == len(value)
            assert await client.rotate_file("acme", "async", io.BytesIO(value)) == 2
            async with client.lease("acme", "async") as lease, await lease.open() as file:
                assert file.size == len(value)
                whole, buffer = bytearray(), bytearray(MIB)
                while count := await file.readinto(buffer):
                    whole += buffer[:count]
                assert whole == value
            async with await client.open("acme", "async", version=1) as file:
                file.seek(-1, os.SEEK_END)
                assert await file.readinto(buffer) == 1
            begun = asyncio.Event()
            loop = asyncio.get_running_loop()

            def progress(_done: int, _all: int | None) -> None:
                loop.call_soon_threadsafe(begun.set)

            cancelled = asyncio.create_task(client.put_file("acme", "cancelled", tmp_path / "file", progress=progress))
            await begun.wait()
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled

    asyncio.run(scenario())
    assert settled(shared, before + 2)
    assert "cancelled" not in {item["secret"] for item in shared.admin.pages("secret.list", {"tenant": "acme"})}


def test_a_source_that_changes(shared: Daemon, tmp_path: Path) -> None:
    """A file that grows while it goes up is refused at its end: nothing is stored, and nothing is left."""
    path = tmp_path / "growing"
    path.write_bytes(pattern(3 * MIB))
    before = blobs(shared)

    def grow(done: int, _: int | None) -> None:
        if done > 2 * MIB:
            with open(path, "ab") as file:
                file.write(b"x")

    with pytest.raises(Conflict, match="grown"):
        shared.admin.put_file("acme", "growing", path, progress=grow)
    assert settled(shared, len(before))
    assert "growing" not in {item["secret"] for item in shared.admin.pages("secret.list", {"tenant": "acme"})}


def high_water(daemon: Daemon) -> int:
    """KiB that the daemon had resident at most since `forget_high_water`."""
    with open(f"/proc/{daemon.process.pid}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM:"))


def forget_high_water(daemon: Daemon) -> None:
    """Let the kernel begin to watch anew."""
    with open(f"/proc/{daemon.process.pid}/clear_refs", "w", encoding="ascii") as file:
        file.write("5")


@pytest.mark.needs_root
def test_the_daemons_memory_does_not_grow_with_the_file(daemon: Daemon) -> None:
    """40 MiB up and down, announced and not, by pipe and by ranges: the daemon's peak grows by a few chunks."""
    daemon.tenant("acme")
    daemon.service("agents")
    daemon.grant("acme", "agents", "**")
    size = 40 * MIB
    piece = pattern(MIB)

    class Endless(io.RawIOBase):
        left = size

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any, /) -> int:
            count = min(len(buffer), self.left)
            buffer[:count] = (piece * (count // MIB + 1))[:count]
            self.left -= count
            return count

    daemon.admin.put_file("acme", "warm", io.BytesIO(pattern(6 * MIB)))
    with daemon.client() as client:
        with client.lease("acme", "warm") as lease, lease.stream() as stream:
            stream.readall()
        forget_high_water(daemon)
        before = high_water(daemon)
        daemon.admin.put_file("acme", "large", Endless())
        with client.lease("acme", "large") as lease:
            for opened in (lease.stream(), lease.open()):
                with opened:
                    buffer, count = bytearray(MIB), 0
                    while got := opened.readinto(buffer):
                        count += got
                    assert count == size
        assert high_water(daemon) - before < 12 * 1_024


def test_killed_in_the_middle_of_an_upload(daemon: Daemon) -> None:
    """kill -9 leaves the versions that were there, and none of the file once the tenant is opened again."""
    daemon.tenant("acme", kept=b"sk-kept")
    daemon.admin.put("acme", "large", pattern(3 * MIB))
    client = daemon.client()
    client.call("value.begin", {"tenant": "acme", "secret": "large", "size": 9 * MIB})
    for offset in range(0, 4 * MIB, MAX_TAIL):
        client.call("value.chunk", {"offset": offset}, pattern(MAX_TAIL))
    assert len(blobs(daemon)) == 2
    daemon.stop(signal.SIGKILL)
    client.close()
    daemon.start()
    daemon.unseal()
    with daemon.admin.open("acme", "large") as file:
        assert file.size == 3 * MIB
        assert io.BufferedReader(file).read() == pattern(3 * MIB)
    assert [item["version"] for item in daemon.admin.pages("secret.list", {"tenant": "acme"})] == [1, 1]
    assert len(blobs(daemon)) == 1
    daemon.admin.put_file("acme", "large", io.BytesIO(pattern(5 * MIB)))
    assert daemon.stop() == 0


def test_killed_in_the_middle_of_a_pipe(daemon: Daemon) -> None:
    """The reader of a pipe whose daemon died does not take what came for the value; ranges go on after a restart."""
    daemon.tenant("acme")
    value = pattern(6 * MIB)
    daemon.admin.put("acme", "large", value)
    daemon.service("agents")
    daemon.grant("acme", "agents", "**")
    with daemon.client(retry_for=30) as client, client.run("acme", scope=["**"], anchor=os.getpid()) as run:
        lease = run.lease("large").acquire()
        stream, file = lease.stream(), lease.open()
        assert stream.read(100) == value[:100]
        daemon.stop(signal.SIGKILL)
        daemon.start()
        daemon.unseal()
        with pytest.raises((Denied, Unavailable)):
            stream.readall()
        again = run.lease("large", version=1).acquire()
        with again.open() as opened:
            opened.seek(100)
            assert opened.read(50) == value[100:150]
        stream.close()
        file.close()


def test_an_ordered_stop_ends_uploads_and_pipes(daemon: Daemon) -> None:
    """SIGTERM does not wait for readers of pipes, nor leave what was not finished."""
    daemon.tenant("acme")
    daemon.admin.put("acme", "large", pattern(6 * MIB))
    client = daemon.client()
    answer = client.call("secret.get", {"tenant": "acme", "secret": "large", "pipe": True})
    client.call("value.begin", {"tenant": "acme", "secret": "large"})
    for offset in range(0, 3 * MIB, MAX_TAIL):
        client.call("value.chunk", {"offset": offset}, pattern(MAX_TAIL))
    assert daemon.stop() == 0
    assert len(blobs(daemon)) == 1
    assert answer.fd is not None
    assert len(b"".join(iter(lambda: os.read(answer.fd, MIB), b""))) < 6 * MIB  # type: ignore[arg-type]
    answer.close()
    client.close()
    assert b"Traceback" not in daemon.log
    assert b"never retrieved" not in daemon.log


@contextlib.contextmanager
def small_disk(size: str) -> Iterator[Any]:
    """A prefix for a daemon's command whose vault lies on a disk of its own, and where that is seen from here."""
    holders: list[subprocess.Popen[bytes]] = []

    def prefix(folder: str) -> list[str]:
        if not holders:
            script = (
                f'mkdir "$1/small"; mount -t tmpfs -o size={size},mode=700 none "$1/small"; '
                'cp -a "$1/vault/." "$1/small/"; mount --move "$1/small" "$1/vault"; echo ready; exec cat'
            )
            command = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script, "sh", folder]
            holders.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            assert holders[0].stdout is not None
            assert holders[0].stdout.readline() == b"ready\n"
        return ["nsenter", f"--mount=/proc/{holders[0].pid}/ns/mnt"]

    try:
        yield prefix
    finally:
        for holder in holders:
            holder.communicate(timeout=10)


@pytest.mark.needs_root
def test_a_full_disk_in_the_middle() -> None:
    """The upload is refused as `io`, its space is given back, and the vault goes on; so does a smaller file."""
    with small_disk("8m") as prefix, Daemon(prefix=prefix) as daemon:
        daemon.tenant("acme", kept=b"sk-kept")
        for size in (None, 12 * MIB):
            keys = {"tenant": "acme", "secret": "large", **({"size": size} if size else {})}
            daemon.admin.call("value.begin", keys)

            def fill() -> None:
                for offset in range(0, 12 * MIB, MAX_TAIL):
                    daemon.admin.call("value.chunk", {"offset": offset}, pattern(MAX_TAIL))

            with pytest.raises(VaultError) as caught:
                fill()
            assert caught.value.code == "io"
            assert daemon.admin.status()["state"] == "unsealed"
        with daemon.admin.get("acme", "kept") as answer:
            assert bytes(answer.tail) == b"sk-kept"
        assert daemon.admin.put_file("acme", "large", io.BytesIO(pattern(4 * MIB))) == 1
        inside = f"/proc/{daemon.process.pid}/root{daemon.dir}"
        assert os.statvfs(inside).f_bavail * os.statvfs(inside).f_frsize > 2 * MIB


@pytest.mark.needs_root
def test_other_uids(world: World) -> None:
    """A lease of another's gives its ranges and pipe to nobody else, in words that say nothing of it; nor an upload."""
    value = pattern(5 * MIB)
    world.admin.put("acme", "openai/big", value)
    try:
        with Peer(world.socket, uid=AGENT) as agent, Peer(world.socket, uid=STRANGER) as stranger:
            lease = agent.call("lease.acquire", BIG).header["lease"]
            assert agent.call("lease.read", {"lease": lease, "offset": 7, "length": 9}).tail == value[7:16]
            answers = set()
            for wanted in (lease, "lease_aaaaaaaaaaaaaaaaaaaa"):
                for keys in ({"length": 9}, {"pipe": True}, {"length": 9, "memfd": True}, {}):
                    answers.add(stranger.call("lease.read", {"lease": wanted, "offset": 7, **keys}).frame)
            for tenant in ("acme", "nowhere"):
                for keys in ({}, {"size": 9 * MIB}, {"rotate": True}, {"cas": 0}):
                    asked = {"tenant": tenant, "secret": "openai/big", **keys}
                    answers.add(stranger.call("value.begin", asked).frame)
            assert len(answers) == 1
            assert agent.call("value.begin", BIG).code == "denied"  # it may lease, and nothing else
            assert agent.call("secret.get", {**BIG, "offset": 0, "length": 9}).code == "denied"
    finally:
        world.admin.call("secret.delete", BIG)


@pytest.mark.needs_root
def test_a_command_reads_its_pipe(world: World) -> None:
    """`run --fd` gives a long file as a pipe that the command opens by its path, under its own uid, and its size."""
    value = pattern(5 * MIB)
    world.admin.put("acme", "openai/big", value)
    script = 'echo "$BIG_SIZE" "$(sha256sum < "$BIG" | cut -d" " -f1)" "$(cat "$BIG" | wc -c)"'
    try:
        ended = ctl_as(
            AGENT, world.socket, "run", "--tenant", "acme", "--fd", "BIG=openai/big", "--", "sh", "-c", script
        )
        assert ended.out.split() == [str(len(value)), hashlib.sha256(value).hexdigest(), "0"], (
            ended
        )  # once, and no more
        ended = ctl_as(AGENT, world.socket, "run", "--tenant", "acme", "--env", "BIG=openai/big", "--", "true")
        assert (ended.status, "--fd BIG=openai/big" in ended.err) == (125, True)
        # A command that never reads it ends its stream by ending.
        ended = ctl_as(AGENT, world.socket, "run", "--tenant", "acme", "--fd", "BIG=openai/big", "--", "true")
        assert ended.status == 0
    finally:
        world.admin.call("secret.delete", BIG)


@pytest.mark.needs_root
def test_a_service_stores_files(world: World) -> None:
    """A back end under its own uid stores a file with `--can put`, and not where its grant does not reach."""
    uploader = 4217
    world.service("uploader", uid=uploader)
    world.grant("acme", "uploader", "uploads/**", can=["put"])

    def there() -> list[Any]:
        os.setsid()
        with Client(world.socket, environ={}) as client:
            version = client.put_file("acme", "uploads/model", io.BytesIO(pattern(2 * MIB)))
            try:
                client.put_file("acme", "openai/model", io.BytesIO(pattern(2 * MIB)))
            except VaultError as error:
                return [version, error.code]
            return [version, ""]

    assert Child(there, uid=uploader, groups=(GROUP,)).result() == [1, "denied"]
    with world.admin.open("acme", "uploads/model") as file:
        assert file.size == 2 * MIB
    world.admin.call("secret.delete", {"tenant": "acme", "secret": "uploads/model"})


def as_admin(daemon: Daemon, *arguments: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """One `vaultctl` with a ticket."""
    secret = os.path.join(daemon.folder, "passphrase")
    if not os.path.exists(secret):
        with open(os.open(secret, os.O_CREAT | os.O_WRONLY, 0o600), "wb") as file:
            file.write(PASSPHRASE)
    command = (sys.executable, "-m", "vaultclient.cli", *arguments)
    return daemon.ctl("login", "--passphrase-file", secret, "--", *command, data=data)


def test_vaultctl(shared: Daemon, tmp_path: Path) -> None:
    """put from a file and from a pipe, get to a file and to a pipe, ranges, sizes in listings, leases."""
    value = pattern(5 * MIB)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(value)
    assert as_admin(shared, "put", "acme", "ctl/file", "--file", str(source)).returncode == 0
    assert as_admin(shared, "put", "acme", "ctl/piped", data=value + b"\r\n").returncode == 0
    stripped = as_admin(shared, "rotate", "secret", "acme", "ctl/piped", "--strip-newline", data=value + b"\r\n")
    assert stripped.returncode == 0
    listed = as_admin(shared, "secrets", "acme").stdout.decode()
    assert "5.0 MiB" in listed
    assert as_admin(shared, "history", "acme", "ctl/file").stdout.decode().count("5.0 MiB") == 1
    assert as_admin(shared, "get", "acme", "ctl/piped").stdout == value
    assert as_admin(shared, "get", "acme", "ctl/piped", "--version", "1").stdout == value + b"\r\n"
    assert as_admin(shared, "get", "acme", "ctl/file", "--out", str(target)).returncode == 0
    assert target.read_bytes() == value
    assert target.stat().st_mode & 0o777 == 0o600
    for words, expected in (("5-9", value[5:9]), ("4000000-", value[4_000_000:]), ("0-99999999", value)):
        assert as_admin(shared, "get", "acme", "ctl/file", "--range", words).stdout == expected
        assert shared.ctl("lease", "acme", "ctl/file", "--range", words).stdout == expected
    assert shared.ctl("lease", "acme", "ctl/file").stdout == value
    for words in ("9-5", "5-5", "x", "-5", "5", f"{5 * MIB}-"):
        ended = as_admin(shared, "get", "acme", "ctl/file", "--range", words)
        assert (ended.returncode, ended.stdout) == (2, b""), words
    ended = as_admin(shared, "get", "acme", "ctl/file", "--json")
    assert (ended.returncode, ended.stdout) == (2, b"")


def test_vaultctl_leaves_no_half_files(daemon: Daemon, tmp_path: Path) -> None:
    """A file that does not verify to its end does not appear under its name; on standard output it ends with 65."""
    daemon.tenant("acme")
    value = pattern(6 * MIB)
    daemon.admin.put("acme", "large", value)
    (name,) = blobs(daemon)
    tenant = next(one for one in os.listdir(os.path.join(daemon.dir, "tenants")))
    path = os.path.join(daemon.dir, "tenants", tenant, "blobs", name)
    with open(path, "r+b") as file:
        file.seek(5 * MIB)
        byte = file.read(1)
        file.seek(5 * MIB)
        file.write(bytes([byte[0] ^ 1]))
    target = tmp_path / "target"
    target.write_bytes(b"before")
    ended = as_admin(daemon, "get", "acme", "large", "--out", str(target))
    assert ended.returncode == 65
    assert target.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["target"]
    ended = as_admin(daemon, "get", "acme", "large")
    assert ended.returncode == 65
    assert value.startswith(ended.stdout)
    assert len(ended.stdout) < 5 * MIB


def test_nothing_of_a_file_touches_the_disk_in_the_clear(daemon: Daemon) -> None:
    """While a file is on its way, and afterwards, no file of the vault holds any of its bytes."""
    daemon.tenant("acme")
    mark = b"canary-4b1f0e2d7c55"
    client = daemon.client()
    client.call("value.begin", {"tenant": "acme", "secret": "large"})
    chunk = (mark * (MAX_TAIL // len(mark) + 1))[:MAX_TAIL]

    def seen() -> bool:
        for folder, _, names in os.walk(daemon.dir):
            for name in names:
                with contextlib.suppress(OSError), open(os.path.join(folder, name), "rb") as file:
                    if mark in file.read():
                        return True
        return False

    for number in range(60):
        client.call("value.chunk", {"offset": number * MAX_TAIL}, chunk)
        if number % 20 == 19:
            assert not seen()
    client.call("secret.put", {"tenant": "acme", "secret": "large", "upload": True})
    assert not seen()
    client.close()
