"""Which names overlap: against brute force over paths. `test_overlap_git.py`, `…_case.py` and `…_limits.py` have the rest."""

from __future__ import annotations

import random
import re
from functools import cache
from itertools import chain, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sudocode_coordination.core.overlap import Overlap
from sudocode_coordination.core.resources import (
    all_covered,
    covers,
    matches,
    name_of,
    normalise,
    overlap,
)
from sudocode_coordination.errors import ResourceError
from sudocode_coordination.model import Resource


def file(path: str) -> Resource:
    return normalise(Resource("file", path))


@pytest.mark.parametrize(
    ("one", "two", "both"),
    [
        ("src/**", "src/a/f.py", True),
        ("src/*/f.py", "src/a/*", True),
        ("./src/a", "src/a/", True),
        ("**/x", "y/*", True),
        ("src/a", "src/a", True),
        ("src/a", "src/a/b", True),
        ("src/a/", "src/a/b/c", True),
        ("src/a", "src/ab", False),
        ("src/a/", "src/b/", False),
        ("./", "any/thing", True),
        ("./", "./", True),
        ("./", "**", True),
        ("src/**", "src", True),
        ("src/**", "lib/a", False),
        ("src/*.py", "src/a.py", True),
        ("src/*.py", "src/a.c", False),
        ("src/*.py", "src/a/b.py", False),
        ("src/auth", "src/*/*.py", False),
        ("src/auth/", "src/*/*.py", True),
        ("src/auth", "src/*", True),
        ("src/auth", "src/auth/*.py", True),
        ("src/auth", "src/auth/**/x/", True),
        ("src", "src/auth/*.py", True),
        ("src/a.py", "**/*.md", False),
        ("src/a.py/", "**/*.md", True),
        ("src/a.py", "src/**/", True),
        ("app/[id]/", "app/[id]/x/*", True),
        ("app/[id]", "app/[id]/page", False),
        ("src/auth/user.py", "src/**/*.py", True),
        ("src/**/*.py", "src/**/*.c", False),
        ("a/**/b", "a/b", True),
        ("a/**/b", "a/x/y/b", True),
        ("a/**b", "a/x/b", False),
        ("a**", "a/b", True),
        ("?**", "a/b", False),
        ("?**/c", "a/b/c", False),
        ("*", "a/b", False),
        ("*/", "a/b", True),
        ("[!a]", "[a]", False),
        ("[!a]", "[!b]", True),
        ("[a-c]x", "[c-f]x", True),
        ("[a-b]x", "[c-f]x", False),
        ("[[:digit:]]", "7", True),
        ("[[:digit:]]", "x", False),
        ("[]a]", "]", True),
        ("[^a]", "b", True),
        ("a\\*", "a*", True),
        ("a\\*", "ab", False),
        ("[id]/page", "[id]/page", True),
        ("[id]/page", "i/page", True),
        ("[id]/page", "x/page", False),
        ("app/[id]/", "app/[id]/page.tsx", True),
        ("u\u0308*", "\u00fcber", True),
        ("?", "ü", True),
        ("b[", "b[", True),
        ("b[", "bc", False),
    ],
)
def test_examples(one: str, two: str, both: bool) -> None:
    assert overlap(file(one), file(two)) == both
    assert overlap(file(two), file(one)) == both


# --- against brute force --------------------------------------------------------------------------------------------------

PARTS = {
    "a": "a",
    "b": "b",
    "*": ".*",
    "?": ".",
    "a*": "a.*",
    "*b": ".*b",
    "?b": ".b",
    "[ab]": "[ab]",
    "[!a]": "[^a]",
    "[!ab]": "[^ab]",
    "\\a": "a",
    "a[b-c]": "a[bc]",
    "?**": "..*",
}
"""Parts of patterns with what they mean as regular expressions, written down and not computed."""
NAMES = ("a", "b", "c", "ab", "bb", "ac")
"""Enough of them that any two parts that have a name in common have one of these."""
DEEP = "**"


def _plain(parts: tuple[str, ...]) -> bool:
    return all(part in ("a", "b") for part in parts)


def _meaning(parts: tuple[str, ...], slash: bool) -> re.Pattern[str]:
    """The regular expression of the paths that a name made of these parts stands for."""
    wild = ""
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        if part == DEEP:
            wild += "[^/]+(/[^/]+)*" if last else "([^/]+/)*"
        else:
            wild += f"(?=[^/])(?:{PARTS[part].replace('.', '[^/]')})" + ("" if last else "/")
    return re.compile(f"(?:{re.escape('/'.join(parts))}|{wild}){'(/.*)?' if slash else ''}", re.DOTALL)


def _in_folder(inner: tuple[str, ...], outer: tuple[str, ...]) -> bool:
    """Whether a plain name is, letter by letter, one or a folder of the other, whose parts before a wildcard are what counts."""
    certain = inner[: next((n for n, part in enumerate(inner) if part not in ("a", "b")), len(inner))]
    return _plain(outer) and certain[: len(outer)] == outer


@cache
def _paths(extra: tuple[str, ...]) -> list[str]:
    names = sorted({*NAMES, *extra})
    return ["/".join(path) for length in range(1, 5) for path in product(names, repeat=length)]


@st.composite
def shapes(draw: st.DrawFn) -> tuple[tuple[str, ...], bool]:
    parts = draw(st.lists(st.sampled_from(sorted(PARTS)), min_size=1, max_size=2))
    where = draw(st.sets(st.integers(0, len(parts)), max_size=1))
    for at in sorted(where, reverse=True):
        parts.insert(at, DEEP)
    return tuple(parts), draw(st.booleans())


def _name(shape: tuple[tuple[str, ...], bool]) -> Resource:
    return file("/".join(shape[0]) + ("/" if shape[1] else ""))


def _all(shape: tuple[tuple[str, ...], bool], paths: list[str]) -> set[str]:
    return set(filter(_meaning(*shape).fullmatch, paths))


@settings(max_examples=300, deadline=None)
@given(shapes(), shapes())
def test_two_names_overlap_if_and_only_if_a_path_is_meant_by_both_or_one_is_a_folder_of_the_other(
    one: tuple[tuple[str, ...], bool], two: tuple[tuple[str, ...], bool]
) -> None:
    paths = _paths(tuple(sorted({*one[0], *two[0]} - {DEEP})))
    first, second = _all(one, paths), _all(two, paths)
    expected = bool(first & second) or _in_folder(one[0], two[0]) or _in_folder(two[0], one[0])
    assert overlap(_name(one), _name(two)) == expected
    assert overlap(_name(two), _name(one)) == expected
    index = Overlap()
    index.add("one", (_name(one),))
    assert index.touches(_name(two)) == expected
    if covers(_name(one), _name(two)):
        assert second <= first
    files = {path for path in paths if _plain(one[0]) and path.startswith("/".join(one[0]) + "/")} | first
    for path in random.Random(0).sample(paths, 50):
        assert matches(_name(one), path) == (path in files)


TOKENS = {"a": "a", "b": "b", "?": ".", "*": ".*", "[ab]": "[ab]", "[!a]": "[^a]"}


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(sorted(TOKENS)), min_size=1, max_size=5),
    st.lists(st.sampled_from(sorted(TOKENS)), min_size=1, max_size=5),
)
def test_within_one_name_too(one: list[str], two: list[str]) -> None:
    one, two = [list(chain(*(t for t in tokens))) and tokens for tokens in (one, two)]
    texts = ["".join(tokens) for tokens in (one, two)]
    needed = sum(token != "*" for token in one + two)
    strings = ["".join(s) for length in range(1, min(needed, 7) + 2) for s in product("abc", repeat=length)][:4_000]
    plain = [all(token in ("a", "b") for token in tokens) for tokens in (one, two)]
    regexes = [re.compile("".join(TOKENS[token] for token in tokens)) for tokens in (one, two)]
    both = any(all(regex.fullmatch(s) or s == text for regex, text in zip(regexes, texts, strict=True)) for s in [*strings, *texts])
    found = overlap(file(texts[0]), file(texts[1]))
    assert found == overlap(file(texts[1]), file(texts[0]))
    if both or (needed <= 6 and not any(plain)):
        assert found == both


anything = st.text(alphabet="abAÄä/*?[]!^-\\.:", min_size=1, max_size=14)


def _or_none(path: str) -> Resource | None:
    try:
        return file(path)
    except ResourceError:
        return None


@settings(max_examples=500)
@given(anything, anything, anything)
def test_laws_of_any_names(x: str, y: str, z: str) -> None:
    one, two, three = (_or_none(path) for path in (x, y, z))
    if one is None or two is None or three is None:
        return
    assert overlap(one, one)
    assert overlap(one, two) == overlap(two, one)
    if covers(one, two) and overlap(two, three):
        assert overlap(one, three)
    if covers(one, two) and covers(two, three):
        assert overlap(one, three)
    assert overlap(one, file("./"))
    assert covers(file("./"), one)
    assert not overlap(one, two) or overlap(one, two, fold_case=True)
    assert overlap(one, two, fold_case=True) == overlap(two, one, fold_case=True)
    assert not covers(one, two, fold_case=True) or not overlap(two, three, fold_case=True) or overlap(one, three, fold_case=True)
    index = Overlap()
    index.add("one", (one, three))
    assert index.touches(two) == (overlap(one, two) or overlap(three, two))
    assert index.touches(two, fold_case=True) == (overlap(one, two, fold_case=True) or overlap(three, two, fold_case=True))


# --- the index --------------------------------------------------------------------------------------------------------------

few = st.sampled_from(
    [
        "./",
        "a",
        "a/",
        "a/b",
        "a/b/",
        "a/b/c",
        "ab",
        "a0",
        "a.b",
        "b",
        "a/*",
        "*/b",
        "**",
        "**/b",
        "a/**",
        "a/b/*",
        "*",
        "[ab]/c",
        "a/[bc]/",
        "b*",
        "A",
        "A/b",
        "A/B*",
        "[AB]/c",
        "a\U0010ffff",
        "a\U0010ffff/b",
    ]
)
names = st.builds(lambda kind, path: normalise(Resource(kind, path)), st.sampled_from(("file", "spec", "issue")), few)
sets = st.lists(names, min_size=1, max_size=4, unique=True).map(tuple)


@settings(max_examples=400)
@given(st.lists(st.tuples(sets, st.booleans()), max_size=8), st.sets(st.integers(0, 7)), sets, st.booleans(), st.booleans())
def test_the_index_finds_what_comparing_all_with_all_finds(
    claims: list[tuple[tuple[Resource, ...], bool]],
    removed: set[int],
    wanted: tuple[Resource, ...],
    fold_case: bool,
    asked_before: bool,
) -> None:
    index = Overlap()
    for number, (held, folds) in enumerate(claims):
        if asked_before and number == len(claims) // 2:
            list(index.of(wanted, fold_case=True))
        index.add(f"c{number}", held, fold_case=folds)
    for number in sorted(removed):
        if number < len(claims):
            index.remove(f"c{number}", claims[number][0], fold_case=claims[number][1])
    for folding in (fold_case, not fold_case):
        expected = [
            f"c{number}"
            for number, (held, folds) in enumerate(claims)
            if number not in removed and any(overlap(a, b, fold_case=folds or folding) for a in held for b in wanted)
        ]
        assert list(index.of(wanted, fold_case=folding)) == expected, "in the order in which they became known"
    for number, (held, folds) in enumerate(claims):
        index.remove(f"c{number}", held, fold_case=folds)
    everything = [normalise(Resource(kind, "./")) for kind in ("file", "spec")]
    assert [*index.of(everything), *index.of(everything, fold_case=True)] == []
    assert not index._exact


@given(sets, sets, st.booleans())
def test_covered_by_one_of_them(inner: tuple[Resource, ...], outer: tuple[Resource, ...], fold_case: bool) -> None:
    expected = all(any(covers(o, i, fold_case=fold_case) for o in outer) for i in inner)
    assert all_covered(inner, outer, fold_case=fold_case) == expected


def test_a_slash_at_the_end_makes_no_other_name_of_a_path() -> None:
    assert name_of(file("src/a/")) == name_of(file("src/a"))
    assert name_of(file("src/*/")) != name_of(file("src/*"))
    assert name_of(file("./")) == file(".")
    assert name_of(Resource("issue", "x/")) == Resource("issue", "x/")
