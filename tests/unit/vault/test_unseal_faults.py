"""The disk fails while unsealing repairs what a crash left: it is said so until the files are opened anew."""

from __future__ import annotations

import errno
import random

import pytest

from tests.support.vault_world import World, secret
from vaultd.crypto.kdf import CHEAPEST
from vaultd.crypto.slots import SlotKind
from vaultd.errors import Halted, StoreError
from vaultd.store import Fault, MemoryStore, PowerCut
from vaultd.vault.ledger import Ledger


def _unsealed(store: MemoryStore, world: World, fault: Fault | None = None, again: bool = False) -> Ledger:
    """Open and unseal, with a fault armed before the key is used; `again` tries once more after an error."""
    ledger = Ledger.open(store, world.clock, minimum=CHEAPEST, random=random.Random(1).randbytes)
    slot, key = ledger.derive(secret(), SlotKind.PASSPHRASE)
    store.disk.arm(fault)
    try:
        ledger.unseal(slot, key)
    except StoreError:
        store.disk.arm(None)
        if again:
            with pytest.raises(Halted):
                ledger.unseal(slot, key)
            assert ledger.state == "halted"
        ledger.close()
        raise
    return ledger


@pytest.mark.parametrize("change", ["create", "delete", "rotate"])
def test_an_error_while_repairing(change: str) -> None:
    """Whichever step fails, trying again on what may not be on the disk is refused; opening anew finds all there."""
    failed = 0
    for cut in range(1, 40):
        world = World(cut)
        world.create_tenant("acme")
        world.put("acme")
        world.flush()
        {
            "create": lambda: world.create_tenant("globex"),  # noqa: B023
            "delete": lambda: world.delete_tenant("acme"),  # noqa: B023
            "rotate": lambda: world.rotate_tenant("acme"),  # noqa: B023
        }[change]()
        world.store.arm(Fault(at=cut))
        try:
            world.flush()
        except PowerCut:
            pass
        else:
            break
        crashed = world.store.disk.copy()
        expected, acknowledged = world.states, world.acknowledged
        for at in range(1, 40):
            store = MemoryStore(crashed.copy())
            try:
                _unsealed(store, world, Fault(at=at, error=errno.EIO), again=True).close()
            except StoreError:
                failed += 1
                world.store = MemoryStore(store.disk.copy())
                world.states, world.acknowledged = list(expected), acknowledged
                world.reopen()
                world.ledger.close()
                continue
            break
    assert failed > 20
