#!/usr/bin/env python3
"""P14: how fast a journal is written, verified and read back, in records a second on one core.

The floor of verifying is the two SHA-256 a line that the chain is made of, by Python's hashlib on the same lines.

    python benchmarks/audit_verify.py [RECORDS]
"""

from __future__ import annotations

import os
import sys
import tempfile
from hashlib import sha256

from _machine import facts, in_turn, table

from vaultd.audit.body import Actor, Event
from vaultd.audit.chain import Walk
from vaultd.audit.domain import SYSTEM_UID, Domain
from vaultd.audit.journal import START, Journal, segment_path
from vaultd.audit.reader import TrailReader
from vaultd.audit.trail import Trail
from vaultd.audit.verify import verify_directory
from vaultd.clock import SystemClock
from vaultd.crypto.primitives import x25519_pair
from vaultd.store import DirectoryStore

VAULT = os.urandom(16)
TENANTS = 10
BATCH = 64


def main() -> None:
    """Measure and print."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:  # noqa: S108
        store = DirectoryStore(os.path.join(folder, "vault"), create=True)
        journal = Journal.create(store)
        system = Domain(SYSTEM_UID, x25519_pair()[1])
        trail = Trail(VAULT, journal, SystemClock(), os.urandom, system)
        pairs = [x25519_pair() for _ in range(TENANTS)]
        domains = [Domain(os.urandom(16), public) for _, public in pairs]
        actor = Actor("run", "agents", 1001, 1001, 4242, 99123, "/usr/bin/python3.11", "/system.slice/agents.service")

        def stage(records: int = BATCH) -> None:
            for number in range(records):
                trail.record(
                    Event(
                        "lease.acquire",
                        "ok",
                        actor,
                        run="run_aaaaaaaaaaaaaaaaaaaa",
                        purpose="chat",
                        secret="openai/prod",
                        version=3,
                        lease="lease_bbbbbbbbbbbbbbbbbbbb",
                        delivery="fd",
                        secret_id=VAULT,
                    ),
                    domains[number % TENANTS],
                )

        def flush() -> None:
            batch = journal.take()
            assert batch is not None
            journal.write(batch)

        trail.record(Event("vault.create", "ok", actor))
        for _ in range(count // BATCH):
            stage()
            flush()
        data = store.read(segment_path(1), 1 << 33)
        lines = [line + b"\n" for line in data.split(b"\n")[:-1]]

        def hashes() -> None:
            head = bytes(32)
            for line in lines:
                head = sha256(head + sha256(line[:-76] + b"}").digest()).digest()

        def walk() -> None:
            walked = Walk()
            for line in lines:
                walked.step(line)

        def whole() -> None:
            assert verify_directory(store.location).ok

        def read() -> None:
            private, public = pairs[0]
            reader = TrailReader(VAULT, domains[0].uid, public, private)
            assert sum(record is not None for record in reader.records(journal.raw_from(START.place))) > 0

        verified = in_turn({"hashes": hashes, "walk": walk, "whole": whole, "read": read}, rounds=3, seconds=0.0)

        def stage_and_drop() -> None:
            stage()
            flush()

        staged = in_turn({"stage": stage_and_drop}, rounds=9, seconds=0.2)["stage"] / BATCH
        store.close()
    total = len(lines)
    print(facts())
    print(f"{total} lines of {len(data) // total} bytes, {TENANTS} tenants; on tmpfs, so nothing waits for a disk\n")
    table(
        ["what", "records/s", "µs each"],
        [
            ["record: body, seal, chain, and the write in batches of 64", f"{1 / staged:,.0f}", f"{staged * 1e6:.1f}"],
            *(
                [name, f"{total / verified[key]:,.0f}", f"{verified[key] / total * 1e6:.1f}"]
                for key, name in (
                    ("hashes", "floor of verifying: the chain's hashes alone"),
                    ("walk", "verify: chain, grammar, trails"),
                    ("whole", "verify, reading the file too"),
                    ("read", "walk all lines for one tenant of ten, and open its records"),
                )
            ),
        ],
    )


if __name__ == "__main__":
    main()
