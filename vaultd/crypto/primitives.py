"""The primitives, with lengths checked: XChaCha20-Poly1305-IETF, keyed BLAKE2b, X25519, Ed25519, randomness.

Sources: draft-irtf-cfrg-xchacha-03 and RFC 8439 (the AEAD), RFC 7693 (BLAKE2b), RFC 7748 (X25519), RFC 8032 (Ed25519).

Whatever is wrong with sealed bytes (cut, changed, moved, another key), the answer is one `IntegrityError`: telling the
cases apart would help whoever made them. XChaCha20-Poly1305 does not commit to its key; what must open under one key
only goes through `wrap`.
"""

from __future__ import annotations

from typing import Final

from vaultd.crypto import sodium
from vaultd.crypto.memory import Buffer, Key, SecretBytes, pointer_to
from vaultd.errors import IntegrityError, Internal

__all__ = [
    "OVERHEAD",
    "constant_time_equal",
    "derive",
    "does_not_open",
    "ed25519_pair",
    "ed25519_public",
    "keyed_hash",
    "open_sealed",
    "open_with_nonce",
    "random_bytes",
    "seal",
    "seal_with_nonce",
    "sign",
    "verify",
    "x25519",
    "x25519_pair",
    "x25519_public",
]

OVERHEAD: Final = sodium.NONCE + sodium.TAG
"""How many bytes `seal` adds."""


def does_not_open() -> IntegrityError:
    """The one error for sealed bytes that do not verify."""
    return IntegrityError(
        "does not open: changed, moved, cut, or sealed under another key",
        "restore the file from a backup; 'vaultctl check' names what is damaged",
    )


def padded_label(label: bytes) -> bytes:
    """BLAKE2b's personalisation for a label of 1 to 16 bytes: zeros behind it (no label ends in a zero byte)."""
    if not 1 <= len(label) <= sodium.PERSON or label[-1] == 0:
        raise Internal("a personalisation has 1 to 16 bytes and does not end in zero")
    return label.ljust(sodium.PERSON, b"\0")


def put_nonce(sealed: bytearray, out: sodium.Pointer, nonce: bytes | None) -> None:
    """Put a random nonce, or the one of a golden file, at the beginning of what is to be sealed; `out` points there."""
    if nonce is None:
        sodium.randombytes(out, sodium.NONCE)
    elif len(nonce) != sodium.NONCE:
        raise Internal("a nonce has 24 bytes")
    else:
        sealed[: sodium.NONCE] = nonce


def seal(key: Key, aad: bytes, plaintext: Buffer | SecretBytes, *, nonce: bytes | None = None) -> bytes:
    """Seal under a random nonce.

    Args:
        key: the key.
        aad: associated data, from `context`: what the plaintext means and where it belongs.
        plaintext: any length.
        nonce: only for generators of golden files; 24 bytes, never the same twice under one key.

    Returns:
        nonce (24) ‖ ciphertext ‖ tag (16).
    """
    source, size = pointer_to(plaintext)
    sealed = bytearray(sodium.NONCE + size + sodium.TAG)
    out = sodium.from_buffer(sealed)
    # 192 random bits: after 2^64 seals under one key the chance that two nonces met is still below 2^-64.
    put_nonce(sealed, out, nonce)
    sodium.aead_encrypt(out + sodium.NONCE, sodium.NULL, source, size, aad, len(aad), sodium.NULL, out, key.pointer)
    return bytes(sealed)


def open_sealed(key: Key, aad: bytes, sealed: Buffer) -> bytearray:
    """Open what `seal` made.

    Returns:
        The plaintext in a buffer of its own, the caller's to wipe.

    Raises:
        IntegrityError: it does not open.
    """
    source, size = pointer_to(_kept(sealed))
    if size < OVERHEAD:
        raise does_not_open()
    start = sodium.from_buffer(source) if isinstance(source, bytes) else source
    return _open(key, aad, start, start + sodium.NONCE, size - sodium.NONCE)


def seal_with_nonce(key: Key, nonce: bytes, aad: bytes, plaintext: Buffer | SecretBytes) -> bytes:
    """Seal under a nonce that the format fixes elsewhere, and that is not stored.

    Returns:
        ciphertext ‖ tag (16). The caller says, where it calls this, why the nonce is unique under the key.
    """
    if len(nonce) != sodium.NONCE:
        raise Internal("a nonce has 24 bytes")
    source, size = pointer_to(plaintext)
    sealed = bytearray(size + sodium.TAG)
    out = sodium.from_buffer(sealed)
    sodium.aead_encrypt(out, sodium.NULL, source, size, aad, len(aad), sodium.NULL, nonce, key.pointer)
    return bytes(sealed)


def open_with_nonce(key: Key, nonce: bytes, aad: bytes, sealed: Buffer) -> bytearray:
    """Open what `seal_with_nonce` made.

    Raises:
        IntegrityError: it does not open.
    """
    if len(nonce) != sodium.NONCE:
        raise Internal("a nonce has 24 bytes")
    source, size = pointer_to(_kept(sealed))
    if size < sodium.TAG:
        raise does_not_open()
    return _open(key, aad, nonce, source, size)


def _kept(sealed: Buffer) -> bytes | bytearray:
    """What is sealed, as something that a pointer may be made into where an error can be raised.

    The error keeps this frame. Once it is part of a cycle, the garbage collector may clear a memoryview before the
    pointer that was made into it, and CPython then follows a null pointer.
    """
    return bytes(sealed) if isinstance(sealed, memoryview) else sealed


def _open(
    key: Key, aad: bytes, nonce: sodium.Pointer | bytes, ciphertext: sodium.Pointer | bytes, size: int
) -> bytearray:
    plaintext = bytearray(size - sodium.TAG)
    out = sodium.from_buffer(plaintext)
    if sodium.aead_decrypt(out, sodium.NULL, sodium.NULL, ciphertext, size, aad, len(aad), nonce, key.pointer):
        raise does_not_open()  # libsodium verifies before it decrypts, and leaves zeros behind
    return plaintext


def keyed_hash(key: SecretBytes | None, data: Buffer | SecretBytes, *, person: bytes, size: int = 32) -> bytes:
    """Keyed BLAKE2b, personalised: a MAC, or (without a key) a hash with a domain of its own.

    Args:
        key: 1 to 64 bytes, or None for the unkeyed hash.
        data: what is authenticated.
        person: the use's label, 1 to 16 bytes.
        size: bytes of output, 16 to 64.
    """
    digest = bytearray(size)
    _blake2b(sodium.from_buffer(digest), size, data, key, person)
    return bytes(digest)


def derive(key: SecretBytes, label: bytes, data: Buffer | SecretBytes = b"", *, salt: bytes | None = None) -> Key:
    """A key for one purpose: BLAKE2b-256, keyed with `key`, personalised with `label`, over `data`."""
    derived = Key()
    _blake2b(derived.pointer, sodium.KEY, data, key, label, salt)
    return derived


def hash_to_key(data: SecretBytes, label: bytes, salt: bytes) -> Key:
    """A key from a secret of any length with full entropy: BLAKE2b-256 without key, salted, personalised."""
    derived = Key()
    _blake2b(derived.pointer, sodium.KEY, data, None, label, salt)
    return derived


def _blake2b(
    out: sodium.Pointer,
    size: int,
    data: Buffer | SecretBytes,
    key: SecretBytes | None,
    person: bytes,
    salt: bytes | None = None,
) -> None:
    if not 16 <= size <= 64:
        raise Internal("a hash has 16 to 64 bytes")
    if key is not None and not 1 <= len(key) <= 64:
        raise Internal("a hash key has 1 to 64 bytes")
    if salt is not None and len(salt) != sodium.SALT:
        raise Internal("a hash salt has 16 bytes")
    source, length = pointer_to(data)
    secret, secret_size = (sodium.NULL, 0) if key is None else (key.pointer, len(key))
    if sodium.blake2b(out, size, source, length, secret, secret_size, salt or sodium.NULL, padded_label(person)):
        raise Internal("blake2b refused its parameters")


def random_bytes(size: int) -> bytes:
    """`size` bytes from the kernel's generator, for nonces, salts and ids; keys are drawn by `Key.random`."""
    drawn = bytearray(size)
    sodium.randombytes(sodium.from_buffer(drawn), size)
    return bytes(drawn)


def constant_time_equal(one: Buffer | SecretBytes, other: Buffer | SecretBytes) -> bool:
    """Whether both are the same bytes; the time depends on the lengths only."""
    mine, size = pointer_to(one)
    theirs, their_size = pointer_to(other)
    return size == their_size and sodium.memcmp(mine, theirs, size) == 0


def x25519(private: SecretBytes, public: bytes) -> Key:
    """The shared point (RFC 7748), to be hashed before use.

    Raises:
        IntegrityError: `public` is a point of small order, which nobody makes by accident.
    """
    if len(private) != sodium.KEY or len(public) != sodium.KEY:
        raise Internal("an x25519 key has 32 bytes")
    shared = Key()
    # An all-zero result says nothing about `private`: whoever sent that point would know the key.
    if sodium.scalarmult(shared.pointer, private.pointer, public):
        raise does_not_open()
    return shared


def x25519_public(private: SecretBytes) -> bytes:
    """The public key of an X25519 private key."""
    if len(private) != sodium.KEY:
        raise Internal("an x25519 key has 32 bytes")
    public = bytearray(sodium.KEY)
    sodium.scalarmult_base(sodium.from_buffer(public), private.pointer)
    return bytes(public)


def x25519_pair() -> tuple[Key, bytes]:
    """A fresh X25519 key pair: private, public."""
    private = Key.random()
    return private, x25519_public(private)


def ed25519_public(seed: SecretBytes) -> bytes:
    """The public key of an Ed25519 seed."""
    with _ed25519_secret(seed) as secret:
        return bytes(secret.view()[sodium.KEY :])


def ed25519_pair() -> tuple[Key, bytes]:
    """A fresh Ed25519 key pair: seed, public key."""
    seed = Key.random()
    return seed, ed25519_public(seed)


def sign(seed: SecretBytes, message: bytes) -> bytes:
    """An Ed25519 signature of 64 bytes (RFC 8032, pure)."""
    signed = bytearray(sodium.ED25519_SIGNATURE + len(message))
    with _ed25519_secret(seed) as secret:
        sodium.sign(sodium.from_buffer(signed), sodium.new_size(), message, len(message), secret.pointer)
    return bytes(signed[: sodium.ED25519_SIGNATURE])


def verify(public: bytes, message: bytes, signature: bytes) -> None:
    """Check an Ed25519 signature.

    Raises:
        IntegrityError: it does not verify.
    """
    # Lengths first: signature and message go to libsodium as one string, so a short signature would borrow the
    # message's first bytes.
    if len(public) != sodium.ED25519_PUBLIC or len(signature) != sodium.ED25519_SIGNATURE:
        raise IntegrityError("signature does not verify", "check that it belongs to this public key and text")
    signed = signature + message
    scratch = sodium.from_buffer(bytearray(len(signed)))
    if sodium.sign_open(scratch, sodium.new_size(), signed, len(signed), public):
        raise IntegrityError("signature does not verify", "check that it belongs to this public key and text")


def _ed25519_secret(seed: SecretBytes) -> SecretBytes:
    """libsodium's secret key: seed (32) ‖ public key (32)."""
    if len(seed) != sodium.KEY:
        raise Internal("an ed25519 seed has 32 bytes")
    secret = SecretBytes.take(bytearray(sodium.ED25519_SECRET))
    public = sodium.from_buffer(bytearray(sodium.ED25519_PUBLIC))
    sodium.sign_seed_keypair(public, secret.pointer, seed.pointer)
    return secret
