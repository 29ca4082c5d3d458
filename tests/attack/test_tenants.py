"""Other uids, agents that were taken over, and tenants' own admins, against the real daemon: what they tried."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.daemon import PASSPHRASE
from tests.support.peers import Peer
from tests.support.raw import GROUP, Raw, as_uid
from tests.support.serving import Child
from tests.support.tenants import ACME, AGENT, GLOBEX, MANAGER, NOBODY, RESPONDER, STRANGER, World
from vaultd.daemon.readers import MOST_PAGES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.needs_root

OPEN = {"tenant": "acme", "scope": ["openai/*"]}
PROD = {"secret": "openai/prod"}
ACME_PROD = {"tenant": "acme", **PROD}
GLOBEX_PROD = {"tenant": "globex", **PROD}


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """Two tenants and their agents."""
    with World() as running:
        yield running


def test_nobody_confines_whom_he_did_not_start(world: World) -> None:
    """A service cannot confine its ancestors of other uids, and with them everybody else whom they started."""
    with Peer(world.socket, uid=AGENT) as agent, Peer(world.socket, uid=STRANGER) as bystander:
        for uid in ({}, {"uid": os.geteuid()}, {"uid": STRANGER}):
            opened = agent.call("run.open", {**OPEN, "anchor": os.getpid(), "confine": True, **uid})
            assert opened.code == "denied"
        assert bystander.call("lease.acquire", GLOBEX_PROD).tail == GLOBEX
        assert agent.call("lease.acquire", ACME_PROD).tail == ACME
        assert world.admin.call("tenant.list").keys["items"]


def test_responder_inside_a_run_is_none(world: World) -> None:
    """A responder's uid inside a run stops nothing but the run, whether it sends the token or not."""
    world.service("responder-agent", uid=RESPONDER)
    grant = world.grant("acme", "responder-agent", "openai/*")
    with Peer(world.socket, uid=AGENT) as victim, Peer(world.socket, uid=RESPONDER) as inside:
        run = victim.call("run.open", OPEN).header["run"]
        token = inside.call("run.open", {**OPEN, "confine": True}).header["token"]
        for keys in (None, token):
            assert inside.call("run.close", {"of_run": run}, run=keys).code == "denied"
            assert inside.call("lease.revoke", {"tenant": "globex"}, run=keys).code == "denied"
            assert inside.call("seal", {"tenant": "globex"}, run=keys).code == "denied"
    world.admin.call("grant.remove", {"tenant": "acme", "grant": grant})
    world.admin.call("service.remove", {"service": "responder-agent"})


def test_lease_of_the_opener_is_not_the_agents(world: World) -> None:
    """Inside a run without the token, a lease that the session's owner took outside the run is not there."""
    with Peer(world.socket, uid=AGENT) as shell:
        lease = {"lease": shell.call("lease.acquire", ACME_PROD).header["lease"]}
        with shell.spawn() as inside:
            inside.call("run.open", {**OPEN, "confine": True})
            for op in ("lease.renew", "lease.release", "lease.revoke"):
                assert inside.call(op, lease).code == "denied", op
        assert shell.call("lease.renew", lease).code == ""


def test_one_death_ends_all_that_hangs_on_it(world: World) -> None:
    """A process with many runs ends, and with it all of them and its connection, though a child still holds that."""
    with Peer(world.socket, uid=AGENT) as agent:
        for _ in range(5):
            dying = agent.spawn(session=True)
            tokens = [dying.call("run.open", OPEN).header["token"] for _ in range(8)]
            with dying.spawn() as child:
                dying.end()
                for token in tokens:
                    assert child.call("lease.acquire", PROD, run=token).code == "denied"
        anchors = {run["anchor"]["pid"] for run in world.admin.pages("run.list")}
        assert agent.pid not in anchors
    world.admin.call("status")
    connections = world.admin.call("status").keys["counts"]["connections"]
    assert connections == 1


def test_ticket_ends_with_its_shell(world: World) -> None:
    """Who stays in a shell's session after the shell has ended is no admin any more, whatever else ended with it."""
    world.service("root-agent", uid=os.geteuid())
    grant = world.grant("acme", "root-agent", "openai/*")
    for _ in range(3):
        shell = Peer(world.socket)
        for _ in range(4):
            assert shell.call("run.open", OPEN).code == ""
        with shell.spawn() as child, shell.spawn() as left:
            assert child.call("login", {"kind": "passphrase", "bind": "parent"}, PASSPHRASE).code == ""
            assert left.call("tenant.list").code == ""
            shell.end()
            assert left.call("tenant.list").code == "denied"
            assert child.call("secret.get", {"tenant": "acme", **PROD}).code == "denied"
            left.connect()
            assert left.call("tenant.list").code == "denied"
    world.admin.call("grant.remove", {"tenant": "acme", "grant": grant})
    world.admin.call("service.remove", {"service": "root-agent"})


def test_depth_is_no_way_out_of_a_run(world: World) -> None:
    """A process seventy generations below a run's anchor, in a session of its own, is still inside the run."""
    with Peer(world.socket, uid=AGENT) as agent, agent.spawn(session=True) as anchor:
        anchor.call("run.open", {**OPEN, "confine": True})
        line = [anchor]
        try:
            for _ in range(70):
                line.append(line[-1].spawn(session=True))
            assert line[-1].call("lease.acquire", ACME_PROD).code == "denied"
        finally:
            for peer in reversed(line[1:]):
                peer.end()
        assert agent.call("lease.acquire", ACME_PROD).tail == ACME


def test_session_outlives_its_anchor(world: World) -> None:
    """Who stays in the session of a run's anchor that has ended is as confined as before."""
    with Peer(world.socket, uid=AGENT) as agent:
        anchor = agent.spawn(session=True)
        anchor.call("run.open", {**OPEN, "confine": True})
        with anchor.spawn() as left:
            anchor.end()
            left.connect()
            assert left.call("lease.acquire", ACME_PROD).code == "denied"
        assert agent.call("lease.acquire", ACME_PROD).tail == ACME


def test_runs_opened_for_a_uid_do_not_show_before_it_claims(world: World) -> None:
    """Opening and closing runs for somebody else's uid changes nothing of what that sees and hears."""
    with Peer(world.socket, uid=AGENT) as agent, Peer(world.socket, uid=STRANGER) as victim:
        assert victim.call("subscribe").code == ""
        before = victim.call("run.list").frame
        opened = agent.call("run.open", {**OPEN, "uid": STRANGER}).header
        assert victim.call("run.list").frame == before
        closed = {agent.call("run.close", {"of_run": opened["run"]}).code}
        assert closed == {""}
        own = victim.call("run.open", {"tenant": "globex", "scope": ["openai/*"]}).header
        victim.call("run.close", run=own["token"])
        assert victim.push()["run"] == own["run"]


@pytest.mark.parametrize("uid", [NOBODY, AGENT, MANAGER])
@pytest.mark.parametrize("op", ["subscribe", "run.list", "lease.list", "run.close"])
def test_nobody_fills_the_journal(world: World, uid: int, op: str) -> None:
    """Asking what costs nothing, over and over, leaves a handful of records."""
    keys = {"of_run": "run_aaaaaaaaaaaaaaaaaaaa"} if op == "run.close" else {}
    before = world.journal().count(b"\n")
    with Peer(world.socket, uid=uid) as peer:
        for _ in range(300):
            peer.call(op, keys)
    assert world.journal().count(b"\n") - before < 100


def test_unfinished_uploads_are_bounded(world: World) -> None:
    """One uid's uploads take sixteen largest values at most; what is dropped, replaced or used makes room again."""
    size = {"size": 1 << 20}

    def there(raw: Raw) -> list[str]:
        others = [Raw(world.socket) for _ in range(20)]
        codes = [other.call("value.begin", size).code for other in others]
        codes += [others[0].call("value.begin", {"size": 4}).code, raw.call("value.begin", {"size": 1 << 19}).code]
        others[0].call("value.chunk", {"offset": 0}, b"four")
        put = {"tenant": "acme", "secret": "uploads/four", "upload": True}
        codes += [others[0].call("secret.put", put).code, others[1].call("value.begin", size).code]
        for other in others:
            other.close()
        while raw.call("value.begin", size).code == "quota":  # until the daemon has seen all of them close
            pass
        return codes

    codes = as_uid(MANAGER, world.socket, there)
    assert codes == [""] * 16 + ["quota"] * 4 + ["", "", "", ""]


def test_one_agent_does_not_use_up_its_tenants_rate() -> None:
    """While one uid's agents send all that their tenant may, another uid's of the same tenant are served."""
    limits = "[limits]\nrequests_per_second = 80\nrequests_burst = 80\n"
    with World(config=limits) as slow, Peer(slow.socket, uid=AGENT) as flood, Peer(slow.socket, uid=MANAGER) as other:
        token = flood.call("run.open", OPEN).header["token"]
        codes = [flood.call("lease.list", run=token).code for _ in range(200)]
        assert codes.count("throttled") > 50
        token = other.call("run.open", OPEN).header["token"]
        for _ in range(5):
            assert other.call("lease.acquire", PROD, run=token).tail == ACME


def test_pages_under_way_are_bounded(world: World) -> None:
    """However many pages one uid asks for, only so many are under way; others are served meanwhile."""
    explain = {"tenant": "acme", "secret": "openai/prod", "service": "acme-agent"}

    def fill(raw: Raw) -> None:
        for _ in range(100):
            for number in range(1, 26):
                raw.send("explain", explain, number=number)
            assert not any(raw.receive().code for _ in range(25))

    as_uid(MANAGER, world.socket, fill)

    def read(raw: Raw) -> list[str]:
        others = [Raw(world.socket) for _ in range(3)]
        for number in range(1, 21):
            for one in (raw, *others):
                one.send("audit.show", {"tenant": "acme", "after": "99999999"}, number=number)
        return [one.receive().code for _ in range(20) for one in (raw, *others)]

    def ask(raw: Raw) -> set[str]:
        return {raw.call("lease.acquire", GLOBEX_PROD).code for _ in range(50)}

    readers = Child(lambda: _connected(world.socket, read), uid=MANAGER, groups=(GROUP,))
    assert as_uid(STRANGER, world.socket, ask) == {""}
    codes = readers.result()
    assert set(codes) == {"", "throttled"}
    assert codes.count("") >= MOST_PAGES


def _connected(path: str, function: Callable[[Raw], Any]) -> Any:
    with Raw(path) as raw:
        return function(raw)


def test_a_tenants_own_admin_stays_within_bounds(world: World) -> None:
    """Grants that a tenant gives itself are bounded, and a listing under thousands of patterns still tells the same."""
    world.service("acme-lister", uid=4206)
    world.grant("acme", "acme-lister", "openai/*", can=["list"])  # who comes to a tenant at all is for an admin to say
    patterns = [f"a{number}/**/b" for number in range(31)]

    def fill(raw: Raw) -> list[str]:
        keys = {"tenant": "acme", "service": "acme-lister", "can": ["list"]}
        return [raw.call("grant.add", {**keys, "secrets": [*patterns, f"c{n}/**"]}).code for n in range(300)]

    codes = as_uid(MANAGER, world.socket, fill)
    assert codes == [""] * 255 + ["quota"] * 45

    def listed(raw: Raw) -> list[str]:
        return [item["secret"] for item in raw.call("secret.list", {"tenant": "acme"}).header["items"]]

    assert as_uid(4206, world.socket, listed) == ["openai/prod", "openai/spare"]
