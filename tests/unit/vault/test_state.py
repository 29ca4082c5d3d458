"""The pure state of a tenant: what its records add up to, what is refused before one is made, what restating keeps."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaultd.errors import Conflict, Exists, FormatVersion, IntegrityError, Invalid, NotFound
from vaultd.names import secret_name
from vaultd.vault import changes
from vaultd.vault.codec import pack, unpack
from vaultd.vault.log import Ref
from vaultd.vault.state import KEPT_DESTROYED, Blob, Secret, TenantState, VersionState

SECOND = 1_000_000_000
SECRET = {"id": bytes(16), "name": "a", "created": 1, "updated": 1, "last": 2, "versions": []}
PUT = {"op": "put", "id": bytes(16), "version": 1, "at": 1, "name": "a"}
START = 1_767_225_600 * SECOND
NAME = secret_name("openai/prod")
OTHER = secret_name("stripe")


def restated(target: TenantState, source: TenantState, secret: Secret, *, inline: bool) -> None:
    """Restate a secret on another state, its values where they are, as if they were copied in this order."""
    item, refs = source.restate(secret, inline=inline)
    first = refs[0][1].offset if refs and inline else 0
    total = sum(ref.length for _, ref in refs) if inline else 0
    target.apply(unpack(pack({"op": "secrets", "list": [item]})), Ref(1, first, total))
    moved = target.by_id[secret.id]
    for number, ref in refs:
        if not inline:
            target.apply(unpack(pack({"op": "value", "id": secret.id, "version": number})), ref)
        placed = moved.versions[number].ref
        assert placed is not None
        assert placed.length == ref.length
        moved.versions[number].ref = ref  # so that states can be compared: only the place differs


class Book:
    """A tenant's state and the records behind it, as a log would keep them."""

    def __init__(self) -> None:
        self.state = TenantState()
        self.records: list[tuple[bytes, Ref]] = []
        self.now = START
        self.made = 0

    def write(self, header: dict[str, Any], length: int = 0) -> None:
        packed = pack(header)
        ref = Ref(1, len(self.records) * 1000, length)
        self.state.apply(unpack(packed), ref)
        self.records.append((packed, ref))

    def put(self, name: str = NAME, **options: Any) -> int:
        self.made += 1
        self.now += SECOND
        header = changes.put(
            self.state, secret_name(name), now=self.now, new_id=self.made.to_bytes(16, "big"), **options
        )
        self.write(header, 168)
        return int(header["version"])

    def states(self, name: str = NAME) -> dict[int, str]:
        return {v.number: str(v.state(self.now)) for v in self.state.secret(name).versions.values()}

    def replayed(self) -> TenantState:
        state = TenantState()
        for packed, ref in self.records:
            state.apply(unpack(packed), ref)
        return state

    def restated(self) -> TenantState:
        state = TenantState()
        for secret in self.state.secrets.values():
            restated(state, self.state, secret, inline=secret.last % 2 == 0)
        for grant in self.state.grants.values():
            state.apply({"op": "grant", "grant": grant}, Ref(1, 0, 0))
        return state


def test_versions_go_through_their_states() -> None:
    """A put makes the version before previous for its grace, then retired; numbers count up."""
    book = Book()
    assert [book.put(), book.put(grace=60), book.put(grace=60)] == [1, 2, 3]
    assert book.states() == {1: "previous", 2: "previous", 3: "current"}
    book.now += 61 * SECOND
    assert book.states() == {1: "retired", 2: "retired", 3: "current"}


def test_grace_is_a_day_unless_said() -> None:
    """Without a word the version before stays leasable for 24 hours, to the nanosecond; with grace 0, not at all."""
    book = Book()
    book.put()
    book.put()
    end = book.now + 24 * 3600 * SECOND
    version = book.state.secret(NAME).version(1)
    assert (version.state(end - 1), version.state(end)) == (VersionState.PREVIOUS, VersionState.RETIRED)
    book.put(grace=0)
    assert book.states()[2] == "retired"


def test_compare_and_set() -> None:
    """A put with `cas` succeeds against that very current version, and 0 means none; else nothing changes."""
    book = Book()
    with pytest.raises(Conflict):
        book.put(cas=1)
    assert book.put(cas=0) == 1
    for wrong in (0, 2, -1):
        with pytest.raises(Conflict):
            book.put(cas=wrong)
    assert book.put(cas=1) == 2
    assert book.states() == {1: "previous", 2: "current"}


def test_pending_waits_and_is_promoted() -> None:
    """A pending version leaves the current one alone until it is promoted; a second upload takes its place."""
    book = Book()
    book.put()
    book.put(pending=True)
    assert book.states() == {1: "current", 2: "pending"}
    book.put(pending=True)
    assert book.states() == {1: "current", 2: "destroyed", 3: "pending"}
    with pytest.raises(Conflict):
        changes.promote(book.state, NAME, 1, now=book.now)
    book.write(changes.promote(book.state, NAME, 3, now=book.now))
    assert book.states() == {1: "previous", 2: "destroyed", 3: "current"}


def test_a_secret_may_begin_pending() -> None:
    """A new secret whose first value waits has no current version, which compare-and-set calls 0."""
    book = Book()
    book.put(pending=True)
    with pytest.raises(NotFound):
        book.state.secret(NAME).version(None)
    book.put(cas=0)
    assert book.states() == {1: "pending", 2: "current"}


def test_ten_retired_are_kept() -> None:
    """Of the versions past their grace the ten newest stay, the others are destroyed by the next put."""
    book = Book()
    for _ in range(15):
        book.put(grace=0)
    states = book.states()
    assert states[15] == "current"
    assert [n for n, state in states.items() if state == "retired"] == list(range(5, 15))
    assert [n for n, state in states.items() if state == "destroyed"] == [1, 2, 3, 4]


def test_ten_previous_are_kept() -> None:
    """A secret that is rotated often keeps ten versions in grace; older ones retire early, still older ones go."""
    book = Book()
    for _ in range(25):
        book.put()
    states = book.states()
    assert [n for n, state in states.items() if state == "previous"] == list(range(15, 25))
    assert [n for n, state in states.items() if state == "retired"] == list(range(5, 15))


def test_tombstones_are_forgotten_in_the_end() -> None:
    """History names the newest hundred destroyed versions, so a secret rotated for years does not grow for ever."""
    book = Book()
    for _ in range(KEPT_DESTROYED + 40):
        book.put(grace=0)
    destroyed = [n for n, state in book.states().items() if state == "destroyed"]
    assert len(destroyed) == KEPT_DESTROYED
    assert destroyed[-1] == KEPT_DESTROYED + 40 - 11
    assert book.put() == KEPT_DESTROYED + 41


def test_rollback_takes_previous_and_retired_only() -> None:
    """A value can be taken back from a superseded version, not from a current, pending, destroyed or absent one."""
    book = Book()
    for _ in range(3):
        book.put(grace=0)
    book.put(pending=True)
    book.write(changes.destroy(book.state, NAME, 1, now=book.now))
    assert changes.restore(book.state, NAME, 2, now=book.now).number == 2
    for number, error in ((1, Conflict), (3, Conflict), (4, Conflict), (5, NotFound), (0, NotFound)):
        with pytest.raises(error):
            changes.restore(book.state, NAME, number, now=book.now)


def test_the_current_version_cannot_be_destroyed() -> None:
    """Destroying the current version is refused, as is destroying twice; any other goes, and its bytes are not live."""
    book = Book()
    book.put()
    book.put()
    with pytest.raises(Conflict, match="current"):
        changes.destroy(book.state, NAME, 2, now=book.now)
    live = book.state.live
    book.write(changes.destroy(book.state, NAME, 1, now=book.now))
    assert book.state.live == live - 168
    with pytest.raises(Conflict, match="already"):
        changes.destroy(book.state, NAME, 1, now=book.now)


def test_a_name_used_again_is_another_secret() -> None:
    """After a delete the same name begins at version 1 under another id."""
    book = Book()
    book.put()
    before = book.state.secret(NAME).id
    book.write(changes.delete(book.state, NAME))
    assert book.state.live == 0
    with pytest.raises(NotFound):
        changes.delete(book.state, NAME)
    assert book.put() == 1
    assert book.state.secret(NAME).id != before


def test_facts_are_kept_until_replaced() -> None:
    """Description and due time stay across puts, are replaced by `set`, and cleared by an empty text and by 0."""
    book = Book()
    book.put(description="main key", rotate_after=3600)
    book.put()
    secret = book.state.secret(NAME)
    assert (secret.description, secret.rotate_after) == ("main key", 3600)
    book.write(changes.set_metadata(book.state, NAME, now=book.now, description="", rotate_after=0))
    assert (secret.description, secret.rotate_after) == ("", 0)


@pytest.mark.parametrize(
    "options",
    [
        {"description": "a\nb"},
        {"description": "\x1b[2J"},
        {"description": "x" * 1025},
        {"rotate_after": -1},
        {"rotate_after": 10**12},
        {"grace": -1},
    ],
)
def test_facts_out_of_bounds_are_refused(options: dict[str, Any]) -> None:
    """Control characters, overlong texts and impossible durations change nothing."""
    book = Book()
    book.put()
    with pytest.raises(Invalid):
        book.put(**options)
    assert book.states() == {1: "current"}
    with pytest.raises(Invalid):
        changes.set_metadata(book.state, NAME, now=book.now, description=None, rotate_after=None)


def test_grants_come_and_go() -> None:
    """A grant's id is taken once, and only what is there can be taken back."""
    book = Book()
    grant = {"id": "grant_1", "service": "agent", "secrets": ["**"]}
    book.write(changes.grant(book.state, grant))
    with pytest.raises(Exists):
        changes.grant(book.state, grant)
    book.write(changes.ungrant(book.state, "grant_1"))
    with pytest.raises(NotFound):
        changes.ungrant(book.state, "grant_1")


@pytest.mark.parametrize(
    "header",
    [
        {"op": "put", "id": bytes(16), "version": 1, "at": 1},
        {"op": "put", "id": bytes(16), "version": 2, "at": 1, "name": "a"},
        {"op": "put", "id": bytes(15), "version": 1, "at": 1, "name": "a"},
        {"op": "put", "id": "x", "version": 1, "at": 1},
        {"op": "put", "id": bytes(16), "version": True, "at": 1},
        {"op": "put", "id": bytes(16), "version": 1},
        {"op": "promote", "id": bytes(16), "version": 1, "at": 1},
        {"op": "set", "id": bytes(16), "at": 1},
        {"op": "delete", "id": bytes(16)},
        {"op": "destroy", "id": bytes(16), "at": 1, "versions": [1]},
        {"op": "value", "id": bytes(16), "version": 1},
        {"op": "secrets", "list": []},
        {"op": "secrets", "list": [7]},
        {"op": "secrets", "list": [SECRET | {"versions": [[1, 1, 2, 0, 0]]}]},
        {"op": "secrets", "list": [SECRET | {"versions": [[1, 1, 2, 0, 0, 99]]}]},
        {"op": "secrets", "list": [SECRET | {"versions": [[1, 1, 2, 0, 0, 100], [2, 1, 2, 0, 0, 0]]}]},
        {"op": "secrets", "list": [SECRET | {"versions": [[2, 1, 3, 0, 0, 100], [1, 1, 2, 0, 0, 0]]}]},
        {"op": "secrets", "list": [SECRET | {"versions": [[1, 1, 4, 0, 0, 100]]}]},
        {"op": "secrets", "list": [SECRET | {"versions": [[1, 1, 5, 0, 0, 100]]}]},
        {"op": "secrets", "list": [SECRET | {"versions": [[1, 1, 2, 0, 0, 100]], "last": 0}]},
        {"op": "secrets", "list": [SECRET | {"id": b"short"}]},
        {"op": "ungrant", "id": "grant_1"},
        {"op": "grant", "grant": {}},
        PUT | {"file": bytes(16)},
        PUT | {"size": 1},
        PUT | {"file": bytes(15), "size": 1},
        PUT | {"file": bytes(16), "size": 0},
        PUT | {"file": bytes(16), "size": (1 << 48) + 1},
        PUT | {"file": "x" * 16, "size": 1},
        {"op": "secrets", "list": [SECRET | {"versions": [[1, 1, 2, 0, 0, 100, bytes(16)]]}]},
        {"op": "secrets", "list": [SECRET | {"versions": [[1, 1, 2, 0, 0, 100, bytes(16), 1, 1]]}]},
        {"op": "secrets", "list": [SECRET | {"versions": [[1, 1, 2, 0, 0, 100, 16, 1]]}]},
        {"op": "secrets", "list": [SECRET | {"versions": [[1, 1, 2, 0, 0, 100, bytes(16), True]]}]},
        {"op": "secrets", "list": [SECRET | {"versions": [[1, 1, 2, 0, 0, 100, bytes(16), 0]]}]},
        {"op": "secrets", "list": [SECRET | {"versions": [[1, 1, 4, 0, 0, 0, bytes(16), 1]]}]},
        {
            "op": "secrets",
            "list": [SECRET | {"versions": [[1, 1, 3, 0, 0, 50, bytes(16), 1], [2, 1, 2, 0, 0, 50, bytes(16), 2]]}],
        },
    ],
)
def test_records_that_do_not_follow_are_refused(header: dict[str, Any]) -> None:
    """A record that no change of ours could have made here is `IntegrityError`."""
    with pytest.raises(IntegrityError):
        TenantState().apply(header, Ref(1, 0, 100))


@pytest.mark.parametrize(
    "header",
    [
        {"op": "teleport"},
        {},
        {"op": "delete", "id": bytes(16), "softly": True},
        {"op": "secrets", "list": [SECRET | {"colour": "red"}]},
    ],
)
def test_unknown_records_are_of_a_newer_version(header: dict[str, Any]) -> None:
    """What this version does not know it does not skip."""
    with pytest.raises(FormatVersion):
        TenantState().apply(header, Ref(1, 0, 0))


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(
            ["put", "blob", "pending", "promote", "destroy", "delete", "set", "rollback", "wait", "grant", "ungrant"]
        ),
        st.sampled_from([NAME, OTHER]),
        st.integers(0, 6),
        st.sampled_from([0, 60, 24 * 3600]),
    ),
    max_size=60,
)


def perform(book: Book, operation: str, name: str, number: int, grace: int) -> None:
    now, known = book.now, secret_name(name)
    match operation:
        case "put":
            book.put(name, grace=grace)
        case "blob":
            book.put(name, grace=grace, blob=Blob(book.made.to_bytes(16, "big"), (2 << 20) + number))
        case "pending":
            book.put(name, pending=True)
        case "promote":
            book.write(changes.promote(book.state, known, number, now=now, grace=grace))
        case "destroy":
            book.write(changes.destroy(book.state, known, number, now=now))
        case "delete":
            book.write(changes.delete(book.state, known))
        case "set":
            book.write(
                changes.set_metadata(book.state, known, now=now, description=f"text {number}", rotate_after=number)
            )
        case "rollback":
            source = changes.restore(book.state, known, number, now=now)
            book.put(name, source=source.number, blob=source.blob)
        case "wait":
            book.now += 3600 * SECOND * number
        case "grant":
            book.write(changes.grant(book.state, {"id": f"grant_{number}", "service": "agent", "secrets": ["**"]}))
        case "ungrant":
            book.write(changes.ungrant(book.state, f"grant_{number}"))


@given(OPERATIONS)
def test_replaying_and_restating_give_the_same_state(operations: list[tuple[str, str, int, int]]) -> None:
    """Whatever is done, replaying the records and restating the secrets both give back exactly the live state."""
    book = Book()
    for operation in operations:
        with contextlib.suppress(Conflict, Exists, NotFound):  # refusals; a planned change that does not apply is none
            perform(book, *operation)
    assert book.replayed() == book.state
    restated = book.restated()
    assert restated == book.state
    for secret in book.state.secrets.values():
        states = [version.state(book.now) for version in secret.versions.values()]
        assert states.count(VersionState.CURRENT) == (1 if secret.current else 0)
        assert states.count(VersionState.PENDING) <= 1
        assert states.count(VersionState.PREVIOUS) <= changes.KEPT_PREVIOUS
        assert list(secret.versions) == sorted(secret.versions)
        assert all((v.ref is None) == (v.state(book.now) is VersionState.DESTROYED) for v in secret.versions.values())
    refs = [v.ref for s in book.state.secrets.values() for v in s.versions.values() if v.ref is not None]
    assert book.state.live == sum(ref.length for ref in refs)
    kept = [v for s in book.state.secrets.values() for v in s.versions.values() if v.blob is not None]
    assert all(version.ref is not None for version in kept)
    assert book.state.stored == sum(blob.stored for blob in {version.blob for version in kept if version.blob})


@given(OPERATIONS, OPERATIONS)
def test_a_restatement_overrides_what_was_said_before(
    first: list[tuple[str, str, int, int]], second: list[tuple[str, str, int, int]]
) -> None:
    """A secret restated on top of an older restatement of it gives its newer state: what carrying over rests on."""
    book = Book()
    copy = TenantState()

    def restate_all() -> None:
        for secret_id in [known for known in copy.by_id if known not in book.state.by_id]:
            copy.apply({"op": "delete", "id": secret_id}, Ref(1, 0, 0))
        for secret in book.state.secrets.values():
            restated(copy, book.state, secret, inline=len(second) % 2 == 0)

    for operations in (first, second):
        for operation in operations:
            if operation[0] in ("grant", "ungrant"):
                continue
            with contextlib.suppress(Conflict, Exists, NotFound):
                perform(book, *operation)
        restate_all()
        assert copy.by_id == book.state.by_id
        assert (copy.live, copy.stored) == (book.state.live, book.state.stored)
