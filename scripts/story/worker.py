"""A worker under load: leases its tenant's key for every call, calls the provider, and writes down what it saw.

    vaultctl run --tenant acme --allow 'openai/*' -- python worker.py PORT REPORT

Works until REPORT.stop exists. Writes one JSON object to REPORT: `calls`, `failed` (texts), and `leases`, a list of
[boot-time nanoseconds before the lease was asked for, version that came].
"""

from __future__ import annotations

import http.client
import json
import sys
import time
from pathlib import Path

from vaultclient import Client, VaultError


def main() -> None:
    port, report = int(sys.argv[1]), Path(sys.argv[2])
    stop = report.with_suffix(".stop")
    leases: list[tuple[int, int | None]] = []
    failed: list[str] = []
    calls = 0
    provider = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with Client() as vault:
        report.with_suffix(".ready").touch()
        while not stop.exists():
            asked = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            try:
                with vault.lease("acme", "openai/prod", ttl=60, purpose="chat") as lease:
                    leases.append((asked, lease.version))
                    # The one place where the key becomes text: the header of the call it is for.
                    header = "Bearer " + bytes(lease.value).decode("ascii")
                    provider.request("POST", "/v1/chat", b"{}", {"Authorization": header})
                    answer = provider.getresponse()
                    body = json.loads(answer.read())
            except (VaultError, OSError, http.client.HTTPException, ValueError) as error:
                failed.append(f"{type(error).__name__}: {error}")
                continue
            calls += 1
            if body.get("owner") != "acme":
                failed.append(f"the provider answered {answer.status} {body}")
    report.write_text(json.dumps({"calls": calls, "failed": failed, "leases": leases}))


if __name__ == "__main__":
    main()
