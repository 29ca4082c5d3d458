#!/usr/bin/env python3
"""P8: a small value through the full envelope, against the two libsodium calls that it cannot do without.

The bare calls are measured in two forms: as a Python program makes them (PyNaCl's bindings, which allocate and return
bytes), and as the floor (the C functions alone, into buffers prepared beforehand, the same arguments every time).

    python benchmarks/envelope.py
"""

from __future__ import annotations

import os

import nacl.bindings
from _machine import facts, in_turn, table

from vaultd.crypto import sodium, values
from vaultd.crypto.hierarchy import TenantKeys
from vaultd.crypto.memory import Key, SecretBytes
from vaultd.crypto.values import Envelope

VAULT, TENANT, SECRET = os.urandom(16), os.urandom(16), os.urandom(16)


def main() -> None:
    """Measure and print."""
    envelope = Envelope(VAULT, TENANT, 1, TenantKeys(Key.random()).data_key)
    other = Envelope(VAULT, TENANT, 2, TenantKeys(Key.random()).data_key)
    value = SecretBytes.random(60)  # 64 bytes with its length: nothing is padded
    attachment = envelope.seal(SECRET, 1, value)
    aads = (values.data_key_context(VAULT, TENANT, 1, SECRET, 1), values.value_context(VAULT, TENANT, SECRET, 1))
    key, nonce = os.urandom(32), os.urandom(24)
    texts = (os.urandom(32), os.urandom(64))
    encrypt = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_encrypt
    decrypt = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_decrypt
    sealed = tuple(encrypt(text, aad, nonce, key) for text, aad in zip(texts, aads, strict=True))
    outs = tuple(sodium.from_buffer(bytearray(len(each))) for each in sealed)
    null = sodium.NULL
    commitment = sodium.from_buffer(bytearray(32))
    bound, person = nonce + aads[0], b"vaultd.commit\0\0\0"

    def floor_open() -> None:
        sodium.aead_decrypt(outs[0], null, null, sealed[0], 48, aads[0], len(aads[0]), nonce, key)
        sodium.aead_decrypt(outs[1], null, null, sealed[1], 80, aads[1], len(aads[1]), nonce, key)

    def floor_committed() -> None:
        sodium.blake2b(commitment, 32, bound, len(bound), key, 32, null, person)
        floor_open()

    def floor_seal() -> None:
        sodium.aead_encrypt(outs[0], null, texts[0], 32, aads[0], len(aads[0]), null, nonce, key)
        sodium.aead_encrypt(outs[1], null, texts[1], 64, aads[1], len(aads[1]), null, nonce, key)

    def nacl_open() -> None:
        decrypt(sealed[0], aads[0], nonce, key)
        decrypt(sealed[1], aads[1], nonce, key)

    def nacl_seal() -> None:
        encrypt(texts[0], aads[0], nonce, key)
        encrypt(texts[1], aads[1], nonce, key)

    times = in_turn(
        {
            "floor open": floor_open,
            "floor open and commitment": floor_committed,
            "nacl open": nacl_open,
            "envelope open": lambda: envelope.open(SECRET, 1, attachment),
            "floor seal": floor_seal,
            "nacl seal": nacl_seal,
            "envelope seal": lambda: envelope.seal(SECRET, 1, value),
            "envelope rewrap": lambda: envelope.rewrap(other, SECRET, 1, attachment),
        }
    )

    def row(name: str, what: str, kind: str) -> list[str]:
        took = times[name]
        return [
            what,
            f"{took * 1e6:.2f}",
            f"{took / times[f'nacl {kind}']:.2f}",
            f"{took / times[f'floor {kind}']:.2f}",
        ]

    print(f"64 B value through the envelope; {facts()}\n")
    table(
        ["what", "µs", "× PyNaCl's two calls", "× bare C calls, buffers prepared"],
        [
            row("floor open", "unwrap + open: two bare C calls, prepared", "open"),
            row("floor open and commitment", "the same and the commitment's hash", "open"),
            row("nacl open", "unwrap + open: PyNaCl's two calls", "open"),
            row("envelope open", "**Envelope.open**: committed, checked, wipeable", "open"),
            row("floor seal", "wrap + seal: two bare C calls, prepared", "seal"),
            row("nacl seal", "wrap + seal: PyNaCl's two calls", "seal"),
            row("envelope seal", "**Envelope.seal**: fresh data key, two nonces", "seal"),
            row("envelope rewrap", "**Envelope.rewrap**: one value of rotate tenant", "seal"),
        ],
    )


if __name__ == "__main__":
    main()
