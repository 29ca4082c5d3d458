"""Admin tickets: proof that a slot's secret was shown, kept in the daemon and tied to a process and its session.

A ticket leaves nothing on disk and nothing with the admin's programs. It ends with its time, with the process that it
is bound to, and with the daemon. That process is the shell that ran `vaultctl login` (`parent`), or one command
(`self`): then only that command and what it starts may use it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vaultd.access.facts import PeerFacts, Process, same_process, same_session
from vaultd.access.ids import TICKET, Random, new_id
from vaultd.access.instants import SECOND, Now
from vaultd.errors import Denied, Internal, Invalid

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vaultd.access.quotas import Limits

__all__ = ["DEFAULT_TICKET_TTL", "LONGEST_TICKET_TTL", "Ticket", "TicketTable"]

DEFAULT_TICKET_TTL: Final = 900
LONGEST_TICKET_TTL: Final = 12 * 3600


class Ticket:
    """One admin ticket.

    Attributes:
        id: `ticket_...`, for records; it opens nothing.
        uid: the admin.
        holder: the process that it ends with.
        session: the session id that a request must come from; 0, for a narrow one, where the daemon cannot see it.
        narrow: whether only the holder and its descendants may use it (else its whole session).
        expires: boot instant, ns.
        slot: number of the key slot that was shown, for records.
    """

    __slots__ = ("expires", "holder", "id", "narrow", "session", "slot", "uid")

    def __init__(
        self, ticket_id: str, uid: int, holder: Process, *, session: int, narrow: bool, expires: int, slot: int
    ) -> None:
        self.id = ticket_id
        self.uid = uid
        self.holder = holder
        self.session = session
        self.narrow = narrow
        self.expires = expires
        self.slot = slot

    def __repr__(self) -> str:
        return f"Ticket({self.id}, uid={self.uid})"


class TicketTable:
    """All tickets, by uid; a uid has few, and issuing over the cap ends its oldest."""

    __slots__ = ("_by_uid", "_cap")

    def __init__(self, limits: Limits) -> None:
        self._cap = limits.tickets_per_uid
        self._by_uid: dict[int, list[Ticket]] = {}

    def __len__(self) -> int:
        return sum(len(tickets) for tickets in self._by_uid.values())

    def issue(
        self,
        peer: PeerFacts,
        holder: Process,
        *,
        slot: int,
        now: Now,
        random: Random,
        ttl: int | None = None,
        narrow: bool = False,
    ) -> Ticket:
        """A ticket for the peer's uid, tied to `holder` and to the session that peer and holder share.

        The caller has checked the uid and the slot's secret, and watches the holder's end.

        Args:
            peer: who proved it.
            holder: its parent, or itself.
            slot: number of the slot.
            now: the instant.
            random: for the id.
            ttl: seconds; None is 15 minutes.
            narrow: see `Ticket`.

        Raises:
            Invalid: a ttl of zero or below, or above 12 hours.
            Denied: the holder is PID 1 (an orphan's parent, which never ends), or of another session than the peer, or
                of one outside the daemon's sight; a narrow ticket needs none of this, as descent decides who uses it.
        """
        seconds = DEFAULT_TICKET_TTL if ttl is None else ttl
        if not 0 < seconds <= LONGEST_TICKET_TTL:
            raise Invalid("the ticket's ttl is not between 1s and 12h", "leave it out for 15m")
        if narrow:
            if not same_process(holder, peer.process):
                raise Internal("a narrow ticket is bound to the peer itself")
        elif peer.session == 0:
            raise Denied(
                "no process that a ticket could be bound to: the caller's session is out of the daemon's sight",
                "begin a session here (setsid --wait COMMAND), or give vaultctl login the command",
            )
        elif holder.pid <= 1 or not same_session(holder.session, peer.session):
            raise Denied(
                "no process that a ticket could be bound to",
                "run vaultctl login from a shell that stays, or give it the command: vaultctl login -- COMMAND",
            )
        mine = [ticket for ticket in self._by_uid.get(peer.uid, ()) if now.boot < ticket.expires]
        del mine[: max(0, len(mine) - self._cap + 1)]
        ticket = Ticket(
            new_id(TICKET, random),
            peer.uid,
            holder,
            session=peer.session,
            narrow=narrow,
            expires=now.boot + seconds * SECOND,
            slot=slot,
        )
        self._by_uid[peer.uid] = [*mine, ticket]
        return ticket

    def find(self, peer: PeerFacts, now: Now, lineage: Sequence[Process] = ()) -> Ticket | None:
        """The ticket that the peer may use now: of its uid, its session, and its lineage where the ticket is narrow.

        Args:
            peer: who asks.
            now: the instant.
            lineage: the peer's ancestors, as the caller could establish them; needed for narrow tickets only.
        """
        for ticket in reversed(self._by_uid.get(peer.uid, ())):
            # Only a narrow ticket has session 0, which is no session: two that are out of sight may differ. There the
            # lineage below decides alone.
            if now.boot >= ticket.expires or ticket.session != peer.session:
                continue
            if not ticket.narrow or any(same_process(ticket.holder, one) for one in (peer.process, *lineage)):
                return ticket
        return None

    def logout(self, peer: PeerFacts) -> list[Ticket]:
        """End every ticket of the peer's uid and session; those ended."""
        return self._end(peer.uid, lambda ticket: ticket.session == peer.session)

    def holder_died(self, process: Process) -> list[Ticket]:
        """End every ticket bound to this process; those ended."""
        ended: list[Ticket] = []
        for uid in list(self._by_uid):
            ended += self._end(uid, lambda ticket: same_process(ticket.holder, process))
        return ended

    def slot_removed(self, slot: int, but: Ticket | None = None) -> list[Ticket]:
        """End every ticket that was given for this slot's secret, except the remover's own; those ended."""
        ended: list[Ticket] = []
        for uid in list(self._by_uid):
            ended += self._end(uid, lambda ticket: ticket.slot == slot and ticket is not but)
        return ended

    def expire(self, now: Now) -> list[Ticket]:
        """End the tickets whose time is up; those ended."""
        ended: list[Ticket] = []
        for uid in list(self._by_uid):
            ended += self._end(uid, lambda ticket: now.boot >= ticket.expires)
        return ended

    def end_all(self) -> list[Ticket]:
        """End every ticket (the vault was sealed); those ended."""
        ended = [ticket for tickets in self._by_uid.values() for ticket in tickets]
        self._by_uid.clear()
        return ended

    def _end(self, uid: int, ends: Callable[[Ticket], bool]) -> list[Ticket]:
        tickets = self._by_uid.get(uid, [])
        ended = [ticket for ticket in tickets if ends(ticket)]
        if ended:
            kept = [ticket for ticket in tickets if ticket not in ended]
            if kept:
                self._by_uid[uid] = kept
            else:
                del self._by_uid[uid]
        return ended
