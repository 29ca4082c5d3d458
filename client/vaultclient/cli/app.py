"""What a verb is given: how it was called, a way to the daemon, a way to the outside. Knows no click."""

from __future__ import annotations

import contextlib
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from vaultclient.cli.output import Output

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

    from vaultclient._calls import Answer
    from vaultclient._transport import Channel

__all__ = ["App", "Received", "encode_token"]

_TIMEOUT: Final = 60.0
"""Seconds to wait for an answer: unsealing derives a key, and waits for others who do."""

_SLOW: Final = 3_600.0
"""The same for rotations, which touch every tenant."""


class Received:
    """A value that came, until the block that holds it ends; then it is wiped."""

    def __init__(self, keys: dict[str, Any], value: bytearray) -> None:
        self.keys = keys
        self.value = value


def encode_token(token: bytes) -> str:
    """A run's token as VAULTD_RUN carries it."""
    from vaultclient._address import encode_token

    return encode_token(token)


class App:
    """One call of vaultctl. A context manager: leaving it closes the connection.

    Attributes:
        socket: the daemon's socket as given, or None for the usual place.
        as_json: print JSON.
        quiet: print neither confirmations nor hints.
    """

    def __init__(self, socket: str | None = None, *, as_json: bool = False, quiet: bool = False) -> None:
        self.socket = socket
        self.as_json = as_json
        self.quiet = quiet
        self._channel: Channel | None = None

    @cached_property
    def out(self) -> Output:
        """The way to the outside."""
        return Output(as_json=self.as_json, quiet=self.quiet)

    @cached_property
    def token(self) -> bytes | None:
        """The token of the run that vaultctl was called in, or None."""
        from vaultclient._address import find_token

        return find_token()

    def socket_path(self) -> str:
        """Where the daemon listens."""
        from vaultclient._address import find_socket

        return find_socket(self.socket)

    def __enter__(self) -> App:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._channel is not None:
            self._channel.close()

    def call(
        self,
        op: str,
        keys: Mapping[str, Any] | None = None,
        *,
        tail: bytes | bytearray | memoryview = b"",
        run: bytes | None = None,
        timeout: float = _TIMEOUT,
        slow: bool = False,
    ) -> Answer:
        """Ask the daemon and wait for its answer.

        Args:
            op: the operation.
            keys: its keys.
            tail: a secret that goes with it.
            run: another run's token than the one vaultctl was called in.
            timeout: seconds.
            slow: it may take an hour.

        Raises:
            VaultError: the daemon's refusal, or no daemon.
        """
        token = run if run is not None else self.token
        return self.channel().call(op, keys or {}, run=token, tail=tail, timeout=_SLOW if slow else timeout)

    def channel(self) -> Channel:
        """The connection."""
        if self._channel is None:
            from vaultclient._transport import Channel

            self._channel = Channel(self.socket_path(), timeout=_TIMEOUT)
        return self._channel

    def items(self, op: str, keys: Mapping[str, Any] | None = None) -> Iterator[dict[str, Any]]:
        """Everything in a listing, page by page."""
        asked = dict(keys or {})
        while True:
            reply = self.call(op, asked)
            yield from reply.keys["items"]
            if not reply.keys.get("next"):
                return
            asked["after"] = reply.keys["next"]

    def send_value(self, op: str, keys: Mapping[str, Any], value: bytearray) -> dict[str, Any]:
        """Ask with a secret's value, which goes ahead in pieces when it is too long for one frame."""
        from vaultd.protocol import MAX_TAIL

        if len(value) <= MAX_TAIL:
            return self.call(op, keys, tail=value).keys
        from vaultclient._calls import upload_steps

        for step, step_keys, piece in upload_steps(value, op, keys):
            self.call(step, step_keys, tail=piece)
        return self.call(op, {**keys, "upload": True}).keys

    @contextlib.contextmanager
    def receive_value(self, op: str, keys: Mapping[str, Any], *, run: bytes | None = None) -> Iterator[Received]:
        """Ask for a value that is to be had whole: it comes behind the answer or, when long, as a sealed memory file.

        Raises:
            CliError: `invalid`: it is a file too long for that.
        """
        from vaultclient.cli.inputs import wipe

        with self.call(op, keys, run=run) as reply:
            if reply.fd is None and reply.tail:
                yield Received(reply.keys, reply.tail)
                return
            from vaultclient.cli.downloads import in_memory

            value = in_memory(reply, "vaultctl get --out FILE writes it to a file, run --fd gives it to a program")
            try:
                yield Received(reply.keys, value)
            finally:
                wipe(value)
