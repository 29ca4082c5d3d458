#!/usr/bin/env python3
"""Write tests/vectors/golden/vault-v<n>*/: one whole vault directory each, and what must come out of it.

Chance and clock are pinned, so the directory is the same on every run. It is committed once for each format version and
never made anew: if a later version of the code cannot open it, that version is wrong. `--out DIR` writes elsewhere, to
look at what today's code would write.

    python scripts/make_golden_vault.py --out DIR [--journal one|segments|pruned]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from vaultd.audit.body import Actor, Event
from vaultd.audit.segments import SegmentLimits
from vaultd.clock import ManualClock
from vaultd.crypto import sodium
from vaultd.crypto.kdf import FLOOR
from vaultd.crypto.memory import SecretBytes
from vaultd.crypto.slots import SlotKind
from vaultd.names import secret_name, tenant_name
from vaultd.store import DirectoryStore
from vaultd.vault.barrier import Barrier
from vaultd.vault.create import create
from vaultd.vault.rotation import finish

if TYPE_CHECKING:
    from collections.abc import Iterator

ADMIN = Actor("admin", uid=1000, gid=1000, pid=4711)
PASSPHRASE = b"correct horse battery staple"
KEY_FILE = hashlib.shake_256(b"vaultd golden key file").digest(48)
GRANT = {"id": "grant_golden", "service": "agent", "secrets": ["openai/*"], "can": ["lease"], "max_ttl": 300}


class Chance:
    """A stream that stands for the kernel's generator: SHAKE-256 over a counter."""

    def __init__(self) -> None:
        self._drawn = 0

    def __call__(self, size: int) -> bytes:
        self._drawn += 1
        return hashlib.shake_256(b"vaultd golden vault %d" % self._drawn).digest(size)


@contextmanager
def pinned(chance: Chance) -> Iterator[None]:
    """Let the primitives draw from `chance`; for generators only, and nothing in vaultd offers it."""
    before = sodium.randombytes

    def draw(out: Any, size: int) -> None:
        sodium._buffer(out, size)[:] = chance(size)

    sodium.randombytes = draw  # type: ignore[misc]
    try:
        yield
    finally:
        sodium.randombytes = before  # type: ignore[misc]


class Maker:
    """One vault with something of everything in it."""

    def __init__(self, store: DirectoryStore, chance: Chance) -> None:
        self.clock = ManualClock()
        with SecretBytes.copy_of(PASSPHRASE) as given:
            made = create(
                store,
                self.clock,
                secret=given,
                kind=SlotKind.PASSPHRASE,
                label="first",
                admin_uids=[1000],
                actor=ADMIN,
                profile=FLOOR,
                random=chance,
            )
            self.seal_key = bytes(made.seal_key.view()).decode()
            self.barrier = Barrier.open(store, self.clock, random=chance)
            slot, key = self.barrier.derive(given, SlotKind.PASSPHRASE)
        with key:
            self.barrier.unseal(slot, key, actor=ADMIN)

    def step(self) -> None:
        self.barrier.ledger.flush()
        for seconds in (1, 1, 1, 58):  # three idle epochs, and a pause
            self.clock.advance(seconds)
            self.barrier.ledger.evolve()
            self.barrier.ledger.flush()

    def put(self, tenant: str, name: str, value: bytes, **options: Any) -> None:
        with SecretBytes.copy_of(value) as given:
            self.barrier.put(tenant, secret_name(name), given, actor=ADMIN, **options)
        self.step()

    def get(self, tenant: str, name: str, version: int) -> bytes:
        ref = self.barrier.prepare_reveal(tenant, secret_name(name), version)
        receipt = self.barrier.record_reveal(ref, Event("secret.get", "ok", ADMIN))
        self.step()
        with self.barrier.reveal(receipt, ref, ADMIN) as value:
            return bytes(value.view())

    def prune(self, checkpoint: str) -> None:
        """Take whole segments off the journal."""
        self.barrier.prune(finish(self.barrier.plan_pruning(checkpoint)), actor=ADMIN)
        self.step()

    def fill(self) -> None:
        barrier = self.barrier
        for name in ("acme", "beta", "gone", "shredded"):
            barrier.create_tenant(tenant_name(name), actor=ADMIN)
            self.step()
            self.put(name, "openai/prod", f"sk-{name}-first".encode())
        barrier.add_service({"name": "agent", "uid": 1001, "unit": "/system.slice/agent.service"}, actor=ADMIN)
        barrier.add_grant("acme", GRANT, actor=ADMIN)
        with SecretBytes.copy_of(KEY_FILE) as given:
            barrier.add_slot(barrier.slot_maker(given, SlotKind.KEY_FILE, "safe")(), actor=ADMIN)
        self.step()
        self.put("acme", "openai/prod", b"sk-acme-second", description="the main key", rotate_after=86_400)
        self.put("acme", "one-byte", b"x")
        self.put("acme", "bytes/all", bytes(range(256)) * 3)
        self.put("acme", "large", hashlib.shake_256(b"large").digest(70_000))
        self.put("beta", "pending", b"current", grace=0)
        self.put("beta", "pending", b"not verified", pending=True)
        finish(barrier.rotate_tenant("acme", actor=ADMIN))
        self.step()
        barrier.rollback("acme", secret_name("openai/prod"), 1, actor=ADMIN)
        self.step()
        self.put("acme", "destroyed", b"doomed", grace=0)
        self.put("acme", "destroyed", b"kept", grace=0)
        barrier.destroy("acme", secret_name("destroyed"), 1, actor=ADMIN)
        self.put("acme", "deleted", b"deleted")
        barrier.delete("acme", secret_name("deleted"), actor=ADMIN)
        barrier.delete_tenant("gone", actor=ADMIN)
        barrier.delete_tenant("shredded", actor=ADMIN, with_audit=True)
        finish(barrier.rotate_root(actor=ADMIN))
        run = {"id": "run_golden", "tenant": barrier.uid("acme"), "token": bytes(32), "expires": 1}
        barrier.keep_runs(Event("run.open", "ok", ADMIN, run="run_golden"), tenant="acme", keep=[run])
        self.step()

    def expected(self) -> dict[str, Any]:
        """What whoever opens the directory must find."""
        barrier = self.barrier
        tenants: dict[str, Any] = {}
        for facts in barrier.tenants():
            secrets = tenants[facts.name] = {}
            for secret in barrier.list(facts.uid):
                secrets[secret.name] = {
                    "current": secret.current,
                    "description": secret.description,
                    "rotate_after": secret.rotate_after,
                    "versions": {
                        number: {
                            "state": str(version.state(barrier.now())),
                            "sha256": hashlib.sha256(self.get(facts.name, secret.name, number)).hexdigest()
                            if version.ref is not None
                            else None,
                        }
                        for number, version in secret.versions.items()
                    },
                }
        self.step()
        return {
            "vault": barrier.ledger.vault_id.hex(),
            "passphrase": PASSPHRASE.decode(),
            "key_file": KEY_FILE.hex(),
            "wall": self.clock.wall(),
            "tenants": tenants,
            "deleted": [facts.name for facts in barrier.tenants(deleted=True) if facts.state == "deleted"],
            "grants": {"acme": [GRANT]},
            "checkpoint": barrier.checkpoint(),
            "seal_key": self.seal_key,
        }


def make(out: str, journal: str) -> dict[str, Any]:
    """Write the directory `out`/vault and return what must come out of it."""
    chance = Chance()
    with pinned(chance), DirectoryStore(os.path.join(out, "vault"), create=True) as store:
        maker = Maker(store, chance)
        if journal != "one":
            maker.barrier.ledger.journal.limits = SegmentLimits(size=12_000)
        maker.fill()
        if journal == "pruned":
            maker.prune(maker.barrier.checkpoint())
        expected = maker.expected()
        if journal != "one":
            expected["begins"] = maker.barrier.ledger.base.seq + 1
        maker.barrier.seal(actor=ADMIN)
        maker.barrier.close()
    os.unlink(os.path.join(out, "vault", "lock"))
    with open(os.path.join(out, "expected.json"), "w", encoding="ascii") as file:
        file.write(json.dumps(expected, indent=1) + "\n")
    return expected


def main() -> int:
    parser = argparse.ArgumentParser(description="Write a vault directory with pinned chance and clock.")
    parser.add_argument("--out", required=True, help="a directory that is not there yet")
    parser.add_argument("--journal", choices=("one", "segments", "pruned"), default="one", help="in how many segments")
    options = parser.parse_args()
    os.makedirs(options.out)
    make(options.out, options.journal)
    return 0


if __name__ == "__main__":
    sys.exit(main())
