"""unseal, seal, login, logout and the key slots: whatever shows, adds or drops keys."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from vaultd.access.denials import denied
from vaultd.access.durations import format_duration
from vaultd.access.throttle import throttled
from vaultd.access.tickets import DEFAULT_TICKET_TTL, LONGEST_TICKET_TTL
from vaultd.audit.body import Event
from vaultd.crypto.memory import SecretBytes
from vaultd.crypto.slots import SlotKind
from vaultd.daemon.handling import Deferred
from vaultd.daemon.namespaces import parent_inside
from vaultd.daemon.ops.later import answering
from vaultd.daemon.ops.rotation import begun, drive, root_receipt
from vaultd.daemon.ops.table import Done, Stopped, operation, stopping
from vaultd.errors import Busy, Denied, Invalid, Sealed, Uninitialised, VaultdError, WrongSecret
from vaultd.names import tenant_name
from vaultd.vault.owed import Debt

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from vaultd.access.tickets import Ticket
    from vaultd.crypto.memory import Key
    from vaultd.crypto.slots import Slot
    from vaultd.daemon.call import Call
    from vaultd.daemon.handling import Pending
    from vaultd.daemon.processes import HeldProcess

_log = logging.getLogger(__name__)

_KINDS: Final = {
    "passphrase": SlotKind.PASSPHRASE,
    "key-file": SlotKind.KEY_FILE,
    "credential": SlotKind.CREDENTIAL,
}
_WORDS: Final = {kind: word for word, kind in _KINDS.items()}

_PASSERS_BY: Final = frozenset(
    {"doas", "env", "pipenv", "pkexec", "poetry", "runuser", "setpriv", "su", "sudo", "timeout", "uv"}
)
"""Programs that stand between a shell and one command, and end with it: a ticket bound to one would be gone at once."""


def _require_admin_uid(call: Call) -> None:
    if call.run is not None or call.facts.uid not in call.engine.admin_uids:
        raise denied()


def _ticket_ttl(call: Call) -> int:
    ttl: int = call.keys.get("ttl", DEFAULT_TICKET_TTL)
    if not 0 < ttl <= LONGEST_TICKET_TTL:
        longest = format_duration(LONGEST_TICKET_TTL)
        raise Invalid(f"a ticket's ttl of {ttl} s is not between 1s and {longest}", "leave it out for 15m")
    return ttl


def _holder(call: Call) -> HeldProcess:
    """The process that a ticket is to be bound to, held.

    Raises:
        Denied: it is one that will not stay, or the caller is inside a run.
    """
    if call.engine.is_inside_run(call.connection):
        raise denied()
    peer = call.connection.peer_process()
    if call.keys.get("bind", "parent") == "self":
        return peer.dup()
    hint = "run it from a shell that stays, or give the command to it: vaultctl login -- COMMAND"
    try:
        parent = parent_inside(peer, call.engine.kernel, hint)
    except ProcessLookupError as error:
        raise Denied("the process that connected has ended", "connect from a process that stays") from error
    if parent is None or parent.pid <= 1:
        raise Denied("the caller's parent is no shell that a ticket could be bound to", hint)
    if parent.comm in _PASSERS_BY:
        parent.close()
        raise Denied(f"the caller's parent is {parent.comm}, which ends with this command", hint)
    return parent


def _issue(call: Call, holder: HeldProcess, slot: Slot, ttl: int) -> Ticket:
    """A ticket bound to `holder`, which is taken over."""
    engine = call.engine
    try:
        ticket = engine.tickets.issue(
            call.facts,
            holder.identity,
            slot=slot.id,
            now=engine.now(),
            random=engine.random,
            ttl=ttl,
            narrow=call.keys.get("bind") == "self",
        )
    except BaseException:
        holder.close()
        raise
    engine.watch_holder(ticket, holder)  # one that has ended meanwhile ends the ticket at once
    return ticket


def _prove(
    call: Call,
    proven: Callable[[Slot, Key], Pending],
    *,
    secret: SecretBytes | None = None,
    then: Callable[[], object] = lambda: None,
    done: Callable[[], None] = lambda: None,
) -> Deferred:
    """Derive the slot's key in the worker thread, then go on with `proven` in the event loop.

    Args:
        secret: what is tried, wiped afterwards; the request's tail when left out.
        then: more slow work for the worker thread, once the secret has proved right.
        done: called when the thread needs nothing of the caller's any more, whatever came of it.

    One derivation at a time, a short queue, one try of a uid at once, and a delay that grows with its failures:
    guessing gets slow for the guesser, and nobody is locked out.

    Raises:
        Busy: the queue is full.
        Throttled: this uid has a try under way.
    """
    engine, uid = call.engine, call.facts.uid
    ledger = engine.vaults.ledger
    if ledger is None:
        raise Uninitialised("there is no vault yet", "make one: vaultctl init")
    if engine.deriving.get(uid):
        raise throttled(10**9)
    if engine.derivations >= engine.config.limits.unseal_queue:
        raise Busy("other tries of slot secrets are under way", "try again in a moment")
    deferred = Deferred()
    kind = _KINDS[call.keys["kind"]]
    given = SecretBytes.copy_of(call.tail) if secret is None else secret
    wait = engine.delays.wait(uid, call.now.boot)
    engine.derivations += 1
    engine.deriving[uid] = 1

    def derive() -> tuple[Slot, Key]:
        slot, key = ledger.derive(given, kind)
        try:
            then()
        except BaseException:
            key.wipe()
            raise
        return slot, key

    def begin() -> None:
        engine.waiting.pop(uid, None)
        future = engine.worker.submit(derive)
        future.add_done_callback(lambda ended: engine.loop.call_soon_threadsafe(finished, ended))

    def finished(future: Future[tuple[Slot, Key]]) -> None:
        engine.derivations -= 1
        del engine.deriving[uid]
        given.wipe()
        done()
        # What it proves may load the vault's keys, which must not meet a flush.
        engine.vaults.when_landed(lambda: answer(future))

    def answer(future: Future[tuple[Slot, Key]]) -> None:
        with answering(call, deferred):
            deferred.settle(_settled(call, future, proven))

    def give_up() -> None:
        timer.cancel()
        given.wipe()
        done()
        deferred.settle(stopping())

    if wait:
        timer = engine.loop.call_later(wait / 1e9, begin)
        engine.waiting[uid] = give_up
    else:
        begin()
    return deferred


def _settled(call: Call, future: Future[tuple[Slot, Key]], proven: Callable[[Slot, Key], Pending]) -> Pending:
    engine, uid = call.engine, call.facts.uid
    try:
        slot, key = future.result()
    except WrongSecret:
        engine.delays.failed(uid, engine.clock.boot())
        raise
    with key:
        engine.delays.succeeded(uid)
        if all(slot.id != one.id for one in engine.vaults.require().ledger.slots):
            raise WrongSecret("the key slot was removed meanwhile", "use another slot's secret")
        return proven(slot, key)


@operation("unseal")
def unseal(call: Call) -> Pending | Deferred:
    """Load the vault's keys, or lift one tenant's seal; both also log the caller in."""
    engine = call.engine
    engine.vaults.look()
    if engine.vaults.ledger is None:
        raise Uninitialised("there is no vault yet", "make one: vaultctl init")
    _require_admin_uid(call)
    ttl = _ticket_ttl(call)
    tenant = tenant_name(call.keys["tenant"]) if "tenant" in call.keys else None
    if tenant is not None:
        engine.unsealed()

    def proven(slot: Slot, key: Key) -> Pending:
        holder = _holder(call)
        actor = engine.actor(call.connection, "admin", None, slot.id)
        keys: dict[str, Any] = {"slot": slot.id, "expires_in": ttl}
        try:
            barrier = engine.vaults.require()
            if tenant is not None:
                call.staged(engine.unsealed().unseal_tenant(tenant, actor=actor))
            elif barrier.sealed:
                report = barrier.unseal(slot, key, actor=actor)
                engine.reopened()
                keys["recovered"] = dict(report.public())
        except BaseException:
            holder.close()
            raise
        _logged_in(call, holder, slot, ttl)
        return Done(keys)

    return _prove(call, proven)


def _logged_in(call: Call, holder: HeldProcess, slot: Slot, ttl: int) -> None:
    """Issue the ticket and record for whom."""
    ticket = _issue(call, holder, slot, ttl)
    actor = call.engine.actor(call.connection, "admin", None, slot.id)
    public = {"ticket_for": ticket.holder.pid, "seconds": ttl}
    call.record(None, Event("login", "ok", actor, public=public))


@operation("login")
def login(call: Call) -> Pending | Deferred:
    """Prove a slot's secret and be an admin for a while."""
    _require_admin_uid(call)
    ttl = _ticket_ttl(call)
    if call.engine.vaults.state == "sealed":
        raise Sealed("the vault is sealed", "vaultctl unseal: it logs you in as well")

    def proven(slot: Slot, _key: Key) -> Pending:
        _logged_in(call, _holder(call), slot, ttl)
        return Done({"slot": slot.id, "expires_in": ttl})

    return _prove(call, proven)


@operation("logout")
def logout(call: Call) -> Pending:
    """End the tickets of this uid and session."""
    _require_admin_uid(call)
    ended = call.engine.tickets.logout(call.facts)
    call.engine.forget_tickets(ended)
    call.record(None, call.event(total=len(ended)))
    return Done({"ended": len(ended)})


@operation("seal")
def seal(call: Call) -> Pending | Deferred:
    """Drop keys: an admin with a ticket may, and a responder without one."""
    engine = call.engine
    if not call.is_responder:
        call.require_admin()
    if "tenant" in call.keys:
        return _seal_tenant(call, tenant_name(call.keys["tenant"]))
    barrier = engine.vaults.require()
    deferred = Deferred()

    def landed() -> None:
        # No flush is under way now: what was staged goes out with the seal's own, and is answered after it.
        ended = engine.drop_everything("vault-sealed")
        engine.refusals.drain()
        actor, recorded = call.actor, False
        if ended:
            event = Event("run.ended", "ok", actor, reason="vault-sealed", total=len(ended.runs))
            engine.try_record(event, ended=ended.runs)
        try:
            recorded = barrier.seal(actor=actor)
        except VaultdError as error:
            _log.error("sealed, but the last flush failed: %s", error.message)
        if not recorded:
            engine.owe(Debt(Event("vault.seal", "ok", actor), call.now.wall))
        engine.owed.close()
        call.recorded = True
        engine.pushes.vault_sealed()
        deferred.settle(Stopped(recorded=recorded, owed=engine.owed))

    engine.vaults.when_landed(landed)
    return deferred


def _seal_tenant(call: Call, name: str) -> Pending:
    engine = call.engine
    barrier = engine.vaults.require()
    if barrier.sealed:
        raise Sealed("the vault is sealed, and with it every tenant", "vaultctl unseal")
    uid = barrier.uid(name)
    ended = engine.book.revoke_tenant(uid, call.now)
    engine.ended(ended, "tenant-sealed", quiet=True)
    receipt = barrier.seal_tenant(uid, actor=call.actor)
    debt = Debt(Event("tenant.seal", "ok", call.actor), call.now.wall, uid, seals=True)
    if receipt is None:
        engine.owe(debt)
    else:
        engine.owed.staged(receipt, debt)
    call.recorded = True
    if ended:
        event = call.event(
            reason="tenant-sealed", total=len(ended.leases), extra={"runs": [r.id for r in ended.runs[:256]]}
        )
        engine.try_record(event._replace(kind="lease.revoke"), uid, ended=ended.runs)
    engine.forget_grants(uid)
    engine.pushes.tenant_sealed(uid, name)
    return Stopped(recorded=receipt is not None, owed=engine.owed)


@operation("slot.add")
def slot_add(call: Call) -> Pending | Deferred:
    """A further way to open the vault; deriving its key takes the worker's time as a try does."""
    call.require_admin()
    engine = call.engine
    barrier = call.barrier
    if engine.derivations >= engine.config.limits.unseal_queue:
        raise Busy("slot secrets are being derived", "try again in a moment")
    kind = _KINDS[call.keys["kind"]]
    secret = SecretBytes.copy_of(call.tail)
    deferred = Deferred()
    make = barrier.slot_maker(secret, kind, call.keys.get("label", ""), profile=engine.profile)
    engine.derivations += 1
    future = engine.worker.submit(make)

    def finished(done: Future[Slot]) -> None:
        engine.derivations -= 1
        secret.wipe()
        with answering(call, deferred):
            slot = done.result()
            call.staged(engine.unsealed().add_slot(slot, actor=call.actor))
            deferred.settle(Done({"slot": slot.id}))

    future.add_done_callback(lambda done: engine.loop.call_soon_threadsafe(finished, done))
    return deferred


@operation("slot.list")
def slot_list(call: Call) -> Pending:
    """The slots, without anything that opens them."""
    call.require_admin()
    items = [
        {
            "slot": slot.id,
            "kind": _WORDS[slot.kind],
            "label": slot.label,
            "created": slot.created,
        }
        for slot in call.barrier.ledger.slots
    ]
    call.record(None, call.event())
    return Done({"items": items})


def _end_tickets(call: Call) -> None:
    """Whoever a slot's secret was taken from may have logged in with it just before."""
    engine = call.engine
    engine.forget_tickets(engine.tickets.slot_removed(call.keys["slot"], but=call.ticket))


@operation("slot.passwd")
def slot_passwd(call: Call) -> Pending | Deferred:
    """Another passphrase for a slot, against the secret of an existing one: a ticket alone does not change a lock."""
    call.require_admin()
    engine, old = call.engine, call.keys["old"]
    with memoryview(call.tail) as tail:
        fresh = SecretBytes.copy_of(tail[old:])
        try:
            before, make = call.barrier.passwd_maker(call.keys["slot"], fresh, profile=engine.profile)
            proof = SecretBytes.copy_of(tail[:old])
        except BaseException:
            fresh.wipe()
            raise
    made: list[Slot] = []

    def proven(slot: Slot, _key: Key) -> Pending:
        call.staged(engine.unsealed().change_slot(before, made[0], proved=slot.id, actor=call.actor))
        _end_tickets(call)
        return Done()

    try:
        return _prove(call, proven, secret=proof, then=lambda: made.append(make()), done=fresh.wipe)
    except BaseException:
        proof.wipe()
        fresh.wipe()
        raise


@operation("slot.remove")
def slot_remove(call: Call) -> Pending | Deferred:
    """Revoke a slot; rotating the root makes that hold against whoever kept a copy of it."""
    call.require_admin()
    barrier, slot = call.barrier, call.keys["slot"]
    # Begun before anything is removed: a rotation under way is a conflict, and then nothing has happened yet. Slots are
    # boxed anew in its last slice, without this one.
    slices = begun(barrier.rotate_root(actor=call.actor)) if call.keys.get("rotate_root", False) else None
    try:
        call.staged(barrier.remove_slot(slot, actor=call.actor))
    except BaseException:
        if slices is not None:
            slices.close()
        raise
    _end_tickets(call)
    if slices is None:
        return Done()
    return drive(call, slices, lambda rotated: Done({"receipt": root_receipt(rotated)}))
