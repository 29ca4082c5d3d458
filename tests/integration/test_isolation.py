"""Foreign equals absent, over the real socket: whoever asks, for whatever is not theirs, gets the same bytes (I2)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.raw import Raw, as_uid
from tests.support.tenants import AGENT, GLOBEX, MANAGER, NOBODY, STRANGER
from vaultd.protocol.operations import OPERATIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.tenants import World

pytestmark = pytest.mark.needs_root

Case = tuple[str, dict[str, Any], bytes]

FOREIGN_TENANTS = ["globex", "nowhere", "globe", "globexx", "x" * 64]
FOREIGN_SECRETS = ["openai/prod", "globex/only", "internal/signing", "no/such", "openai/absent"]


class Ids:
    """Ids of what lives at the other tenant, beside ended and made-up ones."""

    def __init__(self, world: World) -> None:
        self._world = world

        def busy(raw: Raw) -> dict[str, Any]:
            lease = raw.call("lease.acquire", {"tenant": "globex", "secret": "openai/prod"})
            assert lease.tail == GLOBEX
            opened = raw.call("run.open", {"tenant": "globex", "scope": ["openai/*"], "anchor": os.getppid()})
            return {"lease": lease.header["lease"], "run": opened.header["run"], "token": opened.header["token"]}

        # The runs are anchored to this process where they can be, so that they live while the tests ask for them.
        self.ended = as_uid(STRANGER, world.socket, busy)
        self.leases = [self.ended["lease"], "lease_aaaaaaaaaaaaaaaaaaaa", "lease_", "run_x", "é", "x" * 128]
        self.runs = [self.ended["run"], "run_aaaaaaaaaaaaaaaaaaaa", "run_", "é", "x" * 128]
        self.grants = [world.globex_grant, "grant_aaaaaaaaaaaaaaaaaaaa", "grant_", "x"]
        self.tokens = [self.ended["token"], bytes(32), os.urandom(32), b"\xff" * 32]


@pytest.fixture(scope="module")
def ids(world: World) -> Ids:
    """What the other tenant has alive."""
    found = Ids(world)
    assert found.ended["run"] in {run["run"] for run in world.admin.pages("run.list")}
    return found


def _filled(op: str) -> dict[str, Any]:
    """Keys that make a request of `op` well formed, but for the names it is about."""
    return {
        "secret.rollback": {"to": 1},
        "secret.destroy": {"version": 1},
        "grant.add": {"service": "acme-agent", "secrets": ["openai/*"]},
        "grant.remove": {"grant": "grant_aaaaaaaaaaaaaaaaaaaa"},
        "explain": {"service": "acme-agent"},
        "run.open": {"scope": ["openai/*"]},
        "tenant.delete": {"confirm": "globex"},
        "secret.set": {"description": "x"},
    }.get(op, {})


def _by_tenant() -> Iterator[list[Case]]:
    """For each operation on a tenant, the same request at tenants that are foreign, absent or made up."""
    for op, shape in OPERATIONS.items():
        known = {**shape.required, **shape.optional}
        # Of these, an unprivileged caller gets its own filtered by tenant: nothing is refused, and they come below.
        if "tenant" not in known or op in ("run.list", "lease.list", "unseal"):
            continue
        tail = b"value" if shape.tail.most and "upload" in known else b""
        secrets = FOREIGN_SECRETS if "secret" in known and op != "audit.show" else [None]
        for secret in secrets:
            about = {} if secret is None else {"secret": secret}
            yield [(op, {**_filled(op), **about, "tenant": tenant}, tail) for tenant in FOREIGN_TENANTS]


def _ask(cases: list[list[Case]], run: bytes | None = None) -> Any:
    def there(raw: Raw) -> list[set[tuple[str, bytes]]]:
        return [{(op, raw.call(op, keys, tail, run).frame) for op, keys, tail in group} for group in cases]

    return there


def _hold(answers: list[set[tuple[str, bytes]]], word: bytes = b"denied") -> None:
    for answer in answers:
        assert len(answer) == 1, answer
        assert all(word in frame for _, frame in answer), answer


@pytest.mark.parametrize("uid", [AGENT, MANAGER, NOBODY])
def test_foreign_tenant_is_absent(world: World, uid: int) -> None:
    """Every operation at a foreign tenant answers byte for byte what it answers at one that does not exist."""
    _hold(as_uid(uid, world.socket, _ask(list(_by_tenant()))))


@pytest.mark.parametrize("uid", [AGENT, MANAGER, NOBODY])
def test_listings_of_foreign_tenants_are_empty(world: World, uid: int) -> None:
    """One's own runs and leases, filtered by a tenant that is foreign or absent, are none."""
    cases = [[(op, {"tenant": tenant}, b"") for tenant in FOREIGN_TENANTS] for op in ("run.list", "lease.list")]
    for answer in as_uid(uid, world.socket, _ask(cases)):
        assert len(answer) == 1
        assert all(b"globex" not in frame for _, frame in answer)


@pytest.mark.parametrize("uid", [AGENT, MANAGER, NOBODY])
def test_foreign_ids_are_absent(world: World, ids: Ids, uid: int) -> None:
    """Ids of live things at another tenant answer as ended, random and malformed ones do."""
    cases: list[list[Case]] = [
        [("lease.renew", {"lease": one}, b"") for one in ids.leases],
        [("lease.release", {"lease": one}, b"") for one in ids.leases],
        [("lease.revoke", {"lease": one}, b"") for one in ids.leases],
        [("lease.revoke", {"of_run": one}, b"") for one in ids.runs],
        [("run.close", {"of_run": one}, b"") for one in ids.runs],
        [("grant.remove", {"tenant": "acme", "grant": one}, b"") for one in ids.grants],
        [("slot.remove", {"slot": one}, b"") for one in (1, 2, 77)],
        [("service.remove", {"service": one}, b"") for one in ("globex-agent", "nothing", "acme-agent")],
    ]
    _hold(as_uid(uid, world.socket, _ask(cases)))


@pytest.mark.parametrize("uid", [AGENT, MANAGER, NOBODY, STRANGER])
def test_foreign_tokens_are_absent(world: World, ids: Ids, uid: int) -> None:
    """A live run's token in other hands answers as random bytes do: another uid, or the uid from another session."""

    def there(raw: Raw) -> list[set[tuple[str, bytes]]]:
        operations = ["lease.acquire", "run.claim", "run.close", "run.list", "lease.list", "subscribe", "run.open"]
        keys = {"lease.acquire": {"secret": "openai/prod"}, "run.open": {"tenant": "globex", "scope": ["openai/*"]}}
        return [
            {(op, raw.call(op, keys.get(op), run=token).frame) for token in ids.tokens if token is not None}
            for op in operations
        ]

    _hold(as_uid(uid, world.socket, there))


def test_within_one_tenant_absent_is_not_granted(world: World) -> None:
    """At its own tenant too, a service cannot tell a secret that it may not lease from one that does not exist."""
    cases = [
        [("lease.acquire", {"tenant": "acme", "secret": one}, b"") for one in ("internal/signing", "internal/none")],
        [("lease.acquire", {"tenant": "acme", "secret": one}, b"") for one in ("openai/none", "internal/signing")],
        [
            ("lease.acquire", {"tenant": "acme", "secret": "openai/prod", "version": one}, b"")
            for one in (2, 77, 4_000_000_000)
        ],
        [
            (
                op,
                {"tenant": "acme", "secret": one, **_filled(op)},
                b"value" if op in ("secret.put", "rotate.secret") else b"",
            )
            for op in ("secret.put", "rotate.secret")
            for one in ("internal/signing", "internal/none", "openai/prod")
        ],
    ]
    for answer in as_uid(AGENT, world.socket, _ask(cases)):
        assert len({frame for _, frame in answer}) == 1, answer
        assert all(b"denied" in frame for _, frame in answer)


def test_inside_a_run_nothing_else_is_there(world: World, ids: Ids) -> None:
    """With a run's token, everything outside it is absent: other tenants, other runs' leases, every verb of admins."""

    def there(raw: Raw) -> list[set[tuple[str, bytes]]]:
        opened = raw.call("run.open", {"tenant": "acme", "scope": ["openai/prod"]}).header
        token = opened["token"]
        outside = raw.call("lease.acquire", {"tenant": "acme", "secret": "openai/spare"}).header["lease"]
        cases = [
            *_by_tenant(),
            [("lease.renew", {"lease": one}, b"") for one in [*ids.leases, outside]],
            [("lease.release", {"lease": one}, b"") for one in [*ids.leases, outside]],
            [("lease.revoke", {"lease": one}, b"") for one in [*ids.leases, outside]],
            [("run.close", {"of_run": one}, b"") for one in ids.runs],
            [("lease.acquire", {"secret": one}, b"") for one in ("openai/spare", "internal/signing", "no/such")],
            [("secret.get", {"tenant": "acme", "secret": one}, b"") for one in ("openai/prod", "no/such")],
            [("slot.list", {}, b"")],
            [("tenant.list", {}, b"")],
            [("audit.show", {}, b"")],
            [("audit.checkpoint", {}, b"")],
        ]
        cases = [group for group in cases if group[0][0] != "subscribe"]  # a run hears of itself, whatever it names
        answers = _ask(cases, token)(raw)
        own = raw.call("lease.acquire", {"tenant": "acme", "secret": "openai/prod"}, run=token)
        assert own.code == ""
        assert raw.call("run.close", run=token).code == ""
        return answers

    _hold(as_uid(AGENT, world.socket, there))


def test_manager_cannot_probe_for_services(world: World) -> None:
    """`explain` tells a tenant's manager the same of a service that exists elsewhere and of one that does not."""
    cases = [
        [
            ("explain", {"tenant": "acme", "secret": "openai/prod", "service": one}, b"")
            for one in ("globex-agent", "nothing-agnt")
        ]
    ]
    (answer,) = as_uid(MANAGER, world.socket, _ask(cases))
    assert len({frame.replace(b"nothing-agnt", b"globex-agent") for _, frame in answer}) == 1


def test_denials_stay_out_of_the_other_trail(world: World) -> None:
    """What the tests above asked at globex stands in the system's trail, and in globex's there is none of it."""
    as_uid(AGENT, world.socket, _ask([[("lease.acquire", {"tenant": "globex", "secret": "openai/prod"}, b"")]]))
    assert not [line for line in world.trail("globex") if f'"uid":{AGENT}' in line]
    assert not [line for line in world.trail("globex") if f'"uid":{MANAGER}' in line]
    assert [line for line in world.trail() if f'"uid":{AGENT}' in line]


def test_trails_tell_nothing_of_others(world: World) -> None:
    """A tenant's trail and export know no other tenant's id, secrets or services, and no global sequence."""
    uid = world.admin.call("tenant.show", {"tenant": "globex"})["about"]["uid"]
    for op in ("audit.show", "audit.export"):
        lines = list(world.admin.audit_lines(op, {"tenant": "acme"}))
        text = b"\n".join(lines)
        assert b"acme-agent" in text
        assert uid.encode() not in text
        assert b'"seq"' not in text
        # What its own agents asked for in vain is theirs to see; nothing else names the other tenant.
        told = [
            line for line in lines if b"globex" in line and b'"asked"' not in line and b'"kind":"explain"' not in line
        ]
        assert told == []
