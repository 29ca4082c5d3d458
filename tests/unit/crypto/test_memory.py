"""Secrets in memory: what they show, what they allow, and what is left of them."""

from __future__ import annotations

import copy
import json
import os
import pickle
import resource
import subprocess
import sys
import traceback
from typing import TYPE_CHECKING

import msgpack
import pytest

from vaultd.crypto import sodium
from vaultd.crypto.memory import Key, SecretBytes, arena_status, wipe
from vaultd.errors import Internal

if TYPE_CHECKING:
    from collections.abc import Callable

MARKER = b"sk-live-0123456789abcdef-marker!"


def secrets() -> list[SecretBytes]:
    """The same 32 bytes in both kinds of memory, and behind an offset."""
    behind = SecretBytes(sodium.from_buffer(bytearray(b"\0\0\0\x20" + MARKER + bytes(28))), 4, 32)
    return [SecretBytes.copy_of(MARKER), Key.copy_of(MARKER), behind]


@pytest.fixture(params=[0, 1, 2], ids=["buffer", "arena", "offset"])
def secret(request: pytest.FixtureRequest) -> SecretBytes:
    """A secret that holds `MARKER`."""
    return secrets()[request.param]


def test_view_and_length(secret: SecretBytes) -> None:
    """A view shows exactly the secret, and cannot be written through."""
    assert len(secret) == 32
    assert secret.view() == MARKER
    assert secret.view() is secret.view()
    with pytest.raises(TypeError):
        secret.view()[0] = 1  # type: ignore[index]


def test_text_forms_are_redacted(secret: SecretBytes) -> None:
    """No text form shows the secret or its length."""
    name = type(secret).__name__
    for text in (repr(secret), str(secret), f"{secret}", f"{secret:>40}", f"{secret!r}", "%s" % secret, f"{[secret]}"):  # noqa: UP031
        assert f"<{name} redacted>" in text
        assert "sk-live" not in text
        assert "32" not in text


def test_traceback_with_locals_is_redacted(secret: SecretBytes) -> None:
    """A traceback that prints local variables does not print the secret."""

    def fails(value: SecretBytes) -> None:
        held = {"value": value}
        raise ValueError(len(held))

    try:
        fails(secret)
    except ValueError as error:
        text = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    assert "redacted" in text
    assert "sk-live" not in text


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_is_refused(secret: SecretBytes, protocol: int) -> None:
    """No pickle protocol takes a secret."""
    with pytest.raises(Internal):
        pickle.dumps(secret, protocol)


@pytest.mark.parametrize("copier", [copy.copy, copy.deepcopy, lambda secret: copy.deepcopy([secret])])
def test_copying_is_refused(secret: SecretBytes, copier: object) -> None:
    """A secret has one owner: copy and deepcopy are refused."""
    with pytest.raises(Internal):
        copier(secret)  # type: ignore[operator]


@pytest.mark.parametrize(
    "taker",
    [
        bytes,
        bytearray,
        memoryview,
        list,
        tuple,
        json.dumps,
        msgpack.packb,
        hash,
        lambda secret: secret + b"",
        os.fsencode,
    ],
)
def test_conversions_are_refused(secret: SecretBytes, taker: object) -> None:
    """Nothing turns a secret into something else by accident."""
    with pytest.raises(TypeError):
        taker(secret)  # type: ignore[operator]


def test_equality(secret: SecretBytes) -> None:
    """Secrets equal by content, whatever memory they are in; and never anything that is not bytes."""
    for other in [*secrets(), MARKER, bytearray(MARKER), memoryview(MARKER)]:
        assert secret == other
    for other in (MARKER[:-1], MARKER + b"\0", bytes(32), b"", SecretBytes.copy_of(MARKER[:31])):
        assert secret != other
    assert secret != MARKER.decode()
    assert secret is not None


@pytest.mark.parametrize("bit", range(0, 256, 7))
def test_equality_sees_every_bit(secret: SecretBytes, bit: int) -> None:
    """One bit of difference is a difference."""
    other = bytearray(MARKER)
    other[bit // 8] ^= 1 << bit % 8
    assert secret != other


def test_wipe_zeroes_the_taken_buffer() -> None:
    """`take` does not copy: wiping zeroes the very buffer that was handed over."""
    buffer = bytearray(MARKER)
    secret = SecretBytes.take(buffer)
    secret.wipe()
    assert buffer == bytes(32)


def test_end_of_block_and_of_life_wipe() -> None:
    """The end of a `with` block wipes, and so does the end of the object."""
    first, second = bytearray(MARKER), bytearray(MARKER)
    with SecretBytes.take(first) as secret:
        assert secret == MARKER
    assert first == bytes(32)
    secret = SecretBytes.take(second)
    del secret
    assert second == bytes(32)


def test_wiping_a_part_wipes_the_whole_buffer() -> None:
    """A secret inside a larger buffer takes the rest of the buffer with it: the padding told its length."""
    buffer = bytearray(b"\0\0\0\x20" + MARKER + b"tail")
    part = SecretBytes(sodium.from_buffer(buffer), 4, 32)
    assert part == MARKER
    part.wipe()
    assert buffer == bytes(40)


def test_use_after_wipe_raises(secret: SecretBytes) -> None:
    """A wiped secret is a bug to use, and harmless to wipe again."""
    secret.wipe()
    secret.wipe()
    with pytest.raises(Internal, match="wiped"):
        secret.view()
    with pytest.raises(Internal, match="wiped"):
        secret.pointer  # noqa: B018
    with pytest.raises(Internal, match="wiped"):
        assert secret == MARKER
    with pytest.raises(Internal, match="wiped"):
        SecretBytes.copy_of(secret)
    assert "redacted" in repr(secret)


def test_wiped_unused_offset_secret_is_gone() -> None:
    """A secret behind an offset whose pointer was never asked for is wiped like any other."""
    buffer = bytearray(b"\0\0\0\x20" + MARKER)
    part = SecretBytes(sodium.from_buffer(buffer), 4, 32)
    part.wipe()
    with pytest.raises(Internal, match="wiped"):
        part.pointer  # noqa: B018


def test_view_may_be_released_by_its_user(secret: SecretBytes) -> None:
    """A `with` block around a view ends that view, not the secret."""
    with secret.view() as view:
        assert view == MARKER
    assert secret.view() == MARKER
    secret.wipe()


def test_view_is_released_by_wipe(secret: SecretBytes) -> None:
    """A view that was kept raises after the wipe, instead of showing what the place holds next."""
    view = secret.view()
    secret.wipe()
    with pytest.raises(ValueError, match="released"):
        view[0]


@pytest.mark.parametrize("maker", [SecretBytes.random, Key.random])
def test_view_of_a_secret_that_nobody_kept_raises(maker: Callable[[], SecretBytes]) -> None:
    """A view taken from a temporary is an error at once, not a row of zeros later."""
    view = maker().view()
    with pytest.raises(ValueError, match="released"):
        bytes(view)


def test_arena_place_still_looked_at_is_not_reused() -> None:
    """A key's place that somebody holds a buffer of is retired, so that no later key appears under it."""
    key = Key.copy_of(MARKER)
    looker = pickle.PickleBuffer(key.view())
    key.wipe()
    assert bytes(looker.raw()) == bytes(32)
    fresh = [Key.random() for _ in range(2000)]
    assert bytes(looker.raw()) == bytes(32)
    looker.release()
    assert len({bytes(each.view()) for each in fresh}) == 2000


def test_arena_places_are_reused_and_distinct() -> None:
    """Places come back after a wipe; keys that live at the same time never share one."""
    keys = [Key.random() for _ in range(1000)]
    assert len({bytes(key.view()) for key in keys}) == 1000
    mapped = arena_status().mapped
    for _ in range(5):
        for key in keys:
            key.wipe()
        keys = [Key.random() for _ in range(1000)]
    assert arena_status().mapped == mapped


def test_double_wipe_gives_a_place_back_once() -> None:
    """Wiping twice must not make two later keys share one place."""
    key = Key.random()
    key.wipe()
    key.wipe()
    one, two = Key.copy_of(bytes(32)), Key.copy_of(b"\xff" * 32)
    assert one == bytes(32)
    assert two == b"\xff" * 32


def test_key_sizes() -> None:
    """A key has 32 bytes, whichever way it is made."""
    for size in (0, 31, 33, 64):
        with pytest.raises(Internal):
            Key.copy_of(bytes(size))
        with pytest.raises(Internal):
            Key.take(bytearray(size))
        with pytest.raises(Internal):
            Key.random(size)


def test_key_take_wipes_its_source() -> None:
    """Moving a key into the arena leaves zeros where it was."""
    source = bytearray(MARKER)
    assert Key.take(source) == MARKER
    assert source == bytes(32)


def test_taken_buffer_cannot_be_resized() -> None:
    """An owned buffer refuses to grow, so that no reallocation leaves a copy."""
    buffer = bytearray(MARKER)
    secret = SecretBytes.take(buffer)
    with pytest.raises(BufferError):
        buffer.extend(b"more")
    assert secret == MARKER


def test_empty_secret() -> None:
    """A secret may be empty, and behaves."""
    with SecretBytes.take(bytearray()) as secret:
        assert len(secret) == 0
        assert secret == b""
        assert not secret


def test_wipe_function() -> None:
    """`wipe` zeroes bytearrays and writable views, and says so when it cannot."""
    buffer = bytearray(b"abcdef")
    wipe(memoryview(buffer)[2:4])
    assert buffer == b"ab\0\0ef"
    wipe(buffer)
    assert buffer == bytes(6)
    with pytest.raises(Internal):
        wipe(memoryview(b"abc"))


FLAGS = """
from vaultd.crypto import sodium
from vaultd.crypto.memory import Key, arena_status
from vaultd.crypto import sodium
key = Key.random()
address = int(str(key.pointer).split("0x")[1].split(">")[0], 16)
flags = None
for line in open("/proc/self/smaps"):
    head = line.split()[0]
    if "-" in head and not head.endswith(":"):
        low, high = (int(part, 16) for part in head.split("-"))
        inside = low <= address < high
    elif head == "VmFlags:" and inside:
        flags = line.split()[1:]
print(sorted(set(flags) & {"lo", "dd"}), arena_status().mapped > 0, arena_status().locked)
"""


def test_arena_is_locked_and_left_out_of_core_files() -> None:
    """The kernel itself says that the arena's pages are locked and not dumped."""
    done = subprocess.run([sys.executable, "-c", FLAGS], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.startswith("['dd', 'lo'] True ")
    assert int(done.stdout.split()[-1]) > 0


def test_arena_without_lockable_memory() -> None:
    """Where nothing may be locked, keys still work, and the status says that they are not locked."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
            if os.geteuid() == 0:
                os.setresuid(65534, 65534, 65534)  # the limit does not bind root
            before = arena_status()
            keys = [Key.random() for _ in range(3000)]
            after = arena_status()
            distinct = len({bytes(key.view()) for key in keys})
            os.write(writer, repr((distinct, after.mapped > before.mapped, after.locked == before.locked)).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reader) as answer:
        assert answer.read() == "(3000, True, True)"
    assert status == 0


def test_secrets_that_outlive_the_interpreters_modules() -> None:
    """Keys and values that are still alive at exit are wiped without a word on stderr."""
    script = (
        "from vaultd.crypto.memory import Key, SecretBytes\n"
        "held = [Key.random(), SecretBytes.random(100)]\n"
        "views = [secret.view() for secret in held]\n"
        "cycle = [Key.random(), views]\ncycle.append(cycle)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
