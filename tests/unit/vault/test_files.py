"""Files through the embedded vault: sources that stay as they are, sources that do not, and values as files."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.blob_world import MIB, content
from vaultd.clock import ManualClock
from vaultd.crypto.kdf import CHEAPEST
from vaultd.errors import ConfigError, Conflict, IntegrityError, Invalid, NotFound, StoreError
from vaultd.vault import offline
from vaultd.vault.embedded import Vault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from vaultd.vault.embedded import Tenant

WORDS = "correct horse battery staple"
VALUE = content(2 * MIB + 4321)


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[Vault]:
    Vault.create(tmp_path / "vault", passphrase=WORDS, profile=CHEAPEST, clock=ManualClock())
    with Vault.open(tmp_path / "vault", passphrase=WORDS, minimum=CHEAPEST, clock=ManualClock()) as vault:
        vault.create_tenant("acme")
        yield vault


@pytest.fixture
def acme(vault: Vault) -> Tenant:
    return vault.tenant("acme")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").write_bytes(VALUE)
    return tmp_path / "source"


def whole(acme: Tenant, name: str = "model") -> bytes:
    with acme.open(name) as file:
        return file.read()


def stored_files(vault_path: Path) -> list[str]:
    return [name for _, _, names in os.walk(vault_path / "tenants") for name in names if not name.startswith("log.")]


def test_a_file_goes_in_and_comes_out(acme: Tenant, source: Path) -> None:
    """By path, by text path, by open file from where it stands, by pipe: the same content comes back."""
    assert acme.put_file("model", source) == 1
    assert whole(acme) == VALUE
    assert acme.put_file("model", str(source)) == 2
    with source.open("rb") as file:
        file.seek(1000)
        acme.put_file("model", file)
    assert whole(acme) == VALUE[1000:]
    with source.open("rb", buffering=0) as raw:
        acme.put_file("model", raw)  # type: ignore[arg-type]
    assert whole(acme) == VALUE
    acme.put_file("model", io.BytesIO(VALUE))
    assert whole(acme) == VALUE
    reading, writing = os.pipe()

    def fill() -> None:
        with os.fdopen(writing, "wb") as end:
            end.write(VALUE)

    thread = threading.Thread(target=fill)
    thread.start()
    with os.fdopen(reading, "rb") as pipe:
        acme.put_file("model", pipe)
    thread.join()
    assert whole(acme) == VALUE


def test_a_small_file_is_a_value(acme: Tenant, source: Path) -> None:
    """Up to 1 MiB a file is a value that `get` gives; `open` reads both kinds."""
    source.write_bytes(b"-----BEGIN KEY-----")
    acme.put_file("key", source)
    assert acme.get("key") == b"-----BEGIN KEY-----"
    assert whole(acme, "key") == b"-----BEGIN KEY-----"
    acme.put("large", VALUE)
    assert whole(acme, "large") == VALUE
    assert [acme.history(name).versions[0].size for name in ("key", "large")] == [None, len(VALUE)]
    with pytest.raises(Invalid, match="is a file of 2101473 bytes"):
        acme.get("large")


def test_it_reads_like_a_file(acme: Tenant, source: Path) -> None:
    """Seek, tell, short reads at the end, places behind it, a buffered reader around it, and nothing after `close`."""
    acme.put_file("model", source)
    file = acme.open("model")
    assert (file.size, file.version, file.readable(), file.seekable(), file.writable()) == (
        len(VALUE),
        1,
        True,
        True,
        False,
    )
    assert file.seek(-10, os.SEEK_END) == len(VALUE) - 10
    assert file.read(100) == VALUE[-10:]
    assert file.read(100) == b""
    assert file.seek(5, os.SEEK_CUR) == len(VALUE) + 5
    assert file.readinto(bytearray(3)) == 0
    assert file.seek(MIB) == file.tell() == MIB
    buffer = bytearray(7)
    assert file.readinto(buffer) == 7
    assert buffer == VALUE[MIB : MIB + 7]
    for wrong in (lambda: file.seek(-1), lambda: file.seek(0, 9)):
        with pytest.raises(ValueError, match="before the beginning"):
            wrong()
    file.seek(0)
    assert io.BufferedReader(file).read() == VALUE
    file.close()
    file.close()
    for call in (file.tell, lambda: file.readinto(bytearray(1)), lambda: file.seek(0)):
        with pytest.raises(ValueError, match="closed"):
            call()


class Moody(io.FileIO):
    """A file to which something happens after its first piece was read."""

    def __init__(self, path: Path, deed: Callable[[], Any]) -> None:
        super().__init__(path)
        self._deed: Callable[[], Any] | None = deed

    def readinto(self, buffer: Any) -> int:
        count = super().readinto(buffer)
        deed, self._deed = self._deed, None
        if deed is not None:
            deed()
        return count or 0


def _grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def _rewrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"other")
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize(
    ("deed", "words"),
    [
        (_grow, "grew while it was read, from 2101473 to 2101477 bytes"),
        (lambda path: os.truncate(path, 1_500_000), "shrank while it was read, from 2101473 to 1500000 bytes"),
        (lambda path: os.truncate(path, 5), "shrank while it was read, from 2101473 to 5 bytes"),
        (_rewrite, "was written to while it was read"),
    ],
    ids=["grows", "shrinks", "shrinks below", "rewritten"],
)
def test_a_source_that_changes_is_refused(
    acme: Tenant, source: Path, tmp_path: Path, deed: Callable[[Path], None], words: str
) -> None:
    """A file that grows, shrinks or is written to while it is read is named so, and nothing of it is kept."""
    with Moody(source, lambda: deed(source)) as file, pytest.raises(Conflict, match=words) as refused:
        acme.put_file("model", file)  # type: ignore[arg-type]
    assert refused.value.hint
    assert acme.secrets() == []
    assert stored_files(tmp_path / "vault") == []


def test_a_source_with_holes_is_refused(acme: Tenant, source: Path, tmp_path: Path) -> None:
    """Holes are refused with the place and the way round them, and taken for zeros only when that is said."""
    with source.open("r+b") as file:
        file.seek(4 * MIB)
        file.write(b"end")
    with source.open("rb") as file:
        if os.lseek(file.fileno(), 0, os.SEEK_HOLE) >= 4 * MIB:
            pytest.skip("this file system has no holes")
    with pytest.raises(Invalid, match="has a hole at byte 210") as refused:
        acme.put_file("model", source)
    assert "sparse" in refused.value.hint
    assert stored_files(tmp_path / "vault") == []
    acme.put_file("model", source, sparse=True)
    assert whole(acme) == source.read_bytes()
    with source.open("rb") as file:
        file.seek(4 * MIB)  # a hole before the place where reading begins is no matter
        acme.put_file("model", file)
    assert acme.get("model") == b"end"


def test_what_is_no_source_is_refused(acme: Tenant, tmp_path: Path) -> None:
    """An absent file, a directory, text, an empty file: a clear error each, and nothing kept."""
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("text")
    for wrong, error in (
        (tmp_path / "absent", StoreError),
        (tmp_path, StoreError),
        (tmp_path / "empty", Invalid),
        (io.StringIO("text"), Invalid),
    ):
        with pytest.raises(error):
            acme.put_file("model", wrong)  # type: ignore[arg-type]
    with (tmp_path / "text").open() as text, pytest.raises(Invalid, match="not open for bytes"):
        acme.put_file("model", text)  # type: ignore[arg-type]
    assert acme.secrets() == []
    assert stored_files(tmp_path / "vault") == []


def test_damage_is_told_recorded_and_kept_apart(vault: Vault, acme: Tenant, source: Path, tmp_path: Path) -> None:
    """A changed file does not open, which is recorded; the tenant's other secrets are not concerned."""
    acme.put_file("model", source)
    acme.put("key", b"works on")
    uid = vault._barrier.uid("acme").hex()
    (path,) = (tmp_path / "vault" / "tenants" / uid / "blobs").iterdir()
    before = path.read_bytes()
    file = acme.open("model")
    path.write_bytes(before[:1000] + b"\0" + before[1001:])
    with file, pytest.raises(IntegrityError):
        file.read(10)
    for wrong in (before[:-1], before + b"\0", b"", before[:64]):
        path.write_bytes(wrong)
        with pytest.raises(IntegrityError):
            acme.open("model")
    path.unlink()
    with pytest.raises(IntegrityError, match="is gone"):
        acme.open("model")
    path.symlink_to(source)
    with pytest.raises(ConfigError, match="a link"):
        acme.open("model")
    path.unlink()
    os.mkfifo(path, 0o600)
    with pytest.raises(ConfigError, match="not a regular file"):
        acme.open("model")
    assert acme.get("key") == b"works on"
    bodies = [record.body for record in vault._barrier.trail(vault._barrier.uid("acme")) if record is not None]
    assert sum('"secret.open"' in body and '"failed"' in body for body in bodies) == 8


def test_a_link_in_the_folders_place_is_not_followed(vault: Vault, acme: Tenant, source: Path, tmp_path: Path) -> None:
    """With a link where the blobs should be nothing is read or written through it; the other secrets serve on."""
    acme.put_file("model", source)
    acme.put("key", b"works on")
    folder = tmp_path / "vault" / "tenants" / vault._barrier.uid("acme").hex() / "blobs"
    vault.close()
    elsewhere = tmp_path / "elsewhere"
    folder.rename(elsewhere)
    (elsewhere / ("0" * 32)).write_bytes(b"no record names this")
    folder.symlink_to(elsewhere)
    before = sorted(elsewhere.iterdir())
    with Vault.open(tmp_path / "vault", passphrase=WORDS, minimum=CHEAPEST, clock=ManualClock()) as again:
        tenant = again.tenant("acme")
        assert tenant.get("key") == b"works on"
        with pytest.raises(ConfigError, match="a link"):
            tenant.open("model")
        with pytest.raises((ConfigError, StoreError)):
            tenant.put_file("other", source)
        bodies = [record.body for record in again._barrier.trail(again._barrier.trail_uid(None)) if record is not None]
        assert sum("blobs.swept" in body and '"failed"' in body for body in bodies) == 1
    assert sorted(elsewhere.iterdir()) == before
    assert any("a link" in problem for problem in offline.check(str(tmp_path / "vault")).problems)


def test_destroying_ends_who_reads(acme: Tenant, source: Path) -> None:
    """A file that is open when its version is destroyed gives nothing more; one of another version goes on."""
    acme.put_file("model", source)
    acme.put_file("model", source)
    first, second = acme.open("model", 1), acme.open("model", 2)
    assert first.read(5) == second.read(5) == VALUE[:5]
    acme.destroy("model", 1)
    with pytest.raises(NotFound, match="destroyed meanwhile"):
        first.read(5)
    assert second.read(5) == VALUE[5:10]
    first.close()
    second.close()


def test_the_check_opens_every_chunk(acme: Tenant, vault: Vault, source: Path, tmp_path: Path) -> None:
    """`check` counts blobs among the values, names a damaged one, and notes one that nothing names."""
    acme.put_file("model", source)
    acme.put("key", b"k")
    folder = tmp_path / "vault" / "tenants" / vault._barrier.uid("acme").hex() / "blobs"
    vault.close()

    def check() -> offline.CheckReport:
        return offline.check(str(tmp_path / "vault"), secret=bytearray(WORDS.encode()), minimum=CHEAPEST)

    assert (check().problems, check().values) == ([], 2)
    (path,) = folder.iterdir()
    stray = folder / ("0" * 32)
    stray.write_bytes(path.read_bytes())
    stray.chmod(0o600)
    assert check().problems == []
    assert any("no version names this file" in note for note in check().notes)
    stray.unlink()
    before = path.read_bytes()
    path.write_bytes(before[:-50] + bytes([before[-50] ^ 1]) + before[-49:])  # in the padding, which no read touches
    (problem,) = check().problems
    assert path.name in problem
    assert check().values == 1
    path.write_bytes(b"not a blob at all")
    assert any("does not begin as a blob" in problem for problem in check().problems)
    assert any("does not begin as a blob" in problem for problem in offline.check(str(tmp_path / "vault")).problems)
    path.unlink()
    assert any("is gone" in problem for problem in check().problems)


FEEDER = """
import sys
from vaultd.crypto.kdf import CHEAPEST
from vaultd.vault.embedded import Vault
with Vault.open(sys.argv[1], passphrase=sys.argv[2], minimum=CHEAPEST) as vault:
    vault.tenant("acme").put_file("model", sys.stdin.buffer)
"""


def test_a_killed_upload_leaves_nothing(vault: Vault, tmp_path: Path) -> None:
    """A process that is killed in the middle of an upload: no version, no file, and the next opening says so."""
    vault.close()
    arguments = [sys.executable, "-c", FEEDER, str(tmp_path / "vault"), WORDS]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(VALUE)  # more than a pipe holds: what follows is under way when it returns
        process.stdin.write(VALUE)
        process.kill()
    assert len(stored_files(tmp_path / "vault")) == 1
    with Vault.open(tmp_path / "vault", passphrase=WORDS, minimum=CHEAPEST) as again:
        acme = again.tenant("acme")
        assert acme.secrets() == []
        acme.put("k", b"works on")
        bodies = [record.body for record in again._barrier.trail(again._barrier.trail_uid(None)) if record is not None]
        assert sum("blobs.swept" in body for body in bodies) == 1
    assert stored_files(tmp_path / "vault") == []


@pytest.mark.needs_root
def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """On a disk that is too small: a clear error, nothing left of the file, and the vault serves on."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m,mode=0700", "tmpfs", small], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount here: {mounted.stderr.strip()}")
    try:
        Vault.create(small / "vault", passphrase=WORDS, profile=CHEAPEST)
        with Vault.open(small / "vault", passphrase=WORDS, minimum=CHEAPEST) as vault:
            acme = vault.create_tenant("acme")
            with pytest.raises(StoreError, match="no space left") as refused:
                acme.put_file("model", io.BytesIO(content(5 * MIB)))
            assert "free space" in refused.value.hint
            assert stored_files(small / "vault") == []
            acme.put_file("model", io.BytesIO(content(MIB + 1)))
            assert whole(acme) == content(MIB + 1)
    finally:
        subprocess.run(["umount", small], check=True)


MEASURED = """
import resource, sys
from vaultd.crypto.kdf import CHEAPEST
from vaultd.vault.embedded import Vault
with Vault.open(sys.argv[1], passphrase=sys.argv[2], minimum=CHEAPEST) as vault:
    acme = vault.tenant("acme")
    buffer = bytearray(1 << 18)
    for path in sys.argv[3:]:
        acme.put_file("model", path, sparse=True)
        with acme.open("model") as file:
            while file.readinto(buffer):
                pass
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_file(vault: Vault, tmp_path: Path) -> None:
    """A file of 128 MiB takes no more memory, in and out, than one of 2 MiB."""
    vault.close()
    paths = []
    for name, size in (("small", 2 * MIB), ("large", 128 * MIB)):
        paths.append(str(tmp_path / name))
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(tmp_path / "vault"), WORDS, *paths],
        capture_output=True,
        text=True,
        check=True,
    )
    small, large = map(int, done.stdout.split())
    assert large - small < 4096, "KiB more"
