#!/usr/bin/env python3
"""Argon2id by profile: ours against libsodium's own, which has one lane only.

python benchmarks/argon2id.py
"""

from __future__ import annotations

import os
import resource
from functools import partial

import nacl.pwhash.argon2id
from _machine import facts, in_turn, table

from vaultd.crypto import kdf
from vaultd.crypto.memory import SecretBytes

PROFILES = [
    ("accepted minimum", kdf.FLOOR),
    ("RFC 9106 second choice, one lane", kdf.RFC_9106_LOW._replace(lanes=1)),
    ("**RFC 9106 second choice: new slots**", kdf.RFC_9106_LOW),
    ("upper bound of memory, one pass", kdf.Profile(1, 1024 * 1024, 4)),
]


def main() -> None:
    """Measure and print."""
    passphrase, salt = os.urandom(24), os.urandom(16)
    secret = SecretBytes.copy_of(passphrase)
    rows = []
    for name, profile in PROFILES:
        cost = {"opslimit": profile.time_cost, "memlimit": profile.memory_kib * 1024}
        calls = {
            "ours": partial(kdf.argon2id, secret, salt, profile),
            "libsodium": partial(nacl.pwhash.argon2id.kdf, 32, passphrase, salt, **cost),
        }
        times = in_turn(calls, rounds=3, seconds=0.01)
        rows.append(
            [
                name,
                f"t={profile.time_cost} m={profile.memory_kib // 1024} MiB p={profile.lanes}",
                f"{times['ours'] * 1e3:.0f}",
                f"{times['libsodium'] * 1e3:.0f}",
                f"{times['ours'] / times['libsodium']:.2f}",
            ]
        )
    print(f"Argon2id; {facts()}\n")
    table(["profile", "cost", "ours, ms", "libsodium at p=1, ms", "ratio"], rows)
    print(f"\npeak resident {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB")


if __name__ == "__main__":
    main()
