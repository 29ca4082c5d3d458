"""System calls of the real daemon fail, or it is killed in one: nothing acknowledged is lost, and it opens again.

A sample of what `scripts/faults.py` goes through in whole.
"""

from __future__ import annotations

import os
import random
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.faults import CALLS, ERRORS, OPERATIONS, Fault, Hurt, State, injected, read, round_of, template
from tests.support.raw import Answered, Raw, framed, packed
from vaultclient.errors import Halted, VaultError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.needs_root

ROUNDS = 5
CHANGING = ("fdatasync", "fsync", "pwrite64", "pwritev2", "renameat")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, State]:
    """The vault that every round begins with, and what is in it."""
    folder: Path = tmp_path_factory.mktemp("made")
    directory = template(str(folder))
    return directory, read(directory)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_failing_call(made: tuple[str, State], operation: str) -> None:
    """Whatever call fails in whatever is done: no acknowledgement without durability, and what is left opens clean."""
    rng = random.Random(operation)
    hits = 0
    for number in range(ROUNDS):
        action = "KILL" if number % 2 else rng.choice(ERRORS)
        call = rng.choice(CALLS if number > 2 else CHANGING)
        fault = Fault(call, action, rng.randint(1, 3), lasting=action != "KILL" and rng.random() < 0.5)
        hits += round_of(made[0], operation, fault, made[1]).hit
    assert hits


def test_status_of_a_halted_vault(made: tuple[str, State]) -> None:
    """An admin of a halted vault is told so."""
    with Hurt(made[0]) as hurt:
        with injected(hurt.process.pid, Fault("fdatasync", "EIO", 1)), pytest.raises(Halted):
            hurt.admin.put("acme", "openai/prod", b"new")
        assert hurt.admin.status()["you"]["admin"]
        assert hurt.admin.status()["state"] == "halted"


def _at_once(raw: Raw, *requests: tuple[str, dict[str, Any], bytes]) -> list[Answered]:
    """Send requests in one write, so that they are decided in one turn; their answers."""
    frames = [
        framed(packed({"v": 1, "id": number, "op": op, **keys}), tail)
        for number, (op, keys, tail) in enumerate(requests, 1)
    ]
    raw.socket.sendall(b"".join(frames))
    return sorted((raw.receive() for _ in requests), key=lambda answered: int(answered.header["id"]))


CREATE = ("tenant.create", {"tenant": "initech"}, b"")
PUT = ("secret.put", {"tenant": "acme", "secret": "openai/new"}, b"new")
LEASE = ("lease.acquire", {"tenant": "acme", "secret": "openai/new", "service": "agent"}, b"")


@pytest.fixture
def warm(made: tuple[str, State]) -> Iterator[tuple[Hurt, Raw]]:
    """A daemon, and a connection to it; what is done only once has been done."""
    with Hurt(made[0]) as hurt, Raw(hurt.socket) as raw:
        hurt.admin.put("acme", "openai/spare", b"opens the tenant")
        assert raw.call("hello").code == ""
        yield hurt, raw


@pytest.mark.parametrize("at", [1, 2, 3])
def test_changes_in_two_batches(warm: tuple[Hurt, Raw], at: int) -> None:
    """A change of the keyring ends its batch: what was decided right behind it waits for the next one's flush.

    How many flushes it takes depends on how fast they are; what was decided last has needed all of them.
    """
    hurt, raw = warm
    with injected(hurt.process.pid, Fault("fdatasync", "EIO", at)) as strace:
        codes = [answered.code for answered in _at_once(raw, CREATE, PUT, LEASE)]
        hit = strace.hit
    assert set(codes) <= {"", "halted"}
    assert codes == sorted(codes)
    assert codes[-1] == ("halted" if hit else "")
    assert hit or at > 1
    assert hurt.stop() == 0
    assert "initech" in read(hurt.dir) or codes[0] == "halted"


def test_a_slow_flush_in_two_batches(warm: tuple[Hurt, Raw]) -> None:
    """The same on a disk that is slow, so that flushes run in their thread: nothing is answered before its own."""
    hurt, raw = warm
    with injected(hurt.process.pid, Fault("fdatasync", "SLOW", 1, lasting=True)):
        hurt.admin.put("acme", "openai/spare", b"slow, so the next flush is in the thread")
        answers = _at_once(raw, CREATE, PUT, LEASE)
    assert [answered.code for answered in answers] == ["", "", ""]
    assert answers[-1].tail == b"new"


def test_sealed_behind_a_change(warm: tuple[Hurt, Raw]) -> None:
    """Sealing flushes what was decided before it; if that fails, the change is not acknowledged."""
    hurt, raw = warm
    with injected(hurt.process.pid, Fault("fdatasync", "EIO", 1, lasting=True)):
        put, sealed = _at_once(raw, PUT, ("seal", {}, b""))
    assert put.code == "halted"
    assert sealed.header["recorded"] is False
    assert raw.call("status").header["state"] == "halted"


@pytest.mark.parametrize("call", ["pwritev2", "renameat"])
def test_unsealing_what_a_crash_left_fails(made: tuple[str, State], call: str) -> None:
    """Unsealing repairs and anchors; when the disk refuses that it says so, at once, and so does whoever asks next."""
    with Hurt(made[0]) as hurt:
        if call == "renameat":
            with injected(hurt.process.pid, Fault("renameat", "KILL", 3)), pytest.raises(VaultError):
                hurt.admin.call("tenant.create", {"tenant": "initech"})
            hurt.process.communicate(timeout=20)
            assert os.path.exists(os.path.join(hurt.dir, "keyring.next"))
        else:
            # A lease is on the disk at once, and anchored within the second: killed before, it is to be anchored now.
            hurt.admin.call("lease.acquire", {"tenant": "acme", "secret": "openai/prod"})
            hurt.stop(signal.SIGKILL)
        hurt.start()
        with injected(hurt.process.pid, Fault(call, "EIO", 1, lasting=True)), pytest.raises(VaultError) as caught:
            hurt.unseal()
        assert caught.value.code in ("io", "halted")
        with pytest.raises(Halted):
            hurt.unseal()
        assert hurt.admin.status()["state"] == "halted"
        assert hurt.stop() == 0
        assert b"Traceback" not in hurt.log
        assert read(hurt.dir)["acme"] == made[1]["acme"]


@pytest.mark.parametrize("call", ["newfstatat", "unlink"])
def test_stopping_beside_a_socket_that_stays(made: tuple[str, State], call: str) -> None:
    """A socket that cannot be removed keeps nobody from draining, sealing and ending; the next start takes over."""
    with Hurt(made[0]) as hurt:
        with injected(hurt.process.pid, Fault(call, "EROFS", 1)) as strace:
            assert hurt.stop() == 0
            assert strace.hit
        assert os.path.exists(hurt.socket)
        hurt.start()
        assert hurt.admin.status()["state"] == "sealed"
        hurt.unseal()
