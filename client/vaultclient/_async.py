"""The asyncio client: one connection, many requests, leases and runs at once. The same shape as `Client`."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from vaultclient._address import decode_token, find_socket, find_token
from vaultclient._async_files import AsyncValueFile, send_file
from vaultclient._async_leases import AsyncLease, AsyncRun
from vaultclient._async_transport import AsyncChannel
from vaultclient._calls import Answer, keys_of, run_keys, upload_steps
from vaultclient._keeper import endings, renewal_ended
from vaultclient._schedule import LEAST_INTERVAL, RETRY_AFTER
from vaultclient.errors import VaultError
from vaultd.protocol import MAX_TAIL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from types import TracebackType

    from vaultclient._sources import Readable
    from vaultd.protocol import Push

__all__ = ["AsyncClient"]

Value = bytes | bytearray | memoryview


class AsyncClient:
    """A connection to vaultd for asyncio programs, made when first needed; belongs to one event loop.

    The arguments are `Client`'s; `on_revoked` is called in the event loop.
    """

    def __init__(
        self,
        socket: str | os.PathLike[str] | None = None,
        *,
        run: bytes | str | None = None,
        timeout: float = 30.0,
        retry_for: float = 0.0,
        on_revoked: Callable[[AsyncLease, str], object] | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self.socket_path = find_socket(socket, environ)
        self._token = decode_token(run) if isinstance(run, str) else run if run is not None else find_token(environ)
        self._unclaimed = run is None and self._token is not None
        self._run_tenant: str | None = None
        self._claiming = asyncio.Lock()
        self._uploading = asyncio.Lock()
        self._subscribing = asyncio.Lock()
        self._timeout = timeout
        self._retry_for = retry_for
        self._retry_after = RETRY_AFTER
        self._least_interval = LEAST_INTERVAL
        self._on_revoked = on_revoked
        self._channel = self._new_channel(self._told, self._lost)
        self._subscribed = 0  # the connection on which pushes were asked for
        self._back = asyncio.Event()  # set, and replaced, when the connection was lost and is back
        self._leases: set[AsyncLease] = set()
        self._gone: dict[str, str] = {}
        self._recovery: asyncio.Task[None] | None = None

    def _new_channel(self, on_push: Callable[[Push], object], on_lost: Callable[[VaultError], object]) -> AsyncChannel:
        return AsyncChannel(
            self.socket_path, timeout=self._timeout, retry_for=self._retry_for, on_push=on_push, on_lost=on_lost
        )

    # -- every operation

    async def call(
        self,
        op: str,
        keys: Mapping[str, Any] | None = None,
        tail: Value = b"",
        *,
        run: bytes | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  as the sync client
    ) -> Answer:
        """Do one operation of `PROTOCOL.md`; see `Client.call`."""
        token = run if run is not None else self._token
        return await self._channel.call(op, keys or {}, run=token, tail=tail, timeout=timeout)

    async def pages(self, op: str, keys: Mapping[str, Any] | None = None) -> AsyncIterator[dict[str, Any]]:
        """Every item of a listing operation, asked for page by page."""
        asked = dict(keys or {})
        while True:
            answer = await self.call(op, asked)
            for item in answer["items"]:
                yield item
            if answer.get("next") is None:
                return
            asked["after"] = answer["next"]

    async def status(self) -> dict[str, Any]:
        """The vault's state, and who the kernel says this process is."""
        return (await self.call("status")).keys

    async def put(
        self,
        tenant: str,
        secret: str,
        value: Value,
        *,
        cas: int | None = None,
        description: str | None = None,
        rotate_after: int | None = None,
    ) -> int:
        """Store a new version; see `Client.put`."""
        keys = keys_of(tenant=tenant, secret=secret, cas=cas, description=description, rotate_after=rotate_after)
        return int((await self._send_value("secret.put", keys, value))["version"])

    async def rotate_secret(self, tenant: str, secret: str, value: Value) -> int:
        """Give an existing secret a new value; returns the new version's number."""
        return int((await self._send_value("rotate.secret", keys_of(tenant=tenant, secret=secret), value))["version"])

    async def get(self, tenant: str, secret: str, *, version: int | None = None) -> Answer:
        """Reveal a value as admin; see `Client.get`."""
        return await self.call("secret.get", keys_of(tenant=tenant, secret=secret, version=version))

    async def put_file(
        self,
        tenant: str,
        secret: str,
        file: str | os.PathLike[str] | Readable,
        *,
        cas: int | None = None,
        description: str | None = None,
        rotate_after: int | None = None,
        sparse: bool = False,
        progress: Callable[[int, int | None], object] | None = None,
    ) -> int:
        """Store a file of any size; see `Client.put_file`. It is read, and `progress` called, in another thread."""
        keys = keys_of(tenant=tenant, secret=secret, cas=cas, description=description, rotate_after=rotate_after)
        return await self._send_file("secret.put", keys, file, progress, sparse=sparse)

    async def rotate_file(
        self,
        tenant: str,
        secret: str,
        file: str | os.PathLike[str] | Readable,
        *,
        sparse: bool = False,
        progress: Callable[[int, int | None], object] | None = None,
    ) -> int:
        """Give an existing secret a file as its new value; see `put_file` and `rotate_secret`."""
        return await self._send_file(
            "rotate.secret", keys_of(tenant=tenant, secret=secret), file, progress, sparse=sparse
        )

    async def open(self, tenant: str, secret: str, *, version: int | None = None) -> AsyncValueFile:
        """A value of any size, read by ranges, as admin; see `Client.open`."""
        keys = keys_of(tenant=tenant, secret=secret, version=version)
        with await self.call("secret.get", {**keys, "offset": 0, "length": 0}) as answer:
            keys["version"], size = answer["version"], answer.length
        return AsyncValueFile(
            lambda offset, length: self.call("secret.get", {**keys, "offset": offset, "length": length}), size
        )

    async def _send_file(
        self,
        op: str,
        keys: dict[str, Any],
        file: Any,
        progress: Callable[[int, int | None], object] | None,
        *,
        sparse: bool,
    ) -> int:
        # Over a connection of its own: what the daemon has not written yet holds up what comes behind it.
        channel = self._new_channel(lambda _push: None, lambda _error: None)
        try:
            return int((await send_file(channel, file, op, keys, progress, self._token, sparse=sparse))["version"])
        finally:
            channel.close()

    async def _send_value(self, op: str, keys: dict[str, Any], value: Value) -> Answer:
        if len(value) <= MAX_TAIL:
            return await self.call(op, keys, value)
        async with self._uploading:  # a connection has one upload at a time
            for step, step_keys, chunk in upload_steps(value, op, keys):
                await self.call(step, step_keys, chunk)
            return await self.call(op, {**keys, "upload": True})

    # -- leases and runs

    def lease(
        self,
        tenant: str | None,
        secret: str,
        *,
        ttl: int | None = None,
        purpose: str | None = None,
        version: int | None = None,
        delivery: str | None = None,
        memfd: bool | None = None,
        service: str | None = None,
        on_revoked: Callable[[AsyncLease, str], object] | None = None,
        run: bytes | None = None,
    ) -> AsyncLease:
        """A lease of a secret: `async with client.lease(…) as lease`; see `Client.lease`."""
        request = {
            "ttl": ttl,
            "purpose": purpose,
            "version": version,
            "delivery": delivery,
            "memfd": memfd,
            "service": service,
        }
        return AsyncLease(self, tenant, secret, run, request, on_revoked or self._on_revoked)

    def run(
        self,
        tenant: str | None = None,
        *,
        scope: Sequence[str],
        purpose: str | None = None,
        ttl: int | None = None,
        service: str | None = None,
        anchor: int | None = None,
        uid: int | None = None,
        uses: int | None = None,
    ) -> AsyncRun:
        """A run for one tenant: `async with client.run(…) as run`; see `Client.run`."""
        keys = run_keys(tenant, scope, purpose=purpose, ttl=ttl, service=service, anchor=anchor, uid=uid, uses=uses)
        return AsyncRun(self, tenant, None, keys)

    async def claim(self) -> dict[str, Any]:
        """Become the anchor of the run that this process was handed; see `Client.claim`."""
        answer = await self.call("run.claim")
        self._unclaimed = False
        self._run_tenant = answer["tenant"]
        return answer.keys

    async def _own_run(self) -> bytes | None:
        if self._unclaimed:
            async with self._claiming:
                if self._unclaimed:
                    await self.claim()
        return self._token

    # -- pushes and the audit trail

    async def events(self, tenant: str | None = None) -> AsyncIterator[Push]:
        """What happens to this client's runs and leases (or, for admins, to a tenant); see `Client.events`."""
        came: asyncio.Queue[Push | VaultError] = asyncio.Queue()
        channel = self._new_channel(came.put_nowait, came.put_nowait)
        try:
            await channel.call("subscribe", keys_of(tenant=tenant), run=await self._own_run())
            while True:
                event = await came.get()
                if isinstance(event, VaultError):
                    raise event
                yield event
        finally:
            channel.close()

    async def audit_lines(
        self, op: str = "audit.show", keys: Mapping[str, Any] | None = None, *, follow: bool = False
    ) -> AsyncIterator[bytes]:
        """The lines of `audit.show` or `audit.export`; see `Client.audit_lines`."""
        asked = dict(keys or {})
        if follow:
            asked["wait"] = 30
        while True:
            answer = await self.call(op, asked, timeout=self._timeout + asked.get("wait", 0))
            for line in bytes(answer.tail).splitlines():
                yield line
            if not follow and not answer.get("more", answer["count"] > 0):
                return
            asked["after"] = answer["next"]

    # -- keeping leases

    async def _listen(self) -> None:
        """Hear from now on of what happens to this client's leases; asked anew on every new connection."""
        async with self._subscribing:
            await self._channel.connect()
            if self._subscribed != self._channel.generation:
                generation = self._channel.generation
                await self._channel.call("subscribe", {}, run=self._token)
                self._subscribed = generation

    def _told(self, push: Push) -> None:
        if push.event == "lease.revoked":
            self._gone[push.keys["lease"]] = push.keys.get("reason", "revoked")
            while len(self._gone) > 1_024:
                del self._gone[next(iter(self._gone))]
        for lease, reason in endings(push, self._leases):
            self._over(lease, reason)

    def _over(self, lease: AsyncLease, reason: str) -> None:
        self._leases.discard(lease)
        lease._stop_renewing()
        if lease._end(reason) and lease.on_revoked is not None:
            try:
                lease.on_revoked(lease, reason)
            except Exception as error:  # noqa: BLE001  the caller's code; other leases and replies still need this loop
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "on_revoked of a lease raised", "exception": error}
                )

    def _lost(self, error: VaultError) -> None:  # noqa: ARG002  what was asked gets the error; leases only need to know that
        if self._leases and (self._recovery is None or self._recovery.done()):
            self._recovery = asyncio.get_running_loop().create_task(self._recover())

    async def _recover(self) -> None:
        """Come back to a daemon that restarted, while any lease is held; then every lease looks at itself."""
        while self._leases:
            try:
                await self._listen()
            except VaultError as error:
                if not renewal_ended(error):
                    await asyncio.sleep(self._retry_after)
                    continue
                # our run is over, say: no pushes, but each lease still gets its own answer
            self._back.set()
            self._back = asyncio.Event()
            return

    # -- life

    async def aclose(self) -> None:
        """End the connection and the background tasks. Leases still held end at their time."""
        tasks = [task for task in (self._recovery, *(lease._renewing for lease in self._leases)) if task is not None]
        self._leases.clear()
        self._channel.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<AsyncClient {self.socket_path}{' in a run' if self._token else ''}>"
