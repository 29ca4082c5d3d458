"""One request on its way through: who asks, what about, and the records of it."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from vaultd.access.decide import NO_USAGE, Decision, Request, decide
from vaultd.access.denials import denied
from vaultd.audit.body import Actor, Event
from vaultd.errors import Denied, Halted, Internal, Invalid, NotFound, Sealed, VaultdError
from vaultd.names import tenant_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vaultd.access.instants import Now
    from vaultd.access.run import Run
    from vaultd.access.services import Service
    from vaultd.access.tickets import Ticket
    from vaultd.audit.receipt import Receipt
    from vaultd.daemon.connection import Connection
    from vaultd.daemon.engine import Engine
    from vaultd.protocol.messages import Request as WireRequest
    from vaultd.vault.barrier import Barrier

__all__ = ["Call"]

_NO_TENANT: Final = b"\xff" * 16
"""A uid that no tenant has."""


class Call:
    """One request, its caller and its records.

    Attributes:
        engine: everything that lives as long as the daemon.
        connection: where it came from; `facts` are the peer's.
        op, keys, tail: the request; the tail is wiped by the dispatcher when it was answered.
        now: the instant of the decision, one for the whole of it.
        token: the run's token that came with it.
        run: its run, once it was found to be this peer's.
        ticket: the admin ticket that the peer may use, looked up when first asked for.
        recorded: whether a record of this request is staged.
    """

    __slots__ = (
        "_actor",
        "_admitted",
        "_service",
        "_ticket",
        "connection",
        "engine",
        "keys",
        "now",
        "op",
        "recorded",
        "run",
        "tail",
        "token",
    )

    def __init__(self, engine: Engine, connection: Connection, request: WireRequest, now: Now) -> None:
        self.engine = engine
        self.connection = connection
        self.op = request.op
        self.keys: dict[str, Any] = request.keys
        self.tail = request.tail
        self.now = now
        self.token = request.run
        self.run: Run | None = None
        self.recorded = False
        self._admitted: bytes | None = None
        self._service: Service | None = None
        self._ticket: Ticket | bool | None = False
        self._actor: Actor | None = None

    # -- who asks

    def look_again(self) -> None:
        """Decide from here on as of now: time has passed since the request came."""
        self.now = self.engine.now()
        self._ticket = False
        self._service = self._actor = None

    @property
    def facts(self) -> Any:
        """The peer, as the kernel described it when it connected."""
        return self.connection.facts

    @property
    def barrier(self) -> Barrier:
        """The vault. Raises `Uninitialised` or `Sealed`."""
        return self.engine.unsealed()

    @property
    def ticket(self) -> Ticket | None:
        """The admin ticket that this peer may use now; never inside a run."""
        if self._ticket is False:
            self._ticket = self.engine.ticket_of(self)
        return self._ticket  # type: ignore[return-value]  # False was replaced

    @property
    def is_admin(self) -> bool:
        """Whether the peer is an admin with a ticket."""
        return self.ticket is not None

    @property
    def is_responder(self) -> bool:
        """Whether the peer may stop harm without a ticket; never inside a run."""
        if self.run is not None or self.facts.uid not in self.engine.config.responder_uids:
            return False
        return not self.engine.is_inside_run(self.connection)

    def service(self, named: str | None = None) -> Service:
        """The service that the peer is.

        Raises:
            Denied: it is none, or not the one named, or it is inside a run, where nothing but the run counts.
            AmbiguousService: it is several and names none.
        """
        if self._service is None:
            if self.run is not None or self.engine.is_inside_run(self.connection):
                raise denied()
            found = self.engine.services.find(self.facts, named)
            if found is None:
                raise denied()
            self._service = found
            self._actor = None
        return self._service

    @property
    def actor(self) -> Actor:
        """Who acts, for the record: the most specific thing known by now."""
        if self._actor is None:
            self._actor = self._make_actor()
        return self._actor

    def _make_actor(self) -> Actor:
        service, slot = None, None
        if self.run is not None:
            kind, service = "run", str(self.run.service)
        elif self._service is not None:
            kind, service = "service", str(self._service.name)
        elif self._ticket:
            kind, slot = "admin", self._ticket.slot  # type: ignore[union-attr]  # truthy: it is a ticket
        elif self.is_responder:
            kind = "responder"
        else:
            kind = "peer"
        # One object a connection and role: the record's text of it is made once.
        return self.engine.actor(self.connection, kind, service, slot)

    # -- what is allowed

    def require_admin(self) -> None:
        """Raises `Denied` unless the peer is an admin with a ticket."""
        if self.is_admin:
            return
        if self.facts.uid in self.engine.admin_uids and self.run is None:
            self.engine.unsealed()  # a sealed vault has no tickets: that is what an admin needs to hear
            raise Denied("this needs an admin ticket", "prove a slot's secret first: vaultctl login")
        raise denied()

    def allowed(self, action: str, tenant: object, secret: str | None = None) -> bytes:
        """The uid of the tenant, when the caller may do `action` there: an admin, or a service with a grant for it.

        Args:
            action: a word of a grant's `can`.
            tenant: its name, as asked.
            secret: whose action it is about; None for the tenant as a whole.

        Raises:
            NotFound: told to admins only.
            Denied: everybody else, whatever the reason.
            Sealed, Closed: the tenant is, told to those who have a grant there.
        """
        name = tenant_name(tenant)
        if self.is_admin:
            return self.barrier.uid(name)
        try:
            return self._granted(action, name, secret)
        except Denied:
            if self.facts.uid in self.engine.admin_uids:
                self.require_admin()  # an admin who is some service as well hears what is missing: the ticket
            raise

    def _granted(self, action: str, name: str, secret: str | None) -> bytes:
        uid, service = self.reach(name, secret)
        grants = self.engine.grants(uid)
        candidates = grants.candidates(service.name, secret) if secret is not None else grants.of_service(service.name)
        decision = decide(Request(action, service.name, secret), candidates, None, NO_USAGE, self.now)
        if not decision.allowed:
            self.refused(decision, uid, secret=secret)
        self._admitted = uid
        return uid

    def reach(self, name: str, secret: str | None = None, named: str | None = None) -> tuple[bytes, Service]:
        """The tenant's uid and the peer's service, when that has any grant there; else the constant denial.

        A tenant that is foreign and one that does not exist take the same way and leave the same record: in the
        system's trail, never in the other tenant's. No file of the tenant is touched.
        """
        barrier = self.barrier
        service = self._service_for_tenant(name, secret, named)
        uid = self.engine.find_tenant(name)
        # Asked for one that does not exist as well: who has the time to ask often must not see the difference either.
        linked = barrier.linked(service.name, uid or _NO_TENANT)
        if uid is None or not linked:
            self.deny("no grant of this service at this tenant", None, tenant=name, secret=secret)
            raise denied()
        return uid, service

    def _service_for_tenant(self, name: str, secret: str | None, named: str | None) -> Service:
        try:
            return self.service(named)
        except Denied:
            self.deny("the peer is no such service", None, tenant=name, secret=secret)
            raise

    def refused(self, decision: Decision, uid: bytes, **facts: Any) -> None:
        """Record a refusal in the tenant's trail and raise what the caller is told."""
        self.deny(decision.reason, uid, grant=decision.grant.id if decision.grant is not None else None, **facts)
        raise decision.error()

    # -- records

    def event(self, outcome: Any = "ok", **facts: Any) -> Event:
        """An event of this operation by this caller."""
        if self.run is not None:
            facts.setdefault("run", self.run.id)
        return Event(self.op, outcome, self.actor, **facts)

    def record(
        self, uid: bytes | None, event: Event, *, keep: Sequence[Run] = (), charged: Sequence[Run] = ()
    ) -> Receipt:
        """Stage a record in the tenant's trail, or in the system's with None; the rest as in `Engine.record`."""
        receipt = self.engine.record(event, uid, keep=keep, charged=charged)
        self.recorded = True
        return receipt

    def staged(self, receipt: Receipt) -> None:
        """A verb of the vault has staged the record of this request itself."""
        if receipt is None:
            raise Internal("a verb of the vault gave no receipt")
        self.recorded = True

    def counted(self) -> None:
        """Count this request, whose answer tells a caller of itself alone: a record each would let anybody who can
        connect fill the disk."""
        self.engine.refusals.count(self.op, self.facts.uid, self.now.boot)
        self.recorded = True

    def deny(self, reason: str, uid: bytes | None, *, grant: str | None = None, **facts: Any) -> None:
        """Record a denial, or count it when this peer has had enough records of its own in this minute."""
        trail = self.run.tenant if self.run is not None else uid
        self.recorded = True
        if not self.engine.refusals.admit(self, trail):
            return
        if grant is not None:
            facts["extra"] = {**facts.get("extra", {}), "grant": grant}
        if self.run is not None and "tenant" in facts:
            # In the run's own tenant's trail: what its agent asked for.
            facts["extra"] = {**facts.get("extra", {}), "asked": facts.pop("tenant")}
        self.engine.record(self.event("denied", reason=reason, **facts), trail)

    def failed(self, error: VaultdError) -> None:
        """Record that this request was refused with `error`, when nothing has been recorded of it yet."""
        if self.recorded or isinstance(error, Halted):
            return
        outcome = "denied" if isinstance(error, (Denied, NotFound, Sealed)) else "failed"
        self.recorded = True
        tenant = self.keys.get("tenant")
        secret = self.keys.get("secret")
        # What went wrong for somebody who may act at a tenant belongs to that tenant.
        trail = self.run.tenant if self.run is not None else self._admitted
        if self._ticket and tenant is not None:
            # For an admin, the name may be what went wrong.
            with suppress(Invalid):
                trail = self.engine.find_tenant(tenant_name(tenant))
        if trail is not None and not self.engine.has_trail(trail):
            trail = None  # the tenant, or every key, went while this request waited for something
        if self.engine.refusals.admit(self, trail):
            facts: dict[str, Any] = {}
            if type(tenant) is str and trail is None:
                facts["tenant"] = tenant[:64]
            if type(secret) is str:
                facts["secret"] = secret[:255]
            # The very error may be why no record can be written: the refusal is answered all the same.
            with suppress(Halted):
                self.engine.record(self.event(outcome, reason=error.code, **facts), trail)
