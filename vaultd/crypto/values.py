"""Values: padded, sealed under a data key of their own, the data key wrapped under the tenant's.

    plaintext  = u32 length of the value ‖ value ‖ zeros up to pad(4 + length)
    sealed     = nonce (24) ‖ ciphertext ‖ tag (16)            under the data key
    wrapped    = wrap(data-key key, data key)                  104 bytes
    attachment = wrapped ‖ sealed                              what a log record carries

The value's associated data names vault, tenant, secret and version, not the generation of the tenant key: rotating the
tenant key wraps the data keys anew and leaves the values as they are. The data key's names the generation too.
"""

from __future__ import annotations

import struct
from typing import Final

from vaultd.crypto import sodium
from vaultd.crypto.context import context
from vaultd.crypto.memory import Buffer, Key, SecretBytes
from vaultd.crypto.primitives import OVERHEAD, does_not_open, put_nonce
from vaultd.crypto.wrap import WRAPPED_KEY, Scratch, open_wrapped, unwrap_key, wrap
from vaultd.errors import Internal, Invalid

__all__ = [
    "VALUE_MAX",
    "Envelope",
    "data_key_context",
    "new_data_key",
    "open_value",
    "pad",
    "seal_value",
    "unwrap_data_key",
    "value_context",
    "wrap_data_key",
]

VALUE_MAX: Final = 1 << 20
"""Bytes of the largest value, 1 MiB; the smallest has 1."""

_ID: Final = 16
_FLOOR: Final = 64
_LENGTH: Final = 4
_MIN_SEALED: Final = _FLOOR + OVERHEAD
_SPLIT: Final = struct.Struct("24s48s32s24s").unpack_from
"""An attachment's start: nonce, ciphertext with tag, and commitment of the wrapped data key; nonce of the value."""
_TEXT: Final = WRAPPED_KEY + sodium.NONCE
_COPY_UP_TO: Final = 4096
_LENGTH_OF: Final = struct.Struct(">I").unpack_from
_NULL: Final = sodium.NULL
_decrypt: Final = sodium.aead_decrypt
_SUFFIX: Final = struct.Struct(">I16sIQ").pack
"""Two fields of associated data at once: secret id (16 bytes) and version (u64), each behind its length."""


def pad(size: int) -> int:
    """The padded length of `size` bytes: Padmé, and never less than 64.

    Padmé (Nikitin et al., "Reducing Metadata Leakage from Encrypted Files and Communication with PURBs", PoPETs 2019)
    keeps the leading bits of a length and rounds the rest up: at most 12 % more, and of a length up to 1 MiB one of 274
    classes shows. Below 64 nothing shows, because that is where API keys are.
    """
    if size <= _FLOOR:
        return _FLOOR
    exponent = size.bit_length() - 1
    low = (1 << (exponent - exponent.bit_length())) - 1
    return (size + low) & ~low


def _check_size(size: int) -> None:
    if size < 1:
        raise Invalid("a secret's value is empty", "give at least one byte")
    if size > VALUE_MAX:
        raise Invalid("a secret's value is longer than 1 MiB", "store a key to the data instead of the data")


def _suffix(secret_id: bytes, version: int) -> bytes:
    # The fixed layout would cut or fill an id of another length without a word.
    if len(secret_id) != _ID:
        raise Internal("a secret's id has 16 bytes")
    return _SUFFIX(_ID, secret_id, 8, version)


def new_data_key() -> Key:
    """A fresh data key; each version of each secret has its own."""
    return Key.random()


def value_context(vault_id: bytes, tenant: bytes, secret_id: bytes, version: int) -> bytes:
    """A value's associated data."""
    return _value_prefix(vault_id, tenant) + _suffix(secret_id, version)


def data_key_context(vault_id: bytes, tenant: bytes, generation: int, secret_id: bytes, version: int) -> bytes:
    """A wrapped data key's associated data."""
    return _data_key_prefix(vault_id, tenant, generation) + _suffix(secret_id, version)


def _value_prefix(vault_id: bytes, tenant: bytes) -> bytes:
    _check_ids(vault_id, tenant)
    return context("value", vault_id, tenant)


def _data_key_prefix(vault_id: bytes, tenant: bytes, generation: int) -> bytes:
    _check_ids(vault_id, tenant)
    return context("datakey", vault_id, tenant, generation)


def _check_ids(vault_id: bytes, tenant: bytes) -> None:
    if len(vault_id) != _ID or len(tenant) != _ID:
        raise Internal("a vault's id and a tenant's uid have 16 bytes")


def wrap_data_key(
    wrapping: Key,
    data_key: Key,
    vault_id: bytes,
    tenant: bytes,
    generation: int,
    secret_id: bytes,
    version: int,
    *,
    nonce: bytes | None = None,
) -> bytes:
    """A data key as it is stored: 104 bytes. `nonce` is only for generators of golden files."""
    return wrap(wrapping, data_key_context(vault_id, tenant, generation, secret_id, version), data_key, nonce=nonce)


def unwrap_data_key(
    wrapping: Key, wrapped: Buffer, vault_id: bytes, tenant: bytes, generation: int, secret_id: bytes, version: int
) -> Key:
    """Open a stored data key; raises `IntegrityError`."""
    return unwrap_key(wrapping, data_key_context(vault_id, tenant, generation, secret_id, version), wrapped)


def seal_value(
    data_key: Key,
    vault_id: bytes,
    tenant: bytes,
    secret_id: bytes,
    version: int,
    value: SecretBytes,
    *,
    nonce: bytes | None = None,
) -> bytes:
    """Seal a value under its data key.

    Raises:
        Invalid: the value is empty or longer than 1 MiB.
    """
    return _seal(data_key, value_context(vault_id, tenant, secret_id, version), value, nonce)


def open_value(
    data_key: Key, sealed: Buffer, vault_id: bytes, tenant: bytes, secret_id: bytes, version: int
) -> SecretBytes:
    """Open what `seal_value` made.

    Raises:
        IntegrityError: another key, another place, or changed bytes.
    """
    raw = bytes(sealed)
    if len(raw) < _MIN_SEALED:
        raise does_not_open()
    aad = value_context(vault_id, tenant, secret_id, version)
    return _open(data_key.pointer, aad, raw[: sodium.NONCE], raw[sodium.NONCE :], len(raw) - OVERHEAD)


def _seal(data_key: Key, aad: bytes, value: SecretBytes, nonce: bytes | None) -> bytes:
    size = len(value)
    _check_size(size)
    padded = pad(_LENGTH + size)
    sealed = bytearray(padded + OVERHEAD)
    # The plaintext is laid out where the ciphertext will be, and encrypted in place: no second copy of the value.
    sealed[sodium.NONCE : sodium.NONCE + _LENGTH] = size.to_bytes(_LENGTH, "big")
    sealed[sodium.NONCE + _LENGTH : sodium.NONCE + _LENGTH + size] = value.view()
    out = sodium.from_buffer(sealed)
    # The data key is fresh, so any nonce would do; a random one keeps that from being load-bearing.
    put_nonce(sealed, out, nonce)
    text = out + sodium.NONCE
    sodium.aead_encrypt(text, sodium.NULL, text, padded, aad, len(aad), sodium.NULL, out, data_key.pointer)
    return bytes(sealed)


def _open(
    data_key: sodium.Pointer, aad: bytes, nonce: bytes, ciphertext: sodium.Pointer | bytes, padded: int
) -> SecretBytes:
    buffer = bytearray(padded)
    out = sodium.from_buffer(buffer)
    if _decrypt(out, _NULL, _NULL, ciphertext, padded + sodium.TAG, aad, len(aad), nonce, data_key):
        raise does_not_open()
    (length,) = _LENGTH_OF(buffer)
    end = _LENGTH + length
    # One plaintext per value: the length that pads to exactly this, and zeros behind it. Only a holder of the key can
    # get here with anything else, and then two readers might disagree about the value.
    if not (0 < length <= VALUE_MAX and (end <= _FLOOR if padded == _FLOOR else pad(end) == padded)) or (
        end != padded and buffer.count(0, end) != padded - end
    ):
        SecretBytes(out, 0, padded).wipe()
        raise does_not_open()
    return SecretBytes(out, _LENGTH, length)


class _Place:
    """What one call of `Envelope.open` works in."""

    __slots__ = ("key", "scratch")

    def __init__(self) -> None:
        self.key = Key()
        self.scratch = Scratch()


class Envelope:
    """One tenant's values under one generation of its tenant key: the two seals of a value in one call.

    Args:
        vault_id: 16 bytes.
        tenant: the tenant's uid, 16 bytes.
        generation: of the tenant key.
        data_key_key: `TenantKeys(...).data_key`; it stays its owner's.
    """

    __slots__ = ("_data_key_prefix", "_places", "_value_prefix", "_wrapping")

    def __init__(self, vault_id: bytes, tenant: bytes, generation: int, data_key_key: Key) -> None:
        self._wrapping = data_key_key
        self._data_key_prefix = _data_key_prefix(vault_id, tenant, generation)
        self._value_prefix = _value_prefix(vault_id, tenant)
        self._places: list[_Place] = []

    def seal(self, secret_id: bytes, version: int, value: SecretBytes) -> bytes:
        """A value as a log record carries it: wrapped data key ‖ sealed value.

        Raises:
            Invalid: the value is empty or longer than 1 MiB.
        """
        suffix = _suffix(secret_id, version)
        place = self._borrow()
        try:
            sodium.randombytes(place.key.pointer, sodium.KEY)  # the version's own data key
            sealed = _seal(place.key, self._value_prefix + suffix, value, None)
            return wrap(self._wrapping, self._data_key_prefix + suffix, place.key) + sealed
        finally:
            self._give_back(place)

    def open(self, secret_id: bytes, version: int, attachment: bytes) -> SecretBytes:
        """The value of an attachment.

        Raises:
            IntegrityError: another tenant, generation, secret or version, or changed bytes.
        """
        padded = len(attachment) - WRAPPED_KEY - OVERHEAD
        if padded < _FLOOR:
            raise does_not_open()
        suffix = _suffix(secret_id, version)
        wrap_nonce, wrapped, commitment, nonce = _SPLIT(attachment)
        # A short slice costs less than a pointer, a long one would be a copy of the whole.
        text: sodium.Pointer | bytes = (
            attachment[_TEXT:] if padded <= _COPY_UP_TO else sodium.from_buffer(attachment) + _TEXT
        )
        place = self._borrow()
        data_key = place.key.pointer
        try:
            if not open_wrapped(
                data_key,
                self._wrapping.pointer,
                self._data_key_prefix + suffix,
                (wrap_nonce, wrapped, commitment),
                place.scratch,
            ):
                raise does_not_open()
            return _open(data_key, self._value_prefix + suffix, nonce, text, padded)
        finally:
            self._give_back(place)

    def rewrap(self, target: Envelope, secret_id: bytes, version: int, attachment: bytes) -> bytes:
        """The same attachment under another generation's key: the data key wrapped anew, the value untouched.

        Raises:
            IntegrityError: the data key does not open here.
        """
        if len(attachment) < WRAPPED_KEY + _MIN_SEALED:
            raise does_not_open()
        suffix = _suffix(secret_id, version)
        nonce, wrapped, commitment, _ = _SPLIT(attachment)
        place = self._borrow()
        try:
            key, aad = self._wrapping.pointer, self._data_key_prefix + suffix
            if not open_wrapped(place.key.pointer, key, aad, (nonce, wrapped, commitment), place.scratch):
                raise does_not_open()
            return wrap(target._wrapping, target._data_key_prefix + suffix, place.key) + attachment[WRAPPED_KEY:]
        finally:
            self._give_back(place)

    def _borrow(self) -> _Place:
        # A place is kept for the next call; of two threads at once, each finds or makes its own.
        try:
            return self._places.pop()
        except IndexError:
            return _Place()

    def _give_back(self, place: _Place) -> None:
        sodium.memzero(place.key.pointer, sodium.KEY)
        self._places.append(place)
