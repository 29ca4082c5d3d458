"""An agent, as someone would write one: it finds its key in the environment, calls its provider, says what came back.

    vaultctl run --tenant acme --env OPENAI_API_KEY=openai/prod -- python agent.py call PORT
    vaultctl run --tenant acme --allow 'openai/*' -- python agent.py ask TENANT SECRET
    vaultctl run --tenant acme --env OPENAI_API_KEY=openai/prod -- python agent.py stay

`ask` leases over the socket and prints what the daemon answers; `stay` waits until somebody ends it.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import sys


def call(port: int) -> int:
    """Call the provider once with the key from the environment."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", "/v1/chat", b"{}", {"Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"})
    answer = json.loads(connection.getresponse().read())
    print(json.dumps(answer))
    return 0 if "owner" in answer else 1


def ask(tenant: str, secret: str) -> int:
    """Ask the daemon for a secret by name, as an agent that was talked into it would."""
    from vaultclient import Client, VaultError

    try:
        with Client() as vault, vault.lease(tenant, secret) as lease:
            print(json.dumps({"got": lease.secret}))
    except VaultError as error:
        print(json.dumps({"code": error.code, "message": str(error)}))
    return 0


def stay() -> int:
    """Be an agent with a long job."""
    print("working", flush=True)
    while True:
        signal.pause()


if __name__ == "__main__":
    verb, *arguments = sys.argv[1:]
    sys.exit({"call": lambda: call(int(arguments[0])), "ask": lambda: ask(*arguments), "stay": stay}[verb]())
