"""A loopback HTTP server in the role of an API provider: it knows which key belongs to whom and counts the calls.

    python provider.py KEYFILE

KEYFILE maps keys to owners, one JSON object, and may be rewritten while the server runs, as a provider's console would
add a key. Prints its port. `POST /v1/chat` with `Authorization: Bearer KEY` answers whose key arrived, or 401;
`GET /v1/calls` answers how many calls each owner's keys have made.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping


class Provider(BaseHTTPRequestHandler):
    """One request; the owners' file is read anew each time, so a key added there works at once."""

    protocol_version = "HTTP/1.1"
    keys: Path
    calls: ClassVar[Counter[str]] = Counter()
    counting = threading.Lock()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        key = self.headers.get("Authorization", "").removeprefix("Bearer ")
        owner = json.loads(self.keys.read_text()).get(key)
        if owner:
            with self.counting:
                self.calls[owner] += 1
        self._answer(200 if owner else 401, {"owner": owner} if owner else {"error": "unknown key"})

    def do_GET(self) -> None:
        with self.counting:
            counts = dict(self.calls)
        self._answer(200, counts)

    def _answer(self, status: int, about: Mapping[str, object]) -> None:
        body = json.dumps(about).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: a provider's access log is not ours to print."""


def main() -> None:
    Provider.keys = Path(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    server.daemon_threads = True
    print(server.server_address[1], flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()


if __name__ == "__main__":
    main()
