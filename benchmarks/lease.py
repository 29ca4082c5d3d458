#!/usr/bin/env python3
"""P1, P2, P3, P4: acquiring a lease, its audit record durable before the reply, at 1, 8 and 64 connections.

A real daemon on a real disk, one request under way a connection, and a small load generator in another process that
sends prepared frames and reads lengths only. Requests a second, and the latency's median and 99th percentile.

    python benchmarks/lease.py [SECONDS]
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from _machine import facts, table

from tests.support.daemon import Daemon
from vaultd.protocol.messages import encode_request

_CONFIG = """
[limits]
leases_per_uid = 10000000
requests_per_second = 10000000
requests_burst = 10000000
"""


def load(path: str, frame: bytes, connections: int, seconds: float) -> list[float]:
    """Send `frame` over each connection again and again, one at a time; the latencies in seconds."""
    poll = select.epoll()
    sockets = {}
    for _ in range(connections):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(path)
        sockets[sock.fileno()] = sock
        poll.register(sock.fileno(), select.EPOLLIN)
    clock = time.perf_counter
    sent = {}
    latencies = []
    end = clock() + seconds
    for number, sock in sockets.items():
        sent[number] = clock()
        sock.send(frame)
    running = len(sockets)
    while running:
        for number, _ in poll.poll():
            sock = sockets[number]
            reply = sock.recv(65_536)
            if len(reply) < 4 or b"\xa2ok\xc3" not in reply:
                raise SystemExit(f"not a lease: {reply[:300]!r}")
            now = clock()
            latencies.append(now - sent[number])
            if now < end:
                sent[number] = now
                sock.send(frame)
            else:
                running -= 1
    for sock in sockets.values():
        sock.close()
    return latencies


def processor_seconds(pid: int) -> float:
    """What the process has used of the processors so far, in user and kernel mode."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure and print."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 4.0
    print(facts())
    rows = []
    with Daemon(config=_CONFIG) as daemon:
        daemon.tenant("acme", openai__prod=b"sk-" + b"x" * 61)
        daemon.service("agents")
        daemon.grant("acme", "agents", "openai/*")
        with daemon.client() as client, client.run("acme", scope=["openai/*"]) as run:
            frame = bytes(encode_request(1, "lease.acquire", {"secret": "openai/prod", "ttl": 5}, run=bytes(run.token)))
            for connections in (1, 8, 64):
                load(daemon.socket, frame, connections, 0.5)
                spent = processor_seconds(daemon.process.pid)
                found = sorted(load(daemon.socket, frame, connections, seconds))
                count = len(found)
                rows.append(
                    (
                        str(connections),
                        f"{count / seconds:,.0f}",
                        f"{found[count // 2] * 1e6:,.0f}",
                        f"{found[count * 99 // 100] * 1e6:,.0f}",
                        f"{(processor_seconds(daemon.process.pid) - spent) / count * 1e6:,.0f}",
                    )
                )
            own = []
            for _ in range(2_000):
                began = time.perf_counter()
                with run.lease("openai/prod", ttl=5):
                    own.append(time.perf_counter() - began)
            own.sort()
            rows.append(
                (
                    "1, Python client",
                    f"{len(own) / sum(own):,.0f}",
                    f"{own[1000] * 1e6:,.0f}",
                    f"{own[1980] * 1e6:,.0f}",
                    "",
                )
            )
        with open(f"/proc/{daemon.process.pid}/status", encoding="ascii") as status:
            resident = next(line for line in status if line.startswith("VmRSS")).split()[1]
        size = os.stat(os.path.join(daemon.dir, "audit", "000001.jsonl")).st_size
    table(("connections", "leases/s", "p50 us", "p99 us", "daemon CPU us"), rows)
    print(f"daemon: {int(resident) // 1024} MiB resident afterwards, journal {size >> 20} MiB")


if __name__ == "__main__":
    main()
