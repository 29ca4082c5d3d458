#!/usr/bin/env python3
"""Write tests/vectors/golden/audit-sealed.json: a journal that is sealed forward, every step of every tag.

Two seal chains, the first handing over to the second; idle epochs, and the state that the vault would keep. The keys
are fixed, so the file is the same on every run; the test suite makes it again and compares. Changing it means that
journals sealed before no longer verify.

    python scripts/make_golden_seal.py [--check]
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from vaultd.audit.body import Actor, Event, body_json, sub_link
from vaultd.audit.canonical import timestamp
from vaultd.audit.chain import GENESIS, Link, link, render
from vaultd.audit.seal import FirstKey, SealChain, message
from vaultd.audit.sealslots import encode
from vaultd.crypto.memory import Key, SecretBytes

TARGET = Path(__file__).resolve().parents[1] / "tests" / "vectors" / "golden" / "audit-sealed.json"
WALL = 1_795_514_400_123_456_789
ADMIN = Actor("admin", uid=0, gid=0, pid=7, pidfd_inode=88)


def fixed(name: str, size: int) -> bytes:
    """Bytes that stand for something drawn: SHAKE-256 of its name."""
    return hashlib.shake_256(b"vaultd golden seal " + name.encode()).digest(size)


VAULT = fixed("vault id", 16)


def shown(secret: SecretBytes) -> str:
    """A secret in hex: it is an example's."""
    with secret:
        return bytes(secret.view()).hex()


class Example:
    """A journal put together step by step, each step kept."""

    def __init__(self) -> None:
        self.at = Link(0, GENESIS)
        self.lines: list[dict[str, Any]] = []
        self.sub = (0, GENESIS)

    def _add(self, rendered: bytes, **step: Any) -> None:
        line, head = link(self.at.head, rendered)
        self.at = Link(self.at.seq + 1, head)
        self.lines.append({"seq": self.at.seq, **step, "line": line.decode(), "hash": head.hex()})

    def time(self) -> str:
        return timestamp(WALL + self.at.seq * 1_000_000_000)

    def record(self, kind: str) -> None:
        """A line of the system's trail."""
        count, before = self.sub[0] + 1, self.sub[1]
        body = body_json(Event(kind, "ok", ADMIN), self.time(), count, None)
        head = sub_link(before, body.encode())
        vault = VAULT.hex() if self.at.seq == 0 else None
        self._add(render(self.at.seq + 1, self.time(), None, count, head.hex(), vault=vault, body=body))
        self.sub = (count, head)

    def tag(self, chain: SealChain, following: bytes = b"") -> None:
        """A tag line; the chain moves on."""
        with memoryview(bytearray(32)) as place:
            chain.key.write_to(place)
            key = SecretBytes.copy_of(bytes(place))
        step = {
            "chain": chain.chain,
            "from": chain.first,
            "to": chain.key.epoch,
            "key": shown(key),
            "proof": chain.proof.hex(),
            "message": message(
                VAULT, chain.chain, chain.first, chain.key.epoch, chain.proof, self.at, self.time(), following
            ).hex(),
        }
        rendered = chain.tag(self.at, self.time(), following)
        tag = json.loads(rendered + b"}")["seal"]["tag"]
        self._add(rendered, **step, tag=tag)
        chain.tagged(self.at.seq, self.at.head)


def make() -> dict[str, Any]:
    """The whole example."""
    example = Example()
    first_keys = [FirstKey(number, Key.copy_of(fixed(f"first key {number}", 32))) for number in (1, 2)]
    one, two = (SealChain(VAULT, first.chain, first.epoch_key()) for first in first_keys)
    example.record("vault.create")
    example.tag(one)
    example.record("vault.unseal")
    example.tag(one)
    for _ in range(3):
        one.idle()
    example.record("audit.checkpoint")
    example.tag(one)
    example.record("audit.seal_key")
    example.tag(one, first_keys[1].identity())
    example.tag(two)
    two.idle()
    two.idle()
    return {
        "vault_id": VAULT.hex(),
        "first_key_1": bytes.fromhex(shown(first_keys[0].text())).decode(),
        "first_key_2": bytes.fromhex(shown(first_keys[1].text())).decode(),
        "identity_2": first_keys[1].identity().hex(),
        "lines": example.lines,
        "state": shown(encode(two, 4)) + shown(encode(two, 3)),
    }


def main() -> int:
    """Write the file, or with --check compare it."""
    text = json.dumps(make(), indent=1, ensure_ascii=False) + "\n"
    if "--check" in sys.argv[1:]:
        return 0 if TARGET.read_text() == text else 1
    TARGET.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
