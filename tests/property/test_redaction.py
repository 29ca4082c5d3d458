"""Redaction of a stream: no chunking lets a value through, nothing else is changed, and little is held back."""

from __future__ import annotations

import base64
import contextlib
import json
import urllib.parse

from hypothesis import example, given, settings
from hypothesis import strategies as st

from vaultclient._forms import LEAST, forms
from vaultclient._redactor import MARK, Redactor, Stream

# Few letters, so that values overlap with themselves, with each other, and with the text around them.
FEW = st.lists(st.sampled_from(b"ab=\n"), max_size=40).map(bytes)
VALUES = st.lists(st.lists(st.sampled_from(b"ab="), min_size=LEAST, max_size=9).map(bytes), min_size=1, max_size=3)
CUTS = st.lists(st.integers(0, 60), max_size=12)


def knowing(*values: bytes) -> Redactor:
    redactor = Redactor()
    for value in values:
        redactor.add(bytearray(value))
    return redactor


def covered(redactor: Redactor, text: bytes) -> bytes:
    """What redaction means, in the plainest words: each byte of each occurrence of each form, runs marked once."""
    hidden = [False] * len(text)
    for form in map(bytes, redactor._forms()):
        for at in range(len(text) - len(form) + 1):
            if text[at : at + len(form)] == form:
                hidden[at : at + len(form)] = [True] * len(form)
    out = bytearray()
    for at, byte in enumerate(text):
        if not hidden[at]:
            out.append(byte)
        elif at == 0 or not hidden[at - 1]:
            out += MARK
    return bytes(out)


def joined(text: bytes, redactor: Redactor) -> bytes:
    """`covered`, with marks of values that touch made one."""
    out = covered(redactor, text)
    while MARK + MARK in out:
        out = out.replace(MARK + MARK, MARK)
    return out


@given(values=VALUES, text=FEW, cuts=CUTS)
@example(values=[b"abab"], text=b"ababab", cuts=[4])
@example(values=[b"aaaa", b"aaaaaaa="], text=b"aaaaaaa=aaaa", cuts=[4, 8, 9])
@example(values=[b"aaaa"], text=b"a" * 40, cuts=list(range(40)))
def test_any_chunking_hides_what_the_whole_hides(values: list[bytes], text: bytes, cuts: list[int]) -> None:
    """A stream in any chunks gives what one look at everything gives, byte by byte of the definition."""
    redactor = knowing(*values)
    assert redactor.redact(text) == joined(text, redactor)
    stream, out, last = Stream(redactor), bytearray(), 0
    for cut in [*sorted(cut for cut in cuts if cut < len(text)), len(text)]:
        out += stream.feed(text[last:cut])
        last = cut
    assert bytes(out + stream.end()) == joined(text, redactor)


@given(values=VALUES, text=FEW)
def test_only_a_suffix_that_could_begin_a_value_is_held_back(values: list[bytes], text: bytes) -> None:
    """After every byte, what is kept is exactly the longest suffix that is the beginning of some form."""
    redactor = knowing(*values)
    known = [bytes(form) for form in redactor._forms()]
    stream = Stream(redactor)
    for end in range(1, len(text) + 1):
        stream.feed(text[end - 1 : end])
        seen = text[:end]
        longest = max((size for form in known for size in range(1, len(form)) if seen.endswith(form[:size])), default=0)
        assert len(stream._kept) == longest
        assert stream.waiting <= longest


@example(values=[b"aaaa", b"aaaaa"], text=b"aaaa", glances=[True] * 40)
@given(values=VALUES, text=FEW, glances=st.lists(st.booleans(), min_size=40, max_size=40))
def test_a_glance_shows_the_short_and_costs_no_more_of_a_value(
    values: list[bytes], text: bytes, glances: list[bool]
) -> None:
    """Showing up to three waiting bytes early: the rest of a value that they began is hidden all the same."""
    redactor = knowing(*values)
    stream, out = Stream(redactor), bytearray()
    for at, glance in zip(range(len(text)), glances, strict=False):
        out += stream.feed(text[at : at + 1])
        if glance:
            out += stream.glance(3)
    out += stream.end()
    shown = bytes(out).replace(MARK, b"\0")
    assert not any(bytes(form) in shown for form in redactor._forms())


@settings(max_examples=40, deadline=None)
@given(value=st.binary(min_size=LEAST, max_size=40), before=st.binary(max_size=5), after=st.binary(max_size=5))
def test_every_encoding_is_hidden(value: bytes, before: bytes, after: bytes) -> None:
    """What the standard library's own encoders make of a value, alone and within other bytes, is not shown."""
    core = value.rstrip(b"\r\n")
    if len(core) < LEAST:
        return
    redactor = knowing(value)
    for one in (core, before + core + after):
        shown = [
            one,
            one.hex().encode(),
            one.hex().upper().encode(),
            base64.b64encode(one),
            base64.urlsafe_b64encode(one),
            urllib.parse.quote(one).encode(),
            urllib.parse.quote(one, safe="").encode(),
            urllib.parse.quote_plus(one).encode(),
        ]
        for text in shown:
            assert MARK in redactor.redact(text), text
    words = [core.decode("latin-1")]
    with contextlib.suppress(UnicodeDecodeError):
        words = [core.decode("utf-8")]
    for word in words:
        for text in (json.dumps(word), json.dumps(word, ensure_ascii=False), json.dumps(word).replace("/", "\\/")):
            assert redactor.redact(text.encode()) == b'"' + MARK + b'"', text
    if b"'" not in core:
        assert redactor.redact_text(repr(core)) == f"b'{MARK.decode()}'"
    assert redactor.redact(core.hex().encode()) == MARK
    assert redactor.redact(base64.b64encode(core)).rstrip(b"=") == MARK


@given(st.binary(max_size=3))
def test_short_values_are_not_looked_for(value: bytes) -> None:
    """A mark in place of every `7` would tell the value."""
    assert forms(bytearray(value)) == []
