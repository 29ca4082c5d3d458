"""Unsealing at start with a credential that systemd handed over, where the configuration asks for it."""

from __future__ import annotations

import logging
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING

from vaultd.audit.body import Actor, Event
from vaultd.crypto.slots import SlotKind
from vaultd.errors import ConfigError, VaultdError
from vaultd.vault.given import read_credential

if TYPE_CHECKING:
    from collections.abc import Mapping
    from concurrent.futures import Future

    from vaultd.crypto.memory import Key
    from vaultd.crypto.slots import Slot
    from vaultd.daemon.engine import Engine

__all__ = ["unseal_at_start"]

_log = logging.getLogger(__name__)

_NOTICE = "unseal"


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
        engine.reopened()
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
