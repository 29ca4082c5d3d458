"""Every operation and every push as data: keys, kinds, tails, who may, codes. The one place that lists them.

The parser checks requests and replies against these tables, `scripts/protocol_table.py` writes the tables of
`PROTOCOL.md` from them, and the daemon's dispatch is tested to answer exactly them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from vaultd.protocol.fields import (
    ANY_MAP,
    BOOL,
    CURSOR,
    DESCRIPTION,
    DURATION,
    INSTANT,
    ITEMS,
    NAME,
    PATH,
    RATE,
    SECRET,
    SIZE,
    TEXT,
    TOKEN,
    UINT32,
    UINT64,
    WORD,
    Kind,
    choice,
    integer,
    text,
    texts,
)

__all__ = ["COMMON_CODES", "EVENTS", "MAX_TAIL", "MAX_VALUE", "OPERATIONS", "Event", "Keys", "Operation", "Tail"]

MAX_TAIL: Final = 49_152
"""Most bytes of a tail, either way: 48 KiB, which leaves a quarter of a frame for the header."""

MAX_VALUE: Final = 1_048_576
"""Longest value that is kept with its record: 1 MiB. A longer one is a blob, sealed as it comes."""

Keys = Mapping[str, Kind]
_NO_KEYS: Final[Keys] = {}


class Tail(NamedTuple):
    """What may follow a header: what it is, and how many bytes."""

    what: str
    least: int
    most: int


NO_TAIL: Final = Tail("", 0, 0)
SLOT_SECRET: Final = Tail("the slot's secret", 1, 4_096)
TWO_SECRETS: Final = Tail("the proving slot's secret, `old` bytes of it, then the new one", 2, 8_192)
VALUE: Final = Tail("the value", 0, MAX_TAIL)
CHUNK: Final = Tail("the chunk", 1, MAX_TAIL)
VALUE_OR_FD: Final = Tail(
    "the value, or none where `memfd` or `pipe` is true and a descriptor comes with the frame", 0, MAX_TAIL
)
JSON_LINES: Final = Tail("JSON lines", 0, MAX_TAIL)
CHECKPOINT: Final = Tail("the signed statement", 1, MAX_TAIL)


class Operation(NamedTuple):
    """One operation of the protocol.

    Attributes:
        who: who may, beside what a grant's `can` gives: words of the contract's table.
        required, optional: the request's keys beside `v`, `id`, `op` and `run`.
        tail: what the request carries behind its header.
        rule: a check over several keys and the tail's length; the text it returns says what is wrong, "" is right.
        reply, reply_optional, reply_tail: the same of a reply with `ok` true, beside `id` and `ok`.
        items, items_optional: keys of each map in the reply's `items`; more may be there, optional ones may be nil.
        codes: codes that this operation can answer beside `COMMON_CODES`.
        meaning: one line.
    """

    name: str
    who: str
    meaning: str
    required: Keys = _NO_KEYS
    optional: Keys = _NO_KEYS
    tail: Tail = NO_TAIL
    rule: Callable[[Mapping[str, Any], int], str] | None = None
    reply: Keys = _NO_KEYS
    reply_optional: Keys = _NO_KEYS
    reply_tail: Tail = NO_TAIL
    items: Keys = _NO_KEYS
    items_optional: Keys = _NO_KEYS
    codes: tuple[str, ...] = ()


class Event(NamedTuple):
    """One kind of push: its keys beside `event`."""

    name: str
    meaning: str
    required: Keys = _NO_KEYS
    optional: Keys = _NO_KEYS


COMMON_CODES: Final = (
    "protocol",
    "denied",
    "ambiguous_service",
    "throttled",
    "uninitialised",
    "sealed",
    "halted",
    "unavailable",
    "internal",
)
"""Codes that any operation can answer."""


def _value_or_upload(keys: Mapping[str, Any], tail: int) -> str:
    if keys.get("upload") is True and tail:
        return "a value comes by upload or as the tail, not both"
    return ""


def _upload_target(keys: Mapping[str, Any], _tail: int) -> str:
    if ("tenant" in keys) != ("secret" in keys):
        return "tenant and secret go together"
    if "tenant" not in keys and not keys.keys() <= {"size"}:
        return "what is said of a version goes with tenant and secret"
    if not keys.keys() & {"tenant", "size"}:
        return "size is missing, which only an upload for a tenant's secret may leave out"
    return ""


def _two_secrets(keys: Mapping[str, Any], tail: int) -> str:
    if not 1 <= tail - keys["old"] <= SLOT_SECRET.most:
        return "the tail is old bytes of the one secret, then 1 to 4096 of the other"
    return ""


def _one_target(keys: Mapping[str, Any], _tail: int) -> str:
    named = [key for key in ("lease", "of_run", "tenant") if key in keys]
    if len(named) != 1:
        return "name exactly one of lease, of_run, tenant"
    if "secret" in keys and named != ["tenant"]:
        return "secret goes with tenant"
    return ""


_GRANT_OPTIONS: Final[Keys] = {
    "can": texts(16, least=1, each=32),
    "purposes": texts(32, least=1, each=128),
    "deliver": texts(8, least=1, each=32),
    "max_ttl": DURATION,
    "max_uses": integer(-(2**31), 2**31 - 1, "i32"),
    "rate": RATE,
    "hours": text(64, least=0),
    "tz": text(64, least=0),
    "expires": INSTANT,
}
_SLOT_KIND: Final = choice("passphrase", "key-file", "credential")
_DELIVERY: Final = choice("fd", "env", "print")
_PAGE: Final[Keys] = {"after": CURSOR, "limit": integer(1, 1_024)}
_OF_VERSION: Final[Keys] = {"cas": UINT32, "description": DESCRIPTION, "rotate_after": DURATION}
_RANGE: Final[Keys] = {"offset": SIZE, "length": SIZE}
_BY_DESCRIPTOR: Final[Keys] = {"memfd": BOOL, "pipe": BOOL}
_LISTED: Final[Keys] = {"items": ITEMS}
_MORE: Final[Keys] = {"next": CURSOR}
_TENANT: Final[Keys] = {"tenant": NAME}
_TENANT_SECRET: Final[Keys] = {"tenant": NAME, "secret": SECRET}
_TRIES: Final = ("wrong_secret", "integrity", "format_version", "invalid", "busy")
_STORE: Final = ("io",)
_OPENING: Final = ("quota", "integrity", "format_version", "config", "io")
_NAMED: Final = ("invalid", "not_found", "closed")
_ADMIN: Final = "admin"


_ALL: Final = (
    # -- the daemon and its keys
    Operation(
        "hello",
        "anyone",
        "versions and features of the other side; optional, first",
        optional={"client": text(128)},
        reply={"version": WORD, "protocol": UINT32, "features": texts(64, least=0, each=64)},
        reply_optional={"max_frame": UINT32, "max_value": UINT32},
    ),
    Operation(
        "status",
        "anyone",
        "the vault's state, what of the kernel is used, and who the kernel says the caller is",
        reply={
            "state": choice("uninitialised", "sealed", "unsealed", "halted"),
            "version": WORD,
            "protocol": UINT32,
            "kernel": ANY_MAP,
            "you": ANY_MAP,
        },
        reply_optional={
            "vault": WORD,
            "warnings": texts(64, least=0, each=512),
            "counts": ANY_MAP,
            "config": ANY_MAP,
            "checkpoint_key": WORD,
            "more": ANY_MAP,
        },
    ),
    Operation(
        "unseal",
        "admin uid, and the slot's secret",
        "load the vault's keys, or lift one tenant's seal; grants a ticket as login does",
        required={"kind": _SLOT_KIND},
        optional={"tenant": NAME, "ttl": DURATION, "bind": choice("parent", "self")},
        tail=SLOT_SECRET,
        reply={"expires_in": DURATION},
        reply_optional={"recovered": ANY_MAP, "slot": UINT32},
        codes=(*_TRIES, "not_found", "closed", *_STORE, "locked", "conflict"),
    ),
    Operation(
        "seal",
        "admin, responder",
        "drop the vault's keys, or one tenant's (a flag that outlives restarts)",
        optional={"tenant": NAME},
        reply_optional={"recorded": BOOL, "owed": BOOL},
        codes=_NAMED,
    ),
    Operation(
        "login",
        "admin uid, and the slot's secret",
        "an admin ticket for the caller's parent process, or for the caller",
        required={"kind": _SLOT_KIND},
        optional={"ttl": DURATION, "bind": choice("parent", "self")},
        tail=SLOT_SECRET,
        reply={"expires_in": DURATION},
        reply_optional={"slot": UINT32},
        codes=_TRIES,
    ),
    Operation("logout", "admin uid", "end the caller's tickets", reply_optional={"ended": UINT32}),
    Operation(
        "slot.add",
        _ADMIN,
        "a new key slot for the root key",
        required={"kind": _SLOT_KIND},
        optional={"label": text(64, least=0)},
        tail=SLOT_SECRET,
        reply={"slot": UINT32},
        codes=("invalid", "busy", "conflict", "quota", *_STORE),
    ),
    Operation(
        "slot.list",
        _ADMIN,
        "the key slots, without their secrets",
        reply=_LISTED,
        items={"slot": UINT32, "kind": WORD},
        items_optional={"label": DESCRIPTION, "created": INSTANT},
    ),
    Operation(
        "slot.passwd",
        "admin, and a slot's secret",
        "another passphrase for a slot, which keeps its id and label; `kind` and `old` are of the slot that proves it",
        required={"slot": UINT32, "kind": _SLOT_KIND, "old": integer(1, 4_096)},
        tail=TWO_SECRETS,
        rule=_two_secrets,
        codes=(*_TRIES, "not_found", "conflict", *_STORE),
    ),
    Operation(
        "slot.remove",
        _ADMIN,
        "revoke a key slot; the last one is refused; `rotate_root` then ends what a kept copy of it opens",
        required={"slot": UINT32},
        optional={"rotate_root": BOOL},
        reply_optional={"receipt": ANY_MAP},
        codes=("invalid", "not_found", "conflict", *_STORE),
    ),
    # -- tenants
    Operation(
        "tenant.create",
        _ADMIN,
        "a new tenant with its own keys",
        required=_TENANT,
        reply_optional={"uid": WORD},
        codes=("invalid", "exists", "conflict", *_STORE),
    ),
    Operation(
        "tenant.list",
        _ADMIN,
        "the tenants",
        optional=_PAGE,
        reply=_LISTED,
        items=_TENANT,
        items_optional={"uid": WORD, "state": WORD, "created": INSTANT, "generation": UINT32},
        reply_optional=_MORE,
    ),
    Operation(
        "tenant.show",
        "admin; can manage",
        "one tenant's state and counts",
        required=_TENANT,
        reply={"about": ANY_MAP},
        codes=_NAMED,
    ),
    Operation(
        "tenant.delete",
        _ADMIN,
        "crypto-shred a tenant; `confirm` repeats its name",
        required={"tenant": NAME, "confirm": NAME},
        optional={"with_audit": BOOL, "rotate_root": BOOL},
        reply={"receipt": ANY_MAP},
        codes=("invalid", "not_found", "conflict", *_STORE),
    ),
    # -- values and their versions
    Operation(
        "value.begin",
        "admin; can put or rotate",
        "start an upload of `size` bytes, or of any size, on this connection, replacing an unfinished one",
        optional={"size": SIZE, "tenant": NAME, "secret": SECRET, "rotate": BOOL, **_OF_VERSION},
        rule=_upload_target,
        codes=(*_NAMED, "quota", "conflict", *_STORE),
    ),
    Operation(
        "value.chunk",
        "who began the upload",
        "the upload's bytes at `offset`, in order",
        required={"offset": SIZE},
        tail=CHUNK,
        reply={"received": SIZE},
        codes=(*_NAMED, "quota", *_STORE),
    ),
    Operation(
        "secret.put",
        "admin; can put",
        "a new secret, or a new version of one",
        required=_TENANT_SECRET,
        optional={**_OF_VERSION, "upload": BOOL},
        tail=VALUE,
        rule=_value_or_upload,
        reply={"version": UINT32},
        codes=(*_NAMED, "quota", "conflict", *_STORE),
    ),
    Operation(
        "secret.get",
        _ADMIN,
        "reveal a value, or `length` bytes of it from `offset` on; audited in the tenant's trail",
        required=_TENANT_SECRET,
        optional={"version": UINT32, **_RANGE, **_BY_DESCRIPTOR},
        reply={"version": UINT32, "state": WORD},
        reply_optional={"size": SIZE, **_BY_DESCRIPTOR},
        reply_tail=VALUE_OR_FD,
        codes=(*_NAMED, *_OPENING),
    ),
    Operation(
        "secret.list",
        "admin; can list",
        "a tenant's secrets, without values",
        required=_TENANT,
        optional=_PAGE,
        reply=_LISTED,
        items={"secret": SECRET},
        items_optional={
            "version": UINT32,
            "versions": UINT32,
            "size": SIZE,
            "description": DESCRIPTION,
            "created": INSTANT,
            "updated": INSTANT,
            "rotate_after": DURATION,
            "due": INSTANT,
            "overdue": BOOL,
        },
        reply_optional=_MORE,
        codes=_NAMED,
    ),
    Operation(
        "secret.history",
        "admin; can list",
        "a secret's versions and their states",
        required=_TENANT_SECRET,
        optional=_PAGE,
        reply=_LISTED,
        items={"version": UINT32, "state": WORD},
        items_optional={"created": INSTANT, "until": INSTANT, "source": UINT32, "size": SIZE},
        reply_optional=_MORE,
        codes=_NAMED,
    ),
    Operation(
        "secret.rollback",
        "admin; can rotate",
        "a new version with the value of version `to`",
        required={**_TENANT_SECRET, "to": UINT32},
        reply={"version": UINT32},
        codes=(*_NAMED, "conflict", "quota", *_STORE),
    ),
    Operation(
        "secret.destroy",
        "admin; can manage",
        "shred one version; the current one is refused",
        required={**_TENANT_SECRET, "version": UINT32},
        codes=(*_NAMED, "conflict", *_STORE),
    ),
    Operation(
        "secret.set",
        "admin; can manage",
        "change a secret's metadata",
        required=_TENANT_SECRET,
        optional={"description": DESCRIPTION, "rotate_after": DURATION},
        codes=(*_NAMED, *_STORE),
    ),
    Operation(
        "secret.delete",
        "admin; can manage",
        "shred a secret with all its versions and revoke its leases",
        required=_TENANT_SECRET,
        codes=(*_NAMED, "conflict", *_STORE),
    ),
    # -- who may what
    Operation(
        "service.add",
        _ADMIN,
        "name a workload by what the kernel says of it; a uid or a unit at least",
        required={"service": NAME},
        optional={"uid": UINT32, "gid": UINT32, "unit": PATH, "exe": PATH},
        codes=("invalid", "exists", "config", "conflict", *_STORE),
    ),
    Operation(
        "service.list",
        _ADMIN,
        "the services",
        optional=_PAGE,
        reply=_LISTED,
        items={"service": NAME},
        items_optional={"uid": UINT32, "gid": UINT32, "unit": PATH, "exe": PATH, "tenants": UINT32},
        reply_optional=_MORE,
    ),
    Operation(
        "service.remove",
        _ADMIN,
        "forget a service; its grants go and its runs end",
        required={"service": NAME},
        codes=("invalid", "not_found", *_STORE),
    ),
    Operation(
        "grant.add",
        "admin; can manage",
        "allow a service something at a tenant",
        required={"tenant": NAME, "service": NAME, "secrets": texts(32, least=1, each=512)},
        optional=_GRANT_OPTIONS,
        reply={"grant": WORD},
        codes=(*_NAMED, "quota", "conflict", *_STORE),
    ),
    Operation(
        "grant.list",
        "admin; can manage",
        "a tenant's grants",
        required=_TENANT,
        optional=_PAGE,
        reply=_LISTED,
        items={"grant": WORD, "service": NAME, "secrets": texts(32, least=1, each=512)},
        items_optional=_GRANT_OPTIONS,
        reply_optional=_MORE,
        codes=_NAMED,
    ),
    Operation(
        "grant.remove",
        "admin; can manage",
        "take a grant back; what it alone allowed ends at the next renewal",
        required={"tenant": NAME, "grant": WORD},
        codes=(*_NAMED, *_STORE),
    ),
    # -- runs and leases
    Operation(
        "run.open",
        "service; run (a child run); admin",
        "open a run for one tenant; no `anchor`: the peer itself; `uid` may claim it; `confine`: it gets nothing else; "
        "`uses`: acquisitions at most, its child runs' included; with a run's token: a child run, of its `tenant`",
        required={"scope": texts(64, least=0, each=512)},
        optional={
            "tenant": NAME,
            "service": NAME,
            "purpose": NAME,
            "ttl": DURATION,
            "uses": UINT32,
            "anchor": UINT32,
            "uid": UINT32,
            "confine": BOOL,
        },
        reply={"run": WORD, "token": TOKEN, "expires_in": DURATION},
        reply_optional={"tenant": NAME},
        codes=("invalid", "quota", "closed", *_STORE),
    ),
    Operation(
        "run.claim",
        "run",
        "become the anchor of an unclaimed run; from its anchor or its session it changes nothing",
        reply={"run": WORD, "tenant": NAME, "expires_in": DURATION},
        reply_optional={"purpose": NAME, "scope": texts(64, least=0, each=512), "claimed": BOOL},
        codes=_STORE,
    ),
    Operation(
        "run.close",
        "run (itself, and below it); who opened it; can manage; admin, responder",
        "end a run, its child runs and its leases",
        optional={"of_run": WORD},
        reply_optional={"recorded": BOOL, "owed": BOOL, "revoked": UINT32},
        codes=("not_found",),
    ),
    Operation(
        "run.list",
        "who opened them; run (itself, and below it); can manage (with `tenant`); admin",
        "live runs",
        optional={"tenant": NAME, **_PAGE},
        reply=_LISTED,
        items={"run": WORD, "tenant": NAME, "expires_in": DURATION},
        items_optional={
            "parent": WORD,
            "service": NAME,
            "purpose": NAME,
            "uid": UINT32,
            "anchor": ANY_MAP,
            "scope": texts(64, least=0, each=512),
            "leases": UINT32,
            "opened": INSTANT,
            "uses": UINT32,
            "max_uses": UINT32,
            "implicit": BOOL,
            "claimable": BOOL,
        },
        reply_optional=_MORE,
        codes=_NAMED,
    ),
    Operation(
        "lease.acquire",
        "run; service (an implicit run, anchored to the peer)",
        "a time-bound right to one version, and its value",
        required={"secret": SECRET},
        optional={
            "tenant": NAME,
            "ttl": DURATION,
            "purpose": NAME,
            "version": UINT32,
            "delivery": _DELIVERY,
            **_BY_DESCRIPTOR,
            "service": NAME,
            "anchor": choice("parent", "self"),
        },
        reply={
            "lease": WORD,
            "secret": SECRET,
            "version": UINT32,
            "expires_in": DURATION,
            "max_ttl": DURATION,
            "delivery": _DELIVERY,
        },
        reply_optional={"size": SIZE, **_BY_DESCRIPTOR, "run": WORD},
        reply_tail=VALUE_OR_FD,
        codes=("invalid", "closed", *_OPENING),
    ),
    Operation(
        "lease.read",
        "who holds it",
        "`length` bytes (else: all) of the leased version from `offset` on, fewer where it ends",
        required={"lease": WORD, "offset": SIZE},
        optional={"length": SIZE, **_BY_DESCRIPTOR},
        reply={"size": SIZE},
        reply_optional=_BY_DESCRIPTOR,
        reply_tail=VALUE_OR_FD,
        codes=("invalid", "closed", *_OPENING),
    ),
    Operation(
        "lease.renew",
        "who holds it",
        "move a lease's end to now + `ttl`",
        required={"lease": WORD},
        optional={"ttl": DURATION},
        reply={"expires_in": DURATION},
        codes=("invalid",),
    ),
    Operation(
        "lease.release",
        "who holds it",
        "end a lease",
        required={"lease": WORD},
        reply_optional={"recorded": BOOL, "owed": BOOL},
    ),
    Operation(
        "lease.list",
        "who holds them; can manage (with `tenant`); admin",
        "live leases",
        optional={"tenant": NAME, **_PAGE},
        reply=_LISTED,
        items={"lease": WORD, "secret": SECRET, "version": UINT32, "expires_in": DURATION},
        items_optional={
            "run": WORD,
            "tenant": NAME,
            "delivery": _DELIVERY,
            "purpose": NAME,
            "service": NAME,
            "uid": UINT32,
        },
        reply_optional=_MORE,
        codes=_NAMED,
    ),
    Operation(
        "lease.revoke",
        "who holds it; can manage; admin, responder",
        "end one lease, a run's and its child runs', a secret's or a tenant's",
        optional={"lease": WORD, "of_run": WORD, "tenant": NAME, "secret": SECRET},
        rule=_one_target,
        reply={"revoked": UINT32},
        reply_optional={"recorded": BOOL, "owed": BOOL},
        codes=_NAMED,
    ),
    # -- rotation
    Operation(
        "rotate.root",
        _ADMIN,
        "a new root key; every tenant's keys re-wrapped",
        reply={"receipt": ANY_MAP},
        codes=("conflict", *_STORE),
    ),
    Operation(
        "rotate.tenant",
        _ADMIN,
        "a new tenant key; every data key re-wrapped, values untouched",
        required=_TENANT,
        reply={"receipt": ANY_MAP},
        codes=(*_NAMED, "conflict", *_STORE),
    ),
    Operation(
        "rotate.secret",
        "admin; can rotate",
        "a new value for an existing secret; holders are told by push",
        required=_TENANT_SECRET,
        optional={"upload": BOOL},
        tail=VALUE,
        rule=_value_or_upload,
        reply={"version": UINT32},
        reply_optional={"holders": UINT32},
        codes=(*_NAMED, "conflict", "quota", *_STORE),
    ),
    # -- why, and what happened
    Operation(
        "explain",
        "admin; can manage",
        "whether a request would be allowed, and which rule decides",
        required={**_TENANT_SECRET, "service": NAME},
        optional={"purpose": NAME, "delivery": _DELIVERY, "ttl": DURATION, "at": INSTANT, "can": WORD},
        reply={"allowed": BOOL, "reason": TEXT},
        reply_optional={"rule": TEXT, "grant": WORD, "ttl": DURATION, "details": ITEMS},
        codes=_NAMED,
    ),
    Operation(
        "audit.show",
        "admin; can audit",
        "records after a cursor; `wait` seconds for the first where there is none yet",
        optional={
            "tenant": NAME,
            "since": INSTANT,
            "of_run": WORD,
            "secret": SECRET,
            "after": CURSOR,
            "limit": integer(1, 10_000),
            "wait": integer(0, 60),
        },
        reply={"next": CURSOR, "count": UINT32},
        reply_optional={"more": BOOL},
        reply_tail=JSON_LINES,
        codes=(*_NAMED, "integrity", *_STORE),
    ),
    Operation(
        "audit.export",
        "admin; can audit",
        "a tenant's own chain, checkable on its own",
        required=_TENANT,
        optional={"after": CURSOR},
        reply={"next": CURSOR, "count": UINT32},
        reply_optional={"more": BOOL},
        reply_tail=JSON_LINES,
        codes=(*_NAMED, "integrity", *_STORE),
    ),
    Operation("audit.checkpoint", _ADMIN, "a signed statement of the log's size and head", reply_tail=CHECKPOINT),
    Operation(
        "audit.prune",
        _ADMIN,
        "remove the segments that lie wholly before a checkpoint, or with `dry_run` say what would go",
        optional={"dry_run": BOOL},
        tail=CHECKPOINT,
        reply={
            "pruned": BOOL,
            "lines": UINT64,
            "bytes": UINT64,
            "segments": UINT32,
            "begins": UINT64,
            "stays": UINT64,
        },
        reply_optional={"first": WORD, "last": WORD},
        codes=("conflict", "integrity", *_STORE),
    ),
    # -- pushes
    Operation(
        "subscribe",
        "run; service; admin; can manage (with `tenant`)",
        "pushes on this connection: the run's, the caller's, or a tenant's",
        optional={"tenant": NAME},
        codes=(*_NAMED, "quota"),
    ),
    Operation(
        "ack",
        "anyone",
        "the descriptor of reply `of` arrived; until then no other is sent on this connection",
        required={"of": integer(1, 2**32 - 1, "u32, not 0")},
    ),
)

OPERATIONS: Final[Mapping[str, Operation]] = {operation.name: operation for operation in _ALL}
"""Every operation by name."""

_PUSHES: Final = (
    Event(
        "lease.revoked",
        "a lease ended before its time",
        required={"lease": WORD},
        optional={"run": WORD, "reason": TEXT},
    ),
    Event("run.ended", "a run ended: closed, expired, revoked, or its anchor died", {"run": WORD}, {"reason": TEXT}),
    Event(
        "secret.rotated",
        "a secret that is leased has a new version",
        required={"tenant": NAME, "secret": SECRET, "version": UINT32},
        optional={"lease": WORD, "run": WORD},
    ),
    Event("tenant.sealed", "a tenant's keys were dropped", required=_TENANT),
    Event("tenant.contained", "a tenant was contained", required=_TENANT),
    Event("vault.sealed", "the vault's keys were dropped: every lease and ticket is gone"),
)

EVENTS: Final[Mapping[str, Event]] = {event.name: event for event in _PUSHES}
"""Every push by name."""
