"""Patterns by example; the property tests hold them against a brute-force matcher."""

from __future__ import annotations

import time

import pytest

from vaultd.access.patterns import Matcher, covers
from vaultd.access.scope import Scope
from vaultd.errors import Invalid


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("openai/prod", "openai/prod", True),
        ("openai/prod", "openai/production", False),
        ("openai/*", "openai/prod", True),
        ("openai/*", "openai", False),
        ("openai/*", "openai/prod/key", False),
        ("openai/*", "openai2/prod", False),
        ("openai/**", "openai", True),
        ("openai/**", "openai/prod", True),
        ("openai/**", "openai/prod/key", True),
        ("openai/**", "openaix", False),
        ("**", "a", True),
        ("**", "a/b/c", True),
        ("*", "a", True),
        ("*", "a/b", False),
        ("**/key", "key", True),
        ("**/key", "a/b/key", True),
        ("**/key", "a/b/keys", False),
        ("a/**/z", "a/z", True),
        ("a/**/z", "a/b/c/z", True),
        ("a/**/z", "a/b/c/zz", False),
        ("db-*/ro", "db-main/ro", True),
        ("db-*/ro", "db-/ro", True),
        ("a*a", "a", False),
        ("a*a", "aa", True),
        ("*a*b*", "xxaxxbxx", True),
        ("*a*b*", "xxbxxaxx", False),
        ("**/a/**/b", "a/x/a/b", True),
    ],
)
def test_examples(pattern: str, name: str, matches: bool) -> None:
    """A star stays within its segment, two stars take any number of segments, none included."""
    assert Matcher(pattern).matches(name) is matches


@pytest.mark.parametrize("text", ["", "/", "a//b", "a***", "**a", "A", "../x", "a\n", "a/" * 8 + "a"])
def test_malformed_patterns_are_refused(text: str) -> None:
    """What is no pattern raises Invalid, from the store as from a request."""
    with pytest.raises(Invalid):
        Matcher(text)


def test_many_stars_cost_no_more_than_few() -> None:
    """A pattern made to be slow under backtracking is answered in time that no one notices."""
    hostile = "/".join(["*a" * 31 + "*b"] * 3)
    name = "/".join(["a" * 64] * 3)
    matcher = Matcher("**/" + hostile)
    before = time.process_time()
    for _ in range(100):
        assert not matcher.matches(name)
    assert time.process_time() - before < 1  # exponential matching would take years


@pytest.mark.parametrize(
    ("outer", "inner", "is_covered"),
    [
        ("**", "a/**/b", True),
        ("*/**", "**", True),
        ("**/*", "**", True),
        ("openai/**", "openai/*", True),
        ("openai/*", "openai/**", False),
        ("openai/*", "openai/p*", True),
        ("openai/p*", "openai/*", False),
        ("*", "**", False),
        ("*", "*", True),
        ("a*c", "ab*c", True),
        ("a/b", "a/b", True),
        ("a/b", "a/*", False),
        ("a/**/z", "a/b/**/z", True),
    ],
)
def test_covering_by_example(outer: str, inner: str, is_covered: bool) -> None:
    """A pattern covers another when it matches everything that the other does."""
    assert covers(outer, inner) is is_covered


def test_each_pattern_needs_one_that_covers_it() -> None:
    """Every inner pattern is covered by a single outer one."""
    wide = Scope.parse(["a/*", "b/*"])
    assert Scope.parse(["a/x", "b/x", "b/*"]).within(wide)
    assert not Scope.parse(["a/x", "c/x"]).within(wide)
    assert not Scope.parse(["*/x"]).within(wide)
