"""Non-interference over the real engine (I1): nothing that the other tenant is or does changes what one tenant sees.

Two worlds differ only in tenant globex: its secrets, grants, leases, rotations, seals, its end. The same requests by
acme's agents and its manager must get the same bytes in both, pushes and trail included. Clock, ids and salts are
pinned, each peer drawing from a stream of its own: that randomness differs is no interference.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.engine_world import ADMIN, PASSPHRASE, EngineWorld
from tests.support.serving import Paused

if TYPE_CHECKING:
    from collections.abc import Iterator

UIDS = {"admin": ADMIN, "agent": 1, "manager": 2, "other": 3, "other-manager": 4}
NAMES = ["openai/prod", "internal/signing", "new/one", "globex/only"]
TENANTS = ["acme", "globex", "nowhere"]

Step = tuple[Any, ...]


@pytest.fixture(scope="module")
def pids() -> Iterator[dict[str, int]]:
    """A living process for each peer."""
    processes = {name: Paused() for name in UIDS}
    yield {name: process.pid for name, process in processes.items()}
    for process in processes.values():
        process.kill()


names = st.sampled_from(NAMES)
OURS = st.one_of(
    st.tuples(st.just("lease"), st.sampled_from(TENANTS), names),
    st.tuples(st.just("run"), st.sampled_from(TENANTS)),
    st.tuples(st.just("run-lease"), names),
    st.tuples(st.just("renew"), st.integers(0, 3)),
    st.tuples(st.just("release"), st.integers(0, 3)),
    st.tuples(st.just("close"), st.integers(0, 3)),
    st.tuples(st.just("put"), st.sampled_from(TENANTS), names),
    st.tuples(st.just("ask"), st.sampled_from(["secret.list", "grant.list", "tenant.show"]), st.sampled_from(TENANTS)),
    st.tuples(st.just("explain"), names, st.sampled_from(["acme-agent", "globex-agent", "nothing"])),
    st.tuples(st.just("listings")),
    st.tuples(st.just("wait"), st.integers(1, 400)),
)
THEIRS = st.one_of(
    st.tuples(st.just("lease"), names),
    st.tuples(st.just("run")),
    st.tuples(st.just("put"), names),
    st.tuples(st.just("delete-secret"), names),
    st.tuples(st.just("rotate")),
    st.tuples(st.just("seal")),
    st.tuples(st.just("unseal")),
    st.tuples(st.just("delete")),
    st.tuples(st.just("create")),
    st.tuples(st.just("revoke")),
    st.tuples(st.just("grant"), names),
    st.tuples(st.just("flood")),
    st.tuples(st.just("rotate-root")),
)


def _keys(frame: bytes) -> dict[str, Any]:
    header: dict[str, Any] = msgpack.unpackb(frame[6 : 6 + int.from_bytes(frame[4:6], "big")])
    return header


def _without_salts(frame: bytes) -> bytes:
    """A page of a trail without the salts, which are drawn in advance for all trails, and the hashes over them."""
    start = 6 + int.from_bytes(frame[4:6], "big")
    lines = [json.loads(line) for line in frame[start:].splitlines()]
    for line in lines:
        line.pop("hash", None)
        line.get("body", {}).pop("salt", None)
    return frame[6:start] + json.dumps(lines).encode()


class Acme:
    """What acme's people do, and all that they are told."""

    def __init__(self, world: EngineWorld) -> None:
        self._world = world
        self._leases: list[tuple[str, bytes | None]] = []
        self._runs: list[tuple[str, bytes]] = []
        self.told: list[bytes] = []
        ledger = world.vaults.ledger
        assert ledger is not None
        self._checkpoint_key = ledger.keyring.checkpoint_public.hex().encode()

    async def _ask(self, who: str, op: str, keys: dict[str, Any], tail: bytes = b"", run: bytes | None = None) -> Any:
        frame = await self._world.ask(who, op, keys, tail, run)
        # The one thing in an answer that is not drawn from the pinned streams: a key pair of the vault's creation.
        self.told.append(frame.replace(self._checkpoint_key, bytes(64)))
        return _keys(frame)

    async def do(self, step: Step) -> None:
        match step:
            case ("lease", tenant, secret):
                header = await self._ask("agent", "lease.acquire", {"tenant": tenant, "secret": secret})
                self._leases += [(header["lease"], None)] if header["ok"] else []
            case ("run", tenant):
                keys = {"tenant": tenant, "scope": ["openai/*"]}
                header = await self._ask("agent", "run.open", keys)
                self._runs += [(header["run"], header["token"])] if header["ok"] else []
                await self._ask("agent", "subscribe", {})
            case ("run-lease", secret):
                token = self._runs[-1][1] if self._runs else bytes(32)
                header = await self._ask("agent", "lease.acquire", {"secret": secret}, run=token)
                self._leases += [(header["lease"], token)] if header["ok"] else []
            case ("renew" | "release" as verb, index):
                lease, token = self._leases[index] if index < len(self._leases) else ("lease_x", None)
                await self._ask("agent", f"lease.{verb}", {"lease": lease}, run=token)
            case ("close", index):
                run = self._runs[index][0] if index < len(self._runs) else "run_x"
                await self._ask("agent", "run.close", {"of_run": run})
            case ("put", tenant, secret):
                await self._ask("manager", "secret.put", {"tenant": tenant, "secret": secret}, b"acme value")
            case ("ask", op, tenant):
                await self._ask("manager", op, {"tenant": tenant})
            case ("explain", secret, service):
                await self._ask("manager", "explain", {"tenant": "acme", "secret": secret, "service": service})
            case ("listings",):
                for who in ("agent", "manager"):
                    for op in ("lease.list", "run.list", "hello", "status"):
                        await self._ask(who, op, {})
            case ("wait", seconds):
                self._world.clock.advance(seconds)
                self._world.engine._expire()

    async def trail(self) -> None:
        for op in ("audit.show", "audit.export"):
            frame = await self._world.ask("manager", op, {"tenant": "acme"})
            self.told.append(_without_salts(frame))
        for peer in ("agent", "manager"):
            self.told += self._world.peers[peer].pushed


class Globex:
    """What happens at the other tenant."""

    def __init__(self, world: EngineWorld) -> None:
        self._world = world

    async def do(self, step: Step) -> None:
        ask = self._world.ask
        globex = {"tenant": "globex"}
        match step:
            case ("lease", secret):
                await ask("other", "lease.acquire", {**globex, "secret": secret})
            case ("run",):
                await ask("other", "run.open", {**globex, "scope": ["**"]})
                await ask("other", "subscribe")
            case ("put", secret):
                await ask("other-manager", "secret.put", {**globex, "secret": secret}, b"globex value")
            case ("delete-secret", secret):
                await ask("admin", "secret.delete", {**globex, "secret": secret})
            case ("rotate",):
                await ask("admin", "rotate.tenant", globex)
            case ("seal",):
                await ask("admin", "seal", globex)
            case ("unseal",):
                await ask("admin", "unseal", {"kind": "passphrase", "bind": "self", **globex}, PASSPHRASE)
            case ("delete",):
                await ask("admin", "tenant.delete", {**globex, "confirm": "globex"})
            case ("create",):
                await ask("admin", "tenant.create", globex)
            case ("revoke",):
                await ask("admin", "lease.revoke", globex)
            case ("grant", secret):
                keys = {**globex, "service": "globex-agent", "secrets": [secret]}
                await ask("admin", "grant.add", keys)
            case ("flood",):
                for _ in range(70):
                    await ask("other", "lease.acquire", {"tenant": "acme", "secret": "openai/prod"})
            case ("rotate-root",):
                await ask("admin", "rotate.root")


async def _begin(world: EngineWorld) -> None:
    async def done(op: str, keys: dict[str, Any], tail: bytes = b"") -> None:
        assert _keys(await world.ask("admin", op, keys, tail))["ok"], op

    await done("unseal", {"kind": "passphrase", "bind": "self", "ttl": 43_200}, PASSPHRASE)
    for tenant, people in (("acme", ("agent", "manager")), ("globex", ("other", "other-manager"))):
        await done("tenant.create", {"tenant": tenant})
        for secret in NAMES[:2]:
            await done("secret.put", {"tenant": tenant, "secret": secret}, f"{tenant} {secret}".encode())
        for who, kind in zip(people, ("agent", "manager"), strict=True):
            await done("service.add", {"service": f"{tenant}-{kind}", "uid": UIDS[who]})
        await done("grant.add", {"tenant": tenant, "service": f"{tenant}-agent", "secrets": ["openai/*"]})
        can = ["put", "list", "manage", "audit"]
        await done("grant.add", {"tenant": tenant, "service": f"{tenant}-manager", "secrets": ["**"], "can": can})


async def _live(pids: dict[str, int], ours: list[Step], theirs: list[list[Step]]) -> list[bytes]:
    world = EngineWorld(pids, UIDS)
    try:
        await _begin(world)
        acme, globex = Acme(world), Globex(world)
        for step, between in zip(ours, theirs, strict=True):
            for other in between:
                await globex.do(other)
            await acme.do(step)
        await acme.trail()
        return acme.told
    finally:
        world.close()


@st.composite
def _worlds(draw: st.DrawFn) -> tuple[list[Step], list[list[Step]], list[list[Step]]]:
    ours = draw(st.lists(OURS, min_size=1, max_size=10))
    between = st.lists(st.lists(THEIRS, max_size=3), min_size=len(ours), max_size=len(ours))
    return ours, draw(between), draw(between)


@settings(max_examples=40)
@given(worlds=_worlds())
def test_one_tenant_does_not_see_the_other(
    pids: dict[str, int], worlds: tuple[list[Step], list[list[Step]], list[list[Step]]]
) -> None:
    """Whatever happens at globex, acme's answers, ids, pushes and trail are the same bytes (I1)."""
    ours, here, there = worlds
    assert asyncio.run(_live(pids, ours, here)) == asyncio.run(_live(pids, ours, there))
