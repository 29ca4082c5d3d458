"""Being told of deaths: once each, by everybody who asked, at the cost of one descriptor a process."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

from tests.support.serving import Paused
from vaultd.daemon.anchors import Watcher
from vaultd.daemon.kernel import Kernel
from vaultd.daemon.processes import open_process

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


@pytest.fixture
def kernel() -> Kernel:
    kernel = Kernel()
    kernel.probe()
    return kernel


def watching(test: Callable[[Watcher], Awaitable[None]]) -> None:
    """Run `test` with a watcher, and see that no descriptor is left."""

    async def run() -> None:
        before = set(os.listdir("/proc/self/fd"))
        watcher = Watcher(asyncio.get_running_loop())
        await test(watcher)
        watcher.close()
        assert len(watcher) == 0
        assert set(os.listdir("/proc/self/fd")) == before

    asyncio.run(run())


def test_everybody_hears_of_it_once(kernel: Kernel) -> None:
    """Two who wait for one process share a descriptor and are both called, once."""

    async def test(watcher: Watcher) -> None:
        heard: list[str] = []
        ended = asyncio.Event()
        with Paused() as child:
            first = watcher.watch(open_process(child.pid, kernel), lambda: heard.append("first"))
            watcher.watch(open_process(child.pid, kernel), lambda: (heard.append("second"), ended.set()))
            assert len(watcher) == 1
            assert first.is_alive()
            assert first.process is not None
        assert not first.is_alive()
        await asyncio.wait_for(ended.wait(), 10)
        await asyncio.sleep(0)
        assert sorted(heard) == ["first", "second"]
        assert len(watcher) == 0
        assert first.process is None
        first.cancel()

    watching(test)


def test_already_dead(kernel: Kernel) -> None:
    """Watching a process that has ended calls back soon, and not at once."""

    async def test(watcher: Watcher) -> None:
        with Paused() as child:
            process = open_process(child.pid, kernel)
        ended = asyncio.Event()
        watcher.watch(process, ended.set)
        assert not ended.is_set()
        await asyncio.wait_for(ended.wait(), 10)

    watching(test)


def test_cancelled(kernel: Kernel) -> None:
    """Who has cancelled is not called, even in the turn of the death itself; the last one frees the descriptor."""

    async def test(watcher: Watcher) -> None:
        heard: list[str] = []
        ended = asyncio.Event()
        with Paused() as child, Paused() as other:
            process = open_process(child.pid, kernel)
            watches = [watcher.watch(process.dup(), lambda: heard.append("cancelled")) for _ in range(3)]
            process.close()
            alone = watcher.watch(open_process(other.pid, kernel), lambda: heard.append("alone"))
            alone.cancel()
            assert len(watcher) == 1

            def first() -> None:
                for watch in watches:
                    watch.cancel()
                ended.set()

            watches[0].cancel()
            watcher.watch(open_process(child.pid, kernel), first)
            watches[1].cancel()
            watches[2].cancel()
        await asyncio.wait_for(ended.wait(), 10)
        assert heard == []

    watching(test)


def test_callback_that_cancels_others(kernel: Kernel) -> None:
    """Whichever is called first cancels half of the others, and the other half still hear of the death."""

    async def test(watcher: Watcher) -> None:
        heard: list[int] = []
        ended = asyncio.Event()
        with Paused() as child:
            some = []
            for number in range(20):
                watch = watcher.watch(
                    open_process(child.pid, kernel),
                    lambda number=number: (heard.append(number), [one.cancel() for one in some], ended.set()),
                )
                if number % 2:
                    some.append(watch)
        await asyncio.wait_for(ended.wait(), 10)
        assert set(heard) >= set(range(0, 20, 2))
        assert len(heard) <= 11

    watching(test)


def test_bug_in_one_callback(kernel: Kernel, caplog: pytest.LogCaptureFixture) -> None:
    """A callback that raises does not keep the others from hearing of the death."""

    async def test(watcher: Watcher) -> None:
        heard = asyncio.Event()

        def broken() -> None:
            raise ZeroDivisionError

        with Paused() as child:
            for callback in (broken, heard.set, broken):
                watcher.watch(open_process(child.pid, kernel), callback)
        await asyncio.wait_for(heard.wait(), 10)

    watching(test)
    assert "the others are still called" in caplog.text
