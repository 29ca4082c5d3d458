"""Segments and pruning over a daemon that runs: it goes on serving, and what is left verifies and reads back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.peers import Peer
from tests.support.tenants import ACME, AGENT, MANAGER, NOBODY, RESPONDER, World
from vaultclient.errors import VaultError
from vaultd.audit.verify import verify_export
from vaultd.vault import offline

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.needs_root

VERIFY = os.path.join(os.path.dirname(__file__), "..", "..", "scripts", "verify_audit.py")
CONFIG = "[audit]\nsegment_bytes = 8192\n"
PROD = {"tenant": "acme", "secret": "openai/prod"}


@pytest.fixture
def world() -> Iterator[World]:
    with World(config=CONFIG) as running:
        yield running


def segments(world: World) -> list[str]:
    return sorted(name for name in os.listdir(os.path.join(world.dir, "audit")) if name.endswith(".jsonl"))


def grow(world: World, count: int) -> None:
    """Read values until the journal has `count` segments more."""
    target = len(segments(world)) + count
    while len(segments(world)) < target:
        with world.admin.get("acme", "openai/prod") as answer:
            assert bytes(answer.tail) == ACME


def checkpoint(world: World) -> bytes:
    return bytes(world.admin.call("audit.checkpoint").tail)


def export(peer: Peer, tenant: str) -> list[bytes]:
    lines, after = [], None
    while True:
        page = peer.call("audit.export", {"tenant": tenant, **({"after": after} if after else {})})
        assert page.code == "", page
        lines += page.tail.splitlines(keepends=True)
        after = page.header["next"]
        if not page.header["more"]:
            return lines


def verified(world: World, **how: Any) -> Any:
    report = offline.verify(world.dir, **how)
    assert report.ok, report
    done = subprocess.run([sys.executable, VERIFY, world.dir], capture_output=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr
    return report


def test_pruned_under_a_running_daemon(world: World) -> None:
    """Whole segments go, on record; the rest verifies from there, trails go on after what went, also when restarted."""
    grow(world, 3)
    signed = checkpoint(world)
    grow(world, 1)
    before = segments(world)
    told = world.admin.call("audit.prune", {"dry_run": True}, signed).keys
    assert segments(world) == before
    assert not told["pruned"]
    done = world.admin.call("audit.prune", {}, signed).keys
    assert done == told | {"pruned": True}
    assert segments(world)[0] == f"{done['segments'] + 1:06d}.jsonl"
    assert done["begins"] == done["lines"] + 1
    assert verified(world, checkpoint=signed).begins == done["begins"]
    with Peer(world.socket, uid=MANAGER) as manager:
        lines_ = export(manager, "acme")
        header = json.loads(lines_[0])
        assert header["after"] > 0
        assert verify_export(lines_).ok
        assert json.loads(lines_[1])["body"]["tseq"] == header["after"] + 1
        shown = manager.call("audit.show", {"tenant": "acme"})
        assert json.loads(shown.tail.splitlines()[0])["body"]["tseq"] == header["after"] + 1
        late = manager.call("audit.export", {"tenant": "acme", "after": "1"})
        assert late.code == "invalid"
        assert manager.call("audit.show", {"tenant": "acme", "after": "1"}).code == ""
    bodies = [json.loads(line)["body"] for line in world.trail()]
    (said,) = [body["public"] for body in bodies if body["kind"] == "audit.prune" and body["public"]["lines"]]
    assert said["lines"] == done["lines"]
    assert world.stop() == 0
    world.start()
    world.unseal()
    grow(world, 1)
    verified(world, checkpoint=signed)
    assert not world.admin.call("audit.prune", {}, signed).keys["lines"]


@pytest.mark.parametrize("uid", [AGENT, MANAGER, NOBODY, RESPONDER])
def test_nobody_else_prunes(world: World, uid: int) -> None:
    """Who is no admin is denied, also with a good checkpoint, and nothing goes."""
    grow(world, 2)
    signed, before = checkpoint(world), segments(world)
    with Peer(world.socket, uid=uid) as peer:
        for keys in ({}, {"dry_run": True}):
            assert peer.call("audit.prune", keys, signed).code == "denied"
    assert segments(world) == before


def test_bad_checkpoints(world: World) -> None:
    """Forged, of another vault, of lines that are not there, no text: each says what is wrong, and nothing goes."""
    grow(world, 2)
    signed = checkpoint(world).decode()
    name, size, head, *rest = signed.split("\n")
    number = int(size)
    bad = {
        "not signed|does not verify|signature": "\n".join([name, str(number - 1), head, *rest]),
        "of vault 0{32}": signed.replace(world.admin.call("status").keys["vault"], "0" * 32),
        "not a checkpoint": "hello",
    }
    with World(config=CONFIG) as other:
        bad["of vault"] = checkpoint(other).decode()
    before = segments(world)
    for said, text in bad.items():
        with pytest.raises(VaultError, match=said) as caught:
            world.admin.call("audit.prune", {}, text.encode())
        assert caught.value.code == "integrity"
    with pytest.raises(VaultError, match="not a checkpoint"):
        world.admin.call("audit.prune", {}, b"\xff\xfe")
    assert segments(world) == before
    verified(world)


def test_a_checkpoint_beyond_the_journal(world: World) -> None:
    """One of a journal that was longer shows that it was cut, or that an older copy was put back; nothing goes."""
    grow(world, 1)
    assert world.stop() == 0
    copy = world.dir + ".copy"
    shutil.copytree(world.dir, copy)
    world.start()
    world.unseal()
    grow(world, 1)
    signed = checkpoint(world)
    assert world.stop() == 0
    shutil.rmtree(world.dir)
    os.rename(copy, world.dir)
    world.start()
    world.unseal()
    before = segments(world)
    with pytest.raises(VaultError, match="when the checkpoint was signed it had") as caught:
        world.admin.call("audit.prune", {}, signed)
    assert caught.value.code == "integrity"
    assert segments(world) == before


def test_a_rewritten_line_stops_pruning(world: World) -> None:
    """A closed segment is held against the chain and the checkpoint before it goes: what was changed stays as proof."""
    grow(world, 2)
    signed = checkpoint(world)
    path = os.path.join(world.dir, "audit", segments(world)[0])
    with open(path, "r+b") as file:
        data = file.read()
        file.seek(data.index(b'"time":"2', 400) + 10)
        file.write(b"9")
    with pytest.raises(VaultError, match="of the journal") as caught:
        world.admin.call("audit.prune", {}, signed)
    assert caught.value.code == "integrity"
    assert os.path.exists(path)


def test_the_current_segment_never_goes(world: World) -> None:
    """A checkpoint at the very end takes all but the segment that is written to, and says how many lines stay."""
    grow(world, 2)
    with world.admin.get("acme", "openai/prod"):
        pass
    signed = checkpoint(world)
    done = world.admin.call("audit.prune", {}, signed).keys
    assert len(segments(world)) == 1
    assert done["stays"] == int(signed.split(b"\n")[1]) - done["lines"] > 0
    verified(world, checkpoint=signed)


def test_nobody_is_told_of_our_own_files(world: World) -> None:
    """A segment that ends, a pruning and the reserve are no changes of somebody else's; a foreign file there is."""
    grow(world, 2)
    world.admin.call("audit.prune", {}, checkpoint(world))
    with open(os.path.join(world.dir, "audit", "000099.jsonl"), "w"):
        pass
    deadline = time.monotonic() + 20
    while not (said := [w for w in world.admin.call("status").keys["warnings"] if "somebody else" in w]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert said == ["files of the vault were changed by somebody else: audit/000099.jsonl"]


def test_prune_by_hand(world: World, tmp_path: Any) -> None:
    """`audit prune` says what goes before it goes; with --dry-run it stays; verify says where the log begins."""
    grow(world, 2)
    file = tmp_path / "checkpoint"
    file.write_bytes(checkpoint(world))
    before = len(segments(world))
    tried = world.ctl("audit", "prune", "--before", str(file), "--dry-run")
    assert tried.returncode == 0, tried.stderr
    assert b"would go" in tried.stdout
    assert len(segments(world)) == before
    done = world.ctl("audit", "prune", "--before", str(file))
    assert done.returncode == 0, done.stderr
    assert b" go" in done.stdout
    assert b"the log begins at line " in done.stdout
    checked = world.ctl("audit", "verify", "--dir", world.dir, "--checkpoint", str(file))
    assert checked.returncode == 0, checked.stderr
    assert b"the journal begins at line" in b" ".join(checked.stdout.split())
    again = world.ctl("audit", "prune", "--before", str(file))
    assert b"nothing to remove" in again.stdout
