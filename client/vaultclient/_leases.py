"""A lease as its holder sees it: the value in a buffer that is wiped, or in a sealed memory file."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING, Any

from vaultclient import _live
from vaultclient._calls import keys_of
from vaultclient._files import ValueFile, ValueStream
from vaultclient._memory import read_descriptor, sealed_memfd
from vaultclient.errors import Denied, Invalid, LeaseEnded, TimedOut, Unavailable
from vaultd.protocol import wipe

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from vaultclient._calls import Answer
    from vaultclient._client import Client

__all__ = ["HeldValue", "Lease"]


class HeldValue:
    """One lease's state and value; `Lease` and `AsyncLease` add how to ask for it.

    Attributes:
        id: the lease's public id (`lease_…`); None before it is acquired.
        tenant, secret, version: what it is a right to; the version is None before it is acquired.
        expires_in: seconds from the last acquisition or renewal to the lease's end.
        size: bytes of the value; None before it is acquired.
        ended: why it is over, or "" while it is not (or not acquired yet).
    """

    def __init__(
        self,
        tenant: str | None,
        secret: str,
        run: bytes | None,
        request: dict[str, Any],
        on_revoked: Callable[[Any, str], object] | None,
    ) -> None:
        self.tenant = tenant
        self.secret = secret
        self.id: str | None = None
        self.run_id: str | None = None
        self.version: int | None = None
        self.expires_in = 0
        self.size: int | None = None
        self.ended = ""
        self.on_revoked = on_revoked
        self._run = run
        self._request = keys_of(tenant=tenant, secret=secret, **request)
        self._value: bytearray | None = None
        self._fd: int | None = None
        self._file = False
        self._generation = 0  # the connection that last vouched for it; see the keeper
        self._guard = threading.Lock()  # the background renewal may end a lease while its holder reads it

    @property
    def active(self) -> bool:
        """Whether the lease is held and has not ended."""
        return self.id is not None and not self.ended

    @property
    def value(self) -> memoryview:
        """The value, read-only, in a buffer that turns to zeros when the lease ends: use it, do not keep it.

        Raises:
            LeaseEnded: the lease is not held (any more).
            Invalid: the value is too long to be held: `open` reads it.
        """
        with self._guard:
            self._must_hold()
            self._must_be_here()
            if self._value is None and self._fd is not None:
                self._value = read_descriptor(self._fd, self.size)
            return memoryview(self._value or b"").toreadonly()

    def fd(self) -> int:
        """A descriptor of a sealed memory file that holds the value, read-only and close-on-exec; the lease's to close.

        Hand it to a child by `pass_fds` and read it there from offset 0.

        Raises:
            LeaseEnded: the lease is not held (any more).
            Invalid: the value is too long for a memory file: `open` or `stream` reads it.
        """
        with self._guard:
            self._must_hold()
            self._must_be_here()
            if self._fd is None:
                self._fd = sealed_memfd("vaultd-lease", self._value or b"")
            return self._fd

    def _must_hold(self) -> None:
        if self.ended:
            raise LeaseEnded(f"the lease of {self.secret} has ended: {self.ended}", "acquire it again")
        if self.id is None:
            raise LeaseEnded(f"the lease of {self.secret} is not acquired yet", "use it as a context manager")

    def _must_be_here(self) -> None:
        if self._fd is None and self._value is None:
            raise Invalid(
                f"the value of {self.secret} has {self.size} bytes, more than is handed out at once",
                "open() reads any part of it, stream() all of it in order",
            )

    def _hold(self, answer: Answer) -> None:
        with self._guard:
            self.size = answer.length
            self._file = "size" in answer.keys
            self.id = answer["lease"]
            self.run_id = answer.get("run")
            self.version = answer["version"]
            self.expires_in = answer["expires_in"]
            self.ended = ""
            self._value = None
            self._fd = answer.take_fd()
            if self._fd is None and len(answer.tail) == self.size:
                self._value, answer.tail = answer.tail, bytearray()
        _live.began(self)

    def _hold_again(self, answer: Answer) -> None:
        """Go on under a new id after the daemon restarted: same version, so the value here stays."""
        with answer, self._guard:
            self.id = answer["lease"]
            self.run_id = answer.get("run", self.run_id)
            self.expires_in = answer["expires_in"]

    def _renewed(self, answer: Answer) -> None:
        self.expires_in = answer["expires_in"]

    def _end(self, reason: str) -> bool:
        """Wipe and close; returns whether this call is the one that ended a lease that was held."""
        with self._guard:
            first = self.id is not None and not self.ended
            if first:
                self.ended = reason
            value, self._value = self._value, None
            descriptor, self._fd = self._fd, None
        _live.ended(self)
        if value is not None:
            wipe(value)
        if descriptor is not None:
            os.close(descriptor)
        return first

    def _copy(self) -> bytearray | None:
        """The value in a buffer of the caller's, to be wiped; None when the lease is not held (any more), and of files:
        nobody prints those by accident, and every line would have to be held against all of their bytes."""
        with self._guard:
            if not self.active or self._file:
                return None
            if self._value is None and self._fd is not None:
                return read_descriptor(self._fd)
            return bytearray(self._value or b"")

    def _anew(self) -> dict[str, Any]:
        """The keys to take the same version again, for a daemon that restarted."""
        return {**self._request, "version": self.version}

    def __repr__(self) -> str:
        state = self.ended or ("held" if self.id is not None else "not acquired")
        return f"<{type(self).__name__} {self.id or '-'} {self.secret} version={self.version} {state}>"


class Lease(HeldValue):
    """A lease of the sync client: `with client.lease(…) as lease` acquires, renews in the background, and releases."""

    def __init__(
        self,
        client: Client,
        tenant: str | None,
        secret: str,
        run: bytes | None,
        request: dict[str, Any],
        on_revoked: Callable[[Lease, str], object] | None,
    ) -> None:
        super().__init__(tenant, secret, run, request, on_revoked)
        self._client = client

    def acquire(self) -> Lease:
        """Take the lease without background renewal; `renew` and `release` are then the caller's.

        Raises:
            VaultError: it was refused.
        """
        self._hold(self._client.call("lease.acquire", self._request, run=self._run))
        return self

    def open(self) -> ValueFile:
        """The value, of any size, as a read-only, seekable file, read by ranges while the lease lasts; to be closed.

        Raises:
            LeaseEnded: the lease is not held (any more).
        """
        with self._guard:
            self._must_hold()
        return ValueFile(self._range, self.size or 0)

    def stream(self) -> ValueStream:
        """The value, of any size, as a file that is read once, in order; to be closed. What is copied whole comes
        fastest so; a stream that breaks off raises.

        Raises:
            LeaseEnded: the lease is not held (any more).
            VaultError: it was refused.
        """
        with self._guard:
            self._must_hold()
        keys = {"lease": self.id, "offset": 0, "pipe": True}
        answer = self._client.call("lease.read", keys, run=self._run)
        return ValueStream(answer, answer.length, lambda at: self._range(at, 1).close())

    def _range(self, offset: int, length: int) -> Answer:
        with self._guard:
            self._must_hold()
        return self._client.call("lease.read", {"lease": self.id, "offset": offset, "length": length}, run=self._run)

    def renew(self, ttl: int | None = None) -> int:
        """Move the lease's end to now + `ttl` seconds; returns the seconds that were given.

        Raises:
            LeaseEnded: it is not held.
            VaultError: the renewal was refused.
        """
        self._must_hold()
        keys = keys_of(lease=self.id, ttl=ttl if ttl is not None else self._request.get("ttl"))
        self._renewed(self._client.call("lease.renew", keys, run=self._run))
        return self.expires_in

    def release(self) -> None:
        """Give the lease back and wipe the value. A lease that is over already is no error.

        Raises:
            VaultError: the daemon could not be told; the value is wiped all the same.
        """
        if self._end("released"):
            with contextlib.suppress(Denied):  # it expired or was revoked on its own: over all the same
                self._client.call("lease.release", {"lease": self.id}, run=self._run)

    def __enter__(self) -> Lease:
        keeper = self._client._keeper()
        keeper.listen()  # before the lease exists: so no event about it can be missed
        self.acquire()
        keeper.keep(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client._drop(self)
        try:
            self.release()
        except TimedOut:
            if error is None:  # never hide the body's own error behind ours
                raise
        except Unavailable:
            return  # the daemon is gone, and its leases with it
