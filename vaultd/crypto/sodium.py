"""libsodium's calls as typed Python names: the one module that imports the untyped `nacl._sodium`.

Nothing is wrapped, so nothing is slowed down: each name is the binding's own function object under a precise
signature. Lengths are the caller's duty, as in C; the modules above this one check every length before a call. All
functions release the GIL while they run.

A `bytes` argument is passed as a pointer to its own storage, without a copy; anything else goes through `from_buffer`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from nacl._sodium import ffi as _ffi
from nacl._sodium import lib as _lib

from vaultd.errors import Internal

if TYPE_CHECKING:
    from collections.abc import Callable

    class Pointer:
        """A cffi `unsigned char *` or `unsigned char[]`: it keeps the buffer it points into alive."""

        def __add__(self, offset: int) -> Pointer: ...
        def __len__(self) -> int: ...

else:
    Pointer = Any

__all__ = [
    "AEGIS_NONCE",
    "AEGIS_TAG",
    "ED25519_PUBLIC",
    "ED25519_SECRET",
    "ED25519_SIGNATURE",
    "KEY",
    "NONCE",
    "NULL",
    "PERSON",
    "SALT",
    "TAG",
    "Pointer",
    "aead_decrypt",
    "aead_encrypt",
    "aegis_decrypt",
    "aegis_encrypt",
    "blake2b",
    "copy",
    "from_buffer",
    "has_aes",
    "memcmp",
    "memory",
    "memzero",
    "mlock",
    "new_size",
    "randombytes",
    "scalarmult",
    "scalarmult_base",
    "sign",
    "sign_open",
    "sign_seed_keypair",
]

KEY: Final = 32
"""Bytes of an XChaCha20-Poly1305 key, an X25519 scalar or point, an Ed25519 seed, and of every key of ours."""
NONCE: Final = 24
"""Bytes of an XChaCha20-Poly1305-IETF nonce (draft-irtf-cfrg-xchacha-03)."""
TAG: Final = 16
"""Bytes of a Poly1305 tag (RFC 8439)."""
AEGIS_NONCE: Final = 32
"""Bytes of an AEGIS-256 nonce (draft-irtf-cfrg-aegis-aead)."""
AEGIS_TAG: Final = 32
"""Bytes of the longer of AEGIS-256's two tags, the only one libsodium makes."""
SALT: Final = 16
"""Bytes of BLAKE2b's salt parameter (RFC 7693, section 2.5)."""
PERSON: Final = 16
"""Bytes of BLAKE2b's personalisation parameter."""
ED25519_PUBLIC: Final = 32
ED25519_SECRET: Final = 64
"""libsodium's secret key is the seed and the public key, one behind the other (RFC 8032 calls the seed the key)."""
ED25519_SIGNATURE: Final = 64

NULL: Final[Pointer] = _ffi.NULL

_CHARS: Final = _ffi.typeof("unsigned char[]")
_from_buffer: Final[Callable[..., Any]] = _ffi.from_buffer
_buffer: Final[Callable[..., Any]] = _ffi.buffer
_new: Final[Callable[..., Any]] = _ffi.new


def from_buffer(buffer: bytes | bytearray | memoryview) -> Pointer:
    """A pointer into `buffer`, which stays alive, and cannot be resized, as long as the pointer lives."""
    pointer: Pointer = _from_buffer(_CHARS, buffer)
    return pointer


def copy(pointer: Pointer, size: int) -> bytes:
    """`size` bytes from `pointer`, which must not be secret."""
    copied: bytes = _buffer(pointer, size)[:]
    return copied


def memory(pointer: Pointer) -> memoryview:
    """A writable view of the whole buffer that `from_buffer` made `pointer` for; it keeps that alive."""
    return memoryview(_buffer(pointer))


def has_aes() -> bool:
    """Whether libsodium found AES instructions in this processor: it offers AES-256-GCM only then, and by them runs
    AEGIS as well."""
    return bool(_lib.crypto_aead_aes256gcm_is_available())


def new_size() -> Any:
    """A place for an `unsigned long long` that a call writes a length to."""
    return _new("unsigned long long *")


aead_encrypt: Final[
    Callable[
        [Pointer, Pointer, Pointer | bytes, int, Pointer | bytes, int, Pointer, Pointer | bytes, Pointer | bytes], int
    ]
] = _lib.crypto_aead_xchacha20poly1305_ietf_encrypt
"""(out ciphertext and tag, out length or NULL, plaintext, its length, aad, its length, NULL, nonce, key) -> 0."""

aead_decrypt: Final[
    Callable[
        [Pointer, Pointer, Pointer, Pointer | bytes, int, Pointer | bytes, int, Pointer | bytes, Pointer | bytes], int
    ]
] = _lib.crypto_aead_xchacha20poly1305_ietf_decrypt
"""(out plaintext, out length or NULL, NULL, ciphertext and tag, their length, aad, its length, nonce, key) -> 0, or -1
with the output zeroed."""

aegis_encrypt: Final[
    Callable[
        [Pointer, Pointer, Pointer | bytes, int, Pointer | bytes, int, Pointer, Pointer | bytes, Pointer | bytes], int
    ]
] = _lib.crypto_aead_aegis256_encrypt
"""As `aead_encrypt`. Without AES instructions libsodium runs it in portable code: slowly, with the same result."""
aegis_decrypt: Final[
    Callable[
        [Pointer, Pointer, Pointer, Pointer | bytes, int, Pointer | bytes, int, Pointer | bytes, Pointer | bytes], int
    ]
] = _lib.crypto_aead_aegis256_decrypt
"""As `aead_decrypt`."""

blake2b: Final[
    Callable[
        [Pointer, int, Pointer | bytes, int, Pointer | bytes, int, Pointer | bytes, Pointer | bytes],
        int,
    ]
] = _lib.crypto_generichash_blake2b_salt_personal
"""(out, its length, data, its length, key or NULL, its length, salt of 16 or NULL for zeros, personalisation of 16)."""

memzero: Final[Callable[[Pointer, int], None]] = _lib.sodium_memzero
memcmp: Final[Callable[[Pointer | bytes, Pointer | bytes, int], int]] = _lib.sodium_memcmp
"""(a, b, length) -> 0 when equal, -1 when not; the time depends on the length only."""
mlock: Final[Callable[[Pointer, int], int]] = _lib.sodium_mlock
"""(start, length) -> 0, or -1 when the limit on locked memory is reached; marks the range MADV_DONTDUMP either way."""
randombytes: Final[Callable[[Pointer, int], None]] = _lib.randombytes
"""(out, length): getrandom(2) on every call, so that a forked child never repeats its parent's bytes."""
scalarmult: Final[Callable[[Pointer, Pointer | bytes, Pointer | bytes], int]] = _lib.crypto_scalarmult
"""(out point, scalar, point) -> 0, or -1 when the shared point is all zeros (a point of small order)."""
scalarmult_base: Final[Callable[[Pointer, Pointer | bytes], int]] = _lib.crypto_scalarmult_base
sign: Final[Callable[[Pointer, Any, Pointer | bytes, int, Pointer], int]] = _lib.crypto_sign
"""(out signature and message, out length, message, its length, secret key of 64) -> 0."""
sign_open: Final[Callable[[Pointer, Any, Pointer | bytes, int, bytes], int]] = _lib.crypto_sign_open
"""(out message, out length, signature and message, their length, public key) -> 0, or -1 when it does not verify."""
sign_seed_keypair: Final[Callable[[Pointer, Pointer, Pointer | bytes], int]] = _lib.crypto_sign_seed_keypair
"""(out public key of 32, out secret key of 64, seed of 32) -> 0."""

# Every length above is ours to pass; a binding built with other ones must not get as far as its first call.
if (
    _lib.crypto_aead_xchacha20poly1305_ietf_keybytes() != KEY
    or _lib.crypto_aead_xchacha20poly1305_ietf_npubbytes() != NONCE
    or _lib.crypto_aead_xchacha20poly1305_ietf_abytes() != TAG
    or _lib.crypto_aead_aegis256_keybytes() != KEY
    or _lib.crypto_aead_aegis256_npubbytes() != AEGIS_NONCE
    or _lib.crypto_aead_aegis256_abytes() != AEGIS_TAG
    or _lib.crypto_generichash_blake2b_personalbytes() != PERSON
    or _lib.crypto_generichash_blake2b_saltbytes() != SALT
    or _lib.crypto_scalarmult_bytes() != KEY
    or _lib.crypto_sign_bytes() != ED25519_SIGNATURE
    or _lib.crypto_sign_secretkeybytes() != ED25519_SECRET
    or _lib.sodium_init() < 0
):
    raise Internal("libsodium's constants are not the ones this code was written for", "install PyNaCl 1.6.2 or newer")
