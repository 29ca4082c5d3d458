"""Bad input at the real daemon: a clear error with code and hint, nothing changed, and the daemon serves on."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.raw import Raw, as_uid, framed, packed, whole
from tests.support.tenants import ACME, AGENT
from vaultclient.errors import VaultError
from vaultd.protocol.framing import MAX_FRAME

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.raw import Answered
    from tests.support.tenants import World

pytestmark = pytest.mark.needs_root

MIB = 1 << 20


@pytest.fixture
def raw(world: World) -> Iterator[Raw]:
    """A connection of this process, which is an admin."""
    with Raw(world.socket) as connection:
        yield connection


def _state(world: World) -> Any:
    """Everything that a refused request must leave as it is."""
    admin = world.admin
    secrets = {name: list(admin.pages("secret.list", {"tenant": name})) for name in ("acme", "globex")}
    grants = {name: list(admin.pages("grant.list", {"tenant": name})) for name in ("acme", "globex")}
    tenants = [(one["tenant"], one["generation"]) for one in admin.pages("tenant.list")]
    return tenants, secrets, grants, list(admin.pages("service.list")), len(list(admin.pages("lease.list")))


@pytest.fixture
def unchanged(world: World) -> Iterator[None]:
    """Holds that the test changed nothing."""
    before = _state(world)
    yield
    assert _state(world) == before


def _refused(answered: Answered, code: str, hint: str = "") -> None:
    assert answered.code == code, answered
    assert answered.header["message"]
    assert not answered.header["message"].replace("...", "").endswith(".")
    assert answered.header["message"][0] == answered.header["message"][0].lower()
    assert answered.header["hint"]
    assert hint in answered.header["hint"], answered


# -- names

TWINS = ["Acme", "ACME", "acme\u0301", "acm\u00e9", "acme\u0301\n", "\uff41cme", "acme\u200b", "ac\u017fme"]
BAD_WORDS = [
    "", " ", "a b", "../etc", "a/../b", "..", ".", "./acme", ".acme", "/acme", "acme/", "a\\b", "acme\n", "\nacme",
    "a\nb", "acme\0", "a\0b", "-acme", "_acme", "a" * 65, "a" * 128, "*", "a*", "%2e", "acme\r", "\x7f", "\ufeffacme",
    *TWINS,
]  # fmt: skip
RESERVED = ["all", "any", "default", "embedded", "none", "root", "self", "system", "vault", "vaultd"]


def test_bad_tenant_names(raw: Raw, unchanged: None) -> None:
    """Path parts, twins in case and normalisation, control characters, 65 characters, reserved words: no tenant."""
    for name in (*BAD_WORDS, *RESERVED):
        for op, more in (("tenant.create", {}), ("tenant.delete", {"confirm": name}), ("secret.list", {})):
            _refused(raw.call(op, {"tenant": name, **more}), "invalid")


def test_bad_service_names(raw: Raw, unchanged: None) -> None:
    """The same of a service's name."""
    for name in (*BAD_WORDS, *RESERVED):
        _refused(raw.call("service.add", {"service": name, "uid": 1}), "invalid")


def test_bad_secret_names(raw: Raw, unchanged: None) -> None:
    """The same of a secret's name and of each of its segments."""
    for name in (*BAD_WORDS, "a//b", "/".join("a" * 9), "a/" + "b" * 65, "a/B", "a/*", "a/**"):
        _refused(raw.call("secret.put", {"tenant": "acme", "secret": name}, b"value"), "invalid")
        _refused(raw.call("lease.acquire", {"tenant": "acme", "secret": name}), "invalid")
        _refused(raw.call("rotate.secret", {"tenant": "acme", "secret": name}, b"value"), "invalid")


def test_overlong_names_are_malformed(raw: Raw, unchanged: None) -> None:
    """Text far beyond any name is refused by its form already."""
    for length in (129, 600):
        _refused(raw.call("tenant.create", {"tenant": "x" * length}), "protocol")


def test_names_at_the_edge(raw: Raw, unchanged: None) -> None:
    """Sixty-four characters, and words that merely begin like reserved ones, are names."""
    for name in ("a" * 64, "0", "a.b-c_d", "vaultd.x", "selfish"):
        assert raw.call("tenant.create", {"tenant": name}).code == ""
        _refused(raw.call("tenant.create", {"tenant": name}), "exists")
        assert raw.call("tenant.delete", {"tenant": name, "confirm": name}).code == ""


def test_messages_quote_within_bounds(raw: Raw, unchanged: None) -> None:
    """What an error quotes is cut, and escaped: no newline and no control character gets into a log by a name."""
    for name in ("\x1b[31m" + "z" * 100, "a\nb: fake log line"):
        answered = raw.call("tenant.create", {"tenant": name})
        assert answered.header["message"].isprintable()
        assert answered.header["message"].isascii()
        assert len(answered.header["message"]) < 160


# -- values

VALUES = {
    "one byte": b"x",
    "nul": b"\0",
    "nuls": bytes(1000),
    "newlines": b"\r\n\n",
    "not utf-8": b"\xff\xfe\x80\xc0",
    "every byte": bytes(range(256)),
    "a tail's most": b"t" * 49_152,
    "one byte more than a tail": b"t" * 49_153,
    "1 MiB": bytes(range(256)) * 4096,
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
def test_values_come_back(world: World, value: bytes) -> None:
    """Any bytes up to 1 MiB come back as they were: to an admin, to an agent as a tail, and in a sealed memory file."""
    world.admin.put("acme", "openai/odd", value)
    with world.admin.get("acme", "openai/odd") as answer:
        assert (whole(answer.fd) if answer.fd is not None else bytes(answer.tail)) == value

    def lease(raw: Raw) -> tuple[list[bytes], bool]:
        found = []
        for memfd in (False, True):
            answered = raw.call("lease.acquire", {"tenant": "acme", "secret": "openai/odd", "memfd": memfd})
            assert answered.code == "", answered.header
            found.append(whole(raw.descriptors[-1]) if answered.header.get("memfd") else answered.tail)
            raw.call("lease.release", {"lease": answered.header["lease"]})
        return found, answered.header["memfd"]

    assert as_uid(AGENT, world.socket, lease) == ([value, value], True)


def test_empty_values(world: World, raw: Raw, unchanged: None) -> None:
    """Nothing is no secret, in one piece or uploaded, and what deletes one is in the hint."""
    for op in ("secret.put", "rotate.secret"):
        _refused(raw.call(op, {"tenant": "acme", "secret": "openai/prod"}), "invalid", "secret delete")
    _refused(raw.call("value.begin", {"size": 0}), "invalid")
    _refused(raw.call("secret.put", {"tenant": "acme", "secret": "openai/prod", "upload": True}), "invalid")


def test_values_over_the_limit(world: World, raw: Raw, unchanged: None) -> None:
    """Over 1 MiB a target must be named, and what no tenant may keep is refused before any of it is taken."""
    _refused(raw.call("value.begin", {"size": MIB + 1}), "invalid", "1 MiB")
    _refused(raw.call("value.begin", {"size": 2**32 - 1}), "invalid", "1 MiB")
    _refused(raw.call("value.chunk", {"offset": 0}, b"x"), "invalid")
    for size, code in ((2**63 - 1, "invalid"), (1 << 40, "quota")):
        with pytest.raises(VaultError) as caught:
            world.admin.call("value.begin", {"size": size, "tenant": "acme", "secret": "openai/prod"})
        assert caught.value.code == code
    _refused(raw.call("secret.put", {"tenant": "acme", "secret": "openai/prod"}, bytes(49_153)), "protocol")


def test_uploads_out_of_order(world: World, raw: Raw, unchanged: None) -> None:
    """Gaps, repeats, overruns and unfinished uploads are refused; an upload is its connection's alone."""
    assert raw.call("value.begin", {"size": 10}).code == ""
    for offset, chunk in ((1, b"x"), (0, b"x" * 11), (10, b"x"), (MIB, b"x")):
        _refused(raw.call("value.chunk", {"offset": offset}, chunk), "invalid")
    assert raw.call("value.chunk", {"offset": 0}, b"12345").header["received"] == 5
    _refused(raw.call("value.chunk", {"offset": 0}, b"12345"), "invalid")
    put = {"tenant": "acme", "secret": "openai/prod", "upload": True}
    _refused(raw.call("secret.put", put), "invalid")
    with Raw(world.socket) as other:
        _refused(other.call("secret.put", put), "invalid")
        _refused(other.call("value.chunk", {"offset": 5}, b"67890"), "invalid")
    _refused(raw.call("secret.put", put, b"both"), "protocol")


# -- numbers

TTLS = [0, -1, -(2**31)]


@pytest.mark.parametrize("ttl", TTLS)
def test_ttls_below_one(world: World, unchanged: None, ttl: int) -> None:
    """A span of zero or below is invalid wherever one can be given."""

    def there(raw: Raw) -> list[Answered]:
        lease = raw.call("lease.acquire", {"tenant": "acme", "secret": "openai/prod"}).header["lease"]
        answers = [
            raw.call("lease.acquire", {"tenant": "acme", "secret": "openai/prod", "ttl": ttl}),
            raw.call("run.open", {"tenant": "acme", "scope": ["openai/*"], "ttl": ttl}),
            raw.call("lease.renew", {"lease": lease, "ttl": ttl}),
        ]
        raw.call("lease.release", {"lease": lease})
        return answers

    for answered in as_uid(AGENT, world.socket, there):
        _refused(answered, "invalid")
    with Raw(world.socket) as raw:
        grant = {"tenant": "acme", "service": "acme-agent", "secrets": ["openai/*"]}
        _refused(raw.call("grant.add", {**grant, "max_ttl": ttl}), "invalid")
        _refused(raw.call("login", {"kind": "passphrase", "ttl": ttl}, b"x"), "invalid")
        _refused(raw.call("unseal", {"kind": "passphrase", "ttl": ttl}, b"x"), "invalid")


def test_ttls_over_the_maximum(world: World, unchanged: None) -> None:
    """A span over the grant's or the daemon's maximum is refused, and the hint says the maximum."""

    def there(raw: Raw) -> list[Answered]:
        lease = raw.call("lease.acquire", {"tenant": "acme", "secret": "openai/prod"}).header
        answers = [
            raw.call("lease.acquire", {"tenant": "acme", "secret": "openai/prod", "ttl": lease["max_ttl"] + 1}),
            raw.call("lease.renew", {"lease": lease["lease"], "ttl": lease["max_ttl"] + 1}),
            raw.call("lease.renew", {"lease": lease["lease"], "ttl": 2**31 - 1}),
        ]
        raw.call("lease.release", {"lease": lease["lease"]})
        return answers

    for answered in as_uid(AGENT, world.socket, there):
        _refused(answered, "denied", "longest ttl here is 1h")
    with Raw(world.socket) as raw:
        _refused(raw.call("login", {"kind": "passphrase", "ttl": 12 * 3600 + 1}, b"x"), "invalid")
    answered = as_uid(
        AGENT,
        world.socket,
        lambda raw: raw.call("run.open", {"tenant": "acme", "scope": ["openai/*"], "ttl": 2**31 - 1}),
    )
    _refused(answered, "denied", "longest run")


@pytest.mark.parametrize(
    "bounds",
    [
        {"max_uses": 0},
        {"max_uses": -1},
        {"max_ttl": 2**31 - 1},
        {"hours": "25:00-26:00"},
        {"hours": "8-18"},
        {"tz": "Mars/Olympus"},
        {"tz": "../../etc/passwd"},
        {"hours": "08:00-18:00", "tz": "/etc/localtime"},
        {"expires": 1},
        {"can": ["everything"]},
        {"deliver": ["mail"]},
        {"purposes": ["Chat Bot"]},
        {"secrets": ["a**"]},
        {"secrets": ["../x"]},
        {"secrets": ["a//b"]},
        {"service": "Acme-Agent"},
        {"rate": [1, 2**31 - 1]},
    ],
)
def test_bad_grants(raw: Raw, unchanged: None, bounds: dict[str, Any]) -> None:
    """Each bound of a grant that cannot be meant is refused, and no grant is made."""
    _refused(
        raw.call("grant.add", {"tenant": "acme", "service": "acme-agent", "secrets": ["openai/*"], **bounds}), "invalid"
    )


def test_grants_for_services_that_are_not_there(raw: Raw, unchanged: None) -> None:
    """A grant names a service that exists."""
    _refused(raw.call("grant.add", {"tenant": "acme", "service": "nothing", "secrets": ["**"]}), "not_found")


@pytest.mark.parametrize(
    "selectors",
    [
        {},
        {"gid": 1},
        {"exe": "/bin/true"},
        {"gid": 1, "exe": "/bin/true"},
        {"unit": "/"},
        {"unit": "/system.slice"},
        {"unit": "/user.slice/a.service"},
        {"unit": "/system.slice/../a.service"},
        {"uid": 2**32 - 1},
        {"uid": 1, "exe": "true"},
        {"uid": 1, "exe": "/no/such"},
        {"uid": 1, "exe": "/"},
        {"uid": 1, "exe": "/proc/self/mem\0"},
    ],
)
def test_services_without_selectors(raw: Raw, unchanged: None, selectors: dict[str, Any]) -> None:
    """A service needs a uid or a unit, and whatever it is given has to be able to match something."""
    _refused(raw.call("service.add", {"service": "web", **selectors}), "invalid")


# -- frames

HEADER = {"v": 1, "id": 1, "op": "status"}


@pytest.mark.parametrize(
    "header",
    [
        {**HEADER, "v": 2},
        {**HEADER, "v": "1"},
        {"id": 1, "op": "status"},
        {**HEADER, "op": "statu"},
        {**HEADER, "op": 7},
        {**HEADER, "op": None},
        {**HEADER, "op": "x" * 8000},
        {**HEADER, "more": 1},
        {**HEADER, "run": "text"},
        {**HEADER, "run": bytes(31)},
        {**HEADER, "run": None},
        {**HEADER, "op": "lease.acquire"},
        {**HEADER, "op": "lease.acquire", "secret": 7},
        {**HEADER, "op": "lease.acquire", "secret": ["openai/prod"]},
        {**HEADER, "op": "lease.acquire", "secret": "openai/prod", "ttl": True},
        {**HEADER, "op": "lease.acquire", "secret": "openai/prod", "ttl": 1.0},
        {**HEADER, "op": "lease.acquire", "secret": "openai/prod", "ttl": 2**31},
        {**HEADER, "op": "lease.acquire", "secret": "openai/prod", "delivery": "post"},
        {**HEADER, "op": "run.open", "tenant": "acme", "scope": "openai/*"},
        {**HEADER, "op": "run.open", "tenant": "acme", "scope": [1]},
        {**HEADER, "op": "run.open", "tenant": "acme", "scope": ["a"] * 65},
        {**HEADER, "op": "lease.revoke"},
        {**HEADER, "op": "lease.revoke", "lease": "lease_x", "tenant": "acme"},
        {**HEADER, "op": "lease.revoke", "lease": "lease_x", "secret": "a"},
        {**HEADER, "op": "secret.put", "tenant": "acme", "secret": "a", "cas": -1},
        {**HEADER, "op": "audit.show", "since": -1},
    ],
)  # fmt: skip
def test_malformed_requests(world: World, raw: Raw, unchanged: None, header: dict[str, Any]) -> None:
    """A request of the wrong form is answered so, and the connection goes on."""
    # Without the id that every other case has, it is not known what is answered.
    raw.socket.sendall(framed(packed(header)))
    _refused(raw.receive(), "protocol", "PROTOCOL.md")
    assert raw.call("status", number=2).code == ""


def _array(depth: int) -> bytes:
    return b"\x91" * depth + b"\x01"


MAP = packed({"v": 1, "op": "status"})[1:]
BROKEN = {
    "length of 4 GiB": b"\xff\xff\xff\xff",
    "length of one more than allowed": struct.pack(">I", MAX_FRAME + 1),
    "length zero": struct.pack(">I", 0),
    "length one": struct.pack(">I", 1) + b"x",
    "header longer than the frame": struct.pack(">IH", 4, 3) + b"\x80\x80",
    "empty header": framed(b""),
    "no map": framed(packed([1, 2])),
    "a map's beginning": framed(packed(HEADER)[:-3]),
    "bytes behind the map": framed(packed(HEADER) + b"\xc0"),
    "duplicate key": framed(b"\x84\xa2id\x01" + MAP + b"\xa2id\x02"),
    "duplicate op": framed(packed(HEADER | {"x": 1}).replace(b"\xa1x\x01", b"\xa2op\xa5hello")),
    "a key that is no text": framed(b"\x84\xa2id\x01" + MAP + b"\x01\x01"),
    "a key that is bytes": framed(b"\x84\xa2id\x01" + MAP + b"\xc4\x01x\x01"),
    "an extension": framed(b"\x84\xa2id\x01" + MAP + b"\xa1x\xd4\x01\x01"),
    "a timestamp": framed(b"\x84\xa2id\x01" + MAP + b"\xa1x\xd6\xff\x00\x00\x00\x00"),
    "nested to the sky": framed(b"\x84\xa2id\x01" + MAP + b"\xa1x" + _array(9000)),
    "nested too deep": framed(b"\x84\xa2id\x01" + MAP + b"\xa1x" + _array(6)),
    "an announced huge array": framed(b"\x84\xa2id\x01" + MAP + b"\xa1x\xdd\xff\xff\xff\xff"),
    "an announced huge map": framed(b"\xdf\xff\xff\xff\xff"),
    "an announced huge text": framed(b"\x84\xa2id\x01" + MAP + b"\xa1x\xdb\xff\xff\xff\xff"),
    "not canonical": framed(b"\x83\xa2id\xcd\x00\x01" + MAP),
    "text that is not UTF-8": framed(b"\x84\xa2id\x01" + MAP + b"\xa1x\xa2\xff\xfe"),
    "a surrogate": framed(b"\x84\xa2id\x01" + MAP + b"\xa1x\xa3\xed\xa0\x80"),
    "not a number": framed(b"\x84\xa2id\x01" + MAP + b"\xa1x\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00"),
    "a header over its limit": framed(packed({**HEADER, "x": [b"y" * 8000] * 3})),
    "id zero": framed(packed({**HEADER, "id": 0})),
    "id negative": framed(packed({**HEADER, "id": -1})),
    "id too large": framed(packed({**HEADER, "id": 2**32})),
    "id text": framed(packed({**HEADER, "id": "1"})),
    "no id": framed(packed({"v": 1, "op": "status"})),
    "text": b"GET / HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
def test_broken_frames(world: World, raw: Raw, unchanged: None, data: bytes) -> None:
    """When it is lost where a frame ends, or whom it answers, the connection is told so and ends; others go on."""
    raw.socket.sendall(data)
    answered = raw.receive()
    assert answered.code == "protocol"
    assert answered.header["id"] == 0
    assert raw.has_ended()
    with Raw(world.socket) as other:
        assert other.call("status").code == ""


def test_frames_cut_anywhere(world: World, unchanged: None) -> None:
    """A peer that leaves in the middle of a frame, wherever that is, has asked nothing."""
    frame = framed(packed({"v": 1, "id": 1, "op": "secret.put", "tenant": "acme", "secret": "cut"}), b"value")
    for length in range(len(frame)):
        with Raw(world.socket) as connection:
            connection.socket.sendall(frame[:length])
    with Raw(world.socket) as other:
        assert other.call("status").code == ""


def test_byte_by_byte(raw: Raw) -> None:
    """A frame that comes in single bytes is a frame."""
    for byte in framed(packed(HEADER)):
        raw.socket.sendall(bytes([byte]))
    assert raw.receive().code == ""


def test_two_requests_of_one_id(world: World, raw: Raw) -> None:
    """Two requests under way with one id cannot be told apart: the connection ends."""
    wait = framed(packed({"v": 1, "id": 1, "op": "audit.show", "after": "999999", "wait": 60}))
    raw.socket.sendall(wait + wait)
    codes = [raw.receive().code]
    if codes[-1] != "protocol":
        codes.append(raw.receive().code)
    assert codes[-1] == "protocol"
    with Raw(world.socket) as other:
        assert other.call("status").code == ""


def test_agents_still_work(world: World) -> None:
    """After all of it, an honest agent gets its secret."""
    answered = as_uid(
        AGENT, world.socket, lambda raw: raw.call("lease.acquire", {"tenant": "acme", "secret": "openai/prod"})
    )
    assert answered.tail == ACME
