"""Unsealing at start with a credential that systemd handed over, where the configuration asks for it."""

from __future__ import annotations

import logging
import os
import stat
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING

from vaultd.audit.body import Actor, Event
from vaultd.crypto.kdf import KEY_FILE_MAX, KEY_FILE_MIN
from vaultd.crypto.memory import SecretBytes, wipe
from vaultd.crypto.slots import SlotKind
from vaultd.errors import ConfigError, VaultdError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from concurrent.futures import Future

    from vaultd.crypto.memory import Key
    from vaultd.crypto.slots import Slot
    from vaultd.daemon.engine import Engine

__all__ = ["read_credential", "unseal_at_start"]

_log = logging.getLogger(__name__)

_NOTICE = "unseal"


def read_credential(name: str, environment: Mapping[str, str]) -> SecretBytes:
    """The content of the credential `name`; the caller wipes it.

    Raises:
        ConfigError: systemd handed over none of that name, it cannot be read, or it is not 32 to 4096 bytes.
    """
    directory = environment.get("CREDENTIALS_DIRECTORY", "")
    if not os.path.isabs(directory):
        raise ConfigError(
            f"there is no credential {name}: systemd handed none over", f"LoadCredentialEncrypted={name}:FILE"
        )
    buffer = bytearray(KEY_FILE_MAX + 1)
    try:
        # Not blocking: a FIFO in its place would otherwise stop the daemon here.
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


def unseal_at_start(engine: Engine, name: str, environment: Mapping[str, str]) -> None:
    """Begin to unseal with the credential `name`; the daemon serves meanwhile.

    What goes wrong leaves the vault sealed, and is said in the log, in `status` and, where there is a journal, in a
    record: people unseal it then.
    """
    ledger = engine.vaults.ledger
    if ledger is None:
        return  # no vault yet: whoever makes it unseals it
    try:
        secret = read_credential(name, environment)
    except ConfigError as error:
        _failed(engine, error)
        return
    engine.derivations += 1
    future = engine.worker.submit(ledger.derive, secret, SlotKind.CREDENTIAL)

    def finished() -> None:
        engine.derivations -= 1
        secret.wipe()
        engine.vaults.when_landed(lambda: _answered(engine, future))  # keys must not meet a flush

    future.add_done_callback(lambda _: engine.loop.call_soon_threadsafe(finished))


def _answered(engine: Engine, future: Future[tuple[Slot, Key]]) -> None:
    try:
        slot, key = future.result()
        with key:
            barrier = engine.vaults.require()
            if not barrier.sealed:
                return  # somebody was faster
            barrier.unseal(slot, key, actor=Actor("system", slot=slot.id))
        engine.load_services()
        engine.kept.restore()
        _log.info("unsealed with slot %d, by the credential", slot.id)
    except CancelledError:
        return  # stopping
    except VaultdError as error:
        _failed(engine, error)
    engine.commit_soon()


def _failed(engine: Engine, error: VaultdError) -> None:
    _log.error("not unsealed at start: %s; %s", error.message, error.hint)
    engine.notices[_NOTICE] = f"not unsealed at start: {error.message}"
    engine.try_record(Event("unseal", "failed", Actor("system"), reason=error.code))
    engine.commit_soon()
