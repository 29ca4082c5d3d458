"""Leases and runs of the asyncio client; the same shape as `Lease` and `Run`."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from vaultclient._async_files import AsyncValueFile
from vaultclient._calls import keys_of, run_keys
from vaultclient._keeper import renewal_ended
from vaultclient._leases import HeldValue
from vaultclient._runs import OpenRun
from vaultclient.errors import Denied, TimedOut, Unavailable, VaultError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from vaultclient._async import AsyncClient
    from vaultclient._calls import Answer

__all__ = ["AsyncLease", "AsyncRun"]


class AsyncLease(HeldValue):
    """A lease of the asyncio client: `async with` acquires, renews in the background, and releases."""

    def __init__(
        self,
        client: AsyncClient,
        tenant: str | None,
        secret: str,
        run: bytes | None,
        request: dict[str, Any],
        on_revoked: Callable[[AsyncLease, str], object] | None,
    ) -> None:
        super().__init__(tenant, secret, run, request, on_revoked)
        self._client = client
        self._renewing: asyncio.Task[None] | None = None

    async def acquire(self) -> AsyncLease:
        """Take the lease without background renewal; see `Lease.acquire`."""
        await self._find_run()
        self._hold(await self._client.call("lease.acquire", self._request, run=self._run))
        self._generation = self._client._channel.generation
        return self

    async def open(self) -> AsyncValueFile:
        """The value, of any size, read by ranges while the lease lasts; see `Lease.open`."""
        with self._guard:
            self._must_hold()
        return AsyncValueFile(self._range, self.size or 0)

    async def _range(self, offset: int, length: int) -> Answer:
        with self._guard:
            self._must_hold()
        keys = {"lease": self.id, "offset": offset, "length": length}
        return await self._client.call("lease.read", keys, run=self._run)

    async def renew(self, ttl: int | None = None) -> int:
        """Move the lease's end; see `Lease.renew`."""
        self._must_hold()
        keys = keys_of(lease=self.id, ttl=ttl if ttl is not None else self._request.get("ttl"))
        self._renewed(await self._client.call("lease.renew", keys, run=self._run))
        return self.expires_in

    async def release(self) -> None:
        """Give the lease back and wipe the value; see `Lease.release`."""
        self._client._leases.discard(self)
        self._stop_renewing()
        if self._end("released"):
            with contextlib.suppress(Denied):  # it expired or was revoked on its own: over all the same
                await self._client.call("lease.release", {"lease": self.id}, run=self._run)

    async def _find_run(self) -> None:
        if self._run is None:
            self._run = await self._client._own_run()
            self.tenant = self.tenant or self._client._run_tenant

    def _stop_renewing(self) -> None:
        renewal, self._renewing = self._renewing, None
        if renewal is not None and renewal is not asyncio.current_task():
            renewal.cancel()

    async def _keep_renewing(self) -> None:
        """Renew at half the time; until it is over, a renewal that cannot be made is tried again."""
        now = asyncio.get_running_loop().time
        end, wait = now() + self.expires_in, max(self.expires_in / 2, self._client._least_interval)
        while self.active:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._client._back.wait()  # the connection was lost and is back: look at once
            failed = await self._renewal()
            if failed is None:
                self._generation = self._client._channel.generation
                end, wait = now() + self.expires_in, max(self.expires_in / 2, self._client._least_interval)
            elif renewal_ended(failed) or now() >= end:
                self._client._over(self, "expired" if now() >= end else failed.message)
            else:
                wait = min(self._client._retry_after, max(0.0, end - now()))

    async def _renewal(self) -> VaultError | None:
        """One renewal, or what came in its way."""
        try:
            await self.renew()
        except VaultError as error:
            if not renewal_ended(error) or self._generation == self._client._channel.generation:
                return error
        else:
            return None
        try:  # after a reconnection: a restarted daemon knows no lease, but the run goes on: take the same version anew
            self._hold_again(await self._client.call("lease.acquire", self._anew(), run=self._run))
        except VaultError as error:
            return error
        return None

    async def __aenter__(self) -> AsyncLease:
        await self._find_run()  # an unclaimed run has no events for us yet
        await self._client._listen()  # before the lease exists: so no event about it can be missed
        await self.acquire()
        self._client._leases.add(self)
        reason = self._client._gone.get(self.id or "")
        if reason is not None:
            self._client._over(self, reason)
        else:
            self._renewing = asyncio.get_running_loop().create_task(self._keep_renewing())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.release()
        except TimedOut:
            if error is None:  # never hide the body's own error behind ours
                raise
        except Unavailable:
            return  # the daemon is gone, and its leases with it


class AsyncRun(OpenRun):
    """A run of the asyncio client: `async with client.run(…) as run` opens and closes it."""

    def __init__(self, client: AsyncClient, tenant: str | None, parent: bytes | None, request: dict[str, Any]) -> None:
        super().__init__(client.socket_path, parent, tenant, request)
        self._client = client

    async def open(self) -> AsyncRun:
        """Open the run; see `Run.open`."""
        parent = self._parent if self._parent is not None else await self._client._own_run()
        self._opened(await self._client.call("run.open", self._request, run=parent))
        return self

    async def close(self) -> None:
        """End the run, its child runs and its leases. A run that is over already is no error."""
        token = self._closed()
        if token is not None:
            with contextlib.suppress(Denied):  # it expired, or its anchor died
                await self._client.call("run.close", {}, run=token)

    def lease(
        self,
        secret: str,
        *,
        ttl: int | None = None,
        purpose: str | None = None,
        version: int | None = None,
        delivery: str | None = None,
        memfd: bool | None = None,
        on_revoked: Callable[[AsyncLease, str], object] | None = None,
    ) -> AsyncLease:
        """A lease within this run; see `Client.lease`."""
        lease = self._client.lease(
            None,
            secret,
            ttl=ttl,
            purpose=purpose,
            version=version,
            delivery=delivery,
            memfd=memfd,
            on_revoked=on_revoked,
            run=self.token,
        )
        lease.tenant = self.tenant  # the token says it to the daemon; pushes say it to us
        return lease

    def run(
        self,
        *,
        scope: Sequence[str],
        purpose: str | None = None,
        ttl: int | None = None,
        anchor: int | None = None,
        uid: int | None = None,
        uses: int | None = None,
    ) -> AsyncRun:
        """A child run; see `Run.run`."""
        keys = run_keys(self.tenant, scope, purpose=purpose, ttl=ttl, service=None, anchor=anchor, uid=uid, uses=uses)
        return AsyncRun(self._client, self.tenant, self.token, keys)

    async def __aenter__(self) -> AsyncRun:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.close()
        except Unavailable:
            if error is None:  # never hide the body's own error behind ours
                raise
