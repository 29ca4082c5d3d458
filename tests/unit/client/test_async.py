"""The asyncio client against a real socket."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import pytest

from vaultclient import AsyncClient, errors
from vaultd.protocol import MAX_TAIL

if TYPE_CHECKING:
    from collections.abc import Coroutine


def play(scene: Coroutine[Any, Any, None]) -> None:
    """Run one test's coroutine to its end, ten seconds at most."""

    async def bounded() -> None:
        async with asyncio.timeout(10):
            await scene

    asyncio.run(bounded())


def test_orchestrator_leases_in_many_runs_over_one_connection(daemon: Any) -> None:
    """Runs and leases of one client go on side by side on one connection, each with its own token."""
    daemon.secrets["globex", "openai/prod"] = [b"sk-globex"]

    async def scene() -> None:
        async with AsyncClient(daemon.path, environ={}) as vault:

            async def work(tenant: str) -> bytes:
                async with vault.run(tenant, scope=["openai/*"]) as run, run.lease("openai/prod") as lease:
                    return bytes(lease.value)

            values = await asyncio.gather(*(work(tenant) for tenant in ["acme", "globex"] * 20))
            assert values == [b"sk-first", b"sk-globex"] * 20
            assert len(daemon.sessions) == 1
        assert not daemon.leases
        assert not daemon.runs

    play(scene())


def test_value_is_wiped_when_the_lease_is_left(daemon: Any) -> None:
    """The buffer of a lease is zeros after its block, and the daemon is told."""

    async def scene() -> None:
        async with AsyncClient(daemon.path, environ={}) as vault:
            async with vault.lease("acme", "openai/prod") as lease:
                view = lease.value
                assert bytes(view) == b"sk-first"
            assert bytes(view) == bytes(8)
            with pytest.raises(errors.LeaseEnded):
                lease.fd()
        assert "lease.release" in daemon.ops()

    play(scene())


def test_lease_is_renewed_in_the_background(daemon: Any) -> None:
    """A held lease whose half time is over is renewed."""
    daemon.lease_seconds = iter([0])

    async def scene() -> None:
        async with AsyncClient(daemon.path, environ={}) as vault, vault.lease("acme", "openai/prod") as lease:
            await asyncio.to_thread(daemon.wait_for, "lease.renew")
            assert lease.active

    play(scene())


def test_revocation_calls_back_and_wipes(daemon: Any) -> None:
    """A revoked lease is over at once: wiped, refused, told."""

    async def scene() -> None:
        told: asyncio.Queue[str] = asyncio.Queue()
        async with (
            AsyncClient(daemon.path, environ={}, on_revoked=lambda lease, reason: told.put_nowait(reason)) as vault,
            vault.lease("acme", "openai/prod") as lease,
        ):
            view = lease.value
            await asyncio.to_thread(daemon.revoke, lease.id, "by an admin")
            assert await told.get() == "by an admin"
            assert bytes(view) == bytes(8)
            with pytest.raises(errors.LeaseEnded, match="by an admin"):
                _ = lease.value

    play(scene())


def test_descriptors_are_acknowledged_one_by_one(daemon: Any) -> None:
    """Many large values on one connection arrive whole, each descriptor acknowledged before the next."""
    big = os.urandom(MAX_TAIL + 1)
    daemon.secrets["acme", "big"] = [big]

    async def scene() -> None:
        async with AsyncClient(daemon.path, environ={}) as vault:
            for _ in range(5):
                async with vault.lease("acme", "big") as lease:
                    assert bytes(lease.value) == big

    play(scene())


def test_lease_is_taken_anew_after_a_restart(daemon: Any) -> None:
    """When the daemon restarts, a held lease goes on in the same run under a new id, with the value it had."""

    async def scene() -> None:
        async with AsyncClient(daemon.path, environ={}, retry_for=10) as vault:
            vault._retry_after = 0.0
            async with vault.run("acme", scope=["**"]) as run, run.lease("openai/prod") as lease:
                before = lease.id
                await asyncio.to_thread(daemon.restart)
                await asyncio.to_thread(daemon.wait_for, "lease.acquire", 2)
                await vault.status()  # answered after what was asked before it
                assert lease.active
                assert lease.id != before
                assert bytes(lease.value) == b"sk-first"
                assert list(daemon.leases) == [lease.id]

    play(scene())


def test_lease_waits_for_a_restarted_daemon_to_be_unsealed(daemon: Any) -> None:
    """A daemon that comes back sealed is asked again until somebody unseals it; the lease then goes on."""

    async def scene() -> None:
        async with AsyncClient(daemon.path, environ={}) as vault:
            vault._retry_after = 0.0
            async with vault.run("acme", scope=["**"]) as run, run.lease("openai/prod") as lease:
                before = lease.id
                daemon.state = "sealed"
                await asyncio.to_thread(daemon.restart)
                await asyncio.to_thread(daemon.wait_for, "subscribe", 4)
                assert lease.active
                daemon.state = "unsealed"
                await asyncio.to_thread(daemon.wait_for, "lease.acquire", 2)
                while lease.id == before:
                    await vault.status()
                assert bytes(lease.value) == b"sk-first"

    play(scene())


def test_lease_of_a_run_that_did_not_survive_is_over(daemon: Any) -> None:
    """When the client's own run is gone after a restart, its leases are too, although nobody may subscribe any more."""
    token = bytes(32)
    daemon.runs[token] = {"run": "run_x", "tenant": "acme", "scope": ["**"], "parent": None, "claimed": True}

    def only_in_a_run(session: Any, request: Any) -> bool:
        if request.run in daemon.runs:
            return False
        session.send(session.connection.error(request.id, "denied", "not allowed, or not there"))
        return True

    async def scene() -> None:
        told: asyncio.Queue[str] = asyncio.Queue()
        daemon.before["subscribe"] = only_in_a_run
        async with AsyncClient(
            daemon.path, run=token, environ={}, on_revoked=lambda lease, reason: told.put_nowait(reason)
        ) as vault:
            vault._retry_after = 0.0
            async with vault.lease(None, "openai/prod"):
                daemon.runs.clear()
                await asyncio.to_thread(daemon.restart)
                assert await told.get() == "not allowed, or not there"

    play(scene())


def test_lease_that_is_not_given_again_is_over(daemon: Any) -> None:
    """When a restarted daemon refuses the lease, its holder is told and the value is gone."""

    async def scene() -> None:
        told: asyncio.Queue[str] = asyncio.Queue()
        async with AsyncClient(daemon.path, environ={}) as vault:
            vault._retry_after = 0.0
            async with vault.lease("acme", "openai/prod", on_revoked=lambda lease, reason: told.put_nowait(reason)):
                daemon.secrets.clear()
                await asyncio.to_thread(daemon.restart)
                assert await told.get() == "not allowed, or not there"

    play(scene())


def test_cancelled_request_leaves_the_connection_whole(daemon: Any) -> None:
    """Who stops waiting for a value gets none; its late answer is wiped, and other requests go on."""
    held: list[tuple[Any, Any]] = []
    daemon.secrets["acme", "big"] = [b"b" * (MAX_TAIL + 1)]

    def hold(session: Any, request: Any) -> bool:
        held.append((session, request))
        return True

    async def scene() -> None:
        async with AsyncClient(daemon.path, environ={}) as vault:
            daemon.before["lease.acquire"] = hold
            asked = asyncio.ensure_future(vault.call("lease.acquire", {"tenant": "acme", "secret": "big"}))
            await asyncio.to_thread(daemon.wait_for, "lease.acquire")
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
            daemon.before.clear()
            daemon.answer(*held[0])
            assert (await vault.status())["state"] == "unsealed"
            async with vault.lease("acme", "big") as lease:  # the first descriptor was acknowledged although unwanted
                assert len(lease.value) == MAX_TAIL + 1

    play(scene())


def test_timeout_leaves_other_requests_alone(daemon: Any) -> None:
    """A request that is not answered in time fails alone; the connection and the others go on."""
    daemon.before["lease.list"] = lambda session, request: True  # never answers

    async def scene() -> None:
        async with AsyncClient(daemon.path, environ={}) as vault:
            with pytest.raises(errors.TimedOut):
                await vault.call("lease.list", timeout=0.05)
            assert (await vault.status())["state"] == "unsealed"
            assert len(daemon.sessions) == 1

    play(scene())


def test_lost_connection_fails_every_request_that_waits(daemon: Any) -> None:
    """When the daemon goes, each request on its way gets `Unavailable`."""
    daemon.before["lease.list"] = lambda session, request: True

    async def scene() -> None:
        async with AsyncClient(daemon.path, environ={}) as vault:
            asked = [asyncio.ensure_future(vault.call("lease.list")) for _ in range(5)]
            await asyncio.to_thread(daemon.wait_for, "lease.list", 5)
            await asyncio.to_thread(daemon.stop)
            for outcome in await asyncio.gather(*asked, return_exceptions=True):
                assert isinstance(outcome, errors.Unavailable)

    play(scene())


def test_everything_works_byte_by_byte(daemon: Any) -> None:
    """Frames that arrive one byte at a time, descriptors with them, are the same frames."""
    daemon.chop = True
    daemon.secrets["acme", "big"] = [b"b" * (MAX_TAIL + 1)]

    async def scene() -> None:
        async with (
            AsyncClient(daemon.path, environ={}) as vault,
            vault.lease("acme", "openai/prod") as small,
            vault.lease("acme", "big") as large,
        ):
            assert bytes(small.value) == b"sk-first"
            assert len(large.value) == MAX_TAIL + 1

    play(scene())


def test_more_requests_than_may_wait_take_turns(daemon: Any) -> None:
    """A thousand requests at once on one connection are all answered, never more on their way than may be."""

    async def scene() -> None:
        async with AsyncClient(daemon.path, environ={}) as vault:
            states = await asyncio.gather(*(vault.status() for _ in range(1_000)))
            assert {state["state"] for state in states} == {"unsealed"}

    play(scene())


def test_upload_pages_events_and_audit(daemon: Any) -> None:
    """The other helpers do what the sync client's do."""

    async def scene() -> None:
        async with AsyncClient(daemon.path, environ={}) as vault:
            big = os.urandom(MAX_TAIL * 2 + 1)
            versions = await asyncio.gather(*(vault.put("acme", f"big{n}", big) for n in range(4)))
            assert versions == [1, 1, 1, 1]
            assert daemon.secrets["acme", "big3"] == [big]
            names = [item["secret"] async for item in vault.pages("secret.list", {"tenant": "acme"})]
            assert names == ["big0", "big1", "big2", "big3", "openai/prod"]
            assert [line async for line in vault.audit_lines()] == [b'{"n":%d}' % n for n in range(5)]
            events = vault.events()
            waiting = asyncio.ensure_future(anext(events))
            await asyncio.to_thread(daemon.wait_for, "subscribe")
            assert await vault.rotate_secret("acme", "openai/prod", b"sk-second") == 2
            assert (await waiting).event == "secret.rotated"
            await events.aclose()

    play(scene())


def test_child_claims_the_run_it_was_handed(daemon: Any) -> None:
    """An asyncio client in a child claims the run of its environment before its first lease, once."""

    async def scene() -> None:
        async with (
            AsyncClient(daemon.path, environ={}) as vault,
            vault.run("acme", scope=["**"]) as run,
            AsyncClient(environ=run.environment()) as child,
            child.lease(None, "openai/prod") as one,
            child.lease(None, "openai/prod") as two,
        ):
            assert one.run_id == two.run_id == run.id
        assert daemon.ops().count("run.claim") == 1

    play(scene())


def test_a_run_within_a_run_is_its_child(daemon: Any) -> None:
    """As of the sync client: of the run at hand, or of the one that the environment hands over."""

    async def scene() -> None:
        async with AsyncClient(daemon.path, environ={}) as vault, vault.run("acme", scope=["**"]) as top:
            async with top.run(scope=["openai/*"], uses=3) as child:
                assert child.tenant == "acme"
                assert (daemon.runs[child.token]["parent"], daemon.runs[child.token]["uses"]) == (top.token, 3)
            async with AsyncClient(environ=top.environment()) as inside, inside.run(scope=["openai/*"]) as child:
                assert child.tenant == "acme"
                assert daemon.runs[child.token]["parent"] == top.token
                async with child.lease("openai/prod") as lease:
                    assert lease.run_id == child.id
        assert not daemon.runs

    play(scene())


def test_idle_connection_that_the_daemon_closed_is_replaced(daemon: Any) -> None:
    """A daemon that restarted between two requests costs nothing, whether the loop has heard of it or not."""

    async def scene() -> None:
        async with AsyncClient(daemon.path, environ={}) as vault:
            assert (await vault.status())["state"] == "unsealed"
            daemon.restart()  # in the loop's own thread: it has not heard of the end
            assert await vault.put("acme", "new", b"x") == 1
            await asyncio.to_thread(daemon.restart)
            assert await vault.put("acme", "new", b"x") == 2

    play(scene())
