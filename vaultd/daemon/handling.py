"""What the dispatcher and those who decide requests are to each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from vaultd.errors import Internal, VaultdError

if TYPE_CHECKING:
    from vaultd.daemon.connection import Connection
    from vaultd.daemon.dispatch import Dispatcher
    from vaultd.protocol.messages import Request

__all__ = ["Answer", "Committer", "Deferred", "Handler", "Pending", "Secret", "Ticket"]


class Secret(Protocol):
    """A wipeable buffer, as `vaultd.crypto` makes them."""

    def view(self) -> memoryview: ...

    def wipe(self) -> None: ...


class Answer:
    """What a done request is answered with.

    Args:
        keys: of the reply's header, without id and ok.
        tail: text or bytes behind the header that are no secret.
        secret: a value that goes behind the header instead; wiped here once it is in the frame.
        descriptor: sent beside the frame and then closed here.
    """

    __slots__ = ("descriptor", "keys", "secret", "tail")

    def __init__(
        self,
        keys: dict[str, Any],
        *,
        tail: bytes | bytearray = b"",
        secret: Secret | None = None,
        descriptor: int | None = None,
    ) -> None:
        self.keys = keys
        self.tail = tail
        self.secret = secret
        self.descriptor = descriptor


class Pending(Protocol):
    """A decided request whose record is staged: what remains is to answer it, once the record is durable."""

    @property
    def descriptor(self) -> bool:
        """Whether the answer will carry one: then it waits until an earlier one is acknowledged."""
        ...

    def complete(self, error: VaultdError | None) -> Answer:
        """Make the answer. Called once, in the event loop, when the socket has room; not at all when the peer is gone.

        Args:
            error: why the flush failed, or None. With an error nothing may be released; verbs that stop harm may still
                answer that they did.

        Raises:
            VaultdError: becomes the answer.
        """
        ...


class Deferred:
    """Returned by a handler that cannot decide yet (a slot key is being derived, a follower waits for the next record).

    The handler keeps it and calls `settle` from the event loop, once.
    """

    __slots__ = ("_dispatcher", "_settled", "_ticket")

    def __init__(self) -> None:
        self._dispatcher: Dispatcher | None = None
        self._ticket: Ticket | None = None
        self._settled: Pending | None = None

    def settle(self, pending: Pending) -> None:
        """Hand in the decision; its answer leaves with the next group."""
        if self._settled is not None:
            raise Internal("a deferred request was settled twice")
        self._settled = pending
        if self._dispatcher is not None and self._ticket is not None:
            self._dispatcher._settle(self._ticket, pending)

    def _attach(self, dispatcher: Dispatcher, ticket: Ticket) -> None:
        self._dispatcher, self._ticket = dispatcher, ticket
        if self._settled is not None:
            dispatcher._settle(ticket, self._settled)


class Handler(Protocol):
    """What requests do: the daemon's upper half. Every method is called in the event loop and must not block."""

    def connected(self, connection: Connection) -> None:
        """A peer was attested; before its first request."""
        ...

    def disconnected(self, connection: Connection) -> None:
        """It is gone; after its last request was handled."""
        ...

    def malformed(self, connection: Connection, message: str) -> None:
        """A request was refused for its form (code `protocol`): for counting."""
        ...

    def handle(self, connection: Connection, request: Request) -> Pending | Deferred:
        """Decide one request and stage its record. Its tail is zeroed once it is answered: to keep it longer, copy it.

        Raises:
            VaultdError: refused; what was staged before is still made durable before the refusal leaves.
        """
        ...


class Committer(Protocol):
    """What makes staged records durable: the ledger."""

    @property
    def dirty(self) -> bool:
        """Whether anything is staged that no `take` has taken."""
        ...

    @property
    def halted(self) -> bool:
        """Whether a write failed, of whoever made it: nothing that was staged and not written will be."""
        ...

    def take(self) -> Any:
        """The next batch of what is staged; all of it, unless `dirty` says that there is more."""
        ...

    def write(self, batch: Any) -> None:
        """Make it durable; called in the flush thread, one batch at a time. Raises on any failure."""
        ...

    def finish(self, batch: Any, error: BaseException | None) -> object:
        """Back in the event loop: mark the batch's receipts durable, or halt."""
        ...


class Ticket:
    """One request from its taking to its answer."""

    __slots__ = ("connection", "error", "pending", "request")

    def __init__(self, connection: Connection, request: Request) -> None:
        self.connection = connection
        self.request = request
        self.pending: Pending | None = None
        self.error: VaultdError | None = None
        """What went wrong with the group's flush."""
