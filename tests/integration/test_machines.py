"""Machines that write: what each word of a grant's `can` gives a service, under another uid and without any ticket."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.ctl import ctl_as
from tests.support.peers import Peer
from tests.support.raw import GROUP, Raw, as_uid
from tests.support.serving import Child
from tests.support.tenants import ACME, AGENT, GLOBEX, MANAGER, NOBODY, STRANGER, World
from vaultclient import Client
from vaultclient.errors import Denied

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.needs_root

PUTTER = 4211
ROTATOR = 4212
LISTER = 4213
AUDITOR = 4214
PARTIAL = 4215
LATE = 4216

PROD = {"tenant": "acme", "secret": "openai/prod"}


@pytest.fixture(scope="module")
def platform(world: World) -> World:
    """A service for each word of `can` at acme, over what is in `uploads/`; PARTIAL manages that folder alone."""
    for uid, name, can in (
        (PUTTER, "putter", "put"),
        (ROTATOR, "rotator", "rotate"),
        (LISTER, "lister", "list"),
        (AUDITOR, "auditor", "audit"),
        (PARTIAL, "partial", "manage"),
    ):
        world.service(name, uid=uid)
        world.grant("acme", name, "uploads/**", can=[can])
    world.admin.put("acme", "uploads/first", b"one")
    return world


def library(uid: int, path: str, function: Callable[[Client], Any]) -> Any:
    """What `function` returns of a client of the library under `uid`."""

    def there() -> Any:
        os.setsid()
        with Client(path, environ={}) as client:
            return function(client)

    return Child(there, uid=uid, groups=(GROUP,)).result()


EVERYTHING: tuple[tuple[str, str, dict[str, Any], bytes], ...] = (
    ("put", "secret.put", {"tenant": "acme", "secret": "uploads/first"}, b"two"),
    ("put", "secret.put", {"tenant": "acme", "secret": "uploads/new"}, b"new"),
    ("rotate", "rotate.secret", {"tenant": "acme", "secret": "uploads/first"}, b"three"),
    ("rotate", "secret.rollback", {"tenant": "acme", "secret": "uploads/first", "to": 1}, b""),
    ("list", "secret.list", {"tenant": "acme"}, b""),
    ("list", "secret.history", {"tenant": "acme", "secret": "uploads/first"}, b""),
    ("audit", "audit.show", {"tenant": "acme", "limit": 1}, b""),
    ("audit", "audit.export", {"tenant": "acme"}, b""),
    ("manage", "secret.set", {"tenant": "acme", "secret": "uploads/first", "description": "seen"}, b""),
    ("manage", "lease.revoke", {"tenant": "acme", "secret": "uploads/first"}, b""),
    ("manage", "secret.destroy", {"tenant": "acme", "secret": "uploads/first", "version": 2}, b""),
    ("manage", "secret.delete", {"tenant": "acme", "secret": "uploads/new"}, b""),
    ("the tenant", "tenant.show", {"tenant": "acme"}, b""),
    ("the tenant", "grant.list", {"tenant": "acme"}, b""),
    ("the tenant", "grant.add", {"tenant": "acme", "service": "putter", "secrets": ["x"]}, b""),
    ("the tenant", "grant.remove", {"tenant": "acme", "grant": "grant_aaaaaaaaaaaaaaaaaaaa"}, b""),
    ("the tenant", "explain", {"tenant": "acme", "secret": "uploads/first", "service": "putter"}, b""),
    ("the tenant", "lease.revoke", {"tenant": "acme"}, b""),
    ("the tenant", "subscribe", {"tenant": "acme"}, b""),
    ("nobody", "secret.get", {"tenant": "acme", "secret": "uploads/first"}, b""),
    ("nobody", "rotate.tenant", {"tenant": "acme"}, b""),
    ("nobody", "rotate.root", {}, b""),
    ("nobody", "tenant.list", {}, b""),
    ("nobody", "tenant.create", {"tenant": "mine"}, b""),
    ("nobody", "tenant.delete", {"tenant": "acme", "confirm": "acme"}, b""),
    ("nobody", "service.list", {}, b""),
    ("nobody", "service.add", {"service": "mine", "uid": 1}, b""),
    ("nobody", "service.remove", {"service": "putter"}, b""),
    ("nobody", "slot.list", {}, b""),
    ("nobody", "audit.show", {}, b""),
    ("nobody", "audit.checkpoint", {}, b""),
    ("nobody", "seal", {}, b""),
    ("nobody", "seal", {"tenant": "acme"}, b""),
)


@pytest.mark.parametrize(
    ("uid", "words"),
    [
        (PUTTER, {"put"}),
        (ROTATOR, {"rotate"}),
        (LISTER, {"list"}),
        (AUDITOR, {"audit"}),
        (PARTIAL, {"manage"}),
        (NOBODY, set()),
    ],
)
def test_each_word_gives_its_verbs_and_no_other(platform: World, uid: int, words: set[str]) -> None:
    """Every verb there is, asked by a service with one word over one folder: its own are done, the rest denied."""

    # Each word meets what it is about: two versions, and a secret to delete.
    platform.admin.put("acme", "uploads/first", b"two")
    platform.admin.put("acme", "uploads/new", b"x")
    last = platform.admin.call("secret.history", {"tenant": "acme", "secret": "uploads/first"}).keys["items"][-1]
    platform.admin.put("acme", "uploads/first", b"last")
    answers = as_uid(uid, platform.socket, lambda raw: _with_version(raw, last["version"]))
    for word, op, code in answers:
        assert (code == "") == (word in words), (word, op, code)
        assert code in ("", "denied"), (op, code)


def _with_version(raw: Raw, version: int) -> list[tuple[str, str, str]]:
    answers = []
    for word, op, keys, tail in EVERYTHING:
        given = {**keys, "version": version} if op == "secret.destroy" else keys
        answers.append((word, op, raw.call(op, given, tail).code))
    return answers


def test_a_folder_ends_at_its_pattern(platform: World) -> None:
    """Outside its patterns a service is refused the same for what is there and what is not."""
    for uid in (PUTTER, ROTATOR, LISTER, PARTIAL):
        for op in ("secret.put", "rotate.secret", "secret.history", "secret.delete"):
            tail = b"x" if op in ("secret.put", "rotate.secret") else b""

            def ask(raw: Raw, op: str = op, tail: bytes = tail) -> list[bytes]:
                names = ("openai/prod", "internal/signing", "no/such")
                return [raw.call(op, {"tenant": "acme", "secret": name}, tail).frame for name in names]

            frames = as_uid(uid, platform.socket, ask)
            assert len(set(frames)) == 1
            assert b"denied" in frames[0]
    listed = as_uid(LISTER, platform.socket, lambda raw: raw.call("secret.list", {"tenant": "acme"}).header["items"])
    assert {item["secret"].split("/")[0] for item in listed} == {"uploads"}


def test_a_back_end_stores_what_its_tenants_upload(platform: World) -> None:
    """By the library, without a ticket: a value of any size that a secret may have, and cas tells two writers apart."""
    big = os.urandom(1 << 20)

    def store(client: Client) -> tuple[int, int, str]:
        first = client.put("acme", "uploads/big", big)
        second = client.put("acme", "uploads/big", b"small", cas=first)
        try:
            client.put("acme", "uploads/big", b"late", cas=first)
        except Exception as error:  # noqa: BLE001  told to the test
            return first, second, error.code  # type: ignore[attr-defined]
        return first, second, ""

    assert library(PUTTER, platform.socket, store) == (1, 2, "conflict")
    reply = platform.admin.call("secret.get", {"tenant": "acme", "secret": "uploads/big"})
    assert bytes(reply.tail) == b"small"
    trail = [line for line in platform.trail("acme", secret="uploads/big") if '"service":"putter"' in line]
    assert [json.loads(line)["body"]["outcome"] for line in trail] == ["ok", "ok", "failed"]
    platform.admin.call("secret.delete", {"tenant": "acme", "secret": "uploads/big"})


def test_vaultctl_without_a_ticket(platform: World) -> None:
    """Each word's verbs by vaultctl, as the service's uid."""
    path = platform.socket

    def ctl(uid: int, *arguments: str, data: bytes = b"", status: int = 0) -> str:
        ended = ctl_as(uid, path, *arguments, data=data)
        assert ended.status == status, (arguments, ended)
        return ended.out

    ctl(PUTTER, "put", "acme", "uploads/ctl", data=b"one")
    ctl(ROTATOR, "rotate", "secret", "acme", "uploads/ctl", data=b"two")
    ctl(ROTATOR, "rollback", "acme", "uploads/ctl", "--to", "1")
    assert "uploads/ctl" in ctl(LISTER, "secrets", "acme")
    assert json.loads(ctl(LISTER, "--json", "history", "acme", "uploads/ctl").splitlines()[-1])["version"] == 3
    assert "uploads/ctl" in ctl(AUDITOR, "audit", "show", "acme")
    assert '"body"' in ctl(AUDITOR, "audit", "export", "acme", "--out", "-")
    ctl(PARTIAL, "secret", "set", "acme", "uploads/ctl", "--description", "by its admin")
    ctl(PARTIAL, "destroy", "acme", "uploads/ctl", "--version", "2")
    ctl(PARTIAL, "revoke", "--secret", "acme/uploads/ctl")
    ctl(PARTIAL, "secret", "delete", "acme", "uploads/ctl")
    ctl(MANAGER, "tenant", "show", "acme")
    ctl(MANAGER, "explain", "acme", "openai/prod", "--service", "acme-agent")
    added = json.loads(ctl(MANAGER, "--json", "grant", "add", "acme", "--service", "acme-agent", "--secret", "tmp/*"))
    assert added["grant"] in ctl(MANAGER, "--json", "grant", "list", "acme")
    ctl(MANAGER, "grant", "remove", "acme", added["grant"])
    ctl(MANAGER, "runs", "acme")
    ctl(MANAGER, "leases", "acme")
    ctl(MANAGER, "secrets", "globex", status=77)
    ctl(MANAGER, "tenant", "list", status=77)
    ctl(PUTTER, "secrets", "acme", status=77)


class TestManager:
    """A tenant's own admin."""

    @pytest.fixture
    def leased(self, platform: World) -> Iterator[tuple[Peer, dict[str, Any]]]:
        """An agent's process, and the lease and run that it holds at acme."""
        with Peer(platform.socket, uid=AGENT) as agent:
            opened = agent.call("run.open", {"tenant": "acme", "scope": ["openai/*"]})
            got = agent.call("lease.acquire", {"secret": "openai/prod"}, run=opened.header["token"])
            assert got.code == ""
            yield agent, {"lease": got.header["lease"], "run": opened.header["run"]}

    def test_sees_its_tenants_runs_and_leases(self, platform: World, leased: tuple[Peer, dict[str, Any]]) -> None:
        """With its tenant named it sees everybody's there, on record; without, and of another tenant, only its own."""
        _, ids = leased

        def look(raw: Raw) -> list[Any]:
            return [
                [item[what] for item in raw.call(f"{what}.list", keys).header["items"]]
                for what in ("run", "lease")
                for keys in ({"tenant": "acme"}, {}, {"tenant": "globex"}, {"tenant": "nowhere"})
            ]

        assert as_uid(MANAGER, platform.socket, look) == [[ids["run"]], [], [], [], [ids["lease"]], [], [], []]
        for uid in (PARTIAL, LISTER, AUDITOR, NOBODY):
            assert as_uid(uid, platform.socket, look) == [[]] * 8
        kinds = [json.loads(line)["body"]["kind"] for line in platform.trail("acme") if "acme-manager" in line]
        assert "run.list" in kinds
        assert "lease.list" in kinds

    @pytest.mark.parametrize("by", ["lease", "run", "secret", "tenant", "close"])
    def test_takes_back(self, platform: World, leased: tuple[Peer, dict[str, Any]], by: str) -> None:
        """It ends a lease, a run, a secret's leases and everything of its tenant, and the record says who did."""
        agent, ids = leased
        op, keys = {
            "lease": ("lease.revoke", {"lease": ids["lease"]}),
            "run": ("lease.revoke", {"of_run": ids["run"]}),
            "secret": ("lease.revoke", PROD),
            "tenant": ("lease.revoke", {"tenant": "acme"}),
            "close": ("run.close", {"of_run": ids["run"]}),
        }[by]
        for uid in (PARTIAL, PUTTER, STRANGER, NOBODY):
            assert as_uid(uid, platform.socket, lambda raw: raw.call(op, keys).code) == "denied"
        reply = as_uid(MANAGER, platform.socket, lambda raw: raw.call(op, keys).header)
        assert (reply["ok"], reply["revoked"], reply["recorded"]) == (True, 1, True)
        assert agent.call("lease.renew", {"lease": ids["lease"]}).code == "denied"
        done = [json.loads(line)["body"] for line in platform.trail("acme") if '"outcome":"ok"' in line]
        last = next(body for body in reversed(done) if body["kind"] == op)
        assert (last["actor"]["kind"], last["service"]) == ("service", "acme-manager")

    def test_cannot_reach_another_tenant(self, platform: World) -> None:
        """Another tenant's leases and runs answer as made-up ones do, and live on."""
        with Peer(platform.socket, uid=STRANGER) as other:
            got = other.call("lease.acquire", {"tenant": "globex", "secret": "openai/prod"})
            assert got.tail == GLOBEX

            def ask(raw: Raw) -> list[bytes]:
                leases = [got.header["lease"], "lease_aaaaaaaaaaaaaaaaaaaa"]
                runs = [got.header["run"], "run_aaaaaaaaaaaaaaaaaaaa"]
                frames = [raw.call("lease.revoke", {"lease": one}).frame for one in leases]
                frames += [raw.call("lease.revoke", {"of_run": one}).frame for one in runs]
                frames += [raw.call("run.close", {"of_run": one}).frame for one in runs]
                frames += [raw.call("lease.revoke", {"tenant": one}).frame for one in ("globex", "nowhere")]
                frames += [
                    raw.call("lease.revoke", {"tenant": one, "secret": "openai/prod"}).frame
                    for one in ("globex", "nowhere")
                ]
                return frames

            assert len(set(as_uid(MANAGER, platform.socket, ask))) == 1
            assert other.call("lease.renew", {"lease": got.header["lease"]}).code == ""

    def test_grants_within_its_tenant(self, platform: World) -> None:
        """It grants to the services that its tenant has, not to itself, and cannot tell another one from none."""

        def ask(raw: Raw) -> list[Any]:
            def add(service: str) -> Any:
                return raw.call("grant.add", {"tenant": "acme", "service": service, "secrets": ["internal/signing"]})

            mine = add("acme-agent")
            removed = raw.call("grant.remove", {"tenant": "acme", "grant": mine.header["grant"]})
            return [mine.code, removed.code, add("acme-manager").code, add("globex-agent").frame, add("no-such").frame]

        added, removed, itself, foreign, absent = as_uid(MANAGER, platform.socket, ask)
        assert (added, removed, itself) == ("", "", "conflict")
        assert foreign == absent
        assert b"denied" in foreign
        system = platform.admin.call("explain", {**PROD, "service": "globex-agent"}).keys
        assert not system["allowed"]

    def test_reads_no_value_by_managing(self, platform: World) -> None:
        """To manage is not to lease: a service that only manages gets no value, by no verb."""

        def ask(raw: Raw) -> list[str]:
            keys = {"tenant": "acme", "secret": "uploads/first"}
            return [
                raw.call("secret.get", keys).code,
                raw.call("lease.acquire", keys).code,
                raw.call("run.open", {"tenant": "acme", "scope": ["uploads/first"]}).code,
            ]

        assert as_uid(PARTIAL, platform.socket, ask) == ["denied"] * 3

    def test_inside_a_run_nobody_manages(self, platform: World) -> None:
        """A manager's process that is in a run has the run's rights alone."""

        def ask(raw: Raw) -> list[str]:
            opened = raw.call("run.open", {"tenant": "acme", "scope": ["openai/*"]}).header
            token = opened["token"]
            return [
                raw.call("lease.revoke", {"tenant": "acme"}, run=token).code,
                raw.call("secret.put", {**PROD}, b"x", run=token).code,
                raw.call("grant.list", {"tenant": "acme"}, run=token).code,
                raw.call("subscribe", {"tenant": "acme"}, run=token).code,
            ]

        assert as_uid(MANAGER, platform.socket, ask) == ["denied"] * 4

    def test_hears_of_its_tenant_until_its_grant_goes(self, platform: World) -> None:
        """A subscriber is told what happens at its tenant, and nothing any more once it does not manage it."""
        platform.service("late", uid=LATE)
        grant = platform.grant("acme", "late", "**", can=["manage"])
        with Peer(platform.socket, uid=LATE) as late, Peer(platform.socket, uid=AGENT) as agent:
            assert late.call("subscribe", {"tenant": "globex"}).code == "denied"
            assert late.call("subscribe", {"tenant": "acme"}).code == ""
            lease = agent.call("lease.acquire", dict(PROD)).header["lease"]
            platform.admin.call("lease.revoke", {"lease": lease})
            assert late.push()["lease"] == lease
            platform.admin.call("grant.remove", {"tenant": "acme", "grant": grant})
            unheard = agent.call("lease.acquire", dict(PROD)).header["lease"]
            platform.admin.call("lease.revoke", {"lease": unheard})
            platform.grant("acme", "late", "**", can=["manage"])
            assert late.call("subscribe", {"tenant": "acme"}).code == ""
            heard = agent.call("lease.acquire", dict(PROD)).header["lease"]
            platform.admin.call("lease.revoke", {"lease": heard})
            assert late.push()["lease"] == heard  # the run of its own time ended before: what came between is unheard


def test_who_may_nothing_hears_one_answer(platform: World) -> None:
    """By the library: the exception of a refusal is the same whether the tenant is there or not."""

    def ask(client: Client) -> list[str]:
        told = []
        for tenant in ("acme", "globex", "nowhere"):
            try:
                client.put(tenant, "uploads/x", b"x")
            except Denied as error:
                told.append(str(error))
        return told

    told = library(LISTER, platform.socket, ask)
    assert len(told) == 3
    assert len(set(told)) == 1


def test_a_manager_stops_harm_in_a_halted_vault() -> None:
    """When nothing can be recorded any more, a tenant's admin still takes back what leaks, and changes nothing else."""
    with World() as world, Peer(world.socket, uid=AGENT) as agent, Peer(world.socket, uid=MANAGER) as manager:
        lease = agent.call("lease.acquire", dict(PROD))
        assert lease.tail == ACME
        os.rename(os.path.join(world.dir, "audit", "000001.jsonl"), os.path.join(world.dir, "audit", "gone"))
        assert manager.call("secret.put", {**PROD}, b"x").code == "halted"
        revoked = manager.call("lease.revoke", dict(PROD)).header
        assert (revoked["ok"], revoked["revoked"], revoked["recorded"]) == (True, 1, False)
        assert manager.call("lease.revoke", {"tenant": "globex"}).code == "denied"


CAPS = "[limits]\nsecrets_per_tenant = 5\nbytes_per_tenant = 3000\n"


def test_what_a_tenant_keeps_is_capped() -> None:
    """The daemon holds each tenant to its caps: `quota` with a hint, nothing stored, recorded; others go on; it can be
    raised while it runs."""
    with World(config=CAPS) as world:
        world.grant("acme", "acme-agent", "uploads/*", can=["put"])

        def fill(raw: Raw) -> list[tuple[str, str]]:
            told = []
            for number in range(4):
                one = raw.call("secret.put", {"tenant": "acme", "secret": f"uploads/{number}"}, b"x")
                told.append((one.code, one.header.get("hint", "")))
            big = raw.call("secret.put", {"tenant": "acme", "secret": "uploads/0"}, bytes(4_000))
            return [*told, (big.code, big.header.get("hint", ""))]

        *fits, over, over_again, too_big = as_uid(AGENT, world.socket, fill)
        assert [code for code, _ in fits] == ["", ""]
        assert (over[0], over_again[0], too_big[0]) == ("quota", "quota", "quota")
        assert "secrets_per_tenant" in over[1]
        assert "bytes_per_tenant" in too_big[1]
        assert len(list(world.admin.pages("secret.list", {"tenant": "acme"}))) == 5
        assert [line for line in world.trail("acme") if '"reason":"quota"' in line]
        assert not [line for line in world.trail() if '"reason":"quota"' in line]
        assert world.admin.put("globex", "uploads/0", b"x") == 1
        full = ctl_as(world.me, world.socket, "--json", "put", "acme", "uploads/0", data=b"x" * 4_000)
        assert full.status == 77  # this process is the admin, that one has no ticket
        with open(world.config, "r+", encoding="utf-8") as file:
            text = file.read().replace("secrets_per_tenant = 5", "secrets_per_tenant = 6")
            file.seek(0)
            file.write(text)
        world.process.send_signal(signal.SIGHUP)
        for _ in range(200):
            codes = [code for code, _ in as_uid(AGENT, world.socket, fill)]
            if codes[2] == "":
                break
        assert codes == ["", "", "", "quota", "quota"]


@pytest.mark.parametrize("line", ["secrets_per_tenant = 0", "bytes_per_tenant = -1", 'secrets_per_tenant = "many"'])
def test_caps_that_are_none(line: str) -> None:
    """A cap that is no whole number above zero is refused with its key, and the daemon does not start."""
    from vaultd.daemon.config import Config, parse
    from vaultd.errors import ConfigError

    with pytest.raises(ConfigError, match=line.split(maxsplit=1)[0]):
        parse(f"[limits]\n{line}\n", "vaultd.toml", Config("/v", "/s"))
