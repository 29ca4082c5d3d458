"""A service manager for tests: the socket that `NOTIFY_SOCKET` names, and what was said to it."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Manager"]


class Manager:
    """Listens to one daemon.

    Attributes:
        environment: what its daemon is started with.
        heard: every message so far, as maps.
    """

    def __init__(self, *, abstract: bool = False) -> None:
        self.folder = tempfile.mkdtemp(prefix="vaultd-test-")
        path = os.path.join(self.folder, "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + path if abstract else path)
        self.environment = {"NOTIFY_SOCKET": ("@" if abstract else "") + path}
        self.heard: list[dict[str, str]] = []

    def wait(self, holds: Callable[[dict[str, str]], object], seconds: float = 15) -> dict[str, str]:
        """The next message for which `holds` is true."""
        self._socket.settimeout(seconds)
        while True:
            text = self._socket.recv(4096).decode()
            message = dict(line.split("=", 1) for line in text.split("\n"))
            self.heard.append(message)
            if holds(message):
                return message

    def close(self) -> None:
        self._socket.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
