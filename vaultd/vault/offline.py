"""What `vaultctl` does on a vault's directory by itself: init, check, audit verify. Plain arguments, plain results.

The one module of this room that the client imports, and only when one of these verbs is called.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from vaultd.audit.body import Actor
from vaultd.audit.checkpoint import parse
from vaultd.audit.verify import Report, verify_directory
from vaultd.clock import SystemClock
from vaultd.crypto.kdf import FLOOR, RFC_9106_LOW, Profile
from vaultd.crypto.memory import SecretBytes
from vaultd.crypto.slots import SlotKind
from vaultd.errors import IntegrityError, Invalid, NotFound, Uninitialised
from vaultd.store import DirectoryStore
from vaultd.vault.check import CheckReport
from vaultd.vault.check import check as check_store
from vaultd.vault.commit import KEYRING
from vaultd.vault.create import InitReport, create
from vaultd.vault.keyring import MAX_SIZE, KeyringFile

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CheckReport", "InitReport", "Report", "check", "init", "verify"]

_KINDS: Final = {
    "passphrase": SlotKind.PASSPHRASE,
    "key-file": SlotKind.KEY_FILE,
    "credential": SlotKind.CREDENTIAL,
}


def init(
    directory: str,
    *,
    secret: bytearray,
    kind: str = "passphrase",
    label: str = "",
    admin_uids: Sequence[int] = (),
    profile: Profile = RFC_9106_LOW,
) -> InitReport:
    """Make a new vault.

    Args:
        directory: empty or not there yet; made with mode 0700.
        secret: of the first slot; stays the caller's to wipe.
        kind: `passphrase`, `key-file` or `credential`.
        label: what people call the slot.
        admin_uids: who may be an admin; this process's uid when empty.
        profile: Argon2id's cost.

    Returns:
        What to keep: `vault_id`, `checkpoint_public`, `slot_id`, `created`.

    Raises:
        Exists: there is a vault, or something else, already.
        Invalid: the secret, the label, an admin uid or the cost is out of bounds.
        ConfigError, StoreError: the directory cannot be used.
    """
    admins = list(dict.fromkeys(admin_uids)) or [os.geteuid()]
    if len(admins) > 64 or not all(0 <= uid < 2**32 - 1 for uid in admins):
        raise Invalid("not a list of at most 64 user ids", "give each admin's uid once")
    actor = Actor("embedded", uid=os.getuid(), gid=os.getgid(), pid=os.getpid())
    with SecretBytes.copy_of(secret) as given, DirectoryStore(directory, create=True) as store:
        return create(
            store,
            SystemClock(),
            secret=given,
            kind=_kind(kind),
            label=label,
            admin_uids=admins,
            actor=actor,
            profile=profile,
        )


def check(
    directory: str, *, kind: str = "passphrase", secret: bytearray | None = None, minimum: Profile = FLOOR
) -> CheckReport:
    """Check every file of a vault that nobody has open, and with a slot's secret every seal. Changes nothing.

    Args:
        kind: of the slot, as in `init`.
        secret: stays the caller's to wipe.
        minimum: the least Argon2id cost that is accepted.

    Returns:
        `files`, `seals`, `values`, `records`, `problems`, `notes`.

    Raises:
        Locked: a daemon has it open.
        Uninitialised: there is no vault.
        WrongSecret: no slot opens with the secret.
    """
    with DirectoryStore(directory) as store:
        if secret is None:
            return check_store(store, SystemClock(), minimum=minimum)
        with SecretBytes.copy_of(secret) as given:
            return check_store(store, SystemClock(), secret=given, kind=_kind(kind), minimum=minimum)


def verify(directory: str, *, checkpoint: bytes | None = None, checkpoint_key: bytes | None = None) -> Report:
    """Check the audit journal without keys; a daemon may be writing to it meanwhile.

    Args:
        checkpoint: the content of a checkpoint that was kept elsewhere.
        checkpoint_key: the public key that signed it, as `init` printed it; the keyring's own when left out, which
            somebody who can write the disk may have exchanged.

    Raises:
        Uninitialised: there is no journal.
        IntegrityError: the checkpoint is not one, or another key signed it.
    """

    def key() -> bytes | None:
        try:
            return checkpoint_key if checkpoint_key is not None else _checkpoint_key(directory)
        except Uninitialised:
            return None  # a journal alone

    said = None
    if checkpoint is not None:
        try:
            text = checkpoint.decode()
        except UnicodeDecodeError:
            raise IntegrityError("not a checkpoint as vaultd writes it", "give the file it was written to") from None
        said = parse(text, checkpoint_key if checkpoint_key is not None else _checkpoint_key(directory))
    return verify_directory(directory, said, key=key)


def _checkpoint_key(directory: str) -> bytes:
    with DirectoryStore(directory, read_only=True) as store:
        try:
            return KeyringFile.decode(store.read(KEYRING, MAX_SIZE)).keyring.checkpoint_public
        except NotFound:
            raise Uninitialised("there is no vault here", "give the checkpoint key that init printed") from None


def _kind(name: str) -> SlotKind:
    kind = _KINDS.get(name)
    if kind is None:
        raise Invalid("not a kind of key slot", f"one of {', '.join(_KINDS)}")
    return kind
