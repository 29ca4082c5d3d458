"""Argon2id (RFC 9106), its cost bounded on both ends, and the way from a key file to a key.

The cost stands in a slot that whoever writes the disk may change: too high would be a denial of service, too low would
make the next passphrase cheap to guess. So every profile that is read is checked against both ends before it is run.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from argon2 import low_level

from vaultd.crypto import sodium
from vaultd.crypto.labels import KEY_FILE
from vaultd.crypto.memory import Key, SecretBytes
from vaultd.crypto.primitives import hash_to_key
from vaultd.errors import IntegrityError, Internal, Invalid, Unavailable

__all__ = [
    "CHEAPEST",
    "FLOOR",
    "KEY_FILE_MAX",
    "KEY_FILE_MIN",
    "PASSPHRASE_MAX",
    "RFC_9106_LOW",
    "Profile",
    "argon2id",
    "check_bounds",
    "key_file_key",
]


class Profile(NamedTuple):
    """A cost of Argon2id.

    Attributes:
        time_cost: passes over the memory (RFC 9106: t).
        memory_kib: memory in KiB (m).
        lanes: parallel lanes (p).
    """

    time_cost: int
    memory_kib: int
    lanes: int


RFC_9106_LOW: Final = Profile(time_cost=3, memory_kib=64 * 1024, lanes=4)
"""RFC 9106, section 4, second recommended choice: what new slots get."""
FLOOR: Final = Profile(time_cost=2, memory_kib=19 * 1024, lanes=1)
"""The cheapest profile that an existing slot may name (OWASP's minimum), unless the caller says otherwise."""
CHEAPEST: Final = Profile(time_cost=1, memory_kib=8, lanes=1)
"""Only for tests, and only handed over as a parameter: no environment and no file selects it."""

_MAX: Final = Profile(time_cost=16, memory_kib=1024 * 1024, lanes=16)
PASSPHRASE_MAX: Final = 4096
"""Bytes; a passphrase is taken as it is, without normalisation."""
KEY_FILE_MIN: Final = 32
KEY_FILE_MAX: Final = 4096


def check_bounds(profile: Profile, minimum: Profile = FLOOR) -> None:
    """Refuse a cost outside the bounds.

    Args:
        profile: what a slot names.
        minimum: the least time cost and memory that are accepted.

    Raises:
        IntegrityError: more than 16 passes, 1 GiB or 16 lanes, or less than `minimum`.
    """
    time_cost, memory_kib, lanes = profile
    if not (
        1 <= time_cost <= _MAX.time_cost
        and 1 <= lanes <= _MAX.lanes
        and 8 * lanes <= memory_kib <= _MAX.memory_kib  # 8 KiB a lane is Argon2's own minimum
    ):
        raise IntegrityError(
            "key slot names an argon2id cost outside the bounds",
            "somebody changed the keyring; restore it from a backup",
        )
    if time_cost < minimum.time_cost or memory_kib < minimum.memory_kib:
        raise IntegrityError(
            "key slot names an argon2id cost below the accepted minimum",
            "somebody changed the keyring, or the vault was made for tests; do not enter a passphrase",
        )


def argon2id(passphrase: SecretBytes, salt: bytes, profile: Profile) -> Key:
    """The slot key of a passphrase; slow, and without the GIL.

    Args:
        passphrase: 1 to 4,096 bytes.
        salt: 16 bytes.
        profile: already checked by `check_bounds`.

    Raises:
        Invalid: an empty or overlong passphrase.
        Unavailable: there is not enough memory for this cost.
    """
    if not 1 <= len(passphrase) <= PASSPHRASE_MAX:
        raise Invalid("passphrase is empty or longer than 4096 bytes", "choose one of 1 to 4096 bytes")
    if len(salt) != sodium.SALT:
        raise Internal("an argon2id salt has 16 bytes")
    lib: Any = low_level.lib  # type: ignore[attr-defined]  # the binding itself, which the package does not re-export
    key = Key()
    # The binding's high-level call takes and returns `bytes`, which cannot be wiped: pointers into our own buffers
    # instead. The library clears its own memory behind itself.
    status = lib.argon2_hash(
        profile.time_cost,
        profile.memory_kib,
        profile.lanes,
        passphrase.pointer,
        len(passphrase),
        sodium.from_buffer(salt),
        len(salt),
        key.pointer,
        sodium.KEY,
        sodium.NULL,
        0,
        lib.Argon2_id,
        low_level.ARGON2_VERSION,
    )
    if status != lib.ARGON2_OK:
        key.wipe()
        reason = low_level.error_to_str(status).lower()
        raise Unavailable(f"argon2id failed: {reason}", f"it needs {profile.memory_kib} KiB of free memory")
    return key


def key_file_key(content: SecretBytes, salt: bytes) -> Key:
    """The slot key of a key file: BLAKE2b-256 over its content, salted; a key file has entropy enough for one hash.

    Raises:
        Invalid: shorter than 32 or longer than 4,096 bytes.
    """
    if not KEY_FILE_MIN <= len(content) <= KEY_FILE_MAX:
        raise Invalid(
            "key file is shorter than 32 or longer than 4096 bytes",
            "make one with: head -c 32 /dev/urandom > key (mode 0600)",
        )
    return hash_to_key(content, KEY_FILE, salt)
