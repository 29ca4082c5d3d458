"""One ciphertext that opens under two keys: real for XChaCha20-Poly1305, refused by our wraps."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

import pytest

from vaultd.crypto.memory import Key
from vaultd.crypto.primitives import open_sealed
from vaultd.crypto.wrap import unwrap
from vaultd.errors import IntegrityError

if TYPE_CHECKING:
    from types import SimpleNamespace

P = (1 << 130) - 5
CLAMP = 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF


def two_key_ciphertext(second: SimpleNamespace, keys: tuple[bytes, bytes], nonce: bytes, aad: bytes) -> bytes:
    """nonce ‖ ciphertext ‖ tag that both keys open.

    Poly1305 is a polynomial over a field: two keys and one wanted tag are two linear equations, so two blocks of
    ciphertext that are free solve them. A solution must fit into a block, which one in sixteen does; another block
    is varied until it does.
    """
    (r1, s1), (r2, s2) = (
        (int.from_bytes(raw[:16], "little") & CLAMP, int.from_bytes(raw[16:], "little"))
        for raw in (second.poly1305_key(key, nonce) for key in keys)
    )
    size = 48
    ends = aad.ljust(-(-len(aad) // 16) * 16, b"\0"), len(aad).to_bytes(8, "little") + size.to_bytes(8, "little")

    def blocks(data: bytes) -> list[int]:
        return [int.from_bytes(data[at : at + 16], "little") + (1 << 128) for at in range(0, len(data), 16)]

    def evaluate(values: list[int], r: int) -> int:
        total = 0
        for value in values:
            total = (total + value) * r % P
        return total

    while True:
        tag = int.from_bytes(os.urandom(16), "little")
        fixed = blocks(ends[0]) + blocks(os.urandom(16)) + [0, 0] + blocks(ends[1])
        # What the two free blocks x, y must add: x r^3 + y r^2 for each of both keys.
        left1, left2 = (((tag - s) % (1 << 128) - evaluate(fixed, r)) % P for r, s in ((r1, s1), (r2, s2)))
        determinant = (pow(r1, 3, P) * pow(r2, 2, P) - pow(r2, 3, P) * pow(r1, 2, P)) % P
        inverse = pow(determinant, -1, P)
        x = (left1 * pow(r2, 2, P) - left2 * pow(r1, 2, P)) * inverse % P
        y = (pow(r1, 3, P) * left2 - pow(r2, 3, P) * left1) * inverse % P
        if all(1 << 128 <= value < 1 << 129 for value in (x, y)):
            first = fixed[len(blocks(ends[0]))]
            body = b"".join((value - (1 << 128)).to_bytes(16, "little") for value in (first, x, y))
            return nonce + body + tag.to_bytes(16, "little")


def test_a_ciphertext_that_opens_under_two_keys_is_refused(second: SimpleNamespace) -> None:
    """The bare AEAD opens it under both keys; a wrap opens it under the one it commits to, and under no other."""
    raw, nonce, aad = (os.urandom(32), os.urandom(32)), os.urandom(24), b"vaultd\x01 some place"
    sealed = two_key_ciphertext(second, raw, nonce, aad)
    one, other = map(Key.copy_of, raw)
    opened = [bytes(open_sealed(key, aad, sealed)) for key in (one, other)]
    assert opened[0] != opened[1]  # the attack is real: without commitment this test would have nothing to hold
    for mine, theirs, secret in ((0, other, opened[0]), (1, one, opened[1])):
        commitment = hashlib.blake2b(nonce + aad, key=raw[mine], person=b"vaultd.commit", digest_size=32).digest()
        assert unwrap((one, other)[mine], aad, sealed + commitment) == secret
        with pytest.raises(IntegrityError):
            unwrap(theirs, aad, sealed + commitment)
