"""A vault whose journal is sealed forward, and somebody who becomes root at some moment and has every file of it."""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, Any

from tests.support.vault_world import World
from vaultd.audit import tags
from vaultd.audit.chain import GENESIS, Link
from vaultd.audit.seal import SealChain, message
from vaultd.audit.sealslots import SLOT_SIZE, choose, encode
from vaultd.crypto.epochs import NO_PROOF
from vaultd.vault import offline

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from vaultd.audit.tags import Tag
    from vaultd.audit.verify import Report
    from vaultd.crypto.memory import SecretBytes

__all__ = ["JOURNAL", "Attacker", "lines_of", "lived", "rechained", "shown", "tags_of", "verified", "write_vault"]

JOURNAL = "audit/000001.jsonl"


def lived(seed: int, seconds: int = 12, states: list[bytes] | None = None) -> World:
    """A vault after some seconds of traffic and of rest, the daemon's tick once in each.

    Args:
        states: gets a copy of the seal's state after each second, as a backup of it would have it.
    """
    world = World(seed)
    world.create_tenant("acme")
    world.flush()
    for _ in range(seconds):
        world.clock.advance(1.0)
        for _ in range(world.rng.choice((0, 0, 1, 3))):
            world.put("acme", 8) if world.rng.random() < 0.3 else world.read(world.rng.choice(("acme", None)))
            if world.rng.random() < 0.5:
                world.flush()
        world.ledger.evolve()
        world.flush()
        if states is not None:
            states.append(world.store.disk.peek("seal"))
    return world


def shown(secret: SecretBytes) -> bytes:
    """A secret's bytes, for a test's eyes."""
    with secret:
        return bytes(secret.view())


def lines_of(world: World) -> list[bytes]:
    return world.store.disk.peek(JOURNAL).splitlines(keepends=True)


def tags_of(lines: list[bytes]) -> list[Tag]:
    """The tag lines among them; what is no line is passed over."""
    return [tags.read(found) for raw in lines if (found := tags.TAG_FORM.fullmatch(raw)) is not None]


def hash_of(raw: bytes) -> bytes:
    """The hash that a line says it has."""
    return bytes.fromhex(raw[-67:-3].decode())


def write_vault(path: Path, lines: list[bytes], state: bytes | None) -> None:
    """What `audit verify` reads, as files."""
    os.makedirs(path / "audit", mode=0o700, exist_ok=True)
    os.chmod(path, 0o700)
    (path / JOURNAL).write_bytes(b"".join(lines))
    (path / JOURNAL).chmod(0o600)
    if state is not None:
        (path / "seal").write_bytes(state)
        (path / "seal").chmod(0o600)
    elif (path / "seal").exists():
        (path / "seal").unlink()


def verified(path: Path, lines: list[bytes], state: bytes | None, key: bytes, *, without_state: bool = False) -> Report:
    """`audit verify --seal-key-file` on these files."""
    write_vault(path, lines, state)
    return offline.verify(str(path), seal_key=bytearray(key), without_state=without_state)


def rechained(lines: list[bytes], start: int = 0, head: bytes | None = None) -> list[bytes]:
    """The same lines numbered and hashed anew from index `start` on, as anybody can who can write the file.

    Trails' own numbers, and the sessions that lines name, are made to fit as well.
    """
    done = lines[:start]
    before = head if head is not None else (hash_of(done[-1]) if done else GENESIS)
    counts: dict[str | None, int] = {}
    sessions: dict[str | None, int] = {}
    for number, raw in enumerate(lines, 1):
        said: dict[str, Any] = json.loads(raw)
        if "sub" in said:
            trail = said["tenant"]
            counts[trail] = said["sub"]["seq"] = counts.get(trail, 0) + 1
            if "session" in said:
                sessions[trail] = number
            if "key" in said and trail in sessions:
                said["key"] = sessions[trail]
        if number <= start:
            continue
        said.pop("hash")
        said["seq"] = number
        if number == 1:
            said = {**{key: said[key] for key in ("v", "seq", "time")}, "vault": json.loads(lines[0])["vault"], **said}
        core = json.dumps(said, separators=(",", ":")).encode()
        before = hashlib.sha256(before + hashlib.sha256(core).digest()).digest()
        done.append(core[:-1] + b',"hash":"' + before.hex().encode() + b'"}\n')
    return done


class Attacker:
    """Root from now on: has the files, both slots of the seal's state, and this code.

    Attributes:
        lines: the journal as found.
        state: the state in the newest slot.
        older: the one in the other slot.
        safe: number of the newest tag line that neither state's key could have made.
    """

    def __init__(self, world: World) -> None:
        self.lines = lines_of(world)
        self.raw = world.store.disk.peek("seal")
        slots = [bytearray(self.raw[at : at + SLOT_SIZE]) for at in (0, SLOT_SIZE)]
        self.state = choose(slots).chain
        torn = bytearray(SLOT_SIZE)
        newest = int.from_bytes(slots[0][32:40], "big") < int.from_bytes(slots[1][32:40], "big")
        self.older = choose([slots[0], torn] if newest else [torn, slots[1]]).chain
        least = min(self.state.key.epoch, self.older.key.epoch)
        self.safe = max(tag.seq for tag in tags_of(self.lines) if tag.last < least)

    def resealed(self, lines: list[bytes], start: int, *, key: SealChain | None = None) -> list[bytes]:
        """The lines from index `start` on hashed anew, and every tag among them made anew with the key at hand."""
        key = key or self.state
        done = list(lines[:start])
        for raw in lines[start:]:
            link = Link(len(done), hash_of(done[-1]) if done else GENESIS)
            for line in tags_of([raw]):
                said = message(
                    key.vault_id, line.chain, line.first, line.last, NO_PROOF, link, line.time, line.following
                )
                parts: dict[str, Any] = json.loads(raw)
                parts["seal"]["tag"] = key.key.tag(said).hex()
                raw = json.dumps(parts, separators=(",", ":")).encode() + b"\n"
            done = rechained([*done, raw], len(done))
        return done

    def continued(self, lines: list[bytes], rng: random.Random) -> tuple[list[bytes], bytes]:
        """Go on behind `lines` with the present key as if nothing had been: a tag for all epochs that are missing."""
        last = tags_of(lines)[-1]
        chain = self.state.copy()
        chain.first = last.last + 1
        chain.proof = NO_PROOF if rng.random() < 0.5 else self.state.proof
        seq = len(lines)
        while chain.key.epoch - chain.first >= tags.MAX_EPOCHS:
            chain.first += tags.MAX_EPOCHS  # no tag may stand for so many: then some are left out
        if chain.key.epoch >= chain.first:
            link = Link(seq, hash_of(lines[-1]))
            rendered = chain.tag(link, last.time)
            lines = rechained([*lines, rendered + b',"hash":"' + b"0" * 64 + b'"}\n'], seq)
            chain.tagged(seq + 1, hash_of(lines[-1]))
        return lines, self.stating(lines, chain)

    def stating(self, lines: list[bytes], chain: SealChain | None = None) -> bytes:
        """A state that says of itself that it belongs to `lines`, with the present key."""
        chain = (chain or self.state).copy()
        last = tags_of(lines)[-1]
        chain.tagged(last.seq, last.hash)
        chain.first = min(last.last + 1, chain.key.epoch)
        if chain.first == chain.key.epoch:
            chain.proof = NO_PROOF
        return b"".join(shown(encode(chain, sequence)) for sequence in (2, 3))
