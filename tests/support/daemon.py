"""The real daemon as a process of its own, for tests and benchmarks: the shipped wiring, with cheap Argon2id slots.

    python tests/support/daemon.py DIR SOCKET CONFIG [LONGEST]

serves a vault whose slots may cost as little as `CHEAPEST`, and (with LONGEST) makes who shows wrong secrets wait no
longer than so many milliseconds: by parameter, as no environment or option can ask for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from vaultclient import Client
from vaultd.access.throttle import FailureDelays
from vaultd.crypto.kdf import CHEAPEST
from vaultd.vault import offline

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

PASSPHRASE = b"correct horse battery staple"


class Daemon:
    """A vault in a directory of its own, and its daemon.

    Args:
        config: text of its vaultd.toml.
        admin_uids: of the vault.
        unseal: whether to unseal it at once.
        longest: milliseconds that wrong slot secrets delay the next try at most; None is the shipped delay.
        parent: directory that the whole is made in.
        prefix: gives, for the folder, the command that starts the daemon's command (in another namespace, say).
        environment: further variables that the daemon is started with.

    Attributes:
        admin: a client of this process with an admin ticket that no other process shares.
    """

    environment: Mapping[str, str] = MappingProxyType({})

    def __init__(
        self,
        *,
        config: str = "",
        admin_uids: Sequence[int] = (),
        unseal: bool = True,
        longest: int | None = None,
        parent: str | None = None,
        prefix: Callable[[str], Sequence[str]] = lambda folder: (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        # Not under a private temporary directory: processes of other uids connect too.
        self.folder = tempfile.mkdtemp(prefix="vaultd-test-", dir=parent)
        self._longest = longest
        self._prefix = prefix
        self.environment = dict(environment or {})
        os.chmod(self.folder, 0o755)  # noqa: S103
        self.dir = os.path.join(self.folder, "vault")
        self.socket = os.path.join(self.folder, "run", "vaultd.sock")
        os.mkdir(os.path.dirname(self.socket), 0o755)
        self.config = os.path.join(self.folder, "vaultd.toml")
        with open(self.config, "w", encoding="utf-8") as file:
            file.write(config)
        os.chmod(self.config, 0o644)
        made = offline.init(self.dir, secret=bytearray(PASSPHRASE), admin_uids=admin_uids, profile=CHEAPEST)
        self.seal_key = bytes(made.seal_key.view())
        self.admin = self.client()
        self.start()
        try:
            if unseal:
                self.unseal()
        except BaseException:
            self.close()
            raise

    def start(self) -> None:
        """Start the daemon and wait until it listens."""
        environment = {"PATH": os.environ["PATH"], "HOME": self.folder}
        environment |= self.environment
        command = [sys.executable, os.path.abspath(__file__), self.dir, self.socket, self.config]
        if self._longest is not None:
            command.append(str(self._longest))
        command = [*self._prefix(self.folder), *command]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, bufsize=0, env=environment)
        self.log = b""
        assert self.process.stderr is not None
        while not self.log.endswith(f"listening on {self.socket}\n".encode()):
            line = self.process.stderr.readline()
            assert line, f"vaultd did not start: {self.log.decode()}"
            self.log += line

    def unseal(self, client: Client | None = None) -> None:
        """Unseal, and give this process (or the client's) a ticket of its own."""
        (client or self.admin).call("unseal", {"kind": "passphrase", "bind": "self"}, PASSPHRASE)

    def client(self, **options: Any) -> Client:
        """A client of this process."""
        return Client(self.socket, environ={}, **options)

    def tenant(self, name: str, **secrets: bytes) -> None:
        """Make a tenant with secrets; `__` in a keyword is a `/` in the name."""
        self.admin.call("tenant.create", {"tenant": name})
        for secret, value in secrets.items():
            self.admin.put(name, secret.replace("__", "/"), value)

    def service(self, name: str, *, uid: int | None = None, **selectors: Any) -> None:
        """Make a service; of this process's uid unless said otherwise."""
        self.admin.call("service.add", {"service": name, "uid": os.geteuid() if uid is None else uid, **selectors})

    def grant(self, tenant: str, service: str, *secrets: str, **bounds: Any) -> str:
        """Make a grant; its id."""
        keys = {"tenant": tenant, "service": service, "secrets": list(secrets), **bounds}
        grant: str = self.admin.call("grant.add", keys).keys["grant"]
        return grant

    def ctl(self, *arguments: str, data: bytes = b"", **more: Any) -> subprocess.CompletedProcess[bytes]:
        """Run one `vaultctl` against this daemon."""
        environment = {**os.environ, "VAULTD_SOCKET": self.socket, "NO_COLOR": "1"}
        for name in ("VAULTD_RUN", "VAULTD_RUN_FD"):
            environment.pop(name, None)
        command = [sys.executable, "-m", "vaultclient.cli", *arguments]
        return subprocess.run(
            command, input=data, capture_output=True, env=environment, timeout=60, check=False, **more
        )

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End the daemon with a signal; its exit status."""
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> int:
        """Wait for the daemon's end; its exit status."""
        _, rest = self.process.communicate(timeout=30)
        self.log += rest
        return self.process.returncode

    def close(self) -> None:
        """End everything and remove the files."""
        self.admin.close()
        if self.process.poll() is None:
            self.stop(signal.SIGKILL)
        if self.process.stderr is not None:
            self.process.stderr.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _main() -> None:
    from vaultd.daemon import main as daemon

    directory, socket, config, *longest = sys.argv[1:]
    logging.basicConfig(format="vaultd: %(levelname)s: %(message)s", level=logging.INFO, stream=sys.stderr)
    delays = FailureDelays(first=1_000_000, longest=int(longest[0]) * 1_000_000) if longest else None
    kernel = daemon.Kernel()
    kernel.probe()
    live = daemon.LiveConfig(config, os.environ, os.geteuid(), dir=directory, socket=socket)
    daemon.harden(kernel.features)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(daemon.serve(live, kernel, minimum=CHEAPEST, delays=delays))


if __name__ == "__main__":
    _main()
