"""Wycheproof's vectors (project C2SP/wycheproof) through our own functions, every one counted."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from vaultd.crypto import primitives
from vaultd.crypto.ciphers import Algorithm
from vaultd.crypto.memory import Key, SecretBytes
from vaultd.errors import IntegrityError, Internal


def test_xchacha20_poly1305(wycheproof: Any) -> None:
    """All 315 agree, both ways; the nine with a nonce of another size are refused before libsodium sees them."""
    seen: Counter[str] = Counter()
    for group in wycheproof("xchacha20_poly1305_test.json"):
        for test in group["tests"]:
            key, nonce, aad, plaintext, ciphertext = (
                bytes.fromhex(test[name]) for name in ("key", "iv", "aad", "msg", "ct")
            )
            sealed = ciphertext + bytes.fromhex(test["tag"])
            if len(nonce) != 24:
                assert test["result"] == "invalid"
                with pytest.raises(Internal):
                    primitives.open_with_nonce(Key.copy_of(key), nonce, aad, sealed)
                with pytest.raises(Internal):
                    primitives.seal(Key.copy_of(key), aad, plaintext, nonce=nonce)
                seen["nonce"] += 1
            elif test["result"] == "valid":
                assert primitives.open_with_nonce(Key.copy_of(key), nonce, aad, sealed) == plaintext
                assert primitives.open_sealed(Key.copy_of(key), aad, nonce + sealed) == plaintext
                assert primitives.seal_with_nonce(Key.copy_of(key), nonce, aad, plaintext) == sealed
                assert primitives.seal(Key.copy_of(key), aad, plaintext, nonce=nonce) == nonce + sealed
                seen["valid"] += 1
            else:
                with pytest.raises(IntegrityError):
                    primitives.open_with_nonce(Key.copy_of(key), nonce, aad, sealed)
                with pytest.raises(IntegrityError):
                    primitives.open_sealed(Key.copy_of(key), aad, nonce + sealed)
                seen["invalid"] += 1
    assert seen == {"valid": 246, "invalid": 60, "nonce": 9}
    assert seen.total() == 315


def test_ed25519(wycheproof: Any) -> None:
    """All 151 agree: 88 verify, 63 do not, malleable and cut ones among them."""
    seen: Counter[str] = Counter()
    for group in wycheproof("ed25519_test.json"):
        public = bytes.fromhex(group["publicKey"]["pk"])
        for test in group["tests"]:
            message, signature = bytes.fromhex(test["msg"]), bytes.fromhex(test["sig"])
            if test["result"] == "valid":
                primitives.verify(public, message, signature)
            else:
                with pytest.raises(IntegrityError):
                    primitives.verify(public, message, signature)
            seen[test["result"]] += 1
    assert seen == {"valid": 88, "invalid": 63}
    assert seen.total() == 151


def test_x25519(wycheproof: Any) -> None:
    """All 518 agree; those whose result says nothing about the private key are refused, as RFC 7748 allows."""
    seen: Counter[str] = Counter()
    for group in wycheproof("x25519_test.json"):
        for test in group["tests"]:
            private = SecretBytes.copy_of(bytes.fromhex(test["private"]))
            public, shared = bytes.fromhex(test["public"]), bytes.fromhex(test["shared"])
            if "ZeroSharedSecret" in test["flags"]:
                assert shared == bytes(32)
                with pytest.raises(IntegrityError):
                    primitives.x25519(private, public)
                seen["refused"] += 1
            else:
                assert primitives.x25519(private, public) == shared
                seen[test["result"]] += 1
    assert seen == {"valid": 264, "acceptable": 223, "refused": 31}
    assert seen.total() == 518


def test_aegis_256(wycheproof: Any) -> None:
    """All 472 agree, both ways.

    They have the tag of 128 bits, which is the two halves of ours of 256 bits, one upon the other; so a changed tag is
    tried in the form that ours would have.
    """
    cipher = Algorithm.AEGIS_256
    seen: Counter[str] = Counter()
    for group in wycheproof("aegis256_test.json"):
        for test in group["tests"]:
            key, nonce, aad, plaintext, ciphertext, tag = (
                bytes.fromhex(test[name]) for name in ("key", "iv", "aad", "msg", "ct", "tag")
            )
            out = bytearray(len(plaintext) + cipher.tag)
            assert cipher.seal_into(out, Key.copy_of(key), nonce, aad, plaintext) == len(out)
            ours, half = bytes(out), cipher.tag // 2
            short = bytes(a ^ b for a, b in zip(ours[-2 * half : -half], ours[-half:], strict=True))
            seen[test["result"]] += 1
            opened = bytearray(len(plaintext))
            if test["result"] == "valid":
                assert (ours[: -2 * half], short) == (ciphertext, tag)
                assert cipher.open_into(opened, Key.copy_of(key), nonce, aad, ours) == len(plaintext)
                assert opened == plaintext
            else:
                assert (ours[: -2 * half], short) != (ciphertext, tag)
                delta = bytes(a ^ b for a, b in zip(short, tag, strict=True))
                changed = bytes(a ^ b for a, b in zip(ours[-2 * half : -half], delta, strict=True)) + ours[-half:]
                with pytest.raises(IntegrityError):
                    cipher.open_into(opened, Key.copy_of(key), nonce, aad, ciphertext + changed)
                assert not any(opened)
    assert seen == {"valid": 360, "invalid": 112}
    assert seen.total() == 472


def test_streams_xchacha20_poly1305_is_the_same(wycheproof: Any) -> None:
    """What seals chunks with XChaCha20-Poly1305 agrees with all 306 vectors of its nonce's size as well."""
    cipher = Algorithm.XCHACHA20_POLY1305
    seen: Counter[str] = Counter()
    for group in wycheproof("xchacha20_poly1305_test.json"):
        for test in group["tests"]:
            key, nonce, aad, plaintext, ciphertext, tag = (
                bytes.fromhex(test[name]) for name in ("key", "iv", "aad", "msg", "ct", "tag")
            )
            opened = bytearray(len(ciphertext))
            if len(nonce) != cipher.nonce:
                continue
            seen[test["result"]] += 1
            if test["result"] == "valid":
                out = bytearray(len(plaintext) + cipher.tag)
                cipher.seal_into(out, Key.copy_of(key), nonce, aad, plaintext)
                assert out == ciphertext + tag
                cipher.open_into(opened, Key.copy_of(key), nonce, aad, out)
                assert opened == plaintext
            else:
                with pytest.raises(IntegrityError):
                    cipher.open_into(opened, Key.copy_of(key), nonce, aad, ciphertext + tag)
    assert seen == {"valid": 246, "invalid": 60}
