"""The sync client: a method per thing that programs do, and `call` for every operation of the protocol."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from vaultclient._address import decode_token, find_socket, find_token
from vaultclient._calls import Answer, keys_of, run_keys, upload_steps
from vaultclient._files import ValueFile
from vaultclient._keeper import Keeper
from vaultclient._leases import Lease
from vaultclient._runs import Run
from vaultclient._sources import Source
from vaultclient._transport import Channel
from vaultclient._uploads import send_source
from vaultd.protocol import MAX_TAIL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import TracebackType

    from vaultclient._sources import Readable
    from vaultd.protocol import Push

__all__ = ["Client"]

Value = bytes | bytearray | memoryview


class Client:
    """A connection to vaultd for synchronous programs; usable from several threads; made when first needed.

    Args:
        socket: the daemon's socket; else `VAULTD_SOCKET`, `$XDG_RUNTIME_DIR/vaultd/vaultd.sock` if there, or
            `/run/vaultd/vaultd.sock`.
        run: a run's token (32 bytes, or its text); else what `VAULTD_RUN_FD` or `VAULTD_RUN` hold.
        timeout: seconds that any one request may take.
        retry_for: seconds to go on trying while no daemon answers, or one that is not unsealed yet. A request whose
            answer was lost is repeated only if doing it twice is harmless.
        on_revoked: called with (lease, reason), on a background thread, when a lease held as a context manager ends
            before its holder gave it back.
        environ: where the variables are looked up.

    Raises:
        Invalid: the socket's path or the token in the environment cannot be right.
    """

    def __init__(
        self,
        socket: str | os.PathLike[str] | None = None,
        *,
        run: bytes | str | None = None,
        timeout: float = 30.0,
        retry_for: float = 0.0,
        on_revoked: Callable[[Lease, str], object] | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self.socket_path = find_socket(socket, environ)
        self._token = decode_token(run) if isinstance(run, str) else run if run is not None else find_token(environ)
        self._run_tenant: str | None = None
        self._unclaimed = run is None and self._token is not None
        self._timeout = timeout
        self._on_revoked = on_revoked
        self._channel = Channel(self.socket_path, timeout=timeout, retry_for=retry_for)
        self._kept: Keeper | None = None

    # -- every operation

    def call(
        self,
        op: str,
        keys: Mapping[str, Any] | None = None,
        tail: Value = b"",
        *,
        run: bytes | None = None,
        timeout: float | None = None,
    ) -> Answer:
        """Do one operation of `PROTOCOL.md`.

        Args:
            op: its name, such as `"lease.list"`.
            keys: its keys.
            tail: the bytes that go behind the header; the caller's to wipe.
            run: the token of the run to speak for; else this client's own.
            timeout: seconds, where the client's default does not fit.

        Raises:
            VaultError: refused, unreachable or malformed; `code` says which.
        """
        token = run if run is not None else self._token
        return self._channel.call(op, keys or {}, run=token, tail=tail, timeout=timeout)

    def pages(self, op: str, keys: Mapping[str, Any] | None = None) -> Iterator[dict[str, Any]]:
        """Every item of a listing operation (`secret.list`, `run.list`, …), asked for page by page."""
        asked = dict(keys or {})
        while True:
            answer = self.call(op, asked)
            yield from answer["items"]
            if answer.get("next") is None:
                return
            asked["after"] = answer["next"]

    def status(self) -> dict[str, Any]:
        """The vault's state, and who the kernel says this process is."""
        return self.call("status").keys

    def put(
        self,
        tenant: str,
        secret: str,
        value: Value,
        *,
        cas: int | None = None,
        description: str | None = None,
        rotate_after: int | None = None,
    ) -> int:
        """Store a new version; returns its number. `cas` is the version that must be current (0: none yet)."""
        keys = keys_of(tenant=tenant, secret=secret, cas=cas, description=description, rotate_after=rotate_after)
        return int(self._send_value("secret.put", keys, value)["version"])

    def rotate_secret(self, tenant: str, secret: str, value: Value) -> int:
        """Give an existing secret a new value; returns the new version's number."""
        return int(self._send_value("rotate.secret", keys_of(tenant=tenant, secret=secret), value)["version"])

    def get(self, tenant: str, secret: str, *, version: int | None = None) -> Answer:
        """Reveal a value as admin: keys `version` and `state`, the value as `tail` or `fd`. Wipe it: `with … as`."""
        return self.call("secret.get", keys_of(tenant=tenant, secret=secret, version=version))

    def put_file(
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
        """Store a file of any size as a new version, in constant memory; returns its number.

        Args:
            tenant, secret, cas, description, rotate_after: as `put`.
            file: a path, or a file object opened for reading bytes. A regular file must stay as it is until it was
                read.
            sparse: take a file's holes for the zeros that they read as.
            progress: called with the bytes that were sent, and how many there are (None: not known).

        Raises:
            Conflict: the file grew, shrank or was written to while it was read; or `cas` names another version.
            Invalid: the file is empty, has holes, or is none.
            VaultError: refused, or `io`: it cannot be read. Whatever is raised, nothing was stored.
        """
        keys = keys_of(tenant=tenant, secret=secret, cas=cas, description=description, rotate_after=rotate_after)
        return self._send_file("secret.put", keys, file, progress, sparse=sparse)

    def rotate_file(
        self,
        tenant: str,
        secret: str,
        file: str | os.PathLike[str] | Readable,
        *,
        sparse: bool = False,
        progress: Callable[[int, int | None], object] | None = None,
    ) -> int:
        """Give an existing secret a file as its new value; see `put_file` and `rotate_secret`."""
        return self._send_file("rotate.secret", keys_of(tenant=tenant, secret=secret), file, progress, sparse=sparse)

    def open(self, tenant: str, secret: str, *, version: int | None = None) -> ValueFile:
        """A value of any size as a read-only, seekable file, read by ranges, as admin; to be closed."""
        keys = keys_of(tenant=tenant, secret=secret, version=version)
        with self.call("secret.get", {**keys, "offset": 0, "length": 0}) as answer:
            keys["version"], size = answer["version"], answer.length  # of what is current now, whatever comes
        return ValueFile(
            lambda offset, length: self.call("secret.get", {**keys, "offset": offset, "length": length}), size
        )

    def _send_file(
        self,
        op: str,
        keys: dict[str, Any],
        file: Any,
        progress: Callable[[int, int | None], object] | None,
        *,
        sparse: bool,
    ) -> int:
        # Over a connection of its own: what the daemon has not written yet holds up what comes behind it.
        channel = Channel(self.socket_path, timeout=self._timeout, retry_for=self._channel.retry_for)
        try:
            with Source(file, sparse=sparse) as source:
                return int(send_source(channel, source, op, keys, progress, self._token)["version"])
        finally:
            channel.close()  # gives up what is unfinished

    def _send_value(self, op: str, keys: dict[str, Any], value: Value) -> Answer:
        if len(value) <= MAX_TAIL:
            return self.call(op, keys, value)
        with self._channel.held():  # an upload belongs to its connection, and nobody's may come between
            for step, step_keys, chunk in upload_steps(value, op, keys):
                self.call(step, step_keys, chunk)
            return self.call(op, {**keys, "upload": True})

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
        on_revoked: Callable[[Lease, str], object] | None = None,
        run: bytes | None = None,
    ) -> Lease:
        """A lease of a secret, taken when entered as a context manager and renewed until left.

        Args:
            tenant: whose; may be None inside a run.
            secret: its name.
            ttl: seconds between renewals; else the daemon's default.
            purpose: what for, where the grant asks.
            version: an explicit version; else the current one.
            delivery: `fd` (default), `env` or `print`: what will be done with the value, recorded with the lease.
            memfd: whether the value is to come in a sealed memory file rather than in a buffer.
            service: which service this process is, where several match.
            on_revoked: see `Client`.
            run: the token of the run; else this client's own.
        """
        request = {
            "ttl": ttl,
            "purpose": purpose,
            "version": version,
            "delivery": delivery,
            "memfd": memfd,
            "service": service,
        }
        token = run if run is not None else self._own_run()
        lease = Lease(self, tenant, secret, token, request, on_revoked or self._on_revoked)
        if tenant is None and run is None:
            lease.tenant = self._run_tenant
        return lease

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
    ) -> Run:
        """A run for one tenant, opened when entered as a context manager and closed when left.

        Within a run (`VAULTD_RUN_FD` or `VAULTD_RUN`, or `run` of this client) it is a child run: see `Run.run`.

        Args:
            tenant: whose secrets it is for; may be None inside a run.
            scope: names and patterns of the secrets that it may lease, within the grant.
            purpose: what for.
            ttl: seconds until its hard end.
            service: which service this process is, where several match.
            anchor: pid of a child or ancestor whose end ends the run; else this process, until a process claims it.
            uid: under which uid the claiming process runs; else this process's.
            uses: acquisitions at most, in it and in the runs that are opened in it.
        """
        keys = run_keys(tenant, scope, purpose=purpose, ttl=ttl, service=service, anchor=anchor, uid=uid, uses=uses)
        return Run(self, tenant, self._own_run(), keys)

    def claim(self) -> dict[str, Any]:
        """Become the anchor of the run that this process was handed; harmless where it is it, or is in its session.

        `lease` and `run` do this by themselves for a token found in the environment. Returns the run's id, tenant and
        scope.

        Raises:
            VaultError: there is no run, or it is not this process's.
        """
        answer = self.call("run.claim")
        self._unclaimed = False
        self._run_tenant = answer["tenant"]
        return answer.keys

    def _own_run(self) -> bytes | None:
        if self._unclaimed:
            self.claim()
        return self._token

    # -- pushes and the audit trail

    def events(self, tenant: str | None = None) -> Iterator[Push]:
        """What happens to this client's runs and leases (or, for admins, to a tenant), as it happens.

        Uses a connection of its own. Ends with `Unavailable` when the daemon goes away: what happened until the next
        subscription is not told, so look at the state again after subscribing.
        """
        channel = Channel(self.socket_path, timeout=self._timeout, retry_for=self._channel.retry_for)
        try:
            channel.call("subscribe", keys_of(tenant=tenant), run=self._own_run())
            while True:
                while channel.pushes:
                    yield channel.pushes.popleft()
                channel.wait_for_pushes()
        finally:
            channel.close()

    def audit_lines(
        self, op: str = "audit.show", keys: Mapping[str, Any] | None = None, *, follow: bool = False
    ) -> Iterator[bytes]:
        """The lines of `audit.show` or `audit.export`, page by page; with `follow`, also those still to come."""
        asked = dict(keys or {})
        if follow:
            asked["wait"] = 30
        while True:
            answer = self.call(op, asked, timeout=self._timeout + asked.get("wait", 0))
            yield from bytes(answer.tail).splitlines()
            if not follow and not answer.get("more", answer["count"] > 0):
                return
            asked["after"] = answer["next"]

    # -- life

    def _keeper(self) -> Keeper:
        if self._kept is None or self._kept.owner != os.getpid():  # a forked child has no such thread
            self._kept = Keeper(self.socket_path, self._token, timeout=self._timeout)
        return self._kept

    def _drop(self, lease: Lease) -> None:
        if self._kept is not None:
            self._kept.drop(lease)

    def close(self) -> None:
        """End the connections and the background thread. Leases still held end at their time."""
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.stop()
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Client {self.socket_path}{' in a run' if self._token else ''}>"
