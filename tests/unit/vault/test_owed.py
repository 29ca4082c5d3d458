"""What is owed, on its way through a file: it comes back as it was, and nothing that was changed is believed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.support.audit_world import ACTOR, ADMIN
from vaultd.audit.body import Event
from vaultd.crypto.memory import Key
from vaultd.vault.owed import Debt, Header, Writer, read

VAULT = b"v" * 16
KEY = Key.copy_of(bytes(range(32)))
HEADER = Header(VAULT, b"h" * 16, 7)
DEBTS = [
    Debt(Event("vault.halted", "failed", ADMIN, reason="a durable write failed", public={"cause": "no space"}), 10**18),
    Debt(
        Event("lease.revoke", "ok", ACTOR, secret="openai/prod", lease="lease_a", total=3, extra={"runs": ["run_a"]}),
        10**18 + 1,
        b"t" * 16,
        ("run_a", "run_b"),
    ),
    Debt(Event("tenant.seal", "ok", ADMIN), 10**18 + 2, b"t" * 16, seals=True),
]


def written(*debts: Debt, header: Header = HEADER, key: Key = KEY) -> bytes:
    writer = Writer(key, header)
    return b"".join([header.encode(), *(writer.entry(debt) for debt in debts)])


def test_debts_come_back() -> None:
    """All of them, in order, with who, when, where and what else there was; and a file of none is whole."""
    assert read(written(*DEBTS), VAULT, KEY) == (HEADER, DEBTS, True)
    assert read(written(), VAULT, KEY) == (None, [], True)


def test_a_file_cut_anywhere_gives_what_is_whole() -> None:
    """At each byte: the entries before it, and that it is not all, unless it is cut between two."""
    data = written(*DEBTS)
    ends = [len(written(*DEBTS[:count])) for count in range(len(DEBTS) + 1)]
    for cut in range(len(data)):
        _, debts, whole = read(data[:cut], VAULT, KEY)
        count = max(sum(end <= cut for end in ends) - 1, 0)
        assert debts == DEBTS[:count]
        assert whole == (cut in ends)


@given(st.integers(0, 10**6), st.integers(0, 7))
def test_a_changed_bit_is_not_believed(at: int, bit: int) -> None:
    """Nothing that was not written comes out, whatever is changed; and that something is wrong is seen."""
    data = bytearray(written(*DEBTS))
    at %= len(data)
    data[at] ^= 1 << bit
    header, debts, whole = read(bytes(data), VAULT, KEY)
    assert not whole
    assert debts == DEBTS[: len(debts)]
    assert header in (None, HEADER)


def test_entries_are_not_moved() -> None:
    """Left out, put in another order, taken from another halt, another vault or another key, none opens."""
    data, start = written(*DEBTS), len(HEADER.encode())
    first = len(written(DEBTS[0])) - start
    entries = data[start:]
    for changed in (
        data[:start] + entries[first:],
        data[:start] + entries[first:] + entries[:first],
        HEADER._replace(halt=b"x" * 16).encode() + entries,
        HEADER._replace(anchor=8).encode() + entries,
        HEADER._replace(vault_id=b"w" * 16).encode() + entries,
    ):
        assert read(changed, VAULT, KEY)[1:] == ([], False)
    assert read(data, b"w" * 16, KEY)[1:] == ([], False)
    with Key.random() as other:
        assert read(data, VAULT, other)[1:] == ([], False)


@given(st.binary(max_size=400))
def test_rubbish_is_nothing(data: bytes) -> None:
    """Whatever lies there, reading ends and gives nothing."""
    assert read(data, VAULT, KEY)[1] == []
    assert read(HEADER.encode() + data, VAULT, KEY)[:2] == (None, [])


def test_a_late_record_says_that_it_is_one() -> None:
    """Its own facts stay; when it happened and that it was owed stand beside them, and whether that is certain."""
    late = DEBTS[1].late(verified=True)
    assert late.extra == {"runs": ["run_a"], "at": "2001-09-09T01:46:40.000000Z", "owed": True}
    assert late._replace(extra=None) == DEBTS[1].event._replace(extra=None)
    assert DEBTS[2].late(verified=False).extra == {"at": "2001-09-09T01:46:40.000000Z", "owed": True, "verified": False}
