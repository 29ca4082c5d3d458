"""Slots' secrets and values as the embedded vault's callers give them, copied into memory that can be wiped."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from typing import NamedTuple

from vaultd.crypto.kdf import KEY_FILE_MAX, KEY_FILE_MIN
from vaultd.crypto.memory import SecretBytes, wipe
from vaultd.crypto.slots import SlotKind
from vaultd.errors import ConfigError, Invalid, StoreError

__all__ = ["Passphrase", "Source", "Value", "as_secret", "read_credential", "slot_secret"]

Passphrase = str | bytes | bytearray | Callable[[], "str | bytes | bytearray"]
"""A passphrase, or what asks for one. A `bytearray` is the caller's to wipe; copies made of it here are wiped here."""

Value = str | bytes | bytearray | memoryview

_KINDS = (SlotKind.PASSPHRASE, SlotKind.KEY_FILE, SlotKind.CREDENTIAL)
"""As the fields of `Source`."""


class Source(NamedTuple):
    """Where a slot's secret comes from: exactly one of these."""

    passphrase: Passphrase | None = None
    key_file: str | os.PathLike[str] | None = None
    credential: str | None = None

    def kind(self) -> SlotKind:
        """Which kind of slot is meant. Raises `Invalid` unless exactly one is given."""
        given = [kind for kind, one in zip(_KINDS, self, strict=True) if one is not None]
        if len(given) != 1:
            raise Invalid(
                "not exactly one of a passphrase, a key file and a credential was given", "a slot has one secret"
            )
        return given[0]

    def __repr__(self) -> str:
        return "Source(...)"  # a passphrase may be among it


def slot_secret(source: Source) -> SecretBytes:
    """The slot's secret, asked for or read; the caller wipes it.

    Raises:
        Invalid: what was asked for is no text and no bytes.
        StoreError: the key file cannot be read.
        ConfigError: the credential is not there, cannot be read, or is no credential's size.
    """
    passphrase, key_file, credential = source
    if key_file is not None:
        return _read(key_file)
    if credential is not None:
        return read_credential(credential, os.environ)
    given = passphrase() if callable(passphrase) else passphrase
    if not isinstance(given, str | bytes | bytearray):
        raise Invalid("a passphrase is text or bytes", "give str, bytes, bytearray, or a function that returns one")
    return as_secret(given)


def as_secret(given: Value) -> SecretBytes:
    """A wipeable copy. Of a `str` one more copy is made on the way, which cannot be wiped."""
    return SecretBytes.copy_of(given.encode() if isinstance(given, str) else given)


def read_credential(name: str, environment: Mapping[str, str]) -> SecretBytes:
    """The content of the credential `name`; the caller wipes it.

    Args:
        name: the ID of `LoadCredential=` or `LoadCredentialEncrypted=`.
        environment: `CREDENTIALS_DIRECTORY`, where systemd put the credentials of this unit.

    Raises:
        Invalid: not a credential's name.
        ConfigError: systemd handed over none of that name, it cannot be read, or it is not 32 to 4096 bytes.
    """
    if not name or "/" in name or "\0" in name or name in (".", ".."):
        raise Invalid(f"not a credential's name: {ascii(name)[:60]}", "the ID of LoadCredentialEncrypted=")
    directory = environment.get("CREDENTIALS_DIRECTORY", "")
    if not os.path.isabs(directory):
        raise ConfigError(
            f"there is no credential {name}: systemd handed none over", f"LoadCredentialEncrypted={name}:FILE"
        )
    buffer = bytearray(KEY_FILE_MAX + 1)
    try:
        # Not blocking: a FIFO in its place would otherwise stop us here.
        descriptor = os.open(
            os.path.join(directory, name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
        )
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ConfigError(f"the credential {name} is not a regular file", "LoadCredentialEncrypted= makes one")
            size = os.readv(descriptor, [buffer])  # whole: a regular file of this size is not read in parts
        finally:
            os.close(descriptor)
        if not KEY_FILE_MIN <= size <= KEY_FILE_MAX:
            raise ConfigError(
                f"the credential {name} is not {KEY_FILE_MIN} to {KEY_FILE_MAX} bytes",
                "it has to be what the slot was made with: vaultctl slot add --credential-file F",
            )
        with memoryview(buffer) as view:
            return SecretBytes.copy_of(view[:size])
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise ConfigError(
            f"the credential {name} cannot be read: {reason}", f"LoadCredentialEncrypted={name}:FILE"
        ) from error
    finally:
        wipe(buffer)


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
