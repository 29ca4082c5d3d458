"""Reading the configuration again: it is said in the log and, because it says who is admin and responder, recorded."""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING, Any

from vaultd.audit.body import Actor, Event

if TYPE_CHECKING:
    from vaultd.daemon.config import Config, LiveConfig
    from vaultd.daemon.engine import Engine

__all__ = ["read_again"]

_log = logging.getLogger(__name__)

_WHO = ("admin_uids", "responder_uids")
"""Keys whose new value is recorded; of the others it is enough that they changed."""


def read_again(live: LiveConfig, engine: Engine) -> None:
    """Put the file as it is now in force, or keep the one before and say why.

    A file that changes nothing, and one that is wrong as it was before, leave no further record.
    """
    before, trouble = live.current, live.error
    if live.reload():
        engine.reconfigure()
        _log.info("the configuration was read again")
        changed = _changed(before, live.current)
        if not changed and trouble is None:
            return
        who = {name: list(getattr(live.current, name) or ()) for name in _WHO if name in changed}
        event = Event("config.reload", "ok", Actor("system"), public={"changed": changed, **who})
    else:
        _log.error("the configuration was read again and does not hold: %s", live.error)
        if live.error == trouble:
            return
        event = Event("config.reload", "failed", Actor("system"), reason="config")
    if engine.vaults.ledger is not None and not engine.try_record(event):
        _log.error("that is not recorded: nothing can be any more")
    engine.commit_soon()


def _changed(before: Config, after: Config) -> list[str]:
    """The dotted names of the keys that differ."""
    old, new = _flat(before), _flat(after)
    return sorted(name for name in new if new[name] != old[name])


def _flat(config: Config) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one in dataclasses.fields(config):
        value = getattr(config, one.name)
        if dataclasses.is_dataclass(value):
            found |= {f"{one.name}.{inner.name}": getattr(value, inner.name) for inner in dataclasses.fields(value)}
        else:
            found[one.name] = value
    return found
