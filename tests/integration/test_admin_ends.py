"""What an admin began ends with the right to it, and what cannot be finished is not begun."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import PASSPHRASE
from tests.support.serving import Caller
from vaultd.protocol.messages import Push

if TYPE_CHECKING:
    from tests.support.daemon import Daemon


def test_an_admin_hears_of_a_tenant_while_the_ticket_lasts(daemon: Daemon) -> None:
    """After logout nothing more of the tenant is told, though the connection stays."""
    daemon.tenant("acme", a__key=b"value")
    daemon.service("agents")
    daemon.grant("acme", "agents", "a/*")
    with Caller(daemon.socket) as admin, daemon.client() as agent:
        assert admin.call("login", {"kind": "passphrase", "bind": "self"}, PASSPHRASE).ok
        assert admin.call("subscribe", {"tenant": "acme"}).ok
        with agent.run("acme", scope=["a/*"]):
            pass
        told = admin.receive()
        assert isinstance(told, Push)
        assert told.event == "run.ended"
        assert admin.call("logout").ok
        with agent.run("acme", scope=["a/*"]):
            pass
        assert admin.call("status").ok
        admin.socket.settimeout(0.3)
        with pytest.raises(TimeoutError):
            admin.receive()


def test_a_deletion_that_cannot_be_finished_is_not_begun(daemon: Daemon) -> None:
    """Asked to finish with a root rotation while one is under way, a deletion deletes nothing."""
    daemon.tenant("acme", a__key=b"value")
    for number in range(60):
        daemon.tenant(f"t{number}")  # so many that the rotation takes several slices
    with Caller(daemon.socket) as admin:
        assert admin.call("login", {"kind": "passphrase", "bind": "self"}, PASSPHRASE).ok
        first, rotate = admin.wire.request("rotate.root", {})
        delete = {"tenant": "acme", "confirm": "acme", "rotate_root": True}
        second, shred = admin.wire.request("tenant.delete", delete)
        admin.socket.sendall(rotate + shred)  # at once, so that the second is there when the first has begun
        replies = {reply.id: reply for reply in (admin.receive(), admin.receive()) if not isinstance(reply, Push)}
    assert replies[first].ok
    assert replies[second].code == "conflict"
    assert bytes(daemon.admin.get("acme", "a/key").tail) == b"value"
