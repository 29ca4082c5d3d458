"""What a record says, spelled by hand and by the JSON library alike."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.audit_world import ACTOR, ADMIN
from vaultd.audit.body import MAX_BODY, PRIVATE, Actor, Event, body_json, pad, public_part, sub_link, unpad
from vaultd.audit.canonical import canonical
from vaultd.errors import IntegrityError, Internal

TIME = "2026-11-24T10:00:00.123456Z"
SALT = "ab" * 16

texts = st.none() | st.text(max_size=20)
numbers = st.none() | st.integers(0, 2**40)
facts = st.none() | st.dictionaries(st.text(max_size=5), st.integers(-9, 9) | st.text(max_size=5), max_size=3)
actors = st.builds(Actor, st.text(max_size=8), texts, numbers, numbers, numbers, numbers, texts, texts, numbers)
events = st.builds(
    Event,
    kind=st.text(max_size=20),
    outcome=st.sampled_from(["ok", "denied", "failed", "counted"]),
    actor=actors,
    reason=texts,
    run=texts,
    purpose=texts,
    tenant=texts,
    secret=texts,
    version=numbers,
    lease=texts,
    delivery=texts,
    total=numbers,
    extra=facts,
    public=facts,
)


def spelled(event: Event, sub_seq: int, salt: str | None) -> dict[str, Any]:
    """The body as a dict, put together the plain way."""
    actor = event.actor
    who = {
        "cgroup": actor.cgroup,
        "exe": actor.exe,
        "gid": actor.gid,
        "kind": actor.kind,
        "pid": actor.pid,
        "pidfd": actor.pidfd_inode,
        "slot": actor.slot,
        "uid": actor.uid,
    }
    body = {
        "actor": {key: value for key, value in who.items() if value is not None},
        "count": event.total,
        "delivery": event.delivery,
        "extra": event.extra or None,
        "kind": event.kind,
        "lease": event.lease,
        "outcome": event.outcome,
        "public": event.public or None,
        "purpose": event.purpose,
        "reason": event.reason,
        "run": event.run,
        "salt": salt,
        "secret": event.secret,
        "service": actor.service,
        "tenant": event.tenant,
        "time": TIME,
        "tseq": sub_seq,
        "version": event.version,
    }
    return {key: value for key, value in body.items() if value is not None}


@given(events, st.integers(1, 2**60))
def test_a_body_by_hand_is_the_json_library_s(event: Event, sub_seq: int) -> None:
    """The hand-formatted body is exactly the canonical JSON of the same facts, sealed and in the clear."""
    whole = spelled(event, sub_seq, SALT)
    assert body_json(event, TIME, sub_seq, SALT) == canonical(whole)
    clear = {key: value for key, value in whole.items() if key not in PRIVATE}
    assert body_json(event, TIME, sub_seq, None) == canonical(clear)
    assert public_part(canonical(whole)) == canonical(clear)


@given(events)
def test_a_system_record_needs_sealing_when_it_has_something_private(event: Event) -> None:
    """`needs_sealing` is true exactly when the clear body would leave something out (besides the salt)."""
    whole = spelled(event, 1, None)
    assert event.needs_sealing == any(key in PRIVATE for key in whole)


@pytest.mark.parametrize(
    ("fact", "value"),
    [("run", "r"), ("purpose", "p"), ("tenant", "t"), ("secret", "s"), ("lease", "l"), ("extra", {"a": 1})],
)
def test_each_private_fact_alone_needs_sealing(fact: str, value: Any) -> None:
    """One name is enough; facts of the other kinds are not."""
    plain = Event("k", "denied", ADMIN, "why", version=1, delivery="fd", total=2, public={"a": 1}, secret_id=b"s" * 16)
    assert not plain.needs_sealing
    assert plain._replace(**{fact: value}).needs_sealing
    assert plain._replace(actor=Actor("service", "agents")).needs_sealing


def test_a_body_never_holds_the_secret_s_id() -> None:
    """The id is for the receipt; the record names the secret by its name."""
    event = Event("lease.acquire", "ok", ACTOR, secret="a", secret_id=b"\xee" * 16)
    assert "ee" * 16 not in body_json(event, TIME, 1, SALT)


def test_a_body_beyond_the_limit_is_a_bug_of_its_maker() -> None:
    """A body over the limit is refused before anything is staged; one at the limit passes."""

    def fill(size: int) -> Event:
        return Event("k", "ok", ADMIN, extra={"x": "y" * size})

    room = MAX_BODY - len(body_json(fill(0), TIME, 1, SALT))
    assert len(body_json(fill(room), TIME, 1, SALT)) == MAX_BODY
    with pytest.raises(Internal):
        body_json(fill(room + 1), TIME, 1, SALT)


@given(st.binary(max_size=1100))
def test_padding_comes_off_as_it_went_on(body: bytes) -> None:
    """Padded sizes are multiples of 256, the least that hold the body, and unpadding gives it back."""
    padded = pad(body)
    assert len(padded) % 256 == 0
    assert 0 <= len(padded) - len(body) - 4 < 256
    assert unpad(padded) == body
    assert unpad(bytearray(padded)) == body


@pytest.mark.parametrize("at", [0, 2, 7, 255, 256, 511])
def test_bytes_that_padding_would_not_make_are_refused(at: int) -> None:
    """A length that lies, a byte in the zeros, a block too many or too few: refused."""
    padded = bytearray(pad(b"x" * 300))
    assert len(padded) == 512
    if at in (0, 2, 511):
        padded[at] ^= 1
        with pytest.raises(IntegrityError):
            unpad(padded)
    else:
        with pytest.raises(IntegrityError):
            unpad(padded[:at])


def test_padding_longer_than_needed_is_refused() -> None:
    """One spelling: a whole block of zeros more is not the same body."""
    with pytest.raises(IntegrityError):
        unpad(pad(b"x") + bytes(256))


def test_the_sub_chain_is_two_hashes() -> None:
    """The head after a body is SHA-256(head before || SHA-256(body))."""
    assert sub_link(b"h" * 32, b"body") == sha256(b"h" * 32 + sha256(b"body").digest()).digest()


def test_an_actor_with_hostile_names_stays_ascii_json() -> None:
    """An executable's path with newlines, quotes and bytes that are no text is escaped, never raw."""
    actor = Actor("peer", exe='/tmp/a\n"\\\udcff\x00b', uid=1)  # noqa: S108
    assert actor.json.isascii()
    assert "\n" not in actor.json
    assert json.loads(actor.json)["exe"] == '/tmp/a\n"\\\udcff\x00b'  # noqa: S108
