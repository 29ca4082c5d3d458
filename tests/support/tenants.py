"""Two tenants on one real daemon, and everybody who may come to it, each under a uid of its own."""

from __future__ import annotations

import os
from typing import Any, Final

from tests.support.daemon import Daemon
from tests.support.raw import GROUP

__all__ = ["ACME", "AGENT", "GLOBEX", "MANAGER", "NOBODY", "RESPONDER", "STRANGER", "World"]

AGENT: Final = 4201
"""Runs acme's agents."""
STRANGER: Final = 4202
"""Runs globex's agents."""
MANAGER: Final = 4203
"""Manages acme, without being an admin."""
RESPONDER: Final = 4204
"""May stop harm."""
NOBODY: Final = 4205
"""May connect, and is no service."""

ACME: Final = b"sk-acme-4f1d0c"
GLOBEX: Final = b"sk-globex-99aa7e"


class World(Daemon):
    """See the module. Both tenants have `openai/prod` and `internal/signing`; agents may lease what is in `openai/`.

    Needs root.
    """

    def __init__(self, *, config: str = "", **options: Any) -> None:
        config = f"socket_group = {GROUP}\nresponder_uids = [{RESPONDER}]\n{config}"
        super().__init__(config=config, **options)
        self.tenant("acme", openai__prod=ACME, openai__spare=ACME, internal__signing=ACME)
        self.tenant("globex", openai__prod=GLOBEX, internal__signing=GLOBEX, globex__only=GLOBEX)
        self.service("acme-agent", uid=AGENT)
        self.service("globex-agent", uid=STRANGER)
        self.service("acme-manager", uid=MANAGER)
        self.acme_grant = self.grant("acme", "acme-agent", "openai/*", deliver=["fd", "env", "print"])
        self.globex_grant = self.grant("globex", "globex-agent", "openai/*")
        can = ["lease", "put", "rotate", "list", "manage", "audit"]
        self.manager_grant = self.grant("acme", "acme-manager", "**", can=can)
        self.me = os.geteuid()

    def trail(self, tenant: str | None = None, **keys: Any) -> list[str]:
        """The lines of a tenant's trail, or of the system's, as an admin reads them."""
        if tenant is not None:
            keys["tenant"] = tenant
        return [line.decode() for line in self.admin.audit_lines("audit.show", keys)]

    def journal(self) -> bytes:
        """The journal as it is on the disk."""
        with open(os.path.join(self.dir, "audit", "000001.jsonl"), "rb") as file:
            return file.read()
