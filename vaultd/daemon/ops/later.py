"""How a request that is answered later ends when something is raised on the way: never without an answer."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vaultd.access.denials import denied
from vaultd.daemon.dispatch import describe
from vaultd.daemon.handling import Deferred
from vaultd.daemon.ops.table import Refused, stopping
from vaultd.errors import Internal, NotFound, VaultdError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator

    from vaultd.audit.receipt import Receipt
    from vaultd.daemon.call import Call
    from vaultd.daemon.engine import Engine
    from vaultd.daemon.handling import Pending

__all__ = ["answering", "begin_task", "durable", "later"]

_log = logging.getLogger(__name__)


@contextmanager
def answering(call: Call, deferred: Deferred) -> Iterator[None]:
    """Settle `deferred` with whatever is raised within: a refusal, the daemon's end, or a bug (logged, `internal`).

    What succeeds settles it itself, as the last thing it does. A task that is cancelled goes on ending.
    """
    try:
        yield
    except VaultdError as error:
        call.failed(error)
        # As for what is raised at once: to know what is not there is to know what is.
        hidden = isinstance(error, NotFound) and not (call.is_admin or call.is_responder)
        deferred.settle(Refused(denied() if hidden else error))
    except CancelledError:  # of the worker thread's queue
        deferred.settle(stopping())
    except asyncio.CancelledError:
        deferred.settle(stopping())
        raise
    except Exception as error:  # noqa: BLE001  a bug must not leave the caller without an answer
        _log.error("a bug in %s: %s", call.op, describe(error))
        deferred.settle(Refused(Internal("an unexpected error in the daemon", "its log says where; please report it")))


def begin_task(call: Call, work: Coroutine[None, None, None]) -> None:
    """Run `work` in the event loop, held by the engine until it ends."""
    tasks = call.engine.tasks
    task = call.engine.loop.create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)


def later(call: Call, work: Callable[[], Awaitable[Pending]]) -> Deferred:
    """Answer `call` with what `work` comes to, in a task that is let end by itself when the daemon stops."""
    deferred = Deferred()
    call.engine.workers.start(_answer(call, work, deferred))
    return deferred


async def _answer(call: Call, work: Callable[[], Awaitable[Pending]], deferred: Deferred) -> None:
    with answering(call, deferred):
        deferred.settle(await work())


async def durable(engine: Engine, receipt: Receipt) -> None:
    """Wait until a staged record is on the disk.

    Raises:
        Halted: it will never be.
        Sealed: the vault was sealed meanwhile; nothing may be released any more.
    """
    vaults = engine.vaults
    while not receipt.durable:
        engine.unsealed()
        landed = asyncio.Event()
        vaults.followers.add(landed.set)
        engine.commit_soon()
        try:
            await landed.wait()
        finally:
            vaults.followers.discard(landed.set)
