"""Secrets that must appear nowhere (I10): canaries go through a whole life of the real daemon, which is then searched.

In six spellings: raw, hex, base64, base64url, as JSON escapes, UTF-16.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import PASSPHRASE as SLOT
from tests.support.peers import Peer
from tests.support.tenants import AGENT, MANAGER, NOBODY, RESPONDER, STRANGER, World

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.needs_root

SMALL = "canary-small-é☃-4fd1a0b97c22e6"
BINARY = bytes(range(0x80, 0xF0)) + b"canary-binary-5e1c"
LARGE = b"".join(b"canary-large-%06d;" % number for number in range(9_000))
ROTATED = b"canary-rotated-77c0de"
PASSPHRASE = b"canary-passphrase-31b8 wrong"
KEY_FILE = b"canary-key-file-88a1-0123456789abcdef"

CANARIES = {
    "small": SMALL.encode(),
    "binary": BINARY,
    "large": LARGE[54_000:54_060],
    "rotated": ROTATED,
    "passphrase": PASSPHRASE,
    "key file": KEY_FILE,
    "slot": SLOT,
}


def _spellings(canary: bytes) -> Iterator[tuple[str, bytes]]:
    yield "raw", canary
    yield "hex", canary.hex().encode()
    yield "HEX", canary.hex().upper().encode()
    # Base64 of the whole depends on where the canary begins in what is encoded: the middle of each alignment does not.
    for shift in range(3):
        middle = base64.b64encode(bytes(shift) + canary)[4:-4]
        yield "base64", middle
        yield "base64url", middle.replace(b"+", b"-").replace(b"/", b"_")
    text = canary.decode("utf-8", "surrogateescape")
    yield "json", json.dumps(canary.decode("latin-1"))[1:-1].encode()
    with contextlib.suppress(UnicodeEncodeError):
        yield "json", json.dumps(text)[1:-1].encode()
        yield "utf-16-le", text.encode("utf-16-le")
        yield "utf-16-be", text.encode("utf-16-be")
    yield "python", repr(canary)[2:-1].encode()


NEEDLES = [(name, spelling, needle) for name, canary in CANARIES.items() for spelling, needle in _spellings(canary)]


def _found(data: bytes) -> set[tuple[str, str]]:
    return {(name, spelling) for name, spelling, needle in NEEDLES if needle in data}


def test_the_search_finds() -> None:
    """The search itself finds each canary in each spelling, wherever in a text it stands."""
    for name, canary in CANARIES.items():
        for prefix in (b"", b"x", b"xy"):
            text = prefix + canary
            for data in (text, text.hex().encode(), base64.b64encode(text), base64.urlsafe_b64encode(text)):
                assert any(found == name for found, _ in _found(data))


def _files(folder: str) -> Iterator[tuple[str, bytes]]:
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            if os.path.isfile(path):
                with open(path, "rb") as file:
                    yield path, file.read()


def _proc(pid: int) -> Iterator[tuple[str, bytes]]:
    for name in ("cmdline", "environ", "comm", "status", "maps"):
        with open(f"/proc/{pid}/{name}", "rb") as file:
            yield name, file.read()
    for descriptor in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            target = os.readlink(f"/proc/{pid}/fd/{descriptor}")
            yield f"fd {descriptor}", target.encode()
            assert "memfd:" not in target  # a value's file is closed once it was sent


def _life(world: World) -> list[bytes]:
    """Take the canaries through everything that touches a value; what everybody but their readers was told."""
    told: list[bytes] = []
    admin = world.admin
    admin.put("acme", "openai/small", SMALL.encode(), description="a description")
    admin.put("acme", "openai/binary", BINARY)
    admin.put("acme", "openai/large", LARGE)
    with Peer(world.socket, uid=AGENT) as agent, Peer(world.socket, uid=NOBODY) as nobody:
        token = agent.call("run.open", {"tenant": "acme", "scope": ["openai/*"]}).header["token"]
        assert agent.call("lease.acquire", {"secret": "openai/small"}, run=token).tail == SMALL.encode()
        assert agent.call("lease.acquire", {"secret": "openai/binary", "memfd": True}, run=token).code == ""
        assert agent.call("lease.acquire", {"secret": "openai/large"}, run=token).header["memfd"] is True
        for uid in (NOBODY, STRANGER, MANAGER, RESPONDER):
            with Peer(world.socket, uid=uid) as peer:
                for op, keys, tail in (
                    # Values where they do not belong: refused, and not repeated to anybody.
                    ("secret.put", {"tenant": "acme", "secret": "Not A Name"}, ROTATED),
                    ("secret.put", {"tenant": "globex", "secret": "x"}, ROTATED),
                    ("secret.put", {"tenant": "acme", "secret": "internal/x", "cas": 99}, ROTATED),
                    ("rotate.secret", {"tenant": "acme", "secret": "no/such"}, ROTATED),
                    ("login", {"kind": "passphrase"}, PASSPHRASE),
                    ("unseal", {"kind": "key-file"}, KEY_FILE),
                    ("secret.put", {"tenant": "acme", "secret": "x", "upload": True}, ROTATED),
                    ("status", {}, ROTATED),
                    ("value.begin", {"size": 100}, b""),
                    ("value.chunk", {"offset": 0}, ROTATED),
                    ("value.chunk", {"offset": 5}, ROTATED),
                ):
                    told.append(peer.call(op, keys, tail).frame)
                told += [peer.call("lease.list").frame, peer.call("run.list").frame]
        with Peer(world.socket) as stranger:
            told.append(stranger.call("login", {"kind": "passphrase"}, PASSPHRASE).frame)
            told.append(stranger.call("login", {"kind": "key-file"}, KEY_FILE).frame)
        admin.call("rotate.secret", {"tenant": "acme", "secret": "openai/small"}, ROTATED)
        admin.call("rotate.tenant", {"tenant": "acme"})
        admin.call("rotate.root")
        admin.call("slot.add", {"kind": "key-file"}, KEY_FILE)
        admin.call("secret.rollback", {"tenant": "acme", "secret": "openai/small", "to": 1})
        admin.call("secret.destroy", {"tenant": "acme", "secret": "openai/small", "version": 2})
        admin.call("secret.delete", {"tenant": "acme", "secret": "openai/binary"})
        told.append(nobody.call("lease.acquire", {"tenant": "acme", "secret": "openai/small"}).frame)
    return told


def test_canaries() -> None:
    """No canary in the vault's files, the log, the process's face, error replies, listings, or any trail or export."""
    with World() as world:
        for place, data in (("told", b"\0".join(_life(world))), *_proc(world.process.pid)):
            assert not _found(data), place
        admin = world.admin
        listed = [list(admin.pages("secret.list", {"tenant": "acme"})), list(admin.pages("tenant.list"))]
        listed += [list(admin.pages("grant.list", {"tenant": "acme"})), admin.status()]
        assert not _found(repr(listed).encode())
        for tenant in ("acme", "globex", None):
            for op in ("audit.show", "audit.export"):
                if tenant is not None or op == "audit.show":
                    lines = admin.audit_lines(op, {"tenant": tenant} if tenant is not None else {})
                    assert not _found(b"\n".join(lines)), (tenant, op)
        for path, data in _files(world.folder):
            assert not _found(data), path
        # Killed, it leaves no core file, and nothing more in its log.
        world.stop(signal.SIGABRT)
        assert not _found(world.log)
        assert b"Traceback" not in world.log
        for path, data in _files(world.folder):
            assert not _found(data), path
