"""Patterns against a matcher that tries everything."""

from __future__ import annotations

from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from vaultd.access.patterns import Matcher, covers

LETTERS = "ab"

# Every name of up to three segments over a small alphabet: `z` stands for the letters that no pattern uses.
SEGMENTS = ["".join(letters) for n in (1, 2, 3) for letters in product("abz", repeat=n) if len(set(letters)) <= 2]
NAMES = [
    "/".join(row)
    for row in [
        *((one,) for one in SEGMENTS),
        *product(SEGMENTS[:12], repeat=2),
        *product(["a", "b", "z", "ab"], repeat=3),
        *product(["a", "b", "z"], repeat=4),
    ]
]

SMALL_NAMES = [
    "/".join(row)
    for n in (1, 2, 3, 4, 5)
    for row in product(["a", "b", "z", "az", "ab"] if n < 4 else ["a", "b", "z"], repeat=n)
]

segments = st.one_of(
    st.just("**"),
    st.just("*"),
    st.text(alphabet=LETTERS + "*", min_size=1, max_size=5).filter(lambda s: "**" not in s),
)
patterns = st.lists(segments, min_size=1, max_size=4).map("/".join)
names = st.lists(st.text(alphabet=LETTERS, min_size=1, max_size=5), min_size=1, max_size=5).map("/".join)


def tried_segment(pattern: str, text: str) -> bool:
    """Whether a segment matches, by trying every split at every star."""
    if not pattern:
        return not text
    if pattern[0] == "*":
        return any(tried_segment(pattern[1:], text[n:]) for n in range(len(text) + 1))
    return bool(text) and pattern[0] == text[0] and tried_segment(pattern[1:], text[1:])


def tried(pattern: list[str], name: list[str]) -> bool:
    """Whether a name matches, by trying every number of segments for every `**`."""
    if not pattern:
        return not name
    if pattern[0] == "**":
        return any(tried(pattern[1:], name[n:]) for n in range(len(name) + 1))
    return bool(name) and tried_segment(pattern[0], name[0]) and tried(pattern[1:], name[1:])


@settings(max_examples=500)
@given(patterns, names)
def test_matching_agrees_with_trying_everything(pattern: str, name: str) -> None:
    """A pattern matches exactly the names that some choice for its stars spells."""
    assert Matcher(pattern).matches(name) is tried(pattern.split("/"), name.split("/"))


@settings(max_examples=100)
@given(patterns)
def test_matching_agrees_on_every_small_name(pattern: str) -> None:
    """The same, over all names of a small world, so that matches are not rare."""
    matcher, row = Matcher(pattern), pattern.split("/")
    assert all(matcher.matches(name) is tried(row, name.split("/")) for name in NAMES)


@settings(max_examples=400)
@given(patterns, patterns)
def test_a_covered_pattern_matches_nothing_more(outer: str, inner: str) -> None:
    """Covering is never wrongly true: every small name that the inner pattern matches, the outer one matches."""
    if covers(outer, inner):
        wide, narrow = Matcher(outer), Matcher(inner)
        assert all(wide.matches(name) for name in NAMES if narrow.matches(name))


@settings(max_examples=300)
@given(patterns, names)
def test_covering_a_name_is_matching_it(pattern: str, name: str) -> None:
    """For a literal, covering and matching are one."""
    assert covers(pattern, name) is Matcher(pattern).matches(name)


@settings(max_examples=200)
@given(patterns, patterns, patterns)
def test_covering_is_an_order(one: str, two: str, three: str) -> None:
    """Each pattern covers itself, `**` covers each, and covering passes on in what it means."""
    assert covers(one, one)
    assert covers("**", one)
    if covers(one, two) and covers(two, three):
        wide, narrow = Matcher(one), Matcher(three)
        assert all(wide.matches(name) for name in NAMES if narrow.matches(name))


def test_covering_is_exact_for_every_pair_of_small_patterns() -> None:
    """Over all patterns of up to three small segments, covering is true exactly when the names are a subset."""
    small = ["/".join(row) for n in (1, 2, 3) for row in product(["*", "**", "a", "a*", "b"], repeat=n)]
    matched = {}
    for text in small:
        matcher = Matcher(text)
        matched[text] = frozenset(n for n, name in enumerate(SMALL_NAMES) if matcher.matches(name))
    wrong = [(one, two) for one in small for two in small if covers(one, two) is not (matched[two] <= matched[one])]
    assert wrong == []
