"""A daemon whose queue of callers is full is waited for."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import pytest

from vaultclient import Client, VaultError

if TYPE_CHECKING:
    from pathlib import Path


def _full(path: Path) -> tuple[socket.socket, list[socket.socket]]:
    """A listener that accepts nothing, and the callers who fill its queue."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(0)
    callers = []
    while True:
        caller = socket.socket(socket.AF_UNIX)
        caller.setblocking(False)
        try:
            caller.connect(str(path))
        except BlockingIOError:
            caller.close()
            return listener, callers
        callers.append(caller)


def test_a_full_queue_is_waited_for_and_not_for_ever(tmp_path: Path) -> None:
    """Connecting waits for room in the queue, as long as the timeout allows, and then says that nobody answers."""
    listener, callers = _full(tmp_path / "socket")
    try:
        with Client(tmp_path / "socket", environ={}, timeout=0.3) as client, pytest.raises(VaultError) as error:
            client.status()
        assert error.value.code == "unavailable"
    finally:
        for sock in (listener, *callers):
            sock.close()


def test_room_in_the_queue_is_taken(tmp_path: Path) -> None:
    """As soon as the daemon takes a caller in, the one that waits gets its place."""
    listener, callers = _full(tmp_path / "socket")
    accepted: list[socket.socket] = []

    def take_all() -> None:
        accepted.extend(listener.accept()[0] for _ in range(len(callers) + 1))

    thread = threading.Thread(target=take_all)
    client = Client(tmp_path / "socket", environ={}, timeout=10)
    try:
        thread.start()
        client._channel.connect()
        thread.join(10)
        assert len(accepted) == len(callers) + 1
    finally:
        client.close()
        for sock in (listener, *callers, *accepted):
            sock.close()
