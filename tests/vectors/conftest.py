"""Where the vectors are, and a second implementation of every construction, made from `cryptography` and `hashlib`."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id


@pytest.fixture
def wycheproof() -> Any:
    """A reader of Wycheproof's files: `$VAULTD_VECTORS`, or the folder beside the repository's."""
    beside = Path(__file__).parents[3] / "shared" / "vectors" / "wycheproof"
    folder = Path(os.environ.get("VAULTD_VECTORS", beside))

    def read(name: str) -> list[dict[str, Any]]:
        file = folder / name
        if not file.is_file():
            reason = f"no {name}; set VAULTD_VECTORS to a folder with Wycheproof's testvectors_v1"
            if os.environ.get("CI"):
                pytest.fail(reason)
            pytest.skip(reason)
        groups: list[dict[str, Any]] = json.loads(file.read_text())["testGroups"]
        return groups

    return read


def _rotate(value: int, bits: int) -> int:
    return (value << bits | value >> (32 - bits)) & 0xFFFFFFFF


def _quarter(state: list[int], a: int, b: int, c: int, d: int) -> None:
    for x, y, z, bits in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
        state[x] = (state[x] + state[y]) & 0xFFFFFFFF
        state[z] = _rotate(state[z] ^ state[x], bits)


def hchacha20(key: bytes, nonce: bytes) -> bytes:
    """HChaCha20 (draft-irtf-cfrg-xchacha-03, section 2.2): a subkey from a key and 16 bytes."""
    state = [*struct.unpack("<4I", b"expand 32-byte k"), *struct.unpack("<8I", key), *struct.unpack("<4I", nonce)]
    for _ in range(10):
        for column in range(4):
            _quarter(state, column, column + 4, column + 8, column + 12)
        for diagonal in range(4):
            _quarter(state, diagonal, 4 + (diagonal + 1) % 4, 8 + (diagonal + 2) % 4, 12 + (diagonal + 3) % 4)
    return struct.pack("<8I", *state[:4], *state[12:])


def poly1305_key(key: bytes, nonce: bytes) -> bytes:
    """The one-time Poly1305 key of a seal: the first 32 bytes of keystream (RFC 8439, section 2.6)."""
    stream = Cipher(algorithms.ChaCha20(hchacha20(key, nonce[:16]), bytes(8) + nonce[16:]), None).encryptor()
    return stream.update(bytes(32))


def blake2b(data: bytes, person: bytes, key: bytes = b"", salt: bytes = b"", size: int = 32) -> bytes:
    """BLAKE2b as FORMAT.md writes it."""
    return hashlib.blake2b(data, key=key, person=person, salt=salt, digest_size=size).digest()


def context(kind: str, *fields: bytes | int) -> bytes:
    """Associated data as FORMAT.md writes it."""
    parts = [b"vaultd\x01", bytes([len(kind)]), kind.encode()]
    for field in fields:
        raw = field.to_bytes(8, "big") if isinstance(field, int) else field
        parts += [len(raw).to_bytes(4, "big"), raw]
    return b"".join(parts)


def seal(key: bytes, nonce: bytes, aad: bytes, plaintext: bytes) -> bytes:
    """XChaCha20-Poly1305 without the nonce."""
    subkey = ChaCha20Poly1305(hchacha20(key, nonce[:16]))
    return subkey.encrypt(bytes(4) + nonce[16:], plaintext, aad)


def open_sealed(key: bytes, aad: bytes, sealed: bytes) -> bytes:
    """Open nonce ‖ ciphertext ‖ tag."""
    nonce = sealed[:24]
    if len(nonce) != 24:
        raise ValueError("cut")
    return ChaCha20Poly1305(hchacha20(key, nonce[:16])).decrypt(bytes(4) + nonce[16:24], sealed[24:], aad)


def unwrap(key: bytes, aad: bytes, wrapped: bytes) -> bytes:
    """Open a wrap, commitment first."""
    if blake2b(wrapped[:24] + aad, b"vaultd.commit", key) != wrapped[-32:]:
        raise ValueError("commitment")
    return open_sealed(key, aad, wrapped[:-32])


def open_box(private: bytes, aad: bytes, boxed: bytes) -> bytes:
    """Open a box."""
    own = X25519PrivateKey.from_private_bytes(private)
    public = own.public_key().public_bytes_raw()
    shared = own.exchange(X25519PublicKey.from_public_bytes(boxed[:32]))
    return unwrap(blake2b(boxed[:32] + public, b"vaultd.box", shared), aad, boxed[32:])


def open_slot(slot: bytes, secret: bytes) -> tuple[bytes, bytes]:
    """The root key and the slot's public key of a slot, from its secret alone."""
    if len(slot) != 412 or blake2b(slot[:396], b"vaultd.slot.sum", size=16) != slot[396:]:
        raise ValueError("checksum")
    header, (time_cost, memory) = slot[:124], struct.unpack(">II", slot[8:16])
    if slot[:5] != b"VDSL\x01" or slot[5] not in (1, 2):
        raise ValueError("version or kind")
    if slot[5] == 1:
        if not (1 <= time_cost <= 16 and 1 <= slot[7] <= 16 and 8 * slot[7] <= memory <= 1 << 20):
            raise ValueError("cost")
        hasher = Argon2id(salt=slot[28:44], length=32, iterations=time_cost, lanes=slot[7], memory_cost=memory)
        slot_key = hasher.derive(secret)
    else:
        slot_key = blake2b(secret, b"vaultd.keyfile", salt=slot[28:44])
    if blake2b(header, b"vaultd.slot.mark", slot_key) != slot[124:156]:
        raise ValueError("mark")
    root = open_box(blake2b(b"", b"vaultd.slot.pair", slot_key), context("slot.root", header), slot[156:292])
    return root, unwrap(blake2b(b"", b"vaultd.wrap", root), context("slot.public", header), slot[292:396])


def open_value(data_key: bytes, aad: bytes, sealed: bytes) -> bytes:
    """A value, its length and padding checked."""
    plaintext = open_sealed(data_key, aad, sealed)
    size = int.from_bytes(plaintext[:4], "big")
    text = plaintext[4 : 4 + size]
    if len(text) != size or size == 0 or len(plaintext) != _padme(4 + size) or plaintext[4 + size :].strip(b"\0"):
        raise ValueError("padding")
    return text


def _padme(size: int) -> int:
    """The padded length of `size` bytes."""
    if size <= 64:
        return 64
    e = size.bit_length() - 1
    step = 1 << (e - e.bit_length())
    return -(-size // step) * step


@pytest.fixture(scope="session")
def second() -> SimpleNamespace:
    """The second implementation's functions by name."""
    functions = (hchacha20, poly1305_key, blake2b, context, seal, open_sealed, unwrap, open_box, open_slot, open_value)
    return SimpleNamespace(**{function.__name__: function for function in functions})
