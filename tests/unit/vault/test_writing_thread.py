"""Which thread opens files: the one that decides, never the one that writes."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from tests.support.barrier_world import ADMIN, BarrierWorld
from vaultd.crypto.memory import SecretBytes
from vaultd.names import secret_name, tenant_name
from vaultd.store import MemoryStore
from vaultd.vault.rotation import finish

if TYPE_CHECKING:
    import pytest


def _flush_in_a_thread(world: BarrierWorld) -> None:
    """Write everything staged as the daemon does on a slow disk."""
    ledger = world.barrier.ledger
    while (batch := ledger.take()) is not None:
        writer = threading.Thread(target=ledger.write, args=(batch,))
        writer.start()
        writer.join()
        ledger.finish(batch)


def test_a_log_that_is_new_and_changed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log is made by one batch and grows with the next: both threads opening it at once would confuse its length."""
    world = BarrierWorld()
    world.tenant("acme")
    world.flush()
    openers = []
    inner = MemoryStore.append

    def append(store: MemoryStore, path: str) -> Any:
        openers.append(threading.current_thread())
        return inner(store, path)

    monkeypatch.setattr(MemoryStore, "append", append)
    finish(world.barrier.rotate_tenant("acme", actor=ADMIN))
    world.barrier.create_tenant(tenant_name("beta"), actor=ADMIN)
    for name in ("acme", "beta"):
        with SecretBytes.copy_of(b"behind the change that made the log") as value:
            world.barrier.put(name, secret_name("openai/prod"), value, actor=ADMIN)
    _flush_in_a_thread(world)
    assert set(openers) == {threading.main_thread()}
