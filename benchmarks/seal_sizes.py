#!/usr/bin/env python3
"""Sealing and opening values by size, against the bare libsodium call on the same bytes.

python benchmarks/seal_sizes.py
"""

from __future__ import annotations

import os
from functools import partial

from _machine import facts, in_turn, table

from vaultd.crypto import sodium
from vaultd.crypto.hierarchy import TenantKeys
from vaultd.crypto.memory import Key, SecretBytes
from vaultd.crypto.values import Envelope

SIZES = [16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576]


def shown(seconds: float, size: int) -> str:
    """A time and the rate that it means."""
    return f"{seconds * 1e6:.1f} µs, {size / seconds / 1e6:.0f} MB/s"


def main() -> None:
    """Measure and print."""
    ids = os.urandom(16), os.urandom(16), os.urandom(16)
    envelope = Envelope(ids[0], ids[1], 1, TenantKeys(Key.random()).data_key)
    key, nonce, aad, null = os.urandom(32), os.urandom(24), os.urandom(90), sodium.NULL
    rows = []
    for size in SIZES:
        value = SecretBytes.random(size)
        attachment = envelope.seal(ids[2], 1, value)
        text = bytes(size)
        sealed = bytearray(size + 16)
        out, place = sodium.from_buffer(sealed), sodium.from_buffer(bytearray(size))
        sodium.aead_encrypt(out, null, text, size, aad, 90, null, nonce, key)
        calls = {
            "seal": partial(envelope.seal, ids[2], 1, value),
            "bare seal": partial(sodium.aead_encrypt, out, null, text, size, aad, 90, null, nonce, key),
            "open": partial(envelope.open, ids[2], 1, attachment),
            "bare open": partial(sodium.aead_decrypt, place, null, null, out, size + 16, aad, 90, nonce, key),
        }
        times = in_turn(calls, rounds=5, seconds=0.03)
        rows.append(
            [
                f"{size:,}",
                f"{len(attachment):,}",
                shown(times["seal"], size),
                f"{times['seal'] / times['bare seal']:.2f}",
                shown(times["open"], size),
                f"{times['open'] / times['bare open']:.2f}",
            ]
        )
    print(f"values by size, both seals of the envelope; {facts()}\n")
    table(["value, B", "stored, B", "seal", "× bare call", "open", "× bare call"], rows)


if __name__ == "__main__":
    main()
