"""A run as its opener sees it, and how it is handed to the process that does the work."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from vaultclient._address import encode_token
from vaultclient._calls import run_keys
from vaultclient._memory import sealed_memfd
from vaultclient.errors import Denied, Invalid, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from vaultclient._calls import Answer
    from vaultclient._client import Client
    from vaultclient._leases import Lease

__all__ = ["OpenRun", "Run"]


class OpenRun:
    """One run's state; `Run` and `AsyncRun` add how to ask for it.

    Attributes:
        id: the run's public id (`run_…`); None before it is open.
        tenant: whose secrets it is for; None before a child run for which none was named is open.
        expires_in: seconds from its opening to its end.
    """

    def __init__(self, path: str, parent: bytes | None, tenant: str | None, request: dict[str, Any]) -> None:
        self.tenant = tenant
        self.id: str | None = None
        self.expires_in = 0
        self._path = path
        self._parent = parent
        self._request = request
        self._token: bytes | None = None

    @property
    def token(self) -> bytes:
        """The run's token, 32 bytes: whoever holds it and runs under the run's uid is in the run."""
        if self._token is None:
            raise Invalid("the run is not open", "use it as a context manager")
        return self._token

    def environment(self) -> dict[str, str]:
        """What a child process needs in its environment to find the daemon and claim the run.

        A process's environment can be read by others of its uid; `open_fd` leaves nothing there.
        """
        return {"VAULTD_SOCKET": self._path, "VAULTD_RUN": encode_token(self.token)}

    def open_fd(self) -> int:
        """A new descriptor that holds the token, for a child's `VAULTD_RUN_FD`; the caller closes it.

        It is close-on-exec: name it in `pass_fds`, and set the variable to its number.
        """
        return sealed_memfd("vaultd-run", self.token)

    def _opened(self, answer: Answer) -> None:
        self.id = answer["run"]
        self._token = answer["token"]
        self.tenant = answer.get("tenant", self.tenant)
        self.expires_in = answer["expires_in"]

    def _closed(self) -> bytes | None:
        token, self._token = self._token, None
        return token

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id or '-'} tenant={self.tenant} {'open' if self._token else 'not open'}>"


class Run(OpenRun):
    """A run of the sync client: `with client.run(…) as run` opens and closes it."""

    def __init__(self, client: Client, tenant: str | None, parent: bytes | None, request: dict[str, Any]) -> None:
        super().__init__(client.socket_path, parent, tenant, request)
        self._client = client

    def open(self) -> Run:
        """Open the run.

        Raises:
            VaultError: it was refused.
        """
        self._opened(self._client.call("run.open", self._request, run=self._parent))
        return self

    def close(self) -> None:
        """End the run, its child runs and its leases. A run that is over already is no error."""
        token = self._closed()
        if token is not None:
            with contextlib.suppress(Denied):  # it expired, or its anchor died
                self._client.call("run.close", {}, run=token)

    def lease(
        self,
        secret: str,
        *,
        ttl: int | None = None,
        purpose: str | None = None,
        version: int | None = None,
        delivery: str | None = None,
        memfd: bool | None = None,
        on_revoked: Callable[[Lease, str], object] | None = None,
    ) -> Lease:
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
    ) -> Run:
        """A child run for a sub-agent: it may lease `scope`, which lies within this one's, and ends with it.

        Args:
            scope: names and patterns of secrets.
            purpose: what for; else, and where this run has one, this run's.
            ttl: seconds until its hard end, never after this run's.
            anchor: pid of a process inside this run whose end ends the child; else as for `Client.run`.
            uid: as for `Client.run`; another than this run's only for who opened this run under a uid of its own.
            uses: acquisitions at most, in it and below it; they count in this run too.
        """
        keys = run_keys(self.tenant, scope, purpose=purpose, ttl=ttl, service=None, anchor=anchor, uid=uid, uses=uses)
        return Run(self._client, self.tenant, self.token, keys)

    def __enter__(self) -> Run:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except Unavailable:
            if error is None:  # never hide the body's own error behind ours
                raise
