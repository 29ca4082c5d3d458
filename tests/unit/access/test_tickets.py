"""Admin tickets: whom they admit and when they end."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from vaultd.access.quotas import Limits
from vaultd.access.tickets import TicketTable
from vaultd.errors import Denied, Internal, Invalid

if TYPE_CHECKING:
    from tests.support.access_world import World

RANDOM = random.Random(3).randbytes


@pytest.fixture
def table() -> TicketTable:
    """An empty table."""
    return TicketTable(Limits(tickets_per_uid=3))


def test_a_ticket_serves_the_session_of_its_shell(world: World, table: TicketTable) -> None:
    """A later command from the same session and uid is admitted; other sessions and uids are not."""
    shell = world.peer(0, 40)
    ticket = table.issue(world.peer(0, 50, session=40), shell.process, slot=1, now=world.now, random=RANDOM)
    assert table.find(world.peer(0, 51, session=40), world.now) is ticket
    assert table.find(world.peer(0, 52), world.now) is None
    assert table.find(world.peer(1, 51, session=40), world.now) is None


def test_a_ticket_ends_with_its_time(world: World, table: TicketTable) -> None:
    """At its last instant it admits nobody, and the sweep reports it once."""
    shell = world.peer(0, 40)
    ticket = table.issue(world.peer(0, 50, session=40), shell.process, slot=1, now=world.now, random=RANDOM, ttl=60)
    world.advance(60)
    assert table.find(world.peer(0, 51, session=40), world.now) is None
    assert table.expire(world.now) == [ticket]
    assert table.expire(world.now) == []
    assert len(table) == 0


def test_a_ticket_ends_with_its_holder(world: World, table: TicketTable) -> None:
    """The shell's end ends it; a reused pid, and another shell, do not."""
    shell = world.peer(0, 40)
    ticket = table.issue(world.peer(0, 50, session=40), shell.process, slot=1, now=world.now, random=RANDOM)
    assert table.holder_died(shell.process._replace(start_time=1)) == []
    assert table.holder_died(shell.process) == [ticket]
    assert table.find(world.peer(0, 51, session=40), world.now) is None


def test_a_narrow_ticket_serves_its_command_and_what_that_starts(world: World, table: TicketTable) -> None:
    """In the same session, a process that does not descend from the command is not admitted."""
    command = world.peer(0, 50, session=40)
    ticket = table.issue(command, command.process, slot=1, now=world.now, random=RANDOM, narrow=True)
    child = world.peer(0, 60, session=40)
    assert table.find(command, world.now) is ticket
    assert table.find(child, world.now) is None
    assert table.find(child, world.now, [world.peer(0, 55).process, command.process]) is ticket
    with pytest.raises(Internal):
        table.issue(child, command.process, slot=1, now=world.now, random=RANDOM, narrow=True)


@pytest.mark.parametrize(("pid", "session"), [(1, 1), (50, 0), (1, 0)])
def test_a_narrow_ticket_needs_no_session(world: World, table: TicketTable, pid: int, session: int) -> None:
    """A command whose session is out of sight, or that is PID 1, has one for itself and what it starts, nobody else."""
    command = world.peer(0, pid, session=session)
    ticket = table.issue(command, command.process, slot=1, now=world.now, random=RANDOM, narrow=True)
    child = world.peer(0, 60, session=session)
    assert table.find(command, world.now) is ticket
    assert table.find(child, world.now, [command.process]) is ticket
    assert table.find(child, world.now, [world.peer(0, 51, session=session).process]) is None
    assert table.find(world.peer(7, 60, session=session), world.now, [command.process]) is None
    assert table.logout(command) == [ticket]


@pytest.mark.parametrize(("pid", "session"), [(1, 40), (40, 41), (40, 0)])
def test_no_ticket_is_bound_to_what_will_not_do(world: World, table: TicketTable, pid: int, session: int) -> None:
    """PID 1, a parent in another session, and sessions out of sight get none, and a hint what to do."""
    holder = world.peer(0, pid, session=session).process
    peer = world.peer(0, 50, session=0 if session == 0 else 40)
    with pytest.raises(Denied) as error:
        table.issue(peer, holder, slot=1, now=world.now, random=RANDOM)
    assert "vaultctl login" in error.value.hint


@pytest.mark.parametrize("ttl", [0, -1, 13 * 3600])
def test_a_tickets_ttl_is_bounded(world: World, table: TicketTable, ttl: int) -> None:
    """Zero, negative and more than half a day are Invalid."""
    shell = world.peer(0, 40)
    with pytest.raises(Invalid):
        table.issue(world.peer(0, 50, session=40), shell.process, slot=1, now=world.now, random=RANDOM, ttl=ttl)


def test_logging_out_ends_the_sessions_tickets(world: World, table: TicketTable) -> None:
    """Tickets of the caller's session end, those of another session stay."""
    tickets = [
        table.issue(world.peer(0, 50, session=s), world.peer(0, s).process, slot=1, now=world.now, random=RANDOM)
        for s in (40, 41)
    ]
    assert table.logout(world.peer(0, 60, session=40)) == [tickets[0]]
    assert table.logout(world.peer(7, 60, session=41)) == []
    assert table.end_all() == [tickets[1]]
    assert len(table) == 0


def test_a_uid_has_few_tickets(world: World, table: TicketTable) -> None:
    """One over the cap ends the uid's oldest, and no other uid's."""
    kept = table.issue(world.peer(7, 50, session=90), world.peer(7, 90).process, slot=1, now=world.now, random=RANDOM)
    for session in range(40, 45):
        shell = world.peer(0, session).process
        table.issue(world.peer(0, 50, session=session), shell, slot=1, now=world.now, random=RANDOM)
    admitted = [table.find(world.peer(0, 60, session=s), world.now) is not None for s in range(40, 45)]
    assert admitted == [False, False, True, True, True]
    assert table.find(world.peer(7, 60, session=90), world.now) is kept


def test_tickets_end_with_their_slot(world: World, table: TicketTable) -> None:
    """Removing a slot ends what its secret gave to others; the remover's own ticket, and other slots', stay."""
    shells = [world.peer(0, pid) for pid in (40, 41)] + [world.peer(1, 42)]
    mine, theirs, other = (
        table.issue(shell, shell.process, slot=slot, now=world.now, random=RANDOM)
        for shell, slot in zip(shells, (1, 1, 2), strict=True)
    )
    assert table.slot_removed(1, but=mine) == [theirs]
    assert table.slot_removed(1) == [mine]
    assert table.find(shells[2], world.now) is other
