"""The real engine over a real vault in memory, asked in-process: pinned clock and ids, real processes as peers.

What is left out is the socket: requests come as the protocol's own objects, answers leave as the protocol's own bytes.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, Any

from vaultd.access.facts import PeerFacts
from vaultd.audit.body import Actor
from vaultd.clock import ManualClock
from vaultd.crypto.kdf import CHEAPEST
from vaultd.crypto.memory import SecretBytes
from vaultd.crypto.slots import SlotKind
from vaultd.daemon.anchors import Watcher
from vaultd.daemon.config import LiveConfig
from vaultd.daemon.engine import Engine
from vaultd.daemon.handling import Deferred
from vaultd.daemon.kernel import Kernel
from vaultd.daemon.processes import open_process
from vaultd.daemon.vaults import VaultHolder
from vaultd.errors import VaultdError
from vaultd.protocol.messages import Request, encode_error, encode_push, encode_reply
from vaultd.store import MemoryStore
from vaultd.vault.barrier import Barrier
from vaultd.vault.create import create

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vaultd.daemon.handling import Pending
    from vaultd.daemon.processes import HeldProcess

__all__ = ["ADMIN", "EngineWorld", "PeerConnection"]

ADMIN = 1000
PASSPHRASE = b"correct horse battery staple"


class PeerConnection:
    """A peer's connection as the engine sees it.

    Attributes:
        pushed: the frames of its pushes.
    """

    def __init__(self, world: EngineWorld, name: str, uid: int, process: HeldProcess) -> None:
        self.name = name
        self.uid = uid
        self.closed = False
        self.context: Any = None
        self.pushed: list[bytes] = []
        self._process = process
        identity = process.identity
        self.facts = PeerFacts(
            uid=uid,
            gid=uid,
            pid=identity.pid,
            start_time=identity.start_time,
            session=identity.session,
            pidfd_inode=identity.pidfd_inode,
        )
        world.engine.connected(self)  # type: ignore[arg-type]  # it has what the engine asks of one

    def push(self, event: str, keys: Mapping[str, Any]) -> None:
        self.pushed.append(bytes(encode_push(event, keys)))

    def peer_process(self) -> HeldProcess:
        return self._process

    def is_peer_alive(self) -> bool:
        return self._process.is_alive()


class EngineWorld:
    """An unsealed vault with its engine, in the running event loop.

    Args:
        pids: of living processes, by the name of the peer that each stands for.
        uids: by the same names; `admin` is an admin.

    Attributes:
        peers: connections by name.
        random: bytes for ids, from a stream of each peer's own: what one does moves nobody else's.
    """

    def __init__(self, pids: Mapping[str, int], uids: Mapping[str, int]) -> None:
        self.clock = ManualClock()
        self.kernel = Kernel()
        self.kernel.probe()
        self._streams: dict[str, int] = {}
        self._current = "nobody"
        store = MemoryStore()
        with SecretBytes.copy_of(PASSPHRASE) as secret:
            create(
                store,
                self.clock,
                secret=secret,
                kind=SlotKind.PASSPHRASE,
                label="",
                admin_uids=[ADMIN],
                actor=Actor("embedded"),
                profile=CHEAPEST,
                random=self.random,
            )
        self.vaults = VaultHolder("/nonexistent", self.clock, self.random, minimum=CHEAPEST)
        self.vaults.barrier = Barrier.open(store, self.clock, minimum=CHEAPEST, random=self.random)
        live = LiveConfig(None, {}, ADMIN, dir="/nonexistent", socket="/nonexistent/socket")
        self.engine = Engine(
            live, self.vaults, kernel=self.kernel, clock=self.clock, random=self.random, profile=CHEAPEST
        )
        self.watcher = Watcher(asyncio.get_running_loop())
        self.connections: set[PeerConnection] = set()
        self.dispatcher = self
        self.engine.server = self  # type: ignore[assignment]  # it has what the engine asks of one
        self.engine._loop = asyncio.get_running_loop()
        self.processes = {name: open_process(pid, self.kernel) for name, pid in pids.items()}
        self.peers = {name: PeerConnection(self, name, uids[name], process) for name, process in self.processes.items()}

    def random(self, size: int) -> bytes:
        count = self._streams[self._current] = self._streams.get(self._current, 0) + 1
        return hashlib.shake_256(f"{self._current} {count}".encode()).digest(size)

    def commit_soon(self) -> None:
        """As the dispatcher's: what is staged is flushed although nobody waits; here, at once."""
        self.flush()

    def flush(self) -> None:
        while self.vaults.dirty:
            batch = self.vaults.take()
            self.vaults.write(batch)
            self.vaults.finish(batch, None)

    async def ask(
        self, name: str, op: str, keys: dict[str, Any] | None = None, tail: bytes = b"", run: bytes | None = None
    ) -> bytes:
        """The frame that answers the peer's request."""
        self._current = name
        request = Request(1, op, run, dict(keys or {}), bytearray(tail))
        connection: Any = self.peers[name]
        try:
            decided = self.engine.handle(connection, request)
            pending = await self._settled(decided) if isinstance(decided, Deferred) else decided
            self.flush()
            answer = pending.complete(None)
            if answer.secret is not None:
                with answer.secret.view() as view:
                    frame = encode_reply(1, answer.keys, view)
                answer.secret.wipe()
            else:
                frame = encode_reply(1, answer.keys, answer.tail)
        except VaultdError as error:
            self.flush()
            frame = encode_error(1, error.code, error.message, error.hint)
        self.flush()
        self._current = "nobody"
        return bytes(frame)

    async def _settled(self, deferred: Deferred) -> Pending:
        while deferred._settled is None:
            await asyncio.sleep(0)
            self.flush()
        return deferred._settled

    def close(self) -> None:
        self.engine.stop()
        self.flush()
        self.watcher.close()
        self.vaults.close()
