"""Slots' secrets and values as the embedded vault's callers give them, copied into memory that can be wiped."""

from __future__ import annotations

import os
from collections.abc import Callable

from vaultd.crypto.kdf import KEY_FILE_MAX
from vaultd.crypto.memory import SecretBytes, wipe
from vaultd.crypto.slots import SlotKind
from vaultd.errors import Invalid, StoreError

__all__ = ["Passphrase", "Value", "as_secret", "kind_of", "slot_secret"]

Passphrase = str | bytes | bytearray | Callable[[], "str | bytes | bytearray"]
"""A passphrase, or what asks for one. A `bytearray` is the caller's to wipe; copies made of it here are wiped here."""

Value = str | bytes | bytearray | memoryview


def kind_of(passphrase: Passphrase | None, key_file: str | os.PathLike[str] | None) -> SlotKind:
    """Which kind of slot is meant. Raises `Invalid` unless exactly one is given."""
    if (passphrase is None) == (key_file is None):
        raise Invalid("neither or both of a passphrase and a key file were given", "give one of them")
    return SlotKind.KEY_FILE if passphrase is None else SlotKind.PASSPHRASE


def slot_secret(passphrase: Passphrase | None, key_file: str | os.PathLike[str] | None) -> SecretBytes:
    """The slot's secret, asked for or read; the caller wipes it.

    Raises:
        Invalid: what was asked for is no text and no bytes.
        StoreError: the key file cannot be read.
    """
    if key_file is not None:
        return _read(key_file)
    given = passphrase() if callable(passphrase) else passphrase
    if not isinstance(given, str | bytes | bytearray):
        raise Invalid("a passphrase is text or bytes", "give str, bytes, bytearray, or a function that returns one")
    return as_secret(given)


def as_secret(given: Value) -> SecretBytes:
    """A wipeable copy. Of a `str` one more copy is made on the way, which cannot be wiped."""
    return SecretBytes.copy_of(given.encode() if isinstance(given, str) else given)


def _read(path: str | os.PathLike[str]) -> SecretBytes:
    """A key file's content, read straight into memory that can be wiped."""
    buffer = bytearray(KEY_FILE_MAX + 1)
    try:
        with open(path, "rb", buffering=0) as file:
            size = file.readinto(buffer)
        return SecretBytes.copy_of(memoryview(buffer)[:size])
    except OSError as error:
        words = os.strerror(error.errno).lower() if error.errno else "unknown error"
        raise StoreError(f"cannot read the key file: {words}", "check its path and permissions") from error
    finally:
        wipe(buffer)
