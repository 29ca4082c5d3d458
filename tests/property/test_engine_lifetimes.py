"""Over the real engine: what has ended stays ended (I4), and each request leaves a durable record (I5)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.engine_world import ADMIN, PASSPHRASE, EngineWorld
from tests.support.serving import Paused

if TYPE_CHECKING:
    from collections.abc import Iterator

UIDS = {"admin": ADMIN, "agent": 1}
TTL = 100
RUN_TTL = 300
UNSEAL = {"kind": "passphrase", "bind": "self", "ttl": 43_200}

index = st.integers(0, 2)
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(["run", "revoke-secret", "revoke-tenant", "seal-tenant", "seal", "rotate", "ungrant"])
        ),
        st.tuples(st.sampled_from(["lease", "child", "close", "revoke-run", "release", "revoke", "renew"]), index),
        st.tuples(st.just("wait"), st.sampled_from([1, 50, 99, 100, 101, 250])),
        st.tuples(st.just("clock-back"), st.sampled_from([1, 3_600, 86_400])),
    ),
    min_size=1,
    max_size=10,
)


@pytest.fixture(scope="module")
def pids() -> Iterator[dict[str, int]]:
    """A living process for each peer."""
    processes = {name: Paused() for name in UIDS}
    yield {name: process.pid for name, process in processes.items()}
    for process in processes.values():
        process.kill()


class Model:
    """What must have ended, by the plainest bookkeeping there is."""

    def __init__(self, world: EngineWorld) -> None:
        self.world = world
        self.runs: list[dict[str, Any]] = []
        self.leases: list[dict[str, Any]] = []

    async def ask(self, who: str, op: str, keys: dict[str, Any], tail: bytes = b"", run: bytes | None = None) -> Any:
        ledger = self.world.vaults.ledger
        assert ledger is not None
        before = ledger.journal.durable.seq
        frame = await self.world.ask(who, op, keys, tail, run)
        assert ledger.journal.durable.seq > before, op
        return msgpack.unpackb(frame[6 : 6 + int.from_bytes(frame[4:6], "big")])

    async def begin(self) -> None:
        for op, keys, tail in (
            ("unseal", UNSEAL, PASSPHRASE),
            ("tenant.create", {"tenant": "acme"}, b""),
            ("secret.put", {"tenant": "acme", "secret": "key"}, b"value"),
            ("service.add", {"service": "agent", "uid": UIDS["agent"]}, b""),
        ):
            assert (await self.ask("admin", op, keys, tail))["ok"], op
        await self.grant()

    async def grant(self) -> None:
        keys = {"tenant": "acme", "service": "agent", "secrets": ["**"], "max_ttl": TTL}
        self.granted = (await self.ask("admin", "grant.add", keys))["grant"]

    def end(self, *, runs: bool = False, **wanted: Any) -> None:
        """Everything that fits has ended."""
        for lease in self.leases:
            if all(lease[key] == value for key, value in wanted.items()):
                lease["live"] = False
        if runs:
            for run in self.runs:
                if all(run.get(key) == value for key, value in wanted.items()):
                    run["live"] = False

    def one(self, of: list[dict[str, Any]], at: int) -> dict[str, Any] | None:
        return of[at] if at < len(of) else None

    async def do(self, step: tuple[Any, ...]) -> None:
        world, boot = self.world, self.world.clock.boot
        match step:
            case ("run",):
                header = await self.ask("agent", "run.open", {"tenant": "acme", "scope": ["**"], "ttl": RUN_TTL})
                if header["ok"]:
                    run = {
                        "run": header["run"],
                        "token": header["token"],
                        "ends": boot() + RUN_TTL * 10**9,
                        "above": None,
                        "live": True,
                    }
                    self.runs.append(run)
            case ("child", at) if parent := self.one(self.runs, at):
                keys = {"scope": ["key"], "ttl": RUN_TTL // 2}
                header = await self.ask("agent", "run.open", keys, run=parent["token"])
                assert parent["live"] or not header["ok"]
                if header["ok"]:
                    ends = min(parent["ends"], boot() + RUN_TTL // 2 * 10**9)
                    run = {"run": header["run"], "token": header["token"], "ends": ends, "above": parent, "live": True}
                    self.runs.append(run)
            case ("lease", at) if run := self.one(self.runs, at):
                header = await self.ask("agent", "lease.acquire", {"secret": "key", "ttl": TTL}, run=run["token"])
                assert run["live"] or not header["ok"]
                if header["ok"]:
                    ends = min(run["ends"], boot() + TTL * 10**9)
                    lease = {
                        "lease": header["lease"],
                        "run": run["run"],
                        "token": run["token"],
                        "ends": ends,
                        "live": True,
                    }
                    self.leases.append(lease)
            case ("close" | "revoke-run" as verb, at) if run := self.one(self.runs, at):
                if verb == "close":
                    await self.ask("agent", "run.close", {}, run=run["token"])
                else:
                    await self.ask("admin", "lease.revoke", {"of_run": run["run"]})
                self.end(runs=True, run=run["run"])
            case ("release" | "revoke" as verb, at) if lease := self.one(self.leases, at):
                if verb == "release":
                    await self.ask("agent", "lease.release", {"lease": lease["lease"]}, run=lease["token"])
                else:
                    await self.ask("admin", "lease.revoke", {"lease": lease["lease"]})
                lease["live"] = False
            case ("renew", at) if lease := self.one(self.leases, at):
                if (await self.ask("agent", "lease.renew", {"lease": lease["lease"]}, run=lease["token"]))["ok"]:
                    assert lease["live"]
                    run_ends = next(run["ends"] for run in self.runs if run["run"] == lease["run"])
                    lease["ends"] = min(run_ends, boot() + TTL * 10**9)
            case ("revoke-secret",):
                await self.ask("admin", "lease.revoke", {"tenant": "acme", "secret": "key"})
                self.end()
            case ("revoke-tenant",):
                await self.ask("admin", "lease.revoke", {"tenant": "acme"})
                self.end(runs=True)
            case ("seal-tenant",):
                await self.ask("admin", "seal", {"tenant": "acme"})
                self.end(runs=True)
                await self.ask("admin", "unseal", {**UNSEAL, "tenant": "acme"}, PASSPHRASE)
            case ("seal",):
                await self.ask("admin", "seal", {})
                self.end(runs=True)
                await self.ask("admin", "unseal", UNSEAL, PASSPHRASE)
            case ("rotate",):
                await self.ask("admin", "rotate.tenant", {"tenant": "acme"})
            case ("ungrant",):
                await self.ask("admin", "grant.remove", {"tenant": "acme", "grant": self.granted})
                for lease in self.leases:
                    renewed = await self.ask("agent", "lease.renew", {"lease": lease["lease"]}, run=lease["token"])
                    assert not renewed["ok"]
                await self.grant()
            case ("wait", seconds):
                world.clock.advance(seconds)
            case ("clock-back", seconds):
                world.clock.set_wall(world.clock.wall() - seconds * 10**9)
        for held in (*self.leases, *self.runs):
            held["live"] = held["live"] and boot() < held["ends"]
        for run in self.runs:  # parents come first
            if run["above"] is not None and not run["above"]["live"]:
                run["live"] = False
        over = {run["run"] for run in self.runs if not run["live"]}
        for lease in self.leases:
            lease["live"] = lease["live"] and lease["run"] not in over

    async def hold(self) -> None:
        """No request under anything that has ended succeeds."""
        for lease in self.leases:
            if not lease["live"]:
                for op in ("lease.renew", "lease.release"):
                    assert not (await self.ask("agent", op, {"lease": lease["lease"]}, run=lease["token"]))["ok"]
        for run in self.runs:
            if not run["live"]:
                for op, keys in (("lease.acquire", {"secret": "key"}), ("run.claim", {}), ("run.close", {})):
                    assert not (await self.ask("agent", op, keys, run=run["token"]))["ok"]


async def _live(pids: dict[str, int], steps: list[tuple[Any, ...]]) -> None:
    world = EngineWorld(pids, UIDS)
    try:
        model = Model(world)
        await model.begin()
        # Something to end, in every example.
        for step in [("run",), ("run",), ("child", 1), ("lease", 0), ("lease", 1), ("lease", 2), *steps]:
            await model.do(step)
        await model.hold()
    finally:
        world.close()


@settings(max_examples=40)
@given(steps=STEPS)
def test_what_has_ended_stays_ended(pids: dict[str, int], steps: list[tuple[Any, ...]]) -> None:
    """After expiry, release, revocation or sealing nothing under that lease or run succeeds; all asked is recorded."""
    asyncio.run(_live(pids, steps))


async def _clock_back(pids: dict[str, int]) -> None:
    world = EngineWorld(pids, UIDS)
    try:
        model = Model(world)
        await model.begin()
        await model.ask("admin", "grant.remove", {"tenant": "acme", "grant": model.granted})
        expires = world.clock.wall() // 10**9 + 60
        keys = {"tenant": "acme", "service": "agent", "secrets": ["**"], "expires": expires}
        await model.ask("admin", "grant.add", keys)
        acquire = {"tenant": "acme", "secret": "key"}
        assert (await model.ask("agent", "lease.acquire", acquire))["ok"]
        world.clock.advance(61)
        assert not (await model.ask("agent", "lease.acquire", acquire))["ok"]
        world.clock.set_wall(world.clock.wall() - 3_600 * 10**9)
        assert not (await model.ask("agent", "lease.acquire", acquire))["ok"]
        # An hour back does not make the vault's own time run back either.
        assert not (await model.ask("admin", "grant.add", keys))["ok"]
    finally:
        world.close()


def test_wall_clock_an_hour_back(pids: dict[str, int]) -> None:
    """Setting the clock back revives no grant that has expired."""
    asyncio.run(_clock_back(pids))
