#!/usr/bin/env python3
"""Write tests/vectors/golden/audit.json: a journal of four lines, every step of each, and a signed checkpoint.

The randomness is injected, so the file is the same on every run; the test suite makes it again and compares. Changing
an existing example means that journals written before no longer verify.

    python scripts/make_golden_audit.py [--check]
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from vaultd.audit.body import Actor, Event, body_json, pad, sub_link
from vaultd.audit.canonical import timestamp
from vaultd.audit.chain import GENESIS, Vouch, link, render
from vaultd.audit.checkpoint import Checkpoint, issue
from vaultd.audit.reader import Record, export_header
from vaultd.audit.sealing import Session
from vaultd.crypto.memory import Key
from vaultd.crypto.primitives import ed25519_public, x25519_public

TARGET = Path(__file__).resolve().parents[1] / "tests" / "vectors" / "golden" / "audit.json"
WALL = 1_795_514_400_123_456_789


def fixed(name: str, size: int) -> bytes:
    """Bytes that stand for something drawn: SHAKE-256 of its name."""
    return hashlib.shake_256(b"vaultd golden audit " + name.encode()).digest(size)


def key(name: str) -> Key:
    """A key that stands for a drawn one."""
    return Key.copy_of(fixed(name, 32))


VAULT, TENANT, SYSTEM = fixed("vault id", 16), fixed("tenant uid", 16), bytes(16)
ADMIN = Actor("admin", uid=0, gid=0, pid=7, pidfd_inode=88)
AGENT = Actor("run", "agents", 1001, 1001, 4242, 99123, "/usr/bin/python3.11", "/system.slice/agents.service")


class Example:
    """A journal put together step by step, each step kept."""

    def __init__(self) -> None:
        self.head = GENESIS
        self.lines: list[dict[str, Any]] = []
        self.trails = {SYSTEM: (0, GENESIS), TENANT: (0, GENESIS)}
        self.sessions: dict[bytes, Session] = {}
        self.records: list[Record] = []

    def add(self, uid: bytes, event: Event, *heads: Vouch) -> None:
        """One line."""
        seq = len(self.lines) + 1
        time = timestamp(WALL + (seq - 1) * 1_000_000_000)
        count, before = self.trails[uid]
        clear = body_json(event, time, count + 1, None) if uid == SYSTEM else None
        step: dict[str, Any] = {"seq": seq}
        parts: dict[str, Any] = {}
        if clear is None or event.needs_sealing:
            body = body_json(event, time, count + 1, fixed(f"salt {seq}", 16).hex())
            session = self.sessions.get(uid)
            if session is None:
                session = self.sessions[uid] = Session(
                    VAULT,
                    uid,
                    x25519_public(key(f"audit private {uid.hex()}")),
                    seq,
                    0,
                    key=key(f"session {seq}"),
                    ephemeral=key(f"ephemeral {seq}"),
                    nonce=fixed(f"nonce {seq}", 24),
                )
                parts["session"] = session.boxed
                step |= {"session_key": fixed(f"session {seq}", 32).hex(), "session": session.boxed.hex()}
            sealed = session.seal(seq, body.encode())
            parts |= {"key": session.seq, "sealed": sealed}
            step |= {"body": body, "padded_size": len(pad(body.encode())), "sealed": sealed.hex()}
        else:
            body = clear
            step["body"] = body
        head = sub_link(before, body.encode())
        self.trails[uid] = (count + 1, head)
        rendered = render(
            seq,
            time,
            None if uid == SYSTEM else uid.hex(),
            count + 1,
            head.hex(),
            vault=VAULT.hex() if seq == 1 else None,
            heads=heads,
            body=clear,
            **parts,
        )
        line, self.head = link(self.head, rendered)
        self.lines.append(step | {"sub_head": head.hex(), "line": line.decode(), "hash": self.head.hex()})
        if uid == TENANT:
            self.records.append(Record(count + 1, body, head))


def make() -> dict[str, Any]:
    """The whole example."""
    example = Example()
    example.add(SYSTEM, Event("vault.create", "ok", ADMIN, public={"version": "0.1.0"}))
    example.add(
        TENANT,
        Event("secret.put", "ok", ADMIN, secret="openai/prod", version=1),
        Vouch(TENANT, 1, 0, fixed("tag", 16)),
    )
    lease = {"run": "run_aaaaaaaaaaaaaaaaaaaa", "purpose": "chat", "lease": "lease_bbbbbbbbbbbbbbbbbbbb"}
    example.add(
        TENANT,
        Event("lease.acquire", "ok", AGENT, secret="openai/prod", version=1, delivery="fd", **lease),  # type: ignore[arg-type]
    )
    example.add(SYSTEM, Event("lease.acquire", "denied", AGENT, "not allowed, or not there", tenant="globex"))
    seed = key("checkpoint seed")
    public = ed25519_public(seed)
    checkpoint = issue(Checkpoint(VAULT, 4, example.head, WALL + 4_000_000_000), seed, public)
    return {
        "vault_id": VAULT.hex(),
        "tenant_uid": TENANT.hex(),
        "audit_private": {uid.hex(): fixed(f"audit private {uid.hex()}", 32).hex() for uid in (SYSTEM, TENANT)},
        "checkpoint_public": public.hex(),
        "lines": example.lines,
        "export": [raw.decode() for raw in (export_header(VAULT, TENANT), *(r.line() for r in example.records))],
        "checkpoint": checkpoint,
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
