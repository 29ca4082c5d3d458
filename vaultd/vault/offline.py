"""What `vaultctl` does on a vault's directory by itself: init, check, audit verify. Plain arguments, plain results.

The one module of this room that the client imports, and only when one of these verbs is called.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, NamedTuple

from vaultd.audit.body import Actor
from vaultd.audit.checkpoint import parse
from vaultd.audit.seal import FirstKey
from vaultd.audit.sealcheck import SealCheck
from vaultd.audit.sealslots import SLOT_SIZE, SLOTS
from vaultd.audit.verify import Report, verify_directory
from vaultd.clock import SystemClock
from vaultd.crypto.kdf import FLOOR, RFC_9106_LOW, Profile
from vaultd.crypto.memory import SecretBytes
from vaultd.crypto.slots import SlotKind
from vaultd.errors import IntegrityError, Invalid, NotFound, Uninitialised
from vaultd.store import DirectoryStore
from vaultd.vault import forward
from vaultd.vault.check import CheckReport
from vaultd.vault.check import check as check_store
from vaultd.vault.commit import KEYRING
from vaultd.vault.create import InitReport, create
from vaultd.vault.keyring import MAX_SIZE, KeyringFile
from vaultd.vault.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vaultd.audit.seal import SealChain

__all__ = ["CheckReport", "InitReport", "Report", "SealStarted", "check", "init", "start_seal", "verify"]

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


class SealStarted(NamedTuple):
    """What `audit seal-key` prints, to be kept."""

    vault_id: bytes
    chain: int
    """The new seal chain's number."""
    line: int
    """Its first tag line: that one covers everything before."""
    seal_key: SecretBytes
    """The text of its first key, which is nowhere else; the caller's to wipe."""


def start_seal(directory: str) -> SealStarted:
    """Seal the journal forward from now on, under a new first key.

    Raises:
        Locked: a daemon has the vault open.
        Uninitialised: there is no vault.
        IntegrityError: it does not open.
    """
    actor = Actor("embedded", uid=os.getuid(), gid=os.getgid(), pid=os.getpid())
    with DirectoryStore(directory) as store:
        ledger = Ledger.open(store, SystemClock(), hold_seal=False)
        try:
            with ledger.start_seal(actor) as first_key:
                started = SealStarted(ledger.vault_id, first_key.chain, ledger.journal.durable.seq, first_key.text())
        finally:
            ledger.close()
    return started


def verify(
    directory: str,
    *,
    checkpoint: bytes | None = None,
    checkpoint_key: bytes | None = None,
    seal_key: bytearray | None = None,
    without_state: bool = False,
) -> Report:
    """Check the audit journal without the vault's keys; a daemon may be writing to it meanwhile.

    Args:
        checkpoint: the content of a checkpoint that was kept elsewhere.
        checkpoint_key: the public key that signed it, as `init` printed it; the keyring's own when left out, which
            somebody who can write the disk may have exchanged.
        seal_key: the text of a first seal key; stays the caller's to wipe.
        without_state: the directory is a copy without the seal's state, so that a cut at the end cannot be seen.

    Raises:
        Uninitialised: there is no journal.
        IntegrityError: the checkpoint is not one, or another key signed it; the seal key is not one; the seal's state
            is missing, or not one.
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
    if seal_key is None:
        return verify_directory(directory, said, key=key)
    with ExitStack() as kept:
        first_key = kept.enter_context(FirstKey.parse(seal_key))

        def state() -> SealChain | None:
            return None if without_state else kept.enter_context(_seal_state(directory))

        def seal() -> SealCheck:
            # Before the walk: what the state speaks of is in the journal already. And after it, for what came since.
            return kept.enter_context(SealCheck(first_key, state()))

        return verify_directory(directory, said, key=key, seal=seal, newer=state)


def _seal_state(directory: str) -> SealChain:
    """The seal's state as it is now; a daemon overwrites one of its slots about once a second."""
    try:
        with DirectoryStore(directory, read_only=True) as store:
            file = store.slots(forward.SEAL, SLOT_SIZE, SLOTS)
            try:
                return forward.read(file).chain
            finally:
                file.close()
    except NotFound:
        raise IntegrityError(
            "the seal's state is missing beside the journal, which may have been cut at its end",
            "verify where the vault is; for a copy that was made without it, say --without-state",
        ) from None


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
