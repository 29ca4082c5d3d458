"""The forward seal's pure half: tag lines, first keys, slots, and one walk's check."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.seal_world import shown
from vaultd.audit import tags
from vaultd.audit.chain import GENESIS, Link, Walk, link, parse
from vaultd.audit.seal import FirstKey, SealChain
from vaultd.audit.sealcheck import SealCheck
from vaultd.audit.sealslots import SLOT_SIZE, choose, encode
from vaultd.audit.tags import MAX_EPOCHS, TAG_FORM, Tag, continues
from vaultd.crypto.epochs import NO_PROOF, EpochKey
from vaultd.crypto.memory import Key
from vaultd.crypto.primitives import keyed_hash
from vaultd.errors import FormatVersion, IntegrityError, Internal

VAULT = b"v" * 16
TIME = "2026-11-24T10:00:00.123456Z"
TAG = Tag(7, TIME, 1, 3, 5, b"t" * 32, b"h" * 32)


def first_key(number: int = 1, fill: bytes = b"k") -> FirstKey:
    return FirstKey(number, Key.copy_of(fill * 32))


def chain_of(number: int = 1, **rest: object) -> SealChain:
    return SealChain(VAULT, number, first_key(number).epoch_key(), **rest)  # type: ignore[arg-type]


def line_of(tag: Tag) -> bytes:
    vault = None if tag.vault is None else tag.vault.hex()
    rendered = tags.render(
        tag.seq, tag.time, tag.chain, tag.first, tag.last, tag.tag, following=tag.following, vault=vault
    )
    return rendered + b',"hash":"' + tag.hash.hex().encode() + b'"}\n'


INTS = st.integers(0, 2**63 - 2)


@given(st.integers(2, 2**63 - 1), st.integers(1, 2**32 - 1), INTS, st.integers(0, MAX_EPOCHS - 1), st.booleans())
def test_a_tag_line_reads_back(seq: int, chain: int, first: int, more: int, last_of_chain: bool) -> None:
    """What is rendered is parsed as it was, in its one spelling."""
    tag = Tag(seq, TIME, chain, first, min(first + more, 2**63 - 2), b"t" * 32, b"h" * 32, b"n" * 32 * last_of_chain)
    raw = line_of(tag)
    assert parse(raw) == tag


def test_every_prefix_and_every_changed_byte_is_another_line_or_none() -> None:
    """No cut tag line, no trailing byte, no other spelling is taken for the same."""
    tag = Tag(7, TIME, 1, 3, 5, b"t" * 32, b"h" * 32, b"n" * 32)
    raw = line_of(tag)
    for end in range(len(raw)):
        with pytest.raises(IntegrityError):
            parse(raw[:end])
    for more in (b" ", b"\n", b"\0"):
        with pytest.raises(IntegrityError):
            parse(raw + more)
    for at in range(len(raw)):
        for bit in (1, 32):
            changed = raw[:at] + bytes([raw[at] ^ bit]) + raw[at + 1 :]
            try:
                assert parse(changed) != tag
            except (IntegrityError, FormatVersion):
                continue


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"chain":1', b'"chain":0'),
        (b'"chain":1', b'"chain":4294967296'),
        (b'"from":3', b'"from":6'),
        (b'"from":3', b'"from":03'),
        (b'"to":5', b'"to":9223372036854775807'),
        (b'"to":5', b'"to":1027'),
        (b'"seq":7', b'"seq":0'),
        (b'"seq":7', b'"seq":1'),
        (b"2026-11", b"2026-13"),
        (b'"v":2', b'"v":1'),
        (b'"seal":{', b'"tenant":null,"seal":{'),
    ],
)
def test_what_is_no_tag_line(old: bytes, new: bytes) -> None:
    """Numbers out of range, a run that is too long, a time that is none, a first line without a vault."""
    raw = line_of(TAG)
    assert old in raw
    with pytest.raises(IntegrityError):
        parse(raw.replace(old, new, 1))


def test_a_tag_line_of_a_later_version_says_so() -> None:
    """It is not called damaged."""
    with pytest.raises(FormatVersion, match="version 3"):
        parse(line_of(TAG).replace(b'"v":2', b'"v":3', 1))


def test_the_order_of_tag_lines() -> None:
    """Epochs follow each other, chains follow each other, and nothing comes behind a chain's last tag."""

    def tag(seq: int, chain: int, first: int, last: int, following: bytes = b"") -> Tag:
        return Tag(seq, TIME, chain, first, last, b"t" * 32, b"h" * 32, following)

    start, named = tag(2, 1, 0, 0), tag(4, 1, 1, 3, b"n" * 32)
    good = [(start, None), (tag(9, 1, 1, 1), start), (named, start), (tag(5, 2, 0, 0), named), (tag(9, 2, 0, 0), start)]
    for after, before in good:
        continues(after, before)
    continues(tag(9, 3, 77, 78), None, whole=False)
    bad = [
        (tag(2, 1, 1, 1), None),
        (tag(2, 2, 0, 0), None),
        (tag(9, 1, 2, 2), start),
        (tag(9, 1, 0, 1), start),
        (tag(9, 3, 0, 0), start),
        (tag(9, 2, 1, 1), start),
        (tag(5, 1, 4, 4), named),
        (tag(6, 2, 0, 0), named),
    ]
    for after, before in bad:
        with pytest.raises(IntegrityError):
            continues(after, before)


@given(st.integers(1, 2**32 - 1), st.binary(min_size=32, max_size=32))
def test_a_first_key_s_text_reads_back(number: int, raw: bytes) -> None:
    """With and without a newline; its identity is the key's."""
    with FirstKey(number, Key.copy_of(raw)) as first:
        text = shown(first.text())
        assert re.fullmatch(rb"seal[0-9]+:[0-9a-f]{64}:[0-9a-f]{8}", text)
        assert raw.hex().encode() in text
        for ending in (b"", b"\n", b"\r\n"):
            with FirstKey.parse(bytearray(text + ending)) as again:
                assert (again.chain, again.identity()) == (number, first.identity())
        assert raw.hex() not in repr(first)


def test_what_is_no_first_key() -> None:
    """Every cut text, every changed character and every addition is refused, and the error does not repeat it."""
    text = shown(first_key().text())
    others = [text[:end] for end in range(len(text))]
    others += [text[:at] + b"%c" % (text[at] ^ 1) + text[at + 1 :] for at in range(len(text))]
    others += [
        text + b"0",
        b" " + text,
        text + b"\n\n",
        text.upper(),
        b"seal0" + text[5:],
        b"seal99999999999" + text[5:],
    ]
    for other in others:
        with pytest.raises(IntegrityError) as caught:
            FirstKey.parse(bytearray(other))
        assert text[10:40].decode() not in str(caught.value)


def test_a_state_reads_back() -> None:
    """Both slots alike, one torn, or the other: the chain is as it was."""
    chain = chain_of(3, first=0, tag_seq=9, tag_hash=b"h" * 32)
    chain.idle()
    chain.idle()
    new, old = bytearray(shown(encode(chain, 12))), bytearray(shown(encode(chain, 11)))
    torn = bytearray(SLOT_SIZE)
    for slots, sequence in (((new, old), 12), ((new, torn), 12), ((torn, old), 11)):
        kept = choose(slots, VAULT)
        with kept.chain as again:
            assert (kept.sequence, kept.torn) == (sequence, torn in slots)
            assert (again.chain, again.first, again.proof, again.tag_seq, again.tag_hash) == (
                3,
                0,
                chain.proof,
                9,
                b"h" * 32,
            )
            assert again.key.equals(chain.key)


def _with(slot: bytes, at: int, new: bytes) -> bytearray:
    """A slot changed by somebody who can make checksums."""
    raw = bytearray(slot)
    raw[at : at + len(new)] = new
    raw[480:] = keyed_hash(None, bytes(raw[:480]), person=b"vaultd.seal.sum", size=32)
    return raw


def test_states_that_cannot_be() -> None:
    """Whole by their checksum and yet not ours: each is refused, and a later format is named."""
    chain = chain_of(tag_seq=2, tag_hash=b"h" * 32)
    slot, torn = shown(encode(chain, 2)), bytearray(SLOT_SIZE)
    cases = {
        "magic": (0, b"vaultdST"),
        "version 0": (8, b"\0\0"),
        "zeros": (10, b"\0\1"),
        "chain 0": (12, b"\0\0\0\0"),
        "slot": (32, (3).to_bytes(8, "big")),
        "epochs": (48, (1024).to_bytes(8, "big")),
        "before its first": (40, (5).to_bytes(8, "big")),
        "no tag line": (56, bytes(8)),
        "proof of nothing": (96, b"p"),
        "padding": (300, b"\1"),
    }
    for name, (at, new) in cases.items():
        with pytest.raises(IntegrityError):
            choose((_with(slot, at, new), torn), VAULT), name
    with pytest.raises(FormatVersion):
        choose((_with(slot, 8, b"\0\2"), torn), VAULT)
    for slots in (
        (torn, torn),
        (bytearray(slot), bytearray(slot)),
        (bytearray(slot), bytearray(shown(encode(chain, 5)))),
        (bytearray(slot[:-1]), torn),
    ):
        with pytest.raises(IntegrityError):
            choose(slots, VAULT)
    with pytest.raises(IntegrityError, match="another vault"):
        choose((bytearray(slot), torn), b"w" * 16)


def test_what_a_slot_shows() -> None:
    """The secret of a slot is redacted in every text form, and wiped with it."""
    chain = chain_of(tag_seq=2)
    slot = encode(chain, 2)
    assert "redacted" in f"{slot!r} {slot}"
    assert "kkkk" not in f"{chain!r}"
    slot.wipe()
    with pytest.raises(Internal):
        slot.view()


def _journal(steps: str) -> tuple[list[bytes], SealChain]:
    """Tag lines alone: `t` ends an epoch with one, `i` passes over one."""
    chain, at, lines = chain_of(), Link(0, GENESIS), []
    for step in steps:
        if step == "i":
            chain.idle()
            continue
        line, head = link(at.head, chain.tag(at, TIME, vault=VAULT.hex() if at.seq == 0 else None))
        at = Link(at.seq + 1, head)
        chain.tagged(*at)
        lines.append(line)
    return lines, chain


@given(st.text("it", max_size=30).map(lambda steps: "t" + steps))
def test_any_series_of_epochs_verifies_with_its_first_key_only(steps: str) -> None:
    """The check takes every tag and the state with the right key, and refuses with one that differs in a bit."""
    lines, chain = _journal(steps)
    for key, right in ((first_key(), True), (FirstKey(1, Key.copy_of(b"k" * 31 + b"j")), False)):
        walk = Walk()
        with key, SealCheck(key, chain.copy()) as check:
            try:
                for raw in lines:
                    before = walk.at
                    walk.step(raw)
                    assert walk.tag is not None
                    check.take(walk.tag, before, VAULT)
                check.finish(chain)
            except IntegrityError:
                assert not right
                continue
            assert right
            found = check.finding(walk.at.seq)
            assert (found.held, found.unsealed, found.tags) == (True, 0, len(lines))
            assert found.epochs == chain.first


def test_a_pruned_journal_is_checked_from_where_it_begins() -> None:
    """The key is carried on to the first epoch that is there; a number that no clock came to is refused at once."""
    lines, chain = _journal("ttiitit")
    for cut in range(1, len(lines)):
        walk = Walk(Link(cut, parse(lines[cut - 1]).hash))
        with first_key() as key, SealCheck(key, chain.copy()) as check:
            for raw in lines[cut:]:
                before = walk.at
                walk.step(raw)
                assert walk.tag is not None
                check.take(walk.tag, before, VAULT)
            check.finish(chain)
    made_up = Tag(9, TIME, 1, 2**60, 2**60, b"t" * 32, b"h" * 32)
    with first_key() as key, SealCheck(key) as check, pytest.raises(IntegrityError, match="no clock"):
        check.take(made_up, Link(8, b"h" * 32), VAULT)


def test_a_chain_that_is_misused() -> None:
    """A run that no tag could stand for is a bug, and a tag that does not follow is refused."""
    chain = chain_of()
    chain.key.advance(0)
    chain.proof = chain.key.idle(NO_PROOF, MAX_EPOCHS - 1)
    with pytest.raises(Internal):
        chain.idle()
    other = EpochKey(Key.copy_of(b"k" * 32), 0)
    with other, pytest.raises(IntegrityError):
        chain.accept(Tag(3, TIME, 1, 1, 4000, b"t" * 32, b"h" * 32), Link(2, b"h" * 32))
    assert TAG_FORM.fullmatch(line_of(TAG)) is not None
