"""Who is confined where processes are hard to tell: then they are, and what nobody is left in is forgotten."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.support.access_world import World
from tests.support.serving import Paused
from vaultd.daemon import confinement, processes
from vaultd.daemon.confinement import Confinement
from vaultd.daemon.kernel import Kernel
from vaultd.daemon.processes import lineage, number_is_anothers, open_process, read_stat, sessions
from vaultd.errors import Denied

if TYPE_CHECKING:
    from vaultd.daemon.processes import HeldProcess


@pytest.fixture
def kernel() -> Kernel:
    kernel = Kernel()
    kernel.probe()
    return kernel


def test_lineage_that_cannot_be_told(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lineage is whole when it was walked to its end; cut short by depth it stays so, by an end it is tried again."""
    with open_process(os.getpid(), kernel) as me:
        whole = lineage(lambda: me, kernel)
        assert (whole.whole, whole.settled) == (True, True)
        assert whole.processes[0] == me.identity
        assert whole.processes[1].pid == os.getppid()
        monkeypatch.setattr(processes, "MAX_ANCESTORS", 0)
        cut = lineage(lambda: me, kernel)
        assert (cut.whole, cut.settled) == (False, True)
        monkeypatch.setattr(processes, "MAX_ANCESTORS", 1)
        walked: list[int] = []

        def once_ended() -> HeldProcess:
            walked.append(1)
            if len(walked) < 3:
                raise ProcessLookupError("an ancestor ended")
            return me

        assert lineage(once_ended, kernel).settled

    def ended() -> HeldProcess:
        raise Denied("the process that connected has ended", "")

    lost = lineage(ended, kernel)
    assert (lost.whole, lost.settled) == (False, False)


def test_numbers_and_sessions() -> None:
    """A session with a process in it is found; a number is another's when another process has it now."""
    with Paused() as child:
        stat = read_stat(child.pid)
        process = processes.Process(child.pid, stat.start_time, None, stat.session)
        assert os.getsid(0) in sessions()
        assert not number_is_anothers(process)
        assert number_is_anothers(process._replace(start_time=stat.start_time + 1))
    assert not number_is_anothers(process)


def test_sessions_that_nobody_is_left_in(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once there are many, sessions without anybody in them are forgotten, and others kept."""
    monkeypatch.setattr(confinement, "_MOST_SESSIONS", 2)
    world = World()
    here = os.getsid(0)
    with Paused() as child:
        empty = child.pid  # a number that no session has
    for pid in (here, empty):
        leader = world.peer(1000, pid, start_time=read_stat(here).start_time)
        world.open(peer=leader, confined=True)
        world.book.anchor_died(leader.process)
    runs = world.book.runs
    assert set(runs.left) == {here, empty}
    Confinement(runs, kernel).sweep()
    assert set(runs.left) == {here}
