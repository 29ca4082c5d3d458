"""How a request that is answered later ends when something is raised on the way: never without an answer."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vaultd.daemon.dispatch import describe
from vaultd.daemon.ops.table import Refused, stopping
from vaultd.errors import Internal, VaultdError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from vaultd.daemon.call import Call
    from vaultd.daemon.handling import Deferred

__all__ = ["answering", "begin_task"]

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
        deferred.settle(Refused(error))
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
