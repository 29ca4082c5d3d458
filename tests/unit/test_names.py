"""Names: one canonical form each, everything else refused."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaultd import names
from vaultd.errors import Invalid

BAD_WORDS = [
    "", ".", "..", ".hidden", "-flag", "_x", "Acme", "ACME", "a/b", "../etc", "a\\b", "a b", "a\n", "a\0", "a" * 65,
    "caf\u00e9", unicodedata.normalize("NFD", "caf\u00e9"), "\u212a", "\uff41cme", "acme\u200b", "a:b", "a*",
]  # fmt: skip


@pytest.mark.parametrize("bad", BAD_WORDS)
@pytest.mark.parametrize("make", [names.tenant_name, names.service_name, names.purpose])
def test_a_word_outside_the_grammar_is_refused(make: object, bad: str) -> None:
    """Path parts, case and Unicode twins, newlines, NUL and 65 characters are nobody's name."""
    with pytest.raises(Invalid) as error:
        make(bad)  # type: ignore[operator]
    assert error.value.hint
    assert len(error.value.message) < 140


@pytest.mark.parametrize("bad", [None, 7, b"acme", ["acme"]])
def test_a_name_of_another_type_is_refused(bad: object) -> None:
    """Only text is a name, and the message says what came instead."""
    with pytest.raises(Invalid, match=type(bad).__name__):
        names.tenant_name(bad)


@pytest.mark.parametrize("word", sorted(names.RESERVED))
def test_reserved_words_name_nobody(word: str) -> None:
    """Words that mean something to people or code are no tenant and no service."""
    with pytest.raises(Invalid, match="reserved"):
        names.tenant_name(word)
    with pytest.raises(Invalid, match="reserved"):
        names.service_name(word)


@pytest.mark.parametrize(
    "bad",
    ["", "/", "a/", "/a", "a//b", "a/../b", "a/./b", "a/" + "b" * 65,
     "/".join("abcdefghi"), "a\n", "A/b", "a/\0", "a" * 256, "**"],
)  # fmt: skip
def test_a_secret_name_outside_the_grammar_is_refused(bad: str) -> None:
    """Empty, absolute, dotted, over-long and over-deep paths are refused."""
    with pytest.raises(Invalid):
        names.secret_name(bad)


@pytest.mark.parametrize("good", ["a", "openai/prod", "db/main/rw.v2", "/".join("abcdefgh"), "a" * 64])
def test_a_secret_name_is_itself(good: str) -> None:
    """An accepted name is returned unchanged: there is nothing to normalise."""
    assert names.secret_name(good) == good


@pytest.mark.parametrize("good", ["**", "*", "openai/*", "a/**/b", "**/key", "a*b/c-*", "db/*.ro"])
def test_patterns_of_the_grammar_are_accepted(good: str) -> None:
    """`*` inside a segment and `**` as a segment are patterns."""
    assert names.pattern(good) == good


@pytest.mark.parametrize(
    "bad", ["", "/", "a/", "***", "a**", "**a/b", "a//b", "?", "[a]", "A*", "a\n", "../*", "/".join("*" * 9)]
)
def test_patterns_outside_the_grammar_are_refused(bad: str) -> None:
    """`**` within a segment, other wildcards and path tricks are refused."""
    with pytest.raises(Invalid):
        names.pattern(bad)


_oracle = re.compile(r"\A[abcdefghijklmnopqrstuvwxyz0123456789][-a-z0-9._]{0,63}\Z")


@given(st.text(max_size=70) | st.from_regex(r"[a-zA-Z0-9._\-/]{1,70}", fullmatch=True))
def test_a_tenant_name_is_accepted_exactly_when_the_grammar_says_so(text: str) -> None:
    """Any text is accepted if and only if an independently written expression and the reserved list agree."""
    wanted = _oracle.match(text) is not None and text not in names.RESERVED
    try:
        names.tenant_name(text)
    except Invalid:
        assert not wanted
    else:
        assert wanted
        assert unicodedata.normalize("NFKC", text).casefold() == text
