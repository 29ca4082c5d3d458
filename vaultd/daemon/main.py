"""`vaultd`: reads its arguments and configuration, hardens itself, and wires everything together, alone to do so."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING, Final

from vaultd import __version__
from vaultd.clock import Clock, SystemClock
from vaultd.crypto.kdf import FLOOR, Profile
from vaultd.crypto.primitives import random_bytes
from vaultd.daemon.activation import adopt, passed
from vaultd.daemon.config import LiveConfig
from vaultd.daemon.credentials import unseal_at_start
from vaultd.daemon.engine import Engine
from vaultd.daemon.hardening import harden
from vaultd.daemon.kernel import Kernel
from vaultd.daemon.listener import listen
from vaultd.daemon.notify import Notifier, Supervised, watchdog_seconds
from vaultd.daemon.reloading import read_again
from vaultd.daemon.server import Server
from vaultd.daemon.tampering import VaultWatch
from vaultd.daemon.vaults import VaultHolder
from vaultd.daemon.watch import FileWatch
from vaultd.errors import VaultdError
from vaultd.protocol.codes import exit_code

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vaultd.access.throttle import FailureDelays
    from vaultd.store import NotedStore

__all__ = ["main", "parser", "serve"]

_log = logging.getLogger("vaultd")

_ENDING: Final = (signal.SIGTERM, signal.SIGINT)


def parser() -> argparse.ArgumentParser:
    """What the command line may say; the man page is made from it."""
    made = argparse.ArgumentParser(
        prog="vaultd",
        description="Serves a vault over a Unix socket, in the foreground. SIGHUP reads the configuration again; "
        "SIGTERM drains, drops the keys and ends; a second one ends at once.",
    )
    made.add_argument("--dir", metavar="DIR", help="the vault's directory")
    made.add_argument("--socket", metavar="PATH", help="the socket to listen on")
    made.add_argument("--config", metavar="FILE", help="the configuration file")
    made.add_argument("--version", action="version", version=f"vaultd {__version__}")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the daemon; returns its exit code (see `vaultd/protocol/codes.py`)."""
    options = parser().parse_args(arguments)
    logging.basicConfig(format="vaultd: %(levelname)s: %(message)s", level=logging.INFO, stream=sys.stderr)
    try:
        kernel = Kernel()
        kernel.probe()
        live = LiveConfig(
            options.config,
            os.environ,
            os.geteuid(),
            dir=os.path.abspath(options.dir) if options.dir else None,
            socket=os.path.abspath(options.socket) if options.socket else None,
        )
        harden(kernel.features)
        asyncio.run(serve(live, kernel))
    except VaultdError as error:
        print(f"vaultd: error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return exit_code(error.code)
    except KeyboardInterrupt:
        return 130
    return 0


async def serve(
    live: LiveConfig,
    kernel: Kernel,
    *,
    clock: Clock | None = None,
    minimum: Profile = FLOOR,
    delays: FailureDelays | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        live: the configuration.
        kernel: probed.
        clock: the machine's when left out.
        minimum: the least Argon2id cost of a slot; lower only in tests, which pass it here.
        delays: after wrong slot secrets; shorter only in tests, which pass them here.

    Raises:
        VaultdError: the directory, the vault or the socket cannot be used.
    """
    clock = clock if clock is not None else SystemClock()
    config = live.current
    vaults = VaultHolder(config.dir, clock, random_bytes, minimum=minimum)
    vaults.open()
    try:
        sock = passed(os.environ, os.getpid())
        if sock is not None:
            listener = adopt(sock, config.socket, kernel, group=config.socket_group)
        else:
            listener = listen(config.socket, kernel, group=config.socket_group)
        engine = Engine(
            live,
            vaults,
            kernel=kernel,
            clock=clock,
            random=random_bytes,
            delays=delays,
            profile=_profile(minimum),
        )
        server = Server(listener, engine, vaults, kernel=kernel, clock=clock, limits=config.limits)
        engine.start(server)
        engine.surroundings += _surroundings(config.socket)
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        supervised = Supervised(
            Notifier(os.environ.get("NOTIFY_SOCKET", "")),
            loop,
            describe=engine.describe,
            flight=lambda: vaults.flight,
            within=watchdog_seconds(os.environ, os.getpid()),
        )

        def stop() -> None:
            # The next one ends the process at once, even where the event loop or the disk hangs: what was acknowledged
            # is on the disk, and an end without warning is what the vault's files are made for.
            for number in _ENDING:
                loop.remove_signal_handler(number)
                signal.signal(number, signal.SIG_DFL)
            stopping.set()

        for number in _ENDING:
            loop.add_signal_handler(number, stop)

        def reload() -> None:
            supervised.reloading()
            read_again(live, engine)
            supervised.ready()

        loop.add_signal_handler(signal.SIGHUP, reload)
        watch = _watched(live, reload, loop)
        vault_watches: list[VaultWatch] = []

        def watch_vault(store: NotedStore) -> None:
            vault_watches.append(VaultWatch(store, engine, loop))
            vault_watches[-1].start()

        if config.watch.vault:
            vaults.on_open = watch_vault
            if vaults.store is not None:
                watch_vault(vaults.store)
        server.start()
        print(f"listening on {config.socket}", file=sys.stderr, flush=True)
        supervised.ready()
        if config.unseal_credential is not None:
            unseal_at_start(engine, config.unseal_credential, os.environ)
        try:
            await stopping.wait()
            supervised.stopping()
            _log.info("stopping")
        finally:
            for one in (watch, *vault_watches):
                if one is not None:
                    one.close()
            engine.stop()
            await server.stop()
            engine.close()
            engine.kept.keep_counts()
            engine.owed.close()
            supervised.close()
    finally:
        vaults.close()


def _watched(live: LiveConfig, reload: Callable[[], None], loop: asyncio.AbstractEventLoop) -> FileWatch | None:
    """Watch the configuration file, where there is a directory for one and it is wanted."""
    if not live.current.watch.config or live.path is None or not os.path.isdir(os.path.dirname(live.path)):
        return None
    watch = FileWatch(live.path, reload, loop)
    watch.start()
    return watch


def _profile(minimum: Profile) -> Profile:
    """What new slots cost: the recommended profile, or the tests' own."""
    from vaultd.crypto.kdf import RFC_9106_LOW

    return RFC_9106_LOW if minimum == FLOOR else minimum


def _surroundings(socket_path: str) -> list[str]:
    """What the operator should know of where this runs."""
    warnings = []
    directory = os.path.dirname(socket_path)
    if not os.stat(directory).st_mode & 0o011:
        warnings.append(f"other uids cannot reach {socket_path}: this daemon serves its own uid only")
    return warnings


if __name__ == "__main__":
    sys.exit(main())
