"""Files on their way in: read once, in order, and not stored when they changed meanwhile."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaultclient._sources import Source, upload_source
from vaultclient.errors import Conflict, Invalid, VaultError
from vaultd.protocol import MAX_TAIL

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TARGET = {"tenant": "acme", "secret": "big"}
SIZE = 3 * MAX_TAIL + 17


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of several chunks."""
    made = tmp_path / "big"
    made.write_bytes(os.urandom(SIZE))
    return made


def steps(source: Source, op: str = "secret.put") -> list[tuple[str, dict[str, Any], bytes]]:
    """What is asked of the daemon, with a copy of each tail."""
    return [(step, keys, bytes(tail)) for step, keys, tail in upload_source(source, op, TARGET)]


def content(asked: list[tuple[str, dict[str, Any], bytes]]) -> bytes:
    """The value that the requests bring; chunks are in order and without gaps."""
    if len(asked) == 1:
        return asked[0][2]
    done = b""
    for step, keys, tail in asked[1:-1]:
        assert (step, keys) == ("value.chunk", {"offset": len(done)})
        done += tail
    return done


@given(st.integers(1, 4 * MAX_TAIL + 3))
def test_any_length_comes_whole(size: int) -> None:
    """What an object gives is brought byte for byte, in a tail where it fits one, else announced without a size."""
    data = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    asked = steps(Source(io.BytesIO(data)))
    assert content(asked) == data
    if size < MAX_TAIL:
        assert [step for step, _, _ in asked] == ["secret.put"]
    else:
        assert asked[0][:2] == ("value.begin", TARGET)
        assert asked[-1][:2] == ("secret.put", {**TARGET, "upload": True})


def test_a_file_is_announced_with_its_size(path: Path) -> None:
    """A regular file's size goes ahead of it; a rotation is announced as one, and progress is told."""
    told: list[tuple[int, int | None]] = []
    with Source(path) as source:
        asked = list(upload_source(source, "rotate.secret", TARGET, lambda *where: told.append(where)))
    assert asked[0][:2] == ("value.begin", {**TARGET, "rotate": True, "size": SIZE})
    assert asked[-1][:2] == ("rotate.secret", {**TARGET, "upload": True})
    assert told[-1] == (SIZE, SIZE)
    assert [done for done, _ in told] == sorted({done for done, _ in told})


def test_a_descriptor_is_read_from_where_it_stands(path: Path) -> None:
    """Standard input that was read from before gives what is left of it, and is not closed."""
    with open(path, "rb", buffering=0) as file:
        file.seek(MAX_TAIL)
        with Source(file.fileno()) as source:
            assert source.size == SIZE - MAX_TAIL
            asked = steps(source)
        assert content(asked) == path.read_bytes()[MAX_TAIL:]
        os.fstat(file.fileno())


def test_a_pipe_has_no_size() -> None:
    """What comes through a pipe in pieces is gathered into whole chunks."""
    read, write = os.pipe()
    with os.fdopen(read, "rb") as reader, os.fdopen(write, "wb", buffering=0) as writer:
        for piece in (b"a" * 10, b"b" * 100):
            writer.write(piece)
        writer.close()
        with Source(reader.fileno()) as source:
            assert source.size is None
            assert steps(source) == [("secret.put", TARGET, b"a" * 10 + b"b" * 100)]


def test_the_kernels_own_files(tmp_path: Path) -> None:
    """A file that says it has no bytes and has some, as those of /proc, is read to its end."""
    with Source("/proc/self/status") as source:
        assert source.size is None
        assert content(steps(source)).startswith(b"Name:")


def _grow(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"x")


def _rewrite(path: Path) -> None:
    before = path.stat()
    with open(path, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\0")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as a copying tool hides it


def _punch(path: Path) -> None:
    content = path.read_bytes()
    with open(path, "r+b") as file:
        file.truncate(0)
        file.seek(SIZE - 1)
        file.write(content[-1:])


CHANGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "grows": (_grow, "grown"),
    "grows far": (lambda path: os.truncate(path, 9 * SIZE), "grown"),
    "shrinks": (lambda path: os.truncate(path, SIZE - 1), "ends after"),
    "is emptied": (lambda path: os.truncate(path, 0), "ends after"),
    "is written to": (_rewrite, "written to"),
    "gets holes": (_punch, "written to"),
}


@pytest.mark.parametrize("after", [1, 2, 4], ids=["at the first chunk", "in the middle", "at the last"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_is_not_stored(path: Path, change: str, after: int) -> None:
    """Whenever it happens, the request that would store the value is never made, and the error says what happened."""
    alter, words = CHANGES[change]
    asked: list[str] = []

    def upload(source: Source) -> None:
        for count, step in enumerate(upload_source(source, "secret.put", TARGET)):
            asked.append(step[0])
            if count == after:
                alter(path)

    with Source(path) as source, pytest.raises(Conflict, match="changed while it was read") as caught:
        upload(source)
    assert "secret.put" not in asked
    # What was read whole before it shrank is told by its size alone.
    assert ("shrunk" if words == "ends after" and after == 4 else words) in caught.value.message
    assert "nothing was stored" in caught.value.hint


def test_holes(tmp_path: Path) -> None:
    """A file with a hole is refused, naming where; asked for, holes are brought as the zeros that they read as."""
    path = tmp_path / "sparse"
    with open(path, "wb") as file:
        file.write(b"x" * 65_536)
        file.truncate(4 * 65_536)
        file.seek(4 * 65_536)
        file.write(b"end")
    for source in (path, open(path, "rb")):  # noqa: SIM115  closed below
        with pytest.raises(Invalid, match="hole at byte 65536"):
            Source(source)
        if not isinstance(source, type(path)):
            source.seek(4 * 65_536)  # what comes from here on has none
            assert content(steps(Source(source))) == b"end"
            source.close()
    with Source(path, sparse=True) as source:
        assert content(steps(source)) == b"x" * 65_536 + bytes(3 * 65_536) + b"end"


def test_a_file_object_is_held_to_the_same(path: Path) -> None:
    """An open file has its size from where it stands, and must not change either."""
    with open(path, "rb") as file:
        file.seek(17)
        source = Source(file)
        assert source.size == SIZE - 17
        running = upload_source(source, "secret.put", TARGET)
        next(running)
        _rewrite(path)
        with pytest.raises(Conflict):
            list(running)


def test_the_buffer_is_wiped(path: Path) -> None:
    """At the end, and when the upload is given up, nothing of the file is left in the buffer."""
    for whole in (True, False):
        with Source(path) as source:
            running = upload_source(source, "secret.put", TARGET)
            _, _, _ = next(running)
            _, _, tail = next(running)
            assert any(tail)
            if whole:
                list(running)
            running.close()
            assert not any(tail)


@pytest.mark.parametrize(
    ("file", "code"),
    [("/nonexistent/file", "io"), ("/", "io"), (io.StringIO("text"), "invalid"), (b"value", "invalid")],
    ids=["not there", "a directory", "text", "a value"],
)
def test_what_is_no_file(file: Any, code: str) -> None:
    """Each gets its code and a sentence, before anything is asked."""
    with pytest.raises(VaultError) as caught:
        Source(file)
    assert caught.value.code == code


def test_an_empty_file(tmp_path: Path) -> None:
    """Nothing is no value."""
    (tmp_path / "empty").touch()
    with Source(tmp_path / "empty") as source, pytest.raises(Invalid, match="empty"):
        steps(source)
