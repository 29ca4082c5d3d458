#!/usr/bin/env python3
"""Feed damaged frames to both ends of the protocol: `fuzz_protocol.py [--frames N] [--seed S]`.

What must hold, for every frame: a server makes of it a request, a refusal that it can answer, or the end of the
connection; a client a reply, a push, or the end; nothing else is raised; a header that is accepted packs to the very
bytes that came; and memory stays where it was. A failure prints the seed and the bytes.
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from vaultd.protocol import (
    EVENTS,
    OPERATIONS,
    Connection,
    Malformed,
    RemoteProtocolError,
    Request,
    Role,
    encode_frame,
)
from vaultd.protocol.codec import decode, encode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vaultd.protocol.fields import Kind

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 60, 2**32, 2**64 - 1, 1.5, 1e300),
    *("", "acme", "é" * 90, "x" * 600, "passphrase", "fd", "parent", "sealed", "current"),
    *(b"", b"t" * 32, [], {}, ["acme"], [5, 60], [[[[1]]]], {"a": 1}, [{"a": 1}]),
)
PIECES = (
    *(b"\xc1", b"\xc7\x00\x05", b"\xd6\xff\0\0\0\0", b"\xdf\xff\xff\xff\xff"),
    *(b"\x91" * 40, b"\x81\xa1a" * 40, b"\xca\0\0\0\0"),
)
ASKED = dict(enumerate(OPERATIONS, 1))
"""What the client waits for: a reply to each operation."""


def values(rng: random.Random, required: Mapping[str, Kind], optional: Mapping[str, Kind]) -> dict[str, Any]:
    """Keys with values that are mostly right."""
    header: dict[str, Any] = {}
    for key, kind in {**required, **optional}.items():
        if rng.random() < (0.98 if key in required else 0.4):
            right = [value for value in VALUES if kind.accepts(value)]
            header[key] = rng.choice(VALUES if rng.random() < 0.03 or not right else right)
    if rng.random() < 0.02:
        header["extra"] = rng.choice(VALUES)
    return header


def sample(rng: random.Random) -> bytes:
    """A request, a reply or a push that is legal, or nearly."""
    number = rng.randrange(1, len(ASKED) + 1)
    operation, kind, tail = OPERATIONS[ASKED[number]], rng.random(), 0
    header: dict[str, Any]
    if kind < 0.6:
        header = {"v": 1, "id": rng.randrange(1, 2**32), "op": operation.name}
        if rng.random() < 0.3:
            header["run"] = rng.choice((b"t" * 32, b"t" * 32, b"short"))
        header |= values(rng, operation.required, operation.optional)
        tail = operation.tail.least
    elif kind < 0.8:
        header = {"id": number, "ok": True, **values(rng, operation.reply, operation.reply_optional)}
        tail = operation.reply_tail.least
    elif kind < 0.9:
        header = {"id": rng.choice((0, number)), "ok": False, "code": "denied", "message": "no", "hint": ""}
    else:
        event = EVENTS[rng.choice(list(EVENTS))]
        header = {"event": event.name, **values(rng, event.required, event.optional)}
    return bytes(encode_frame(encode(header), rng.randbytes(tail if rng.random() < 0.9 else rng.choice((0, 1, 40)))))


def damage(rng: random.Random, frame: bytes) -> bytes:
    """The frame with something wrong: a byte changed, cut out, put in, a length changed, two frames spliced."""
    data = bytearray(frame)
    for _ in range(rng.choice((0, 0, 1, 1, 2, 5))):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(7):
            case 0 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(data):
                data[at] = rng.randrange(256)
            case 2:
                del data[at : at + rng.randrange(1, 9)]
            case 3:
                data[at:at] = rng.choice(PIECES)
            case 4 if len(data) >= 6:
                data[4:6] = rng.randrange(len(data) + 2).to_bytes(2, "big")
            case 5:
                data[at:] = sample(rng)[at:]
            case _:
                data[at:at] = rng.randbytes(rng.randrange(1, 5))
        if not data:
            return bytes(data)
    if rng.random() < 0.9 and len(data) >= 4:  # mostly a length that fits, or nothing behind it would ever be looked at
        data[:4] = (len(data) - 4).to_bytes(4, "big")
    return bytes(data)


def feed(rng: random.Random, frame: bytes, seen: Counter[str]) -> None:
    """One damaged frame to a fresh server and a fresh client, in pieces."""
    server, client = Connection(Role.SERVER), Connection(Role.CLIENT)
    client._outstanding = dict(ASKED)
    for end in (server, client):
        cut = rng.randrange(len(frame) + 1)
        try:
            for piece in (frame[:cut], frame[cut:]):
                end.receive_data(piece)
                while (event := end.next_event()) is not None:
                    seen[type(event).__name__] += 1
                    if isinstance(event, Request | Malformed):
                        server.error(event.id, "denied", "no")
        except RemoteProtocolError:
            seen["end"] += 1
    try:
        header = decode(frame[6:])
    except RemoteProtocolError:
        return
    if encode(header) != frame[6:]:
        raise AssertionError("a header was accepted in a second form")


def fuzz(frames: int, seed: int) -> Counter[str]:
    """So many damaged frames; what became of them, by kind."""
    rng, seen = random.Random(seed), Counter[str]()
    for number in range(frames):
        frame = damage(rng, sample(rng))
        try:
            feed(rng, frame, seen)
        except Exception:
            print(f"seed {seed}, frame {number}: {frame.hex()}", file=sys.stderr)
            raise
    return seen


def main() -> int:
    """Run, print what became of the frames, how fast it went and how memory grew."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    options = parser.parse_args()
    fuzz(1_000, 0)  # everything that is made once is made before memory is looked at
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    seen = fuzz(options.frames, options.seed)
    seconds = time.monotonic() - started
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"seed {options.seed}: {options.frames:,} frames in {seconds:.1f} s, {dict(seen)}, memory +{grown:,} KiB")
    return 0 if grown < 16_384 else 1


if __name__ == "__main__":
    raise SystemExit(main())
